"""Bag, hat, sneaker and watch of the embedded catalogue."""

from __future__ import annotations

import numpy as np

from tasks.catalogue_solids import (
    ACCENT,
    INSIDE,
    KNOTS,
    MAIN,
    PAPER,
    PLAIN,
    RUBBER,
    STEEL,
    Buffer,
    curve,
    disc,
    look_up,
    loop,
    odd,
    revolve,
    rod,
)


def bag(buffer: Buffer) -> None:
    """Draw handbags and totes."""
    w, h = buffer.draw("width", 0.55, 0.85), buffer.draw("height", 0.48, 0.62)
    taper = buffer.draw("taper", -0.12, 0.16)
    floor = -0.88
    top = floor + 2 * h
    reach = buffer.draw("handle", 0.3, 0.95 - 0.1)
    span = w * buffer.draw("handle.span", 0.38, 0.55)
    thick = buffer.draw("handle.thick", 0.035, 0.06)
    tall = np.minimum(reach, 0.94 - top)
    loop(
        buffer,
        at=(0.06, top),
        radii=(span, tall),
        thick=thick,
        above=top - 0.1,
        surface=INSIDE,
    )
    y = (buffer.y - floor - h) / h
    x = buffer.x / (w * (1 - taper * y))
    corner = 0.16
    qx, qy = np.abs(x) - 1 + corner, np.abs(y) - 1 + corner
    far = np.hypot(np.maximum(qx, 0), np.maximum(qy, 0)) + np.minimum(
        np.maximum(qx, qy), 0
    )
    inside = far < corner
    sag = 0.12 * np.sin(5 * x + buffer.draw("sag", 0, 6)) * (1 - y) * 0.5
    buffer.paint(
        inside, MAIN, nx=0.75 * odd(x, 3) + sag, ny=0.15 + 0.6 * odd(y, 5) - 0.15 * y,
        u=buffer.x, v=buffer.y,
    )  # fmt: skip
    flap = buffer.chance("flap", 0.45)
    drop = 0.05 + 0.3 * x * x
    buffer.recolour(inside & flap & (y > drop), PLAIN)
    buffer.recolour(inside & flap & (np.abs(y - drop) < 0.035), RUBBER)
    buffer.recolour(inside & ~flap & (y > 0.84), ACCENT)
    buffer.recolour(inside & ~flap & (y < -0.72), ACCENT)
    rod(
        buffer,
        (0.0, floor + h),
        (0.0, floor + h + 0.08),
        thick=(0.07, 0.07),
        surface=STEEL,
        where=flap,
    )
    loop(
        buffer,
        at=(0.0, top - 0.08),
        radii=(span, tall + 0.06),
        thick=thick,
        above=top - 0.16,
    )


def hat(buffer: Buffer) -> None:
    """Draw brimmed hats."""
    tilt = buffer.draw("tilt", 0.22, 0.4)
    brim = buffer.draw("brim", 0.78, 0.97)
    r = buffer.draw("crown", 0.46, 0.58)
    tall = buffer.draw("tall", 0.45, 0.8)
    curl = buffer.draw("curl", -0.12, 0.22)
    level = buffer.y
    low = -0.42
    buffer.y = level - curl * buffer.x**2
    disc(buffer, height=low - 0.05, radius=brim, tilt=tilt, surface=INSIDE)
    disc(buffer, height=low, radius=brim, tilt=tilt, surface=PLAIN)
    buffer.y = level
    flat = buffer.draw("flat", 0.84, 0.95)
    inside, t = revolve(
        buffer,
        [r, r * 0.98, r * 0.95, r * 0.92, r * flat, r * flat * 0.86, 0.02],
        low=low + 0.02,
        high=low + tall,
        tilt=tilt,
    )
    dent = np.exp(-((buffer.x / 0.16) ** 2)) * np.clip((t - low) / tall, 0, 1)
    buffer.ny -= np.where(inside, 0.5 * dent, 0).astype(np.float32)
    buffer.recolour(inside & (t < low + 0.17), ACCENT)


