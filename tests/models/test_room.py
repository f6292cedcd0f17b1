"""A step that does not fit ends in an error that names the largest batch that does."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from data_contracts.errors import WorkspaceError
from models import room
from models.recipe import NONE, Recipe
from models.room import Ahead, bytes_of_device, enough_memory, planned
from tests.models.test_options_of_a_run import Small, run

WIDE = 1 << 14  # floats in 64 KiB


class Broad(Small):
    """A network that takes some 64 KiB for every image of a batch."""

    def __call__(self, x, *, train, rngs=None):
        out = super().__call__(x, train=train, rngs=rngs)
        wide = jnp.sort(out[:, :1] * jnp.arange(WIDE, dtype=jnp.float32), axis=1)
        return out + wide[:, :1] if train else out


def test_what_does_not_fit_is_refused_before_its_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "memory", lambda: 15 << 16)
    with pytest.raises(WorkspaceError) as caught:
        run(tmp_path, model=Broad(), optimizer="sgd", augment=NONE)
    said = str(caught.value)
    assert "batch_size=8: one plans 0.0024" in said
    assert "GiB, and there are 0.0009" in said
    assert "Set batch_size=2, the largest half that fits, or accumulate=2" in said
    assert not (tmp_path / "metrics.jsonl").read_text()


def stepped(**change):
    """A step that holds 4 KiB for each of eight images, once it has run."""

    def step(state, images):
        wide = jnp.sort(images[:, :1, 0, 0] * jnp.arange(1024, dtype=jnp.float32))
        return state + wide.max(), {}

    recipe = dataclasses.replace(Recipe(), batch_size=8, **change)
    ahead = Ahead(jax.jit(step), recipe, None)
    ahead(jnp.zeros(()), jnp.zeros((8, 2, 2, 3)))
    return ahead


def test_where_no_batch_fits_other_ways_are_named(monkeypatch):
    ahead = stepped(remat=True)
    monkeypatch.setattr(room, "memory", lambda: 100)
    said = ahead.advice("full.")
    assert "full. No smaller batch fits either. Set accumulate=2, and run" in said


def test_a_device_that_runs_full_says_what_fits():
    ahead, said = stepped(), "out of memory Set batch_size=4"
    full = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
    with pytest.raises(WorkspaceError, match=said), enough_memory(ahead):
        raise full
    other = jax.errors.JaxRuntimeError("other")
    with pytest.raises(jax.errors.JaxRuntimeError), enough_memory(ahead):
        raise other


def test_a_plan_counts_inputs_results_and_what_lies_between():
    compiled = jax.jit(lambda x: x[None] * x[:, None]).lower(jnp.zeros(256)).compile()
    assert planned(compiled) >= 4 * (256 + 256 * 256)
    assert bytes_of_device(None) > 0
