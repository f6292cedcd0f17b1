"""What a model still answers rightly while its images are attacked."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from data_contracts.dataset import Array
from data_contracts.store import Dataset
from models.attacks.settings import Attack, fallback_of
from tasks.adversarial_settings import AttackName, AttackSettings
from tasks.inference import BATCH, Predictor, devices, fitted
from tasks.parallel import spans
from tasks.progress import Progress

# Images in a compiled step: an attack holds several times what an answer does.
WIDTH = 64


class Stand(NamedTuple):
    """How n images fare.

    Attributes:
        plain: Whether the answer is right without an attack (n,).
        attacked: Whether it stays right (n,).
        stage: What broke it, see `models.attacks.run.Attacked`.
        silent: Images without a slope for attacks to follow, or with one of no numbers;
            none for Square, which follows none.
    """

    plain: Array
    attacked: Array
    stage: Array
    silent: int

    def notes(self, settings: AttackSettings, *, num_classes: int) -> list[str]:
        """Return what a reader of these figures should know."""
        found = [fallback_of(str(settings.attack), num_classes)]
        if self.silent:
            found.append(
                f"{self.silent} of {len(self.plain)} images have no gradient to follow"
                " (it is zero, or no number): attacks along it say little, trust"
                " square alone"
            )
        return [text for text in found if text]


def attacker_of(
    predictor: Predictor, attack: Attack, *, seed: int, logits: Any = None
) -> Any:
    """Return an `Attacker` on all devices.

    Args:
        predictor: The model.
        attack: Which attack.
        seed: Of its random draws.
        logits: A function of (weights, pixels) to attack in place of the model.
    """
    mesh = devices()
    from models.attacks.run import Attacker

    ask = logits or predictor.logits
    return Attacker(ask, attack, batch_size=WIDTH, seed=seed, mesh=mesh)


class Attacking:
    """An attack on one model, compiled once for any number of images."""

    def __init__(self, predictor: Predictor, settings: AttackSettings) -> None:
        self._predictor = predictor
        self._attacker = attacker_of(predictor, settings.asked, seed=settings.seed)

    def __call__(self, images: Array, labels: Array, *, places: Array) -> Any:
        """Return what became of uint8 images (n h w 3), see `Attacker`.

        Images of another size are resized first: the change is one of what the model
        sees.
        """
        ready = fitted(images, size=int(self._predictor.meta["image_size"]))
        return self._attacker(self._predictor.weights, ready, labels, places=places)

    def silent(self, images: Array, labels: Array) -> Array:
        """Return which images (n,) have no slope to follow, or one of no numbers."""
        ready = fitted(images, size=int(self._predictor.meta["image_size"]))
        flat, none = self._attacker.silent(self._predictor.weights, ready, labels)
        return np.asarray(flat | none)


def withstand(
    predictor: Predictor,
    dataset: Dataset,
    rows: Array,
    labels: Array,
    settings: AttackSettings,
) -> Stand:
    """Return how the images of `rows` fare, read part by part.

    Args:
        predictor: The model.
        dataset: Where the images are.
        rows: Sorted rows (n,).
        labels: Class of each in the model's order; -1 where it knows none.
        settings: Which attack; the draws of an image hang on its row.
    """
    run = Attacking(predictor, settings)
    broken, stage = np.ones(len(rows), bool), np.full(len(rows), -2, np.int8)
    silent = 0
    with Progress("attack", total=len(rows), unit="images") as progress:
        for start, stop in spans(0, len(rows), size=max(BATCH, dataset.chunk)):
            images = dataset.take(rows[start:stop])
            known = np.flatnonzero(labels[start:stop] >= 0)
            at = np.arange(start, stop)[known]
            found = run(images[known], labels[at], places=rows[at])
            broken[at], stage[at] = found.broken, found.stage
            if len(known) and settings.attack != AttackName.square:
                silent += int(run.silent(images[known], labels[at]).sum())
            progress.advance(len(images))
    return Stand(stage != -2, ~broken, stage, silent)
