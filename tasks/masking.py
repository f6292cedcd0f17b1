"""Signs that gradients hide how weak a network is (arXiv 1802.00420)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from data_contracts.dataset import Array
from data_contracts.references import Verdict
from tasks.audit_outcome import Alarm, CurvePoint
from tasks.intervals import paired_change
from tasks.scores import share_of
from tasks.wording import estimate, interval, number

HUGE = 64  # levels; every image can be made grey by twice that
MUCH = 0.01  # share of images that may tell against gradients without an alarm


def alarms(
    right: Mapping[str, Array],
    curve: Sequence[CurvePoint],
    *,
    silent: Array | None,
    broken: Array | None,
    chance: float,
    groups: Array,
    level: float,
) -> list[Alarm]:
    """Return every sign and whether it was seen.

    Args:
        right: Whether each image (n,) is still right, by attack; attacks that were not
            run are missing. Square's is of what APGD on both losses left.
        curve: Accuracy by size of the change.
        silent: Whether the loss of each image has no slope at all (n,), None where
            the network cannot be differentiated.
        broken: Whether its slope is no number (n,), likewise.
        chance: Accuracy of guessing.
        groups: Duplicate group of each (n,).
        level: Of intervals.
    """
    return [
        _single_step(right, groups, level),
        _black_box(right, groups, level),
        _unbounded(curve, chance),
        _rising(curve),
        _share("no slope", "is flat and shows no way", silent, groups, level),
        _share("slope is no number", "has no slope in numbers", broken, groups, level),
    ]


def _single_step(right: Mapping[str, Array], groups: Array, level: float) -> Alarm:
    name = "one step beats many"
    if not {"fgsm", "pgd"} <= set(right):
        return _not_run(name)
    apart = right["pgd"].astype(np.float64) - right["fgsm"]
    change = paired_change(apart, groups=groups, level=level)
    more = number(change.value, "points", signed=True)
    said = (
        f"One step leaves {number(right['fgsm'].mean())} right, many leave"
        f" {number(right['pgd'].mean())}: {more}"
        f" {interval(change.low, change.high, 'points')}."
    )
    return _alarm(name, change.low > 0, said)


def _black_box(right: Mapping[str, Array], groups: Array, level: float) -> Alarm:
    name = "Square breaks what gradients do not"
    if not {"apgd", "standard"} <= set(right):
        return _not_run(name)
    more = right["apgd"] & ~right["standard"]
    share = share_of(more.astype(np.float64), groups=groups, level=level)
    said = f"Beyond APGD, Square breaks {estimate(share)} of the images."
    return _alarm(name, share.low > MUCH, said)


def _unbounded(curve: Sequence[CurvePoint], chance: float) -> Alarm:
    name = "a huge change does not break everything"
    if not curve:
        return _not_run(name)
    last = max(curve, key=lambda point: point.levels)
    if last.levels < HUGE and last.accuracy.value > chance:
        return _not_run(
            name, f"The curve ends at {last.levels:g} levels, above chance."
        )
    said = (
        f"At {last.levels:g} of 255 levels {estimate(last.accuracy)} are right; chance"
        f" is {number(chance)}."
    )
    return _alarm(name, last.accuracy.low > chance, said)


def _rising(curve: Sequence[CurvePoint]) -> Alarm:
    name = "more change, more right"
    if len(curve) < 2:
        return _not_run(name, f"The curve has {len(curve)} of the two points needed.")
    steps = sorted(curve, key=lambda point: point.levels)
    worse = [
        (before, after)
        for before, after in itertools.pairwise(steps)
        if after.accuracy.low > before.accuracy.high
    ]
    said = "Accuracy falls, or stays, as the change grows."
    if worse:
        before, after = worse[0]
        said = (
            f"At {after.levels:g} levels {estimate(after.accuracy)} are right, at"
            f" {before.levels:g} only {estimate(before.accuracy)}."
        )
    return _alarm(name, bool(worse), said)


def _share(
    name: str, how: str, seen: Array | None, groups: Array, level: float
) -> Alarm:
    if seen is None:
        return _not_run(name, "The network cannot be differentiated.")
    share = share_of(seen.astype(np.float64), groups=groups, level=level)
    said = f"At {estimate(share)} of the images the loss {how}."
    return _alarm(name, share.value > MUCH, said)


def _alarm(name: str, raised: bool, said: str) -> Alarm:
    return Alarm(
        alarm=name, verdict=Verdict.FAIL if raised else Verdict.PASS, detail=said
    )


def _not_run(name: str, why: str = "An attack that it compares was not run.") -> Alarm:
    return Alarm(alarm=name, verdict=Verdict.NOT_RUN, detail=why)
