"""What an audit has computed, kept part by part: a rerun goes on where one stopped."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import numpy as np

from data_contracts.dataset import Array
from data_contracts.store import storage_errors

SECONDS = "seconds"


class Parts:
    """Arrays by name in one folder, each written whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with storage_errors(str(folder)):
            folder.mkdir(parents=True, exist_ok=True)

    def get(
        self, name: str, compute: Callable[[], dict[str, Array]]
    ) -> dict[str, Array]:
        """Return the arrays of `name`, computed if they are not there.

        How long that took, when it was done, is among them: "seconds", ().
        """
        path = self.folder / f"{name}.npz"
        if not path.exists():
            start = time.monotonic()
            found = compute()
            found[SECONDS] = np.array(time.monotonic() - start)
            aside = path.with_name(f".{uuid4().hex}.npz")
            with storage_errors(str(path)):
                try:
                    np.savez_compressed(aside, allow_pickle=False, **found)
                    os.replace(aside, path)
                finally:
                    aside.unlink(missing_ok=True)
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}

    def has(self, name: str) -> bool:
        """Whether the arrays of `name` are there."""
        return (self.folder / f"{name}.npz").exists()
