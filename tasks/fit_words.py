"""Over- and underfitting in words: what a gap and a curve say, and what they do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import numpy as np
from scipy import stats

from data_contracts.references import Estimate, Reference
from tasks.intervals import wilson
from tasks.wording import interval, number

LEVEL = 0.95
# Fewer validation images than this say nothing of a gap of ten points.
LEAST_VAL = 50
# A gap that matters, a training accuracy that leaves much unlearnt, and an interval
# of the gap that decides nothing.
GAP, LEARNT, WIDE = 0.10, 0.90, 0.20
# Share of the epochs over which validation still rises or does not.
END = 1 / 3


class FitVerdict(StrEnum):
    """How training went, as far as validation can tell."""

    overfits = "overfits"
    underfits = "underfits"
    rising = "still rising"
    fine = "fine"
    unknown = "cannot tell"


class FitReport(Reference):
    """Training and validation on the same kind of views, and what follows."""

    verdict: FitVerdict
    sentences: list[str]
    train: Estimate | None = None
    val: Estimate | None = None
    gap: Estimate | None = None
    more: Estimate | None = None


def gap_of(train: Estimate, val: Estimate) -> Estimate:
    """Return training less validation top-1 with Newcombe's interval (1998, method 10).

    Args:
        train: On a sample of training images.
        val: On the validation images.
    """
    value = train.value - val.value
    below = np.hypot(train.value - train.low, val.high - val.value)
    above = np.hypot(train.high - train.value, val.value - val.low)
    return Estimate(
        value=value, low=value - float(below), high=value + float(above), n=val.n
    )


def share_of(hits: float, n: float) -> Estimate:
    """Return a share with Wilson's interval; `n` need not be whole."""
    low, high = wilson(hits * n, n, level=LEVEL)
    return Estimate(value=hits, low=float(low), high=float(high), n=round(n))


def rise_of(history: Sequence[Mapping[str, Any]]) -> tuple[float, int, bool]:
    """Return how far validation top-1 rose over the last epochs, of how many, and
    whether that is more than noise.

    The rise is the slope of a line times its length. Its variance has two parts: the
    scatter around the line, and that of a paired change of so many images, at least
    the rise itself over their number.
    """
    last = max(round(len(history) * END), 1)
    tail = [line for line in history[-last:] if line["val_top1"] is not None]
    if len(tail) < 5:
        return 0.0, last, False
    y = np.array([line["val_top1"] for line in tail])
    fit = stats.linregress(np.arange(len(y)), y)
    length = len(y) - 1
    rise = float(fit.slope) * length
    variance = (float(fit.stderr) * length) ** 2 + max(rise, 0) / tail[-1]["val_images"]
    return rise, last, rise > 2 * float(np.sqrt(variance)) and rise > 0


def judge_fit(
    history: Sequence[Mapping[str, Any]],
    *,
    train: Estimate | None,
    val: Estimate | None,
    more: Estimate | None = None,
) -> FitReport:
    """Return the verdict over a training, in words.

    Args:
        history: One record an epoch.
        train: Top-1 of the kept model on plain training images.
        val: Its top-1 on the validation images.
        more: Gain of a head from twice as many images.
    """
    if train is None or val is None or val.n < LEAST_VAL:
        n = val.n if val is not None else 0
        said = (
            f"Cannot tell whether it over- or underfits: {n:,} validation images are"
            f" too few. {LEAST_VAL} are the least; a few hundred say it well."
        )
        return FitReport(verdict=FitVerdict.unknown, sentences=[said], val=val)
    gap = gap_of(train, val)
    rise, last, rising = rise_of(history)
    verdict = _verdict(train, gap, rising)
    found = [
        _sentence(verdict, gap, rise, last),
        f"It recognises {_told(train)} of plain training images and {_told(val)} of the"
        f" validation images: a gap of {number(gap.value, 'points')}"
        f" {interval(gap.low, gap.high, 'points')}.",
    ]
    if more is not None:
        found.append(more_words(more))
    return FitReport(
        verdict=verdict, sentences=found, train=train, val=val, gap=gap, more=more
    )


def _verdict(train: Estimate, gap: Estimate, rising: bool) -> FitVerdict:
    if rising:
        return FitVerdict.rising
    if gap.low < GAP < gap.high and gap.high - gap.low > WIDE:
        return FitVerdict.unknown
    if gap.value > GAP:
        return FitVerdict.overfits
    return FitVerdict.underfits if train.high < LEARNT else FitVerdict.fine


def _sentence(verdict: FitVerdict, gap: Estimate, rise: float, last: int) -> str:
    if verdict == FitVerdict.rising:
        return (
            f"Still rising: validation gained {number(rise, 'points')} over the last"
            f" {last} epochs. More epochs (train.epochs) may bring more."
        )
    if verdict == FitVerdict.overfits:
        return (
            "It overfits: it knows its training images much better than others. More"
            " images, stronger views (train.augment), more weight decay or a smaller"
            " network narrow such a gap."
        )
    if verdict == FitVerdict.underfits:
        return (
            "It underfits: it does not even know its training images well. More epochs,"
            " a higher learning rate, weaker views or a larger network learn more."
        )
    if verdict == FitVerdict.fine:
        return "It fits: new images are recognised about as well as training images."
    return (
        "Cannot tell whether it overfits: with so few validation images the gap may be"
        f" anything from {number(gap.low, 'points')} to {number(gap.high, 'points')}."
    )


def more_words(more: Estimate) -> str:
    """Say what twice as many images would bring, and how far that is to be trusted."""
    return (
        "Would more images help? Heads on this network's features, fitted on parts of"
        " the training images, say that twice as many would bring about"
        f" {number(more.value, 'points', signed=True)}"
        f" {interval(more.low, more.high, 'points')} to a head. The features have seen"
        " all of these images, so the network itself may gain more."
    )


def _told(figure: Estimate) -> str:
    return f"{number(figure.value)} {interval(figure.low, figure.high)}"
