"""Serving sees what training saw: the same pixels, scaled by the same figures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from data_contracts.store import Dataset
from tasks.clean import CleanSettings, clean_dataset
from tasks.decode import DecodeSettings, Fit
from tasks.denoise import DenoiseSettings, denoise_dataset
from tasks.ingest import IngestSettings, ingest_dataset
from tasks.lessons import channel_statistics, pick_rows
from tasks.listing import SourceSettings
from tasks.predict import decode_block, predictions, seen_as_trained
from tasks.sources import list_source
from tasks.split import SplitSettings, split_dataset
from tests.datasets import make_dataset
from tests.tasks.pictures import encoded, exif, photo
from tests.tasks.toys import untrained

SIZE = 64
EVERYTHING = CleanSettings(min_std=0, min_mean=0, min_sharpness=0, min_side=1)


def write_pictures(root: Path) -> None:
    """Write one picture of each kind that decoding treats in a way of its own."""
    rng = np.random.default_rng(0)
    plain = photo(120, 200, detail=12)
    salted = np.where(rng.random((120, 120, 1)) < 0.2, 255, photo(120, 120, seed=2))
    grainy = np.clip(photo(64, 64, seed=3) + rng.normal(0, 40, (64, 64, 3)), 0, 255)
    clear = np.dstack([photo(90, 70, seed=4), rng.integers(0, 256, (90, 70))])
    deep = (photo(80, 100, seed=5).astype(np.uint16) << 8) + 77
    files = {
        "jpeg.jpg": encoded(plain, "JPEG", quality=90),
        "large.jpg": encoded(photo(700, 500, seed=1, detail=30), "JPEG"),
        "png.png": encoded(photo(50, 40, seed=6), "PNG"),
        "alpha.png": encoded(clear.astype(np.uint8), "PNG"),
        "deep.png": cv2.imencode(".png", deep)[1].tobytes(),
        "grey.png": encoded(Image.fromarray(photo(70, 64, seed=7)).convert("L"), "PNG"),
        "salted.png": encoded(salted.astype(np.uint8), "PNG"),
        "grainy.png": encoded(grainy.astype(np.uint8), "PNG"),
        **{
            f"turned-{way}.jpg": encoded(
                photo(90, 160, seed=10 + way), "JPEG", exif=exif(way)
            )
            for way in range(2, 9)
        },
    }
    for i, (name, data) in enumerate(files.items()):
        path = root / "ab"[i % 2] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def prepared(root: Path, fit: Fit) -> Dataset:
    """Return the pictures as training sees them, after every stage that alters them."""
    settings = IngestSettings(decode=DecodeSettings(image_size=SIZE, fit=fit))
    source = ingest_dataset(str(root / "in"), settings, uri=str(root / "set"))
    source = clean_dataset(source, EVERYTHING)
    source = denoise_dataset(source, DenoiseSettings())
    return Dataset(split_dataset(source, SplitSettings()))


def meta_of(dataset: Dataset) -> dict[str, object]:
    entry = [e for e in dataset.attributes["lineage"] if e["stage"] == "denoise"]
    return {
        "ingest": dataset.attributes["ingest"],
        "denoise": entry[-1]["settings"],
    }


@pytest.mark.parametrize("fit", Fit)
def test_serving_sees_the_pixels_of_training_bit_for_bit(tmp_path: Path, fit: Fit):
    write_pictures(tmp_path / "in")
    dataset = prepared(tmp_path, fit)
    meta = meta_of(dataset)
    listing = list_source(str(tmp_path / "in"), settings=SourceSettings())
    decode = DecodeSettings.model_validate(meta["ingest"]["decode"])
    seen, problems = decode_block(listing, range(len(listing)), decode)
    served = seen_as_trained(seen, meta)
    assert listing.path == list(dataset.column("path"))
    assert set(problems) == {""}
    assert np.array_equal(served, dataset.images[:])
    assert {"impulse", "gaussian"} <= set(dataset.column("noise"))
    assert not np.array_equal(seen.images, served)


def test_one_picture_alone_is_served_as_in_a_crowd(tmp_path: Path):
    write_pictures(tmp_path / "in")
    dataset = prepared(tmp_path, Fit.FIT)
    meta = meta_of(dataset)
    listing = list_source(str(tmp_path / "in"), settings=SourceSettings())
    decode = DecodeSettings.model_validate(meta["ingest"]["decode"])
    for item in range(len(listing)):
        seen, _ = decode_block(listing, range(item, item + 1), decode)
        assert np.array_equal(
            seen_as_trained(seen, meta), dataset.images[item : item + 1]
        )


def test_serving_answers_with_the_probabilities_of_training(tmp_path: Path):
    from models.checkpoint import save_model
    from tasks.inference import Predictor, predict_rows

    write_pictures(tmp_path / "in")
    dataset = prepared(tmp_path, Fit.LETTERBOX)
    rows = np.arange(dataset.n)
    mean, std = channel_statistics(dataset, rows)
    meta = meta_of(dataset) | {
        "preset": "small",
        "classes": ["a", "b"],
        "image_size": SIZE,
        "temperature": 1.7,
        "mean": mean,
        "std": std,
    }
    save_model(tmp_path / "model", *untrained(meta), meta=meta)
    served = Predictor.load(tmp_path / "model")
    wanted = np.concatenate([p for _, p in predict_rows(served, dataset, rows)])
    assert served.meta["mean"] == list(mean)
    listing = list_source(str(tmp_path / "in"), settings=SourceSettings())
    (table,) = predictions(listing, served, version=1)
    assert table["probability"].to_pylist() == wanted.max(1).astype(float).tolist()


def test_channel_statistics_come_from_training_images_alone(tmp_path: Path):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (40, 16, 16, 3), np.uint8)
    split = np.arange(40) % 3
    changed = images.copy()
    changed[split > 0] = rng.integers(0, 256, changed[split > 0].shape, np.uint8)
    found = [
        _statistics(tmp_path / str(i), split=split, images=pixels)
        for i, pixels in enumerate((images, changed))
    ]
    assert found[0] == found[1]
    train = images[split == 0].reshape(-1, 3) / 255
    assert found[0][0] == pytest.approx(train.mean(0), abs=1e-12)
    assert found[0][1] == pytest.approx(train.std(0), abs=1e-12)
    changed[split == 0] = 255 - images[split == 0]
    assert _statistics(tmp_path / "2", split=split, images=changed) != found[0]


def _statistics(root: Path, **given: object):
    source = clean_dataset(make_dataset(root, 40, **given), EVERYTHING)
    dataset = Dataset(split_dataset(source, SplitSettings()))
    return channel_statistics(dataset, pick_rows(dataset, replay=None, seed=0))
