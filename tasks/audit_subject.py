"""Whom an audit is about: a version, and the images that it is asked on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from data_contracts.config import digest
from data_contracts.dataset import Array
from data_contracts.errors import ContractError, SourceError, UsageError
from data_contracts.references import DatasetRef, ModelRef
from data_contracts.store import Dataset
from tasks.adversarial import WIDTH
from tasks.inference import BATCH, Predictor, devices, fitted
from tasks.lessons import pick_rows
from tasks.parallel import spans
from tasks.split import TEST, VAL
from tasks.version_images import Images, Repaired, own_dataset

KEPT = 256  # images of one kept part
TAUGHT = 4_096  # training images that detectors learn from


@dataclasses.dataclass(frozen=True)
class Subject:
    """A version under audit.

    Attributes:
        model: The version.
        predictor: Its network.
        test: Images that it is judged on.
        val: Images that thresholds are chosen on, None where there are none.
        taught: Images that it learnt from, likewise.
        given: Whether the test images are the user's own choice.
    """

    model: ModelRef
    predictor: Predictor
    test: Images
    val: Images | None
    taught: Images | None
    given: bool

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the model's order."""
        return self.predictor.classes

    @property
    def identity(self) -> str:
        """What tells its images, and how they are cut into parts, from others."""
        test = [self.test.keys.tolist(), self.test.labels.tolist()]
        own = [each.dataset.ref.snapshot for each in (self.val, self.taught) if each]
        return digest(test, self.test.groups.tolist(), own, self.part)

    @property
    def part(self) -> int:
        """Images attacked together, a multiple of the devices."""
        mesh = devices()
        return int(-(-WIDTH // mesh.size) * mesh.size)

    def read(self, images: Images, places: Array) -> Array:
        """Return pixels uint8 (n, h, w, 3) as the network sees them."""
        found = images.dataset.take(images.rows[places])
        return fitted(found, size=int(self.predictor.meta["image_size"]))


def subject_of(model: ModelRef, *, given: DatasetRef | None, limit: int) -> Subject:
    """Load a version, and find its images.

    Args:
        model: The version.
        given: Dataset to judge on in place of the version's own test split.
        limit: Most images to judge on, and most to choose thresholds on.

    Raises:
        ContractError: There are no images with a class that the model knows.
        UsageError: The model knows one class, or its images are gone and none given.
    """
    predictor = Predictor.load(Path(model.uri) / "model")
    if len(predictor.classes) < 2:
        raise UsageError(
            f"An attack needs two classes to turn one into another; {model.name}"
            f" version {model.version} knows {len(predictor.classes)}."
        )
    own: Dataset | None = None
    try:
        own = own_dataset(model)
    except SourceError:
        if given is None:
            raise
    if given is not None:
        chosen: Dataset = Repaired(given, model, predictor.meta)
        wanted = chosen.column("keep")
    else:
        assert own is not None
        chosen, wanted = own, own.column("use") == TEST
    test = Images.of(chosen, np.flatnonzero(wanted), predictor.classes).known
    if not len(test):
        raise ContractError(
            f"No image of {chosen.ref.uri} can be judged on: none is whole and has a"
            f" label among {', '.join(predictor.classes[:5])}, which the model knows."
        )
    val = taught = None
    if own is not None:
        rows = np.flatnonzero(own.column("use") == VAL)
        val = Images.of(own, rows, predictor.classes).known
        rows = pick_rows(own, replay=None, seed=0)
        taught = Images.of(own, rows, predictor.classes).known.few(TAUGHT)
    return Subject(
        model=model,
        predictor=predictor,
        test=test.few(limit),
        val=val.few(limit) if val is not None and len(val) else None,
        taught=taught if taught is not None and len(taught) else None,
        given=given is not None,
    )


def embeddings_of(subject: Subject, images: Images) -> Array:
    """Return the network's embeddings (n, d) of images, read batch by batch."""
    parts: list[Any] = [
        subject.predictor.embed(subject.read(images, np.arange(start, stop)))
        for start, stop in spans(0, len(images), size=BATCH)
    ]
    return np.concatenate(parts)
