"""What maps are worth, measured: against chance, against edges, against boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from data_contracts.dataset import Array
from data_contracts.references import Estimate
from tasks.explain_settings import ExplainSettings
from tasks.explain_source import Pictures
from tasks.inference import Floats, devices
from tasks.intervals import z_score

if TYPE_CHECKING:
    from models.explain.explainer import Explainer
    from tasks.explain_choose import Answers

LEVEL = 0.95
RANDOM, EDGES = "random map", "edge detector"


@dataclass(frozen=True, kw_only=True)
class Worth:
    """What the maps of one maker come to: a method, or a control."""

    name: str
    figures: dict[str, Estimate]


@dataclass(frozen=True, kw_only=True)
class ClassInBox:
    """Where the maps of one class lie: their energy inside boxes, and the boxes' area.

    `background` says that the energy inside is below what an even map would have.
    """

    name: str
    energy: Estimate
    area: float

    @property
    def background(self) -> bool:
        """Whether the class rests on what is outside its boxes."""
        return self.energy.high < self.area


def mean_of(values: Floats, *, level: float = LEVEL) -> Estimate:
    """Return the mean of what is a number, with its normal interval over images."""
    own = values[np.isfinite(values)].astype(np.float64)
    if not len(own):
        return Estimate(value=np.nan, low=np.nan, high=np.nan, n=0)
    spread = own.std(ddof=1) / np.sqrt(len(own)) if len(own) > 1 else np.inf
    half, mean = z_score(level) * spread, float(own.mean())
    return Estimate(value=mean, low=mean - half, high=mean + half, n=len(own))


def controls(images: Array, *, seed: int) -> dict[str, Floats]:
    """Return maps that know nothing of the network, by name."""
    from models.explain.faithfulness import edge_maps, random_maps

    n, h, w, _ = images.shape
    return {RANDOM: random_maps((n, h, w), seed=seed), EDGES: edge_maps(images)}


def worth_of(
    subject: Any,
    weights: Any,
    images: Array,
    targets: Array,
    maps: Floats,
    settings: ExplainSettings,
) -> list[Worth]:
    """Return deletion and insertion areas of the maps and of two controls."""
    from models.explain.faithfulness import Removal, area

    removal = Removal(subject, weights, mesh=devices(), hide=settings.hide)
    rows = []
    for name, own in {
        str(settings.method): maps,
        **controls(images, seed=settings.seed),
    }.items():
        deleted, inserted = removal(images, targets, own)
        rows.append(
            Worth(
                name=name,
                figures={
                    "deletion": mean_of(area(deleted)),
                    "insertion": mean_of(area(inserted)),
                },
            )
        )
    return rows


def classes_by_boxes(
    explainer: Explainer,
    pictures: Pictures,
    answers: Answers,
    settings: ExplainSettings,
    *,
    classes: Sequence[str],
) -> list[ClassInBox]:
    """Return where the maps of each predicted class lie, the least inside first.

    A class rests on the background where the energy of its maps inside its boxes is
    less than the boxes' area. Images whose boxes fill or miss the square say nothing.

    Args:
        explainer: Makes the maps.
        pictures: Images, and boxes of some.
        answers: What the model says to them.
        settings: How many images to look at.
        classes: Names of the classes.
    """
    from models.explain.faithfulness import energy_inside

    rows = boxed_rows(pictures, answers, most=settings.boxed, seed=settings.seed)
    if not len(rows):
        return []
    masks, _ = pictures.masks(rows)
    images, _ = pictures.read(rows)
    targets = answers.predicted[rows]
    energy = energy_inside(explainer(images, targets), masks)
    share = masks.mean((1, 2))
    found = [
        ClassInBox(
            name=classes[target],
            energy=mean_of(energy[targets == target]),
            area=float(share[targets == target].mean()),
        )
        for target in np.unique(targets).tolist()
    ]
    return sorted(found, key=lambda row: row.energy.value - row.area)


def boxed_rows(pictures: Pictures, answers: Answers, *, most: int, seed: int) -> Array:
    """Return rows of images that were read and have boxes, an even draw of them."""
    if not most:
        return np.empty(0, np.int64)
    rows = np.flatnonzero(answers.good)
    drawn = np.random.default_rng((seed, 1)).permutation(rows)
    found: list[int] = []
    for start in range(0, len(drawn), most):
        part = drawn[start : start + most]
        masks, there = pictures.masks(part)
        some = there & ~masks.all((1, 2))
        found += part[some].tolist()
        if len(found) >= most or not some.any():
            break
    return np.sort(np.array(found[:most], np.int64))
