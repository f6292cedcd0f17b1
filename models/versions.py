"""One model's folder: its versions, their records, and repair after a crash."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

from data_contracts.errors import GateError, UsageError, WorkspaceError
from models.durable import locked, sha256, write_over
from models.journal import Action, Event, State, append, now, read, replay

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
STALE_BUILD = 24 * 3600  # seconds after which an unfinished build counts as abandoned


def model_folder(root: Path, name: str) -> Path:
    """Return the folder of a model.

    Raises:
        UsageError: The name could not be a folder's.
    """
    if not NAME.fullmatch(name):
        raise UsageError(
            f"model name {name!r}: use 1 to 64 letters, digits, '-', '_' and '.', "
            "starting with a letter or digit"
        )
    return root / name


def existing(folder: Path, version: int) -> Path:
    """Return the folder of a version that exists."""
    found = version_folders(folder)
    if version not in found:
        there = ", ".join(map(str, found)) or "none yet"
        raise UsageError(f"{folder.name} has no version {version}; there are: {there}")
    return folder / str(version)


def version_folders(folder: Path) -> list[int]:
    """Return the versions that have a folder."""
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal())


def state_of(folder: Path) -> State:
    """Return status and champion as the events tell them."""
    return replay(read(folder))


def manifest_of(folder: Path, version: int) -> dict[str, Any]:
    """Return the manifest of a version; empty if its folder is gone."""
    path = folder / str(version) / "manifest.json"
    return dict(json.loads(path.read_bytes())) if path.exists() else {}


def gate_of(folder: Path, version: int) -> dict[str, Any] | None:
    """Return the fields of the gate's report on a version, if it was judged."""
    path = folder / str(version) / "gate.json"
    return dict(json.loads(path.read_bytes())) if path.exists() else None


def version_of_run(folder: Path, run_id: str) -> int | None:
    """Return the version that a run registered before."""
    found = (
        v
        for v in version_folders(folder)
        if manifest_of(folder, v).get("run_id") == run_id
    )
    return next(found, None)


def must_be_blessed(folder: Path, version: int, state: State) -> None:
    """Refuse a version that is not blessed, or not what was blessed."""
    path = existing(folder, version)
    status = state.status[version]
    if status != Action.BLESSED:
        report = gate_of(folder, version)
        reasons = reasons_of(report) if report else "it was never judged"
        raise GateError(
            f"version {version} of {folder.name} is {status}, not blessed: {reasons}"
        )
    files = manifest_of(folder, version).get("files", {}) | {
        "gate.json": state.digests.get(version)
    }
    for name, digest in files.items():
        if not (path / name).exists() or sha256(path / name) != digest:
            raise GateError(
                f"version {version} of {folder.name} is not what was blessed: {name} "
                "changed or is gone. Restore it, or choose another version."
            )


def log(
    folder: Path,
    action: Action,
    version: int,
    *,
    who: str,
    why: str,
    before: int | None = None,
    to: int | None = None,
) -> None:
    """Append an event on `version`."""
    gate = folder / str(version) / "gate.json"
    event = Event(
        event=action,
        version=version,
        before=before,
        to=to,
        who=who,
        when=now(),
        why=why,
        digest=sha256(gate) if gate.exists() else None,
    )
    append(folder, event)


def log_judgement(folder: Path, version: int, *, who: str, why: str) -> None:
    """Append what gate.json says: blessed or rejected."""
    report = gate_of(folder, version) or {}
    action = Action.BLESSED if report["verdict"] == "pass" else Action.REJECTED
    log(folder, action, version, who=who, why=why or reasons_of(report))


def reasons_of(report: dict[str, Any]) -> str:
    """Say in a line why the gate decided as it did."""
    if report["verdict"] == "pass":
        return "every check passed"
    stopped = [
        f"[{check['verdict']}] {check['detail']}"
        for check in report["checks"]
        if check["blocking"] and check["verdict"] != "pass"
    ]
    return " ".join(stopped) or "nothing was checked"


def named(version: int | None) -> str:
    """Write a version that may be none."""
    return "no champion" if version is None else f"version {version}"


def repair(folder: Path) -> None:
    """Finish what a crash left undone. The caller holds the lock."""
    who, state = "sightline repair", state_of(folder)
    for version in version_folders(folder):
        if version not in state.status:
            log(folder, Action.REGISTERED, version, who=who, why="found unrecorded")
            state.status[version] = Action.REGISTERED
        judged = (folder / str(version) / "gate.json").exists()
        if judged and state.status[version] == Action.REGISTERED:
            log_judgement(folder, version, who=who, why="")
    if _pointer(folder) != state.champion:
        move_pointer(folder, state.champion)
    for left in folder.glob(".building-*"):
        if time.time() - left.stat().st_mtime > STALE_BUILD:
            shutil.rmtree(left, ignore_errors=True)


def settle(folder: Path) -> None:
    """Repair before reading, if something is amiss and may be written."""
    state = state_of(folder)
    whole = _pointer(folder) == state.champion and all(
        version in state.status
        and (
            state.status[version] != Action.REGISTERED
            or not (folder / str(version) / "gate.json").exists()
        )
        for version in version_folders(folder)
    )
    if not whole:
        with contextlib.suppress(WorkspaceError), locked(folder):
            repair(folder)


def move_pointer(folder: Path, version: int | None) -> None:
    """Make the champion file name `version`, in one step."""
    if version is None:
        (folder / "champion").unlink(missing_ok=True)
    else:
        write_over(folder / "champion", f"{version}\n")


def _pointer(folder: Path) -> int | None:
    """Return the version in the champion file."""
    path = folder / "champion"
    text = path.read_text("utf-8").strip() if path.exists() else ""
    return int(text) if text.isdecimal() else None
