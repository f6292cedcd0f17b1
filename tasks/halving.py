"""Successive halving: which training comes next, given those that are done.

Jamieson & Talwalkar 2016 (arXiv 1502.07943). Every rung is a fresh training with the
whole schedule of its length, since a falling learning rate cut short ranks nothing; a
trial that goes up trains anew for at most 1 / (eta - 1) of its last rung more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Shortest training that ranks anything.
LEAST_EPOCHS = 2


@dataclass(frozen=True)
class Plan:
    """A search in figures.

    Attributes:
        trials: Settings that are tried; number 0 is the defaults.
        rungs: Epochs of each rung, rising; the last is the whole training.
        eta: One of so many trials goes up a rung.
        finalists: Trials, the defaults aside, that are trained anew at the end.
        seeds: Further seeds of each finalist and of the defaults.
    """

    trials: int
    rungs: tuple[int, ...]
    eta: int
    finalists: int
    seeds: int

    @property
    def widths(self) -> list[int]:
        """Trials on each rung, the defaults aside."""
        found = [self.trials - 1]
        for _ in self.rungs[1:]:
            found.append(max(found[-1] // self.eta, min(found[-1], self.finalists)))
        return found


@dataclass(frozen=True, order=True)
class Step:
    """One training: `seed` 0 searches, 1 and up judge the finalists."""

    trial: int
    epochs: int
    seed: int


# Score of each training that is done, lower is better, infinite where it failed.
Done = Mapping[Step, float]


def rungs_of(epochs: int, *, eta: int, most: int) -> tuple[int, ...]:
    """Return the epochs of at most `most` rungs, the last being `epochs`."""
    found = [epochs]
    while len(found) < most and (below := round(found[0] / eta)) >= LEAST_EPOCHS:
        found.insert(0, below)
    return tuple(found)


def next_step(plan: Plan, done: Done, *, hurry: bool = False) -> Step | None:
    """Return the next training, None at the end.

    Args:
        plan: The search.
        done: Trainings so far.
        hurry: Search no further, judge those that lead; a search that judges does.
    """
    if not (hurry or any(step.seed for step in done)):
        alive = [*range(1, plan.trials)]
        for rung, epochs in enumerate(plan.rungs):
            for trial in (0, *alive):
                if (step := Step(trial, epochs, 0)) not in done:
                    return step
            if rung + 1 < len(plan.rungs):
                alive = _best(alive, done, epochs)[: plan.widths[rung + 1]]
    chosen = finalists(plan, done)
    for seed in range(1, plan.seeds + 1 if chosen else 1):
        for trial in (0, *chosen):
            if (step := Step(trial, plan.rungs[-1], seed)) not in done:
                return step
    return None


def finalists(plan: Plan, done: Done) -> list[int]:
    """Return the leading trials, the defaults aside: highest rung, then best score."""
    found: list[int] = []
    for epochs in reversed(plan.rungs):
        ran = [t for t in range(1, plan.trials) if Step(t, epochs, 0) in done]
        found += [t for t in _best(ran, done, epochs) if t not in found]
    failed = {step.trial for step, score in done.items() if math.isinf(score)}
    return [trial for trial in found if trial not in failed][: plan.finalists]


def _best(trials: Sequence[int], done: Done, epochs: int) -> list[int]:
    """Return the trials of a rung that did not fail, the best first."""
    score = {trial: done[Step(trial, epochs, 0)] for trial in trials}
    return sorted(
        (t for t in trials if math.isfinite(score[t])), key=lambda t: score[t]
    )


def epochs_of(plan: Plan) -> int:
    """Return the epochs that all trainings of the search take."""
    rungs = zip(plan.widths, plan.rungs, strict=True)
    return sum((width + 1) * epochs for width, epochs in rungs) + final_epochs(plan)


def final_epochs(plan: Plan) -> int:
    """Return the epochs that judging the finalists takes."""
    judged = min(plan.finalists, plan.trials - 1) + 1
    return judged * plan.seeds * plan.rungs[-1]


def plan_within(plan: Plan, *, seconds: float, of_epoch: float) -> Plan | None:
    """Return `plan` with as many trials as fit the time, at most its own.

    Args:
        plan: The search with the most trials.
        seconds: What all trainings may take.
        of_epoch: Seconds of an epoch.

    Returns:
        None where not even two trials fit.
    """
    for trials in range(plan.trials, 1, -1):
        fewer = Plan(trials, plan.rungs, plan.eta, plan.finalists, plan.seeds)
        if epochs_of(fewer) * of_epoch <= seconds:
            return fewer
    return None
