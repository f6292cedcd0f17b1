"""How a real run fits: measured on plain training images and on validation."""

from pathlib import Path

import numpy as np
import pytest

from data_contracts.store import Dataset
from flows import workspace
from tasks import fit_words, summary_fit
from tasks.ensemble_settings import EnsembleSettings
from tasks.fit_words import FitVerdict
from tasks.summary_fit import fit_of
from tasks.train import Trained
from tests.flows.conftest import TRAIN


def run_of(result) -> Trained:
    folder = workspace.runs_root() / Path(result.report).parent.name
    found = Trained.model_validate_json((folder / "trained.json").read_text())
    return found.model_copy(update={"folder": str(folder)})


def test_with_few_validation_images_nothing_is_measured(trained, monkeypatch):
    monkeypatch.setattr(summary_fit, "_measure", None)
    found = fit_of(Dataset(trained.dataset), run_of(trained), TRAIN)
    assert found.verdict == FitVerdict.unknown
    assert (
        f"{trained.images['val']} validation images are too few" in (found.sentences[0])
    )
    assert "are too few" in Path(trained.report).read_text("utf-8")


def test_a_run_is_measured_once(trained, monkeypatch):
    for module in (fit_words, summary_fit):
        monkeypatch.setattr(module, "LEAST_VAL", 10)
    run = run_of(trained)
    dataset = Dataset(trained.dataset)
    found = fit_of(dataset, run, TRAIN)
    kept = run.history[run.best_epoch - 1]["val_top1"]
    assert found.val.value == pytest.approx(kept, abs=1e-6)
    assert found.train.n <= trained.images["train"]
    assert found.gap.value == pytest.approx(found.train.value - found.val.value)
    assert 0 <= found.more.low <= found.more.value <= found.more.high
    assert np.isfinite(found.more.high)
    monkeypatch.setattr(summary_fit, "_measure", None)
    assert fit_of(dataset, run, TRAIN) == found


def test_networks_of_folds_have_no_validation_images_of_their_own(trained):
    folds = TRAIN.model_copy(update={"ensemble": EnsembleSettings(combine="folds")})
    found = fit_of(Dataset(trained.dataset), run_of(trained), folds)
    assert found.verdict == FitVerdict.unknown
    assert "has taught some network" in found.sentences[0]
