"""Write the embedded catalogue: product pictures whose truth is known."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike

from data_contracts.config import digest
from data_contracts.errors import UsageError, WorkspaceError
from tasks.catalogue_people import (
    EVENT_KINDS,
    FEATURES,
    REGIONS,
    draw_log,
    draw_tastes,
)
from tasks.catalogue_plan import Array, Dice, Plan, describe, plan
from tasks.catalogue_scene import compose, expose, near_copy
from tasks.catalogue_settings import (
    BROKEN,
    COARSE,
    COLOUR_NAMES,
    DOMAINS,
    KINDS,
    MATERIALS,
    PATTERNS,
    SENSOR,
    SPLITS,
    USELESS,
    CatalogueSettings,
    LabelNoise,
    SensorNoise,
    SplitForm,
)

__all__ = [
    "CatalogueSettings",
    "LabelNoise",
    "Rendered",
    "SensorNoise",
    "SplitForm",
    "render",
    "render_batches",
    "write_catalogue",
]

_BATCH = 64  # measured best of 16 to 128: arrays of one kind stay in the cache
_COARSE_OF = {kind: coarse for coarse, kinds in COARSE.items() for kind in kinds}
_COLUMNS = ("path", "label", "coarse_label", "domain", "text", "tags", "boxes", "split")
_NOT_AN_IMAGE = b"<!doctype html><title>404</title><p>The picture has moved.\n"


@dataclass(frozen=True)
class Rendered:
    """Pictures of some rows and the truth about them.

    A box is x0, y0, x1, y1 in pixels, tight around the mask of what is visible of the
    product; it is all zero where nothing is.
    """

    plan: Plan
    images: Array  # uint8 (b, h, w, 3)
    masks: Array  # bool (b, h, w)
    boxes: Array  # float32 (b, 4)
    hidden: Array  # float32 (b,): share of the product behind an occluder


def render(settings: CatalogueSettings, rows: ArrayLike) -> Rendered:
    """Render `rows` (indices of pictures); a row is the same in whatever company."""
    parts = list(render_batches(settings, rows))
    if not parts:
        raise UsageError("rows must name at least one picture; got none.")
    fields = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("images", "masks", "boxes", "hidden")
    }
    return Rendered(plan=plan(settings, rows), **fields)


def render_batches(
    settings: CatalogueSettings, rows: ArrayLike, *, batch_size: int = _BATCH
) -> Iterator[Rendered]:
    """Render `rows` batch by batch, in order, in memory that stays the same."""
    rows = np.asarray(rows, np.int64).ravel()
    for start in range(0, len(rows), batch_size):
        yield _render_batch(settings, plan(settings, rows[start : start + batch_size]))


def _render_batch(settings: CatalogueSettings, rows: Plan) -> Rendered:
    scene = compose(settings, rows)
    images = expose(settings, rows, scene.picture)
    masks = (scene.cover > 0.5) & (scene.occluder < 0.5)
    masks[rows.useless == USELESS.index("blank")] = False
    whole = np.maximum((scene.cover > 0.5).sum((1, 2)), 1)
    hidden = ((scene.cover > 0.5) & (scene.occluder >= 0.5)).sum((1, 2)) / whole
    for at in np.flatnonzero(rows.near):
        dice = Dice(settings.seed, rows.rows[at : at + 1])
        images[at], masks[at] = near_copy(images[at], masks[at], dice)
    return Rendered(rows, images, masks, _boxes(masks), hidden.astype(np.float32))


def _boxes(masks: Array) -> Array:
    """Return the tight box of each mask."""
    sides: list[Array] = []
    for axis in (1, 2):
        line = np.any(masks, axis=axis)
        first, last = np.argmax(line, 1), line.shape[1] - np.argmax(line[:, ::-1], 1)
        sides += [first, np.where(np.any(line, axis=1), last, 0)]
    return np.stack([sides[0], sides[2], sides[1], sides[3]], 1).astype(np.float32)


def write_catalogue(settings: CatalogueSettings, root: Path) -> Path:
    """Write pictures, manifest and truth under `root`; return the manifest's path.

    The folder appears complete or not at all. A folder that already holds the catalogue
    of the same settings is left as it is.

    Raises:
        UsageError: `root` holds something else.
        WorkspaceError: the folder cannot be written.
    """
    root = Path(root)
    manifest = root / "manifest.csv"
    if _holds(root, settings):
        return manifest
    partial = root.with_name(f".{root.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        _write_all(settings, partial)
        if root.exists():
            root.rmdir()
        partial.rename(root)
    except OSError as error:
        if _holds(root, settings):  # another run was first
            return manifest
        raise WorkspaceError(
            f"the catalogue cannot be written to {root}: {error}. Free the disk or "
            "choose another folder."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _holds(root: Path, settings: CatalogueSettings) -> bool:
    """Say whether `root` holds this catalogue; refuse a folder that holds another."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    with contextlib.suppress(OSError, ValueError):
        held = json.loads((root / "truth" / "settings.json").read_text("utf-8"))
        if held["digest"] == digest("catalogue", settings):
            return True
    raise UsageError(
        f"{root} already holds something other than the catalogue of these settings. "
        "Choose another folder, or remove that one."
    )


