"""What the report says of the label audit: its figures, and suspects by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from data_contracts.dataset import USES, Array
from data_contracts.references import DatasetRef
from data_contracts.store import Dataset
from tasks.gallery import Pixels
from tasks.label_policy import Verdict

PER_CLASS, CLASSES = 8, 12
MEANING = {
    "flagged": "doubted, nothing changed",
    "weighted": "counts less in training",
    "relabelled": "learnt as what is suggested",
    "dropped": "left out of training",
    "confirmed": "a person kept the label",
    "corrected": "a person gave another label",
    "excluded": "a person left the image out",
}
VIEWS = {
    "head": "heads that did not see the image",
    "neighbours": "its nearest training images",
    "dynamics": "how it was learnt",
}


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """An image whose label the audit doubts."""

    image: Pixels
    path: str
    suggested: str
    score: float
    verdict: str
    split: str


@dataclass(frozen=True, kw_only=True)
class SuspectClass:
    """The suspects of one given label, the most suspicious first.

    Attributes:
        total: How many there are, shown or not.
        of: Judged images of the label.
    """

    given: str
    total: int
    of: int
    shown: Sequence[Suspect]


@dataclass(frozen=True, kw_only=True)
class LabelAudit:
    """What the audit found, and how far it may be believed.

    Attributes:
        policy: What was asked for.
        judged: Images judged.
        noise_rate: Estimated share of wrong labels, none where nothing was judged.
        confident_rate: The same by confident learning alone.
        views: What the score rests on, in words.
        planted: Flips planted on a copy.
        auroc: How well those were ranked.
        found: Share of those among the suspects.
        floor: AUROC under which the audit warns.
        counts: Verdict to images in train, val and test.
        classes: Suspects by given label, the most doubted labels first.
        hidden: Labels with suspects that are not shown.
    """

    policy: str
    judged: int = 0
    noise_rate: float | None = None
    confident_rate: float | None = None
    views: Sequence[str] = ()
    planted: int = 0
    auroc: float | None = None
    found: float | None = None
    floor: float = 0.0
    counts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    classes: Sequence[SuspectClass] = ()
    hidden: int = 0


def label_audit(datasets: Mapping[str, DatasetRef]) -> LabelAudit | None:
    """Return what the stage `audit` found, none where it did not run.

    Args:
        datasets: Snapshots by stage; after `split` dropped images still have their use.
    """
    if "audit" not in datasets:
        return None
    source = Dataset(datasets["audit"])
    facts = source.attributes["audit"]
    verdict, use = source.column("verdict"), Dataset(datasets["split"]).column("use")
    counts = {
        name: [int(((verdict == name) & (use == code)).sum()) for code in (0, 1, 2)]
        for name in MEANING
    }
    classes, hidden = _classes(source, verdict, use)
    return LabelAudit(
        policy=facts["policy"],
        judged=facts.get("judged", 0),
        noise_rate=facts.get("noise_rate"),
        confident_rate=facts.get("confident_rate"),
        views=[VIEWS[view] for view in facts.get("views", [])],
        planted=facts.get("canary_planted", 0),
        auroc=facts.get("canary_auroc"),
        found=facts.get("canary_found"),
        floor=facts.get("canary_floor", 0.0),
        counts={name: row for name, row in counts.items() if sum(row)},
        classes=classes,
        hidden=hidden,
    )


def _classes(
    source: Dataset, verdict: Array, use: Array
) -> tuple[list[SuspectClass], int]:
    columns = source.columns("label", "suggested", "suspicion", "path", "target")
    names = np.array([*source.names("label_names"), "none"], object)
    doubted = np.isin(verdict, [*MEANING])
    label = columns["label"]
    found, total = np.unique(label[doubted & (label >= 0)], return_counts=True)
    worst = found[np.argsort(-total, kind="stable")][:CLASSES]
    order = np.argsort(-columns["suspicion"], kind="stable")
    order = order[doubted[order]]
    rows = {int(own): order[label[order] == own][:PER_CLASS] for own in worst}
    every = np.concatenate([np.empty(0, np.int64), *rows.values()])
    pixels = dict(zip(every.tolist(), source.take(every), strict=True))
    judged = verdict != Verdict.none
    person = np.isin(verdict, [Verdict.corrected, Verdict.excluded])
    says = np.where(person, columns["target"], columns["suggested"])
    classes = [
        SuspectClass(
            given=names[own],
            total=int((doubted & (label == own)).sum()),
            of=int((judged & (label == own)).sum()),
            shown=[
                Suspect(
                    image=pixels[int(row)],
                    path=columns["path"][row],
                    suggested=names[says[row]],
                    score=float(columns["suspicion"][row]),
                    verdict=verdict[row],
                    split=USES[use[row]] if use[row] >= 0 else "unused",
                )
                for row in shown
            ],
        )
        for own, shown in rows.items()
    ]
    return classes, len(found) - len(classes)
