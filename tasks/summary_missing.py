"""What was missing, what was done about it, and the labels that were filled."""

from __future__ import annotations

import numpy as np

from data_contracts.dataset import Array
from data_contracts.store import Dataset
from tasks.gallery import Filled

SHOWN = 12
HOW = {
    "neighbours": "by the vote of their nearest training images",
    "self-training": "by a network that was sure of them",
}


def missing_words(source: Dataset) -> list[str]:
    """Say what the source left out, and what was done about it."""
    own = _images(source)
    columns = {
        name: values[own]
        for name, values in source.columns("label", "split", "text", "domain").items()
    }
    absent = {
        "splits": (columns["split"] < 0, "they were divided by class and look-alikes"),
        "texts": (columns["text"] == "", "classification does not need them"),
        "domains": (columns["domain"] < 0, "they stand in no domain slice"),
    }
    words = [_label_words(source, columns["label"] < 0, own)]
    words += [
        f"{int(gone.sum()):,} of {len(gone):,} {name} are missing: {done}."
        for name, (gone, done) in absent.items()
        if gone.any()
    ]
    return [text for text in words if text] + _filled_words(source)


def _images(source: Dataset) -> Array:
    """Return which rows are images, and no stored views of one."""
    stored = source.has("view")
    return source.column("view") == 0 if stored else np.ones(source.n, bool)


def _label_words(source: Dataset, gone: Array, own: Array) -> str:
    if not gone.any():
        return ""
    start = f"{int(gone.sum()):,} of {len(gone):,} labels are missing: "
    known = source.has("imputed")
    imputed = source.column("imputed")[own] if known else np.empty(0)
    names, counts = np.unique(imputed[imputed != ""].astype(str), return_counts=True)
    filled = int(counts.sum())
    left = f"{int(gone.sum()) - filled:,} images are not trained on"
    if not filled:
        return f"{start}those images are not trained on."
    ways = [f"{n:,} were filled {HOW[k]}" for k, n in zip(names, counts, strict=True)]
    return f"{start}{', '.join(ways)}; {left}."


def _filled_words(source: Dataset) -> list[str]:
    """Say what the stage `impute` filled besides labels, and with what."""
    found = [
        entry for entry in source.attributes["lineage"] if entry["stage"] == "impute"
    ]
    if not found:
        return []
    how, values = found[-1]["settings"], source.attributes["impute"]
    words = []
    for kind in ("text", "domain", "tags", "numbers"):
        if not source.has(f"{kind}_imputed"):
            continue
        n = int(source.column(f"{kind}_imputed")[_images(source)].sum())
        value = f" ({_shown(values[kind])})" if kind in values else ""
        things = kind if kind.endswith("s") else f"{kind}s"
        words.append(f"{n:,} {things} were filled by {how[kind]}{value}.")
    return words


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {number:g}" for name, number in value.items())
    return ", ".join(value) if isinstance(value, list) else str(value)


def filled_labels(source: Dataset) -> list[Filled]:
    """Return images whose label was filled, those that were least sure first."""
    if not source.has("imputed"):
        return []
    columns = source.columns("imputed", "imputed_sure", "target", "path")
    rows = np.flatnonzero(columns["imputed"] != "")
    rows = rows[np.argsort(columns["imputed_sure"][rows], kind="stable")[:SHOWN]]
    images, names = source.take(rows), source.names("label_names")
    return [
        Filled(
            image=images[i],
            path=columns["path"][row],
            label=names[columns["target"][row]],
            how=columns["imputed"][row],
            sure=float(columns["imputed_sure"][row]),
        )
        for i, row in enumerate(rows)
    ]


def count_filled(source: Dataset) -> int:
    """Return how many labels were filled."""
    return int((source.column("imputed") != "").sum()) if source.has("imputed") else 0
