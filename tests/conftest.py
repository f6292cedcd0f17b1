"""What tests share: a clean environment, real images, one Prefect server a session."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from models.machine import cores

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache"

# Set before anything imports JAX or Prefect: both read these once.
os.environ |= {
    "JAX_COMPILATION_CACHE_DIR": str(CACHE / "xla"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    # As a run of its own has it, whoever touches JAX first.
    "JAX_NUM_CPU_DEVICES": str(cores()),
    "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu"),
    # Tests run in several processes, and a server has one of these to itself.
    "PREFECT_HOME": str(CACHE / f"prefect{os.environ.get('PYTEST_XDIST_WORKER', '')}"),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MPLBACKEND": "agg",
}
for name in ("PREFECT_API_URL", "PREFECT_PROFILE", "SIGHTLINE_DASK"):
    os.environ.pop(name, None)

# Machines are shared: a slow moment is no failure.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

OURS = "flows|tasks|models|data_contracts|serving"


def pytest_configure(config: pytest.Config) -> None:
    # A shell's background jobs ignore Ctrl-C, and so would what tests start and stop.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
    # A warning that our own lines cause is an error; libraries may warn each other.
    config.addinivalue_line("filterwarnings", rf"error:::({OURS})(\..*)?")


@pytest.fixture(autouse=True)
def own_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test a workspace of its own, named by SIGHTLINE_HOME."""
    home = tmp_path / "workspace"
    monkeypatch.setenv("SIGHTLINE_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real images; skips where it is absent, but fails in CI."""
    path = Path(os.environ.get("SIGHTLINE_TEST_DATA", ROOT.parent / "shared" / "data"))
    if path.is_dir():
        return path.resolve()
    reason = f"no real images at {path}: set SIGHTLINE_TEST_DATA to their folder"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def prefect_server(prefect_process: str) -> Iterator[str]:
    """Connect the test to the session's Prefect server; yields its API address."""
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_LOGGING_TO_API_ENABLED,
        temporary_settings,
    )

    # Joining the heartbeat thread costs each flow run about a second, and log lines
    # may still be on their way when the server is gone.
    quick = {
        PREFECT_API_URL: prefect_process,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
        PREFECT_LOGGING_TO_API_ENABLED: False,
    }
    with pytest.MonkeyPatch.context() as patch, temporary_settings(quick):
        patch.setenv("PREFECT_API_URL", prefect_process)
        yield prefect_process


@pytest.fixture(scope="session")
def prefect_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run one Prefect server for the session; tests connect by `prefect_server`."""
    home = tmp_path_factory.mktemp("prefect")
    database = home / "prefect.db"
    shutil.copy(migrated_database(), database)
    port = free_port()
    environ = os.environ | {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_UI_ENABLED": "false",
        "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "false",
        **_address(database),
    }
    command = [sys.executable, "-m", "prefect", "server", "start"]
    log = home / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(command, env=environ, stdout=output, stderr=output)
    address = f"http://127.0.0.1:{port}/api"
    try:
        _wait_until_healthy(address, server, log)
        yield address
    finally:
        server.terminate()
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _address(database: Path) -> dict[str, str]:
    url = f"sqlite+aiosqlite:///{database}"
    return {"PREFECT_SERVER_DATABASE_CONNECTION_URL": url}


def migrated_database() -> Path:
    """Return an empty database, migrated once per Prefect version (15 s saved)."""
    from importlib.metadata import version

    template = CACHE / f"prefect-{version('prefect')}.db"
    if not template.exists():
        CACHE.mkdir(exist_ok=True)
        fresh = CACHE / f"{template.name}.{os.getpid()}"
        command = [
            sys.executable,
            "-m",
            "prefect",
            "server",
            "database",
            "upgrade",
            "-y",
        ]
        environ = os.environ | _address(fresh)
        subprocess.run(command, env=environ, check=True, capture_output=True)
        fresh.replace(template)
    return template


def _wait_until_healthy(
    address: str, server: subprocess.Popen[bytes], log: Path
) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"the Prefect server did not start:\n{log.read_text()[-3000:]}")
