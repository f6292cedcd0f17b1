"""A command's answer: words for people, values for machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from data_contracts.references import Reference


class Reply(Reference):
    """What a command without a run came to."""

    words: str
    values: dict[str, Any]
    exit_code: int = 0

    def text(self) -> str:
        """Return the answer for a person."""
        return self.words

    def to_json(self) -> dict[str, Any]:
        """Return the answer as plain JSON values."""
        return self.values


def columns(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Return `rows` as aligned text under a line of `names`."""
    cells = [[*names], *([str(row.get(name, "")) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) for cell, width in zip(line, widths, strict=True)
        ).rstrip()
        for line in cells
    )
