"""Attack candidate and champion on the same test images, for a check of the gate."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_contracts.dataset import NONE, Array
from data_contracts.store import Dataset
from models.durable import write_over
from tasks.adversarial import Stand, withstand
from tasks.arena import Rights, write_rights
from tasks.gate_settings import Adversarial
from tasks.inference import Predictor
from tasks.masking import MUCH
from tasks.robustness import evenly

WHO = ("candidate", "champion")
TOLD = 160  # characters of an error in a reason


def attack_both(
    dataset: Dataset,
    rows: Array,
    labels: Array,
    groups: Array,
    models: tuple[Predictor, Predictor],
    check: Adversarial,
    folder: Path,
) -> None:
    """Keep who is right under attack in `folder`, or why that cannot be said.

    Each model is attacked for itself, with all that is known of it. What was kept
    before is not made again.

    Args:
        dataset: Where the images are.
        rows: Test images (n,), sorted.
        labels: Class of each in the candidate's order, -1 where there is none.
        groups: Duplicate group of each.
        models: Candidate and champion.
        check: Which attack, on how many images.
        folder: For attacked-ATTACK.npz (`read_rights`) or attacked-ATTACK.txt.
    """
    kept = folder / f"attacked-{check.attack}.npz"
    if kept.exists():
        return
    some = evenly(np.flatnonzero(labels >= 0), check.images)
    names = np.array(models[0].classes, object)[labels[some]]
    reason = _unfit(models) if len(some) else "No test image has a trained label."
    stands: list[Stand] = []
    for who, model in zip(WHO, models, strict=True):
        if reason:
            break
        place = {name: i for i, name in enumerate(model.classes)}
        own = np.array([place.get(name, NONE) for name in names])
        try:
            stands.append(withstand(model, dataset, rows[some], own, check.asked))
        except (TypeError, ValueError, NotImplementedError) as error:
            said = (str(error).splitlines() or [type(error).__name__])[0][:TOLD]
            reason = f"The {who}'s network cannot be differentiated ({said})."
            break
        if stands[-1].silent > MUCH * len(own):
            reason = (
                f"The {who}'s answers to {stands[-1].silent:,} of {len(own):,} images"
                " have no gradient that an attack could follow; attack=square needs"
                " none."
            )
    if reason:
        write_over(kept.with_suffix(".txt"), reason)
        return
    notes = [
        f"{who}: {said}."
        for who, model, stand in zip(WHO, models, stands, strict=True)
        for said in stand.notes(check.asked, num_classes=len(model.classes))
    ]
    right = [stand.attacked.astype(np.float64) for stand in stands]
    group = np.unique(groups[some], return_inverse=True)[1].ravel()
    write_rights(kept, Rights(right[0], right[1], group, note=" ".join(notes)))


def _unfit(models: tuple[Predictor, Predictor]) -> str:
    """Say which model no attack can turn, '' if both can be attacked."""
    for who, model in zip(WHO, models, strict=True):
        if len(model.classes) < 2:
            return f"The {who} knows a single class, so no change turns its answer."
    return ""
