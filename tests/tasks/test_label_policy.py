"""Policies keep to their budgets, and off validation and test images."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.label_policy import WrongLabels, act, suspects, within_budget

N = 200


def acted(policy: WrongLabels, **changes):
    rng = np.random.default_rng(0)
    given = {
        "suspect": np.arange(N) % 10 == 0,
        "agreed": np.arange(N) % 20 == 0,
        "train": np.arange(N) < 150,
        "relabel_above": 0.0,
        "class_factor": 4.0,
    }
    return act(policy, rng.random(N), np.arange(N) % 3, **(given | changes))


def test_suspects_are_the_most_suspicious_of_the_doubted_within_the_share():
    score = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    doubted = np.array([False, True, True, True, True])
    assert suspects(score, doubted, share=0.4).tolist() == [0, 1, 1, 0, 0]
    assert not suspects(score, doubted, share=0.0).any()


@pytest.mark.parametrize("policy", ["weight", "relabel", "drop"])
def test_validation_and_test_images_are_only_flagged(policy):
    verdict = acted(WrongLabels(policy))
    assert set(verdict[150:]) == {"fine", "flagged"}
    assert any(word.startswith(policy) for word in verdict[:150])


def test_flagging_changes_nothing_else():
    assert set(acted(WrongLabels.flag)) == {"fine", "flagged"}


def test_only_agreed_labels_are_relabelled():
    verdict = acted(WrongLabels.relabel)
    assert np.flatnonzero(verdict == "relabelled").tolist() == list(range(0, 150, 20))
    assert not (acted(WrongLabels.relabel, relabel_above=1.0) == "relabelled").any()


@given(st.integers(0, 999), st.floats(1, 5))
def test_no_class_loses_more_than_its_share_or_its_last_image(seed, factor):
    rng = np.random.default_rng(seed)
    label = np.minimum(rng.geometric(0.3, 150) - 1, 9)
    chosen, score = rng.random(150) < 0.3, rng.random(150)
    kept = within_budget(score, label, chosen, class_factor=factor)
    assert not (kept & ~chosen).any()
    for own in np.unique(label):
        mine = label == own
        assert kept[mine].sum() <= factor * chosen.mean() * mine.sum()
        assert kept[mine].sum() < mine.sum()
        if kept[mine].any() and (chosen & ~kept)[mine].any():
            assert score[mine & kept].min() >= score[mine & chosen & ~kept].max()
