"""Knobs of the catalogue hit the share of rows they are set to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.catalogue_plan import _STEPS, Dice, _even, choose, plan
from tasks.catalogue_settings import KINDS, LOOKALIKE, CatalogueSettings

N = 4000


@pytest.mark.parametrize("kind", ["symmetric", "pairwise", "instance"])
@pytest.mark.parametrize("rate", [0.0, 0.05, 0.4])
def test_labels_are_wrong_at_the_rate_asked_for(kind: str, rate: float):
    rows = plan(CatalogueSettings(label_noise=rate, label_noise_kind=kind), range(N))
    assert (rows.given != rows.kind).mean() == pytest.approx(rate, abs=0.015)


def test_symmetric_noise_reaches_every_other_kind_alike():
    rows = plan(CatalogueSettings(label_noise=0.5), range(N))
    wrong = rows.given[(rows.given != rows.kind) & (rows.kind == 0)]
    counts = np.bincount(wrong, minlength=len(KINDS))
    assert counts[0] == 0
    assert counts[1:].min() > 0.4 * counts[1:].mean()


def test_pairwise_noise_goes_to_the_lookalike():
    noisy = CatalogueSettings(label_noise=0.3, label_noise_kind="pairwise")
    rows = plan(noisy, range(1000))
    pairs = {
        (KINDS[a], KINDS[b])
        for a, b in zip(rows.kind, rows.given, strict=True)
        if a != b
    }
    assert pairs == set(LOOKALIKE.items())


def test_instance_noise_prefers_what_is_hard_to_see():
    noisy = CatalogueSettings(
        label_noise=0.2, label_noise_kind="instance", occluders=0.5
    )
    rows = plan(noisy, range(N))
    wrong = rows.given != rows.kind
    assert wrong[rows.occluded].mean() > 1.4 * wrong[~rows.occluded].mean()
    small = rows.size < np.median(rows.size)
    assert wrong[small].mean() > 1.2 * wrong[~small].mean()


@pytest.mark.parametrize("knob", ["sensor_noise", "occluders", "useless", "street"])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5])
def test_each_knob_hits_its_share(knob: str, rate: float):
    rows = plan(CatalogueSettings(**{knob: rate}), range(N))
    hit = {
        "sensor_noise": rows.sensor >= 0,
        "occluders": rows.occluded,
        "useless": rows.useless >= 0,
        "street": rows.domain == 1,
    }[knob]
    assert hit.mean() == pytest.approx(rate, abs=0.01)


def test_broken_and_duplicate_shares_hold_together():
    rows = plan(CatalogueSettings(broken=0.1, duplicates=0.2, exact=0.25), range(N))
    copied = rows.source != rows.rows
    assert copied.mean() == pytest.approx(0.2, abs=0.01)
    assert rows.near[copied].mean() == pytest.approx(0.75, abs=0.05)
    assert (rows.broken >= 0).mean() == pytest.approx(0.1 * 0.8, abs=0.015)
    sources = plan(CatalogueSettings(broken=0.1, duplicates=0.2), rows.source[copied])
    assert (sources.broken < 0).all()
    assert (sources.source == sources.rows).all()
    assert (rows.source[copied] < rows.rows[copied]).all()


def test_knobs_do_not_move_together():
    half = CatalogueSettings(
        sensor_noise=0.5, occluders=0.5, street=0.5, label_noise=0.5, duplicates=0.5
    )
    rows = plan(half, range(N))
    hits = np.stack(
        [
            rows.sensor >= 0,
            rows.occluded,
            rows.domain == 1,
            rows.kind < 6,
            rows.given != rows.kind,
            rows.source != rows.rows,
            rows.split == 0,
        ]
    )
    assert np.abs(np.corrcoef(hits) - np.eye(len(hits))).max() < 0.07


def test_the_steps_of_all_knobs_are_independent():
    even = [_even(CatalogueSettings(), np.arange(N), knob) for knob in _STEPS]
    assert np.abs(np.corrcoef(even) - np.eye(len(even))).max() < 0.05


def test_kinds_are_as_frequent_as_the_imbalance_says():
    rows = plan(CatalogueSettings(imbalance=10), range(N))
    counts = np.bincount(rows.kind, minlength=len(KINDS))
    expected = 10 ** -(np.arange(12) / 11)
    assert counts == pytest.approx(N * expected / expected.sum(), rel=0.05, abs=3)


def test_only_the_kinds_asked_for_appear():
    rows = plan(CatalogueSettings(kinds=("watch", "mug"), label_noise=0.3), range(200))
    asked = {KINDS.index("watch"), KINDS.index("mug")}
    assert set(rows.kind) == set(rows.given) == asked


def test_a_later_era_continues_the_rows():
    settings_ = CatalogueSettings(duplicates=0.0)
    later = plan(CatalogueSettings(first=500), range(10))
    assert np.array_equal(later.kind, plan(settings_, range(500, 510)).kind)
    assert later.rows.tolist() == list(range(500, 510))


def test_drift_shifts_colours():
    now, later = (plan(CatalogueSettings(drift=d), range(N)).colour for d in (0, 1))
    shares = [np.bincount(c, minlength=12) / N for c in (now, later)]
    assert np.abs(shares[0] - shares[1]).sum() > 0.5


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    rows=st.lists(st.integers(0, 10**9), min_size=1, max_size=20),
    low=st.floats(-100, 100, width=32),
    span=st.floats(0, 100, width=32),
)
def test_draws_stay_in_range_and_depend_on_their_row_alone(seed, rows, low, span):
    rows = np.array(rows)
    draws = Dice(seed, rows).between("x", low, low + span, shape=(3,))
    assert draws.shape == (len(rows), 3)
    assert (draws >= np.float32(low)).all()
    assert (draws <= np.float32(low + span)).all()
    alone = [Dice(seed, rows[i : i + 1]).between("x", low, low + span, shape=(3,))
             for i in range(len(rows))]  # fmt: skip
    assert np.array_equal(draws, np.concatenate(alone))


def test_draws_are_uniform_and_apart_by_name():
    dice = Dice(0, np.arange(20_000))
    one, two = dice.between("a", 0, 1), dice.between("b", 0, 1)
    assert np.histogram(one, 10, (0, 1))[0] == pytest.approx(2000, rel=0.1)
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.03


def test_choose_follows_weights_and_never_takes_a_zero():
    unit = (np.arange(1000) + 0.5) / 1000
    assert np.bincount(choose(unit, (1, 0, 3))).tolist() == [250, 0, 750]
    edge = np.array([0.0, np.nextafter(np.float32(1), np.float32(0))])
    assert choose(edge, (1, 1)).tolist() == [0, 1]
