"""Candidate and champion under attack: the same images, and words where none can be."""

import numpy as np
import pytest

from data_contracts.store import Dataset
from tasks.arena import read_rights
from tasks.gate_attacks import attack_both
from tasks.gate_settings import Adversarial
from tests.datasets import make_dataset

N = 24
CHECK = Adversarial(steps=1, images=8, epsilon=2)


class Without:
    """A model with something else than it had."""

    def __init__(self, model, **changes):
        self._model, self._changes = model, changes

    def __getattr__(self, name):
        return self._changes.get(name) or getattr(self._model, name)


@pytest.fixture
def images(tmp_path):
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (N, 16, 16, 3), dtype=np.uint8)
    return Dataset(make_dataset(tmp_path / "set", N, images=pixels)), pixels


def attacked(tmp_path, images, candidate, champion, check=CHECK, labels=None):
    dataset, pixels = images
    given = candidate(pixels).argmax(1) if labels is None else labels
    rows, both = np.arange(N), (candidate, champion)
    attack_both(dataset, rows, given, rows // 2, both, check, tmp_path)
    reason = tmp_path / "attacked-pgd.txt"
    return read_rights(tmp_path / "attacked-pgd.npz"), (
        reason.read_text() if reason.exists() else ""
    )


def test_both_are_attacked_on_the_same_few_images(tmp_path, images, predictor):
    found, reason = attacked(tmp_path, images, predictor, predictor)
    assert reason == ""
    assert len(found.candidate) == 8
    assert found.candidate.tolist() == found.champion.tolist()
    assert set(found.candidate) <= {0, 1}
    rows = np.linspace(0, N - 1, 8).astype(int)
    assert (
        found.groups.tolist() == np.unique(rows // 2, return_inverse=True)[1].tolist()
    )


def test_an_attack_without_limits_leaves_nothing_right(tmp_path, images, predictor):
    strong = Adversarial(steps=2, epsilon=255)
    found, _ = attacked(tmp_path, images, predictor, predictor, strong)
    assert (len(found.candidate), found.candidate.sum()) == (N, 0)


def test_a_class_that_the_champion_does_not_know_is_wrong_for_it(
    tmp_path,
    images,
    predictor,
):
    other = Without(predictor, classes=["x", "y", "z"])
    found, _ = attacked(tmp_path, images, predictor, other, Adversarial(epsilon=0.01))
    assert found.candidate.mean() > 0.5
    assert not found.champion.any()


def looping(weights, pixels):
    """Take a loop of unknown length, which has no reverse derivative."""
    import jax

    turns = (0, pixels.sum(axis=(1, 2)))
    return jax.lax.while_loop(
        lambda t: t[0] < 2, lambda t: (t[0] + 1, 2 * t[1]), turns
    )[1]


def steps(weights, pixels):
    return (pixels * 255).round().sum(axis=(1, 2))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"logits": looping}, "The champion's network cannot be differentiated"),
        ({"logits": steps}, "no gradient"),
        ({"classes": ["a"]}, "The champion knows a single class"),
    ],
)
def test_what_cannot_be_attacked_is_said(tmp_path, images, predictor, changes, said):
    champion = Without(predictor, **changes)
    found, reason = attacked(tmp_path, images, predictor, champion)
    assert found is None
    assert said in reason


def rarely(weights, pixels):
    """Answer by steps where the first sample is dark, else by a slope."""
    import jax.numpy as jnp

    flat = (pixels * 255).round()
    dark = pixels[:, :1, :1, :1] < 0.5
    return jnp.where(dark, flat, pixels * 255).sum(axis=(1, 2))


def test_a_gradient_that_is_missing_here_and_there_is_said(tmp_path, images, predictor):
    champion = Without(predictor, logits=rarely)
    found, reason = attacked(tmp_path, images, predictor, champion)
    assert found is None
    assert "of 8 images have no gradient" in reason


def test_answers_alone_are_enough_for_square(tmp_path, images, predictor):
    dataset, pixels = images
    both = predictor, Without(predictor, logits=looping)
    rows, given = np.arange(N), predictor(pixels).argmax(1)
    asked = Adversarial(attack="square", epsilon=255, images=8)
    attack_both(dataset, rows, given, rows, both, asked, tmp_path)
    found = read_rights(tmp_path / "attacked-square.npz")
    assert found.note == ""
    assert not found.champion.any()


def test_images_without_a_trained_label_are_said(tmp_path, images, predictor):
    none = np.full(N, -1)
    found, reason = attacked(tmp_path, images, predictor, predictor, labels=none)
    assert (found, reason) == (None, "No test image has a trained label.")
