"""Settings of an evaluation, and parts of what it reports."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, TypeVar

from pydantic import Field, field_validator

from data_contracts.config import Settings
from data_contracts.references import Estimate, Reference
from tasks.corrupt import SEVERITIES, Corruption

Severity = Annotated[int, Field(ge=1, le=SEVERITIES)]
Chosen = TypeVar("Chosen")


class Binning(StrEnum):
    """How confidences are cut into reliability bins."""

    MASS = "mass"
    WIDTH = "width"


class MeasureSettings(Settings):
    """How figures and their intervals are made."""

    level: float = Field(0.95, gt=0.5, lt=1, description="Coverage of intervals.")
    draws: int = Field(2_000, ge=100, le=100_000, description="Bootstrap resamples.")
    seed: int = Field(0, ge=0, description="Seed of the resamples.")
    bins: int = Field(15, ge=2, le=100, description="Reliability bins behind ECE.")
    binning: Binning = Field(
        Binning.MASS, description="Bins of equal mass (images) or of equal width."
    )
    top_pairs: int = Field(20, ge=0, description="Confused pairs to list.")


class EvaluateSettings(MeasureSettings):
    """Settings of `evaluate`."""

    robustness: bool = Field(
        False, description="Also measure on test images spoiled on purpose."
    )
    corruptions: tuple[Corruption, ...] = Field(
        tuple(Corruption), min_length=1, description="How to spoil them."
    )
    severities: tuple[Severity, ...] = Field(
        (1, 3, 5), min_length=1, description="How much to spoil them."
    )
    spoiled: int = Field(
        2_000, ge=1, description="Most test images to spoil; an even pick of them."
    )

    @field_validator("corruptions", "severities")
    @classmethod
    def _once(cls, chosen: tuple[Chosen, ...]) -> tuple[Chosen, ...]:
        if len(set(chosen)) < len(chosen):
            raise ValueError("each may be given once")
        return chosen


class SliceRow(Reference):
    """Top-1 within one slice."""

    name: str
    top1: Estimate


class ConfusedPair(Reference):
    """Images of one class taken for another."""

    label: int
    predicted: int
    label_name: str
    predicted_name: str
    count: int
    share: float = Field(description="Of the images of the class.")


class ReliabilityBin(Reference):
    """Confidence against accuracy within one bin."""

    low: float
    high: float
    confidence: float
    accuracy: Estimate


class CorruptionRow(Reference):
    """Top-1 under one corruption in one severity."""

    corruption: Corruption
    severity: int
    top1: Estimate
    champion: Estimate | None = Field(description="The champion's, if there is one.")


class Robustness(Reference):
    """Top-1 on test images spoiled on purpose."""

    n: int = Field(description="Images spoiled, each in every way.")
    clean: Estimate
    champion_clean: Estimate | None
    rows: list[CorruptionRow]

    def mean(self, *, champion: bool = False) -> float:
        """Return the mean top-1 over corruptions and severities."""
        found = [row.champion if champion else row.top1 for row in self.rows]
        values = [estimate.value for estimate in found if estimate is not None]
        return sum(values) / max(len(values), 1)
