"""Choices of how weights are stepped, and which of them go together."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from models.recipe import RATES, SCHEDULE_FREE, Recipe

RECIPE = Recipe()


class Optimizer(StrEnum):
    """Ways to step along a gradient."""

    muon = "muon"
    adamw = "adamw"
    sgd = "sgd"
    lion = "lion"


class Schedule(StrEnum):
    """Courses of the learning rate."""

    cosine = "cosine"
    one_cycle = "one_cycle"
    constant = "constant"
    schedule_free = SCHEDULE_FREE


class Precision(StrEnum):
    """What a network computes in; weights, statistics, logits and loss are float32."""

    float32 = "float32"
    bfloat16 = "bfloat16"


def told(place: int) -> str:
    """Return the defaults of each optimiser, the rate (0) or the decay (1)."""
    return ", ".join(f"{name} {value[place]:g}" for name, value in RATES.items())


def check_steps(settings: Any) -> None:
    """Raise ValueError where settings of the steps do not go together."""
    if settings.schedule == Schedule.schedule_free:
        if settings.optimizer not in (Optimizer.adamw, Optimizer.sgd):
            raise ValueError(
                "schedule=schedule_free averages the steps of adamw or sgd; came"
                f" optimizer={settings.optimizer}. Set optimizer=adamw, or another"
                " schedule"
            )
        apart = settings.freeze is not None or settings.layer_decay < 1
        if apart or settings.unfreeze:
            raise ValueError(
                "schedule=schedule_free keeps an average of all weights alike, and"
                " freeze, layer_decay and unfreeze set parts apart; came"
                f" freeze={settings.freeze} layer_decay={settings.layer_decay:g}"
                f" unfreeze={settings.unfreeze:g}. Set another schedule, or"
                " freeze=none, layer_decay=1 and unfreeze=0"
            )
        if settings.ema != RECIPE.ema:
            raise ValueError(
                "schedule=schedule_free evaluates at its own average of the weights, so"
                " that ema would be a second one. Leave ema out"
            )
    size = settings.batch_size
    if size is not None and size < 2 * settings.accumulate:
        raise ValueError(
            f"accumulate={settings.accumulate} takes a batch in parts of two images or"
            f" more; came batch_size={size}. Lower accumulate, or raise batch_size"
        )
