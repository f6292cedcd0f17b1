from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data_contracts.errors import SourceError
from tasks.decode import Decoded, DecodeSettings, decode_image
from tasks.sources import list_source
from tests.tasks.listings import labels, listed, said
from tests.tasks.pictures import encoded, photo, write


def test_the_last_folder_is_the_class(tmp_path: Path) -> None:
    for i, name in enumerate(("cat/a.png", "cat/b.png", "dog/a.png")):
        write(tmp_path / name, seed=i)
    found = listed(tmp_path)
    assert found.kind == "folders"
    assert labels(found) == {"cat/a.png": "cat", "cat/b.png": "cat", "dog/a.png": "dog"}
    assert found.label_names == ["cat", "dog"]
    assert set(found.split) == {None}
    assert found.coarse == [None] * 3


def test_deeper_folders_give_the_coarse_class(tmp_path: Path) -> None:
    write(tmp_path / "fruit/apple/gala/1.png")
    write(tmp_path / "milk/2.png")
    found = listed(tmp_path)
    assert found.label == ["gala", "milk"]
    assert found.coarse == ["apple", None]


def test_split_folders_are_splits_at_any_depth(tmp_path: Path) -> None:
    names = ("Train", "valid", "test", "gallery")
    for top in ("plain", "data/inner"):
        for split in names:
            write(tmp_path / top / split / "fruit" / "kiwi" / "1.png")
        found = listed(tmp_path / top.split("/")[0])
        assert dict(
            zip((p.split("/")[-4] for p in found.path), found.split, strict=True)
        ) == {
            "Train": "train",
            "valid": "val",
            "test": "test",
            "gallery": "other",
        }
        assert set(found.label) == {"kiwi"}
        assert set(found.coarse) == {"fruit"}


def test_a_class_named_test_is_no_split(tmp_path: Path) -> None:
    write(tmp_path / "test/1.png")
    write(tmp_path / "production/2.png")
    found = listed(tmp_path)
    assert found.split == [None, None]
    assert found.label == ["production", "test"]


def test_one_split_for_all_is_no_split(tmp_path: Path) -> None:
    write(tmp_path / "train/a/1.png")
    write(tmp_path / "train/b/1.png")
    found = listed(tmp_path)
    assert found.split == [None, None]
    assert said(found, "'train'", "no split")


@pytest.mark.parametrize("folder", ["", "images/"])
def test_a_flat_folder_has_no_labels(tmp_path: Path, folder: str) -> None:
    write(tmp_path / f"{folder}1.png")
    write(tmp_path / f"{folder}2.png", seed=1)
    found = listed(tmp_path)
    assert (found.kind, found.label, found.label_names) == ("flat", [None, None], [])


def test_other_files_are_skipped_and_counted(tmp_path: Path) -> None:
    write(tmp_path / "a/1.png")
    (tmp_path / "a/notes.txt").write_text("x")
    (tmp_path / "a/.DS_Store").write_text("x")
    (tmp_path / ".cache").mkdir()
    write(tmp_path / ".cache/2.png")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "photo").write_bytes(encoded(photo(), "JPEG"))
    (tmp_path / "b" / "readme").write_text("no picture")
    (tmp_path / "b" / "phone.HEIC").write_text("a row, so that the report says it")
    found = listed(tmp_path)
    assert found.path == ["a/1.png", "b/phone.HEIC", "b/photo"]
    assert said(found, "2 files skipped", "txt 1", "no ending 1")
    assert said(found, "2 hidden")


def test_a_single_picture_a_pattern_and_a_list_are_sources(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a/1.png"), write(tmp_path / "b/2.png", seed=1)
    assert listed(one).path == ["1.png"]
    assert listed(tmp_path / "*" / "*.png").label == ["a", "b"]
    found = list_source([str(one), str(two), str(tmp_path / "b" / "gone.png")])
    assert found.path == ["a/1.png", "b/2.png", "b/gone.png"]
    assert found.problem == ["", "", "missing-file"]
    assert found.read(1) == two.read_bytes()


def test_a_listing_travels_to_other_threads_and_processes(tmp_path: Path) -> None:
    for i in range(20):
        write(tmp_path / f"a/{i:02}.png", seed=i)
    found = pickle.loads(pickle.dumps(listed(tmp_path)))
    with ThreadPoolExecutor(4) as pool:
        contents = list(pool.map(found.read, range(20)))
    assert contents == [(tmp_path / f"a/{i:02}.png").read_bytes() for i in range(20)]


def test_a_rewritten_file_has_another_stamp(tmp_path: Path) -> None:
    path = write(tmp_path / "a/1.png")
    before = listed(tmp_path).stamp
    assert before == listed(tmp_path).stamp
    os.utime(path, ns=(1, 1))
    assert before != listed(tmp_path).stamp


def test_a_row_with_a_problem_is_never_read(tmp_path: Path) -> None:
    write(tmp_path / "in/1.png")
    write(tmp_path / "secret.png")
    (tmp_path / "in/m.csv").write_text("path\n../secret.png\n1.png\n")
    found = listed(tmp_path / "in/m.csv")
    assert found.problem == ["escapes-root", ""]
    with pytest.raises(OSError, match="outside"):
        found.read(0)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no images in .*Expected a folder"):
        listed(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(SourceError, match="1 files skipped: not images"):
        listed(tmp_path)


def test_a_missing_path_suggests_what_is_close(tmp_path: Path) -> None:
    (tmp_path / "groceries").mkdir()
    with pytest.raises(SourceError, match=r"nothing at .*Close to it: groceries"):
        listed(tmp_path / "grocery")
    with pytest.raises(SourceError, match="no file matches"):
        listed(tmp_path / "*.jpg")


def test_an_unknown_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"abc")
    with pytest.raises(SourceError, match="no known source"):
        listed(tmp_path / "x.bin")


def test_link_loops_end_and_nothing_is_listed_twice(tmp_path: Path) -> None:
    write(tmp_path / "cat/1.png")
    (tmp_path / "cat/up").symlink_to(tmp_path)
    (tmp_path / "kitten").symlink_to("cat")
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "cat/dangling.png").symlink_to("gone.png")
    found = listed(tmp_path)
    problems = dict(zip(found.path, found.problem, strict=True))
    assert problems == {
        "cat/1.png": "",
        "cat/dangling.png": "missing-file",
        "self.png": "symlink-loop",
    }
    assert said(found, "cat/up", "loops back")
    assert said(found, "'kitten'", "own name")


