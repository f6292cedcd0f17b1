"""Images to explain: those of a dataset's test split, or of any source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from data_contracts.dataset import Array
from data_contracts.errors import SourceError
from data_contracts.store import Dataset
from tasks.decode import DecodeSettings, Fit, Problem, decode_image
from tasks.inference import fitted
from tasks.lessons import labels_to_learn
from tasks.listing import Listing
from tasks.predict import decode_block, seen_as_trained
from tasks.split import TEST

BLOCK = 512
Masks = NDArray[np.bool_]


class Pictures(Protocol):
    """Images as a model sees them, read block by block.

    Attributes:
        paths: Of each image.
        given: Label of each, None where there is none.
    """

    paths: list[str]
    given: list[str | None]

    def read(self, rows: Array) -> tuple[Array, Array]:
        """Return images (n h w 3), uint8, and which of them could be read (n,)."""

    def masks(self, rows: Array, names: Sequence[str | None]) -> tuple[Masks, Array]:
        """Return what boxes hold (n h w), and which images have any (n,).

        Args:
            rows: Of the images (n,).
            names: Class of each whose boxes count; all do where none is of it.
        """


def blocks(count: int) -> Iterator[Array]:
    """Yield the rows of `count` images, block by block."""
    for start in range(0, count, BLOCK):
        yield np.arange(start, min(start + BLOCK, count))


class JudgedImages:
    """The test images that a version was judged on."""

    def __init__(self, dataset: Dataset, *, size: int) -> None:
        self._dataset, self._size = dataset, size
        self._rows = np.flatnonzero(dataset.column("use") == TEST)
        names = np.array([*dataset.names("label_names"), None], object)
        self.paths = list(dataset.column("path")[self._rows])
        self.given = list(names[labels_to_learn(dataset)[self._rows]])

    def read(self, rows: Array) -> tuple[Array, Array]:
        """Return images (n h w 3), uint8; all of them can be read."""
        images = self._dataset.take(self._rows[rows])
        return fitted(images, size=self._size), np.ones(len(rows), bool)

    def masks(self, rows: Array, names: Sequence[str | None]) -> tuple[Masks, Array]:
        """Return what boxes hold (n h w), and which images have any (n,)."""
        out = np.zeros((len(rows), self._size, self._size), bool)
        if not self._dataset.has("boxes") or not self._dataset.names("box_names"):
            return out, np.zeros(len(rows), bool)
        columns = self._dataset.columns(
            "boxes", "box_label", "box_offsets", "width", "height"
        )
        own = np.array(self._dataset.names("box_names"), object)
        fit = Fit(self._dataset.attributes["ingest"]["decode"]["fit"])
        for place, row in enumerate(self._rows[rows]):
            span = slice(*columns["box_offsets"][row : row + 2])
            corners = of_class(
                columns["boxes"][span],
                list(own[columns["box_label"][span]]),
                names[place],
            )
            side = int(columns["width"][row]), int(columns["height"][row])
            out[place] = box_mask(corners, side, size=self._size, fit=fit)
        return out, np.asarray(out.any((1, 2)))


@dataclass
class SourceImages:
    """The images of any source, decoded and repaired as a model was trained."""

    listing: Listing
    meta: dict[str, Any]
    folder: Path

    def __post_init__(self) -> None:
        if not len(self.listing):
            raise SourceError(
                f"There are no images in {self.listing.root}. Give a folder, file,"
                " manifest or archive that holds some."
            )
        self.paths, self.given = list(self.listing.path), list(self.listing.label)
        self._decode = DecodeSettings.model_validate(self.meta["ingest"]["decode"])

    def read(self, rows: Array) -> tuple[Array, Array]:
        """Return images (n h w 3), uint8, and which of them could be read (n,)."""
        parts, good = [], []
        for start, stop in _runs(rows):
            seen, problems = decode_block(
                self.listing, range(start, stop), self._decode
            )
            parts.append(seen_as_trained(seen, self.meta, self.folder))
            good += [not problem for problem in problems]
        size = int(self.meta["image_size"])
        return fitted(np.concatenate(parts), size=size), np.array(good, bool)

    def masks(self, rows: Array, names: Sequence[str | None]) -> tuple[Masks, Array]:
        """Return what boxes hold (n h w), and which images have any (n,)."""
        size = int(self.meta["image_size"])
        out = np.zeros((len(rows), size, size), bool)
        for place, row in enumerate(rows.tolist()):
            if not self.listing.boxes[row]:
                continue
            found = decode_image(self.listing.read(row), self._decode)
            if isinstance(found, Problem):
                continue
            corners, own = self.listing.box_fractions(
                row,
                width=found.width,
                height=found.height,
                orientation=found.orientation,
            )
            corners = of_class(corners, own, names[place])
            side = found.width, found.height
            out[place] = box_mask(corners, side, size=size, fit=self._decode.fit)
        return out, np.asarray(out.any((1, 2)))


def _runs(rows: Array) -> list[tuple[int, int]]:
    """Return (first, last + 1) of the rows that follow each other."""
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    return [(int(part[0]), int(part[-1]) + 1) for part in np.split(rows, cuts)]


def of_class(corners: Array, names: list[str], wanted: str | None) -> Array:
    """Return the boxes (m, 4) of the class `wanted`, or all where none is of it."""
    own = np.array([name == wanted for name in names], bool)
    return corners[own] if own.any() else corners


def box_mask(
    corners: Array, original: tuple[int, int], *, size: int, fit: Fit
) -> Masks:
    """Return the pixels (size, size) whose middle lies in a box.

    Args:
        corners: (m, 4), x0, y0, x1, y1 as fractions of the upright original.
        original: Its width and height.
        size: Side of the square that it became.
        fit: How.
    """
    width, height = original
    if fit is Fit.STRETCH:
        scale = np.array([size, size], np.float64)
    else:  # the same scale along both sides, around the middle
        side = min(original) if fit is Fit.CROP else max(original)
        scale = np.array([width, height], np.float64) * size / max(side, 1)
    offset = (size - scale) / 2
    low, high = (corners[:, k : k + 2] * scale + offset for k in (0, 2))
    middle = np.arange(size) + 0.5
    inside = (middle >= low[..., None]) & (middle < high[..., None])  # (m, 2, size)
    return np.asarray((inside[:, 1, :, None] & inside[:, 0, None, :]).any(0))
