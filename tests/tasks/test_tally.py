"""Figures of a tally agree with their definitions, in one pass and in any parts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_contracts.errors import UsageError
from tasks.evaluation import MeasureSettings
from tasks.ranking import ranked, risk_area, slack
from tasks.tallied import measure, must_answer
from tasks.tallied_ranks import _without_each
from tasks.tally import BUCKETS, STEPS, Tally, bucket_of, step_of

QUICK = MeasureSettings(draws=200)
NAMES = [f"class {i}" for i in range(10)]


def sample(n, k, seed=0, skill=1.5):
    """Return probs of a model of middling skill, labels, and a group each."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), labels] += skill
    grown = np.exp(logits)
    return grown / grown.sum(1, keepdims=True), labels, np.arange(n)


def tallied(probs, labels, groups, **kinds):
    tally = Tally(probs.shape[1], **{k: v for k, v in kinds.items() if k != "with_"})
    tally.update(probs, labels, groups=groups, **kinds.get("with_", {}))
    return tally


def measured(probs, labels, groups):
    return measure(tallied(probs, labels, groups), names=NAMES, settings=QUICK)


def values(found):
    return {name: figure.value for name, figure in found.figures.items()}


def exact_auc(scores, positive):
    """Share of pairs in order, ties half: the definition."""
    wins = scores[positive][:, None] - scores[~positive][None]
    return ((wins > 0) + 0.5 * (wins == 0)).mean()


def exact_precision(scores, positive):
    """Mean over the images of the class of the precision at their score."""
    at = [positive[scores >= s].mean() for s in scores[positive]]
    return np.mean(at)


def test_figures_of_a_small_set_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 2])
    probs = np.eye(3)[[0, 0, 1, 1, 0, 0]] * 0.7 + 0.1
    found = values(measured(probs, labels, np.arange(6)))
    assert found["top1"] == pytest.approx(1 / 2)
    assert found["micro_f1"] == pytest.approx(1 / 2)
    assert found["macro_f1"] == pytest.approx((4 / 7 + 1 / 2 + 0) / 3)
    weighted = (3 * 4 / 7 + 2 * 1 / 2 + 0) / 6
    assert found["weighted_f1"] == pytest.approx(weighted)
    assert found["weighted_precision"] == pytest.approx((3 * 2 / 4 + 2 * 1 / 2) / 6)
    assert found["nll"] == pytest.approx(-(3 * np.log(0.8) + 3 * np.log(0.1)) / 6)
    assert found["ece"] == pytest.approx(0.3)


def test_ranked_figures_are_their_definitions_to_the_last_digit():
    probs, labels, groups = sample(60, 4)
    probs = np.round(probs, 1)  # ties
    probs /= probs.sum(1, keepdims=True)
    found = measured(probs, labels, groups)
    for c, row in enumerate(found.per_class):
        positive = labels == c
        assert row.roc_auc.value == pytest.approx(
            exact_auc(probs[:, c], positive), abs=1e-15
        )
        precision = exact_precision(probs[:, c], positive)
        assert row.average_precision.value == pytest.approx(precision, abs=1e-15)
    assert found.rank_error == {"roc_auc": 0, "average_precision": 0}


