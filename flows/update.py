"""Update: teach a model the images of a new era, and gate it on old and new."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import (
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from data_contracts.config import Settings
from data_contracts.errors import UsageError
from data_contracts.references import ModelRef, Reference
from flows import workspace
from flows.as_flow import as_flow, run_flow
from flows.result import Clock, RunResult
from flows.stages import (
    GateSettings,
    SourceSettings,
    StageSettings,
    TrainSettings,
    curate,
    learn,
    prepare,
)
from flows.train import commands, size_problem
from tasks.ensemble import pupil_of
from tasks.ensemble_settings import going_on
from tasks.label_review import read_reviews, reviews_of
from tasks.network_settings import like_champion
from tasks.register import (
    champion_config,
    champion_datasets,
    find_champion,
    settled_uses,
)
from tasks.step_settings import growth_problem

# Settings of training that an update takes over unless it gives its own.
CHAMPIONS_OWN = (
    "loss loss_details label_smoothing balance balance_details head thresholds"
    " optimizer weight_decay precision freeze layer_decay accumulate remat"
).split()


# Of settings that were made whole, with the champion's, rather than sent by a form.
WHOLE = "whole"


def only_given(settings: type[Settings], sent: Any) -> Any:
    """Return what was sent, less defaults where all settings were, as a form does.

    A setting that a person left alone is the champion's.
    """
    if not isinstance(sent, dict) or sent.keys() < settings.model_fields.keys():
        return sent
    usual = settings().model_dump(mode="json")
    found = {}
    for name, value in sent.items():
        kind = getattr(settings.model_fields.get(name), "annotation", None)
        if isinstance(kind, type) and issubclass(kind, Settings):
            value = only_given(kind, value)
        if name not in usual or value not in (usual[name], {}):
            found[name] = value
    return found


class UpdateTrainSettings(TrainSettings):
    """Settings of the stage `train` where it starts from a champion."""

    updates: ClassVar[bool] = True
    epochs: int | None = Field(12, ge=1, le=10_000, description="Passes over train.")
    learning_rate: float | None = Field(
        None,
        gt=0,
        le=10,
        description="Peak of the schedule; none: .21 of the optimiser's own.",
    )
    patience: int = Field(
        6, ge=0, description="Epochs without a better validation to stop; 0 never."
    )

    @model_validator(mode="before")
    @classmethod
    def _of_training(cls, given: Any, info: ValidationInfo) -> Any:
        if type(given) is TrainSettings:
            return given.model_dump() | {"learning_rate": given.rate}
        return given if info.context == WHOLE else only_given(cls, given)

    @field_validator("init")
    @classmethod
    def _starts_from_the_champion(cls, init: str | None) -> None:
        if init is not None:
            raise ValueError(
                f"an update starts from the champion; came init={init}. Leave it out,"
                " or train anew: sightline train"
            )


class UpdateConfig(Settings):
    """Settings of `sightline update`; all others are the champion's."""

    name: str = Field(description="Name of the model.")
    data: str = Field(description="The new images: folder, manifest, archive, ...")
    source: SourceSettings = Field(SourceSettings(), description="What to list.")
    train: UpdateTrainSettings = Field(
        UpdateTrainSettings(), description="How to train."
    )
    gate: GateSettings = Field(GateSettings(), description="What a version must reach.")
    review: str | None = Field(
        None, description="CSV of `sightline data review`, edited by a person."
    )


class NothingNew(Reference):
    """The champion has already learnt all the images that were given."""

    model: ModelRef
    images: int

    exit_code: int = 0

    def text(self) -> str:
        """Return the result for a person."""
        return (
            f"Nothing new: version {self.model.version} of {self.model.name} has"
            f" learnt these images already ({self.images:,} in all)."
        )

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return self.model_dump(mode="json") | {"nothing_new": True}


