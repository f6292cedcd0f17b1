"""`sightline up` starts everything, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from data_contracts.errors import UsageError, WorkspaceError
from flows import children, up
from tests.conftest import free_port, migrated_database

ROOT = Path(__file__).parents[2]

FLOW = '''
import os, pathlib, time
from prefect import flow

@flow
def wait(mark: str, seconds: float = 600.0):
    """Say that the run is here, and stay."""
    pathlib.Path(mark).write_text(os.environ["SIGHTLINE_HOME"])
    time.sleep(seconds)
'''
DEPLOYMENTS = """
pull:
  - prefect.deployments.steps.set_working_directory:
      directory: "{{ $SIGHTLINE_ROOT }}"
deployments:
  - name: here
    entrypoint: FLOW:wait
    concurrency_limit: {limit: 1, collision_strategy: ENQUEUE}
    work_pool: {name: local, job_variables: {env: {FROM_ROOT: "{{ $SIGHTLINE_ROOT }}"}}}
"""


def ask(address: str, path: str, body: dict | None = None) -> object:
    request = urllib.request.Request(
        f"{address}{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def wait_for(fact, *, seconds: float = 300) -> object:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := fact():
            return found
        time.sleep(0.3)
    raise AssertionError(f"not within {seconds} s: {fact}")


@pytest.fixture
def deployments(tmp_path) -> Path:
    flow = tmp_path / "waiting.py"
    flow.write_text(FLOW)
    listed = tmp_path / "deployments.yaml"
    listed.write_text(DEPLOYMENTS.replace("FLOW", str(flow)))
    return listed


@pytest.fixture
def started(own_workspace, deployments):
    """A `sightline up` in a session of its own, with a migrated database."""
    (own_workspace / "prefect").mkdir(parents=True)
    shutil.copy(migrated_database(), own_workspace / "prefect" / "prefect.db")
    port = free_port()
    words = ["up", f"port={port}", f"deployments={deployments}", "--json"]
    program = subprocess.Popen(
        [sys.executable, "-m", "flows", *words],
        cwd=own_workspace.parent,
        env=os.environ | {"SIGHTLINE_HOME": "workspace", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=(own_workspace / "up.log").open("w"),
        start_new_session=True,
        text=True,
    )
    yield program, port
    if program.poll() is None:
        program.terminate()
        program.wait(60)


def ours(home: Path) -> list[psutil.Process]:
    found = []
    for program in psutil.process_iter():
        try:
            mine = program.environ().get("PREFECT_HOME") == str(home / "prefect")
        except (psutil.Error, OSError):
            continue
        if mine and program.status() != psutil.STATUS_ZOMBIE:
            found.append(program)
    return found


@pytest.mark.slow
@pytest.mark.server
def test_up_deploys_runs_and_leaves_no_program_behind(started, own_workspace, tmp_path):
    program, port = started
    log = own_workspace / "up.log"
    wait_for(lambda: program.poll() is not None or "Ctrl-C stops" in log.read_text())
    assert program.poll() is None, log.read_text()
    address = f"http://127.0.0.1:{port}/api"

    assert ask(address, "/work_pools/local")["type"] == "process"
    assert ask(address, "/v2/concurrency_limits/gpu")["limit"] == 1
    deployment = ask(address, "/deployments/name/wait/here")
    assert deployment["job_variables"] == {"env": {"FROM_ROOT": str(ROOT)}}
    with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=20) as page:
        assert b"<html" in page.read().lower()

    mark = tmp_path / "mark"
    body = {"parameters": {"mark": str(mark)}}
    ask(address, f"/deployments/{deployment['id']}/create_flow_run", body)
    wait_for(mark.exists)
    assert mark.read_text() == str(own_workspace)
    assert len(ours(own_workspace)) >= 3  # server, worker, the run

    os.killpg(program.pid, signal.SIGINT)
    out, _ = program.communicate(timeout=180)
    assert program.returncode == 0, log.read_text()
    assert json.loads(out) == {"address": f"http://127.0.0.1:{port}", "stopped": True}
    assert ours(own_workspace) == []
    children.check_port_is_free(port)


def test_a_port_in_use_is_refused_before_anything_starts(own_workspace):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=rf"port={port} is in use.*such as port="):
            up.run(up.UpConfig(port=port))
    assert not own_workspace.exists()


def test_the_users_own_prefect_is_left_alone(tmp_path):
    theirs = {"PREFECT_PROFILE": "work", "PREFECT_API_URL": "http://x", "LANG": "C"}
    found = up.environment(theirs, home=tmp_path, port=4321)
    assert "PREFECT_PROFILE" not in found
    assert found["PREFECT_API_URL"] == "http://127.0.0.1:4321/api"
    assert found["PREFECT_SERVER_API_HOST"] == "127.0.0.1"
    assert Path(found["PREFECT_HOME"]).is_relative_to(tmp_path)
    assert found["LANG"] == "C"


STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) == 1:
    subprocess.Popen([sys.executable, __file__, "again"], start_new_session=True)
print("ready", flush=True)
time.sleep(60)
"""


def test_children_that_do_not_listen_are_killed_in_any_session(tmp_path):
    script = tmp_path / "stubborn.py"
    script.write_text(STUBBORN)
    child = children.start(
        "stubborn",
        [sys.executable, str(script)],
        environ=os.environ | {children.MARK: "test-mark"},
        logs=tmp_path,
        at=tmp_path,
    )
    wait_for(lambda: children.tail(child.log).count("ready") == 2)
    grandchild = psutil.Process(child.program.pid).children()[0]
    children.stop("test-mark", last=[], seconds=0.3)
    assert child.program.poll() is not None
    assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE


def test_a_child_that_ends_by_itself_shows_its_log(tmp_path):
    child = children.start(
        "server",
        [sys.executable, "-c", "import sys; sys.exit('no database')"],
        environ=os.environ,
        logs=tmp_path,
        at=tmp_path,
    )
    with pytest.raises(WorkspaceError, match=r"exit code 1.*\n.*no database"):
        children.wait_until_healthy(child, "http://127.0.0.1:9", seconds=20)
