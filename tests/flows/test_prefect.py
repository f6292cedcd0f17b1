"""The flow on a real Prefect server: states, tasks, artifacts, the form's schema."""

import time

import pytest

from data_contracts.references import Verdict
from flows.train import train
from tests.flows.conftest import small_config
from tests.tasks.pictures import write_folders


def sections(config) -> dict:
    return {name: getattr(config, name) for name in type(config).model_fields}


def latest_run(client, flow: str):
    runs = [
        run
        for run in client.read_flow_runs()
        if client.read_flow(run.flow_id).name == flow
    ]
    return max(runs, key=lambda run: run.created)


@pytest.mark.server
def test_a_flow_run_shows_its_stages_and_artifacts(prefect_server, pictures):
    from prefect.client.orchestration import get_client

    result = train(**sections(small_config(pictures, name="shown")))
    assert result.verdict in {Verdict.PASS, Verdict.INCONCLUSIVE}
    with get_client(sync_client=True) as client:
        run = latest_run(client, "train")
        assert run.state.is_completed()
        limit = time.monotonic() + 30
        names: set[str] = set()
        while len(names) < 8 and time.monotonic() < limit:  # events arrive late
            tasks = [t for t in client.read_task_runs() if t.flow_run_id == run.id]
            names = {task.name.rsplit("-", 1)[0] for task in tasks}
            time.sleep(0.5)
        assert names >= {
            "ingest_dataset",
            "validate_dataset",
            "clean_dataset",
            "denoise_dataset",
            "split_dataset",
            "train_model",
            "evaluate_model",
            "register_model",
        }
        keys = {artifact.key for artifact in client.read_artifacts()}
        assert keys >= {"shown-summary", "shown-gate"}


@pytest.mark.server
def test_bad_data_fails_the_flow_run_without_a_second_try(prefect_server, tmp_path):
    from prefect.client.orchestration import get_client

    from data_contracts.errors import ContractError

    root = write_folders(tmp_path / "in", only=12)
    with pytest.raises(ContractError):
        train(**sections(small_config(root, name="bad")))
    with get_client(sync_client=True) as client:
        run = latest_run(client, "train")
        assert run.state.is_failed()
        tasks = [t for t in client.read_task_runs() if t.flow_run_id == run.id]
        assert all(task.run_count <= 1 for task in tasks)


def test_the_form_knows_every_setting_and_its_bounds():
    from prefect.utilities.callables import parameter_schema

    schema = parameter_schema(train).model_dump_for_openapi()
    assert set(schema["required"]) == {"data", "name"}
    settings = schema["definitions"]["TrainSettings"]["properties"]
    assert settings["learning_rate"]["anyOf"][0]["exclusiveMinimum"] == 0
    assert settings["epochs"]["anyOf"][0]["minimum"] == 1
    assert all(field.get("description") for field in settings.values())
