import json
import os
import shutil
from pathlib import Path

import dask
import numpy as np
import pytest

from data_contracts.errors import SchemaError, SourceError, UsageError
from data_contracts.store import Dataset, find_snapshots
from tasks.clean import CleanSettings, clean_dataset
from tasks.decode import DecodeSettings
from tasks.ingest import IngestSettings, ingest_dataset
from tasks.listing import SourceSettings
from tasks.split import SplitSettings, split_dataset
from tests.tasks.pictures import photo, write

SMALL = IngestSettings(decode=DecodeSettings(image_size=16))


def tree(root: Path, counts: dict[str, int], *, first: int = 0) -> Path:
    """Write a folder per class with that many pictures."""
    seed = first
    for name, count in counts.items():
        for _ in range(count):
            write(root / name / f"{seed:03}.png", seed=seed)
            seed += 1
    return root


def ingest(place: Path, tmp_path: Path, settings: IngestSettings = SMALL, **more):
    return ingest_dataset(str(place), settings, uri=str(tmp_path / "set"), **more)


def test_a_row_an_item_and_bad_files_are_named(tmp_path):
    root = tree(tmp_path / "in", {"cat": 3, "dog": 2})
    (root / "cat" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    (root / "dog" / "empty.png").touch()
    dataset = Dataset(ingest(root, tmp_path))
    found = dataset.columns("path", "ok", "problem", "label", "sha256", "std")
    assert dataset.n == 7
    assert dataset.names("label_names") == ["cat", "dog"]
    bad = {found["path"][i]: found["problem"][i] for i in np.flatnonzero(~found["ok"])}
    assert bad == {"cat/broken.jpg": "truncated", "dog/empty.png": "empty"}
    good = found["ok"]
    assert (found["std"][good] > 0).all()
    assert (dataset.images[:][~good] == 0).all()
    assert all(len(sha) == 64 for sha in found["sha256"][good])


def test_the_same_source_again_writes_nothing(tmp_path):
    root = tree(tmp_path / "in", {"a": 2, "b": 2})
    ref = ingest(root, tmp_path)
    assert ingest(root, tmp_path) == ref
    assert len(find_snapshots(ref.uri)) == 1


def test_a_grown_folder_adds_only_the_new_images(tmp_path):
    root = tree(tmp_path / "in", {"b": 3, "c": 2})
    before = Dataset(ingest(root, tmp_path))
    tree(root, {"a": 2, "c": 1}, first=50)
    after = Dataset(ingest(root, tmp_path))
    assert after.n == 8
    assert after.attributes["new_rows"] == 3
    np.testing.assert_array_equal(after.images[:5], before.images[:])
    for name in ("path", "sha256", "label", "phash"):
        np.testing.assert_array_equal(after.column(name)[:5], before.column(name))
    assert after.names("label_names") == ["b", "c", "a"], "old classes keep their ids"
    assert sorted(after.column("path")[5:]) == ["a/050.png", "a/051.png", "c/052.png"]


def test_a_removed_file_stays_as_a_row_that_is_not_present(tmp_path):
    root = tree(tmp_path / "in", {"a": 2, "b": 2})
    ingest(root, tmp_path)
    (root / "a" / "001.png").unlink()
    dataset = Dataset(ingest(root, tmp_path))
    gone = dataset.column("path")[~dataset.column("present")]
    assert list(gone) == ["a/001.png"]


def test_a_changed_file_is_read_again(tmp_path):
    root = tree(tmp_path / "in", {"a": 2, "b": 2})
    ingest(root, tmp_path)
    write(root / "a" / "000.png", seed=99, side=20)
    dataset = Dataset(ingest(root, tmp_path))
    rows = np.flatnonzero(dataset.column("path") == "a/000.png")
    assert len(rows) == 2
    assert list(dataset.column("present")[rows]) == [False, True]
    assert list(dataset.column("width")[rows]) == [16, 20]


def test_a_moved_label_is_taken_over_without_reading_again(tmp_path):
    root = tree(tmp_path / "in", {"x": 4})
    manifest = root / "m.csv"
    lines = ["path,label,tags", "x/000.png,a,red;big", "x/001.png,b,", "x/002.png,b,"]
    manifest.write_text("\n".join(lines))
    ingest(manifest, tmp_path)
    manifest.write_text("\n".join([*lines[:2], "x/001.png,a,blue", lines[3]]))
    dataset = Dataset(ingest(manifest, tmp_path))
    assert dataset.attributes["new_rows"] == 0
    names = np.array(dataset.names("label_names"))
    assert list(names[dataset.column("label")]) == ["a", "a", "b"]
    tags = np.array(dataset.names("tag_names"))[dataset.column("tag_ids")]
    parts = np.split(tags, dataset.column("tag_offsets")[1:-1])
    assert [sorted(part) for part in parts] == [["big", "red"], ["blue"], []]


def test_boxes_become_fractions_of_the_original(tmp_path):
    root = tmp_path / "in"
    write(root / "a.png", seed=1, side=40)
    write(root / "b.png", seed=2, side=20)
    (root / "c.json").write_text(
        json.dumps(
            {
                "images": [
                    {"id": 1, "file_name": "a.png", "width": 40, "height": 40},
                    {"id": 2, "file_name": "b.png", "width": 20, "height": 20},
                ],
                "annotations": [
                    {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 20, 20, 10]}
                ],
                "categories": [{"id": 3, "name": "card"}],
            }
        )
    )
    dataset = Dataset(ingest(root / "c.json", tmp_path))
    np.testing.assert_allclose(dataset.column("boxes"), [[0.25, 0.5, 0.75, 0.75]])
    rows = np.repeat(np.arange(2), np.diff(dataset.column("box_offsets")))
    assert list(dataset.column("path")[rows]) == ["a.png"]
    assert dataset.names("box_names") == ["card"]


