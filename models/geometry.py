"""Where a view looks: maps between a view and its image, and what they carry along.

A map takes places of the view to places of the image, both (y, x) from -1 to 1 over
the pixels' outer edges. It is affine, (n 2 3), or a homography, (n 3 3).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from models.passes import apart
from models.recipe import Augment

Amounts = dict[str, jax.Array]


def spread(key: jax.Array, n: int, largest: float) -> jax.Array:
    """Return (n,) numbers between -largest and largest."""
    return jax.random.uniform(key, (n,), minval=-largest, maxval=largest)


def draw_maps(
    key: jax.Array, n: int, settings: Augment, amounts: Amounts | None = None
) -> jax.Array:
    """Draw (n 2 3) maps, or (n 3 3) where the perspective changes.

    Args:
        key: Randomness.
        n: Number of maps.
        settings: How far they go.
        amounts: What a policy adds: "rotate" in radians; "shear_x", "shear_y";
            "shift_x" and "shift_y" as shares of the side; each (n,).
    """
    turn, zoom, stretch, flip, move = jax.random.split(key, 5)
    angle = spread(turn, n, settings.rotate * jnp.pi / 180)
    low, high = settings.zoom
    scale = jax.random.uniform(zoom, (n,), minval=low, maxval=high)
    aspect = 2 ** (spread(stretch, n, settings.stretch) / 2)
    mirror = jnp.where(jax.random.uniform(flip, (n,)) < settings.flip, -1.0, 1.0)
    tall, wide = scale * aspect, scale / aspect * mirror
    if settings.flip_up:
        up = jax.random.uniform(jax.random.fold_in(key, 101), (n,))
        tall = jnp.where(up < settings.flip_up, -tall, tall)
    room = jnp.maximum(1 - scale, 0)[:, None] + 2 * settings.shift
    centre = jax.random.uniform(move, (n, 2), minval=-1, maxval=1) * room
    if amounts:
        angle = angle + amounts["rotate"]
        shifts = jnp.stack([amounts["shift_y"], amounts["shift_x"]], -1)
        centre = centre + 2 * shifts
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    rows = jnp.stack([cos * tall, -sin * wide, centre[:, 0]], -1)
    columns = jnp.stack([sin * tall, cos * wide, centre[:, 1]], -1)
    maps = jnp.stack([rows, columns], 1)
    if settings.shear or amounts:
        maps = maps @ _shear(jax.random.fold_in(key, 102), n, settings, amounts)
    if settings.perspective:
        tilt = jax.random.fold_in(key, 103)
        maps = _tilted(maps, tilt, settings.perspective)
    return maps


def _shear(
    key: jax.Array, n: int, settings: Augment, amounts: Amounts | None
) -> jax.Array:
    """Draw (n 3 3) shears along both axes."""
    most = jnp.tan(settings.shear * jnp.pi / 180)
    slant = jax.random.uniform(key, (n, 2), minval=-1, maxval=1) * most
    if amounts:
        slant = slant + jnp.stack([amounts["shear_y"], amounts["shear_x"]], -1)
    shear = jnp.broadcast_to(jnp.eye(3), (n, 3, 3))
    return shear.at[:, 0, 1].set(slant[:, 0]).at[:, 1, 0].set(slant[:, 1])


def _tilted(maps: jax.Array, key: jax.Array, largest: float) -> jax.Array:
    """Look at the plane of the image aslant: (n 3 3) of affine (n 2 3)."""
    n = len(maps)
    # Halved, so that both together stay short of the horizon.
    slope = jax.random.uniform(key, (n, 2), minval=-1, maxval=1) * largest / 2
    tilt = jnp.broadcast_to(jnp.eye(3), (n, 3, 3)).at[:, 2, :2].set(slope)
    return squared(maps) @ tilt


def squared(maps: jax.Array) -> jax.Array:
    """Return maps as (n 3 3)."""
    if maps.shape[1] == 3:
        return maps
    last = jnp.broadcast_to(jnp.array([0.0, 0.0, 1.0]), (len(maps), 1, 3))
    return jnp.concatenate([maps, last], 1)


def places(maps: jax.Array, size: int, *, h: int, w: int) -> tuple[jax.Array, ...]:
    """Return the rows and columns (n size size) of the image that a view shows.

    Outside its edges the image is mirrored.
    """
    ticks = (jnp.arange(size) + 0.5) * 2 / size - 1
    y, x, *depth = (
        maps[:, i, 0, None, None] * ticks[:, None]
        + maps[:, i, 1, None, None] * ticks
        + maps[:, i, 2, None, None]
        for i in range(maps.shape[1])
    )
    if depth:
        y, x = y / depth[0], x / depth[0]
    return _reflect((y + 1) * h / 2 - 0.5, h), _reflect((x + 1) * w / 2 - 0.5, w)


def _reflect(place: jax.Array, side: int) -> jax.Array:
    """Fold coordinates outside 0..side-1 back inside."""
    last = side - 1
    return jnp.clip(last - jnp.abs(last - jnp.abs(place)), 0, last)


def sample(images: jax.Array, maps: jax.Array, size: int) -> jax.Array:
    """Return views of `images` (n h w 3, uint8) as planes (3 n size size) in 0..1.

    Bilinear. The three bytes of a pixel travel as one number, so that four gathers
    fetch the neighbours in all channels.
    """
    n, h, w, _ = images.shape
    y, x = apart(lambda m: places(m, size, h=h, w=w), maps)
    flat = apart(lambda m, i: _packed(i).reshape(n, h * w), maps, images)

    def neighbours(y: jax.Array, x: jax.Array, flat: jax.Array) -> list[jax.Array]:
        top, left = _floor(y, h), _floor(x, w)
        start = (top * w + left).reshape(n, -1)
        steps = (0, min(1, w - 1), w * min(1, h - 1), w * min(1, h - 1) + min(1, w - 1))
        return [_fetch(flat, start + step).reshape(y.shape) for step in steps]

    near = apart(neighbours, y, x, flat)
    right, down = x - _floor(x, w), y - _floor(y, h)

    def channel(shift: int) -> jax.Array:
        a, b, c, d = (((p >> shift) & 255).astype(jnp.float32) for p in near)
        upper, lower = a + (b - a) * right, c + (d - c) * right
        return (upper + (lower - upper) * down) / 255

    return jnp.stack([channel(shift) for shift in (0, 8, 16)])


def _packed(images: jax.Array) -> jax.Array:
    red, green, blue = (images[..., i].astype(jnp.uint32) for i in range(3))
    return red | green << 8 | blue << 16


def _floor(place: jax.Array, side: int) -> jax.Array:
    """Return the neighbour before `place` that has one after it."""
    return jnp.minimum(place.astype(jnp.int32), max(side - 2, 0))


def _fetch(flat: jax.Array, at: jax.Array) -> jax.Array:
    fetch = jax.vmap(lambda one, where: one.at[where].get(mode="promise_in_bounds"))
    return fetch(flat, at)


def warp_labels(labels: jax.Array, maps: jax.Array, size: int) -> jax.Array:
    """Return the views (n size size) of `labels` (n h w), such as masks.

    Each takes the label of the nearest pixel, so that none is made up.
    """
    n, h, w = labels.shape
    y, x = (
        jnp.round(place).astype(jnp.int32) for place in places(maps, size, h=h, w=w)
    )
    return _fetch(labels.reshape(n, -1), (y * w + x).reshape(n, -1)).reshape(y.shape)


def warp_points(points: jax.Array, maps: jax.Array) -> jax.Array:
    """Return where points of the image lie in the view.

    Args:
        points: (n k 2) as (x, y), shares of the image's sides.
        maps: Of the views.

    Returns:
        (n k 2), shares of the view's sides; outside 0..1 the view does not show them.
    """
    back = jnp.linalg.inv(squared(maps))
    place = jnp.concatenate(
        [2 * points[..., ::-1] - 1, jnp.ones_like(points[..., :1])], -1
    )
    y, x, depth = jnp.moveaxis(jnp.einsum("nij,nkj->nki", back, place), -1, 0)
    return (jnp.stack([x / depth, y / depth], -1) + 1) / 2


def warp_boxes(boxes: jax.Array, maps: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the boxes around boxes of the image as the view shows them.

    Args:
        boxes: (n k 4) as x0, y0, x1, y1, shares of the image's sides.
        maps: Of the views.

    Returns:
        (n k 4), cut at the view's edges, and the share (n k) of each that is left.
    """
    x0, y0, x1, y1 = jnp.moveaxis(boxes, -1, 0)
    corners = jnp.stack(
        [jnp.stack(p, -1) for p in ((x0, y0), (x1, y0), (x0, y1), (x1, y1))], -2
    )
    n, k = boxes.shape[:2]
    moved = warp_points(corners.reshape(n, 4 * k, 2), maps).reshape(n, k, 4, 2)
    low, high = moved.min(2), moved.max(2)
    cut_low, cut_high = jnp.clip(low, 0, 1), jnp.clip(high, 0, 1)
    whole = jnp.prod(high - low, -1)
    share = jnp.prod(cut_high - cut_low, -1) / jnp.maximum(whole, 1e-12)
    return jnp.concatenate([cut_low, cut_high], -1), share
