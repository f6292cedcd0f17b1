"""Ingest speed against a bare OpenCV loop, and peak memory as the folder grows.

    python benchmarks/ingest.py --data ../shared/data/grocery --rounds 3

The rival reads, decodes (scaled), crops, resizes by area and hashes (SHA-256 and the
same pHash) on as many threads, and keeps nothing. Ours writes the dataset. Both run in
a process of their own, in turns; prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
SIZE = 64
GROCERY = ROOT.parent / "shared" / "data" / "grocery"


def images_in(folder: Path) -> list[Path]:
    """Return the JPEG files below `folder`."""
    return sorted(folder.rglob("*.jpg"))


def bare(folder: Path) -> dict[str, Any]:
    """Decode and hash every image, and keep nothing."""
    import hashlib

    import cv2
    import numpy as np

    from models.machine import cores
    from tasks.pixels import perceptual_hash

    cv2.setNumThreads(1)
    flags = {
        1: cv2.IMREAD_COLOR,
        2: cv2.IMREAD_REDUCED_COLOR_2,
        4: cv2.IMREAD_REDUCED_COLOR_4,
    }

    def work(paths: list[Path]) -> int:
        batch = []
        for path in paths:
            data = path.read_bytes()
            hashlib.sha256(data).hexdigest()
            # These photos have a shorter side of 256 pixels: a quarter is 64.
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags[4])
            side = min(image.shape[:2])
            top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
            square = image[top : top + side, left : left + side]
            batch.append(cv2.resize(square, (SIZE, SIZE), interpolation=cv2.INTER_AREA))
        perceptual_hash(np.stack(batch))
        return len(batch)

    paths = images_in(folder)
    start = time.perf_counter()
    parts = [paths[i : i + 256] for i in range(0, len(paths), 256)]
    with ThreadPoolExecutor(cores()) as pool:
        n = sum(pool.map(work, parts))
    return {"images": n, "seconds": time.perf_counter() - start}


def ours(folder: Path) -> dict[str, Any]:
    """Ingest the folder into a dataset."""
    import dask.base
    import dask.delayed
    import dask.threaded  # noqa: F401

    from tasks.decode import DecodeSettings
    from tasks.ingest import IngestSettings, ingest_dataset

    settings = IngestSettings(decode=DecodeSettings(image_size=SIZE))
    with tempfile.TemporaryDirectory() as place:
        start = time.perf_counter()
        ref = ingest_dataset(str(folder), settings, uri=f"{place}/set")
        seconds = time.perf_counter() - start
    return {"images": ref.n, "seconds": seconds}


def measured(which: str, folder: Path) -> dict[str, Any]:
    """Run one of the two in a fresh process."""
    command = [sys.executable, __file__, "--only", which, "--data", str(folder)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(out.splitlines()[-1]))


def main() -> None:
    """Measure in turns and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=GROCERY)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["bare", "ours"])
    arguments = parser.parse_args()
    if arguments.only:
        found = {"bare": bare, "ours": ours}[arguments.only](arguments.data)
        found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "pictures" / "once"
        for path in images_in(arguments.data):
            target = folder / path.relative_to(arguments.data)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        rounds = [
            {which: measured(which, folder) for which in ("bare", "ours")}
            for _ in range(arguments.rounds)
        ]
        for name in ("twice", "thrice", "four"):
            shutil.copytree(folder, folder.parent / name)
        four = measured("ours", folder.parent)
    speed = {
        which: [r[which]["images"] / r[which]["seconds"] for r in rounds]
        for which in ("bare", "ours")
    }
    ratios = [a / b for a, b in zip(speed["ours"], speed["bare"], strict=True)]
    once = statistics.median(r["ours"]["peak_mb"] for r in rounds)
    print(
        json.dumps(
            {
                "benchmark": "ingest",
                "images": rounds[0]["ours"]["images"],
                "size": SIZE,
                "ours_images_per_second": round(statistics.median(speed["ours"])),
                "bare_images_per_second": round(statistics.median(speed["bare"])),
                "ratio": round(statistics.median(ratios), 3),
                "ratios": [round(r, 3) for r in ratios],
                "peak_mb": round(once),
                "peak_mb_four_times": round(four["peak_mb"]),
                "growth": round(four["peak_mb"] / once - 1, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
