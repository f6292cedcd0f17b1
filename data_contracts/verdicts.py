"""Run a contract over the per-image table, and say what came of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from data_contracts.arrays import FIX, SHOWN, ArrayFinding, judge, printable
from data_contracts.contracts import (
    Contract,
    TableRule,
    expectation_class,
    load_expectations,
    parameters_in,
    substitute,
)
from data_contracts.errors import ContractError, UsageError
from data_contracts.references import ContractReport, RuleResult, Verdict
from data_contracts.table_rules import select

if TYPE_CHECKING:
    import pandas as pd

VALUES = 5  # wrong values quoted


def check_table(
    contract: Contract,
    frame: pd.DataFrame,
    *,
    parameters: Mapping[str, Any] | None = None,
    arrays: Sequence[ArrayFinding] = (),
) -> ContractReport:
    """Check every rule of `contract`, in its order, and give the verdict.

    Args:
        contract: From `load_contract`.
        frame: One row per image; `path` names the image.
        parameters: Values for the contract's parameters; the rest keep their default.
        arrays: Merged findings of the array rules; without them these are not run.

    Raises:
        UsageError: A parameter is unknown or missing.
    """
    values = contract.resolve(parameters or {})
    if len(frame):
        results = _table_results(contract, frame.reset_index(drop=True), values)
    else:
        results = [_no_rows(contract)]
    found = {finding.rule: finding for finding in arrays}
    results += [judge(rule, found.get(rule.name)) for rule in contract.arrays]
    return ContractReport(
        contract=contract.name,
        version=contract.version,
        sha256=contract.sha256,
        verdict=worst(result.verdict for result in results),
        n_rows=len(frame),
        rules=results,
    )


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return error before fail before warn before pass."""
    seen = set(verdicts)
    order = (Verdict.ERROR, Verdict.FAIL, Verdict.WARN)
    return next((verdict for verdict in order if verdict in seen), Verdict.PASS)


def enforce(report: ContractReport) -> ContractReport:
    """Return the report if its critical rules hold.

    Raises:
        ContractError: The verdict is fail or error; the message is `describe(report)`.
    """
    if report.verdict in (Verdict.FAIL, Verdict.ERROR):
        raise ContractError(describe(report))
    return report


def describe(report: ContractReport) -> str:
    """Return the verdict and each broken rule as lines for a person, worst first."""
    word = {Verdict.PASS: "holds", Verdict.WARN: "holds, with warnings"}
    word |= {Verdict.FAIL: "is broken", Verdict.ERROR: "could not be checked"}
    lines = [
        f"Contract {report.contract} {report.version} {word[report.verdict]}: "
        f"{len(report.failures)} of {len(report.rules)} rules did not pass "
        f"({report.n_rows:,} images)."
    ]
    for result in report.failures:
        why, _, fix = result.why.partition(FIX)
        lines.append(f"  {result.verdict.upper()}: {result.rule}")
        lines.append(f"    came: {result.observed}")
        if result.offenders:
            lines.append(f"    images: {_named(result)}")
        lines.append(f"    why: {why.strip()}")
        lines += [f"    do: {fix}"] if fix else []
    text = "\n".join(lines)
    # Names come from strangers' disks: no escape sequence may reach a terminal.
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def _named(result: RuleResult) -> str:
    names = ", ".join(name.replace("\n", "\\n") for name in result.offenders)
    more = result.n_offenders - len(result.offenders)
    return names + (f" and {more:,} more" if more > 0 else "")


def _table_results(
    contract: Contract, frame: pd.DataFrame, values: Mapping[str, Any]
) -> list[RuleResult]:
    """Run the table rules: one Great Expectations suite for each selection of rows."""
    by_rows: dict[str, list[int]] = {}
    for index, rule in enumerate(contract.rules):
        by_rows.setdefault(json.dumps(rule.where, sort_keys=True), []).append(index)
    batches = _batches() if contract.rules else None
    results: dict[int, RuleResult] = {}
    for indices in by_rows.values():
        rules = {index: contract.rules[index] for index in indices}
        results |= _check_rows(batches, frame, rules, values)
    return [results[index] for index in range(len(contract.rules))]


def _check_rows(
    batches: Any,
    frame: pd.DataFrame,
    rules: Mapping[int, TableRule],
    values: Mapping[str, Any],
) -> dict[int, RuleResult]:
    """Check the rules that read the same rows."""
    where = next(iter(rules.values())).where
    try:
        at = np.flatnonzero(select(frame, where))
    except KeyError as error:
        found = dict.fromkeys(rules, (Verdict.ERROR, str(error.args[0])))
        return {i: _result(rule, *found[i], values) for i, rule in rules.items()}
    if not len(at):
        none = (Verdict.NOT_RUN, "no such rows")
        return {i: _result(rule, *none, values) for i, rule in rules.items()}
    part = frame if len(at) == len(frame) else frame.iloc[at].reset_index(drop=True)
    outcomes = _run(batches, part, rules, values)
    return {
        index: _judge(rule, outcomes.get(index), part, values)
        for index, rule in rules.items()
    }


