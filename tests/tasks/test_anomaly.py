"""Images that do not belong: far from the others, or with strange figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from data_contracts.dataset import NONE
from data_contracts.references import DatasetRef
from data_contracts.store import Dataset
from tasks.anomaly import (
    LONG,
    PLAIN,
    AnomalySettings,
    deviations,
    distances,
    find_dataset_anomalies,
    oddness,
    strangeness,
)
from tasks.clean import CleanSettings, clean_dataset
from tasks.denoise import DenoiseSettings, denoise_dataset
from tasks.split import TEST, SplitSettings, split_dataset
from tasks.stage import run_stage
from tests.datasets import NoSettings, make_dataset

N, ODD = 200, [7, 50, 120]


def clusters(n: int = N) -> np.ndarray:
    """Return embeddings in two clusters, but for ODD, each in a direction alone."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 0.1, (n, 32)).astype(np.float32)
    x[np.arange(n), np.arange(n) % 2] += 1
    for i, row in enumerate(ODD):
        x[row] = 0
        x[row, 10 + i] = 1
    return x


def embedded(tmp_path: Path, **given: Any) -> DatasetRef:
    source = make_dataset(tmp_path, N, **given)
    source = clean_dataset(source, CleanSettings(min_std=0))
    source = denoise_dataset(source, DenoiseSettings(treat=False))
    source = split_dataset(source, SplitSettings())

    def write(build: Any) -> None:
        build.writer.allocate_embeddings(N, width=32)[:] = clusters()

    return run_stage(
        "embed",
        write,
        uri=source.uri,
        parent=source,
        version=1,
        settings=NoSettings(),
    )


def test_distance_is_to_the_nearest_others():
    x, groups = clusters(), np.arange(N)
    far = distances(x, groups, np.ones(N, bool), k=10)
    order = np.argsort(-far)
    assert set(order[:3]) == set(ODD)
    assert far[order[3]] < 0.7 * far[order[2]]


def test_copies_are_no_neighbours():
    x, groups = clusters(), np.arange(N)
    x[[50, 120]] = x[7]
    groups[[50, 120]] = 7
    far = distances(x, groups, np.ones(N, bool), k=2)
    assert far[ODD].min() > 0.7


def test_the_order_of_the_images_changes_nothing():
    x, order = clusters(), np.random.default_rng(1).permutation(N)
    pool, groups = np.arange(N) % 3 > 0, np.arange(N)
    whole = distances(x, groups, pool, k=5)
    np.testing.assert_allclose(
        distances(x[order], groups[order], pool[order], k=5), whole[order], atol=1e-5
    )


def test_a_figure_that_most_images_share_makes_the_others_no_strangers():
    values = np.r_[np.zeros(60), np.linspace(0.1, 1, 40)]
    assert deviations(values, np.ones(100, bool)).max() < 5


def test_deviations_are_robust_and_finite():
    values = np.array([1.0, 2, 3, 4, 1000])
    assert deviations(values, np.ones(5, bool))[4] == 50
    assert np.isfinite(deviations(np.ones(5), np.ones(5, bool))).all()
    assert np.isfinite(deviations(values, np.zeros(5, bool))).all()


def test_odd_images_are_flagged_and_stay(tmp_path: Path):
    source = embedded(tmp_path)
    found = Dataset(find_dataset_anomalies(source, AnomalySettings()))
    assert set(np.flatnonzero(found.column("odd") == "far")) == set(ODD)
    assert np.array_equal(found.column("use"), Dataset(source).column("use"))


def test_quarantine_leaves_out_all_but_test_images(tmp_path: Path):
    split = np.zeros(N, np.int8)
    split[40:80] = TEST
    source = embedded(tmp_path, split=split)
    settings = AnomalySettings(anomalies="quarantine")
    found = Dataset(find_dataset_anomalies(source, settings))
    columns = found.columns("use", "keep", "reason", "remark", "odd")
    assert set(np.flatnonzero(columns["odd"] != "")) == set(ODD)
    assert columns["use"][50] == TEST
    for row in (7, 120):
        assert columns["use"][row] == NONE
        assert not columns["keep"][row]
        assert columns["reason"][row] == "anomaly"
        assert columns["remark"][row]
    assert (columns["reason"] == "anomaly").sum() == 2


def test_strange_figures_are_found_and_the_budget_holds(tmp_path: Path):
    rng = np.random.default_rng(0)
    mean = rng.normal(120, 10, N).clip(60, 200)
    mean[[20, 21]] = 255
    source = embedded(tmp_path, mean=mean)
    found = Dataset(find_dataset_anomalies(source, AnomalySettings(max_odd=0.05)))
    assert (found.column("odd")[[20, 21]] == "strange").all()
    few = AnomalySettings(max_odd=0.005)
    assert (Dataset(find_dataset_anomalies(source, few)).column("odd") != "").sum() == 1


def test_noise_that_was_mended_is_not_strange(tmp_path: Path):
    rng = np.random.default_rng(0)
    sharpness = np.exp(rng.normal(8, 0.2, N))
    sharpness[[20, 21]] = 1e5
    impulse = np.zeros(N)
    impulse[20] = 0.05
    given = {"sharpness": sharpness, "sensor_impulse": impulse}
    source = denoise_dataset(
        clean_dataset(make_dataset(tmp_path, N, **given), CleanSettings(min_std=0)),
        DenoiseSettings(),
    )
    columns = Dataset(source).columns("treated", *PLAIN, *LONG)
    found = strangeness(columns, np.ones(N, bool))
    assert found[20] == 0
    assert found[21] > 4


def test_foreign_images_in_numbers_do_not_hide_behind_each_other():
    rng = np.random.default_rng(0)
    x = rng.normal(0, 0.3, (N, 16)).astype(np.float32)
    x[:20] = rng.normal(0, 0.02, (20, 16)) + np.eye(16)[3] * 4
    usual, calm = np.arange(N) >= 20, np.zeros(N, np.float32)
    far = distances(x, np.arange(N), np.ones(N, bool), k=10)
    assert far[:20].max() < np.median(far[20:])
    score, kinds = oddness(far, np.linalg.norm(x, axis=1), calm, usual)
    assert score[:20].min() > score[20:].max()
    assert (kinds[:20] == "far").all()
