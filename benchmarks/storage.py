"""How chunk size and codec change the reading and writing of pixels.

    python benchmarks/storage.py --images 20000 --rounds 3

Photos of groceries at 64 px, repeated, in Icechunk repositories that differ in the
rows of a chunk and the compressor, beside a plain Zarr array. Writing
is by chunk in order; reading is the two ways of training: a whole epoch chunk by chunk,
and sorted random rows. Rounds alternate; medians. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import zarr

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
GROCERY = ROOT.parent / "shared" / "data" / "grocery" / "manifest.csv"
SIZE, TAKEN = 64, 2048
ROWS = (32, 128, 256, 1024)
CODECS: dict[str, Any] = {
    "none": None,
    "lz4": zarr.codecs.BloscCodec(cname="lz4", clevel=1, shuffle="noshuffle"),
    "zstd": zarr.codecs.ZstdCodec(level=1),
}
Store = Callable[[Path], Any]


def photos(data: Path, n: int) -> np.ndarray[Any, Any]:
    """Return `n` photos (n, 64, 64, 3), the first ones again where there are fewer."""
    from data_contracts.store import Dataset
    from tasks.decode import DecodeSettings
    from tasks.ingest import IngestSettings, ingest_dataset

    settings = IngestSettings(decode=DecodeSettings(image_size=SIZE))
    with tempfile.TemporaryDirectory() as place:
        found = Dataset(ingest_dataset(str(data), settings, uri=f"{place}/set"))
        pixels = found.take(np.flatnonzero(found.column("ok")))
    return np.resize(pixels, (n, *pixels.shape[1:]))


def in_icechunk(folder: Path, pixels: Any, rows: int, codec: str) -> Callable[[], Any]:
    """Write to a repository; return a function that opens it."""
    repository = icechunk.Repository.create(
        icechunk.local_filesystem_storage(str(folder))
    )
    session = repository.writable_session("main")
    group = zarr.open_group(session.store, mode="a")
    _fill(group, pixels, rows, codec)
    session.commit("pixels")

    def open_array() -> Any:
        store = repository.readonly_session("main").store
        return zarr.open_group(store, mode="r")["images"]

    return open_array


def in_zarr(folder: Path, pixels: Any, rows: int, codec: str) -> Callable[[], Any]:
    """Write to a plain Zarr group; return a function that opens it."""
    _fill(zarr.open_group(str(folder), mode="w"), pixels, rows, codec)
    return lambda: zarr.open_group(str(folder), mode="r")["images"]


def _fill(group: Any, pixels: Any, rows: int, codec: str) -> None:
    array = group.create_array(
        "images",
        shape=pixels.shape,
        chunks=(rows, *pixels.shape[1:]),
        dtype="uint8",
        compressors=CODECS[codec],
    )
    for start in range(0, len(pixels), rows):
        array[start : start + rows] = pixels[start : start + rows]


def timed(write: Any, pixels: Any, rows: int, codec: str) -> dict[str, float]:
    """Return gigabytes per second of one write and of two kinds of reading."""
    size = pixels.nbytes / 1e9
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "store"
        start = time.perf_counter()
        open_array = write(folder, pixels, rows, codec)
        wrote = time.perf_counter() - start
        disk = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e9
        array = open_array()
        start = time.perf_counter()
        for first in range(0, len(pixels), rows):
            np.ascontiguousarray(array[first : first + rows])
        read = time.perf_counter() - start
        taken = np.sort(np.random.default_rng(0).permutation(len(pixels))[:TAKEN])
        array = open_array()
        start = time.perf_counter()
        for chunk in np.unique(taken // rows):
            block = np.ascontiguousarray(array[chunk * rows : (chunk + 1) * rows])
            block[taken[taken // rows == chunk] - chunk * rows]
        some = time.perf_counter() - start
        shutil.rmtree(folder)
    return {
        "write_gb_s": size / wrote,
        "read_gb_s": size / read,
        "random_rows_s": TAKEN / some,
        "disk_share": disk / size,
    }


def main() -> None:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=GROCERY)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    pixels = photos(given.data, given.images)
    cases = [
        *(("icechunk", in_icechunk, r, c) for r, c in itertools.product(ROWS, CODECS)),
        ("zarr", in_zarr, 256, "none"),
    ]
    found: dict[tuple[str, int, str], list[dict[str, float]]] = {}
    for _ in range(given.rounds):
        for name, write, rows, codec in cases:
            seen = timed(write, pixels, rows, codec)
            found.setdefault((name, rows, codec), []).append(seen)
    table = [
        {"store": name, "rows": rows, "codec": codec}
        | {key: round(statistics.median(r[key] for r in runs), 3) for key in runs[0]}
        for (name, rows, codec), runs in found.items()
    ]
    print(json.dumps({"benchmark": "storage", "images": given.images, "table": table}))


if __name__ == "__main__":
    main()
