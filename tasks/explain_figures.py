"""What maps are worth, measured: against chance, against edges, against boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import stdtr, stdtrit

from data_contracts.dataset import Array
from data_contracts.references import Estimate
from tasks.explain_settings import ExplainSettings
from tasks.explain_source import Masks, Pictures
from tasks.inference import Floats, devices
from tasks.intervals import holm

if TYPE_CHECKING:
    from models.explain.explainer import Explainer
    from tasks.explain_choose import Answers

LEVEL = 0.95
RANDOM, EDGES = "random map", "edge detector"
BETTER = {"deletion": -1, "insertion": 1}  # low, and high


@dataclass(frozen=True, kw_only=True)
class Worth:
    """What the maps of one maker come to: a method, or a control.

    Attributes:
        figures: Areas by name.
        behind: By how much the explained maps do better, image by image; nothing for
            these maps themselves.
    """

    name: str
    figures: dict[str, Estimate]
    behind: dict[str, Estimate]

    @property
    def beaten(self) -> bool:
        """Whether the explained maps are better, in every area and beyond chance."""
        return all(found.low > 0 for found in self.behind.values())


@dataclass(frozen=True, kw_only=True)
class ClassInBox:
    """Where the maps of one class lie: their energy inside boxes, and the boxes' area.

    `background` says that the energy inside is below what an even map would have, by
    more than chance.
    """

    name: str
    energy: Estimate
    area: float
    background: bool


def mean_of(values: Floats, *, level: float = LEVEL) -> Estimate:
    """Return the mean of what is a number, with Student's interval over images."""
    own = values[np.isfinite(values)].astype(np.float64)
    n = len(own)
    if not n:
        return Estimate(value=np.nan, low=np.nan, high=np.nan, n=0)
    half, mean = np.inf, float(own.mean())
    if n > 1:
        half = float(stdtrit(n - 1, 0.5 + level / 2) * own.std(ddof=1) / np.sqrt(n))
    return Estimate(value=mean, low=mean - half, high=mean + half, n=n)


def share_of(values: Floats) -> Estimate:
    """Return the mean of shares, with its interval inside 0..1."""
    found = mean_of(values)
    low, high = np.clip([found.low, found.high], 0, 1).tolist()
    return found.model_copy(update={"low": low, "high": high})


def chance_below(values: Floats) -> float:
    """Return how likely so low a mean is where the true one is 0 (Student's test)."""
    n, mean = len(values), float(values.mean())
    if n < 2:
        return 1.0
    error = float(values.std(ddof=1)) / np.sqrt(n)
    return float(stdtr(n - 1, mean / error)) if error > 0 else float(mean >= 0)


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
    others = controls(images, seed=settings.seed)
    areas = {
        name: dict(zip(BETTER, map(area, removal(images, targets, one)), strict=True))
        for name, one in {str(settings.method): maps, **others}.items()
    }
    own = areas[str(settings.method)]
    return [
        Worth(
            name=name,
            figures={kind: share_of(found[kind]) for kind in BETTER},
            behind={
                kind: mean_of(sign * (own[kind] - found[kind]))
                for kind, sign in BETTER.items()
                if name in others
            },
        )
        for name, found in areas.items()
    ]


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
    less than the boxes' area, image by image. Images whose boxes fill or miss the
    square say nothing, nor do maps without any energy.

    Args:
        explainer: Makes the maps.
        pictures: Images, and boxes of some.
        answers: What the model says to them.
        settings: How many images to look at.
        classes: Names of the classes.
    """
    from models.explain.faithfulness import energy_inside

    if not settings.boxed:
        return []
    rows, masks = boxed(pictures, answers, settings, classes=classes)
    if not len(rows):
        return []
    images, _ = pictures.read(rows)
    targets = answers.predicted[rows]
    energy = energy_inside(explainer(images, targets), masks)
    return by_class(energy, masks, targets, classes=classes)


def by_class(
    energy: Floats, masks: Masks, targets: Array, *, classes: Sequence[str]
) -> list[ClassInBox]:
    """Return the energy inside masks class by class, the least over their area first.

    Args:
        energy: Of each image (n,), NaN where a map has none.
        masks: What boxes hold (n h w).
        targets: The explained class of each (n,).
        classes: Names of the classes.
    """
    share = masks.mean((1, 2))
    there = np.isfinite(energy)
    own = [there & (targets == target) for target in np.unique(targets[there])]
    beyond = energy - share
    sure = holm(np.array([chance_below(beyond[some]) for some in own]), level=LEVEL)
    found = [
        ClassInBox(
            name=classes[int(targets[some][0])],
            energy=share_of(energy[some]),
            area=float(share[some].mean()),
            background=bool(outside),
        )
        for some, outside in zip(own, sure, strict=True)
    ]
    return sorted(found, key=lambda row: row.energy.value - row.area)


def boxed(
    pictures: Pictures,
    answers: Answers,
    settings: ExplainSettings,
    *,
    classes: Sequence[str],
) -> tuple[Array, Masks]:
    """Return rows of images that have boxes, an even draw, and what those hold.

    The boxes of the predicted class count, or all where none is of it.
    """
    most, good = settings.boxed, np.flatnonzero(answers.good)
    drawn = np.random.default_rng((settings.seed, 1)).permutation(good)
    found: list[Array] = []
    held: list[Masks] = []
    for start in range(0, len(drawn), most):
        part = drawn[start : start + most]
        names = [classes[k] for k in answers.predicted[part].tolist()]
        masks, there = pictures.masks(part, names)
        some = there & ~masks.all((1, 2))
        found.append(part[some])
        held.append(masks[some])
        if sum(map(len, found)) >= most or not some.any():
            break
    rows = np.concatenate(found)[:most]
    order = np.argsort(rows)
    return rows[order], np.concatenate(held)[order]
