"""Ids of labels last for ever; coarse classes and tags are encoded over them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_contracts.references import DatasetRef
from data_contracts.store import Dataset
from tasks.annotate import extend_names
from tasks.clean import CleanSettings, clean_dataset
from tasks.decode import DecodeSettings
from tasks.evaluate import coarse_top1
from tasks.evaluation import EvaluateSettings
from tasks.ingest import IngestSettings, ingest_dataset
from tasks.labels import hierarchy_of, multi_hot, roll_up, tag_classes
from tasks.lessons import class_ids
from tasks.split import SplitSettings, split_dataset
from tests.datasets import make_dataset
from tests.tasks.pictures import write


def manifest(root: Path, rows: list[tuple[str, str, str]]) -> Path:
    """Write a manifest of (label, coarse label, tags), one picture a row."""
    lines = ["path,label,coarse_label,tags"]
    for i, cells in enumerate(rows):
        write(root / f"{i}.png", seed=crc32(f"{root.name}/{i}".encode()))
        lines.append(",".join([f"{i}.png", *cells]))
    (root / "manifest.csv").write_text("\n".join(lines))
    return root


def ingested(place: Path, uri: Path, *, parent: DatasetRef | None = None) -> DatasetRef:
    settings = IngestSettings(decode=DecodeSettings(image_size=16))
    return ingest_dataset(str(place), settings, uri=str(uri), parent=parent)


def said(found: Dataset, era: int) -> list[str]:
    names = np.array(found.names("label_names"), object)
    return names[found.column("label")[found.column("era") == era]].tolist()


def test_a_class_keeps_its_id_for_ever(tmp_path: Path):
    first = manifest(tmp_path / "1", [("pear", "fruit", "a"), ("leek", "green", "b")])
    # Another order, a class that vanished, two that are new.
    second = manifest(
        tmp_path / "2",
        [("apple", "fruit", "c"), ("leek", "root", "b"), ("beet", "root", "a")],
    )
    third = manifest(tmp_path / "3", [("pear", "fruit", "d"), ("apple", "fruit", "")])
    ref = ingested(first, tmp_path / "set")
    eras = [Dataset(ref)]
    for place in (second, third):
        ref = ingested(place, tmp_path / "set", parent=ref)
        eras.append(Dataset(ref))
    for kind in ("label_names", "coarse_names", "tag_names"):
        lists = [era.names(kind) for era in eras]
        for before, after in pairwise(lists):
            assert after[: len(before)] == before
    assert eras[-1].names("label_names") == ["leek", "pear", "apple", "beet"]
    assert eras[-1].names("tag_names") == ["a", "b", "c", "d"]
    assert said(eras[-1], 0) == ["pear", "leek"]
    assert said(eras[-1], 1) == ["apple", "leek", "beet"]
    assert said(eras[-1], 2) == ["pear", "apple"]


def test_a_class_that_vanishes_from_its_source_keeps_its_id(tmp_path: Path):
    place = manifest(tmp_path / "in", [("b", "", ""), ("c", "", "")])
    ingested(place, tmp_path / "set")
    manifest(place, [("c", "", ""), ("a", "", "")])
    found = Dataset(ingested(place, tmp_path / "set"))
    assert found.names("label_names") == ["b", "c", "a"]
    assert said(found, 0)[-2:] == ["c", "a"]


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=6), max_size=6))
def test_lists_of_names_only_grow(brought):
    names: list[str] = []
    for more in brought:
        grown = extend_names(names, more)
        assert grown[: len(names)] == names
        assert len(set(grown)) == len(grown)
        assert set(more) <= set(grown)
        names = grown


def test_a_model_keeps_its_classes_first(tmp_path: Path):
    label = np.array([2, 0, 3, 1, 0, 3])
    dataset = Dataset(make_dataset(tmp_path, 6, names="abcd", label=label))
    rows = np.arange(6)
    assert class_ids(dataset, rows, known=[]) == [0, 1, 2, 3]
    # The champion knew c and a; a class that is not taught any more stays, too.
    assert class_ids(dataset, rows, known=["c", "a"]) == [2, 0, 1, 3]
    assert class_ids(dataset, rows[[1, 2]], known=["c", "a"]) == [2, 0, 3]


def test_logits_of_old_classes_stay_at_their_place():
    from models.warm_start import warm_start

    rng = np.random.default_rng(0)

    def head(num_classes: int) -> dict[str, np.ndarray]:
        return {
            "kernel": rng.normal(size=(7, num_classes)),
            "bias": np.ones(num_classes),
        }

    old, fresh, features = head(2), head(4), rng.normal(size=(5, 7))
    grown = warm_start(fresh, old)
    logits = features @ grown["kernel"] + grown["bias"]
    assert logits[:, :2] == pytest.approx(features @ old["kernel"] + old["bias"])
    assert np.array_equal(grown["kernel"][:, 2:], fresh["kernel"][:, 2:])


def grouped(tmp_path: Path, **given: object) -> Dataset:
    """Classes a, b, c, d; coarse classes x (a, b) and y (c); d belongs to none."""
    label = np.arange(24) % 4
    coarse = np.array([0, 0, 1, -1])[label]
    coarse[4] = 1  # one a of six says y
    given = {"names": "abcd", "label": label, "coarse": coarse} | given
    source = clean_dataset(make_dataset(tmp_path, 24, **given), CleanSettings())
    source = split_dataset(source, SplitSettings(val=0, test=0.01))
    return _with_names(source, coarse_names=["x", "y"], tag_names=["p", "q", "r"])


def _with_names(source: DatasetRef, **names: list[str]) -> Dataset:
    from tasks.stage import run_stage
    from tests.datasets import NoSettings

    return Dataset(
        run_stage(
            "name",
            lambda build: build.writer.annotate(**names),
            uri=source.uri,
            parent=source,
            version=1,
            settings=NoSettings(),
        )
    )


def test_the_hierarchy_follows_most_training_images(tmp_path: Path):
    found = hierarchy_of(grouped(tmp_path), [2, 0, 3, 1])
    assert found == {"names": ["x", "y"], "of": [1, 0, -1, 0]}


def test_without_coarse_labels_there_is_no_hierarchy(tmp_path: Path):
    assert hierarchy_of(grouped(tmp_path, coarse=np.full(24, -1)), [0, 1]) is None


def test_coarse_probabilities_are_sums_over_their_classes():
    hierarchy = {"names": ["x", "y"], "of": [1, 0, -1, 0]}
    probs = np.array([[0.4, 0.3, 0.1, 0.2]], np.float32)
    assert roll_up(probs, hierarchy)[0] == pytest.approx([0.5, 0.4])
    # y has the best class, x the best sum; the third image has no coarse label.
    share = coarse_top1(
        np.repeat(probs, 3, axis=0),
        np.array([0, 1, -1]),
        hierarchy,
        groups=np.array([5, 6, 7]),
        settings=EvaluateSettings(),
    )
    assert (share.value, share.n) == (0.5, 2)


def test_tags_become_columns_that_last(tmp_path: Path):
    dataset = grouped(
        tmp_path,
        tag_ids=np.array([1, 0, 1, 2]),
        tag_offsets=np.array([0, 1, 3, 3, 4, *[4] * 21]),
    )
    rows = np.array([1, 0, 2, 1])
    assert tag_classes(dataset, rows) == ["p", "q"]
    assert tag_classes(dataset, rows, min_count=3) == ["q"]
    names = tag_classes(dataset, np.arange(24), known=["gone", "q"])
    assert names == ["gone", "q", "p", "r"]
    hot, others = multi_hot(dataset, rows, names[:3])
    assert hot.tolist() == [
        [False, True, True],
        [False, True, False],
        [False, False, False],
        [False, True, True],
    ]
    assert others.tolist() == [0, 0, 0, 0]
    hot, others = multi_hot(dataset, np.array([3, 1]), ["q"])
    assert hot.tolist() == [[False], [True]]
    assert others.tolist() == [1, 1]


def test_a_dataset_without_tags_has_empty_columns(tmp_path: Path):
    dataset = grouped(tmp_path)
    assert tag_classes(dataset, np.arange(24)) == []
    hot, others = multi_hot(dataset, np.arange(24), ["q"])
    assert hot.shape == (24, 1)
    assert not hot.any()
    assert not others.any()
