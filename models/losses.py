"""Losses, one float32 value per example, with finite gradients at any finite logits."""

import jax
import jax.numpy as jnp

# Most that a remembered answer may agree with a new one: log(1 - x) stays finite.
SUREST = 1 - 1e-4
TINY = 1e-12


def _log_probs(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return all log-probabilities (n c) in float32, and those of `labels` (n,)."""
    every = jax.nn.log_softmax(logits.astype(jnp.float32))
    return every, jnp.take_along_axis(every, labels[:, None], axis=-1)[:, 0]


def cross_entropy(
    logits: jax.Array, labels: jax.Array, *, smoothing: float = 0.0
) -> jax.Array:
    """Return the cross-entropy (n,) of `logits` (n c) against `labels` (n,).

    Args:
        logits: Scores before softmax.
        labels: Class ids.
        smoothing: Share of the target spread evenly over all classes (Szegedy et al.
            2016, arXiv 1512.00567, section 7).
    """
    every, own = _log_probs(logits, labels)
    return -(1 - smoothing) * own - smoothing * every.mean(-1)


def generalised_cross_entropy(
    logits: jax.Array, labels: jax.Array, *, q: float
) -> jax.Array:
    """Return (1 - p^q) / q (n,), which forgives labels that the model doubts.

    Zhang and Sabuncu 2018, arXiv 1805.07836, equation 6; q near 0 is cross-entropy,
    1 is the mean absolute error. As -expm1(q log p) / q its gradient stays finite.
    """
    _, own = _log_probs(logits, labels)
    return -jnp.expm1(q * own) / q


def symmetric_cross_entropy(
    logits: jax.Array, labels: jax.Array, *, alpha: float, beta: float, floor: float
) -> jax.Array:
    """Return alpha * CE + beta * reverse CE (n,).

    Wang et al. 2019, arXiv 1908.06112, equation 7. Against a one-hot target whose
    log 0 is taken as `floor`, the reverse cross-entropy is -floor * (1 - p).
    """
    _, own = _log_probs(logits, labels)
    return -alpha * own + beta * floor * jnp.expm1(own)


def bootstrapped_cross_entropy(
    logits: jax.Array, labels: jax.Array, *, trust: float
) -> jax.Array:
    """Return the cross-entropy (n,) against label and own answer, mixed by `trust`.

    Soft bootstrapping: Reed et al. 2015, arXiv 1412.6596, equation 6, without a
    gradient through the target.
    """
    every, own = _log_probs(logits, labels)
    belief = jax.lax.stop_gradient(jnp.exp(every))
    return -trust * own - (1 - trust) * (belief * every).sum(-1)


def focal(logits: jax.Array, labels: jax.Array, *, gamma: float) -> jax.Array:
    """Return -(1 - p)^gamma log p (n,), which turns to what is hard.

    Lin et al. 2017, arXiv 1708.02002, equation 4, over the softmax; 0 is cross-entropy.
    """
    _, own = _log_probs(logits, labels)
    # The floor keeps the slope of a root finite where p is 1.
    missing = jnp.maximum(-jnp.expm1(own), TINY)
    return -(missing**gamma) * own


def early_learning(
    logits: jax.Array, labels: jax.Array, *, targets: jax.Array, strength: float
) -> jax.Array:
    """Return CE + strength * log(1 - <targets, p>) (n,).

    Early-learning regularisation: Liu et al. 2020, arXiv 2007.00151, equation 6.

    Args:
        logits: Scores before softmax (n c).
        labels: Class ids (n,).
        targets: What the model has answered for each image so far (n c).
        strength: Of the pull towards `targets`.
    """
    every, own = _log_probs(logits, labels)
    agreed = (targets * jnp.exp(every)).sum(-1)
    return -own + strength * jnp.log1p(-jnp.minimum(agreed, SUREST))


def remembered(targets: jax.Array, logits: jax.Array, *, decay: float) -> jax.Array:
    """Move `targets` (n c) towards the answers of `logits` (n c), as ELR does."""
    answers = jax.nn.softmax(logits.astype(jnp.float32))
    return decay * targets + (1 - decay) * jax.lax.stop_gradient(answers)


def distillation(
    logits: jax.Array, targets: jax.Array, *, temperature: float
) -> jax.Array:
    """Return T^2 times the cross-entropy (n,) of softened `logits` (n c) to `targets`.

    Hinton et al. 2015, arXiv 1503.02531, section 2: the square keeps the gradient's
    size at every temperature T.

    Args:
        logits: Scores before softmax.
        targets: A teacher's answers, softened likewise (n c).
        temperature: T.
    """
    every = jax.nn.log_softmax(logits.astype(jnp.float32) / temperature)
    return -(temperature**2) * (targets * every).sum(-1)
