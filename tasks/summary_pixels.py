"""Noise that was filtered, images that do not belong, images spoiled on purpose."""

from __future__ import annotations

import numpy as np
import zarr

from data_contracts.dataset import NONE
from data_contracts.store import Dataset
from tasks.corrupt import Corruption
from tasks.evaluate import Evaluated
from tasks.gallery import Denoised, Odd, Spoiled
from tasks.robustness import keys_of, spoil

SHOWN = 12


def denoised_images(source: Dataset, before: Dataset) -> list[Denoised]:
    """Return images before and after their filter, of each kind of noise."""
    columns = source.columns(
        "treated", "noise", "path", "sensor_sigma", "left_sigma", "sensor_impulse"
    )
    rows = np.flatnonzero(columns["treated"])
    kind = columns["noise"][rows]
    half = SHOWN // 2
    rows = np.concatenate([rows[kind == k][:half] for k in ("impulse", "gaussian")])
    was, now = before.take(rows), source.take(rows)
    words = {
        "gaussian": lambda row: (
            f"deviation {columns['sensor_sigma'][row]:.0f}, of which the resize left"
            f" {columns['left_sigma'][row]:.0f}"
        ),
        "impulse": lambda row: f"{columns['sensor_impulse'][row]:.1%} lone points",
    }
    return [
        Denoised(
            before=was[i],
            after=now[i],
            path=columns["path"][row],
            noise=columns["noise"][row],
            detail=words[columns["noise"][row]](row),
        )
        for i, row in enumerate(rows)
    ]


def count_odd(source: Dataset) -> int:
    """Return how many images do not belong."""
    return int((source.column("odd") != "").sum()) if source.has("odd") else 0


def odd_images(source: Dataset) -> list[Odd]:
    """Return the images that do not belong, the oddest first."""
    if not source.has("odd"):
        return []
    columns = source.columns("odd", "oddness", "path", "label", "use")
    rows = np.flatnonzero(columns["odd"] != "")
    rows = rows[np.argsort(-columns["oddness"][rows], kind="stable")[: 2 * SHOWN]]
    names, images = source.names("label_names"), source.take(rows)
    return [
        Odd(
            image=images[i],
            path=columns["path"][row],
            label=names[columns["label"][row]] if columns["label"][row] >= 0 else "",
            oddness=float(columns["oddness"][row]),
            why=columns["odd"][row],
            left_out=bool(columns["use"][row] == NONE),
        )
        for i, row in enumerate(rows)
    ]


def spoiled_rows(source: Dataset, evaluated: Evaluated) -> list[Spoiled]:
    """Return top-1 under each corruption, and a test image under its worst."""
    found = evaluated.robustness
    if found is None:
        return []
    store = zarr.open_group(evaluated.predictions, mode="r")
    row = np.asarray(store["rows"])[:1]
    image, key = source.take(row), keys_of(source.column("sha256")[row])
    rows = []
    for name in dict.fromkeys(row.corruption for row in found.rows):
        own = [row for row in found.rows if row.corruption == name]
        worst = max(row.severity for row in own)
        rivals = [row.champion.value for row in own if row.champion is not None]
        rows.append(
            Spoiled(
                image=spoil(image, (Corruption(name), worst), key)[0],
                name=name.replace("_", " "),
                top1=tuple(row.top1.value for row in own),
                champion=tuple(rivals),
            )
        )
    return rows
