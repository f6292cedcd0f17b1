"""Hold a snapshot, or predictions, against their contract."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from pydantic import Field

from data_contracts.arrays import ArrayFinding, check_arrays, merge
from data_contracts.config import Settings, digest
from data_contracts.contracts import Contract, load_contract
from data_contracts.dataset import COLUMNS, SPLITS, USES, Array
from data_contracts.references import ContractReport, DatasetRef
from data_contracts.store import Dataset, open_repository, storage_errors
from data_contracts.verdicts import check_table, enforce
from models.durable import write_over
from tasks.evaluate import Evaluated
from tasks.parallel import Span, map_spans, spans
from tasks.stage import stage_task
from tasks.train import Trained

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("sightline")

# Columns whose numbers stand for names; a contract and a person read the names.
NAMED = {"label": "label_names", "coarse": "coarse_names", "domain": "domain_names"}
FIXED = {"split": [*SPLITS], "use": [*USES, "unused"]}


def table_of(dataset: Dataset) -> pd.DataFrame:
    """Return one row an image that its source still holds, names in place of codes."""
    import pandas as pd

    names = [
        name
        for name, column in COLUMNS.items()
        if column.axis == "image" and dataset.has(name)
    ]
    columns = {name: decoded(dataset, name) for name in names}
    return pd.DataFrame(columns)[dataset.column("present")].reset_index(drop=True)


def decoded(dataset: Dataset, name: str) -> Array:
    """Return a column with its names in place of codes, None where it is missing."""
    values = dataset.column(name)
    if name in NAMED:
        table: list[str | None] = [*dataset.names(NAMED[name]), None]
    elif name in FIXED:
        table = [*FIXED[name]] if name == "use" else [*FIXED[name], None]
    else:
        return values
    return np.array(table, object)[np.where(values < 0, len(table) - 1, values)]


class ContractSettings(Settings):
    """How much a run puts up with; the contracts in `data_contracts` say the rest."""

    max_bad_share: float = Field(
        0.2, ge=0, le=1, description="Largest share of files that cannot be read."
    )
    min_kept_share: float = Field(
        0.5, ge=0, le=1, description="Share of labelled images that cleaning leaves."
    )


@stage_task(retries=1)
def validate_dataset(
    source: DatasetRef, contract: str, *, parameters: dict[str, Any] | None = None
) -> ContractReport:
    """Check `source` against the contract of that name, once.

    Raises:
        ContractError: A critical rule is broken; the message lists the images.
    """
    rules = load_contract(contract)
    name = f"{contract}-{digest(source.digest, rules.sha256, parameters)}.json"
    kept = Path(f"{source.uri}.checks") / name
    if kept.exists():
        return _said(ContractReport.model_validate_json(kept.read_text()))
    dataset = Dataset(source)
    report = check_table(
        rules,
        table_of(dataset),
        parameters=parameters,
        arrays=_check_chunks(rules, dataset),
    )
    with storage_errors(str(kept)):
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_over(kept, report.model_dump_json(indent=1))
    return _said(report)


def _said(report: ContractReport) -> ContractReport:
    broken = ", ".join(rule.rule for rule in report.failures)
    log.info(
        "validate  %s: %s%s", report.contract, report.verdict, broken and f" ({broken})"
    )
    return enforce(report)


def _check_chunks(contract: Contract, dataset: Dataset) -> list[ArrayFinding]:
    """Check the array rules chunk by chunk, pixels included."""
    present = {"images", *(name for name in COLUMNS if dataset.has(name))}
    needed = {rule.array for rule in contract.arrays}
    needed |= {key for rule in contract.arrays for key in rule.where}
    columns = {name: dataset.column(name) for name in needed & present - {"images"}}
    names, held = dataset.column("path"), dataset.column("present")

    def work(group: zarr.Group, span: Span) -> list[ArrayFinding]:
        rows = slice(*span)
        arrays = {name: values[rows][held[rows]] for name, values in columns.items()}
        if "images" in needed:
            pixels: Any = group["images"]
            arrays["images"] = np.asarray(pixels[rows])[held[rows]]
        return check_arrays(contract.arrays, arrays, list(names[rows][held[rows]]))

    repository = open_repository(dataset.ref.uri)
    return merge(
        map_spans(
            work,
            spans(0, dataset.n, size=dataset.chunk),
            session=repository.readonly_session(snapshot_id=dataset.ref.snapshot),
            label="validate",
        )
    )


@stage_task(retries=1)
def validate_predictions(
    source: DatasetRef, trained: Trained, evaluated: Evaluated, *, version: int
) -> ContractReport:
    """Check the predictions on the test images against their contract.

    Args:
        source: Dataset that they are of.
        trained: The model that made them.
        evaluated: Where they are.
        version: The version that the model will be registered as.

    Raises:
        ContractError: A critical rule is broken.
    """
    rules = load_contract("predictions")
    store = zarr.open_group(evaluated.predictions, mode="r")
    rows, labels, probs = (np.asarray(store[k]) for k in ("rows", "labels", "probs"))
    frame = prediction_table(
        list(Dataset(source).column("path")[rows]),
        probs,
        labels=labels,
        classes=trained.classes,
        version=version,
    )
    found = check_arrays(rules.arrays, {"probs": probs}, list(frame["path"]))
    report = check_table(
        rules,
        frame,
        parameters={"rows": evaluated.n, "label_names": trained.classes},
        arrays=merge([found]),
    )
    return _said(report)


def prediction_table(
    paths: list[str], probs: Array, *, labels: Array, classes: list[str], version: int
) -> pd.DataFrame:
    """Return one row an image: its answer, how sure, and the runners-up.

    Args:
        paths: Image names, (n,).
        probs: Probabilities (n, k).
        labels: True classes, -1 where unknown, (n,).
        classes: Names of the k classes.
        version: Version of the model.
    """
    import pandas as pd

    names = np.array([*classes, None], object)
    top = np.argsort(-probs, axis=1, kind="stable")[:, :5]
    own = probs[np.arange(len(probs)), np.maximum(labels, 0)].astype(np.float64)
    nll = -np.log(np.maximum(own, 1e-12))
    return pd.DataFrame(
        {
            "path": paths,
            "label": names[np.where(labels < 0, len(classes), labels)],
            "predicted": names[top[:, 0]],
            "probability": probs.max(axis=1).astype(np.float64),
            "top5": ["|".join(row) for row in names[top]],
            "nll": np.where(labels < 0, np.nan, nll),
            "version": version,
            "split": "test",
        }
    )
