"""Train the network of `segment` on occluders made inside the compiled step."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from data_contracts.errors import SightlineError, UsageError
from models.checkpoint import restore_latest, save_checkpoint
from models.durable import locked, machine_errors, write_over
from models.feed import BatchSource, place, train_batches
from models.occlude import image_keys, occlude
from models.optim import muon
from models.order import steps_per_epoch
from models.schedules import warmup_cosine
from models.segment import UNet
from models.steps import (
    AXIS,
    Channels,
    TrainState,
    create_state,
    eval_params,
    moved_average,
    sum_over,
)

Record = dict[str, Any]
OnProgress = Callable[[int, int, float, str], None]
# Stored chunks mixed with one another, as in `fit`.
GROUP = 16


@dataclasses.dataclass(frozen=True)
class SegmentSettings:
    """How the network learns.

    Attributes:
        families: Occluders to learn from, of `recipe.OCCLUDERS`.
        most: Largest covered share of an image.
        bare: Share of images that are left as they are.
        epochs: Passes over the images.
        batch_size: Images in a step.
        learning_rate: Peak of warm-up and cosine, see `optim.muon`.
        ema: Decay of the average of weights that is kept.
        seed: Of weights, order and occluders.
    """

    families: tuple[str, ...]
    most: float = 0.5
    bare: float = 0.2
    epochs: int = 40
    batch_size: int = 32
    learning_rate: float = 4e-3
    ema: float = 0.995
    seed: int = 0


def fit_segment(
    source: BatchSource,
    *,
    settings: SegmentSettings,
    mean: Channels,
    std: Channels,
    run_dir: Path,
    mesh: Mesh | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[Any, Any, list[Record]]:
    """Train a network that finds occluders, or go on with the run in `run_dir`.

    A run that was killed goes on after its last finished epoch and ends in the same
    bits as one that was not.

    Args:
        source: Images; the labels are the rows themselves, which seed the occluders.
        settings: How it learns.
        mean: Channel means of 0..1 pixels.
        std: Channel standard deviations of 0..1 pixels.
        run_dir: Folder of `metrics.jsonl` and `checkpoints`; made if missing.
        mesh: Devices to split each batch over.
        on_progress: Called with images done, images in all, images per second, a note.

    Returns:
        Averaged weights, averaged batch statistics, and a record an epoch.

    Raises:
        UsageError: `run_dir` holds a run with other settings or images.
        SightlineError: The loss is no longer a number.
    """
    n = len(source.train_rows)
    steps = steps_per_epoch(n, settings.batch_size)
    tx = muon(warmup_cosine(settings.learning_rate, settings.epochs * steps))
    graphdef, state = create_state(UNet(rngs=nnx.Rngs(settings.seed)), tx)
    step = make_step(graphdef, tx, settings=settings, mean=mean, std=std, mesh=mesh)
    identity = _identity(source, settings, mean, std)
    with machine_errors(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
    with locked(run_dir, patience=0):
        state, history = _resumed(run_dir, state, identity)
        # Copies, since the step gives the buffers of the state away.
        state = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state)
        state = place(state, mesh, split=False)
        batches = train_batches(
            source,
            epochs=range(len(history), settings.epochs),
            batch_size=settings.batch_size,
            group=GROUP,
            seed=settings.seed,
            mesh=mesh,
        )
        with contextlib.closing(batches):
            for epoch in range(len(history) + 1, settings.epochs + 1):
                state, line = _epoch(step, state, batches, steps, epoch=epoch)
                history = [*history, line]
                _keep(run_dir, state, history, identity)
                if on_progress:
                    note = f"epoch {epoch}/{settings.epochs}, loss {line['loss']:.3f}"
                    rate = n / line["seconds"]
                    on_progress(epoch * n, settings.epochs * n, rate, note)
    params, stats = jax.device_get(eval_params(state))
    return params, stats, history


def _resumed(
    run_dir: Path, state: TrainState, identity: str
) -> tuple[TrainState, list[Record]]:
    found = restore_latest(run_dir, state)
    if not found.epoch:
        return state, []
    if found.memory["identity"] != identity:
        raise UsageError(
            f"{run_dir} holds a run with other settings or images. Remove it to start"
            " over."
        )
    return found.state, found.memory["history"]


def _epoch(
    step: Any, state: TrainState, batches: Any, steps: int, *, epoch: int
) -> tuple[TrainState, Record]:
    start, losses = time.perf_counter(), []
    for k in range(steps):
        images, rows, weights, _ = next(batches)
        state, loss = step(state, images, rows, weights)
        losses.append(loss)
        if k > 1:  # two steps may be under way; more would pile up batches
            jax.block_until_ready(losses[k - 2])  # type: ignore[no-untyped-call]
    mean = float(np.mean(jax.device_get(losses)))
    if not math.isfinite(mean):
        raise SightlineError(
            f"The loss became {mean} in epoch {epoch}. Lower learning_rate and run"
            " again."
        )
    seconds = round(time.perf_counter() - start, 3)
    return state, {"epoch": epoch, "loss": mean, "seconds": seconds}


def _keep(run_dir: Path, state: Any, history: list[Record], identity: str) -> None:
    write_over(
        run_dir / "metrics.jsonl", "".join(json.dumps(x) + "\n" for x in history)
    )
    save_checkpoint(
        run_dir,
        state,
        epoch=len(history),
        memory={"identity": identity, "history": history},
        keep={len(history) - 1},
    )


def make_step(
    graphdef: nnx.GraphDef,
    tx: optax.GradientTransformation,
    *,
    settings: SegmentSettings,
    mean: Channels,
    std: Channels,
    mesh: Mesh | None = None,
) -> Callable[..., tuple[TrainState, jax.Array]]:
    """Compile one optimiser step; `state` is donated.

    What covers an image depends on the seed, its row and the step; pasted objects come
    from its neighbour in the batch.

    Returns:
        step(state, images uint8 (n h w c), rows (n,), weights (n,)) to the next state
        and the mean cross-entropy of its pixels.
    """

    def local(state: TrainState, images: Any, rows: Any, weights: Any) -> Any:
        pixels, mask = _views(images, rows, state.step, settings)
        pixels = (pixels - jnp.array(mean)) / jnp.array(std)
        total = sum_over(weights.sum(), mesh)

        def loss(params: Any) -> Any:
            model = nnx.merge(graphdef, params, state.stats, copy=True)
            logits = model(pixels, train=True)
            cost = optax.sigmoid_binary_cross_entropy(logits, mask).mean((1, 2))
            stats = nnx.as_pure(nnx.state(model, nnx.Not(nnx.Param)))
            return jnp.sum(cost * weights) / total, stats

        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        value, grads = sum_over((value, grads), mesh)
        stats = stats if mesh is None else jax.lax.pmean(stats, AXIS)
        updates, opt = tx.update(grads, state.opt, state.params)
        params = optax.apply_updates(state.params, updates)
        average = moved_average(state.ema, (params, stats), settings.ema, state.step)
        after = {"params": params, "stats": stats, "opt": opt, "ema": average}
        return dataclasses.replace(state, step=state.step + 1, **after), value

    if mesh is None:
        return jax.jit(local, donate_argnums=0)
    whole, part = PartitionSpec(), PartitionSpec(AXIS)
    split = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(whole, part, part, part),
        out_specs=whole,
        check_vma=False,  # gradients are summed above, by hand
    )
    everywhere, shares = NamedSharding(mesh, whole), NamedSharding(mesh, part)
    return jax.jit(
        split,
        in_shardings=(everywhere, shares, shares, shares),
        out_shardings=everywhere,
        donate_argnums=0,
    )


def _views(
    images: jax.Array, rows: jax.Array, step: jax.Array, settings: SegmentSettings
) -> tuple[jax.Array, jax.Array]:
    """Mirror half of the images and cover a part of most."""
    fold = jax.vmap(functools.partial(jax.random.fold_in, data=step))
    keys = jax.vmap(jax.random.split)(fold(image_keys(settings.seed, rows)))
    lots = jax.vmap(lambda key: jax.random.uniform(key, (3,)))(keys[:, 0])
    pixels = images.astype(jnp.float32) / 255
    mirror = (lots[:, 0] < 0.5)[:, None, None, None]
    pixels = jnp.where(mirror, pixels[:, :, ::-1], pixels)
    share = jnp.where(lots[:, 1] < settings.bare, 0, lots[:, 2] * settings.most)
    donors = jnp.roll(pixels, 1, axis=0)
    return occlude(pixels, donors, keys[:, 1], share, families=settings.families)


def _identity(source: BatchSource, settings: SegmentSettings, *views: Channels) -> str:
    seen = hashlib.sha256(repr((settings, views, source.chunk)).encode())
    seen.update(source.train_rows.astype(np.int64).tobytes())
    return seen.hexdigest()
