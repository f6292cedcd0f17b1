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
# A gap that matters, the largest that "about as well" may hide, and a training accuracy
# that leaves much unlearnt.
GAP, CLOSE, LEARNT = 0.10, 0.15, 0.90
# A rise that is worth further epochs.
RISE = 0.01
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
    scatter around the line, larger where neighbouring epochs go together (a first-order
    autoregression, whose coefficient is that of the residuals), and that of a paired
    change of so many images, at least the rise itself over their number. It must go on
    in the last epochs, too.
    """
    last = max(round(len(history) * END), 1)
    tail = [line for line in history[-last:] if line["val_top1"] is not None]
    if len(tail) < 5:
        return 0.0, last, False
    y = np.array([line["val_top1"] for line in tail])
    fit = stats.linregress(np.arange(len(y)), y)
    length = len(y) - 1
    rise = float(fit.slope) * length
    left = y - fit.intercept - fit.slope * np.arange(len(y))
    alike = float(left[1:] @ left[:-1]) / max(float(left @ left), 1e-12)
    # Estimates from short series are too low (Kendall 1954).
    alike = float(np.clip(alike + (1 + 4 * alike) / len(y), 0, 0.95))
    scatter = float(fit.stderr) * length
    variance = scatter**2 * (1 + alike) / (1 - alike)
    variance += max(rise, 0) / tail[-1]["val_images"]
    part = max(len(y) // 3, 1)
    goes_on = y[-part:].mean() > y[-2 * part : -part].mean() + RISE / 4
    sure = rise > 2 * float(np.sqrt(variance)) and rise >= RISE
    return rise, last, bool(sure and goes_on)


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
    found = [_sentence(verdict, gap)]
    if rising:
        found.append(
            f"Validation gained {number(rise, 'points')} over the last {last} epochs,"
            " in part because the learning rate falls; more epochs (train.epochs) may"
            " bring more."
        )
    found += [
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
    if gap.value > GAP and gap.low > 0:
        return FitVerdict.overfits
    if rising:
        return FitVerdict.rising
    if train.high < LEARNT:
        return FitVerdict.underfits
    return FitVerdict.fine if gap.high < CLOSE else FitVerdict.unknown


def _sentence(verdict: FitVerdict, gap: Estimate) -> str:
    if verdict == FitVerdict.rising:
        return "It is still rising."
    if verdict == FitVerdict.overfits:
        return (
            "It overfits: it knows its training images better than others, by about"
            f" {number(gap.value, 'points')}. More images, stronger views"
            " (train.augment), more weight decay or a smaller network narrow such a"
            " gap."
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
    nothing = " It may bring nothing." if more.low < 5e-4 else ""
    return (
        "Would more images help? Heads on this network's features, fitted on parts of"
        " the training images, say that twice as many would bring about"
        f" {number(more.value, 'points', signed=True)}"
        f" {interval(more.low, more.high, 'points')} to a head.{nothing} The features"
        " have seen all of these images, so the network itself may gain more."
    )


def _told(figure: Estimate) -> str:
    return f"{number(figure.value)} {interval(figure.low, figure.high)}"
