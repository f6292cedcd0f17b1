"""A person waives an inconclusive gate in Prefect's form, by name and reason."""

import contextvars
import threading
import time

import pytest
from prefect import flow

from data_contracts.errors import UsageError
from data_contracts.references import CheckResult, GateReport, Verdict
from flows import waiver
from flows.waiver import ask_to_waive, must_be_askable
from models import registry
from tasks.gate_settings import GateSettings
from tasks.register import Registered

ASKS = GateSettings(ask=True)


def registered(root, verdict=Verdict.INCONCLUSIVE) -> Registered:
    """Register a version and judge it."""
    ref = registry.register(
        root,
        "shop",
        build=lambda folder: (folder / "weights").write_text("w"),
        run_id="one",
        manifest={},
    )
    report = GateReport(
        name="shop",
        version=ref.version,
        verdict=verdict,
        checks=[CheckResult(check="top-1", verdict=verdict, detail="Too few images.")],
    )
    registry.judge(root, "shop", version=ref.version, report=report, who="t")
    return Registered(model=ref, gate=report, promoted=False)


def test_nobody_can_be_asked_without_a_server():
    with pytest.raises(UsageError, match="no Prefect server"):
        must_be_askable(ASKS)
    must_be_askable(GateSettings())


@pytest.mark.parametrize("verdict", [Verdict.FAIL, Verdict.PASS])
def test_what_is_decided_asks_nobody(tmp_path, verdict):
    found = registered(tmp_path, verdict)
    assert ask_to_waive(found, ASKS, models=str(tmp_path)) == found


@pytest.mark.server
@pytest.mark.parametrize("by", ["Ada", ""])
def test_a_name_and_a_reason_promote_and_none_does_not(
    prefect_server, tmp_path, monkeypatch, by
):
    from prefect.client.orchestration import get_client

    monkeypatch.setattr(waiver, "GLANCE", 1)
    monkeypatch.setattr(waiver, "PATIENCE", 60)
    found = registered(tmp_path)

    @flow(name=f"asks-{by or 'nobody'}")
    def asks() -> Registered:
        must_be_askable(ASKS)
        return ask_to_waive(found, ASKS, models=str(tmp_path))

    def answer() -> None:
        with get_client(sync_client=True) as client:
            limit = time.monotonic() + 60
            while time.monotonic() < limit:
                for run in client.read_flow_runs():
                    if run.state is not None and run.state.is_paused():
                        given = {"by": by, "reason": "seen by eye"}
                        client.resume_flow_run(run.id, run_input=given)
                        return
                time.sleep(0.3)

    # A thread starts without the settings that name the server.
    person = threading.Thread(target=contextvars.copy_context().run, args=(answer,))
    person.start()
    result = asks()
    person.join()
    assert result.promoted == bool(by)
    told = [(e.event, e.who, e.why) for e in registry.history(tmp_path, "shop")]
    assert (("blessed", "Ada", "waived: seen by eye") in told) == bool(by)
    champion = registry.champion(tmp_path, "shop")
    assert (champion is not None) == bool(by)
    if by:  # a run that goes on after it asks nobody again
        again = ask_to_waive(found, ASKS, models=str(tmp_path))
        assert again.promoted
