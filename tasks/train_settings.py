"""Settings of the stage `train`; they mirror `models/recipe.py`."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from data_contracts.config import Settings
from models.presets import preset_of
from models.recipe import (
    LATER,
    LEAST_BATCH,
    LEAST_EPOCHS,
    MOST_BATCH,
    MOST_EPOCHS,
    RATES,
    SHORT_RUN,
    TUNING,
    VIEWS,
    Distil,
)
from tasks.adversarial_settings import AdversarialSettings, check_adversarial
from tasks.augment_settings import AugmentSettings
from tasks.ensemble_settings import EnsembleSettings, check_ensemble
from tasks.loss_settings import (
    BalanceDetails,
    BalanceKind,
    HeadKind,
    LossDetails,
    LossKind,
    check_losses,
)
from tasks.network_settings import NetworkSettings, check_network
from tasks.starts import RUN_OF, VERSION_OF, init_problem
from tasks.step_settings import (
    RECIPE,
    Feed,
    Optimizer,
    Precision,
    Probe,
    Schedule,
    Shard,
    check_probe,
    check_steps,
    told,
)

# What changes no bit of the network, or rounding alone as the number of devices does,
# and came after runs were named without it.
ASIDE = ("checkpoint_minutes", "profile", "shard")


class Preset(StrEnum):
    """Networks that come with Sightline."""

    small = "small"
    resnet18 = "resnet18"
    resnet18_tv = "resnet18_tv"
    resnet34_tv = "resnet34_tv"
    resnet50_tv = "resnet50_tv"
    convnext_atto = "convnext_atto"
    convnext_femto = "convnext_femto"
    convnext_pico = "convnext_pico"
    convnext_nano = "convnext_nano"
    convnext_tiny = "convnext_tiny"
    convnextv2_atto = "convnextv2_atto"
    convnextv2_femto = "convnextv2_femto"
    convnextv2_pico = "convnextv2_pico"
    convnextv2_nano = "convnextv2_nano"
    convnextv2_tiny = "convnextv2_tiny"
    mobilenetv3_small = "mobilenetv3_small"
    mobilenetv3_large = "mobilenetv3_large"
    vit_tiny = "vit_tiny"
    vit_small = "vit_small"
    vit_base = "vit_base"
    dinov2_small = "dinov2_small"
    dinov2_base = "dinov2_base"
    siglip_base = "siglip_base"


class TrainSettings(Settings):
    """Settings of the stage `train`."""

    # Whether they start from a champion.
    updates: ClassVar[bool] = False

    preset: Preset = Field(Preset(RECIPE.preset), description="The network.")
    network: NetworkSettings = Field(
        NetworkSettings(), description="What the network has beside its preset."
    )
    init: str | None = Field(
        None,
        description="Weights to start from: a file, NAME@VERSION, run:RUN,"
        " hf:owner/name[/file]; none: fresh.",
    )
    freeze: str | None = Field(
        None,
        pattern=r"^(backbone|[1-9]\d*)$",
        description="What stays as it is: backbone, or so many stages after the stem.",
    )
    layer_decay: float = Field(
        RECIPE.layer_decay,
        gt=0,
        le=1,
        description="Learning rate of a stage, as a share of the next one's.",
    )
    unfreeze: float = Field(
        RECIPE.unfreeze,
        ge=0,
        lt=1,
        description="Share of the steps until all parts learn: the head at once, the"
        " stem last; 0: all at once.",
    )
    probe: Probe = Field(
        Probe.none,
        description="Fit the head to the frozen features of init: first, to go on from"
        " there, or only, which takes seconds.",
    )
    optimizer: Optimizer = Field(
        Optimizer(RECIPE.optimizer), description="How weights are stepped."
    )
    epochs: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description=f"Passes over the images; none: those that show {VIEWS:,} images,"
        f" {LEAST_EPOCHS} to {MOST_EPOCHS}.",
    )
    batch_size: int | None = Field(
        None,
        ge=2,
        description=f"Images in a step; none: {LEAST_BATCH} to {MOST_BATCH}, by how"
        " many there are.",
    )
    schedule: Schedule = Field(
        Schedule(RECIPE.schedule), description="Course of the learning rate."
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        le=10,
        description=f"Peak of the schedule; none: the optimiser's: {told(0)}.",
    )
    weight_decay: float | None = Field(
        None,
        ge=0,
        le=10,
        description="Of kernels, not norms and biases; none: the optimiser's:"
        f" {told(1)}.",
    )
    sam_radius: float = Field(
        RECIPE.sam_radius,
        ge=0,
        le=10,
        description="Of sharpness-aware steps, .05 say, which take twice as long; 0 is"
        " off.",
    )
    accumulate: int = Field(
        RECIPE.accumulate,
        ge=1,
        le=1024,
        description="Parts that a batch is taken in, to save memory.",
    )
    precision: Precision = Field(
        Precision(RECIPE.precision), description="What the network computes in."
    )
    remat: bool = Field(
        RECIPE.remat, description="Compute blocks twice, to save memory."
    )
    progressive: float = Field(
        RECIPE.progressive,
        gt=0,
        le=1,
        description="Side of the views at first, as a share of the last; 1 is off.",
    )
    progressive_stages: int = Field(
        RECIPE.progressive_stages,
        ge=2,
        le=16,
        description="Sides of progressive views, the last one included.",
    )
    warmup: float = Field(RECIPE.warmup, ge=0, le=1, description="Share of the steps.")
    clip: float = Field(RECIPE.clip, gt=0, description="Largest norm of a gradient.")
    ema: float = Field(
        RECIPE.ema, ge=0, lt=1, description="Decay of the weight average."
    )
    label_smoothing: float | None = Field(
        None,
        ge=0,
        lt=1,
        description=f"Target shared by all classes; none: {RECIPE.label_smoothing} for"
        " cross-entropy, 0 for other losses and logit_adjusted.",
    )
    loss: LossKind = Field(
        LossKind.cross_entropy, description="What it costs to be wrong."
    )
    loss_details: LossDetails = Field(
        LossDetails(), description="Figures of the losses."
    )
    balance: BalanceKind = Field(
        BalanceKind.none, description="Correct unequal classes while training."
    )
    head: HeadKind = Field(
        HeadKind.trained, description="Correct unequal classes in the head, afterwards."
    )
    thresholds: bool = Field(
        False, description="Shift each class's logit for macro-F1 on validation."
    )
    balance_details: BalanceDetails = Field(
        BalanceDetails(), description="Figures of the corrections."
    )
    patience: int = Field(
        30, ge=0, description="Epochs without a better validation to stop; 0 never."
    )
    max_minutes: float | None = Field(
        None, gt=0, description="Start no epoch after this; none has no limit."
    )
    checkpoint_minutes: float | None = Field(
        10.0,
        gt=0,
        description="A longer epoch is saved on its way so often; none: not.",
    )
    profile: bool = Field(
        False, description="Trace a few steps, and tell where their time goes."
    )
    shard: Shard = Field(
        Shard.auto,
        description="Split weights, optimiser and average over the devices; auto: where"
        " they do not fit whole.",
    )
    seed: int = Field(0, ge=0, description="Of weights, order and augmentation.")
    feed: Feed = Field(
        Feed.auto, description="Images in memory, streamed, or by what fits."
    )
    replay: float | None = Field(
        None,
        ge=0,
        description="In an update: old images per new one; none takes all of them.",
    )
    augment: AugmentSettings | None = Field(
        None,
        description=f"Random views; none: gentle ones under {SHORT_RUN} epochs, else"
        " strong ones.",
    )
    ensemble: EnsembleSettings = Field(
        EnsembleSettings(), description="Several networks, or one that they teach."
    )
    adversarial: AdversarialSettings = Field(
        AdversarialSettings(), description="Learn from views that are attacked."
    )

    @model_validator(mode="after")
    def _start(self) -> Self:
        if self.init is not None and (said := init_problem(self.init, self.preset)):
            raise ValueError(said)
        if self.updates and "preset" not in self.model_fields_set:
            return self  # the champion's is not known yet
        foreign = self.init or ""
        if VERSION_OF.fullmatch(foreign) or RUN_OF.fullmatch(foreign):
            foreign = ""
        check_network(self.preset, self.network, foreign=foreign)
        if self.freeze is not None and self.init is None and not self.updates:
            raise ValueError(
                f"freeze={self.freeze} would keep weights that have learnt nothing."
                " Name some to start from by init, or leave freeze out"
            )
        stages = preset_of(self.preset).stages
        if self.freeze not in (None, "backbone") and int(self.freeze) > stages:
            raise ValueError(
                f"preset={self.preset} has {stages} stages; came freeze={self.freeze}."
                f" Set freeze={stages} or less, or freeze=backbone"
            )
        if self.freeze == "backbone" and (self.layer_decay < 1 or self.unfreeze):
            raise ValueError(
                "freeze=backbone leaves no stage for layer_decay to slow down, or for"
                " unfreeze to wake. Leave them out"
            )
        if self.unfreeze and self.init is None and not self.updates:
            raise ValueError(
                f"unfreeze={self.unfreeze:g} would first train a head on weights that"
                " have learnt nothing. Name some to start from by init, or leave"
                " unfreeze out"
            )
        return self

    @model_validator(mode="after")
    def _possible(self) -> Self:
        check_probe(self)
        if not self.updates or "preset" in self.model_fields_set:
            check_steps(self)  # else the champion's are not known yet
        check_ensemble(self)
        check_adversarial(self)
        check_losses(self)
        return self

    def of_the_network(self) -> Self:
        """Return these settings without those that change no bit of the network."""
        neutral: dict[str, Any] = {
            "feed": Feed.auto,
            "head": HeadKind.trained,
            "thresholds": False,
            "network": self.network.without_views(),
            "learning_rate": self.rate,
            "weight_decay": self.decay,
            "ensemble": self.ensemble.in_force(),
            "adversarial": self.adversarial.in_force(),
        }
        if self.cycles > 1:  # they never stop early
            neutral["patience"] = type(self).model_fields["patience"].default
        if self.progressive == 1:
            neutral["progressive_stages"] = RECIPE.progressive_stages
        if self.balance == BalanceKind.none:
            neutral["balance_details"] = BalanceDetails()
        if self.loss == LossKind.cross_entropy:
            neutral["loss_details"] = LossDetails()
        return self.model_copy(update=neutral)

    def identity(self) -> dict[str, Any]:
        """Return what the network depends on, less later settings at their defaults.

        A run that an earlier version made is so found again.
        """
        plain = self.of_the_network().model_dump(mode="json", exclude=set(ASIDE))
        usual = type(self)().model_dump(mode="json")
        later = {"init", "probe", "ensemble", *LATER}
        return {k: v for k, v in plain.items() if k not in later or v != usual[k]}

    @property
    def rate(self) -> float:
        """Learning rate in force."""
        if self.learning_rate is not None:
            return self.learning_rate
        share = TUNING if self.updates else 1
        return float(f"{share * RATES[self.optimizer][0]:.6g}")

    @property
    def decay(self) -> float:
        """Weight decay in force."""
        own = self.weight_decay
        return RATES[self.optimizer][1] if own is None else own

    @property
    def cycles(self) -> int:
        """How often the schedule starts anew."""
        return self.ensemble.cycles

    @property
    def distil(self) -> Distil:
        """What a teacher's answers count."""
        return self.ensemble.taught()

    @property
    def smoothing(self) -> float:
        """Label smoothing in force."""
        if self.label_smoothing is not None:
            return self.label_smoothing
        plain = self.loss == LossKind.cross_entropy
        adjusted = self.balance == BalanceKind.logit_adjusted
        return RECIPE.label_smoothing * (plain and not adjusted)
