"""Random views: what each setting may change, and what it may not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.augment import augment, mix
from models.recipe import NONE, Augment

KEY = jax.random.key(0)


def photos(n=8, side=16):
    return np.random.default_rng(1).integers(0, 256, (n, side, side, 3)).astype("uint8")


def only(**settings):
    return dataclasses.replace(NONE, **settings)


def test_nothing_asked_is_nothing_done():
    np.testing.assert_allclose(augment(photos(), KEY, NONE), photos() / 255, atol=1e-6)


def test_a_view_of_the_whole_image_is_the_image():
    # A mirror with chance 0 still samples through the warp.
    seen = augment(photos(), KEY, only(rotate=1e-9))
    np.testing.assert_allclose(seen, photos() / 255, atol=1e-5)


def test_a_certain_flip_mirrors_left_and_right():
    seen = augment(photos(), KEY, only(flip=1))
    np.testing.assert_allclose(seen, photos()[:, :, ::-1] / 255, atol=1e-5)


def test_a_quarter_turn_is_rot90():
    seen = np.asarray(augment(photos(64), KEY, only(rotate=90.0)))
    assert not np.allclose(seen, photos(64) / 255, atol=1e-2)
    from models.augment import _warp

    quarter = jnp.array([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]])
    turned = _warp(jnp.asarray(photos(1) / 255.0), quarter, 16)
    np.testing.assert_allclose(turned[0], np.rot90(photos(1)[0], -1) / 255, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        Augment(),
        only(rotate=180.0),
        only(zoom=(0.1, 2.0)),
        only(shift=1.0),
        only(stretch=2.0),
        only(brightness=1.0),
        only(contrast=3.0),
        only(saturation=3.0),
        only(erase=1.0),
    ],
    ids=str,
)
def test_views_are_finite_and_in_range(settings):
    seen = np.asarray(augment(photos(), KEY, settings))
    assert seen.dtype == np.float32
    assert np.isfinite(seen).all()
    assert seen.min() >= 0
    assert seen.max() <= 1 + 1e-6
    same = seen.shape == photos().shape
    assert not (same and np.allclose(seen, photos() / 255, atol=1e-3))


def test_the_same_key_gives_the_same_views_and_another_gives_others():
    one, again = (augment(photos(), KEY, Augment()) for _ in range(2))
    other = augment(photos(), jax.random.key(1), Augment())
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other, atol=1e-2)


def test_every_image_of_a_batch_is_seen_differently():
    same = np.repeat(photos(1), 8, axis=0)
    seen = np.asarray(augment(same, KEY, Augment()))
    assert len(np.unique(seen.reshape(8, -1).mean(1).round(6))) == 8


def test_size_and_resolution_set_the_side_of_the_view():
    assert augment(photos(), KEY, only(size=24)).shape == (8, 24, 24, 3)
    assert augment(photos(), KEY, only(resolution=0.75)).shape == (8, 12, 12, 3)


def test_a_gray_picture_stays_gray():
    gray = np.repeat(photos()[..., :1], 3, axis=3)
    seen = np.asarray(augment(gray, KEY, Augment()))
    np.testing.assert_allclose(seen[..., 0], seen[..., 1], atol=1e-5)
    np.testing.assert_allclose(seen[..., 0], seen[..., 2], atol=1e-5)


def test_erasing_greys_one_square_and_spares_the_rest():
    seen = np.asarray(augment(photos(64), KEY, only(erase=0.5)))
    gone = (seen != np.float32(photos(64)) / 255).any(-1)
    assert 0 < gone.mean() < 0.25
    assert np.allclose(seen[gone], 0.5)


def test_without_mixing_every_image_is_its_own():
    pixels = jnp.asarray(photos() / 255.0)
    mixed, own = mix(pixels, KEY, NONE)
    assert mixed is pixels
    assert (own == 1).all()


def test_mixup_blends_with_the_mirror_place_in_the_batch():
    pixels = jnp.arange(8.0)[:, None, None, None] * jnp.ones((1, 4, 4, 3))
    mixed, own = mix(pixels, KEY, only(mixup=1.0))
    expected = own * np.arange(8) + (1 - own) * np.arange(8)[::-1]
    np.testing.assert_allclose(mixed[:, 0, 0, 0], expected, atol=1e-5)
    assert len(np.unique(own)) == 8


def test_cutmix_keeps_the_share_it_reports():
    pixels = jnp.arange(8.0)[:, None, None, None] * jnp.ones((1, 16, 16, 3))
    mixed, own = mix(pixels, KEY, only(cutmix=1.0))
    left = (np.asarray(mixed)[..., 0] == np.arange(8.0)[:, None, None]).mean((1, 2))
    np.testing.assert_allclose(left, own, atol=1e-6)
    assert 0 < own.min() < own.max() <= 1
