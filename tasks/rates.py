"""Find the learning rate of each optimiser by one short training at rising rates."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from pydantic import Field

from data_contracts.config import digest
from data_contracts.errors import SightlineError
from data_contracts.references import DatasetRef, Reference
from data_contracts.store import Dataset, storage_errors
from models.durable import write_over
from models.recipe import RATES
from tasks.inference import devices
from tasks.lessons import (
    channel_statistics,
    class_ids,
    class_of_rows,
    labels_to_learn,
    pick_rows,
    weights_of,
)
from tasks.stage import stage_task
from tasks.step_settings import Optimizer, Schedule
from tasks.train import VERSION as TRAINING
from tasks.train import recipe_of
from tasks.train_settings import TrainSettings
from tasks.transfer import begin_from, content_of

log = logging.getLogger("sightline")

VERSION = 1
# A curve that falls by less than this share of its start says nothing of rates.
LEAST_FALL = 0.1


class RateFound(Reference):
    """What one optimiser's curve says, see `models/rate_finder.py`."""

    optimizer: str
    default: float
    suggested: float | None = None
    steepest: float | None = None
    diverged: bool = False
    rates: list[float] = Field(default_factory=list)
    losses: list[float] = Field(default_factory=list)
    failed: str = ""

    @property
    def doubt(self) -> str:
        """Why the suggestion says little, empty where it says something."""
        start = sum(self.losses[:10]) / 10
        if self.losses and min(self.losses) > (1 - LEAST_FALL) * start:
            return "the loss hardly fell, so this says little: keep the default"
        return "" if self.diverged else "the loss never rose: no rate is ruled out"


class RatesFound(Reference):
    """The curves of all optimisers, and where they are kept."""

    folder: str
    found: list[RateFound]


@stage_task(limit="gpu")
def find_rates(
    source: DatasetRef, train: TrainSettings, *, name: str, runs: str
) -> RatesFound:
    """Return a rate for each optimiser, found now or earlier.

    Args:
        source: A dataset after the stage `split`.
        train: How to train, all but the optimiser, its rate and its decay.
        name: Name of the model.
        runs: Folder of all runs.
    """
    home = Path(runs).parent
    begun = train.init and content_of(train.init, home=home)
    versions = [VERSION, TRAINING]
    key = digest(source.digest, train.identity(), begun, versions)[:12]
    folder = Path(runs) / f"{name}-rates-{key}"
    path = folder / "rates.json"
    if path.exists():
        return RatesFound.model_validate_json(path.read_text())
    found = []
    for optimizer in Optimizer:
        own: dict[str, Any] = {
            "optimizer": optimizer,
            "learning_rate": None,
            "weight_decay": None,
        }
        if train.schedule == Schedule.schedule_free:
            own["schedule"] = Schedule.constant
        line = _curve(source, train.model_copy(update=own), home=home)
        log.info("rate      %s: %s", optimizer, line.suggested or line.failed)
        found.append(line)
    with storage_errors(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        made = RatesFound(folder=str(folder), found=found)
        write_over(path, made.model_dump_json(indent=1))
    return made


def _curve(source: DatasetRef, train: TrainSettings, *, home: Path) -> RateFound:
    """Train one optimiser at rising rates, from where training would start."""
    devices()
    from models.rate_finder import find_rate
    from models.steps import device_mesh

    dataset = Dataset(source)
    rows = pick_rows(dataset, replay=None, seed=train.seed)
    recipe = recipe_of(train.of_the_network(), n=len(rows))
    model, feed, view = _start(dataset, rows, train, recipe, home=home)
    mesh = device_mesh(recipe.batch_size // recipe.accumulate)
    default = RATES[train.optimizer][0]
    try:
        curve = find_rate(
            model, feed, recipe=recipe, seed=train.seed, mesh=mesh, **view
        )
    except SightlineError as error:
        return RateFound(
            optimizer=str(train.optimizer), default=default, failed=str(error)
        )
    return RateFound(
        optimizer=str(train.optimizer),
        default=default,
        suggested=float(f"{curve.suggested:.2g}"),
        steepest=float(f"{curve.steepest:.2g}"),
        diverged=curve.diverged,
        rates=[float(f"{rate:.4g}") for rate in curve.rates],
        losses=[float(f"{loss:.5g}") for loss in curve.losses],
    )


def _start(
    dataset: Dataset, rows: Any, train: TrainSettings, recipe: Any, *, home: Path
) -> tuple[Any, Any, dict[str, Any]]:
    """Return the network as training starts it, its images, and how it sees them."""
    from flax import nnx

    from models.backbones import create_model
    from models.feed import BatchSource
    from models.warm_start import warm_start

    ids = class_ids(dataset, rows, known=[])
    names = dataset.names("label_names")
    head = recipe.balance.head
    model = create_model(
        train.preset,
        num_classes=len(ids),
        image_size=dataset.image_size,
        seed=train.seed,
        head=head,
        design=recipe.network,
    )
    begin = None
    if train.init is not None:
        classes = [names[label] for label in ids]
        begin = begin_from(
            train.init, train.preset, model, classes=classes, home=home, head=head
        )
        _, *parts = nnx.split(model, nnx.Param, ...)
        fresh = tuple(nnx.as_pure(part) for part in parts)
        for part in warm_start(fresh, (begin.params, begin.stats)):
            nnx.update(model, part)
    mean, std = (begin.mean, begin.std) if begin else channel_statistics(dataset, rows)
    feed = BatchSource(
        labels=class_of_rows(dataset, ids, labels_to_learn(dataset)),
        train_rows=rows,
        val_rows=rows[:0],
        read=dataset.take,
        chunk=dataset.chunk,
        resident=False,
        weights=weights_of(dataset) if dataset.has("weight") else None,
        sampling=recipe.balance.sampling,
        num_classes=len(ids),
    )
    return model, feed, {"mean": mean, "std": std}
