"""Rules over a whole table that Great Expectations lacks.

Importing this module imports Great Expectations and registers the classes below under
`expect_matching_rows`, `expect_each_class_to_have_rows`,
`expect_one_value_per_group` and `expect_column_to_keep_its_distribution`.
"""

from __future__ import annotations

from typing import Any

from great_expectations.compatibility.pydantic import root_validator
from great_expectations.expectations.expectation import BatchExpectation

from data_contracts import table_rules
from data_contracts.drift import FIGURES, NAMES, Baseline, Statistic
from data_contracts.table_rules import Finding


class ExpectMatchingRows(BatchExpectation):
    """The number or share of rows that match a selection lies within bounds."""

    rows: dict[str, Any]
    among: dict[str, Any] = {}  # noqa: RUF012  pydantic copies defaults
    min_count: int | None = None
    max_count: int | None = None
    min_share: float | None = None
    max_share: float | None = None

    metric_dependencies = ()

    @root_validator(skip_on_failure=True)
    def _asks_something(cls, values: dict[str, Any]) -> dict[str, Any]:
        counts = [values["min_count"], values["max_count"]]
        shares = [values["min_share"], values["max_share"]]
        if all(bound is None for bound in counts + shares):
            raise ValueError("no bound is given: min_count, max_count, min_share, ...")
        if any(share is not None and not 0 <= share <= 1 for share in shares):
            raise ValueError("a share lies between 0 and 1")
        return values

    def _validate(
        self,
        metrics: Any,
        runtime_configuration: Any = None,
        execution_engine: Any = None,
    ) -> dict[str, Any]:
        finding = table_rules.matching_rows(
            _frame(execution_engine),
            rows=self.rows,
            among=self.among,
            count=(self.min_count, self.max_count),
            share=(self.min_share, self.max_share),
        )
        return _result(finding)


class ExpectEachClassToHaveRows(BatchExpectation):
    """Each value of `column` among `rows` is seen often enough in `among`."""

    column: str
    rows: dict[str, Any] = {}  # noqa: RUF012
    among: dict[str, Any] = {}  # noqa: RUF012
    min_count: int = 1

    metric_dependencies = ()

    @root_validator(skip_on_failure=True)
    def _asks_something(cls, values: dict[str, Any]) -> dict[str, Any]:
        if values["min_count"] < 1:
            raise ValueError("min_count must be at least 1")
        return values

    def _validate(
        self,
        metrics: Any,
        runtime_configuration: Any = None,
        execution_engine: Any = None,
    ) -> dict[str, Any]:
        finding = table_rules.each_class_has_rows(
            _frame(execution_engine),
            self.column,
            rows=self.rows,
            among=self.among,
            min_count=self.min_count,
        )
        return _result(finding)


class ExpectEachClassToLoseFewRows(BatchExpectation):
    """No value of `column` has more than a share of its rows among `rows`."""

    column: str
    rows: dict[str, Any]
    among: dict[str, Any] = {}  # noqa: RUF012
    max_share: float | dict[str, Any]

    metric_dependencies = ()

    def _validate(
        self,
        metrics: Any,
        runtime_configuration: Any = None,
        execution_engine: Any = None,
    ) -> dict[str, Any]:
        assert not isinstance(self.max_share, dict)
        finding = table_rules.each_class_loses_few(
            _frame(execution_engine),
            self.column,
            rows=self.rows,
            among=self.among,
            max_share=self.max_share,
        )
        return _result(finding)


class ExpectOneValuePerGroup(BatchExpectation):
    """No group with several values of `column` among `rows` has a row in `among`."""

    group: str
    column: str
    rows: dict[str, Any] = {}  # noqa: RUF012
    among: dict[str, Any] = {}  # noqa: RUF012

    metric_dependencies = ()

    def _validate(
        self,
        metrics: Any,
        runtime_configuration: Any = None,
        execution_engine: Any = None,
    ) -> dict[str, Any]:
        finding = table_rules.one_value_per_group(
            _frame(execution_engine),
            self.column,
            group=self.group,
            rows=self.rows,
            among=self.among,
        )
        return _result(finding)


class ExpectColumnToKeepItsDistribution(BatchExpectation):
    """`column` is spread as in the baseline, but for chance and what matters not.

    The baseline is given as such, or under the column's name in `baselines`.
    """

    column: str
    baseline: dict[str, Any] | None = None
    baselines: dict[str, Any] | None = None
    statistic: Statistic | None = None
    floor: float | dict[str, Any] | None = None
    false_alarm: float = 0.01
    seed: int = 0

    metric_dependencies = ()

    @root_validator(skip_on_failure=True)
    def _asks_something(cls, values: dict[str, Any]) -> dict[str, Any]:
        own, all_of_them = values["baseline"], values["baselines"]
        if (own is None) == (all_of_them is None):
            raise ValueError("give `baseline`, or `baselines` by column")
        if own is not None and "$PARAMETER" not in own:
            Baseline.model_validate(own)
        floor = values["floor"]
        if isinstance(floor, float) and floor < 0:
            raise ValueError("floor must be at least 0")
        if not 1e-4 <= values["false_alarm"] <= 0.5:
            raise ValueError("false_alarm lies between 0.0001 and 0.5")
        return values

    def _validate(
        self,
        metrics: Any,
        runtime_configuration: Any = None,
        execution_engine: Any = None,
    ) -> dict[str, Any]:
        given = self.baseline or (self.baselines or {}).get(self.column)
        baseline = Baseline.model_validate(given) if given else None
        floor: Any = self.floor
        usual = NAMES if baseline and baseline.values is not None else FIGURES
        finding = table_rules.kept_distribution(
            _frame(execution_engine),
            self.column,
            baseline=baseline,
            statistics=(self.statistic,) if self.statistic else usual,
            floor=floor,
            false_alarm=self.false_alarm,
            seed=self.seed,
        )
        return _result(finding)


def _frame(execution_engine: Any) -> Any:
    frame, _, _ = execution_engine.get_compute_domain({}, domain_type="table")
    return frame


def _result(finding: Finding) -> dict[str, Any]:
    return {
        "success": finding.ok,
        "result": {
            "observed_value": finding.observed,
            "details": finding._asdict(),
        },
    }
