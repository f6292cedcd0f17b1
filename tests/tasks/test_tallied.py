"""Figures of a test set: by hand, of any answers, and with honest confidences."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from data_contracts.errors import UsageError
from tasks.evaluate import tally_of
from tasks.evaluation import Binning, MeasureSettings
from tasks.measured import Measured
from tasks.scores import score
from tasks.slicing import by_text
from tasks.tallied import measure

QUICK = MeasureSettings(draws=200)


def soft(logits):
    grown = np.exp(logits - logits.max(axis=1, keepdims=True))
    return grown / grown.sum(axis=1, keepdims=True)


def sample(n, k, seed=0, skill=2.0):
    """Return probs of a model of middling skill, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), labels] += skill
    return soft(logits), labels


def certain(predicted, k):
    """Return probs that are sure of each prediction."""
    return np.eye(k)[predicted]


def evaluated(probs, labels, *, slices=None, names=None, settings=QUICK):
    named = names or [str(i) for i in range(probs.shape[1])]
    tally = tally_of(probs, labels, np.arange(len(labels)), slices)
    return measure(tally, names=named, settings=settings)


def test_figures_of_sure_answers_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 2])
    measured = evaluated(certain([0, 0, 1, 1, 0, 0], 3), labels)
    found = {name: figure.value for name, figure in measured.figures.items()}
    assert found["top1"] == pytest.approx(3 / 6)
    assert found["macro_recall"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert found["macro_precision"] == pytest.approx((2 / 4 + 1 / 2 + 0) / 3)
    assert found["macro_f1"] == pytest.approx((4 / 7 + 1 / 2 + 0) / 3)
    assert found["brier"] == pytest.approx(1.0)
    assert found["ece"] == pytest.approx(0.5)
    counts = [(0, 0, 2), (0, 1, 1), (1, 0, 1), (1, 1, 1), (2, 0, 1)]
    assert measured.confusion == counts
    first, second, third = (row.precision for row in measured.per_class)
    assert (first.value, second.value, third) == (0.5, 0.5, None)
    assert measured.top_k == 3
    assert found["top5"] == 1


def test_macro_figures_leave_out_classes_without_test_images():
    labels = np.array([0, 0, 1, 1])
    found = evaluated(certain([0, 0, 1, 2], 4), labels)
    assert found.classes_present == 2
    assert found.figures["macro_f1"].value == pytest.approx((1 + 2 / 3) / 2)
    assert found.per_class[2].recall is None
    assert found.per_class[2].precision.value == 0
    assert found.per_class[3].precision is None


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 12), st.integers(2, 7)),
        elements=st.sampled_from([0.0, 0.25, 0.5, 1.0, np.nan, np.inf, -1.0]),
    ),
    st.data(),
)
def test_any_probs_and_labels_give_a_report_or_a_clear_error(probs, data):
    n, k = probs.shape
    labels = np.array(data.draw(st.lists(st.integers(-1, k), min_size=n, max_size=n)))
    usable = (labels >= 0) & (labels < k)
    if not usable.any():
        with pytest.raises(UsageError, match="trained classes"):
            evaluated(probs, labels)
        return
    found = evaluated(probs, labels)
    assert found.n == usable.sum()
    assert found.excluded == n - found.n
    assert Measured.model_validate_json(found.model_dump_json()) == found
    for figure in found.figures.values():
        assert figure.low <= figure.value <= figure.high


def test_a_constant_answer_is_right_on_class_zero_only():
    found = score(np.full((4, 4), 0.25), np.arange(4))
    assert found.correct.tolist() == [1, 0, 0, 0]
    assert found.predicted.tolist() == [0, 0, 0, 0]


def test_a_class_beyond_the_columns_is_wrong_and_has_no_probability():
    found = score(certain([0, 1], 2), np.array([0, 2]))
    assert found.correct.tolist() == [1, 0]
    assert found.top5.tolist() == [1, 0]
    assert found.brier.tolist() == [0, 2]


def test_ece_of_a_calibrated_model_is_near_its_null_value():
    rng = np.random.default_rng(0)
    probs = soft(rng.normal(size=(1_000, 4)) * 2)
    labels = (rng.random((1_000, 1)) > probs.cumsum(axis=1)).sum(axis=1).clip(max=3)
    honest = evaluated(probs, labels, settings=MeasureSettings())
    assert honest.ece_null == pytest.approx(0.03, abs=0.015)
    assert honest.figures["ece"].value < honest.ece_null_high
    boasting = evaluated(soft(np.log(probs) * 3), labels, settings=MeasureSettings())
    assert boasting.figures["ece"].low > boasting.ece_null_high


@pytest.mark.parametrize("binning", list(Binning))
def test_reliability_bins_hold_every_image_once(binning):
    probs, labels = sample(300, 4)
    asked = MeasureSettings(draws=200, binning=binning, bins=10)
    found = evaluated(probs, labels, settings=asked)
    assert sum(row.accuracy.n for row in found.reliability) == 300
    assert len(found.reliability) <= 10
    ece = sum(
        row.accuracy.n * abs(row.confidence - row.accuracy.value)
        for row in found.reliability
    )
    assert found.figures["ece"].value == pytest.approx(ece / 300)


def test_slices_are_named_and_none_is_left_out():
    probs, labels = sample(90, 3, skill=9.0)
    domain = by_text(np.array(["studio", "street", ""] * 30))
    found = evaluated(probs, labels, slices={"domain": domain})
    rows = {row.name: row.top1.n for row in found.slices["domain"]}
    assert rows == {"street": 30, "studio": 30}
    top1 = found.slices["domain"][0].top1
    assert top1.value == 1
    assert 0.85 < top1.low < 0.9


def test_confused_pairs_come_most_frequent_first():
    labels = np.repeat([0, 1, 2], 10)
    predicted = np.repeat([0, 1, 0, 2], [3, 17, 4, 6])
    found = evaluated(certain(predicted, 3), labels, names=["cup", "mug", "jar"])
    seen = [(p.label_name, p.predicted_name, p.count) for p in found.confused]
    assert seen == [("cup", "mug", 7), ("jar", "cup", 4)]
    assert found.confused[0].share == pytest.approx(0.7)


def test_mismatched_shapes_are_refused():
    with pytest.raises(ValueError, match="came as"):
        evaluated(np.ones((3, 2)), np.zeros(4, int))
