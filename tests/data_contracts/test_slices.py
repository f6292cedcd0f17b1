"""Rules that are held for each value of a column."""

import numpy as np
import pandas as pd
import pytest

from data_contracts.contracts import load_contract
from data_contracts.references import Verdict
from data_contracts.verdicts import check_table

HEAD = "name: mine\nversion: 1.0.0\nowner: me\nwhy: To show it.\nrules:\n"
RULE = """  - name: widths are fine
    type: expect_column_values_to_be_between
    kwargs: {column: width, min_value: 10, mostly: 0.9}
    nulls: allowed
    by: domain
    severity: critical
    why: To show it.
    fix: Mend it.
"""


@pytest.fixture(scope="module")
def contract(tmp_path_factory):
    path = tmp_path_factory.mktemp("slices") / "mine.yaml"
    path.write_text(HEAD + RULE)
    return load_contract(path)


def table(**bad):
    """30 good rows in each of three domains, the first few made bad."""
    frame = pd.DataFrame(
        {"domain": np.repeat(["a", "b", "c"], 30), "width": 64.0},
    )
    frame["path"] = [f"{i}.png" for i in range(len(frame))]
    for domain, n in bad.items():
        rows = frame.index[frame["domain"] == domain][:n]
        frame.loc[rows, "width"] = 1.0
    return frame


def result(contract, frame):
    return check_table(contract, frame).rules[0]


def test_a_slice_that_is_bad_is_found_where_the_whole_is_fine(contract):
    frame = table(b=6)
    assert (frame["width"] >= 10).mean() > 0.9
    found = result(contract, frame)
    assert found.verdict == Verdict.FAIL
    assert found.observed.startswith("1 of 3 slices by `domain` broken: b: 6 of 30")
    assert found.offenders[:2] == ["b: 30.png", "b: 31.png"]
    assert (found.n_offenders, found.value) == (6, pytest.approx(1 / 3))


def test_all_slices_good_is_a_pass(contract):
    found = result(contract, table(a=2))
    assert (found.verdict, found.observed) == (Verdict.PASS, "3 slices by `domain`")


def test_a_slice_of_few_rows_is_not_judged_and_named(contract):
    frame = pd.concat([table(), table(a=9)[:9]], ignore_index=True)
    frame.loc[90:, "domain"] = "tiny"
    found = result(contract, frame)
    assert found.verdict == Verdict.PASS
    assert "under 20 rows, not judged: tiny (9)" in found.observed


def test_with_only_small_slices_the_rule_is_not_run(contract):
    found = result(contract, table()[::10])
    assert (found.verdict, found.value) == (Verdict.NOT_RUN, None)


def test_rows_without_the_value_are_a_slice(contract):
    frame = table(c=30)
    frame.loc[frame["domain"] == "c", "domain"] = None
    found = result(contract, frame)
    assert "broken: no value: 30 of 30" in found.observed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda frame: frame.drop(columns="domain"), "column `domain` is missing"),
        (lambda frame: frame.assign(domain=range(90)).loc[[*range(90)] * 3], "slices"),
    ],
)
def test_slices_that_cannot_be_made_are_an_error(contract, change, said, monkeypatch):
    monkeypatch.setattr("data_contracts.slices.MOST_SLICES", 50)
    found = result(contract, change(table()))
    assert found.verdict == Verdict.ERROR
    assert said in found.observed
