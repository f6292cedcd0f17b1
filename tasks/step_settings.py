"""Choices of how weights are stepped, and which of them go together."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from models.recipe import RATES, SCHEDULE_FREE, Augment, Recipe, side_of
from models.resizing import stage_sides
from tasks.loss_settings import BalanceKind

RECIPE = Recipe()
GROWTH = ("preset", "progressive", "progressive_stages")


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


class Probe(StrEnum):
    """Whether a head is fitted to frozen features before anything is trained."""

    none = "none"
    first = "first"
    only = "only"


class Feed(StrEnum):
    """Where the training images wait."""

    auto = "auto"
    memory = "memory"
    stream = "stream"


class Shard(StrEnum):
    """Whether devices split weights, optimiser and average, or each has them whole."""

    auto = "auto"
    always = "always"
    never = "never"


# What says how epochs go, and nothing where there is none.
BY_EPOCHS = frozenset(
    "layer_decay unfreeze optimizer epochs batch_size schedule learning_rate"
    " weight_decay sam_radius accumulate precision remat warmup clip ema"
    " label_smoothing loss balance patience max_minutes augment"
    " progressive progressive_stages checkpoint_minutes profile shard".split()
)


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
    if settings.shard == Shard.always and settings.adversarial.against == "free":
        raise ValueError(
            "adversarial.against=free steps the weights several times within a step,"
            " which needs them whole; came shard=always. Leave shard out, or set"
            " adversarial.against=fgsm"
        )
    _check_skips(settings)
    size = settings.batch_size
    if size is not None and size < 2 * settings.accumulate:
        raise ValueError(
            f"accumulate={settings.accumulate} takes a batch in parts of two images or"
            f" more; came batch_size={size}. Lower accumulate, or raise batch_size"
        )


def check_probe(settings: Any) -> None:
    """Raise ValueError where a head could not be fitted to features."""
    if settings.probe == Probe.none:
        return
    if settings.init is None:
        raise ValueError(
            f"probe={settings.probe} fits a head to the features of weights that have"
            " learnt; an update and fresh weights have none such. Name some by"
            " init, or leave probe out"
        )
    if settings.balance in (BalanceKind.ldam, BalanceKind.ldam_deferred):
        raise ValueError(
            f"balance={settings.balance} trains a head of angles, which"
            f" probe={settings.probe} cannot fit. Set another balance, or probe=none"
        )
    alone = settings.probe == Probe.only
    # A form sends every setting, so what differs from its default was given.
    usual = type(settings).model_fields
    given = sorted(
        name
        for name in BY_EPOCHS & settings.model_fields_set
        if getattr(settings, name) != usual[name].default
    )
    if alone and (settings.freeze not in (None, "backbone") or given):
        said = ", ".join(given) or f"freeze={settings.freeze}"
        raise ValueError(
            "probe=only fits the head alone, in one go and without epochs; came"
            f" {said} as well. Leave that out, or set probe=first"
        )


def _check_skips(settings: Any) -> None:
    """Raise ValueError where nothing is trained that could be skipped."""
    network, alone = settings.network, settings.probe == Probe.only
    if network.drop_path and (alone or settings.freeze == "backbone"):
        still = "probe=only" if alone else "freeze=backbone"
        raise ValueError(
            f"{still} leaves every block as it is, and none is skipped; came"
            f" network.drop_path={network.drop_path:g}. Set network.drop_path=0"
        )
    if network.dropout and alone:
        raise ValueError(
            "probe=only fits the head to whole embeddings; came"
            f" network.dropout={network.dropout:g}. Set network.dropout=0, or"
            " probe=first"
        )


def growth_problem(settings: Any, image_size: int) -> str:
    """Say why progressive views of such images would not grow, "" if they do."""
    if settings.progressive == 1:
        return ""
    side = side_of(settings.augment or Augment(), image_size)
    shape = {name: getattr(settings, name) for name in GROWTH}
    if len(set(stage_sides(Recipe(**shape), side))) > 1:
        return ""
    return (
        f"progressive={settings.progressive:g} has no smaller side to start from: views"
        f" are {side} px, and preset={settings.preset} needs as many. Leave progressive"
        " out, lower it, or set a larger decode.image_size"
    )
