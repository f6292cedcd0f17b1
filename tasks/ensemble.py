"""Make one model of several networks: stack them, or average their weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_contracts.config import digest
from data_contracts.dataset import Array
from data_contracts.errors import ContractError
from data_contracts.references import DatasetRef
from data_contracts.store import Dataset
from tasks.calibration import fit_temperature
from tasks.ensemble_settings import Combine, EnsembleSettings
from tasks.inference import BATCH, Predictor, devices, predict_rows
from tasks.inpaint import keep_beside
from tasks.lessons import class_of_rows, labels_to_learn, pick_rows
from tasks.loss_settings import HeadKind
from tasks.members import Role
from tasks.split import VAL
from tasks.stage import stage_task
from tasks.train import Trained, run_once, temperature_of
from tasks.train_settings import TrainSettings
from tasks.transfer import triple, version_folder

# Of a soup since 2: statistics of its batch norms are measured anew.
VERSION, SOUP = 1, 2
# Training images that they are measured on, at most: 1,000 to 10,000 are plenty (Wu and
# Johnson 2021, arXiv 2105.07576, section 3), and they wait in memory.
MEASURED = 2_048

Weights = tuple[Any, Any]


class Loaded(NamedTuple):
    """A network as `load_model` gives it."""

    params: Any
    stats: Any
    meta: dict[str, Any]


def member_settings(
    settings: TrainSettings, *, started: bool
) -> list[tuple[TrainSettings, Role]]:
    """Return how each network of an ensemble is trained.

    Snapshots, and a soup from scratch, come of one training; other networks have one
    each, with seeds that count up.

    Args:
        settings: How to train.
        started: Whether training starts from a version.
    """
    own = settings.ensemble
    started = started or settings.init is not None
    one = own.combine == Combine.soup and not started
    if one or own.combine == Combine.snapshots:
        kept = EnsembleSettings(combine=own.combine, networks=own.networks)
        return [(plain(settings, kept), Role())]
    return [
        (
            plain(settings).model_copy(update={"seed": settings.seed + number}),
            Role(number=number, of=own.networks),
        )
        for number in range(own.networks)
    ]


def plain(
    settings: TrainSettings, ensemble: EnsembleSettings = EnsembleSettings()
) -> TrainSettings:
    """Return the settings of one training; its head and views wait for the whole."""
    update: dict[str, Any] = {"ensemble": ensemble}
    if settings.ensemble.distil or settings.ensemble.as_one:
        update |= {"head": HeadKind.trained, "thresholds": False}
        update["network"] = settings.network.without_views()
    return settings.model_copy(update=update)


def student_settings(settings: TrainSettings) -> TrainSettings:
    """Return how the one network is trained that an ensemble or a version teaches."""
    own = settings.ensemble
    taught = EnsembleSettings().model_copy(
        update={
            "distil": True,
            "distil_weight": own.distil_weight,
            "distil_temperature": own.distil_temperature,
        }
    )
    return settings.model_copy(update={"ensemble": taught})


def pupil_of(teacher: Trained | str, *, runs: str) -> Role:
    """Return the role of whom a run, or the version NAME@VERSION, teaches.

    Raises:
        UsageError: There is no such version.
    """
    if isinstance(teacher, Trained):
        return Role(teacher=str(teacher.model), taught_by=teacher.run)
    folder, run = version_folder(teacher, home=Path(runs).parent, said="teacher")
    return Role(teacher=str(folder), taught_by=f"{teacher} ({run})")


@stage_task(limit="gpu")
def combine_networks(
    source: DatasetRef,
    members: Sequence[Trained],
    settings: EnsembleSettings,
    *,
    parts: Sequence[DatasetRef],
    freeze: str | None = None,
) -> Trained:
    """Return one model of finished trainings, in a run of its own.

    Args:
        source: The dataset to learn from.
        members: The runs, or the one run that kept several epochs.
        settings: Of the ensemble.
        parts: The dataset that each run saw.
        freeze: What the runs did not train.

    Raises:
        ContractError: The networks know other classes.
    """
    if any(member.classes != members[0].classes for member in members):
        raise ContractError(
            "The networks of an ensemble must know the same classes, and images of"
            f" some are too few for {len(members)} folds. Set combine=seeds."
        )
    runs = [member.run for member in members]
    version = SOUP if settings.combine == Combine.soup else VERSION
    name = digest(settings.combine, runs, version)[:6]
    first = Path(members[0].folder)
    return run_once(
        first.with_name(f"{first.name}-{settings.combine}-{name}"),
        lambda folder: _combined(
            source, members, settings.combine, parts, folder, freeze=freeze
        ),
    )


def _combined(
    source: DatasetRef,
    members: Sequence[Trained],
    combine: Combine,
    parts: Sequence[DatasetRef],
    folder: Path,
    *,
    freeze: str | None,
) -> Trained:
    devices()
    from models.checkpoint import load_model, save_model

    folders, said = networks_of(members, combine)
    networks = [Loaded(*load_model(each)) for each in folders]
    judge = Judge(source, members[0].classes)
    if combine == Combine.soup:
        chief, made, note = _soup(networks, judge, said, freeze=freeze)
    else:
        chief, made, note = 0, _stack(networks), _cost(len(networks))
        if combine == Combine.folds:
            made, more = _out_of_fold(made, networks, parts, members[0].classes)
            note += more
    lead = members[min(chief, len(members) - 1)]
    if combine != Combine.folds:
        temperature = temperature_of(*made, judge.dataset, judge.rows, judge.labels)
        made = made._replace(meta=made.meta | {"temperature": temperature})
    save_model(folder / "model", made.params, made.stats, meta=made.meta)
    keep_beside(folder / "model", judge.dataset, runs=folder.parent)
    for file in ("metrics.jsonl", "dynamics.npz"):
        shutil.copy(Path(lead.folder) / file, folder / file)
    notes = list(members[0].notes)
    if len(members) > 1:
        named = zip(said, members, strict=True)
        notes = [f"{name}: {text}" for name, each in named for text in each.notes]
    return lead.model_copy(
        update={
            "run": folder.name,
            "folder": str(folder),
            "notes": [note, *notes],
        }
    )


def networks_of(
    members: Sequence[Trained], combine: Combine
) -> tuple[list[Path], list[str]]:
    """Return the folders of all networks, and what to call each.

    The best epoch of a run always goes into its soup.
    """
    if len(members) > 1:
        count = len(members)
        return (
            [member.model for member in members],
            [f"network {number + 1} of {count}" for number in range(count)],
        )
    (run,) = members
    kept = Path(run.folder) / "members"
    found = {int(path.name): path for path in kept.glob("[0-9]*")}
    if combine == Combine.soup or not found:  # a run cut short may have kept none
        found.setdefault(run.best_epoch, run.model)
    return [found[e] for e in sorted(found)], [f"epoch {e}" for e in sorted(found)]


class Judge:
    """Validation images, and how good a network is on them."""

    def __init__(self, source: DatasetRef, classes: list[str]) -> None:
        self.dataset = Dataset(source)
        names = self.dataset.names("label_names")
        ids = [names.index(name) for name in classes]
        labels = class_of_rows(self.dataset, ids, labels_to_learn(self.dataset))
        use = self.dataset.column("use")
        self.rows = np.flatnonzero((use == VAL) & (labels >= 0))
        self.labels: Array = labels[self.rows]

    def probs(self, predictor: Predictor) -> Array:
        """Return the predictor's answers (n k)."""
        found = [p for _, p in predict_rows(predictor, self.dataset, self.rows)]
        return np.concatenate([np.empty((0, len(predictor.classes)), "f4"), *found])

    def score(self, predictor: Predictor) -> tuple[float, float]:
        """Return loss and top-1."""
        from models.stopping import score

        logits = np.log(np.maximum(self.probs(predictor), 1e-30))
        return score(logits, self.labels)


