"""Try detectors of attacks: known, unseen, and one that knows the detector."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from data_contracts.dataset import Array
from data_contracts.references import Verdict
from models.attacks.settings import Attack
from tasks.audit_attacks import LEVELS, WRONG_BEFORE, Attacked, Attacks
from tasks.audit_outcome import DetectorRow
from tasks.audit_settings import ResilienceSettings
from tasks.audit_subject import Images, embeddings_of, padded, spans
from tasks.inference import devices
from tasks.scores import shares

FALSE_ALARMS = 0.05
LEAST = 20  # clean validation images, below which a threshold at 5 % means nothing
BLENDED = "blend"


def why_not(attacks: Attacks) -> str:
    """Say why no detector can be tried, or nothing."""
    subject = attacks.subject
    if subject.val is None or len(subject.val) < LEAST:
        count = 0 if subject.val is None else len(subject.val)
        return (
            f"Not run: a threshold is chosen on clean validation images of the"
            f" version's own dataset; there are {count}, and it takes {LEAST}."
        )
    if subject.taught is None:
        return "Not run: none of the images that the version learnt from is there."
    return ""


def try_detectors(
    attacks: Attacks,
    attack: Attack,
    attacked: dict[str, Attacked],
    settings: ResilienceSettings,
) -> list[DetectorRow]:
    """Return one row a detector.

    Thresholds are the 95th percentile of clean validation images. The blend learns from
    one half of them, clean and under `attack`, and has its threshold from the other.

    Args:
        attacks: Whom to attack, and what was done.
        attack: The known attack, the first of `attacked`.
        attacked: Attacks on all test images, by name.
        settings: Size and length of the adaptive attack.
    """
    from models.defence.detectors import SCORES, Blend, Reference

    subject = attacks.subject
    taught, val, test = subject.taught, subject.val, subject.test
    assert taught is not None
    assert val is not None
    known = attacks.parts.get(
        "reference",
        lambda: vars(
            Reference.of(
                embeddings_of(subject, taught), taught.labels, len(subject.classes)
            )
        ),
    )
    known.pop("seconds")
    reference = Reference(**known)
    score = _Scorer(attacks, reference)
    clean_val, clean = score(val), score(test)
    learnt, held = np.arange(0, len(val), 2), np.arange(1, len(val), 2)
    on_val = attacks("val-known", attack, val)
    fooled_val = score.attacked(on_val)[learnt][~on_val.right[learnt]]
    found = {name: score.attacked(each) for name, each in attacked.items()}
    rows = []
    for place, name in enumerate(SCORES):
        limits = _limits(clean_val[:, place])
        values = {"clean": clean[:, place]}
        values |= {other: scores[:, place] for other, scores in found.items()}
        judge = functools.partial(_alone, name=name)
        rows.append(_row(name, values, limits, judge, score, attacked, settings))
    if len(fooled_val) < LEAST // 4:
        said = f"{attack.method} fools too few validation images to learn from."
        rows.append(DetectorRow(detector=BLENDED, verdict=Verdict.NOT_RUN, detail=said))
        return rows
    blend = Blend.fit(clean_val[learnt], fooled_val)
    limits = _limits(np.asarray(blend(clean_val[held])))
    values = {"clean": np.asarray(blend(clean))}
    values |= {name: np.asarray(blend(scores)) for name, scores in found.items()}
    judge = functools.partial(_together, blend=blend)
    rows.append(_row(BLENDED, values, limits, judge, score, attacked, settings))
    return rows


def _limits(clean: Array) -> tuple[float, float]:
    """Return the threshold, and the spread of clean scores (interquartile range)."""
    threshold = np.quantile(clean, 1 - FALSE_ALARMS, method="higher")
    low, high = np.quantile(clean, (0.25, 0.75))
    return float(threshold), max(float(high - low), 1e-6)


def _row(
    name: str,
    values: dict[str, Array],
    limits: tuple[float, float],
    judge: Callable[..., Any],
    score: _Scorer,
    attacked: dict[str, Attacked],
    settings: ResilienceSettings,
) -> DetectorRow:
    attacks = score.attacks
    test, level = attacks.subject.test, settings.level
    groups = test.groups

    def share(hits: Array, which: Array) -> Any:
        found = hits[which].astype(np.float64)
        group = np.unique(groups[which], return_inverse=True)[1].ravel()
        return shares(found, groups=group, level=level)[0]

    everyone = np.ones(len(test), bool)
    clean_right = next(iter(attacked.values())).stage != WRONG_BEFORE
    noticed = {}
    for other, each in attacked.items():
        fooled = clean_right & ~each.right
        noticed[other] = share(values[other] > limits[0], fooled)
    few = test.few(settings.curve_images)
    fooled, passed = _evaded(name, judge, score, attacked, limits, few, settings)
    places = np.flatnonzero(np.isin(test.rows, few.rows))
    own = np.zeros(len(test), bool)
    own[places] = fooled
    seen = np.zeros(len(test), bool)
    seen[places] = passed > limits[0]
    here = np.zeros(len(test), bool)
    here[places] = True
    return DetectorRow(
        detector=name,
        false_alarms=share(values["clean"] > limits[0], everyone),
        noticed=noticed,
        adaptive=share(seen, own & clean_right),
        unnoticed=share(own & ~seen, here & clean_right),
    )


def _evaded(
    name: str,
    judge: Callable[..., Any],
    score: _Scorer,
    attacked: dict[str, Attacked],
    limits: tuple[float, float],
    images: Images,
    settings: ResilienceSettings,
) -> tuple[Array, Array]:
    """Return who was fooled by the attack that knows the detector, and its score."""
    from models.defence.adaptive import evade, make_step
    from models.defence.spread import over_devices

    attacks = score.attacks
    subject = attacks.subject
    own = functools.partial(judge, score.ask)
    step = over_devices(
        make_step(own, epsilon=settings.epsilon / LEVELS), whole=2, mesh=devices()
    )
    weights = subject.predictor.weights, score.known
    first = next(iter(attacked.values()))
    start_at = np.concatenate([*attacks.pixels(first)])
    begin = start_at[np.isin(subject.test.rows, images.rows)]

    def one(start: int, stop: int) -> dict[str, Array]:
        where = np.arange(start, stop)
        pixels = padded(subject.read(images, where), subject.part)
        found = evade(
            step,
            weights,
            pixels / np.float32(LEVELS),
            padded(images.labels[where], subject.part),
            starts=[padded(begin[start:stop], subject.part) / np.float32(LEVELS)],
            limits=limits,
            steps=settings.adaptive_steps,
        )
        n = stop - start
        return {"fooled": found.fooled[:n], "score": found.score[:n]}

    found = [
        attacks.parts.get(f"evade-{name}-{start}", functools.partial(one, start, stop))
        for start, stop in spans(len(images), subject.part)
    ]
    fooled = np.concatenate([part["fooled"] for part in found])
    return fooled, np.concatenate([part["score"] for part in found])


def _alone(ask: Any, given: Any, pixels: Any, *, name: str) -> Any:
    """Return logits and one score of pixels; `given` is (weights, known)."""
    from models.defence.detectors import SCORES

    weights, known = given
    asked = functools.partial(ask, weights)
    return asked(pixels)[0], SCORES[name](asked, pixels, known)


def _together(ask: Any, given: Any, pixels: Any, *, blend: Any) -> Any:
    """Return logits and the blend of all scores."""
    from models.defence.detectors import all_scores

    weights, known = given
    asked = functools.partial(ask, weights)
    return asked(pixels)[0], blend(all_scores(asked, pixels, known))


class _Scorer:
    """All scores of images, clean or attacked."""

    def __init__(self, attacks: Attacks, known: Any) -> None:
        from models.defence.detectors import all_scores
        from models.defence.spread import over_devices

        self.attacks, self.known = attacks, known
        predictor = attacks.subject.predictor

        def local(weights: Any, known: Any, pixels: Any) -> Any:
            return all_scores(functools.partial(self.ask, weights), pixels, known)

        self._compiled = over_devices(local, whole=2, mesh=devices())
        self._weights = predictor.weights

    def ask(self, weights: Any, pixels: Any) -> Any:
        """Return logits and embeddings of pixels."""
        predictor = self.attacks.subject.predictor
        return predictor.logits(weights, pixels), predictor.embeddings(weights, pixels)

    def __call__(self, images: Images) -> Array:
        """Return the scores (n, s) of images as they are."""
        subject = self.attacks.subject
        parts = [
            self._of(subject.read(images, np.arange(start, stop)))
            for start, stop in spans(len(images), subject.part)
        ]
        return np.concatenate(parts)

    def attacked(self, attacked: Attacked) -> Array:
        """Return the scores (m, s) of attacked images."""
        parts = [
            self._of(pixels[start:stop])
            for pixels in self.attacks.pixels(attacked)
            for start, stop in spans(len(pixels), self.attacks.subject.part)
        ]
        return np.concatenate(parts)

    def _of(self, pixels: Array) -> Array:
        wide = padded(pixels, self.attacks.subject.part).astype(np.float32) / LEVELS
        found = np.asarray(self._compiled(self._weights, self.known, wide))
        return found[: len(pixels)]
