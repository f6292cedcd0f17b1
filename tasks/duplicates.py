"""Find exact and near duplicates by hash, bands and a look at the colours."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from data_contracts.dataset import Array

BANDS = 4
BAND_BITS = 16
THUMBNAIL = 8
# Neighbours in a band that each row is compared with; all would be quadratic in a flood
# of look-alikes. Equal hashes stand side by side, so even a flood is linked as a chain.
MOST_NEIGHBOURS = 128


def exact_pairs(sha256: Array, rows: Array) -> Array:
    """Return pairs (first, later) of `rows` whose files are the same bytes, (m, 2)."""
    _, index, inverse = np.unique(
        sha256[rows].astype(str), return_index=True, return_inverse=True
    )
    first = rows[index[inverse]]
    return np.asarray(np.stack([first, rows], axis=1)[first != rows])


def near_pairs(phash: Array, rows: Array, *, distance: int) -> Array:
    """Return pairs of `rows` whose hashes differ in at most `distance` bits, (m, 2).

    Two 64-bit hashes at most 3 bits apart agree in one of four 16-bit bands, so only
    rows that share a band are compared (the pigeonhole of Manku et al. 2007).
    """
    found = np.empty(0, np.int64)
    width = int(rows.max(initial=0)) + 1  # a pair as one number: quick to make unique
    hashes = phash[rows].astype(np.uint64)
    for band in range(BANDS):
        key = (hashes >> np.uint64(band * BAND_BITS)) & np.uint64(0xFFFF)
        order = np.lexsort((hashes, key))
        key, own, row = key[order], hashes[order], rows[order]
        pairs = [found]
        for step in count(1):
            same = key[step:] == key[:-step] if step < len(key) else np.empty(0, bool)
            if not same.any() or step > MOST_NEIGHBOURS:
                break
            bits = np.bitwise_count(own[step:] ^ own[:-step])
            # Equal hashes share every band; the first finds them.
            close = same & (bits <= distance) & ((bits > 0) | (band == 0))
            ends = row[:-step][close], row[step:][close]
            pairs.append(np.minimum(*ends) * width + np.maximum(*ends))
        found = np.unique(np.concatenate(pairs))
    return np.stack([found // width, found % width], axis=1)


def same_colours(
    pairs: Array, read: Callable[[Array], Array], *, tolerance: float
) -> Array:
    """Keep the `pairs` whose 8 by 8 thumbnails differ by at most `tolerance` anywhere.

    A perceptual hash sees no colour: a red and a blue mug of one shape share it.

    Args:
        pairs: Rows, (m, 2).
        read: Returns the images (b, h, w, 3) of some rows.
        tolerance: Largest difference of a cell's mean, in grey levels.
    """
    if not len(pairs):
        return pairs
    rows = np.unique(pairs)
    blocks = np.split(rows, range(1024, len(rows), 1024))
    thumbnails = np.concatenate([thumbnail(read(block)) for block in blocks])
    left, right = (thumbnails[np.searchsorted(rows, side)] for side in pairs.T)
    worst = np.abs(left - right).mean(axis=3).max(axis=(1, 2))
    return np.asarray(pairs[worst <= tolerance])


def thumbnail(images: Array) -> Array:
    """Shrink images (b, h, w, 3) to float32 (b, 8, 8, 3) by the mean of each cell."""
    side = images.shape[1] // THUMBNAIL * THUMBNAIL
    cut = images[:, :side, :side].astype(np.float32)
    cell = side // THUMBNAIL
    shape = (len(images), THUMBNAIL, cell, THUMBNAIL, cell, 3)
    return np.asarray(cut.reshape(shape).mean(axis=(2, 4)))


def group_rows(n: int, pairs: Array) -> Array:
    """Return for each of `n` rows the first row that it is linked with, int64 (n,)."""
    ones = np.ones(len(pairs), bool)
    graph = sparse.coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    _, component = csgraph.connected_components(graph, directed=False)
    _, first = np.unique(component, return_index=True)
    return np.asarray(first[component], np.int64)
