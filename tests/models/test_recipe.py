"""Defaults that follow the size of the data."""

import pytest

from models.recipe import GENTLE, Augment, batch_for, epochs_for, views_for


@pytest.mark.parametrize(
    ("n", "epochs", "batch"),
    [
        (0, 110, 16),
        (1, 110, 16),
        (300, 110, 16),
        (1001, 110, 32),
        (2640, 110, 128),
        (5000, 60, 128),
        (50_000, 16, 128),
        (10**9, 16, 128),
    ],
)
def test_small_data_gets_small_batches_and_large_data_few_epochs(n, epochs, batch):
    assert epochs_for(n) == epochs
    assert batch_for(n) == batch


def test_short_runs_get_gentle_views():
    assert views_for(29) == GENTLE
    assert views_for(30) == Augment()