def test_another_place_becomes_the_next_era(tmp_path):
    old = ingest(tree(tmp_path / "old", {"a": 2, "b": 2}), tmp_path)
    new = tree(tmp_path / "new", {"b": 1, "c": 2}, first=70)
    ref = ingest(new, tmp_path, parent=old)
    dataset = Dataset(ref)
    assert list(dataset.column("era")) == [0] * 4 + [1] * 3
    assert list(dataset.column("source")) == [0] * 4 + [1] * 3
    assert dataset.names("label_names") == ["a", "b", "c"]
    assert ingest(new, tmp_path, parent=old) == ref
    assert ingest(tmp_path / "old", tmp_path, parent=old) == old, "nothing new"
    tree(new, {"c": 1}, first=90)
    grown = Dataset(ingest(new, tmp_path, parent=old))
    assert list(grown.column("era")) == [0] * 4 + [1] * 4


def test_the_chunking_does_not_change_a_pixel(tmp_path):
    root = tree(tmp_path / "in", {"a": 300, "b": 280})
    once = Dataset(ingest(root, tmp_path / "one"))
    late = tmp_path / "late"
    shutil.copytree(root / "a", late / "a", copy_function=shutil.copy2)
    ingest(late, tmp_path / "two")
    shutil.copytree(root / "b", late / "b", copy_function=shutil.copy2)
    twice = Dataset(ingest(late, tmp_path / "two"))
    assert list(once.column("path")) == list(twice.column("path"))
    np.testing.assert_array_equal(once.images[:], twice.images[:])
    np.testing.assert_array_equal(once.column("phash"), twice.column("phash"))


def test_workers_of_a_cluster_write_the_same(tmp_path, monkeypatch):
    from distributed import LocalCluster

    root = tree(tmp_path / "in", {"a": 300, "b": 280})
    here = Dataset(ingest(root, tmp_path / "one"))
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        monkeypatch.setenv("SIGHTLINE_DASK", cluster.scheduler_address)
        there = Dataset(ingest(root, tmp_path / "two"))
    np.testing.assert_array_equal(here.images[:], there.images[:])
    assert here.ref.digest == there.ref.digest


def test_a_limit_takes_the_same_rows_again(tmp_path):
    root = tree(tmp_path / "in", {"a": 6, "b": 6})
    some = SMALL.model_copy(update={"source": SourceSettings(limit=6)})
    dataset = Dataset(ingest(root, tmp_path, some))
    assert dataset.n == 6
    assert set(dataset.column("label")) == {0, 1}


