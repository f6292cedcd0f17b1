"""What checking a new era costs, beside reading all images again.

    python benchmarks/increments.py [images=20000] [more=1000]

Writes images of 64 pixels, checks and profiles them, appends an era and does so once
more: with what the first pass kept, and with that deleted. Prints one JSON line of
seconds; Great Expectations is no part of them.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from data_contracts.contracts import load_contract
from data_contracts.references import DatasetRef
from data_contracts.store import Dataset
from tasks.check_chunks import check_chunks
from tasks.kept import folder_of
from tasks.profile import profile_dataset
from tests.datasets import make_dataset, make_era


def seconds(source: DatasetRef) -> dict[str, float]:
    """Return how long the array rules and the profile of `source` take."""
    contract, dataset = load_contract("ingested"), Dataset(source)
    start = time.perf_counter()
    check_chunks(contract, dataset)
    middle = time.perf_counter()
    profile_dataset(source)
    end = time.perf_counter()
    return {"arrays": round(middle - start, 3), "profile": round(end - middle, 3)}


def main(words: list[str]) -> None:
    """Time the first pass, the pass after growth, and the same from nothing."""
    given = {key: int(value) for key, value in (word.split("=") for word in words)}
    n, more = given.get("images", 20_000), given.get("more", 1_000)
    root = Path(tempfile.mkdtemp())
    try:
        rng = np.random.default_rng(0)
        mean = rng.uniform(10, 200, n).astype(np.float32)
        first = make_dataset(root, n, size=64, mean=mean)
        found = {"first": seconds(first)}
        later = make_era(first, more)
        found["after growth"] = seconds(later)
        shutil.rmtree(folder_of(later.uri))
        found["after growth, from nothing"] = seconds(later)
    finally:
        shutil.rmtree(root)
    print(json.dumps({"images": n, "more": more, "seconds": found}))


if __name__ == "__main__":
    main(sys.argv[1:])