def test_links_out_of_the_folder_need_leave(tmp_path: Path) -> None:
    secret = write(tmp_path / "out/secret.png")
    write(tmp_path / "in/a/1.png", seed=1)
    (tmp_path / "in/a/2.png").symlink_to(secret)
    (tmp_path / "in/b").symlink_to(tmp_path / "out")
    found = listed(tmp_path / "in")
    assert dict(zip(found.path, found.problem, strict=True)) == {
        "a/1.png": "",
        "a/2.png": "escapes-root",
    }
    assert said(found, "'b'", "outside_links")
    free = listed(tmp_path / "in", outside_links=True)
    assert labels(free) == {"a/1.png": "a", "a/2.png": "a", "b/secret.png": "b"}
    assert set(free.problem) == {""}


def test_names_that_are_not_utf8_are_listed_and_read(tmp_path: Path) -> None:
    content = write(tmp_path / "1.png").read_bytes()
    folder = os.fsencode(tmp_path) + b"/k\xe4se"
    os.mkdir(folder)
    for name in (b"\xff.png", b"\\xff.png", b"new\nline.png"):
        with open(folder + b"/" + name, "wb") as file:
            file.write(content)
    found = listed(tmp_path)
    assert found.path == [
        "1.png",
        "k\\xe4se/\\\\xff.png",
        "k\\xe4se/\\xff.png",
        "k\\xe4se/new\\x0aline.png",
    ]
    assert found.label[1] == "k\\xe4se"
    assert [found.read(i) for i in range(4)] == [content] * 4
    " ".join([*found.path, *found.label_names]).encode()


def test_special_files_are_never_opened(tmp_path: Path) -> None:
    write(tmp_path / "1.png")
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe")
    found = listed(tmp_path)
    assert dict(zip(found.path, found.problem, strict=True)) == {
        "1.png": "",
        "pipe.png": "not-a-file",
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_a_problem(tmp_path: Path) -> None:
    write(tmp_path / "a/1.png").chmod(0)
    write(tmp_path / "b/1.png")
    write(tmp_path / "c/1.png")
    (tmp_path / "b").chmod(0)
    try:
        found = listed(tmp_path)
    finally:
        (tmp_path / "b").chmod(0o700)
    assert found.problem == ["no-permission", "no-permission", ""]


def test_large_files_are_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a/1.png")
    found = listed(tmp_path, max_bytes=path.stat().st_size - 1)
    assert found.problem == ["too-many-bytes"]


@pytest.mark.parametrize(
    ("path", "kind", "rows", "classes"),
    [
        ("grocery/manifest.csv", "manifest", 5502, 81),
        ("grocery", "manifest", 5502, 81),
        ("cifar10/test.parquet", "parquet", 10_000, 10),
        ("cifar10", "parquet", 60_000, 10),
        ("bccd", "voc", 364, 3),
        ("cards", "coco", 363, 6),
        ("cards/train.json", "coco", 296, 6),
        ("grocery/val", "folders", 296, 60),
    ],
)
def test_real_sources_are_listed_as_they_lie(
    real_data: Path, path: str, kind: str, rows: int, classes: int
) -> None:
    found = listed(real_data / path)
    assert (found.kind, len(found), set(found.problem)) == (kind, rows, {""})
    assert len(found.label_names) == pytest.approx(
        classes, abs=2 if kind == "voc" else 0
    )
    for i in (0, rows // 2, rows - 1):
        image = decode_image(found.read(i), DecodeSettings(image_size=32))
        assert isinstance(image, Decoded)
        corners, _ = found.box_fractions(i, width=image.width, height=image.height)
        assert ((corners >= 0) & (corners <= 1)).all()
        assert (len(corners) > 0) == (kind in ("voc", "coco"))


def test_a_table_without_paths_is_no_source(real_data: Path) -> None:
    for path in ("baskets", "baskets/purchases.csv"):
        with pytest.raises(SourceError, match=r"lacks the column 'path'.*product_name"):
            listed(real_data / path)
