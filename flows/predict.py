"""Predict: label the images of a source with the champion, or another version."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from data_contracts.references import ModelRef, Reference
from flows import workspace
from flows.as_flow import as_flow, run_flow
from flows.asked import AskedSettings
from tasks.audit_settings import HardenSettings
from tasks.predict import predict_source


class PredictConfig(AskedSettings):
    """Settings of `sightline predict`."""

    data: str = Field(description="Folder, file, manifest or archive of images.")
    out: str = Field("predictions.parquet", description="Ends in .parquet or .csv.")
    harden: HardenSettings = Field(
        HardenSettings(), description="What images go through before they are answered."
    )


class Predicted(Reference):
    """A finished prediction."""

    model: ModelRef
    out: str
    labelled: int
    unread: int
    exit_code: int = 0

    def text(self) -> str:
        """Return the result for a person."""
        unread = f"; {self.unread:,} files could not be read" if self.unread else ""
        return (
            f"Labelled {self.labelled:,} images with {self.model.name} version"
            f" {self.model.version}{unread}\n\n  {self.out}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return self.model_dump(mode="json")


def run_stages(config: PredictConfig) -> Predicted:
    """Write class, probability and model version of every image to Parquet or CSV."""
    workspace.prepare()
    model = config.model
    counts = predict_source(
        config.data, config.source, model=model, out=config.out, harden=config.harden
    )
    return Predicted(model=model, out=config.out, **counts)


predict = as_flow(run_stages, name="predict")


def run(config: PredictConfig) -> Predicted:
    """Predict as a Prefect flow if a server is named, else in plain Python."""
    return run_flow(predict, run_stages, config)
