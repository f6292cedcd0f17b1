"""Try detectors of attacks: known, unseen, and one that knows the detector."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from data_contracts.dataset import Array
from data_contracts.references import Estimate, Verdict
from models.attacks.settings import Attack
from tasks.audit_attacks import LEVELS, WRONG_BEFORE, Attacked, Attacks
from tasks.audit_outcome import DetectorRow
from tasks.audit_parts import SECONDS
from tasks.audit_settings import ResilienceSettings
from tasks.audit_subject import embeddings_of
from tasks.inference import devices, padded
from tasks.parallel import spans
from tasks.scores import share_of
from tasks.version_images import Images

FALSE_ALARMS = 0.05
LEAST = 20  # clean validation images, below which a threshold at 5 % means nothing
BLENDED = "blend"
# Scores of one pass of the network; they share a compilation.
FAST = ("mahalanobis", "energy", "neighbours")


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
    from models.defence.detectors import SCORES, Blend

    val = attacks.subject.val
    assert val is not None
    score = _Scorer(attacks)
    clean, learnt = score(val), np.arange(len(val)) % 2 == 0
    names = tuple(SCORES)
    tried = [
        _Detector(name, family, Blend.alone(family.index(name), len(family)))
        for name, family in ((n, FAST if n in FAST else names) for n in names)
    ]
    on_val = attacks("val-known", attack, val)
    fooled = learnt & (on_val.stage >= 0) & (on_val.answer != val.labels)
    enough = int(fooled.sum()) >= LEAST // 4
    if enough:
        blend = Blend.fit(clean[learnt], score.attacked(on_val)[fooled])
        tried.append(_Detector(BLENDED, names, blend))
    scores = {"clean": score(attacks.subject.test)}
    scores |= {name: score.attacked(each) for name, each in attacked.items()}
    trial = _Trial(score, attacked, settings)
    rows = [
        trial.row(one, clean[~learnt] if one.name == BLENDED else clean, scores)
        for one in tried
    ]
    if not enough:
        said = f"{attack.method} fools too few validation images to learn from."
        rows.append(DetectorRow(detector=BLENDED, verdict=Verdict.NOT_RUN, detail=said))
    return rows


class _Detector(NamedTuple):
    """A blend of the scores of a family, which is compiled as one."""

    name: str
    family: tuple[str, ...]
    blend: Any

    def of(self, scores: Array) -> Array:
        """Return its value (n,) of all scores (n s)."""
        from models.defence.detectors import SCORES

        places = [list(SCORES).index(name) for name in self.family]
        return np.asarray(self.blend(scores[:, places]))


class _Trial:
    """Puts detectors to attacks."""

    def __init__(
        self,
        score: _Scorer,
        attacked: dict[str, Attacked],
        settings: ResilienceSettings,
    ) -> None:
        self.score, self.attacked, self.settings = score, attacked, settings
        self.attacks = score.attacks
        self.test = score.attacks.subject.test
        self.few = self.test.few(settings.curve_images)
        self._steps: dict[tuple[str, ...], Any] = {}

    def row(
        self, detector: _Detector, clean: Array, scores: dict[str, Array]
    ) -> DetectorRow:
        """Return how one detector fares.

        Args:
            detector: Which.
            clean: Scores of the clean validation images that its threshold is from.
            scores: Of the test images, "clean" and by attack.
        """
        test, few, labels = self.test, self.few, self.test.labels
        first = next(iter(self.attacked.values()))
        right = first.stage != WRONG_BEFORE
        threshold, spread = _limits(detector.of(clean))
        seen = {name: detector.of(own) > threshold for name, own in scores.items()}
        here = np.isin(test.rows, few.rows)
        fooled, value = self._evaded(detector, (threshold, spread))
        alarm, own = value > threshold, fooled & right[here]
        return DetectorRow(
            detector=detector.name,
            false_alarms=self._share(seen["clean"], test, np.ones(len(test), bool)),
            noticed={
                name: self._share(seen[name], test, right & (each.answer != labels))
                for name, each in self.attacked.items()
            },
            adaptive=self._share(alarm, few, own),
            unnoticed=self._share(own & ~alarm, few, right[here]),
        )

    def _share(self, hits: Array, images: Images, which: Array) -> Estimate:
        found = hits[which].astype(np.float64)
        group = np.unique(images.groups[which], return_inverse=True)[1].ravel()
        return share_of(found, groups=group, level=self.settings.level)

    def _evaded(
        self, detector: _Detector, limits: tuple[float, float]
    ) -> tuple[Array, Array]:
        """Return who was fooled by an attack that knows the detector, and its score."""
        from models.defence.adaptive import evade

        subject, few = self.attacks.subject, self.few
        known = self.score.known, detector.blend
        first = next(iter(self.attacked.values()))
        begin = self.attacks.some(first, np.isin(self.test.rows, few.rows))

        def one(start: int, stop: int) -> dict[str, Array]:
            where = np.arange(start, stop)
            pixels = padded(subject.read(few, where), subject.part)
            found = evade(
                self._step(detector.family),
                (subject.predictor.weights, known),
                pixels / np.float32(LEVELS),
                padded(few.labels[where], subject.part),
                starts=[padded(begin[start:stop], subject.part) / np.float32(LEVELS)],
                limits=limits,
                steps=self.settings.adaptive_steps,
            )
            n = stop - start
            return {"fooled": found.fooled[:n], "score": found.score[:n]}

        found = [
            self.attacks.parts.get(
                f"evade-{detector.name}-{start}", functools.partial(one, start, stop)
            )
            for start, stop in spans(0, len(few), size=subject.part)
        ]
        fooled = np.concatenate([part["fooled"] for part in found])
        return fooled, np.concatenate([part["score"] for part in found])

    def _step(self, family: tuple[str, ...]) -> Any:
        """Compile a step of the attack on any blend of the scores of `family`."""
        from models.defence.adaptive import make_step
        from models.defence.detectors import scores_of
        from models.defence.spread import over_devices

        if family not in self._steps:

            def judge(given: Any, pixels: Any) -> Any:
                weights, (known, blend) = given
                ask = functools.partial(self.score.ask, weights)
                return ask(pixels)[0], blend(
                    scores_of(ask, pixels, known, names=family)
                )

            step = make_step(judge, epsilon=self.settings.epsilon / LEVELS)
            self._steps[family] = over_devices(step, whole=2, mesh=devices())
        return self._steps[family]


class _Scorer:
    """All scores of images, clean or attacked."""

    def __init__(self, attacks: Attacks) -> None:
        from models.defence.detectors import Reference, scores_of
        from models.defence.spread import over_devices

        self.attacks, subject = attacks, attacks.subject
        taught = subject.taught
        assert taught is not None
        found = attacks.parts.get(
            "reference",
            lambda: vars(
                Reference.of(
                    embeddings_of(subject, taught), taught.labels, len(subject.classes)
                )
            ),
        )
        self.known = Reference(**{k: v for k, v in found.items() if k != SECONDS})

        def local(weights: Any, known: Any, pixels: Any) -> Any:
            return scores_of(functools.partial(self.ask, weights), pixels, known)

        self._compiled = over_devices(local, whole=2, mesh=devices())

    def ask(self, weights: Any, pixels: Any) -> Any:
        """Return logits and embeddings of pixels."""
        predictor = self.attacks.subject.predictor
        return predictor.logits(weights, pixels), predictor.embeddings(weights, pixels)

    def __call__(self, images: Images) -> Array:
        """Return the scores (n, s) of images as they are."""
        subject = self.attacks.subject
        parts = [
            self._of(subject.read(images, np.arange(start, stop)))
            for start, stop in spans(0, len(images), size=subject.part)
        ]
        return np.concatenate(parts)

    def attacked(self, attacked: Attacked) -> Array:
        """Return the scores (m, s) of attacked images."""
        parts = [
            self._of(pixels[start:stop])
            for pixels in self.attacks.pixels(attacked)
            for start, stop in spans(0, len(pixels), size=self.attacks.subject.part)
        ]
        return np.concatenate(parts)

    def _of(self, pixels: Array) -> Array:
        subject = self.attacks.subject
        wide = padded(pixels, subject.part).astype(np.float32) / LEVELS
        found = self._compiled(subject.predictor.weights, self.known, wide)
        return np.asarray(found)[: len(pixels)]


def _limits(clean: Array) -> tuple[float, float]:
    """Return the threshold, and the spread of clean scores (interquartile range)."""
    threshold = np.quantile(clean, 1 - FALSE_ALARMS, method="higher")
    low, high = np.quantile(clean, (0.25, 0.75))
    return float(threshold), max(float(high - low), 1e-6)
