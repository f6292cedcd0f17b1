"""Divide the images into train, val and test: stratified, duplicates together."""

from __future__ import annotations

import hashlib

import numpy as np
from pydantic import Field

from data_contracts.config import Settings
from data_contracts.dataset import Array
from data_contracts.references import DatasetRef
from data_contracts.store import Dataset
from tasks.stage import Build, run_stage, stage_task

VERSION = 2
TRAIN, VAL, TEST, UNUSED = 0, 1, 2, -1


class SplitSettings(Settings):
    """Settings of the stage `split`."""

    val: float = Field(
        0.1, ge=0, le=0.5, description="Share for validation, when none is given."
    )
    test: float = Field(
        0.2, gt=0, le=0.5, description="Share for testing, when none is given."
    )
    seed: int = Field(0, ge=0, description="Seed of the split.")


def assign(columns: dict[str, Array], settings: SplitSettings) -> Array:
    """Return the use of every row, int8 (n,): 0 train, 1 val, 2 test, -1 unused.

    What is settled stays: the splits that the source gives, and those a champion was
    trained with. Of the rest, each era (one update's images) is divided by itself, a
    duplicate group as one, every class in the same shares. Groups are ordered by a hash
    of their content, so that new images hardly move old ones.
    """
    usable = columns["keep"] & (columns["label"] >= 0)
    given = np.where(columns["split"] <= TEST, columns["split"], UNUSED).astype(np.int8)
    fixed = np.where(columns["settled"] >= 0, columns["settled"], given)
    fixed[(columns["split"] > TEST) | ~usable] = UNUSED
    use = _follow_group(fixed, columns["group"], usable & (columns["split"] <= TEST))
    free = (columns["settled"] < 0) & ~((fixed == UNUSED) & (use != UNUSED))
    for era in np.unique(columns["era"]):
        here = usable & (columns["era"] == era) & (columns["split"] <= TEST)
        open_ = here & free & np.isin(use, [UNUSED, TRAIN])
        test = 0.0 if (given[here] == TEST).any() else settings.test
        val = 0.0 if (given[here] == VAL).any() else settings.val
        if open_.any():
            rows = np.flatnonzero(open_)
            use[rows] = _divide(rows, columns, test=test, val=val, seed=settings.seed)
    use[~usable] = UNUSED
    return _unbridged(use, columns["group"], given)


def _follow_group(fixed: Array, group: Array, usable: Array) -> Array:
    """Give rows without a use that of a settled look-alike, test before train."""
    strongest = np.full(len(fixed), UNUSED, np.int8)
    np.maximum.at(strongest, group[usable], fixed[usable])
    follows = usable & (fixed == UNUSED)
    return np.where(follows, strongest[group], fixed).astype(np.int8)


def _unbridged(use: Array, group: Array, given: Array) -> Array:
    """Leave out look-alikes of an image with a stronger use, test before val and train.

    A new image that resembles two settled ones makes them one group.
    """
    strongest = np.full(len(use), UNUSED, np.int8)
    np.maximum.at(strongest, group, use)
    weaker = (use < strongest[group]) & (given == UNUSED)
    return np.where(weaker, UNUSED, use).astype(np.int8)


def _divide(
    rows: Array, columns: dict[str, Array], *, test: float, val: float, seed: int
) -> Array:
    """Divide `rows` by class and group; return their use."""
    group, first, member = np.unique(
        columns["group"][rows], return_index=True, return_inverse=True
    )
    label = columns["label"][rows][first]
    order_by = _keys(columns["sha256"][group], seed=seed)
    order = np.lexsort((order_by, label))
    _, start, size = np.unique(label[order], return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(start, size)
    size = np.repeat(size, size)
    # A class of one group trains; of two, one tests; of three, one validates too.
    least_test = (test > 0) & (size >= 2)
    n_test = np.clip(np.rint(test * size), least_test, np.maximum(size - 1, 0))
    least_val = (val > 0) & (size - n_test >= 2)
    n_val = np.clip(np.rint(val * size), least_val, np.maximum(size - 1 - n_test, 0))
    n_test, n_val = n_test * (test > 0), n_val * (val > 0)
    use = np.where(place < n_test, TEST, np.where(place < n_test + n_val, VAL, TRAIN))
    of_group = np.empty(len(group), np.int8)
    of_group[order] = use
    return of_group[member]


def _keys(contents: Array, *, seed: int) -> Array:
    """Return an order that depends on content and seed alone, uint64."""
    salt = str(seed).encode()
    hashes = [
        hashlib.blake2b(text.encode(), digest_size=8, key=salt) for text in contents
    ]
    return np.array([int.from_bytes(h.digest(), "big") for h in hashes], np.uint64)


def leave_out_untaught(use: Array, label: Array) -> tuple[Array, dict[int, int]]:
    """Leave out images of classes without a training image.

    Returns:
        The use of every row, and the images left out by label id.
    """
    taught = np.unique(label[use == TRAIN])
    untaught = (use != UNUSED) & ~np.isin(label, taught)
    ids, counts = np.unique(label[untaught], return_counts=True)
    left_out = {int(i): int(n) for i, n in zip(ids, counts, strict=True)}
    return np.where(untaught, UNUSED, use).astype(np.int8), left_out


NEEDED = "keep label split settled group era sha256".split()


def split(build: Build, settings: SplitSettings) -> None:
    """Write `use`, and the notes of what was handled."""
    assert build.parent is not None
    columns = build.parent.columns(*NEEDED)
    use, left_out = leave_out_untaught(assign(columns, settings), columns["label"])
    build.writer.write(use=use)
    names = build.parent.names("label_names")
    build.writer.annotate(
        untaught={names[label]: count for label, count in left_out.items()},
        given_splits=bool((columns["split"] >= 0).any()),
    )


@stage_task(retries=2)
def split_dataset(source: DatasetRef, settings: SplitSettings) -> DatasetRef:
    """Divide the kept images of `source` into train, val and test."""
    return run_stage(
        "split",
        lambda build: split(build, settings),
        uri=source.uri,
        parent=source,
        version=VERSION,
        settings=settings,
    )


def has_given_splits(source: DatasetRef) -> bool:
    """Whether the source gave splits, so that leakage is reported and not refused."""
    return bool(Dataset(source).attributes["given_splits"])
