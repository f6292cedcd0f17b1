"""Painting over: what is changed, what is kept, and that serving does the same."""

import functools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from flax import nnx

from data_contracts.errors import UsageError
from data_contracts.store import Dataset
from models.checkpoint import save_model
from models.segment import UNet
from tasks.clean import CleanSettings, clean_dataset
from tasks.denoise import DenoiseSettings, denoise_dataset
from tasks.detector import (
    DetectorRef,
    find_detector,
    keep_detector,
    load_detector,
)
from tasks.inference import devices
from tasks.inpaint import (
    InpaintSettings,
    Method,
    inpaint_dataset,
    keep_beside,
    paint_over,
    repair,
    repaired_as_trained,
    wanted_detector,
)
from tasks.occlusion import _auroc as auroc
from tasks.occlusion import pixel_counts
from tasks.split import SplitSettings, split_dataset
from tasks.train import train_model
from tasks.train_settings import TrainSettings
from tests.datasets import make_dataset

N, SIDE = 40, 16


def smooth(n=N):
    rng = np.random.default_rng(2)
    rough = rng.integers(40, 216, (n, 3, 3, 3), np.uint8)
    return np.stack(
        [cv2.resize(one, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for one in rough]
    )


def prepared(home: Path, **given):
    source = make_dataset(home / "datasets", N, images=smooth(), **given)
    cleaned = clean_dataset(source, CleanSettings(min_std=0))
    return denoise_dataset(cleaned, DenoiseSettings())


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A workspace with images and an untrained network, which finds this and that."""
    home = tmp_path_factory.mktemp("home")
    devices()
    _, params, stats = nnx.split(UNet(rngs=nnx.Rngs(0)), nnx.Param, ...)
    view = {"mean": [0.5] * 3, "std": [0.25] * 3}
    model = home / "runs" / "holes-run" / "model"
    save_model(
        model,
        nnx.as_pure(params),
        nnx.as_pure(stats),
        meta={"kind": "occlusion", "image_size": SIDE, **view},
    )
    sha256 = json.loads((model / "memory.json").read_text())["sha256"]
    keep_detector(
        home / "detectors",
        DetectorRef(
            name="holes",
            run="holes-run",
            uri=str(model),
            sha256=sha256,
            image_size=SIDE,
        ),
    )
    return home


def settings(**changed):
    given = {"method": "telea", "detector": "holes"}
    return InpaintSettings(**given | {"max_occluded": 1, "min_occluded": 0} | changed)


def detector(home):
    return load_detector(Path(find_detector(home / "detectors", "holes").uri))


@pytest.mark.parametrize("method", [Method.telea, Method.ns])
def test_a_hole_is_filled_from_around_it_and_the_rest_stays(method):
    images = smooth(2)
    masks = np.zeros((2, SIDE, SIDE), bool)
    masks[0, 5:9, 5:9] = True
    broken = images.copy()
    broken[masks] = 0
    out = paint_over(broken, masks, method=method)
    np.testing.assert_array_equal(out[~masks], images[~masks])
    assert np.abs(out[masks].astype(int) - images[masks]).mean() < 25


def test_only_images_within_the_limits_are_painted(home):
    images = smooth()
    found = detector(home)
    share = repair(images, found, settings())[1]
    middle = float(np.median(share))
    out, again, hit = repair(images, found, settings(min_occluded=middle))
    np.testing.assert_array_equal(again, share)
    np.testing.assert_array_equal(hit, (share >= middle) & (share > 0))
    np.testing.assert_array_equal(out[~hit], images[~hit])


def test_the_answer_for_an_image_does_not_depend_on_the_others(home):
    images, found = smooth(), detector(home)
    whole = found(images)
    for part in ([3], [7, 3, 30], range(39, -1, -1)):
        np.testing.assert_array_equal(found(images[list(part)]), whole[list(part)])


def test_another_image_size_is_refused(home):
    with pytest.raises(UsageError, match="16 pixels, these have 32"):
        detector(home)(np.zeros((1, 32, 32, 3), np.uint8))


def test_the_stage_writes_what_it_found_and_only_the_pixels_it_painted(home, tmp_path):
    source = prepared(tmp_path, ok=np.arange(N) != 5)
    found = find_detector(home / "detectors", "holes")
    ref = inpaint_dataset(source, settings(), found=found)
    before, after = Dataset(source).images[:], Dataset(ref).images[:]
    columns = Dataset(ref).columns("occluded", "inpainted", "keep")
    changed = (before != after).any(axis=(1, 2, 3))
    assert columns["inpainted"].any()
    assert not (changed & ~columns["inpainted"]).any()
    assert columns["occluded"][5] == 0
    assert not columns["keep"][5]
    assert inpaint_dataset(source, settings(), found=found) == ref


def test_serving_sees_the_pixels_that_training_saw(home):
    source = prepared(home)
    found = find_detector(home / "detectors", "holes")
    ref = split_dataset(
        inpaint_dataset(source, settings(), found=found), SplitSettings()
    )
    trained = train_model(
        ref, TrainSettings(epochs=1), name="toy", runs=str(home / "runs")
    )
    meta = json.loads((trained.model / "memory.json").read_text())["meta"]
    raw = Dataset(source).images[:]
    served = [
        repaired_as_trained(raw[part], meta, trained.model)
        for part in (slice(0, 1), slice(1, 8), slice(8, N))
    ]
    assert (Dataset(ref).images[:] != raw).any()
    np.testing.assert_array_equal(np.concatenate(served), Dataset(ref).images[:])


def test_a_model_without_the_network_that_repaired_its_images_is_not_kept(
    home, tmp_path
):
    found = find_detector(home / "detectors", "holes")
    ref = inpaint_dataset(prepared(tmp_path), settings(), found=found)
    with pytest.raises(UsageError, match="is gone"):
        keep_beside(tmp_path / "model", Dataset(ref), runs=tmp_path / "elsewhere")


def test_without_the_stage_serving_changes_nothing():
    images = smooth(2)
    assert repaired_as_trained(images, {"inpaint": None}, Path("nowhere")) is images
    assert repaired_as_trained(images, {}, Path("nowhere")) is images


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"method": "telea"}, "give detector=NAME"),
        ({"min_occluded": 0.6, "max_occluded": 0.5}, "no image lies between"),
    ],
)
def test_impossible_settings_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        InpaintSettings(**given)


def test_an_unknown_network_is_refused_and_the_known_are_named(home):
    ask = functools.partial(
        wanted_detector, detectors=str(home / "detectors"), size=SIDE
    )
    assert ask(InpaintSettings()) is None
    assert ask(settings()) == find_detector(home / "detectors", "holes")
    with pytest.raises(UsageError, match="known: holes"):
        ask(settings(detector="hole"))
    with pytest.raises(UsageError, match="16 pixels, these have 32"):
        ask(settings(), size=32)


def test_the_area_under_the_curve_is_that_of_all_pairs_of_pixels():
    rng = np.random.default_rng(0)
    masks = rng.random((3, 4, 4)) < 0.4
    chance = rng.integers(0, 10, (3, 4, 4)) / 10 + 0.05
    one, other = chance[masks][:, None], chance[~masks]
    pairs = (one > other).mean() + (one == other).mean() / 2
    found = auroc(pixel_counts(chance, masks).sum(0, keepdims=True))
    assert found[0, 0] == pytest.approx(pairs)
