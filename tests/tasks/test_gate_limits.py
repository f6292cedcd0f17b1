"""A candidate that is as bad as a limit allows passes one time in twenty, as stated."""

import collections

import numpy as np

from data_contracts.references import Verdict
from tasks.arena import Arena, Rights
from tasks.gate import Exhibits, GateSettings, decide

PAIRS = 300
# 1 in 20, and three standard errors of a share of so many pairs on either side.
LEAST, MOST = 0.05 - 0.038, 0.05 + 0.038


def sure(right):
    """Return probs of two classes that are sure of class 0 where they are right."""
    return np.eye(2)[np.where(right, 0, 1)]


def shares(n, *, fixed, broken, checks):
    """Return how often each check passes and fails, over pairs of versions."""
    settings = GateSettings(draws=100, usual_checks=False, checks=checks)
    counts = collections.Counter()
    for seed in range(PAIRS):
        rng = np.random.default_rng(seed)
        luck, both = rng.random(n), rng.random(n) < 0.85
        apart = luck < fixed + broken
        mine = np.where(apart, luck < fixed, both)
        its = np.where(apart, luck >= fixed, both)
        arena = Arena(
            "test",
            np.zeros(n),
            sure(mine),
            sure(its),
            slices={"region": rng.integers(0, 4, n).astype(str)},
        )
        found = Exhibits(corrupted=Rights(mine * 1.0, its * 1.0, np.arange(n)))
        report = decide([arena], settings, name="m", champion=1, exhibits=found)
        counts.update((row.check, row.verdict) for row in report.checks)
    return {key: count / PAIRS for key, count in counts.items()}


def test_checks_pass_and_fail_as_seldom_as_stated_where_the_truth_is_the_limit():
    found = shares(
        1_000,
        fixed=0.05,
        broken=0.08,
        checks=(
            {"check": "non_inferior", "margin": 0.03},
            {"check": "corruptions", "margin": 0.03},
            {"check": "negative_flips", "limit": 0.08},
            {"check": "slices", "margin": 0.03, "min_images": 100},
        ),
    )
    for check in ("test: top-1", "corruptions", "test: negative flips"):
        for verdict in (Verdict.PASS, Verdict.FAIL):
            assert LEAST < found[check, verdict] < MOST, (check, verdict)
    # Holm: of four slices at the limit, hardly ever does any fail.
    assert found["test: slices", Verdict.FAIL] < MOST


def test_equal_versions_are_called_better_or_worse_as_seldom_as_stated():
    found = shares(1_000, fixed=0.06, broken=0.06, checks=({"check": "superior"},))
    for verdict in (Verdict.PASS, Verdict.FAIL):
        assert LEAST < found["test: superior", verdict] < MOST
