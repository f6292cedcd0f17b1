"""What defences at serving cost and bring: re-encoding, a vote, a watch, smoothing."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any

import numpy as np

from data_contracts.dataset import Array
from data_contracts.references import Estimate
from models.attacks.settings import Attack
from tasks.audit_attacks import LEVELS, Attacked, Attacks
from tasks.audit_outcome import HardeningRow, RadiusPoint, Smoothed, WatchRow
from tasks.audit_settings import HardenSettings, ResilienceSettings
from tasks.harden import hardened, views_of
from tasks.inference import BATCH, devices, padded
from tasks.intervals import paired_change
from tasks.parallel import spans
from tasks.pixels import perceptual_hash
from tasks.scores import score, share_of
from tasks.smoothing import ABSTAIN, certify, within
from tasks.version_images import Images

DISTANCES = (0, 2, 4, 8)
FAR = 64  # bits of a hash
RADII = (0.0, 0.125, 0.25, 0.375, 0.5, 0.75, 1.0)


def try_hardening(
    attacks: Attacks, attack: Attack, attacked: Attacked, settings: ResilienceSettings
) -> list[HardeningRow]:
    """Return cost and gain of each defence, and of all together.

    The adaptive attack goes through the defence: re-encoding passes gradients on where
    it rounds, and the vote is attacked by cuts of the attacker's own, new ones at every
    step (arXiv 1802.00420).

    Args:
        attacks: On the version.
        attack: Made images without knowing the defence.
        attacked: Those images.
        settings: Which defences, and how long the adaptive attack goes on.
    """
    test = attacks.subject.test
    few = test.few(settings.curve_images)
    own = np.isin(test.rows, few.rows)
    clean = attacks.subject.read(few, np.arange(len(few)))
    made = attacks.some(attacked, own)
    harder = dataclasses.replace(attack, steps=settings.adaptive_steps, restarts=2)
    again = functools.partial(_through, attacks, harder, few, settings)
    plain = attacked.right[own].astype(np.float64)
    rows = []
    for name, defence in defences(settings).items():
        model = hardened(attacks.subject.predictor, defence)
        model(clean[:BATCH])  # compiles
        start = time.monotonic()
        right = _right(model(clean), few.labels)
        spent = time.monotonic() - start
        unaware = _right(model(made), few.labels)
        # Who goes through the defence may also take the plain attack's image.
        left = np.minimum(again(defence), unaware) if defence.asked else None
        rows.append(
            HardeningRow(
                defence=name,
                clean=_share(right, few, settings),
                attacked=_share(unaware, few, settings),
                adaptive=None if left is None else _share(left, few, settings),
                gain=None if left is None else _gain(left - plain, few, settings),
                milliseconds=round(1000 * spent / len(few), 3),
            )
        )
    return rows


def _share(hits: Array, images: Images, settings: ResilienceSettings) -> Estimate:
    return share_of(hits, groups=images.groups, level=settings.level)


def _gain(change: Array, images: Images, settings: ResilienceSettings) -> Estimate:
    found = paired_change(change, groups=images.groups, level=settings.level)
    return Estimate(value=found.value, low=found.low, high=found.high, n=len(images))


def defences(settings: ResilienceSettings) -> dict[str, HardenSettings]:
    """Return what is tried, by name."""
    code = {"reencode": settings.reencode}
    vote = {"views": settings.views, "smallest": settings.smallest}
    return {
        "none": HardenSettings(),
        f"JPEG of quality {settings.reencode}": HardenSettings.model_validate(code),
        f"vote of {settings.views} cuts": HardenSettings.model_validate(vote),
        "JPEG, then the vote": HardenSettings.model_validate(code | vote),
    }


def _right(probs: Array, labels: Array) -> Array:
    return score(probs, labels).correct


def _through(
    attacks: Attacks,
    attack: Attack,
    images: Images,
    settings: ResilienceSettings,
    defence: HardenSettings,
) -> Array:
    """Return 1 where the defended answer stays right under an attack through it."""
    # Cuts are drawn by other seeds than the defender's.
    guessed = defence.model_copy(update={"secret": settings.attack_seed + 1_000_003})
    predictor = attacks.subject.predictor

    def logits(weights: Any, pixels: Any) -> Any:
        import jax
        import jax.numpy as jnp

        views = views_of(pixels, guessed)
        answers = predictor.logits(weights, views.reshape(-1, *pixels.shape[1:]))
        every = jax.nn.log_softmax(answers).reshape(*views.shape[:2], -1)
        return jax.nn.logsumexp(every, axis=0) - jnp.log(len(views))

    tag = f"through-{int(bool(defence.reencode))}{int(bool(defence.views))}"
    found = attacks(tag, attack, images, logits=logits)
    made = np.concatenate([*attacks.pixels(found)])
    return _right(hardened(predictor, defence)(made), images.labels)


def try_watch(
    attacks: Attacks, attacked: Attacked, settings: ResilienceSettings
) -> list[WatchRow]:
    """Return how many attacked images hash like their original, and strangers do.

    An attack without the weights ends at such an image, and passes nearer ones on its
    way. Strangers are different test images of other duplicate groups.
    """
    test = attacks.subject.test
    parts, ends = [], []
    for (start, stop), made in zip(
        spans(0, len(test), size=len(next(attacks.pixels(attacked)))),
        attacks.pixels(attacked),
        strict=True,
    ):
        parts.append(
            perceptual_hash(attacks.subject.read(test, np.arange(start, stop)))
        )
        ends.append(perceptual_hash(made))
    before, after = np.concatenate(parts), np.concatenate(ends)
    groups = test.groups
    apart = _apart(before, after)
    nearest = [
        np.where(
            groups[start:stop, None] == groups,
            FAR,
            _apart(before[start:stop, None], before),
        ).min(1)
        for start, stop in spans(0, len(before), size=BATCH)
    ]
    alone = np.concatenate(nearest)

    def share(hits: Array) -> Estimate:
        return _share(hits.astype(np.float64), test, settings)

    return [
        WatchRow(
            distance=bits, near=share(apart <= bits), strangers=share(alone <= bits)
        )
        for bits in DISTANCES
    ]


def _apart(one: Array, other: Array) -> Array:
    """Return in how many bits hashes differ; 0, of no structure, resembles nothing."""
    known = (one > 0) & (other > 0)
    return np.where(known, np.bitwise_count(one ^ other), FAR)


def smooth(attacks: Attacks, settings: ResilienceSettings) -> Smoothed:
    """Certify classes of an even pick of the test images under Gaussian noise."""
    subject = attacks.subject
    images = subject.test.few(settings.smoothed)
    counted = functools.partial(_counted, attacks, images, settings)
    chosen, first = counted("choose", settings.choose, settings.attack_seed)
    certified, second = counted("certify", settings.certify, settings.attack_seed + 1)
    found = certify(
        chosen,
        certified,
        draws=settings.certify,
        sigma=settings.sigma,
        alpha=settings.alpha,
    )

    return Smoothed(
        sigma=settings.sigma,
        choose=settings.choose,
        certify=settings.certify,
        alpha=settings.alpha,
        images=len(images),
        abstained=_share(
            (found.answer == ABSTAIN).astype(np.float64), images, settings
        ),
        points=[
            RadiusPoint(
                radius=r,
                accuracy=_share(within(found, images.labels, r), images, settings),
            )
            for r in RADII
        ],
        seconds=first + second,
    )


def _counted(
    attacks: Attacks,
    images: Images,
    settings: ResilienceSettings,
    name: str,
    draws: int,
    seed: int,
) -> tuple[Array, float]:
    """Return answers by class under noise (n k), and the seconds that they took."""
    import jax
    import jax.numpy as jnp

    from models.attacks.balls import keys_of
    from models.defence.smoothing import make_counts
    from models.defence.spread import over_devices

    subject = attacks.subject
    together = max(1, BATCH // subject.part)
    while draws % together:  # a whole number of parts
        together -= 1
    counts = make_counts(subject.predictor.logits, draws=together)
    step = over_devices(counts, whole=3, mesh=devices())

    def count(start: int, stop: int) -> dict[str, Array]:
        where = np.arange(start, stop)
        pixels = padded(subject.read(images, where), subject.part)
        seeds = padded((images.keys[where] % (1 << 32)).astype(np.uint32), len(pixels))
        given = (
            jnp.asarray(pixels.astype(np.float32) / LEVELS),
            keys_of(jax.random.key(seed), jnp.asarray(seeds)),
        )
        sigma, total = jnp.float32(settings.sigma), 0
        for part in range(draws // together):
            total += step(subject.predictor.weights, sigma, jnp.int32(part), *given)
        return {"counts": np.asarray(total)[: stop - start]}

    found = [
        attacks.parts.get(
            f"noise-{name}-{start}", functools.partial(count, start, stop)
        )
        for start, stop in spans(0, len(images), size=subject.part)
    ]
    seconds = float(sum(part["seconds"] for part in found))
    return np.concatenate([part["counts"] for part in found]), seconds
