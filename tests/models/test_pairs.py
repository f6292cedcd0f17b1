"""Losses of two views, and a step that learns by them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from data_contracts.errors import SightlineError
from models.backbones import Shape, build
from models.feed import BatchSource
from models.fit import FitSettings, fit
from models.pairs import Paired, found_again, pair_step_of, simsiam, two_views, vicreg
from models.recipe import NONE, Augment, Recipe
from tasks.pretrain import refuse_collapse

RANDOM = np.random.default_rng(0)
FIRST, SECOND = RANDOM.normal(size=(2, 8, 6)).astype(np.float32)
ALIKE = np.full(8, 1 / 8, np.float32)


def test_vicreg_is_what_its_paper_writes():
    loss = 25 * np.square(FIRST - SECOND).mean()
    for z in (FIRST, SECOND):
        cov = np.cov(z.T, bias=True)
        spread = np.sqrt(np.diagonal(cov) + 1e-4)
        loss += 12.5 * np.maximum(1 - spread, 0).mean()
        loss += (np.square(cov).sum() - np.square(np.diagonal(cov)).sum()) / 6
    assert vicreg(FIRST, SECOND, ALIKE) == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("loss", [vicreg, simsiam])
def test_a_row_that_fills_the_batch_up_counts_for_nothing(loss):
    share = np.pad(ALIKE, (0, 2))
    longer = [np.concatenate([z, z[:2] + 9]) for z in (FIRST, SECOND)]
    wanted = float(loss(FIRST, SECOND, ALIKE))
    assert loss(*longer, share) == pytest.approx(wanted, rel=1e-5)


def test_simsiam_moves_predictions_towards_projections_that_stand_still():
    def of(first):
        return simsiam(first, SECOND, ALIKE)

    slope = jax.grad(of)(jnp.asarray(FIRST))
    assert not np.any(slope[:, :3])  # its projection
    assert np.all(np.abs(slope[:, 3:]).sum(1) > 0)
    same = np.tile(FIRST[:, :3], 2)
    assert simsiam(same, same, ALIKE) == pytest.approx(-1)


def test_views_are_found_again_where_they_are_nearest():
    assert np.all(found_again(FIRST, FIRST + 0.01, ALIKE))
    assert not np.any(found_again(FIRST, np.roll(FIRST, 1, 0), ALIKE))
    twins = [np.concatenate([z, z[:1]]) for z in (FIRST, FIRST + 0.01)]
    share = np.pad(ALIKE, (0, 1))
    twins[1][0] += 0.5  # its copy, which fills the batch up, is nearer
    assert found_again(*twins, share)[0]


def test_two_views_of_an_image_differ_and_come_in_order():
    images = RANDOM.integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
    key = jax.random.key(0)
    plain = two_views(images, key, NONE)
    np.testing.assert_allclose(plain, np.concatenate([images] * 2) / 255, atol=1e-6)
    moved = two_views(images, key, Augment(mixup=0, cutmix=0, resolution=1))
    assert np.all(np.abs(moved[:3] - moved[3:]).mean((1, 2, 3)) > 0.01)


@pytest.mark.parametrize("method", ["vicreg", "simsiam"])
def test_training_on_pairs_goes_on_to_the_same_bits(method, tmp_path):
    images = RANDOM.integers(0, 256, (16, 8, 8, 3)).astype(np.uint8)
    source = BatchSource(
        labels=np.zeros(16, np.int64),
        train_rows=np.arange(16),
        val_rows=np.arange(0),
        read=lambda rows: images[rows],
        chunk=8,
        num_classes=1,
    )
    shape = Shape((8, 8), (1, 1), "half")

    def trained(folder, minutes=None):
        backbone = build(shape, num_classes=1, rngs=nnx.Rngs(0))
        network = Paired(backbone, method=method, width=8, rngs=nnx.Rngs(1))
        return fit(
            network,
            source,
            recipe=Recipe(epochs=3, batch_size=8, augment=NONE, optimizer="adamw"),
            settings=FitSettings(max_minutes=minutes),
            mean=(0.5,) * 3,
            std=(0.25,) * 3,
            run_dir=folder,
            make_step=functools.partial(pair_step_of, method=method),
        )

    whole = trained(tmp_path / "whole")
    trained(tmp_path / "cut", minutes=1e-9)
    rest = trained(tmp_path / "cut")
    assert rest.resumed_from == 1
    assert jax.tree.all(jax.tree.map(np.array_equal, whole.params, rest.params))
    losses = [line["train_loss"] for line in whole.history]
    assert losses[-1] < losses[0]


def test_one_answer_for_all_images_is_refused():
    refuse_collapse(FIRST)
    for embeddings in (np.ones((8, 6)), np.full((8, 6), np.nan)):
        with pytest.raises(SightlineError, match="one answer for all images"):
            refuse_collapse(embeddings)
