"""Watch, while a network learns under attack, what it withstands on validation."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from data_contracts.errors import UsageError
from models.attacks.run import Attacker
from models.attacks.settings import Attack
from models.epoch import Record, Watch
from models.feed import BatchSource
from models.forward import look_at
from models.recipe import Recipe
from models.steps import Channels, TrainState, eval_params, normalise

BATCH = 128


def watch_of(
    recipe: Recipe,
    source: BatchSource,
    graphdef: nnx.GraphDef,
    *,
    mean: Channels,
    std: Channels,
    mesh: Mesh | None,
) -> Watch | None:
    """Return what attacks a state by PGD on some validation images after each epoch.

    The images are spread evenly over the validation rows, and attacked in the same way
    every time. None where nothing is attacked in training, or nothing is held out.

    Raises:
        UsageError: Several processes train one network.
    """
    own = recipe.adversarial
    if own.method == "none" or not len(source.val_rows):
        return None
    if jax.process_count() > 1:
        raise UsageError(
            "Adversarial training watches its validation images in one process; came"
            f" {jax.process_count()}. Train in one, or set against=none."
        )
    some = np.linspace(
        0, len(source.val_rows) - 1, min(own.watch, len(source.val_rows))
    )
    rows = source.val_rows[some.astype(np.int64)]
    labels = source.labels[rows]
    spend = Attack("pgd", norm=own.norm, eps=own.eps, steps=own.watch_steps)

    def logits_of(weights: Any, pixels: jax.Array) -> jax.Array:
        return look_at(graphdef, weights, normalise(pixels, mean, std))

    attacker = Attacker(logits_of, spend, batch_size=min(BATCH, len(rows)), mesh=mesh)
    images = functools.cache(lambda: source.read(rows))

    def watch(state: TrainState) -> Record:
        found = attacker(eval_params(state), images(), labels)
        return {
            "val_robust": float(1 - found.broken.mean()),
            "robust_images": len(rows),
        }

    return watch


def collapse_told(history: list[Record], *, recipe: Recipe) -> str:
    """Return what is said of a training that ended since it withstands no longer."""
    best = max(line["val_robust"] for line in history)
    ways = {"fgsm": "against=pgd", "trades": "a larger trades_beta"}
    way = ways.get(recipe.adversarial.method, "against=trades")
    return (
        f"top-1 under attack fell from {best:.3f} to {history[-1]['val_robust']:.3f} in"
        f" epoch {len(history)}: the network learnt to answer its own attack alone"
        " (catastrophic overfitting); stopped, with weights from before. Set"
        f" {way}, or a smaller epsilon"
    )
