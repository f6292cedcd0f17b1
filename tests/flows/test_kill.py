"""A run that is killed goes on, and ends in the same bits."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.arguments import words
from models.checkpoint import load_model, tree_digest
from tests.flows.conftest import small_config

ROOT = Path(__file__).parents[2]


def start(pictures: Path, home: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "flows", "train", *words(small_config(pictures))]
    environ = os.environ | {"SIGHTLINE_HOME": str(home)}
    log = (home.parent / "log").open("ab")
    return subprocess.Popen(
        command, cwd=ROOT, env=environ, stdout=log, stderr=log, start_new_session=True
    )


def kill_when(ready, process: subprocess.Popen, *, after: float) -> bool:
    """Kill `process` that long after `ready()`; say whether it was still running."""
    limit = time.monotonic() + 240
    while not ready() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    time.sleep(after)
    running = process.poll() is None
    if running:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return running


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_in_the_same_bits(
    trained_home, pictures, tmp_path
):
    home, dice = tmp_path / "killed", random.Random()
    home.mkdir()

    def epochs() -> int:
        found = [*home.glob("runs/*/metrics.jsonl")]
        return len(found[0].read_text().splitlines()) if found else 0

    moments = {
        "while it ingests": lambda: (home / "datasets" / "shop").exists(),
        "while it trains": lambda: epochs() >= 1,
        "later in training": lambda: epochs() >= 3,
        "near the end": lambda: any(home.glob("runs/*/trained.json")),
    }
    for name, ready in moments.items():
        delay = dice.uniform(0, 0.6)
        killed = kill_when(ready, start(pictures, home), after=delay)
        print(f"{name}, {delay:.3f} s after: {'killed' if killed else 'had ended'}")
    last = start(pictures, home)
    assert last.wait(300) == 0, (home.parent / "log").read_text()[-3000:]

    def weights(workspace: Path) -> str:
        params, stats, _ = load_model(workspace / "models" / "shop" / "1" / "model")
        return tree_digest((params, stats))

    assert weights(home) == weights(trained_home[0])
    assert not (home / "models" / "shop" / "2").exists()
    log = (home.parent / "log").read_text()
    assert "already done" in log
