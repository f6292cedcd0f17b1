"""Columns of words and of numbers part the images."""

import numpy as np
import pytest

from tasks.slicing import MOST, by_quantile, by_text


def test_words_are_slices_of_their_own_and_nothing_is_none():
    found = by_text(np.array(["street", "", "studio", "street"], object))
    named = [found.names[code] if code >= 0 else None for code in found.codes]
    assert named == ["street", None, "studio", "street"]


def test_rare_words_of_many_are_one_slice():
    words = [f"shop {i:02}" for i in range(MOST + 10) for _ in range(2 + (i < MOST))]
    found = by_text(np.array([*words, ""], object))
    assert len(found.names) == MOST
    assert found.names[-1] == "other"
    counts = np.bincount(found.codes[found.codes >= 0])
    assert counts[:-1].tolist() == [3] * (MOST - 1)
    assert counts.sum() == len(words)
    assert found.codes[-1] == -1


def test_numbers_are_parted_by_quantiles_and_gaps_are_none():
    values = np.append(np.arange(100.0), np.nan)
    found = by_quantile(values, bins=4)
    assert np.bincount(found.codes[:-1]).tolist() == [25] * 4
    assert found.codes[-1] == -1
    assert found.names[0] == "0 to 24.75"


def test_few_numbers_are_slices_of_their_own_in_their_order():
    values = np.repeat([0.0, 2, 10, np.nan], [80, 10, 10, 5])
    found = by_quantile(values, bins=4)
    assert found.names == ["0", "2", "10"]
    assert np.bincount(found.codes[:100]).tolist() == [80, 10, 10]
    assert (found.codes[100:] == -1).all()


def test_large_numbers_are_written_out():
    found = by_quantile(np.arange(100_000, 300_000, 1000), bins=2)
    assert found.names == ["100,000 to 199,500", "199,500 to 299,000"]


@pytest.mark.parametrize("values", [np.full(5, 3.0), np.full(5, np.nan)])
def test_a_column_of_one_number_or_none_makes_no_second_slice(values):
    found = by_quantile(values, bins=4)
    assert len(np.unique(found.codes[found.codes >= 0])) <= 1
    assert len(found.names) <= 1
