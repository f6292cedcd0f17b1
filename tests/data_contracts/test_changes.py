"""What differs between two snapshots, as the store recorded it."""

import numpy as np
import pytest

from data_contracts import store
from data_contracts.changes import changes_between
from data_contracts.store import Dataset
from tests.datasets import make_dataset, make_era, rewrite


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(store, "COLUMN_CHUNK", 4)


def changes(one, other):
    return changes_between(one.uri, one.snapshot, other.snapshot)


def test_growth_touches_the_last_chunks_alone(tmp_path):
    first = make_dataset(tmp_path, 8)
    later = make_era(first, 6)
    for name in ("mean", "path", "label"):
        assert [changes(first, later).touched(name, i) for i in range(4)] == [
            *(False, False, True, True)
        ]
    assert Dataset(later).n == 14


def test_a_chunk_that_grows_is_written_whole(tmp_path):
    first = make_dataset(tmp_path, 6, mean=np.arange(6.0))
    later = make_era(first, 1, mean=np.array([9], np.float32))
    assert changes(first, later).touched("mean", 1)
    assert Dataset(later).column("mean").tolist() == [0, 1, 2, 3, 4, 5, 9]


def test_a_column_written_anew_with_the_same_values_is_no_change(tmp_path):
    first = make_dataset(tmp_path, 8)
    mean = Dataset(first).column("mean")
    mean[5] = 7
    other = rewrite(first, "clean", mean=mean, path=Dataset(first).column("path"))
    assert [changes(first, other).touched("mean", i) for i in (0, 1)] == [False, True]
    assert not changes(first, other).touched("path", 0)
    assert Dataset(other).column("mean").tolist() == mean.tolist()
    assert Dataset(first).column("mean")[5] == 128, "the parent stays as it was"


def test_a_column_that_widens_is_laid_out_anew(tmp_path):
    first = make_dataset(tmp_path, 8, numbers=np.full((8, 1), np.nan, np.float32))
    same = rewrite(first, "same", numbers=np.full((8, 1), np.nan, np.float32))
    assert not changes(first, same).touched("numbers", 0)
    wide = np.arange(16, dtype=np.float32).reshape(8, 2)
    other = rewrite(first, "wide", numbers=wide)
    assert changes(first, other).touched("numbers", 1)
    np.testing.assert_array_equal(Dataset(other).column("numbers"), wide)


def test_a_new_column_is_touched_throughout(tmp_path):
    first = make_dataset(tmp_path, 8)
    other = rewrite(first, "clean", keep=np.ones(8, bool))
    assert changes(first, other).touched("keep", 1)


def test_two_branches_differ_by_what_each_wrote(tmp_path):
    first = make_dataset(tmp_path, 8)
    mean, std = (Dataset(first).column(name) for name in ("mean", "std"))
    mean[0], std[7] = 1, 1
    one, other = rewrite(first, "a", mean=mean), rewrite(first, "b", std=std)
    both = changes(one, other)
    assert (both.touched("mean", 0), both.touched("std", 1)) == (True, True)
    assert (both.touched("mean", 1), both.touched("std", 0)) == (False, False)
    assert not changes(one, one).touched("mean", 0)
