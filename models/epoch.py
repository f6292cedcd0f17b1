"""One epoch of training, and what may end it: a loss that is no number."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

from data_contracts.errors import SightlineError
from models import stopping
from models.distil import Teacher
from models.feed import Batch, BatchSource, val_batches
from models.imbalance import Counts
from models.objective import make_objective
from models.order import batch_sizes, cut_batches, epoch_order
from models.processes import agree, whole
from models.recipe import Recipe
from models.resizing import Growing
from models.room import enough_to_judge
from models.steps import Step, TrainState, eval_params, make_train_step

Record = dict[str, Any]
OnProgress = Callable[[int, int, float, str], None]
Keep = Callable[[TrainState, "Within"], None]
Validate = Callable[[TrainState], tuple[float | None, float | None]]
Watch = Callable[[TrainState], Record]
SHOWN = 8  # rows that an error names


@dataclasses.dataclass(frozen=True)
class FitSettings:
    """How the loop runs, whatever the recipe.

    Attributes:
        seed: Start of the order of images and of all augmentation.
        patience: Epochs without a better validation before stopping; 0 never stops.
        max_minutes: No epoch starts after this much training; None has no limit.
        group: Stored chunks mixed with one another; a streaming run holds about three
            such groups, so choose group * chunk * bytes of an image by memory.
        eval_batch_size: Most images in one validation step.
        checkpoint_minutes: A longer epoch is also saved on its way, whenever so many
            minutes have passed; None saves finished epochs only.
        profile: Steps that are traced into the folder `profile` of the run, see
            `step_profile`.
        shard: Whether the devices split weights, optimiser and average: "always",
            "never", or "auto" where they do not fit whole, see `room.chosen_layout`.
    """

    seed: int = 0
    patience: int = 0
    max_minutes: float | None = None
    group: int = 16
    eval_batch_size: int = 256
    # What changes no bit stays out of the text that a run's identity hangs on, and so
    # does what changes rounding alone, as the number of devices does.
    checkpoint_minutes: float | None = dataclasses.field(default=10.0, repr=False)
    profile: int = dataclasses.field(default=0, repr=False)
    shard: str = dataclasses.field(default="auto", repr=False)


@dataclasses.dataclass(frozen=True)
class Within:
    """What is known of an epoch that is under way.

    Attributes:
        step: Steps taken.
        metrics: Of each of them, as numbers.
        seconds: Since the epoch began, without those spent not running.
        waited: Seconds of them that the step waited for its batch.
    """

    step: int = 0
    metrics: tuple[dict[str, float], ...] = ()
    seconds: float = 0.0
    waited: float = 0.0


@dataclasses.dataclass(frozen=True)
class Run:
    """What every epoch of one run needs."""

    folder: Path
    identity: str
    source: BatchSource
    recipe: Recipe
    settings: FitSettings
    mesh: Mesh | None
    growing: Growing
    learning_rate: Callable[[Any], Any]
    report: OnProgress
    keep: frozenset[int] = frozenset()
    watch: Watch | None = None
    layout: Any = None

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Images that count in each step of an epoch."""
        return batch_sizes(self.source.epoch_size, self.recipe.batch_size)

    @property
    def val_weights(self) -> NDArray[np.float64]:
        """How much each validation image counts: a balance counts classes alike."""
        labels = self.source.labels[self.source.val_rows]
        plain = self.recipe.balance.kind == "none"
        return np.ones(len(labels)) if plain else stopping.alike(labels)

    def due(self, seconds: float) -> bool:
        """Whether a checkpoint is due so long after the last one."""
        minutes = self.settings.checkpoint_minutes
        return minutes is not None and seconds >= 60 * minutes

    def stop_reason(self, history: list[Record]) -> str:
        """Why no further epoch runs; empty to go on."""
        return stopping.stop_reason(
            history,
            epochs=self.recipe.epochs,
            patience=self.settings.patience,
            max_minutes=self.settings.max_minutes,
        )


def step_of(
    recipe: Recipe,
    network: tuple[Any, Any],
    *,
    counts: Counts,
    steps: int,
    seed: int,
    teacher: Teacher | None = None,
    **views: Any,
) -> Step:
    """Compile the step that `recipe` asks for, see `make_train_step`.

    Args:
        recipe: All but the optimiser and its schedule.
        network: The model's structure, and the optimiser.
        counts: Training images (k,) of each class.
        steps: Steps in all.
        seed: Start of the random stream.
        teacher: Whom the recipe learns from, if from anyone.
        views: `mean`, `std` and `mesh`.
    """
    objective = make_objective(
        recipe.loss,
        recipe.balance,
        smoothing=recipe.label_smoothing,
        counts=counts,
        steps=steps,
        distil=recipe.distil,
    )
    return make_train_step(
        *network,
        augment=recipe.augment,
        ema=recipe.ema,
        objective=objective,
        seed=seed,
        decay=recipe.loss.memory,
        sam_radius=recipe.sam_radius,
        accumulate=recipe.accumulate,
        precision=recipe.precision,
        remat=recipe.remat,
        teacher=teacher,
        adversarial=recipe.adversarial,
        **views,
    )


