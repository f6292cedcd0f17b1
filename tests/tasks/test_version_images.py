"""Which images a version was made of, and what is said where they are gone."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_contracts.errors import SourceError
from data_contracts.references import ModelRef
from data_contracts.store import Dataset
from tasks.version_images import Images, own_dataset
from tests.datasets import make_dataset


@pytest.fixture
def made(tmp_path):
    """A version of a dataset, and the dataset's snapshot."""
    source = make_dataset(tmp_path / "home" / "datasets", 4)
    folder = tmp_path / "home" / "models" / "shop" / "1"
    folder.mkdir(parents=True)
    views = source.model_copy(update={"stage": "views", "snapshot": "ANOTHER"})
    kept = {"split": source.model_dump(), "views": views.model_dump()}
    (folder / "manifest.json").write_text(json.dumps({"datasets": kept}))
    return ModelRef(name="shop", version=1, uri=str(folder)), source


def test_stored_views_are_passed_over(made):
    model, source = made
    assert own_dataset(model).ref == source


def test_a_workspace_may_move(made, tmp_path):
    model, source = made
    (tmp_path / "home").rename(tmp_path / "moved")
    there = model.model_copy(update={"uri": model.uri.replace("home", "moved")})
    assert own_dataset(there).ref.snapshot == source.snapshot


def test_images_that_are_gone_or_others_are_named(made):
    model, source = made
    said = "of shop version 1 are gone: There is no dataset .*data=FOLDER"
    shutil.move(source.uri, source.uri + "-old")
    with pytest.raises(SourceError, match=said):
        own_dataset(model)
    make_dataset(Path(source.uri).parent, 5)
    with pytest.raises(SourceError, match=r"gone: .*was replaced\. Name"):
        own_dataset(model)


def test_labels_are_places_among_the_models_classes(tmp_path):
    given = {"group": [0, 0, 2, 3, 4, 4], "sha256": [f"{i:015x}" for i in range(6)]}
    dataset = Dataset(make_dataset(tmp_path, 6, names="abc", **given))
    images = Images.of(dataset, np.array([0, 1, 2, 5]), ["c", "new", "a"])
    assert images.labels.tolist() == [2, -1, 0, 0]
    assert images.known.rows.tolist() == [0, 2, 5]
    assert images.groups.tolist() == [0, 0, 1, 2]
    assert images.keys.tolist() == [0, 1, 2, 5]
    assert images.group_keys.tolist() == [0, 0, 2, 4]
    assert images.few(2).paths == ["000.png", "005.png"]
