"""The attacks of an audit: which, how far accuracy falls, and whom they fool first."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from data_contracts.dataset import Array
from data_contracts.references import Verdict
from models.attacks.settings import Attack, stages_of
from tasks.audit_attacks import LEVELS, NOT_BROKEN, WRONG_BEFORE, Attacked, Attacks
from tasks.audit_outcome import AttackRow, CurvePoint, Fragile
from tasks.audit_settings import ResilienceSettings
from tasks.audit_words import ABOUT
from tasks.scores import share_of
from tasks.version_images import Images

log = logging.getLogger("sightline")

L2 = "pgd_l2"
SHOWN = 8  # of the most fragile images


def planned(settings: ResilienceSettings, *, side: int) -> dict[str, Attack]:
    """Return the attacks on all test images, by name; the first is the known one.

    Args:
        settings: Size and steps.
        side: Of the images, pixels.
    """
    eps = settings.epsilon / LEVELS
    shared: dict[str, Any] = {"eps": eps, "steps": settings.steps}
    length = eps * side / 2  # as one sample in twelve changed by all of epsilon
    return {
        "pgd": Attack(method="pgd", **shared),
        "fgsm": Attack(method="fgsm", random_start=False, eps=eps),
        L2: Attack(method="pgd", norm="l2", eps=length, steps=settings.steps),
        "standard": Attack(
            method="standard",
            queries=settings.queries,
            targets=settings.targets,
            **shared,
        ),
    }


def gradients(settings: ResilienceSettings, images: int) -> float:
    """Return how many gradients an audit takes at most, an answer being a third of one.

    Args:
        settings: Of the audit.
        images: Test images.
    """
    own, few = settings, min(settings.curve_images, images)
    attack = 3 * own.steps + 1 + own.targets * own.steps + own.queries / 3
    curve = own.steps * len(own.curve)
    # Three detectors take one pass of the network and two take three, each twice: what
    # the score counts beside the answer is tried low and high.
    detect = own.detect * (3 + 2 * 3) * 2 * (own.adaptive_steps + 1)
    harden = own.defend * 2 * own.adaptive_steps * (1 + 2 * own.views)
    noise = min(own.smoothed, images) * (own.choose + own.certify) / 3
    worn = len(own.corruptions) * len(own.severities) * own.spoiled / 3
    covered = 2 * len(own.covered)
    known = own.detect * own.steps
    return (
        images * (attack + worn + covered + known)
        + few * (curve + detect + harden)
        + bool(own.sigma) * noise
    )


def run_attacks(
    attacks: Attacks, settings: ResilienceSettings, reason: str
) -> tuple[list[AttackRow], dict[str, Array], dict[str, Attacked]]:
    """Run every attack; return its rows, who stayed right, and what was made.

    Args:
        attacks: On the version.
        settings: How hard.
        reason: Why no attack along gradients can be run; "" where they can.
    """
    test, side = attacks.subject.test, int(attacks.subject.predictor.meta["image_size"])
    plan = planned(settings, side=side)
    numbers = {
        "steps": settings.steps,
        "queries": settings.queries,
        "length": plan[L2].eps,
    }
    about = {name: text.format(**numbers) for name, text in ABOUT.items()}
    stayed: dict[str, tuple[Array, float]] = {}
    made: dict[str, Attacked] = {}
    if reason:
        square = Attack(method="square", eps=plan["pgd"].eps, queries=settings.queries)
        plan, missed = {"square": square}, [*plan, "apgd"]
    else:
        missed = []
    for name, attack in plan.items():
        made[name] = found = attacks(name, attack, test)
        if name == "standard":
            square_stage = len(stages_of(name)) - 1
            along = (found.stage == NOT_BROKEN) | (found.stage == square_stage)
            stayed["apgd"] = along, 0.0
        stayed[name] = found.right, found.seconds
    right = {name: each for name, (each, _) in stayed.items()}
    if not reason:
        right["worst"] = right["pgd"] & right["fgsm"] & right["standard"]
        stayed["worst"] = right["worst"], 0.0
    rows = [_not_run(name, about[name], reason) for name in missed]
    for name, (each, seconds) in stayed.items():
        accuracy = share_of(
            each.astype(np.float64), groups=test.groups, level=settings.level
        )
        log.info("audit     %s leaves %.1f %%", name, 100 * accuracy.value)
        rows.append(
            AttackRow(
                attack=name,
                about=about[name],
                accuracy=accuracy,
                seconds=round(seconds, 2),
            )
        )
    return rows, right, made


def _not_run(name: str, about: str, reason: str) -> AttackRow:
    return AttackRow(
        attack=name,
        about=about,
        verdict=Verdict.NOT_RUN,
        accuracy=None,
        detail=f"Not run: {reason}.",
    )


def follow_curve(
    attacks: Attacks, settings: ResilienceSettings, reason: str
) -> tuple[list[CurvePoint], dict[float, Attacked]]:
    """Follow accuracy under PGD until chance, on an even pick of the images."""
    few = attacks.subject.test.few(settings.curve_images)
    points: list[CurvePoint] = []
    made: dict[float, Attacked] = {}
    for levels in sorted(settings.curve) if not reason else ():
        attack = Attack(method="pgd", eps=levels / LEVELS, steps=settings.steps)
        found = attacks(f"curve-{levels:g}", attack, few)
        made[levels] = found
        accuracy = share_of(
            found.right.astype(np.float64), groups=few.groups, level=settings.level
        )
        points.append(CurvePoint(levels=levels, accuracy=accuracy))
        if not found.right.any():
            break
    return points, made


def most_fragile(
    attacks: Attacks, settings: ResilienceSettings, curve: dict[float, Attacked]
) -> list[Fragile]:
    """Return the images that the smallest changes fool, the surest answers first."""
    few = attacks.subject.test.few(settings.curve_images)
    chosen = smallest_first(few, curve)[:SHOWN]
    if not chosen:
        return []
    name, rows = attacks.subject.classes, []
    before = attacks.subject.read(few, np.array([place for place, _ in chosen]))
    after = [_copy(attacks, curve[levels], place) for place, levels in chosen]
    attacks.parts.get("fragile", lambda: {"image": before, "attacked": np.stack(after)})
    probs = attacks.subject.predictor(before)
    for (place, levels), own in zip(chosen, probs, strict=True):
        found = curve[levels]
        rows.append(
            Fragile(
                path=few.paths[place],
                label=name[int(few.labels[place])],
                before=name[int(own.argmax())],
                before_sure=float(own.max()),
                after=name[int(found.answer[place])],
                after_sure=float(found.sure[place]),
                levels=levels,
            )
        )
    return rows


def _copy(attacks: Attacks, attacked: Attacked, place: int) -> Array:
    """Return what an attack made of one image."""
    for made in attacks.pixels(attacked):
        if place < len(made):
            return np.asarray(made[place])
        place -= len(made)
    raise IndexError(place)


def smallest_first(
    images: Images, curve: dict[float, Attacked]
) -> list[tuple[int, float]]:
    """Return the places of fooled images and the least levels that fool them.

    Only those count whose copy on 8 bits fools too: what is shown is what is sent.
    """
    least: dict[int, float] = {}
    for levels, found in sorted(curve.items()):
        fooled = ~found.right & (found.stage != WRONG_BEFORE)
        fooled &= found.answer != images.labels
        for place in np.flatnonzero(fooled):
            least.setdefault(int(place), levels)
    sure = {place: float(curve[levels].sure[place]) for place, levels in least.items()}
    return sorted(least.items(), key=lambda item: (item[1], -sure[item[0]]))
