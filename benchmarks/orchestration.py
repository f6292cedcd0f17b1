"""What Prefect adds: the train flow on a server beside its stages called plainly.

    python benchmarks/orchestration.py --images 600 --epochs 8 --rounds 3

Both run the same job in a fresh process and an empty workspace, in turns, with the same
compilation cache; the server runs beside them already. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def server(home: Path) -> Iterator[str]:
    """Run a Prefect server on a free port and yield its API's address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = os.environ | {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    started = subprocess.Popen(
        command, env=environment, start_new_session=True, **quiet
    )
    address = f"http://127.0.0.1:{port}/api"
    try:
        for _ in range(240):
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=1):
                    break
            except OSError:
                time.sleep(0.5)
        else:
            raise SystemExit("the Prefect server did not start within two minutes")
        yield address
    finally:
        os.killpg(started.pid, signal.SIGTERM)
        started.wait(30)


def seconds(manifest: Path, *, api: str | None, cache: Path, epochs: int) -> float:
    """Run the job in a fresh process and an empty workspace."""
    with tempfile.TemporaryDirectory() as place:
        environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
        environment |= {
            "SIGHTLINE_HOME": place,
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "PREFECT_HOME": f"{place}/prefect",
        }
        if api:
            environment["PREFECT_API_URL"] = api
        words = [f"data={manifest}", "name=shop", f"train.epochs={epochs}", "--json"]
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "flows", "train", *words],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        return time.perf_counter() - start


def main() -> None:
    """Measure in turns and print one JSON line."""
    sys.path.insert(0, str(ROOT))
    from tasks.catalogue import write_catalogue
    from tasks.catalogue_settings import CatalogueSettings

    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        top = Path(place)
        pictures = CatalogueSettings(images=given.images, users=0, events=0)
        manifest = write_catalogue(pictures, top / "pictures")
        job = {"manifest": manifest, "cache": top / "xla", "epochs": given.epochs}
        seconds(**job, api=None)  # fills the compilation cache
        spent: dict[str, list[float]] = {"plain": [], "flow": []}
        with server(top / "prefect") as api:
            for _ in range(given.rounds):
                spent["plain"].append(seconds(**job, api=None))
                spent["flow"].append(seconds(**job, api=api))
    plain, flow = (statistics.median(spent[name]) for name in ("plain", "flow"))
    print(
        json.dumps(
            {
                "benchmark": "orchestration",
                "plain_seconds": round(plain, 1),
                "flow_seconds": round(flow, 1),
                "added_seconds": round(flow - plain, 1),
                "allowed_seconds": round(0.05 * plain + 10, 1),
                "rounds": {k: [round(s, 1) for s in v] for k, v in spent.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