def run_stages(config: UpdateConfig) -> RunResult | NothingNew:
    """Add new images as the next era, train from the champion, gate on old and new.

    Raises:
        UsageError: The model has no champion to start from.
    """
    workspace.prepare()
    reviews = read_reviews(config.review)
    models, clock = str(workspace.models_root()), Clock()
    if config.train.ensemble.teacher is not None:
        pupil_of(config.train.ensemble.teacher, runs=str(workspace.runs_root()))
    champion = find_champion(models, workspace.checked(config.name))
    if champion is None:
        raise UsageError(
            f"Model {config.name!r} has no champion to update in {models}. Train one"
            f" first: sightline train data=FOLDER name={config.name}"
        )
    known = champion_datasets(models, config.name)
    settings = _settings(config, champion)
    datasets, contracts = prepare(
        config.data,
        settings,
        uri=known["ingest"].uri,
        clock=clock,
        parent=known["ingest"],
        settled=settled_uses(known),
    )
    decided = reviews_of(known["audit"]) if "audit" in known else []
    reviewed = {r[:3] for r in reviews} - {r[:3] for r in decided}
    if datasets["ingest"] == known["ingest"] and not reviewed:
        return NothingNew(model=champion, images=known["ingest"].n)
    datasets = curate(
        datasets, settings, name=config.name, clock=clock, champion=champion
    )
    return learn(
        datasets,
        contracts,
        settings,
        name=config.name,
        clock=clock,
        config=settings.model_dump(mode="json")
        | {"name": config.name, "data": config.data},
        start=champion,
        commands=commands("update", config),
    )


def _settings(config: UpdateConfig, champion: ModelRef) -> StageSettings:
    """Return the champion's settings with the update's own.

    Raises:
        UsageError: They do not go together.
    """
    kept = champion_config(champion)
    known = StageSettings.model_fields.keys() & kept.keys() - {"train"}
    same = {key: kept[key] for key in known}
    train = _like_champion(
        config.train,
        kept["train"],
        champion=f"{champion.name}@{champion.version}",
    )
    try:
        settings = StageSettings.model_validate(same)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"Version {champion.version} of {config.name!r} was made with settings that"
            f" this version of Sightline does not read ({where}: {first['msg']}). Train"
            f" it anew: sightline train data=FOLDER name={config.name}"
        ) from error
    size = settings.decode.image_size
    if said := size_problem(train, size) or growth_problem(train, size):
        raise UsageError(f"An update keeps the champion's image_size={size}: {said}.")
    # The champion's own reviews go on to hold by its snapshot.
    audit = settings.audit.model_copy(update={"review": config.review})
    return settings.model_copy(
        update={
            "source": config.source,
            "audit": audit,
            "train": train,
            "gate": config.gate,
        }
    )


def _like_champion(
    train: UpdateTrainSettings, kept: dict[str, Any], *, champion: str = "it"
) -> UpdateTrainSettings:
    """Return `train` with what the champion was trained with, unless given."""
    if "preset" in train.model_fields_set and train.preset != kept["preset"]:
        raise UsageError(
            f"An update learns on with the network of {champion}, a {kept['preset']};"
            f" came preset={train.preset}. Leave preset out, or train anew: sightline"
            " train"
        )
    same = {"preset": kept["preset"]} | {
        name: kept[name]
        for name in CHAMPIONS_OWN
        if name in kept and name not in train.model_fields_set
    }
    same["ensemble"] = going_on(
        train.ensemble,
        kept.get("ensemble", {}),
        champion=champion,
    ).model_dump()
    attacked = train.adversarial.model_dump(exclude_unset=True)
    same["adversarial"] = (kept.get("adversarial") or {}) | attacked
    if kept.get("probe") == "only" and train.freeze is None:
        same["freeze"] = "backbone"  # its features stay what they are
    try:
        same["network"] = like_champion(train.network, kept.get("network") or {})
        return UpdateTrainSettings.model_validate(
            train.model_dump() | same, context=WHOLE
        )
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
    except ValueError as error:
        said = str(error)
    raise UsageError(f"With the champion's own settings of train: {said}.")


update = as_flow(run_stages, name="update")


def run(config: UpdateConfig) -> RunResult | NothingNew:
    """Update as a Prefect flow if a server is named, else in plain Python."""
    return run_flow(update, run_stages, config)
