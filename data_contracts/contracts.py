"""Read the YAML contracts, refusing what Great Expectations lets slip."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from data_contracts.arrays import ArrayRule
from data_contracts.config import Settings
from data_contracts.errors import UsageError
from data_contracts.rules import (
    Contract,
    Parameter,
    TableRule,
    close,
    expectation_class,
    parameters_in,
    quoted,
    substitute,
)

__all__ = ["Contract", "load_contract"]

SHIPPED = Path(__file__).parent
KEEP_DISTRIBUTION = "expect_column_to_keep_its_distribution"
NOT_NULL = "expect_column_values_to_not_be_null"
DRAFT = (
    "it is a draft that nobody has accepted. Read it, change what is wrong, then: "
    "sightline contracts accept file={path} owner=NAME"
)
# Keyword arguments of every Great Expectations rule that belong to the contract layer.
RESERVED = {
    "catch_exceptions",
    "condition_parser",
    "description",
    "id",
    "meta",
    "notes",
    "rendered_content",
    "result_format",
    "row_condition",
    "severity",
    "windows",
}


class _StrictLoader(yaml.SafeLoader):
    """YAML that refuses a key written twice, where the last would silently win."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {quoted(twice)} is written twice", node.start_mark
            )
        return super().construct_mapping(node, deep=deep)


def load_contract(path_or_stage: Path | str, *, drafts: bool = False) -> Contract:
    """Read a contract, from a file or shipped under a stage's name.

    Args:
        path_or_stage: A file, or the name of a shipped contract.
        drafts: Whether one that nobody has accepted yet will do.

    Raises:
        UsageError: The file is missing, is a draft, or breaks any rule of the format;
            the message lists every fault with its place.
    """
    path = _find(path_or_stage)
    try:
        content = path.read_bytes()
        raw = yaml.load(content, Loader=_StrictLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: the contract cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise UsageError(f"{path}: a contract is a mapping, not {type(raw).__name__}.")
    faults = ["unknown key `sha256`; it is computed"] if "sha256" in raw else []
    try:
        digest = hashlib.sha256(content).hexdigest()
        contract = Contract.model_validate({**raw, "sha256": digest})
    except ValidationError as error:
        faults += [_explain(fault, raw) for fault in error.errors()]
    else:
        faults += _faults(contract)
        if contract.draft and not drafts:
            faults.append(DRAFT.format(path=path))
    if faults:
        raise UsageError(f"{path}: the contract is wrong.\n  " + "\n  ".join(faults))
    return contract


def _find(path_or_stage: Path | str) -> Path:
    path = Path(path_or_stage)
    if isinstance(path_or_stage, str) and not path.suffix and len(path.parts) == 1:
        shipped = SHIPPED / f"{path_or_stage}.yaml"
        if not shipped.is_file():
            stages = [file.stem for file in SHIPPED.glob("*.yaml")]
            raise UsageError(
                f"No contract is shipped for stage `{path_or_stage}`."
                + close(path_or_stage, stages)
            )
        return shipped
    return path


def _explain(fault: Any, raw: Mapping[str, Any]) -> str:
    """Turn one pydantic fault into `place: what is wrong`, with close matches."""
    parts = [str(part) for part in fault["loc"]]
    models: dict[str, type[Settings]] = {"rules": TableRule, "arrays": ArrayRule}
    models["parameters"] = Parameter
    place = ".".join(parts)
    with contextlib.suppress(KeyError, IndexError, TypeError, ValueError):
        place += f" ('{raw[parts[0]][int(parts[1])]['name']}')"
    if fault["type"] != "extra_forbidden":
        return f"{place}: {fault['msg']}"
    model = models.get(parts[0], Contract) if len(parts) > 1 else Contract
    known = set(model.model_fields) - {"sha256"}
    return f"{place}: unknown key.{close(parts[-1], known)}"


def _faults(contract: Contract) -> list[str]:
    """Return what is wrong with a contract whose keys are all right."""
    if not contract.rules and not contract.arrays:
        return ["the contract is empty: it would pass anything."]
    names = [rule.name for rule in contract.rules]
    names += [array.name for array in contract.arrays]
    twice = sorted({name for name in names if names.count(name) > 1})
    faults = [f"the name '{name}' is used twice." for name in twice]
    defaults = {key: value.default for key, value in contract.parameters.items()}
    used: set[str] = set()
    for index, rule in enumerate(contract.rules):
        used |= _uses(rule)
        for fault in _rule_faults(rule, contract, defaults):
            faults.append(f"rules.{index} ('{rule.name}'): {fault}")
    for name in sorted(set(contract.parameters) - used):
        faults.append(f"parameters.{name}: no rule uses it.")
    return faults


def _rule_faults(
    rule: TableRule, contract: Contract, defaults: Mapping[str, Any]
) -> Iterable[str]:
    for name in sorted(_uses(rule) - set(contract.parameters)):
        yield f"unknown parameter `{name}`.{close(name, contract.parameters)}"
    if rule.warning_if and not isinstance(defaults.get(rule.warning_if), bool):
        yield f"`warning_if: {rule.warning_if}` needs a true or false parameter."
    if reserved := sorted(RESERVED & set(rule.kwargs)):
        yield f"{quoted(reserved)} may not stand in `kwargs`."
        return
    try:
        kind = expectation_class(rule.type)
        given = {
            key: value
            for key, value in defaults.items()
            if "default" in contract.parameters[key].model_fields_set
        }
        kind(**substitute(rule.kwargs, given))
    except UsageError as error:
        yield str(error)
    except (ValueError, TypeError) as error:
        yield f"bad kwargs for `{rule.type}`: " + " ".join(str(error).split())
    else:
        yield from _null_fault(rule, contract, kind)
        yield from _slice_fault(rule)


def _slice_fault(rule: TableRule) -> Iterable[str]:
    """Refuse slices of a rule that cannot be held slice by slice."""
    if rule.by is None:
        if "min_slice" in rule.model_fields_set:
            yield "`min_slice` means nothing without `by`."
    elif rule.type.startswith("expect_table_column"):
        yield f"`by` cannot go with `{rule.type}`: slices have the same columns."
    elif rule.type == KEEP_DISTRIBUTION:
        yield f"`by` cannot go with `{rule.type}`: its baseline is of all slices."


def _null_fault(rule: TableRule, contract: Contract, kind: Any) -> Iterable[str]:
    """Refuse a rule over values with nothing that refuses missing values.

    Great Expectations leaves nulls out of the count: an empty column passes any rule.
    """
    from great_expectations.expectations.expectation import ColumnMapExpectation

    if not issubclass(kind, ColumnMapExpectation) or rule.nulls == "allowed":
        return
    column = rule.kwargs["column"]
    if not rule.type.endswith("_be_null") and not any(
        other.type == NOT_NULL
        and other.kwargs.get("column") == column
        and other.by is None  # small slices are not judged
        and other.where.items() <= rule.where.items()
        for other in contract.rules
    ):
        yield (
            f"rows with no `{column}` would pass. Add a rule `{NOT_NULL}` over the "
            "same rows, or write `nulls: allowed`."
        )


def _uses(rule: TableRule) -> set[str]:
    return parameters_in(rule.kwargs) | (
        {rule.warning_if} if rule.warning_if else set()
    )
