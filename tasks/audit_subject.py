"""Whom an audit is about: a version, and the images that it is asked on."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any, Self

import numpy as np

from data_contracts.config import digest
from data_contracts.dataset import Array
from data_contracts.errors import ContractError, UsageError
from data_contracts.references import DatasetRef, ModelRef
from data_contracts.store import Dataset
from tasks.inference import BATCH, Predictor, devices, fitted
from tasks.inpaint import repaired_as_trained
from tasks.lessons import class_of_rows, labels_to_learn, pick_rows
from tasks.register import manifest_of
from tasks.robustness import keys_of
from tasks.split import TEST, VAL

PART = 64  # images attacked together: an attack holds several copies of them
KEPT = 256  # images of one kept part
TAUGHT = 4_096  # training images that detectors learn from


@dataclasses.dataclass(frozen=True)
class Images:
    """Some images and what is known of them; all have length n.

    Attributes:
        dataset: Where they are.
        rows: Of the dataset.
        labels: Class of each, in the model's order.
    """

    dataset: Dataset
    rows: Array
    labels: Array

    def __len__(self) -> int:
        return len(self.rows)

    @functools.cached_property
    def groups(self) -> Array:
        """Duplicate group of each, from 0."""
        group = self.dataset.column("group")[self.rows]
        return np.unique(group, return_inverse=True)[1].ravel()

    @functools.cached_property
    def keys(self) -> Array:
        """A number by each file's content."""
        return keys_of(self.dataset.column("sha256")[self.rows])

    @functools.cached_property
    def paths(self) -> list[str]:
        """Name of each."""
        return [str(path) for path in self.dataset.column("path")[self.rows]]

    def few(self, most: int) -> Self:
        """Return an even pick of at most so many."""
        if len(self) <= most:
            return self
        places = np.linspace(0, len(self) - 1, most).astype(np.int64)
        return dataclasses.replace(
            self, rows=self.rows[places], labels=self.labels[places]
        )


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
        return int(-(-PART // mesh.size) * mesh.size)

    def read(self, images: Images, places: Array) -> Array:
        """Return pixels uint8 (n, h, w, 3) as the network sees them."""
        found = images.dataset.take(images.rows[places])
        return fitted(found, size=int(self.predictor.meta["image_size"]))


class Repaired(Dataset):
    """A dataset whose pixels are painted over as those that a model learnt from."""

    def __init__(self, ref: DatasetRef, meta: dict[str, Any], model: Path) -> None:
        super().__init__(ref)
        self._meta, self._model = meta, model

    def take(self, rows: Array) -> Array:
        """Return the pixels of `rows` in that order."""
        return repaired_as_trained(super().take(rows), self._meta, self._model)


def subject_of(
    model: ModelRef, *, models: str, given: DatasetRef | None, limit: int
) -> Subject:
    """Load a version, and find its images.

    Args:
        model: The version.
        models: Folder of the registry.
        given: Dataset to judge on in place of the version's own test split.
        limit: Most images to judge on, and most to choose thresholds on.

    Raises:
        ContractError: There are no images with a class that the model knows.
        UsageError: The model knows one class.
    """
    predictor = Predictor.load(Path(model.uri) / "model")
    if len(predictor.classes) < 2:
        raise UsageError(
            f"An attack needs two classes to turn one into another; {model.name}"
            f" version {model.version} knows {len(predictor.classes)}."
        )
    own = own_dataset(model, models=models)
    if given is None and own is None:
        raise UsageError(
            f"The dataset of {model.name} version {model.version} is gone. Name other"
            " images: data=FOLDER."
        )
    chosen = own
    if given is not None:
        chosen = Repaired(given, predictor.meta, Path(model.uri) / "model")
    assert chosen is not None
    wanted = (
        chosen.column("keep") if given is not None else chosen.column("use") == TEST
    )
    test = _known(chosen, np.flatnonzero(wanted), predictor.classes)
    if not len(test):
        raise ContractError(
            f"No image of {chosen.ref.uri} can be judged on: none is whole and has a"
            f" label among {', '.join(predictor.classes[:5])}, which the model knows."
        )
    val = taught = None
    if own is not None:
        val = _known(own, np.flatnonzero(own.column("use") == VAL), predictor.classes)
        rows = pick_rows(own, replay=None, seed=0)
        taught = _known(own, rows, predictor.classes).few(TAUGHT)
    return Subject(
        model=model,
        predictor=predictor,
        test=test.few(limit),
        val=val.few(limit) if val is not None and len(val) else None,
        taught=taught if taught is not None and len(taught) else None,
        given=given is not None,
    )


def own_dataset(model: ModelRef, *, models: str) -> Dataset | None:
    """Return the dataset that a version was made of, None where it is gone."""
    *_, last = manifest_of(model)["datasets"].values()
    # Beside the registry, also when the workspace was moved since.
    here = Path(models).parent / "datasets" / Path(last["uri"]).name
    if not here.exists():
        return None
    return Dataset(DatasetRef.model_validate(last | {"uri": str(here)}))


def _known(dataset: Dataset, rows: Array, classes: list[str]) -> Images:
    names = dataset.names("label_names")
    # A class without images here still has its place; its id is beyond all labels.
    ids = [names.index(name) if name in names else -1 for name in classes]
    labels = labels_to_learn(dataset)
    found = class_of_rows(dataset, [i for i in ids if i >= 0], labels)[rows]
    order = np.array([*[k for k, i in enumerate(ids) if i >= 0], -1], np.int64)
    labels = order[found]
    return Images(dataset, rows[labels >= 0], labels[labels >= 0])


def embeddings_of(subject: Subject, images: Images) -> Array:
    """Return the network's embeddings (n, d) of images, read batch by batch."""
    parts: list[Any] = [
        subject.predictor.embed(subject.read(images, np.arange(start, stop)))
        for start, stop in spans(len(images), BATCH)
    ]
    return np.concatenate(parts)


def spans(n: int, step: int) -> list[tuple[int, int]]:
    """Return the parts of `n` images, `step` at a time, as start and stop."""
    return [(start, min(start + step, n)) for start in range(0, n, step)]


def padded(batch: Array, width: int) -> Array:
    """Return `batch` repeated to `width` rows, so that one shape is compiled."""
    return batch[np.resize(np.arange(len(batch)), width)]
