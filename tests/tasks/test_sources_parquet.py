from __future__ import annotations

import json
import os
import pickle
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_contracts.errors import SourceError
from tasks.decode import DecodeSettings, decode_image
from tests.tasks.listings import listed
from tests.tasks.pictures import encoded, photo


def shard(path: Path, n: int, *, first: int = 0, key: str = "img") -> None:
    cells = [
        {"bytes": encoded(photo(9, 9, seed=first + i), "PNG"), "path": None}
        for i in range(n)
    ]
    info = {
        "info": {
            "features": {"label": {"names": ["zebra", "ant"], "_type": "ClassLabel"}}
        }
    }
    table = pa.table({key: cells, "label": [(first + i) % 2 for i in range(n)]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=4)


def test_hub_parquet_gives_bytes_names_and_splits(tmp_path: Path) -> None:
    shard(tmp_path / "data/train-00000-of-00002.parquet", 10)
    shard(tmp_path / "data/train-00001-of-00002.parquet", 3, first=10)
    shard(tmp_path / "data/test-00000-of-00001.parquet", 2, first=13)
    found = listed(tmp_path)
    assert Counter(found.split) == {"train": 13, "test": 2}
    assert found.label_names == ["zebra", "ant"]
    assert len(set(found.path)) == len(set(found.stamp)) == 15
    moved = pickle.loads(pickle.dumps(found))
    order = [0, 14, 5, 3, 12, 4, 9, 1]
    with ThreadPoolExecutor(3) as pool:
        contents = list(pool.map(moved.read, order))
    for i, content in zip(order, contents, strict=True):
        seed = i - 2 if i >= 2 else 13 + i  # test sorts before train
        assert content == encoded(photo(9, 9, seed=seed), "PNG")
        assert found.label[i] == ["zebra", "ant"][seed % 2]


def test_a_shard_alone_has_no_split(tmp_path: Path) -> None:
    shard(tmp_path / "train.parquet", 5, key="picture")
    found = listed(tmp_path / "train.parquet")
    assert found.split == [None] * 5
    assert decode_image(found.read(4), DecodeSettings(image_size=9)).width == 9


def test_a_damaged_shard_is_refused_or_its_rows_fail(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    shard(path, 9)
    whole = path.read_bytes()
    for at in range(4, len(whole), 97):
        path.write_bytes(whole[:at] + bytes(9) + whole[at + 9 :])
        os.utime(path, ns=(at, at))
        with suppress(SourceError):
            found = listed(path)
            for i in range(len(found)):
                with suppress(OSError):
                    found.read(i)


def test_a_rewritten_shard_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    shard(path, 5)
    first = listed(path)
    one = first.read(0)
    shard(path, 5, first=7)
    os.utime(path, ns=(5, 5))
    second = listed(path)
    assert second.read(0) != one
    assert second.stamp[0] != first.stamp[0]
