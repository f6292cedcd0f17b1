"""The images that a version was made of, and others as it would have seen them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_contracts.dataset import Array
from data_contracts.errors import SchemaError, SourceError
from data_contracts.references import DatasetRef, ModelRef
from data_contracts.store import Dataset
from tasks.inpaint import repaired_as_trained
from tasks.register import datasets_of


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
