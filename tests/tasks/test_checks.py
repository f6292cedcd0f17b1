"""The history of verdicts survives crashes and company, and tells what is odd."""

import threading

import pytest

from data_contracts.references import (
    ContractReport,
    DatasetRef,
    RuleResult,
    Verdict,
)
from tasks.checks import history_file, read_history, record, robust_score


@pytest.fixture
def source(tmp_path):
    uri = str(tmp_path / "set")
    return DatasetRef(uri=uri, snapshot="S", stage="split", digest="d", n=10)


def report(value, *, rule="few are broken", n=1000):
    result = RuleResult(
        rule=rule, verdict=Verdict.PASS, severity="warning", value=value
    )
    return ContractReport(
        contract="mine",
        version="1.0.0",
        sha256="0",
        verdict=Verdict.PASS,
        n_rows=n,
        rules=[result],
    )


def test_every_check_is_a_line_with_its_figures(source):
    record(source, report(0.25), key="one")
    (check,) = read_history(source.uri)
    assert (check.contract, check.stage, check.snapshot) == ("mine", "split", "S")
    assert (check.rules[0].rule, check.rules[0].value) == ("few are broken", 0.25)


def test_the_same_check_is_recorded_once(source):
    for _ in range(3):
        record(source, report(0.25), key="one")
    assert len(read_history(source.uri)) == 1


def test_a_figure_far_from_the_usual_gets_a_note(source):
    for i in range(6):
        assert record(source, report(0.001), key=str(i)).rules[0].note == ""
    odd = record(source, report(0.04), key="odd").rules[0].note
    assert odd.startswith("far above the usual 0.001: now 0.04 (+39 robust deviations")
    assert record(source, report(0.0015), key="near").rules[0].note == ""


def test_a_few_checks_say_nothing_about_the_usual(source):
    for i in range(3):
        record(source, report(0.001), key=str(i))
    assert record(source, report(0.9), key="odd").rules[0].note == ""


def test_one_odd_check_does_not_make_the_next_one_usual():
    past = [0.01, 0.011, 0.009, 0.01, 0.9]
    assert robust_score(0.9, past, n=10_000) > 100
    assert abs(robust_score(0.01, past, n=10_000)) < 1


def test_a_torn_line_is_cut_off(source):
    record(source, report(0.1), key="one")
    file = history_file(source.uri)
    with file.open("ab") as out:
        out.write(b'{"key": "torn", "wh')
    assert len(read_history(source.uri)) == 1
    record(source, report(0.2), key="two")
    assert [check.rules[0].value for check in read_history(source.uri)] == [0.1, 0.2]
    assert file.read_bytes().count(b"\n") == 2


def test_a_line_of_another_version_is_passed_over(source):
    record(source, report(0.1), key="one")
    with history_file(source.uri).open("ab") as out:
        out.write(b'{"key": "later", "more": 1}\n')
    record(source, report(0.2), key="two")
    assert [check.key for check in read_history(source.uri)] == ["one", "two"]


def test_many_writers_lose_no_line(source):
    def write(who):
        for i in range(10):
            record(source, report(0.1), key=f"{who}-{i}")

    threads = [threading.Thread(target=write, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({check.key for check in read_history(source.uri)}) == 40
