"""A dataset as a table: one row an image, names in place of codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from data_contracts.dataset import COLUMNS, SPLITS, USES, Array
from data_contracts.sketch import Figures, Values
from data_contracts.store import Dataset

if TYPE_CHECKING:
    import pandas as pd

# Columns whose numbers stand for names; a contract and a person read the names.
NAMED = {
    "label": "label_names",
    "coarse": "coarse_names",
    "domain": "domain_names",
    "suggested": "label_names",
    "target": "label_names",
}
FIXED = {"split": [*SPLITS], "use": [*USES, "unused"]}


def table_of(dataset: Dataset, *, start: int = 0) -> pd.DataFrame:
    """Return one row an image that its source still holds, names in place of codes.

    Args:
        dataset: A snapshot.
        start: First row that is read.
    """
    import pandas as pd

    names = [
        name
        for name, column in COLUMNS.items()
        if column.axis == "image" and not column.tail and dataset.has(name)
    ]
    columns = {name: decoded(dataset, name, start=start) for name in names}
    present = columns["present"].astype(bool)
    return pd.DataFrame(columns)[present].reset_index(drop=True)


def decoded(dataset: Dataset, name: str, *, start: int = 0) -> Array:
    """Return a column with its names in place of codes, None where it is missing."""
    values = dataset.column(name, start=start)
    if name not in NAMED and name not in FIXED:
        return values
    table = _names(dataset, name)
    return np.array(table, object)[np.where(values < 0, len(table) - 1, values)]


def named(dataset: Dataset, name: str, state: Figures | Values) -> Figures | Values:
    """Return the state of a column with its names in place of codes."""
    coded = name in NAMED or name in FIXED
    if not coded or isinstance(state, Figures) or state.counts is None:
        return state
    table = _names(dataset, name)
    by_name = {str(table[int(code)]): n for code, n in state.counts.items()}
    counts = dict(sorted(by_name.items()))
    if name in FIXED and table[-1] is not None and state.missing:
        counts[str(table[-1])] = state.missing
        return state.model_copy(
            update={
                "counts": counts,
                "count": state.count + state.missing,
                "missing": 0,
            }
        )
    return state.model_copy(update={"counts": counts})


def _names(dataset: Dataset, name: str) -> list[Any]:
    """Return what each code of a column stands for, and last what -1 does."""
    if name in NAMED:
        return [*dataset.names(NAMED[name]), None]
    return [*FIXED[name]] if name == "use" else [*FIXED[name], None]
