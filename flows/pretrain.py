"""Pretrain: images without labels in, a version to start others from out."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from data_contracts.config import Settings
from data_contracts.references import Reference
from flows import workspace
from flows.as_flow import as_flow, run_flow
from flows.result import Clock, RunResult
from flows.stages import (
    CleanSettings,
    ContractSettings,
    DecodeSettings,
    DenoiseSettings,
    EvaluateSettings,
    GateSettings,
    SourceSettings,
    SplitSettings,
    StageSettings,
    TrainSettings,
    last,
    learn,
    prepare,
)
from flows.train import commands, settled_for
from models.presets import side_problem
from tasks.pretrain import (
    Pretrained,
    PretrainSettings,
    can_be_judged,
    pretrain_model,
)
from tasks.step_settings import Probe


class PretrainConfig(Settings):
    """Settings of `sightline pretrain`."""

    data: str = Field(description="Folder, manifest, Parquet, archive, VOC or COCO.")
    name: str = Field(description="Name of the model and its dataset.")
    source: SourceSettings = Field(SourceSettings(), description="What to list.")
    decode: DecodeSettings = Field(DecodeSettings(), description="How to decode.")
    contracts: ContractSettings = Field(
        ContractSettings(), description="What to put up with."
    )
    clean: CleanSettings = Field(CleanSettings(), description="What to leave out.")
    denoise: DenoiseSettings = Field(DenoiseSettings(), description="What to filter.")
    split: SplitSettings = Field(SplitSettings(), description="How to divide.")
    pretrain: PretrainSettings = Field(
        PretrainSettings(), description="How the network learns."
    )
    evaluate: EvaluateSettings = Field(
        EvaluateSettings(), description="How to measure a head on its features."
    )
    gate: GateSettings = Field(GateSettings(), description="What a version must reach.")

    @model_validator(mode="after")
    def _images_large_enough(self) -> PretrainConfig:
        if said := side_problem(self.pretrain.preset, self.decode.image_size):
            raise ValueError(said)
        return self


class Unjudged(Reference):
    """A network that learnt from images of which too few have labels to judge it."""

    found: Pretrained
    seconds: dict[str, float] = Field(description="Wall time by stage.")
    exit_code: int = 0

    def text(self) -> str:
        """Return the result for a person."""
        found = self.found
        return "\n".join(
            [
                f"Pretrained on {found.images:,} images; too few of them have labels to"
                " judge it by, so that no version was registered.",
                "",
                f"  views that find each other  {found.found_again:.1%}",
                f"  seconds                     {sum(self.seconds.values()):.0f}",
                f"  start from it               init=run:{found.run}",
            ]
        )

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return self.model_dump(mode="json")


def run_stages(config: PretrainConfig) -> RunResult | Unjudged:
    """Learn from images alone; judge by a head on the features, gate, register."""
    workspace.prepare()
    clock, uri = Clock(), workspace.dataset_uri(config.name)
    shared = {
        name: getattr(config, name)
        for name in PretrainConfig.model_fields
        if name in StageSettings.model_fields
    }
    settings = StageSettings(**shared)
    datasets, contracts = prepare(
        config.data,
        settings,
        uri=uri,
        clock=clock,
        settled=settled_for(config.name, uri),
        without_labels=True,
    )
    with clock.stage("pretrain"):
        found = pretrain_model(
            last(datasets),
            config.pretrain,
            name=config.name,
            runs=str(workspace.runs_root()),
        )
    if not can_be_judged(last(datasets)):
        return Unjudged(found=found, seconds=clock.seconds)
    judged = settings.model_copy(
        update={
            "train": TrainSettings(
                preset=config.pretrain.preset,
                init=f"run:{found.run}",
                probe=Probe.only,
            )
        }
    )
    return learn(
        datasets,
        contracts,
        judged,
        name=config.name,
        clock=clock,
        config=judged.model_dump(mode="json")
        | config.model_dump(mode="json", include={"name", "data", "pretrain"}),
        commands=commands("pretrain", config),
    )


pretrain = as_flow(run_stages, name="pretrain")


def run(config: PretrainConfig) -> RunResult | Unjudged:
    """Pretrain as a Prefect flow if a server is named, else in plain Python."""
    return run_flow(pretrain, run_stages, config)
