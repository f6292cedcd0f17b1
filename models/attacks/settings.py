"""What an attack is asked for, free of JAX, so that settings can list it without."""

from __future__ import annotations

import dataclasses

NORMS = ("linf", "l2")
METHODS = (
    "fgsm",
    "pgd",
    "apgd_ce",
    "apgd_dlr",
    "apgd_dlr_targeted",
    "square",
    "standard",
)
# The worst of these is `standard`: an image that one breaks is spared the next.
STANDARD = ("apgd_ce", "apgd_dlr_targeted", "square")
# Classes that the difference-of-logits ratio compares, without and with a target.
DLR_CLASSES, DLR_TARGETED_CLASSES = 3, 4


@dataclasses.dataclass(frozen=True)
class Attack:
    """An attack by name, and what it may spend.

    Attributes:
        method: One of `METHODS`.
        norm: One of `NORMS`.
        eps: Largest change, of pixels in 0..1.
        steps: Gradients of an attempt; FGSM takes one.
        restarts: Attempts of PGD and APGD from other random starts.
        step_size: Of PGD, as a share of `eps`; None is 2.5 / steps.
        random_start: Whether PGD and FGSM start anywhere in the ball.
        targets: Other classes that a targeted attack aims at, the likeliest first.
        queries: Answers that Square may ask for.
    """

    method: str = "standard"
    norm: str = "linf"
    eps: float = 4 / 255
    steps: int = 20
    restarts: int = 1
    step_size: float | None = None
    random_start: bool = True
    targets: int = 9
    queries: int = 500


def stages_of(method: str) -> tuple[str, ...]:
    """Return the attacks that a method is made of."""
    return STANDARD if method == "standard" else (method,)


def fallback_of(method: str, num_classes: int) -> str:
    """Say what stands in where there are too few classes for a ratio of logits."""
    if "apgd_dlr_targeted" in stages_of(method):
        if num_classes < DLR_TARGETED_CLASSES:
            return _told("its targeted form", DLR_TARGETED_CLASSES, num_classes)
    elif method == "apgd_dlr" and num_classes < DLR_CLASSES:
        return _told("it", DLR_CLASSES, num_classes)
    return ""


def _told(which: str, needed: int, came: int) -> str:
    instead = "the plain difference of logits" if came < DLR_CLASSES else "its scale by"
    rest = "" if came < DLR_CLASSES else " the first and the third logit"
    return (
        f"the difference-of-logits ratio compares {needed} classes where {which} is"
        f" asked for; there are {came}: {instead}{rest} stands in"
    )