def test_figures_agree_with_scikit_learn_to_the_last_digit():
    metrics = pytest.importorskip("sklearn.metrics")
    probs, labels, groups = sample(500, 7)
    found, answers = measured(probs, labels, groups), probs.argmax(1)
    ours = values(found)
    for average in ("macro", "weighted", "micro"):
        p, _, f, _ = metrics.precision_recall_fscore_support(
            labels, answers, average=average
        )
        assert ours[f"{average}_f1"] == pytest.approx(f, abs=1e-15)
        if average != "micro":
            assert ours[f"{average}_precision"] == pytest.approx(p, abs=1e-15)
    assert ours["macro_recall"] == pytest.approx(
        metrics.balanced_accuracy_score(labels, answers), abs=1e-15
    )
    assert ours["nll"] == pytest.approx(metrics.log_loss(labels, probs), abs=1e-15)
    auc = metrics.roc_auc_score(labels, probs, multi_class="ovr", average="macro")
    assert ours["roc_auc"] == pytest.approx(auc, abs=1e-15)
    hot = np.eye(7)[labels]
    precision = metrics.average_precision_score(hot, probs, average="macro")
    assert ours["average_precision"] == pytest.approx(precision, abs=1e-15)
    brier = ((probs - hot) ** 2).sum(1).mean()
    assert ours["brier"] == pytest.approx(brier, abs=1e-15)
    top5 = metrics.top_k_accuracy_score(labels, probs, k=5)
    assert ours["top5"] == pytest.approx(top5, abs=1e-15)
    table = metrics.confusion_matrix(labels, answers)
    assert sum(count for *_, count in found.confusion) == 500
    assert all(table[i, j] == count for i, j, count in found.confusion)


