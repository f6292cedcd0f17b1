"""What a contract's verdict says, and of which images."""

import json

import numpy as np
import pytest

from data_contracts.errors import ContractError, UsageError
from data_contracts.references import Verdict
from data_contracts.verdicts import check_table, describe, enforce
from tests.data_contracts.contract_tables import (
    LABELS,
    N,
    both,
    check_one,
    good_predictions,
    good_table,
    one_rule,
    put,
    repeat,
    shipped_contract,
)


def test_a_broken_rule_names_its_images():
    frame = good_table()
    put("width", 0, range(20, 50))(frame)
    result = check_one("ingested", "widths are possible", frame)
    assert result.n_offenders == 30
    assert result.offenders == list(frame["path"][20:40])
    assert result.observed.startswith(
        "30 of 119 rows hold 0; wanted at least 1, at most 100000"
    )


def test_images_are_named_whatever_the_index_of_the_table():
    frame = good_table()
    put("width", 0, [7])(frame)
    frame = frame.set_index("sha256", drop=False)[::-1]
    result = check_one("ingested", "widths are possible", frame)
    assert result.offenders == ["bread/7.jpg"]
    frame.loc[frame.index[5], "split"] = "dev"
    result = check_one("ingested", "given splits are known", frame)
    assert result.offenders == [frame["path"].iloc[5]]


def test_a_row_without_a_path_is_named_by_its_number():
    frame = good_table()
    put("path", None)(frame)
    result = check_one("ingested", "every row names its image", frame)
    assert result.offenders == ["row 7"]


def test_missing_values_are_told_in_words():
    frame = good_table()
    put("label", None, range(1, 20))(frame)
    result = check_one("ingested", "most images have a label", frame)
    wanted = "wanted for a share of at least 0.9"
    assert result.observed == f"19 of 119 rows have no `label`; {wanted}"


def test_images_without_a_label_do_not_count_as_lost_in_cleaning():
    frame, name = good_table(), "cleaning leaves enough images"
    both(
        put("keep", False, range(100)),
        put("reason", "no-label", range(1, 100)),
    )(frame)
    assert check_one("cleaned", name, frame).verdict == Verdict.PASS
    put("reason", "blurred", range(1, 100))(frame)
    result = check_one("cleaned", name, frame)
    assert (result.verdict, result.n_offenders) == (Verdict.FAIL, 99)


def test_no_rows_fail():
    report = check_table(shipped_contract("ingested"), good_table()[:0])
    assert (report.verdict, report.n_rows) == (Verdict.FAIL, 0)
    with pytest.raises(ContractError, match="the table has no rows"):
        enforce(report)


def test_a_missing_column_is_an_error_and_the_other_rules_still_run():
    report = check_table(
        shipped_contract("ingested"), good_table().drop(columns=["kind", "sigma"])
    )
    assert report.verdict == Verdict.ERROR
    verdicts = {rule.rule: rule.verdict for rule in report.rules}
    assert verdicts["file kinds are known"] == Verdict.ERROR
    assert verdicts["the table has its columns"] == Verdict.FAIL
    assert verdicts["widths are possible"] == Verdict.PASS
    first = report.failures[0]
    assert first.observed == "column `kind` is missing"
    assert "missing kind, sigma" in describe(report)


def test_a_rule_that_cannot_be_applied_stops_the_run_even_if_only_a_warning():
    alone = one_rule("split", "the test is large enough to decide on")
    report = check_table(alone, good_table().drop(columns="use"))
    with pytest.raises(ContractError, match="could not be checked"):
        enforce(report)


def test_a_table_without_the_column_that_selects_rows_is_an_error():
    report = check_table(shipped_contract("ingested"), good_table().drop(columns="ok"))
    verdicts = {rule.rule: rule for rule in report.rules}
    assert verdicts["widths are possible"].observed == "column `ok` is missing"
    result = verdicts["there are enough readable images"]
    assert (result.verdict, result.observed) == (
        Verdict.ERROR,
        "column `ok` is missing",
    )


def test_a_rule_over_no_rows_is_not_run_rather_than_passed():
    frame = good_table()
    put("keep", False, range(N))(frame)
    report = check_table(shipped_contract("cleaned"), frame)
    verdicts = {rule.rule: rule for rule in report.rules}
    alone = verdicts["kinds of noise are known"]
    assert (alone.verdict, alone.observed) == (Verdict.NOT_RUN, "no such rows")
    assert verdicts["cleaning leaves enough images"].verdict == Verdict.FAIL
    assert "not run" in describe(report)


def test_one_class_fails_with_a_text_that_says_what_to_do():
    frame = good_table()
    put("label", "apple", range(N))(frame)
    report = check_table(shipped_contract("ingested"), frame)
    with pytest.raises(ContractError) as error:
        enforce(report)
    assert error.value.exit_code == 3
    text = str(error.value)
    assert "FAIL: there are at least two classes" in text
    assert "came: 1 (`label` holds apple); wanted at least 2" in text
    assert "do: Put each class in a folder of its own" in text


