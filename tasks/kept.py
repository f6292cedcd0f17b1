"""What is known of a snapshot and may be known again, in files beside its dataset."""

from __future__ import annotations

from pathlib import Path

import icechunk

from data_contracts.changes import common_ancestor
from data_contracts.store import open_repository, storage_errors
from models.durable import write_over

# Of each kind; older ones are deleted, since they can be made again.
NEWEST = 20


def folder_of(uri: str) -> Path:
    """Return the folder of what is kept beside the dataset at `uri`."""
    return Path(f"{uri}.checks")


def keep(uri: str, kind: str, snapshot: str, text: str) -> None:
    """Keep what is known of a snapshot."""
    path = folder_of(uri) / f"{kind}-{snapshot}.json"
    with storage_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_over(path, text)
        for old in _files(uri, kind)[:-NEWEST]:
            old.unlink(missing_ok=True)


def recall(uri: str, kind: str, snapshot: str) -> str | None:
    """Return what is known of a snapshot, if anything is."""
    try:
        path = folder_of(uri) / f"{kind}-{snapshot}.json"
        return path.read_text("utf-8")
    except FileNotFoundError:
        return None


def recall_nearest(uri: str, kind: str, snapshot: str) -> str | None:
    """Return what is known of the snapshot that shares most history with this one."""
    repository = open_repository(uri)
    line = [entry.id for entry in repository.ancestry(snapshot_id=snapshot)]
    found: dict[int, str] = {}
    for file in _files(uri, kind):
        other = file.stem.removeprefix(f"{kind}-")
        try:
            shared = common_ancestor(repository, other, snapshot)
        except icechunk.IcechunkError:  # of a dataset that stood here before
            continue
        found[line.index(shared)] = other
    return recall(uri, kind, found[min(found)]) if found else None


def _files(uri: str, kind: str) -> list[Path]:
    """Return the files of a kind, the newest last."""

    def written(file: Path) -> tuple[float, str]:
        try:
            return file.stat().st_mtime, file.name
        except FileNotFoundError:  # another run deleted it
            return 0.0, file.name

    return sorted(folder_of(uri).glob(f"{kind}-*.json"), key=written)
