"""A learning rate from one training at rising rates."""

import dataclasses

import jax
import numpy as np
import pytest

from data_contracts.errors import SightlineError, UsageError
from models.rate_finder import find_rate, read_curve
from models.recipe import NONE, Adversarial, Recipe
from tests.models.test_options_of_a_run import SOURCE, Small

VIEW = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
RATES = np.geomspace(1e-5, 10, 100)


def curve(best):
    """A loss that falls from a hundredth of `best` on and rises beyond it."""
    fall = np.clip(np.log10(RATES / best * 100) / 2, 0, 1)
    rise = np.clip(np.log10(RATES / best), 0, None)
    return 2 - fall + 5 * rise


@pytest.mark.parametrize("best", [1e-2, 1e-1, 1.0])
def test_the_suggestion_lies_below_the_rate_of_the_least_loss(best):
    """Within the running mean's lag of a few steps, each of 15 %."""
    found = read_curve(RATES, curve(best))
    assert found.diverged
    assert best / 4 < found.suggested < best
    assert best / 100 < found.steepest < best


def test_a_loss_that_never_rises_rules_no_rate_out():
    found = read_curve(RATES, np.linspace(2, 1, 100))
    assert not found.diverged
    assert found.suggested == pytest.approx(RATES[-1] / 3)


def test_numbers_lost_on_the_way_end_the_curve_and_early_ones_are_refused():
    losses = curve(0.1)
    losses[60:] = np.nan
    found = read_curve(RATES, losses)
    assert len(found.rates) == 60
    assert found.diverged
    with pytest.raises(SightlineError, match=r"after 3 steps .* lower rate"):
        read_curve(RATES, np.where(np.arange(100) < 3, 1.0, np.inf))


def test_a_network_s_rate_is_found_on_a_copy():
    model = Small()
    before = [np.asarray(leaf).copy() for leaf in jax.tree.leaves(_weights(model))]
    recipe = Recipe(optimizer="sgd", batch_size=10, augment=NONE, weight_decay=0.0)
    found = find_rate(
        model, SOURCE, recipe=recipe, seed=0, **VIEW, low=1e-4, high=1e4, steps=60
    )
    after = jax.tree.leaves(_weights(model))
    assert all((a == b).all() for a, b in zip(before, after, strict=True))
    assert len(found.rates) == len(found.losses) <= 60
    np.testing.assert_allclose(found.rates[:2], 1e-4 * 1e8 ** (np.arange(2) / 59))
    assert found.losses.min() < found.losses[0]
    assert 1e-3 < found.suggested < 10
    again = find_rate(
        model, SOURCE, recipe=recipe, seed=0, **VIEW, low=1e-4, high=1e4, steps=60
    )
    assert again.suggested == found.suggested


def test_updates_on_the_same_views_share_the_rate_of_their_step():
    recipe = Recipe(optimizer="sgd", batch_size=10, augment=NONE, weight_decay=0.0)
    free = dataclasses.replace(recipe, adversarial=Adversarial("free", eps=1e-9))
    ask = {"seed": 0, **VIEW, "low": 1e-4, "high": 1e4, "steps": 60}
    plain = find_rate(Small(), SOURCE, recipe=recipe, **ask)
    found = find_rate(Small(), SOURCE, recipe=free, **ask)
    assert plain.suggested / 8 < found.suggested < plain.suggested * 2


def test_nothing_to_train_on_is_refused():
    bare = dataclasses.replace(SOURCE, train_rows=np.empty(0, np.int64))
    with pytest.raises(UsageError, match="no row"):
        find_rate(Small(), bare, recipe=Recipe(), seed=0, **VIEW)


def _weights(model):
    from flax import nnx

    return nnx.as_pure(nnx.state(model))
