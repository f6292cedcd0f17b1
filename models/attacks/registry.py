"""Attacks by name, and `standard`, the worst of several."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from data_contracts.errors import UsageError
from models.attacks.apgd import apgd, apgd_targeted
from models.attacks.balls import Budget
from models.attacks.kept import LogitsOf, wrong
from models.attacks.losses import dlr
from models.attacks.pgd import fgsm, pgd
from models.attacks.settings import METHODS, STANDARD, Attack
from models.attacks.square import square

# attack(logits_of, images, labels, *, eps, norm, keys) -> images
Attacks = Callable[..., jax.Array]


def attack_of(settings: Attack) -> Attacks:
    """Return the attack that the settings name, with all but eps, norm and keys given.

    Raises:
        UsageError: The name is unknown.
    """
    tries = {"steps": settings.steps, "restarts": settings.restarts}
    start = {"random_start": settings.random_start}
    known: dict[str, Attacks] = {
        "fgsm": functools.partial(fgsm, **start),
        "pgd": functools.partial(pgd, step_size=settings.step_size, **tries, **start),
        "apgd_ce": functools.partial(apgd, **tries),
        "apgd_dlr": functools.partial(apgd, loss=dlr, **tries),
        "apgd_dlr_targeted": functools.partial(
            apgd_targeted, steps=settings.steps, targets=settings.targets
        ),
        "square": functools.partial(square, queries=settings.queries),
        "standard": functools.partial(standard, settings=settings),
    }
    if settings.method not in known:
        raise UsageError(
            f"An attack is one of {', '.join(METHODS)}; came {settings.method!r}."
            " Pick one."
        )
    return known[settings.method]


def attack(
    settings: Attack,
    logits_of: LogitsOf,
    images: jax.Array,
    labels: jax.Array,
    *,
    keys: jax.Array,
    eps: Budget | None = None,
) -> jax.Array:
    """Attack as the settings say; another `eps` needs no other compilation."""
    return attack_of(settings)(
        logits_of,
        images,
        labels,
        eps=settings.eps if eps is None else eps,
        norm=settings.norm,
        keys=keys,
    )


def standard(
    logits_of: LogitsOf,
    images: jax.Array,
    labels: jax.Array,
    *,
    eps: Budget,
    norm: str = "linf",
    keys: jax.Array,
    settings: Attack = Attack(),
) -> jax.Array:
    """Return what the first of several attacks made of each image that broke it.

    APGD on cross-entropy, targeted APGD, Square: as AutoAttack (Croce and Hein 2020),
    less the attack of small changes. An image that none breaks is that of the last.
    `run.Attacker` does the same with each attack on the survivors alone.
    """
    found, broken = images, wrong(logits_of(images), labels)
    for number, method in enumerate(STANDARD):
        single = attack_of(dataclasses.replace(settings, method=method))

        def aim(found: jax.Array, single: Attacks = single) -> jax.Array:
            return single(logits_of, images, labels, eps=eps, norm=norm, keys=keys)

        new = jax.lax.cond(broken.all(), lambda found: found, aim, found)
        found = jnp.where(broken[:, None, None, None], found, new)
        if number + 1 < len(STANDARD):
            broken |= wrong(logits_of(found), labels)
    return found
