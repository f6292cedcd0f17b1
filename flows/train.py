"""Train: a source of images in, a gated and registered model version out."""

from __future__ import annotations

import shlex
from typing import Any

from pydantic import Field, model_validator

from data_contracts.references import ContractReport, DatasetRef
from flows import workspace
from flows.arguments import words
from flows.as_flow import as_flow, run_flow
from flows.result import Clock, RunResult
from flows.stages import (
    StageSettings,
    TrainSettings,
    curate,
    learn,
    prepare,
)
from models.design import views_problem
from models.presets import side_problem
from tasks.embed import Encoder
from tasks.ensemble import pupil_of
from tasks.label_review import read_reviews
from tasks.register import champion_datasets, find_champion, settled_uses
from tasks.step_settings import growth_problem
from tasks.transfer import check_start


class TrainConfig(StageSettings):
    """Settings of `sightline train`."""

    data: str = Field(description="Folder, manifest, Parquet, archive, VOC or COCO.")
    name: str = Field(description="Name of the model and its dataset.")

    @model_validator(mode="after")
    def _images_large_enough(self) -> TrainConfig:
        if said := size_problem(self.train, self.decode.image_size):
            raise ValueError(said)
        return self

    @model_validator(mode="after")
    def _views_can_grow(self) -> TrainConfig:
        if said := growth_problem(self.train, self.decode.image_size):
            raise ValueError(said)
        return self

    @model_validator(mode="after")
    def _numbers_to_fill(self) -> TrainConfig:
        if self.impute.numbers != "keep" and not self.source.numeric:
            raise ValueError(
                f"impute.numbers={self.impute.numbers} fills numeric columns, and none"
                " is named; say which: source.numeric=[price]"
            )
        return self


def size_problem(train: TrainSettings, size: int) -> str:
    """Say why images of `size` pixels are too small for a network, '' if they fit."""
    problem = side_problem(train.preset, size)
    return problem or views_problem(train.preset, train.network.design, size)


def run_stages(config: TrainConfig) -> RunResult:
    """Ingest, validate, clean, split, train, evaluate, gate, register and report."""
    workspace.prepare()
    read_reviews(config.audit.review)
    check_start(
        config.train.init,
        config.train.preset,
        image_size=config.decode.image_size,
        home=workspace.home(),
        design=config.train.network.design,
    )
    if config.train.ensemble.teacher is not None:
        pupil_of(config.train.ensemble.teacher, runs=str(workspace.runs_root()))
    clock = Clock()
    datasets, contracts = images_of(config, clock=clock)
    return learn(
        datasets,
        contracts,
        config,
        name=config.name,
        clock=clock,
        config=config.model_dump(mode="json"),
        commands=commands("train", config),
    )


def images_of(
    config: TrainConfig, *, clock: Clock
) -> tuple[dict[str, DatasetRef], list[ContractReport]]:
    """Prepare and curate the images; return each snapshot, and what was validated."""
    uri = workspace.dataset_uri(config.name)
    datasets, contracts = prepare(
        config.data, config, uri=uri, clock=clock, settled=settled_for(config.name, uri)
    )
    asked = config.embed.encoder == Encoder.champion
    models = str(workspace.models_root())
    datasets = curate(
        datasets,
        config,
        name=config.name,
        clock=clock,
        champion=find_champion(models, config.name) if asked else None,
    )
    return datasets, contracts


def settled_for(name: str, uri: str) -> DatasetRef | None:
    """Return the snapshot that the champion was trained on, in this dataset."""
    used = settled_uses(champion_datasets(str(workspace.models_root()), name))
    return used if used is not None and used.uri == uri else None


def commands(verb: str, config: Any) -> dict[str, str]:
    """Return the command lines to show in the report of a run."""
    given = shlex.join(words(config))
    name = f"name={config.name}"
    return {
        "Run this again": f"sightline {verb} {given}",
        "Label new images": f"sightline predict {name} data=FOLDER",
        "Teach it new images": f"sightline update {name} data=FOLDER",
        "Go back to the last champion": f"sightline models rollback {name}",
    }


train = as_flow(run_stages, name="train")


def run(config: TrainConfig) -> RunResult:
    """Train as a Prefect flow if a server is named, else in plain Python."""
    return run_flow(train, run_stages, config)
