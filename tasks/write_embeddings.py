"""Write what a network makes of every image of a dataset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data_contracts.dataset import Array
from tasks.progress import Progress
from tasks.stage import Build


class Embedder(Protocol):
    """What turns images (n, h, w, 3), uint8, into embeddings (n, width)."""

    @property
    def width(self) -> int:
        """Length of an embedding."""

    def embed(self, images: Array) -> NDArray[np.float32]:
        """Return the embeddings of `images`."""


def embed_images(build: Build, encoder: Callable[[], Embedder], *, run: str) -> None:
    """Write the embeddings of all readable images, chunk by chunk."""
    assert build.parent is not None
    build.writer.annotate(encoder=run)
    predictor, dataset = encoder(), build.parent
    out = build.writer.allocate_embeddings(dataset.n, width=predictor.width)
    readable = dataset.column("ok")
    step = out.chunks[0]
    with Progress("embed", total=dataset.n, unit="images") as progress:
        for first in range(0, dataset.n, step):
            block = np.zeros((min(step, dataset.n - first), predictor.width), "f4")
            for start in range(first, first + len(block), dataset.chunk):
                stop = min(start + dataset.chunk, first + len(block))
                images = np.asarray(dataset.images[start:stop])
                block[start - first : stop - first] = predictor.embed(images)
                progress.advance(stop - start)
            block[~readable[first : first + len(block)]] = 0
            out[first : first + len(block)] = block
