from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_contracts.errors import SourceError
from tests.tasks.listings import labels, listed, said
from tests.tasks.pictures import write


def manifest(tmp_path: Path, text: str | bytes, *, n: int = 4) -> Path:
    for i in range(n):
        write(tmp_path / f"{i}.png", seed=i)
    path = tmp_path / "list.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_every_column_of_a_manifest_is_read(tmp_path: Path) -> None:
    text = (
        "path,label,split,coarse_label,domain,text,tags,boxes\n"
        '0.png,kiwi,validation,fruit,shop,"green,\nand ""round""",a|b|a,'
        '"[[1, 2, 3, 4, ""k""]]"\n'
        "./1.png,,gallery,,,,,\n"
    )
    found = listed(manifest(tmp_path, text))
    assert found.path == ["0.png", "1.png"]
    assert found.label == ["kiwi", None]
    assert found.split == ["val", "other"]
    assert (found.coarse[0], found.domain[0]) == ("fruit", "shop")
    assert found.text == ['green,\nand "round"', None]
    assert found.tags == [("a", "b"), ()]
    assert found.boxes == [((1.0, 2.0, 3.0, 4.0, "k"),), ()]
    assert said(found, "gallery 1", "'other'")
    assert said(found, "missing labels: 1 of 2")


@pytest.mark.parametrize(
    "raw",
    [
        "path;label\n0.png;Käse\n".encode(),
        "path\tlabel\r\n0.png\tKäse\r\n".encode(),
        "\ufeffpath,label\n0.png,Käse\n".encode(),
        "path,label\n0.png,Käse\n".encode("latin-1"),
        "path,label\n0.png,Käse\n".encode("utf-16"),
        '"Path" , "Label"\n0.png,Käse\n\n'.replace('" , "', '","').encode(),
    ],
)
def test_usual_ways_to_write_csv_are_read(tmp_path: Path, raw: bytes) -> None:
    found = listed(manifest(tmp_path, raw))
    assert labels(found) == {"0.png": "Käse"}


def test_missing_and_number_labels(tmp_path: Path) -> None:
    text = "path,label\n0.png,10\n1.png,9\n2.png,nan\n3.png,\n"
    found = listed(manifest(tmp_path, text))
    assert found.label == ["10", "9", None, None]
    assert found.label_names == ["9", "10"]
    floats = listed(manifest(tmp_path, text.replace("10", "10.0").replace("9", "9.0")))
    assert floats.label == found.label


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    text = "photo,what\n0.png,kiwi\n"
    path = manifest(tmp_path, text)
    with pytest.raises(SourceError, match=r"lacks the column 'path'.*photo, what"):
        listed(path)
    found = listed(path, columns={"path": "photo", "label": "what"})
    assert labels(found) == {"0.png": "kiwi"}
    with pytest.raises(SourceError, match=r"no column 'phot'.*Did you mean 'photo'"):
        listed(path, columns={"path": "phot"})
    with pytest.raises(SourceError, match=r"columns\.lable.*Did you mean label"):
        listed(path, columns={"lable": "what"})
    usual = listed(manifest(tmp_path, "File_Name,Class\n0.png,kiwi\n"))
    assert labels(usual) == {"0.png": "kiwi"}
    assert said(usual, "'Class' read as label")


def test_bad_rows_are_kept_as_problems(tmp_path: Path) -> None:
    text = "path,label\n0.png,a\n,a\ngone.png,a\n1.png,a,b,c\n..,a\n2.png,a\n"
    found = listed(manifest(tmp_path, text))
    assert found.problem == [
        "",
        "bad-name",
        "missing-file",
        "bad-row",
        "escapes-root",
        "",
    ]
    assert "line 5" in found.detail[3]
    assert len(set(found.path)) == 6


def test_paths_repeated_with_another_label_are_a_problem(tmp_path: Path) -> None:
    text = "path,label\n0.png,a\n./0.png,b\n1.png,a\n1.png,a\n"
    found = listed(manifest(tmp_path, text))
    assert found.path == ["0.png", "1.png"]
    assert found.problem == ["conflicting-rows", ""]
    assert "'a' and 'b'" in found.detail[0]
    assert said(found, "2 rows repeat", "1 of them")