def test_an_empty_folder_says_what_was_expected(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(SourceError, match="no images"):
        ingest(tmp_path / "in", tmp_path)
    assert not (tmp_path / "set").exists() or not find_snapshots(str(tmp_path / "set"))


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_a_bad_row(tmp_path):
    root = tree(tmp_path / "in", {"a": 2, "b": 2})
    (root / "a" / "000.png").chmod(0)
    dataset = Dataset(ingest(root, tmp_path))
    assert dataset.column("problem")[0] in {"unreadable", "no-permission"}


REAL = {
    "grocery/manifest.csv": (5502, 0, 81),
    "grocery": (5502, 0, 81),
    "cifar10/train.parquet": (50000, 0, 10),
    "bccd": (364, 0, 0),
    "cards": (363, 0, 0),
    "cards/train.json": (296, 0, 0),
}


@pytest.mark.parametrize("place", REAL)
def test_real_sources_are_read_as_they_lie(place, tmp_path, real_data):
    settings = SMALL.model_copy(update={"source": SourceSettings(limit=300)})
    dataset = Dataset(ingest(real_data / place, tmp_path, settings))
    assert dataset.column("ok").all()
    assert dataset.n == min(300, REAL[place][0])
    n_labels = len(dataset.names("label_names"))
    assert n_labels == REAL[place][2] or n_labels < 10
    if place.startswith(("bccd", "cards")):
        boxes = dataset.column("boxes")
        assert len(boxes) >= 300
        assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_a_table_of_purchases_is_no_source(tmp_path, real_data):
    with pytest.raises(SourceError, match="path"):
        ingest(real_data / "baskets" / "purchases.csv", tmp_path)


def test_a_picture_of_16_bits_and_one_on_its_side_come_out_upright(tmp_path):
    from PIL import Image

    from tests.tasks.pictures import exif

    root = tmp_path / "in"
    root.mkdir()
    Image.fromarray(photo()).save(root / "a.jpg", exif=exif(6), quality=95)
    dataset = Dataset(ingest(root, tmp_path))
    assert dataset.column("width")[0] == 48
    assert dataset.column("height")[0] == 70
    assert dataset.column("notes")[0] == "exif"


def test_a_row_that_was_put_right_is_read_and_the_bad_one_is_gone(tmp_path):
    root = tree(tmp_path / "in", {"a": 2, "b": 2})
    table = root / "manifest.csv"
    good = "path,label\na/000.png,a\na/001.png,a\nb/002.png,b\nb/003.png,b\n"
    table.write_text(good + "a/000.png,b\n")
    before = Dataset(ingest(root, tmp_path))
    assert set(before.column("problem")) == {"", "conflicting-rows"}
    table.write_text(good)
    after = Dataset(ingest(root, tmp_path)).columns("path", "ok", "present")
    here = after["present"]
    assert sorted(after["path"][here]) == [
        "a/000.png",
        "a/001.png",
        "b/002.png",
        "b/003.png",
    ]
    assert after["ok"][here].all()


def test_a_file_that_comes_back_is_the_row_it_was(tmp_path):
    root = tree(tmp_path / "in", {"a": 2, "b": 2})
    ingest(root, tmp_path)
    (root / "a" / "000.png").rename(tmp_path / "away.png")
    ingest(root, tmp_path)
    (tmp_path / "away.png").rename(root / "a" / "000.png")
    dataset = Dataset(ingest(root, tmp_path))
    assert dataset.n == 4
    assert dataset.column("present").all()


def test_splits_of_a_champion_are_not_given_to_other_images(tmp_path):
    old = tree(tmp_path / "old", {"a": 10, "b": 10})
    first = ingest(old, tmp_path)
    new = tree(tmp_path / "new", {"a": 5, "b": 5}, first=100)
    later = ingest(new, tmp_path, parent=first)
    kept = clean_dataset(later, CleanSettings())
    champion = split_dataset(kept, SplitSettings())
    tree(old, {"a": 8}, first=200)
    grown = Dataset(ingest(old, tmp_path, settled=champion))
    settled = grown.column("settled")
    assert (settled[:20] >= 0).any()
    assert (settled[20:] == -1).all()


def test_a_replaced_dataset_is_said_and_the_old_splits_are_let_go(tmp_path):
    root = tree(tmp_path / "in", {"a": 6, "b": 6})
    lost = ingest(root, tmp_path)
    shutil.rmtree(tmp_path / "set")
    ingest(root, tmp_path)
    tree(root, {"a": 2}, first=100)
    with pytest.raises(SchemaError, match="was replaced"):
        Dataset(lost)
    again = Dataset(ingest(root, tmp_path, settled=lost))
    assert (again.column("settled") == -1).all()


def test_a_scheduler_that_does_not_answer_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_DASK", "tcp://127.0.0.1:9")
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(UsageError, match="SIGHTLINE_DASK"),
    ):
        ingest(tree(tmp_path / "in", {"a": 2, "b": 2}), tmp_path)
