"""Where things live: the folder that `SIGHTLINE_HOME` names."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from data_contracts.errors import UsageError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def home() -> Path:
    """Return the workspace, an absolute path; it need not exist.

    Raises:
        UsageError: `SIGHTLINE_HOME` is no local folder.
    """
    place = os.environ.get("SIGHTLINE_HOME") or "workspace"
    if "://" in place:
        raise UsageError(
            f"SIGHTLINE_HOME must be a local folder, got {place!r}. Object stores are"
            " not supported yet."
        )
    return Path(place).expanduser().absolute()


def dataset_uri(name: str) -> str:
    """Return the folder of the dataset `name`."""
    return str(home() / "datasets" / checked(name))


def models_root() -> Path:
    """Return the folder of the model registry."""
    return home() / "models"


def detectors_root() -> Path:
    """Return the folder of the networks that find occlusion, by name."""
    return home() / "detectors"


def runs_root() -> Path:
    """Return the folder of the runs."""
    return home() / "runs"


def audits_root() -> Path:
    """Return the folder of the audits."""
    return home() / "audits"


def cache_root() -> Path:
    """Return the folder of what can be made again."""
    return home() / "cache"


def checked(name: str) -> str:
    """Return `name` if it may name a folder.

    Raises:
        UsageError: It may not.
    """
    if not NAME.fullmatch(name):
        raise UsageError(
            f"name={name!r} must start with a letter or digit and hold only letters,"
            " digits, '.', '_' and '-' (64 at most)."
        )
    return name


def prepare() -> None:
    """Set what libraries read when they are first imported."""
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_root() / "xla"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    logging.getLogger("sightline").setLevel(logging.INFO)
