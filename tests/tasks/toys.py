"""Networks without training: small ones, and formulas whose answers are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_contracts.references import ModelRef
from data_contracts.store import Dataset
from models.backbones import kept_model
from tasks.audit_subject import Subject
from tasks.version_images import Images
from tests.datasets import make_dataset

SIDE = 16


class Toy:
    """Class 1 where the first sample is above one half, class 0 below.

    Attributes:
        kind: "plain"; "steps", whose loss has no slope; "opaque", which cannot be
            differentiated; "mute", which answers no numbers.
    """

    def __init__(self, kind: str = "plain", classes: str = "ab") -> None:
        self.kind, self.classes = kind, list(classes)
        self.meta: dict[str, Any] = {"image_size": SIDE, "temperature": 1.0}
        self.weights = jnp.float32(40.0)

    def logits(self, weights: Any, pixels: Any) -> Any:
        lead = weights * (pixels[:, 0, 0, 0] - 0.5)
        if self.kind == "steps":
            lead = jnp.round(lead * 8) / 8
        if self.kind == "opaque":
            lead = jax.pure_callback(lambda x: np.asarray(x), lead, lead)
        if self.kind == "mute":
            lead = lead * jnp.nan
        rest = jnp.full((len(pixels), len(self.classes) - 2), -9.0)
        return jnp.concatenate([jnp.stack([-lead, lead], -1), rest], -1)

    def embeddings(self, weights: Any, pixels: Any) -> Any:
        return weights / 40 * pixels[:, :2].reshape(len(pixels), -1)

    def __call__(self, images: Any) -> Any:
        probs = jax.nn.softmax(self.logits(self.weights, images / np.float32(255)))
        return np.asarray(probs, np.float32)

    def embed(self, images: Any) -> Any:
        return np.asarray(self.embeddings(self.weights, images / np.float32(255)))


def untrained(meta: dict[str, Any]) -> tuple[Any, Any]:
    """Return fresh weights and statistics of the network that `meta` describes."""
    _, params, stats = nnx.split(kept_model(meta), nnx.Param, ...)
    return nnx.as_pure(params), nnx.as_pure(stats)


def toy_images(n: int, *, near: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Return images whose first sample is `near` or 40 levels off, and classes (n,)."""
    rng = np.random.default_rng(0)
    images = rng.integers(100, 156, (n, SIDE, SIDE, 3)).astype(np.uint8)
    labels = np.arange(n) % 2
    off = np.where(np.arange(n) % 4 < 2, near, 40)
    images[:, 0, 0, 0] = np.where(labels == 1, 127.5 + off + 0.5, 127.5 - off - 0.5)
    return images, labels


def toy_subject(
    root: Path,
    toy: Toy,
    n: int = 64,
    *,
    labels: np.ndarray | None = None,
    images: np.ndarray | None = None,
) -> Subject:
    """Return a version that is `toy`, and images of which half are near the edge."""
    usual, own = toy_images(n)
    images = usual if images is None else images
    dataset = Dataset(make_dataset(root, n, images=images, group=np.arange(n)))
    known = own if labels is None else labels
    every = Images(dataset, np.arange(n), known)
    few = Images(dataset, np.arange(n)[: n // 2], known[: n // 2])
    model = ModelRef(name="toy", version=1, uri=str(root))
    predictor: Any = toy
    return Subject(model, predictor, every, every, few, given=False)
