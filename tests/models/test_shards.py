"""A training state split over the devices trains as the whole one does."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from data_contracts.errors import MemoryShort, UsageError
from models import room, steps
from models.checkpoint import tree_digest
from models.epoch import step_of
from models.feed import BatchSource
from models.fit import FitSettings, fit
from models.objective import memory_of
from models.optim import make_optimizer
from models.recipe import NONE, Adversarial, Loss, Recipe
from models.room import chosen_layout
from models.shards import held, layout_of, placed
from models.steps import AXIS
from tests.models.cuts import cut_within
from tests.models.test_steps import batch

MESH = Mesh(np.array(jax.local_devices(backend="cpu")[:2]), (AXIS,))
several = pytest.mark.skipif(MESH.size < 2, reason="needs two devices")
VIEW = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
N, WIDE = 48, 4096
RECIPE = Recipe(
    epochs=2, batch_size=16, learning_rate=1e-2, ema=0.9, warmup=0, augment=NONE
)
SETTINGS = FitSettings(group=2, eval_batch_size=8)


class Broad(nnx.Module):
    """Two dense kernels of 128 KiB or more, that Muon takes, and small arrays."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        # A bias before the norm has no gradient but rounding, which Adam's steps raise.
        self.stem = nnx.Conv(3, 8, (4, 4), strides=4, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.blocks = nnx.List(
            [nnx.Linear(8, WIDE, rngs=rngs), nnx.Linear(WIDE, 8, rngs=rngs)]
        )
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x, *, train, rngs=None):
        x = self.norm(self.stem(x), use_running_average=not train).mean((1, 2))
        for block in self.blocks:
            x = jnp.tanh(block(x))
        return self.head(x)


def read(rows):
    return batch(N)[0][rows]


SOURCE = BatchSource(
    labels=batch(N)[1],
    train_rows=np.arange(32),
    val_rows=np.arange(32, N),
    read=read,
    chunk=8,
)


def run(folder, shard, *, settings=SETTINGS, **change):
    return fit(
        Broad(),
        SOURCE,
        recipe=dataclasses.replace(RECIPE, **change),
        settings=dataclasses.replace(settings, shard=shard),
        run_dir=Path(folder),
        mesh=MESH,
        **VIEW,
    )


def state_of(recipe=RECIPE):
    tx, _ = make_optimizer(recipe, 10)
    memory = memory_of(recipe.loss, rows=16, num_classes=3)
    graphdef, state = steps.create_state(Broad(), tx, memory=memory)
    return tx, graphdef, state


def stepped(layout, recipe, count=3):
    """Return the state after some steps, and what they told."""
    tx, graphdef, state = state_of(recipe)
    if layout:
        layout = layout_of(state, MESH)
        state = placed(state, layout)
    step = step_of(
        recipe,
        (graphdef, tx),
        counts=np.full(3, 10),
        steps=10,
        seed=0,
        mesh=MESH,
        layout=layout,
        **VIEW,
    )
    told = []
    for index in range(count):
        state, seen = step(state, *batch(16, seed=index))
        told.append(seen)
    return state, jax.device_get(told)


def close(one, other, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), one, other)


def share(tree):
    """Bytes of `tree` on the first device."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


RECIPES = [
    {"optimizer": "adamw", "clip": 0.01, "adversarial": Adversarial("fgsm")},
    {"optimizer": "muon"},
    {"optimizer": "lion", "learning_rate": 1e-4, "accumulate": 2, "remat": True},
    {"optimizer": "adamw", "schedule": "schedule_free"},
    {"optimizer": "sgd", "sam_radius": 0.05, "loss": Loss("early_learning")},
]


@several
@pytest.mark.parametrize("change", RECIPES, ids=str)
def test_a_split_state_takes_the_steps_of_a_whole_one(change):
    recipe = dataclasses.replace(RECIPE, **change)
    whole, of_whole = stepped(None, recipe)
    split, of_split = stepped(True, recipe)
    for name in ("params", "opt", "ema"):
        parts = [share(getattr(state, name)) for state in (split, whole)]
        assert parts[0] < 0.6 * parts[1]
    close(of_split, of_whole, rtol=1e-4)
    close(split, whole, rtol=1e-3, atol=1e-5)


@several
def test_a_split_run_is_judged_and_goes_on_to_its_own_bits(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole", "never")
    split = run(tmp_path / "split", "always")
    for one, other in zip(split.history, whole.history, strict=True):
        assert one["val_loss"] == pytest.approx(other["val_loss"], rel=1e-4)
    close(split.params, whole.params, rtol=1e-3, atol=1e-5)
    cut_within(
        monkeypatch,
        lambda settings: run(tmp_path / "cut", "always", settings=settings),
        settings=SETTINGS,
        at=(1, 1),
    )
    then = run(tmp_path / "cut", "always")
    assert then.resumed_from == 1
    assert tree_digest(then.params) == tree_digest(split.params)


@several
@pytest.mark.parametrize("order", [("always", "never"), ("never", "always")])
def test_a_run_goes_on_split_or_whole_as_it_is_asked(tmp_path, order):
    run(tmp_path, order[0], settings=dataclasses.replace(SETTINGS, max_minutes=0))
    then = run(tmp_path, order[1])
    assert (then.resumed_from, then.epochs_run) == (1, 2)


def test_large_arrays_are_cut_along_the_longest_axis_that_fits():
    _, _, state = state_of()
    layout = layout_of(state, MESH)
    kernels = [layout.params["blocks"][place]["kernel"].spec for place in (0, 1)]
    assert kernels == [PartitionSpec(None, AXIS), PartitionSpec(AXIS)]
    assert layout.params["blocks"][0]["bias"].spec == PartitionSpec()
    assert layout.ema[0]["blocks"][1]["kernel"].spec == PartitionSpec(AXIS)
    odd = Mesh(np.array(jax.devices()[:1] * 7), (AXIS,))
    assert held(state, layout_of(state, odd)) == held(state)


@several
def test_a_state_is_split_where_it_does_not_fit_whole(monkeypatch):
    _, _, state = state_of()
    weights, whole = held(state.params), held(state)
    split = held(state, layout_of(state, MESH)) + weights

    def chosen(shard, bytes_of_one):
        monkeypatch.setattr(room, "memory", lambda: MESH.size * bytes_of_one)
        return chosen_layout(state, MESH, RECIPE, shard) is not None

    assert split < whole
    assert not chosen("auto", whole + weights)
    assert chosen("always", whole + weights)
    assert chosen("auto", whole + weights - 1)
    assert not chosen("never", whole)
    with pytest.raises(MemoryShort, match="Set shard=auto, which splits them"):
        chosen("never", whole - 1)
    with pytest.raises(MemoryShort, match=r"GiB on each of 2, .* a smaller preset"):
        chosen("auto", split - 1)


def test_what_cannot_be_split_is_refused():
    _, _, state = state_of()
    free = dataclasses.replace(RECIPE, adversarial=Adversarial("free"))
    for mesh, recipe, why in (
        (None, RECIPE, "a batch of this size is on one device"),
        (MESH, free, "against=free" if MESH.size > 1 else "one device"),
        (Mesh(np.array(jax.devices()[:1] * 7), (AXIS,)), RECIPE, "7 equal parts"),
    ):
        with pytest.raises(UsageError, match=f"shard=always .*{why}"):
            chosen_layout(state, mesh, recipe, "always")
        assert chosen_layout(state, mesh, recipe, "auto") is None
