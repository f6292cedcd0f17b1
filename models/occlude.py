"""Cover a chosen share of each image by something, and say where.

After Random Erasing (arXiv 1708.04896), Hide-and-Seek (arXiv 1704.04232) and pasted
objects (arXiv 1811.12432). Every image has a key of its own: what covers it depends on
nothing else in the batch but the donor that the caller gives it.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from models.recipe import OCCLUDERS

# Side of the largest grid, and of what is left of a blurred image, in cells.
CELLS, BLURRED = 8, 6
WAVES = 3

Shape = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
Fill = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def image_keys(seed: int | jax.Array, rows: jax.Array) -> jax.Array:
    """Return one key an image, by `seed` and the image's row alone, (n,)."""
    return jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(rows)


def occlude(
    pixels: jax.Array,
    donors: jax.Array,
    keys: jax.Array,
    fraction: jax.Array,
    *,
    which: jax.Array | None = None,
    families: Sequence[str] = OCCLUDERS,
) -> tuple[jax.Array, jax.Array]:
    """Cover a part of each image with an occluder of one of `families`.

    Args:
        pixels: Images (n h w c) in 0..1.
        donors: As many images, from which objects are pasted.
        keys: A key an image (n,), as of `image_keys`.
        fraction: Share of each image to cover (n,), 0 to 1.
        which: Position in `families` for each image (n,); None draws it by the key.
        families: Of `OCCLUDERS`.

    Returns:
        The images, and which pixels are covered, bool (n h w): the share asked for,
        less the pixels of one edge at most.
    """
    if which is None:
        which = jax.vmap(lambda key: jax.random.randint(key, (), 0, len(families)))(
            keys
        )
    one = functools.partial(_occlude_one, families=tuple(families))
    return jax.vmap(one)(pixels, donors, keys, fraction, which)


@jax.jit
def occlude_rows(
    images: jax.Array,
    donors: jax.Array,
    rows: jax.Array,
    fraction: jax.Array,
    which: jax.Array,
    seed: int,
) -> tuple[jax.Array, jax.Array]:
    """Cover images (n h w c, uint8) by their rows (n,) and `seed`, as uint8 again.

    Args: as for `occlude`; `which` is a position in `OCCLUDERS`.
    """
    seen, mask = occlude(
        images.astype(jnp.float32) / 255,
        donors.astype(jnp.float32) / 255,
        image_keys(seed, rows),
        fraction,
        which=which,
    )
    covered = jnp.rint(seen * 255).astype(jnp.uint8)
    return jnp.where(mask[..., None], covered, images), mask


def occlude_some(
    pixels: jax.Array,
    key: jax.Array,
    *,
    chance: float,
    most: float,
    families: Sequence[str] = OCCLUDERS,
) -> jax.Array:
    """Cover up to the share `most` of a `chance` of the images; neighbours donate."""
    own, lot, share = jax.random.split(key, 3)
    n = len(pixels)
    hit = jax.random.uniform(lot, (n,)) < chance
    fraction = jnp.where(hit, jax.random.uniform(share, (n,), maxval=most), 0.0)
    donors = jnp.roll(pixels, 1, axis=0)
    keys = jax.random.split(own, n)
    return occlude(pixels, donors, keys, fraction, families=families)[0]


def _occlude_one(
    image: jax.Array,
    donor: jax.Array,
    key: jax.Array,
    fraction: jax.Array,
    which: jax.Array,
    *,
    families: tuple[str, ...],
) -> tuple[jax.Array, jax.Array]:
    where, paint = jax.random.split(key)
    y, x = _ticks(image.shape[0])[:, None], _ticks(image.shape[1])
    mine = [which == k for k in range(len(families))]
    shapes, fills = zip(*(FAMILIES[name] for name in families), strict=True)
    depth = jnp.select(mine, [shape(where, y, x) for shape in shapes])
    cover = jnp.select(mine, [fill(paint, image, donor) for fill in fills])
    mask = depth < _threshold(depth, fraction)
    return jnp.where(mask[..., None], cover, image), mask


def _ticks(side: int) -> jax.Array:
    return (jnp.arange(side) + 0.5) / side


def _threshold(depth: jax.Array, fraction: jax.Array) -> jax.Array:
    """Return the value that the share `fraction` of `depth` lies below, by bisection.

    Sixteen halvings cost a tenth of a sort on CPU.
    """

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) / 2
        short = jnp.mean(depth < middle) < fraction
        return jnp.where(short, middle, low), jnp.where(short, high, middle)

    ends = depth.min(), depth.max()
    # The lower end: at a fraction of 0 nothing lies below it.
    return jax.lax.fori_loop(0, 16, halve, ends)[0]


def _rectangle(key: jax.Array, y: jax.Array, x: jax.Array) -> jax.Array:
    centre, ratio = jax.random.split(key)
    v, u = jax.random.uniform(centre, (2,))
    stretch = 3 ** jax.random.uniform(ratio, minval=-0.5, maxval=0.5)
    return jnp.maximum(jnp.abs(y - v) * stretch, jnp.abs(x - u) / stretch)


