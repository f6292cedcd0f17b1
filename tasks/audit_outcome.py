"""What an audit found; turns into JSON as it is."""

from __future__ import annotations

from pydantic import Field

from data_contracts.references import Estimate, ModelRef, Reference, Verdict
from tasks.evaluation import Robustness


class AttackRow(Reference):
    """What is left of the accuracy under one attack."""

    attack: str
    about: str = Field(description="What the attack does, in words.")
    verdict: Verdict = Verdict.PASS
    accuracy: Estimate | None = Field(description="Answers still right.")
    seconds: float = 0.0
    detail: str = Field("", description="Why it was not run.")


class CurvePoint(Reference):
    """Accuracy under PGD of one size."""

    levels: float = Field(description="Largest change of a sample, of 255.")
    accuracy: Estimate


class CoverRow(Reference):
    """Accuracy with a share of each image covered."""

    occluder: str
    share: float
    accuracy: Estimate


class DetectorRow(Reference):
    """How often a detector notices attacks that fooled the network."""

    detector: str
    verdict: Verdict = Verdict.PASS
    false_alarms: Estimate | None = Field(
        None, description="Clean test images taken for attacks."
    )
    noticed: dict[str, Estimate] = Field(
        default_factory=dict, description="By attack: noticed of those that fooled."
    )
    adaptive: Estimate | None = Field(
        None, description="The same for an attack that knows the detector."
    )
    unnoticed: Estimate | None = Field(
        None, description="Right images that this attack fooled and got past it."
    )
    detail: str = ""

    @property
    def is_evidence(self) -> bool:
        """Whether it was put to an attack that knows it."""
        return self.adaptive is not None


class HardeningRow(Reference):
    """What a defence at serving costs and brings."""

    defence: str
    clean: Estimate
    attacked: Estimate = Field(description="Attack that does not know the defence.")
    adaptive: Estimate | None = Field(description="Attack that goes through it.")
    gain: Estimate | None = Field(
        description="Adaptive over the undefended network, image by image."
    )
    milliseconds: float = Field(description="Per image.")


class WatchRow(Reference):
    """What a watch over near-duplicate queries would see."""

    distance: int = Field(description="Bits of 64 that may differ.")
    near: Estimate = Field(description="Queries around one image found alike.")
    strangers: Estimate = Field(description="Other test images found alike.")


class RadiusPoint(Reference):
    """Share of images whose class is certified within a radius."""

    radius: float = Field(description="L2, pixels in 0..1.")
    accuracy: Estimate


class Smoothed(Reference):
    """Randomised smoothing of the version."""

    sigma: float
    choose: int
    certify: int
    alpha: float
    images: int
    abstained: Estimate = Field(description="No class was sure; counted as wrong.")
    points: list[RadiusPoint]
    seconds: float


class Alarm(Reference):
    """One sign that gradients hide how weak a network is."""

    alarm: str
    verdict: Verdict = Field(description="Pass: nothing of the kind was seen.")
    detail: str


class Fragile(Reference):
    """An image that small changes fool, and what becomes of the answer."""

    path: str
    label: str
    before: str
    before_sure: float
    after: str
    after_sure: float
    levels: float = Field(description="Smallest change of a sample seen to fool it.")


class ResilienceReport(Reference):
    """All that an audit of one version found."""

    model: ModelRef
    dataset: str = Field(description="Folder of the images.")
    given: bool = Field(description="Whether the images are the user's own choice.")
    images: int
    groups: int = Field(description="Duplicate groups among them.")
    classes: int = Field(description="Classes that the model knows.")
    classes_present: int = Field(description="Classes among the images.")
    chance: float
    epsilon: float = Field(description="Of 255 levels.")
    level: float = Field(description="Coverage of the intervals.")
    unanswered: int = Field(description="Images with answers that are no numbers.")
    attacks: list[AttackRow]
    curve: list[CurvePoint]
    wear: Robustness | None
    covered: list[CoverRow]
    detectors: list[DetectorRow]
    detectors_about: str = Field(description="Why there are none, or how they are set.")
    hardening: list[HardeningRow]
    watch: list[WatchRow]
    smoothed: Smoothed | None
    alarms: list[Alarm]
    fragile: list[Fragile]
    findings: list[str] = Field(description="What was found, in words.")
    notes: list[str]
    seconds: dict[str, float] = Field(description="By part.")

    @property
    def verdict(self) -> Verdict:
        """Fail where an alarm says that the figures flatter, else pass."""
        raised = any(alarm.verdict == Verdict.FAIL for alarm in self.alarms)
        return Verdict.FAIL if raised else Verdict.PASS

    def accuracy(self, attack: str) -> Estimate | None:
        """Return what is left under an attack, None where it was not run."""
        found = [row.accuracy for row in self.attacks if row.attack == attack]
        return found[0] if found else None
