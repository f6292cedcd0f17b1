"""What an explanation chooses, measures and draws, on arrays small enough to check."""

from __future__ import annotations

import numpy as np
import pytest

from data_contracts.errors import SourceError, UsageError
from data_contracts.references import Estimate
from models.explain.how import Hide, How, Segments
from tasks.decode import Fit
from tasks.explain_answer import what_changes
from tasks.explain_choose import Answers, answers_of, check_target, chosen, targets_of
from tasks.explain_figures import (
    Worth,
    boxed,
    by_class,
    chance_below,
    classes_by_boxes,
    mean_of,
    share_of,
    worth_of,
)
from tasks.explain_page import verdict
from tasks.explain_picture import SIDE, bar, overlay, png, scaled
from tasks.explain_settings import ExplainSettings
from tasks.explain_source import box_mask, of_class

CLASSES = ["apple", "pear", "plum"]
ANSWERS = Answers(
    given=np.array([0, 1, -1, 2, 0]),
    predicted=np.array([1, 1, 2, 0, 0]),
    sure=np.array([0.6, 0.9, 0.5, 0.8, 0.99], np.float32),
    good=np.array([True, True, True, True, False]),
)


@pytest.mark.parametrize(
    ("order", "rows"),
    [
        ("mistakes", [3, 0, 1, 2]),
        ("unsure", [2, 0, 3, 1]),
        ("given", [0, 1, 2, 3]),
    ],
)
def test_images_come_in_the_order_asked_without_those_unread(order, rows):
    settings = ExplainSettings(order=order)
    assert chosen(ANSWERS, settings, limit=9).tolist() == rows
    assert chosen(ANSWERS, settings, limit=2).tolist() == rows[:2]


def test_targets_are_the_answer_the_label_or_a_class():
    rows = np.array([3, 0])

    def targets(target):
        settings = ExplainSettings(target=target)
        return targets_of(ANSWERS, rows, settings, CLASSES).tolist()

    assert targets("predicted") == [0, 1]
    assert targets("given") == [2, 0]
    assert targets("plum") == [2, 2]
    with pytest.raises(UsageError, match=r"3 classes: apple, .* Did you mean pear\?"):
        targets("paer")
    check_target(ExplainSettings(), CLASSES)


def test_a_label_that_the_model_does_not_know_cannot_be_the_target():
    settings = ExplainSettings(target="given")
    with pytest.raises(UsageError, match="1 of 2 images"):
        targets_of(ANSWERS, np.array([2, 0]), settings, CLASSES)


@pytest.mark.parametrize(
    ("fit", "box"),
    [
        # A picture of 20 x 10 whose left half is the box.
        (Fit.CROP, (slice(0, 8), slice(0, 4))),
        (Fit.STRETCH, (slice(0, 8), slice(0, 4))),
        (Fit.LETTERBOX, (slice(2, 6), slice(0, 4))),
        (Fit.FIT, (slice(2, 6), slice(0, 4))),
    ],
)
def test_boxes_follow_their_picture_into_the_square(fit, box):
    want = np.zeros((8, 8), bool)
    want[box] = True
    half = np.array([[0, 0, 0.5, 1]], np.float32)
    np.testing.assert_array_equal(box_mask(half, (20, 10), size=8, fit=fit), want)
    assert not box_mask(half[:0], (20, 10), size=8, fit=fit).any()


def test_a_crop_cuts_the_sides_of_a_box():
    corner = np.array([[0, 0, 0.25, 0.5]], np.float32)  # all of it outside the crop
    assert not box_mask(corner, (20, 10), size=8, fit=Fit.CROP).any()


def test_boxes_of_the_class_go_before_others():
    corners = np.eye(4, dtype=np.float32)[:2]
    assert of_class(corners, ["pear", "plum"], "plum").tolist() == [[0, 1, 0, 0]]
    assert len(of_class(corners, ["pear", "plum"], "apple")) == 2


class Corner:
    """Answers class 1 while the upper left quarter is bright, as sure as it is."""

    classes, meta = CLASSES[:2], {"mean": (0.0, 0.0, 0.0)}

    def __call__(self, images):
        half = images.shape[1] // 2
        sure = images[:, :half, :half].mean((1, 2, 3)) / 255
        return np.stack([1 - sure, sure], 1).astype(np.float32)


