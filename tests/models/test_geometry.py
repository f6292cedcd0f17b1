"""Boxes, masks and key points go where the pixels go."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import geometry
from models.recipe import NONE

draw_maps = jax.jit(geometry.draw_maps, static_argnums=(1, 2))
sample = jax.jit(geometry.sample, static_argnums=2)
warp_labels = jax.jit(geometry.warp_labels, static_argnums=2)
warp_points, warp_boxes = jax.jit(geometry.warp_points), jax.jit(geometry.warp_boxes)

SIDE = 48
FEW = settings(max_examples=30)
MOVES = dataclasses.replace(
    NONE,
    flip=0.5,
    flip_up=0.5,
    rotate=40,
    zoom=(0.6, 1.3),
    stretch=0.5,
    shift=0.2,
    shear=15,
)
TILTED = dataclasses.replace(MOVES, perspective=0.5)


def blob(x, y, radius=3):
    """A soft white spot around (x, y), shares of the side, on black."""
    ticks = (np.arange(SIDE) + 0.5) / SIDE
    far = np.hypot(ticks[:, None] - y, ticks - x) * SIDE
    return np.repeat((255 * np.exp(-((far / radius) ** 2)))[..., None], 3, -1)


@pytest.mark.parametrize("moves", [MOVES, TILTED], ids=["affine", "perspective"])
@FEW
@given(
    seed=st.integers(0, 2**31),
    place=st.tuples(st.floats(0.15, 0.85), st.floats(0.15, 0.85)),
)
def test_a_spot_is_seen_where_its_point_is_said_to_be(moves, seed, place):
    maps = draw_maps(jax.random.key(seed), 1, moves)
    image = blob(*place).astype("uint8")[None]
    view = np.asarray(sample(jnp.asarray(image), maps, SIDE))[0, 0]
    ((x, y),) = np.asarray(warp_points(jnp.array([[place]]), maps))[0]
    if not (0.15 < x < 0.85 and 0.15 < y < 0.85):
        return
    row, column = int(y * SIDE), int(x * SIDE)
    near = view[row - 1 : row + 2, column - 1 : column + 2]
    assert near.max() > 0.75


@pytest.mark.parametrize("moves", [MOVES, TILTED], ids=["affine", "perspective"])
@FEW
@given(
    seed=st.integers(0, 2**31),
    low=st.tuples(st.floats(0.1, 0.4), st.floats(0.1, 0.4)),
    high=st.tuples(st.floats(0.6, 0.9), st.floats(0.6, 0.9)),
)
def test_a_box_holds_the_pixels_of_its_mask(moves, seed, low, high):
    # Views that stay inside the image: outside, mirrored copies lie beside the box.
    inside = dataclasses.replace(
        moves, zoom=(0.3, 0.4), stretch=0.2, perspective=0.4 * moves.perspective
    )
    maps = draw_maps(jax.random.key(seed), 1, inside)
    maps = maps.at[:, :2, 2].multiply(0.0)
    ticks = (np.arange(SIDE) + 0.5) / SIDE
    box = x0, y0, x1, y1 = *low, *high
    mask = ((ticks > y0) & (ticks < y1))[:, None] & (ticks > x0) & (ticks < x1)
    seen = np.asarray(warp_labels(mask[None].astype("int32"), maps, SIDE))[0]
    (found,), share = (np.asarray(v)[0] for v in warp_boxes(jnp.array([[box]]), maps))
    assert 0 <= share[0] <= 1 + 1e-5
    assert (found >= 0).all()
    assert (found <= 1).all()
    rows, columns = np.nonzero(seen)
    if len(rows):
        slack = 2.5 / SIDE
        assert found[0] <= columns.min() / SIDE + slack
        assert found[1] <= rows.min() / SIDE + slack
        assert found[2] >= (columns.max() + 1) / SIDE - slack
        assert found[3] >= (rows.max() + 1) / SIDE - slack


def test_a_mirror_swaps_left_and_right_of_points_and_boxes():
    maps = draw_maps(jax.random.key(0), 1, dataclasses.replace(NONE, flip=1.0))
    points = warp_points(jnp.array([[[0.2, 0.3]]]), maps)
    np.testing.assert_allclose(points[0, 0], [0.8, 0.3], atol=1e-6)
    boxes, share = warp_boxes(jnp.array([[[0.1, 0.2, 0.4, 0.9]]]), maps)
    np.testing.assert_allclose(boxes[0, 0], [0.6, 0.2, 0.9, 0.9], atol=1e-6)
    np.testing.assert_allclose(share, 1, atol=1e-5)


def test_a_box_that_leaves_the_view_keeps_no_share():
    half = jnp.array([[[0.5, 0.0, -0.5], [0.0, 0.5, -0.5]]])
    boxes = jnp.array([[[0.6, 0.6, 0.9, 0.9], [0.25, 0.0, 0.75, 0.5]]])
    found, share = warp_boxes(boxes, half)
    np.testing.assert_allclose(share[0], [0, 0.5], atol=1e-5)
    np.testing.assert_allclose(found[0, 1], [0.5, 0, 1, 1], atol=1e-6)


def test_masks_keep_their_labels():
    labels = jax.random.randint(jax.random.key(1), (4, SIDE, SIDE), 0, 7)
    maps = draw_maps(jax.random.key(2), 4, TILTED)
    seen = warp_labels(labels * 10, maps, 32)
    assert seen.shape == (4, 32, 32)
    assert set(np.unique(seen)) <= set(range(0, 70, 10))


@FEW
@given(seed=st.integers(0, 2**31))
def test_a_view_agrees_with_a_plain_bilinear_loop(seed):
    images = np.random.default_rng(seed).integers(0, 256, (1, 9, 9, 3)).astype("uint8")
    maps = draw_maps(jax.random.key(seed), 1, MOVES)
    view = np.moveaxis(np.asarray(sample(jnp.asarray(images), maps, 7)), 0, -1)[0]
    m = np.asarray(maps, np.float64)[0]
    for i, j in ((0, 0), (3, 5), (6, 2)):
        at = np.array([(i + 0.5) * 2 / 7 - 1, (j + 0.5) * 2 / 7 - 1, 1])
        y, x = ((m @ at) + 1) * 9 / 2 - 0.5
        y, x = (np.clip(8 - abs(8 - abs(v)), 0, 8) for v in (y, x))
        top, left = min(int(y), 7), min(int(x), 7)
        four = images[0, top : top + 2, left : left + 2] / 255
        rows = four[:, 0] + (four[:, 1] - four[:, 0]) * (x - left)
        expected = rows[0] + (rows[1] - rows[0]) * (y - top)
        np.testing.assert_allclose(view[i, j], expected, atol=2e-4)
