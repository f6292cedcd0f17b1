"""Turn raw results of Great Expectations into plain results that name images."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from data_contracts.arrays import FIX, SHOWN, printable
from data_contracts.references import RuleResult, Verdict
from data_contracts.rules import TableRule, substitute

if TYPE_CHECKING:
    import pandas as pd

VALUES = 5  # wrong values quoted
ERROR_FIX = "Mend the table, or the contract if it is wrong; nothing was judged."
# How a rule's argument is put into words, in the order of the sentence.
_LIMITS = {
    "value": "exactly {}",
    "min_value": "at least {}",
    "max_value": "at most {}",
    "min_count": "at least {}",
    "max_count": "at most {}",
    "min_share": "a share of at least {}",
    "max_share": "a share of at most {}",
    "value_set": "one of {}",
    "regex": "matching {}",
    "mostly": "for a share of at least {}",
}


def judge_rule(
    rule: TableRule, outcome: Any, frame: pd.DataFrame, values: Mapping[str, Any]
) -> RuleResult:
    """Turn one raw result into plain Python, with the images by name."""
    if outcome is None:
        return rule_result(rule, Verdict.ERROR, "no result came back", values)
    if trouble := _exception(outcome.exception_info):
        return rule_result(rule, Verdict.ERROR, trouble, values)
    raw = outcome.result
    details = raw.get("details") or {}
    if "unexpected_count" in raw:
        rows, n = (
            raw.get("partial_unexpected_index_list") or [],
            raw["unexpected_count"],
        )
    else:
        n, rows = details.get("n", 0), details.get("rows", [])
    if details.get("not_run"):
        return rule_result(rule, Verdict.NOT_RUN, _observed(raw), values)
    text = _observed(raw) + _seen(rule, frame)
    good = bool(outcome.success)
    bad = Verdict.FAIL if _severity(rule, values) == "critical" else Verdict.WARN
    return rule_result(
        rule,
        Verdict.PASS if good else bad,
        text if good else text + _wanted(substitute(rule.kwargs, values)),
        values,
        offenders=[_name(frame, int(row)) for row in rows[:SHOWN]],
        n_offenders=int(n),
        value=_figure(raw),
        limit=details.get("limit"),
    )


def _figure(raw: Mapping[str, Any]) -> float | None:
    """Return what was seen as a figure: the share of bad rows, a count, a distance."""
    if "unexpected_count" in raw:
        return float(raw["unexpected_count"] / max(raw["element_count"], 1))
    seen = (raw.get("details") or {}).get("value", raw.get("observed_value"))
    numeric = isinstance(seen, numbers.Real) and math.isfinite(seen)
    return float(seen) if numeric and seen is not None else None


def _exception(info: Mapping[str, Any]) -> str:
    """Return the message of an exception in a result, or nothing.

    The dictionary is flat, or has one such dictionary for each metric.
    """
    entries = [info] if "raised_exception" in info else list(info.values())
    for entry in entries:
        if isinstance(entry, Mapping) and entry.get("raised_exception"):
            text = " ".join(str(entry.get("exception_message") or "unknown").split())
            gone = re.search(r'The column "(.+)" in BatchData does not exist', text)
            return f"column `{gone[1]}` is missing" if gone else text.strip("'\"")
    return ""


def _observed(raw: Mapping[str, Any]) -> str:
    """Say what Great Expectations saw."""
    missing = (raw.get("details") or {}).get("mismatched", {}).get("missing")
    if missing:
        return f"missing {', '.join(map(str, missing))}"
    if "unexpected_count" not in raw:
        return _short(raw.get("observed_value"), 400)
    text = f"{int(raw['unexpected_count']):,} of {int(raw['element_count']):,} rows"
    seen = [value for value in raw.get("partial_unexpected_list", []) if _there(value)]
    listed = list(dict.fromkeys(map(_short, seen)))
    return f"{text} hold {', '.join(listed[:VALUES])}" if listed else text


def _wanted(kwargs: Mapping[str, Any]) -> str:
    """Say what a rule asks for."""
    asked = [key for key in _LIMITS if kwargs.get(key) is not None]
    limits = [_LIMITS[key].format(_short(kwargs[key])) for key in asked]
    return f"; wanted {', '.join(limits)}" if limits else ""


def _seen(rule: TableRule, frame: pd.DataFrame) -> str:
    """Say which column lacks values, or which values a rule on their number counted."""
    if rule.type == "expect_column_values_to_not_be_null":
        return f" have no `{rule.kwargs['column']}`"
    if rule.type != "expect_column_unique_value_count_to_be_between":
        return ""
    column = str(rule.kwargs["column"])
    values = list(frame[column].dropna().unique()[: VALUES + 1])
    more = ", ..." if len(values) > VALUES else ""
    return f" (`{column}` holds {_short(values[:VALUES]) or 'no value'}{more})"


def _short(value: Any, width: int = 80) -> str:
    text = printable(value)
    if isinstance(value, float):
        text = f"{value:.6g}"
    elif isinstance(value, list):
        text = ", ".join(printable(item) for item in value)
    elif value == "":
        text = "''"
    return text if len(text) <= width else text[: width - 1] + "…"


def _there(value: Any) -> bool:
    return isinstance(value, str) or str(value) not in ("None", "nan", "<NA>", "NaT")


def _name(frame: pd.DataFrame, row: int) -> str:
    if "path" not in frame:
        return f"row {row}"
    path = frame["path"].iloc[row]
    return printable(path) if isinstance(path, str) else f"row {row}"


def _severity(rule: TableRule, values: Mapping[str, Any]) -> str:
    eased = rule.warning_if is not None and bool(values[rule.warning_if])
    return "warning" if eased else rule.severity


def rule_result(
    rule: TableRule,
    verdict: Verdict,
    observed: str,
    values: Mapping[str, Any],
    **more: Any,
) -> RuleResult:
    """Return the result of `rule`, with what it protects and what to do.

    Args:
        rule: The rule.
        verdict: What came of it.
        observed: What was seen, in words.
        values: Values of the contract's parameters.
        more: `offenders` and `n_offenders`, if images broke the rule; the figures.
    """
    return RuleResult(
        rule=rule.name,
        verdict=verdict,
        severity=_severity(rule, values),
        why=f"{rule.why} {FIX}{ERROR_FIX if verdict == Verdict.ERROR else rule.fix}",
        observed=observed,
        **more,
    )
