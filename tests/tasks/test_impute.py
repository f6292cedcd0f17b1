"""Filling labels: by neighbours or self-training, of training images alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

import tasks.fill
from data_contracts.references import DatasetRef
from data_contracts.store import Dataset
from tasks.clean import CleanSettings, clean_dataset
from tasks.embed import EmbedSettings
from tasks.fill import vote
from tasks.impute import impute_dataset, open_rows, predict_labels
from tasks.impute_settings import ImputeSettings
from tasks.split import SplitSettings, split_dataset
from tasks.stage import Build, run_stage
from tests.datasets import NoSettings, make_dataset

N = 24


def embedded(root: Path, embeddings: np.ndarray, **given: object) -> DatasetRef:
    """Return a dataset after `split`, with these embeddings."""
    source = make_dataset(root, len(embeddings), **given)
    source = split_dataset(clean_dataset(source, CleanSettings()), SplitSettings(val=0))

    def build(build: Build) -> None:
        out = build.writer.allocate_embeddings(
            len(embeddings), width=embeddings.shape[1]
        )
        out[:] = embeddings.astype(np.float32)

    return run_stage(
        "embed",
        build,
        uri=source.uri,
        parent=source,
        version=1,
        settings=NoSettings(),
        inputs=str(root),
    )


def imputed(source: DatasetRef, **settings: object) -> Dataset:
    return Dataset(
        impute_dataset(
            source,
            ImputeSettings(**settings),
            encoder=EmbedSettings(),
            split=source,
            name="toy",
            runs="",
            champion=None,
        )
    )


def two_heaps(n: int = N) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings in two tight heaps, and the heap of each."""
    rng = np.random.default_rng(0)
    heap = np.arange(n) % 2
    return np.eye(2)[heap] + rng.normal(0, 0.05, (n, 2)), heap


def test_neighbours_fill_the_labels_of_training_images(tmp_path: Path):
    embeddings, heap = two_heaps()
    label = heap.copy()
    hidden = np.array([3, 8, 9])
    label[hidden] = -1
    found = imputed(
        embedded(tmp_path, embeddings, label=label, split=np.zeros(N, int)),
        labels="neighbours",
        voters=5,
        filled_weight=0.5,
    )
    assert np.array_equal(found.column("target"), heap)
    assert np.array_equal(found.column("label"), label)
    assert np.flatnonzero(found.column("imputed") == "neighbours").tolist() == [3, 8, 9]
    assert (found.column("use")[hidden] == 0).all()
    assert found.column("keep")[hidden].all()
    assert (found.column("reason")[hidden] == "").all()
    assert (found.column("weight")[hidden] == 0.5).all()
    assert (np.delete(found.column("weight"), hidden) == 1).all()


