"""Evaluate: every figure of a registered version on labelled images, on one page."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from data_contracts.references import ContractReport, Reference
from flows import workspace
from flows.as_flow import as_flow, run_flow
from flows.asked import AskedSettings, asked_images
from flows.result import Clock, percent
from tasks.measure import (
    MeasuredVersion,
    SlicedSettings,
    earlier_champion,
    measure_version,
)
from tasks.measure_page import write_measure_page
from tasks.register import find_champion
from tasks.version_images import own_dataset
from tasks.versions import folder_of


class EvaluateConfig(AskedSettings):
    """Settings of `sightline evaluate`."""

    data: str | None = Field(
        None,
        description="Labelled images: folder, manifest, archive, ...; none: the"
        " version's own test split.",
    )
    out: str | None = Field(
        None, description="Folder of the page; none: evaluations/ in the workspace."
    )
    evaluate: SlicedSettings = Field(SlicedSettings(), description="How to measure.")


class EvaluateResult(Reference):
    """A finished evaluation."""

    measured: MeasuredVersion
    report: str = Field(description="Path of the page.")
    contracts: list[ContractReport]
    seconds: dict[str, float] = Field(description="Wall time by stage.")
    exit_code: int = 0

    def text(self) -> str:
        """Return the result for a person."""
        model, found = self.measured.model, self.measured.found
        lines = [
            f"{model.name} version {model.version} on {found.n:,} images of"
            f" {self.measured.data}",
            "",
        ]
        for name, key in (
            ("top-1", "top1"),
            ("macro-F1", "macro_f1"),
            ("ROC AUC", "roc_auc"),
            ("ECE", "ece"),
        ):
            if key in found.figures:
                lines.append(f"  {name:<9} {percent(found.figures[key])}")
            else:
                lines.append(f"  {name:<9} not run: {found.not_run[key]}")
        if (agreement := found.agreement) is not None:
            change = f"{100 * agreement.change.value:+.1f} points"
            lines.append(
                f"  {'agrees':<9} {percent(agreement.same)} with version"
                f" {agreement.version}; top-1 {change}"
            )
        lines += [f"  {'note':<9} {note}" for note in self.measured.warnings]
        if found.excluded:
            lines.append(f"  {'left out':<9} {found.excluded:,} images")
        return "\n".join([*lines, f"  {'report':<9} {self.report}"])

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return self.model_dump(mode="json")


def run_stages(config: EvaluateConfig) -> EvaluateResult:
    """Measure a registered version on labelled images and write one page."""
    workspace.prepare()
    model, clock = config.model, Clock()
    contracts: list[ContractReport] = []
    if config.data is None:
        source, place = own_dataset(model).ref, "its own test split"
    else:
        source, contracts = asked_images(config.data, config.source, model, clock=clock)
        place = config.data
    champion = find_champion(str(workspace.models_root()), model.name)
    rival = earlier_champion(model) if champion in (model, None) else champion
    folder = config.out or folder_of(
        str(workspace.evaluations_root()),
        model,
        source.digest,
        config.evaluate,
        rival,
    )
    with clock.stage("evaluate"):
        measured = measure_version(
            source,
            model,
            config.evaluate,
            own=config.data is None,
            place=place,
            rival=rival,
            folder=folder,
        )
    with clock.stage("report"):
        report = write_measure_page(measured, contracts, folder=folder)
    return EvaluateResult(
        measured=measured, report=report, contracts=contracts, seconds=clock.seconds
    )


evaluate = as_flow(run_stages, name="evaluate")


def run(config: EvaluateConfig) -> EvaluateResult:
    """Evaluate as a Prefect flow if a server is named, else in plain Python."""
    return run_flow(evaluate, run_stages, config)