def test_absolute_paths_are_right_only_below_the_root(tmp_path: Path) -> None:
    outside = write(tmp_path / "out.png")
    inside = tmp_path / "in" / "0.png"
    text = f"path,label\n{inside},a\n{outside},a\n{tmp_path}/in/../out.png,a\n"
    (tmp_path / "in").mkdir()
    found = listed(manifest(tmp_path / "in", text))
    assert found.path[0] == "0.png"
    assert found.problem == ["", "escapes-root", "escapes-root"]


def test_backslashes_of_another_system_are_understood(tmp_path: Path) -> None:
    write(tmp_path / "a/b.png")
    found = listed(manifest(tmp_path, "path\na\\b.png\n"))
    assert (found.path, found.problem) == (["a/b.png"], [""])


def test_root_says_where_paths_start(tmp_path: Path) -> None:
    path = manifest(tmp_path / "lists", "path,label\nkiwi.png,a\n")
    write(tmp_path / "photos" / "kiwi.png")
    with pytest.raises(SourceError, match=r"none of its 1 paths.*kiwi\.png.*root="):
        listed(path)
    assert listed(path, root=str(tmp_path / "photos")).problem == [""]


def test_a_manifest_in_a_folder_is_used(tmp_path: Path) -> None:
    write(tmp_path / "a/1.png")
    write(tmp_path / "a/2.png", seed=1)
    (tmp_path / "manifest.csv").write_text("path,label\na/1.png,kiwi\n")
    found = listed(tmp_path)
    assert labels(found) == {"a/1.png": "kiwi"}
    assert said(found, "manifest.csv", "says what to ingest")


def test_a_parquet_manifest_is_read(tmp_path: Path) -> None:
    path = manifest(tmp_path, "").with_name("manifest.parquet")
    table = pa.table(
        {
            "path": ["0.png", "1.png"],
            "label": pa.array([3, None], pa.int64()),
            "tags": [["a", "b"], None],
            "boxes": [[{"x0": 0.1, "y0": 0.2, "x1": 0.5, "y1": 1.0, "name": "k"}], []],
        }
    )
    pq.write_table(table, path)
    for found in (listed(path), listed(tmp_path)):
        assert found.label == ["3", None]
        assert found.tags == [("a", "b"), ()]
        corners, names = found.box_fractions(0, width=50, height=10)
        assert corners == pytest.approx(np.array([[0.1, 0.2, 0.5, 1.0]]))
        assert names == ["k"]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "is empty"),
        (b"path,label\n", "no rows"),
        (b"\0\1\2\3", "no text"),
        (b'path,label\n"0.png,a\n1.png,b\n', "line"),
        (b"path,label,label\n0.png,a,b\n", "'label' twice"),
    ],
)
def test_a_garbled_manifest_is_refused(
    tmp_path: Path, raw: bytes, message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        listed(manifest(tmp_path, raw))


def test_a_garbled_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.parquet").write_bytes(b"PAR1" + bytes(50))
    with pytest.raises(SourceError, match=r"m\.parquet"):
        listed(tmp_path / "m.parquet")


def test_a_corner_rounded_past_one_leaves_fractions_fractions(tmp_path: Path) -> None:
    boxes = ["[[0.1, 0.1, 0.9, 0.9]]", "[[0.5, 0.5, 1.0000001, 1.0]]"]
    rows = "".join(f'{i}.png,"{box}"\n' for i, box in enumerate(boxes))
    found = listed(manifest(tmp_path, f"path,boxes\n{rows}"))
    assert found.box_unit == "fraction"
    assert any("fraction" in note for note in found.notes)


@pytest.mark.parametrize("cell", ["[" * 20_000, "[[1" + "0" * 400 + ", 0, 1, 1]]"])
def test_boxes_that_no_reader_can_hold_are_a_problem(tmp_path: Path, cell: str) -> None:
    text = f'path,boxes\n0.png,"{cell}"\n1.png,\n'
    found = listed(manifest(tmp_path, text))
    assert dict(zip(found.path, found.problem, strict=True)) == {
        "0.png": "bad-annotation",
        "1.png": "",
    }
