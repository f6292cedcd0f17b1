from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_contracts.errors import SourceError
from data_contracts.store import Dataset
from tasks.boxes import turn_boxes
from tasks.decode import DecodeSettings
from tasks.ingest import IngestSettings, ingest_dataset
from tasks.listing import SourceSettings
from tests.tasks.listings import listed, said
from tests.tasks.pictures import encoded, exif, write


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


UPRIGHT = (48, 32)  # width, height
PATCH = (6, 4, 18, 28)  # a bright box in it: x0, y0, x1, y1
FRACTIONS = [6 / 48, 4 / 32, 18 / 48, 28 / 32]


def stored_as(upright: np.ndarray, orientation: int) -> np.ndarray:
    """Return the pixels that a camera stores so that EXIF turns them upright."""
    image = upright
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.swapaxes(image, 0, 1) if orientation > 4 else image


def turned_coco(root: Path, orientation: int, *, frame: str) -> None:
    """Write one EXIF-turned picture of a bright box, annotated in one of the frames."""
    upright = np.zeros((UPRIGHT[1], UPRIGHT[0], 3), np.uint8)
    x0, y0, x1, y1 = PATCH
    upright[y0:y1, x0:x1] = 255
    stored = stored_as(upright, orientation)
    data = encoded(np.ascontiguousarray(stored), "PNG", exif=exif(orientation))
    annotated = stored if frame == "stored" else upright
    rows, columns = np.nonzero(annotated[..., 0])
    box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    height, width = annotated.shape[:2]
    root.mkdir(exist_ok=True)
    (root / "a.png").write_bytes(data)
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": width, "height": height}],
        "annotations": [
            {"image_id": 1, "bbox": [int(v) for v in box], "category_id": 1}
        ],
        "categories": [{"id": 1, "name": "patch"}],
    }
    (root / "train.json").write_text(json.dumps(content))


def ingested(root: Path, **source: object) -> Dataset:
    settings = IngestSettings(
        source=SourceSettings(**source),
        decode=DecodeSettings(image_size=96, fit="stretch"),
    )
    return Dataset(ingest_dataset(str(root), settings, uri=str(root / "set")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("frame", ["upright", "stored"])
def test_boxes_lie_where_the_upright_picture_shows_them(
    tmp_path: Path, orientation: int, frame: str
) -> None:
    turned_coco(tmp_path / "in", orientation, frame=frame)
    found = ingested(tmp_path / "in", box_frame=frame)
    assert found.column("orientation").tolist() == [orientation]
    assert found.column("boxes")[0] == pytest.approx(FRACTIONS, abs=1e-6)
    x0, y0, x1, y1 = (np.array(FRACTIONS) * 96).round().astype(int)
    pixels = np.asarray(found.images[0])[..., 0]
    assert (pixels[y0 + 3 : y1 - 3, x0 + 3 : x1 - 3] == 255).all()
    assert pixels.sum() / 255 == pytest.approx((y1 - y0) * (x1 - x0), rel=0.05)


@pytest.mark.parametrize("orientation", range(5, 9))
@pytest.mark.parametrize("frame", ["upright", "stored"])
def test_the_size_annotated_tells_upright_boxes_from_stored_ones(
    tmp_path: Path, orientation: int, frame: str
) -> None:
    turned_coco(tmp_path / "in", orientation, frame=frame)
    found = ingested(tmp_path / "in")
    assert found.column("boxes")[0] == pytest.approx(FRACTIONS, abs=1e-6)


@pytest.mark.parametrize("orientation", range(1, 5))
def test_boxes_are_upright_where_the_size_cannot_tell(
    tmp_path: Path, orientation: int
) -> None:
    turned_coco(tmp_path / "in", orientation, frame="upright")
    assert ingested(tmp_path / "in").column("boxes")[0] == pytest.approx(FRACTIONS)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_turn_as_the_picture_does(orientation: int) -> None:
    upright = np.zeros((20, 30), np.uint8)
    upright[3:9, 4:20] = 1
    stored = np.ascontiguousarray(stored_as(upright, orientation))
    x, y, w, h = cv2.boundingRect(stored)
    rows, columns = stored.shape
    corners = np.array([[x, y, x + w, y + h]]) / [columns, rows, columns, rows]
    assert turn_boxes(corners.astype(np.float32), orientation)[0] == pytest.approx(
        [4 / 30, 3 / 20, 20 / 30, 9 / 20], abs=1e-6
    )
