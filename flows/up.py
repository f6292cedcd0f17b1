"""`sightline up`: Prefect's server, page and worker on this machine, until Ctrl-C."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from data_contracts.config import Settings
from flows import children, workspace

ROOT = Path(__file__).parents[1]
POOL = "local"
# Training holds it, whatever deployment it comes from: one device, one training.
LIMITS = {"gpu": 1}
# These would lead our server and worker to somewhere else.
FOREIGN = {"PREFECT_PROFILE", "PREFECT_API_KEY", "PREFECT_API_URL"}


class UpConfig(Settings):
    """Run Prefect here: its page, its scheduler, and a worker that does the runs."""

    port: int = Field(4200, ge=1, le=65535, description="Port of the page and the API.")
    workers: int = Field(1, ge=1, le=64, description="Runs that work at the same time.")
    deployments: str | None = Field(
        None,
        description="File that lists the deployments; else our prefect.yaml.",
    )


class Ended(NamedTuple):
    """A server that ran and was stopped."""

    address: str
    exit_code: int = 0

    def text(self) -> str:
        """Return what to print for people."""
        return "Stopped: no program was left behind."

    def to_json(self) -> dict[str, Any]:
        """Return the same for machines."""
        return {"address": self.address, "stopped": True}


def run(config: UpConfig) -> Ended:
    """Start everything, wait for Ctrl-C or a signal, and stop everything."""
    children.check_port_is_free(config.port)
    address = f"http://127.0.0.1:{config.port}"
    home = workspace.home()
    (home / "prefect").mkdir(parents=True, exist_ok=True)
    mark = uuid.uuid4().hex
    environ = environment(os.environ, home=home, port=config.port)
    server = _start("server", ["server", "start"], environ, mark)
    with _stopped_at_the_end(mark, server):
        _say("Starting Prefect (the first time takes half a minute) ...")
        children.wait_until_healthy(server, f"{address}/api", seconds=300)
        _set_up(environ)
        worker = _start("worker", _worker(config), environ, mark)
        _deploy(config, environ, mark)
        _say(_welcome(address, home))
        while True:
            children.check_alive(server)
            children.check_alive(worker)
            time.sleep(0.5)
    return Ended(address)


def environment(base: Mapping[str, str], *, home: Path, port: int) -> dict[str, str]:
    """Return what our server, worker and runs see in place of the user's profile."""
    kept = {name: value for name, value in base.items() if name not in FOREIGN}
    return kept | {
        "SIGHTLINE_HOME": str(home),
        "SIGHTLINE_ROOT": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(home / "cache" / "xla"),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "3",
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
    }


@contextmanager
def _stopped_at_the_end(mark: str, server: children.Child) -> Iterator[None]:
    """Stop all children however the block ends; Ctrl-C is the usual way."""
    try:
        yield
    except KeyboardInterrupt:
        _say("Stopping the worker, its runs and the server ...")
    finally:
        # A second Ctrl-C must not leave half of them behind.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            children.stop(mark, last=[server])
        finally:
            signal.signal(signal.SIGINT, before)


def _start(
    name: str, words: list[str], environ: Mapping[str, str], mark: str
) -> children.Child:
    command = [sys.executable, "-m", "prefect", "--no-prompt", *words]
    marked = {**environ, children.MARK: mark}
    logs = Path(environ["PREFECT_HOME"])
    return children.start(name, command, environ=marked, logs=logs, at=ROOT)


def _worker(config: UpConfig) -> list[str]:
    limit = str(config.workers)
    words = ["worker", "start", "--pool", POOL, "--type", "process", "--limit", limit]
    return [*words, "--name", "sightline"]


def _set_up(environ: Mapping[str, str]) -> None:
    """Create the work pool and the limits that are not there yet."""
    os.environ.clear()  # Prefect reads its settings when it is imported.
    os.environ.update(environ)
    from prefect import get_client
    from prefect.client.schemas.actions import (
        GlobalConcurrencyLimitCreate,
        WorkPoolCreate,
    )
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(POOL)
        except ObjectNotFound:
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        for name, limit in LIMITS.items():
            try:
                client.read_global_concurrency_limit_by_name(name)
            except ObjectNotFound:
                wanted = GlobalConcurrencyLimitCreate(name=name, limit=limit)
                client.create_global_concurrency_limit(wanted)


def _deploy(config: UpConfig, environ: Mapping[str, str], mark: str) -> None:
    """Deploy everything, unless the same was deployed here before.

    Deploying resets what was changed on the page, such as a schedule switched on.
    """
    listed = Path(config.deployments or ROOT / "prefect.yaml").absolute()
    digest = _digest(listed)
    done = Path(environ["PREFECT_HOME"]) / "deployed"
    if done.exists() and done.read_text() == digest:
        return
    words = ["deploy", "--all", "--prefect-file", str(listed)]
    deployment = _start("deployment", words, environ, mark)
    children.finish(deployment, seconds=600)
    done.write_text(digest)


def _digest(listed: Path) -> str:
    """Digest what a deployment holds: the list, where it lies, the flows' settings."""
    found = [
        path for layer in ("flows", "tasks") for path in (ROOT / layer).glob("*.py")
    ]
    found.append(ROOT / "models" / "recipe.py")  # the defaults of the form
    parts = [path.read_bytes() for path in [listed, *sorted(found)]]
    return hashlib.sha256(b"\0".join([bytes(listed), *parts])).hexdigest()


def _welcome(address: str, home: Path) -> str:
    prefect = shutil.which("prefect") or Path(sys.executable).parent / "prefect"
    return f"""
Prefect's page: {address}

Start a run there, or in another terminal:

  export PREFECT_API_URL={address}/api
  {prefect} deployment run train/local \\
      --param data=/path/to/pictures --param name=mine --watch

Workspace: {home}
Logs:      {home / "prefect"}/*.log
Ctrl-C stops everything.
"""


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
