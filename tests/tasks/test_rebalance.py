"""Heads corrected after training, through the stage `train`."""

from pathlib import Path

import numpy as np
import pytest

from data_contracts.store import Dataset
from models.checkpoint import load_model
from tasks.augment_settings import AugmentSettings
from tasks.clean import CleanSettings, clean_dataset
from tasks.loss_settings import BalanceDetails
from tasks.rebalance import capped, rebalance_model
from tasks.split import SplitSettings, split_dataset
from tasks.stage import run_stage
from tasks.train import train_model
from tasks.train_settings import TrainSettings
from tests.datasets import NoSettings, make_dataset

N = 60
# Fifty of a, ten of b.
LABEL = (np.arange(N) % 6 == 5).astype(int)


def divided(tmp_path: Path, **columns):
    source = make_dataset(tmp_path, N, label=LABEL)
    source = split_dataset(
        clean_dataset(source, CleanSettings(min_std=0)), SplitSettings()
    )
    if not columns:
        return source
    return run_stage(
        "judged",
        lambda build: build.writer.write(**columns),
        uri=source.uri,
        parent=source,
        version=1,
        settings=NoSettings(),
        inputs=repr(columns),
    )


def trained(source, tmp_path: Path, **settings):
    plain = AugmentSettings(mixup=0, cutmix=0)
    settings = TrainSettings(epochs=1, batch_size=16, augment=plain, **settings)
    found = train_model(source, settings, name="toy", runs=str(tmp_path / "runs"))
    return rebalance_model(source, found, settings)


def head(found):
    return load_model(found.model)[0]["head"]


def test_heads_share_one_training_and_keep_its_history(tmp_path: Path):
    source = divided(tmp_path)
    plain, moved = (trained(source, tmp_path, head=h) for h in ("trained", "post_hoc"))
    assert moved.run.startswith(f"{plain.run}-post_hoc-")
    assert moved.history == plain.history
    assert trained(source, tmp_path, head="post_hoc") == moved
    runs = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert runs == sorted([plain.run, moved.run])


def test_a_post_hoc_head_is_the_trained_one_less_the_log_prior(tmp_path: Path):
    """Of calibrated logits, which the temperature divides."""
    source = divided(tmp_path)
    network = trained(source, tmp_path)
    plain, temperature = head(network), load_model(network.model)[2]["temperature"]
    moved = head(trained(source, tmp_path, head="post_hoc"))
    np.testing.assert_array_equal(plain["kernel"], moved["kernel"])
    use = Dataset(source).column("use")
    share = np.bincount(LABEL[use == 0]) / (use == 0).sum()
    expected = temperature * np.log(share)
    np.testing.assert_allclose(plain["bias"] - moved["bias"], expected, rtol=1e-4)


@pytest.mark.parametrize(
    "kind", ["retrained", "smote", "ensemble", "bagged", "boosted"]
)
def test_another_head_is_trained_on_the_same_network(tmp_path: Path, kind: str):
    source = divided(tmp_path)
    found = [
        load_model(trained(source, tmp_path, head=k).model) for k in ("trained", kind)
    ]
    (plain, stats, _), (moved, same_stats, _) = found
    if kind == "boosted":  # units stand beside the head, where validation wants them
        assert set(moved["head"]) == {"kernel", "bias", "hidden", "offset", "out"}
    else:
        assert (np.asarray(plain["head"]["kernel"]) != moved["head"]["kernel"]).any()
    np.testing.assert_array_equal(
        plain["stem"]["conv"]["kernel"], moved["stem"]["conv"]["kernel"]
    )
    np.testing.assert_array_equal(
        stats["stem"]["norm"]["mean"], same_stats["stem"]["norm"]["mean"]
    )


def test_thresholds_say_what_they_did(tmp_path: Path):
    found = trained(divided(tmp_path), tmp_path, thresholds=True)
    assert any("hresholds" in note for note in found.notes)


def test_dropped_and_unlabelled_rows_are_not_trained_on(tmp_path: Path):
    source = divided(tmp_path)
    use = Dataset(source).column("use")
    train = np.flatnonzero(use == 0)
    target, weight = LABEL.copy(), np.ones(N)
    target[train[0]], weight[train[1]] = -1, 0
    found = trained(divided(tmp_path, target=target, weight=weight), tmp_path)
    dynamics = np.load(Path(found.folder) / "dynamics.npz")
    np.testing.assert_array_equal(dynamics["rows"], train[2:])
    assert np.isfinite(dynamics["aum"]).all()


def test_weights_and_corrected_labels_change_what_is_learnt(tmp_path: Path):
    other = np.roll(LABEL, 1)
    heads = [
        np.asarray(head(trained(divided(tmp_path, **columns), tmp_path))["kernel"])
        for columns in (
            {},
            {"target": LABEL, "weight": np.ones(N)},
            {"target": other},
            {"weight": 1 - 0.9 * LABEL},
        )
    ]
    np.testing.assert_array_equal(heads[0], heads[1])
    assert (heads[0] != heads[2]).any()
    assert (heads[0] != heads[3]).any()


def test_the_largest_classes_are_cut_first():
    classes = np.repeat([0, 1, 2], [100, 10, 3])
    kept = capped(np.arange(113), classes, most=25, seed=0)
    assert np.bincount(classes[kept]).tolist() == [12, 10, 3]
    assert (np.diff(kept) > 0).all()


def test_another_head_goes_on_with_the_training_that_was_cut_short(tmp_path: Path):
    source = divided(tmp_path)
    plain = trained(source, tmp_path)
    (Path(plain.folder) / "trained.json").unlink()
    moved = trained(
        source, tmp_path, head="smote", balance_details=BalanceDetails(neighbours=2)
    )
    assert moved.run.startswith(f"{plain.run}-smote-")
    assert moved.history == plain.history
