"""What differs between two snapshots of a dataset, by array and chunk."""

from __future__ import annotations

from dataclasses import dataclass

import icechunk

from data_contracts.store import open_repository


@dataclass(frozen=True)
class Changes:
    """Chunks along the first axis that may differ, by array."""

    arrays: frozenset[str]
    chunks: dict[str, frozenset[int]]

    def touched(self, name: str, chunk: int) -> bool:
        """Whether a chunk of the array `name` may differ."""
        return name in self.arrays or chunk in self.chunks.get(name, frozenset())


def changes_between(uri: str, one: str, other: str) -> Changes:
    """Return what may differ between two snapshots, as the store recorded it.

    Nothing is read but the record: what neither snapshot wrote since their last common
    ancestor is the same in both.
    """
    repository = open_repository(uri)
    shared = common_ancestor(repository, one, other)
    arrays: set[str] = set()
    chunks: dict[str, set[int]] = {}
    for snapshot in {one, other} - {shared}:
        diff = repository.diff(from_snapshot_id=shared, to_snapshot_id=snapshot)
        arrays |= {path.strip("/") for path in diff.new_arrays | diff.deleted_arrays}
        for path, places in diff.updated_chunks.items():
            chunks.setdefault(path.strip("/"), set()).update(at[0] for at in places)
    frozen = {name: frozenset(found) for name, found in chunks.items()}
    return Changes(frozenset(arrays), frozen)


def common_ancestor(repository: icechunk.Repository, one: str, other: str) -> str:
    """Return the newest snapshot from which both descend."""
    past = {entry.id for entry in repository.ancestry(snapshot_id=one)}
    line = (entry.id for entry in repository.ancestry(snapshot_id=other))
    return next(snapshot for snapshot in line if snapshot in past)