def _blob(key: jax.Array, y: jax.Array, x: jax.Array) -> jax.Array:
    """Return the distance from a point, in a shape of three random bulges."""
    centre, ratio, bulge, turn = jax.random.split(key, 4)
    v, u = jax.random.uniform(centre, (2,))
    stretch = 2 ** jax.random.uniform(ratio, minval=-0.5, maxval=0.5)
    down, right = (y - v) * stretch, (x - u) / stretch
    angle = jnp.arctan2(down, right)
    order = jnp.arange(1, WAVES + 1)[:, None, None]
    size = jax.random.uniform(bulge, (WAVES, 1, 1), maxval=0.25)
    start = jax.random.uniform(turn, (WAVES, 1, 1), maxval=2 * jnp.pi)
    waves = (size * jnp.cos(order * angle + start)).sum(0)
    return jnp.hypot(down, right) / (1 + waves)


def _bars(key: jax.Array, y: jax.Array, x: jax.Array) -> jax.Array:
    """Return the distance from the nearest of some bars, which are not equally wide."""
    turn, count, start, unequal = jax.random.split(key, 4)
    angle = jax.random.uniform(turn, maxval=jnp.pi)
    bars = jax.random.uniform(count, minval=3.0, maxval=9.0)
    place = (jnp.sin(angle) * y + jnp.cos(angle) * x) * bars
    place = place + jax.random.uniform(start, maxval=1.0)
    index = jnp.floor(place)
    width = jax.random.uniform(unequal, (32,), minval=0.8, maxval=1.2)
    # A place lies between -9 and 14.
    return jnp.abs(place - index - 0.5) * width[index.astype(jnp.int32) + 12]


def _grid(key: jax.Array, y: jax.Array, x: jax.Array) -> jax.Array:
    """Return a lot for each cell of a grid; rows within a cell fall one by one."""
    side, lots = jax.random.split(key)
    cells = jax.random.randint(side, (), 4, CELLS + 1)
    down, right = y * cells, x * cells
    place = jnp.floor(down) * CELLS + jnp.floor(right)
    drawn = jax.random.uniform(lots, (CELLS**2,))
    return drawn[place.astype(jnp.int32)] + (down - jnp.floor(down)) / CELLS**3


def _solid(key: jax.Array, image: jax.Array, donor: jax.Array) -> jax.Array:
    """Paint one colour, shaded from side to side, with a faint grain."""
    colour, slope, grain, strength = jax.random.split(key, 4)
    h, w, c = image.shape
    base = jax.random.uniform(colour, (c,))
    v, u = jax.random.uniform(slope, (2,), minval=-0.2, maxval=0.2)
    shade = v * (_ticks(h)[:, None] - 0.5) + u * (_ticks(w) - 0.5)
    noise = jax.random.uniform(strength, maxval=0.06) * jax.random.normal(grain, (h, w))
    return jnp.clip(base + (shade + noise)[..., None], 0, 1)


def _texture(key: jax.Array, image: jax.Array, donor: jax.Array) -> jax.Array:
    """Paint a few coloured waves with grain."""
    solid, pitch, turn, colour = jax.random.split(key, 4)
    h, w, c = image.shape
    cycles = jax.random.uniform(pitch, (WAVES, 1), minval=3.0, maxval=20.0)
    angle = jax.random.uniform(turn, (WAVES, 1), maxval=2 * jnp.pi)
    down = 2 * jnp.pi * cycles * jnp.sin(angle) * _ticks(h)
    right = 2 * jnp.pi * cycles * jnp.cos(angle) * _ticks(w)
    strength = jax.random.uniform(colour, (WAVES, c), minval=-0.2, maxval=0.2)
    # sin(down + right), from two outer products instead of a sine a pixel.
    paint = sum(
        jnp.einsum("kh,kw,kc->hwc", one, other, strength)
        for one, other in (
            (jnp.sin(down), jnp.cos(right)),
            (jnp.cos(down), jnp.sin(right)),
        )
    )
    return jnp.clip(_solid(solid, image, donor) + paint, 0, 1)


def _paste(key: jax.Array, image: jax.Array, donor: jax.Array) -> jax.Array:
    return donor


def _blur(key: jax.Array, image: jax.Array, donor: jax.Array) -> jax.Array:
    """Smear the image itself, as behind frosted glass."""
    few = jax.image.resize(image, (BLURRED, BLURRED, image.shape[2]), "linear")
    return jnp.clip(jax.image.resize(few, image.shape, "linear"), 0, 1)


FAMILIES: dict[str, tuple[Shape, Fill]] = {
    "rectangle": (_rectangle, _solid),
    "bars": (_bars, _solid),
    "grid": (_grid, _solid),
    "object": (_blob, _paste),
    "texture": (_blob, _texture),
    "blur": (_blob, _blur),
}
