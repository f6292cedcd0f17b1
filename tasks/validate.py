"""Hold a snapshot, or predictions, against their contract."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from pydantic import Field

from data_contracts.arrays import check_arrays, merge
from data_contracts.config import Settings, digest
from data_contracts.contracts import Contract, load_contract
from data_contracts.dataset import Array
from data_contracts.drift import baseline_of
from data_contracts.errors import UsageError
from data_contracts.references import ContractReport, DatasetRef
from data_contracts.rules import quoted
from data_contracts.store import Dataset, storage_errors
from data_contracts.verdicts import check_table, enforce
from models.durable import write_over
from tasks.check_chunks import check_chunks
from tasks.checks import record
from tasks.evaluate import Evaluated
from tasks.kept import folder_of
from tasks.profile import profile_dataset
from tasks.stage import stage_task
from tasks.table import named, table_of
from tasks.train import Trained

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("sightline")


class ContractSettings(Settings):
    """How much a run puts up with; the contracts in `data_contracts` say the rest."""

    max_bad_share: float = Field(
        0.2, ge=0, le=1, description="Largest share of files that cannot be read."
    )
    min_kept_share: float = Field(
        0.5, ge=0, le=1, description="Share of labelled images that cleaning leaves."
    )
    extra: list[str] = Field(
        [], description="Files of your own contracts, each checked after its stage."
    )
    tolerate_drift: bool = Field(
        True, description="Whether a new era that differs from the old ones only warns."
    )


def own_contracts(settings: ContractSettings) -> dict[str, list[Path]]:
    """Return the files of a user's own contracts by the stage that each is for.

    Raises:
        UsageError: A file is no accepted contract, or does not say `after`.
    """
    files: dict[str, list[Path]] = {"ingest": [], "denoise": [], "split": []}
    for file in settings.extra:
        contract = load_contract(Path(file))
        if contract.after is None:
            raise UsageError(
                f"{file}: a contract of your own must say after which stage it is"
                f" checked. Add a line `after:` with one of {quoted(files)}."
            )
        files[contract.after].append(Path(file))
    return files


@stage_task(retries=1)
def validate_dataset(
    source: DatasetRef,
    contract: str | Path,
    *,
    parameters: dict[str, Any] | None = None,
) -> ContractReport:
    """Check `source` against a contract, shipped or in a file, once.

    Raises:
        ContractError: A critical rule is broken; the message lists the images.
    """
    return enforce(check_dataset(source, load_contract(contract), parameters))


def check_dataset(
    source: DatasetRef, rules: Contract, parameters: dict[str, Any] | None = None
) -> ContractReport:
    """Return the verdict of a contract over `source`, from its table and chunks."""

    def check() -> ContractReport:
        dataset = Dataset(source)
        return check_table(
            rules,
            table_of(dataset),
            parameters=parameters,
            arrays=check_chunks(rules, dataset),
        )

    return _once(
        source, rules, check, key=digest(source.digest, rules.sha256, parameters)
    )


@stage_task(retries=1)
def validate_drift(source: DatasetRef, *, tolerated: bool) -> ContractReport | None:
    """Hold the newest era of `source` against the earlier ones; none with one era.

    What the earlier eras hold comes from their profile: their rows are not read again.

    Raises:
        ContractError: The images drifted, and that is not tolerated.
    """
    profile = profile_dataset(source)
    if len(profile.eras) < 2:
        return None
    *earlier, newest = profile.eras
    rules = load_contract("drift")

    def check() -> ContractReport:
        dataset = Dataset(source)
        frame = table_of(dataset, start=profile.start_of(newest))
        usual = {
            name: baseline_of(named(dataset, name, state))
            for name, state in profile.columns(earlier).items()
        }
        known = {name: b.model_dump() for name, b in usual.items() if b is not None}
        return check_table(
            rules,
            frame[frame["era"] == newest],
            parameters={"earlier": known, "tolerated": tolerated},
        )

    key = digest(source.digest, rules.sha256, tolerated)
    return enforce(_once(source, rules, check, key=key))


def _once(
    source: DatasetRef,
    rules: Contract,
    check: Callable[[], ContractReport],
    *,
    key: str,
) -> ContractReport:
    """Return the verdict that was recorded under `key`, or check and record it."""
    kept = folder_of(source.uri) / f"verdict-{rules.name}-{key}.json"
    if kept.exists():
        return _said(ContractReport.model_validate_json(kept.read_text()))
    report = record(source, check(), key=key)
    with storage_errors(str(kept)):
        write_over(kept, report.model_dump_json(indent=1))
    return _said(report)


def _said(report: ContractReport) -> ContractReport:
    broken = ", ".join(rule.rule for rule in report.failures)
    log.info(
        "validate  %s: %s%s", report.contract, report.verdict, broken and f" ({broken})"
    )
    return report


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
    return enforce(_said(report))


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
