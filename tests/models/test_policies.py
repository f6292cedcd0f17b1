"""What RandAugment and TrivialAugment draw, and what each op does to pixels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.augment import draw, render
from models.colour import Colour, recolour
from models.policies import OPS, draw_ops
from models.recipe import NONE

KEY = jax.random.key(3)


def policy(name, **settings):
    return dataclasses.replace(NONE, policy=name, **settings)


@pytest.mark.parametrize(("name", "k"), [("rand", 2), ("trivial", 1)])
def test_every_op_is_drawn_about_as_often(name, k):
    ops, _ = draw_ops(KEY, 2000, policy(name))
    assert ops.shape == (2000, k)
    share = np.bincount(np.ravel(ops), minlength=len(OPS)) / (2000 * k)
    assert abs(share * len(OPS) - 1).max() < 0.3


def test_rand_takes_one_strength_and_trivial_any():
    _, rand = draw_ops(KEY, 500, policy("rand", policy_ops=1, policy_magnitude=0.5))
    turns = np.degrees(np.asarray(rand["rotate"]))
    assert set(np.abs(turns).round(3)) == {0.0, 15.0}
    assert {-15.0, 15.0} <= set(turns.round(3))
    _, trivial = draw_ops(KEY, 500, policy("trivial"))
    turns = np.degrees(np.abs(np.asarray(trivial["rotate"])))
    assert len(np.unique(turns)) > 20
    assert turns.max() <= 135


def test_an_image_whose_op_is_identity_stays_as_it_is():
    images = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3)).astype("uint8")
    draws = draw(KEY, 64, policy("trivial"), side=16)
    seen = np.asarray(render(jnp.asarray(images), draws, size=16))
    still = np.asarray(draws.ops)[:, 0] == OPS.index("identity")
    assert still.any()
    np.testing.assert_allclose(seen[still], images[still] / 255, atol=1e-4)


def tone(image, **changes):
    planes = jnp.asarray(np.moveaxis(image[None] / 255.0, -1, 0), jnp.float32)
    one, zero = jnp.ones(1), jnp.zeros(1)
    colour = Colour(one, one, zero, **{k: jnp.full(1, v) for k, v in changes.items()})
    grey = planes.mean((0, 2, 3))
    return (
        np.moveaxis(np.asarray(jax.jit(recolour)(planes, colour, grey)), 0, -1)[0] * 255
    )


IMAGE = np.random.default_rng(5).integers(40, 200, (24, 24, 3)).astype("uint8")


def test_solarizing_inverts_what_is_bright():
    expected = np.where(IMAGE >= 128, 255 - IMAGE.astype(float), IMAGE)
    np.testing.assert_allclose(tone(IMAGE, solarize=128 / 255), expected, atol=0.01)


def test_posterizing_leaves_few_levels():
    np.testing.assert_allclose(tone(IMAGE, levels=32.0), IMAGE // 32 * 32, atol=0.01)


def test_autocontrast_takes_each_channel_to_the_whole_range():
    seen = tone(IMAGE, stretch=1.0)
    np.testing.assert_allclose(seen.min((0, 1)), 0, atol=0.01)
    np.testing.assert_allclose(seen.max((0, 1)), 255, atol=0.01)


def test_equalizing_evens_out_the_histogram():
    dark = (IMAGE.astype(float) ** 2 / 255).astype("uint8")
    seen = tone(dark, equalize=1.0)
    counts = np.histogram(seen, bins=4, range=(0, 256))[0] / seen.size
    assert counts.min() > 0.17
    assert (np.diff(seen.ravel()[np.argsort(dark.ravel(), kind="stable")]) > -60).all()
    np.testing.assert_allclose(tone(dark, equalize=0.0), dark, atol=0.01)
