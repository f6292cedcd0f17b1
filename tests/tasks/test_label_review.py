"""Suspects go out as a CSV, decisions come back, mistakes in the file are named."""

import csv
from pathlib import Path

import numpy as np
import pytest

from data_contracts.errors import UsageError
from data_contracts.store import Dataset
from tasks.clean import CleanSettings, clean_dataset
from tasks.label_audit import AuditSettings, audit_dataset
from tasks.label_policy import WrongLabels
from tasks.label_review import read_reviews, write_suspects
from tasks.split import SplitSettings, split_dataset
from tests.datasets import make_dataset

HEADER = ["path", "sha256", "label", "who", "when", "note"]


def divided(tmp_path: Path, n: int = 40):
    source = clean_dataset(make_dataset(tmp_path, n), CleanSettings(min_std=0))
    return split_dataset(source, SplitSettings())


def sheet(path: Path, *rows: list[str], header: list[str] = HEADER) -> str:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


def reviewed(source, path: str, before=None):
    settings = AuditSettings(wrong_labels=WrongLabels.off, review=path)
    return audit_dataset(source, settings, runs="", before=before)


def line(row: int, label: str, who: str = "Ann") -> list[str]:
    return [f"{row:03}.png", f"{row:064x}", label, who, "2026-01-02", "seen"]


def test_a_person_decides_on_every_split_and_the_given_label_stays(tmp_path: Path):
    source = divided(tmp_path)
    use = Dataset(source).column("use")
    test, train = np.flatnonzero(use == 2)[0], np.flatnonzero(use == 0)[:2]
    label = Dataset(source).column("label")
    other = "ba"[label[test]]
    path = sheet(
        tmp_path / "r.csv",
        line(test, other),
        line(train[0], "-"),
        line(train[1], "ab"[label[train[1]]]),
        line(3, ""),
    )
    ref = reviewed(source, path)
    c = Dataset(ref).columns("label", "target", "verdict", "use", "weight", "reviewer")
    assert (c["label"] == label).all()
    assert c["target"][test] == 1 - label[test]
    assert c["use"][test] == 2
    assert c["verdict"][[test, *train]].tolist() == [
        "corrected",
        "excluded",
        "confirmed",
    ]
    assert c["use"][train].tolist() == [-1, 0]
    assert c["target"][train[0]] == -1
    assert c["weight"][train[0]] == 0
    assert c["reviewer"][test] == "Ann"
    assert (c["reviewer"] != "").sum() == 3
    assert Dataset(ref).attributes["reviews"][0]["when"] == "2026-01-02"
    assert any("1 labels of test" in note for note in Dataset(ref).attributes["notes"])


def test_what_is_written_reads_back_as_the_same_decisions(tmp_path: Path):
    source = divided(tmp_path)
    first = reviewed(source, sheet(tmp_path / "r.csv", line(1, "a"), line(2, "-")))
    out = str(tmp_path / "again.csv")
    assert write_suspects(first, out=out) == 2
    found = {review.path: review for review in read_reviews(out)}
    assert found["001.png"].label == "a"
    assert found["002.png"].label == "-"
    assert {review.note for review in found.values()} == {"seen"}
    again = Dataset(reviewed(source, out))
    for name in ("target", "use", "verdict", "reviewer", "reviewed"):
        assert (again.column(name) == Dataset(first).column(name)).all()


def test_decisions_go_on_to_hold_and_later_ones_win(tmp_path: Path):
    source = divided(tmp_path)
    first = reviewed(source, sheet(tmp_path / "a.csv", line(1, "a"), line(2, "a")))
    second = sheet(tmp_path / "b.csv", line(2, "b", who="Bo"))
    found = Dataset(reviewed(source, second, before=first))
    assert found.column("target")[[1, 2]].tolist() == [0, 1]
    assert found.column("reviewer")[[1, 2]].tolist() == ["Ann", "Bo"]


def test_the_content_of_the_file_counts_not_its_name(tmp_path: Path):
    source = divided(tmp_path)
    first = reviewed(source, sheet(tmp_path / "a.csv", line(1, "a")))
    assert reviewed(source, sheet(tmp_path / "b.csv", line(1, "a"))) == first
    assert reviewed(source, sheet(tmp_path / "b.csv", line(1, "b"))) != first


def test_semicolons_a_byte_order_mark_and_line_breaks_are_read(tmp_path: Path):
    path = tmp_path / "excel.csv"
    text = (
        '\ufeffpath;sha256;label;note\r\n1.png;00;a;"two\r\nlines"\r\n2.png;01;b;\r\n'
    )
    path.write_bytes(text.encode())
    found = read_reviews(str(path))
    assert [review.label for review in found] == ["a", "b"]
    assert found[0].when
    assert found[0].who


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([line(1, "zebra")], r"line 2: 'zebra' is no class"),
        ([line(1, "a"), ["ghost.png", "0", "a", "", "", ""]], "line 3: image 'ghost"),
        (
            [["001.png", "abc", "a", "", "", ""]],
            "line 2: image '001.png' changed since",
        ),
        ([line(1, "a"), line(1, "b")], "line 3: 001.png is 'b' here and 'a' in"),
        ([["001.png", "a"]], "line 2: another number of cells"),
        ([["", "", "a", "", "", ""]], "line 2: path or sha256 is empty"),
    ],
)
def test_a_mistake_is_named_by_its_line(tmp_path: Path, rows, message):
    source = divided(tmp_path)
    with pytest.raises(UsageError, match=message):
        reviewed(source, sheet(tmp_path / "r.csv", *rows))


def test_what_is_no_review_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_reviews(str(tmp_path / "none.csv"))
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="UTF-8"):
        read_reviews(str(tmp_path / "x.csv"))
    with pytest.raises(UsageError, match="no column label"):
        read_reviews(sheet(tmp_path / "y.csv", header=["path", "sha256"]))
    with pytest.raises(UsageError, match=r"must end in \.csv"):
        write_suspects(divided(tmp_path), out="x.txt")
