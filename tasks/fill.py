"""Fill missing texts, domains, tags and numbers; what they learn is of training images.

Every function returns the columns to write, what was filled in (kept with the dataset
and the model, so that a later image gets the same), and lists of names that grew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data_contracts.dataset import NONE, Array
from data_contracts.errors import UsageError
from data_contracts.store import Dataset
from tasks.annotate import extend_names, ragged
from tasks.impute_settings import FillColumn, FillNumbers, ImputeSettings
from tasks.inference import devices
from tasks.labels import tags_of
from tasks.split import TRAIN

BLOCK = 4_096  # images whose neighbours are counted at a time
# A vote weighs its cosine to this power. Of 4, 8 and 12, with 10, 20 or 30 voters on
# hidden labels of groceries, 8 filled most at the same share of right labels.
SHARPNESS = 8
CELLS = 1 << 24  # votes that are in memory at once: 128 MB


@dataclass(frozen=True)
class Filled:
    """What a fill comes to."""

    columns: dict[str, Array] = field(default_factory=dict)
    value: Any = None
    names: dict[str, list[str]] = field(default_factory=dict)


def fill_text(dataset: Dataset, settings: ImputeSettings, start: Any) -> Filled:
    """Fill missing texts: a constant, the commonest, or the nearest image's."""
    if settings.text == FillColumn.keep:
        return Filled()
    text = dataset.column("text")
    gaps = (text == "") & dataset.column("ok")
    value = start or settings.text_value
    if settings.text == FillColumn.neighbours:
        known = _known(dataset, text != "", "text")
        near, _ = nearest_rows(dataset, gaps, known, k=1)
        text[gaps] = text[near[:, 0]]
        return Filled({"text": text, "text_imputed": gaps})
    if value is None:
        value = commonest(text[_known(dataset, text != "", "text")])
    text[gaps] = value
    return Filled({"text": text, "text_imputed": gaps}, value)


def fill_domain(dataset: Dataset, settings: ImputeSettings, start: Any) -> Filled:
    """Fill missing domains: a constant, the commonest, or the neighbours' vote."""
    if settings.domain == FillColumn.keep:
        return Filled()
    domain, names = dataset.column("domain"), dataset.names("domain_names")
    gaps = (domain < 0) & dataset.column("ok")
    if settings.domain == FillColumn.neighbours:
        known = _known(dataset, domain >= 0, "domain")
        near, cosines = nearest_rows(dataset, gaps, known, k=settings.voters)
        domain[gaps] = vote(domain[near], cosines, count=len(names))[0]
        return Filled({"domain": domain, "domain_imputed": gaps})
    value = start or settings.domain_value
    if value is None:
        value = names[commonest(domain[_known(dataset, domain >= 0, "domain")])]
    names = extend_names(names, [value])
    domain[gaps] = names.index(value)
    columns = {"domain": domain, "domain_imputed": gaps}
    return Filled(columns, value, {"domain_names": names})


def fill_tags(dataset: Dataset, settings: ImputeSettings, start: Any) -> Filled:
    """Give images without tags some: constants, the commonest tag, or by neighbours.

    Neighbours give the tags that at least half of them carry, which may be none.
    """
    if settings.tags == FillColumn.keep:
        return Filled()
    ids, offsets = dataset.column("tag_ids"), dataset.column("tag_offsets")
    names, count = dataset.names("tag_names"), np.diff(offsets)
    gaps = (count == 0) & dataset.column("ok")
    rows = np.repeat(np.arange(dataset.n), count)
    value = None
    if settings.tags == FillColumn.neighbours:
        known = _known(dataset, count > 0, "tags")
        near, _ = nearest_rows(dataset, gaps, known, k=settings.voters)
        place, new = _shared_tags(near, ids, offsets, count=len(names))
        new_rows = np.flatnonzero(gaps)[place]
    else:
        value = start or settings.tags_value
        if value is None:
            trained = np.isin(rows, _known(dataset, count > 0, "tags"))
            value = [names[commonest(ids[trained])]]
        names = extend_names(names, value)
        given = np.array([names.index(name) for name in value], np.int32)
        new_rows = np.repeat(np.flatnonzero(gaps), len(given))
        new = np.tile(given, int(gaps.sum()))
    imputed = np.isin(np.arange(dataset.n), new_rows)
    ids, offsets = ragged(
        np.concatenate([rows, new_rows]),
        np.concatenate([ids, new]).astype(np.int32),
        n=dataset.n,
    )
    columns = {"tag_ids": ids, "tag_offsets": offsets, "tags_imputed": imputed}
    return Filled(columns, value and list(value), {"tag_names": names})


