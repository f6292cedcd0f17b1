"""Find images that should not be learnt from; keep every row, say why."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from pydantic import Field

from data_contracts.config import Settings
from data_contracts.dataset import Array
from data_contracts.references import DatasetRef
from data_contracts.store import Dataset
from tasks.duplicates import exact_pairs, group_rows, near_pairs, same_colours
from tasks.stage import Build, run_stage, stage_task

VERSION = 2
TEST = 2
UNLABELLED = "no-label"
# Findings that no policy can overrule: there is nothing to learn from.
FATAL = ("undecodable", UNLABELLED)


class NearDuplicates(StrEnum):
    """What to do with pictures that look the same."""

    group = "group"
    drop = "drop"


class CleanSettings(Settings):
    """Settings of the stage `clean`."""

    min_std: float = Field(
        4.0, ge=0, le=128, description="Blank: grey levels vary less than this."
    )
    min_mean: float = Field(
        10.0, ge=0, le=255, description="Dark: mean grey below this."
    )
    min_sharpness: float = Field(
        12.0, ge=0, description="Blurred: variance of the Laplacian below this."
    )
    min_side: int = Field(
        16, ge=1, description="Odd-sized: the original's shorter side, in pixels."
    )
    max_aspect: float = Field(
        6.0, ge=1, description="Odd-sized: longer over shorter side."
    )
    near_distance: int = Field(
        3, ge=0, le=3, description="Near-duplicates: differing bits of 64."
    )
    near_tolerance: float = Field(
        40.0, ge=0, le=255, description="Near-duplicates: largest colour difference."
    )
    near: NearDuplicates = Field(
        NearDuplicates.group,
        description="Near-duplicates: keep together in one split, or drop all but one.",
    )
    clean_test: bool = Field(
        False, description="Also drop from a given test split, not only flag."
    )


def find_flaws(columns: dict[str, Array], settings: CleanSettings) -> Array:
    """Return the first flaw of each image that its own figures show, '' if none."""
    width, height = columns["width"], columns["height"]
    short, long = np.minimum(width, height), np.maximum(width, height)
    odd = (short < settings.min_side) | (
        long > settings.max_aspect * np.maximum(short, 1)
    )
    flaws = {
        "undecodable": ~columns["ok"],
        "removed": ~columns["present"],
        "odd-sized": odd,
        "blank": columns["std"] < settings.min_std,
        "dark": columns["mean"] < settings.min_mean,
        "blurred": columns["sharpness"] < settings.min_sharpness,
        UNLABELLED: columns["label"] < 0,
    }
    return np.select(list(flaws.values()), list(flaws), default="").astype(object)


def drop_duplicates(
    columns: dict[str, Array], reason: Array, exact: Array, near: Array
) -> tuple[Array, Array]:
    """Mark exact and near duplicates and conflicting labels in a copy of `reason`.

    Copies in different given splits are leakage, not redundancy: each stays, and the
    cleaning report counts them.

    Returns:
        The reasons, and for each row the row that stands for it.
    """
    reason, label = reason.copy(), columns["label"]
    settled = columns["settled"] >= 0
    canonical = np.arange(len(reason))
    for pairs, name in ((near, "near-duplicate"), (exact, "exact-duplicate")):
        if not len(pairs):
            continue
        first, later = pairs.T
        conflict = label[first] != label[later]
        for row, other in ((first, later), (later, first)):
            # A newcomer does not take away what a champion was trained and judged on.
            firm = settled[row] & ~settled[other]
            reason[row[conflict & ~firm]] = "conflicting-label"
        same_split = columns["split"][first] == columns["split"][later]
        same_split |= columns["split"][later] < 0
        repeat = same_split & ~conflict & (reason[later] != "conflicting-label")
        reason[later[repeat]] = name
        # Smallest row wins where a row repeats several others.
        np.minimum.at(canonical, later[repeat], first[repeat])
    return reason, canonical


def decide(columns: dict[str, Array], reason: Array, settings: CleanSettings) -> Array:
    """Return which rows stay: flaws of a given test split are flagged, not dropped."""
    spared = reason == ""
    if settings.near == NearDuplicates.group:
        spared |= reason == "near-duplicate"
    if not settings.clean_test:
        spared |= columns["split"] == TEST
    spared &= columns["label"] >= 0
    return np.asarray(spared & ~np.isin(reason, [*FATAL, "removed"]))


def remarks(columns: dict[str, Array], reason: Array, canonical: Array) -> Array:
    """Say in words what was found, for the rows with a finding."""
    words = np.full(len(reason), "", object)
    path = columns["path"]
    for row in np.flatnonzero(reason != ""):
        words[row] = {
            "undecodable": columns["detail"][row],
            "removed": "the source no longer holds it",
            UNLABELLED: "no label was given",
            "odd-sized": f"{columns['width'][row]} x {columns['height'][row]} pixels",
            "blank": f"grey levels vary by {columns['std'][row]:.1f}",
            "dark": f"mean grey level {columns['mean'][row]:.1f}",
            "blurred": f"sharpness {columns['sharpness'][row]:.1f}",
            "exact-duplicate": f"same bytes as {path[canonical[row]]}",
            "near-duplicate": f"looks like {path[canonical[row]]}",
            "conflicting-label": "the same picture carries another label",
        }[reason[row]]
    return words


def leakage(group: Array, split: Array, keep: Array) -> int:
    """Count duplicate groups of kept images that stand in more than one given split."""
    chosen = keep & (split >= 0) & (split <= TEST)
    pairs = np.unique(np.stack([group[chosen], split[chosen]], axis=1), axis=0)
    return int((np.unique(pairs[:, 0], return_counts=True)[1] > 1).sum())


NEEDED = (
    "path present ok detail label split settled width height std mean sharpness sha256"
    " phash"
).split()


def clean(build: Build, settings: CleanSettings) -> None:
    """Write `keep`, `reason`, `remark`, `group` and `canonical`."""
    assert build.parent is not None
    dataset = build.parent
    columns = dataset.columns(*NEEDED)
    flaws = find_flaws(columns, settings)

    def pairs(rows: Array) -> tuple[Array, Array]:
        exact = exact_pairs(columns["sha256"], rows)
        near = near_pairs(columns["phash"], rows, distance=settings.near_distance)
        near = same_colours(near, dataset.take, tolerance=settings.near_tolerance)
        return exact, near

    exact, near = pairs(np.flatnonzero(flaws == ""))
    reason, canonical = drop_duplicates(columns, flaws, exact, near)
    keep = decide(columns, reason, settings)
    if (flaws == UNLABELLED).any():
        # They take no label from another, and no place; but a stage that fills labels
        # must know whom they look like.
        exact, near = pairs(np.flatnonzero(np.isin(flaws, ["", UNLABELLED])))
    group = group_rows(len(keep), np.concatenate([exact, near]))
    build.writer.write(
        keep=keep,
        reason=reason,
        remark=remarks(columns, reason, canonical),
        group=group,
        canonical=canonical,
    )
    build.writer.annotate(leaking_groups=leakage(group, columns["split"], keep))


@stage_task(retries=2)
def clean_dataset(source: DatasetRef, settings: CleanSettings) -> DatasetRef:
    """Mark the images of `source` that should not be learnt from."""
    return run_stage(
        "clean",
        lambda build: clean(build, settings),
        uri=source.uri,
        parent=source,
        version=VERSION,
        settings=settings,
    )


def count_reasons(source: DatasetRef) -> dict[str, int]:
    """Return how many images were dropped, by reason."""
    columns = Dataset(source).columns("keep", "reason")
    names, counts = np.unique(
        columns["reason"][~columns["keep"]].astype(str), return_counts=True
    )
    return {str(name): int(n) for name, n in zip(names, counts, strict=True)}
