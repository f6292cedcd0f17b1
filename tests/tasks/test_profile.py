"""What a snapshot holds, added up from chunks that are read once."""

import shutil

import numpy as np
import pytest

from data_contracts import store
from data_contracts.store import Dataset
from tasks import profile as profiling
from tasks.kept import folder_of
from tasks.profile import profile_dataset
from tests.datasets import make_dataset, make_era, rewrite


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(store, "COLUMN_CHUNK", 8)


@pytest.fixture
def reads(monkeypatch):
    """Every (chunk, columns) that is read."""
    seen = []
    measure = profiling.measure_chunk

    def spy(group, span, *, names, step):
        seen.append((span[0] // step, len(names)))
        return measure(group, span, names=names, step=step)

    monkeypatch.setattr(profiling, "measure_chunk", spy)
    return seen


def dataset(tmp_path, n=16):
    rng = np.random.default_rng(0)
    return make_dataset(tmp_path, n, mean=rng.uniform(1, 255, n))


def next_era(source, more):
    mean = np.random.default_rng(1).uniform(1, 255, more).astype(np.float32)
    return make_era(source, more, mean=mean)


def test_a_profile_holds_what_the_columns_hold(tmp_path):
    source = dataset(tmp_path)
    state = profile_dataset(source).columns()["mean"]
    mean = Dataset(source).column("mean")
    assert (state.count, state.low, state.high) == (16, mean.min(), mean.max())
    assert state.mean == pytest.approx(mean.mean())
    assert profile_dataset(source).columns()["label"].counts == {"0": 8, "1": 8}


def test_a_new_era_reads_its_own_chunks_alone(tmp_path, reads):
    first = dataset(tmp_path)
    profile_dataset(first)
    assert sorted(chunk for chunk, _ in reads) == [0, 1]
    reads.clear()
    later = next_era(first, 12)
    merged = profile_dataset(later)
    assert sorted(chunk for chunk, _ in reads) == [2, 3]
    assert merged.eras == [0, 1]
    assert merged.start_of(1) == 16


def test_merged_and_read_at_once_are_the_same(tmp_path):
    first = dataset(tmp_path, 13)
    profile_dataset(first)
    later = next_era(first, 12)
    merged = profile_dataset(later)
    for file in folder_of(later.uri).glob("profile-*"):
        file.unlink()
    assert profile_dataset(later) == merged
    assert merged.columns([0])["mean"].count == 13
    assert merged.columns([1])["mean"].count == 12


def test_only_a_column_that_was_written_is_read_again(tmp_path, reads):
    source = dataset(tmp_path)
    profile_dataset(source)
    reads.clear()
    mean = Dataset(source).column("mean")
    mean[9] = 250
    after = profile_dataset(rewrite(source, "clean", mean=mean))
    assert reads == [(1, 1)]
    assert after.columns()["mean"].total == pytest.approx(mean.sum())


def test_a_row_that_is_gone_no_longer_counts(tmp_path, reads):
    source = dataset(tmp_path)
    profile_dataset(source)
    reads.clear()
    present = np.ones(16, bool)
    present[3] = False
    after = profile_dataset(rewrite(source, "clean", present=present))
    assert after.columns()["mean"].count == 15
    assert [chunk for chunk, _ in reads] == [0]


def test_unreadable_files_count_for_nothing_but_that(tmp_path):
    ok = np.ones(16, bool)
    ok[:4] = False
    columns = profile_dataset(make_dataset(tmp_path, 16, ok=ok)).columns()
    assert columns["ok"].counts == {"False": 4, "True": 12}
    assert columns["mean"].count == 12


def test_a_broken_profile_is_made_again(tmp_path):
    source = dataset(tmp_path)
    good = profile_dataset(source)
    (file,) = folder_of(source.uri).glob("profile-*")
    file.write_text(file.read_text()[:100])
    assert profile_dataset(source) == good


def test_old_profiles_are_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.kept.NEWEST", 2)
    source = dataset(tmp_path)
    profile_dataset(source)
    for value in range(3):
        source = rewrite(source, "clean", mean=np.full(16, 9.0 + value))
        profile_dataset(source)
    assert len([*folder_of(source.uri).glob("profile-*")]) == 2


def test_what_was_known_of_a_replaced_dataset_is_left_alone(tmp_path):
    first = dataset(tmp_path, 16)
    profile_dataset(first)
    shutil.rmtree(first.uri)
    later = dataset(tmp_path, 12)
    assert len(list(folder_of(later.uri).glob("profile-*"))) == 1
    assert profile_dataset(later).columns()["mean"].count == 12
