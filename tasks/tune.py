"""Try settings of training on a budget: what runs next, and what came of it."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from data_contracts.config import digest
from data_contracts.dataset import Array
from data_contracts.errors import (
    ContractError,
    MemoryShort,
    SightlineError,
    UsageError,
)
from data_contracts.references import DatasetRef, Reference
from data_contracts.store import Dataset, storage_errors
from models.durable import append_line, locked, write_over
from models.recipe import epochs_for
from models.stopping import alike
from tasks.halving import (
    Plan,
    Step,
    final_epochs,
    finalists,
    next_step,
    plan_within,
    rungs_of,
)
from tasks.inference import Predictor, predict_rows
from tasks.lessons import class_of_rows, labels_to_learn, pick_rows
from tasks.search_draws import changed, draw_trials, pinned, usual_space
from tasks.search_space import Changes, read_space
from tasks.split import VAL
from tasks.stage import stage_task
from tasks.train import VERSION as TRAINING
from tasks.train import Trained
from tasks.train_settings import TrainSettings
from tasks.transfer import content_of
from tasks.tune_settings import Measure, TuneSettings

VERSION = 1


class Tried(Reference):
    """One training of a search: a line of its journal."""

    trial: int
    epochs: int
    seed: int
    run: str = ""
    top1: float | None = None
    log_loss: float | None = None
    score: float | None = None
    seconds: float = 0.0
    epochs_run: int = 0
    failed: str = ""

    @property
    def step(self) -> Step:
        """Which training it is."""
        return Step(self.trial, self.epochs, self.seed)

    @property
    def of_epoch(self) -> float:
        """Seconds of an epoch that it ran; patience may end it early."""
        return self.seconds / max(self.epochs_run, 1)


class Search(Reference):
    """A search under way; all that it remembers lies in its folder."""

    folder: str
    source: DatasetRef
    train: TrainSettings
    tune: TuneSettings
    n: int

    @property
    def journal(self) -> Path:
        """One line a training, appended to."""
        return Path(self.folder) / "journal.jsonl"

    @property
    def tried(self) -> list[Tried]:
        """The trainings that are done, in their order."""
        return _scan(self.journal)[0]

    @cached_property
    def trials(self) -> list[Changes]:
        """What each trial changes; trial 0 is the defaults."""
        return trials_of(self.train, self.tune, n=self.n)

    @property
    def plan(self) -> Plan:
        """The search in figures; before the first training, of the most trials."""
        path = Path(self.folder) / "plan.json"
        if path.exists():
            found = json.loads(path.read_text())
            return Plan(**(found | {"rungs": tuple(found["rungs"])}))
        epochs = self.train.epochs or epochs_for(self.n)
        return Plan(
            trials=len(self.trials),
            rungs=rungs_of(epochs, eta=self.tune.eta, most=self.tune.rungs),
            eta=self.tune.eta,
            finalists=self.tune.finalists,
            seeds=self.tune.final_seeds,
        )

    def settings_of(self, step: Step) -> TrainSettings:
        """Return how to train for one step of the search."""
        own = changed(self.train, self.trials[step.trial], n=self.n)
        own = own.model_copy(update={"seed": own.seed + step.seed})
        return pinned(own, whole=self.train, n=self.n, epochs=step.epochs)


def trials_of(train: TrainSettings, tune: TuneSettings, *, n: int) -> list[Changes]:
    """Return what each trial changes.

    Raises:
        UsageError: The space names what is no setting, or what cannot be.
    """
    space = read_space(tune.search) if tune.search else usual_space(train, n=n)
    found = draw_trials(space, train, trials=tune.draws, seed=tune.search_seed, n=n)
    if len(found) < 2:
        raise UsageError(
            "There is nothing to search: no setting of the usual space is at its"
            " default. Say what to try by search.SETTING=a,b,c."
        )
    return found


@stage_task()
def open_search(
    source: DatasetRef,
    train: TrainSettings,
    tune: TuneSettings,
    *,
    name: str,
    runs: str,
) -> Search:
    """Start a search on `source`, or find the one that was begun.

    Raises:
        ContractError: There are too few validation images to compare by.
    """
    dataset = Dataset(source)
    n = len(pick_rows(dataset, replay=None, seed=train.seed))
    if len(np.unique(dataset.column("group")[val_rows(dataset)])) < 4:
        raise ContractError(
            f"A search compares by validation images; {source.uri} has fewer than"
            " four. Give more images, or a larger split.val."
        )
    # What is given decides what is searched, so not by `identity`.
    trials = trials_of(train, tune, n=n)
    inits = {train.init, *(changes.get("train.init") for changes in trials)}
    home = Path(runs).parent
    begun = {init: content_of(init, home=home) for init in inits if init is not None}
    versions = [VERSION, TRAINING]
    key = digest(source.digest, train, tune, trials, begun, versions)[:12]
    folder = Path(runs) / f"{name}-tune-{key}"
    with storage_errors(str(folder)):
        (folder / "answers").mkdir(parents=True, exist_ok=True)
    return Search(folder=str(folder), source=source, train=train, tune=tune, n=n)


def val_rows(dataset: Dataset) -> Array:
    """Return the validation rows with a label."""
    known = labels_to_learn(dataset) >= 0
    return np.flatnonzero((dataset.column("use") == VAL) & known)


def following(search: Search) -> Step | None:
    """Return the next training, None at the end.

    Raises:
        UsageError: The time allowed is too short for any search.
        SightlineError: The defaults themselves cannot be trained.
    """
    tried, minutes = search.tried, search.tune.minutes
    for line in tried:
        if line.failed and line.trial == 0:
            raise SightlineError(f"The defaults cannot be trained: {line.failed}")
    plan = search.plan
    first = Step(0, plan.rungs[0], 0)
    done = scores_of(tried)
    if minutes is None:
        return next_step(plan, done)
    if first not in done:
        return first
    of_epoch = tried[0].of_epoch
    if not (Path(search.folder) / "plan.json").exists():
        fitting = plan_within(plan, seconds=60 * minutes, of_epoch=of_epoch)
        if fitting is None:
            raise UsageError(
                f"minutes={minutes:g} is too short: a whole training takes about"
                f" {of_epoch * plan.rungs[-1] / 60:.1f} minutes, and the search ends in"
                f" {final_epochs(plan) // plan.rungs[-1]} of them. Give more minutes,"
                " or fewer epochs, finalists or final_seeds."
            )
        plan = fitting
        text = json.dumps(vars(plan), indent=1)
        write_over(Path(search.folder) / "plan.json", text)
    spent = sum(line.seconds for line in tried)
    leading = {0, *finalists(plan, done)}
    slowest = max(line.of_epoch for line in tried if line.trial in leading)
    left = 60 * minutes - spent - final_epochs(plan) * slowest
    return next_step(plan, done, hurry=left <= 0 and len(tried) > 1)


def scores_of(tried: Sequence[Tried]) -> dict[Step, float]:
    """Return the score of each training, infinite where it failed."""
    return {t.step: math.inf if t.failed else float(t.score or 0) for t in tried}


@stage_task()
def judge_trial(search: Search, step: Step, trained: Trained) -> Tried:
    """Measure one training on the validation images, and write it down."""
    dataset = Dataset(search.source)
    rows = val_rows(dataset)
    probs, classes = _answers(trained, dataset, rows)
    picked = np.take_along_axis(probs, np.maximum(classes, 0)[:, None], axis=1)[:, 0]
    # A class without a training image is never recognised.
    loss = -np.log(np.maximum(np.where(classes < 0, 0, picked), 1e-6))
    hit = (probs.argmax(axis=1) == classes).astype(np.float64)
    weights = _weights(search, classes)
    judged = judges_of(dataset, rows, seed=search.tune.search_seed)
    here = judged if step.seed else ~judged
    top1 = float(np.average(hit[here], weights=weights[here]))
    log_loss = float(np.average(loss[here], weights=weights[here]))
    by_loss = search.tune.measure == Measure.log_loss
    path = Path(search.folder) / "answers" / f"{trained.run}.npz"
    with storage_errors(str(path)):
        np.savez(path, loss=loss, hit=hit, weights=weights)
    line = Tried(
        trial=step.trial,
        epochs=step.epochs,
        seed=step.seed,
        run=trained.run,
        top1=top1,
        log_loss=log_loss,
        score=log_loss if by_loss else -top1,
        seconds=round(sum(epoch["seconds"] for epoch in trained.history), 3),
        epochs_run=trained.epochs_run,
    )
    record(search, line)
    # A finished run is found by its weights; what it could go on from takes the room.
    shutil.rmtree(Path(trained.folder) / "checkpoints", ignore_errors=True)
    return line


def _answers(trained: Trained, dataset: Dataset, rows: Array) -> tuple[Array, Array]:
    """Return calibrated probabilities (n, k) of `rows`, and their classes (n,)."""
    names = dataset.names("label_names")
    ids = [names.index(name) for name in trained.classes]
    classes = class_of_rows(dataset, ids, labels_to_learn(dataset))[rows]
    predictor = Predictor.load(trained.model)
    probs = np.concatenate([p for _, p in predict_rows(predictor, dataset, rows)])
    return probs.astype(np.float64), classes


def _weights(search: Search, classes: Array) -> Array:
    """Return how much each image counts, 1 on average: a balance counts classes alike.

    As when the epochs of a run are judged.
    """
    if search.train.balance == "none":
        return np.ones(len(classes))
    found = alike(classes)
    return np.asarray(found / found.mean())


def judges_of(dataset: Dataset, rows: Array, *, seed: int) -> Array:
    """Return which of `rows` judge the finalists; the others rank the trials.

    The best of many is the best partly by luck on the images that ranked it, so that
    these may not judge it too. Look-alikes stay on one side.
    """
    groups = dataset.column("group")[rows]
    known, place = np.unique(groups, return_inverse=True)
    order = np.random.default_rng((seed, 67)).permutation(len(known))
    return (order < len(known) // 2)[place.ravel()]


def failed_trial(
    search: Search, step: Step, error: SightlineError, *, seconds: float
) -> Tried | None:
    """Write down a training that its own settings made fail.

    Args:
        search: The search.
        step: Which training.
        error: What it ended in.
        seconds: What it took; they count.

    Returns:
        None where the error is not of the settings, such as a full disk.
    """
    if type(error) not in (SightlineError, UsageError, MemoryShort):
        return None
    line = Tried(
        trial=step.trial,
        epochs=step.epochs,
        seed=step.seed,
        seconds=round(seconds, 3),
        failed=str(error),
    )
    record(search, line)
    return line


def record(search: Search, line: Tried) -> None:
    """Append one line to the journal; a torn last line is cut off."""
    with storage_errors(search.folder), locked(Path(search.folder)):
        text = line.model_dump_json(exclude_defaults=True) + "\n"
        keep = _scan(search.journal)[1]
        append_line(search.journal, text.encode(), keep=keep)


def _scan(path: Path) -> tuple[list[Tried], int]:
    """Return the whole lines of a journal, and the bytes that they take."""
    found: list[Tried] = []
    size = 0
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    for line in lines:
        if not line.endswith(b"\n"):  # torn by a crash
            break
        found.append(Tried.model_validate_json(line))
        size += len(line)
    return found, size
