import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_contracts.store import Dataset
from tasks.clean import CleanSettings, NearDuplicates, clean_dataset, count_reasons
from tasks.duplicates import exact_pairs, group_rows, near_pairs, same_colours
from tests.datasets import make_dataset


def cleaned(tmp_path, n=12, settings=None, **columns):
    ref = clean_dataset(
        make_dataset(tmp_path, n, **columns), settings or CleanSettings()
    )
    return ref, Dataset(ref).columns("keep", "reason", "remark", "group", "canonical")


def with_value(default, n=12, **at):
    values = np.full(n, default)
    for row, value in at.items():
        values[int(row[1:])] = value
    return values


@pytest.mark.parametrize(
    ("column", "values", "reason", "remark"),
    [
        ("std", with_value(50.0, _3=1.0), "blank", "grey levels vary by 1.0"),
        ("mean", with_value(99.0, _3=2.0), "dark", "mean grey level 2.0"),
        ("sharpness", with_value(99.0, _3=2.0), "blurred", "sharpness 2.0"),
        ("width", with_value(64, _3=8), "odd-sized", "8 x 64 pixels"),
        ("height", with_value(64, _3=640), "odd-sized", "64 x 640 pixels"),
        ("label", with_value(0, _3=-1), "no-label", "no label was given"),
        ("present", with_value(True, _3=False), "removed", "no longer holds it"),
        ("ok", with_value(True, _3=False), "undecodable", ""),
    ],
)
def test_a_flaw_is_dropped_and_named(tmp_path, column, values, reason, remark):
    ref, found = cleaned(tmp_path, **{column: values})
    assert list(np.flatnonzero(~found["keep"])) == [3]
    assert found["reason"][3] == reason
    assert remark in found["remark"][3]
    assert count_reasons(ref) == {reason: 1}


def test_nothing_is_dropped_from_sound_images(tmp_path):
    _, found = cleaned(tmp_path)
    assert found["keep"].all()
    assert (found["reason"] == "").all()


def repeated(n=12, first=2, later=7):
    sha = np.array([f"{i:064x}" for i in range(n)], object)
    sha[later] = sha[first]
    return sha


def test_an_exact_duplicate_is_dropped_for_its_first(tmp_path):
    label = np.zeros(12, int)
    _, found = cleaned(tmp_path, sha256=repeated(), label=label)
    assert list(np.flatnonzero(~found["keep"])) == [7]
    assert found["reason"][7] == "exact-duplicate"
    assert found["canonical"][7] == found["group"][7] == 2
    assert "002.png" in found["remark"][7]


def test_copies_with_two_labels_are_both_dropped(tmp_path):
    label = with_value(0, _7=1)
    _, found = cleaned(tmp_path, sha256=repeated(), label=label)
    assert list(np.flatnonzero(~found["keep"])) == [2, 7]
    assert (found["reason"][[2, 7]] == "conflicting-label").all()


def test_copies_in_two_given_splits_stay_and_are_counted(tmp_path):
    split = with_value(0, _7=2)
    ref, found = cleaned(
        tmp_path, sha256=repeated(), label=np.zeros(12, int), split=split
    )
    assert found["keep"].all()
    assert Dataset(ref).attributes["leaking_groups"] == 1


def test_a_given_test_split_is_flagged_not_dropped(tmp_path):
    given = {"std": with_value(50.0, _3=1.0), "split": np.full(12, 2)}
    _, found = cleaned(tmp_path, **given)
    assert found["keep"].all()
    assert found["reason"][3] == "blank"
    _, found = cleaned(tmp_path, settings=CleanSettings(clean_test=True), **given)
    assert not found["keep"][3]


def lookalikes():
    images = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), np.uint8)
    images[7] = np.clip(images[2].astype(int) + 3, 0, 255)
    phash = np.random.default_rng(1).integers(0, 2**63, 12).astype(np.uint64)
    phash[7] = phash[2] ^ np.uint64(0b1001)
    return {"images": images, "phash": phash, "label": np.zeros(12, int)}


def test_near_duplicates_are_grouped_or_dropped(tmp_path):
    _, found = cleaned(tmp_path, **lookalikes())
    assert found["keep"].all()
    assert found["group"][7] == 2
    _, found = cleaned(
        tmp_path, settings=CleanSettings(near=NearDuplicates.drop), **lookalikes()
    )
    assert list(np.flatnonzero(~found["keep"])) == [7]


def test_one_shape_in_two_colours_is_no_duplicate(tmp_path):
    given = lookalikes()
    given["images"][2], given["images"][7] = (200, 30, 30), (30, 30, 200)
    _, found = cleaned(tmp_path, **given)
    assert found["group"][7] == 7


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=30),
    st.lists(st.tuples(st.integers(0, 29), st.integers(0, 63)), max_size=20),
    st.integers(0, 3),
)
def test_bands_find_every_near_pair(hashes, flips, distance):
    hashes = [*hashes]
    for index, bit in flips:
        hashes.append(hashes[index % len(hashes)] ^ (1 << bit))
    phash = np.array(hashes, np.uint64)
    rows = np.arange(len(phash))
    found = {tuple(pair) for pair in near_pairs(phash, rows, distance=distance)}
    brute = {
        (i, j)
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if (hashes[i] ^ hashes[j]).bit_count() <= distance
    }
    assert found == brute


@given(st.lists(st.integers(0, 5), max_size=20))
def test_exact_pairs_link_equal_files(contents):
    sha = np.array([str(c) for c in contents], object)
    rows = np.arange(len(sha))
    group = group_rows(len(sha), exact_pairs(sha, rows)) if len(sha) else rows
    for i, j in zip(*np.triu_indices(len(sha)), strict=True):
        assert (group[i] == group[j]) == (sha[i] == sha[j])


def test_same_colours_reads_each_image_once():
    images = np.zeros((4, 8, 8, 3), np.uint8)
    asked = []

    def read(rows):
        asked.extend(rows)
        return images[rows]

    pairs = np.array([[0, 1], [0, 2], [1, 2]])
    assert len(same_colours(pairs, read, tolerance=1)) == 3
    assert sorted(asked) == [0, 1, 2]


def test_a_newcomer_does_not_remove_a_settled_image(tmp_path):
    label = np.arange(12) % 2
    _, found = cleaned(
        tmp_path,
        sha256=repeated(),
        label=label,
        settled=with_value(-1, _2=0).astype(np.int8),
    )
    assert found["keep"][2]
    assert found["reason"][7] == "conflicting-label"


def test_a_flood_of_one_picture_is_one_group_in_little_memory():
    n = 10_000
    rows = np.arange(n)
    tracemalloc.start()
    pairs = near_pairs(np.full(n, 7, np.uint64), rows, distance=3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (group_rows(n, pairs) == 0).all()
    assert peak < 1 << 30
