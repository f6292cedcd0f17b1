"""Slices of a dataset's images: by the values of any column, numbers by quantiles."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_contracts.dataset import COLUMNS, NONE, Array
from data_contracts.errors import UsageError
from data_contracts.store import Dataset
from tasks.lessons import count_taught, labels_to_learn

# Columns of many values are cut to the commonest.
MOST = 40
FEW_NUMBERS = 10  # different numbers that stay slices of their own
# Training images of a class, the bounds of few and medium (arXiv 1904.05160).
SHOTS = (20, 100)
# Sides of the original, in pixels, that part the slices of the column `size`.
SIDES = (128, 256, 512)
USUAL = ("domain", "coarse", "size", "brightness", "era")


class Slice(NamedTuple):
    """Values of one column: their names, and the position of each image's in them."""

    names: list[str]
    codes: Array


def slices_of(dataset: Dataset, rows: Array) -> dict[str, Array]:
    """Return the slice names of `rows`.

    They are domain, coarse label, size, era, and how many training images the class
    has: many, medium or few.
    """
    columns = dataset.columns("domain", "coarse", "width", "height", "era")
    if dataset.has("domain_imputed"):  # a guess is no slice to judge by
        columns["domain"][dataset.column("domain_imputed")] = NONE
    side = np.minimum(columns["width"], columns["height"])[rows]
    edges = ["under 128 px", "128 to 255 px", "256 to 511 px", "512 px and more"]
    slices: dict[str, Array] = {
        kind: _named(columns[kind][rows], dataset.names(f"{kind}_names"))
        for kind in ("domain", "coarse")
    }
    if dataset.has("use"):
        slices["training images"] = _shots(dataset, rows)
    slices["size"] = np.array(edges, object)[np.searchsorted(SIDES, side, "right")]
    slices["era"] = np.array([f"era {era}" for era in columns["era"][rows]], object)
    return {name: values for name, values in slices.items() if len(set(values)) > 1}


def _named(codes: Array, names: list[str]) -> Array:
    return np.array([*names, ""], object)[np.where(codes < 0, len(names), codes)]


def slices_by(
    dataset: Dataset, rows: Array, wanted: Sequence[str], *, bins: int
) -> dict[str, Slice]:
    """Return slices of `rows`; a column of one value is no slice.

    Args:
        dataset: Where the columns are.
        rows: Images to slice.
        wanted: Columns: those of the dataset, its numeric side columns by name, and
            `size` and `brightness`.
        bins: Quantile bins of a column of numbers.

    Raises:
        UsageError: There is no such column.
    """
    usual = slices_of(dataset, rows)
    found = {name: _slice(dataset, rows, name, usual, bins=bins) for name in wanted}
    return {
        name: Slice(*slice_)
        for name, slice_ in found.items()
        if len(np.unique(slice_.codes[slice_.codes >= 0])) > 1
    }


def _slice(
    dataset: Dataset, rows: Array, name: str, usual: dict[str, Array], *, bins: int
) -> Slice:
    if name in ("size", "era", "domain", "coarse"):
        return by_text(usual.get(name, np.full(len(rows), "")))
    if name == "brightness":
        return by_quantile(dataset.column("mean")[rows], bins=bins)
    if name == "label":
        names = np.array([*dataset.names("label_names"), ""], object)
        return by_text(names[dataset.column(name)[rows]])
    numbers = dataset.names("number_names")
    if name in numbers:
        values = dataset.column("numbers")[:, numbers.index(name)][rows]
        return by_quantile(values, bins=bins)
    if name not in COLUMNS or not dataset.has(name) or COLUMNS[name].axis != "image":
        there = sorted(
            key
            for key, column in COLUMNS.items()
            if dataset.has(key) and column.axis == "image" and not column.tail
        )
        raise UsageError(
            f"slices: the dataset has no column {name!r}; there are size, brightness,"
            f" {', '.join([*there, *numbers])}."
        )
    values = dataset.column(name)[rows]
    if values.ndim > 1:
        raise UsageError(f"slices: column {name!r} holds several numbers an image.")
    if values.dtype in (object, bool):
        return by_text(values)
    return by_quantile(values, bins=bins)


def by_text(values: Array) -> Slice:
    """Return slices by value, rare ones of many together; '' is none."""
    text = values.astype(str)
    names, codes, counts = np.unique(text, return_inverse=True, return_counts=True)
    codes = codes.ravel()
    if len(names) > MOST:
        kept = np.sort(np.argsort(-counts, kind="stable")[: MOST - 1])
        place = np.full(len(names), MOST - 1)
        place[kept] = np.arange(MOST - 1)
        blank = text == ""
        names, codes = np.append(names[kept], "other"), place[codes]
        codes[blank] = NONE
    else:
        codes = np.where(names[codes] == "", NONE, codes)
    return Slice([str(name) for name in names], codes.astype(np.int64))


def by_quantile(values: Array, *, bins: int) -> Slice:
    """Return slices of numbers, about equally many images in each; NaN is none.

    Few numbers that come again and again, such as 0 and 1, are slices of their own.
    """
    numbers = values.astype(np.float64)
    known = np.isfinite(numbers)
    if not known.any():
        return Slice([], np.full(len(values), NONE))
    own = np.unique(numbers[known])
    if len(own) <= FEW_NUMBERS and (len(own) == 1 or 2 * len(own) <= known.sum()):
        codes, names = np.searchsorted(own, numbers), [_number(value) for value in own]
    else:
        edges = np.unique(np.quantile(numbers[known], np.linspace(0, 1, bins + 1)))
        codes = np.searchsorted(edges[1:-1], numbers, side="right")
        pairs = itertools.pairwise(_number(edge) for edge in edges)
        names = [f"{low} to {high}" for low, high in pairs]
    return Slice(names, np.where(known, codes, NONE).astype(np.int64))


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _shots(dataset: Dataset, rows: Array) -> Array:
    """Return whether the class of each row has many, some or few training images."""
    counts, label = count_taught(dataset), labels_to_learn(dataset)
    low, high = SHOTS
    names = [f"few: under {low}", f"medium: {low} to {high}", f"many: over {high}"]
    found = counts[np.maximum(label[rows], 0)]
    return np.array(names, object)[(found >= low) + 1 * (found > high)]