def test_where_neighbours_disagree_the_image_is_left_out(tmp_path: Path):
    _, heap = two_heaps()
    label = heap * (np.arange(N) // 2 % 2)  # the second heap holds both labels
    label[[3, 8]] = -1
    source = embedded(tmp_path, np.eye(2)[heap], label=label, split=np.zeros(N, int))
    found = imputed(source, labels="neighbours")
    assert found.column("target")[[3, 8]].tolist() == [-1, 0]
    assert found.column("use")[[3, 8]].tolist() == [-1, 0]
    assert found.column("reason")[3] == "no-label"
    assert 0 < found.column("imputed_sure")[3] < 0.6
    assert found.column("imputed_sure")[8] > 0.95


@pytest.mark.parametrize("split", [1, 2, 3])
def test_only_training_images_are_filled(tmp_path: Path, split: int):
    embeddings, heap = two_heaps()
    label, given_split = heap.copy(), np.zeros(N, int)
    label[[3, 8]] = -1
    given_split[[3, 4]] = split
    found = imputed(
        embedded(tmp_path, embeddings, label=label, split=given_split),
        labels="neighbours",
        voters=3,
    )
    assert found.column("target")[[3, 8]].tolist() == [-1, 0]
    assert found.column("use")[3] == -1
    assert not found.column("keep")[3]


def test_test_and_validation_images_do_not_vote(tmp_path: Path):
    embeddings, heap = two_heaps()
    # All of the second heap is test, and of class c, but for the image asked about and
    # one to learn from.
    label, split = 2 * heap, 2 * heap
    label[[1, 3]], split[[1, 3]] = (1, -1), 0
    source = embedded(tmp_path, embeddings, label=label, split=split, names="abc")
    found = imputed(source, labels="neighbours", voters=3, min_agreement=0.01)
    assert np.flatnonzero(found.column("imputed_sure")).tolist() == [3]
    assert found.column("target")[3] == 1


def test_a_look_alike_of_a_labelled_image_is_not_filled():
    reason = ["", "no-label", "no-label", "no-label", "no-label", "", "blank"]
    columns = {
        "reason": np.array(reason, object),
        "split": np.full(7, -1),
        "label": np.array([0, -1, -1, -1, -1, 0, -1]),
        "group": np.array([0, 0, 2, 2, 4, 4, 6]),
    }
    assert open_rows(columns).tolist() == [2]


def test_unlabelled_look_alikes_take_no_label_and_no_place(tmp_path: Path):
    sha = np.array([f"{i:064x}" for i in range(12)], object)
    sha[[1, 5, 7]] = sha[1]
    label = np.zeros(12, int)
    label[1] = -1  # the first of three copies
    found = Dataset(
        clean_dataset(
            make_dataset(tmp_path, 12, sha256=sha, label=label), CleanSettings()
        )
    )
    assert found.column("group")[[1, 5, 7]].tolist() == [1, 1, 1]
    assert found.column("keep")[[1, 5, 7]].tolist() == [False, True, False]
    assert found.column("reason")[[1, 5, 7]].tolist() == [
        *("no-label", "", "exact-duplicate")
    ]


class SureOfSome:
    """Stands for a network that knows the classes b and a."""

    classes = ("b", "a")

    def __call__(self, images: np.ndarray) -> np.ndarray:
        sure = images[:, 0, 0, 0] / 255
        return np.stack([sure, 1 - sure], axis=1)


def test_self_training_takes_the_networks_answers_by_name(tmp_path: Path):
    images = np.zeros((12, 16, 16, 3), np.uint8)
    images[3], images[4] = 255, 102
    dataset = Dataset(make_dataset(tmp_path, 12, images=images))
    labels, sure = predict_labels(dataset, np.array([3, 4, 5]), SureOfSome())
    assert labels.tolist() == [1, 0, 0]  # a is 0, b is 1
    assert sure == pytest.approx([1, 0.6, 1])


def test_the_same_settings_fill_the_same_snapshot(tmp_path: Path):
    embeddings, heap = two_heaps()
    heap[3] = -1
    source = embedded(tmp_path, embeddings, label=heap)
    first = imputed(source, labels="neighbours").ref
    assert imputed(source, labels="neighbours").ref == first
    assert imputed(source, labels="neighbours", voters=3).ref != first


@pytest.mark.parametrize("cells", [1, 4, 1 << 24])
def test_near_votes_count_more(monkeypatch, cells):
    monkeypatch.setattr(tasks.fill, "CELLS", cells)
    monkeypatch.setattr(tasks.fill, "SHARPNESS", 2)
    codes = np.array([[0, 1, 1], [2, 2, 0]])
    cosines = np.sqrt([[0.9, 0.3, 0.3]] * 2)
    answer, share = vote(codes, cosines, count=3)
    assert answer.tolist() == [0, 2]
    assert share == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"domain": "constant"}, "domain_value"),
        ({"tags": "constant", "tags_value": ()}, "tags_value"),
        ({"numbers_value": 3.0}, "numbers=constant"),
        ({"text": "mode", "text_value": "x"}, "constant"),
        ({"labels": "guess"}, "neighbours"),
        ({"numbers": "constant", "numbers_value": float("nan")}, "finite"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        ImputeSettings(**settings)


def test_the_stage_runs_only_where_something_is_to_be_filled():
    assert not ImputeSettings(voters=3).asked
    assert ImputeSettings(text="mode").asked
    assert not ImputeSettings(text="mode").by_embeddings
    assert ImputeSettings(tags="neighbours").by_embeddings
    assert ImputeSettings(labels="neighbours").by_embeddings
    assert not ImputeSettings(labels="keep").by_embeddings
