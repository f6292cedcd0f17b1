"""Occlusion: train a network that finds what covers an image."""

from __future__ import annotations

import os
from typing import Any

from prefect import flow
from pydantic import Field

from data_contracts.config import Settings
from data_contracts.references import Reference
from flows import workspace
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


@flow(name="occlusion")
def occlusion(
    data: str,
    name: str,
    source: SourceSettings = SourceSettings(),
    decode: DecodeSettings = DecodeSettings(),
    contracts: ContractSettings = ContractSettings(),
    clean: CleanSettings = CleanSettings(),
    denoise: DenoiseSettings = DenoiseSettings(),
    split: SplitSettings = SplitSettings(),
    occlusion: OcclusionSettings = OcclusionSettings(),
) -> Detected:
    """Ingest, validate, clean and split; train a network that finds occlusion; report.

    Args:
        data: Folder, manifest, Parquet, archive, Pascal VOC or COCO.
        name: Name of the network and its dataset.
        source: What to list.
        decode: How to decode.
        contracts: What to put up with.
        clean: What to leave out.
        denoise: What to filter.
        split: How to divide.
        occlusion: How the network learns.
    """
    return run_stages(
        OcclusionConfig(
            data=data,
            name=name,
            source=source,
            decode=decode,
            contracts=contracts,
            clean=clean,
            denoise=denoise,
            split=split,
            occlusion=occlusion,
        )
    )


def run_stages(config: OcclusionConfig) -> Detected:
    """Run every stage in order; inside a flow run each is a Prefect task."""
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


def run(config: OcclusionConfig) -> Detected:
    """Train as a Prefect flow if a server is named, else in plain Python."""
    if not os.environ.get("PREFECT_API_URL"):
        return run_stages(config)
    sections = {name: getattr(config, name) for name in OcclusionConfig.model_fields}
    result: Detected = occlusion(**sections)
    return result
