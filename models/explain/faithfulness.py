"""What a map is worth: whether what it marks is what the answer rests on.

Every figure is to be read beside that of a random map and of an edge detector, which
know nothing of the network.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

from data_contracts.errors import UsageError
from models.explain.explainer import BATCH, on_devices
from models.explain.how import Hide
from models.explain.subject import Subject, hidden

Floats = NDArray[np.float32]
STEPS = 16  # shares of the pixels at which insertion and deletion ask


class Removal:
    """Deletion and insertion: Petsiuk et al. 2018, arXiv 1806.07421, section 4.3.

    The pixels that a map marks most are hidden first, or shown first on a blurred
    image. A faithful map makes the probability fall fast, and rise fast.
    """

    def __init__(
        self,
        subject: Subject,
        weights: Any,
        *,
        mesh: Mesh | None = None,
        steps: int = STEPS,
        hide: Hide = Hide.mean,
    ) -> None:
        """Compile nothing yet.

        Args:
            subject: The network.
            weights: Its stacked weights.
            mesh: Devices to split a batch over.
            steps: How often the probability is asked for on the way.
            hide: What stands for hidden pixels in deletion; insertion starts blurred.
        """
        self._weights = weights
        devices = mesh.size if mesh is not None else 1
        self._width = -(-BATCH // devices) * devices

        def local(weights: Any, images: Any, targets: Any, maps: Any) -> Any:
            pixels = images.astype(jnp.float32) / 255
            rank = _ranks(maps)

            def chance(pixels: jax.Array) -> jax.Array:
                logs = subject.log_probs(weights, pixels)
                return jnp.exp(jnp.take_along_axis(logs, targets[:, None], 1)[:, 0])

            def step(_: None, share: jax.Array) -> tuple:
                top = (rank < share)[..., None]
                nothing = hidden(pixels, hide, subject.mean)
                blurred = hidden(pixels, Hide.blur, subject.mean)
                deleted = chance(jnp.where(top, nothing, pixels))
                return None, (deleted, chance(jnp.where(top, pixels, blurred)))

            shares = jnp.linspace(0, 1, steps + 1)
            _, (deleted, inserted) = jax.lax.scan(step, None, shares)
            return deleted.T, inserted.T

        self._run = on_devices(local, mesh, split=(False, True, True, True))

    def __call__(
        self,
        images: NDArray[np.uint8],
        targets: NDArray[np.integer],
        maps: Floats,
    ) -> tuple[Floats, Floats]:
        """Return the targets' probabilities under deletion and insertion (n steps + 1).

        Args:
            images: uint8 (n h w c).
            targets: Class of each (n,).
            maps: Of each (n h w).

        Raises:
            UsageError: Maps and images do not fit.
        """
        check_sizes(maps, images.shape[:3], what="A map")
        parts = []
        for start in range(0, len(images), self._width):
            rows = np.arange(start, min(start + self._width, len(images)))
            filled = np.resize(rows, self._width)
            found = self._run(
                self._weights,
                images[filled],
                np.asarray(targets[filled], np.int32),
                maps[filled].astype(np.float32),
            )
            parts.append([np.asarray(x)[: len(rows)] for x in found])
        deleted, inserted = zip(*parts, strict=True)
        return np.concatenate(deleted), np.concatenate(inserted)


def area(curves: Floats) -> Floats:
    """Return the area (n,) under curves (n steps) over 0..1, by trapezia."""
    return (curves[:, :-1] + curves[:, 1:]).mean(1) / 2


def _ranks(maps: jax.Array) -> jax.Array:
    """Return the share (n h w) of pixels that a map marks more than each."""
    flat = maps.reshape(len(maps), -1)
    order = jnp.argsort(-flat, axis=1)
    return (jnp.argsort(order, axis=1) / flat.shape[1]).reshape(maps.shape)


def energy_inside(maps: Floats, masks: NDArray[np.bool_]) -> Floats:
    """Return the share (n,) of a map's positive energy that lies in a mask.

    Wang et al. 2020, arXiv 1910.01279, section 4.3. NaN where nothing is positive.

    Raises:
        UsageError: Maps and masks differ in size.
    """
    check_sizes(masks, maps.shape, what="A mask")
    positive = np.maximum(maps, 0)
    with np.errstate(invalid="ignore"):
        inside = (positive * masks).sum((1, 2)) / positive.sum((1, 2))
    return np.asarray(inside, np.float32)


def pointing(maps: Floats, masks: NDArray[np.bool_]) -> Floats:
    """Return whether the highest place of a map lies in a mask (n,), 0 to 1.

    Zhang et al. 2016, arXiv 1608.00507, section 4.1. Of several highest pixels it is
    the share that lies inside.

    Raises:
        UsageError: Maps and masks differ in size.
    """
    check_sizes(masks, maps.shape, what="A mask")
    best = maps == maps.max((1, 2), keepdims=True)
    return np.asarray((best & masks).sum((1, 2)) / best.sum((1, 2)), np.float32)


def check_sizes(given: Any, wanted: tuple[int, ...], *, what: str) -> None:
    """Refuse maps or masks that are not of the size of what they belong to.

    Raises:
        UsageError: They are not (n h w) of the same n, h and w.
    """
    if given.shape != wanted:
        raise UsageError(
            f"{what} has the size of its image: expected {wanted}, came {given.shape}."
            " Resize it, or take the image's own."
        )


def rank_agreement(one: Floats, other: Floats) -> Floats:
    """Return Spearman's correlation (n,) of two sets of maps, pixel by pixel.

    Ties share their mean rank. A map without any differences agrees with none: 0.
    """
    check_sizes(other, one.shape, what="A map")
    first, second = (_centred_ranks(maps) for maps in (one, other))
    both = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    total = (first * second).sum(1)
    return np.where(both > 0, total / np.maximum(both, 1e-12), 0.0).astype(np.float32)


def _centred_ranks(maps: Floats) -> NDArray[np.float64]:
    flat = maps.reshape(len(maps), -1)
    ranks = np.empty(flat.shape, np.float64)
    for row, values in enumerate(flat):
        _, own, times = np.unique(values, return_inverse=True, return_counts=True)
        ranks[row] = (np.cumsum(times) - times / 2)[own]
    return ranks - ranks.mean(1, keepdims=True)


def change_under_noise(maps: Floats, others: Floats) -> Floats:
    """Return the largest relative change (n,) of maps over draws of noise.

    Max-sensitivity: Yeh et al. 2019, arXiv 1901.09392, definition 1, over the map's own
    length.

    Args:
        maps: Of the images (n h w).
        others: Of the same images with noise (draws n h w).
    """
    own = np.linalg.norm(maps.reshape(len(maps), -1), axis=1)
    moved = np.linalg.norm((others - maps).reshape(*others.shape[:2], -1), axis=2)
    return np.asarray(moved.max(0) / np.maximum(own, 1e-12), np.float32)


def shuffled_weights(weights: Any, *, seed: int) -> Any:
    """Return weights with the entries of each array in random order.

    Adebayo et al. 2018, arXiv 1810.03292: what a map shows of such a network, it does
    not show of what was learnt. Scales of norms and statistics are shuffled as well.

    Args:
        weights: Stacked (params, stats).
        seed: Of the order.
    """
    rng = np.random.default_rng((seed, 9))

    def shuffle(leaf: Any) -> Any:
        values = np.asarray(leaf)
        if not np.issubdtype(values.dtype, np.floating):
            return leaf
        flat = values.reshape(len(values), -1)
        return rng.permuted(flat, axis=1).reshape(values.shape)

    return jax.tree.map(shuffle, weights)


def random_maps(shape: tuple[int, int, int], *, seed: int) -> Floats:
    """Return maps (n h w) of noise, smooth over an eighth of the side like RISE's."""
    n, h, w = shape
    rng = np.random.default_rng((seed, 8))
    small = jnp.asarray(rng.random((n, min(8, h), min(8, w)), np.float32))
    return np.asarray(jax.image.resize(small, shape, "linear"), np.float32)


def edge_maps(images: NDArray[np.uint8]) -> Floats:
    """Return the strength of edges (n h w) of grey levels, by Sobel's filter."""
    grey = np.pad(images.mean(-1, dtype=np.float32), ((0, 0), (1, 1), (1, 1)), "edge")
    smooth = (1.0, 2.0, 1.0)
    across = sum(
        weight
        * (grey[:, i : i + images.shape[1], 2:] - grey[:, i : i + images.shape[1], :-2])
        for i, weight in enumerate(smooth)
    )
    down = sum(
        weight
        * (grey[:, 2:, i : i + images.shape[2]] - grey[:, :-2, i : i + images.shape[2]])
        for i, weight in enumerate(smooth)
    )
    return np.asarray(np.hypot(across, down), np.float32)
