"""Training on attacked views: it withstands more, and goes on to the same bits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from models import stopping
from models.adversarial import Adversary
from models.attacks.balls import keys_of
from models.attacks.kept import wrong
from models.attacks.pgd import pgd
from models.feed import BatchSource
from models.fit import FitSettings, fit
from models.forward import look_at
from models.recipe import NONE, Adversarial, Recipe
from models.steps import create_state, device_mesh, normalise
from models.watch import collapse_told

VIEW = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
METHODS = ("fgsm", "pgd", "trades", "free")
EPS = 0.1
N, SIDE = 48, 8


class Weak(nnx.Module):
    """Two layers, quickly compiled; most of an image says little, and is heard."""

    def __init__(self):
        self.first = nnx.Linear(SIDE * SIDE * 3, 16, rngs=nnx.Rngs(0))
        self.norm = nnx.BatchNorm(16, rngs=nnx.Rngs(0))
        self.head = nnx.Linear(16, 2, rngs=nnx.Rngs(1))

    def __call__(self, x, *, train, rngs=None):
        maps = self.norm(
            self.first(x.reshape(len(x), -1)), use_running_average=not train
        )
        return self.head(nnx.relu(maps))


def pictures():
    """A corner that is bright or dark, and a faint pattern that says the same."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, N).astype(np.int32)
    images = random.integers(96, 160, (N, SIDE, SIDE, 3))
    faint = np.sign(random.normal(size=(SIDE, SIDE, 3)))
    images += (np.where(labels, 12, -12)[:, None, None, None] * faint).astype(int)
    images[:, :3, :3] = np.where(labels, 200, 55)[:, None, None, None]
    return images.astype(np.uint8), labels


IMAGES, LABELS = pictures()


def source():
    return BatchSource(
        labels=LABELS,
        train_rows=np.arange(32),
        val_rows=np.arange(32, N),
        read=lambda rows: IMAGES[rows],
        chunk=16,
        num_classes=2,
    )


def recipe(method, **given):
    own = Adversarial(method, eps=EPS, steps=3, replays=2, watch=16, watch_steps=5)
    usual = {"epochs": 20, "batch_size": 16, "augment": NONE, "label_smoothing": 0.0}
    usual |= {"optimizer": "adamw", "learning_rate": 0.01, "ema": 0.5}
    return Recipe(adversarial=own, **usual | given)


def trained(method, folder, *, seconds=None, devices=1, **given):
    return fit(
        Weak(),
        source(),
        recipe=recipe(method, **given),
        settings=FitSettings(max_minutes=seconds),
        run_dir=folder,
        mesh=device_mesh(16) if devices > 1 else None,
        **VIEW,
    )


def withstands(result):
    graphdef, *_ = nnx.split(Weak(), nnx.Param, ...)

    def logits_of(pixels):
        weights = result.params, result.stats
        return look_at(graphdef, weights, normalise(pixels, **VIEW))

    images, labels = jnp.asarray(IMAGES) / 255, jnp.asarray(LABELS)
    keys = keys_of(jax.random.key(0), jnp.arange(N))
    found = pgd(logits_of, images, labels, eps=EPS, keys=keys, steps=5)
    return float(1 - wrong(logits_of(found), labels).mean())


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return trained("none", tmp_path_factory.mktemp("plain") / "run")


@pytest.mark.parametrize("method", METHODS)
def test_each_method_withstands_more_than_plain_training(method, plain, tmp_path):
    result = trained(method, tmp_path / "run")
    assert withstands(result) > withstands(plain) + 0.2
    line = result.history[-1]
    assert line["robust_images"] == 16
    assert 0 <= line["val_robust"] <= line["val_top1"]


def test_plain_training_says_nothing_of_attacks(plain):
    assert "val_robust" not in plain.history[-1]


