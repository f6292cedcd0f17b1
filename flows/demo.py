"""Demo: render the embedded catalogue, and run the main job on it."""

from __future__ import annotations

from pydantic import Field

from data_contracts.config import Settings
from flows import train, workspace
from flows.result import RunResult
from flows.stages import TrainSettings
from flows.train import TrainConfig
from tasks.catalogue import write_catalogue
from tasks.catalogue_settings import CatalogueSettings

# Real piles are dirty, so this one is too.
DIRTY = CatalogueSettings(
    images=1500,
    duplicates=0.04,
    broken=0.01,
    useless=0.02,
    sensor_noise=0.04,
    occluders=0.05,
    label_noise=0.02,
)
QUICK = TrainSettings(epochs=24, patience=0)


class DemoConfig(Settings):
    """Settings of `sightline demo`."""

    name: str = Field("demo", description="Name of the model and its dataset.")
    catalogue: CatalogueSettings = Field(DIRTY, description="The pictures to render.")
    train: TrainSettings = Field(QUICK, description="How to train.")


def run(config: DemoConfig) -> RunResult:
    """Render the catalogue and train on it."""
    workspace.prepare()
    place = workspace.home() / "catalogues" / config.name
    manifest = write_catalogue(config.catalogue, place)
    return train.run(
        TrainConfig(data=str(manifest), name=config.name, train=config.train)
    )
