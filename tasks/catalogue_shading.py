"""Products of the embedded catalogue under light: materials, patterns, shading."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from tasks.catalogue_plan import Array, Dice, Plan
from tasks.catalogue_settings import COLOURS, KINDS
from tasks.catalogue_shapes import draw_kind
from tasks.catalogue_solids import (
    ACCENT,
    GLOW,
    INSIDE,
    MAIN,
    PAPER,
    PLAIN,
    RUBBER,
    STEEL,
    SURFACES,
    new_buffer,
)

_FINE = 2  # samples per pixel side of products; shadows and places are drawn at one

# Light is in squared display values: a gamma of 2, for squares and roots are cheap.
_PALETTE = np.array(list(COLOURS.values()), np.float32) ** 2

# diffuse, specular, sharpness, reflection, softness by material
_FINISH = np.array(
    [
        (0.95, 0.04, 10, 0.02, 0.25),
        (0.85, 0.8, 90, 0.24, 0.0),
        (0.28, 0.7, 50, 0.85, 0.0),
        (0.92, 0.10, 20, 0.03, 0.1),
        (1.0, 0.0, 5, 0.0, 0.45),
        (0.88, 0.22, 22, 0.05, 0.05),
    ],
    np.float32,
)
_WOOD, _FABRIC, _LEATHER = 3, 4, 5


def draw_products(
    rows: Plan, dice: Dice, light: Array, *, side: int, centre: Array, turn: Array
) -> Array:
    """Draw and shade products; return premultiplied (b, side, side, 4)."""
    fine = side * _FINE
    canvas = np.zeros((len(rows.rows), fine, fine, 4), np.float32)
    for kind in np.unique(rows.kind):
        members = np.flatnonzero(rows.kind == kind)
        _draw_group(
            canvas,
            members,
            rows[members],
            Dice(dice.seed, dice.rows[members]),
            light[members],
            pose=(centre[members], turn[members]),
        )
    # One tall image: the area mean is six times faster in OpenCV than in NumPy.
    tall = canvas.reshape(-1, fine, 4)
    small = cv2.resize(tall, (side, len(canvas) * side), interpolation=cv2.INTER_AREA)
    return np.asarray(small).reshape(-1, side, side, 4)


def _draw_group(
    canvas: Array,
    members: Array,
    rows: Plan,
    dice: Dice,
    light: Array,
    *,
    pose: tuple[Array, Array],
) -> None:
    """Draw products of one kind into their rows of the canvas."""
    fine = canvas.shape[1]
    size = rows.size.astype(np.float32)[:, None, None]
    reach = int(np.ceil(rows.size.max() * fine * 0.56)) + 2
    middle = (pose[0] * (1, -1) + 1) * (fine / 2)
    corner = np.floor(middle).astype(np.int64) - reach
    steps = np.arange(2 * reach)
    px, py = corner[:, :1] + steps, corner[:, 1:] + steps
    # Subtract in double so that a pixel gets the same value in whatever window.
    dx = ((px + 0.5 - middle[:, :1]) * (2 / fine)).astype(np.float32)[:, None, :]
    dy = ((middle[:, 1:] - py - 0.5) * (2 / fine)).astype(np.float32)[:, :, None]
    cos, sin = (f(pose[1]).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
    flip = np.where(dice.between("flip", 0, 1) < 0.5, -1, 1).astype(np.float32)
    flip = flip[:, None, None]
    buffer = new_buffer(
        flip * (dx * cos + dy * sin) / size, (dy * cos - dx * sin) / size, dice
    )
    draw_kind(buffer, int(rows.kind[0]))
    seen = (buffer.surface > 0) & ((px >= 0) & (px < fine))[:, None, :]
    seen &= ((py >= 0) & (py < fine))[:, :, None]
    at = np.flatnonzero(seen)
    i = np.repeat(np.arange(len(seen)), np.count_nonzero(seen, axis=(1, 2)))
    y, x = np.divmod((at - i * len(steps) ** 2).astype(np.int32), np.int32(len(steps)))
    columns = (buffer.surface, buffer.nx, buffer.ny, buffer.u, buffer.v)
    surface, nx, ny, u, v = (column.ravel()[at] for column in columns)
    nx *= flip[i, 0, 0]
    c, s = cos[i, 0, 0], sin[i, 0, 0]
    points = _Points(i, surface, nx * c - ny * s, ny * c + nx * s, u, v)
    at = (members[i] * fine + py[i, y]) * fine + px[i, x]
    shaded = np.ones((len(at), 4), np.float32)
    shaded[:, :3] = _shade(points, rows, dice, light)
    canvas.reshape(-1, 4)[at] = shaded


@dataclass(frozen=True)
class _Points:
    """Covered points, all (p,): product, surface, normal and surface position."""

    product: Array
    surface: Array
    nx: Array
    ny: Array
    u: Array
    v: Array


def _surfaces(rows: Plan, dice: Dice) -> Array:
    """Return (b, SURFACES, 9): rgb, finish (5) and glow of each surface."""
    b = len(rows.rows)
    table = np.zeros((b, SURFACES, 9), np.float32)
    shift = dice.between("shade", 0.82, 1.12)[:, None] * dice.between(
        "hue", 0.9, 1.1, shape=(3,)
    )
    open_ = rows.kind == KINDS.index("bowl")
    main, accent = _PALETTE[rows.colour] * shift, _PALETTE[rows.accent]
    table[:, (MAIN, PLAIN), :3] = main[:, None]
    table[:, ACCENT, :3] = accent
    table[:, INSIDE, :3] = main * np.where(open_, 0.9, 0.5)[:, None] + 0.01
    table[:, (MAIN, PLAIN, ACCENT, INSIDE), 3:8] = _FINISH[rows.material][:, None]
    table[:, INSIDE, 3] = 0.9
    table[:, INSIDE, 4:7:2] *= 0.12
    for surface, rgb, finish in (
        (STEEL, (0.55, 0.55, 0.56), 2),
        (PAPER, (0.80, 0.78, 0.73), 0),
        (RUBBER, (0.02, 0.02, 0.022), 1),
        (GLOW, (1.0, 0.85, 0.55), 0),
    ):
        table[:, surface, :3] = rgb
        table[:, surface, 3:8] = _FINISH[finish]
    lit = dice.between("lit", 0.0, 1.0) < 0.6
    table[:, GLOW, 8] = 0.3 + 1.2 * lit
    lamp = rows.kind == KINDS.index("lamp")
    table[:, MAIN, 8] = 0.35 * (lit & lamp & (rows.material != 2))
    return table


def _shade(points: _Points, rows: Plan, dice: Dice, light: Array) -> Array:
    """Return the light (p, 3) that leaves each point towards the viewer."""
    of = points.product
    table = _surfaces(rows, dice)[of, points.surface].T
    rgb, (diffuse, shine, sharp, mirror, soft, glow) = table[:3], table[3:]
    rgb = rgb * _texture(points, rows, dice)
    mark = _marks(points, rows, dice)
    rgb += (_PALETTE[rows.accent][of].T - rgb) * mark
    nx, ny = points.nx, points.ny
    flat = np.minimum(1 / np.sqrt(nx * nx + ny * ny + 1e-9), 1)
    nx, ny = nx * flat, ny * flat
    nz = np.sqrt(np.maximum(1 - nx * nx - ny * ny, 0))
    lx, ly, lz = light[of].T
    facing = nx * lx + ny * ly + nz * lz
    facing = np.maximum((facing + soft) / (1 + soft), 0)
    sky = 0.30 + 0.16 * ny + 0.06 * nz
    half = np.stack([light[:, 0], light[:, 1], light[:, 2] + 1], 1)
    half /= np.linalg.norm(half, axis=1, keepdims=True)
    hx, hy, hz = half[of].T
    spark = np.exp(sharp * (nx * hx + ny * hy + nz * hz - 1)) * shine
    # What a mirror would show: bright sky, a dark band at the horizon, a lit floor.
    rx, ry = 2 * nz * nx, 2 * nz * ny
    room = (
        0.35
        + 0.55 / (1 + np.exp(-9 * (ry - 0.12)))
        + 0.3 * np.exp(-10 * (ry + 0.55) ** 2)
    )
    room += 0.9 * np.exp(-14 * (rx - 0.9 * lx) ** 2) * (np.abs(ry - 0.35) < 0.5)
    # A window or softbox, which only smooth surfaces show as a sharp patch.
    wx, wy = (rx - 1.15 * lx) * 3.2, (ry - 0.95 * ly) * 2.6
    wx, wy = wx * wx, wy * wy
    room += 1.7 * np.exp(-(wx * wx + wy * wy))
    edge = (1 - nz) * (1 - nz) * (1 - nz)
    mirror = mirror + (0.5 - mirror) * edge * (mirror > 0.1)
    tint = np.where(mirror > 0.6, rgb * 1.15 + 0.04, 0.75)
    body = rgb * (diffuse * (0.82 * facing + sky * 0.9) + glow)
    return np.asarray((body + tint * room * mirror + spark).T)


def _texture(points: _Points, rows: Plan, dice: Dice) -> Array:
    """Return a factor (p,) for grain, weave and hide on the product's own surfaces."""
    of = points.product
    own = (points.surface <= INSIDE).astype(np.float32)
    phase = dice.between("grain", 0.0, 6.28)[of]
    made = rows.material[of]
    factor = np.ones(len(of), np.float32)
    for material, ripple in ((_WOOD, _wood), (_FABRIC, _weave), (_LEATHER, _hide)):
        at = np.flatnonzero(made == material)
        factor[at] += ripple(points.u[at], points.v[at], phase[at]) * own[at]
    return factor


