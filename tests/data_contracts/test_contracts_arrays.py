"""Array rules, alone: no Great Expectations here."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from data_contracts.arrays import ArrayRule, check_arrays, judge, merge
from data_contracts.references import Verdict


def rule(**asked):
    words = {"severity": "critical", "why": "It matters.", "fix": "Mend it."}
    return ArrayRule(**{"name": "the rule", "array": "x", **words, **asked})


def finding(array, names=None, **asked):
    arrays = array if isinstance(array, dict) else {"x": np.asarray(array)}
    names = names or [f"{i}.png" for i in range(len(next(iter(arrays.values()))))]
    return check_arrays([rule(**asked)], arrays, names)[0]


@pytest.mark.parametrize(
    ("asked", "good", "bad"),
    [
        ({"dtype": "uint8"}, np.uint8([1]), np.int16([1])),
        ({"dtype": ["float32", "float64"]}, np.float32([1]), np.float16([1])),
        ({"dtype": "str"}, np.array(["a"], object), np.int8([1])),
        ({"tail": [None, 3]}, np.zeros((1, 7, 3)), np.zeros((1, 7, 4))),
        ({"tail": []}, np.zeros(1), np.zeros((1, 1))),
        ({"tail": [2, 2]}, np.zeros((1, 2, 2)), np.zeros((1, 2))),
        ({"min": 0}, [[0.0, 1.0]], [[1.0, -1e-9]]),
        ({"max": 1}, [[0.0, 1.0]], [[1.0, 1.1]]),
        ({"min": 0}, [0.0], [np.nan]),
        ({"max": 0}, [0.0], [np.nan]),
        ({"finite": True}, [[0.0, 1e30]], [[0.0, np.inf]]),
        ({"finite": True}, [[0.0, 1.0]], [[np.nan, 1.0]]),
        ({"varies": True}, [[3, 4]], [[3, 3]]),
        ({"sums_to": 1}, [[0.5, 0.5]], [[0.5, 0.4]]),
        ({"sums_to": 1}, [[0.5, 0.5]], [[0.5, np.nan]]),
        ({"sums_to": 1}, [[0.5, 0.5]], np.zeros((1, 0))),
    ],
)
def test_each_question_tells_good_from_bad(asked, good, bad):
    assert finding(good, **asked).n_offenders == 0
    found = finding(bad, **asked)
    assert (found.n_offenders, found.offenders) == (1, ["0.png"])
    assert judge(rule(**asked), found).verdict == Verdict.FAIL


def test_only_the_rows_asked_for_are_read():
    arrays = {"x": np.array([0, 9, 9]), "keep": np.array([True, False, True])}
    found = finding(arrays, names=["a", "b", "c"], where={"keep": True}, max=5)
    assert (found.n_rows, found.offenders) == (2, ["c"])


def test_two_faults_of_one_row_make_one_offender():
    found = finding([[np.nan, 2.0]], finite=True, max=1)
    assert found.n_offenders == 1
    assert found.faults == {"not finite": 1, "above 1": 1}


def test_rows_of_every_fault_are_offenders():
    found = finding([-9, 0, 9], names=["a", "b", "c"], min=-1, max=1)
    assert found.offenders == ["a", "c"]


def test_a_missing_array_is_an_error_not_a_pass():
    found = finding({"y": np.zeros(2)}, max=1)
    assert judge(rule(max=1), found).verdict == Verdict.ERROR
    assert "`x` is missing" in found.broken


def test_an_array_of_another_length_is_an_error():
    found = finding({"x": np.zeros(2)}, names=["a", "b", "c"], max=1)
    assert "2 rows for 3 images" in found.broken


def test_unchecked_and_empty_arrays_do_not_pass():
    assert judge(rule(max=1), None).verdict == Verdict.NOT_RUN
    assert judge(rule(max=1), finding(np.zeros(0), max=1)).verdict == Verdict.NOT_RUN


def test_offenders_are_capped_but_counted():
    found = finding(np.full(50, 7), max=5)
    assert (found.n_offenders, len(found.offenders)) == (50, 20)


def test_a_warning_stays_a_warning():
    asked = {"max": 5, "severity": "warning"}
    assert judge(rule(**asked), finding([7], **asked)).verdict == Verdict.WARN


def test_a_name_that_is_not_unicode_is_spelled_out():
    found = finding([7], names=["caf\udce9.png"], max=5)
    assert found.offenders == ["caf\\udce9.png"]
    found.model_dump_json()


@pytest.mark.parametrize("asked", [{}, {"min": 2, "max": 1}, {"bogus": 1}])
def test_a_rule_that_asks_nothing_or_the_impossible_is_refused(asked):
    with pytest.raises(ValidationError):
        rule(**asked)


@settings(deadline=None)
@given(
    rows=st.lists(st.lists(st.floats(width=32), min_size=2, max_size=2), max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=4),
)
def test_chunks_merge_to_the_finding_of_the_whole(rows, cuts):
    array = np.array(rows, np.float32).reshape(-1, 2)
    names = [str(i) for i in range(len(array))]
    rules = [
        rule(name="range", min=-1, max=1),
        rule(name="finite", finite=True),
        rule(name="varies", varies=True),
    ]
    bounds = [0, *sorted(min(cut, len(array)) for cut in cuts), len(array)]
    parts = [
        check_arrays(rules, {"x": array[a:b]}, names[a:b]) for a, b in pairwise(bounds)
    ]
    assert merge(parts) == check_arrays(rules, {"x": array}, names)
