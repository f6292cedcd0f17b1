"""Attack the images of an audit, part by part; finished parts are kept."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from data_contracts.dataset import Array
from models.attacks.settings import Attack
from tasks.audit_parts import Parts
from tasks.audit_subject import KEPT, PART, Images, Subject, spans
from tasks.inference import devices
from tasks.progress import Progress

LEVELS = 255
# Stages that `models.attacks.run` gives where no attack broke an answer, or had to.
NOT_BROKEN, WRONG_BEFORE = -1, -2
Logits = Callable[[Any, Any], Any]  # (weights, pixels) to logits


class Attacked(NamedTuple):
    """What became of the answers to n images.

    Attributes:
        names: Of the parts that hold the pixels.
        stage: What broke each (n,), as `models.attacks.run.Attacked` has it.
        right: Whether the answer stayed right (n,).
        answer: Class of the attacked image on 8 bits (n,).
        sure: Its probability (n,).
        seconds: Spent on it, in whatever run.
    """

    names: list[str]
    stage: Array
    right: Array
    answer: Array
    sure: Array
    seconds: float


class Attacks:
    """Attacks on one version, each kind compiled once."""

    def __init__(self, subject: Subject, parts: Parts, *, seed: int) -> None:
        self.subject, self.parts, self.seed = subject, parts, seed
        self._attackers: dict[Any, Any] = {}

    def __call__(
        self, tag: str, attack: Attack, images: Images, *, logits: Logits | None = None
    ) -> Attacked:
        """Attack `images`; what was done before is read.

        Args:
            tag: Names the attack, its size, and the images.
            attack: Which, and how hard.
            images: Whom.
            logits: What is attacked in place of the network itself; `tag` names it.
        """
        names, found = [], []
        with Progress(tag, total=len(images), unit="images") as progress:
            for start, stop in spans(len(images), KEPT):
                names.append(f"{tag}-{start}")
                where = np.arange(start, stop)
                compute = functools.partial(self._one, attack, images, where, logits)
                done = self.parts.get(names[-1], compute)
                found.append({k: v for k, v in done.items() if k != "pixels"})
                progress.advance(stop - start)
        stage, answer, sure = (
            np.concatenate([part[name] for part in found])
            for name in ("stage", "answer", "sure")
        )
        seconds = float(sum(part["seconds"] for part in found))
        return Attacked(names, stage, stage == NOT_BROKEN, answer, sure, seconds)

    def pixels(self, attacked: Attacked) -> Iterator[Array]:
        """Yield the attacked images by parts: uint8, as a file holds them."""
        for name in attacked.names:
            yield self.parts.get(name, dict)["pixels"]

    def some(self, attacked: Attacked, which: Array) -> Array:
        """Return the attacked images where `which` (n,), part by part."""
        parts, start = [], 0
        for made in self.pixels(attacked):
            parts.append(made[which[start : start + len(made)]])
            start += len(made)
        return np.concatenate(parts)

    def silent(self, images: Images) -> tuple[Array, Array]:
        """Return whose loss has no slope, and whose slope is no number, (n,) each."""
        attacker = self._attacker(Attack(), None)
        found = []
        for start, stop in spans(len(images), KEPT):
            where = np.arange(start, stop)
            pixels = self.subject.read(images, where)
            weights = self.subject.predictor.weights
            found.append(attacker.silent(weights, pixels, images.labels[where]))
        flat, broken = (np.concatenate(each) for each in zip(*found, strict=True))
        return flat, broken

    def _one(
        self, attack: Attack, images: Images, places: Array, logits: Logits | None
    ) -> dict[str, Array]:
        predictor = self.subject.predictor
        found = self._attacker(attack, logits)(
            predictor.weights,
            self.subject.read(images, places),
            images.labels[places],
            places=images.keys[places] % (1 << 32),
            eps=attack.eps,
        )
        pixels = np.rint(found.pixels * LEVELS).astype(np.uint8)
        probs = predictor(pixels)
        return {
            "pixels": pixels,
            "stage": found.stage,
            "answer": probs.argmax(1),
            "sure": probs.max(1),
        }

    def _attacker(self, attack: Attack, logits: Logits | None) -> Any:
        from models.attacks.run import Attacker

        key = dataclasses.replace(attack, eps=0.0), logits
        if key not in self._attackers:
            self._attackers[key] = Attacker(
                logits or self.subject.predictor.logits,
                attack,
                batch_size=PART,
                seed=self.seed,
                mesh=devices(),
            )
        return self._attackers[key]
