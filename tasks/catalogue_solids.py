"""Solids from which products are built, drawn into buffers of surface and normal."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tasks.catalogue_plan import Array, Dice

# What a point of a product is made of. MAIN carries the pattern.
MAIN, PLAIN, ACCENT, INSIDE, STEEL, PAPER, RUBBER, GLOW = range(1, 9)

SURFACES = 9

KNOTS = 160


@dataclass
class Buffer:
    """A grid of points in product units (y up), and what was painted on them.

    All arrays are (b, h, w). `surface` is 0 where nothing was painted; `nx` and `ny`
    are the unit normal towards the viewer, `u` and `v` the position on the surface.
    """

    x: Array
    y: Array
    surface: Array
    nx: Array
    ny: Array
    u: Array
    v: Array
    dice: Dice

    def draw(self, name: str, low: float, high: float) -> Array:
        """Draw one number per product, shaped (b, 1, 1)."""
        return np.asarray(self.dice.between(name, low, high)[:, None, None])

    def chance(self, name: str, share: float) -> Array:
        """Draw one truth value per product, shaped (b, 1, 1)."""
        return np.asarray(self.draw(name, 0.0, 1.0) < share)

    def paint(
        self, inside: Array, surface: int, *, nx: Array, ny: Array, u: Array, v: Array
    ) -> None:
        """Cover the points `inside`."""
        self.surface[inside] = surface
        for target, value in (
            (self.nx, nx),
            (self.ny, ny),
            (self.u, u),
            (self.v, v),
        ):
            np.copyto(target, value, where=inside)

    def recolour(self, inside: Array, surface: int) -> None:
        """Change the surface of points already painted."""
        self.surface[inside & (self.surface > 0)] = surface


def new_buffer(x: Array, y: Array, dice: Dice) -> Buffer:
    """Return an empty buffer over points `x`, `y`."""
    nx, ny, u, v = np.zeros((4, *x.shape), np.float32)
    return Buffer(x, y, np.zeros(x.shape, np.uint8), nx, ny, u, v, dice)


def odd(x: Array, power: int) -> Array:
    """Return x to the power 3, 5 or 9; NumPy's own power is 20 times slower."""
    square = x * x
    if power > 3:
        square = square * square
    return np.asarray((square * square if power > 5 else square) * x)


@lru_cache(maxsize=32)
def _spline(knots: int) -> Array:
    """Return the (knots, KNOTS) matrix of a Catmull–Rom spline through the knots."""
    place = np.linspace(0, knots - 1, KNOTS)
    first = np.minimum(place.astype(int), knots - 2)
    s = place - first
    parts = (
        (-1, -0.5 * s + s**2 - 0.5 * s**3),
        (0, 1 - 2.5 * s**2 + 1.5 * s**3),
        (1, 0.5 * s + 2 * s**2 - 1.5 * s**3),
        (2, -0.5 * s**2 + 0.5 * s**3),
    )
    matrix = np.zeros((knots, KNOTS))
    for offset, weight in parts:
        at = np.clip(first + offset, 0, knots - 1)
        np.add.at(matrix, (at, np.arange(KNOTS)), weight)
    return matrix


def curve(buffer: Buffer, knots: list[Array | float]) -> Array:
    """Return (b, KNOTS) values of a smooth curve through evenly spaced knots."""
    b = len(buffer.x)
    columns = [np.broadcast_to(np.ravel(k), b) for k in knots]
    return np.asarray((np.stack(columns, 1)[:, :, None] * _spline(len(knots))).sum(1))


def look_up(table: Array, place: Array) -> Array:
    """Read row i of `table` at `place[i]`, 0 at its start and 1 at its end."""
    last = table.shape[1] - 1
    at = np.clip(place * np.float32(last) + np.float32(0.5), 0, last).astype(np.int32)
    at += (np.arange(len(table), dtype=np.int32) * table.shape[1])[:, None, None]
    return np.asarray(np.take(table.astype(np.float32), at))


def revolve(
    buffer: Buffer,
    knots: list[Array | float],
    *,
    low: Array | float,
    high: Array | float,
    tilt: Array,
    surface: int = MAIN,
) -> tuple[Array, Array]:
    """Paint a solid of revolution seen from above by an angle whose sine is `tilt`.

    `knots` are radii from `low` to `high`. Returns the points covered and
    their heights.
    """
    low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
    span = high - low
    radii = np.maximum(curve(buffer, knots), 1e-3)
    steps = np.gradient(radii, axis=1) * (KNOTS - 1)
    slopes = steps / np.broadcast_to(np.ravel(span), len(radii))[:, None]
    x = buffer.x
    r = look_up(radii, (buffer.y - low) / span)
    for _ in range(2):  # the height whose front edge projects here, by fixed point
        t = buffer.y + tilt * np.sqrt(np.maximum(r * r - x * x, 0))
        r = look_up(radii, (t - low) / span)
    inside = (np.abs(x) < r) & (t >= low) & (t <= high)
    slope = look_up(slopes, (t - low) / span)
    side = np.clip(x / r, -1, 1)
    scale = 1 / np.sqrt(1 + slope * slope)
    front = np.sqrt(1 - side * side)
    middle = radii.mean(1).astype(np.float32)[:, None, None]
    ny = (-slope * np.sqrt(1 - tilt * tilt) + front * tilt) * scale
    buffer.paint(
        inside, surface, nx=side * scale, ny=ny, u=np.arcsin(side) * middle, v=t
    )
    return inside, t


