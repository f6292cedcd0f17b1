"""Nearest neighbours are exact, however the rows are cut in blocks."""

import numpy as np
import pytest

from models import neighbours
from models.neighbours import nearest, partial_whitening


@pytest.mark.parametrize(("n", "m", "k"), [(50, 400, 5), (7, 33, 30), (3, 5, 5)])
def test_the_nearest_are_those_of_a_full_sort(n, m, k):
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(n, 6)).astype(np.float32)
    pool = rng.normal(size=(m, 6)).astype(np.float32)
    groups = (np.arange(n) + m, np.arange(m))
    index, cosine = nearest(queries, pool, apart=groups, k=k)
    unit = pool / np.linalg.norm(pool, axis=1, keepdims=True)
    full = queries / np.linalg.norm(queries, axis=1, keepdims=True) @ unit.T
    wanted = -np.sort(-full, axis=1)[:, :k]
    np.testing.assert_allclose(-np.sort(-cosine, axis=1), wanted, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(full, index, 1), cosine, atol=1e-5)


def test_rows_of_one_group_are_not_neighbours():
    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    group = np.arange(40) // 4
    index, cosine = nearest(x, x, apart=(group, group), k=36)
    assert (group[index] != group[:, None]).all()
    assert (cosine > -1.01).all()
    _, cosine = nearest(x, x, apart=(group, group), k=40)
    assert ((cosine == -2).sum(1) == 4).all()


def test_blocks_change_nothing(monkeypatch):
    x = np.random.default_rng(1).normal(size=(100, 5)).astype(np.float32)
    rows = np.arange(100)
    whole = nearest(x, x, apart=(rows, rows), k=7)
    monkeypatch.setattr(neighbours, "HELD", 1)
    parts = nearest(x, x, apart=(rows, rows), k=7)
    assert np.array_equal(whole[0], parts[0])


def test_whitening_evens_the_spread_without_inverting_it():
    x = np.random.default_rng(2).normal(size=(500, 3)) * [100, 10, 1]
    x = x.astype(np.float32)
    turned = partial_whitening(x)(x)
    spread = np.sort(turned.std(0))
    assert 2 < spread[2] / spread[0] < 5


@pytest.mark.parametrize("shape", [(5, 1), (1, 3), (0, 3)])
def test_whitening_knows_no_axes_where_there_is_too_little_to_learn_from(shape):
    turned = partial_whitening(np.ones(shape, np.float32))(np.ones(shape, np.float32))
    assert turned.shape == shape
    assert np.isfinite(turned).all()
