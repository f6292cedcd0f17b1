"""Which of several networks a training makes, and who teaches it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_contracts.config import Settings
from data_contracts.errors import UsageError
from models.recipe import Distil, cycle_ends, soup_epochs
from tasks.ensemble_settings import Combine, EnsembleSettings


class Role(Settings):
    """What a training is for, where it is not the only one.

    Attributes:
        number: Of the network, from 0; None where there is one.
        of: Networks in all.
        teacher: Folder of the weights that it learns from; "" for none.
        taught_by: What tells that teacher from others.
    """

    number: int | None = None
    of: int = 1
    teacher: str = ""
    taught_by: str = ""

    @property
    def label(self) -> str:
        """Name the training to a person."""
        if self.number is None:
            return "student" if self.teacher else "train"
        return f"{self.number + 1} of {self.of}"


def kept_epochs(settings: EnsembleSettings, *, epochs: int) -> list[int]:
    """Return the epochs (from 1) whose weights are kept beside the best.

    Args:
        settings: Of the ensemble.
        epochs: Of the training.
    """
    if settings.combine == Combine.snapshots:
        return cycle_ends(epochs, settings.networks)
    if settings.combine == Combine.soup:
        return soup_epochs(epochs, settings.networks)
    return []


def save_kept(folder: Path, kept: dict[int, Any], *, meta: dict[str, Any]) -> None:
    """Save the weights of those epochs beside the run's model."""
    from models.checkpoint import save_model

    plain = meta | {"temperature": 1.0}
    for epoch, (params, stats) in kept.items():
        save_model(folder / "members" / str(epoch), params, stats, meta=plain)


def members_in(meta: dict[str, Any]) -> list[Any]:
    """Return what each network of a stored model has for itself; [] where it is one."""
    from models.members import Member

    return [Member.of(each) for each in meta.get("members", [])]


def teacher_of(role: Role, distil: Distil, learner: dict[str, Any]) -> Any:
    """Return whom `fit` learns from, None where nobody teaches.

    Args:
        role: Of the training.
        distil: What the teacher's answers count.
        learner: What is kept of the network that learns: classes and image size.

    Raises:
        UsageError: The teacher does not know all classes.
    """
    if not role.teacher or not distil.weight:
        return None
    from flax import nnx

    from models.backbones import kept_model
    from models.checkpoint import load_model
    from models.distil import Teacher
    from models.members import Member, stacked

    params, stats, meta = load_model(Path(role.teacher))
    known, classes = meta["classes"], learner["classes"]
    unknown = [name for name in classes if name not in known]
    if unknown:
        raise UsageError(
            f"A teacher knows every class that is taught; {role.taught_by} does not"
            f" know {len(unknown)} of {len(classes)}: {', '.join(unknown[:5])}. Take a"
            " teacher that was trained on them, or leave those images out."
        )
    members = members_in(meta)
    if not members:
        members = [Member.of(meta | {"temperature": 1.0})]
        params, stats = stacked([(params, stats)])
    return Teacher(
        graphdef=nnx.split(kept_model(meta), nnx.Param, ...)[0],
        weights=(params, stats),
        members=tuple(members),
        order=tuple(known.index(name) for name in classes),
        temperature=distil.temperature,
        scale=meta["image_size"] / learner["image_size"],
    )
