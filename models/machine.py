"""How many cores and how much memory this process may use; free of JAX."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def cores(group: Path = CGROUP) -> int:
    """Return the cores that this process may keep busy, at least 1.

    A container's share of CPU time (`cpu.max`, cgroup v2) counts, rounded up.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    found = allowed or os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text().split()
        found = min(found, -(-int(quota) // int(period)))  # "max" is no number
    return max(1, found)


def memory(group: Path = CGROUP) -> int:
    """Return the bytes of memory that this process may use at most."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):
        found = min(found, int((group / "memory.max").read_text()))
    return found
