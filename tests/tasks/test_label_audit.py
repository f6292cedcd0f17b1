"""The audit finds planted errors, and what follows stays within its bounds."""

from pathlib import Path

import numpy as np

from data_contracts.store import Dataset
from tasks.clean import CleanSettings, clean_dataset
from tasks.embed import EmbedSettings, embed_dataset
from tasks.label_audit import AuditSettings, audit_dataset
from tasks.split import SplitSettings, split_dataset
from tests.datasets import make_dataset

N = 240


def pictures(n: int = N) -> tuple[np.ndarray, np.ndarray]:
    """Images of three stripes' directions, and which one each is."""
    rng = np.random.default_rng(1)
    kind = np.arange(n) % 3
    y, x = np.mgrid[:32, :32]
    phase = rng.random((n, 1, 1)) * 6
    along = np.select(
        [kind[:, None, None] == 0, kind[:, None, None] == 1], [x, y], x + y
    )
    wave = 127 + 90 * np.sin(along / 1.5 + phase) + rng.normal(0, 12, (n, 32, 32))
    return np.repeat(wave.clip(0, 255).astype(np.uint8)[..., None], 3, 3), kind


def audited(tmp_path: Path, settings: AuditSettings = AuditSettings(), wrong: int = 20):
    images, truth = pictures()
    label = truth.copy()
    label[:wrong] = (truth[:wrong] + 1) % 3
    source = make_dataset(tmp_path, N, images=images, label=label, names="abc")
    source = clean_dataset(source, CleanSettings(near_distance=0))
    source = split_dataset(source, SplitSettings())
    source = embed_dataset(
        source, EmbedSettings(), name="toy", runs=str(tmp_path), champion=None
    )
    return Dataset(audit_dataset(source, settings, runs=str(tmp_path))), truth


def test_wrong_labels_are_flagged_and_given_ones_stay(tmp_path: Path):
    found, truth = audited(tmp_path)
    c = found.columns("label", "target", "verdict", "suggested", "use", "weight")
    wrong = c["label"] != truth
    flagged = c["verdict"] == "flagged"
    print(found.attributes["audit"], flagged.sum(), (flagged & wrong).sum())
    assert (flagged & wrong).sum() >= 0.8 * wrong.sum()
    assert (c["target"] == c["label"]).all()
    assert (c["weight"] == 1).all()
