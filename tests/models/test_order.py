"""The order of training rows, and the reader that follows it."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.order import (
    cut_batches,
    epoch_groups,
    epoch_order,
    gather_batches,
    read_ahead,
)

SETTINGS = {"chunk": 4, "group": 2, "seed": 7}
some_rows = st.sets(st.integers(0, 300), min_size=1).map(
    lambda rows: np.array(sorted(rows), np.int64)
)
sizes = st.integers(1, 20)
unhurried = settings(deadline=None, max_examples=50)  # a busy machine is no failure


@unhurried
@given(rows=some_rows, chunk=sizes, group=sizes, epoch=st.integers(0, 5))
def test_an_epoch_has_every_row_once(rows, chunk, group, epoch):
    order = epoch_order(rows, chunk=chunk, group=group, seed=1, epoch=epoch)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), rows)


@unhurried
@given(rows=some_rows, chunk=sizes, group=sizes)
def test_each_chunk_is_in_one_group_of_at_most_group_chunks(rows, chunk, group):
    groups = epoch_groups(rows, chunk=chunk, group=group, seed=1, epoch=0)
    chunks = [set(part // chunk) for part in groups]
    assert max(map(len, chunks)) <= group
    assert sum(map(len, chunks)) == len(set(rows // chunk))


def test_the_order_depends_on_seed_and_epoch_alone():
    rows = np.arange(50)
    first = epoch_order(rows, **SETTINGS, epoch=0)
    np.testing.assert_array_equal(first, epoch_order(rows, **SETTINGS, epoch=0))
    assert (first != epoch_order(rows, **SETTINGS, epoch=1)).any()
    other = epoch_order(rows, **(SETTINGS | {"seed": 8}), epoch=0)
    assert (first != other).any()


def test_rows_of_one_chunk_are_mixed_with_those_of_others():
    rows = np.arange(64)
    order = epoch_order(rows, chunk=16, group=4, seed=0, epoch=0)
    assert all(len(set(batch // 16)) > 1 for batch in np.split(order, 8))


def test_no_rows_make_no_order():
    assert epoch_order(np.empty(0, np.int64), **SETTINGS, epoch=0).shape == (0,)


def test_rows_that_are_not_sorted_are_refused():
    with pytest.raises(ValueError, match="sorted"):
        epoch_order(np.array([3, 1]), **SETTINGS, epoch=0)


def test_a_row_may_come_several_times():
    order = epoch_order(np.array([1, 1, 5]), **SETTINGS, epoch=0)
    assert sorted(order) == [1, 1, 5]


@unhurried
@given(n=st.integers(0, 100), batch_size=sizes, multiple=st.integers(1, 4))
def test_batches_count_every_row_once_and_evenly(n, batch_size, multiple):
    order = np.random.default_rng(0).permutation(n)
    rows, weights = cut_batches(order, batch_size, multiple=multiple)
    np.testing.assert_array_equal(rows[weights > 0], order)
    assert len(rows) == -(-n // batch_size)
    assert rows.shape[1] % multiple == 0
    if n:
        counts = weights.sum(1)
        assert counts.max() <= batch_size
        assert counts.max() - counts.min() <= 1
        assert rows.shape[1] - counts.min() <= multiple


def test_a_batch_is_filled_up_with_its_own_rows():
    rows, weights = cut_batches(np.array([5, 6, 7]), 8, multiple=2)
    assert rows.tolist() == [[5, 6, 7, 5]]
    assert weights.tolist() == [[1, 1, 1, 0]]


@unhurried
@given(
    rows=some_rows, chunk=sizes, group=sizes, batch_size=sizes, epochs=st.integers(1, 3)
)
def test_streamed_batches_hold_the_images_of_their_rows(
    rows, chunk, group, batch_size, epochs
):
    asked = []

    def read(some):
        asked.append(some)
        return (some[:, None, None, None] % 251).astype(np.uint8)

    plan = {"chunk": chunk, "group": group, "seed": 3}
    groups = [g for e in range(epochs) for g in epoch_groups(rows, epoch=e, **plan)]
    batches = [
        batch
        for e in range(epochs)
        for batch in cut_batches(epoch_order(rows, epoch=e, **plan), batch_size)[0]
    ]
    streamed = list(gather_batches(batches, read_ahead(read, iter(groups))))
    for batch, images in zip(batches, streamed, strict=True):
        np.testing.assert_array_equal(images[:, 0, 0, 0], batch % 251)
    assert all((np.diff(some) > 0).all() for some in asked)
    assert len(asked) <= len(groups)


def test_rows_that_no_part_holds_are_an_error():
    parts = iter([(np.array([1, 2]), np.zeros((2, 1, 1, 3), np.uint8))])
    with pytest.raises(ValueError, match=r"rows \[9\]"):
        list(gather_batches([np.array([1, 9])], parts))


def test_the_next_group_is_read_in_the_background():
    started = [threading.Event() for _ in range(3)]

    def read(rows):
        started[rows[0]].set()
        return rows

    parts = read_ahead(read, iter([np.array([k]) for k in range(3)]))
    next(parts)
    assert started[1].wait(5), "group 1 is read while group 0 is in use"
    assert not started[2].is_set()
    parts.close()
    assert not started[2].is_set(), "closing reads no further"


def test_an_error_while_reading_reaches_the_caller():
    def read(rows):
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        next(read_ahead(read, iter([np.array([0])])))
