"""What a training report holds; tasks.report writes it down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_contracts.references import (
    ContractReport,
    Estimate,
    GateReport,
    Verdict,
)
from tasks.evaluation import Robustness
from tasks.figures import Bin
from tasks.fit_words import FitReport
from tasks.gallery import (
    Augmented,
    Cleaned,
    Denoised,
    Filled,
    Flip,
    Inpainted,
    Mistake,
    Odd,
    Quarantined,
    Spoiled,
)
from tasks.summary_labels import LabelAudit


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """One class: images in each split, and how well it is recognised on test."""

    name: str
    train: int = 0
    val: int = 0
    test: int = 0
    precision: float | None = None
    recall: Estimate | None = None
    f1: float | None = None


@dataclass(frozen=True, kw_only=True)
class SliceRow:
    """Top-1 on the test images that share one value, such as domain = studio."""

    slice: str
    value: str
    top1: Estimate


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where the images, the code and the numbers come from."""

    source: str = ""
    dataset_uri: str = ""
    snapshot: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)
    code_version: str = ""
    commit: str = ""
    seed: int | None = None
    device: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PastCheck:
    """What one contract came to at one time."""

    when: str
    verdict: Verdict
    version: str
    rows: int
    broken: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class ReportContent:
    """Everything a report shows; what is left out is left out of the page.

    Attributes:
        metrics: figures on test by name (top1, top5, macro_f1, ece, brier, ...).
        champion_metrics: the same figures of the champion on the same images.
        history: one mapping per epoch: epoch, train_loss, train_top1, val_loss,
            val_top1, learning_rate, images_per_second, seconds.
        fit: whether it over- or underfits, in words.
        confusion: (k, k) counts, rows being the given label.
        splits: images per split after splitting.
        missing: what was absent from the source, and what was done about it.
        filled: images whose label was filled; there are `n_filled` of them.
        inpainted: images in which a cover was found; there are `n_inpainted` of them.
        views: what random views change, in words.
        reason_counts: images left out by cleaning, by reason.
        odd: images that do not belong, the oddest first; there are `n_odd` of them.
        robustness: top-1 on images spoiled on purpose, if that was measured.
        spoiled: the same by corruption, with a picture each.
        quarantine_counts: files that could not be read, by reason.
        checks: past and present verdicts by contract, the newest first.
        commands: title and command line, in the order shown.
    """

    name: str
    gate: GateReport
    version: int | None = None
    title: str = "Training report"
    run_id: str = ""
    date: str = ""
    promoted: bool = False
    metrics: Mapping[str, Estimate] = field(default_factory=dict)
    champion_metrics: Mapping[str, Estimate] = field(default_factory=dict)
    notes: Sequence[str] = ()
    history: Sequence[Mapping[str, Any]] = ()
    best_epoch: int | None = None
    fit: FitReport | None = None
    label_names: Sequence[str] = ()
    confusion: NDArray[np.int64] | None = None
    classes: Sequence[ClassRow] = ()
    slices: Sequence[SliceRow] = ()
    bins: Sequence[Bin] = ()
    mistakes: Sequence[Mistake] = ()
    flips: Sequence[Flip] = ()
    n_images: int = 0
    splits: Mapping[str, int] = field(default_factory=dict)
    missing: Sequence[str] = ()
    filled: Sequence[Filled] = ()
    n_filled: int = 0
    labels: LabelAudit | None = None
    augmented: Sequence[Augmented] = ()
    views: str = ""
    cleaned: Sequence[Cleaned] = ()
    reason_counts: Mapping[str, int] = field(default_factory=dict)
    denoised: Sequence[Denoised] = ()
    noise_counts: Mapping[str, int] = field(default_factory=dict)
    inpainted: Sequence[Inpainted] = ()
    n_inpainted: int = 0
    odd: Sequence[Odd] = ()
    n_odd: int = 0
    robustness: Robustness | None = None
    spoiled: Sequence[Spoiled] = ()
    quarantine: Sequence[Quarantined] = ()
    quarantine_counts: Mapping[str, int] = field(default_factory=dict)
    contracts: Sequence[ContractReport] = ()
    checks: Mapping[str, Sequence[PastCheck]] = field(default_factory=dict)
    provenance: Provenance = field(default_factory=Provenance)
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    commands: Mapping[str, str] = field(default_factory=dict)
