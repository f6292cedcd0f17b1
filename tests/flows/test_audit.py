"""The verb `audit`: which version, which images, and where what it found lies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from data_contracts.errors import ContractError, UsageError
from flows import workspace
from flows.audit import AuditConfig, run
from flows.predict import PredictConfig
from flows.predict import run as run_predict
from tasks.audit_settings import HardenSettings
from tasks.inference import Predictor, softmax
from tests.flows.conftest import KINDS
from tests.tasks.test_audit import BARE
from tests.tasks.toys import Toy


@pytest.fixture
def toy(monkeypatch) -> Toy:
    """A formula in the network's place, which compiles at once."""
    toy = Toy(classes=KINDS)
    monkeypatch.setattr("tasks.audit_subject.Predictor.load", lambda folder: toy)
    return toy


def config(**changes) -> AuditConfig:
    return AuditConfig(**({"name": "shop", "limit": 30, "audit": BARE} | changes))


def test_the_champion_is_audited_on_its_test_split_and_a_rerun_is_free(trained, toy):
    made = run(config(name="shop@1"))
    assert made.found.model.version == trained.model.version
    assert (made.found.images, made.found.given) == (30, False)
    assert made.found.classes_present == 3
    assert Path(made.report).read_text("utf-8").count("<h2>") >= 4
    record = json.loads((Path(made.folder) / "audit.json").read_text())
    assert record["model"]["name"] == "shop"
    assert made.report.startswith(str(workspace.audits_root()))
    assert "worst" in made.text()
    toy.logits = None  # whoever asked the network again would fail
    assert run(config()).found == made.found


def test_images_of_your_own_are_treated_as_those_learnt_from(trained, toy, pictures):
    rows = pictures.read_text().splitlines()
    mugs = pictures.with_name("mugs.csv")
    mugs.write_text("\n".join([rows[0], *[row for row in rows if ",mug," in row][:20]]))
    found = run(config(data=str(mugs), limit=8)).found
    assert found.given
    assert (found.images, found.classes_present) == (8, 1)
    assert any("of one class" in note for note in found.notes)


def test_images_without_a_known_class_are_refused(trained, toy, tmp_path):
    import cv2

    for i in range(3):
        folder = tmp_path / "strange" / "boat"
        folder.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), noise)
    with pytest.raises(ContractError, match="which the model knows"):
        run(config(data=str(tmp_path / "strange")))


@pytest.mark.parametrize("name", ["shop@zero", "shop@9", "nobody"])
def test_a_version_that_is_not_there_is_refused(trained, name):
    with pytest.raises(UsageError):
        run(config(name=name))


def test_a_network_answers_pixels_as_it_answers_images(trained):
    predictor = Predictor.load(Path(trained.model.uri) / "model")
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    logits = predictor.logits(predictor.weights, images.astype(np.float32) / 255)
    np.testing.assert_allclose(
        softmax(np.asarray(logits)), predictor(images), atol=1e-5
    )


def test_predictions_may_be_asked_of_other_views(trained, pictures, tmp_path):
    def labels(name: str, harden: HardenSettings) -> str:
        out = tmp_path / name
        asked = {"name": "shop", "data": str(pictures), "out": str(out)}
        run_predict(PredictConfig(**asked, harden=harden))
        return out.read_text()

    plain = labels("plain.csv", HardenSettings())
    voted = labels("voted.csv", HardenSettings(reencode=80, views=2))
    assert voted != plain
    assert len(voted.splitlines()) == len(plain.splitlines())
