"""What a search came to: the finalists against the defaults, and who won."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from data_contracts.dataset import Array
from data_contracts.references import Reference
from data_contracts.store import Dataset
from tasks.halving import finalists
from tasks.intervals import Paired
from tasks.search_space import Changes
from tasks.tune import Search, Tried, judges_of, scores_of, val_rows
from tasks.tune_settings import Measure
from tasks.winner import paired_losses, winner_of


class Finalist(Reference):
    """How a finalist does against the defaults on the images that judge."""

    trial: int
    top1: float
    default_top1: float
    log_loss: float
    default_log_loss: float
    gain: float
    low: float
    high: float


class Outcome(Reference):
    """What a search came to."""

    plan: dict[str, Any]
    trials: list[Changes]
    tried: list[Tried]
    finals: list[Finalist]
    winner: int
    images: int
    measure: Measure
    sure: float = Field(description="Level of the intervals, all together.")
    short: str = Field("", description="Why there are fewer trials than asked for.")

    @property
    def failures(self) -> dict[int, str]:
        """Why trials failed."""
        return {line.trial: line.failed for line in self.tried if line.failed}


def settle(search: Search) -> Outcome:
    """Return what a finished search came to."""
    plan, tried = search.plan, search.tried
    dataset = Dataset(search.source)
    rows = val_rows(dataset)
    judged = judges_of(dataset, rows, seed=search.tune.search_seed)
    groups = dataset.column("group")[rows][judged].astype(np.int64)
    done = scores_of(tried)
    chosen = [0, *finalists(plan, done)]
    answers = {trial: _of_seeds(search, tried, trial, judged) for trial in chosen}
    by_loss = search.tune.measure == Measure.log_loss
    losses = {t: a["loss"] if by_loss else -a["hit"] for t, a in answers.items() if a}
    gains: dict[int, Paired] = {}
    if 0 in losses and len(losses) > 1:
        gains = paired_losses(losses, groups=groups, level=search.tune.sure)
    mean = {
        trial: {name: float(values.mean()) for name, values in found.items()}
        for trial, found in answers.items()
    }
    fair = {t: g for t, g in gains.items() if mean[t]["hit"] >= mean[0]["hit"]}
    return Outcome(
        plan=vars(plan),
        trials=search.trials[: plan.trials],
        tried=tried,
        finals=[
            Finalist(
                trial=trial,
                top1=mean[trial]["hit"],
                default_top1=mean[0]["hit"],
                log_loss=mean[trial]["loss"],
                default_log_loss=mean[0]["loss"],
                gain=gain.value,
                low=gain.low,
                high=gain.high,
            )
            for trial, gain in gains.items()
        ],
        winner=winner_of(fair),
        images=int(judged.sum()),
        measure=search.tune.measure,
        sure=search.tune.sure,
        short=_short(search),
    )


def _short(search: Search) -> str:
    there, asked = len(search.trials), search.tune.draws
    if there == asked:
        return ""
    return (
        f"The space holds {there} different trials, the defaults among them; up to"
        f" {asked} were to be tried."
    )


def _of_seeds(
    search: Search, tried: Sequence[Tried], trial: int, judged: Array
) -> dict[str, Array]:
    """Return loss and hit (s, n) of a trial's final runs, weighted; none if it failed.

    Args:
        search: The search.
        tried: Its trainings.
        trial: Number of the trial.
        judged: Which validation images judge.
    """
    lines = [line for line in tried if line.trial == trial and line.seed]
    if not lines or any(line.failed for line in lines):
        return {}
    folder = Path(search.folder) / "answers"
    parts = [np.load(folder / f"{line.run}.npz") for line in lines]
    mass = [part["weights"][judged] for part in parts]
    return {
        name: np.stack(
            [p[name][judged] * w / w.mean() for p, w in zip(parts, mass, strict=True)]
        )
        for name in ("loss", "hit")
    }