def disc(
    buffer: Buffer,
    *,
    height: Array | float,
    radius: Array | float,
    tilt: Array,
    surface: int,
    hollow: bool = False,
) -> Array:
    """Paint a level disc, or the inner wall seen through an opening."""
    dx = buffer.x / radius
    dy = (buffer.y - height) / (tilt * radius)
    inside = dx * dx + dy * dy < 1
    sign = -0.75 if hollow else 0.12
    buffer.paint(
        inside,
        surface,
        nx=sign * dx,
        ny=-0.45 - 0.3 * dy if hollow else 0.92 + 0.06 * dy,
        u=buffer.x,
        v=dy * radius,
    )
    return np.asarray(inside)


def mouth(
    buffer: Buffer, *, height: Array | float, radius: Array | float, tilt: Array
) -> None:
    """Paint a rim and the hollow behind it."""
    disc(buffer, height=height, radius=radius, tilt=tilt, surface=PLAIN)
    disc(
        buffer,
        height=height,
        radius=radius * 0.9,
        tilt=tilt,
        surface=INSIDE,
        hollow=True,
    )


def loop(
    buffer: Buffer,
    *,
    at: tuple[Array | float, Array | float],
    radii: tuple[Array | float, Array | float],
    thick: Array | float,
    surface: int = PLAIN,
    above: Array | float = -9.0,
) -> None:
    """Paint an elliptic ring of round section, above the height `above` only."""
    dx, dy = (buffer.x - at[0]) / radii[0], (buffer.y - at[1]) / radii[1]
    far = np.sqrt(dx * dx + dy * dy) + 1e-6
    across = (far - 1) * np.minimum(radii[0], radii[1]) / thick
    inside = (np.abs(across) < 1) & (buffer.y > above)
    buffer.paint(
        inside, surface, nx=dx / far * across, ny=dy / far * across, u=across, v=far
    )


def rod(
    buffer: Buffer,
    start: tuple[Array | float, Array | float],
    end: tuple[Array | float, Array | float],
    *,
    thick: tuple[Array | float, Array | float],
    surface: int = PLAIN,
    where: Array | bool = True,
) -> None:
    """Paint a round rod whose radius goes from `thick[0]` to `thick[1]`."""
    bx, by = np.float32(end[0]) - start[0], np.float32(end[1]) - start[1]
    dx, dy = buffer.x - start[0], buffer.y - start[1]
    along = np.clip((dx * bx + dy * by) / (bx * bx + by * by + 1e-9), 0, 1)
    dx, dy = dx - along * bx, dy - along * by
    radius = thick[0] + along * (np.float32(thick[1]) - thick[0])
    inside = (dx * dx + dy * dy < radius * radius) & where
    buffer.paint(inside, surface, nx=dx / radius, ny=dy / radius, u=dx, v=along)


def face(
    buffer: Buffer,
    corner: tuple[Array, Array],
    first: tuple[Array, Array],
    second: tuple[Array, Array],
    *,
    normal: tuple[Array, Array],
    surface: int = MAIN,
    where: Array | bool = True,
) -> tuple[Array, Array, Array]:
    """Paint a parallelogram; return the points covered and where they lie on it."""
    area = first[0] * second[1] - first[1] * second[0]
    area = np.where(np.abs(area) < 1e-6, 1e-6, area)
    dx, dy = buffer.x - corner[0], buffer.y - corner[1]
    a = (dx * second[1] - dy * second[0]) / area
    c = (dy * first[0] - dx * first[1]) / area
    inside = (a >= 0) & (a <= 1) & (c >= 0) & (c <= 1) & where
    long = (
        np.sqrt(first[0] ** 2 + first[1] ** 2),
        np.sqrt(second[0] ** 2 + second[1] ** 2),
    )
    # Edges are a little rounded so that they catch light.
    nx = normal[0] + 0.25 * odd(2 * a - 1, 9)
    ny = normal[1] + 0.25 * odd(2 * c - 1, 9)
    buffer.paint(inside, surface, nx=nx, ny=ny, u=a * long[0], v=c * long[1])
    return inside, a, c


class Camera:
    """Orthographic view of a scene turned by `yaw` and seen from above."""

    def __init__(self, yaw: Array, tilt: Array) -> None:
        self.cos, self.sin = np.cos(yaw), np.sin(yaw)
        self.tilt, self.up = tilt, np.sqrt(1 - tilt * tilt)

    def see(
        self, x: Array | float, y: Array | float, z: Array | float
    ) -> tuple[Array, Array]:
        """Project a point or a direction: x right, y up, z towards the viewer."""
        near = np.float32(z) * self.cos - np.float32(x) * self.sin
        right = np.float32(x) * self.cos + np.float32(z) * self.sin
        return right, np.float32(y) * self.up - near * self.tilt

    def lit(self, x: float, y: float, z: float) -> tuple[Array, Array]:
        """Project a unit normal."""
        near = np.float32(z) * self.cos - np.float32(x) * self.sin
        right = np.float32(x) * self.cos + np.float32(z) * self.sin
        return right, np.float32(y) * self.up + near * self.tilt
