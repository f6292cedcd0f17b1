"""Settings of losses and of corrections for classes of unequal size."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import Field

from data_contracts.config import Settings
from models.recipe import Balance, Loss

LOSS, BALANCE = Loss(), Balance()


class LossKind(StrEnum):
    """Losses that a network can be trained with."""

    cross_entropy = "cross_entropy"
    generalised = "generalised"
    symmetric = "symmetric"
    bootstrap = "bootstrap"
    focal = "focal"
    early_learning = "early_learning"


class BalanceKind(StrEnum):
    """Corrections for unequal classes while the network trains."""

    none = "none"
    class_sampling = "class_sampling"
    root_sampling = "root_sampling"
    oversampling = "oversampling"
    undersampling = "undersampling"
    effective = "effective"
    logit_adjusted = "logit_adjusted"
    ldam = "ldam"
    ldam_deferred = "ldam_deferred"


class HeadKind(StrEnum):
    """What becomes of the head alone, once the network is trained."""

    trained = "trained"
    post_hoc = "post_hoc"
    retrained = "retrained"
    smote = "smote"
    ensemble = "ensemble"
    bagged = "bagged"
    boosted = "boosted"


class LossDetails(Settings):
    """Figures of the losses; each is used by one of them."""

    q: float = Field(
        LOSS.q, gt=0, le=1, description="generalised: 0 is cross-entropy, 1 MAE."
    )
    alpha: float = Field(
        LOSS.alpha, ge=0, le=100, description="symmetric: weight of cross-entropy."
    )
    reverse: float = Field(
        LOSS.beta, ge=0, le=100, description="symmetric: weight of the reverse."
    )
    floor: float = Field(
        LOSS.floor, ge=-30, lt=0, description="symmetric: what stands for log 0."
    )
    trust: float = Field(
        LOSS.trust, ge=0, le=1, description="bootstrap: share of the given label."
    )
    gamma: float = Field(
        LOSS.gamma, ge=0, le=10, description="focal: how much less right ones count."
    )
    strength: float = Field(
        LOSS.strength, ge=0, le=100, description="early_learning: pull to its answers."
    )
    memory: float = Field(
        LOSS.memory, ge=0, lt=1, description="early_learning: decay of its answers."
    )

    def loss(self, kind: LossKind) -> Loss:
        """Return the loss `kind` with these figures."""
        figures = self.model_dump()
        return Loss(kind=str(kind), beta=figures.pop("reverse"), **figures)


class BalanceDetails(Settings):
    """Figures of the corrections; each is used by some of them."""

    tau: float = Field(
        BALANCE.tau, gt=0, le=4, description="logit_adjusted, post_hoc: share of prior."
    )
    beta: float = Field(
        BALANCE.beta, gt=0, lt=1, description="effective: near 1 is inverse frequency."
    )
    rarest_margin: float = Field(
        BALANCE.margin, gt=0, le=2, description="ldam: of the rarest class, a cosine."
    )
    deferred: float = Field(
        BALANCE.deferred, ge=0, le=1, description="ldam_deferred: steps before weights."
    )
    neighbours: int = Field(
        5, ge=1, le=100, description="smote: neighbours to blend an embedding with."
    )
    members: int = Field(
        5, ge=1, le=100, description="ensemble, bagged: heads, each on its own images."
    )

    def balance(self, kind: BalanceKind) -> Balance:
        """Return the correction `kind` with these figures."""
        figures = self.model_dump(exclude={"neighbours", "members"})
        margin = figures.pop("rarest_margin")
        return Balance(kind=str(kind), margin=margin, **figures)


def check_losses(settings: Any) -> None:
    """Raise ValueError where loss, balance, head and thresholds do not go together."""
    ldam = settings.balance in (BalanceKind.ldam, BalanceKind.ldam_deferred)
    if settings.balance != BalanceKind.none and settings.head != HeadKind.trained:
        raise ValueError(
            f"balance={settings.balance} and head={settings.head} would correct the"
            " same imbalance twice, which favours rare classes too much. Set one of the"
            " two: balance=none, or head=trained"
        )
    if settings.balance == BalanceKind.logit_adjusted and settings.label_smoothing:
        raise ValueError(
            "balance=logit_adjusted and label_smoothing push up rare classes twice:"
            " the share spread over all classes outweighs their prior. Leave"
            " label_smoothing out"
        )
    if settings.loss != LossKind.cross_entropy:
        if settings.label_smoothing:
            raise ValueError(
                f"label_smoothing is part of cross-entropy; loss={settings.loss} has"
                " its own target. Leave label_smoothing out"
            )
        if ldam:
            raise ValueError(
                f"balance={settings.balance} puts margins into cross-entropy; came"
                f" loss={settings.loss}. Set loss=cross_entropy, or another balance"
            )
    if ldam and settings.thresholds:
        raise ValueError(
            f"balance={settings.balance} trains a head of angles, which has no offset"
            " that thresholds could move. Set thresholds=no, or another balance"
        )
