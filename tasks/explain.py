"""Explain a version's answers: maps, what changes them, what was like them."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_contracts.dataset import Array
from data_contracts.errors import SchemaError, SourceError
from data_contracts.references import DatasetRef, ModelRef, Reference
from data_contracts.store import Dataset, storage_errors
from models.durable import write_over
from models.explain.how import SIGNED, Method
from tasks.explain_answer import Change, what_changes
from tasks.explain_choose import answers_of, check_target, chosen, targets_of
from tasks.explain_figures import Worth, classes_by_boxes, worth_of
from tasks.explain_neighbours import Neighbour, nearest_taught
from tasks.explain_picture import overlay, png
from tasks.explain_settings import ExplainSettings
from tasks.explain_source import JudgedImages, Pictures, SourceImages
from tasks.inference import Floats, Predictor, devices
from tasks.listing import SourceSettings
from tasks.sources import list_source
from tasks.split import TRAIN
from tasks.stage import stage_task

log = logging.getLogger("sightline")


class Explained(Reference):
    """A finished explanation."""

    model: ModelRef
    folder: str
    images: int
    mistakes: int
    changed: int
    figures: dict[str, float]

    @property
    def page(self) -> Path:
        """The page to open."""
        return Path(self.folder) / "index.html"


@dataclass(frozen=True, kw_only=True)
class Story:
    """One explained image, as the page tells it.

    Attributes:
        image: uint8 (h w 3), as the network sees it.
        picture: Its map in colours.
        given: Its label; None where there is none.
        target: The explained class.
    """

    image: Array
    picture: Array
    path: str
    given: str | None
    known: bool
    predicted: str
    sure: float
    target: str
    change: Change
    neighbours: list[Neighbour]

    @property
    def wrong(self) -> bool:
        """Whether the answer is another one than the label."""
        return self.given is not None and self.given != self.predicted


@stage_task()
def explain_version(
    place: str | None,
    source: SourceSettings,
    settings: ExplainSettings,
    *,
    model: ModelRef,
    datasets: dict[str, DatasetRef],
    out: str,
    limit: int,
) -> Explained:
    """Explain what a version says to some images; write maps, pictures and a page.

    Args:
        place: Folder, file, manifest or archive; None takes the version's test images.
        source: How to list it.
        settings: How to explain.
        model: The version that answers.
        datasets: What it was trained on, by stage.
        out: Folder to write to.
        limit: Most images to explain.

    Raises:
        UsageError: The method is none for this network, or the class is unknown.
        SourceError: There are no images.
    """
    devices()
    from models.checkpoint import load_model
    from models.explain.explainer import Explainer, check_method
    from models.explain.subject import subject_of

    params, stats, meta = load_model(Path(model.uri) / "model")
    check_target(settings, list(meta["classes"]))
    subject, weights = subject_of(params, stats, meta)
    taught, lack = _taught(datasets)
    usual = _usual(taught, settings, size=int(meta["image_size"]))
    check_method(subject, settings.how, background=usual)
    pictures = _pictures(place, source, taught, lack, meta, Path(model.uri) / "model")
    predictor = Predictor(params, stats, meta)
    answers = answers_of(pictures, predictor)
    rows = chosen(answers, settings, limit=limit)
    targets = targets_of(answers, rows, settings, predictor.classes)
    images = pictures.read(np.sort(rows))[0][np.argsort(np.argsort(rows))]
    explainer = Explainer(
        subject, weights, settings.how, background=usual, mesh=devices()
    )
    maps, told = explainer.explain(images, targets)
    worth = worth_of(subject, weights, images, targets, maps, settings)
    by_class = classes_by_boxes(
        explainer, pictures, answers, settings, classes=predictor.classes
    )
    changes = what_changes(predictor, images, maps, targets, settings.how)
    near = nearest_taught(predictor, images, taught, settings)
    stories = [
        Story(
            image=images[i],
            picture=overlay(images[i], maps[i], signed=settings.method in SIGNED),
            path=pictures.paths[row],
            given=pictures.given[row],
            known=bool(answers.given[row] >= 0),
            predicted=predictor.classes[answers.predicted[row]],
            sure=float(answers.sure[row]),
            target=predictor.classes[targets[i]],
            change=changes[i],
            neighbours=near[i] if near else [],
        )
        for i, row in enumerate(rows.tolist())
    ]
    figures = {name: float(np.median(values)) for name, values in told.items()}
    folder = Path(out)
    with storage_errors(out):
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, stories, maps)
        from tasks.explain_page import render

        page = render(
            model, settings, stories, answers, worth, by_class, figures, lack, meta
        )
        write_over(folder / "index.html", page)
    log.info("explain   %s images by %s to %s", len(rows), settings.method, out)
    return Explained(
        model=model,
        folder=str(folder),
        images=len(rows),
        mistakes=sum(story.wrong for story in stories),
        changed=sum(story.change.changed for story in stories),
        figures=figures | _flat(worth),
    )


def _flat(worth: list[Worth]) -> dict[str, float]:
    return {
        f"{row.name} {kind}": round(figure.value, 4)
        for row in worth
        for kind, figure in row.figures.items()
    }


def _taught(datasets: dict[str, DatasetRef]) -> tuple[Dataset | None, str]:
    """Return what a version learnt from, or None and why it is not there."""
    own = [ref for stage, ref in datasets.items() if stage != "views"]
    if not own:
        return None, "The version does not say what it was trained on."
    try:
        return Dataset(own[-1]), ""
    except SchemaError as error:
        return None, f"What it was trained on is gone: {error}"


def _usual(
    taught: Dataset | None, settings: ExplainSettings, *, size: int
) -> Array | None:
    """Return training images that stand for usual ones, where a method starts there."""
    if settings.method != Method.expected_gradients or taught is None:
        return None
    from tasks.inference import fitted

    rows = np.flatnonzero(taught.column("use") == TRAIN)
    drawn = np.random.default_rng((settings.seed, 4)).permutation(rows)
    return fitted(taught.take(np.sort(drawn[: settings.usual])), size=size)


def _pictures(
    place: str | None,
    source: SourceSettings,
    taught: Dataset | None,
    lack: str,
    meta: dict[str, Any],
    folder: Path,
) -> Pictures:
    if place is not None:
        return SourceImages(list_source(place, settings=source), meta, folder)
    if taught is None:
        raise SourceError(f"There are no images to explain. {lack} Give data=FOLDER.")
    found = JudgedImages(taught, size=int(meta["image_size"]))
    if not found.paths:
        raise SourceError(
            "There are no images to explain: the version has no test image. Give"
            " data=FOLDER."
        )
    return found


def _write(folder: Path, stories: list[Story], maps: Floats) -> None:
    """Write the maps, a picture of each, and a line of JSON about it."""
    np.save(folder / "maps.npy", maps)
    lines = []
    for number, story in enumerate(stories):
        name = f"{number:03}.png"
        both = np.concatenate([_enlarged(story.image, story.picture), story.picture], 1)
        (folder / name).write_bytes(png(both))
        lines.append(
            {
                "picture": name,
                "path": story.path,
                "given": story.given,
                "predicted": story.predicted,
                "probability": round(story.sure, 6),
                "explained": story.target,
                "hidden": story.change.hidden,
                "after": round(story.change.after, 6),
                "random": round(story.change.random, 6),
                "answer": story.change.answer,
                "neighbours": [near.path for near in story.neighbours],
            }
        )
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_over(folder / "explained.jsonl", text)


def _enlarged(image: Array, like: Array) -> Array:
    import cv2

    size = (like.shape[1], like.shape[0])
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC))
