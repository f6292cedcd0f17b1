"""Every figure of a version on one set of images; turns into JSON as it is."""

from __future__ import annotations

from pydantic import Field

from data_contracts.references import Estimate, Reference
from tasks.evaluation import ConfusedPair, ReliabilityBin, SliceRow


class ClassFigures(Reference):
    """How one class fares, each figure with its interval."""

    label: int
    name: str
    support: int = Field(description="Images of the class.")
    predicted: int = Field(description="Images given the class.")
    precision: Estimate | None = Field(description="None when never predicted.")
    recall: Estimate | None = Field(description="None without images.")
    f1: Estimate | None = Field(description="None without images.")
    average_precision: Estimate | None = Field(
        description="None without images of it and of others."
    )
    roc_auc: Estimate | None = Field(
        description="None without images of it and of others."
    )


class CoveragePoint(Reference):
    """Top-1 where only the surest answers count."""

    coverage: float = Field(description="Share of images answered.")
    confidence: float = Field(description="Confidence from which they are answered.")
    top1: Estimate


class Agreement(Reference):
    """How the answers differ from the champion's on the same images."""

    version: int
    champion_top1: Estimate
    same: Estimate = Field(description="Share of images with the same answer.")
    fixed: Estimate = Field(description="Share that the champion alone gets wrong.")
    broken: Estimate = Field(description="Share that the champion alone gets right.")
    change: Estimate = Field(description="Top-1 less the champion's.")


class Measured(Reference):
    """Every figure of one version on one set of images."""

    n: int
    excluded: int = Field(description="Images left out: no label that can be scored.")
    unanswered: int = Field(description="Images with unusable probs; counted wrong.")
    num_classes: int
    classes_present: int
    top_k: int = Field(description="The 5 of top-5, or fewer classes.")
    figures: dict[str, Estimate]
    ece_null: float = Field(description="Mean ECE were confidences exactly right.")
    ece_null_high: float = Field(description="Upper end of that ECE.")
    rank_error: dict[str, float] = Field(
        description="How far ranked figures may be off, at most; 0 is exact."
    )
    per_class: list[ClassFigures]
    slices: dict[str, list[SliceRow]]
    coverage: list[CoveragePoint]
    reliability: list[ReliabilityBin]
    confused: list[ConfusedPair]
    confusion: list[tuple[int, int, int]] = Field(
        description="Label, predicted, images; pairs that occur."
    )
    agreement: Agreement | None
    not_run: dict[str, str] = Field(description="Figures that do not exist, and why.")
    notes: list[str]
