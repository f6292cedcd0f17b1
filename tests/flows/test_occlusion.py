"""The verb `occlusion`, and a training that paints over what its network finds."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from data_contracts.errors import UsageError
from data_contracts.store import Dataset
from flows import workspace
from flows.occlusion import OcclusionConfig, run
from flows.result import Clock
from flows.stages import StageSettings, prepare
from tasks.augment_settings import Occluder
from tasks.clean import CleanSettings
from tasks.decode import DecodeSettings
from tasks.detector import find_detector
from tasks.inpaint import InpaintSettings
from tasks.occlusion import OcclusionSettings


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(24):
        folder = root / "ab"[i % 2]
        folder.mkdir(exist_ok=True)
        small = rng.integers(0, 256, (4, 4, 3), np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), cv2.resize(small, (32, 32)))
    return root


def config(photos: Path) -> OcclusionConfig:
    return OcclusionConfig(
        data=str(photos),
        name="holes",
        decode=DecodeSettings(image_size=16),
        clean=CleanSettings(min_sharpness=0),
        occlusion=OcclusionSettings(epochs=1, batch_size=8),
    )


def test_a_network_is_trained_judged_shown_and_found_by_name(photos):
    made = run(config(photos))
    rows = {row.family: row for row in made.found.figures}
    assert [name for name, row in rows.items() if row.held_out] == ["texture"]
    assert all(0 <= row.iou.low <= row.iou.value <= 1 for row in rows.values())
    page = Path(made.report).read_text("utf-8")
    assert "held out" in page
    assert page.count("<img") == 6 * 4 * made.found.images
    assert find_detector(workspace.detectors_root(), "holes") == made.found.detector
    assert "texture" in made.text()
    again = run(config(photos))
    assert again.found == made.found

    settings = StageSettings(
        decode=DecodeSettings(image_size=16),
        clean=CleanSettings(min_sharpness=0),
        inpaint=InpaintSettings(method="ns", detector="holes", mask_threshold=0.01),
    )
    uri = workspace.dataset_uri("shelf")
    datasets, _ = prepare(str(photos), settings, uri=uri, clock=Clock())
    assert list(datasets) == ["ingest", "clean", "denoise", "inpaint", "split"]
    assert Dataset(datasets["split"]).has("occluded")


def test_an_unknown_network_is_told_before_any_image_is_read(tmp_path):
    settings = StageSettings(inpaint=InpaintSettings(method="ns", detector="gone"))
    with pytest.raises(UsageError, match="sightline occlusion"):
        prepare(str(tmp_path / "none"), settings, uri=str(tmp_path), clock=Clock())


def test_without_a_held_out_family_it_learns_from_all():
    assert OcclusionSettings(held_out=None).families == tuple(Occluder)
    assert len(OcclusionSettings().families) == len(Occluder) - 1
