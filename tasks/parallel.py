"""Work on chunks of rows over Dask: threads here, or workers of a cluster."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import icechunk
import zarr

from data_contracts.errors import UsageError
from models.machine import cores
from tasks.progress import Progress

Result = TypeVar("Result")
Span = tuple[int, int]


def spans(start: int, stop: int, *, size: int) -> list[Span]:
    """Cut rows `start` to `stop` at multiples of `size`."""
    edges = [start, *range((start // size + 1) * size, stop, size), stop]
    return [pair for pair in itertools.pairwise(edges) if pair[0] < pair[1]]


def map_spans(
    work: Callable[[zarr.Group, Span], Result],
    rows: Sequence[Span],
    *,
    session: icechunk.Session,
    label: str,
) -> list[Result]:
    """Call `work(group, span)` for every span, in parallel, results in order.

    `work` may read and write the rows of its span in `group`; spans must not share a
    Zarr chunk. The address in `SIGHTLINE_DASK` names a cluster; without it, threads.
    """
    total = sum(stop - start for start, stop in rows)
    with Progress(label, total=total, unit="images") as progress:
        address = os.environ.get("SIGHTLINE_DASK")
        if address:
            return _on_cluster(work, rows, session, progress, address)
        return _on_threads(work, rows, session, progress)


def _on_threads(
    work: Callable[[zarr.Group, Span], Result],
    rows: Sequence[Span],
    session: icechunk.Session,
    progress: Progress,
) -> list[Result]:
    # The scheduler itself: `dask.compute` would first import all of `distributed`.
    from dask.threaded import get

    group = _group(session)

    def run(span: Span) -> Result:
        result = work(group, span)
        progress.advance(span[1] - span[0])
        return result

    graph: Any = {f"span-{i}": (run, span) for i, span in enumerate(rows)}
    return list(get(graph, list(graph), num_workers=cores()))


def _on_cluster(
    work: Callable[[zarr.Group, Span], Result],
    rows: Sequence[Span],
    session: icechunk.Session,
    progress: Progress,
    address: str,
) -> list[Result]:
    import distributed

    connect: Any = distributed.Client
    try:
        client = connect(address, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"No Dask scheduler answers at {address!r}, which SIGHTLINE_DASK names"
            f" ({error}). Start one, or unset the variable."
        ) from error
    writable = not session.read_only
    share: Any = session.fork() if writable else session
    results = []
    with client:
        # The work may hold a listing of millions; it travels once.
        spread = client.scatter(work, broadcast=True, hash=False)
        futures = [
            client.submit(_run_remote, spread, share, span, pure=False) for span in rows
        ]
        for span, future in zip(rows, futures, strict=True):
            fork, result = future.result()
            if writable:
                session.merge(fork)
            results.append(result)
            progress.advance(span[1] - span[0])
    return results


def _run_remote(
    work: Callable[[zarr.Group, Span], Result], session: Any, span: Span
) -> tuple[Any, Result]:
    return session, work(_group(session), span)


def _group(session: icechunk.Session) -> zarr.Group:
    mode = "r" if session.read_only else "r+"
    return zarr.open_group(session.store, mode=mode)  # type: ignore[arg-type]