def train_epoch(
    run: Run,
    state: TrainState,
    batches: Iterator[Batch],
    epoch: int,
    validate: Validate,
    *,
    step: Step,
    begun: Within = Within(),
    keep: Keep = lambda state, within: None,
) -> tuple[TrainState, Record]:
    """Train one epoch and validate it.

    Args:
        run: The run.
        state: After the steps of `begun`; given away.
        batches: From the step after those.
        epoch: From 1.
        validate: Judges a state.
        step: Of this epoch.
        begun: What was done of the epoch before.
        keep: Called on the way when a checkpoint is due.
    """
    n, of = run.source.epoch_size, f"epoch {epoch}/{run.recipe.epochs}"
    sizes = run.sizes
    steps = len(sizes)
    saved = time.perf_counter()
    start, told, waited = saved - begun.seconds, 0.0, begun.waited
    metrics: list[dict[str, Any]] = list(begun.metrics)
    for k in range(begun.step, steps):
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        state, seen = step(state, *batch)
        metrics.append(seen)
        if k > 1:  # two steps may be under way; more would pile up batches
            check_step(run, metrics, epoch=epoch, index=k - 2)
        now = time.perf_counter()
        if now - told > 0.25:
            told, done = now, int(sizes[: k + 1].sum())
            _tell(run, (epoch - 1) * n + done, done / (now - start), of)
        if run.due(now - saved) and k + 1 < steps:
            for index in range(max(k - 1, 0), k + 1):
                check_step(run, metrics, epoch=epoch, index=index)
            keep(state, Within(k + 1, numbers(metrics), now - start, waited))
            saved = time.perf_counter()
    for k in range(max(steps - 2, 0), steps):
        check_step(run, metrics, epoch=epoch, index=k)
    updates = epoch * steps * run.recipe.adversarial.updates
    means = stopping.mean_of_steps(jax.device_get(metrics), sizes)
    trained = time.perf_counter() - start
    loss, top1 = validate(state)
    robust = {} if run.watch is None else run.watch(state)
    line = {
        "epoch": epoch,
        "step": epoch * steps,
        "train_loss": means["loss"],
        "train_top1": means["top1"],
        "val_loss": loss,
        "val_top1": top1,
        "val_images": stopping.effective_size(run.val_weights),
        **robust,
        "grad_norm": means["grad_norm"],
        "learning_rate": float(run.learning_rate(updates - 1)),
        "images_per_second": round(n / trained, 1),
        "seconds": round(agree(time.perf_counter() - start), 3),
        "data_stall": round(waited / trained, 4),
    }
    note = f"{of}, loss {means['loss']:.3f}"
    if top1 is not None:
        note += f", val top-1 {top1:.3f}"
    if robust:
        note += f", attacked {robust['val_robust']:.3f}"
    _tell(run, epoch * n, n / trained, note)
    return state, line


def numbers(metrics: list[dict[str, Any]]) -> tuple[dict[str, float], ...]:
    """Return the metrics of steps as Python's numbers, which are the same bits."""
    seen = jax.device_get(metrics)
    return tuple({key: float(line[key]) for key in line} for line in seen)


def _tell(run: Run, done: int, rate: float, note: str) -> None:
    run.report(done, run.recipe.epochs * run.source.epoch_size, rate, note)


def check_step(
    run: Run, metrics: list[dict[str, Any]], *, epoch: int, index: int
) -> None:
    """Raise SightlineError unless loss and gradient of a step are numbers.

    A gradient that is none would be in the weights of the epoch's checkpoint, though
    the loss beside it is a number.

    Args:
        run: The run.
        metrics: Of the steps so far; waits for that of this step.
        epoch: From 1.
        index: Step within the epoch, from 0.
    """
    seen = jax.device_get(metrics[index])
    wrong = [name for name in ("loss", "grad_norm") if not math.isfinite(seen[name])]
    if not wrong:
        return
    what = {"loss": "loss", "grad_norm": "gradient"}[wrong[0]]
    rows = np.sort(_rows(run, epoch=epoch, index=index))
    named = ", ".join(map(str, rows[:SHOWN])) + (", ..." if len(rows) > SHOWN else "")
    kept = f"The checkpoint of epoch {epoch - 1} stays. " if epoch > 1 else ""
    exact = "" if run.recipe.precision == "float32" else ", or set precision=float32"
    raise SightlineError(
        f"The training {what} became {float(seen[wrong[0]])} in epoch {epoch}/"
        f"{run.recipe.epochs}, step {index + 1} of {len(run.sizes)}, on {len(rows)}"
        f" images (rows {named}). {kept}Lower"
        f" learning_rate (now {run.recipe.learning_rate:g}) or clip (now"
        f" {run.recipe.clip:g}){exact}, and run again."
    )


def _rows(run: Run, *, epoch: int, index: int) -> NDArray[np.int64]:
    """Return the rows of the images that counted in a step."""
    shown = run.source.epoch_rows(seed=run.settings.seed, epoch=epoch - 1)
    order = epoch_order(
        shown,
        seed=run.settings.seed,
        epoch=epoch - 1,
        group=run.settings.group,
        chunk=run.source.chunk,
    )
    rows, weights = cut_batches(order, run.recipe.batch_size)
    return rows[index][weights[index] > 0]


def validator(run: Run, predict: Any) -> Validate:
    """Return a function giving the loss and top-1 of a state on the val rows."""
    labels = run.source.labels[run.source.val_rows]
    if not len(labels):
        return lambda state: (None, None)
    size = run.settings.eval_batch_size
    images, counts = val_batches(run.source, batch_size=size, mesh=run.mesh)

    def validate(state: TrainState) -> tuple[float, float]:
        weights = eval_params(state)
        with enough_to_judge(size):
            logits = [whole(predict(*weights, batch)) for batch in images()]
        found = np.concatenate(logits)[counts]
        return stopping.score(found, labels, weights=run.val_weights)

    return validate
