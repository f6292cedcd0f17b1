"""From a plan to pictures: pose, light, shadow, occluders, mood and sensor."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from tasks.catalogue_places import blur, draw_places, muted, pixel_grid
from tasks.catalogue_plan import Array, Dice, Plan
from tasks.catalogue_settings import COLOURS, KINDS, CatalogueSettings
from tasks.catalogue_shading import draw_products

_FLAT = KINDS.index("watch")  # lies on the ground instead of standing on it


@dataclass(frozen=True)
class Scene:
    """Pictures in linear light (b, h, w, 3) and what covers them (b, h, w)."""

    picture: Array
    backdrop: Array  # the same without product and occluder, shadow kept
    cover: Array  # share of each pixel that the product takes, before occluders
    occluder: Array  # share of each pixel that the occluder takes


def compose(settings: CatalogueSettings, rows: Plan) -> Scene:
    """Render what the plan says, without sensor noise."""
    dice = Dice(settings.seed, rows.source)
    side = settings.image_size
    centre, turn = _pose(rows, dice)
    light = _light(rows, dice, settings.drift)
    base = (centre[:, 1] - 0.85 * rows.size).astype(np.float32)
    place = draw_places(rows, dice, side, base=base)
    place = _add_fragments(settings, rows, place, light)
    product = draw_products(rows, dice, light, side=side, centre=centre, turn=turn)
    rgb, cover = product[..., :3], product[..., 3]
    shade = _shadows(rows, dice, cover, light, centre)
    backdrop = place * shade[..., None]
    picture = backdrop * (1 - cover[..., None]) + rgb
    covered = np.zeros_like(cover)
    at = np.flatnonzero(rows.occluded)
    if len(at):
        rgb, covered[at] = _occluders(
            rows[at], Dice(dice.seed, dice.rows[at]), cover[at]
        )
        picture[at] += (rgb - picture[at]) * covered[at, ..., None]
    tone = _mood(rows, dice, settings.drift, side)
    return Scene(picture * tone, backdrop * tone, cover, covered)


def _pose(rows: Plan, dice: Dice) -> tuple[Array, Array]:
    """Return centres (b, 2), y up in half pictures, and turns (b,) in radians."""
    free = np.maximum(0.96 - rows.size, 0.03)
    x = dice.between("at.x", -1.0, 1.0) * free
    y = dice.between("at.y", -1.0, 0.6) * free * 0.9
    turn = dice.between("turn", -0.13, 0.13)
    flat = dice.between("turn.flat", -0.9, 0.9)
    return np.stack([x, y], 1), np.where(rows.kind == _FLAT, flat, turn)


def _light(rows: Plan, dice: Dice, drift: float) -> Array:
    """Return unit vectors (b, 3) towards the light: right, up, towards the viewer."""
    side = dice.between("light.side", -0.9, 0.9)
    up = dice.between("light.up", 0.35, 1.0) * (1 - 0.6 * drift)
    out = np.stack([side, up, np.full(len(side), 0.75, np.float32)], 1)
    return np.asarray(out / np.linalg.norm(out, axis=1, keepdims=True), np.float32)


def _add_fragments(
    settings: CatalogueSettings, rows: Plan, place: Array, light: Array
) -> Array:
    """Put parts of other products, out of focus, at the edges of street pictures."""
    dice = Dice(settings.seed, rows.source)
    chance = np.where(rows.domain == 1, dice.between("fragment", 0, 1), 1.0)
    at = np.flatnonzero(chance < 0.5)
    if not len(at):
        return place
    other = Dice(settings.seed ^ 0x5F5F5F, rows.source[at])
    equal = [np.ones(n) for n in (len(KINDS), len(COLOURS), len(COLOURS), 6, 4)]
    names = ("kind", "colour", "accent", "material", "pattern")
    drawn = {n: other.pick(n, w) for n, w in zip(names, equal, strict=True)}
    extra = replace(rows[at], size=other.between("size", 0.4, 0.7), **drawn)
    across = other.between("across", 0.85, 1.2)
    left = np.where(other.between("left", 0, 1) < 0.5, -1, 1)
    centre = np.stack([across * left, other.between("height", -0.6, 0.5)], 1)
    turn = other.between("turn", -0.4, 0.4)
    layer = draw_products(
        extra, other, light[at], side=place.shape[1], centre=centre, turn=turn
    )
    soft = other.between("soft", 0, 1)[:, None, None, None] < 0.7
    layer = np.where(soft, blur(layer, 0.045), layer)
    dim = other.between("dim", 0.45, 0.9)[:, None, None, None]
    place = place.copy()
    place[at] = place[at] * (1 - layer[..., 3:]) + layer[..., :3] * dim
    return place


def _shadows(
    rows: Plan, dice: Dice, cover: Array, light: Array, centre: Array
) -> Array:
    """Return how much light (b, h, w) reaches what lies under and behind the products.

    The silhouette is laid on the ground away from the light, blurred twice: a wide
    cast shadow and a narrow one of contact.
    """
    side = cover.shape[1]
    x, y = pixel_grid(side)
    strong = dice.between("shadow", 0.45, 0.8)[:, None, None]
    half = cover > 0.5
    rows_hit = np.any(half, axis=2)
    low = np.where(
        np.any(rows_hit, axis=1), side - np.argmax(rows_hit[:, ::-1], axis=1), side
    )
    base = (1 - 2 * low / side).astype(np.float32)[:, None, None]
    lean = (-light[:, 0] / np.maximum(light[:, 1], 0.25))[:, None, None]
    base = base + 0.1 * rows.size.astype(np.float32)[:, None, None]
    flat = (rows.kind == _FLAT)[:, None, None]

    def laid(squash: float, drop: float) -> Array:
        up = np.maximum((base - drop - y) / -squash, -0.15)
        sx = np.where(flat, x + 0.06 * lean, x - lean * up * 0.55)
        sy = np.where(flat, y + 0.07, base + up)
        column = np.rint((sx + 1) * side / 2 - 0.5).astype(np.int64)
        line = np.rint((1 - sy) * side / 2 - 0.5).astype(np.int64)
        ok = (column >= 0) & (column < side) & (line >= 0) & (line < side)
        ok = ok & (flat | (y > base - drop - 0.1))
        at = np.arange(len(cover))[:, None, None]
        got = cover[at, np.clip(line, 0, side - 1), np.clip(column, 0, side - 1)]
        fade = np.where(flat, 1.0, np.exp(-1.1 * np.maximum(up, 0)))
        return np.asarray(got * ok * fade, np.float32)

    cast = blur(laid(0.32, 0.04), 0.055)
    touch = blur(laid(0.07, 0.05), 0.03)
    return np.asarray((1 - strong * cast) * (1 - 0.75 * touch))


def _occluders(rows: Plan, dice: Dice, cover: Array) -> tuple[Array, Array]:
    """Return colour (b, h, w, 3) and cover (b, h, w) of what stands in front."""
    side = cover.shape[1]
    x, y = pixel_grid(side)
    total = np.maximum(cover.sum((1, 2)), 1e-3)

    def draw(name: str, low: float, high: float) -> Array:
        return np.asarray(dice.between(f"cover.{name}", low, high)[:, None, None])

    mx = ((cover * x).sum((1, 2)) / total)[:, None, None]
    my = ((cover * y).sum((1, 2)) / total)[:, None, None]
    size = rows.size.astype(np.float32)[:, None, None]
    dx = x - mx - size * draw("x", -0.45, 0.45)
    dy = y - my - size * draw("y", -0.45, 0.45)
    turn = draw("turn", -1.2, 1.2)
    a, d = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
    a, d = a / size, d / size
    wide = draw("wide", 0.26, 0.42)
    form = dice.pick("cover.form", (2, 2, 2, 2))[:, None, None]
    far = np.select(
        [form == 0, form == 1, form == 2],
        [
            np.abs(a) - wide * 0.62,  # a post or strap across the picture
            np.abs(a) - wide * 0.8 * (1 - (d / (wide * 2.2)) ** 2),  # a leaf
            np.maximum(np.abs(a) - wide * 1.2, np.abs(d) - wide * 0.85),  # a card
        ],
        np.hypot(a, d) - wide * 1.25,  # a passer-by, far out of focus
    )
    sharp = np.where(form == 3, 6.0, side / 2) * size
    there = np.clip(0.5 - far * sharp, 0, 1)
    rgb = muted(dice, "cover.rgb")
    rgb = np.where(form[:, 0] == 1, rgb * (0.3, 0.8, 0.25) + (0.01, 0.06, 0.01), rgb)
    vein = np.where(form == 1, 1 - 0.35 * np.exp(-((a / 0.03) ** 2)), 1)
    line = np.where(
        (form == 2)
        & (np.abs((d / wide) % 0.4 - 0.2) < 0.06)
        & (np.abs(a / wide) < 0.9),
        0.35,
        1,
    )
    round_ = np.where(
        form == 0, np.sqrt(np.clip(1.1 - (a / (wide * 0.62)) ** 2, 0.1, 1)), 1
    )
    light = (0.85 + 0.25 * d) * vein * line * round_
    colour = rgb[:, None, None, :] * light[..., None]
    return np.asarray(colour, np.float32), np.asarray(there, np.float32)


def _mood(rows: Plan, dice: Dice, drift: float, side: int) -> Array:
    """Return exposure, colour cast and vignette as factors (b, h, w, 3)."""
    x, y = pixel_grid(side)
    street = rows.domain == 1
    low = np.where(street, 0.5, 0.88) * (1 - 0.5 * drift)
    high = np.where(street, 1.25, 1.15) * (1 - 0.35 * drift)
    value = low + dice.between("exposure", 0, 1) * (high - low)
    warm = dice.between("warm", -1, 1) + 0.8 * drift
    warm = warm * np.where(street, 0.22, 0.05)
    cast = np.stack([1 + warm, np.ones_like(warm), 1 - warm], 1)
    dark = np.where(street, dice.between("vignette", 0.0, 0.3), 0.06)
    vignette = 1 - dark[:, None, None] * (x * x + y * y)
    out = vignette[..., None] * (cast * value[:, None])[:, None, None, :]
    return np.asarray(out, np.float32)


def expose(settings: CatalogueSettings, rows: Plan, picture: Array) -> Array:
    """Turn linear light into uint8, spoiled and made noisy where the plan says so."""
    side = settings.image_size
    # A soft shoulder keeps highlights from clipping flat.
    light = np.where(picture > 0.8, 0.8 + 0.2 * np.tanh((picture - 0.8) / 0.4), picture)
    shown = np.sqrt(np.maximum(light, 0)) * np.float32(255)
    for code, spoil in enumerate((_blank, _dark, _smeared)):
        at = np.flatnonzero(rows.useless == code)
        shown[at] = spoil(shown[at], Dice(settings.seed, rows.source[at]))
    at = np.flatnonzero(rows.sensor == 0)
    if len(at):
        shown[at] += _gaussian(Dice(settings.seed, rows.source[at]), side)
    image = np.clip(np.rint(shown), 0, 255).astype(np.uint8)
    at = np.flatnonzero(rows.sensor == 1)
    if len(at):
        part = Dice(settings.seed, rows.source[at])
        share = part.between("impulse.share", 0.02, 0.12)[:, None, None]
        hit = part.between("impulse", 0, 1, shape=(side, side))
        spoiled = image[at]
        spoiled[hit < share / 2] = 0
        spoiled[hit > 1 - share / 2] = 255
        image[at] = spoiled
    return image


def _gaussian(dice: Dice, side: int) -> Array:
    """Return normal noise (b, side, side, 3) in grey levels (Box and Muller 1958)."""
    sigma = dice.between("sigma", 10.0, 30.0)[:, None, None, None]
    unit = dice.between("noise", 0, 1, shape=(2, side, side, 3))
    length = np.sqrt(-2 * np.log(1 - unit[:, 0]))
    return np.asarray(sigma * length * np.cos(np.float32(2 * np.pi) * unit[:, 1]))


def _blank(shown: Array, dice: Dice) -> Array:
    """Return one flat tone."""
    return np.broadcast_to(
        dice.between("blank", 0, 255)[:, None, None, None], shown.shape
    )


def _dark(shown: Array, dice: Dice) -> Array:
    """Return almost no light."""
    return np.asarray(shown * dice.between("dark", 0.01, 0.05)[:, None, None, None])


def _smeared(shown: Array, dice: Dice) -> Array:
    """Return pictures far out of focus."""
    return blur(shown, 0.16)


def near_copy(image: Array, mask: Array, dice: Dice) -> tuple[Array, Array]:
    """Crop, rescale and brighten one picture (h, w, 3) and its mask a little."""
    side = len(image)
    left, top, right, bottom = (
        dice.between("near.crop", 0.0, 0.035, shape=(4,))[0] * side
    )
    zoom_x, zoom_y = side / (side - left - right), side / (side - top - bottom)
    move = np.array([[zoom_x, 0, -left * zoom_x], [0, zoom_y, -top * zoom_y]])
    value = dice.between("near.value", 0.94, 1.06)[0]
    bent = cv2.warpAffine(image, move, (side, side), borderMode=cv2.BORDER_REPLICATE)
    bent = np.clip(np.rint(bent * value), 0, 255).astype(np.uint8)
    inside = cv2.warpAffine(
        mask.astype(np.uint8), move, (side, side), flags=cv2.INTER_NEAREST
    )
    return bent, inside.astype(bool)