def test_what_changes_an_answer_is_measured():
    images = np.full((2, 8, 8, 3), 230, np.uint8)
    maps = np.zeros((2, 8, 8), np.float32)
    maps[0, :4, :4], maps[1, 4:, 4:] = 1, 1  # the second map is wrong
    how = How(hide=Hide.black, cells=2, segments=Segments.grid)
    right, wrong = what_changes(Corner(), images, maps, np.array([1, 1]), how)
    assert right.changed
    assert (right.hidden, right.segments, right.share) == (1, 4, 0.25)
    assert right.before == pytest.approx(0.9, abs=0.01)
    assert right.after == 0
    assert right.image[:4, :4].max() == 0
    assert right.image[4:].min() == 230
    said = right.text("pear")
    assert said.startswith("Hiding the most important of 4 segments (25.0 % of")
    assert "takes pear from 90.2 % to 0.0 %, and the answer becomes apple." in said
    assert not wrong.changed
    assert wrong.after == pytest.approx(wrong.before)
    assert "the answer stays pear" in wrong.text("pear")
    assert "no better than chance" in wrong.text("pear")
    assert "chance" not in said
    # Draws that hide the bright quarter leave nothing, and the others all of it.
    assert 0 < wrong.random < wrong.after
    (alone,) = what_changes(Corner(), images[1:], maps[1:], np.array([1]), how)
    assert alone.random == pytest.approx(wrong.random)


def test_segments_against_the_class_are_not_hidden_for_it():
    images = np.full((1, 8, 8, 3), 230, np.uint8)
    maps = np.full((1, 8, 8), -1, np.float32)
    maps[0, 4:, 4:] = 1
    how = How(hide=Hide.black, cells=4, segments=Segments.grid)
    (found,) = what_changes(Corner(), images, maps, np.array([1]), how)
    assert found.hidden == 4


def test_nothing_is_hidden_for_a_map_that_marks_nothing():
    images = np.full((1, 8, 8, 3), 230, np.uint8)
    how = How(hide=Hide.black, cells=2, segments=Segments.grid)
    maps = np.zeros((1, 8, 8), np.float32)
    (found,) = what_changes(Corner(), images, maps, np.array([1]), how)
    assert (found.hidden, found.share, found.changed) == (0, 0, False)
    assert found.after == found.before
    assert found.random == pytest.approx(found.before)
    np.testing.assert_array_equal(found.image, images[0])
    assert "marks nothing that speaks for pear" in found.text("pear")


def test_maps_are_drawn_over_their_image_and_outliers_clipped():
    values = np.zeros((8, 8), np.float32)
    values[0, 0], values[7, 7] = 5, -5
    image = np.full((8, 8, 3), 100, np.uint8)
    for signed in (True, False):
        drawn = overlay(image, values, signed=signed)
        assert drawn.shape == (SIDE, SIDE, 3)
        assert png(drawn).startswith(b"\x89PNG")
        assert bar(signed=signed).shape[2] == 3
    red, blue = (overlay(image, values, signed=True)[i, i] for i in (2, -3))
    assert red[0] > red[2]
    assert blue[2] > blue[0]
    assert scaled(values, signed=True).min() == -1
    assert not scaled(np.zeros((2, 2), np.float32), signed=False).any()
    lone = np.zeros((32, 32), np.float32)
    lone[3, 3] = 2  # fewer than one in a hundred pixels
    assert scaled(lone, signed=False)[3, 3] == 1


def test_maps_of_another_size_or_without_numbers_are_refused():
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(UsageError, match=r"expected \(8, 8\), came \(4, 4\)"):
        overlay(image, np.zeros((4, 4), np.float32), signed=False)
    with pytest.raises(UsageError, match="no number"):
        overlay(image, np.full((8, 8), np.nan, np.float32), signed=False)


def test_a_mean_of_nothing_is_no_figure():
    assert mean_of(np.array([np.nan], np.float32)).n == 0
    found = mean_of(np.array([0.2, 0.4, np.nan, 0.3], np.float32))
    assert found.n == 3
    assert found.value == pytest.approx(0.3)
    assert found.low < 0.3 < found.high


def test_intervals_and_chances_of_few_images_are_students():
    from scipy.stats import t, ttest_1samp

    values = np.array([0.2, 0.4, 0.3])
    found = mean_of(values)
    want = t.interval(0.95, 2, 0.3, values.std(ddof=1) / 3**0.5)
    np.testing.assert_allclose([found.low, found.high], want)
    test = ttest_1samp(values - 0.5, 0, alternative="less")
    assert chance_below(values - 0.5) == pytest.approx(test.pvalue)
    assert chance_below(np.array([-0.1, -0.1])) == 0
    assert chance_below(np.array([-0.1])) == 1
    wide = share_of(np.array([0.9, 0.2]))
    assert (wide.low, wide.high) == (0, 1)


