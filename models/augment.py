"""Random views of a batch of images, made on the device inside the compiled step.

What happens to each image is drawn first, as a few numbers; then all images take the
same passes: one gather, one change of colour, and those that the settings ask for.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from models.blocks import Blocks, compress, draw_blocks
from models.colour import Colour, draw_colour, mean_grey, recolour
from models.focus import Focus, draw_focus, refocus
from models.geometry import draw_maps, sample
from models.grain import Grain, add_grain, draw_grain
from models.holes import Holes, draw_holes, erase
from models.occlude import occlude_some
from models.passes import apart, by_chunk, where_needed
from models.policies import draw_ops
from models.recipe import NONE, Augment, side_of

# Settings that move pixels; the others of the list below do not.
GEOMETRY = "flip flip_up rotate zoom stretch shift shear perspective".split()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Draws:
    """What happens to n images; None where nothing of the kind does.

    Attributes:
        maps: Where the views look, see `models.geometry`.
        colour: See `models.colour`; the same for those that follow.
        ops: Positions in `policies.OPS` (n k), to name what a policy did.
    """

    maps: jax.Array | None = None
    colour: Colour | None = None
    focus: Focus | None = None
    grain: Grain | None = None
    blocks: Blocks | None = None
    holes: Holes | None = None
    ops: jax.Array | None = None


@functools.partial(jax.jit, static_argnames="settings")
def augment(images: jax.Array, key: jax.Array, settings: Augment) -> jax.Array:
    """Return a random view of each of `images` (n h w c, uint8) as float32 in 0..1."""
    draws = draw(key, len(images), settings, side=images.shape[1])
    views = render(images, draws, size=side_of(settings, images.shape[1]))
    return _occlude(views, key, settings) if settings.occlude else views


@functools.partial(jax.jit, static_argnames=("n", "settings", "side"))
def draw(key: jax.Array, n: int, settings: Augment, *, side: int) -> Draws:
    """Draw what happens to `n` images of side `side`."""
    geometry, colour, hole = jax.random.split(key, 3)
    ops, amounts = None, None
    if settings.policy != "none":
        ops, amounts = draw_ops(jax.random.fold_in(key, 101), n, settings)
    moves = any(getattr(settings, name) != getattr(NONE, name) for name in GEOMETRY)
    moves = moves or amounts is not None or side_of(settings, side) != side
    return Draws(
        maps=draw_maps(geometry, n, settings, amounts) if moves else None,
        colour=draw_colour(colour, n, settings, amounts),
        focus=draw_focus(jax.random.fold_in(key, 102), n, settings, amounts),
        grain=draw_grain(jax.random.fold_in(key, 103), n, settings),
        blocks=draw_blocks(jax.random.fold_in(key, 104), n, settings),
        holes=draw_holes(hole, n, settings),
        ops=ops,
    )


def draw_each(keys: jax.Array, settings: Augment, *, side: int) -> Draws:
    """Draw what happens to images with a key (n,) for each: no matter which batch."""
    one = jax.vmap(lambda key: draw(key, 1, settings, side=side))(keys)
    return jax.tree.map(lambda leaf: leaf[:, 0], one)


@functools.partial(jax.jit, static_argnames="size")
def render(images: jax.Array, draws: Draws, *, size: int) -> jax.Array:
    """Return the views (n size size 3) of `images` (n h w 3, uint8) that were drawn."""

    def some(batch: tuple[jax.Array, Draws]) -> jax.Array:
        return jnp.moveaxis(_passes(*batch, size), 0, -1)

    return by_chunk(some, (images, draws), each=max(images.shape[1], size) ** 2)


def _passes(images: jax.Array, draws: Draws, size: int) -> jax.Array:
    """Return the views as planes (3 n size size)."""
    if draws.maps is None:
        planes = jnp.moveaxis(images, -1, 0).astype(jnp.float32) / 255
    else:
        planes = sample(images, draws.maps, size)
    if draws.colour is not None:
        grey = apart(mean_grey, images)
        planes = apart(recolour, planes, draws.colour, grey)
    for change, function in (
        (draws.focus, refocus),
        (draws.grain, add_grain),
        (draws.blocks, compress),
        (draws.holes, erase),
    ):
        if change is not None:
            planes = where_needed(change.needed, function, planes, change)
    return planes


def _occlude(pixels: jax.Array, key: jax.Array, settings: Augment) -> jax.Array:
    return occlude_some(
        pixels,
        jax.random.fold_in(key, 3),
        chance=settings.occlude,
        most=settings.occlude_most,
        families=settings.occluders,
    )


def view(
    images: jax.Array, key: jax.Array, settings: Augment
) -> tuple[jax.Array, jax.Array]:
    """Return what a step trains on: mixed views, and each image's own share (n,)."""
    pixels = augment(images, jax.random.fold_in(key, 0), settings)
    return mix(pixels, jax.random.fold_in(key, 1), settings)


def draw_views(key: jax.Array, n: int, settings: Augment, *, side: int) -> Draws:
    """Return what `view` with the same key does to each image before mixing."""
    return draw(jax.random.fold_in(key, 0), n, settings, side=side)


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
