"""What a version must reach: limits of the usual checks, and checks of your own."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from data_contracts.config import Settings
from data_contracts.errors import UsageError
from tasks.adversarial_settings import AttackName, AttackSettings, Norm

SLICED = ("domain", "coarse", "training images", "size", "era")


class Metric(StrEnum):
    """Figures that are compared with the champion's on the same resamples."""

    top1 = "top1"
    macro_precision = "macro_precision"
    macro_recall = "macro_recall"
    macro_f1 = "macro_f1"
    brier = "brier"
    nll = "nll"

    @property
    def rises(self) -> bool:
        """Whether more is better."""
        return self not in (Metric.brier, Metric.nll)

    @property
    def words(self) -> str:
        """The metric as people write it."""
        plain = self.value.replace("_", "-")
        named = {"top1": "top-1", "macro-f1": "macro-F1", "nll": "NLL"}
        return "Brier" if self == Metric.brier else named.get(plain, plain)


class Blocks(StrEnum):
    """When a check keeps a version from being blessed."""

    yes = "yes"
    failing = "failing"
    no = "no"


class _Check(Settings):
    blocks: Blocks = Field(
        Blocks.yes,
        description="yes: unless it passes; failing: only if it fails; no: never.",
    )


class Floor(_Check):
    """The figure itself must surely be good enough."""

    check: Literal["floor"] = "floor"
    metric: Metric = Metric.top1
    limit: float | None = Field(
        None, ge=0, description="None: top-1 of always guessing the commonest class."
    )

    @model_validator(mode="after")
    def _limit_for_others(self) -> Self:
        if self.limit is None and self.metric != Metric.top1:
            raise ValueError(f"a floor of {self.metric} needs a limit")
        if self.limit is not None and self.limit >= 1 and self.metric.rises:
            raise ValueError(
                f"a floor of {self.metric} must be under 1, received {self.limit:g}"
            )
        return self


class NonInferior(_Check):
    """The figure may surely not be worse than the champion's by the margin."""

    check: Literal["non_inferior"] = "non_inferior"
    metric: Metric = Metric.top1
    margin: float = Field(gt=0)


class Superior(_Check):
    """Top-1 must surely be better than the champion's (McNemar's exact test)."""

    check: Literal["superior"] = "superior"


class Slices(_Check):
    """No slice's top-1 may be worse than the champion's by the margin (Holm)."""

    check: Literal["slices"] = "slices"
    by: tuple[str, ...] = Field((), description="Slices; none: all that there are.")
    margin: float = Field(0.05, gt=0, lt=1)
    min_images: int = Field(300, ge=1, description="Smaller slices are not judged.")


class NegativeFlips(_Check):
    """Few images may go from right to wrong."""

    check: Literal["negative_flips"] = "negative_flips"
    limit: float = Field(gt=0, lt=1, description="Share of the test images.")


class MustStayRight(_Check):
    """Every test image that a file names must be right."""

    check: Literal["must_stay_right"] = "must_stay_right"
    file: str = Field(description="A path or a SHA-256 of an image on each line.")


class Calibration(_Check):
    """ECE may not be beyond what luck makes of right confidences, by the margin."""

    check: Literal["calibration"] = "calibration"
    margin: float = Field(0.02, ge=0, lt=1)


class Corruptions(_Check):
    """Mean top-1 on spoiled images may not be worse than the champion's."""

    check: Literal["corruptions"] = "corruptions"
    margin: float = Field(0.02, gt=0, lt=1)


class Adversarial(_Check):
    """Top-1 under an attack may not be worse than the champion's."""

    check: Literal["adversarial"] = "adversarial"
    attack: AttackName = AttackName.pgd
    norm: Norm = Norm.linf
    epsilon: float = Field(
        4.0, gt=0, le=25_500, description="Largest change, of 255 levels."
    )
    steps: int = Field(10, ge=1, le=1_000, description="Of PGD and of APGD.")
    images: int = Field(
        1_000, ge=1, description="Most test images to attack; an even pick of them."
    )
    margin: float = Field(0.02, gt=0, lt=1)

    @property
    def asked(self) -> AttackSettings:
        """The attack."""
        return AttackSettings(
            attack=self.attack, norm=self.norm, epsilon=self.epsilon, steps=self.steps
        )


class Latency(_Check):
    """Batches may take longer than the champion's by no more than the ratio."""

    check: Literal["latency"] = "latency"
    limit: float = Field(1.2, gt=0)
    batches: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(
        (1, 32), min_length=1, description="Images answered at once, each compiled for."
    )
    rounds: int = Field(30, ge=10, le=1000)


class Size(_Check):
    """The checkpoint may be larger than the champion's by no more than the ratio."""

    check: Literal["size"] = "size"
    limit: float = Field(1.2, gt=0)


class Infrastructure(_Check):
    """The version loads in a fresh process and answers twice the same."""

    check: Literal["infrastructure"] = "infrastructure"


Check = Annotated[
    Floor
    | NonInferior
    | Superior
    | Slices
    | NegativeFlips
    | MustStayRight
    | Calibration
    | Corruptions
    | Adversarial
    | Latency
    | Size
    | Infrastructure,
    Field(discriminator="check"),
]