def sneaker(buffer: Buffer) -> None:
    """Draw laced shoes from the side."""
    x, y = buffer.x, buffer.y
    ankle = buffer.draw("ankle", 0.12, 0.55)
    toe = buffer.draw("toe", -0.2, -0.1)
    tops = curve(
        buffer,
        [ankle - 0.1, ankle + 0.04, ankle - 0.06, ankle + 0.02, ankle * 0.6 + 0.08,
         0.12, 0.0, toe + 0.02, toe - 0.02, toe - 0.12, -0.42],
    )  # fmt: skip
    place = (x + 0.93) / 1.86
    top = look_up(tops, place)
    spring = 0.1 * np.clip((x - 0.5) / 0.45, 0, 1) ** 2
    ground = -0.56 + spring
    sole = buffer.draw("sole", 0.13, 0.22)
    height = (y - ground) / np.maximum(top - ground, 0.05)
    heel = np.clip((-0.72 - x) / 0.2, 0, 1)
    upper = (
        (np.abs(x) < 0.93) & (y < top) & (y > ground) & (height < 1.02 - 0.2 * heel**2)
    )
    slope = np.clip(look_up(np.gradient(tops, axis=1) * 85.0, place), -1.5, 1.5)
    edge = odd(np.clip(height, 0, 1), 3)
    buffer.paint(
        upper,
        MAIN,
        nx=np.clip(0.8 * odd(x, 5) - 0.35 * slope * edge - 0.5 * heel, -0.95, 0.95),
        ny=0.7 * edge + 0.1,
        u=x,
        v=y,
    )
    cap = buffer.chance("cap", 0.6)
    buffer.recolour(upper & cap & (np.hypot(x - 0.93, y + 0.5) < 0.38), PAPER)
    buffer.recolour(upper & (np.hypot(x + 1.0, y + 0.3) < 0.32), ACCENT)
    lean = buffer.draw("lean", -0.7, 0.7)
    side = np.abs(x + 0.22 - lean * (y + 0.2)) < 0.07
    twin = np.abs(x + 0.0 - lean * (y + 0.2)) < 0.07
    buffer.recolour(upper & (side | twin) & (height < 0.62), ACCENT)
    buffer.recolour(
        upper & (((x + 0.57) / 0.26) ** 2 + ((y - ankle + 0.02) / 0.1) ** 2 < 1), RUBBER
    )
    for number in range(4):
        along = 0.46 + 0.075 * number
        at = 1.86 * along - 0.93
        peak = np.take(tops, int(along * (KNOTS - 1)), axis=1)[:, None, None]
        rod(
            buffer,
            (at + 0.02, peak - 0.0),
            (at - 0.05, peak - 0.16),
            thick=(0.03, 0.026),
            surface=PAPER,
        )
    q = np.hypot(np.maximum(np.abs(x) - 0.88, 0), y - ground - sole / 2)
    band = (q < sole / 2) | (
        (np.abs(x) < 0.88) & (np.abs(y - ground - sole / 2) < sole / 2)
    )
    white = buffer.chance("white.sole", 0.7)
    ny = (y - ground - sole / 2) / sole
    for surface, where in ((PAPER, white), (ACCENT, ~white)):
        buffer.paint(band & where, surface, nx=0.7 * odd(x, 5), ny=ny, u=x, v=y)
    buffer.recolour(band & (y < ground + 0.04), RUBBER)


def watch(buffer: Buffer) -> None:
    """Draw wrist-watches laid flat."""
    x, y = buffer.x, buffer.y
    wide = buffer.draw("strap", 0.2, 0.3)
    narrow = wide * (1 - 0.28 * y * y)
    end = np.hypot(x, np.maximum(np.abs(y) - 0.8, 0)) < narrow
    strap = end & (np.abs(x) < narrow)
    buffer.paint(
        strap, MAIN, nx=0.5 * odd(x / narrow, 5), ny=0.75 * y * np.abs(y), u=x, v=y
    )
    buffer.recolour(strap & (np.abs(np.abs(x) - narrow * 0.84) < 0.014), ACCENT)
    holes = np.hypot(x, (y + 0.78 + 0.06) % 0.12 - 0.06) < 0.024
    buffer.recolour(strap & holes & (y < -0.52) & (y > -0.88), RUBBER)
    buckle = (np.abs(np.abs(y - 0.84) - 0.07) < 0.028) & (np.abs(x) < narrow * 1.2)
    buffer.paint(buckle, STEEL, nx=x * 0.3, ny=(y - 0.84) * 6, u=x, v=y)
    r = buffer.draw("case", 0.38, 0.48)
    rod(buffer, (r * 0.95, 0.0), (r + 0.07, 0.0), thick=(0.06, 0.06), surface=STEEL)
    square = buffer.chance("square", 0.3)
    far = (
        np.where(
            square,
            np.sqrt(np.sqrt(np.square(x * x) + np.square(y * y))),
            np.hypot(x, y),
        )
        / r
    )
    rim = np.clip((far - 0.88) / 0.12, -1, 1)
    buffer.paint(far < 1, STEEL, nx=x / r * rim, ny=y / r * rim, u=x, v=y)
    dark = buffer.chance("dark.dial", 0.5)
    for where, dial, mark in ((dark, RUBBER, PAPER), (~dark, PAPER, RUBBER)):
        buffer.paint((far < 0.8) & where, dial, nx=0.1 * x, ny=0.1 * y, u=x, v=y)
        angle = np.arctan2(x, y) * np.float32(6 / np.pi)
        tick = (np.abs(angle - np.round(angle)) < 0.16) & (far > 0.64) & (far < 0.75)
        buffer.recolour(tick & where, mark)
        for name, long, thick in (("hour", 0.38, 0.034), ("minute", 0.58, 0.024)):
            turn = buffer.draw(name, 0.0, 6.28)
            rod(
                buffer,
                (0.0, 0.0),
                (r * long * np.sin(turn), r * long * np.cos(turn)),
                thick=(thick, thick * 0.7),
                surface=mark,
                where=where,
            )
