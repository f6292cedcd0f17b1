"""Every deployment of prefect.yaml loads and would be accepted, with no server."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from data_contracts.config import Settings
from flows import up

ROOT = Path(__file__).parents[2]
LISTED = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))
DEPLOYMENTS = {f"{d['entrypoint']}/{d['name']}": d for d in LISTED["deployments"]}
EXAMPLE = {"data": "pictures", "name": "shelf", "out": "labels.csv"}

each_deployment = pytest.mark.parametrize(
    "deployment", DEPLOYMENTS.values(), ids=DEPLOYMENTS.keys()
)


def load(deployment: dict[str, Any]) -> Any:
    from prefect.flows import load_flow_from_entrypoint

    return load_flow_from_entrypoint(str(ROOT / deployment["entrypoint"]))


def schema_of(flow: Any) -> dict[str, Any]:
    from prefect.utilities.callables import parameter_schema

    return parameter_schema(flow).model_dump_for_openapi()


@each_deployment
def test_its_parameters_are_accepted(deployment):
    flow = load(deployment)
    names = inspect.signature(flow.fn).parameters
    filled = {name: EXAMPLE[name] for name in EXAMPLE if name in names}
    filled |= deployment.get("parameters", {})
    flow.validate_parameters(filled)
    jsonschema.validate(filled, schema_of(flow))
    usual = {name: p.default for name, p in names.items() if name not in filled}
    sent = {  # as a form does: every setting
        name: value.model_dump(mode="json") if isinstance(value, Settings) else value
        for name, value in usual.items()
        if value is not inspect.Parameter.empty
    }
    flow.validate_parameters(filled | sent)


@each_deployment
def test_a_misspelt_setting_is_refused_by_the_form(deployment):
    flow = load(deployment)
    definitions = schema_of(flow)["definitions"]
    sections = {
        name: found for name, found in definitions.items() if "properties" in found
    }
    assert sections
    assert all(found["additionalProperties"] is False for found in sections.values())


@each_deployment
def test_its_flow_takes_exactly_the_settings_of_the_command_line(deployment):
    from flows.cli import VERBS

    verb = VERBS[deployment["entrypoint"].partition(":")[2]]
    settings: type[Settings] = getattr(import_module(verb.module), verb.settings)
    parameters = inspect.signature(load(deployment).fn).parameters
    assert set(parameters) == set(settings.model_fields)


@each_deployment
def test_its_schedules_are_off_and_can_be_read(deployment):
    from prefect.client.schemas.schedules import CronSchedule

    for schedule in deployment.get("schedules", []):
        CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
        assert schedule["active"] is False


@each_deployment
def test_its_runs_queue_in_the_pool_that_up_creates(deployment):
    assert deployment["work_pool"]["name"] == up.POOL
    cache = deployment["work_pool"]["job_variables"]["env"]["JAX_COMPILATION_CACHE_DIR"]
    assert cache == "{{ $JAX_COMPILATION_CACHE_DIR }}"
    if "predict" not in deployment["entrypoint"]:
        limit = {"limit": 1, "collision_strategy": "ENQUEUE"}
        assert deployment["concurrency_limit"] == limit


def test_the_pinned_server_still_starts():
    # Newer releases of its web framework have broken it before.
    command = [sys.executable, "-c", "import prefect.server.api.server"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)


def test_what_the_list_takes_from_the_environment_is_what_up_sets(tmp_path):
    given = up.environment({}, home=tmp_path, port=4200)
    text = (ROOT / "prefect.yaml").read_text("utf-8")
    wanted = {word.split(" }}")[0] for word in text.split("{{ $")[1:]}
    assert wanted == {"SIGHTLINE_ROOT", "JAX_COMPILATION_CACHE_DIR"}
    assert wanted <= set(given)
