"""The settings of training that a search may change, and the values to try."""

from __future__ import annotations

import math
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from data_contracts.errors import UsageError
from tasks.train_settings import TrainSettings

Changes = dict[str, Any]
Space = Mapping[str, Sequence[float | str]]


class Kind(StrEnum):
    """How a value between two ends is drawn."""

    linear = "linear"
    log = "log"
    times = "times"


# What a search leaves as it is, and why.
HELD = {
    "epochs": "the rungs set it",
    "seed": "the finals vary it",
    "max_minutes": "runs cut by a clock cannot be compared",
    "feed": "it changes no bit of the network",
    "head": "it corrects a finished network",
    "thresholds": "it corrects a finished network",
    "replay": "it belongs to updates",
    "network.test_scales": "it asks a finished network",
    "network.test_flip": "it asks a finished network",
    "checkpoint_minutes": "it changes no bit of the network",
    "profile": "it changes no bit of the network",
    "shard": "it changes rounding alone",
    "ensemble": "a search compares single networks",
    "adversarial": "trials are judged on plain images, which attacks only cost",
    "probe": "it goes with what a start needs",
}
# `times` multiplies what is in force, so that every optimiser has its own rates. Muon
# counts twice: it was the best of them where they were compared (docs/training.md).
USUAL: dict[str, list[float | str]] = {
    "train.optimizer": ["muon", "muon", "adamw", "sgd"],
    "train.learning_rate": [0.25, 4, "times"],
    "train.weight_decay": [0.1, 10, "times"],
    "train.label_smoothing": [0, 0.05, 0.1, 0.2],
    "train.ema": [0.98, 0.99, 0.995, 0.998],
    "train.batch_size": [0.5, 2, "times"],
    "train.augment.zoom.0": [0.25, 0.8, "linear"],
    "train.augment.mixup": [0, 0.5, "linear"],
    "train.augment.cutmix": [0, 0.5, "linear"],
}


@dataclass(frozen=True)
class Range:
    """What one setting is drawn from: choices, or two ends and a kind."""

    key: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    kind: Kind | None = None
    whole: bool = False

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values that must be possible for all others to be."""
        return self.choices if self.kind is None else (self.low, self.high)

    def draw(self, place: float) -> Any:
        """Return the value at `place`, 0 to 1, of the range."""
        if self.kind is None:
            return self.choices[int(place * len(self.choices))]
        if self.kind == Kind.linear:
            value = self.low + place * (self.high - self.low)
        else:
            value = self.low * (self.high / self.low) ** place
        if self.kind == Kind.times and self.whole:  # a batch stays a power of two
            return 2.0 ** round(math.log2(value))
        return round(value) if self.whole else float(f"{value:.3g}")


def read_space(space: Space) -> list[Range]:
    """Return the ranges of a search by their whole keys.

    Raises:
        UsageError: A key names no setting of training, or its range is none.
    """
    known = dict(_paths(TrainSettings, "train"))
    found: dict[str, Range] = {}
    for name, values in space.items():
        key = _whole(name, known)
        if key in found:
            raise UsageError(f"search.{name}: {key} is given twice. Keep one.")
        found[key] = _range(name, key, values, known[key])
    return [found[key] for key in sorted(found)]


def _whole(name: str, known: Mapping[str, Any]) -> str:
    ends = [key for key in known if key == name or key.endswith(f".{name}")]
    if name in known or len(ends) == 1:
        key = name if name in known else ends[0]
        own = key.removeprefix("train.")
        if why := HELD.get(own) or HELD.get(own.split(".")[0]):
            raise UsageError(f"search.{name} cannot be searched: {why}. Leave it out.")
        return key
    close = ends or get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise UsageError(
        f"search.{name} names no setting of training by its path, such as"
        f" search.train.augment.mixup.{hint} `sightline train --help` lists them."
    )


def _range(name: str, key: str, values: Sequence[float | str], kind: Any) -> Range:
    whole = _is_whole(kind)
    shown = f"search.{name}={','.join(map(show, values))}"
    if not values or values[-1] not in set(Kind):
        if len(values) < 2:
            raise UsageError(
                f"{shown}: give two values or more to choose from, or LOW,HIGH and"
                f" one of {', '.join(Kind)}."
            )
        plain = tuple(_plain(value, kind) for value in values)
        if _is_number(kind) and isinstance(plain[-1], str):
            raise UsageError(
                f"{shown}: {plain[-1]} is no number, and no way to draw one, which are"
                f" {', '.join(Kind)}."
            )
        return Range(key, choices=plain)
    try:
        low, high = (float(value) for value in values[:-1])
    except ValueError:
        raise UsageError(
            f"{shown}: a range is two numbers and one of {', '.join(Kind)}."
        ) from None
    scale = Kind(str(values[-1]))
    if not low < high or (scale != Kind.linear and low <= 0):
        above = "" if scale == Kind.linear else ", both above 0"
        raise UsageError(f"{shown}: a range goes from low to high{above}.")
    return Range(key, low=low, high=high, kind=scale, whole=whole)


def _plain(value: float | str, kind: Any) -> Any:
    if isinstance(value, str) and value.lower() in ("none", "null", "~"):
        return None
    if isinstance(value, float) and str in _members(kind):  # freeze=1 is text
        return show(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def show(value: Any) -> str:
    """Return a value as someone would type it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _paths(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, Any]]:
    """List the settings of `model` by dotted key, parts of fixed tuples included."""
    for name, field in model.model_fields.items():
        key, kind = f"{prefix}.{name}", field.annotation
        section = _section(kind)
        if section is not None:
            yield from _paths(section, key)
            continue
        yield key, kind
        if get_origin(kind) is tuple and Ellipsis not in get_args(kind):
            for place, item in enumerate(get_args(kind)):
                yield f"{key}.{place}", item


def _members(kind: Any) -> tuple[Any, ...]:
    joined = get_origin(kind) in (Union, types.UnionType)
    return get_args(kind) if joined else (kind,)


def _section(kind: Any) -> type[BaseModel] | None:
    found = [k for k in _members(kind) if isinstance(k, type)]
    return next((k for k in found if issubclass(k, BaseModel)), None)


def _is_whole(kind: Any) -> bool:
    return int in _members(kind)


def _is_number(kind: Any) -> bool:
    return set(_members(kind)) <= {int, float, type(None)}


def words_of(changes: Changes) -> str:
    """Return what a trial changes in words, `the defaults` for nothing."""
    shown = (f"{key.removeprefix('train.')}={show(v)}" for key, v in changes.items())
    return " ".join(shown) or "the defaults"
