"""The command line from outside: exit codes, and what reaches which stream."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from data_contracts.errors import WorkspaceError
from flows import cli
from flows.streams import machine_error

ROOT = Path(__file__).parents[2]

# A verb of our own, so that what is tested is the command line alone.
PROBE = '''
import ctypes, errno, logging, os, subprocess, sys, time, warnings
from types import SimpleNamespace
from pydantic import Field
from data_contracts.config import Settings
from data_contracts.errors import ContractError

class ProbeConfig(Settings):
    """Do what `how` says."""
    how: str = Field("work", description="What to do.")

def run(config):
    if config.how == "noise":
        print("python"); os.write(1, b"descriptor\\n"); warnings.warn("careful")
        ctypes.CDLL(None).puts(b"library"); ctypes.CDLL(None).fflush(None)
        subprocess.run([sys.executable, "-c", "print('child')"])
        logging.getLogger("sightline").info("stage 9 to 8 images")
    if config.how == "contract":
        raise ContractError("3 of 9 images are not RGB. Convert them")
    if config.how == "bug":
        raise KeyError("oops")
    if config.how == "full":
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "/disk/x")
        except OSError as error:
            raise RuntimeError("write failed") from error
    if config.how == "wait":
        print("waiting", flush=True); time.sleep(60)
    code = 4 if config.how == "reject" else 0
    figures = {"accuracy": float("nan"), "how": config.how, "odd": {1: (2, 3)}}
    words = "all done " * (9999 if config.how == "long" else 1)
    return SimpleNamespace(
        exit_code=code, text=lambda: words, to_json=lambda: figures
    )
'''
START = """
import sys
from flows import cli
cli.VERBS["probe"] = cli.Verb("probe", "ProbeConfig", "run", "a test")
raise SystemExit(cli.main())
"""


@pytest.fixture
def command(tmp_path) -> list[str]:
    (tmp_path / "probe.py").write_text(PROBE)
    path = [str(tmp_path), str(ROOT)]
    return [sys.executable, "-c", f"import sys; sys.path[:0] = {path}\n{START}"]


def run(command, *words) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, *words], capture_output=True, text=True, timeout=60
    )


def test_help_imports_nothing_heavy():
    done = run([sys.executable, "-X", "importtime", "-m", "flows"], "--help")
    assert done.returncode == 0
    for verb in cli.VERBS:
        assert verb in done.stdout
    imported = {line.rsplit("|")[-1].strip() for line in done.stderr.splitlines()}
    assert not imported & {"numpy", "jax", "prefect", "pandas", "pydantic", "dask"}


def test_nothing_at_all_shows_the_help(capfd):
    assert cli.main([]) == 0
    assert "usage: sightline VERB" in capfd.readouterr().out


def test_the_version_is_that_of_the_project(capfd):
    pinned = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert cli.main(["--version"]) == 0
    assert capfd.readouterr().out == f"sightline {pinned}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "unknown verb 'trian'; did you mean 'train'?"),
        (["modles", "list"], "did you mean 'models'?"),
        (["models"], "there are 'models list', 'models show'"),
        (["models", "lsit"], "(did you mean 'list'?)"),
        (["data=x"], "unknown verb 'data=x'"),
    ],
)
def test_an_unknown_verb_is_told_the_closest(words, said, capfd):
    assert cli.main(words) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err


def test_the_help_of_a_verb_lists_its_settings(command):
    done = run(command, "probe", "--help")
    assert done.returncode == 0
    assert "how=work" in done.stdout


def test_only_the_result_reaches_standard_output(command):
    done = run(command, "probe", "how=noise", "--json")
    assert done.returncode == 0
    (line,) = done.stdout.splitlines()
    assert json.loads(line) == {"accuracy": None, "how": "noise", "odd": {"1": [2, 3]}}
    for noise in (
        "python",
        "descriptor",
        "library",
        "child",
        "stage 9 to 8",
        "careful",
    ):
        assert noise in done.stderr


def test_people_get_words_and_nothing_else(command):
    done = run(command, "probe", "how=noise")
    assert done.stdout == "all done \n"


@pytest.mark.parametrize(
    ("words", "code", "kind", "said"),
    [
        (["how=contract"], 3, "ContractError", "3 of 9 images are not RGB. Convert"),
        (["hwo=x"], 2, "UsageError", "did you mean 'how'?"),
        (["how=bug"], 1, "KeyError", "internal error: KeyError: 'oops'"),
        (["how=full"], 1, "WorkspaceError", "the disk is full at '/disk/x'. Free some"),
    ],
)
def test_an_error_is_one_json_object_and_an_exit_code(command, words, code, kind, said):
    done = run(command, "probe", *words, "--json")
    assert done.returncode == code
    error = json.loads(done.stdout)["error"]
    assert (error["type"], error["exit_code"]) == (kind, code)
    assert said in error["message"]
    assert said in done.stderr
    assert ("Traceback" in done.stderr) == (kind == "KeyError")
    assert run(command, "probe", *words).stdout == ""


def test_a_rejection_is_a_result_with_exit_code_4(command):
    done = run(command, "probe", "how=reject", "--json")
    assert done.returncode == 4
    assert json.loads(done.stdout)["how"] == "reject"


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "Interrupted"), (signal.SIGTERM, 143, "Stopped")],
)
def test_a_stopped_run_says_that_it_can_go_on(command, number, code, word):
    started = subprocess.Popen(
        [*command, "probe", "how=wait"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert started.stderr.readline() == "waiting\n"
    started.send_signal(number)
    out, err = started.communicate(timeout=30)
    assert started.returncode == code
    assert out == ""
    assert err.startswith(f"sightline: {word}. The same command goes on")
    assert "Traceback" not in err


def test_a_reader_that_leaves_is_no_error(command):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*command, "probe", "how=long"], stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    assert done.returncode == 0
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "full", "/a"), "the disk is full at '/a'"),
        (OSError(errno.EDQUOT, "quota"), "the disk is full. Free"),
        (PermissionError(errno.EACCES, "no", "/b"), "no permission at '/b'"),
        (OSError(errno.EROFS, "read-only"), "no permission. Sightline"),
        (RuntimeError("io: No space left on device (os error 28)"), "the disk is full"),
        (MemoryError(), "out of memory"),
    ],
)
def test_what_the_machine_refuses_is_said_in_words(error, said):
    assert said in str(machine_error(error))
    assert isinstance(machine_error(error), WorkspaceError)


def test_other_errors_are_not_blamed_on_the_machine():
    assert machine_error(ValueError("x")) is None
    assert machine_error(FileNotFoundError(errno.ENOENT, "gone")) is None
