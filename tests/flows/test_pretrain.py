"""The verb `pretrain`: with labels to judge by, and without."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from data_contracts.store import Dataset
from flows import pretrain, workspace
from flows.pretrain import PretrainConfig, Unjudged, run
from models.recipe import NONE
from tasks.augment_settings import AugmentSettings
from tasks.clean import CleanSettings
from tasks.decode import DecodeSettings
from tasks.pretrain import PretrainSettings, rows_to_see
from tasks.split import TEST, VAL
from tasks.transfer import begin_from


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(48):
        folder = root / ("ab"[i % 2] if i < 40 else "")
        folder.mkdir(exist_ok=True)
        small = rng.integers(0, 256, (4, 4, 3), np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), cv2.resize(small, (32, 32)))
    return root


def config(photos: Path, name: str) -> PretrainConfig:
    return PretrainConfig(
        data=str(photos),
        name=name,
        decode=DecodeSettings(image_size=16),
        clean=CleanSettings(min_sharpness=0),
        pretrain=PretrainSettings(
            epochs=1, batch_size=16, width=16, augment=AugmentSettings(**vars(NONE))
        ),
    )


def test_a_version_is_judged_by_a_head_on_its_features(photos):
    made = run(config(photos, "base"))
    assert made.model.version == 1
    assert any("learnt without labels by vicreg" in note for note in made.notes)
    dataset = Dataset(made.dataset)
    seen, use = rows_to_see(dataset), dataset.column("use")
    assert not np.isin(use[seen], [VAL, TEST]).any()
    assert (dataset.column("label")[seen] < 0).sum() == 8
    again = run(config(photos, "base"))
    assert again.run == made.run
    assert again.model == made.model


def test_images_without_labels_give_a_run_to_start_from(photos, tmp_path):
    for path in photos.glob("*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for path in photos.glob("a/*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    made = run(config(tmp_path, "bare"))
    assert isinstance(made, Unjudged)
    assert made.found.unlabelled == made.found.images == 28
    assert f"init=run:{made.found.run}" in made.text()

    from models.backbones import create_model

    model = create_model("small", num_classes=2, image_size=16, seed=5)
    found = begin_from(
        f"run:{made.found.run}",
        "small",
        model,
        classes=["x", "y"],
        home=workspace.home(),
    )
    assert "28 of them without a label" in found.notes[1]


def test_what_a_champion_was_tested_on_is_handed_on(photos, monkeypatch):
    asked = {}

    class Enough(Exception):
        pass

    def prepared(place, settings, **given):
        asked.update(given)
        raise Enough

    monkeypatch.setattr(pretrain, "settled_for", lambda name, uri: f"{name}'s uses")
    monkeypatch.setattr(pretrain, "prepare", prepared)
    with pytest.raises(Enough):
        run(config(photos, "base"))
    assert asked["settled"] == "base's uses"
    assert asked["without_labels"]


def test_views_that_mix_images_are_refused():
    with pytest.raises(ValidationError, match="Set both to 0"):
        PretrainSettings(augment=AugmentSettings(mixup=0.1, cutmix=0))
