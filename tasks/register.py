"""Register a candidate with all that it rests on, judge it, promote it if blessed."""

from __future__ import annotations

import getpass
import json
import logging
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from data_contracts.config import digest
from data_contracts.references import (
    CheckResult,
    DatasetRef,
    GateReport,
    ModelRef,
    Reference,
    Verdict,
)
from models import registry
from models.durable import write_over
from models.journal import Action
from tasks.evaluate import Evaluated, arenas_of, exhibits_of
from tasks.evaluation import EvaluateSettings
from tasks.gate import GateSettings, decide, overall
from tasks.gate_settings import identity_of
from tasks.record import count_use, evidence_of, test_set_of, wear
from tasks.stage import stage_task
from tasks.train import Trained

log = logging.getLogger("sightline")

LIBRARIES = (
    "jax",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "zarr",
    "icechunk",
    "dask",
    "opencv-python-headless",
    "great-expectations",
    "prefect",
)
ROOT = Path(__file__).resolve().parent.parent


class Registered(Reference):
    """A version in the registry, and what the gate said of it."""

    model: ModelRef
    gate: GateReport
    promoted: bool


def who() -> str:
    """Name who runs this, for the record."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no such user in this container
        return "unknown"


def versions_of_code() -> dict[str, str]:
    """Return the versions of this code and of the libraries behind the figures."""
    found = {"sightline": _version("sightline"), "python": platform.python_version()}
    return found | {name: _version(name) for name in LIBRARIES}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def commit() -> str:
    """Return the commit of this code, '+' after it if files differ, '' without git."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *words],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + (
            "+" if git("status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return ""


def judged_run(trained: Trained, evaluate: EvaluateSettings, gate: GateSettings) -> str:
    """Name a run and what it is judged by: other limits make another version."""
    return f"{trained.run}-{digest(evaluate, identity_of(gate))[:6]}"


def find_result(trained: Trained, run: str) -> str | None:
    """Return the result that an earlier run of the same kept, if it came to one."""
    path = _result_path(trained, run)
    return path.read_text() if path.exists() else None


def keep_result(trained: Trained, run: str, text: str) -> None:
    """Keep a run's result, so that running it again is free."""
    write_over(_result_path(trained, run), text)


def _result_path(trained: Trained, run: str) -> Path:
    return Path(trained.folder) / f"result-{run.rsplit('-', 1)[1]}.json"


def registered_version(models: str, name: str, *, run: str) -> ModelRef | None:
    """Return the version that `run` made, if it made one."""
    if name not in registry.names(Path(models)):
        return None
    rows = registry.versions(Path(models), name)
    found = [row for row in rows if row["run_id"] == run]
    return (
        ModelRef(name=name, version=found[0]["version"], uri=found[0]["uri"])
        if found
        else None
    )


def rival_of(models: str, name: str, *, run: str) -> ModelRef | None:
    """Return the version to compare a run's model with: the champion of its time."""
    mine = registered_version(models, name, run=run)
    judged = Path(mine.uri) / "gate.json" if mine else None
    if mine is None or judged is None or not judged.exists():
        return registry.champion(Path(models), name)
    version = json.loads(judged.read_text())["champion"]
    if version is None:
        return None
    return ModelRef(
        name=name, version=version, uri=str(Path(mine.uri).parent / str(version))
    )


def find_champion(models: str, name: str) -> ModelRef | None:
    """Return the champion of a model, if it has one."""
    return registry.champion(Path(models), name)


def manifest_of(ref: ModelRef) -> dict[str, Any]:
    """Return what is recorded of a version."""
    text = (Path(ref.uri) / "manifest.json").read_text()
    return dict(json.loads(text))


def champion_config(champion: ModelRef) -> dict[str, Any]:
    """Return the settings that a version was made with."""
    return dict(manifest_of(champion)["config"])


def champion_datasets(models: str, name: str) -> dict[str, DatasetRef]:
    """Return the snapshots that the champion was trained on, by stage."""
    champion = find_champion(models, name)
    return datasets_of(champion, models) if champion else {}


def datasets_of(version: ModelRef, models: str) -> dict[str, DatasetRef]:
    """Return the snapshots that a version was trained on, by stage."""
    found = manifest_of(version)["datasets"]
    # Beside the registry, also when the workspace was moved since.
    here = Path(models).parent / "datasets"
    return {
        stage: DatasetRef.model_validate(
            ref | {"uri": str(here / Path(ref["uri"]).name)}
        )
        for stage, ref in found.items()
    }


def settled_uses(datasets: dict[str, DatasetRef]) -> DatasetRef | None:
    """Return the snapshot that says for what a champion used its images.

    One whose label was filled was trained on, and never tests what learnt from it.
    """
    return datasets.get("impute", datasets.get("split"))


def next_version(models: str, name: str, *, run: str) -> int:
    """Return the number that the run's version has or will get."""
    mine = registered_version(models, name, run=run)
    if mine is not None:
        return mine.version
    known = (
        registry.versions(Path(models), name)
        if name in registry.names(Path(models))
        else []
    )
    return 1 + max((row["version"] for row in known), default=0)


@stage_task()
def register_model(
    source: DatasetRef,
    trained: Trained,
    evaluated: Evaluated,
    settings: GateSettings,
    *,
    run: str,
    name: str,
    models: str,
    champion: ModelRef | None,
    config: dict[str, Any],
    datasets: dict[str, DatasetRef],
) -> Registered:
    """Register the run's model, judge it, and promote it if the gate blesses it.

    Doing it again after a crash goes on where it stopped.

    Args:
        source: The dataset after `split`.
        trained: The run.
        evaluated: Its predictions.
        settings: The gate's limits.
        run: Name of the run and what it is judged by, from `judged_run`.
        name: Name of the model.
        models: Folder of the registry.
        champion: The version it is compared with.
        config: All settings, for the record.
        datasets: The snapshot of every stage, for the record.
    """
    root = Path(models)
    measured = evaluated.measured

    def build(folder: Path) -> None:
        shutil.copytree(trained.model, folder / "model")

    ref = registry.register(
        root,
        name,
        build=build,
        run_id=run,
        who=who(),
        manifest={
            "run": trained.run,
            "classes": trained.classes,
            "datasets": {k: v.model_dump() for k, v in datasets.items()},
            "config": config,
            "metrics": {key: e.value for key, e in measured.figures.items()},
            "best_epoch": trained.best_epoch,
            "device": trained.device,
            "versions": versions_of_code(),
            "commit": commit(),
            "champion": champion.version if champion else None,
        },
    )
    gate = _judged(root, ref) or _judge(
        source, trained, evaluated, settings, ref, champion
    )
    registry.attach(ref, filename="card.md", text=card(ref, gate, evaluated, trained))
    blessed = registry.judge(root, name, version=ref.version, report=gate, who=who())
    log.info("gate      %s: version %s of %s", gate.verdict, ref.version, name)
    if blessed and not _was_champion(root, ref):
        current = registry.champion(root, name)
        if (current.version if current else None) != gate.champion:
            log.warning(
                "Not promoted: another version became champion meanwhile. Train again"
                " with other settings, or: sightline models promote name=%s version=%s"
                " force=yes",
                name,
                ref.version,
            )
            return Registered(model=ref, gate=gate, promoted=False)
        registry.promote(
            root, name, version=ref.version, who=who(), why="the gate passed"
        )
    return Registered(model=ref, gate=gate, promoted=blessed)


def _was_champion(root: Path, ref: ModelRef) -> bool:
    """Whether the version was promoted before: what a person undid stays undone."""
    return any(
        event.event == Action.PROMOTED and event.version == ref.version
        for event in registry.history(root, ref.name)
    )


def _judged(root: Path, ref: ModelRef) -> GateReport | None:
    found = registry.show(root, ref.name, version=ref.version)["gate"]
    return GateReport.model_validate(found) if found else None


def _judge(
    source: DatasetRef,
    trained: Trained,
    evaluated: Evaluated,
    settings: GateSettings,
    ref: ModelRef,
    champion: ModelRef | None,
) -> GateReport:
    its = manifest_of(champion) if champion is not None else None
    known = its["classes"] if its else []
    report = decide(
        arenas_of(evaluated, source, classes=trained.classes, known=known),
        settings,
        name=ref.name,
        version=ref.version,
        champion=champion.version if champion else None,
        exhibits=exhibits_of(evaluated, ref, champion),
    )
    lost = [name for name in known if name not in trained.classes]
    test_set = test_set_of(source)
    used = count_use(
        Path(ref.uri).parents[1],
        test_set["digest"],
        by="gate",
        model=ref.name,
        what=f"version {ref.version}",
    )
    checks = [*report.checks, *([lost_classes(lost)] if lost else [])]
    evidence = evidence_of(
        source, candidate=manifest_of(ref), champion=its, rival=champion
    ) | {
        "test_set": {**test_set, "used": used},
        "commit": commit(),
        "device": trained.device,
    }
    return report.model_copy(
        update={
            "verdict": overall(checks),
            "checks": [*checks, wear(used, test_set["images"])],
            "evidence": report.evidence | evidence,
        }
    )


def lost_classes(lost: list[str]) -> CheckResult:
    """Say that the candidate no longer knows some classes, which a person must want."""
    return CheckResult(
        check="classes",
        verdict=Verdict.INCONCLUSIVE,
        detail=f"The champion knows {len(lost):,} classes that the candidate does not:"
        f" {', '.join(lost[:10])}.",
    )


def card(
    ref: ModelRef, gate: GateReport, evaluated: Evaluated, trained: Trained
) -> str:
    """Return the model card, in the sections of Mitchell et al. 2019."""
    measured = evaluated.measured
    rows = "\n".join(
        f"| {key.replace('_', '-')} | {e.value:.4f} | {e.low:.4f} | {e.high:.4f} |"
        for key, e in measured.figures.items()
    )
    checks = "\n".join(f"- {check.verdict}: {check.detail}" for check in gate.checks)
    champion = f"version {gate.champion}" if gate.champion else "none: a first version"
    return f"""---
model_name: {ref.name}
version: {ref.version}
---
# {ref.name}, version {ref.version}

## Model details
{len(trained.classes)} classes; epoch {trained.best_epoch} of run {trained.run},
trained on {trained.device}. `manifest.json` beside this page holds settings, snapshots
and versions.

## Metrics
On {measured.n:,} test images, with intervals; `docs/evaluation.md` says how.

| figure | value | low | high |
|---|---|---|---|
{rows}

## Gate
Verdict: {gate.verdict}. Compared with: {champion}.

{checks}

## Intended use, limitations
It knows the classes below and answers one of them for any picture. Its figures hold for
images like those of the test split.

Classes: {", ".join(trained.classes)}
"""
