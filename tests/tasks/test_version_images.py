"""Which images a version was made of, and what is said where they are gone."""

import json
import shutil
from pathlib import Path

import pytest

from data_contracts.errors import SourceError
from data_contracts.references import ModelRef
from tasks.version_images import own_dataset
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
