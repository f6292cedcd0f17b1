"""The images that a version was made of, and others as it would have seen them."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any, Self

import numpy as np

from data_contracts.dataset import NONE, Array
from data_contracts.errors import SchemaError, SourceError
from data_contracts.references import DatasetRef, ModelRef
from data_contracts.store import Dataset
from tasks.inpaint import repaired_as_trained
from tasks.lessons import labels_to_learn
from tasks.register import datasets_of
from tasks.robustness import group_keys, keys_of


def own_source(model: ModelRef) -> DatasetRef:
    """Return the snapshot that a version learnt from and was judged on.

    Stored views are passed over: they repeat the images that they were made of.
    """
    found = datasets_of(model, str(Path(model.uri).parents[1]))
    return [ref for stage, ref in found.items() if stage != "views"][-1]


def own_dataset(model: ModelRef) -> Dataset:
    """Open the snapshot that a version learnt from and was judged on.

    Raises:
        SourceError: It is gone, or another dataset took its place.
    """
    try:
        return Dataset(own_source(model))
    except SchemaError as error:
        raise SourceError(
            f"The images of {model.name} version {model.version} are gone:"
            f" {str(error).split('. ')[0]}. Name other images: data=FOLDER"
        ) from error


class Repaired(Dataset):
    """Denoised images, painted over as those that a version learnt from.

    Args:
        ref: The images.
        model: The version.
        meta: What it keeps of its training.
    """

    def __init__(self, ref: DatasetRef, model: ModelRef, meta: dict[str, Any]) -> None:
        super().__init__(ref)
        self._meta, self._model = meta, Path(model.uri) / "model"

    def take(self, rows: Array) -> Array:
        """Return the pixels of `rows` in that order."""
        return repaired_as_trained(super().take(rows), self._meta, self._model)


@dataclasses.dataclass(frozen=True)
class Images:
    """Some images and what is known of them; all have length n.

    Attributes:
        dataset: Where they are.
        rows: Of the dataset.
        labels: Class of each, in the model's order; -1 where it knows none.
    """

    dataset: Dataset
    rows: Array
    labels: Array

    @classmethod
    def of(cls, dataset: Dataset, rows: Array, classes: list[str]) -> Self:
        """Return `rows` with their labels as places among `classes`."""
        place = {name: i for i, name in enumerate(classes)}
        names = dataset.names("label_names")
        table = np.array([*(place.get(name, NONE) for name in names), NONE])
        return cls(dataset, rows, table[labels_to_learn(dataset)[rows]])

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def known(self) -> Self:
        """Those of a class that the model knows."""
        here = self.labels >= 0
        return dataclasses.replace(self, rows=self.rows[here], labels=self.labels[here])

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
    def group_keys(self) -> Array:
        """A number by the content of the first file of each one's duplicate group."""
        return group_keys(self.dataset, self.rows)

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
