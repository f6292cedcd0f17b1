"""Gather what a run's report shows of past verdicts."""

from __future__ import annotations

from tasks.checks import read_history
from tasks.report_content import PastCheck

SHOWN = 12


def past_checks(uri: str) -> dict[str, list[PastCheck]]:
    """Return the last checks of a dataset by contract, the newest first."""
    found: dict[str, list[PastCheck]] = {}
    for check in reversed(read_history(uri)):
        past = PastCheck(
            when=check.when.replace("T", " ")[:16],
            verdict=check.verdict,
            version=check.version,
            rows=check.n_rows,
            broken=check.broken,
        )
        found.setdefault(check.contract, []).append(past)
    return {contract: past[:SHOWN] for contract, past in found.items()}
