"""Draft a contract from what a snapshot holds, for a person to read and accept."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import yaml

from data_contracts.dataset import COLUMNS
from data_contracts.drift import baseline_of
from data_contracts.references import DatasetRef
from data_contracts.sketch import Figures, Values, quantile
from data_contracts.store import Dataset
from tasks.profile import profile_dataset
from tasks.table import FIXED, NAMED, named

# A column of names with more values than this is free text, and open.
CLOSED = 200
# ... and so is one whose values come less often than this, on average.
REPEATED = 5
# Names seen less often than this say nothing about how often they come.
LEAST = 20
READABLE = {"ok": True}
AFTER = {
    "ingest": "ingest",
    "clean": "denoise",
    "denoise": "denoise",
    "inpaint": "denoise",
}
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


def draft_contract(source: DatasetRef, *, name: str) -> str:
    """Return the YAML of a draft that the snapshot itself keeps.

    Args:
        source: The snapshot that is taken to be right.
        name: Name of the contract.
    """
    dataset, profile = Dataset(source), profile_dataset(source)
    columns = {
        column: named(dataset, column, state)
        for column, state in profile.columns().items()
    }
    seen = Seen(source, dataset, columns)
    parts: list[Callable[[Seen], Iterable[Rule]]] = [
        _whole_table,
        _identity,
        _names,
        _figures,
        _shares,
        _classes,
        _drift,
    ]
    return _written(
        seen,
        name=name,
        rules=[rule for part in parts for rule in part(seen)],
        arrays=[_pixels(seen)],
    )


def _rule(name: str, kind: str, **rest: Any) -> Rule:
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


def _whole_table(seen: Seen) -> Iterable[Rule]:
    told = [name for name in seen.columns if name in (*WORDS, "ok", "keep")]
    names = ["path", "source", "sha256", *told]
    yield _rule(
        "the table has its columns",
        "expect_table_columns_to_match_set",
        exact_match=False,
        column_set=names,
        critical=True,
        why=f"The {len(names)} columns that were there.",
        fix="Run again in a fresh workspace, or take the column out of the contract.",
    )
    least = max(seen.present // 2, 1)
    yield _rule(
        "there are enough images",
        "expect_table_row_count_to_be_between",
        min_value=least,
        why=f"There were {seen.present:,} images; half as many may do.",
        fix="Look whether a folder or a part of the manifest is missing.",
    )


def _identity(seen: Seen) -> Iterable[Rule]:
    """Rules that rows are different images, as far as they were."""
    columns = seen.dataset.columns("present", "ok", "source", "path", "sha256")
    rows = columns["present"]
    pairs = zip(columns["source"][rows], columns["path"][rows], strict=True)
    if len(set(pairs)) == seen.present:
        yield _rule(
            "every image is listed once",
            "expect_compound_columns_to_be_unique",
            column_list=["source", "path"],
            critical=True,
            why="No path was listed twice in one source.",
            fix="Name the sources apart, or take the repeated rows out.",
        )
    copies = Counter(columns["sha256"][rows & columns["ok"]])
    alone = sum(n == 1 for n in copies.values()) / max(seen.readable, 1)
    least = _floor(alone - _slack(alone, seen.readable))
    if least > 0:
        yield _rule(
            "most images are one of a kind",
            "expect_column_values_to_be_unique",
            column="sha256",
            mostly=least,
            where=READABLE,
            nulls="allowed",
            why=f"{alone:.1%} of the files had no exact copy.",
            fix="Look for a folder copied into another.",
        )


def _names(seen: Seen) -> Iterable[Rule]:
    """Rules on columns of names: there, and of a closed set."""
    for name, state in seen.columns.items():
        if name not in WORDS or not isinstance(state, Values) or not state.count:
            continue
        yield _there(name, state)
        if not _is_closed(name, state):
            continue
        yield _rule(
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
    least = 1.0 if share == 1 else _floor(share - _slack(share, n))
    words = f"{WORDS[name]} are {'' if share == 1 else 'mostly '}there"
    rest: dict[str, Any] = {
        "critical": name == "label" and share == 1,
        "why": f"{state.count:,} of {n:,} readable images had one,"
        f" {state.distinct:,} different in all.",
        "fix": "Fill in what is missing, or leave those images out.",
    }
    if COLUMNS[name].dtype == "str":  # where empty text is what missing is elsewhere
        most = round(1 - least, 2)
        return _rule(
            words,
            "expect_matching_rows",
            rows={name: ""},
            among=READABLE,
            max_share=most,
            **rest,
        )
    return _rule(
        words,
        "expect_column_values_to_not_be_null",
        column=name,
        **({} if share == 1 else {"mostly": least}),
        where=READABLE,
        **rest,
    )


def _figures(seen: Seen) -> Iterable[Rule]:
    """Rules on columns of figures: a range with slack for nearly all."""
    for name, state in seen.columns.items():
        if name not in WORDS or not isinstance(state, Figures) or not state.count:
            continue
        low, high = range_of(state, column=name)
        middle = quantile(state, 0.5)
        yield _rule(
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
    slack = (high - low) / 10 or max(abs(high) / 10, 1e-6)
    layout = COLUMNS[column]
    least = -math.inf if layout.low is None else layout.low
    most = math.inf if layout.high is None else layout.high
    low, high = _rounded(low - slack, math.floor), _rounded(high + slack, math.ceil)
    return _plain(max(low, least)), _plain(min(high, most))


def _plain(value: float) -> float:
    """Return a whole number as one."""
    return int(value) if float(value).is_integer() else value


def _shares(seen: Seen) -> Iterable[Rule]:
    """Rules on how many images are readable, and how many of these are kept."""
    share = seen.readable / max(seen.present, 1)
    yield _rule(
        "most files are readable",
        "expect_matching_rows",
        rows=READABLE,
        min_share=_floor(share - _slack(share, seen.present)),
        critical=True,
        why=f"{seen.readable:,} of {seen.present:,} files were.",
        fix="Look at the files named: wrong kinds, or broken on the way?",
    )
    kept = seen.values("keep").get("True", 0)
    if not kept:
        return
    share = kept / seen.readable
    least = _floor(share - max(_slack(share, seen.readable), 0.05))
    yield _rule(
        "cleaning keeps most images",
        "expect_matching_rows",
        rows={"keep": True},
        among=READABLE,
        min_share=least,
        why=f"{kept:,} of {seen.readable:,} readable images were kept.",
        fix="Look at the reasons in the report; many copies or blank pictures?",
    )
    for column in ("domain", "label"):
        counts = seen.values(column)
        if len(counts) > 1 and sum(n >= LEAST for n in counts.values()) > 1:
            yield _rule(
                f"cleaning keeps most images of each {column}",
                "expect_matching_rows",
                rows={"keep": True},
                min_share=_floor(share - max(_slack(share, LEAST), 0.2)),
                where=READABLE,
                by=column,
                why=f"What hits one of the {len(counts):,} values of `{column}` alone"
                " hardly shows in the share of all.",
                fix="Look at the images named: what is wrong with this slice?",
            )


def _classes(seen: Seen) -> Iterable[Rule]:
    counts = seen.values("label")
    if len(counts) < 2:
        return
    rarest = min(counts, key=lambda name: counts[name])
    yield _rule(
        "classes are as many as they were",
        "expect_column_unique_value_count_to_be_between",
        column="label",
        min_value=len(counts),
        where=READABLE,
        why=f"There were {len(counts):,} classes.",
        fix="Look whether the folder of a class is missing.",
    )
    yield _rule(
        "every class has images",
        "expect_each_class_to_have_rows",
        column="label",
        rows=READABLE,
        among=READABLE,
        min_count=max(counts[rarest] // 2, 1),
        why=f"{rarest} had fewest, {counts[rarest]:,}; half as many may do.",
        fix="Add images of the classes named.",
    )


def _drift(seen: Seen) -> Iterable[Rule]:
    """Rules that later images are spread as these."""
    for name, state in seen.columns.items():
        if name not in WORDS or name in ("split", "text", "impulse"):
            continue
        baseline = baseline_of(state)
        if baseline is None or seen.readable < LEAST or len(baseline.cells) > CLOSED:
            continue
        yield _rule(
            f"{WORDS[name]} have not drifted",
            "expect_column_to_keep_its_distribution",
            column=name,
            baseline=baseline.model_dump(exclude_none=True),
            where=READABLE,
            why=f"{baseline.n:,} images held {_spread(state)}.",
            fix="Look at the newest images beside older ones, and ask what changed.",
        )


def _pixels(seen: Seen) -> Rule:
    side = seen.dataset.image_size
    return {
        "name": "pixels are RGB bytes of one size",
        "array": "images",
        "dtype": "uint8",
        "tail": [side, side, 3],
        "severity": "critical",
        "why": f"They were {side} x {side} pixels of three channels.",
        "fix": "Ingest with the same decode.image_size.",
    }


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


def _slack(share: float, n: int) -> float:
    """Return three standard errors of a share, one row in a hundred at least."""
    return max(3 * math.sqrt(max(share * (1 - share), 0) / max(n, 1)), 0.01)


def _floor(share: float) -> float:
    """Return a share rounded down to a hundredth."""
    return max(math.floor(share * 100) / 100, 0.0)


def _rounded(value: float, towards: Callable[[float], int]) -> float:
    """Return `value` with two significant digits."""
    if value == 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    return float(f"{towards(value / step) * step:.6g}")


def _written(seen: Seen, *, name: str, rules: list[Rule], arrays: list[Rule]) -> str:
    """Return the text of the draft, with a line of comment for its reader."""
    head = {
        "name": name,
        "version": "1.0.0",
        "owner": "nobody",
        "draft": True,
        "after": AFTER.get(seen.ref.stage, "split"),
        "why": f"Drafted from {seen.present:,} images at stage {seen.ref.stage}"
        f" (snapshot {seen.ref.snapshot}).",
    }
    comment = (
        "# A draft: every rule below says what was seen, none what should be.\n"
        "# Read it, change what is wrong, then accept it under your name:\n"
        "#   sightline contracts accept file=THIS owner=NAME\n"
    )
    parts = [_dump(head, flow=False), "\nrules:\n", *map(_item, rules)]
    parts += ["\narrays:\n", *map(_item, arrays)]
    return comment + "".join(parts)


def _item(rule: Mapping[str, Any]) -> str:
    text = _dump([rule])
    return "".join(f"  {line}\n" for line in text.splitlines())


class _Plain(yaml.SafeDumper):
    """YAML without references from one place to another."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _dump(value: Any, *, flow: bool | None = None) -> str:
    """Return YAML; with no `flow` given, innermost lists and mappings take one line."""
    return yaml.dump(
        value,
        Dumper=_Plain,
        sort_keys=False,
        default_flow_style=flow,
        width=84,
        allow_unicode=True,
    )