def test_figures_are_their_definitions_to_the_last_digit():
    probs, labels, groups = sample(300, 7)
    found, answers = values(measured(probs, labels, groups // 3)), probs.argmax(1)
    right = answers == labels
    top5 = (np.argsort(-probs, axis=1)[:, :5] == labels[:, None]).any(axis=1)
    recall = np.array([right[labels == c].mean() for c in range(7)])
    precision = np.array([right[answers == c].mean() for c in range(7)])
    own = probs[np.arange(300), labels]
    for name, expected in (
        ("top1", right.mean()),
        ("top5", top5.mean()),
        ("macro_precision", precision.mean()),
        ("macro_recall", recall.mean()),
        ("macro_f1", (2 * precision * recall / (precision + recall)).mean()),
        ("brier", ((probs - np.eye(7)[labels]) ** 2).sum(1).mean()),
        ("nll", -np.log(own).mean()),
    ):
        assert found[name] == pytest.approx(expected, abs=1e-12), name


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_parts_merged_in_any_order_are_the_whole_to_the_bit(data):
    probs, labels, groups = sample(60, 3, seed=data.draw(st.integers(0, 99)))
    labels[:5] = data.draw(st.sampled_from([-1, 0, 3]))
    probs[7] = data.draw(st.sampled_from([np.nan, 0.2]))
    groups = groups // data.draw(st.integers(1, 4))
    slices, half = {"size": np.arange(60) % 3 - 1}, probs[::-1]
    kinds = {"slices": {"size": ["small", "large"]}, "champion": True}

    def part(rows):
        tally = Tally(3, **kinds)
        tally.update(
            probs[rows],
            labels[rows],
            groups=groups[rows],
            slices={"size": slices["size"][rows]},
            champion=half[rows],
        )
        return tally

    order = np.array(data.draw(st.permutations(range(60))))
    cuts = sorted(data.draw(st.lists(st.integers(0, 60), min_size=2, max_size=3)))
    whole, *parts = [part(rows) for rows in (order[::-1], *np.split(order, cuts))]
    first, *others = data.draw(st.permutations(parts))
    for other in others:
        first.merge(other)
    one, two = (
        measure(tally, names=NAMES, settings=QUICK, champion=1)
        for tally in (whole, first)
    )
    assert one == two


def test_tallies_of_other_classes_do_not_merge():
    with pytest.raises(ValueError, match="different"):
        Tally(3).merge(Tally(4))


@pytest.mark.parametrize("seed", range(3))
def test_steps_of_ranks_are_off_by_no_more_than_they_say(seed, monkeypatch):
    monkeypatch.setattr("tasks.tally.KEPT", 0)
    probs, labels, groups = sample(2_000, 3, seed=seed)
    tally = tallied(probs, labels, groups)
    assert tally.kept is None
    found = measure(tally, names=NAMES, settings=QUICK)
    off = slack(*(part.sum(0) for part in tally.sums["ranks"]))
    for c, row in enumerate(found.per_class):
        exact = exact_auc(probs[:, c], labels == c)
        assert abs(row.roc_auc.value - exact) <= off.auc[c] < 0.005
        precision = exact_precision(probs[:, c], labels == c)
        assert abs(row.average_precision.value - precision) <= off.precision[c] < 0.02
    assert 0 < found.rank_error["roc_auc"] < 0.005
    assert "rounded" in " ".join(found.notes)


def test_the_risk_coverage_area_is_the_mean_risk_of_the_surest():
    right = np.array([0, 1, 0, 1, 1])  # by rising confidence
    risks = np.cumsum(1 - right[::-1]) / np.arange(1, 6)
    assert risk_area(np.ones(5), right) == pytest.approx(risks.mean())
    # Two of equal confidence come in either order.
    either = (np.mean([0, 1 / 2]) + np.mean([1, 1 / 2])) / 2
    assert risk_area(np.array([2.0]), np.array([1.0])) == pytest.approx(either)


def test_answering_only_the_surest_is_right_more_often():
    found = measured(*sample(2_000, 5))
    points = found.coverage
    assert points[-1].coverage == 1
    assert points[-1].top1.value == found.figures["top1"].value
    assert points[0].top1.value > points[-1].top1.value + 0.1
    assert points[0].confidence > points[-2].confidence
    assert 0 < found.figures["risk_area"].value < 1 - points[-1].top1.value


def test_intervals_count_groups_and_not_images():
    probs, labels, groups = sample(400, 4, seed=3)
    few = measured(probs[:100], labels[:100], groups[:100])
    copies = measured(*(np.repeat(x[:100], 8, axis=0) for x in (probs, labels, groups)))
    many = measured(probs, labels, groups)

    def width(found, name):
        return found.figures[name].high - found.figures[name].low

    for name in ("top1", "macro_f1", "nll", "brier", "roc_auc", "risk_area"):
        assert width(many, name) < 0.75 * width(few, name)
        assert width(copies, name) == pytest.approx(width(few, name), rel=0.3)


def test_intervals_cover_the_truth():
    names = ("top1", "macro_f1", "weighted_f1", "nll", "brier", "roc_auc")
    truth = values(measured(*sample(40_000, 3, seed=1)))
    inside = dict.fromkeys((*names, "average_precision", "risk_area"), 0)
    for seed in range(40):
        found = measured(*sample(240, 3, seed=seed + 2)).figures
        for name in inside:
            inside[name] += found[name].low <= truth[name] <= found[name].high
    assert min(inside.values()) >= 34


def test_intervals_of_classes_of_few_images_cover_the_truth():
    whole = measured(*sample(20_000, 10, seed=1, skill=3))
    names = ("roc_auc", "average_precision", "f1", "recall")
    truth = {
        name: np.mean([getattr(row, name).value for row in whole.per_class])
        for name in names
    }
    inside, rows = dict.fromkeys(names, 0), 0
    for seed in range(20):
        for row in measured(*sample(40, 10, seed=seed + 2, skill=3)).per_class:
            if row.recall is None:
                continue
            rows += 1
            for name in names:
                found = getattr(row, name)
                inside[name] += found.low <= truth[name] <= found.high
    assert min(inside.values()) > 0.93 * rows


def test_a_few_images_in_perfect_order_prove_little():
    labels = np.repeat([0, 1], [4, 60])
    first, second = measured(
        np.eye(2)[labels] * 0.8 + 0.1, labels, np.arange(64)
    ).per_class
    for name in ("roc_auc", "average_precision"):
        assert getattr(first, name).value == 1
        assert 0.4 < getattr(first, name).low < 0.9
    assert second.average_precision.low > 0.9


def test_ranks_without_each_bucket_are_those_of_the_other_images():
    probs, labels, groups = sample(300, 3, skill=1)
    tally = tallied(probs, labels, groups // 5)
    without, parts = _without_each(*tally.sums["ranks"])
    part = bucket_of(groups // 5) % tally.rank_buckets
    assert (parts > 20).all()
    for b in (0, 7, 31):
        rest = tallied(probs[part != b], labels[part != b], groups[part != b])
        found = ranked(*rest.sums["ranks"].sum(axis=1))
        assert without[:, b] == pytest.approx(np.array(found), abs=1e-14)


def test_copies_alone_leave_little_to_say_and_it_is_said_in_plain_words():
    probs, labels, groups = sample(60, 3)
    notes = " ".join(measured(probs, labels, groups // 30).notes)
    assert "copies of one another that they say as much as 2" in notes
    notes = " ".join(measured(probs, labels, groups).notes)
    assert "say little" not in notes
    for word in ("bucket", "resample", "Wilson", "seed", "log-odds"):
        assert word not in notes


def test_a_class_never_predicted_has_no_precision_and_is_said():
    probs, labels, groups = sample(90, 3)
    probs[:, 2] = 0
    probs /= probs.sum(1, keepdims=True)
    found = measured(probs, labels, groups)
    assert found.per_class[2].precision is None
    assert found.per_class[2].recall.value == 0
    assert found.per_class[2].f1.low == 0 < found.per_class[2].f1.high
    assert "Never predicted, though there are images: 1" in " ".join(found.notes)


def test_one_class_of_images_leaves_ranks_not_run():
    probs, _, groups = sample(50, 3)
    found = measured(probs, np.zeros(50, int), groups)
    assert set(found.not_run) == {"roc_auc", "average_precision"}
    assert "only one class" in found.not_run["roc_auc"]
    assert found.figures["macro_recall"].value == found.figures["top1"].value


def test_numbers_that_are_none_count_as_wrong_and_are_said():
    probs, labels, groups = sample(50, 3, skill=9)
    probs[:5] = np.nan
    found = measured(probs, labels, groups)
    assert found.unanswered == 5
    assert found.figures["top1"].value == pytest.approx(0.9, abs=0.03)
    assert found.figures["micro_f1"].value > found.figures["top1"].value
    assert "5 images got no usable" in " ".join(found.notes)
    nothing = tallied(probs * np.nan, labels, groups)
    with pytest.raises(UsageError, match="none of 50 images got probabilities"):
        must_answer(nothing)
    # A champion that shares no class with the candidate is measured all the same.
    found = measure(nothing, names=NAMES, settings=QUICK)
    assert (found.unanswered, found.figures["top1"].value) == (50, 0)


def test_labels_that_nobody_trained_are_left_out_or_stop():
    probs, labels, groups = sample(50, 3)
    found = measured(probs, np.where(labels == 0, 7, labels), groups)
    assert found.excluded == (labels == 0).sum()
    with pytest.raises(UsageError, match="trained classes"):
        measured(probs, labels + 3, groups)


def test_slices_and_agreement_with_the_champion():
    probs, labels, groups = sample(200, 3, skill=3)
    worse = probs.copy()
    worse[:20] = np.eye(3)[(labels[:20] + 1) % 3]
    tally = Tally(3, slices={"light": ["dark", "bright"]}, champion=True)
    tally.update(
        worse,
        labels,
        groups=groups,
        slices={"light": np.where(np.arange(200) < 20, 0, 1)},
        champion=probs,
    )
    found = measure(tally, names=NAMES, settings=QUICK, champion=4)
    dark, bright = found.slices["light"]
    assert (dark.name, dark.top1.n, dark.top1.value) == ("dark", 20, 0)
    assert bright.top1.value > 0.8
    assert found.agreement.version == 4
    right = (probs[:20].argmax(1) == labels[:20]).sum()
    assert found.agreement.broken.value == pytest.approx(right / 200)
    assert found.agreement.change.value == pytest.approx(-right / 200)
    assert found.agreement.change.high < 0


def test_keys_fill_buckets_evenly_and_probabilities_their_steps():
    counts = np.bincount(bucket_of(np.arange(100_000)), minlength=BUCKETS)
    assert counts.min() > 300
    assert counts.max() < 480
    steps = step_of(np.array([0.0, 1e-9, 0.5, 1 - 1e-9, 1.0]))
    assert steps.tolist() == [0, 0, STEPS // 2, STEPS - 1, STEPS - 1]
    assert np.isnan(ranked(np.zeros(3), np.ones(3)).auc)
