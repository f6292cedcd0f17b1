"""Train a network by epochs: resumable, validated, with early stopping."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from numpy.typing import NDArray

from data_contracts.errors import (
    SchemaError,
    UsageError,
)
from models import stopping
from models.checkpoint import (
    restore_epoch,
    restore_latest,
    save_checkpoint,
)
from models.distil import Teacher
from models.durable import locked, machine_errors, write_over
from models.epoch import (
    FitSettings,
    OnProgress,
    Record,
    Run,
    Within,
    step_of,
    train_epoch,
    validator,
)
from models.feed import (
    BatchSource,
    check_source,
    devices,
    place,
    train_batches,
)
from models.identity import run_identity
from models.objective import area_under_margin, memory_of
from models.optim import by_parts, make_optimizer
from models.order import steps_per_epoch
from models.processes import leads, meet
from models.recipe import Recipe
from models.resizing import Growing
from models.room import Ahead, chosen_layout, enough_memory
from models.shards import on_host, placed
from models.step_profile import StepProfile
from models.steps import (
    Channels,
    Step,
    TrainState,
    create_state,
    eval_params,
    make_predict,
)
from models.warm_start import warm_start
from models.watch import collapse_told, watch_of

__all__ = ["FitResult", "FitSettings", "fit"]


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What a finished run hands back.

    Attributes:
        params: Averaged weights of the best epoch, on the host.
        stats: Averaged batch statistics of the best epoch, on the host.
        history: The lines of `metrics.jsonl`.
        best_epoch: Epoch (from 1) that params and stats come from.
        stopped_early: Whether validation stopped getting better.
        epochs_run: Epochs finished, those before a resume included.
        images_per_second: Median over epochs of training speed.
        resumed_from: Epochs found finished at the start; 0 for a fresh run.
        notes: What a person should know: no validation, budget spent, a checkpoint
            skipped.
        aum: Area under the margin (n,) of each training row, NaN where it was never
            seen unmixed; up to the epoch that params come from.
        kept: Averaged (params, stats) of the epochs that were asked for, and ran.
    """

    params: Any
    stats: Any
    history: tuple[Record, ...]
    best_epoch: int
    stopped_early: bool
    epochs_run: int
    images_per_second: float
    resumed_from: int
    notes: tuple[str, ...]
    aum: NDArray[np.float32]
    kept: dict[int, tuple[Any, Any]] = dataclasses.field(default_factory=dict)