def _soup(
    networks: list[Loaded], judge: Judge, said: list[str], *, freeze: str | None
) -> tuple[int, Loaded, str]:
    from models.ensemble import greedy_soup

    last = networks[-1]
    if not len(judge.rows):
        note = "no validation images: no soup, the last network alone"
        return len(networks) - 1, last, note
    shell = Predictor(*last._replace(meta=last.meta | {"temperature": 1.0}))
    weights, chosen = greedy_soup(
        [(each.params, each.stats) for each in networks],
        lambda weights: judge.score(shell.with_weights(*weights)),
        settle=_measured_anew(last.meta, judge.dataset, freeze=freeze),
    )
    named = ", ".join(said[i] for i in chosen)
    note = f"A soup of {len(chosen)} of {len(networks)}, the best first: {named}."
    return chosen[0], Loaded(*weights, last.meta), note


def _measured_anew(
    meta: dict[str, Any], dataset: Dataset, *, freeze: str | None
) -> Callable[[Weights], Weights]:
    """Return what measures batch statistics of averaged weights on training images.

    The images come as they are judged: whole, not as random views.

    Args:
        meta: Of the networks.
        dataset: Where the training images are.
        freeze: What the networks did not train, and whose statistics stay.
    """
    from models.backbones import kept_model
    from models.batch_norms import has_batch_norm, make_statistics, remeasured
    from models.feed import place
    from models.optim import frozen_parts
    from models.order import cut_batches
    from models.steps import device_mesh

    plain = dict(meta.get("network") or {}) | {"drop_path": 0.0}
    model = kept_model(meta | {"network": plain})
    if not has_batch_norm(model) or freeze == "backbone":
        return lambda weights: weights
    model.frozen = frozen_parts(freeze, stages=model.stages)
    mean, std = (triple(meta[name]) for name in ("mean", "std"))
    rng = np.random.default_rng(0)
    rows = rng.permutation(pick_rows(dataset, replay=None, seed=0))[:MEASURED]
    mesh = device_mesh(min(BATCH, len(rows)))
    statistics = make_statistics(model, mean=mean, std=std, mesh=mesh)
    images = dataset.take(np.sort(rows))
    cut, _ = cut_batches(rng.permutation(len(images)), BATCH, multiple=mesh.size)
    batches = [place(images[each], mesh, split=True) for each in cut]
    return lambda weights: remeasured(statistics, weights, batches)


