"""Hold a rule for each value of a column: one domain, one class, one era at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from data_contracts.arrays import SHOWN, printable
from data_contracts.outcomes import rule_result
from data_contracts.references import RuleResult, Verdict, worst
from data_contracts.rules import TableRule

if TYPE_CHECKING:
    import pandas as pd

MOST_SLICES = 200
QUOTED = 5  # broken slices told in full
NO_VALUE = "no value"


def judge_slices(
    frame: pd.DataFrame,
    rules: Mapping[int, TableRule],
    values: Mapping[str, Any],
    *,
    judge: Callable[[pd.DataFrame], dict[int, RuleResult]],
) -> dict[int, RuleResult]:
    """Judge each rule over each slice, and add the slices up.

    Args:
        frame: Rows that the rules read.
        rules: Rules of the same `by` and `min_slice`.
        values: Values of the contract's parameters.
        judge: Judges all the rules over some rows.
    """
    first = next(iter(rules.values()))
    column, least = str(first.by), first.min_slice
    if trouble := _trouble(frame, column):
        return {
            index: rule_result(rule, Verdict.ERROR, trouble, values)
            for index, rule in rules.items()
        }
    parts = {
        str(name): part.reset_index(drop=True)
        for name, part in frame.groupby(frame[column].map(_named), sort=True)
    }
    small = {name: len(part) for name, part in parts.items() if len(part) < least}
    judged = {name: judge(part) for name, part in parts.items() if name not in small}
    return {
        index: _add_up(
            rule,
            {name: results[index] for name, results in judged.items()},
            small=small,
            values=values,
        )
        for index, rule in rules.items()
    }


def _trouble(frame: pd.DataFrame, column: str) -> str:
    if column not in frame:
        return f"column `{column}` is missing"
    slices = frame[column].nunique(dropna=False)
    if slices > MOST_SLICES:
        return f"`{column}` makes {slices:,} slices, more than {MOST_SLICES}"
    return ""


def _add_up(
    rule: TableRule,
    results: Mapping[str, RuleResult],
    *,
    small: Mapping[str, int],
    values: Mapping[str, Any],
) -> RuleResult:
    """Return one result for all slices; the worst of them decides."""
    ran = {k: r for k, r in results.items() if r.verdict != Verdict.NOT_RUN}
    bad = {k: r for k, r in ran.items() if r.verdict != Verdict.PASS}
    verdict = worst(r.verdict for r in ran.values()) if ran else Verdict.NOT_RUN
    text = f"{len(ran):,} slices by `{rule.by}`"
    if bad:
        told = "; ".join(f"{k}: {r.observed}" for k, r in list(bad.items())[:QUOTED])
        more = f"; and {len(bad) - QUOTED} more" if len(bad) > QUOTED else ""
        text = f"{len(bad):,} of {text} broken: {told}{more}"
    if small:
        few = ", ".join(f"{k} ({n})" for k, n in list(small.items())[:SHOWN])
        more = f" and {len(small) - SHOWN} more" if len(small) > SHOWN else ""
        text += f"; under {rule.min_slice} rows, not judged: {few}{more}"
    named = [f"{k}: {path}" for k, r in bad.items() for path in r.offenders]
    return rule_result(
        rule,
        verdict,
        text,
        values,
        offenders=named[:SHOWN],
        n_offenders=sum(r.n_offenders for r in bad.values()),
        value=len(bad) / len(ran) if ran else None,
    )


def _named(value: Any) -> str:
    missing = value is None or value != value or value == ""
    return NO_VALUE if missing else printable(value)
