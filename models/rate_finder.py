"""Find a learning rate by raising it until the loss no longer falls."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from numpy.typing import NDArray

from data_contracts.errors import SightlineError, UsageError
from models.epoch import step_of
from models.feed import BatchSource, check_source, train_batches
from models.objective import memory_of
from models.optim import by_parts, make_optimizer
from models.order import steps_per_epoch
from models.recipe import Recipe
from models.room import Ahead, enough_memory
from models.steps import Channels, create_state

SMOOTHING = 0.9  # share of the earlier losses in the running mean
DIVERGED = 2.0  # times the least smoothed loss
LEAST = 10  # steps before a suggestion says anything


@dataclasses.dataclass(frozen=True)
class RateCurve:
    """The loss under a rising learning rate.

    Attributes:
        rates: Learning rate of each step taken, (k,).
        losses: Training loss of each step, (k,), smoothed.
        steepest: Rate at which the loss fell fastest before it was least.
        suggested: A peak for training: a third of the rate at which the loss was
            least, from where on steps are too wide.
        diverged: Whether the loss rose again, so that higher rates are ruled out.
    """

    rates: NDArray[np.float64]
    losses: NDArray[np.float64]
    steepest: float
    suggested: float
    diverged: bool


def find_rate(
    model: nnx.Module,
    source: BatchSource,
    *,
    recipe: Recipe,
    mean: Channels,
    std: Channels,
    seed: int,
    mesh: Mesh | None = None,
    low: float = 1e-6,
    high: float = 3.0,
    steps: int = 100,
) -> RateCurve:
    """Train a copy of `model` at exponentially rising rates (arXiv 1506.01186, 3.3).

    `model` stays as it is. It ends early where the loss is no number or twice its
    least. One training, so one draw: the figure is good to a factor of two or three.

    Args:
        model: Network as training would start from it.
        source: Images and labels; those that train are used.
        recipe: All but the learning rate, its schedule and the number of epochs.
        mean: Channel means of 0..1 pixels.
        std: Channel standard deviations of 0..1 pixels.
        seed: Start of the order of images and of all augmentation.
        mesh: Devices to split each batch over.
        low: First learning rate.
        high: Last learning rate.
        steps: Steps from one to the other.

    Raises:
        UsageError: `source` cannot be trained on, or there are too few steps.
        SightlineError: The loss fails within ten steps: `low` is too high.
        WorkspaceError: A batch does not fit the device.
    """
    check_source(source)
    if steps < LEAST:
        raise UsageError(f"A curve takes {LEAST} steps or more; came steps={steps}.")
    growth = (high / low) ** (1 / max(steps - 1, 1))
    each = recipe.adversarial.updates
    updates = steps * each
    rate = optax.exponential_decay(low, each, growth, staircase=True)
    tx, _ = make_optimizer(recipe, updates, rate=rate)
    model = nnx.clone(model)
    tx = by_parts(tx, recipe, model, steps=updates)
    rows, counts = len(source.train_rows), source.counts
    memory = memory_of(recipe.loss, rows=rows, num_classes=len(counts))
    graphdef, state = create_state(model, tx, mesh=mesh, memory=memory)
    step = Ahead(
        step_of(
            recipe,
            (graphdef, tx),
            counts=counts,
            steps=updates,
            seed=seed,
            mean=mean,
            std=std,
            mesh=mesh,
        ),
        recipe,
        mesh,
    )
    epochs = -(-steps // steps_per_epoch(source.epoch_size, recipe.batch_size))
    batches = train_batches(
        source,
        epochs=range(epochs),
        batch_size=recipe.batch_size,
        group=16,
        seed=seed,
        mesh=mesh,
        parts=recipe.accumulate,
    )
    losses: list[float] = []
    with contextlib.closing(batches), enough_memory(step):
        for _, batch in zip(range(steps), batches, strict=False):
            state, seen = step(state, *batch)
            losses.append(float(jax.device_get(seen["loss"])))
            if _diverged(losses):
                break
    return read_curve(low * growth ** np.arange(len(losses)), np.array(losses))


def read_curve(rates: NDArray[Any], losses: NDArray[Any]) -> RateCurve:
    """Return what the raw `losses` (k,) at rising `rates` (k,) say.

    Raises:
        SightlineError: They fail within ten steps.
    """
    smooth = _smooth(losses)
    kept = np.isfinite(smooth)
    rates, smooth = np.asarray(rates, np.float64)[kept], smooth[kept]
    if len(rates) < LEAST:
        raise SightlineError(
            f"The loss failed after {len(rates)} steps of rising learning rate, at"
            f" {rates[-1] if len(rates) else math.nan:g}. Start from a lower rate."
        )
    # The running mean of the first few steps is one of too few.
    least = max(int(smooth.argmin()), LEAST - 1)
    slope = np.gradient(smooth, np.log(rates))
    steepest = float(rates[LEAST // 2 + int(slope[LEAST // 2 : least + 1].argmin())])
    return RateCurve(
        rates=rates,
        losses=smooth,
        steepest=steepest,
        suggested=float(rates[least]) / 3,
        diverged=_diverged(list(losses)),
    )


def _diverged(losses: list[float]) -> bool:
    """Say whether the loss is no number, or twice what it was at best."""
    smooth = _smooth(np.array(losses))
    if not math.isfinite(smooth[-1]):
        return True
    return len(losses) > LEAST and bool(smooth[-1] > DIVERGED * smooth.min())


def _smooth(losses: NDArray[Any]) -> NDArray[np.float64]:
    """Return the running mean, free of what it started from."""
    mean, found = 0.0, []
    for count, loss in enumerate(np.asarray(losses, np.float64), 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        found.append(mean / (1 - SMOOTHING**count))
    return np.array(found)
