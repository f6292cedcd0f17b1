"""Images in folders: a folder per class, with or without split folders, or flat."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from tasks.listing import SPLITS, Listing, Row, SourceSettings, build, split_name
from tasks.tree import Entry, Tree, images

# Folders that hold everything and mean nothing, when they are the only one.
PLAIN_FOLDERS = frozenset(
    ("images", "image", "imgs", "img", "photos", "pictures", "jpegimages", "raw")
)


def list_folders(tree: Tree, settings: SourceSettings) -> Listing:
    """List images whose last folder is the class, at any depth.

    Args:
        tree: Folder or archive.
        settings: Limit and seed.
    """
    notes = list[str]()
    found = images(tree, notes)
    rows = folder_rows(found, notes)
    kind = "folders" if any(row.label for row in rows) else "flat"
    return build(
        rows,
        root=tree.root,
        kind=kind,
        reader=tree.reader,
        settings=settings,
        notes=notes + tree.notes,
    )


def folder_rows(found: dict[str, Entry], notes: list[str]) -> list[Row]:
    """Return rows with the label, coarse label and split that the folders tell."""
    folders = [name.split("/")[:-1] for name in found]
    level = _split_level(folders)
    rows = []
    for (name, entry), parts in zip(found.items(), folders, strict=True):
        split = (
            split_name(parts[level])
            if level is not None and len(parts) > level
            else None
        )
        classes = parts if level is None else parts[level + 1 :]
        rows.append(
            Row(
                path=name,
                where=entry.where,
                label=classes[-1] if classes else None,
                coarse=classes[-2] if len(classes) > 1 else None,
                split=split,
                stamp=entry.stamp,
                problem=entry.problem,
                detail=entry.detail,
            )
        )
    return _meant(rows, notes)


def _split_level(folders: Sequence[list[str]]) -> int | None:
    """Return the depth of the train, val and test folders, if there is one."""
    levels = zip(*folders, strict=False)
    shared = sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, levels))
    for level in range(shared + 1):
        names = {f[level].lower() for f in folders if len(f) > level}
        known = {SPLITS[name] for name in names if name in SPLITS}
        if "train" in known or (known and all(name in SPLITS for name in names)):
            return level
    return None


def _meant(rows: list[Row], notes: list[str]) -> list[Row]:
    """Drop what folders only seem to say: one plain folder, or one split for all."""
    labels = {row.label for row in rows}
    if len(labels) == 1 and (only := labels.pop()) and only.lower() in PLAIN_FOLDERS:
        notes.append(f"folder {only!r} holds every image: it is not taken as a class")
        rows = [row._replace(label=None, coarse=None) for row in rows]
    return one_split(rows, notes)


def one_split(rows: list[Row], notes: list[str]) -> list[Row]:
    """Forget a split that names of folders or files give to every row alike."""
    splits = {row.split for row in rows}
    if len(splits) == 1 and (only := splits.pop()):
        notes.append(f"every image is in {only!r}: taken as no split given")
        return [row._replace(split=None) for row in rows]
    others = sum(row.split == "other" for row in rows)
    if others:
        notes.append(f"{others:,} rows in folders beside the splits: split 'other'")
    return rows