def test_no_labels_at_all_fail_too():
    frame = good_table()
    put("label", None, range(N))(frame)
    result = check_one("ingested", "there are at least two classes", frame)
    assert result.verdict == Verdict.FAIL


def test_a_warning_does_not_stop_the_run():
    frame = good_table()
    put("use", "unused", range(90, N))(frame)
    report = check_table(shipped_contract("split"), frame)
    assert report.verdict == Verdict.WARN
    assert enforce(report) is report


def test_the_budget_for_broken_files_is_a_parameter():
    frame, name = good_table(), "broken files stay within the budget"
    put("ok", False, range(30))(frame)
    result = check_one("ingested", name, frame, max_bad_share=0.3)
    assert result.verdict == Verdict.PASS
    result = check_one("ingested", name, frame)
    assert result.observed == "30 of 120 rows (25.0%); wanted a share of at most 0.2"
    assert result.n_offenders == 30


def test_leakage_warns_on_given_splits_and_fails_on_our_own():
    frame, name = good_table(), "look-alikes stay in one split"
    put("group", 7, [7, 100])(frame)
    own = check_one("split", name, frame)
    assert (own.verdict, own.offenders) == (
        Verdict.FAIL,
        ["bread/7.jpg", "bread/100.jpg"],
    )
    given = check_one("split", name, frame, given_splits=True)
    assert (given.verdict, given.severity) == (Verdict.WARN, "warning")


def test_unused_copies_are_no_leakage():
    frame = good_table()
    put("group", 7, [7, 100])(frame)
    put("use", "unused", [100])(frame)
    result = check_one("split", "look-alikes stay in one split", frame)
    assert result.verdict == Verdict.PASS


def test_classes_that_fall_short_are_named():
    frame = good_table()
    put("label", "quince", [100, 101])(frame)
    result = check_one("split", "every tested class was trained", frame)
    assert "1 of 4 classes have too few: quince (0)" in result.observed
    assert result.offenders == ["bread/100.jpg", "cheese/101.jpg"]


def test_conflicting_copies_may_stay_in_a_given_test_split():
    frame, name = good_table(), "copies with different labels are all dropped"
    repeat("sha256")(frame)
    put("split", "test", [7, 8])(frame)
    assert check_one("cleaned", name, frame).verdict == Verdict.PASS
    put("split", "train", [7])(frame)
    result = check_one("cleaned", name, frame)
    assert result.offenders == ["bread/7.jpg"]


def test_arrays_that_were_not_checked_are_said_to_be_not_run():
    report = check_table(shipped_contract("cleaned"), good_table())
    assert report.rules[-1].verdict == Verdict.NOT_RUN
    assert report.verdict == Verdict.PASS


def test_a_report_is_plain_and_survives_json():
    frame = good_table()
    both(
        put("std", np.inf), put("path", "\x1b[31mred\n.jpg", [9]), put("width", 0, [9])
    )(frame)
    report = check_table(shipped_contract("ingested"), frame)
    back = type(report).model_validate_json(report.model_dump_json())
    assert back == report
    assert json.loads(report.model_dump_json())["verdict"] == "fail"
    text = describe(report)
    assert "\x1b" not in text
    assert "\\x1b[31mred\\n.jpg" in text


def test_names_that_are_not_unicode_do_not_break_the_report():
    frame = good_table()
    frame["path"] = frame["path"].astype(object)
    put("path", "caf\udce9.jpg", [9])(frame)
    put("width", 0, [9])(frame)
    result = check_one("ingested", "widths are possible", frame)
    assert result.offenders == ["caf\\udce9.jpg"]


def test_unknown_and_missing_parameters_are_refused():
    with pytest.raises(UsageError, match=r"`max_bad_shar`.*`max_bad_share`"):
        check_table(
            shipped_contract("ingested"), good_table(), parameters={"max_bad_shar": 0.1}
        )
    with pytest.raises(UsageError, match="needs a value for `rows`"):
        check_table(
            shipped_contract("predictions"),
            good_predictions(),
            parameters={"label_names": LABELS},
        )


@pytest.mark.parametrize(
    ("stage", "parameter", "value"),
    [
        ("ingested", "max_bad_share", "much"),
        ("ingested", "max_bad_share", None),
        ("ingested", "max_bad_share", 20),
        ("split", "given_splits", "false"),
        ("split", "min_per_class", 0),
    ],
)
def test_a_parameter_that_would_switch_a_rule_off_is_refused(stage, parameter, value):
    with pytest.raises(UsageError, match=parameter):
        check_table(
            shipped_contract(stage), good_table(), parameters={parameter: value}
        )
