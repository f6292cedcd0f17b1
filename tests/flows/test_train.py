import inspect
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_contracts.errors import ContractError, GateError, UsageError
from data_contracts.references import Verdict
from data_contracts.store import Dataset
from flows import datasets, update, versions
from flows.predict import PredictConfig, predict
from flows.predict import run as run_predict
from flows.train import TrainConfig, train
from flows.train import run as run_train
from flows.update import NothingNew, UpdateConfig
from flows.update import run as run_update
from tasks.augment_settings import AugmentSettings
from tasks.gate import GateSettings
from tasks.inference import Predictor
from tasks.label_audit import AuditSettings
from tasks.train_settings import TrainSettings
from tests.flows.conftest import TRAIN, small_config
from tests.tasks.pictures import write_folders


@pytest.mark.parametrize(
    ("config", "flow"),
    [(TrainConfig, train), (UpdateConfig, update.update), (PredictConfig, predict)],
)
def test_a_flow_takes_exactly_its_settings(config, flow):
    parameters = inspect.signature(flow.fn).parameters
    assert set(parameters) == set(config.model_fields)
    for name, field in config.model_fields.items():
        default = parameters[name].default
        assert default == (
            inspect.Parameter.empty if field.is_required() else field.default
        )


def test_the_settings_are_those_of_the_recipe():
    from models.recipe import Augment, Recipe
    from tasks.train import recipe_of

    assert recipe_of(TrainSettings(), n=2640) == Recipe()
    assert set(AugmentSettings.model_fields) == set(Augment.__dataclass_fields__)


def test_a_first_version_is_trained_judged_and_promoted(
    trained, own_workspace, pictures
):
    assert trained.verdict == Verdict.PASS
    assert trained.promoted
    assert trained.model.version == 1
    assert trained.metrics["top1"].low > 0.4
    assert trained.metrics["top1"].low <= trained.metrics["top1"].value
    assert trained.images["in all"] == 300
    truth = pd.read_parquet(pictures.parent / "truth" / "truth.parquet")
    assert sum(trained.quarantine.values()) == (truth["broken"] != "").sum() > 0
    folder = own_workspace / "models" / "shop"
    assert (folder / "champion").read_text().strip() == "1"
    assert {p.name for p in (folder / "1").iterdir()} >= {
        "manifest.json",
        "gate.json",
        "card.md",
        "model",
        "report.html",
    }
    events = [json.loads(line)["event"] for line in (folder / "events.jsonl").open()]
    assert events == ["registered", "blessed", "promoted"]


def test_the_report_is_one_file_without_network(trained):
    page = Path(trained.report).read_text()
    assert "Promoted: shop version 1" in page
    assert 'src="http' not in page
    assert 'href="http' not in page


def test_json_holds_what_a_machine_needs(trained):
    found = json.loads(json.dumps(trained.to_json()))
    assert set(found) >= {
        "run",
        "dataset",
        "model",
        "metrics",
        "gate",
        "seconds",
        "report",
        "verdict",
    }
    assert {check["check"] for check in found["gate"]["checks"]}


def test_running_again_is_free_and_comes_to_the_same(
    trained, trained_home, pictures, monkeypatch
):
    monkeypatch.setenv("SIGHTLINE_HOME", str(trained_home[0]))
    again = run_train(small_config(pictures))
    assert again == trained_home[1]


def test_other_limits_make_another_version_of_the_same_weights(
    trained, pictures, own_workspace
):
    strict = GateSettings(floor_top1=0.999)
    result = run_train(small_config(pictures, gate=strict))
    assert result.verdict != Verdict.PASS
    assert result.exit_code == 4
    assert result.model.version == 2
    assert not result.promoted
    assert (own_workspace / "models" / "shop" / "champion").read_text().strip() == "1"


def test_a_gate_may_attack_candidate_and_champion(trained, pictures):
    check = {"check": "adversarial", "steps": 2, "images": 24, "blocks": "no"}
    result = run_train(small_config(pictures, gate=GateSettings(checks=(check,))))
    (row,) = [c for c in result.gate.checks if c.check == "adversarial: pgd"]
    assert (row.n, row.value) == (24, 0)  # the same weights, the same attack
    assert row.verdict == Verdict.INCONCLUSIVE
    assert "Top-1 there is" in row.detail


def test_a_worse_version_is_registered_rejected_and_exits_4(trained, pictures):
    weak = TRAIN.model_copy(update={"epochs": 1, "learning_rate": 1e-6})
    result = run_train(small_config(pictures, train=weak))
    assert result.exit_code == 4
    assert result.verdict == Verdict.FAIL
    assert result.gate.champion == 1
    assert "Rejected: shop version 2; version 1 stays champion" in result.text()
    assert any("broken" in check.detail for check in result.gate.checks)
    with pytest.raises(GateError, match=r"not blessed|rejected"):
        versions.promote(versions.PromoteConfig(name="shop", version=2))


