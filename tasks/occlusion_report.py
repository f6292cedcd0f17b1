"""The page of a network that finds occlusion: figures by family, and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_contracts.dataset import Array
from data_contracts.references import DatasetRef
from data_contracts.store import Dataset
from models.durable import write_over
from tasks.augment_settings import Occluder
from tasks.detector import Detector, load_detector
from tasks.figures import curves
from tasks.occlusion import Occlusion, OcclusionSettings, covered_rows, judged_rows
from tasks.pages import render_page
from tasks.stage import stage_task

SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Covered:
    """One image (h, w, 3), covered, where that is so, and where it is found."""

    image: Array
    covered: Array
    mask: Array
    found: Array


@stage_task()
def report_occlusion(
    source: DatasetRef, found: Occlusion, settings: OcclusionSettings
) -> str:
    """Write the page beside the run and return its path."""
    dataset, folder = Dataset(source), Path(found.detector.uri)
    detector = load_detector(folder)
    pictures = {
        str(family): examples(dataset, detector, str(family), settings)
        for family in Occluder
    }
    path = folder.parent / "report.html"
    write_over(path, render(found, pictures))
    return str(path)


def examples(
    dataset: Dataset, detector: Detector, family: str, settings: OcclusionSettings
) -> list[Covered]:
    """Return a few of the images that the network was judged on, with a cover each."""
    rows = judged_rows(dataset, settings)[0]
    places = np.unique(np.linspace(0, len(rows) - 1, SHOWN).astype(np.int64))
    images, seen, masks = covered_rows(dataset, rows[places], family, settings)
    chance = detector(seen)
    return [
        Covered(
            image=images[i],
            covered=seen[i],
            mask=_grey(masks[i]),
            found=_grey(chance[i]),
        )
        for i in range(len(images))
    ]


def _grey(share: Array) -> Array:
    levels = np.rint(share.astype(np.float32) * 255).astype(np.uint8)
    return np.repeat(levels[..., None], 3, axis=2)


def render(found: Occlusion, pictures: dict[str, list[Covered]]) -> str:
    """Return the page as one HTML file that loads nothing else."""
    history = found.history
    return render_page(
        "occlusion.html",
        found=found,
        pictures=pictures,
        loss=curves(history, ("loss",), title="Loss", zero=True),
        seconds=sum(line["seconds"] for line in history),
    )
