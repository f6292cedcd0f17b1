"""Figures, metrics and verdicts as people write them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_contracts.references import ContractReport, Estimate, Verdict

METRICS = {
    "top1": ("Top-1", "the best guess is right"),
    "top5": ("Top-5", "the right class is among five guesses"),
    "coarsetop1": ("Coarse top-1", "the coarse class of most probability is right"),
    "macroprecision": ("Macro precision", "precision, every class counting the same"),
    "macrorecall": ("Macro recall", "recall, every class counting the same"),
    "macrof1": ("Macro F1", "precision and recall, every class counting the same"),
    "balancedaccuracy": ("Balanced accuracy", "recall, every class counting the same"),
    "ece": ("ECE", "how far confidence is from accuracy; lower is better"),
    "brier": ("Brier score", "squared error of the probabilities; lower is better"),
    "nll": ("NLL", "surprise at the right class, in nats; lower is better"),
}
_WORDS = {
    "top1": "top-1",
    "top5": "top-5",
    "f1": "F1",
    "ece": "ECE",
    "nll": "NLL",
    "robust": "top-1 under attack",
}
VERDICTS = {
    Verdict.PASS: ("✓", "pass"),
    Verdict.WARN: ("!", "warning"),
    Verdict.FAIL: ("✕", "fail"),
    Verdict.ERROR: ("✕", "error"),
    Verdict.INCONCLUSIVE: ("~", "inconclusive"),
    Verdict.NOT_RUN: ("–", "not run"),
}
# Control characters, lone surrogates (names that are not UTF-8) and marks that
# turn the direction of the text after them.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]"
)


def finite(value: Any) -> bool:
    """Tell whether `value` is a number that can be shown."""
    return isinstance(value, (int, float, np.number)) and math.isfinite(value)


def printable(value: Any) -> Any:
    """Return `value`, with what cannot or must not be written shown as �."""
    return _UNPRINTABLE.sub("�", value) if type(value) is str else value


def metric_name(key: str) -> str:
    """Return a metric or check as people write it: top1_floor is Top-1 floor."""
    plain = re.sub(r"[\W_]", "", key).lower()
    if plain in METRICS:
        return METRICS[plain][0]
    words = [_WORDS.get(word.lower(), word) for word in re.split(r"[_\s]+", key)]
    text = " ".join(words).strip().replace("non inferiority", "non-inferiority")
    return text[:1].upper() + text[1:]


def metric_help(key: str) -> str:
    """Return what a metric means, or nothing for one we do not know."""
    return METRICS.get(re.sub(r"[\W_]", "", key).lower(), ("", ""))[1]


def unit(key: str) -> str:
    """Return the unit of a metric or check: %, points (a change) or nothing."""
    if re.search(r"ece|brier|nll|loss|calibration", key.lower()):
        return ""
    changes = (
        r"inferiority|superiority|difference|change|drop|regression"
        r"|: (top-1|macro-\w+|slices)$|^corruptions|^adversarial"
    )
    return "points" if re.search(changes, key.lower()) else "%"


def number(value: float | None, unit: str = "%", *, signed: bool = False) -> str:
    """Return `value` in words: 58.5 %, −1.2 points, 0.083; a dash for none."""
    if not finite(value) or value is None:
        return "–"
    sign = "+" if signed else ""
    text = f"{100 * value:{sign}.1f} {unit}" if unit else f"{value:{sign}.3f}"
    return text.replace("-", "−")


def interval(low: float | None, high: float | None, unit: str = "%") -> str:
    """Return an interval in words: (56.6 to 60.4), or nothing when there is none."""
    if not (finite(low) and finite(high)):
        return ""
    ends = [number(end, unit).removesuffix(f" {unit}") for end in (low, high)]
    return f"({ends[0]} to {ends[1]})"


def estimate(figure: Estimate | None, unit: str = "%") -> str:
    """Return a figure and its interval: 58.5 % (56.6 to 60.4)."""
    if figure is None:
        return "–"
    ends = interval(figure.low, figure.high, unit)
    return f"{number(figure.value, unit)} {ends}".strip()


def duration(seconds: float) -> str:
    """Return a time in words: 4.2 s, 3 min 12 s, 1 h 4 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def count(value: int) -> str:
    """Return a whole number with thousands marked: 2,485."""
    return f"{value:,}"


def broken_rules(contracts: Sequence[ContractReport]) -> list[str]:
    """Say of each rule that images broke what was seen."""
    return [
        f"Contract {report.contract}, {rule.rule}: {rule.observed}"
        for report in contracts
        for rule in report.failures
    ]
