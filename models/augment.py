"""Random views of a batch of images, made on the device inside the compiled step."""

import dataclasses

import jax
import jax.numpy as jnp

from models.occlude import occlude_some
from models.recipe import NONE, Augment


def augment(images: jax.Array, key: jax.Array, settings: Augment) -> jax.Array:
    """Return a random view of each of `images` (n h w c, uint8) as float32 in 0..1."""
    geometry, colour, hole = jax.random.split(key, 3)
    # Colour first: XLA would recompute the gather inside pointwise work after it.
    pixels = _recolour(images.astype(jnp.float32) / 255, colour, settings)
    size = settings.size or round(images.shape[1] * settings.resolution)
    if dataclasses.replace(settings, size=None) != NONE or size != images.shape[1]:
        affine = _random_affine(geometry, len(images), settings)
        pixels = _warp(pixels, affine, size)
    pixels = _erase(pixels, hole, settings.erase) if settings.erase else pixels
    return _occlude(pixels, key, settings) if settings.occlude else pixels


def _spread(key: jax.Array, n: int, largest: float) -> jax.Array:
    return jax.random.uniform(key, (n,), minval=-largest, maxval=largest)


def _recolour(pixels: jax.Array, key: jax.Array, settings: Augment) -> jax.Array:
    """Change saturation, contrast and brightness as one a*x + b*gray + c."""
    n = len(pixels)
    one, two, three = jax.random.split(key, 3)
    saturation = 2 ** _spread(one, n, settings.saturation)[:, None, None, None]
    contrast = 2 ** _spread(two, n, settings.contrast)[:, None, None, None]
    offset = _spread(three, n, settings.brightness)[:, None, None, None]
    red, green, blue = (pixels[..., i : i + 1] for i in range(3))
    gray = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601 luma
    own = contrast * saturation
    centre = gray.mean((1, 2), keepdims=True) * (1 - contrast) + offset
    return jnp.clip(own * pixels + (contrast - own) * gray + centre, 0, 1)


def _random_affine(key: jax.Array, n: int, settings: Augment) -> jax.Array:
    """Draw (n 2 3) maps from view to image coordinates, both -1..1 as (y, x)."""
    turn, zoom, stretch, flip, move = jax.random.split(key, 5)
    angle = _spread(turn, n, settings.rotate * jnp.pi / 180)
    low, high = settings.zoom
    scale = jax.random.uniform(zoom, (n,), minval=low, maxval=high)
    aspect = 2 ** (_spread(stretch, n, settings.stretch) / 2)
    mirror = jnp.where(jax.random.uniform(flip, (n,)) < settings.flip, -1.0, 1.0)
    tall, wide = scale * aspect, scale / aspect * mirror
    room = jnp.maximum(1 - scale, 0)[:, None] + 2 * settings.shift
    centre = jax.random.uniform(move, (n, 2), minval=-1, maxval=1) * room
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    rows = jnp.stack([cos * tall, -sin * wide, centre[:, 0]], -1)
    columns = jnp.stack([sin * tall, cos * wide, centre[:, 1]], -1)
    return jnp.stack([rows, columns], 1)


def _warp(pixels: jax.Array, affine: jax.Array, size: int) -> jax.Array:
    """Sample `pixels` bilinearly where `affine` sends a size x size grid."""
    n, h, w, c = pixels.shape
    ticks = (jnp.arange(size) + 0.5) * 2 / size - 1
    y, x = (
        affine[:, i, 0, None, None] * ticks[:, None]
        + affine[:, i, 1, None, None] * ticks
        + affine[:, i, 2, None, None]
        for i in (0, 1)
    )
    y, x = _reflect((y + 1) * h / 2 - 0.5, h), _reflect((x + 1) * w / 2 - 0.5, w)
    top, left = jnp.floor(y), jnp.floor(x)
    down, right = (y - top)[..., None], (x - left)[..., None]
    # The four neighbours lie side by side, so that one gather fetches them all.
    edged = jnp.pad(pixels, ((0, 0), (0, 1), (0, 1), (0, 0)), mode="edge")
    below = jnp.concatenate([edged[:, :-1], edged[:, 1:]], -1)
    four = jnp.concatenate([below[:, :, :-1], below[:, :, 1:]], -1)
    place = (top * w + left).astype(jnp.int32).reshape(n, -1, 1)
    flat = four.reshape(n, h * w, 4 * c)
    near = jnp.take_along_axis(flat, place, axis=1).reshape(n, size, size, 4, c)
    upper = near[..., 0, :] + (near[..., 2, :] - near[..., 0, :]) * right
    lower = near[..., 1, :] + (near[..., 3, :] - near[..., 1, :]) * right
    return upper + (lower - upper) * down


def _reflect(place: jax.Array, side: int) -> jax.Array:
    """Fold coordinates outside 0..side-1 back inside."""
    last = side - 1
    return jnp.clip(last - jnp.abs(last - jnp.abs(place)), 0, last)


def _erase(pixels: jax.Array, key: jax.Array, largest: float) -> jax.Array:
    """Grey out one square per image (Cutout, arXiv 1708.04552)."""
    n, size = pixels.shape[:2]
    where, side = jax.random.split(key)
    half = jax.random.uniform(side, (n, 1), maxval=largest / 2) * size
    centre = jax.random.uniform(where, (n, 2)) * size
    near = jnp.abs(jnp.arange(size) - centre[..., None]) < half[..., None]
    hole = near[:, 0, :, None, None] & near[:, 1, None, :, None]
    return jnp.where(hole, 0.5, pixels)


def _occlude(pixels: jax.Array, key: jax.Array, settings: Augment) -> jax.Array:
    return occlude_some(
        pixels,
        jax.random.fold_in(key, 3),
        chance=settings.occlude,
        most=settings.occlude_most,
        families=settings.occluders,
    )


def mix(
    pixels: jax.Array, key: jax.Array, settings: Augment
) -> tuple[jax.Array, jax.Array]:
    """Mix each image with the one at its place counted from the batch's end.

    Mixup (arXiv 1710.09412) or CutMix (arXiv 1905.04899), a share for each image.

    Returns:
        The mixed images, and the share (n,) of each that is its own.
    """
    n, h, w, _ = pixels.shape
    if not settings.mixup + settings.cutmix:
        return pixels, jnp.ones(n)
    choose, share, place = jax.random.split(key, 3)
    pick = jax.random.uniform(choose, (n,))
    blend = jax.random.uniform(share, (n,))
    other = pixels[::-1]
    half = jnp.sqrt(1 - blend)[:, None] / 2
    centre = jax.random.uniform(place, (n, 2))
    inside = [
        jnp.abs((jnp.arange(side) + 0.5) / side - centre[:, i : i + 1]) < half
        for i, side in enumerate((h, w))
    ]
    box = inside[0][:, :, None] & inside[1][:, None, :]
    cut, own_box = pick < settings.cutmix, 1 - box.mean((1, 2))
    blended = (pick >= settings.cutmix) & (pick < settings.cutmix + settings.mixup)
    own = jnp.where(cut, own_box, jnp.where(blended, blend, 1.0))
    boxed = jnp.where(cut[:, None, None], 1.0 - box, own[:, None, None])[..., None]
    return boxed * pixels + (1 - boxed) * other, own
