"""The history of verdicts: all checks of a dataset, and what is odd in a new one."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import Field

from data_contracts.locks import exclusive
from data_contracts.references import (
    ContractReport,
    DatasetRef,
    Reference,
    RuleResult,
    Verdict,
)
from data_contracts.store import storage_errors
from models.durable import append_line
from tasks.kept import folder_of

# A value this many robust deviations off, over at least so many checks, is told.
UNUSUAL, ENOUGH = 5.0, 4
USED = 50  # newest checks that say what is usual


class Outcome(Reference):
    """What one rule came to in one check."""

    rule: str
    verdict: Verdict
    value: float | None = None
    limit: float | None = None
    n_offenders: int = 0


class Check(Reference):
    """One check of one snapshot by one contract."""

    key: str = Field(description="Digest of snapshot, contract and parameters.")
    when: str
    stage: str
    snapshot: str
    contract: str
    version: str
    sha256: str
    verdict: Verdict
    n_rows: int
    rules: list[Outcome]

    @property
    def broken(self) -> list[str]:
        """Names of the rules that did not pass."""
        bad = (Verdict.WARN, Verdict.FAIL, Verdict.ERROR)
        return [outcome.rule for outcome in self.rules if outcome.verdict in bad]


def record(source: DatasetRef, report: ContractReport, *, key: str) -> ContractReport:
    """Append a verdict to the dataset's history; return it with notes on what is odd.

    One writer at a time; a line torn by a crash is cut off, and a check is recorded
    once however often it is asked for.
    """
    path = history_file(source.uri)
    with storage_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(path.with_suffix(".lock"), what=str(path)):
            past, good = _scan(path)
            noted = with_notes(report, [check for check in past if check.key != key])
            if all(check.key != key for check in past):
                line = _check(source, report, key=key).model_dump_json() + "\n"
                append_line(path, line.encode(), keep=good)
    return noted


def read_history(uri: str) -> list[Check]:
    """Return every check of the dataset at `uri`, the oldest first."""
    return _scan(history_file(uri))[0]


def history_file(uri: str) -> Path:
    """Return the file of the history of the dataset at `uri`."""
    return folder_of(uri) / "history.jsonl"


def with_notes(report: ContractReport, past: Sequence[Check]) -> ContractReport:
    """Return the report with a note at each rule whose figure is unusual."""
    seen: dict[str, list[float]] = {}
    for check in past:
        if check.contract == report.contract:
            for outcome in check.rules:
                if outcome.value is not None:
                    seen.setdefault(outcome.rule, []).append(outcome.value)
    rules = [
        rule.model_copy(
            update={"note": note_on(rule, seen.get(rule.rule, []), n=report.n_rows)}
        )
        for rule in report.rules
    ]
    return report.model_copy(update={"rules": rules})


def note_on(rule: RuleResult, before: Sequence[float], *, n: int) -> str:
    """Say that a figure is unusual, or nothing."""
    if rule.value is None or len(before) < ENOUGH:
        return ""
    usual = float(np.median(before[-USED:]))
    score = robust_score(rule.value, before[-USED:], n=n)
    if abs(score) < UNUSUAL:
        return ""
    how = "far above" if score > 0 else "far below"
    return (
        f"{how} the usual {usual:.3g}: now {rule.value:.3g}"
        f" ({score:+.0f} robust deviations, {len(before[-USED:])} earlier checks)"
    )


def robust_score(value: float, before: Sequence[float], *, n: int) -> float:
    """Return how many robust deviations `value` lies from the median of `before`.

    The median absolute deviation of figures that never moved is zero, so a deviation
    is at least one row in `n`, or a fiftieth of the median.
    """
    usual = float(np.median(before))
    spread = 1.4826 * float(np.median(np.abs(np.asarray(before) - usual)))
    return (value - usual) / max(spread, abs(usual) / 50, 1 / max(n, 1))


def _check(source: DatasetRef, report: ContractReport, *, key: str) -> Check:
    def finite(value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None

    return Check(
        key=key,
        when=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        stage=source.stage,
        snapshot=source.snapshot,
        contract=report.contract,
        version=report.version,
        sha256=report.sha256,
        verdict=report.verdict,
        n_rows=report.n_rows,
        rules=[
            Outcome(
                rule=rule.rule,
                verdict=rule.verdict,
                value=finite(rule.value),
                limit=finite(rule.limit),
                n_offenders=rule.n_offenders,
            )
            for rule in report.rules
        ],
    )


def _scan(path: Path) -> tuple[list[Check], int]:
    """Return the checks of a history file, and how many of its bytes are whole lines.

    A line of another version of Sightline is passed over.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    good = content.rfind(b"\n") + 1
    found = []
    for line in content[:good].splitlines():
        try:
            found.append(Check.model_validate(json.loads(line)))
        except ValueError:
            continue
    return found, good
