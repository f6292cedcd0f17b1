"""The loss of a training step: of an image, its label, and the sizes of the classes."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from data_contracts.errors import UsageError
from models import losses
from models.imbalance import Counts, effective_weights, log_prior, margins
from models.recipe import COSINE_SCALE, Balance, Distil, Loss

# objective(logits (n c), labels (n,), step (), targets (n c) or None) -> loss (n,)
Objective = Callable[..., jax.Array]


def make_objective(
    loss: Loss = Loss(),
    balance: Balance = Balance(),
    *,
    smoothing: float = 0.0,
    counts: Counts | None = None,
    steps: int = 0,
    distil: Distil = Distil(),
) -> Objective:
    """Return the loss of each example, corrected for the sizes of the classes.

    Args:
        loss: What it costs to be wrong.
        balance: Which correction.
        smoothing: Share of the target spread over all classes, for cross-entropy.
        counts: Training images (k,) of each class; a correction needs them.
        steps: Steps in all; a deferred correction starts within them.
        distil: What the targets of a teacher count; they then are no one else's.

    Raises:
        UsageError: The loss is unknown.
    """
    base = _base(loss, smoothing)
    if distil.weight:
        return _distilled(base, distil)
    if balance.kind not in ("logit_adjusted", "ldam", "ldam_deferred", "effective"):
        return lambda logits, labels, *, step, targets=None: base(
            logits, labels, targets=targets
        )
    assert counts is not None
    prior = balance.tau * log_prior(counts)
    margin = COSINE_SCALE * margins(counts, largest=balance.margin)
    weights = effective_weights(counts, beta=balance.beta)
    first = round(balance.deferred * steps) if balance.kind == "ldam_deferred" else 0

    def objective(
        logits: jax.Array,
        labels: jax.Array,
        *,
        step: jax.Array,
        targets: jax.Array | None = None,
    ) -> jax.Array:
        if balance.kind == "logit_adjusted":
            return base(logits + prior, labels, targets=targets)
        if balance.kind.startswith("ldam"):
            own = jax.nn.one_hot(labels, len(margin))
            logits = logits - own * jnp.asarray(margin)
        value = base(logits, labels, targets=targets)
        if balance.kind == "ldam":
            return value
        return value * jnp.where(step >= first, jnp.asarray(weights)[labels], 1.0)

    return objective


def _distilled(base: Objective, distil: Distil) -> Objective:
    """Mix the loss of the label with that of a teacher's softened answers."""

    def objective(
        logits: jax.Array, labels: jax.Array, *, step: jax.Array, targets: jax.Array
    ) -> jax.Array:
        soft = losses.distillation(logits, targets, temperature=distil.temperature)
        return (1 - distil.weight) * base(logits, labels) + distil.weight * soft

    return objective


def _base(loss: Loss, smoothing: float) -> Objective:
    """Return the loss alone, as a function of logits, labels and targets."""
    plain = {
        "cross_entropy": functools.partial(losses.cross_entropy, smoothing=smoothing),
        "generalised": functools.partial(losses.generalised_cross_entropy, q=loss.q),
        "symmetric": functools.partial(
            losses.symmetric_cross_entropy,
            alpha=loss.alpha,
            beta=loss.beta,
            floor=loss.floor,
        ),
        "bootstrap": functools.partial(
            losses.bootstrapped_cross_entropy, trust=loss.trust
        ),
        "focal": functools.partial(losses.focal, gamma=loss.gamma),
    }
    if loss.kind in plain:
        chosen = plain[loss.kind]
        return lambda logits, labels, *, targets=None: chosen(logits, labels)
    if loss.kind == "early_learning":
        return functools.partial(losses.early_learning, strength=loss.strength)
    raise UsageError(
        f"A loss is one of {', '.join([*plain, 'early_learning'])}; came"
        f" {loss.kind!r}. Pick one."
    )


def memory_of(loss: Loss, *, rows: int, num_classes: int) -> dict[str, jax.Array]:
    """Return what training remembers of each of `rows` images, to start with.

    `margin` (rows, 2): the sum, over unmixed views, of the label's logit minus the
    largest other, and how many there were; their ratio is the area under the margin
    (Pleiss et al. 2020, arXiv 2001.10528, equation 2). `targets` (rows, k), for early
    learning only.
    """
    memory = {"margin": jnp.zeros((rows, 2), jnp.float32)}
    if loss.kind == "early_learning":
        memory["targets"] = jnp.zeros((rows, num_classes), jnp.float32)
    return memory


def margin_of(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the label's logit minus the largest other one, (n,)."""
    own = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    other = jnp.where(own, -jnp.inf, logits).max(-1)
    return jnp.where(own, logits, 0).sum(-1) - other


def area_under_margin(margin: np.ndarray) -> np.ndarray:
    """Return the mean margin (n,) of sums and counts (n, 2), NaN where none."""
    total, count = np.asarray(margin, np.float32).T
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
