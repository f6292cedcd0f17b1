"""Checks on a version as a program: does it load, how long does it take, how large."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from data_contracts.references import CheckResult, Verdict
from tasks.gate_settings import Latency, Size
from tasks.inference import Predictor

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 600  # seconds until a version that does not answer counts as broken
NEAR = 1e-4  # probabilities of two processes may differ by this
ABSENT = "The weights of both versions are needed, and one is not there."


def probe_images(size: int, n: int = 4) -> Any:
    """Return images (n, size, size, 3) that are the same in every process."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, size, size, 3), np.uint8)


def answers_of(folder: Path) -> list[list[list[float]]]:
    """Load a version and return its answers to the same images, twice (2, n, k)."""
    predictor = Predictor.load(folder)
    images = probe_images(int(predictor.meta["image_size"]))
    answer = predictor.for_batch(len(images))
    return [np.asarray(answer(images), np.float64).tolist() for _ in range(2)]


def infrastructure(folder: Path | None) -> CheckResult:
    """Check that a version loads in a fresh process and answers twice the same."""
    name = "infrastructure"
    if folder is None:
        detail = "There are no weights to load."
        return CheckResult(check=name, verdict=Verdict.NOT_RUN, detail=detail)
    command = [sys.executable, "-m", "tasks.gate_machine", str(folder.resolve())]
    # This process may hold most of an accelerator: the other takes what it needs.
    environ = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environ,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        said = f"A fresh process did not answer within {PATIENCE} s."
        return CheckResult(check=name, verdict=Verdict.FAIL, detail=said)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        detail = f"It does not load in a fresh process: {said}"
        return CheckResult(check=name, verdict=Verdict.FAIL, detail=detail)
    first, second = np.array(json.loads(done.stdout.splitlines()[-1]))
    here = np.array(answers_of(folder)[0])
    apart = float(np.abs(first - here).max())
    if not np.isfinite(first).all():
        verdict, said = Verdict.FAIL, "answers numbers that are not finite"
    elif not (first == second).all():
        verdict, said = Verdict.FAIL, "answers the same images differently"
    elif apart > NEAR:
        verdict, said = Verdict.FAIL, f"answers otherwise than here, by {apart:.2g}"
    else:
        verdict, said = Verdict.PASS, "answers twice the same, and as here"
    return CheckResult(
        check=name,
        verdict=verdict,
        n=len(first),
        detail=f"It loads in a fresh process and {said}.",
    )


def size(check: Size, candidate: Path | None, champion: Path | None) -> CheckResult:
    """Check the bytes of the checkpoint against the champion's."""
    if candidate is None or champion is None:
        return CheckResult(check="size", verdict=Verdict.NOT_RUN, detail=ABSENT)
    mine, its = (
        sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        for folder in (candidate, champion)
    )
    ratio = mine / max(its, 1)
    return CheckResult(
        check="size",
        verdict=Verdict.PASS if ratio <= check.limit else Verdict.FAIL,
        value=ratio,
        limit=check.limit,
        detail=f"The checkpoint holds {mine / 1e6:.1f} MB, {ratio:.2f} times the"
        f" champion's; at most {check.limit:g} times.",
    )


def latency(
    check: Latency, candidate: Path | None, champion: Path | None, *, level: float
) -> list[CheckResult]:
    """Check the time of batches against the champion's, taken in turns.

    Each size is compiled for itself, and that is timed apart.
    """
    if candidate is None or champion is None:
        return [CheckResult(check="latency", verdict=Verdict.NOT_RUN, detail=ABSENT)]
    both = [Predictor.load(folder) for folder in (candidate, champion)]
    found = []
    for batch in check.batches:
        fit = [predictor.for_batch(batch) for predictor in both]
        images = [probe_images(int(p.meta["image_size"]), batch) for p in both]
        first = [_seconds(*pair) for pair in zip(fit, images, strict=True)]
        for pair in zip(fit, images, strict=True):
            _seconds(*pair)
        taken = np.empty((check.rounds, 2))
        for turn in range(check.rounds):
            for who in (0, 1) if turn % 2 else (1, 0):
                taken[turn, who] = _seconds(fit[who], images[who])
        row = compared_times(check, taken, batch=batch, level=level)
        said = f" The first one, compiled, took {first[0]:.1f} s and {first[1]:.1f} s."
        found.append(row.model_copy(update={"detail": row.detail + said}))
    return found


def _seconds(predictor: Predictor, images: Any) -> float:
    """Return how long an answer takes."""
    start = time.perf_counter()
    predictor(images)
    return time.perf_counter() - start


def compared_times(
    check: Latency, taken: Any, *, batch: int, level: float
) -> CheckResult:
    """Judge seconds (rounds, 2) of candidate and champion by the median of ratios.

    Its bounds are order statistics, which hold for any distribution of times.
    """
    ratios = np.sort(taken[:, 0] / taken[:, 1])
    n = len(ratios)
    # The j smallest all lie above the median with a chance of at most 1 - level.
    j = int((special.bdtr(np.arange(n), n, 0.5) <= 1 - level).sum())
    low, high = float(ratios[max(j - 1, 0)]), float(ratios[min(n - j, n - 1)])
    verdict = Verdict.INCONCLUSIVE
    if high < check.limit:
        verdict = Verdict.PASS
    elif low > check.limit:
        verdict = Verdict.FAIL
    middle, slow = np.median(taken, axis=0) * 1e3, np.quantile(taken, 0.95, axis=0)
    return CheckResult(
        check=f"latency: batch {batch}",
        verdict=verdict,
        value=float(np.median(ratios)),
        low=low,
        high=high,
        limit=check.limit,
        n=n,
        detail=f"A batch of {batch} takes {middle[0]:.1f} ms, the champion's"
        f" {middle[1]:.1f} ms (one in twenty over {slow[0] * 1e3:.1f} and"
        f" {slow[1] * 1e3:.1f} ms): {np.median(ratios):.2f} times, at most"
        f" {check.limit:g}; {n} rounds in turns.",
    )


if __name__ == "__main__":
    print(json.dumps(answers_of(Path(sys.argv[1]))))
