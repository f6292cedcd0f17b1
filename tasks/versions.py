"""Versions of models: find, list, show, promote, roll back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from data_contracts.config import digest
from data_contracts.errors import GateError, UsageError
from data_contracts.references import ModelRef
from models import registry
from tasks.inference import Predictor
from tasks.register import find_champion, who


def find_version(models: str, name: str, version: int | None) -> ModelRef:
    """Return one version of a model, the champion if `version` is None.

    Raises:
        UsageError: There is no such model, version or champion.
    """
    if version is None and (champion := find_champion(models, name)) is not None:
        return champion
    rows = registry.versions(Path(models), name)
    found = [row for row in rows if row["version"] == version]
    if not found:
        there = ", ".join(str(row["version"]) for row in rows)
        wanted = "champion" if version is None else f"version {version}"
        raise UsageError(
            f"Model {name!r} has no {wanted}; its versions are {there or 'none'}."
            " Name one with version=N."
        )
    return ModelRef(name=name, version=found[0]["version"], uri=found[0]["uri"])


def named_version(name: str, version: int | None) -> tuple[str, int | None]:
    """Return name and version of NAME, or of NAME@VERSION.

    Raises:
        UsageError: What follows @ is no version, or another one was given too.
    """
    plain, sign, number = name.partition("@")
    if not sign:
        return name, version
    if not number.isdecimal() or not int(number):
        raise UsageError(f"name={name}: a version follows @, such as {plain}@1")
    if version not in (None, int(number)):
        raise UsageError(f"name={name} and version={version} differ; keep one")
    return plain, int(number)


def folder_of(root: str, model: ModelRef, *parts: Any) -> str:
    """Return the folder in `root` of what is found of a version; same parts, same."""
    return str(Path(root) / f"{model.name}-{model.version}-{digest(*parts)[:8]}")


def list_versions(models: str, name: str | None) -> list[dict[str, Any]]:
    """Return every version of one model, or of all, with its top-1."""
    names = registry.names(Path(models)) if name is None else [name]
    rows = [row for each in names for row in registry.versions(Path(models), each)]
    for row in rows:
        record = Path(row["uri"]) / "manifest.json"
        found = json.loads(record.read_text()) if record.exists() else {}
        row["top1"] = round(found.get("metrics", {}).get("top1", float("nan")), 4)
    return rows


def show_version(models: str, name: str, version: int | None) -> dict[str, Any]:
    """Return all that is recorded of a version, the champion if `version` is None."""
    return registry.show(Path(models), name, version=version)


def promote_version(
    models: str, name: str, *, version: int, why: str, force: bool = False
) -> ModelRef:
    """Make a blessed version the champion.

    Args:
        models: Folder of the registry.
        name: Name of the model.
        version: The version.
        why: Reason, for the record.
        force: Promote although the gate compared with another champion than today's.

    Raises:
        GateError: The version is not blessed, or met another champion.
    """
    return registry.promote(
        Path(models), name, version=version, who=who(), why=why, force=force
    )


def waive(models: str, name: str, *, version: int, person: str, why: str) -> None:
    """Bless a version that the gate found inconclusive, on a person's word.

    Raises:
        GateError: The gate failed the version, or did not judge it.
    """
    registry.waive(Path(models), name, version=version, who=person, why=why)


def roll_back(models: str, name: str, *, version: int | None, why: str) -> ModelRef:
    """Put a former champion back, after it has loaded and answered.

    Raises:
        GateError: There is none, or it does not answer.
    """
    return registry.rollback(
        Path(models), name, version=version, probe=probe, who=who(), why=why
    )


def probe(ref: ModelRef) -> None:
    """Load a version and let it answer; raise if it does not."""
    predictor = Predictor.load(Path(ref.uri) / "model").for_batch(4)
    size = int(predictor.meta["image_size"])
    grey = np.linspace(0, 255, 4 * size * size * 3).astype(np.uint8)
    probs = predictor(grey.reshape(4, size, size, 3))
    if not np.isfinite(probs).all() or not np.allclose(probs.sum(axis=1), 1, atol=1e-3):
        raise GateError(f"version {ref.version} of {ref.name} answers no probabilities")
