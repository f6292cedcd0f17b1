"""The catalogue's pictures, files and truth agree."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from data_contracts.errors import UsageError, WorkspaceError
from tasks.catalogue import (
    CatalogueSettings,
    SplitForm,
    render,
    render_batches,
    write_catalogue,
)
from tasks.catalogue_plan import plan
from tasks.catalogue_scene import compose
from tasks.catalogue_settings import KINDS

SPOILED = CatalogueSettings(
    images=160,
    image_size=48,
    seed=3,
    imbalance=3,
    label_noise=0.1,
    sensor_noise=0.2,
    occluders=0.2,
    duplicates=0.2,
    broken=0.1,
    useless=0.1,
    users=30,
    events=400,
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("catalogue") / "demo"
    write_catalogue(SPOILED, root)
    return root


@pytest.fixture(scope="module")
def truth(written: Path) -> pd.DataFrame:
    return pd.read_parquet(written / "truth" / "truth.parquet")


def read_manifest(root: Path) -> list[dict[str, str]]:
    with (root / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_picture_is_the_same_in_whatever_batch():
    rows = np.arange(70)
    whole = render(SPOILED, rows)
    for size in (1, 9, 33):
        parts = list(render_batches(SPOILED, rows, batch_size=size))
        images = np.concatenate([part.images for part in parts])
        assert np.array_equal(images, whole.images), size
        masks = np.concatenate([part.masks for part in parts])
        assert np.array_equal(masks, whole.masks), size
    back = render(SPOILED, rows[::-1])
    assert np.array_equal(back.images[::-1], whole.images)


def test_another_seed_gives_other_pictures():
    here, there = (
        render(CatalogueSettings(image_size=32, seed=s), range(6)) for s in (0, 1)
    )
    same = (here.images == there.images).all(axis=(1, 2, 3))
    assert not same.any()


def test_pictures_differ_from_the_backdrop_just_where_truth_says():
    settings = CatalogueSettings(image_size=64, street=0.5, occluders=0.3)
    scene = compose(settings, plan(settings, range(60)))
    change = np.abs(scene.picture - scene.backdrop).max(-1)
    covered = (scene.cover > 0) | (scene.occluder > 0)
    assert change[~covered].max() == 0
    assert (change[scene.cover > 0.5] > 0.02).mean() > 0.85


def test_masks_lie_on_the_pixels_that_the_product_changes():
    settings = CatalogueSettings(image_size=64, street=0.5)
    scene = compose(settings, plan(settings, range(40)))
    changed = np.abs(scene.picture - scene.backdrop).max(-1) > 0.02
    masks = render(settings, range(40)).masks
    overlap = (masks & changed).sum((1, 2)) / (masks | changed).sum((1, 2))
    assert np.median(overlap) > 0.9


def test_boxes_are_tight_around_masks():
    shown = render(SPOILED, range(60))
    for mask, box in zip(shown.masks, shown.boxes.astype(int), strict=True):
        x0, y0, x1, y1 = box
        assert mask[y0:y1, x0:x1].sum() == mask.sum()
        if mask.any():
            inside = mask[y0:y1, x0:x1]
            edges = inside[0], inside[-1], inside[:, 0], inside[:, -1]
            assert all(edge.any() for edge in edges)


def test_every_kind_is_drawn_at_a_size_worth_seeing():
    for kind in KINDS:
        settings = CatalogueSettings(image_size=48, kinds=(kind,), street=0.3)
        share = render(settings, range(16)).masks.mean((1, 2))
        assert share.min() > 0.015, kind
        assert share.max() < 0.75, kind


def test_an_occluder_hides_part_of_the_product():
    settings = CatalogueSettings(image_size=48, occluders=1.0)
    hidden = render(settings, range(60)).hidden
    assert 0.15 < hidden.mean() < 0.5
    assert render(CatalogueSettings(image_size=48), range(20)).hidden.max() == 0


def test_drift_darkens_pictures():
    now, later = (
        render(CatalogueSettings(image_size=32, drift=d), range(60)).images.mean()
        for d in (0.0, 1.0)
    )
    assert later < 0.8 * now


def test_useless_pictures_are_flat_dark_or_smeared():
    settings = CatalogueSettings(image_size=48, useless=0.5, street=1.0)
    shown = render(settings, range(80))
    useless = shown.plan.useless
    spread = shown.images.std((1, 2, 3))
    edges = np.abs(np.diff(shown.images.astype(int), axis=2)).mean((1, 2, 3))
    assert spread[useless == 0].max() == 0
    assert not shown.masks[useless == 0].any()
    assert shown.images[useless == 1].mean((1, 2, 3)).max() < 25
    assert edges[useless == 2].max() < edges[useless < 0].min()


def test_gaussian_and_impulse_noise_are_what_they_say():
    clean = render(CatalogueSettings(image_size=48), range(40)).images.astype(int)
    for kind in ("gaussian", "impulse"):
        settings = CatalogueSettings(
            image_size=48, sensor_noise=1.0, sensor_noise_kind=kind
        )
        change = render(settings, range(40)).images - clean
        touched = (change != 0).any(-1).mean()
        assert touched > 0.9 if kind == "gaussian" else touched < 0.13


def test_manifest_and_truth_agree_with_files(written: Path, truth: pd.DataFrame):
    lines = read_manifest(written)
    assert [line["path"] for line in lines] == truth.path.tolist()
    assert [line["label"] for line in lines] == truth.given_label.tolist()
    for line, fact in zip(lines, truth.itertuples(), strict=True):
        assert (written / line["path"]).is_file()
        assert Path(line["path"]).parent.name == fact.given_label
        assert line["tags"].split(";") == [fact.colour, fact.material, fact.pattern]
        assert fact.label in line["text"]
        assert fact.colour in line["text"]
        boxes = json.loads(line["boxes"])
        assert all(box[4] == fact.label for box in boxes)
        assert [box[:4] for box in boxes] == [list(fact.box)] * bool(sum(fact.box))


def test_stored_masks_fill_the_stored_boxes(written: Path, truth: pd.DataFrame):
    with np.load(written / "truth" / "masks.npz") as stored:
        packed, (h, w) = stored["packed"], stored["shape"]
    masks = np.unpackbits(packed, axis=1, count=h * w).reshape(-1, h, w)
    wide = np.array([box[2] - box[0] for box in truth.box])
    assert np.array_equal(masks.any(1).sum(1) > 0, wide > 0)
    assert (masks.any(1).sum(1) <= wide).all()


def test_exact_duplicates_share_bytes_and_near_ones_only_looks(
    written: Path, truth: pd.DataFrame
):
    copies = truth[truth.duplicate_of != ""]
    assert set(copies.duplicate_kind) == {"exact", "near"}
    for fact in copies.itertuples():
        one, two = ((written / path).read_bytes() for path in (fact.path, fact[16]))
        assert (one == two) == (fact.duplicate_kind == "exact")
        a, b = (cv2.imdecode(np.frombuffer(x, np.uint8), 1) for x in (one, two))
        a, b = (cv2.resize(x, (8, 8), interpolation=cv2.INTER_AREA) for x in (a, b))
        assert np.abs(a.astype(int) - b).mean() < 14
    originals = truth[truth.duplicate_of == ""]
    sums = {
        hashlib.sha256((written / path).read_bytes()).digest()
        for path in originals[originals.broken == ""].path
    }
    blank = (originals.useless == "blank").sum()
    assert len(sums) >= (originals.broken == "").sum() - blank


def test_broken_files_are_broken_and_no_other(written: Path, truth: pd.DataFrame):
    for fact in truth.itertuples():
        held = (written / fact.path).read_bytes()
        whole = held.startswith(b"\xff\xd8") and held.endswith(b"\xff\xd9")
        assert whole == (fact.broken == ""), fact.path
    kinds = set(truth.broken) - {""}
    assert len(kinds) >= 3


def test_writing_again_changes_nothing(written: Path):
    before = {p: p.stat().st_mtime_ns for p in written.rglob("*")}
    assert write_catalogue(SPOILED, written) == written / "manifest.csv"
    assert {p: p.stat().st_mtime_ns for p in written.rglob("*")} == before
    assert list(written.parent.iterdir()) == [written]


def test_a_folder_that_holds_something_else_is_refused(written: Path, tmp_path: Path):
    other = SPOILED.model_copy(update={"seed": 4})
    with pytest.raises(UsageError, match="already holds something other"):
        write_catalogue(other, written)
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UsageError, match="already holds"):
        write_catalogue(SPOILED, tmp_path)
    assert (tmp_path / "note.txt").read_text() == "mine"


def test_a_failed_write_leaves_nothing(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError, match="cannot be written"):
        write_catalogue(SPOILED, tmp_path / "file" / "root")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_write_cut_short_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tasks.catalogue._write_people", full)
    tiny = CatalogueSettings(images=3, image_size=32)
    with pytest.raises(WorkspaceError, match="No space left"):
        write_catalogue(tiny, tmp_path / "root")
    assert list(tmp_path.iterdir()) == []


def test_a_larger_catalogue_only_adds(tmp_path: Path):
    small = SPOILED.model_copy(update={"images": 24})
    large = SPOILED.model_copy(update={"images": 40})
    write_catalogue(small, tmp_path / "small")
    write_catalogue(large, tmp_path / "large")
    for line in read_manifest(tmp_path / "small"):
        one, two = (tmp_path / name / line["path"] for name in ("small", "large"))
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("form", list(SplitForm))
def test_given_splits_stand_where_asked(form: SplitForm, tmp_path: Path):
    settings = CatalogueSettings(images=60, image_size=32, splits=form)
    lines = read_manifest(write_catalogue(settings, tmp_path / "root").parent)
    truth = pd.read_parquet(tmp_path / "root" / "truth" / "truth.parquet")
    if form == SplitForm.MANIFEST:
        assert [line["split"] for line in lines] == truth.split.tolist()
    else:
        assert "split" not in lines[0]
    if form == SplitForm.FOLDERS:
        assert truth.path.str.split("/").str[1].tolist() == truth.split.tolist()


@pytest.mark.parametrize(
    "bad",
    [
        {"images": 0},
        {"image_size": 16},
        {"imbalance": 0.5},
        {"label_noise": 0.7},
        {"label_noise": 0.1, "kinds": ("mug",)},
        {"kinds": ()},
        {"kinds": ("mug", "mug")},
        {"kinds": ("mug", "rocket")},
        {"drift": 1.1},
        {"street": -0.1},
        {"colour": "red"},
    ],
)
def test_bad_settings_are_refused(bad: dict[str, object]):
    with pytest.raises(ValidationError):
        CatalogueSettings(**bad)