def _write_all(settings: CatalogueSettings, root: Path) -> None:
    """Write every file of the catalogue under an empty folder."""
    truth: list[dict[str, list[Any]]] = []
    packed = []
    rows = np.arange(settings.images)
    with (root / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        with_split = settings.splits == SplitForm.MANIFEST
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS if with_split else _COLUMNS[:-1])
        for batch in render_batches(settings, rows):
            paths = _paths(settings, batch.plan)
            _write_images(settings, batch, [root / path for path in paths])
            lines = _manifest_lines(settings, batch, paths)
            writer.writerows(lines if with_split else [line[:-1] for line in lines])
            truth.append(_truth_rows(settings, batch, paths))
            packed.append(np.packbits(batch.masks.reshape(len(paths), -1), axis=1))
    folder = root / "truth"
    folder.mkdir()
    shape = np.array([settings.image_size, settings.image_size])
    np.savez(folder / "masks.npz", packed=np.concatenate(packed), shape=shape)
    columns = {key: [v for part in truth for v in part[key]] for key in truth[0]}
    _write_table(folder / "truth.parquet", columns)
    _write_people(settings, folder, columns["path"])
    held = {
        "digest": digest("catalogue", settings),
        "settings": settings.model_dump(mode="json"),
    }
    (folder / "settings.json").write_text(json.dumps(held, indent=2) + "\n", "utf-8")


def _paths(settings: CatalogueSettings, rows: Plan) -> list[str]:
    """Return the path of each picture, under the class it is said to be."""
    split_first = settings.splits == SplitForm.FOLDERS
    return [
        f"images/{SPLITS[s] + '/' if split_first else ''}{KINDS[kind]}/{row:07d}.jpg"
        for row, kind, s in zip(rows.rows, rows.given, rows.split, strict=True)
    ]


def _write_images(
    settings: CatalogueSettings, batch: Rendered, paths: list[Path]
) -> None:
    """Encode and write one batch; spoil the files that the plan breaks."""
    for folder in {path.parent for path in paths}:
        folder.mkdir(parents=True, exist_ok=True)
    cut = Dice(settings.seed, batch.plan.rows).between("cut", 0.25, 0.8)
    for i, path in enumerate(paths):
        quality = settings.quality - 12 * int(batch.plan.near[i])
        options = [cv2.IMWRITE_JPEG_QUALITY, max(quality, 20)]
        _, encoded = cv2.imencode(".jpg", batch.images[i][..., ::-1], options)
        code = int(batch.plan.broken[i])
        path.write_bytes(_spoil(encoded.tobytes(), code, float(cut[i])))


def _spoil(encoded: bytes, code: int, cut: float) -> bytes:
    """Return the bytes of a broken file; `code` -1 leaves them as they are."""
    if code < 0:
        return encoded
    return {
        "truncated": encoded[: int(len(encoded) * cut)],
        "empty": b"",
        "text": _NOT_AN_IMAGE,
        "bomb": _bomb(),
    }[BROKEN[code]]


