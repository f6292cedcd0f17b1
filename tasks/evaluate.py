"""Predict the test images with candidate and champion, and measure both."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from data_contracts.config import digest
from data_contracts.dataset import NONE, Array
from data_contracts.errors import ContractError
from data_contracts.references import DatasetRef, Estimate, ModelRef, Reference
from data_contracts.store import Dataset, storage_errors
from models.durable import write_over
from tasks.arena import Arena, read_rights
from tasks.evaluation import EvaluateSettings, Robustness
from tasks.gate import Exhibits
from tasks.gate_attacks import attack_both
from tasks.gate_settings import Adversarial
from tasks.inference import Floats, Predictor, predict_rows
from tasks.labels import hierarchy_of, roll_up
from tasks.lessons import class_of_rows, labels_to_learn
from tasks.measured import Measured
from tasks.progress import Progress
from tasks.robustness import group_keys, measure_robustness
from tasks.scores import share_of
from tasks.slicing import Slice, by_text, slices_of
from tasks.split import TEST
from tasks.stage import stage_task
from tasks.tallied import measure
from tasks.tally import Tally
from tasks.train import Trained

log = logging.getLogger("sightline")

VERSION = 4
BLOCK = 4096  # predictions added up at once


class Evaluated(Reference):
    """Predictions and figures of a run on its test images."""

    folder: str
    n: int
    champion: int | None

    @property
    def predictions(self) -> Path:
        """Zarr group: rows, labels, probs, and champion's probs."""
        return Path(self.folder) / "predictions.zarr"

    @property
    def measured(self) -> Measured:
        """The candidate's figures."""
        return _read(Path(self.folder) / "evaluation.json")

    @property
    def champion_measured(self) -> Measured | None:
        """The champion's figures on the same images."""
        path = Path(self.folder) / "champion.json"
        return _read(path) if self.champion is not None else None

    @property
    def robustness(self) -> Robustness | None:
        """What candidate and champion make of spoiled images, if that was asked."""
        path = Path(self.folder) / "robustness.json"
        if not path.exists():
            return None
        return Robustness.model_validate_json(path.read_text())


def _read(path: Path) -> Measured:
    return Measured.model_validate_json(path.read_text())


