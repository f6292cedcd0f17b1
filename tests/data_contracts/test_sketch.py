"""Statistics of a column that add up."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_contracts import sketch
from data_contracts.sketch import (
    Figures,
    Values,
    add,
    measure_figures,
    measure_values,
    quantile,
    total,
)

numbers = st.floats(-1e6, 1e6) | st.just(math.nan)
columns = st.lists(numbers, max_size=30).map(np.array)
names = st.lists(st.sampled_from(["", "a", "b", "c", "long", None]), max_size=30)


def same(a: Figures, b: Figures) -> bool:
    exact = ("count", "missing", "low", "high", "buckets")
    scale = 1 + abs(a.total) + a.m2
    near = abs(a.total - b.total) + abs(a.m2 - b.m2) <= 1e-9 * scale
    return near and all(getattr(a, key) == getattr(b, key) for key in exact)


@given(columns, columns, columns)
def test_figures_add_up_in_any_order_to_those_of_a_whole_pass(x, y, z):
    a, b, c = map(measure_figures, (x, y, z))
    whole = measure_figures(np.concatenate([x, y, z]))
    assert add(a, b) == add(b, a)
    assert same(add(add(a, b), c), whole)
    assert same(add(a, add(b, c)), whole)


@given(names, names, names, st.integers(1, 6))
def test_names_add_up_in_any_order_to_those_of_a_whole_pass(x, y, z, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sketch, "MOST_VALUES", most)
        a, b, c = map(measure_values, (x, y, z))
        whole = measure_values([*x, *y, *z])
        assert add(a, b) == add(b, a)
        assert add(add(a, b), c) == add(a, add(b, c)) == whole


@given(st.lists(st.floats(1e-3, 1e5), min_size=1, max_size=200), st.floats(0, 1))
def test_a_quantile_is_off_by_a_quarter_of_a_percent_at_most(values, share):
    state = measure_figures(np.array(values))
    exact = np.quantile(values, share, method="inverted_cdf")
    assert quantile(state, share) == pytest.approx(exact, rel=0.0026)


def test_buckets_keep_the_order_of_the_numbers():
    values = np.sort(np.random.default_rng(0).normal(0, 100, 1000))
    assert (np.diff(sketch.buckets(values)) >= 0).all()
    assert sketch.buckets(np.array([0.0])) == 0
    near = sketch.centres(sketch.buckets(values))
    np.testing.assert_allclose(near, values, rtol=0.0026)


def test_mean_and_deviation_are_those_of_numpy():
    values = 1e7 + np.random.default_rng(0).normal(0, 1, 3000)
    state = total([measure_figures(part) for part in np.split(values, 10)])
    assert state.mean == pytest.approx(values.mean())
    assert state.std == pytest.approx(values.std(), rel=1e-6)


def test_missing_and_infinite_numbers_are_counted_apart():
    state = measure_figures(np.array([1.0, np.nan, np.inf, -np.inf]))
    assert (state.count, state.missing, state.high) == (1, 3, 1.0)
    none = measure_figures(np.array([np.nan]))
    assert math.isnan(none.mean)
    assert math.isnan(quantile(none, 0.5))
    assert add(none, state) == add(state, none)


def test_too_many_names_are_estimated():
    parts = [measure_values([f"n{i}" for i in range(k, k + 9000)]) for k in (0, 5000)]
    both = total(parts)
    assert (both.counts, both.count) == (None, 18_000)
    assert both.distinct == pytest.approx(14_000, rel=0.2)


@pytest.mark.parametrize(
    "state",
    [
        Figures(missing=3),
        measure_figures(np.array([-1.5, 0, 2e9])),
        measure_values(["é", "", "b"]),
        Values(count=9, counts=None, marks=[1, 2**63 + 5]),
    ],
)
def test_a_state_comes_back_from_json(state):
    assert type(state).model_validate_json(state.model_dump_json()) == state


def test_figures_and_names_do_not_add_up():
    with pytest.raises(TypeError, match="figures in one chunk and names"):
        add(measure_figures(np.ones(1)), measure_values(["a"]))
