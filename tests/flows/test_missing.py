"""A run fills what is missing, says so, and judges by what was given."""

import csv
from pathlib import Path

import numpy as np

from data_contracts.store import Dataset
from flows.result import Clock
from flows.stages import StageSettings, last, prepare
from flows.train import run as run_train
from flows.train import settled_for
from tasks.decode import DecodeSettings
from tasks.embed import EmbedSettings
from tasks.gate import GateSettings
from tasks.impute_settings import ImputeSettings
from tasks.inference import Predictor
from tasks.listing import SourceSettings
from tests.flows.conftest import TRAIN, small_config


def with_gaps(manifest: Path, out: Path, *, every: int) -> Path:
    """Write a manifest with `every` n-th label, and with prices that have gaps."""
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for i, row in enumerate(rows):
        given = ("train", "train", "train", "val", "test")[i % 5]
        row["split"] = given if every > 1 else ""
        row["price"] = "" if i % 4 == 0 else str(i % 7)
        if i % every:
            row |= {"label": "", "domain": ""}
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return out


def test_a_run_learns_from_filled_labels(pictures, tmp_path):
    gaps = with_gaps(pictures, tmp_path / "gaps.csv", every=2)
    source = SourceSettings(root=str(pictures.parent), numeric=("price",))
    result = run_train(
        small_config(
            gaps,
            source=source,
            gate=GateSettings(floor_top1=0),
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

    # Their labels arrive: what was trained on does not test.
    assert result.promoted
    with_gaps(pictures, gaps, every=1)
    datasets, _ = prepare(
        str(gaps),
        StageSettings(source=source, decode=DecodeSettings(image_size=32)),
        uri=result.dataset.uri,
        clock=Clock(),
        settled=settled_for(result.model.name, result.dataset.uri),
    )
    later = Dataset(last(datasets))
    given = (later.column("label")[: dataset.n] >= 0) & filled & later.column("keep")
    assert given.sum() > 20
    assert (later.column("use")[: dataset.n][given] == 0).all()
    assert (later.column("use") == 2).any()
