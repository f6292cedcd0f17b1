"""`sightline evaluate`: any version, on its test split or on images given."""

import json
from pathlib import Path

import pytest

from data_contracts.errors import ContractError, UsageError
from data_contracts.references import Verdict
from flows import workspace
from flows.evaluate import EvaluateConfig, run
from tasks.gate_machine import infrastructure, latency
from tasks.gate_settings import Latency
from tasks.measure import SlicedSettings, measure_version
from tasks.version_images import own_dataset
from tests.tasks.pictures import write, write_folders

QUICK = SlicedSettings(draws=100)


def evaluated(**given):
    return run(EvaluateConfig(**({"name": "shop", "evaluate": QUICK} | given)))


def test_the_champion_scores_on_its_own_test_split_what_its_gate_saw(trained):
    result = evaluated()
    found = result.measured.found
    assert found.figures["top1"].value == pytest.approx(trained.metrics["top1"].value)
    assert found.figures["nll"].value == pytest.approx(trained.metrics["nll"].value)
    assert result.measured.data == "its own test split"
    assert found.agreement is None
    page = Path(result.report)
    assert "shop, version 1" in page.read_text()
    assert page.parent.parent == workspace.evaluations_root()
    assert page.parent.name.startswith("shop-1-")
    kept = json.loads((page.parent / "evaluation.json").read_text())
    assert kept["found"]["n"] == found.n
    assert kept["settings"]["draws"] == QUICK.draws
    assert "top-1" in result.text()
    json.dumps(result.to_json())


def test_new_images_are_measured_by_slices_of_any_column(trained, pictures):
    wanted = SlicedSettings(draws=100, slices=("size", "label", "bytes"), slice_bins=3)
    result = evaluated(name="shop@1", data=str(pictures), evaluate=wanted)
    found = result.measured.found
    assert found.n > 200
    assert found.figures["top1"].value > 0.6
    assert any("trained or tuned on" in said for said in result.measured.warnings)
    assert [row.name for row in found.slices["label"]] == ["bottle", "lamp", "mug"]
    assert [row.top1.n for row in found.slices["bytes"]] == pytest.approx(
        [found.n / 3] * 3, abs=4
    )


def test_a_rival_that_has_seen_the_images_is_said_to_look_too_good(trained, tmp_path):
    measured = measure_version(
        own_dataset(trained.model).ref,
        trained.model,
        QUICK,
        own=False,
        place="all its images",
        rival=trained.model,
        folder=str(tmp_path),
    )
    assert len(measured.warnings) == 2
    assert "the figures flatter it" in measured.warnings[0]
    assert "looks better than it is" in measured.warnings[1]


def test_classes_that_it_never_learnt_are_left_out_and_said(trained, more_pictures):
    measured = evaluated(data=str(more_pictures)).measured
    assert measured.found.excluded > 10
    (said,) = measured.warnings
    assert "Never learnt" in said
    assert "chair" in said


def test_one_class_of_images_leaves_ranks_not_run(trained, tmp_path):
    found = evaluated(data=str(write_folders(tmp_path / "in", mug=12))).measured.found
    assert found.n == found.figures["macro_recall"].n
    assert "only one class" in found.not_run["roc_auc"]


def test_images_of_other_classes_alone_are_refused_in_words(trained, tmp_path):
    with pytest.raises(UsageError, match="none of the 1 classes of these images"):
        evaluated(data=str(write_folders(tmp_path / "in", only=12)))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "nobody"}, "no model is named"),
        ({"name": "shop@7"}, "no version 7"),
        ({"name": "shop@1", "version": 2}, "keep one"),
        ({"name": "shop@x"}, "a version follows @"),
        ({"evaluate": SlicedSettings(slices=("weather",))}, "no column 'weather'"),
    ],
)
def test_what_is_not_there_is_said(trained, given, said):
    with pytest.raises(UsageError, match=said):
        evaluated(**given)


def test_images_without_labels_cannot_be_evaluated_on(trained, tmp_path):
    for seed in range(9):
        write(tmp_path / "bare" / f"{seed}.png", seed=seed)
    with pytest.raises(ContractError, match="label"):
        evaluated(data=str(tmp_path / "bare"))


def test_a_trained_version_answers_alike_in_a_fresh_process_and_as_fast_as_itself(
    trained,
):
    folder = Path(trained.model.uri) / "model"
    found = infrastructure(folder)
    assert found.verdict == Verdict.PASS, found.detail
    rows = latency(Latency(limit=4, rounds=10), folder, folder, level=0.95)
    assert [row.check for row in rows] == ["latency: batch 1", "latency: batch 32"]
    for row in rows:
        assert row.verdict == Verdict.PASS, row.detail
        assert "compiled, took" in row.detail


def test_the_gate_records_what_it_rests_on_and_how_often_the_test_set_was_used(trained):
    gate = json.loads((Path(trained.model.uri) / "gate.json").read_text())
    evidence = gate["evidence"]
    assert evidence["test_set"]["used"] == 1
    assert evidence["test_set"]["images"] == trained.images["test"]
    for key in ("split", "checkpoint", "config", "lock_file", "versions", "dataset"):
        assert evidence[key], key
    assert evidence["champion_checkpoint"] is None
    assert "used 1 time," in gate["checks"][-1]["detail"]
    notes = evaluated().measured.found.notes
    assert any("used 2 times" in note for note in notes)
