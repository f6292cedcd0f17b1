"""Measure a registered version on labelled images, beside the champion, in one pass."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from pydantic import Field

from data_contracts.dataset import Array
from data_contracts.errors import ContractError, SourceError, UsageError
from data_contracts.references import DatasetRef, ModelRef, Reference
from data_contracts.store import Dataset, storage_errors
from models.durable import write_over
from tasks.evaluate import in_order
from tasks.evaluation import MeasureSettings
from tasks.inference import BATCH, Predictor
from tasks.lessons import labels_to_learn
from tasks.measured import Measured
from tasks.progress import Progress
from tasks.record import count_use, test_set_of, wear
from tasks.register import manifest_of
from tasks.slicing import USUAL, slices_by
from tasks.split import TEST, TRAIN, VAL
from tasks.stage import stage_task
from tasks.tallied import measure, must_answer
from tasks.tally import Tally
from tasks.version_images import Images, Repaired, own_dataset

log = logging.getLogger("sightline")

SHOWN = 5


class SlicedSettings(MeasureSettings):
    """Settings of `sightline evaluate`."""

    slices: tuple[str, ...] = Field(
        USUAL, description="Columns to part the figures by; numbers go by quantiles."
    )
    slice_bins: int = Field(
        4, ge=2, le=20, description="Slices that a column of numbers makes."
    )


class MeasuredVersion(Reference):
    """A version, what it was measured on, and every figure."""

    model: ModelRef
    data: str = Field(description="What the images are, in words.")
    source: DatasetRef
    settings: SlicedSettings
    temperature: float = Field(description="What logits are divided by.")
    warnings: list[str] = Field(description="What makes the figures other than fair.")
    found: Measured


def earlier_champion(model: ModelRef) -> ModelRef | None:
    """Return the champion that a version was judged against, if it is still there."""
    version = manifest_of(model).get("champion")
    folder = Path(model.uri).parent / str(version)
    if version is None or not folder.is_dir():
        return None
    return ModelRef(name=model.name, version=version, uri=str(folder))


@stage_task(retries=1)
def measure_version(
    source: DatasetRef,
    model: ModelRef,
    settings: SlicedSettings,
    *,
    own: bool,
    place: str,
    rival: ModelRef | None,
    folder: str,
) -> MeasuredVersion:
    """Measure `model` on `source` and write evaluation.json.

    Args:
        source: Images of the version's own training, or new ones after `denoise`.
        model: The version.
        settings: Intervals and slices.
        own: Whether to take the version's own test split; else all images kept.
        place: What the images are, in words.
        rival: Version to compare answers with.
        folder: Where evaluation.json goes; made if needed.

    Raises:
        ContractError: There is no image to measure on.
        UsageError: None of them has a class of the model, or none was answered.
    """
    path = Path(folder) / "evaluation.json"
    predictor = Predictor.load(Path(model.uri) / "model")
    dataset = _seen(source, model, predictor, own=own)
    rows = np.flatnonzero(
        dataset.column("use") == TEST if own else dataset.column("keep")
    )
    if not len(rows):
        raise ContractError(
            f"No image of {place} is left to evaluate on. Give images with labels:"
            " data=FOLDER"
        )
    strange = _strangers(dataset, rows, predictor.classes)
    tally = _tallied(dataset, rows, predictor, settings, own=own, rival=rival)
    must_answer(tally)
    found = measure(
        tally,
        names=predictor.classes,
        settings=settings,
        champion=rival.version if rival else None,
    )
    warnings = [strange]
    if not own and (seen := _learnt(dataset, rows, model)):
        unseen = "Give images that it has not seen."
        warnings.append(f"{seen}: the figures flatter it. {unseen}")
    if rival is not None and (seen := _learnt(dataset, rows, rival)):
        warnings.append(f"{seen}: beside this one, it looks better than it is.")
    if own:
        used = _used(source, model)
        found = found.model_copy(update={"notes": [*found.notes, used]})
    result = MeasuredVersion(
        model=model,
        data=place,
        source=source,
        settings=settings,
        temperature=float(predictor.meta["temperature"]),
        warnings=[said for said in warnings if said],
        found=found,
    )
    with storage_errors(folder):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_over(path, result.model_dump_json(indent=1))
    log.info("evaluate  %s images, %s", f"{found.n:,}", path)
    return result


def _used(source: DatasetRef, model: ModelRef) -> str:
    """Note that a test split was looked at, and say how often it was."""
    test_set, root = test_set_of(source), Path(model.uri).parents[1]
    what = f"version {model.version}"
    used = count_use(
        root, test_set["digest"], by="evaluate", model=model.name, what=what
    )
    return wear(used, test_set["images"]).detail


def _learnt(dataset: Dataset, rows: Array, model: ModelRef) -> str:
    """Say how many of the files a version was trained or tuned on, '' if none.

    Only copies of the same bytes are found; '' too where its dataset is gone.
    """
    try:
        columns = own_dataset(model).columns("use", "sha256")
    except SourceError:
        return ""
    used = columns["sha256"][np.isin(columns["use"], [TRAIN, VAL])]
    files = dataset.column("sha256")[rows].astype(str)
    known = int(np.isin(files, used.astype(str)).sum())
    if not known:
        return ""
    return (
        f"Version {model.version} was trained or tuned on {known:,} of these"
        f" {len(rows):,} files"
    )


def _tallied(
    dataset: Dataset,
    rows: Array,
    predictor: Predictor,
    settings: SlicedSettings,
    *,
    own: bool,
    rival: ModelRef | None,
) -> Tally:
    """Add up the answers, reading each chunk once."""
    slices = slices_by(dataset, rows, settings.slices, bins=settings.slice_bins)
    champion, theirs = None, dataset
    if rival is not None:
        champion = Predictor.load(Path(rival.uri) / "model")
        theirs = _seen(dataset.ref, rival, champion, own=own)
    tally = Tally(
        len(predictor.classes),
        slices={name: slice_.names for name, slice_ in slices.items()},
        champion=champion is not None,
    )
    asked = Images.of(dataset, rows, predictor.classes)
    step = max(BATCH, dataset.chunk)
    with Progress("evaluate", total=len(rows), unit="images") as progress:
        for start in range(0, len(rows), step):
            here = slice(start, start + step)
            images = dataset.take(rows[here])
            its = None
            if champion is not None:
                probs = champion(images if own else theirs.take(rows[here]))
                its = in_order(probs, champion.classes, wanted=predictor.classes)
            tally.update(
                predictor(images),
                asked.labels[here],
                groups=asked.group_keys[here],
                slices={name: s.codes[here] for name, s in slices.items()},
                champion=its,
            )
            progress.advance(len(images))
    return tally


def _seen(
    source: DatasetRef, model: ModelRef, predictor: Predictor, *, own: bool
) -> Dataset:
    """Return images as a version sees them; its own are painted over already."""
    return Dataset(source) if own else Repaired(source, model, predictor.meta)


def _strangers(dataset: Dataset, rows: Array, classes: list[str]) -> str:
    """Say which labels of the images the model never learnt, '' if it knows all."""
    names = dataset.names("label_names")
    labels, counts = np.unique(labels_to_learn(dataset)[rows], return_counts=True)
    found = {
        names[label]: int(n)
        for label, n in zip(labels, counts, strict=True)
        if label >= 0 and names[label] not in classes
    }
    if not found:
        return ""
    known = len(labels[labels >= 0]) - len(found)
    if not known:
        theirs, own = (", ".join(list(x)[:SHOWN]) for x in (found, classes))
        raise UsageError(
            f"none of the {len(found):,} classes of these images is one of the model's"
            f" {len(classes):,}: they are {theirs}; it knows {own}. Give images of its"
            " classes, or teach it these: sightline update"
        )
    shown = ", ".join(f"{name} ({n:,})" for name, n in list(found.items())[:SHOWN])
    more = f" and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
    return f"Never learnt, so left out: {shown}{more}."
