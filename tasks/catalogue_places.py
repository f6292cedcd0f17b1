"""Studios and streets in which the embedded catalogue shows its products."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from tasks.catalogue_plan import Array, Dice, Plan


@lru_cache(maxsize=64)
def _blur_matrix(side: int, width: float) -> Array:
    """Return a (side, side) Gaussian matrix, `width` in half pictures."""
    at = np.arange(side) / side * 2
    weights = np.exp(-0.5 * ((at[:, None] - at) / max(width, 1e-3)) ** 2)
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


def blur(images: Array, width: float) -> Array:
    """Blur (b, h, w) or (b, h, w, c) along both sides."""
    matrix = _blur_matrix(images.shape[1], width)
    if images.ndim == 3:
        return np.asarray(matrix @ images @ matrix.T)
    return np.stack([blur(images[..., c], width) for c in range(images.shape[-1])], -1)


def pixel_grid(side: int) -> tuple[Array, Array]:
    """Return pixel centres x (1, 1, side), y (1, side, 1): half pictures, y up."""
    at = ((np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1).astype(np.float32)
    return at[None, None, :], -at[None, :, None]


@lru_cache(maxsize=32)
def _stretch(cells: int, side: int) -> Array:
    """Return the (side, cells) matrix of smooth interpolation from a coarse grid."""
    at = np.linspace(0, cells - 1, side)
    low = np.minimum(at.astype(int), cells - 2)
    part = at - low
    part = part * part * (3 - 2 * part)
    matrix = np.zeros((side, cells), np.float32)
    matrix[np.arange(side), low] = 1 - part
    matrix[np.arange(side), low + 1] += part
    return matrix


def _clouds(dice: Dice, name: str, side: int, *, cells: tuple[int, ...]) -> Array:
    """Return (b, side, side) noise around 0, about -1 to 1, from coarse to fine."""
    total = np.zeros((len(dice.rows), side, side), np.float32)
    for level, count in enumerate(cells):
        coarse = dice.between(f"{name}.{count}", -1.0, 1.0, shape=(count, count))
        up = _stretch(count, side)
        total += (up @ coarse @ up.T) * np.float32(0.6**level)
    return total


_LAMPLIGHT = np.array([0.55, 0.40, 0.20], np.float32)


def draw_places(rows: Plan, dice: Dice, side: int, *, base: Array) -> Array:
    """Return what is behind and below products at height `base`, (b, side, side, 3)."""
    out = np.empty((len(rows.rows), side, side, 3), np.float32)
    for domain, build in ((0, _studio), (1, _street)):
        at = np.flatnonzero(rows.domain == domain)
        if len(at):
            out[at] = build(Dice(dice.seed, dice.rows[at]), side, base[at, None, None])
    return out


def _studio(dice: Dice, side: int, base: Array) -> Array:
    """Return paper sweeps: a soft pool of light on a curved backdrop."""
    x, y = pixel_grid(side)
    tone = dice.pick("sweep", (4, 2, 2, 1))
    value = np.array([0.78, 0.62, 0.5, 0.2], np.float32)[tone]
    tint = dice.between("sweep.tint", -1.0, 1.0, shape=(3,))
    tint *= np.array([0.03, 0.06, 0.16, 0.05], np.float32)[tone][:, None]
    paper = np.clip(value[:, None] + tint * 0.7, 0.02, 1)

    def draw(name: str, low: float, high: float) -> Array:
        return np.asarray(dice.between(name, low, high)[:, None, None])

    px, py = draw("pool.x", -0.5, 0.5), draw("pool.y", -0.1, 0.6)
    pool = np.exp(-((x - px) ** 2 + (y - py) ** 2) / draw("pool.wide", 1.2, 3.0))
    bend = base + draw("bend", 0.15, 0.5)
    floor = 1 / (1 + np.exp((y - bend) / draw("bend.soft", 0.05, 0.2)))
    light = 0.7 + 0.35 * pool + floor * draw("floor", -0.08, 0.14)
    return np.asarray(paper[:, None, None, :] * light[..., None])


def _bricks(u: Array, v: Array, dice: Dice, *, prefix: str, size: Array) -> Array:
    """Return tone factors of laid cells: (b, h, w) around 1, joints darker.

    `size` (b, 5) is width, height, shift of every other course, joint and variety.
    """
    w, h, shift, joint, variety = size.T[:, :, None, None]
    course = np.floor(v / h)
    u = u / w + shift * (course % 2)
    stone = np.floor(u)
    salt = dice.between(f"{prefix}.salt", 0, 2**16)[:, None, None].astype(np.int64)
    mixed = (
        stone.astype(np.int64) * 7919 + course.astype(np.int64) * 104729 + salt
    ) % 65521
    tone = ((mixed * mixed) % 65521).astype(np.float32) / 65521 - 0.5
    edge = np.minimum(np.minimum(u - stone, stone + 1 - u) * w,
                      np.minimum(v / h - course, course + 1 - v / h) * h)  # fmt: skip
    gap = np.clip(edge / np.maximum(joint, 1e-4), 0, 1)
    return np.asarray((1 + variety * 2 * tone) * (0.55 + 0.45 * gap), np.float32)


_WALLS = np.array(
    [
        (0.42, 0.17, 0.5, 0.02, 0.22),  # brick
        (0.22, 9.0, 0.0, 0.025, 0.2),  # boards
        (0.55, 0.8, 0.0, 0.06, 0.7),  # shop windows
        (9.0, 9.0, 0.0, 0.0, 0.0),  # plaster
        (0.3, 0.3, 0.0, 0.015, 0.15),  # tiles
    ],
    np.float32,
)

_WALL_COLOURS = np.array(
    [(0.33, 0.14, 0.09), (0.24, 0.16, 0.09), (0.20, 0.24, 0.28), (0.45, 0.40, 0.32),
     (0.26, 0.34, 0.32)],
    np.float32,
)  # fmt: skip

_FLOORS = np.array(
    [
        (0.5, 0.5, 0.0, 0.02, 0.14),  # slabs
        (0.2, 0.13, 0.5, 0.025, 0.25),  # cobbles
        (9.0, 9.0, 0.0, 0.0, 0.0),  # asphalt
        (0.18, 9.0, 0.0, 0.015, 0.2),  # deck
    ],
    np.float32,
)

_FLOOR_COLOURS = np.array(
    [(0.36, 0.35, 0.33), (0.22, 0.2, 0.19), (0.12, 0.12, 0.13), (0.30, 0.19, 0.11)],
    np.float32,
)


def _street(dice: Dice, side: int, base: Array) -> Array:
    """Return walls over pavements, with passers-by and lights out of focus."""
    x, y = pixel_grid(side)

    def draw(name: str, low: float, high: float) -> Array:
        return np.asarray(dice.between(name, low, high)[:, None, None])

    level = base + draw("horizon", 0.22, 0.7)
    rough = _clouds(dice, "rough", side, cells=(5, 11, 23, 47))
    wall_kind = dice.pick("wall", (3, 2, 3, 2, 2))
    zoom = draw("wall.zoom", 0.7, 1.5)
    u, v = x * zoom + draw("wall.at", 0, 9), (y - level) * zoom
    wall = _bricks(u, v, dice, prefix="wall", size=_WALLS[wall_kind])
    tint = (
        dice.between("wall.tint", 0.78, 1.25, shape=(3,))
        * dice.between("wall.value", 0.6, 1.7)[:, None]
    )
    wall_rgb = (wall * (1 + 0.22 * rough))[..., None] * (
        _WALL_COLOURS[wall_kind] * tint
    )[:, None, None, :]
    people, gap = _crowd(dice, side)
    wall_rgb = wall_rgb * gap + people
    focus = draw("focus", 0.0, 1.0)[..., None]
    wall_rgb = wall_rgb * focus + blur(wall_rgb, 0.05) * (1 - focus)
    floor_kind = dice.pick("floor.kind", (3, 3, 2, 2))
    depth = 0.9 / np.maximum(level - y + 0.12, 0.06)
    u, v = x * depth + draw("floor.at", 0, 9), depth * 1.4 + draw("floor.far", 0, 9)
    floor = _bricks(u, v, dice, prefix="floor", size=_FLOORS[floor_kind])
    fade = np.clip(1.6 / depth - 0.25, 0, 1)  # joints too far to resolve fade out
    floor = 1 + (floor - 0.9) * fade
    speck = dice.between("speck", -1.0, 1.0, shape=(side, side))
    floor = floor * (1 + 0.2 * rough + 0.12 * speck * fade)
    tint = (
        dice.between("floor.tint", 0.8, 1.2, shape=(3,))
        * dice.between("floor.value", 0.7, 1.6)[:, None]
    )
    floor_rgb = floor[..., None] * (_FLOOR_COLOURS[floor_kind] * tint)[:, None, None, :]
    below = np.clip((level - y) * (side / 4) + 0.5, 0, 1)[..., None]
    kerb = 1 - 0.45 * np.exp(-(((y - level) / 0.05) ** 2))[..., None]
    return np.asarray(
        np.maximum(wall_rgb * (1 - below) + floor_rgb * below, 0.002) * kerb
    )


def muted(dice: Dice, name: str) -> Array:
    """Draw one colour (b, 3) per picture as paint, cloth and stone have them."""
    grey = dice.between(f"{name}.grey", 0.1, 0.75)[:, None]
    tint = dice.between(f"{name}.tint", -0.14, 0.14, shape=(3,))
    return np.asarray(np.clip(grey + tint, 0.02, 1) ** 2)


def _crowd(dice: Dice, side: int) -> tuple[Array, Array]:
    """Draw soft people, signs and lights: their light, and the share they let pass.

    They are out of focus, so half the resolution does.
    """
    half = side // 2
    x, y = pixel_grid(half)
    layer = np.zeros((len(dice.rows), 4, half, half), np.float32)
    layer[:, 3] = 1

    def draw(name: str, low: float, high: float) -> Array:
        return np.asarray(dice.between(name, low, high)[:, None, None])

    for name in (f"crowd.{number}" for number in range(6)):
        dx = (x - draw(f"{name}.x", -1.1, 1.1)) / draw(f"{name}.wide", 0.07, 0.4)
        dy = (y - draw(f"{name}.y", -0.3, 1.0)) / draw(f"{name}.tall", 0.15, 0.7)
        dx, dy = dx * dx, dy * dy
        boxy = draw(f"{name}.boxy", 0, 1) < 0.5
        far = np.where(boxy, dx * dx * dx + dy * dy * dy, dx + dy) - 1
        far = np.clip(draw(f"{name}.soft", 1.5, 9.0) * far, -30, 30)
        here = (draw(f"{name}.there", 0, 1) < 0.6) / (1 + np.exp(far))
        layer *= (1 - here)[:, None]
        layer[:, :3] += muted(dice, f"{name}.rgb")[:, :, None, None] * here[:, None]
    for name in (f"lamp.{number}" for number in range(5)):
        at = dice.between(name, -1.0, 1.0, shape=(4,))[:, :, None, None]
        ring = np.hypot(x - at[:, 0], y - 0.45 - 0.5 * at[:, 1])
        glow = np.clip((0.08 + 0.05 * at[:, 2] - ring) * 22, 0, 1) * (at[:, 3] > 0.1)
        layer[:, :3] += glow[:, None] * _LAMPLIGHT[:, None, None]
    up = _stretch(half, side)
    layer = np.moveaxis(up @ layer @ up.T, 1, -1)
    return layer[..., :3], layer[..., 3:]
