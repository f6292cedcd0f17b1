"""Test images on which a candidate and the champion meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.intervals import Floats, Ints
from tasks.scores import Scores, score


@dataclass(frozen=True)
class Arena:
    """One set of test images on which candidate and champion meet.

    Attributes:
        name: What the images are, such as "test", "old" or "new".
        labels: (n,) classes; -1 or an untrained class is left out and counted.
        probs: (n, k) the candidate's probs.
        champion: (n, j <= k) the champion's probs on the same images, if there is one.
            It is counted wrong on classes from j on, which it does not know.
        groups: (n,) duplicate group of each image; None, each its own.
        paths: (n,) image names, for the lists of flips.
        known_only: Leave out images of classes that the champion does not know.
        digests: (n,) SHA-256 of each file, by which images may be pinned too.
        slices: Name to (n,) slice of each image; '' is none.
    """

    name: str
    labels: NDArray[Any]
    probs: NDArray[Any]
    champion: NDArray[Any] | None = None
    groups: NDArray[Any] | None = None
    paths: Sequence[str] | None = None
    known_only: bool = False
    digests: Sequence[str] | None = None
    slices: Mapping[str, NDArray[Any]] | None = None


@dataclass(frozen=True)
class Rights:
    """How often two models are right on each image, spoiled or attacked.

    Attributes:
        candidate: (n,) share of right answers, 0 to 1.
        champion: (n,) the champion's on the same images.
        groups: (n,) duplicate group of each image.
        note: What a reader should know, '' for nothing.
    """

    candidate: Floats
    champion: Floats
    groups: Ints
    note: str = ""


def write_rights(path: Path, rights: Rights) -> None:
    """Keep how often both models are right on each image; `read_rights` reads it."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(
            file,
            candidate=rights.candidate,
            champion=rights.champion,
            groups=rights.groups,
            note=rights.note,
        )
    part.replace(path)


def read_rights(path: Path) -> Rights | None:
    """Return what `write_rights` kept, None where it kept nothing."""
    if not path.exists():
        return None
    with np.load(path) as kept:
        note = str(kept["note"]) if "note" in kept else ""
        return Rights(kept["candidate"], kept["champion"], kept["groups"], note)


@dataclass(frozen=True)
class Match:
    """An arena with every image scored."""

    name: str
    first: bool
    groups: Ints
    paths: Sequence[str]
    candidate: Scores
    champion: Scores | None
    counts: dict[str, int]
    digests: Sequence[str] | None = None
    slices: Mapping[str, NDArray[Any]] | None = None

    @property
    def n(self) -> int:
        """Images that are scored."""
        return len(self.groups)

    @property
    def change(self) -> Floats:
        """(n,) 1 where the candidate fixed an image, -1 where it broke one, else 0."""
        assert self.champion is not None
        return self.candidate.correct - self.champion.correct


def meet(arena: Arena, *, first: bool) -> Match:
    """Score both models on the images of `arena` that can be scored."""
    labels, n = np.asarray(arena.labels, np.int64), len(arena.labels)
    champion = arena.champion
    for probs in (arena.probs, champion):
        if probs is not None and (probs.ndim != 2 or len(probs) != n):
            raise ValueError(f"arena {arena.name}: {n} labels, probs {probs.shape}")
    k = arena.probs.shape[1]
    known = k if champion is None else champion.shape[1]
    keep = (labels >= 0) & (labels < (known if arena.known_only else max(k, known)))
    groups = np.arange(n) if arena.groups is None else np.asarray(arena.groups)
    paths = arena.paths if arena.paths is not None else [str(i) for i in range(n)]
    candidate = score(arena.probs[keep], labels[keep])
    rival = None if champion is None else score(champion[keep], labels[keep])
    counts = {
        "images": int(keep.sum()),
        "groups": len(np.unique(groups[keep])),
        "excluded": int((~keep).sum()),
        "unknown_to_champion": int((labels[keep] >= known).sum()),
        "unanswered": int((~candidate.answered).sum()),
    }
    if rival is not None:
        counts["fixed"] = int((candidate.correct > rival.correct).sum())
        counts["broken"] = int((candidate.correct < rival.correct).sum())
    return Match(
        name=arena.name,
        first=first,
        groups=groups[keep].astype(np.int64),
        paths=[paths[int(i)] for i in np.flatnonzero(keep)],
        candidate=candidate,
        champion=rival,
        counts=counts,
        digests=None
        if arena.digests is None
        else [arena.digests[int(i)] for i in np.flatnonzero(keep)],
        slices={
            name: np.asarray(values)[keep]
            for name, values in (arena.slices or {}).items()
        },
    )