@pytest.mark.parametrize("method", METHODS)
def test_a_training_that_was_cut_off_ends_in_the_same_bits(method, tmp_path):
    whole = trained(method, tmp_path / "whole", epochs=2, devices=2)
    trained(method, tmp_path / "cut", epochs=2, devices=2, seconds=1e-9)
    resumed = trained(method, tmp_path / "cut", epochs=2, devices=2)
    assert resumed.resumed_from == 1
    for one, other in zip(
        jax.tree.leaves((whole.params, whole.stats)),
        jax.tree.leaves((resumed.params, resumed.stats)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    assert whole.history[-1]["val_robust"] == resumed.history[-1]["val_robust"]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("parts", [1, 2])
def test_attacked_views_stay_within_the_budget_and_cost_the_network_more(norm, parts):
    graphdef, state = create_state(Weak(), optax.sgd(0.1))
    own = Adversarial("pgd", norm=norm, eps=0.05, steps=3)
    foe = Adversary(own, graphdef, **VIEW, parts=parts)
    pixels, labels = jnp.asarray(IMAGES) / 255, jnp.asarray(LABELS)
    own_share = jnp.where(jnp.arange(N) % 2, 1.0, 0.6)  # half are mixed
    weights = state.params, state.stats
    moved, other = jax.jit(foe)(
        weights, pixels, own_share, labels, key=jax.random.key(0)
    )
    assert other is None
    change = moved - pixels
    flat = jnp.abs(change).reshape(N, -1)
    size = flat.max(1) if norm == "linf" else jnp.linalg.norm(flat, axis=1)
    assert size.max() <= 0.05 + 1e-6
    assert moved.min() >= 0
    assert moved.max() <= 1

    def loss(pixels):
        odds = jax.nn.log_softmax(look_at(graphdef, weights, normalise(pixels, **VIEW)))
        of = -odds[jnp.arange(N), labels], -odds[jnp.arange(N), labels[::-1]]
        return own_share * of[0] + (1 - own_share) * of[1]

    assert (loss(moved) > loss(pixels)).mean() > 0.9


def test_free_training_takes_several_updates_a_batch(tmp_path):
    free = trained("free", tmp_path / "free", epochs=1)
    plain = trained("none", tmp_path / "plain", epochs=2)
    rates = [run.history[-1]["learning_rate"] for run in (free, plain)]
    assert rates[0] == rates[1]  # as many updates, of half the epochs


def lines(robust, clean=0.9):
    return [
        {
            "val_top1": clean,
            "val_loss": 0.1,
            "val_images": 400.0,
            "val_robust": value,
            "robust_images": 400,
            "seconds": 1.0,
        }
        for value in robust
    ]


def test_the_epoch_that_withstands_most_is_kept():
    assert stopping.best_epoch(lines([0.2, 0.4, 0.3, 0.1])) == 2
    assert stopping.best_epoch(lines([0.2, 0.39, 0.4])) == 3


def test_a_collapse_under_attack_stops_the_training_and_is_told():
    stop = functools.partial(
        stopping.stop_reason, epochs=9, patience=0, max_minutes=None
    )
    fell = lines([0.2, 0.4, 0.05])
    assert stop(fell) == "collapse"
    assert stop(lines([0.2, 0.4, 0.3])) == ""
    few = [line | {"robust_images": 8} for line in lines([0.3, 0.1])]
    assert stop(few) == ""
    said = collapse_told(fell, recipe=recipe("fgsm"))
    assert "from 0.400 to 0.050 in epoch 3" in said
    assert "Set against=pgd, or" in said
    said = collapse_told(fell, recipe=recipe("trades"))
    assert "Set a larger trades_beta, or a smaller epsilon" in said


def test_patience_counts_epochs_without_more_withstood():
    stop = functools.partial(stopping.stop_reason, epochs=9, max_minutes=None)
    better = lines([0.4, 0.35, 0.36])
    for place, line in enumerate(better):
        line["val_loss"] -= 0.01 * place  # the plain loss still falls
    assert stop(better, patience=2) == "early"
    assert stop(better, patience=3) == ""


def test_views_are_attacked_in_parts_and_in_low_precision_too(tmp_path):
    more = {"precision": "bfloat16", "accumulate": 2, "epochs": 1}
    result = trained("trades", tmp_path / "run", **more)
    assert np.isfinite(result.history[-1]["train_loss"])
