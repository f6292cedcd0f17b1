"""Runs with every option: cut and gone on with, and what ends them."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from data_contracts.errors import SightlineError, UsageError
from models.checkpoint import tree_digest
from models.feed import BatchSource
from models.fit import FitSettings, fit
from models.optim import (
    OPTIMIZERS,
    make_optimizer,
)
from models.recipe import NONE, Recipe
from tests.models.cuts import cut_within

# Schedules


LABELS = np.arange(40, dtype=np.int32) % 3


def read(rows):
    images = np.random.default_rng(0).integers(0, 100, (40, 8, 8, 3)).astype(np.uint8)
    images[np.arange(40), :, :, LABELS] += 100
    return images[rows]


SOURCE = BatchSource(
    labels=LABELS,
    train_rows=np.arange(3, 33),
    val_rows=np.arange(33, 40),
    read=read,
    chunk=8,
)
SHORT = Recipe(epochs=3, batch_size=8, augment=dataclasses.replace(NONE, flip=0.5))
SETTINGS = FitSettings(group=2, eval_batch_size=8)


class Small(nnx.Module):
    """A convolution that Muon takes, batch norm, a block, a head."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.stem = nnx.Conv(3, 4, (4, 4), strides=4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.blocks = nnx.List([nnx.Conv(4, 4, (1, 1), rngs=rngs)])
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x, *, train, rngs=None):
        x = self.norm(self.stem(x), use_running_average=not train)
        for block in self.blocks:
            x = jax.nn.relu(block(x))
        return self.head(x.mean((1, 2)))


def run(folder, *, settings=SETTINGS, model=None, **change):
    return fit(
        model or Small(),
        SOURCE,
        recipe=dataclasses.replace(SHORT, **change),
        settings=settings,
        run_dir=Path(folder),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )


OPTIONS = [
    *({"optimizer": name} for name in OPTIMIZERS),
    {"optimizer": "adamw", "schedule": "one_cycle"},
    {"optimizer": "adamw", "schedule": "constant"},
    {"optimizer": "adamw", "schedule": "schedule_free"},
    {"optimizer": "sgd", "schedule": "schedule_free", "sam_radius": 0.05},
    {"sam_radius": 0.05},
    {"accumulate": 2, "remat": True, "precision": "bfloat16"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_goes_on_to_the_same_bits(tmp_path, monkeypatch, options):
    """A run is cut in its second epoch, and another ends in the same state."""
    whole = run(tmp_path / "whole", **options)
    cut_within(
        monkeypatch,
        lambda settings: run(tmp_path / "cut", settings=settings, **options),
        settings=SETTINGS,
        at=(1, 2),
    )
    assert (tmp_path / "cut" / "checkpoints" / "1.2").is_dir()
    then = run(tmp_path / "cut", **options)
    assert then.resumed_from == 1
    assert [h["train_loss"] for h in then.history] == [
        h["train_loss"] for h in whole.history
    ]
    bits = [tree_digest((found.params, found.stats)) for found in (whole, then)]
    assert bits[0] == bits[1]
    states = [
        (tmp_path / name / "checkpoints" / "3" / "memory.json").read_text()
        for name in ("whole", "cut")
    ]
    kept = [text.split('"sha256": "')[1][:64] for text in states]
    assert kept[0] == kept[1]


def test_a_run_without_new_options_is_known_by_the_words_of_old():
    text = repr(Recipe())
    assert text.startswith("Recipe(preset='small', optimizer='muon', epochs=110")
    assert text.endswith(")")
    assert "schedule" not in text
    assert "remat" not in text
    assert "schedule='constant'" in repr(Recipe(schedule="constant"))
    assert "accumulate=2" in repr(Recipe(accumulate=2))


def test_more_parts_than_images_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"accumulate=16 parts .* came 8 images"):
        run(tmp_path, accumulate=16)


class Burst(Small):
    """A network that a single image breaks: the one whose first pixel is 255."""

    def __call__(self, x, *, train, rngs=None):
        bad = x[:, :1, :1, 0].reshape(-1, 1) > 1.99
        return super().__call__(x, train=train, rngs=rngs) + jnp.where(bad, 1e38, 0) * 9


def test_a_loss_that_is_no_number_names_step_and_images(tmp_path, monkeypatch):
    pixels = read(np.arange(40))
    pixels[17, 0, 0, 0] = 255
    seen = []

    def watched(rows):
        seen.append(rows)
        return pixels[rows]

    source = dataclasses.replace(SOURCE, read=watched)
    recipe = dataclasses.replace(SHORT, augment=NONE)
    with pytest.raises(SightlineError) as caught:
        fit(
            Burst(),
            source,
            recipe=recipe,
            settings=SETTINGS,
            run_dir=tmp_path,
            mean=(0.5,) * 3,
            std=(0.25,) * 3,
        )
    said = str(caught.value)
    assert "epoch 1/3, step " in said
    assert " of 4, on " in said
    rows = said.split("(rows ")[1].split(")")[0].split(", ")
    assert "17" in rows
    assert "Lower learning_rate (now 0.0028) or clip" in said


def test_the_last_good_checkpoint_stays(tmp_path, monkeypatch):
    """Steps so wide, from the second epoch on, that no weight stays a number."""

    def wild(recipe, total):
        tx, rate = make_optimizer(recipe, total)

        def update(grads, state, params):
            updates, state = tx.update(grads, state, params)
            return jax.tree.map(lambda u: u * jnp.inf, updates), state

        return optax.GradientTransformation(tx.init, update), rate

    briefly = dataclasses.replace(SETTINGS, max_minutes=0)
    first = run(tmp_path, settings=briefly)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    with monkeypatch.context() as change:
        change.setattr("models.fit.make_optimizer", wild)
        with pytest.raises(SightlineError, match="epoch 2/3, step 2 of 4") as caught:
            run(tmp_path)
    assert "The checkpoint of epoch 1 stays" in str(caught.value)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == kept
    again = run(tmp_path, settings=briefly)
    assert tree_digest(again.params) == tree_digest(first.params)


def test_a_gradient_that_is_no_number_is_not_kept(tmp_path):
    """The loss beside it is a number, and the step the last of its epoch."""

    class Edge(Small):
        def __call__(self, x, *, train, rngs=None):
            out = super().__call__(x, train=train, rngs=rngs)
            return out + jnp.sqrt(jnp.square(out).sum() * 0)

    with pytest.raises(SightlineError, match="training gradient became nan"):
        run(tmp_path, model=Edge(), batch_size=32, epochs=1)
    assert not (tmp_path / "checkpoints").exists()
