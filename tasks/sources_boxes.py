"""Detection layouts: Pascal VOC folders and COCO JSON."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from data_contracts.errors import SourceError
from tasks.boxes import Box
from tasks.listing import (
    Listing,
    Row,
    SourceSettings,
    build,
    file_split,
    printable,
)
from tasks.sources_folders import one_split
from tasks.tree import IMAGE_SUFFIXES, MAX_TABLE, Entry, Tree, load, suffix

VOC_FOLDERS = ("JPEGImages/", "Annotations/")
VOC_SETS = (("test", "test"), ("val", "val"), ("train", "train"), ("trainval", "train"))
MAX_ANNOTATION = 64 << 20


def is_voc(tree: Tree) -> bool:
    """Whether a folder of a tree holds JPEGImages and Annotations."""
    names = list(tree.files())
    return all(any(name.startswith(f) for name in names) for f in VOC_FOLDERS)


def list_voc(tree: Tree, settings: SourceSettings) -> Listing:
    """List a Pascal VOC folder: boxes from Annotations, splits from ImageSets/Main.

    Args:
        tree: Folder or archive.
        settings: Limit and seed.
    """
    notes, files = list[str](), tree.files()
    start, marks = VOC_FOLDERS
    pictures = {
        name[len(start) :].rsplit(".", 1)[0]: name
        for name in files
        if name.startswith(start) and suffix(name) in IMAGE_SUFFIXES
    }
    annotated = {
        name[len(marks) : -4]: name
        for name in files
        if name.startswith(marks) and name.endswith(".xml")
    }
    splits = _voc_splits(tree, notes)
    stems = sorted({*pictures, *annotated, *splits})
    rows = [
        _voc_row(tree, stem, pictures.get(stem), annotated.get(stem), start)._replace(
            split=splits.get(stem)
        )
        for stem in stems
    ]
    bare = len(set(pictures) - set(annotated))
    if bare:
        notes.append(f"{bare:,} pictures without an annotation: no boxes, no label")
    return _build(rows, tree, "voc", settings, notes)


def _build(
    rows: list[Row], tree: Tree, kind: str, settings: SourceSettings, notes: list[str]
) -> Listing:
    rows = [row._replace(label=_only_name(row.boxes)) for row in rows]
    labelled = sum(row.label is not None for row in rows)
    notes.append(
        f"label taken from boxes where all of a picture share one class: {labelled:,} "
        f"of {len(rows):,} pictures"
    )
    return build(
        rows,
        root=tree.root,
        kind=kind,
        reader=tree.reader,
        settings=settings,
        notes=notes + tree.notes,
    )


def _only_name(boxes: Sequence[Box]) -> str | None:
    names = {box[4] for box in boxes}
    return names.pop() if len(names) == 1 else None


def _voc_row(
    tree: Tree, stem: str, picture: str | None, annotation: str | None, start: str
) -> Row:
    name = picture or f"{start}{stem}.jpg"
    entry = tree.find(name)
    row = _located(name, entry)
    if annotation is None:
        return row
    try:
        boxes, size = _voc_boxes(load(tree, annotation))
    except (
        ElementTree.ParseError,
        ValueError,
        AttributeError,
        OSError,
        SourceError,
    ) as error:
        detail = f"{annotation}: {error}"
        return row._replace(
            problem=row.problem or "bad-annotation", detail=row.detail or detail
        )
    return row._replace(boxes=boxes, size=size)


def _located(name: str, entry: Entry) -> Row:
    return Row(
        path=name,
        where=entry.where,
        stamp=entry.stamp,
        problem=entry.problem,
        detail=entry.detail,
    )


def _voc_boxes(raw: bytes) -> tuple[tuple[Box, ...], tuple[int, int] | None]:
    """Return the boxes of an annotation; VOC counts pixels from 1, both ends in."""
    if len(raw) > MAX_ANNOTATION:
        raise ValueError(f"{len(raw):,} bytes are too many for an annotation")
    root = ElementTree.fromstring(raw)
    width, height = (
        int(root.findtext(f"size/{side}") or 0) for side in ("width", "height")
    )
    boxes = []
    for item in root.iter("object"):
        x0, y0, x1, y1 = (
            float(item.findtext(f"bndbox/{key}") or "nan")
            for key in ("xmin", "ymin", "xmax", "ymax")
        )
        if not x0 + y0 + x1 + y1 < float("inf"):
            raise ValueError("an object without its box")
        boxes.append((x0 - 1, y0 - 1, x1, y1, (item.findtext("name") or "").strip()))
    return tuple(boxes), (width, height) if width > 0 and height > 0 else None


def _voc_splits(tree: Tree, notes: list[str]) -> dict[str, str]:
    splits, doubles = dict[str, str](), set[str]()
    for name, split in VOC_SETS:
        path = f"ImageSets/Main/{name}.txt"
        if tree.find(path).problem:
            continue
        for line in (
            load(tree, path).decode("utf-8-sig", "surrogateescape").splitlines()
        ):
            stem = printable(line.split()[0]) if line.split() else ""
            if stem and splits.setdefault(stem, split) != split and name != "trainval":
                doubles.add(stem)
    if doubles:
        notes.append(
            f"{len(doubles):,} pictures stand in two splits; test goes before val and "
            f"train (first: {sorted(doubles)[0]})"
        )
    return splits


def coco_names(tree: Tree) -> list[str]:
    """Return the JSON files at the root, or in annotations/, that look like COCO."""
    names = [
        name
        for name, entry in tree.files().items()
        if re.fullmatch(r"(annotations/)?[^/]+\.json", name)
        and entry.there
        and entry.size <= MAX_TABLE
    ]
    found = [name for name in names if _has_coco_keys(load(tree, name))]
    # Captions and keypoints of the same pictures lie beside the boxes.
    boxes = [n for n in found if n.rsplit("/", 1)[-1].startswith("instances_")]
    return boxes or found


def _has_coco_keys(raw: bytes) -> bool:
    return b'"images"' in raw and b'"annotations"' in raw


def list_coco(
    tree: Tree, files: Mapping[str, bytes], settings: SourceSettings
) -> Listing:
    """List COCO JSON files; a name such as train.json tells the split of its images.

    Args:
        tree: Folder or archive that holds the pictures.
        files: Content of the JSON files by path below the tree's root.
        settings: Limit and seed.

    Raises:
        SourceError: A file is no COCO JSON, or none of its pictures exists.
    """
    notes, rows = list[str](), list[Row]()
    for path, raw in files.items():
        try:
            rows += _coco_rows(tree, path, _coco(raw, path), notes)
        except (TypeError, AttributeError) as error:  # a list where an id should be
            raise SourceError(f"{path!r} is no sound COCO JSON: {error}.") from error
    return _build(one_split(rows, notes), tree, "coco", settings, notes)


def _coco(raw: bytes, path: str) -> dict[str, Any]:
    """Parse a COCO file and check that it has what we use."""
    try:
        content = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise SourceError(
            f"{path!r} is no valid JSON: {error}. Fetch it again."
        ) from error
    keys = list(content) if isinstance(content, dict) else []
    for key in ("images", "annotations"):
        items = content[key] if key in keys else None
        if not isinstance(items, list) or not all(isinstance(i, dict) for i in items):
            raise SourceError(
                f"{path!r} is no COCO JSON: it lacks {key!r}, a list of objects; its "
                f"keys are {', '.join(map(str, keys[:10])) or 'none'}."
            )
    return dict(content)


def _coco_rows(
    tree: Tree, path: str, content: Mapping[str, Any], notes: list[str]
) -> list[Row]:
    names = {c.get("id"): str(c.get("name")) for c in content.get("categories") or []}
    boxes, bad = dict[Any, list[Box]](), set[Any]()
    for annotation in content["annotations"]:
        image = annotation.get("image_id")
        if "bbox" not in annotation:  # a caption, or keypoints
            continue
        try:
            x, y, w, h = map(float, annotation["bbox"])
        except (TypeError, ValueError):
            bad.add(image)
            continue
        kind = annotation.get("category_id")
        box = (x, y, x + w, y + h, names.get(kind, str(kind)))
        boxes.setdefault(image, []).append(box)
    folder = _picture_folder(tree, path, content["images"])
    split, rows = file_split(path), []
    for image in content["images"]:
        name = os.path.normpath(f"{folder}{image.get('file_name') or ''}")
        row = _located(printable(name), tree.find(printable(name)))
        if image.get("id") in bad and not row.problem:
            row = row._replace(
                problem="bad-annotation", detail="a box that is not 4 numbers"
            )
        size = (image.get("width"), image.get("height"))
        sized = (
            size if all(isinstance(side, int) and side > 0 for side in size) else None
        )
        found = tuple(boxes.pop(image.get("id"), ()))
        rows.append(row._replace(split=split, boxes=found, size=sized))
    if boxes:
        count = sum(map(len, boxes.values()))
        notes.append(f"{count:,} boxes of pictures that {os.path.basename(path)} lacks")
    lost = [row for row in rows if row.problem == "missing-file"]
    if lost and len(lost) == len(rows):
        raise SourceError(
            f"{path!r}: none of its {len(rows):,} pictures exists below {tree.root!r}; "
            f"the first is {content['images'][0].get('file_name')!r}. Say root=FOLDER."
        )
    return rows


def _picture_folder(tree: Tree, path: str, items: Sequence[Mapping[str, Any]]) -> str:
    """Return the folder below the root where most of the first pictures lie."""
    stem = os.path.basename(path).rsplit(".", 1)[0]
    short = stem.removeprefix("instances_")
    inner = (
        "",
        "images/",
        f"{stem}/",
        f"images/{stem}/",
        f"{short}/",
        f"images/{short}/",
    )
    here = path[: path.rfind("/") + 1]
    outer = dict.fromkeys((here, here.removesuffix("annotations/"), ""))
    first = [str(item.get("file_name") or "") for item in items[:20]]

    def hits(folder: str) -> int:
        return sum(
            tree.find(printable(folder + name)).problem != "missing-file"
            for name in first
        )

    return max((a + b for a in outer for b in inner), key=hits)
