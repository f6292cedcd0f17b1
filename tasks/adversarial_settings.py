"""Settings of attacks, and of training under attack."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import Field

from data_contracts.config import Settings
from models.attacks.settings import Attack
from models.recipe import Adversarial

LEVELS = 255
USUAL, RECIPE = Attack(), Adversarial()


class AttackName(StrEnum):
    """Ways to look for a small change that turns an answer wrong."""

    fgsm = "fgsm"
    pgd = "pgd"
    apgd_ce = "apgd_ce"
    apgd_dlr = "apgd_dlr"
    apgd_dlr_targeted = "apgd_dlr_targeted"
    square = "square"
    standard = "standard"


class Norm(StrEnum):
    """How a change is measured: by its largest sample, or by its length."""

    linf = "linf"
    l2 = "l2"


class AdversarialMethod(StrEnum):
    """Ways to learn under attack."""

    none = "none"
    fgsm = "fgsm"
    pgd = "pgd"
    trades = "trades"
    free = "free"


class AttackSettings(Settings):
    """An attack on a finished model."""

    attack: AttackName = Field(
        AttackName(USUAL.method),
        description="How: standard is the worst of APGD on two losses and Square.",
    )
    norm: Norm = Field(Norm(USUAL.norm), description="How a change is measured.")
    epsilon: float = Field(
        LEVELS * USUAL.eps,
        ge=0,
        le=25_500,
        description="Largest change, of 255 levels: 4 is 4/255.",
    )
    steps: int = Field(USUAL.steps, ge=1, le=1_000, description="Of PGD and of APGD.")
    restarts: int = Field(
        USUAL.restarts, ge=1, le=100, description="Attempts of PGD and APGD."
    )
    targets: int = Field(
        USUAL.targets, ge=1, description="Classes that targeted APGD aims at."
    )
    queries: int = Field(
        USUAL.queries, ge=1, le=100_000, description="Answers that Square asks for."
    )
    seed: int = Field(0, ge=0, description="Of random starts and squares.")

    @property
    def asked(self) -> Attack:
        """The attack in the terms of `models.attacks`."""
        return Attack(
            method=str(self.attack),
            norm=str(self.norm),
            eps=self.epsilon / LEVELS,
            steps=self.steps,
            restarts=self.restarts,
            targets=self.targets,
            queries=self.queries,
        )


class AdversarialSettings(Settings):
    """Training on views that are attacked while it goes on."""

    against: AdversarialMethod = Field(
        AdversarialMethod(RECIPE.method),
        description="How views are attacked: one step, several, a pull towards the"
        " plain answer, or along with updates on the same views.",
    )
    norm: Norm = Field(Norm(RECIPE.norm), description="How a change is measured.")
    epsilon: float = Field(
        LEVELS * RECIPE.eps,
        gt=0,
        le=25_500,
        description="Largest change, of 255 levels: 4 is 4/255.",
    )
    attack_steps: int = Field(
        RECIPE.steps,
        ge=1,
        le=100,
        description="Gradients of pgd and trades for a view.",
    )
    trades_beta: float = Field(
        RECIPE.beta,
        gt=0,
        le=100,
        description="Of trades: what a changed answer counts beside a wrong one.",
    )
    replays: int = Field(
        RECIPE.replays,
        ge=2,
        le=16,
        description="Of free: updates on the same views; take fewer epochs instead.",
    )
    watch: int = Field(
        RECIPE.watch,
        ge=16,
        description="Validation images attacked after each epoch, to choose the epoch.",
    )

    @property
    def recipe(self) -> Adversarial:
        """What training is asked for."""
        return Adversarial(
            method=str(self.against),
            norm=str(self.norm),
            eps=self.epsilon / LEVELS,
            steps=self.attack_steps,
            beta=self.trades_beta,
            replays=self.replays,
            watch=self.watch,
        )

    def in_force(self) -> AdversarialSettings:
        """Return these settings without figures that the method does not read."""
        read = {
            AdversarialMethod.none: (),
            AdversarialMethod.fgsm: ("norm", "epsilon", "watch"),
            AdversarialMethod.pgd: ("norm", "epsilon", "watch", "attack_steps"),
            AdversarialMethod.trades: (
                "norm",
                "epsilon",
                "watch",
                "attack_steps",
                "trades_beta",
            ),
            AdversarialMethod.free: ("norm", "epsilon", "watch", "replays"),
        }[self.against]
        own = {name: getattr(self, name) for name in ("against", *read)}
        return AdversarialSettings(**own)


def check_adversarial(settings: Any) -> None:
    """Raise ValueError where settings of training do not go with attacked views."""
    own = settings.adversarial
    if own.against == AdversarialMethod.none:
        return
    came = f"against={own.against}"
    if settings.probe == "only":
        raise ValueError(
            f"probe=only fits a head to features of images that nobody attacks; {came}."
            " Set probe=first, or against=none"
        )
    if settings.sam_radius:
        raise ValueError(
            f"sam_radius moves the weights uphill and {came} the views, and each would"
            " be reckoned without the other. Set sam_radius=0, or"
            " against=none"
        )
    if settings.loss == "early_learning":
        raise ValueError(
            "loss=early_learning remembers answers to plain views;"
            f" {came} shows attacked ones. Set another loss"
        )
    if own.against == AdversarialMethod.free and settings.accumulate > 1:
        raise ValueError(
            "against=free takes the slopes of a whole batch from its update;"
            f" came accumulate={settings.accumulate}. Set accumulate=1 and a smaller"
            " batch_size, or against=pgd"
        )
    if settings.ensemble.combine == "snapshots":
        raise ValueError(
            f"combine=snapshots ends each of its cycles by the plain loss; {came} keeps"
            " the epoch that withstands most. Set combine=seeds, or leave combine out"
        )
