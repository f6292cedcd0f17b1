"""Rules over a whole table, as plain functions."""

import pandas as pd
import pytest

from data_contracts.table_rules import (
    each_class_has_rows,
    matching_rows,
    one_value_per_group,
    select,
)

NO_BOUND = (None, None)


@pytest.fixture
def frame():
    return pd.DataFrame(
        {
            "label": ["a", "a", "b", None],
            "use": ["train", "test", "test", "unused"],
            "group": [0, 0, 2, 3],
            "ok": [True, True, False, True],
        }
    )


def matches(frame, rows, among=None, count=NO_BOUND, share=NO_BOUND):
    return matching_rows(frame, rows=rows, among=among or {}, count=count, share=share)


def test_a_selection_wants_every_column_to_match(frame):
    assert select(frame, {"ok": True, "use": ["train", "test"]}).tolist() == [
        *(True, True, False, False)
    ]
    assert select(frame, {"label": [None, "b"]}).tolist() == [False, False, True, True]
    assert select(frame, {}).all()


def test_a_selection_by_a_missing_column_is_refused(frame):
    with pytest.raises(KeyError, match="`keep` is missing"):
        select(frame, {"keep": True})


@pytest.mark.parametrize(
    ("count", "share", "ok"),
    [
        ((2, None), NO_BOUND, True),
        ((3, None), NO_BOUND, False),
        ((None, 2), NO_BOUND, True),
        ((None, 1), NO_BOUND, False),
        (NO_BOUND, (0.5, None), True),
        (NO_BOUND, (0.51, None), False),
        (NO_BOUND, (None, 0.5), True),
        (NO_BOUND, (None, 0.49), False),
    ],
)
def test_bounds_on_count_and_share_include_their_limit(frame, count, share, ok):
    assert matches(frame, {"use": "test"}, count=count, share=share).ok is ok


def test_blame_falls_on_the_rows_that_match_too_often_or_miss_too_often(frame):
    rows = {"use": "test"}
    assert matches(frame, rows, count=(None, 1)).rows == [1, 2]
    assert matches(frame, rows, share=(None, 0.1)).rows == [1, 2]
    assert matches(frame, rows, share=(0.9, None)).rows == [0, 3]
    assert matches(frame, rows, count=(3, None)).rows == []


def test_a_share_of_no_rows_is_too_small(frame):
    none = {"use": "dev"}
    assert not matches(frame, {"ok": True}, among=none, share=(0.1, None)).ok


@pytest.mark.parametrize(("least", "ok"), [(1, True), (2, False)])
def test_a_class_needs_its_count_and_no_more(frame, least, ok):
    finding = each_class_has_rows(
        frame, "label", rows={"ok": True}, among={"use": "test"}, min_count=least
    )
    assert finding.ok is ok
    assert finding.rows == ([] if ok else [0, 1])


def test_a_missing_label_is_no_class(frame):
    finding = each_class_has_rows(frame, "label", rows={}, among={}, min_count=1)
    assert (finding.ok, finding.observed) == (True, "2 classes")


def test_only_groups_of_several_values_are_blamed(frame):
    finding = one_value_per_group(frame, "use", group="group", rows={}, among={})
    assert (finding.ok, finding.rows, finding.n) == (False, [0, 1], 2)
    of_label = one_value_per_group(frame, "label", group="group", rows={}, among={})
    assert of_label.ok


def test_a_mixed_group_with_no_row_among_those_asked_is_fine(frame):
    finding = one_value_per_group(
        frame, "use", group="group", rows={}, among={"use": "unused"}
    )
    assert finding.ok


def test_offenders_are_counted_past_the_first_twenty(frame):
    many = pd.concat([frame] * 10, ignore_index=True)
    finding = matches(many, {"ok": True}, count=(None, 0))
    assert (finding.n, len(finding.rows)) == (30, 20)
