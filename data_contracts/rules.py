"""What a contract is made of, and the Great Expectations class of each rule."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import Field

from data_contracts.arrays import ArrayRule, Rows, Severity
from data_contracts.config import Settings
from data_contracts.errors import UsageError

REFUSED = {
    "unexpected_rows_expectation": "it needs SQL",
    "expect_column_pair_values_to_be_in_set": "it loops over rows in Python",
}


class Parameter(Settings):
    """A value of a contract that the caller may set."""

    default: Any = Field(None, description="Left out: the caller must give it.")
    why: str = Field(min_length=1)


class TableRule(Settings):
    """One Great Expectations rule over the per-image table."""

    name: str = Field(min_length=1, description="What must hold, in words.")
    type: str = Field(description="Great Expectations type, in snake case.")
    kwargs: dict[str, Any] = Field(description="Arguments of the type.")
    where: Rows = Field(default_factory=dict, description="Rows that the rule reads.")
    nulls: Literal["refused", "allowed"] = Field(
        "refused", description="Whether rows without a value are left alone."
    )
    by: str | None = Field(
        None, description="Column whose every value is a slice to hold the rule."
    )
    min_slice: int = Field(
        20, ge=1, description="Rows below which a slice is not judged."
    )
    severity: Severity
    warning_if: str | None = Field(
        None, description="Boolean parameter that turns a critical rule into a warning."
    )
    why: str = Field(min_length=1, description="What the rule protects.")
    fix: str = Field(min_length=1, description="What to do when it breaks.")


class Contract(Settings):
    """What one stage promises about its images."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    draft: bool = Field(False, description="Whether no person has accepted it yet.")
    after: Literal["ingest", "denoise", "split"] | None = Field(
        None, description="Stage after which a run checks it, where its config says so."
    )
    version: str = Field(pattern=r"^\d+\.\d+\.\d+$", description="Semantic version.")
    owner: str = Field(min_length=1)
    why: str = Field(min_length=1)
    parameters: dict[str, Parameter] = Field(default_factory=dict)
    rules: list[TableRule] = Field(default_factory=list)
    arrays: list[ArrayRule] = Field(default_factory=list)
    sha256: str = Field(description="Digest of the file.")

    def resolve(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return every parameter's value: the given one, else its default.

        Raises:
            UsageError: A name is unknown, a value missing, or a switch not a bool.
        """
        for key in given:
            if key not in self.parameters:
                raise UsageError(
                    f"Contract {self.name} has no parameter `{key}`."
                    + close(key, self.parameters)
                )
        values = {
            key: given.get(key, parameter.default)
            for key, parameter in self.parameters.items()
            if key in given or "default" in parameter.model_fields_set
        }
        missing = sorted(set(self.parameters) - set(values))
        if missing:
            raise UsageError(
                f"Contract {self.name} needs a value for {quoted(missing)}: "
                + self.parameters[missing[0]].why
            )
        for switch in {rule.warning_if for rule in self.rules if rule.warning_if}:
            if not isinstance(values[switch], bool):
                raise UsageError(
                    f"Parameter `{switch}` of contract {self.name} is true or false, "
                    f"not {values[switch]!r}."
                )
        return values


def substitute(value: Any, values: Mapping[str, Any]) -> Any:
    """Replace every `{$PARAMETER: name}` within `value` that `values` knows."""
    if isinstance(value, dict):
        if set(value) == {"$PARAMETER"}:
            return values.get(value["$PARAMETER"], value)
        return {key: substitute(item, values) for key, item in value.items()}
    if isinstance(value, list):
        return [substitute(item, values) for item in value]
    return value


def expectation_class(kind: str) -> Any:
    """Return the Great Expectations class of a rule type, own rules included.

    Raises:
        UsageError: No such type, or one that does not work on tables in memory.
    """
    load_expectations()
    from great_expectations.exceptions.exceptions import ExpectationNotFoundError
    from great_expectations.expectations import registry

    if kind in REFUSED:
        raise UsageError(f"type `{kind}` is not supported: {REFUSED[kind]}.")
    try:
        return registry.get_expectation_impl(kind)
    except ExpectationNotFoundError:
        known = registry.list_registered_expectation_implementations()
        raise UsageError(f"unknown type `{kind}`.{close(kind, known)}") from None


def load_expectations() -> None:
    """Import Great Expectations (6 to 10 s of CPU) with our own rules, silently."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import data_contracts.expectations  # noqa: F401  importing registers the rules


def close(word: str, known: Iterable[str]) -> str:
    """Return the names nearest to `word` as a sentence, or all if there are few."""
    names = sorted(str(name) for name in known)
    near = difflib.get_close_matches(word, names, n=3, cutoff=0.6)
    if near:
        return f" Did you mean {quoted(near)}?"
    return f" Known: {quoted(names)}." if 0 < len(names) <= 12 else ""


def quoted(names: Iterable[str]) -> str:
    """Return names in backticks, joined by commas."""
    return ", ".join(f"`{name}`" for name in names)


def parameters_in(value: Any) -> set[str]:
    """Return the names of the parameters that `value` refers to."""
    if isinstance(value, dict):
        if set(value) == {"$PARAMETER"}:
            return {str(value["$PARAMETER"])}
        return set().union(*(parameters_in(item) for item in value.values()))
    if isinstance(value, list):
        return set().union(*(parameters_in(item) for item in value))
    return set()
