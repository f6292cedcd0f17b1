"""Checkpoints within an epoch: what is read, kept and reported after a resume."""

import dataclasses
import json

import numpy as np
import pytest

from models.order import epoch_groups, groups_after
from tests.models.cuts import cut_within
from tests.models.test_fit import SETTINGS, SOURCE, bits, metrics, read, run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return run(folder), folder


@pytest.mark.parametrize("resident", [True, False], ids=["memory", "stream"])
def test_a_run_cut_within_an_epoch_ends_in_the_same_bits(
    whole, tmp_path, monkeypatch, resident
):
    source, asked = dataclasses.replace(SOURCE, resident=resident), []
    cut_within(
        monkeypatch,
        lambda settings: run(tmp_path, source=source, settings=settings),
        settings=SETTINGS,
        at=(2, 3),
    )
    assert names(tmp_path) == ["1", "2", "2.3"]

    def watched(rows):
        asked.append(rows)
        return read(rows)

    then = run(tmp_path, source=dataclasses.replace(source, read=watched))
    assert then.resumed_from == 2
    assert bits(then) == bits(whole[0])
    assert metrics(tmp_path) == metrics(whole[1])
    assert "2.3" not in names(tmp_path)
    if not resident:  # three of five steps are done, so the first of three groups is
        order = {"chunk": 8, "group": 2, "seed": 0}
        groups = epoch_groups(SOURCE.train_rows, epoch=2, **order)
        later = groups_after(groups, 45)
        assert len(later) < len(groups)
        np.testing.assert_array_equal(asked[0], np.sort(later[0]))


def test_a_first_epoch_that_is_cut_goes_on_too(whole, tmp_path, monkeypatch):
    cut_within(
        monkeypatch,
        lambda settings: run(tmp_path, settings=settings),
        settings=SETTINGS,
        at=(0, 4),
    )
    assert names(tmp_path) == ["0.4"]
    assert bits(run(tmp_path)) == bits(whole[0])


def test_a_damaged_checkpoint_within_an_epoch_costs_its_steps_only(
    whole, tmp_path, monkeypatch
):
    cut_within(
        monkeypatch,
        lambda settings: run(tmp_path, settings=settings),
        settings=SETTINGS,
        at=(1, 2),
    )
    (tmp_path / "checkpoints" / "1.2" / "memory.json").write_text("{")
    then = run(tmp_path)
    assert "skipped checkpoint 1.2" in then.notes[0]
    assert then.resumed_from == 1
    assert bits(then) == bits(whole[0])


def test_the_seconds_of_an_epoch_count_those_before_the_cut(tmp_path, monkeypatch):
    cut_within(
        monkeypatch,
        lambda settings: run(tmp_path, settings=settings),
        settings=SETTINGS,
        at=(1, 3),
    )
    path = tmp_path / "checkpoints" / "1.3" / "memory.json"
    memory = json.loads(path.read_text())
    memory["within"]["seconds"] += 600
    path.write_text(json.dumps(memory))
    line = run(tmp_path).history[1]
    assert 600 < line["seconds"] < 700
    assert line["images_per_second"] < 1


def test_groups_already_trained_on_are_not_read():
    groups = [np.arange(4), np.arange(4, 6), np.arange(6, 9)]
    assert [len(groups_after(groups, done)) for done in (0, 3, 4, 6, 8)] == [
        3,
        3,
        2,
        1,
        1,
    ]


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())
