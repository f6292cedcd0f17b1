"""Which version is asked, and on which images: by evaluate, explain, audit, predict."""

from __future__ import annotations

from pydantic import Field

from data_contracts.config import Settings
from data_contracts.references import ContractReport, DatasetRef, ModelRef
from flows import workspace
from flows.result import Clock
from tasks.clean import CleanSettings, clean_dataset
from tasks.decode import DecodeSettings
from tasks.denoise import DenoiseSettings, denoise_dataset
from tasks.ingest import IngestSettings, ingest_dataset
from tasks.listing import SourceSettings
from tasks.register import champion_config
from tasks.validate import validate_dataset
from tasks.versions import find_version, named_version


class AskedSettings(Settings):
    """Which version is asked; the settings of a verb follow."""

    name: str = Field(description="Name of the model; NAME@V is version V.")
    version: int | None = Field(
        None, ge=1, description="Version; none is the champion."
    )
    source: SourceSettings = Field(SourceSettings(), description="What to list.")

    @property
    def model(self) -> ModelRef:
        """The version.

        Raises:
            UsageError: There is none such.
        """
        name, version = named_version(self.name, self.version)
        models = str(workspace.models_root())
        return find_version(models, workspace.checked(name), version)


def asked_images(
    place: str, source: SourceSettings, model: ModelRef, *, clock: Clock
) -> tuple[DatasetRef, list[ContractReport]]:
    """Ingest, validate, clean and denoise as a version's training images were.

    What covers them is painted over where they are read, see `Repaired`.

    Args:
        place: Folder, manifest, archive, ...
        source: What to list.
        model: The version.
        clock: Where seconds add up.

    Raises:
        ContractError: A critical rule of ingested images is broken.
    """
    made = champion_config(model)
    decode = DecodeSettings.model_validate(made["decode"])
    with clock.stage("ingest"):
        ingested = ingest_dataset(
            place,
            IngestSettings(source=source, decode=decode),
            uri=workspace.asked_uri(model.name),
        )
    with clock.stage("validate"):
        few = {"min_classes": 1, "min_images": 1}
        report = validate_dataset(ingested, "ingested", parameters=few)
    with clock.stage("clean"):
        cleaned = clean_dataset(ingested, CleanSettings.model_validate(made["clean"]))
    with clock.stage("denoise"):
        treat = DenoiseSettings.model_validate(made["denoise"])
        return denoise_dataset(cleaned, treat), [report]