def fit(
    model: nnx.Module,
    source: BatchSource,
    *,
    recipe: Recipe,
    settings: FitSettings,
    mean: Channels,
    std: Channels,
    run_dir: Path,
    mesh: Mesh | None = None,
    init: tuple[Any, Any] | None = None,
    on_progress: OnProgress | None = None,
    keep: Collection[int] = (),
    teacher: Teacher | None = None,
    make_step: Callable[..., Step] = step_of,
) -> FitResult:
    """Train `model`, or go on with the run that `run_dir` holds.

    A run that was killed goes on after its last checkpoint, of a finished epoch or
    within one, and, on the same number of CPU devices, ends in the same bits as one
    that was not; a finished run returns at once.

    Args:
        model: Network with fresh weights; `recipe.preset` says no more of it than how
            small its images may be.
        source: Images and labels.
        recipe: Optimiser, schedule and augmentation; freezing, of a backbone only.
        settings: How the loop runs.
        mean: Channel means of 0..1 pixels.
        std: Channel standard deviations of 0..1 pixels.
        run_dir: Folder of `metrics.jsonl` and `checkpoints`; made if missing.
        mesh: Devices to split each batch over.
        init: Weights (params, stats) of an earlier model to start from; it may know
            fewer classes, see `warm_start`.
        on_progress: Called with images done, images in all, images per second and a
            note, a few times a second.
        keep: Epochs (from 1) whose weights are handed back besides the best.
        teacher: Whom to learn from, as `recipe.distil` says.
        make_step: Compiles the step; another one learns by another loss.

    Raises:
        UsageError: No training rows, rows without a label, `run_dir` holds a run with
            other settings, or the recipe asks for what does not go together.
        WorkspaceError: Another run uses `run_dir`, it cannot be written, or a batch
            does not fit the device.
        SightlineError: The loss or its gradient is no longer a number.
    """
    check_source(source)
    most, parts = min(recipe.batch_size, source.epoch_size), recipe.accumulate
    if parts > 1 and most < 2 * parts * devices(mesh):
        raise UsageError(
            f"A step takes every device's share of a batch in accumulate={parts} parts"
            f" of two images or more; came {most} images on {devices(mesh)} devices."
            " Lower accumulate, or raise batch_size."
        )
    steps = steps_per_epoch(source.epoch_size, recipe.batch_size)
    updates = recipe.epochs * steps * recipe.adversarial.updates
    counts = source.counts
    tx, learning_rate = make_optimizer(recipe, updates)
    tx = by_parts(tx, recipe, model, steps=updates)
    memory = memory_of(
        recipe.loss, rows=len(source.train_rows), num_classes=len(counts)
    )
    with on_host():
        graphdef, state = create_state(model, tx, memory=memory)
        if init is not None:
            params, stats = warm_start((state.params, state.stats), init)
            average, opt = (params, stats), tx.init(params)
            state = dataclasses.replace(
                state, params=params, stats=stats, opt=opt, ema=average
            )
    layout = chosen_layout(state, mesh, recipe, settings.shard)
    if not recipe.distil.weight:
        teacher = None
    if teacher is not None:
        teacher = dataclasses.replace(
            teacher, weights=place(teacher.weights, mesh, split=False)
        )
    views: dict[str, Any] = {"mean": mean, "std": std, "mesh": mesh}
    resident = len(source.train_rows) + len(source.val_rows)

    def build(side: int | None) -> Ahead:
        views_of = dataclasses.replace(recipe.augment, size=side)
        step = make_step(
            recipe if side is None else dataclasses.replace(recipe, augment=views_of),
            (graphdef, tx),
            counts=counts,
            steps=updates,
            seed=settings.seed,
            teacher=teacher,
            layout=layout,
            **views,
        )
        return Ahead(
            step,
            recipe,
            mesh,
            resident=source.resident * resident,
            split=layout is not None,
        )

    growing = Growing(recipe, build)
    begin: Any = init if teacher is None else (init, teacher.content)
    run = Run(
        folder=run_dir,
        identity=run_identity(source, (recipe, settings, mean, std), state, begin),
        source=source,
        recipe=recipe,
        settings=settings,
        mesh=mesh,
        growing=growing,
        learning_rate=learning_rate,
        report=on_progress or (lambda done, total, rate, note: None),
        keep=frozenset(keep),
        watch=watch_of(recipe, source, graphdef, **views),
        layout=layout,
    )
    with machine_errors(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
    alone = locked(run_dir, patience=0) if leads() else contextlib.nullcontext()
    with alone, enough_memory(growing.full):
        return _resume(run, state, make_predict(graphdef, **views))


def _resume(run: Run, state: Any, predict: Any) -> FitResult:
    found = restore_latest(run.folder, state)
    notes, history = list(found.notes), found.memory.get("history", [])
    if run.layout is not None:
        notes.append(f"{devices(run.mesh)} devices split weights and optimiser")
    begun = Within()
    if found.state is not None:
        state = found.state
        if found.memory["identity"] != run.identity:
            raise UsageError(
                f"{run.folder} holds a run with other settings, images or network. "
                "Give another run folder, or remove this one to start over."
            )
        begun = Within(**found.memory.get("within", {}))
    meet("restored")  # before the first of several processes writes
    resumed_from = len(history)
    # A line may be ahead of its checkpoint: the epoch it tells of runs again.
    _tell(run, history)
    if not run.stop_reason(history):
        state, history = _train(run, state, history, predict, begun)
    return _result(run, state, history, notes, resumed_from)


def _train(
    run: Run, state: Any, history: list[Record], predict: Any, begun: Within
) -> tuple[TrainState, list[Record]]:
    # Copies, since the step gives the buffers of the state away.
    if run.layout is None:
        state = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state)
        state = place(state, run.mesh, split=False)
    else:
        state = placed(state, run.layout)
    batches = train_batches(
        run.source,
        epochs=range(len(history), run.recipe.epochs),
        batch_size=run.recipe.batch_size,
        group=run.settings.group,
        seed=run.settings.seed,
        mesh=run.mesh,
        parts=run.recipe.accumulate,
        first=begun.step,
    )
    profile = StepProfile(run, run.folder / "profile")
    watched = profile.batches(batches)
    with contextlib.closing(batches), contextlib.closing(profile):
        validate = validator(run, predict)
        while not run.stop_reason(history):
            state, line = train_epoch(
                run,
                state,
                watched,
                len(history) + 1,
                validate,
                step=profile.at(len(history)),
                begun=begun,
                keep=functools.partial(_keep, run, history),
            )
            begun = Within()
            before, history = stopping.best_epoch(history), [*history, line]
            _tell(run, history)
            best = stopping.best_epoch(history)
            # Should the last be damaged, the one before it needs its own best.
            kept = {len(history) - 1, best, before} | run.keep
            _save(run, state, history, keep=kept)
    meet("saved")
    profile.write(history)
    return state, history


