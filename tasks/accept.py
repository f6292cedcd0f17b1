"""Drafts on their way to contracts, and what past checks of a dataset came to."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from data_contracts.contracts import Contract, load_contract
from data_contracts.errors import UsageError
from data_contracts.references import ContractReport, DatasetRef
from data_contracts.rules import close
from data_contracts.store import (
    Dataset,
    find_snapshots,
    holds_dataset,
    storage_errors,
)
from data_contracts.verdicts import check_table, describe
from models.durable import write_over
from tasks.browse import find_snapshot
from tasks.check_chunks import check_chunks
from tasks.checks import Check, read_history
from tasks.suggest import draft_contract
from tasks.table import table_of


class Made(NamedTuple):
    """What was written."""

    rules: int
    after: str


def find_reference(uri: str, stage: str | None) -> DatasetRef:
    """Return the snapshot to draft from: the last split, unless another is named."""
    splits = [ref for ref in find_snapshots(uri) if ref.stage == "split"]
    return find_snapshot(uri, stage or ("split" if splits else None))


def write_draft(source: DatasetRef, out: Path, *, name: str) -> Made:
    """Draft a contract from `source` into a new file.

    Raises:
        UsageError: The file is there already; somebody may have worked on it.
    """
    if out.exists():
        raise UsageError(f"{out} is there already. Move it away, or give out=FILE.")
    clean = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-_0123456789")
    _write(out, draft_contract(source, name=clean or "draft"))
    return _made(load_contract(out, drafts=True))


def accept_draft(draft: Path, out: Path, *, owner: str) -> Made:
    """Write `draft` to `out` under its owner's name, no longer a draft.

    Comments and the order of rules stay as they are.

    Raises:
        UsageError: The file is no draft, or would not make a contract.
    """
    if not load_contract(draft, drafts=True).draft:
        raise UsageError(f"{draft} is no draft: it is a contract already.")
    if out.exists() and out != draft:
        raise UsageError(f"{out} is there already. Move it away, or give out=FILE.")
    lines = draft.read_text("utf-8").splitlines()
    head = next(i for i, line in enumerate(lines) if line and line[0] not in "# \t-")
    body = [line for line in lines[head:] if not line.startswith(("draft:", "owner:"))]
    at = next(i for i, line in enumerate(body) if line.startswith("version:"))
    body.insert(at + 1, f"owner: {_quoted(owner)}")
    _write(out, "\n".join(body) + "\n")
    return _made(load_contract(out))


def accepted_name(draft: str) -> str:
    """Return the name of the file of an accepted draft."""
    return re.sub(r"\.draft(\.ya?ml)$", r"\1", draft)


def try_contract(
    file: Path, uri: str, *, stage: str | None
) -> tuple[ContractReport, str]:
    """Hold a snapshot against a contract or draft; return the report, also in words."""
    rules = load_contract(file, drafts=True)
    dataset = Dataset(find_snapshot(uri, stage or rules.after))
    report = check_table(rules, table_of(dataset), arrays=check_chunks(rules, dataset))
    return report, describe(report)


def history_rows(
    uri: str, *, contract: str | None, rule: str | None
) -> list[dict[str, Any]]:
    """Return one row a check of the dataset at `uri`, oldest first.

    Raises:
        UsageError: There is no such dataset, or nothing was recorded under the names.
    """
    if not holds_dataset(uri):
        raise UsageError(f"There is no dataset at {uri}. Give the folder of one.")
    checks = read_history(uri)
    known = {check.contract for check in checks}
    if contract is not None and contract not in known:
        raise UsageError(
            f"Nothing is recorded of {contract!r}.{close(contract, known)}"
        )
    known = {one.rule for check in checks for one in check.rules}
    if rule is not None and rule not in known:
        raise UsageError(f"Nothing is recorded of {rule!r}.{close(rule, known)}")
    asked = [check for check in checks if contract in (None, check.contract)]
    if rule is None:
        return [_row(check) | {"broken": check.broken} for check in asked]
    return [
        _row(check) | one.model_dump(mode="json", include={"verdict", "value", "limit"})
        for check in asked
        for one in check.rules
        if one.rule == rule
    ]


def _row(check: Check) -> dict[str, Any]:
    keys = {"when", "contract", "version", "verdict", "stage", "snapshot"}
    return check.model_dump(mode="json", include=keys) | {"rows": check.n_rows}


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _made(contract: Contract) -> Made:
    return Made(len(contract.rules) + len(contract.arrays), contract.after or "")


def _write(out: Path, text: str) -> None:
    with storage_errors(str(out)):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_over(out, text)