class GateSettings(Settings):
    """Settings of `decide`."""

    floor_top1: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Top-1 that every version must surely exceed; none: that of always "
        "guessing the most common class of the test images.",
    )
    margin: float = Field(
        0.01, gt=0, lt=1, description="Loss of top-1 against the champion to tolerate."
    )
    margin_macro_f1: float = Field(
        0.02, gt=0, lt=1, description="Loss of macro-F1 to tolerate."
    )
    margin_brier: float = Field(
        0.02, gt=0, lt=2, description="Rise of the Brier score (0..2) to tolerate."
    )
    margin_slices: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Loss of top-1 in any slice to tolerate; blocks only if surely"
        " exceeded.",
    )
    usual_checks: bool = Field(
        True, description="Whether the usual checks, with the limits above, are made."
    )
    checks: tuple[Check, ...] = Field(
        (),
        description="Checks of your own, such as [{check: superior}]; one of the same"
        " kind and metric takes a usual one's place. See docs/gates.md.",
    )
    ask: bool = Field(
        False,
        description="Under a Prefect server: stop for a person to waive what is"
        " inconclusive.",
    )
    level: float = Field(
        0.95, gt=0.5, lt=1, description="One-sided confidence behind each verdict."
    )
    min_images: int = Field(
        30, ge=1, description="Test images below which nothing can pass."
    )
    min_images_era: int = Field(
        300,
        ge=1,
        description="Images below which a further arena (an era's test images) blocks "
        "only when it fails.",
    )
    draws: int = Field(2_000, ge=100, le=100_000, description="Bootstrap resamples.")
    seed: int = Field(0, ge=0, description="Seed of the resamples.")
    max_flips: int = Field(200, ge=0, description="Flipped images to name, each way.")

    @model_validator(mode="after")
    def _something_to_check(self) -> Self:
        if not self.usual_checks and not self.checks:
            raise ValueError(
                "usual_checks=no leaves nothing to check, and an empty gate blesses"
                " nothing; give checks"
            )
        keys = [_kind(check) for check in self.checks]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice:
            raise ValueError(f"the check {' '.join(twice)} is given twice; keep one")
        for check in self.checks:
            if isinstance(check, Latency) and 0.5**check.rounds > 1 - self.level:
                raise ValueError(
                    f"latency: {check.rounds} rounds can never be sure at"
                    f" level={self.level:g}; give more rounds"
                )
        return self


def planned(settings: GateSettings) -> list[Any]:
    """Return the checks that a gate makes: the usual ones, and those given."""
    usual: list[Any] = [
        Floor(limit=settings.floor_top1),
        NonInferior(metric=Metric.top1, margin=settings.margin),
        NonInferior(metric=Metric.macro_f1, margin=settings.margin_macro_f1),
        NonInferior(metric=Metric.brier, margin=settings.margin_brier),
        Slices(margin=settings.margin_slices, blocks=Blocks.failing),
    ]
    own = {_kind(check) for check in settings.checks}
    kept = [check for check in usual if _kind(check) not in own]
    return [*(kept if settings.usual_checks else []), *settings.checks]


def _kind(check: Any) -> tuple[str, ...]:
    """Return what makes two checks the same: kind, and metric or attack."""
    own = getattr(check, "metric", None) or getattr(check, "attack", None)
    return (check.check, str(own)) if own else (check.check,)


def attacks_of(settings: GateSettings) -> tuple[Adversarial, ...]:
    """Return the checks that want candidate and champion attacked."""
    return tuple(check for check in settings.checks if isinstance(check, Adversarial))


def identity_of(settings: GateSettings) -> dict[str, Any]:
    """Return what names a gate: settings that came later count where they are set.

    Whether a person is asked changes nothing that is judged.
    """
    fields = settings.model_dump(mode="json")
    later = {"margin_slices": 0.05, "usual_checks": True, "checks": []}
    del fields["ask"]
    return {k: v for k, v in fields.items() if k not in later or v != later[k]}


def pinned_names(check: MustStayRight) -> list[str]:
    """Return the images that a file pins, one a line; # begins a remark.

    Raises:
        UsageError: The file cannot be read, or names nothing.
    """
    try:
        text = Path(check.file).read_text("utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"must_stay_right: file={check.file} cannot be read ({error}). Give a text"
            " file with the path or SHA-256 of an image on each line."
        ) from error
    names = [line.partition(" #")[0].strip() for line in text.splitlines()]
    names = [name for name in names if name and not name.startswith("#")]
    if not names:
        raise UsageError(f"must_stay_right: file={check.file} names no image.")
    return names


def check_plan(settings: GateSettings, *, robustness: bool) -> None:
    """Refuse a gate that could not be judged, before any work.

    Raises:
        UsageError: What a check needs is missing.
    """
    for check in settings.checks:
        if isinstance(check, MustStayRight):
            pinned_names(check)
        unknown = set(getattr(check, "by", ())) - set(SLICED)
        if unknown:
            raise UsageError(
                f"gate.checks: slices by {', '.join(sorted(unknown))}: test images are"
                f" sliced by {', '.join(SLICED)} alone. Name some of these."
            )
        if isinstance(check, Corruptions) and not robustness:
            raise UsageError(
                "gate.checks: corruptions compares spoiled images, and none are"
                " answered. Set evaluate.robustness=yes, or leave the check out."
            )
