"""Which images are worth explaining, and which class of each."""

from __future__ import annotations

from difflib import get_close_matches
from typing import NamedTuple

import numpy as np

from data_contracts.dataset import NONE, Array
from data_contracts.errors import SourceError, UsageError
from tasks.explain_settings import ExplainSettings, Order
from tasks.explain_source import Pictures, blocks
from tasks.inference import Floats, Predictor
from tasks.progress import Progress


class Answers(NamedTuple):
    """What a model says to all images.

    Attributes:
        given: Class of each (n,), -1 where the model knows none.
        predicted: The likeliest class (n,).
        sure: Its probability (n,).
        good: Which images could be read (n,).
    """

    given: Array
    predicted: Array
    sure: Floats
    good: Array

    @property
    def wrong(self) -> Array:
        """Which answers are other than the given class (n,)."""
        return np.asarray(
            (self.given >= 0) & (self.predicted != self.given) & self.good
        )


def answers_of(pictures: Pictures, predictor: Predictor) -> Answers:
    """Ask about every image, block by block.

    Raises:
        SourceError: None of the images could be read.
    """
    n = len(pictures.paths)
    predicted, sure = np.zeros(n, np.int64), np.zeros(n, np.float32)
    good = np.zeros(n, bool)
    with Progress("explain", total=n, unit="images") as progress:
        for rows in blocks(n):
            images, good[rows] = pictures.read(rows)
            probs = predictor(images)
            predicted[rows], sure[rows] = probs.argmax(1), probs.max(1)
            progress.advance(len(rows))
    if not good.any():
        raise SourceError(
            f"None of {n:,} images could be read. `sightline predict` says what is"
            " wrong with each."
        )
    place = {name: i for i, name in enumerate(predictor.classes)}
    given = [place.get(name or "", NONE) for name in pictures.given]
    return Answers(np.array(given, np.int64), predicted, sure, good)


def chosen(answers: Answers, settings: ExplainSettings, *, limit: int) -> Array:
    """Return the rows to explain, the most worth it first."""
    rows = np.flatnonzero(answers.good)
    if settings.order == Order.mistakes:
        rank = np.where(answers.wrong, -1 - answers.sure, -answers.sure)
        rows = rows[np.argsort(rank[rows], kind="stable")]
    if settings.order == Order.unsure:
        rows = rows[np.argsort(answers.sure[rows], kind="stable")]
    return rows[:limit]


def targets_of(
    answers: Answers, rows: Array, settings: ExplainSettings, classes: list[str]
) -> Array:
    """Return the class to explain of each row.

    Raises:
        UsageError: The class is unknown, or an image has no known label.
    """
    if settings.target == "predicted":
        return answers.predicted[rows]
    if settings.target == "given":
        unknown = int((answers.given[rows] < 0).sum())
        if unknown:
            raise UsageError(
                f"target=given explains the label, and {unknown} of {len(rows)} images"
                " have none that the model knows. Give labels, or take"
                " target=predicted."
            )
        return answers.given[rows]
    check_target(settings, classes)
    return np.full(len(rows), classes.index(settings.target))


def check_target(settings: ExplainSettings, classes: list[str]) -> None:
    """Refuse a class that the model does not know.

    Raises:
        UsageError: `target` is neither predicted, given nor a class.
    """
    if settings.target in ("predicted", "given", *classes):
        return
    close = get_close_matches(settings.target, classes, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    few = ", ".join(classes[:8]) + (", …" if len(classes) > 8 else "")
    raise UsageError(
        f"target={settings.target!r} is predicted, given, or one of the model's"
        f" {len(classes)} classes: {few}.{hint}"
    )
