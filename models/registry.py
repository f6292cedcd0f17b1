"""Model versions, the champion pointer and the record of every decision.

    <root>/<name>/1/            a version: what `build` wrote, manifest.json, gate.json
    <root>/<name>/events.jsonl  append-only; the truth about status and champion
    <root>/<name>/champion      the champion's number, a copy for quick readers

Whatever changes a model holds its lock and goes in this order: a version folder is
renamed into place, then registered; gate.json is written, then blessed or rejected; a
promotion or rollback is an event first and a moved pointer second. So what a crash cuts
short can be told from what is there, and is finished when the model is next opened.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from data_contracts.errors import GateError, SchemaError, UsageError
from data_contracts.references import GateReport, ModelRef, Verdict
from models.durable import locked, machine_errors, sha256, sync, sync_tree, write_over
from models.journal import Action, Event, State, now, read
from models.versions import (
    existing,
    gate_of,
    log,
    log_judgement,
    manifest_of,
    model_folder,
    move_pointer,
    must_be_blessed,
    named,
    repair,
    settle,
    state_of,
    version_folders,
    version_of_run,
)

EDITABLE = {".html", ".md"}  # files of a version that may be written again


def register(
    root: Path,
    name: str,
    *,
    build: Callable[[Path], None],
    run_id: str,
    manifest: Mapping[str, Any],
    who: str = "sightline",
    why: str = "",
) -> ModelRef:
    """Register what `build` writes as the next version of a model.

    The version appears whole or not at all. A run that registered before gets the
    version it made then.

    Args:
        root: Folder of all models.
        name: Model name.
        build: Writes the checkpoint and all else into the folder it is given.
        run_id: Names the run; one run makes one version.
        manifest: What the version was made from; must turn into JSON.
        who: Who or what registers.
        why: Reason, for the record.
    """
    folder = model_folder(root, name)
    with machine_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        repair(folder)
        if done := version_of_run(folder, run_id):
            return _ref(folder, done)
    building = folder / f".building-{uuid4().hex}"
    try:
        with machine_errors(folder):
            building.mkdir()
            build(building)
            files = _digests(building)
            sync_tree(building)
        record = {**manifest, "name": name, "run_id": run_id, "files": files}
        with locked(folder):
            repair(folder)
            if done := version_of_run(folder, run_id):
                return _ref(folder, done)
            version = 1 + max([0, *version_folders(folder), *state_of(folder).status])
            record |= {"version": version, "registered": now()}
            write_over(building / "manifest.json", json.dumps(record, indent=1))
            building.rename(folder / str(version))
            sync(folder)
            log(folder, Action.REGISTERED, version, who=who, why=why)
            return _ref(folder, version)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def judge(
    root: Path, name: str, *, version: int, report: GateReport, who: str, why: str = ""
) -> bool:
    """Write the gate's report beside a version, which blesses or rejects it.

    A version is judged once: a second report with the same outcome changes nothing.

    Returns:
        Whether the version is blessed.

    Raises:
        GateError: The version was judged before, with another outcome.
    """
    folder = _known(root, name)
    with locked(folder):
        repair(folder)
        existing(folder, version)
        before = gate_of(folder, version)
        if before is None:
            stamped = report.model_copy(update={"version": version})
            text = stamped.model_dump_json(indent=1)
            write_over(folder / str(version) / "gate.json", text)
            log_judgement(folder, version, who=who, why=why)
        elif (before["verdict"], before["champion"]) != (
            report.verdict,
            report.champion,
        ):
            raise GateError(
                f"version {version} of {name} was judged {before['verdict']} against "
                f"{named(before['champion'])}, and a gate record is never edited. "
                "Register the model again to judge it again."
            )
        return state_of(folder).status[version] == Action.BLESSED


def waive(root: Path, name: str, *, version: int, who: str, why: str) -> None:
    """Bless a version that the gate found inconclusive, on a person's word.

    Raises:
        UsageError: No name or no reason was given.
        GateError: The gate failed the version, or did not judge it.
    """
    folder = _known(root, name)
    if not who.strip() or not why.strip():
        raise UsageError("a waiver needs who= and why=; both are kept in the record")
    with locked(folder):
        repair(folder)
        existing(folder, version)
        if state_of(folder).status[version] == Action.BLESSED:
            return
        report = gate_of(folder, version)
        found = report["verdict"] if report else Verdict.NOT_RUN
        if found != Verdict.INCONCLUSIVE:
            raise GateError(
                f"only an inconclusive gate can be waived; that of version {version} "
                f"of {name} says {found}. Train a better candidate."
            )
        if state_of(folder).status[version] == Action.RETIRED:
            raise GateError(f"version {version} of {name} is retired")
        log(folder, Action.BLESSED, version, who=who, why=f"waived: {why}")


def promote(
    root: Path,
    name: str,
    *,
    version: int,
    who: str,
    why: str,
    force: bool = False,
) -> ModelRef:
    """Make a blessed version the champion; do nothing if it is already.

    Args:
        root: Folder of all models.
        name: Model name.
        version: The version to promote.
        who: Who or what promotes.
        why: Reason, for the record.
        force: Promote although the gate compared with another champion than today's.

    Raises:
        GateError: The version is not blessed, its files or gate record changed, or it
            was compared with another champion.
    """
    folder = _known(root, name)
    with locked(folder):
        repair(folder)
        state = state_of(folder)
        must_be_blessed(folder, version, state)
        if state.champion == version:
            return _ref(folder, version)
        report = gate_of(folder, version)
        met = report["champion"] if report else None
        if met != state.champion and not force:
            raise GateError(
                f"version {version} of {name} was compared with {named(met)}, but the "
                f"champion is now {named(state.champion)}. Train and gate again, or "
                "set force=True."
            )
        return _crown(folder, Action.PROMOTED, version, state, who=who, why=why)


def rollback(
    root: Path,
    name: str,
    *,
    probe: Callable[[ModelRef], None],
    who: str,
    why: str,
    version: int | None = None,
) -> ModelRef:
    """Put a former champion back, after `probe` has shown that it loads and answers.

    Args:
        root: Folder of all models.
        name: Model name.
        probe: Raises if the version does not work.
        who: Who or what rolls back.
        why: Reason, for the record.
        version: The former champion to put back; None for the one before the current,
            so that rolling back twice goes back two steps.

    Raises:
        GateError: There is no such version, or it does not answer.
    """
    folder = _known(root, name)
    with locked(folder):
        repair(folder)
        before = state_of(folder)
        target = _former(folder, before, version)
        must_be_blessed(folder, target, before)
    ref = _ref(folder, target)
    try:
        probe(ref)
    except Exception as error:
        raise GateError(
            f"version {target} of {name} does not answer ({error}); the champion stays "
            f"{named(before.champion)}. Name another version with version=."
        ) from error
    with locked(folder):
        state = state_of(folder)
        if state.champion != before.champion:
            raise GateError(
                f"the champion of {name} became {named(state.champion)} during the "
                "probe; nothing was rolled back. Try again."
            )
        must_be_blessed(folder, target, state)
        return _crown(folder, Action.ROLLED_BACK, target, state, who=who, why=why)


def retire(root: Path, name: str, *, version: int, who: str, why: str) -> None:
    """Take a version out of use for good; the champion cannot be retired."""
    folder = _known(root, name)
    with locked(folder):
        repair(folder)
        existing(folder, version)
        state = state_of(folder)
        if state.champion == version:
            raise GateError(
                f"version {version} of {name} is the champion; promote or roll back to "
                "another version before retiring it"
            )
        if state.status[version] != Action.RETIRED:
            log(folder, Action.RETIRED, version, who=who, why=why)


def champion(root: Path, name: str) -> ModelRef | None:
    """Return the champion, or None if no version was promoted yet."""
    folder = model_folder(root, name)
    if not folder.is_dir():
        return None
    settle(folder)
    current = state_of(folder).champion
    if current is None:
        return None
    if current not in version_folders(folder):
        raise SchemaError(
            f"version {current} is the champion of {name} but its folder is gone from "
            f"{folder}. Restore it, or roll back."
        )
    return _ref(folder, current)


def names(root: Path) -> list[str]:
    """Return the names of all models."""
    if not root.is_dir():
        return []
    return sorted(p.name for p in root.iterdir() if (p / "events.jsonl").exists())


def history(root: Path, name: str) -> list[Event]:
    """Return every event of a model, the first first."""
    return read(_known(root, name))


def versions(root: Path, name: str) -> list[dict[str, Any]]:
    """Return each version with its status, run, time and whether it is the champion."""
    folder = _known(root, name)
    settle(folder)
    state = state_of(folder)
    rows = []
    for version, status in sorted(state.status.items()):
        manifest = manifest_of(folder, version)
        rows.append(
            {
                "name": name,
                "version": version,
                "status": str(status),
                "champion": version == state.champion,
                "registered": manifest.get("registered"),
                "run_id": manifest.get("run_id"),
                "uri": str(folder / str(version)),
            }
        )
    return rows


def show(root: Path, name: str, *, version: int | None = None) -> dict[str, Any]:
    """Return all that is recorded about a version; the champion when None."""
    folder = _known(root, name)
    settle(folder)
    state = state_of(folder)
    version = version or state.champion or max(state.status, default=0)
    existing(folder, version)
    report = gate_of(folder, version)
    touching = [e for e in read(folder) if version in (e.version, e.before, e.to)]
    return {
        "name": name,
        "version": version,
        "status": str(state.status[version]),
        "champion": version == state.champion,
        "uri": str(folder / str(version)),
        "manifest": manifest_of(folder, version),
        "gate": report,
        "events": [event.record() for event in touching],
    }


def attach(ref: ModelRef, *, filename: str, text: str) -> Path:
    """Write card.md or report.html beside a version, replacing it whole."""
    path = Path(ref.uri) / filename
    if path.parent != Path(ref.uri) or path.suffix not in EDITABLE:
        raise UsageError(f"only .md and .html files can be attached, not {filename!r}")
    write_over(path, text)
    return path


def _known(root: Path, name: str) -> Path:
    """Return the folder of a model that exists."""
    folder = model_folder(root, name)
    if not folder.is_dir():
        there = ", ".join(names(root)) or "none yet"
        raise UsageError(f"no model is named {name!r}; there are: {there}")
    return folder


def _digests(building: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that may not change any more."""
    return {
        name: sha256(path)
        for path in sorted(building.rglob("*"))
        if path.is_file() and path.suffix not in EDITABLE
        if (name := path.relative_to(building).as_posix()) != "manifest.json"
    }


def _former(folder: Path, state: State, version: int | None) -> int:
    """Return the former champion to roll back to."""
    earlier = [v for v in state.line[:-1] if state.status[v] == Action.BLESSED]
    if version is None and earlier:
        return earlier[-1]
    if version in state.former and version != state.champion:
        return version
    asked = "an earlier one" if version is None else f"version {version}"
    past = sorted(state.former - {state.champion})
    raise GateError(
        f"{folder.name} cannot go back to {asked}: the champion is "
        f"{named(state.champion)}, and former champions are "
        f"{', '.join(map(str, past)) or 'none'}."
    )


def _crown(
    folder: Path, action: Action, version: int, state: State, *, who: str, why: str
) -> ModelRef:
    """Make `version` the champion: first the event, then the pointer."""
    log(folder, action, version, who=who, why=why, before=state.champion, to=version)
    move_pointer(folder, version)
    return _ref(folder, version)


def _ref(folder: Path, version: int) -> ModelRef:
    return ModelRef(name=folder.name, version=version, uri=str(folder / str(version)))