def test_an_update_brings_an_era_a_class_and_two_gates(trained, more_pictures):
    result = run_update(
        UpdateConfig(
            name="shop",
            data=str(more_pictures),
            train=TRAIN.model_copy(update={"epochs": 5}),
        )
    )
    assert result.model.version == 2
    assert result.gate.champion == 1
    names = {check.check.split(":")[0] for check in result.gate.checks}
    assert names == {"old", "new", "test images"}
    dataset = Dataset(result.dataset)
    assert dataset.names("label_names") == ["bottle", "lamp", "mug", "chair"]
    assert sorted(set(dataset.column("era"))) == [0, 1]
    (drift,) = [report for report in result.contracts if report.contract == "drift"]
    assert drift.n_rows < dataset.n
    (classes,) = [r for r in drift.rules if r.rule.startswith("classes")]
    assert (classes.verdict, classes.limit > 0) == ("warn", True)
    assert "chair: 0.0% before" in classes.observed
    old = Dataset(trained.dataset.model_copy(update={"uri": result.dataset.uri}))
    np.testing.assert_array_equal(dataset.column("use")[: old.n], old.column("use"))
    manifest = json.loads((Path(result.model.uri) / "manifest.json").read_text())
    assert manifest["classes"][:3] == ["bottle", "lamp", "mug"]
    hierarchy = Predictor.load(Path(result.model.uri) / "model").meta["hierarchy"]
    assert len(hierarchy["of"]) == len(manifest["classes"])
    assert result.metrics["coarse_top1"].value >= result.metrics["top1"].value


def test_an_update_with_known_images_does_nothing(trained, pictures):
    result = run_update(UpdateConfig(name="shop", data=str(pictures)))
    assert isinstance(result, NothingNew)
    assert result.exit_code == 0
    assert "Nothing new" in result.text()


def test_an_update_wants_a_champion(own_workspace, pictures):
    with pytest.raises(UsageError, match="no champion"):
        run_update(UpdateConfig(name="nobody", data=str(pictures)))


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_predictions_name_class_probability_and_version(
    trained, tmp_path, pictures, ending
):
    import pandas as pd

    folder = tmp_path / "new"
    source = pictures.parent / "images" / "mug"
    for i, path in enumerate(sorted(source.iterdir())[:5]):
        folder.mkdir(exist_ok=True)
        shutil.copy(path, folder / f"{i}.jpg")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    out = tmp_path / f"answers.{ending}"
    result = run_predict(PredictConfig(name="shop", data=str(folder), out=str(out)))
    assert (result.labelled, result.unread) == (5, 1)
    frame = pd.read_parquet(out) if ending == "parquet" else pd.read_csv(out)
    assert set(frame["class"].dropna()) <= {"mug", "bottle", "lamp"}
    assert frame["probability"].dropna().between(0, 1).all()
    assert frame["coarse"].notna().sum() == 5
    assert (frame["coarse_probability"] >= frame["probability"] - 1e-6).sum() == 5
    assert (frame["model_version"] == 1).all()
    assert frame.set_index("path").loc["broken.jpg", "problem"].startswith("truncated")


