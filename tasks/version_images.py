"""The images that a version was made of."""

from __future__ import annotations

from pathlib import Path

from data_contracts.errors import SchemaError, SourceError
from data_contracts.references import DatasetRef, ModelRef
from data_contracts.store import Dataset
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
