"""What a run came to: for people, for machines, and as an exit code."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import Field

from data_contracts.references import (
    ContractReport,
    DatasetRef,
    Estimate,
    GateReport,
    ModelRef,
    Reference,
    Verdict,
)

EXIT_REJECTED = 4


class RunResult(Reference):
    """A finished run of `train` or `update`."""

    run: str
    verdict: Verdict = Field(description="The gate's verdict.")
    promoted: bool
    model: ModelRef
    dataset: DatasetRef
    images: dict[str, int] = Field(description="Rows in all, and in each split.")
    dropped: dict[str, int] = Field(description="Left out by cleaning, by reason.")
    quarantine: dict[str, int] = Field(description="Unreadable files, by reason.")
    metrics: dict[str, Estimate]
    gate: GateReport
    contracts: list[ContractReport]
    seconds: dict[str, float] = Field(description="Wall time by stage.")
    notes: list[str]
    report: str = Field(description="Path of the HTML report.")

    @property
    def exit_code(self) -> int:
        """0 if the gate passed or a person waived it, 4 if not."""
        held = self.verdict == Verdict.PASS or self.promoted
        return 0 if held else EXIT_REJECTED

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return self.model_dump(mode="json") | {"exit_code": self.exit_code}

    def text(self) -> str:
        """Return the result for a person."""
        lines = [self._verdict(), ""]
        lines += [
            f"  {name:<9} {percent(self.metrics[key])}"
            for name, key in (
                ("top-1", "top1"),
                ("top-5", "top5"),
                ("macro-F1", "macro_f1"),
                ("ECE", "ece"),
            )
            if key in self.metrics
        ]
        lines += [
            f"  {'gate':<9} {check.verdict}: {check.detail}" for check in self.checks
        ]
        used = ", ".join(f"{n:,} {name}" for name, n in self.images.items() if n)
        lines += [f"  {'images':<9} {used}"]
        for name, counts in (("dropped", self.dropped), ("unread", self.quarantine)):
            if counts:
                words = ", ".join(f"{n:,} {reason}" for reason, n in counts.items())
                lines += [f"  {name:<9} {words}"]
        total = sum(self.seconds.values())
        slowest = sorted(self.seconds.items(), key=lambda item: -item[1])[:3]
        parts = ", ".join(f"{name} {seconds:.0f}" for name, seconds in slowest)
        lines += [f"  {'seconds':<9} {total:.0f} ({parts})"]
        lines += [f"  {'report':<9} {self.report}"]
        return "\n".join(lines)

    @property
    def checks(self) -> list[Any]:
        """The gate's checks, those that did not pass first."""
        return sorted(self.gate.checks, key=lambda check: check.verdict == Verdict.PASS)

    def _verdict(self) -> str:
        name = f"{self.model.name} version {self.model.version}"
        if self.promoted and self.verdict != Verdict.PASS:
            return f"Promoted: {name}; a person waived the gate"
        if self.verdict == Verdict.PASS:
            return f"Promoted: {name}" if self.promoted else f"Blessed: {name}"
        kept = self.gate.champion
        stays = f"; version {kept} stays champion" if kept else ""
        word = {Verdict.FAIL: "Rejected", Verdict.INCONCLUSIVE: "Not promoted"}
        return f"{word.get(self.verdict, 'Not judged')}: {name}{stays}"


def percent(figure: Estimate) -> str:
    """Return a share with its 95 % interval in words."""
    return f"{figure.value:.1%} ({figure.low:.1%} to {figure.high:.1%})"


class Clock:
    """Wall time by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to the stage `name`."""
        start = time.monotonic()
        try:
            yield
        finally:
            spent = time.monotonic() - start
            self.seconds[name] = round(self.seconds.get(name, 0) + spent, 2)
