"""What an attack makes larger: losses (n,) of logits (n k) and labels (n,)."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from models.attacks.settings import DLR_CLASSES, DLR_TARGETED_CLASSES
from models.objective import margin_of

Loss = Callable[[jax.Array, jax.Array], jax.Array]
TINY = 1e-12


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return minus the log probability of the label."""
    return -_of(jax.nn.log_softmax(logits), labels)


def margin(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the largest other logit minus the label's; above 0 the answer is wrong."""
    return -margin_of(logits, labels)


def dlr(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the difference-of-logits ratio, which no scale of the logits changes.

    Croce and Hein 2020, arXiv 2003.01690, equation 6. Between two classes there is no
    third logit to scale by, and the plain difference stands in.
    """
    if logits.shape[-1] < DLR_CLASSES:
        return margin(logits, labels)
    top = jax.lax.top_k(logits, DLR_CLASSES)[0]
    return margin(logits, labels) / (top[:, 0] - top[:, 2] + TINY)


def dlr_towards(targets: jax.Array) -> Loss:
    """Return the ratio that rises towards `targets` (n,): equation 7 there.

    With three classes, equation 6's denominator stands in; with two, none.
    """
    return functools.partial(_targeted, targets=targets)


def _targeted(logits: jax.Array, labels: jax.Array, *, targets: jax.Array) -> jax.Array:
    towards = _of(logits, targets) - _of(logits, labels)
    classes = logits.shape[-1]
    if classes < DLR_CLASSES:
        return towards
    top = jax.lax.top_k(logits, min(classes, DLR_TARGETED_CLASSES))[0]
    third = top[:, 2:].mean(-1)
    return towards / (top[:, 0] - third + TINY)


def _of(values: jax.Array, classes: jax.Array) -> jax.Array:
    return jnp.take_along_axis(values, classes[:, None], axis=-1)[:, 0]
