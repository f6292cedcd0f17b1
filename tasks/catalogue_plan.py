"""What every picture of the embedded catalogue shows, and which knobs hit it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.catalogue_settings import (
    BROKEN,
    COLOUR_NAMES,
    COLOURS,
    KINDS,
    LOOKALIKE,
    MATERIALS,
    PATTERNS,
    USELESS,
    CatalogueSettings,
    LabelNoise,
    SensorNoise,
)

Array = NDArray[Any]

# Chance of each material (matte, glossy, metal, wood, fabric, leather) by kind.
_MADE_OF = np.array(
    [
        (4, 5, 2, 0, 0, 0),
        (4, 4, 2, 3, 0, 0),
        (3, 5, 3, 0, 0, 0),
        (3, 6, 3, 0, 0, 0),
        (4, 5, 1, 2, 0, 0),
        (3, 2, 2, 0, 5, 0),
        (2, 2, 2, 6, 2, 0),
        (5, 3, 0, 0, 2, 3),
        (0, 1, 0, 0, 5, 5),
        (1, 0, 0, 0, 6, 3),
        (1, 1, 0, 0, 5, 4),
        (2, 1, 4, 0, 2, 5),
    ],
    np.float64,
)

# Chance of each colour by material; the order is that of COLOURS.
_DYED = np.array(
    [
        (1, 1, 1, 1, 1, 1, 1, 1, 0.6, 0.8, 1, 0.7),
        (1.2, 1, 1, 1, 1, 1.2, 0.8, 0.8, 0.5, 1, 1, 0.4),
        (0.6, 0.7, 1, 0.4, 0.6, 0.8, 0.3, 0.4, 0.6, 1.2, 0.6, 3),
        (0.7, 1.4, 0.8, 0.3, 0.2, 0.3, 0.1, 0.1, 5, 0.8, 0.7, 0.3),
        (1, 0.8, 1, 1, 1, 1.2, 0.8, 1, 0.6, 0.9, 1, 0.8),
        (1, 0.8, 0.4, 0.6, 0.4, 0.6, 0.4, 0.5, 3, 2, 0.7, 0.5),
    ]
)

_PRINTED = np.array(
    [
        (4, 2, 2, 2),
        (4, 2, 2, 2),
        (8, 1, 1, 1),
        (9, 1, 0.5, 0.5),
        (3, 2.5, 2.2, 2.5),
        (7, 1, 1, 1),
    ]
)

# A later era: darker and cooler colours, more metal, busier prints.
_ERA_COLOURS = np.array([0.4, 0.3, 0.2, 1.5, 3, 2, 3, 0.4, 0.5, 3, 0.3, 2])

# Square roots of distinct primes: jointly equidistributed steps, so that each realised
# share is near exact for any number of rows and knobs do not move together (Weyl 1916).
_STEPS = {
    "kind": 2.0,
    "street": 3.0,
    "label_noise": 5.0,
    "occluders": 7.0,
    "duplicates": 11.0,
    "broken": 13.0,
    "useless": 17.0,
    "sensor_noise": 19.0,
    "split": 23.0,
}


@dataclass(frozen=True)
class Dice:
    """Random draws addressed by seed, row and name, in any order and any batch."""

    seed: int
    rows: Array

    def between(
        self, name: str, low: ArrayLike, high: ArrayLike, *, shape: tuple[int, ...] = ()
    ) -> Array:
        """Draw (rows, *shape) uniform float32 from `low` to `high`."""
        cells = np.arange(int(np.prod(shape, dtype=np.int64)), dtype=np.uint64)
        salt = np.uint64((self.seed << 32) | zlib.crc32(name.encode()))
        keys = _mix(_mix(self.rows.astype(np.uint64) ^ _mix(salt))[:, None] + cells)
        unit = (keys >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
        unit = unit.reshape(len(self.rows), *shape)
        start = np.asarray(low, np.float32)
        return np.asarray(start + unit * (np.asarray(high, np.float32) - start))

    def pick(self, name: str, weights: ArrayLike) -> Array:
        """Draw an index for each row by `weights`, (k,) or (rows, k)."""
        return choose(self.between(name, 0.0, 1.0), weights)


def _mix(keys: Array | np.uint64) -> Any:
    """Scramble 64-bit keys (the finaliser of SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        keys = (keys + np.uint64(0x9E3779B97F4A7C15)) & np.uint64(2**64 - 1)
        keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return keys ^ (keys >> np.uint64(31))


def choose(unit: Array, weights: ArrayLike) -> Array:
    """Map uniform draws to indices with chances in proportion to `weights`."""
    edges = np.cumsum(np.atleast_2d(np.asarray(weights, np.float64)), axis=1)
    edges /= edges[:, -1:]
    return np.asarray((unit[:, None] >= edges[:, :-1]).sum(1), np.int64)


def _even(settings: CatalogueSettings, rows: Array, knob: str) -> Array:
    """Return one number in [0, 1) per row that fills the interval evenly."""
    start = Dice(settings.seed, np.zeros(1)).between(f"even.{knob}", 0.0, 1.0)[0]
    return np.asarray((start + rows * np.sqrt(_STEPS[knob])) % 1.0)


@dataclass(frozen=True)
class Plan:
    """Truth about some rows, one entry per row; indices refer to the tuples above."""

    rows: Array
    source: Array  # the row whose picture is shown: the row itself unless a duplicate
    kind: Array  # into KINDS
    given: Array  # into KINDS; differs from `kind` where the label is wrong
    colour: Array
    accent: Array
    material: Array
    pattern: Array
    domain: Array
    size: Array  # half-extent of the product over that of the picture
    occluded: Array
    near: Array  # a duplicate that is not a byte copy
    sensor: Array  # into SENSOR, -1 none
    useless: Array  # into USELESS, -1 none
    broken: Array  # into BROKEN, -1 none
    split: Array  # into SPLITS

    def __getitem__(self, key: Any) -> Plan:
        """Select rows."""
        return Plan(**{name: column[key] for name, column in vars(self).items()})


def plan(settings: CatalogueSettings, rows: ArrayLike) -> Plan:
    """Decide what each of `rows` shows; a row is the same in whatever company."""
    rows = np.asarray(rows, np.int64).ravel() + settings.first
    dice = Dice(settings.seed, rows)
    broken = np.where(
        _even(settings, rows, "broken") < settings.broken,
        dice.pick("broken.kind", np.ones(len(BROKEN))),
        -1,
    )
    source = _sources(settings, rows)
    look = _attributes(settings, source)
    given, _ = _labels(settings, rows, look)
    fresh = source == rows
    return Plan(
        rows=rows,
        source=source,
        given=given,
        near=~fresh & (dice.between("exact", 0.0, 1.0) >= settings.exact),
        broken=np.where(fresh, broken, -1),
        split=choose(_even(settings, rows, "split"), (0.7, 0.15, 0.15)),
        **look,
    )


def _sources(settings: CatalogueSettings, rows: Array) -> Array:
    """Return for each row the earlier, sound, original row it repeats, or itself."""
    source = rows.copy()
    open_ = _even(settings, rows, "duplicates") < settings.duplicates
    dice = Dice(settings.seed, rows)
    for attempt in range(8):
        past = rows - settings.first
        back = (dice.between(f"source.{attempt}", 0.0, 1.0) * past).astype(np.int64)
        found = np.minimum(back, np.maximum(past - 1, 0)) + settings.first
        sound = (
            (past > 0)
            & (_even(settings, found, "duplicates") >= settings.duplicates)
            & (_even(settings, found, "broken") >= settings.broken)
        )
        source = np.where(open_ & sound, found, source)
        open_ = open_ & ~sound
    return source


def _attributes(settings: CatalogueSettings, rows: Array) -> dict[str, Array]:
    """Draw what the pictures of `rows` show."""
    dice = Dice(settings.seed, rows)
    drift = settings.drift
    steps = np.arange(len(settings.kinds)) / max(len(settings.kinds) - 1, 1)
    slot = choose(_even(settings, rows, "kind"), settings.imbalance**-steps)
    kind = np.array([KINDS.index(name) for name in settings.kinds])[slot]
    material = dice.pick("material", _MADE_OF[kind] * (1, 1, 1 + 2 * drift, 1, 1, 1))
    colour = dice.pick("colour", _DYED[material] * _ERA_COLOURS**drift)
    street = settings.street + 0.7 * drift * (1 - settings.street)
    domain = (_even(settings, rows, "street") < street).astype(np.int64)
    light = np.array([np.mean(rgb) for rgb in COLOURS.values()])[colour]
    on_light = (0.5, 0, 0, 1, 1, 2, 1, 0, 1, 2.5, 0, 0)
    on_dark = (0, 0.5, 1, 0, 0, 0, 0, 0.7, 0, 0, 5, 0)
    contrast = np.where(light[:, None] > 0.5, on_light, on_dark)
    useless = np.where(
        _even(settings, rows, "useless") < settings.useless,
        dice.pick("useless.kind", np.ones(len(USELESS))),
        -1,
    )
    kinds = {SensorNoise.GAUSSIAN: (1, 0), SensorNoise.IMPULSE: (0, 1)}
    return {
        "kind": kind,
        "colour": colour,
        "accent": dice.pick("accent", contrast),
        "material": material,
        "pattern": dice.pick("pattern", _PRINTED[material] * (1, 1, 1, 1 + drift)),
        "domain": domain,
        "size": np.where(
            domain == 0,
            dice.between("size.studio", 0.62, 0.84),
            dice.between("size.street", 0.48, 0.78),
        ),
        "occluded": _even(settings, rows, "occluders") < settings.occluders,
        "sensor": np.where(
            (_even(settings, rows, "sensor_noise") < settings.sensor_noise)
            & (useless < 0),
            dice.pick("sensor.kind", kinds.get(settings.sensor_noise_kind, (1, 1))),
            -1,
        ),
        "useless": useless,
    }


def _ambiguity(settings: CatalogueSettings, look: dict[str, Array]) -> Array:
    """Say how easily each picture is mistaken: small, covered, on the street."""
    partner = [KINDS.index(LOOKALIKE[name]) for name in KINDS]
    shown = np.isin(partner, [KINDS.index(name) for name in settings.kinds])
    return np.asarray(
        0.2
        + 3.0 * np.clip(0.85 - look["size"], 0.0, None)
        + 1.2 * look["occluded"]
        + 0.6 * look["domain"]
        + 0.5 * shown[look["kind"]]
    )


@lru_cache(maxsize=64)
def _ambiguity_factor(settings: CatalogueSettings) -> float:
    """Find the factor on ambiguity at which the mean chance is the rate asked for."""
    reference = _ambiguity(settings, _attributes(settings, np.arange(8192)))
    low, high = 0.0, 50.0
    for _ in range(40):
        middle = (low + high) / 2
        reached = np.minimum(reference * middle, 0.95).mean() >= settings.label_noise
        low, high = (low, middle) if reached else (middle, high)
    return high


def _labels(
    settings: CatalogueSettings, rows: Array, look: dict[str, Array]
) -> tuple[Array, Array]:
    """Return the label given to each row (into KINDS) and the chance it was wrong."""
    rate = np.full(len(rows), settings.label_noise)
    if settings.label_noise_kind == LabelNoise.INSTANCE and settings.label_noise:
        factor = _ambiguity_factor(settings)
        rate = np.minimum(_ambiguity(settings, look) * factor, 0.95)
    shown = np.array([KINDS.index(name) for name in settings.kinds])
    place = np.argmax(shown[None, :] == look["kind"][:, None], axis=1)
    if settings.label_noise_kind == LabelNoise.SYMMETRIC:
        step = 1 + Dice(settings.seed, rows).pick(
            "wrong", np.ones(max(len(shown) - 1, 1))
        )
        other = shown[(place + step) % len(shown)]
    else:
        nearest = [
            KINDS.index(LOOKALIKE[name])
            if LOOKALIKE[name] in settings.kinds
            else shown[(number + 1) % len(shown)]
            for number, name in enumerate(settings.kinds)
        ]
        other = np.array(nearest)[place]
    wrong = _even(settings, rows, "label_noise") < rate
    return np.where(wrong, other, look["kind"]), rate


def describe(rows: Plan, *, seed: int) -> list[str]:
    """Write a short description of each picture."""
    prints = ("", "striped ", "dotted ", "checked ")
    places = ("in the studio", "out on the street")
    forms = (
        "a {print}{colour} {kind} in {material}",
        "{material} {kind}, {print}{colour}",
        "{colour} {print}{material} {kind} {place}",
        "{kind} in {colour} {material}, {how}, {place}",
    )
    form = Dice(seed, rows.source).pick("text.form", np.ones(len(forms)))
    columns = zip(
        form,
        rows.kind,
        rows.colour,
        rows.material,
        rows.pattern,
        rows.domain,
        strict=True,
    )
    return [
        forms[f].format(
            print=prints[p],
            how=PATTERNS[p],
            colour=COLOUR_NAMES[c],
            kind=KINDS[k],
            material=MATERIALS[m],
            place=places[d],
        )
        for f, k, c, m, p, d in columns
    ]
