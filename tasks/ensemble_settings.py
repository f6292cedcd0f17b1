"""Settings of several networks that answer as one, or teach one."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Self

from pydantic import Field, model_validator

from data_contracts.config import Settings
from data_contracts.errors import UsageError
from models.recipe import Distil
from tasks.starts import VERSION_OF


class Combine(StrEnum):
    """Where several networks come from, and what becomes of them."""

    none = "none"
    soup = "soup"
    snapshots = "snapshots"
    folds = "folds"
    seeds = "seeds"


# Those that stay several networks.
STACKED = (Combine.snapshots, Combine.folds, Combine.seeds)


class EnsembleSettings(Settings):
    """Settings of ensembles, averages of weights, and distillation."""

    combine: Combine = Field(
        Combine.none,
        description="soup (their weights are averaged), snapshots (of one training),"
        " folds or seeds (trainings of their own), or none.",
    )
    networks: int = Field(
        4, ge=2, le=16, description="How many; of a soup, most that go in."
    )
    distil: bool = Field(
        False, description="Teach one network what the ensemble answers; keep that one."
    )
    teacher: str | None = Field(
        None, description="Version to learn from in its place: NAME@VERSION."
    )
    distil_weight: float = Field(
        0.9, ge=0, le=1, description="Share of the teacher in the loss."
    )
    distil_temperature: float = Field(
        2.0, gt=0, le=20, description="That softens the answers of both."
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.teacher is not None:
            if not VERSION_OF.fullmatch(self.teacher):
                raise ValueError(
                    f"teacher={self.teacher} should read NAME@VERSION, one of your own"
                )
            if self.combine != Combine.none:
                raise ValueError(
                    f"combine={self.combine} would be trained beside"
                    f" teacher={self.teacher}, and a network learns from one of the"
                    " two. Set combine=none, or leave teacher out"
                )
        elif self.distil and self.combine not in STACKED:
            raise ValueError(
                f"distil=yes teaches one network what several answer; came"
                f" combine={self.combine}. Set combine=snapshots, folds or seeds, or"
                " teacher=NAME@VERSION"
            )
        return self

    @property
    def distils(self) -> bool:
        """Whether one network is taught in the end."""
        return self.distil or self.teacher is not None

    @property
    def as_one(self) -> bool:
        """Whether heads and views are set for the whole, not for each network."""
        return self.combine in (Combine.soup, Combine.snapshots)

    @property
    def stays(self) -> bool:
        """Whether the result is several networks."""
        return self.combine in STACKED and not self.distil

    @property
    def cycles(self) -> int:
        """How often the schedule starts anew."""
        return self.networks if self.combine == Combine.snapshots else 1

    def in_force(self) -> Self:
        """Return these settings without figures of what they do not ask for."""
        idle = [] if self.distils else ["distil_weight", "distil_temperature"]
        if self.combine == Combine.none:
            idle.append("networks")
        usual = EnsembleSettings()
        return self.model_copy(update={name: getattr(usual, name) for name in idle})

    def taught(self) -> Distil:
        """Return what a teacher's answers count."""
        if not self.distils:
            return Distil()
        return Distil(self.distil_weight, self.distil_temperature)


def check_ensemble(settings: Any) -> None:
    """Raise ValueError where settings of training do not go with the ensemble's."""
    own = settings.ensemble
    if own.distils and settings.loss != "cross_entropy":
        raise ValueError(
            "a teacher's answers are part of cross-entropy; came"
            f" loss={settings.loss}. Set loss=cross_entropy"
        )
    if own.distils and settings.balance != "none":
        raise ValueError(
            f"a teacher's answers know nothing of balance={settings.balance}. Set"
            " balance=none, and correct the head instead (head=...)"
        )
    if settings.probe == "only" and (own.distils or own.combine != Combine.none):
        raise ValueError(
            "probe=only fits one head, in one way; came several networks, or a teacher."
            " Leave them out, or set probe=first"
        )
    if own.combine != Combine.snapshots:
        return
    if settings.schedule in ("constant", "schedule_free"):
        raise ValueError(
            f"combine=snapshots needs a rate that falls; came"
            f" schedule={settings.schedule}. Set schedule=cosine or one_cycle"
        )
    if settings.epochs is not None and settings.epochs < own.networks:
        raise ValueError(
            f"combine=snapshots takes an epoch a network at least; came"
            f" epochs={settings.epochs} networks={own.networks}. Raise epochs, or lower"
            " networks"
        )
    if settings.progressive < 1:
        raise ValueError(
            "combine=snapshots keeps networks from all along a training, which answer"
            " for the whole side, and early ones would have seen smaller views alone;"
            f" came progressive={settings.progressive:g}. Leave progressive out, or set"
            " combine=seeds"
        )
    if settings.unfreeze:
        raise ValueError(
            "combine=snapshots keeps networks from all along a training, and in early"
            " ones most parts would not have learnt; came"
            f" unfreeze={settings.unfreeze:g}. Leave unfreeze out, or set combine=seeds"
        )
    if settings.balance == "ldam_deferred":
        raise ValueError(
            "combine=snapshots keeps networks from all along a training, and"
            " balance=ldam_deferred weighs classes towards its end alone. Set"
            " balance=ldam, or combine=seeds"
        )
    if not own.distil and (settings.head != "trained" or settings.thresholds):
        raise ValueError(
            "combine=snapshots keeps networks of one training, whose heads are not"
            " corrected one by one. Leave head and thresholds out, or set"
            " combine=seeds, or distil=yes"
        )


def going_on(
    asked: EnsembleSettings, kept: dict[str, Any], *, champion: str
) -> EnsembleSettings:
    """Return the settings of an update: a champion of several networks stays several.

    Args:
        asked: Settings of the update; those not given are such a champion's.
        kept: Settings of the champion's ensemble; empty for an older version's.
        champion: What to call it.

    Raises:
        UsageError: Its networks cannot learn on that way.
    """
    before = EnsembleSettings.model_validate(kept)
    if asked.combine == Combine.folds:
        raise UsageError(
            "combine=folds needs networks that have not seen the images they are judged"
            f" on, and {champion} has seen all but the test split. Set combine=seeds,"
            " or train anew: sightline train combine=folds"
        )
    if not before.stays:
        return asked
    way = f"train one network from it: sightline train teacher={champion}"
    if before.combine == Combine.folds:
        raise UsageError(
            f"{champion} is {before.networks} networks of combine=folds, and new images"
            f" change who may be judged on what. Train anew, or {way}"
        )
    given = asked.model_dump(exclude_unset=True)
    fixed = {"combine": before.combine, "networks": before.networks, "teacher": None}
    came = [f"{k}={given[k]}" for k in fixed if k in given and given[k] != fixed[k]]
    if came:
        raise UsageError(
            f"{champion} is {before.networks} networks of combine={before.combine},"
            f" each of which learns on; came {' '.join(came)}. Leave that out, or {way}"
        )
    return EnsembleSettings.model_validate(before.model_dump() | given)
