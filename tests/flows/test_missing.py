"""A run fills what is missing, says so, and judges by what was given."""

import csv
from pathlib import Path

import numpy as np

from data_contracts.store import Dataset
from flows.train import run as run_train
from tasks.embed import EmbedSettings
from tasks.impute_settings import ImputeSettings
from tasks.inference import Predictor
from tasks.listing import SourceSettings
from tests.flows.conftest import TRAIN, small_config


def with_gaps(manifest: Path, out: Path) -> Path:
    """Write a manifest without every other label, and with prices that have gaps."""
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for i, row in enumerate(rows):
        row["split"] = ("train", "train", "train", "val", "test")[i % 5]
        row["price"] = "" if i % 4 == 0 else str(i % 7)
        if i % 2:
            row |= {"label": "", "domain": ""}
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return out


def test_a_run_learns_from_filled_labels(pictures, tmp_path):
    result = run_train(
        small_config(
            with_gaps(pictures, tmp_path / "gaps.csv"),
            source=SourceSettings(root=str(pictures.parent), numeric=("price",)),
            embed=EmbedSettings(encoder_epochs=4),
            impute=ImputeSettings(
                labels="keep",
                min_confidence=0.3,
                domain="neighbours",
                numbers="mean",
            ),
            train=TRAIN.model_copy(update={"epochs": 2}),
        )
    )
    dataset = Dataset(result.dataset)
    label, use = dataset.column("label"), dataset.column("use")
    filled = dataset.column("imputed") != ""
    assert filled.sum() > 20
    assert (use[filled] == 0).all()
    assert (label[filled] == -1).all()
    assert (dataset.column("split")[filled] == 0).all()
    assert (dataset.column("domain")[dataset.column("ok")] >= 0).all()
    assert not np.isnan(dataset.column("numbers")).any()
    assert result.images["train"] == ((label >= 0) & (use == 0)).sum() + filled.sum()
    assert result.metrics["top1"].n == (use == 2).sum()
    assert any(f"{filled.sum()} were filled" in note for note in result.notes)
    assert any("numbers were filled by mean (price " in note for note in result.notes)
    page = Path(result.report).read_text()
    assert "Filled labels" in page
    meta = Predictor.load(Path(result.model.uri) / "model").meta
    assert meta["impute"]["numbers"].keys() == {"price"}
