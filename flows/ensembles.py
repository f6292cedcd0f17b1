"""Train what the settings ask for: one network, several as one, or a taught one."""

from __future__ import annotations

from data_contracts.references import DatasetRef, ModelRef
from tasks.ensemble import (
    combine_networks,
    member_settings,
    pupil_of,
    student_settings,
)
from tasks.ensemble_settings import Combine
from tasks.folds import fold_datasets
from tasks.rebalance import rebalance_model
from tasks.train import Trained, train_model
from tasks.train_settings import TrainSettings


def train_networks(
    source: DatasetRef,
    settings: TrainSettings,
    *,
    name: str,
    runs: str,
    start: ModelRef | None = None,
) -> Trained:
    """Train, and correct heads; every network is a run that resumes by itself.

    Args:
        source: A dataset after the stage `split`.
        settings: How to train.
        name: Name of the model.
        runs: Folder of all runs.
        start: Version to start from.
    """
    own = settings.ensemble
    where = {"name": name, "runs": runs}
    if own.combine == Combine.none:
        if own.teacher is None:
            trained = train_model(source, settings, **where, start=start)
            return rebalance_model(source, trained, settings)
        role = pupil_of(own.teacher, runs=runs)
    else:
        whole = train_members(source, settings, **where, start=start)
        if not own.distil:
            return whole
        role = pupil_of(whole, runs=runs)
    trained = train_model(
        source, student_settings(settings), **where, start=start, role=role
    )
    return rebalance_model(source, trained, settings)


def train_members(
    source: DatasetRef,
    settings: TrainSettings,
    *,
    name: str,
    runs: str,
    start: ModelRef | None,
) -> Trained:
    """Train the networks of an ensemble and make one model of them.

    Args: as for `train_networks`.
    """
    own = settings.ensemble
    plans = member_settings(settings, started=start is not None)
    parts = [source] * len(plans)
    if own.combine == Combine.folds:
        parts = fold_datasets(source, of=own.networks, seed=settings.seed)
    members = []
    for part, (plan, role) in zip(parts, plans, strict=True):
        member = train_model(part, plan, name=name, runs=runs, start=start, role=role)
        members.append(rebalance_model(part, member, plan))
    whole = combine_networks(source, members, own, parts=parts, freeze=settings.freeze)
    if own.as_one and not own.distil:
        return rebalance_model(source, whole, settings)
    return whole
