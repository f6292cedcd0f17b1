"""Distances between sets of images, and how far chance alone puts them."""

import numpy as np
import pytest
from pydantic import ValidationError

from data_contracts.drift import (
    MISSING,
    Baseline,
    baseline_of,
    chance_limit,
    compare,
    count_cells,
    distance,
)
from data_contracts.sketch import measure_figures, measure_values

STATISTICS = ("js", "psi", "ks", "linf")


def drift(usual, now, statistic="ks", *, floor=0.0, false_alarm=0.01, seed=0):
    named = isinstance(usual[0], str)
    baseline = baseline_of((measure_values if named else measure_figures)(usual))
    return compare(
        baseline,
        count_cells(baseline, np.array(now)),
        statistic=statistic,
        floor=floor,
        false_alarm=false_alarm,
        seed=seed,
    )


@pytest.mark.parametrize("statistic", STATISTICS)
def test_equal_counts_lie_nowhere_apart(statistic):
    counts = np.array([3, 0, 5])
    assert distance(statistic, counts, counts) == pytest.approx(0, abs=1e-12)


def test_distances_are_those_of_the_books():
    p, q = np.array([50, 50]), np.array([100, 0])
    assert distance("ks", p, q) == distance("linf", p, q) == 0.5
    # 1/2 KL(p || m) + 1/2 KL(q || m) with m = (3/4, 1/4), in bits.
    assert distance("js", p, q) == pytest.approx(0.311278, abs=1e-6)
    assert distance("js", np.array([7, 0]), np.array([0, 9])) == pytest.approx(1)
    a, b = np.array([400, 600]), np.array([600, 400])
    assert distance("psi", a, b) == pytest.approx(0.4 * np.log(1.5), abs=1e-3)


@pytest.mark.parametrize("n", [200, 5000])
@pytest.mark.parametrize("statistic", ["js", "ks"])
def test_equals_raise_an_alarm_about_as_often_as_allowed(statistic, n):
    rng = np.random.default_rng([n, len(statistic)])
    draws = rng.normal(128, 20, (60, 2, n))
    alarms = sum(drift(a, b, statistic, false_alarm=0.1).alarm for a, b in draws)
    assert 1 <= alarms <= 13, "6 of 60 are meant; a binomial stays within 1 to 13"


def test_a_shift_that_is_too_small_to_matter_raises_none():
    rng = np.random.default_rng(0)
    usual, now = rng.normal(128, 20, 50_000), rng.normal(129, 20, 50_000)
    assert drift(usual, now).alarm
    assert not drift(usual, now, floor=0.08).alarm


def test_the_limit_falls_with_the_number_of_images():
    half = np.full(20, 1)
    limits = [chance_limit("js", half * n, half * n, **ASKED) for n in (10, 100, 1000)]
    assert limits[0] > 5 * limits[1] > 25 * limits[2]


ASKED = {"false_alarm": 0.01, "seed": 0}


def test_the_limit_is_the_asymptotic_one_for_many_images():
    n, cells = 20_000, 10
    each = np.full(cells, n // cells)
    # 4 n ln 2 JS is the G statistic of two sets of n: chi-squared, 9 degrees free.
    asymptotic = 21.666 / (4 * n * np.log(2))
    found = chance_limit("js", each, each, **ASKED)
    assert found == pytest.approx(asymptotic, rel=0.1)


def test_the_limit_depends_on_the_seed_alone():
    counts = np.array([30, 50, 20]), np.array([10, 5, 5])
    assert chance_limit("js", *counts, **ASKED) == chance_limit("js", *counts, **ASKED)
    other = chance_limit("js", *counts, false_alarm=0.01, seed=1)
    assert other == pytest.approx(chance_limit("js", *counts, **ASKED), rel=0.5)


def test_more_rows_than_numpy_can_shuffle_are_scaled_down():
    many = np.array([10**9, 10**9])
    assert 0 < chance_limit("linf", many, many, **ASKED) < 1e-4


def test_another_spread_is_found_by_js():
    rng = np.random.default_rng(0)
    usual = rng.normal(128, 10, 2000)
    assert drift(usual, rng.normal(128, 15, 2000), "js").alarm


def test_foreign_pictures_are_found_in_the_tail():
    rng = np.random.default_rng(0)
    usual, now = rng.normal(128, 10, 2000), rng.normal(128, 10, 2000)
    now[:100] = 2
    found = drift(usual, now, "js")
    assert found.alarm
    assert found.moved.startswith("up to 10"), found.moved


def test_names_that_are_new_or_gone_count():
    usual = ["a"] * 50 + ["b"] * 50
    assert drift(usual, ["a"] * 60 + ["c"] * 40, "js").alarm
    found = drift(usual, ["a"] * 100, "linf")
    assert found.alarm
    assert found.value == 0.5


def test_missing_values_are_a_cell_of_their_own():
    usual = np.arange(100.0)
    gone = np.where(np.arange(100) < 50, np.nan, usual)
    found = drift(usual, gone)
    assert found.alarm
    assert found.moved.startswith(MISSING)


def test_a_figure_that_never_varied_has_bins_for_others():
    usual = np.full(100, 640.0)
    assert not drift(usual, usual).alarm
    for other in (320.0, 660.0):
        assert drift(usual, np.full(100, other)).value == 1.0


def test_counts_of_the_baseline_are_those_of_its_own_values():
    for seed in range(5):
        values = np.random.default_rng(seed).lognormal(3, 2, 997)
        values[:100] = 0
        baseline = baseline_of(measure_figures(values))
        assert count_cells(baseline, values) == baseline.cells
        assert sum(baseline.cells.values()) == 997 == baseline.n


def test_nothing_makes_no_baseline():
    assert baseline_of(measure_figures(np.array([np.nan]))) is None
    assert baseline_of(measure_values([""])) is None


def test_no_rows_raise_no_alarm():
    assert not drift(np.arange(100.0), []).alarm


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"edges": [1.0], "counts": [3]},
        {"edges": [2.0, 1.0], "counts": [1, 1, 1]},
        {"edges": [1.0], "counts": [1, -1]},
        {"values": {"a": 1}, "edges": [1.0], "counts": [1, 1]},
        {"values": {}},
    ],
)
def test_a_baseline_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValidationError):
        Baseline(**wrong)