def _batches() -> Any:
    """Return a source of Great Expectations batches that writes nothing anywhere."""
    load_expectations()
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}  # type: ignore[assignment]
    asset = context.data_sources.add_pandas("tables").add_dataframe_asset("images")
    return asset.add_batch_definition_whole_dataframe("all")


def _run(
    batches: Any,
    frame: pd.DataFrame,
    rules: Mapping[int, TableRule],
    values: Mapping[str, Any],
) -> dict[int, Any]:
    """Return Great Expectations' raw result by rule index.

    One suite for all rules: metrics are shared inside a suite only (7 times faster).
    Results come back in another order, so the index travels in `meta`.
    """
    import great_expectations as gx

    expectations = []
    for index, rule in rules.items():
        kwargs = substitute(rule.kwargs, values)
        try:
            built = expectation_class(rule.type)(**kwargs, meta={"rule": index})
        except (ValueError, TypeError) as error:
            used = {key: values[key] for key in sorted(parameters_in(rule.kwargs))}
            raise UsageError(
                f"Rule '{rule.name}' cannot take the parameters {used}: "
                + " ".join(str(error).split())
            ) from error
        expectations.append(built)
    suite = gx.ExpectationSuite(name="rules", expectations=expectations)
    batch = batches.get_batch(batch_parameters={"dataframe": frame})
    report = batch.validate(suite, result_format={"result_format": "SUMMARY"})
    return {item.expectation_config.meta["rule"]: item for item in report.results}


def _judge(
    rule: TableRule, outcome: Any, frame: pd.DataFrame, values: Mapping[str, Any]
) -> RuleResult:
    """Turn one raw result into plain Python, with the images by name."""
    if outcome is None:
        return _result(rule, Verdict.ERROR, "no result came back", values)
    if trouble := _exception(outcome.exception_info):
        return _result(rule, Verdict.ERROR, trouble, values)
    raw = outcome.result
    details = raw.get("details") or {}
    if "unexpected_count" in raw:
        rows, n = (
            raw.get("partial_unexpected_index_list") or [],
            raw["unexpected_count"],
        )
    else:
        n, rows = details.get("n", 0), details.get("rows", [])
    good = bool(outcome.success)
    bad = Verdict.FAIL if _severity(rule, values) == "critical" else Verdict.WARN
    return _result(
        rule,
        Verdict.PASS if good else bad,
        _observed(raw, {} if good else substitute(rule.kwargs, values)),
        values,
        offenders=[_name(frame, int(row)) for row in rows[:SHOWN]],
        n_offenders=int(n),
    )


def _exception(info: Mapping[str, Any]) -> str:
    """Return the message of an exception in a result, or nothing.

    The dictionary is flat, or has one such dictionary for each metric.
    """
    entries = [info] if "raised_exception" in info else list(info.values())
    for entry in entries:
        if isinstance(entry, Mapping) and entry.get("raised_exception"):
            return " ".join(str(entry.get("exception_message") or "unknown").split())
    return ""


def _observed(raw: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Say what was seen, and with `wanted` what the rule asks for."""
    missing = (raw.get("details") or {}).get("mismatched", {}).get("missing")
    if "unexpected_count" in raw:
        n, total = int(raw["unexpected_count"]), int(raw["element_count"])
        text = f"{n:,} of {total:,} rows"
        listed = dict.fromkeys(
            _short(v) for v in raw.get("partial_unexpected_list", [])
        )
        if listed:
            text += f" hold {', '.join(list(listed)[:VALUES])}"
    elif missing:
        text = f"missing {', '.join(map(str, missing))}"
    else:
        text = _short(raw.get("observed_value"), 400)
    limits = {k: v for k, v in wanted.items() if k not in _TOPICS and v is not None}
    if not limits or missing:
        return text
    return f"{text}; wanted " + ", ".join(f"{k} {_short(v)}" for k, v in limits.items())


_TOPICS = {"column", "column_list", "column_set", "rows", "among", "group"}


def _short(value: Any, width: int = 80) -> str:
    text = printable(value)
    if isinstance(value, float):
        text = f"{value:.6g}"
    elif isinstance(value, list):
        text = ", ".join(printable(item) for item in value)
    elif value == "":
        text = "''"
    return text if len(text) <= width else text[: width - 1] + "…"


def _name(frame: pd.DataFrame, row: int) -> str:
    if "path" not in frame:
        return f"row {row}"
    path = frame["path"].iloc[row]
    return printable(path) if isinstance(path, str) else f"row {row}"


def _severity(rule: TableRule, values: Mapping[str, Any]) -> str:
    eased = rule.warning_if is not None and bool(values[rule.warning_if])
    return "warning" if eased else rule.severity


def _result(
    rule: TableRule,
    verdict: Verdict,
    observed: str,
    values: Mapping[str, Any],
    **offenders: Any,
) -> RuleResult:
    return RuleResult(
        rule=rule.name,
        verdict=verdict,
        severity=_severity(rule, values),
        why=f"{rule.why} {FIX}{rule.fix}",
        observed=observed,
        **offenders,
    )


def _no_rows(contract: Contract) -> RuleResult:
    return RuleResult(
        rule="there are images",
        verdict=Verdict.FAIL,
        severity="critical",
        why=f"{contract.why} {FIX}Check the path given as data=PATH.",
        observed="the table has no rows",
    )
