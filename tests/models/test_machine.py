"""What the machine gives, and what a container leaves of it."""

import os

import pytest

from models.machine import cores, memory


@pytest.mark.parametrize(
    ("text", "most"),
    [("max 100000", 10**6), ("150000 100000", 2), ("1000 100000", 1), ("", 10**6)],
)
def test_a_quota_of_cpu_time_counts(tmp_path, text, most):
    (tmp_path / "cpu.max").write_text(text)
    assert cores(tmp_path) == min(most, len(os.sched_getaffinity(0)))


def test_a_limit_of_memory_counts(tmp_path):
    whole = memory(tmp_path)
    assert whole > 1 << 28
    (tmp_path / "memory.max").write_text("1000\n")
    assert memory(tmp_path) == 1000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory(tmp_path) == whole
