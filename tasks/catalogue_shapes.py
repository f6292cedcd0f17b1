"""Kitchenware and furniture of the embedded catalogue, and the choice of a shape."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tasks.catalogue_fashion import bag, hat, sneaker, watch
from tasks.catalogue_settings import KINDS
from tasks.catalogue_solids import (
    ACCENT,
    GLOW,
    PAPER,
    PLAIN,
    RUBBER,
    Buffer,
    Camera,
    disc,
    face,
    loop,
    mouth,
    revolve,
    rod,
)


def _mug(buffer: Buffer) -> None:
    tilt = buffer.draw("tilt", 0.18, 0.42)
    r = buffer.draw("radius", 0.46, 0.62)
    taper = buffer.draw("taper", 0.82, 1.04)
    high = buffer.draw("height", 0.5, 0.85)
    thick = buffer.draw("handle.thick", 0.07, 0.1)
    reach = buffer.draw("handle.reach", 0.24, 0.33)
    loop(buffer, at=(r * 0.97, high * 0.02), radii=(reach, high * 0.52), thick=thick)
    foot = r * taper
    revolve(
        buffer,
        [foot * 0.93, foot, (foot + r) / 2, r, r * 1.0],
        low=-high + 0.1,
        high=high,
        tilt=tilt,
    )
    mouth(buffer, height=high, radius=r, tilt=tilt)


def _bowl(buffer: Buffer) -> None:
    tilt = buffer.draw("tilt", 0.25, 0.48)
    r = buffer.draw("radius", 0.82, 0.96)
    deep = buffer.draw("deep", 0.5, 0.85)
    foot = buffer.draw("foot", 0.36, 0.5)
    low, high = -0.55 * deep - 0.05, 0.45 * deep
    revolve(
        buffer,
        [foot * r * 1.04, foot * r],
        low=low - 0.09,
        high=low,
        tilt=tilt,
        surface=PLAIN,
    )
    full = buffer.draw("full", 0.78, 0.9)
    inside, t = revolve(
        buffer,
        [foot * r, full * r * 0.82, full * r * 1.04, r * 0.98, r],
        low=low,
        high=high,
        tilt=tilt,
    )
    band = buffer.chance("band", 0.4)
    buffer.recolour(inside & band & (t > high - 0.1), ACCENT)
    mouth(buffer, height=high, radius=r, tilt=tilt)


def _teapot(buffer: Buffer) -> None:
    tilt = buffer.draw("tilt", 0.15, 0.35)
    r = buffer.draw("radius", 0.5, 0.62)
    tall = buffer.draw("tall", 0.75, 1.1)
    low, high = -0.55 * tall, 0.36 * tall
    loop(
        buffer,
        at=(-r * 1.02, 0.0),
        radii=(buffer.draw("handle", 0.22, 0.3), 0.36 * tall),
        thick=0.065,
    )
    tip = buffer.draw("tip", 0.3, 0.48) * tall
    rod(buffer, (r * 0.6, -0.25), (r + 0.2, 0.0), thick=(0.2, 0.12))
    rod(buffer, (r + 0.2, 0.0), (r + 0.34, tip), thick=(0.12, 0.065))
    revolve(
        buffer,
        [r * 0.62, r * 0.93, r * 1.04, r * 0.98, r * 0.8, r * 0.5],
        low=low,
        high=high,
        tilt=tilt,
    )
    lid = r * 0.56
    revolve(
        buffer,
        [lid, lid * 0.93, lid * 0.62, 0.02],
        low=high - 0.03,
        high=high + 0.2,
        tilt=tilt,
        surface=PLAIN,
    )
    top = high + 0.22
    rod(buffer, (0.0, top), (0.0, top + 0.02), thick=(0.09, 0.09), surface=ACCENT)


def _bottle(buffer: Buffer) -> None:
    tilt = buffer.draw("tilt", 0.06, 0.2)
    r = buffer.draw("radius", 0.25, 0.38)
    neck = buffer.draw("neck", 0.09, 0.13)
    # Raising the lower knots of the shoulder turns a wine bottle into a flask.
    s = buffer.draw("shoulder", 0.0, 1.0)
    inside, t = revolve(
        buffer,
        [r * 0.95, r, r, r, r, r, neck + (r - neck) * (0.6 + 0.4 * s),
         neck + (r - neck) * 0.55 * s, neck, neck, neck],
        low=-0.92,
        high=0.9,
        tilt=tilt,
    )  # fmt: skip
    label = buffer.chance("label", 0.6)
    low = buffer.draw("label.low", -0.75, -0.5)
    paper = inside & label & (t > low) & (t < low + 0.55)
    buffer.recolour(paper, PAPER)
    buffer.recolour(paper & (np.abs(t - low - 0.32) < 0.06), ACCENT)
    cap = buffer.draw("cap", 0.74, 0.84)
    revolve(
        buffer,
        [neck * 1.25, neck * 1.25],
        low=cap,
        high=0.96,
        tilt=tilt,
        surface=ACCENT,
    )
    disc(buffer, height=0.96, radius=neck * 1.25, tilt=tilt, surface=ACCENT)


def _vase(buffer: Buffer) -> None:
    tilt = buffer.draw("tilt", 0.15, 0.36)
    foot = buffer.draw("foot", 0.2, 0.4)
    belly = buffer.draw("belly", 0.42, 0.66)
    upper = buffer.draw("upper", 0.24, 0.6)
    neck = buffer.draw("neck", 0.13, 0.3)
    lip = neck * buffer.draw("lip", 1.05, 1.7)
    inside, t = revolve(
        buffer,
        [foot, (foot + belly) / 1.9, belly, upper, neck, lip],
        low=-0.85,
        high=0.8,
        tilt=tilt,
    )
    ring = buffer.chance("ring", 0.45)
    at = buffer.draw("ring.at", -0.5, 0.4)
    buffer.recolour(inside & ring & (np.abs(t - at) < 0.06), ACCENT)
    mouth(buffer, height=0.8, radius=lip, tilt=tilt)


def _lamp(buffer: Buffer) -> None:
    tilt = buffer.draw("tilt", 0.1, 0.26)
    base = buffer.draw("base", 0.3, 0.46)
    revolve(
        buffer,
        [base, base * 0.96, base * 0.5],
        low=-0.92,
        high=-0.78,
        tilt=tilt,
        surface=ACCENT,
    )
    stem = buffer.draw("stem", 0.035, 0.06)
    turned = buffer.draw("turned", 0.0, 0.16) * buffer.chance("is.turned", 0.5)
    revolve(
        buffer,
        [
            stem * 1.6,
            stem + turned * 0.4,
            stem + turned,
            stem + turned * 0.5,
            stem,
            stem,
        ],
        low=-0.8,
        high=0.2,
        tilt=tilt,
        surface=ACCENT,
    )
    wide = buffer.draw("shade", 0.5, 0.7)
    top = wide * buffer.draw("shade.top", 0.4, 0.85)
    low = buffer.draw("shade.low", -0.05, 0.15)
    revolve(buffer, [wide, top], low=low, high=0.85, tilt=tilt)
    disc(buffer, height=0.85, radius=top, tilt=tilt, surface=PLAIN)
    disc(buffer, height=0.85, radius=top * 0.9, tilt=tilt, surface=GLOW, hollow=True)


def _chair(buffer: Buffer) -> None:
    camera = Camera(buffer.draw("yaw", 0.3, 0.95), buffer.draw("tilt", 0.25, 0.42))
    w, seat = buffer.draw("width", 0.36, 0.46), buffer.draw("seat", -0.22, -0.05)
    leg, splay = buffer.draw("leg", 0.04, 0.06), buffer.draw("splay", 1.0, 1.2)
    floor, top = -0.85, buffer.draw("top", 0.8, 0.98)
    for x, z in ((-1.0, -1.0), (1.0, -1.0), (-1.0, 1.0), (1.0, 1.0)):
        rod(
            buffer,
            camera.see(x * w * 0.88, seat, z * w * 0.88),
            camera.see(x * w * 0.88 * splay, floor, z * w * 0.88 * splay),
            thick=(leg, leg * 0.7),
            surface=ACCENT,
        )
    normal = camera.lit(0, 0, 1)
    solid = buffer.chance("solid", 0.5)
    low = np.where(solid, seat + 0.1, seat)
    for x in (-0.92, -0.31, 0.31, 0.92):
        rod(
            buffer,
            camera.see(x * w, seat, -w),
            camera.see(x * w, top - 0.04, -w * 1.12),
            thick=(leg * 0.9, leg * 0.8),
            where=~solid | (abs(x) > 0.5),
        )
    low = np.where(solid, seat + 0.15, top - 0.3)
    face(
        buffer,
        camera.see(-w, low, -w),
        camera.see(2 * w, 0, 0),
        camera.see(0, top - low, -0.12 * w),
        normal=normal,
    )
    for corner, first, facing in (
        ((-w, seat - 0.1, w), (2 * w, 0, 0), (0.0, 0.0, 1.0)),
        ((-w, seat - 0.1, -w), (0, 0, 2 * w), (-1.0, 0.0, 0.0)),
    ):
        face(
            buffer,
            camera.see(*corner),
            camera.see(*first),
            camera.see(0, 0.1, 0),
            normal=camera.lit(*facing),
            surface=PLAIN,
        )
    face(
        buffer,
        camera.see(-w, seat, -w),
        camera.see(2 * w, 0, 0),
        camera.see(0, 0, 2 * w),
        normal=camera.lit(0, 1, 0),
    )


def _book(buffer: Buffer) -> None:
    camera = Camera(buffer.draw("yaw", 0.25, 0.8), buffer.draw("tilt", 0.15, 0.4))
    w, h = buffer.draw("width", 0.5, 0.68), buffer.draw("height", 0.68, 0.84)
    d = buffer.draw("depth", 0.07, 0.2)
    up = camera.see(0, 2 * h, 0)
    pages = buffer.chance("pages", 0.5)
    inside, a, _ = face(
        buffer,
        camera.see(-w, -h, -d),
        camera.see(0, 0, 2 * d),
        up,
        normal=camera.lit(-1, 0, 0),
        surface=PLAIN,
    )
    buffer.recolour(inside & pages & (np.abs(a - 0.5) < 0.42), PAPER)
    inside, _, c = face(
        buffer,
        camera.see(-w, h, -d),
        camera.see(2 * w, 0, 0),
        camera.see(0, 0, 2 * d),
        normal=camera.lit(0, 1, 0),
        surface=PAPER,
    )
    buffer.recolour(inside & (np.abs(c - 0.5) > 0.43), PLAIN)
    inside, a, c = face(
        buffer,
        camera.see(-w, -h, d),
        camera.see(2 * w, 0, 0),
        up,
        normal=camera.lit(0, 0, 1),
    )
    at = buffer.draw("title", 0.55, 0.78)
    plate = buffer.chance("plate", 0.6)
    middle = np.abs(a - 0.52)
    buffer.recolour(inside & plate & (middle < 0.34) & (np.abs(c - at) < 0.13), PAPER)
    for line, wide in ((0.05, 0.26), (-0.045, 0.17)):
        buffer.recolour(
            inside & (middle < wide) & (np.abs(c - at - line) < 0.028),
            RUBBER if line > 0 else ACCENT,
        )
    buffer.recolour(inside & (a < 0.06), ACCENT)


_SHAPES: dict[str, Callable[[Buffer], None]] = dict(
    zip(
        KINDS,
        (_mug, _bowl, _teapot, _bottle, _vase, _lamp, _chair, _book, bag, hat,
         sneaker, watch),
        strict=True,
    )
)  # fmt: skip


def draw_kind(buffer: Buffer, kind: int) -> None:
    """Draw products of one kind (index into KINDS), one per entry of the buffer."""
    _SHAPES[KINDS[kind]](buffer)