def _stack(networks: list[Loaded]) -> Loaded:
    from models.members import stacked

    params, stats = stacked([(each.params, each.stats) for each in networks])
    own = [
        {"mean": each.meta["mean"], "std": each.meta["std"], "temperature": 1.0}
        for each in networks
    ]
    meta = networks[0].meta | {"members": own, "temperature": 1.0}
    return Loaded(params, stats, meta)


def _cost(count: int) -> str:
    return (
        f"{count} networks answer as one: {count} times the weights, and as long for an"
        " answer."
    )


def _out_of_fold(
    made: Loaded,
    networks: list[Loaded],
    parts: Sequence[DatasetRef],
    classes: list[str],
) -> tuple[Loaded, str]:
    """Give all members the temperature of answers to images they have not seen.

    The mean of calibrated answers has no temperature of its own: every image of
    training and validation has been seen by all members but one.
    """
    probs, labels = [], []
    for network, part in zip(networks, parts, strict=True):
        judge = Judge(part, classes)
        probs.append(judge.probs(Predictor(*with_temperature(network, 1.0))))
        labels.append(judge.labels)
    every, truth = np.concatenate(probs), np.concatenate(labels).astype(np.int64)
    if not len(truth):
        return made, ""
    temperature = fit_temperature(every, truth)
    own = [each | {"temperature": temperature} for each in made.meta["members"]]
    right = float((every.argmax(1) == truth).mean())
    return (
        made._replace(meta=made.meta | {"members": own}),
        f" On {len(truth):,} images of train and val, each judged by the network that"
        f" had not seen it, top-1 is {right:.3f}.",
    )


def with_temperature(network: Loaded, temperature: float) -> Loaded:
    """Return `network` with another temperature."""
    return network._replace(meta=network.meta | {"temperature": temperature})
