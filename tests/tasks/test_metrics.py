"""Figures agree with their definitions and carry honest intervals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from data_contracts.errors import UsageError
from tasks.calibration import fit_temperature
from tasks.evaluation import Binning
from tasks.metrics import EvaluateSettings, Evaluation, evaluate
from tasks.scores import score

QUICK = EvaluateSettings(draws=200)


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


def test_figures_of_a_small_set_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 2])
    probs = certain([0, 0, 1, 1, 0, 0], 3)
    found = evaluate(probs, labels, settings=QUICK)
    assert found.top1.value == pytest.approx(3 / 6)
    assert found.macro_recall.value == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert found.macro_precision.value == pytest.approx((2 / 4 + 1 / 2 + 0) / 3)
    assert found.macro_f1.value == pytest.approx((4 / 7 + 1 / 2 + 0) / 3)
    assert found.brier.value == pytest.approx(1.0)
    assert found.ece.value == pytest.approx(0.5)
    assert found.majority == pytest.approx(0.5)
    assert found.confusion == [[2, 1, 0], [1, 1, 0], [1, 0, 0]]
    assert [row.precision for row in found.per_class] == [0.5, 0.5, None]
    assert found.top_k == 3
    assert found.top5.value == 1


def test_macro_figures_leave_out_classes_without_test_images():
    labels = np.array([0, 0, 1, 1])
    probs = certain([0, 0, 1, 2], 4)
    found = evaluate(probs, labels, settings=QUICK)
    assert found.classes_present == 2
    assert found.macro_f1.value == pytest.approx((1 + 2 / 3) / 2)
    assert found.per_class[2].recall is None
    assert found.per_class[2].precision == 0
    assert found.per_class[3].precision is None


def test_figures_agree_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    probs, labels = sample(500, 7, skill=1.0)
    found = evaluate(probs, labels, settings=QUICK)
    p, r, f, _ = metrics.precision_recall_fscore_support(
        labels, probs.argmax(1), average="macro"
    )
    ours = (found.macro_precision, found.macro_recall, found.macro_f1)
    assert [e.value for e in ours] == pytest.approx([p, r, f])
    assert found.nll.value == pytest.approx(metrics.log_loss(labels, probs))
    top5 = metrics.top_k_accuracy_score(labels, probs, k=5)
    assert found.top5.value == pytest.approx(top5)


@settings(max_examples=60, deadline=None)
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
            evaluate(probs, labels, settings=QUICK)
        return
    found = evaluate(probs, labels, settings=QUICK)
    assert found.n == usable.sum()
    assert found.excluded == n - found.n
    assert Evaluation.model_validate_json(found.model_dump_json()) == found
    for name in found.headline():
        estimate = getattr(found, name)
        assert estimate.low <= estimate.value <= estimate.high


def test_unanswered_images_count_as_wrong_and_are_said():
    probs, labels = sample(50, 3, skill=9.0)
    probs[:5] = np.nan
    found = evaluate(probs, labels, settings=QUICK)
    assert found.unanswered == 5
    assert found.top1.value == pytest.approx(0.9)
    assert "5 images got no usable" in " ".join(found.notes)


def test_a_constant_answer_is_right_on_class_zero_only():
    found = score(np.full((4, 4), 0.25), np.arange(4))
    assert found.correct.tolist() == [1, 0, 0, 0]
    assert found.predicted.tolist() == [0, 0, 0, 0]


def test_a_class_beyond_the_columns_is_wrong_and_has_no_probability():
    found = score(certain([0, 1], 2), np.array([0, 2]))
    assert found.correct.tolist() == [1, 0]
    assert found.top5.tolist() == [1, 0]
    assert found.brier.tolist() == [0, 2]


def test_intervals_narrow_with_images_and_widen_with_copies():
    probs, labels = sample(400, 5)
    few = evaluate(probs[:100], labels[:100])
    many = evaluate(probs, labels)
    copies = evaluate(
        np.repeat(probs[:100], 4, axis=0),
        np.repeat(labels[:100], 4),
        groups=np.repeat(np.arange(100), 4),
    )

    def width(found, name):
        estimate = getattr(found, name)
        return estimate.high - estimate.low

    for name in ("top1", "macro_f1", "brier", "nll"):
        assert width(many, name) < 0.7 * width(few, name)
        assert width(copies, name) == pytest.approx(width(few, name), rel=0.05)


def test_intervals_cover_the_truth():
    names = ("top1", "macro_f1", "brier", "nll")
    whole = evaluate(*sample(60_000, 6, seed=1), settings=QUICK)
    inside = dict.fromkeys(names, 0)
    for seed in range(100):
        found = evaluate(*sample(240, 6, seed=seed + 2), settings=QUICK)
        for name in names:
            truth, estimate = getattr(whole, name).value, getattr(found, name)
            inside[name] += estimate.low <= truth <= estimate.high
    assert min(inside.values()) >= 88


def test_ece_of_a_calibrated_model_is_near_its_null_value():
    rng = np.random.default_rng(0)
    probs = soft(rng.normal(size=(1_000, 4)) * 2)
    labels = (rng.random((1_000, 1)) > probs.cumsum(axis=1)).sum(axis=1).clip(max=3)
    honest = evaluate(probs, labels)
    assert honest.ece_null == pytest.approx(0.03, abs=0.015)
    assert honest.ece.value < honest.ece_null_high
    boasting = evaluate(soft(np.log(probs) * 3), labels)
    assert boasting.ece.low > boasting.ece_null_high


@pytest.mark.parametrize("binning", list(Binning))
def test_reliability_bins_hold_every_image_once(binning):
    probs, labels = sample(300, 4)
    found = evaluate(
        probs, labels, settings=EvaluateSettings(draws=200, binning=binning, bins=10)
    )
    assert sum(row.accuracy.n for row in found.reliability) == 300
    assert len(found.reliability) <= 10
    ece = sum(
        row.accuracy.n * abs(row.confidence - row.accuracy.value)
        for row in found.reliability
    )
    assert found.ece.value == pytest.approx(ece / 300)


def test_slices_are_named_and_none_is_left_out():
    probs, labels = sample(90, 3, skill=9.0)
    domain = np.array(["studio", "street", ""] * 30)
    size = np.array([0, 1, -1] * 30)
    found = evaluate(
        probs, labels, slices={"domain": domain, "size": size}, settings=QUICK
    )
    rows = {row.name: row.top1.n for row in found.slices["domain"]}
    assert rows == {"street": 30, "studio": 30}
    assert [row.name for row in found.slices["size"]] == ["0", "1"]
    top1 = found.slices["domain"][0].top1
    assert top1.value == 1
    assert 0.85 < top1.low < 0.9


def test_confused_pairs_come_most_frequent_first():
    labels = np.repeat([0, 1, 2], 10)
    predicted = np.repeat([0, 1, 0, 2], [3, 17, 4, 6])
    found = evaluate(
        certain(predicted, 3), labels, names=["cup", "mug", "jar"], settings=QUICK
    )
    seen = [(p.label_name, p.predicted_name, p.count) for p in found.confused]
    assert seen == [("cup", "mug", 7), ("jar", "cup", 4)]
    assert found.confused[0].share == pytest.approx(0.7)


def test_weights_move_the_averages():
    labels = np.array([0, 1])
    found = evaluate(
        certain([0, 0], 2), labels, weights=np.array([3.0, 1.0]), settings=QUICK
    )
    assert found.top1.value == pytest.approx(0.75)
    assert found.brier.value == pytest.approx(0.5)


def test_mismatched_shapes_are_refused():
    with pytest.raises(ValueError, match="came as"):
        evaluate(np.ones((3, 2)), np.zeros(4, int))


@pytest.mark.parametrize("true", [0.3, 1.0, 2.5])
def test_the_temperature_that_bent_the_probabilities_is_found(true):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 5)) * 2
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    assert fit_temperature(soft(logits * true), labels) == pytest.approx(true, rel=0.05)


def test_images_that_are_all_right_leave_doubt():
    labels = np.arange(40) % 4
    found = fit_temperature(soft(np.eye(4)[labels]), labels)
    confidence = soft(np.eye(4)[labels] / found).max(axis=1)
    assert 0.95 < confidence.min() < 0.999
