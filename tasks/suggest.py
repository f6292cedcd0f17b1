"""Draft a contract from what a snapshot holds, for a person to read and accept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import yaml

from data_contracts.references import DatasetRef
from data_contracts.store import Dataset
from tasks.profile import profile_dataset
from tasks.suggest_columns import (
    LEAST,
    READABLE,
    WORDS,
    Rule,
    Seen,
    drift_rules,
    figures_rules,
    floored,
    names_rules,
    rule_of,
    slack,
)
from tasks.table import named

AFTER = {
    "ingest": "ingest",
    "clean": "denoise",
    "denoise": "denoise",
    "inpaint": "denoise",
}


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
        names_rules,
        figures_rules,
        _shares,
        _classes,
        drift_rules,
    ]
    return _written(
        seen,
        name=name,
        rules=[rule for part in parts for rule in part(seen)],
        arrays=[_pixels(seen)],
    )


def _whole_table(seen: Seen) -> Iterable[Rule]:
    told = [name for name in seen.columns if name in (*WORDS, "ok", "keep")]
    names = ["path", "source", "sha256", *told]
    yield rule_of(
        "the table has its columns",
        "expect_table_columns_to_match_set",
        exact_match=False,
        column_set=names,
        critical=True,
        why=f"The {len(names)} columns that were there.",
        fix="Run again in a fresh workspace, or take the column out of the contract.",
    )
    least = max(seen.present // 2, 1)
    yield rule_of(
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
        yield rule_of(
            "every image is listed once",
            "expect_compound_columns_to_be_unique",
            column_list=["source", "path"],
            critical=True,
            why="No path was listed twice in one source.",
            fix="Name the sources apart, or take the repeated rows out.",
        )
    copies = Counter(columns["sha256"][rows & columns["ok"]])
    alone = sum(n == 1 for n in copies.values()) / max(seen.readable, 1)
    least = floored(alone - slack(alone, seen.readable))
    if least > 0:
        yield rule_of(
            "most images are one of a kind",
            "expect_column_values_to_be_unique",
            column="sha256",
            mostly=least,
            where=READABLE,
            nulls="allowed",
            why=f"{alone:.1%} of the files had no exact copy.",
            fix="Look for a folder copied into another.",
        )


def _shares(seen: Seen) -> Iterable[Rule]:
    """Rules on how many images are readable, and how many of these are kept."""
    share = seen.readable / max(seen.present, 1)
    yield rule_of(
        "most files are readable",
        "expect_matching_rows",
        rows=READABLE,
        min_share=floored(share - slack(share, seen.present)),
        critical=True,
        why=f"{seen.readable:,} of {seen.present:,} files were.",
        fix="Look at the files named: wrong kinds, or broken on the way?",
    )
    kept = seen.values("keep").get("True", 0)
    if not kept:
        return
    share = kept / seen.readable
    least = floored(share - max(slack(share, seen.readable), 0.05))
    yield rule_of(
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
            yield rule_of(
                f"cleaning keeps most images of each {column}",
                "expect_matching_rows",
                rows={"keep": True},
                min_share=floored(share - max(slack(share, LEAST), 0.2)),
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
    yield rule_of(
        "classes are as many as they were",
        "expect_column_unique_value_count_to_be_between",
        column="label",
        min_value=len(counts),
        where=READABLE,
        why=f"There were {len(counts):,} classes.",
        fix="Look whether the folder of a class is missing.",
    )
    yield rule_of(
        "every class has images",
        "expect_each_class_to_have_rows",
        column="label",
        rows=READABLE,
        among=READABLE,
        min_count=max(counts[rarest] // 2, 1),
        why=f"{rarest} had fewest, {counts[rarest]:,}; half as many may do.",
        fix="Add images of the classes named.",
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
