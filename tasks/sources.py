"""Listing a source: which layout lies at a path, and what is in it."""

from __future__ import annotations

import difflib
import glob
import io
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from data_contracts.errors import SourceError, WorkspaceError
from tasks.archives import is_archive, open_archive, unpacked
from tasks.listing import Listing, SourceSettings, build, filename, printable
from tasks.readers import FolderReader
from tasks.sources_boxes import coco_names, is_voc, list_coco, list_voc
from tasks.sources_folders import folder_rows, list_folders
from tasks.sources_parquet import image_column, list_hub, open_parquet, read_parquet
from tasks.sources_tables import list_manifest, manifest_name, read_csv
from tasks.tree import IMAGE_SUFFIXES, Archive, Entry, Folder, Tree, load, suffix

__all__ = ["Listing", "SourceSettings", "list_source"]

TABLES = ("manifest", "parquet")  # layouts with columns of their own
LAYOUTS = (
    "a folder (a folder per class, images, manifest.csv, Pascal VOC, COCO, Parquet), a "
    "CSV or Parquet file, COCO JSON, a zip or tar, a picture, or a pattern such as "
    "'photos/*.jpg'"
)


def list_source(
    path: str | Sequence[str], *, settings: SourceSettings | None = None
) -> Listing:
    """List the images at a path, whatever its layout, without decoding any.

    Args:
        path: Folder, manifest, archive, annotation file, picture or glob pattern; or
            several pictures.
        settings: How to list.

    Raises:
        SourceError: There is nothing to list, or it cannot be read.
        WorkspaceError: The machine refused: no permission, or no room to unpack.
    """
    settings = settings or SourceSettings()
    try:
        if isinstance(path, str):
            path = os.path.expanduser(path)
            listing = _dispatch(path, settings)
        else:
            listing = _list_files(", ".join(path[:3]), path, settings)
    except PermissionError as error:
        raise WorkspaceError(
            f"no permission to read {error.filename!r}. Change its rights, or choose "
            "another source."
        ) from error
    if settings.numeric and listing.kind not in TABLES:
        raise SourceError(
            f"source.numeric={','.join(settings.numeric)} asks for columns of a table,"
            f" and {path!r} is none ({listing.kind}). Give a manifest, or leave it out."
        )
    if not len(listing):
        raise SourceError(
            f"no images in {path!r} ({listing.kind}). "
            + "".join(f"{note}. " for note in listing.notes)
            + f"Expected {LAYOUTS}."
        )
    return listing


def _dispatch(path: str, settings: SourceSettings) -> Listing:
    if os.path.isdir(path):
        return _list_tree(_folder(path, settings), settings)
    if not os.path.exists(path):
        if glob.has_magic(path):
            return _list_files(path, sorted(glob.glob(path, recursive=True)), settings)
        raise _nothing_at(path)
    if not os.path.isfile(path):
        raise SourceError(
            f"{path!r} is neither a file nor a folder. Expected {LAYOUTS}."
        )
    return _list_file(path, settings)


def _folder(path: str, settings: SourceSettings) -> Folder:
    root = os.path.abspath(path)
    return Folder(
        root,
        FolderReader(root),
        outside_links=settings.outside_links,
        max_bytes=settings.max_bytes,
    )


def _nothing_at(path: str) -> SourceError:
    parent = os.path.dirname(os.path.abspath(path))
    while not os.path.isdir(parent):
        path, parent = parent, os.path.dirname(parent)
    close = difflib.get_close_matches(os.path.basename(path), os.listdir(parent), n=3)
    hint = f" Close to it: {', '.join(close)}." if close else ""
    return SourceError(
        f"there is nothing at {path!r}; the folder {parent!r} exists.{hint} "
        f"Expected {LAYOUTS}."
    )


def _list_file(path: str, settings: SourceSettings) -> Listing:
    with open(path, "rb") as file:
        head = file.read(16)
    ending = suffix(path)
    if not head.startswith(b"PAR1") and is_archive(path):
        return _list_tree(open_archive(path, settings), settings)
    if ending in IMAGE_SUFFIXES:
        return _list_files(path, [path], settings)
    home, name = os.path.split(os.path.abspath(path))
    if ending == "json":
        if os.path.basename(home) == "annotations":
            home, name = os.path.dirname(home), f"annotations/{name}"
        tree = _folder(settings.root or home, settings)
        return list_coco(tree, {name: load(_folder(home, settings), name)}, settings)
    if head.startswith(b"PAR1") and _holds_images(open_parquet(path), settings):
        return list_hub(home, [name], settings)
    if head.startswith(b"PAR1") or ending in ("csv", "tsv", "txt", "parquet"):
        with open(path, "rb") as file:
            raw = file.read()
        return _list_table(
            _folder(settings.root or home, settings), path, raw, settings
        )
    raise SourceError(
        f"{path!r} (begins with {head[:8]!r}) is no known source. Expected {LAYOUTS}."
    )


