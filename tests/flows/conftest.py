"""One small trained workspace, made once; each test gets a copy."""

import shutil
from pathlib import Path

import pytest

from flows.demo import QUICK
from flows.train import TrainConfig
from flows.train import run as run_train
from tasks.augment_settings import AugmentSettings
from tasks.catalogue import write_catalogue
from tasks.catalogue_settings import CatalogueSettings
from tasks.decode import DecodeSettings

KINDS = ("mug", "bottle", "lamp")
PICTURES = CatalogueSettings(
    images=300,
    image_size=32,
    kinds=KINDS,
    street=0.1,
    users=0,
    events=0,
    broken=0.01,
    duplicates=0.02,
)
TRAIN = QUICK.model_copy(
    update={
        "epochs": 15,
        "augment": AugmentSettings(
            zoom=(0.8, 1.0), resolution=1, rotate=5, contrast=0.3, mixup=0, cutmix=0
        ),
    }
)


def small_config(manifest, **changes) -> TrainConfig:
    """Return settings that train in seconds."""
    base = {
        "data": str(manifest),
        "name": "shop",
        "decode": DecodeSettings(image_size=32),
        "train": TRAIN,
    }
    return TrainConfig(**(base | changes))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """Manifest of a small catalogue."""
    return write_catalogue(PICTURES, tmp_path_factory.mktemp("pictures") / "shop")


@pytest.fixture(scope="session")
def more_pictures(tmp_path_factory) -> Path:
    """Manifest of a later catalogue, with a class more."""
    later = PICTURES.model_copy(
        update={"first": 1000, "images": 160, "kinds": (*KINDS, "chair")}
    )
    return write_catalogue(later, tmp_path_factory.mktemp("later") / "shop")


@pytest.fixture(scope="session")
def trained_home(tmp_path_factory, pictures):
    """A workspace after one training, and what that came to."""
    home = tmp_path_factory.mktemp("trained") / "workspace"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIGHTLINE_HOME", str(home))
        result = run_train(small_config(pictures))
    return home, result


@pytest.fixture
def trained(trained_home, own_workspace):
    """A copy of the trained workspace, moved to the test's own place."""
    home, result = trained_home
    shutil.copytree(home, own_workspace)
    return result