def _bomb() -> bytes:
    """Return a PNG header that announces 60,000 by 60,000 pixels, and no pixels."""
    import struct
    import zlib

    def chunk(name: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + check

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    ends = chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + ends


def _manifest_lines(
    settings: CatalogueSettings, batch: Rendered, paths: list[str]
) -> list[list[str]]:
    """Return the manifest's lines, given labels in them."""
    rows = batch.plan
    texts = describe(rows, seed=settings.seed)
    lines = []
    for i, path in enumerate(paths):
        given = KINDS[rows.given[i]]
        tags = COLOUR_NAMES[rows.colour[i]], MATERIALS[rows.material[i]]
        box = [int(v) for v in batch.boxes[i]]
        boxes = [[*box, KINDS[rows.kind[i]]]] if any(box) else []
        lines.append(
            [
                path,
                given,
                _COARSE_OF[given],
                DOMAINS[rows.domain[i]],
                texts[i],
                ";".join((*tags, PATTERNS[rows.pattern[i]])),
                json.dumps(boxes),
                SPLITS[rows.split[i]],
            ]
        )
    return lines


def _truth_rows(
    settings: CatalogueSettings, batch: Rendered, paths: list[str]
) -> dict[str, list[Any]]:
    """Return the columns of the truth table for one batch."""
    rows = batch.plan
    copied = rows.source != rows.rows
    originals = _paths(settings, plan(settings, rows.source - settings.first))

    def names(all_: tuple[str, ...], codes: Array) -> list[str]:
        return [all_[code] if code >= 0 else "" for code in codes]

    return {
        "path": paths,
        "row": rows.rows.tolist(),
        "label": names(KINDS, rows.kind),
        "given_label": names(KINDS, rows.given),
        "mislabelled": (rows.kind != rows.given).tolist(),
        "domain": names(DOMAINS, rows.domain),
        "colour": names(COLOUR_NAMES, rows.colour),
        "material": names(MATERIALS, rows.material),
        "pattern": names(PATTERNS, rows.pattern),
        "split": names(SPLITS, rows.split),
        "occluded": rows.occluded.tolist(),
        "hidden": batch.hidden.tolist(),
        "sensor_noise": names(SENSOR, rows.sensor),
        "useless": names(USELESS, rows.useless),
        "broken": names(BROKEN, rows.broken),
        "duplicate_of": [
            path if hit else "" for path, hit in zip(originals, copied, strict=True)
        ],
        "duplicate_kind": [
            ("near" if near else "exact") if hit else ""
            for near, hit in zip(rows.near, copied, strict=True)
        ],
        "box": batch.boxes.tolist(),
    }


def _write_people(settings: CatalogueSettings, folder: Path, paths: list[str]) -> None:
    """Write users, their log over sound original pictures, and their hidden tastes."""
    rows = plan(settings, np.arange(settings.images))
    offered = np.flatnonzero(
        (rows.source == rows.rows) & (rows.broken < 0) & (rows.useless < 0)
    )
    people = draw_tastes(settings)
    log = draw_log(settings, rows[offered], people)
    names = np.array([f"u{number:06d}" for number in range(settings.users)], object)
    users = Dice(settings.seed, np.arange(settings.users))
    _write_table(
        folder / "users.parquet",
        {
            "user_id": names.tolist(),
            "region": [REGIONS[i] for i in users.pick("region", np.ones(4))],
        },
    )
    _write_table(
        folder / "events.parquet",
        {
            "user_id": names[log.user].tolist(),
            "path": np.array(paths, object)[offered[log.item]].tolist(),
            "event": [EVENT_KINDS[code] for code in log.event],
            "timestamp": log.time,
        },
    )
    np.savez_compressed(
        folder / "tastes.npz", features=np.array(FEATURES), **vars(people)
    )


def _write_table(path: Path, columns: dict[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)
