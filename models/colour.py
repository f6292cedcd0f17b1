"""Random changes of colour and tone, as numbers for each image of a batch."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from models.geometry import Amounts, spread
from models.passes import apart
from models.recipe import Augment

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
# The other two axes of YIQ, and what they add to red, green and blue.
CHROMA = ((0.596, -0.274, -0.322), (0.211, -0.523, 0.312))
BACK = ((0.956, 0.621), (-0.272, -0.647), (-1.106, 1.703))
KNOTS = 16  # of the curve that evens out a histogram
SEEN = 32  # rows and columns of pixels that it is measured on


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Colour:
    """Changes of n images, each (n,); None does nothing.

    Attributes:
        saturation: Factor of the distance to grey.
        contrast: Factor of the distance to the image's mean grey.
        brightness: Added, as a share of the range.
        hue: Turn of the colour circle, radians.
        gain: Factor of the brightness.
        levels: Distance of the levels left by posterising, in 255ths.
        solarize: Brightness from which on values are inverted.
        stretch: 1 to spread each channel over the whole range.
        equalize: 1 to even out each channel's histogram.
    """

    saturation: jax.Array
    contrast: jax.Array
    brightness: jax.Array
    hue: jax.Array | None = None
    gain: jax.Array | None = None
    levels: jax.Array | None = None
    solarize: jax.Array | None = None
    stretch: jax.Array | None = None
    equalize: jax.Array | None = None


def draw_colour(
    key: jax.Array, n: int, settings: Augment, amounts: Amounts | None = None
) -> Colour | None:
    """Draw the changes of `n` images; None where the settings ask for none.

    Args:
        key: Randomness.
        n: Number of images.
        settings: How strong.
        amounts: What a policy sets: "gain", "contrast", "saturation", "levels",
            "solarize", "autocontrast", "equalize", each (n,).
    """
    asked = (settings.saturation, settings.contrast, settings.brightness)
    if not any((*asked, settings.hue, settings.grey, amounts)):
        return None
    one, two, three = jax.random.split(key, 3)
    saturation = 2 ** spread(one, n, settings.saturation)
    if settings.grey:
        pick = jax.random.uniform(jax.random.fold_in(key, 101), (n,))
        saturation = jnp.where(pick < settings.grey, 0.0, saturation)
    contrast = 2 ** spread(two, n, settings.contrast)
    brightness = spread(three, n, settings.brightness)
    turn = settings.hue * jnp.pi / 180
    hue = spread(jax.random.fold_in(key, 102), n, turn) if settings.hue else None
    if not amounts:
        return Colour(saturation, contrast, brightness, hue)
    return Colour(
        saturation * amounts["saturation"],
        contrast * amounts["contrast"],
        brightness,
        hue,
        gain=amounts["gain"],
        levels=amounts["levels"],
        solarize=amounts["solarize"],
        stretch=amounts["autocontrast"],
        equalize=amounts["equalize"],
    )


def mean_grey(images: jax.Array) -> jax.Array:
    """Return the mean grey (n,) in 0..1 of `images` (n h w 3, uint8)."""
    n, h, w, _ = images.shape
    # Whole numbers down the rows first: a twentieth of the time of a mean of floats.
    down = images.reshape(n, h, w * 3).astype(jnp.int32).sum(1).astype(jnp.float32)
    means = down.reshape(n, w, 3).sum(1) / (255 * h * w)
    return means @ jnp.array(LUMA)


def recolour(planes: jax.Array, colour: Colour, grey: jax.Array) -> jax.Array:
    """Change `planes` (3 n h w) in 0..1 of images with the mean grey `grey` (n,)."""
    planes = _tone(planes, colour)
    saturation, contrast, brightness, grey = (
        values[:, None, None]
        for values in (colour.saturation, colour.contrast, colour.brightness, grey)
    )
    red, green, blue = planes
    gray = _weigh(LUMA, red, green, blue)
    centre = grey * (1 - contrast) + brightness
    if colour.hue is None:
        own = contrast * saturation
        mixed = own * planes + (contrast - own) * gray + centre
    else:
        vivid = _turned((red, green, blue), colour.hue[:, None, None])
        mixed = contrast * (gray + saturation * vivid) + centre
    if colour.gain is not None:
        mixed = mixed * colour.gain[:, None, None]
    return jnp.clip(mixed, 0, 1)


def _weigh(weights: tuple[float, ...], *planes: jax.Array) -> jax.Array:
    first, *rest = (w * plane for w, plane in zip(weights, planes, strict=True))
    for part in rest:
        first = first + part
    return first


def _turned(rgb: tuple[jax.Array, ...], angle: jax.Array) -> jax.Array:
    """Return what is added to grey (3 n h w) once the hue has turned by `angle`."""
    i, q = (_weigh(axis, *rgb) for axis in CHROMA)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    i, q = i * cos - q * sin, i * sin + q * cos
    return jnp.stack([_weigh(row, i, q) for row in BACK])


def _tone(planes: jax.Array, colour: Colour) -> jax.Array:
    """Apply the curves of a policy, in a fixed order."""

    def wide(values: jax.Array) -> jax.Array:
        return values[:, None, None]

    if colour.stretch is not None:
        low = planes.min((2, 3), keepdims=True)
        room = jnp.maximum(planes.max((2, 3), keepdims=True) - low, 1 / 255)
        planes = jnp.where(wide(colour.stretch) > 0, (planes - low) / room, planes)
    if colour.equalize is not None:
        planes = apart(_equalized, planes, wide(colour.equalize))
    if colour.solarize is not None:
        planes = jnp.where(planes >= wide(colour.solarize), 1 - planes, planes)
    if colour.levels is not None:
        step = wide(colour.levels)
        planes = jnp.floor((planes * 255 + 0.5) / step) * step / 255
    return planes


def _equalized(planes: jax.Array, share: jax.Array) -> jax.Array:
    """Even out the histogram of each channel where `share` is above 0.

    The curve is straight between knots, whose heights are measured on some pixels.
    """
    h, w = planes.shape[2:]
    few = planes[:, :, :: -(-h // SEEN), :: -(-w // SEEN)]
    knots = jnp.linspace(0, 1, KNOTS + 1)
    below = [(few <= knot).mean((2, 3)) for knot in knots]
    curve = jnp.stack(below, -1).at[..., 0].set(0)
    place = planes * KNOTS
    at = jnp.minimum(place.astype(jnp.int32), KNOTS - 1)
    fetch = jax.vmap(jax.vmap(lambda c, k: c.at[k].get(mode="promise_in_bounds")))
    low, high = fetch(curve, at), fetch(curve, at + 1)
    return jnp.where(share > 0, low + (high - low) * (place - at), planes)
