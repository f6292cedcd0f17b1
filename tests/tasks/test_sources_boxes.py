from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from data_contracts.errors import SourceError
from tests.tasks.listings import listed, said
from tests.tasks.pictures import write


def voc(root: Path) -> None:
    for i, name in enumerate(("a", "b", "c")):
        write(root / f"JPEGImages/{name}.png", seed=i)
    corners = "<xmin>1</xmin><ymin>5</ymin><xmax>{}</xmax><ymax>16</ymax>"
    box = f"<object><name>{{}}</name><bndbox>{corners}</bndbox></object>"
    (root / "Annotations").mkdir()
    size = "<size><width>16</width><height>16</height></size>"
    for name, objects in (("a", [("x", 8), ("x", 16)]), ("b", [("x", 8), ("y", 8)])):
        body = "".join(box.format(*o) for o in objects)
        text = f"<annotation>{size}{body}</annotation>"
        (root / f"Annotations/{name}.xml").write_text(text)
    sets = root / "ImageSets/Main"
    sets.mkdir(parents=True)
    (sets / "train.txt").write_text("a\nb\n")
    (sets / "test.txt").write_text("c\nb\n")


@pytest.mark.parametrize("top", ["", "VOCdevkit/"])
def test_pascal_voc_gives_boxes_and_splits(tmp_path: Path, top: str) -> None:
    voc(tmp_path / top if top else tmp_path)
    found = listed(tmp_path)
    assert found.kind == "voc"
    assert found.path == [f"JPEGImages/{n}.png" for n in "abc"]
    assert found.split == ["train", "test", "test"]
    assert found.label == ["x", None, None]
    corners, names = found.box_fractions(0, width=1, height=1)
    assert corners.tolist() == [[0, 0.25, 0.5, 1], [0, 0.25, 1, 1]]
    assert names == ["x", "x"]
    assert said(found, "two splits")
    assert said(found, "1 pictures without an annotation")
    assert said(found, "share one class: 1 of 3")


def test_a_broken_annotation_is_a_problem_of_its_picture(tmp_path: Path) -> None:
    voc(tmp_path)
    (tmp_path / "Annotations/a.xml").write_text("<annotation><object>")
    (tmp_path / "Annotations/gone.xml").write_text("<annotation/>")
    found = listed(tmp_path)
    assert found.problem == ["bad-annotation", "", "", "missing-file"]


def coco(root: Path, name: str, n: int, *, folder: str) -> dict[str, list[object]]:
    images = [
        {"id": i, "file_name": f"{i}.png", "width": 16, "height": 16} for i in range(n)
    ]
    boxes = [
        {"image_id": i, "bbox": [4, 8, 4, 8], "category_id": i % 2 + 1}
        for i in range(n)
    ]
    content = {
        "images": images,
        "annotations": [
            *boxes,
            {"image_id": 0, "bbox": [0, 0, 1, 1], "category_id": 2},
        ],
        "categories": [{"id": 1, "name": "king"}, {"id": 2, "name": "ace"}],
    }
    for i in range(n):
        write(root / folder / f"{i}.png", seed=i)
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(json.dumps(content))
    return content


def test_coco_gives_boxes_and_splits(tmp_path: Path) -> None:
    coco(tmp_path, "train.json", 3, folder="train")
    coco(tmp_path, "test.json", 2, folder="test")
    found = listed(tmp_path)
    assert found.kind == "coco"
    assert Counter(found.split) == {"train": 3, "test": 2}
    i = found.path.index("train/1.png")
    assert found.label[i] == "ace"
    assert found.label[found.path.index("train/0.png")] is None
    assert found.box_fractions(i, width=1, height=1)[0].tolist() == [
        [0.25, 0.5, 0.5, 1]
    ]
    alone = listed(tmp_path / "train.json")
    assert set(alone.split) == {None}
    assert alone.problem == [""] * 3


def test_coco_in_its_usual_folders(tmp_path: Path) -> None:
    content = coco(
        tmp_path, "annotations/instances_val2017.json", 2, folder="images/val2017"
    )
    content["annotations"] = [{"image_id": 0, "caption": "a king"}]
    captions = tmp_path / "annotations/captions_val2017.json"
    captions.write_text(json.dumps(content))
    for source in (tmp_path, tmp_path / "annotations/instances_val2017.json"):
        found = listed(source)
        assert found.path == ["images/val2017/0.png", "images/val2017/1.png"]
        assert len(found.boxes[0]) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [', "no valid JSON"),
        ('{"a": 1}', "lacks 'images'.*its keys are a"),
        ("[1]", "lacks 'images'"),
        ('{"images": [{"id": []}], "annotations": []}', "no sound COCO"),
        ('{"images": [{"id": 1, "file_name": "x.png"}], "annotations": []}', "none of"),
    ],
)
def test_garbled_coco_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(SourceError, match=message):
        listed(tmp_path / "train.json")


def test_coco_pictures_outside_of_the_folder_are_not_read(tmp_path: Path) -> None:
    write(tmp_path / "secret.png")
    content = coco(tmp_path / "in", "train.json", 2, folder="train")
    content["images"][0]["file_name"] = "../../secret.png"
    (tmp_path / "in/train.json").write_text(json.dumps(content))
    assert listed(tmp_path / "in").problem == ["escapes-root", ""]
