"""Run a contract over the per-image table, and say what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from data_contracts.arrays import FIX, ArrayFinding, judge, printable
from data_contracts.errors import ContractError, UsageError
from data_contracts.outcomes import judge_rule, rule_result
from data_contracts.references import ContractReport, RuleResult, Verdict, worst
from data_contracts.rules import (
    Contract,
    TableRule,
    expectation_class,
    load_expectations,
    parameters_in,
    substitute,
)
from data_contracts.slices import judge_slices
from data_contracts.table_rules import select

if TYPE_CHECKING:
    import pandas as pd

NAMED = 10  # images of a broken rule that a message lists


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
        results = _table_results(contract, _clean_text(frame), values)
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
    counts = [f"{len(report.rules)} rules", f"{report.n_rows:,} images"]
    for count, what in (
        (len(report.failures), "not passed"),
        (sum(rule.verdict == Verdict.NOT_RUN for rule in report.rules), "not run"),
    ):
        counts += [f"{count} {what}"] if count else []
    lines = [
        f"Contract {report.contract} {report.version} {word[report.verdict]} "
        f"({', '.join(counts)})" + (":" if report.failures else ".")
    ]
    for result in report.failures:
        why, _, fix = result.why.partition(FIX)
        lines.append(f"  {result.verdict.upper()}: {result.rule}")
        lines.append(f"    came: {result.observed}")
        if result.offenders:
            lines.append(f"    images: {_named(result)}")
        lines.append(f"    why: {why.strip()}")
        lines += [f"    do: {fix}"] if fix else []
    return "\n".join(map(_visible, lines))


def _visible(line: str) -> str:
    """Spell out escape sequences: names come from strangers, and go to a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def _named(result: RuleResult) -> str:
    names = result.offenders[:NAMED]
    more = result.n_offenders - len(names)
    return ", ".join(names) + (f" and {more:,} more" if more > 0 else "")


def _table_results(
    contract: Contract, frame: pd.DataFrame, values: Mapping[str, Any]
) -> list[RuleResult]:
    """Run the table rules: one Great Expectations suite for each selection of rows."""
    by_rows: dict[str, list[int]] = {}
    for index, rule in enumerate(contract.rules):
        key = json.dumps([rule.where, rule.by, rule.min_slice], sort_keys=True)
        by_rows.setdefault(key, []).append(index)
    batches = _batches() if contract.rules else None
    results: dict[int, RuleResult] = {}
    for indices in by_rows.values():
        rules = {index: contract.rules[index] for index in indices}
        results |= _check_rows(batches, frame, rules, values)
    return [results[index] for index in range(len(contract.rules))]


def _clean_text(frame: pd.DataFrame) -> pd.DataFrame:
    """Number the rows from 0, and spell out names that are not Unicode."""
    frame = frame.reset_index(drop=True)
    for column in [name for name in frame if str(frame[name].dtype) == "object"]:
        frame[column] = frame[column].map(
            lambda value: printable(value) if isinstance(value, str) else value
        )
    return frame


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
        return {i: rule_result(rule, *found[i], values) for i, rule in rules.items()}
    if not len(at):
        none = (Verdict.NOT_RUN, "no such rows")
        return {i: rule_result(rule, *none, values) for i, rule in rules.items()}
    part = frame if len(at) == len(frame) else frame.iloc[at].reset_index(drop=True)
    if next(iter(rules.values())).by is not None:
        judge = partial(_judged, batches, rules=rules, values=values)
        return judge_slices(part, rules, values, judge=judge)
    return _judged(batches, part, rules=rules, values=values)


def _judged(
    batches: Any,
    part: pd.DataFrame,
    *,
    rules: Mapping[int, TableRule],
    values: Mapping[str, Any],
) -> dict[int, RuleResult]:
    """Run the rules over a table, and name its images."""
    outcomes = _run(batches, part, rules, values)
    return {
        index: judge_rule(rule, outcomes.get(index), part, values)
        for index, rule in rules.items()
    }


def _batches() -> Any:
    """Return a source of Great Expectations batches that writes nothing to disk."""
    load_expectations()
    import great_expectations as gx
    from great_expectations.data_context.types import base

    in_memory = base.DataContextConfig(
        store_backend_defaults=base.InMemoryStoreBackendDefaults(),
        analytics_enabled=False,
        progress_bars=base.ProgressBarsConfig(globally=False),
    )
    context = gx.get_context(mode="ephemeral", project_config=in_memory)
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


def _no_rows(contract: Contract) -> RuleResult:
    return RuleResult(
        rule="there are images",
        verdict=Verdict.FAIL,
        severity="critical",
        why=f"{contract.why} {FIX}Check the path given as data=PATH.",
        observed="the table has no rows",
    )