def _save(
    run: Run,
    state: TrainState,
    history: list[Record],
    *,
    keep: set[int],
    within: Within | None = None,
) -> None:
    if not leads():
        return
    memory = {
        "identity": run.identity,
        "best_epoch": stopping.best_epoch(history),
        "history": history,
    }
    if within is not None:
        memory["within"] = dataclasses.asdict(within)
    save_checkpoint(
        run.folder,
        state,
        epoch=len(history),
        step=within.step if within else 0,
        memory=memory,
        keep=keep,
    )


def _tell(run: Run, history: list[Record]) -> None:
    if leads():
        write_history(run.folder, history)


def _keep(run: Run, history: list[Record], state: TrainState, within: Within) -> None:
    _save(run, state, history, keep=set(), within=within)


def _result(
    run: Run, state: Any, history: list[Record], notes: list[str], resumed_from: int
) -> FitResult:
    best, reason = stopping.best_epoch(history), run.stop_reason(history)
    if history[-1]["val_top1"] is None:
        notes.append("no validation images: no early stop, weights of the last epoch")
    elif run.recipe.balance.kind != "none":
        notes.append("validation figures count every class alike, as the balance asks")
    if reason == "collapse":
        notes.append(collapse_told(history, recipe=run.recipe))
    if reason == "budget":
        notes.append(f"max_minutes is spent: stopped after {len(history)} epochs")
    if best != len(history):
        try:
            state = restore_epoch(run.folder, state, epoch=best).state
        except SchemaError as error:
            notes.append(f"weights of the last epoch, not of the best: {error}")
            best = len(history)
    params, stats = jax.device_get(eval_params(state))
    kept, damaged = _kept(run, state, epochs=len(history))
    notes += damaged
    return FitResult(
        params=params,
        stats=stats,
        history=tuple(history),
        best_epoch=best,
        stopped_early=reason == "early",
        epochs_run=len(history),
        images_per_second=float(np.median([h["images_per_second"] for h in history])),
        resumed_from=resumed_from,
        notes=tuple(notes),
        aum=area_under_margin(jax.device_get(state.memory["margin"])),
        kept=kept,
    )


def _kept(
    run: Run, state: Any, *, epochs: int
) -> tuple[dict[int, tuple[Any, Any]], list[str]]:
    """Return the weights of kept epochs, and what is said of damaged ones."""
    kept, damaged = {}, []
    for epoch in sorted(each for each in run.keep if each <= epochs):
        try:
            found = restore_epoch(run.folder, state, epoch=epoch).state
        except SchemaError as error:
            damaged.append(f"epoch {epoch} is left out: {error}")
        else:
            kept[epoch] = jax.device_get(eval_params(found))
    if damaged:
        left = ", ".join(map(str, kept)) or "none"
        damaged.append(f"epochs that are left to put together: {left}")
    return kept, damaged


def write_history(run_dir: Path, history: Sequence[Record]) -> None:
    """Write the lines of `metrics.jsonl`."""
    text = "".join(json.dumps(line) + "\n" for line in history)
    write_over(run_dir / "metrics.jsonl", text)
