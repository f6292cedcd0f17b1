"""Images that were painted over, before and after."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from data_contracts.references import DatasetRef
from data_contracts.store import Dataset
from tasks.gallery import Inpainted

SHOWN = 12


def inpainted_images(datasets: Mapping[str, DatasetRef]) -> list[Inpainted]:
    """Return images that the stage `inpaint` changed, the most covered first.

    Args:
        datasets: Snapshots by stage; without `inpaint` there are none.
    """
    if "inpaint" not in datasets:
        return []
    before, after = Dataset(datasets["denoise"]), Dataset(datasets["inpaint"])
    columns = after.columns("inpainted", "occluded", "path")
    rows = np.flatnonzero(columns["inpainted"])
    rows = rows[np.argsort(-columns["occluded"][rows], kind="stable")[:SHOWN]]
    was, now = before.take(rows), after.take(rows)
    return [
        Inpainted(
            before=was[i],
            after=now[i],
            path=columns["path"][row],
            share=float(columns["occluded"][row]),
        )
        for i, row in enumerate(rows)
    ]


def count_inpainted(source: Dataset) -> int:
    """Return how many images were painted over."""
    return int(source.column("inpainted").sum()) if source.has("inpainted") else 0
