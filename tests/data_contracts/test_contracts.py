"""The loader refuses every contract that would check less than it says."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from data_contracts.contracts import load_contract
from data_contracts.errors import UsageError
from data_contracts.references import Verdict
from data_contracts.verdicts import check_table

WORDS = {"severity": "critical", "why": "It matters.", "fix": "Mend it."}
NOT_NULL = {
    "name": "x is there",
    "type": "expect_column_values_to_not_be_null",
    "kwargs": {"column": "x"},
    **WORDS,
}
BETWEEN = {
    "name": "x is small",
    "type": "expect_column_values_to_be_between",
    "kwargs": {"column": "x", "max_value": 3},
    **WORDS,
}
COLUMNS = {
    "name": "columns are there",
    "type": "expect_table_columns_to_match_set",
    "kwargs": {"column_set": ["x"]},
    "severity": "critical",
    "why": "To show it.",
    "fix": "Mend it.",
}
DRIFT = COLUMNS | {
    "type": "expect_column_to_keep_its_distribution",
    "kwargs": {"column": "x", "baseline": {"values": {"a": 1, "b": 2}}},
}
HEAD = {"name": "mine", "version": "1.0.0", "owner": "me", "why": "To show it."}


def written(tmp_path: Path, **keys) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(HEAD | keys))
    return path


def without(rule, key):
    return {k: v for k, v in rule.items() if k != key}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "empty"),
        ({"rules": []}, "empty"),
        ({"rules": [NOT_NULL], "rule": []}, "rule: unknown key. Did you mean `rules`"),
        ({"rules": [NOT_NULL], "sha256": "0"}, "unknown key `sha256`"),
        ({"rules": [NOT_NULL], "version": "1.0"}, "version"),
        ({"rules": [NOT_NULL], "draft": True}, "a draft that nobody has accepted"),
        ({"rules": [NOT_NULL], "after": "training"}, "'ingest', 'denoise' or 'split'"),
        ({"rules": [NOT_NULL | {"min_slice": 9}]}, "nothing without `by`"),
        (
            {"rules": [NOT_NULL | {"by": "domain"}, BETWEEN]},
            "rows with no `x` would pass",
        ),
        ({"rules": [COLUMNS | {"by": "domain"}]}, "slices have the same columns"),
        ({"rules": [DRIFT | {"by": "domain"}]}, "its baseline is of all slices"),
        ({"rules": [DRIFT | {"kwargs": {"column": "x"}}]}, "give `baseline`, or"),
        (
            {"rules": [DRIFT | {"kwargs": {"column": "x", "baseline": {"edges": []}}}]},
            "give `edges` and `counts`, or `values`",
        ),
        ({"rules": [NOT_NULL], "owner": ""}, "owner"),
        ({"rules": [NOT_NULL | {"wy": "x"}]}, "unknown key. Did you mean `why`"),
        ({"rules": [without(NOT_NULL, "why")]}, r"rules.0.why \('x is there'\): Field"),
        ({"rules": [NOT_NULL | {"why": ""}]}, "rules.0.why"),
        ({"rules": [without(NOT_NULL, "fix")]}, "rules.0.fix"),
        ({"rules": [NOT_NULL | {"severity": "info"}]}, "'critical' or 'warning'"),
        ({"rules": [NOT_NULL, NOT_NULL]}, "'x is there' is used twice"),
        (
            {"rules": [NOT_NULL | {"type": "expect_column_values_not_null"}]},
            "unknown type.*Did you mean `expect_column_values_to_not_be_null`",
        ),
        ({"rules": [NOT_NULL | {"type": "unexpected_rows_expectation"}]}, "needs SQL"),
        ({"rules": [NOT_NULL | {"kwargs": {"colum": "x"}}]}, "bad kwargs.*column"),
        (
            {"rules": [NOT_NULL, BETWEEN | {"kwargs": {"column": "x", "max": 3}}]},
            "extra fields not permitted",
        ),
        (
            {"rules": [NOT_NULL | {"kwargs": {"column": "x", "mostly": 2}}]},
            "less than or equal to 1",
        ),
        (
            {"rules": [NOT_NULL | {"kwargs": {"column": "x", "severity": "info"}}]},
            "`severity` may not stand in `kwargs`",
        ),
        (
            {
                "rules": [
                    NOT_NULL
                    | {"type": "expect_matching_rows", "kwargs": {"rows": {"x": 1}}}
                ]
            },
            "no bound is given",
        ),
        ({"rules": [BETWEEN]}, "rows with no `x` would pass"),
        (
            {"rules": [NOT_NULL | {"where": {"ok": True}}, BETWEEN]},
            "rows with no `x` would pass",
        ),
        (
            {"rules": [NOT_NULL | {"kwargs": {"column": {"$PARAMETER": "c"}}}]},
            "unknown parameter `c`",
        ),
        (
            {"rules": [NOT_NULL], "parameters": {"a": {"default": 1, "why": "x"}}},
            "parameters.a: no rule uses it",
        ),
        ({"rules": [NOT_NULL | {"warning_if": "a"}]}, "unknown parameter `a`"),
        (
            {
                "rules": [NOT_NULL | {"warning_if": "a"}],
                "parameters": {"a": {"default": 1, "why": "x"}},
            },
            "needs a true or false parameter",
        ),
        (
            {"arrays": [{"name": "x", "array": "x", **WORDS}]},
            "the rule asks nothing",
        ),
        (
            {"arrays": [{"name": "x", "array": "x", "maxx": 1, **WORDS}]},
            "unknown key. Did you mean `max`",
        ),
    ],
)
def test_a_wrong_contract_is_refused(keys, message, tmp_path):
    with pytest.raises(UsageError, match=f"(?s)the contract is wrong.*{message}"):
        load_contract(written(tmp_path, **keys))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nname: b\n", "`name` is written twice"),
        ("- a\n", "a contract is a mapping, not list"),
        ("a: [", "cannot be read"),
        ("a: \x00", "cannot be read"),
        ("? [a]\n: 1\n", "cannot be read"),
        ("", "not NoneType"),
    ],
)
def test_a_file_that_is_no_contract_is_refused(text, message, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_contract(path)


def test_a_missing_file_and_an_unknown_stage_are_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        load_contract(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="Did you mean `cleaned`"):
        load_contract("cleaning")


def test_all_faults_are_told_at_once(tmp_path):
    path = written(tmp_path, rules=[NOT_NULL | {"type": "expect_x"}, BETWEEN])
    with pytest.raises(UsageError) as error:
        load_contract(path)
    assert "rules.0" in str(error.value)
    assert "rules.1" in str(error.value)


def test_an_own_contract_loads_from_a_path_and_carries_its_digest(tmp_path):
    path = written(tmp_path, rules=[NOT_NULL, BETWEEN])
    contract = load_contract(path)
    assert len(contract.sha256) == 64
    frame = pd.DataFrame({"path": ["a", "b"], "x": [1.0, 9.0]})
    report = check_table(contract, frame)
    assert report.sha256 == contract.sha256
    assert report.failures[0].offenders == ["b"]


def test_an_empty_column_does_not_pass(tmp_path):
    contract = load_contract(written(tmp_path, rules=[NOT_NULL, BETWEEN]))
    frame = pd.DataFrame({"path": ["a", "b"], "x": [np.nan, np.nan]})
    assert check_table(contract, frame).verdict == Verdict.FAIL


def test_the_contract_in_the_documentation_loads(tmp_path):
    text = Path(__file__).parents[2].joinpath("docs", "contracts.md").read_text()
    path = tmp_path / "example.yaml"
    path.write_text(text.split("```yaml\n")[1].split("```")[0])
    assert load_contract(path).name == "shelf-photos"
