"""Draft the rules on single columns: names, figures and how they are spread."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from data_contracts.dataset import COLUMNS
from data_contracts.drift import baseline_of
from data_contracts.references import DatasetRef
from data_contracts.sketch import Figures, Values, quantile
from data_contracts.store import Dataset
from tasks.table import FIXED, NAMED

# A column of names with more values than this is free text, and open.
CLOSED = 200
# ... and so is one whose values come less often than this, on average.
REPEATED = 5
# Names seen less often than this say nothing about how often they come.
LEAST = 20
READABLE = {"ok": True}
# Columns that are drafted one by one, in words for a person. What cleaning and
# splitting decide is counted by rules of its own.
WORDS = {
    "kind": "file kinds",
    "width": "widths",
    "height": "heights",
    "bytes": "file sizes",
    "label": "labels",
    "coarse": "coarse labels",
    "domain": "domains",
    "split": "given splits",
    "text": "descriptions",
    "mean": "mean grey levels",
    "std": "spreads of grey",
    "sharpness": "sharpnesses",
    "saturation": "saturations",
    "sigma": "noise estimates",
    "impulse": "shares of impulse noise",
    "noise": "kinds of noise",
}
WRONG = "Look at the images named; mend the source, or the contract if they are right."


class Seen(NamedTuple):
    """What a snapshot holds, as a draft needs it."""

    ref: DatasetRef
    dataset: Dataset
    columns: dict[str, Figures | Values]

    def values(self, name: str) -> dict[str, int]:
        """Return the rows by value of a column of names."""
        state = self.columns.get(name)
        return (state.counts or {}) if isinstance(state, Values) else {}

    @property
    def readable(self) -> int:
        """Images that could be read."""
        return self.values("ok").get("True", 0)

    @property
    def present(self) -> int:
        """Files, readable or not."""
        return sum(self.values("ok").values())


Rule = dict[str, Any]


def rule_of(name: str, kind: str, **rest: Any) -> Rule:
    """Return a rule in the order of the format; `critical` says if it stops a run."""
    fix = rest.pop("fix", WRONG)
    why, critical = rest.pop("why"), rest.pop("critical", False)
    where = rest.pop("where", {})
    nulls, by = rest.pop("nulls", None), rest.pop("by", None)
    rule: Rule = {"name": name, "type": kind, "kwargs": rest}
    rule |= {"where": where} if where else {}
    rule |= {"by": by} if by else {}
    rule |= {"nulls": nulls} if nulls else {}
    severity = "critical" if critical else "warning"
    return rule | {"severity": severity, "why": why, "fix": fix}


def names_rules(seen: Seen) -> Iterable[Rule]:
    """Return rules on columns of names: there, and of a closed set."""
    for name, state in seen.columns.items():
        if name not in WORDS or not isinstance(state, Values) or not state.count:
            continue
        yield _there(name, state)
        if not _is_closed(name, state):
            continue
        yield rule_of(
            f"{WORDS[name]} are known",
            "expect_column_values_to_be_in_set",
            column=name,
            value_set=[*sorted(state.counts or ()), *([""] if state.missing else [])],
            where=READABLE,
            nulls="allowed",
            critical=name == "label",
            why=f"{state.count:,} images held {_most_common(state)}.",
            fix="Add what is new on purpose to the set; mend the source if it is not.",
        )


def _is_closed(name: str, state: Values) -> bool:
    """Whether what a column of names holds looks like all that it may hold."""
    if state.counts is None or len(state.counts) > CLOSED:
        return False
    return name in NAMED or name in FIXED or len(state.counts) * REPEATED <= state.count


def _there(name: str, state: Values) -> Rule:
    """Return the rule that values are there, as often as they were."""
    n = state.count + state.missing
    share = state.count / n
    least = 1.0 if share == 1 else floored(share - slack(share, n))
    words = f"{WORDS[name]} are {'' if share == 1 else 'mostly '}there"
    rest: dict[str, Any] = {
        "critical": name == "label" and share == 1,
        "why": f"{state.count:,} of {n:,} readable images had one,"
        f" {state.distinct:,} different in all.",
        "fix": "Fill in what is missing, or leave those images out.",
    }
    if COLUMNS[name].dtype == "str":  # where empty text is what missing is elsewhere
        most = round(1 - least, 2)
        return rule_of(
            words,
            "expect_matching_rows",
            rows={name: ""},
            among=READABLE,
            max_share=most,
            **rest,
        )
    return rule_of(
        words,
        "expect_column_values_to_not_be_null",
        column=name,
        **({} if share == 1 else {"mostly": least}),
        where=READABLE,
        **rest,
    )


def figures_rules(seen: Seen) -> Iterable[Rule]:
    """Return rules on columns of figures: a range with room for nearly all."""
    for name, state in seen.columns.items():
        if name not in WORDS or not isinstance(state, Figures) or not state.count:
            continue
        low, high = range_of(state, column=name)
        middle = quantile(state, 0.5)
        yield rule_of(
            f"{WORDS[name]} are in their range",
            "expect_column_values_to_be_between",
            column=name,
            min_value=low,
            max_value=high,
            mostly=0.95,
            where=READABLE,
            nulls="allowed",
            why=f"They went from {_told(state.low)} to {_told(state.high)}, half"
            f" below {_told(middle)}.",
        )


def range_of(state: Figures, *, column: str) -> tuple[float, float]:
    """Return the range of nearly all figures, widened by a tenth on both sides.

    It stays within what the layout allows, and is rounded outwards to two digits.
    """
    low, high = quantile(state, 0.01), quantile(state, 0.99)
    room = (high - low) / 10 or max(abs(high) / 10, 1e-6)
    layout = COLUMNS[column]
    least = -math.inf if layout.low is None else layout.low
    most = math.inf if layout.high is None else layout.high
    low, high = _rounded(low - room, math.floor), _rounded(high + room, math.ceil)
    return _plain(max(low, least)), _plain(min(high, most))


def _plain(value: float) -> float:
    """Return a whole number as one."""
    return int(value) if float(value).is_integer() else value


def drift_rules(seen: Seen) -> Iterable[Rule]:
    """Return rules that later images are spread as these."""
    for name, state in seen.columns.items():
        if name not in WORDS or name in ("split", "text", "impulse"):
            continue
        baseline = baseline_of(state)
        if baseline is None or seen.readable < LEAST or len(baseline.cells) > CLOSED:
            continue
        yield rule_of(
            f"{WORDS[name]} have not drifted",
            "expect_column_to_keep_its_distribution",
            column=name,
            baseline=baseline.model_dump(exclude_none=True),
            where=READABLE,
            why=f"{baseline.n:,} images held {_spread(state)}.",
            fix="Look at the newest images beside older ones, and ask what changed.",
        )


def _spread(state: Figures | Values) -> str:
    if isinstance(state, Values):
        return _most_common(state)
    return f"mean {_told(state.mean)}, standard deviation {_told(state.std)}"


def _told(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _most_common(state: Values) -> str:
    counts = state.counts or {}
    if len(counts) == 1:
        return f"{next(iter(counts))} alone"
    top = sorted(counts, key=lambda name: (-counts[name], name))[:3]
    told = ", ".join(f"{name} ({counts[name]:,})" for name in top)
    return told if len(counts) <= 3 else f"{len(counts):,} values, most often {told}"


def slack(share: float, n: int) -> float:
    """Return three standard errors of a share, one row in a hundred at least."""
    return max(3 * math.sqrt(max(share * (1 - share), 0) / max(n, 1)), 0.01)


def floored(share: float) -> float:
    """Return a share rounded down to a hundredth."""
    return max(math.floor(share * 100) / 100, 0.0)


def _rounded(value: float, towards: Callable[[float], int]) -> float:
    """Return `value` with two significant digits."""
    if value == 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    return float(f"{towards(value / step) * step:.6g}")
