"""Shoppers of the embedded catalogue: hidden tastes, and the logs that follow them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.catalogue_plan import Array, Dice, Plan
from tasks.catalogue_settings import (
    COLOURS,
    KINDS,
    MATERIALS,
    PATTERNS,
    CatalogueSettings,
)

FEATURES = (*KINDS, *COLOURS, *MATERIALS, *PATTERNS)
EVENT_KINDS = ("click", "purchase")
REGIONS = ("north", "east", "south", "west")
_WEIGHTS = np.repeat((1.3, 1.0, 0.7, 0.8), [len(KINDS), len(COLOURS), 6, 4])
_PERSONAS = 8
_SEEN = 20  # pictures a person looks over before clicking one
_DAYS = 90
_START = np.datetime64("2025-01-01", "ms")
_DAY = 86_400_000
_BLOCK = 65_536


@dataclass(frozen=True)
class Tastes:
    """What users like, hidden from every model."""

    personas: Array  # (personas, features)
    persona: Array  # (users,) into personas
    tastes: Array  # (users, features)
    activity: Array  # (users,) share of all events


@dataclass(frozen=True)
class Log:
    """Clicks and purchases in order of time, one entry per event."""

    user: Array  # int64 number of the user
    item: Array  # int64 index into the pictures on offer
    event: Array  # int64 into EVENT_KINDS
    time: Array  # datetime64[ms]


def draw_tastes(settings: CatalogueSettings) -> Tastes:
    """Draw each user's taste: a persona's, with a personal part.

    Tastes depend on the seed alone, so users keep theirs from era to era; drift moves
    them.
    """
    rng = np.random.default_rng([settings.seed, 1])
    size = (_PERSONAS, len(FEATURES))
    personas = rng.normal(size=size) * (rng.random(size) < 0.5) * 1.4
    persona = rng.integers(_PERSONAS, size=settings.users)
    own = rng.normal(size=(settings.users, len(FEATURES)))
    later = rng.normal(size=(settings.users, len(FEATURES)))
    tastes = personas[persona] + 0.6 * own + settings.drift * later
    activity = rng.pareto(1.8, settings.users) + 0.3
    return Tastes(
        personas=(personas * _WEIGHTS).astype(np.float32),
        persona=persona,
        tastes=(tastes * _WEIGHTS).astype(np.float32),
        activity=activity / max(activity.sum(), 1e-9),
    )


def feature_ids(items: Plan) -> Array:
    """Return (n, 4) indices into FEATURES: kind, colour, material, pattern."""
    starts = np.cumsum([0, len(KINDS), len(COLOURS), len(MATERIALS)])
    columns = (items.kind, items.colour, items.material, items.pattern)
    return np.asarray(np.stack(columns, 1) + starts)


def affinity(tastes: Array, users: Array, features: Array) -> Array:
    """Return how much each user likes an item; the last axis of `features` is summed.

    `users` (n,) goes with `features` (n, ..., 4).
    """
    rows = users.reshape(-1, *[1] * (features.ndim - 1))
    return np.asarray(tastes[rows, features].sum(-1))


def draw_log(settings: CatalogueSettings, items: Plan, people: Tastes) -> Log:
    """Let users click and buy: a softmax choice among pictures shown, then a purchase.

    Pictures are shown by popularity; a click goes to the picture of highest taste plus
    Gumbel noise, which is a draw from the softmax (Gumbel 1954).
    """
    rng = np.random.default_rng([settings.seed, 2, settings.first])
    clicks = settings.events if settings.users and len(items.rows) else 0
    shares = people.activity if clicks else np.ones(1)
    user = rng.choice(len(shares), clicks, p=shares)
    fame = Dice(settings.seed, items.source).between("fame", 0.0, 1.0)
    edges = np.cumsum(np.exp(2.0 * fame.astype(np.float64)))
    ids = feature_ids(items)
    blocks = np.split(user, range(_BLOCK, clicks, _BLOCK))
    chosen = [_click(rng, block, edges, ids, people.tastes) for block in blocks]
    item, liking = (np.concatenate(column) for column in zip(*chosen, strict=True))
    day = rng.integers(_DAYS, size=clicks)
    hour = rng.normal(0.62, 0.17, size=clicks) % 1.0  # most shop in the afternoon
    start = _START + np.timedelta64(_DAYS if settings.first else 0, "D")
    time = start + ((day + hour) * _DAY).astype("timedelta64[ms]")
    buys = np.flatnonzero(rng.random(clicks) < 1 / (1 + np.exp(3.2 - 0.8 * liking)))
    wait = rng.integers(30_000, 1_800_000, size=len(buys)).astype("timedelta64[ms]")
    log = Log(
        user=np.concatenate([user, user[buys]]),
        item=np.concatenate([item, item[buys]]),
        event=np.repeat([0, 1], [clicks, len(buys)]),
        time=np.concatenate([time, time[buys] + wait]),
    )
    order = np.argsort(log.time, kind="stable")[: settings.events]
    return Log(**{name: column[order] for name, column in vars(log).items()})


def _click(
    rng: np.random.Generator, user: Array, edges: Array, ids: Array, tastes: Array
) -> tuple[Array, Array]:
    """Return the item that each visit clicks, and how much its user likes it."""
    if not len(user):
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    draws = rng.random((len(user), _SEEN)) * edges[-1]
    shown = np.minimum(np.searchsorted(edges, draws, side="right"), len(edges) - 1)
    liking = affinity(tastes, user, ids[shown])
    best = np.argmax(liking + rng.gumbel(size=liking.shape), axis=1)
    at = np.arange(len(user))
    return shown[at, best], liking[at, best]
