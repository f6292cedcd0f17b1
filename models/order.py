"""Order of the training rows, cut into batches, read from a store or from memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Images = NDArray[np.uint8]
Read = Callable[[Rows], Images]


def epoch_groups(
    rows: Rows, *, chunk: int, group: int, seed: int, epoch: int
) -> list[Rows]:
    """Shuffle sorted `rows` for one epoch, a group of stored chunks at a time.

    A reader needs to hold one group at a time, and touches each chunk once an epoch.

    Args:
        rows: Sorted row numbers of the store; one may come several times.
        chunk: Rows in a chunk of the store.
        group: Chunks that are mixed with one another.
        seed: Not negative.
        epoch: Counted from zero.

    Returns:
        Each group's rows, in the order in which they are trained on.
    """
    if rows.size > 1 and not (np.diff(rows) >= 0).all():
        raise ValueError("rows must be sorted; use np.sort(rows)")
    if rows.size == 0:
        return []
    starts = np.flatnonzero(np.diff(rows // chunk, prepend=-1))
    chunks = np.split(rows, starts[1:])
    shuffled = np.random.default_rng((seed, epoch)).permutation(len(chunks))
    return [
        np.random.default_rng((seed, epoch, k)).permutation(
            np.concatenate([chunks[c] for c in shuffled[first : first + group]])
        )
        for k, first in enumerate(range(0, len(chunks), group))
    ]


def epoch_order(rows: Rows, *, chunk: int, group: int, seed: int, epoch: int) -> Rows:
    """Return `rows` in the order in which one epoch trains on them.

    Args: as for `epoch_groups`.
    """
    groups = epoch_groups(rows, chunk=chunk, group=group, seed=seed, epoch=epoch)
    return np.concatenate([np.empty(0, np.int64), *groups])


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Return how many batches `n` rows make."""
    return -(-n // batch_size)


def groups_after(groups: list[Rows], rows: int) -> list[Rows]:
    """Return the groups that are still needed after the first `rows` of an epoch."""
    ends = np.cumsum([len(group) for group in groups])
    return groups[int(np.searchsorted(ends, rows, side="right")) :]


def batch_sizes(n: int, batch_size: int) -> NDArray[np.int64]:
    """Return how many of `n` rows count in each batch; sizes differ by one at most."""
    steps = steps_per_epoch(n, batch_size)
    return n // steps + (np.arange(steps) < n % steps)


def cut_batches(
    order: Rows, batch_size: int, *, multiple: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Cut `order` into batches of one shape that count every row exactly once.

    Rows are spread evenly over the batches, so that no step follows the gradient of
    a handful of left-over images; each batch is filled up with its own rows at weight
    zero, so that batch statistics see real images only.

    Args:
        order: Rows in the order of training.
        batch_size: Most rows that count in one batch.
        multiple: Batches are filled up to a multiple of this: the number of devices.

    Returns:
        Rows and weights (1 or 0), both of shape (steps, width).
    """
    steps = steps_per_epoch(len(order), batch_size)
    if not steps:
        return np.empty((0, multiple), np.int64), np.empty((0, multiple), np.float32)
    width = -(-len(order) // (steps * multiple)) * multiple
    sizes = batch_sizes(len(order), batch_size)
    parts = np.split(order, sizes.cumsum()[:-1])
    rows = np.stack([np.resize(part, width) for part in parts])
    return rows, (np.arange(width) < sizes[:, None]).astype(np.float32)


def read_ahead(
    read: Read, groups: Iterable[Rows], *, ahead: int = 1
) -> Generator[tuple[Rows, Images], None, None]:
    """Yield each group's sorted rows and images, reading the next in the background."""
    pending: deque[tuple[Rows, Future[Images]]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
        try:
            for group in groups:
                rows = np.unique(group)
                pending.append((rows, pool.submit(read, rows)))
                if len(pending) > ahead:
                    rows, images = pending.popleft()
                    yield rows, images.result()
            while pending:
                rows, images = pending.popleft()
                yield rows, images.result()
        finally:
            for _, images in pending:
                images.cancel()


def gather_batches(
    batches: Iterable[Rows], parts: Iterator[tuple[Rows, Images]]
) -> Iterator[Images]:
    """Yield the images of each batch out of `parts` read in the same order.

    Args:
        batches: Row numbers of each batch, consecutive spans of the epoch's order.
        parts: Sorted rows and their images; only as many are taken as are needed.
    """
    held: list[tuple[Rows, Images]] = []
    for batch in batches:
        images: Images | None = None
        missing = np.ones(len(batch), bool)
        for rows, stored in _held_then_next(held, parts):
            at = np.searchsorted(rows, batch).clip(max=len(rows) - 1)
            here = rows[at] == batch
            if images is None:
                images = np.empty((len(batch), *stored.shape[1:]), stored.dtype)
            images[here] = stored[at[here]]
            missing &= ~here
            if not missing.any():
                break
        if images is None or missing.any():
            raise ValueError(f"rows {batch[missing][:5]} are in none of the parts read")
        held = held[-1:]  # what is left of the epoch begins in the part read last
        yield images


def _held_then_next(
    held: list[tuple[Rows, Images]], parts: Iterator[tuple[Rows, Images]]
) -> Iterator[tuple[Rows, Images]]:
    yield from held
    for part in parts:
        held.append(part)
        yield part
