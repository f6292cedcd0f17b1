"""The `sightline` command: find the verb, run it, say what came of it."""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

# Standard library only up here: `sightline --help` answers in a blink.


class Verb(NamedTuple):
    """Where one verb lives: its settings, and the function that takes them."""

    module: str
    settings: str
    run: str
    about: str


VERBS = {
    "demo": Verb("flows.demo", "DemoConfig", "run", "Try it all on made-up products"),
    "train": Verb("flows.train", "TrainConfig", "run", "Images in, a gated model out"),
    "update": Verb("flows.update", "UpdateConfig", "run", "Teach a model new images"),
    "predict": Verb("flows.predict", "PredictConfig", "run", "Label images by a model"),
    "evaluate": Verb(
        "flows.evaluate",
        "EvaluateConfig",
        "run",
        "Measure a version on any images",
    ),
    "explain": Verb(
        "flows.explain", "ExplainConfig", "run", "Show why a model says so"
    ),
    "pretrain": Verb(
        "flows.pretrain", "PretrainConfig", "run", "Learn features without labels"
    ),
    "occlusion": Verb(
        "flows.occlusion", "OcclusionConfig", "run", "Learn to find what covers images"
    ),
    "audit": Verb("flows.audit", "AuditConfig", "run", "Attack a model, try defences"),
    "tune": Verb(
        "flows.tune", "TuneConfig", "run", "Look for better settings of training"
    ),
    "data show": Verb("flows.datasets", "ShowConfig", "show", "Describe a dataset"),
    "data export": Verb("flows.datasets", "ExportConfig", "export", "Write its table"),
    "data materialise": Verb(
        "flows.datasets", "MaterialiseConfig", "materialise", "Store augmented views"
    ),
    "contracts suggest": Verb(
        "flows.contracts", "SuggestConfig", "suggest", "Draft a contract from a dataset"
    ),
    "contracts accept": Verb(
        "flows.contracts", "AcceptConfig", "accept", "Put a draft under your name"
    ),
    "contracts check": Verb(
        "flows.contracts", "CheckConfig", "check", "Try a contract on a dataset"
    ),
    "contracts history": Verb(
        "flows.contracts", "HistoryConfig", "history", "List past verdicts"
    ),
    "data review": Verb(
        "flows.datasets", "ReviewConfig", "review", "Write suspect labels to a CSV"
    ),
    "models list": Verb(
        "flows.versions", "ListConfig", "list_versions", "List a model's versions"
    ),
    "models show": Verb("flows.versions", "ShowConfig", "show", "Describe a version"),
    "models promote": Verb(
        "flows.versions", "PromoteConfig", "promote", "Make a blessed version champion"
    ),
    "models waive": Verb(
        "flows.versions", "WaiveConfig", "waive", "Bless an inconclusive version"
    ),
    "models rollback": Verb(
        "flows.versions", "RollbackConfig", "roll_back", "Return to an earlier champion"
    ),
    "up": Verb("flows.up", "UpConfig", "run", "Start Prefect's page and a worker here"),
}

# Nothing phones home or chatters.
QUIET = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "TF_CPP_MIN_LOG_LEVEL": "2"}


class Outcome(NamedTuple):
    """What a command came to: an exit code, words for people, JSON for machines."""

    exit_code: int
    text: str
    payload: dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Only the result reaches standard output. Whatever else writes there, Python or not,
    this process or a child, is sent to standard error.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in words
    words = [word for word in words if word != "--json"]
    from flows.streams import only_result

    with only_result() as write:
        outcome = _guarded(words)
        text = json.dumps(_plain(outcome.payload)) if as_json else outcome.text
        if outcome.exit_code and "error" in outcome.payload:
            print(outcome.text, file=sys.stderr)
            text = text if as_json else ""
        write(text)
    return outcome.exit_code


def _guarded(words: list[str]) -> Outcome:
    from data_contracts.errors import SightlineError
    from flows.streams import Terminated, machine_error

    try:
        return execute(words, environ=os.environ)
    except SightlineError as error:
        return _failed(error, str(error), error.exit_code)
    except Terminated as error:
        return _failed(error, f"Stopped. {_RESUME}", 143)
    except KeyboardInterrupt as error:
        return _failed(error, f"Interrupted. {_RESUME}", 130)
    except BrokenPipeError as error:
        return _failed(error, "", 141)
    except Exception as error:
        refused = machine_error(error)
        if refused is not None:
            return _failed(refused, str(refused), refused.exit_code)
        traceback.print_exc(file=sys.stderr)
        words_of_it = f"internal error: {type(error).__name__}: {error}"
        return _failed(error, words_of_it, 1)


