"""What a bound decides, and how checks write shares and confidence."""

from __future__ import annotations

from data_contracts.references import Verdict
from tasks.gate_settings import GateSettings


def against(low: float, high: float, *, limit: float) -> Verdict:
    """Return pass if the interval lies above `limit`, fail if below, else neither."""
    if low > limit:
        return Verdict.PASS
    return Verdict.FAIL if high < limit else Verdict.INCONCLUSIVE


def points(share: float) -> str:
    """Write a change of a share in points, with its sign."""
    return f"{100 * share:+.1f}"


def side(settings: GateSettings) -> str:
    """Write the confidence of a one-sided bound."""
    return f"{settings.level:.0%}"
