"""Label the images of any source with a registered version."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import numpy as np

from data_contracts.dataset import Array
from data_contracts.errors import SourceError, UsageError
from data_contracts.references import ModelRef
from data_contracts.store import storage_errors
from tasks.audit_settings import HardenSettings
from tasks.decode import SENSED, DecodeSettings, Problem, decode_image
from tasks.denoise import DenoiseSettings, denoise, route
from tasks.harden import Hardened, hardened
from tasks.inference import BATCH, Predictor
from tasks.inpaint import repaired_as_trained
from tasks.labels import roll_up
from tasks.listing import Listing, SourceSettings
from tasks.pixels import statistics
from tasks.progress import Progress
from tasks.sources import list_source
from tasks.stage import stage_task

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("sightline")

BLOCK = 512


class Seen(NamedTuple):
    """Decoded images (n, h, w, 3), and what was found of their noise.

    Attributes:
        images: As decoded; blank where there is none.
        mended: Those with salt and pepper without it, by place.
        figures: Figures of the originals' noise by name, as ingest writes them.
    """

    images: Array
    mended: dict[int, Array]
    figures: dict[str, Array]


def seen_as_trained(seen: Seen, meta: dict[str, Any], model: Path = Path()) -> Array:
    """Treat decoded images as `denoise` and `inpaint` treated the training images.

    Args:
        seen: Images, as decoded.
        meta: What the model keeps of its training.
        model: Folder of its weights.
    """
    return repaired_as_trained(_denoised_as_trained(seen, meta), meta, model)


def _denoised_as_trained(seen: Seen, meta: dict[str, Any]) -> Array:
    images = seen.images
    if not meta["denoise"] or not meta["denoise"]["treat"] or not len(images):
        return images
    settings = DenoiseSettings.model_validate(meta["denoise"])
    noise = route(
        seen.figures | statistics(images), size=images.shape[1], settings=settings
    )
    mended = images.copy()
    for place, image in seen.mended.items():
        mended[place] = image
    left = seen.figures["left_sigma"]
    return denoise(images, mended, noise, left, settings=settings)


def decode_block(
    listing: Listing, items: range, settings: DecodeSettings
) -> tuple[Seen, list[str]]:
    """Return the images of `items`, blank where there are none, and what went wrong.

    Images are decoded in parallel over Dask threads.
    """
    from dask.base import compute
    from dask.delayed import delayed

    size = settings.image_size
    images = np.zeros((len(items), size, size, 3), np.uint8)
    figures = {name: np.zeros(len(items), np.float32) for name in SENSED}
    mended: dict[int, Array] = {}

    def one(place: int, item: int) -> str:
        if listing.problem[item]:
            return f"{listing.problem[item]}: {listing.detail[item]}"
        try:
            found = decode_image(listing.read(item), settings)
        except OSError as error:
            return f"unreadable: {error.strerror or error}"
        if isinstance(found, Problem):
            return f"{found.code}: {found.detail}"
        images[place] = found.image
        for name, value in found.sensed.items():
            figures[name][place] = value
        if found.mended is not None:
            mended[place] = found.mended
        return ""

    def several(part: Array) -> list[str]:
        return [one(int(place), items[int(place)]) for place in part]

    parts = np.array_split(np.arange(len(items)), min(len(items), 8))
    run: Any = compute
    found = run(*(delayed(several)(part) for part in parts), scheduler="threads")
    return Seen(images, mended, figures), [
        problem for part in found for problem in part
    ]


def predictions(
    listing: Listing,
    predictor: Predictor | Hardened,
    *,
    version: int,
    folder: Path = Path(),
) -> Iterator[pa.Table]:
    """Yield a table for every block of images, so that memory stays flat."""
    import pyarrow as pa

    decode = DecodeSettings.model_validate(predictor.meta["ingest"]["decode"])
    names = np.array(predictor.classes, object)
    with Progress("predict", total=len(listing), unit="images") as progress:
        for start in range(0, len(listing), BLOCK):
            items = range(start, min(start + BLOCK, len(listing)))
            seen, problems = decode_block(listing, items, decode)
            probs = predictor(seen_as_trained(seen, predictor.meta, folder))
            good = np.array([not problem for problem in problems])
            label = np.where(good, names[probs.argmax(axis=1)], None)
            sure = np.where(good, probs.max(axis=1), np.nan).astype(np.float64)
            columns = {
                "path": pa.array(listing.path[start : items.stop], pa.string()),
                "class": pa.array(label, pa.string()),
                "probability": pa.array(sure, pa.float64(), from_pandas=True),
                "model_version": pa.array([version] * len(items), pa.int32()),
                "problem": pa.array(problems, pa.string()),
            }
            if predictor.meta.get("hierarchy"):
                columns |= coarse_answers(probs, good, predictor.meta["hierarchy"])
            yield pa.table(columns)
            progress.advance(len(items))


def coarse_answers(
    probs: Array, good: Array, hierarchy: dict[str, Any]
) -> dict[str, pa.Array]:
    """Return the columns `coarse` and `coarse_probability`.

    Args:
        probs: Of the classes, (n, k).
        good: Rows that were read, (n,).
        hierarchy: Of `tasks.labels.hierarchy_of`.
    """
    import pyarrow as pa

    coarse = roll_up(probs, hierarchy)
    names = np.array(hierarchy["names"], object)
    label = np.where(good, names[coarse.argmax(axis=1)], None)
    sure = np.where(good, coarse.max(axis=1), np.nan).astype(np.float64)
    return {
        "coarse": pa.array(label, pa.string()),
        "coarse_probability": pa.array(sure, pa.float64(), from_pandas=True),
    }


@stage_task()
def predict_source(
    place: str,
    settings: SourceSettings,
    *,
    model: ModelRef,
    out: str,
    harden: HardenSettings = HardenSettings(),
) -> dict[str, int]:
    """Write class, probability and model version of every image to Parquet or CSV.

    A file that cannot be read has a row too, with the problem in place of a class.

    Args:
        place: Folder, file, manifest or archive.
        settings: How to list it.
        model: The version that answers.
        out: Path that ends in .parquet or .csv.
        harden: What images go through before they are answered.

    Returns:
        How many images were labelled, and how many files were not.

    Raises:
        UsageError: `out` has another ending.
        SourceError: There are no images.
    """
    target = Path(out)
    if target.suffix not in {".parquet", ".csv"}:
        raise UsageError(f"out={out!r} must end in .parquet or .csv.")
    listing = list_source(place, settings=settings)
    if not len(listing):
        raise SourceError(f"There are no images in {place}.")
    folder = Path(model.uri) / "model"
    few = min(len(listing), BATCH)
    predictor = hardened(Predictor.load(folder), harden).for_batch(few)
    aside = target.with_name(f".{uuid4().hex}{target.suffix}")
    counts = {"labelled": 0, "unread": 0}
    with storage_errors(out):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            for table in _written(
                predictions(listing, predictor, version=model.version, folder=folder),
                aside,
            ):
                unread = table["class"].null_count
                counts["unread"] += unread
                counts["labelled"] += table.num_rows - unread
            os.replace(aside, target)
        finally:
            aside.unlink(missing_ok=True)
    log.info("predict   %s images to %s", f"{counts['labelled']:,}", out)
    return counts


def _written(tables: Iterator[pa.Table], path: Path) -> Iterator[pa.Table]:
    """Write each table to `path` as it comes, and pass it on."""
    import pyarrow.csv as csv
    import pyarrow.parquet as parquet

    first = next(tables)
    make: Any = parquet.ParquetWriter if path.suffix == ".parquet" else csv.CSVWriter
    with make(path, first.schema) as writer:
        writer.write_table(first)
        yield first
        for table in tables:
            writer.write_table(table)
            yield table