@pytest.mark.parametrize(("harden", "asked"), [({}, 1), ({"views": 3}, 3)])
def test_a_named_version_answers_one_image_in_a_batch_of_its_own(
    trained, tmp_path, pictures, monkeypatch, harden, asked
):
    from tasks import inference

    (tmp_path / "new").mkdir()
    source = next(iter((pictures.parent / "images" / "mug").iterdir()))
    shutil.copy(source, tmp_path / "new")
    widths, usual = [], inference.padded
    monkeypatch.setattr(
        inference, "padded", lambda batch, n: widths.append(n) or usual(batch, n)
    )
    result = run_predict(
        PredictConfig(
            name="shop@1",
            data=str(tmp_path / "new"),
            out=str(tmp_path / "answers.csv"),
            harden=harden,
        )
    )
    assert (result.model.version, result.labelled) == (1, 1)
    many = inference.devices().size
    assert widths == [-(-asked // many) * many]


def test_predicting_sees_the_pixels_that_training_saw(trained, tmp_path, pictures):
    from tasks.decode import DecodeSettings
    from tasks.listing import SourceSettings
    from tasks.predict import decode_block, seen_as_trained
    from tasks.sources import list_source

    dataset = Dataset(trained.dataset)
    listing = list_source(str(pictures), settings=SourceSettings())
    seen, _ = decode_block(listing, range(len(listing)), DecodeSettings(image_size=32))
    meta = {"denoise": dataset.attributes["lineage"][2]["settings"]}
    kept = dataset.column("keep")
    np.testing.assert_array_equal(
        seen_as_trained(seen, meta)[kept], dataset.images[:][kept]
    )


def test_rollback_goes_back_to_the_last_champion(trained, pictures, own_workspace):
    from models import registry

    root = own_workspace / "models"
    lax = GateSettings(margin=0.9, margin_macro_f1=0.9, margin_brier=1.9)
    result = run_train(small_config(pictures, gate=lax))
    assert result.promoted
    assert registry.champion(root, "shop").version == 2
    reply = versions.roll_back(versions.RollbackConfig(name="shop", why="a test"))
    assert "version 1 is champion again" in reply.text()
    assert registry.champion(root, "shop").version == 1
    assert run_train(small_config(pictures, gate=lax)).model.version == 2
    assert registry.champion(root, "shop").version == 1, "what a person undid stays"


def test_listing_and_showing_versions(trained):
    listed = versions.list_versions(versions.ListConfig())
    assert "shop" in listed.text()
    assert listed.to_json()["versions"][0]["status"] == "blessed"
    shown = versions.show(versions.ShowConfig(name="shop"))
    assert "promoted by" in shown.text()


def test_one_class_is_refused_before_training(tmp_path, own_workspace):
    root = write_folders(tmp_path / "in", only=20)
    with pytest.raises(ContractError, match="class"):
        run_train(small_config(root))
    assert not (own_workspace / "runs").exists()
    assert not (own_workspace / "models").exists()


def test_one_image_per_class_is_refused(tmp_path):
    root = write_folders(tmp_path / "in", **{f"c{i}": 1 for i in range(12)})
    with pytest.raises(ContractError, match="test"):
        run_train(small_config(root))


def test_mostly_broken_files_are_refused_by_name(tmp_path):
    root = write_folders(tmp_path / "in", a=8, b=8)
    for i in range(9):
        (root / "a" / f"bad{i}.jpg").write_bytes(b"\xff\xd8\xff nothing")
    with pytest.raises(ContractError, match=r"bad0\.jpg") as caught:
        run_train(small_config(root))
    assert caught.value.exit_code == 3


def test_a_test_class_never_trained_is_left_out_and_said(tmp_path, own_workspace):
    root = write_folders(tmp_path / "in" / "train", a=30, b=30)
    write_folders(tmp_path / "in" / "test", a=12, b=12, c=5)
    result = run_train(
        small_config(root.parent, train=TRAIN.model_copy(update={"epochs": 1}))
    )
    assert any("c has no training image: its 5 images" in note for note in result.notes)
    assert result.metrics["top1"].n == 24


def test_a_name_that_is_no_name_is_refused():
    with pytest.raises(UsageError, match="name="):
        run_train(TrainConfig(data="x", name="../evil"))


def test_suspects_of_a_run_go_to_a_person_and_come_back(
    trained, own_workspace, tmp_path
):
    out = tmp_path / "suspects.csv"
    uri = str(own_workspace / "datasets" / "shop")
    reply = datasets.review(datasets.ReviewConfig(uri=uri, out=str(out)))
    assert str(reply.values["rows"]) in reply.words
    lines = out.read_text().splitlines()
    assert len(lines) == reply.values["rows"] + 1
    assert lines[0].startswith("path,sha256,split,given,suggested,score,verdict,label")
    with pytest.raises(UsageError, match="cannot be read"):
        run_train(small_config(out, audit=AuditSettings(review="nowhere.csv")))


def test_decisions_of_a_person_alone_are_worth_an_update(
    trained, pictures, own_workspace, tmp_path
):
    dataset = Dataset(trained.dataset)
    row = np.flatnonzero(dataset.column("use") == 0)[0]
    names = dataset.names("label_names")
    other = names[(dataset.column("label")[row] + 1) % len(names)]
    path, sha256 = (dataset.column(name)[row] for name in ("path", "sha256"))
    sheet = tmp_path / "decided.csv"
    sheet.write_text(f"path,sha256,label,who,when\n{path},{sha256},{other},Ann,today\n")
    config = UpdateConfig(
        name="shop",
        data=str(pictures),
        review=str(sheet),
        train=TRAIN.model_copy(update={"epochs": 3}),
        gate=GateSettings(margin=0.5, margin_macro_f1=0.5, margin_brier=0.5),
    )
    result = run_update(config)
    assert result.model.version == 2
    later = Dataset(result.dataset)
    assert later.names("label_names")[later.column("target")[row]] == other
    assert later.column("reviewer")[row] == "Ann"
    assert result.promoted
    assert isinstance(run_update(config), NothingNew)
