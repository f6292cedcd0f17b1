"""The network that finds occluders: shapes, learning, and going on after a stop."""

import jax
import numpy as np
import pytest
from flax import nnx

from data_contracts.errors import UsageError
from models.feed import BatchSource
from models.segment import UNet, _folded, _unfolded
from models.segment_fit import SegmentSettings, fit_segment

N, SIDE = 24, 16
VIEW = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


def source(rows=N):
    images = np.random.default_rng(0).integers(0, 256, (N, SIDE, SIDE, 3), np.uint8)
    return BatchSource(
        labels=np.arange(N),
        train_rows=np.arange(rows),
        val_rows=np.arange(0),
        read=lambda rows: images[rows],
        chunk=8,
    )


def settings(**changed):
    return SegmentSettings(
        **{"families": ("rectangle",), "epochs": 3, "batch_size": 8} | changed
    )


def fitted(folder, *, epochs=3, **changed):
    return fit_segment(
        source(), settings=settings(epochs=epochs, **changed), run_dir=folder, **VIEW
    )


@pytest.mark.parametrize("shape", [(16, 16), (15, 18), (33, 7)])
def test_every_pixel_gets_a_logit_whatever_the_size(shape):
    def logits(images):
        return UNet(rngs=nnx.Rngs(0))(images, train=False)

    images = np.zeros((2, *shape, 3), np.float32)
    assert jax.eval_shape(logits, images).shape == (2, *shape)


def test_the_network_is_small():
    weights = jax.tree.leaves(nnx.state(UNet(rngs=nnx.Rngs(0)), nnx.Param))
    assert 90_000 < sum(leaf.size for leaf in weights) < 140_000


def test_pixels_unfold_to_where_they_were_folded_from():
    image = np.random.default_rng(0).random((2, 4, 6, 1)).astype(np.float32)
    np.testing.assert_array_equal(_unfolded(_folded(image)), image[..., 0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def whole(folder):
    return fitted(folder)


def test_the_loss_falls(whole):
    losses = [line["loss"] for line in whole[2]]
    assert len(losses) == 3
    assert losses[-1] < losses[0]


def test_a_run_that_was_stopped_ends_in_the_same_bits(tmp_path, whole, monkeypatch):
    from models import segment_fit

    keep = segment_fit._keep

    def killed(run_dir, state, history, identity):
        keep(run_dir, state, history, identity)
        if len(history) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(segment_fit, "_keep", killed)
    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path)
    monkeypatch.undo()
    params, stats, history = fitted(tmp_path)
    assert [line["epoch"] for line in history] == [1, 2, 3]
    for one, other in zip(
        jax.tree.leaves((params, stats)), jax.tree.leaves(whole[:2]), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_a_folder_of_other_settings_is_refused(folder, whole):
    with pytest.raises(UsageError, match="other settings"):
        fitted(folder, most=0.2)
