"""What the trials of a search change: drawn at random, checked before anything runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError

from data_contracts.errors import UsageError
from models.recipe import batch_for, epochs_for, views_for
from tasks.augment_settings import DRAWN, AugmentSettings
from tasks.search_space import (
    USUAL,
    Changes,
    Kind,
    Range,
    read_space,
    show,
    words_of,
)
from tasks.train_settings import TrainSettings

# Chance that a trial changes a setting: points near the defaults are worth more.
CHANGE = 0.5
PATIENCE = 100  # draws for one trial that is like no other
SURE = 5  # refusals of a choice before it is taken for impossible


def usual_space(settings: TrainSettings, *, n: int) -> list[Range]:
    """Return the ranges of `USUAL`, less what is not at its default and what cannot be.

    Args:
        settings: The defaults of the search.
        n: Training images.
    """
    kept = []
    usual = type(settings).model_fields
    for range_ in read_space(USUAL):
        name = range_.key.split(".")[1]
        # Not what is set: a form sends every setting.
        if getattr(settings, name) != usual[name].default:
            continue
        fits = [value for value in range_.ends if _possible(settings, range_, value, n)]
        if range_.kind is None and len(set(fits)) > 1:
            kept.append(Range(range_.key, choices=tuple(fits)))
        elif range_.kind is not None and len(fits) == 2:
            kept.append(range_)
    return kept


def _possible(settings: TrainSettings, range_: Range, value: Any, n: int) -> bool:
    try:
        resolved([range_], settings, {range_.key: value}, n=n)
    except ValidationError:
        return False
    return True


def pinned(
    settings: TrainSettings, *, whole: TrainSettings, n: int, epochs: int
) -> TrainSettings:
    """Return `settings` for so many epochs, with the views of the whole training.

    Views that nobody set go by the number of epochs, and would differ from rung to
    rung. At full length the settings stay as they are, and so does the run's name.

    Args:
        settings: A trial.
        whole: The defaults of the search.
        n: Training images.
        epochs: Of the rung.
    """
    full = whole.epochs or epochs_for(n)
    update: dict[str, Any] = {} if epochs == full else {"epochs": epochs}
    if settings.augment is None and views_for(epochs) != views_for(full):
        update["augment"] = views_of(whole, n=n)
    return settings.model_copy(update=update)


def views_of(settings: TrainSettings, *, n: int) -> AugmentSettings:
    """Return the views of the whole training."""
    usual = vars(views_for(settings.epochs or epochs_for(n)))
    return settings.augment or AugmentSettings.model_validate(usual)


def changed(settings: TrainSettings, changes: Changes, *, n: int) -> TrainSettings:
    """Return `settings` with some of them changed, checked.

    Args:
        settings: The whole training.
        changes: Values by key; those in ranges of `times` are not resolved here.
        n: Training images.

    Raises:
        ValidationError: They cannot be.
    """
    values = {name: getattr(settings, name) for name in settings.model_fields_set}
    for key, value in changes.items():
        _, name, *rest = key.split(".")
        if not rest:
            values[name] = value
            continue
        inner = values.get(name, getattr(settings, name))
        if name == "augment" and inner is None:
            inner = views_of(settings, n=n)
        values[name] = _within(inner, rest, value)
    return TrainSettings.model_validate(values)


def _within(section: Any, path: Sequence[str], value: Any) -> Any:
    """Return the section as a dictionary with one value changed."""
    inner = section.model_dump() if isinstance(section, BaseModel) else dict(section)
    name, *rest = path
    if rest:
        parts = [*inner[name]]
        parts[int(rest[0])] = value
        inner[name] = parts
    else:
        inner[name] = value
    if name == "policy" and value not in (None, "none"):
        inner = {k: v for k, v in inner.items() if k not in DRAWN}
    return inner


def in_force(settings: TrainSettings, key: str, *, n: int) -> Any:
    """Return what a setting comes to where it was left to its default."""
    _, name, *rest = key.split(".")
    if name == "learning_rate":
        return settings.rate
    if name == "weight_decay":
        return settings.decay
    if name == "label_smoothing":
        return settings.smoothing
    if name == "batch_size":
        return settings.batch_size or batch_for(n)
    value: Any = getattr(settings, name)
    if name == "augment":
        value = views_of(settings, n=n)
    for part in rest:
        value = value[int(part)] if part.isdigit() else getattr(value, part)
    return value


def resolved(
    ranges: Sequence[Range], settings: TrainSettings, drawn: Changes, *, n: int
) -> Changes:
    """Return what `drawn` changes: factors multiplied out, what stays left out.

    Raises:
        ValidationError: The values cannot be together.
    """
    factors = {r.key: r for r in ranges if r.kind == Kind.times and r.key in drawn}
    plain = {key: value for key, value in drawn.items() if key not in factors}
    base = changed(settings, plain, n=n)
    plain = {key: plain[key] for key in plain if _matters(settings, plain, key, n=n)}
    scaled = {}
    for key, range_ in factors.items():
        if (now := in_force(base, key, n=n)) is None:
            raise UsageError(f"{key} has no default that a factor could multiply.")
        value = now * drawn[key]
        scaled[key] = round(value) if range_.whole else float(f"{value:.3g}")
        if scaled[key] == now:
            del scaled[key]
    changed(settings, plain | scaled, n=n)
    return plain | scaled


def _matters(settings: TrainSettings, drawn: Changes, key: str, *, n: int) -> bool:
    """Return whether a value does anything beside the others drawn with it."""
    without = {name: value for name, value in drawn.items() if name != key}
    try:
        rest = changed(settings, without, n=n)
    except ValidationError:
        return True
    both = changed(settings, drawn, n=n)
    return bool(in_force(both, key, n=n) != in_force(rest, key, n=n))


def draw_trials(
    ranges: Sequence[Range], settings: TrainSettings, *, trials: int, seed: int, n: int
) -> list[Changes]:
    """Return what each trial changes; the first changes nothing.

    Fewer come back where there are no more that differ. What cannot be together is
    drawn again. Trial i depends on the seed and on trials before it alone, so that a
    longer search begins with a shorter one.

    Args:
        ranges: From `read_space` or `usual_space`.
        settings: The defaults of the search.
        trials: How many are wanted.
        seed: Of the draws.
        n: Training images.

    Raises:
        UsageError: A value cannot be, by itself or with any that it was drawn with.
    """
    for range_ in ranges:
        for value in range_.ends:
            _check_value(range_, settings, value, n=n)
    found: list[Changes] = [{}]
    known = {"{}"}
    refused: list[tuple[Changes, str]] = []
    while ranges and len(found) < trials:
        random = np.random.default_rng((seed, 61, len(found)))
        for _ in range(PATIENCE):
            drawn = _draw(ranges, random)
            try:
                changes = resolved(ranges, settings, drawn, n=n)
            except ValidationError as error:
                refused.append((drawn, _said(error)))
                continue
            if (text := json.dumps(changes, sort_keys=True, default=str)) not in known:
                break
        else:
            break
        known.add(text)
        found.append(changes)
    _check_refused(ranges, settings, refused, found, n=n)
    return found


def _draw(ranges: Sequence[Range], random: np.random.Generator) -> Changes:
    chance, place = random.random(len(ranges)), random.random(len(ranges))
    chance[random.integers(len(ranges))] = 0  # one at least
    return {
        range_.key: range_.draw(place[i])
        for i, range_ in enumerate(ranges)
        if chance[i] < CHANGE
    }


def _check_refused(
    ranges: Sequence[Range],
    settings: TrainSettings,
    refused: Sequence[tuple[Changes, str]],
    found: Sequence[Changes],
    *,
    n: int,
) -> None:
    """Raise UsageError where a choice cannot be alone, nor was with others."""
    for range_ in ranges if len(found) > 1 else []:
        for value in range_.choices:
            without = [(d, said) for d, said in refused if d.get(range_.key) == value]
            if len(without) < SURE or _possible(settings, range_, value, n):
                continue
            if all(changes.get(range_.key) != value for changes in found):
                raise _impossible(*without[0])
    if len(found) < 2 and refused:
        raise _impossible(*refused[0])


def _impossible(drawn: Changes, said: str) -> UsageError:
    return UsageError(
        f"The search draws {words_of(drawn)}, which cannot be: {said}. Leave one of"
        " these values out of the search."
    )


def _check_value(range_: Range, settings: TrainSettings, value: Any, *, n: int) -> None:
    """Raise UsageError where a value breaks a bound of its own setting.

    What it may not be combined with is found out by the draws.
    """
    try:
        resolved([range_], settings, {range_.key: value}, n=n)
    except ValidationError as error:
        details = error.errors()
        if all(detail["type"] in ("value_error",) for detail in details):
            return
        raise UsageError(
            f"search: {range_.key}={show(value)} cannot be: {_said(error)}."
        ) from None


def _said(error: ValidationError) -> str:
    said = [detail["msg"].removeprefix("Value error, ") for detail in error.errors()]
    return "; ".join(dict.fromkeys(said)).rstrip(".")