def worth(name, **behind):
    figures = {
        key: Estimate(value=v, low=v - 0.05, high=v + 0.05, n=9)
        for key, v in behind.items()
    }
    return Worth(name=name, figures={}, behind=figures)


def test_maps_are_only_praised_where_they_beat_both_controls():
    own, random = worth("lime"), worth("random map", deletion=0.2, insertion=0.3)
    edges = worth("edge detector", deletion=0.2, insertion=0.1)
    assert "better than both" in verdict([own, random, edges])
    edges = worth("edge detector", deletion=0.2, insertion=0.04)
    assert "do not clearly beat the edge detector." in verdict([own, random, edges])


def test_maps_are_held_against_controls_image_by_image(monkeypatch):
    """Images differ far more than maps do, which must not hide the difference."""
    from models.explain import faithfulness

    level = np.linspace(0.1, 0.9, 6)
    rise = {"own": 0.0, "random": 0.02, "edges": 0.02}

    class Removal:
        def __init__(self, *args, **given):
            pass

        def __call__(self, images, targets, maps):
            flat = (level + rise[maps] + [0, 0.001] * 3)[:, None].repeat(3, 1)
            return flat, 1 - flat

    monkeypatch.setattr(faithfulness, "Removal", Removal)
    monkeypatch.setattr(faithfulness, "random_maps", lambda *a, **k: "random")
    monkeypatch.setattr(faithfulness, "edge_maps", lambda *a, **k: "edges")
    images = np.zeros((6, 8, 8, 3), np.uint8)
    rows = worth_of(None, None, images, None, "own", ExplainSettings())
    assert [row.name for row in rows] == ["gradcam", "random map", "edge detector"]
    assert all(row.beaten for row in rows)
    assert rows[1].behind["deletion"].value == pytest.approx(0.02)
    rise["edges"] = -0.02
    assert not worth_of(None, None, images, None, "own", ExplainSettings())[2].beaten


def test_a_class_rests_on_the_background_where_that_is_no_luck():
    masks = np.zeros((12, 4, 4), bool)
    masks[:, :2] = True
    masks[::2, 2] = True  # boxes differ in size
    area = masks.mean((1, 2))
    moved = np.array([-0.3, -0.31, -0.28, -0.3, 0.1, -0.1, 0.02, 0, -0.02, -0.2, 0, 0])
    energy = (area + moved).astype(np.float32)
    energy[11] = np.nan  # a map without any
    targets = np.array([0] * 4 + [1] * 5 + [2] + [0, 1])
    energy[10] = area[10] - 0.29
    found = by_class(energy, masks, targets, classes=CLASSES)
    assert [row.name for row in found] == ["apple", "plum", "pear"]
    assert [row.background for row in found] == [True, False, False]
    assert [row.energy.n for row in found] == [5, 1, 5]
    assert by_class(energy[11:], masks[11:], targets[11:], classes=CLASSES) == []


class Boxed:
    """Ten images, of which the even ones have a box."""

    paths, given = [str(i) for i in range(10)], [None] * 10

    def read(self, rows):
        return np.zeros((len(rows), 8, 8, 3), np.uint8), np.zeros(len(rows), bool)

    def masks(self, rows, names):
        masks = np.zeros((len(rows), 4, 4), bool)
        masks[rows % 2 == 0, 0] = True
        masks[[name == "plum" for name in names], 1] = True
        return masks, masks.any((1, 2))


def test_only_images_with_boxes_stand_behind_the_table_of_classes():
    good = np.ones(10, bool)
    good[0] = False
    predicted = np.zeros(10, np.int64)
    answers = ANSWERS._replace(good=good, predicted=predicted)
    rows, masks = boxed(Boxed(), answers, ExplainSettings(boxed=9), classes=CLASSES)
    assert rows.tolist() == [2, 4, 6, 8]
    assert masks.shape == (4, 4, 4)
    predicted[3] = 2  # whose boxes are looked for
    rows, masks = boxed(Boxed(), answers, ExplainSettings(boxed=9), classes=CLASSES)
    assert rows.tolist() == [2, 3, 4, 6, 8]
    assert masks[1, 1].all()
    few, _ = boxed(Boxed(), answers, ExplainSettings(boxed=3), classes=CLASSES)
    assert set(few.tolist()) <= set(rows.tolist())
    assert len(few) <= 3
    none = classes_by_boxes(
        None, Boxed(), answers, ExplainSettings(boxed=0), classes=CLASSES
    )
    assert none == []


def test_images_of_which_none_can_be_read_are_refused():
    with pytest.raises(SourceError, match="None of 10 images could be read"):
        answers_of(Boxed(), Corner())
