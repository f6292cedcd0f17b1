"""Small typed values that cross task boundaries in place of arrays."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Reference(BaseModel):
    """A frozen value that fits in a Prefect parameter."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DatasetRef(Reference):
    """One immutable snapshot of a dataset, made by one stage."""

    uri: str = Field(description="Folder of the Icechunk repository.")
    snapshot: str = Field(description="Icechunk snapshot id.")
    stage: str = Field(description="Stage that made the snapshot.")
    digest: str = Field(description="Digest of parent, stage, version and settings.")
    n: int = Field(description="Number of rows (images).")


class ModelRef(Reference):
    """One registered version of a model."""

    name: str
    version: int
    uri: str = Field(description="Folder of the version.")


class Verdict(StrEnum):
    """Outcome of a check, a gate or a contract."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    ERROR = "error"
    INCONCLUSIVE = "inconclusive"
    NOT_RUN = "not_run"


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return error before fail before warn before pass."""
    seen = set(verdicts)
    order = (Verdict.ERROR, Verdict.FAIL, Verdict.WARN)
    return next((verdict for verdict in order if verdict in seen), Verdict.PASS)


class RuleResult(Reference):
    """What one contract rule found."""

    rule: str = Field(description="Short name of the rule.")
    verdict: Verdict
    severity: str = Field(description="critical or warning.")
    why: str = Field("", description="What the rule protects.")
    observed: str = Field("", description="What was seen, in words.")
    value: float | None = Field(None, description="What was seen, as one figure.")
    limit: float | None = Field(None, description="What the figure may not pass.")
    note: str = Field("", description="How that compares with earlier checks.")
    offenders: list[str] = Field(default_factory=list, description="First images.")
    n_offenders: int = 0


class ContractReport(Reference):
    """Verdict of one contract over one snapshot."""

    contract: str
    version: str
    sha256: str = Field(description="Digest of the contract file.")
    verdict: Verdict
    n_rows: int
    rules: list[RuleResult]

    @property
    def failures(self) -> list[RuleResult]:
        """Rules that did not pass, worst first."""
        order = {Verdict.ERROR: 0, Verdict.FAIL: 1, Verdict.WARN: 2}
        bad = [rule for rule in self.rules if rule.verdict in order]
        return sorted(bad, key=lambda rule: order[rule.verdict])


class Estimate(Reference):
    """A figure with its interval."""

    value: float
    low: float
    high: float
    n: int = Field(description="Images behind the figure.")


class CheckResult(Reference):
    """What one gate check decided, and on what."""

    check: str
    verdict: Verdict
    blocking: bool = True
    value: float | None = None
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    n: int = 0
    detail: str = Field("", description="One sentence for a person.")


class GateReport(Reference):
    """The decision over a candidate, with all that it rests on."""

    name: str
    version: int | None = None
    champion: int | None = None
    verdict: Verdict
    checks: list[CheckResult]
    flips: dict[str, list[str]] = Field(
        default_factory=dict, description="Images fixed and broken by the candidate."
    )
    evidence: dict[str, Any] = Field(default_factory=dict)

    @property
    def blessed(self) -> bool:
        """Whether the candidate may be promoted."""
        return self.verdict == Verdict.PASS