def _shared_tags(
    near: Array, ids: Array, offsets: Array, *, count: int
) -> tuple[Array, Array]:
    """Return (image, tag) for the tags that at least half of its neighbours carry."""
    k, places, tags = near.shape[1], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for start in range(0, len(near), BLOCK):
        block = near[start : start + BLOCK]
        place, carried = tags_of(block.ravel(), ids, offsets)
        votes = np.zeros((len(block), count), np.int64)
        np.add.at(votes, (place // k, carried), 1)
        place, tag = np.nonzero(2 * votes >= k)
        places.append(place + start)
        tags.append(tag)
    return np.concatenate(places), np.concatenate(tags)


def fill_numbers(dataset: Dataset, settings: ImputeSettings, start: Any) -> Filled:
    """Fill missing numbers: a constant, or mean or median of the training images."""
    if settings.numbers == FillNumbers.keep:
        return Filled()
    names = dataset.names("number_names")
    if not dataset.has("numbers"):
        raise UsageError(
            f"impute.numbers={settings.numbers} fills numeric columns, and the source"
            " gives none. Name them: source.numeric=[price], or leave it out."
        )
    numbers = dataset.column("numbers")
    values = number_values(
        numbers[dataset.column("use") == TRAIN], names, settings, start or {}
    )
    numbers, imputed = with_numbers(numbers, [values[name] for name in names])
    return Filled({"numbers": numbers, "numbers_imputed": imputed}, values)


def number_values(
    trained: Array,
    names: list[str],
    settings: ImputeSettings,
    start: Mapping[str, float],
) -> dict[str, float]:
    """Return what is filled into each numeric column.

    Args:
        trained: Numbers of the training images, (n, m).
        names: Of the m columns.
        settings: Mean, median or constant.
        start: Values that stay, of the version to start from.

    Raises:
        UsageError: No training image has a number in a column.
    """
    values = {}
    for name, column in zip(names, trained.T, strict=True):
        given = column[~np.isnan(column)].astype(np.float64)
        if name in start:
            values[name] = float(start[name])
        elif settings.numbers == FillNumbers.constant:
            values[name] = float(settings.numbers_value or 0)
        elif not len(given):
            raise _nothing("numbers", f"a number in column {name!r}", settings.numbers)
        elif settings.numbers == FillNumbers.mean:
            values[name] = float(given.mean())
        else:
            values[name] = float(np.median(given))
    return values


def with_numbers(numbers: Array, values: list[float]) -> tuple[Array, Array]:
    """Return `numbers` (n, m) without gaps, and where the gaps were."""
    gaps = np.isnan(numbers)
    return np.where(gaps, np.array(values, np.float32), numbers), gaps


def commonest(values: Array) -> Any:
    """Return the value met most; of several the first in order."""
    found, counts = np.unique(values, return_counts=True)
    return found[counts.argmax()]


def nearest_rows(
    dataset: Dataset, gaps: Array, known: Array, *, k: int
) -> tuple[Array, Array]:
    """Return the nearest rows of `known` for each row in the mask `gaps`, and cosines.

    Args:
        dataset: Holds embeddings.
        gaps: Rows to ask for, a mask (n,).
        known: Rows to choose from.
        k: How many; fewer where fewer are known.
    """
    devices()  # before anything else touches JAX
    from models.neighbours import nearest, partial_whitening

    embeddings: Any = dataset.embeddings.oindex
    rows, gallery, k = np.flatnonzero(gaps), embeddings[known], min(k, len(known))
    whitened = partial_whitening(gallery, power=0.5)
    pool, own = whitened(gallery), np.arange(len(known))
    found = [(np.empty((0, k), np.int64), np.empty((0, k), np.float32))]
    for start in range(0, len(rows), BLOCK):
        asking = whitened(embeddings[rows[start : start + BLOCK]])
        nobody = np.full(len(asking), NONE)  # none of them is in the pool
        found.append(nearest(asking, pool, apart=(nobody, own), k=k))
    places, cosines = (np.concatenate(part) for part in zip(*found, strict=True))
    return known[places], cosines


def vote(codes: Array, cosines: Array, *, count: int) -> tuple[Array, Array]:
    """Return what the neighbours of each image agree on, and how far.

    Args:
        codes: What each neighbour says, 0 to `count` - 1, (n, k).
        cosines: How near it is, (n, k); nearer ones weigh more.
        count: How many answers there are.

    Returns:
        The answer with most weight, (n,), and its share of all weight, (n,).
    """
    weight = np.maximum(cosines, 1e-6).astype(np.float64) ** SHARPNESS
    answer, share = np.empty(len(codes), np.int64), np.empty(len(codes))
    step = max(1, CELLS // count)
    for start in range(0, len(codes), step):
        here = slice(start, start + step)
        votes = np.zeros((len(codes[here]), count))
        np.add.at(votes, (np.arange(len(votes))[:, None], codes[here]), weight[here])
        answer[here] = votes.argmax(1)
        share[here] = votes.max(1) / weight[here].sum(1)
    return answer, share


def _known(dataset: Dataset, given: Array, kind: str) -> Array:
    """Return the training rows that have a value.

    Raises:
        UsageError: There are none.
    """
    rows = np.flatnonzero((dataset.column("use") == TRAIN) & given)
    if not len(rows):
        raise _nothing(kind, kind, "a method that learns from images")
    return rows


def _nothing(kind: str, what: str, how: str) -> UsageError:
    return UsageError(
        f"impute.{kind} is {how}, and no training image has {what}. Give some, or set"
        f" impute.{kind} to constant or keep."
    )
