"""Ask a person, in Prefect's form, to waive what a gate found inconclusive."""

from __future__ import annotations

import logging

from prefect import pause_flow_run
from prefect.exceptions import FlowPauseTimeout
from prefect.input import RunInput
from pydantic import Field

from data_contracts.errors import UsageError
from data_contracts.references import Verdict
from tasks.gate_settings import GateSettings
from tasks.register import Registered
from tasks.stage import in_flow_run
from tasks.versions import promote_version, show_version, waive

log = logging.getLogger("sightline")

PATIENCE = 24 * 3600  # seconds that a run waits for a person
GLANCE = 5  # seconds between looks


class Waiver(RunInput):
    """Who answers for an inconclusive version, and why; no name is no waiver."""

    by: str = Field("", description="The person who answers for it; empty declines.")
    reason: str = Field("", description="Why, for the record.")


def must_be_askable(settings: GateSettings) -> None:
    """Refuse to ask where nobody could be asked.

    Raises:
        UsageError: No Prefect flow run is calling.
    """
    if settings.ask and not in_flow_run():
        raise UsageError(
            "gate.ask=yes waits for a person in Prefect's page, and this run has no"
            " Prefect server. Start it there (`sightline up`), or leave gate.ask out"
            " and waive afterwards: sightline models waive"
        )


def ask_to_waive(
    registered: Registered, settings: GateSettings, *, models: str
) -> Registered:
    """Pause the flow run for a waiver, and promote the version if one is given.

    What is not inconclusive, or was waived before, asks nobody.

    Args:
        registered: The version and its gate.
        settings: Whether to ask.
        models: Folder of the registry.
    """
    model, gate = registered.model, registered.gate
    if not settings.ask or gate.verdict != Verdict.INCONCLUSIVE:
        return registered
    if show_version(models, model.name, model.version)["status"] != "blessed":
        given = _answer(registered)
        if given is None or not given.by.strip() or not given.reason.strip():
            log.info("gate      nobody waives version %s", model.version)
            return registered
        waive(
            models,
            model.name,
            version=model.version,
            person=given.by,
            why=given.reason,
        )
    why = "waived by a person"
    promote_version(models, model.name, version=model.version, why=why)
    return registered.model_copy(update={"promoted": True})


def _answer(registered: Registered) -> Waiver | None:
    """Return what the person answers, None if nobody does."""
    open_ = [
        f"- {check.detail}"
        for check in registered.gate.checks
        if check.blocking and check.verdict != Verdict.PASS
    ]
    asked = Waiver.with_initial_data(
        description=f"The gate cannot tell whether {registered.model.name} version"
        f" {registered.model.version} may be promoted:\n\n" + "\n".join(open_)
    )
    try:
        return pause_flow_run(
            wait_for_input=asked, timeout=PATIENCE, poll_interval=GLANCE
        )
    except FlowPauseTimeout:
        return None
