"""A linear head on features that stand still: logistic regression on the whole set."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray

from models.stopping import score

Floats = NDArray[np.float32]
# Weights of half the squared norm of the kernel against the mean loss, strongest first.
PENALTIES = tuple(float(f"{10**power:.3g}") for power in np.arange(0, -5.5, -0.5))
# Where there is no validation to choose by.
USUAL = 1e-2
STEPS = 60


@dataclasses.dataclass(frozen=True)
class Features:
    """What a head learns from, or is judged by.

    Attributes:
        x: Embeddings (n d).
        labels: Class of each, (n,).
        weights: How much each counts (n,); None is all alike.
    """

    x: Floats
    labels: NDArray[Any]
    weights: NDArray[Any] | None = None


@dataclasses.dataclass(frozen=True)
class Trial:
    """What one penalty came to, on the images learnt from and on validation."""

    penalty: float
    train_loss: float
    train_top1: float
    val_loss: float | None
    val_top1: float | None


@dataclasses.dataclass(frozen=True)
class Probe:
    """A head, and how its penalty was found.

    Attributes:
        kernel: float32 (d k), of embeddings as they come.
        bias: float32 (k,).
        chosen: The trial that the head comes from.
        trials: All of them, the strongest penalty first.
    """

    kernel: Floats
    bias: Floats
    chosen: Trial
    trials: tuple[Trial, ...]


def fit_probe(train: Features, val: Features | None, *, num_classes: int) -> Probe:
    """Return the multinomial logistic regression that validation likes best.

    Columns are standardised; L-BFGS (Liu and Nocedal 1989) runs down `PENALTIES`, each
    from the last one's head. The least mean log-likelihood loss on `val` wins; without
    `val` it is `USUAL`.

    Args:
        train: Images to learn from.
        val: Images to choose the penalty by.
        num_classes: Width k of the head.
    """
    weights = np.ones(len(train.x)) if train.weights is None else train.weights
    mean = np.average(train.x, axis=0, weights=weights)
    scale = np.sqrt(np.average((train.x - mean) ** 2, axis=0, weights=weights))
    scale = np.maximum(scale, 1e-6).astype(np.float32)
    z = jnp.asarray((train.x - mean) / scale, jnp.float32)
    labels = jnp.asarray(train.labels, jnp.int32)
    share = jnp.asarray(weights / weights.sum(), jnp.float32)
    penalties = (USUAL,) if val is None else PENALTIES
    head = jnp.zeros((z.shape[1], num_classes)), jnp.zeros(num_classes)
    trials, heads = [], []
    for penalty in penalties:
        head = _descend(head, z, labels, share, penalty, steps=STEPS)
        kernel = np.asarray(head[0]) / scale[:, None]
        bias = np.asarray(head[1]) - (mean @ kernel).astype(np.float32)
        heads.append((kernel, bias))
        trials.append(_judged(penalty, kernel, bias, train, val))
    losses = [trial.val_loss or 0.0 for trial in trials]
    best = losses.index(min(losses))
    return Probe(*heads[best], trials[best], tuple(trials))


def _judged(
    penalty: float, kernel: Floats, bias: Floats, train: Features, val: Features | None
) -> Trial:
    own = score(train.x @ kernel + bias, train.labels, weights=train.weights)
    if val is None:
        return Trial(penalty, *own, None, None)
    return Trial(penalty, *own, *score(val.x @ kernel + bias, val.labels))


@functools.partial(jax.jit, static_argnames="steps")
def _descend(
    head: Any,
    z: jax.Array,
    labels: jax.Array,
    share: jax.Array,
    penalty: float,
    *,
    steps: int,
) -> Any:
    def loss(head: Any) -> jax.Array:
        logits = z @ head[0] + head[1]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses @ share + penalty / 2 * jnp.sum(head[0] ** 2)

    solver = optax.lbfgs()
    slope = optax.value_and_grad_from_state(loss)

    def step(carry: Any, _: Any) -> Any:
        head, state = carry
        value, grad = slope(head, state=state)
        updates, state = solver.update(
            grad, state, head, value=value, grad=grad, value_fn=loss
        )
        return (optax.apply_updates(head, updates), state), None

    (head, _), _ = jax.lax.scan(step, (head, solver.init(head)), None, steps)
    return head