_RESUME = "The same command goes on from the last completed stage and epoch."


def _failed(error: BaseException, message: str, exit_code: int) -> Outcome:
    kind = type(error).__name__
    shown = f"sightline: {message}" if message else ""
    detail = {"type": kind, "message": message, "exit_code": exit_code}
    return Outcome(exit_code, shown, {"error": detail})


def execute(words: list[str], *, environ: Mapping[str, str]) -> Outcome:
    """Do what the command line asks and return what came of it."""
    if not words or words[0] in ("--help", "-h", "help"):
        text = overview()
        return Outcome(0, text, {"help": text})
    if words[0] == "--version":
        return Outcome(0, f"sightline {version()}", {"version": version()})
    if words[1:] and words[1] in ("--help", "-h") and (under := verbs_under(words[0])):
        text = "\n".join(f"  {name:<18} {VERBS[name].about}" for name in under)
        return Outcome(0, text, {"help": text})
    name, rest = find_verb(words)
    verb = VERBS[name]
    prepare_environment()
    module = importlib.import_module(verb.module)
    settings = getattr(module, verb.settings)
    if "--help" in rest or "-h" in rest:
        from flows.usage import help_text

        text = help_text(settings, name, about=verb.about)
        return Outcome(0, text, {"help": text})
    from flows.arguments import parse

    config = parse(settings, rest, environ=environ, verb=name)
    result = getattr(module, verb.run)(config)
    return Outcome(result.exit_code, result.text(), result.to_json())


def find_verb(words: list[str]) -> tuple[str, list[str]]:
    """Return the verb that `words` begin with, and the words after it.

    Raises:
        UsageError: if there is none such; it names the closest.
    """
    from data_contracts.errors import UsageError

    for length in (2, 1):
        name = " ".join(words[:length])
        if name in VERBS:
            return name, words[length:]
    if under := verbs_under(words[0]):
        raise UsageError(_choose(words, under))
    close = get_close_matches(words[0], {name.split()[0] for name in VERBS}, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    raise UsageError(f"unknown verb '{words[0]}'{hint} `sightline --help` lists them")


def verbs_under(group: str) -> list[str]:
    """Return the verbs of two words that begin with `group`."""
    return [name for name in VERBS if name.startswith(f"{group} ")]


def _choose(words: list[str], under: list[str]) -> str:
    asked = words[1] if len(words) > 1 else ""
    close = get_close_matches(asked, [name.split()[1] for name in under], n=1)
    hint = f" (did you mean '{close[0]}'?)" if close else ""
    listed = ", ".join(f"'{name}'" for name in under)
    return f"'{' '.join(words[:2])}' is not a verb{hint}; there are {listed}"


def overview() -> str:
    """Return the text of `sightline --help`."""
    listed = "\n".join(f"  {name:<18} {verb.about}" for name, verb in VERBS.items())
    return f"""Sightline {version()}: images in, a gated and registered model out.

usage: sightline VERB key=value ... [config=FILE.yaml] [--json]

{listed}

  sightline train data=photos/ name=shelf       train, evaluate, gate, register
  sightline train data=photos/ name=shelf train.epochs=40 decode.image_size=96
  sightline train data=photos/ name=shelf epochs=40   the last part will do if unique
  sightline VERB --help                         every setting, default and meaning

Exit codes: 0 done, 1 internal error, 2 bad usage or settings, 3 a contract failed,
4 the gate rejected the model, 130 interrupted."""


def version() -> str:
    """Return the version of Sightline, as its own pyproject.toml says."""
    import tomllib
    from pathlib import Path

    text = (Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8")
    return str(tomllib.loads(text)["project"]["version"])


def prepare_environment() -> None:
    """Set what every library below reads once, unless it is set already."""
    from flows import workspace

    workspace.prepare()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    _show_stages()


def _show_stages() -> None:
    import logging

    log = logging.getLogger("sightline")
    log.setLevel(logging.INFO)
    # Prefect's root handler would say each line again.
    log.propagate = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers = [handler]


def _plain(value: Any) -> Any:
    # JSON has no NaN; a figure that could not be computed is null.
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    known = isinstance(value, (str, int, float, type(None)))
    return value if known else str(value)