def _list_table(
    tree: Tree, name: str, raw: bytes, settings: SourceSettings, *, said: str = ""
) -> Listing:
    """List the manifest in `raw`, whose paths start at the tree's root."""
    notes = [said] if said else []
    if raw.startswith(b"PAR1") or suffix(name) == "parquet":
        table = read_parquet(open_parquet(io.BytesIO(raw), name=name), name=name)
    else:
        table = read_csv(raw, name=name, notes=notes)
    return list_manifest(tree, table, name=name, settings=settings, notes=notes)


def _holds_images(file: Any, settings: SourceSettings) -> bool:
    return image_column(file.schema_arrow, settings) is not None


def _list_tree(tree: Tree, settings: SourceSettings) -> Listing:
    """List a folder or an archive by what lies at its root."""
    inner = _inner(tree)
    for top in (tree, inner) if inner is not tree else (tree,):
        if is_voc(top):
            return list_voc(top, settings)
        coco = coco_names(top)
        if coco:
            return list_coco(top, {name: load(top, name) for name in coco}, settings)
        name = manifest_name(top)
        if name is not None:
            said, raw = f"{name} in the source says what to ingest", load(top, name)
            home = _folder(settings.root, settings) if settings.root else top
            return _list_table(home, name, raw, settings, said=said)
        shards = _shards(top, settings)
        if shards is not None:
            return list_hub(*shards, settings)
    listing = list_folders(tree, settings)
    tables = [n for n in tree.files() if re.fullmatch(r"[^/]+\.(csv|parquet)", n)]
    if not len(listing) and len(tables) == 1:
        return _list_table(tree, tables[0], load(tree, tables[0]), settings)
    return listing


def _inner(tree: Tree) -> Tree:
    """Return what lies in the only folder at the root, else the tree itself."""
    tops = {name.split("/", 1)[0] if "/" in name else "" for name in tree.files()}
    if len(tops) != 1 or "" in tops:
        return tree
    top = tops.pop()
    if isinstance(tree, Folder):
        root = os.path.join(tree.root, filename(top))
        return replace(tree, root=root, reader=FolderReader(root), **_fresh())
    start = f"{top}/"
    entries = {
        n[len(start) :]: e for n, e in tree.entries.items() if n.startswith(start)
    }
    return replace(tree, entries=entries)


def _fresh() -> dict[str, Any]:
    return {"notes": [], "_real": {}, "_walked": []}


def _shards(tree: Tree, settings: SourceSettings) -> tuple[str, list[str]] | None:
    """Return the folder and names of the Parquet files that hold images."""
    names = [n for n, e in tree.files().items() if suffix(n) == "parquet" and e.there]
    if not names:
        return None
    root = tree.root
    if isinstance(tree, Archive):
        root = unpacked(tree, names, settings)
        names = [name.replace("/", "__") for name in names]
    paths = {name: os.path.join(root, filename(name)) for name in names}
    held = [
        n for n, path in paths.items() if _holds_images(open_parquet(path), settings)
    ]
    return (root, held) if held else None


def _list_files(path: str, files: Sequence[str], settings: SourceSettings) -> Listing:
    """List single files below the folder that they share."""
    paths = [os.path.abspath(file) for file in files if not os.path.isdir(file)]
    if not paths:
        raise SourceError(f"no file matches {path!r}. Check the pattern.")
    root = os.path.commonpath([os.path.dirname(file) for file in paths])
    tree, found = _folder(root, settings), dict[str, Entry]()
    for file in paths:
        entry = tree.find(printable(os.path.relpath(file, root)))
        found[printable(entry.where)] = entry
    notes = list[str]()
    rows = folder_rows(found, notes)
    return build(
        rows,
        root=root,
        kind="files",
        reader=tree.reader,
        settings=settings,
        notes=notes,
    )
