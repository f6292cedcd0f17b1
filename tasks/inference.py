"""Probabilities from a finished model, batch by batch, on all devices."""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from data_contracts.dataset import Array
from data_contracts.store import Dataset
from models.machine import cores
from tasks.members import members_in

log = logging.getLogger("sightline")

BATCH = 256
Floats = NDArray[np.float32]


@functools.cache
def devices() -> Any:
    """Return the mesh over all local devices, one per CPU core where there is no other.

    Call it before anything else touches JAX.
    """
    from models.steps import device_mesh, use_all_cores

    use_all_cores()
    mesh = device_mesh()
    if mesh.devices.flat[0].platform == "cpu" and mesh.size < cores():
        log.warning(
            "JAX was in use before with %s of %s cores; set jax_num_cpu_devices first.",
            mesh.size,
            cores(),
        )
    return mesh


class Predictor:
    """A model that answers: images in, probabilities out.

    Attributes:
        meta: What `save_model` kept: preset, network, classes, image size,
            temperature, decoding.
        width: Length of an embedding; of several networks, all of theirs.
    """

    def __init__(self, params: Any, stats: Any, meta: dict[str, Any]) -> None:
        mesh = devices()
        from flax import nnx

        from models.backbones import kept_model
        from models.design import Design
        from models.ensemble import make_predict_members
        from models.feed import place
        from models.steps import make_predict

        self._weights = place((params, stats), mesh, split=False)
        self.meta = meta
        # Every device gets the same number of rows.
        self._width = -(-BATCH // mesh.size) * mesh.size
        design = Design.of(self.meta.get("network"))
        model = kept_model(self.meta)
        graphdef, *_ = nnx.split(model, nnx.Param, ...)
        members = members_in(meta)
        compiled: Any = functools.partial(
            make_predict,
            graphdef,
            mean=self._channels("mean"),
            std=self._channels("std"),
            mesh=mesh,
            design=design,
        )
        if members:
            compiled = functools.partial(
                make_predict_members, graphdef, members, mesh=mesh, design=design
            )
        self._predict, self._embed = compiled(), compiled(embed=True)
        self._open = compiled(mesh=None), compiled(mesh=None, embed=True)
        self.width = model.head.in_features * max(len(members), 1)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the model that `save_model` wrote."""
        devices()
        from models.checkpoint import load_model

        return cls(*load_model(folder))

    def with_weights(self, params: Any, stats: Any) -> Self:
        """Return the same network with other weights; nothing is compiled anew."""
        from models.feed import place

        other = copy.copy(self)
        other._weights = place((params, stats), devices(), split=False)
        return other

    def for_batch(self, n: int) -> Self:
        """Return the same model, made for batches of `n`: not padded to the usual size.

        Rounded up so that every device has a row; compiled when it first answers.
        """
        other, many = copy.copy(self), devices().size
        other._width = -(-n // many) * many
        return other

    def _channels(self, name: str) -> tuple[float, float, float]:
        red, green, blue = map(float, self.meta[name])
        return red, green, blue

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the probabilities."""
        return list(self.meta["classes"])

    def __call__(self, images: Array) -> Floats:
        """Return the probabilities (n, k) of images (n, h, w, 3), uint8.

        Images of another size are resized, as for an older model on a newer dataset.
        """
        logits = self._by_batch(self._predict, images, width=len(self.classes))
        return softmax(logits / self.meta["temperature"])

    def embed(self, images: Array) -> Floats:
        """Return the embeddings (n, width) of images (n, h, w, 3), uint8.

        Images of another size are resized, as above.
        """
        return self._by_batch(self._embed, images, width=self.width)

    @property
    def weights(self) -> Any:
        """Weights, on all devices, as `logits` and `embeddings` take them."""
        return self._weights

    def logits(self, weights: Any, pixels: Any) -> Any:
        """Return calibrated logits (n, k) of pixels (n, h, w, 3) in 0..1.

        A function of JAX on one device, to differentiate and to compile into others.
        The pixels have the model's size.
        """
        return self._open[0](*weights, pixels * 255) / self.meta["temperature"]

    def embeddings(self, weights: Any, pixels: Any) -> Any:
        """Return embeddings (n, width) likewise."""
        return self._open[1](*weights, pixels * 255)

    def _by_batch(self, compiled: Any, images: Array, *, width: int) -> Floats:
        images = fitted(images, size=int(self.meta["image_size"]))
        out = np.empty((len(images), width), np.float32)
        for start in range(0, len(images), self._width):
            batch = images[start : start + self._width]
            answer = np.asarray(compiled(*self._weights, padded(batch, self._width)))
            out[start : start + self._width] = answer[: len(batch)]
        return out


def padded(batch: Array, width: int) -> Array:
    """Return `batch` repeated to `width` rows, so that one shape is compiled."""
    return batch[np.resize(np.arange(len(batch)), width)]


def softmax(logits: Array) -> Floats:
    """Return probabilities (n, k) of logits (n, k), summing to 1 in float32."""
    wide = logits.astype(np.float64)
    wide = np.exp(wide - wide.max(axis=1, keepdims=True))
    return np.asarray(wide / wide.sum(axis=1, keepdims=True), np.float32)


def fitted(images: Array, *, size: int) -> Array:
    """Resize square images to `size`, by area where they shrink."""
    import cv2

    if images.shape[1] == size or not len(images):
        return images
    way = cv2.INTER_AREA if images.shape[1] > size else cv2.INTER_CUBIC
    return np.stack([cv2.resize(i, (size, size), interpolation=way) for i in images])


def predict_rows(
    predictor: Predictor, dataset: Dataset, rows: Array
) -> Iterator[tuple[Array, Floats]]:
    """Yield blocks of `rows` and their probabilities, reading chunk by chunk."""
    step = max(BATCH, dataset.chunk)
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        yield block, predictor(dataset.take(block))
