from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tasks.listing import Row as Item
from tasks.listing import filename, limited, printable
from tests.tasks.listings import listed, said
from tests.tasks.pictures import write


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name))
def test_printable_names_are_text_and_lead_back(name: bytes) -> None:
    text = printable(os.fsdecode(name))
    text.encode()
    assert text.isprintable() or "\n" not in text
    assert os.fsencode(filename(text)) == name


def items(counts: dict[str, int]) -> list[Item]:
    return [Item(f"{k}/{i}.png", label=k) for k, n in counts.items() for i in range(n)]


def test_a_limit_keeps_shares_order_and_seed() -> None:
    rows = items({"a": 60, "b": 30, "c": 9, "d": 1})
    kept = limited(rows, limit=20, seed=0)
    assert Counter(row.label for row in kept) == {"a": 12, "b": 6, "c": 1, "d": 1}
    assert kept == sorted(kept, key=rows.index)
    assert kept == limited(rows, limit=20, seed=0)
    assert kept != limited(rows, limit=20, seed=1)


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 30), min_size=1),
    st.integers(1, 100),
)
def test_a_limit_is_reached_exactly(counts: dict[str, int], limit: int) -> None:
    rows = items(counts)
    limit = min(limit, len(rows))
    kept = Counter(row.label for row in limited(rows, limit=limit, seed=3))
    assert kept.total() == limit
    assert limit < len(counts) or len(kept) == len(counts)


def test_a_grown_source_keeps_most_of_a_limited_one() -> None:
    small = limited(items({"a": 100, "b": 100}), limit=40, seed=0)
    large = limited(items({"a": 110, "b": 110}), limit=40, seed=0)
    assert len(set(small) & set(large)) >= 32


def test_a_limited_listing_keeps_all_label_names(tmp_path: Path) -> None:
    for i, name in enumerate("abcd"):
        write(tmp_path / name / "1.png", seed=i)
    found = listed(tmp_path, limit=2)
    assert len(found) == 2
    assert found.label_names == ["a", "b", "c", "d"]
    assert said(found, "limit=2")
