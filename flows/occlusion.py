"""Occlusion: train a network that finds what covers an image."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from data_contracts.config import Settings
from data_contracts.references import Reference
from flows import workspace
from flows.as_flow import as_flow, run_flow
from flows.result import Clock
from flows.stages import (
    CleanSettings,
    ContractSettings,
    DecodeSettings,
    DenoiseSettings,
    SourceSettings,
    SplitSettings,
    StageSettings,
    last,
    prepare,
)
from tasks.occlusion import Occlusion, OcclusionSettings, train_detector
from tasks.occlusion_report import report_occlusion


class OcclusionConfig(Settings):
    """Settings of `sightline occlusion`."""

    data: str = Field(description="Folder, manifest, Parquet, archive, VOC or COCO.")
    name: str = Field(description="Name of the network and its dataset.")
    source: SourceSettings = Field(SourceSettings(), description="What to list.")
    decode: DecodeSettings = Field(DecodeSettings(), description="How to decode.")
    contracts: ContractSettings = Field(
        ContractSettings(), description="What to put up with."
    )
    clean: CleanSettings = Field(CleanSettings(), description="What to leave out.")
    denoise: DenoiseSettings = Field(DenoiseSettings(), description="What to filter.")
    split: SplitSettings = Field(SplitSettings(), description="How to divide.")
    occlusion: OcclusionSettings = Field(
        OcclusionSettings(), description="How the network learns."
    )


class Detected(Reference):
    """A trained network, and where its page lies."""

    found: Occlusion
    seconds: dict[str, float] = Field(description="Wall time by stage.")
    report: str = Field(description="Path of the HTML report.")
    exit_code: int = 0

    def text(self) -> str:
        """Return the result for a person."""
        name = self.found.detector.name
        lines = [f"Trained: {name} finds what covers an image", ""]
        for row in self.found.figures:
            unseen = ", never seen in training" if row.held_out else ""
            lines.append(
                f"  {row.family:<10} AUROC {row.auroc.value:.3f}, IoU"
                f" {row.iou.value:.3f}{unseen}"
            )
        lines += [
            f"  {'nothing':<10} {self.found.alarms.value:.1%} of the pixels found",
            f"  {'seconds':<10} {sum(self.seconds.values()):.0f}",
            f"  {'report':<10} {self.report}",
        ]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return self.model_dump(mode="json")


def run_stages(config: OcclusionConfig) -> Detected:
    """Ingest, validate, clean, split; train a network that finds occlusion; report."""
    workspace.prepare()
    clock, uri = Clock(), workspace.dataset_uri(config.name)
    shared = {
        name: getattr(config, name)
        for name in OcclusionConfig.model_fields
        if name in StageSettings.model_fields
    }
    datasets, _ = prepare(config.data, StageSettings(**shared), uri=uri, clock=clock)
    with clock.stage("train"):
        found = train_detector(
            last(datasets),
            config.occlusion,
            name=config.name,
            runs=str(workspace.runs_root()),
            detectors=str(workspace.detectors_root()),
        )
    with clock.stage("report"):
        report = report_occlusion(last(datasets), found, config.occlusion)
    return Detected(found=found, seconds=clock.seconds, report=report)


occlusion = as_flow(run_stages, name="occlusion")


def run(config: OcclusionConfig) -> Detected:
    """Train as a Prefect flow if a server is named, else in plain Python."""
    return run_flow(occlusion, run_stages, config)