@stage_task(retries=1)
def evaluate_model(
    source: DatasetRef,
    trained: Trained,
    settings: EvaluateSettings,
    *,
    champion: ModelRef | None,
    attacks: tuple[Adversarial, ...] = (),
) -> Evaluated:
    """Measure a trained model, and the champion, on the test images of `source`.

    Args:
        source: The dataset.
        trained: The run.
        settings: What to measure.
        champion: The version to compare with, if there is one.
        attacks: Checks of the gate that want both attacked.

    Raises:
        ContractError: No image is left to test on.
    """
    rival = [champion.name, champion.version] if champion else None
    name = digest(settings, VERSION, rival, *attacks)[:8]
    folder = Path(trained.folder) / f"evaluation-{name}"
    result = Evaluated(
        folder=str(folder), n=0, champion=champion.version if champion else None
    )
    finished = folder / "evaluated.json"
    if finished.exists():
        log.info("evaluate  already done (%s)", folder.name)
        before = Evaluated.model_validate_json(finished.read_text())
        return before.model_copy(update={"folder": str(folder)})
    dataset = Dataset(source)
    rows = np.flatnonzero(dataset.column("use") == TEST)
    if not len(rows):
        raise ContractError(
            f"No image of {source.uri} is left to test on. Give more images per class,"
            " or a test split."
        )
    with storage_errors(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        _evaluate(dataset, rows, trained, champion, settings, attacks, folder)
        result = result.model_copy(update={"n": len(rows)})
        write_over(finished, result.model_dump_json())
    return result


def _evaluate(
    dataset: Dataset,
    rows: Array,
    trained: Trained,
    champion: ModelRef | None,
    settings: EvaluateSettings,
    attacks: tuple[Adversarial, ...],
    folder: Path,
) -> None:
    names = dataset.names("label_names")
    ids = [names.index(name) for name in trained.classes]
    # Of a test image, only a person changes what it is.
    labels = class_of_rows(dataset, ids, labels_to_learn(dataset))[rows]
    store = zarr.open_group(folder / "predictions.zarr", mode="w")
    predictor = Predictor.load(trained.model)
    probs = _predict(predictor, dataset, rows, "evaluate")
    columns: dict[str, Array] = {"rows": rows, "labels": labels, "probs": probs}
    groups, keys = dataset.column("group")[rows], group_keys(dataset, rows)
    slices = {name: by_text(of) for name, of in slices_of(dataset, rows).items()}
    hierarchy = hierarchy_of(dataset, ids)
    coarse = _coarse_of(dataset, rows, labels, hierarchy)
    rival = None
    if champion is not None:
        rival = Predictor.load(Path(champion.uri) / "model")
        its_probs = _predict(rival, dataset, rows, "champion")
        columns["champion"] = in_order(its_probs, rival.classes, wanted=trained.classes)

    def measured(probs: Floats, its: Floats | None) -> Measured:
        tally = tally_of(probs, labels, keys, slices, champion=its)
        met = champion.version if champion is not None and its is not None else None
        found = measure(tally, names=trained.classes, settings=settings, champion=met)
        if hierarchy is None:
            return found
        top1 = coarse_top1(probs, coarse, hierarchy, groups=groups, settings=settings)
        more = {} if top1 is None else {"coarse_top1": top1}
        return found.model_copy(update={"figures": found.figures | more})

    its = columns.get("champion")
    for name, who, other in (("evaluation", probs, its), ("champion", its, None)):
        if who is not None:
            text = measured(who, other).model_dump_json()
            (folder / f"{name}.json").write_text(text)
    for name, values in columns.items():
        store.create_array(name, data=values)
    if settings.robustness:
        hold = predictor, rival
        kept = folder / "corrupted.npz"
        found = measure_robustness(dataset, rows, labels, groups, hold, settings, kept)
        (folder / "robustness.json").write_text(found.model_dump_json())
    if rival is not None:
        for check in attacks:
            both = predictor, rival
            attack_both(dataset, rows, labels, groups, both, check, folder)


def _coarse_of(
    dataset: Dataset, rows: Array, labels: Array, hierarchy: dict[str, Any] | None
) -> Array:
    """Return the coarse label of `rows`; a corrected image is of another kind."""
    coarse = dataset.column("coarse")[rows]
    changed = labels_to_learn(dataset)[rows] != dataset.column("label")[rows]
    if hierarchy is None or not changed.any():
        return coarse
    return np.where(changed, np.array([*hierarchy["of"], NONE])[labels], coarse)


def tally_of(
    probs: Floats,
    labels: Array,
    keys: Array,
    slices: dict[str, Slice] | None = None,
    *,
    champion: Floats | None = None,
) -> Tally:
    """Add up predictions (n, k), and the champion's on the same images."""
    parts = slices or {}
    tally = Tally(
        probs.shape[1],
        slices={name: part.names for name, part in parts.items()},
        champion=champion is not None,
    )
    for start in range(0, len(labels), BLOCK):
        here = slice(start, start + BLOCK)
        tally.update(
            probs[here],
            labels[here],
            groups=keys[here],
            slices={name: part.codes[here] for name, part in parts.items()},
            champion=None if champion is None else champion[here],
        )
    return tally


def coarse_top1(
    probs: Floats,
    coarse: Array,
    hierarchy: dict[str, Any],
    *,
    groups: Array,
    settings: EvaluateSettings,
) -> Estimate | None:
    """Return how often the coarse class with the largest sum is right.

    Args:
        probs: Of the classes, (n, k).
        coarse: Coarse label id of each image, -1 where it is missing.
        hierarchy: From `hierarchy_of`.
        groups: Duplicate group of each image.
        settings: Level of the interval.
    """
    said = coarse >= 0
    if not said.any():
        return None
    hits = roll_up(probs[said], hierarchy).argmax(axis=1) == coarse[said]
    group = np.unique(groups[said], return_inverse=True)[1].ravel()
    return share_of(hits.astype(np.float64), groups=group, level=settings.level)


def _predict(predictor: Predictor, dataset: Dataset, rows: Array, label: str) -> Floats:
    parts = [np.empty((0, len(predictor.classes)), np.float32)]
    with Progress(label, total=len(rows), unit="images") as progress:
        for block, probs in predict_rows(predictor, dataset, rows):
            parts.append(probs)
            progress.advance(len(block))
    return np.concatenate(parts)


def in_order(probs: Floats, classes: list[str], *, wanted: list[str]) -> Floats:
    """Return `probs` of `classes` with the columns of `wanted`.

    A class that the model does not know has probability 0; what it gives to classes
    that are not wanted is shared out over the others.
    """
    out = np.zeros((len(probs), len(wanted)), np.float32)
    shared = [
        (wanted.index(name), i) for i, name in enumerate(classes) if name in wanted
    ]
    to, source = np.array(shared, np.int64).reshape(-1, 2).T
    out[:, to] = probs[:, source]
    total = out.sum(axis=1, keepdims=True)
    np.divide(out, total, out=out, where=total > 0)
    return out


def arenas_of(
    evaluated: Evaluated, source: DatasetRef, *, classes: list[str], known: list[str]
) -> list[Arena]:
    """Return the test images on which candidate and champion meet.

    A first version has one arena. In an update the old images come first and the newest
    era's second, so that learning the new may not cost the old.

    Args:
        evaluated: Predictions.
        source: The dataset that they are of.
        classes: The candidate's classes.
        known: The champion's classes, empty without one.
    """
    dataset, store = Dataset(source), zarr.open_group(evaluated.predictions, mode="r")
    found: dict[str, Any] = {
        name: np.asarray(store[name]) for name in store.array_keys()
    }
    rows = found["rows"]
    # The champion's classes first: it is counted wrong on those from there on.
    order = [i for i, name in enumerate(classes) if name in known]
    order += [i for i, name in enumerate(classes) if name not in known]
    place = np.argsort(order)
    labels = np.where(found["labels"] < 0, NONE, place[found["labels"]])
    champion = found.get("champion")
    if champion is not None:
        champion = champion[:, order][:, : len([n for n in classes if n in known])]
    columns = dataset.columns("group", "path", "era", "sha256")
    era = columns["era"][rows]
    parts = {"test": era >= 0}
    newest = columns["era"].max()
    slices = slices_of(dataset, rows)
    if champion is not None and newest > 0:
        parts = {"old": era < newest, "new": era == newest}
    return [
        Arena(
            name=name,
            labels=labels[here],
            probs=found["probs"][:, order][here],
            champion=None if champion is None else champion[here],
            groups=columns["group"][rows][here],
            paths=list(columns["path"][rows][here]),
            known_only=name == "old",
            digests=list(columns["sha256"][rows][here]),
            slices={key: values[here] for key, values in slices.items()},
        )
        for name, here in parts.items()
        if here.any()
    ]


def exhibits_of(
    evaluated: Evaluated, candidate: ModelRef, champion: ModelRef | None
) -> Exhibits:
    """Return what a gate's further checks look at, as far as it is there."""
    folder = Path(evaluated.folder)
    return Exhibits(
        candidate=Path(candidate.uri) / "model",
        champion=Path(champion.uri) / "model" if champion else None,
        corrupted=read_rights(folder / "corrupted.npz"),
        attacked={
            path.stem.removeprefix("attacked-"): rights
            for path in folder.glob("attacked-*.npz")
            if (rights := read_rights(path)) is not None
        },
        spared={
            path.stem.removeprefix("attacked-"): path.read_text("utf-8")
            for path in folder.glob("attacked-*.txt")
        },
    )