def _wood(u: Array, v: Array, phase: Array) -> Array:
    """Rings bent by slow waves, with fine fibres."""
    bend = 2.2 * np.sin(1.9 * v + phase) + 0.9 * np.sin(4.3 * v + 2.1 * u + 2 * phase)
    return np.asarray(0.24 * np.sin(15 * u + bend) + 0.1 * np.sin(53 * u + 3 * bend))


def _weave(u: Array, v: Array, phase: Array) -> Array:
    """Crossing threads."""
    threads = np.sin(48 * u + phase) * np.sin(48 * v)
    return np.asarray(0.08 * threads + 0.05 * np.sin(9 * u + 5 * v + phase))


def _hide(u: Array, v: Array, phase: Array) -> Array:
    """Uneven dye and pores."""
    cloud = np.sin(4 * u + 2 * np.sin(3 * v + phase)) * np.sin(5 * v + phase)
    pores = np.sin(31 * u + 4 * np.sin(17 * v)) * np.sin(29 * v + 3 * np.sin(19 * u))
    return np.asarray(0.1 * cloud + 0.09 * pores)


def _marks(points: _Points, rows: Plan, dice: Dice) -> Array:
    """Return how much (p,) of the accent colour the pattern lays on each point."""
    pattern = rows.pattern[points.product]
    at = np.flatnonzero((pattern > 0) & (points.surface == MAIN))
    out = np.zeros(len(pattern), np.float32)
    of, pattern, u, v = points.product[at], pattern[at], points.u[at], points.v[at]
    count = dice.between("print.count", 2.6, 5.0)
    lean = dice.pick("print.lean", (3, 2, 1)) * np.float32(np.pi / 4)
    lean = (lean + dice.between("print.turn", -0.1, 0.1)).astype(np.float32)
    c, s = (np.cos(lean) * count)[of], (np.sin(lean) * count)[of]
    a = u * c + v * s
    d = v * c - u * s
    wide = dice.between("print.wide", 0.3, 0.55)[of]
    stripes = (a % 1.0) < wide
    shifted = (a + 0.5 * (np.floor(d) % 2)) % 1.0 - 0.5
    dots = np.hypot(shifted, d % 1.0 - 0.5) < wide * 0.62
    checks = 0.5 * ((a % 1.0) < 0.5) + 0.5 * ((d % 1.0) < 0.5)
    mark = np.select([pattern == 1, pattern == 2], [stripes, dots], checks)
    out[at] = mark * np.float32(0.92)
    return out
