"""The training loop: the same bits however it is fed, stopped or killed."""

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from data_contracts.errors import SightlineError, UsageError, WorkspaceError
from models.checkpoint import restore_epoch, tree_digest
from models.durable import locked
from models.feed import BatchSource
from models.fit import FitSettings, fit
from models.objective import memory_of
from models.optim import muon
from models.recipe import NONE, Recipe
from models.schedules import warmup_cosine
from models.steps import create_state, make_predict
from models.stopping import (
    alike,
    best_epoch,
    effective_size,
    score,
    stop_reason,
)
from models.warm_start import warm_start

TIMINGS = ("images_per_second", "seconds", "data_stall")
VIEW = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
RECIPE = Recipe(
    epochs=4,
    batch_size=16,
    learning_rate=3e-2,
    ema=0.9,
    augment=dataclasses.replace(NONE, flip=0.5, brightness=0.3),
)
SETTINGS = FitSettings(group=2, eval_batch_size=16)
N, TRAIN = 96, 75
LABELS = np.random.default_rng(1).integers(0, 3, N).astype(np.int32)


def read(rows):
    """Noise with one channel brighter: the class."""
    images = np.random.default_rng(0).integers(0, 100, (N, 8, 8, 3)).astype(np.uint8)
    images[np.arange(N), :, :, LABELS] += 100
    return images[rows]


SOURCE = BatchSource(
    labels=LABELS,
    train_rows=np.arange(TRAIN),
    val_rows=np.arange(TRAIN, N),
    read=read,
    chunk=8,
)


class Tiny(nnx.Module):
    """One convolution, its batch norm, a mean over the map, a head."""

    def __init__(self, num_classes):
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.head = nnx.Linear(8, num_classes, rngs=rngs)

    def __call__(self, x, *, train, rngs=None):
        x = self.norm(self.conv(x), use_running_average=not train)
        return self.head(jax.nn.relu(x).mean((1, 2)))


def tiny(num_classes=3):
    return Tiny(num_classes)


def run(folder, *, source=SOURCE, recipe=RECIPE, settings=SETTINGS, model=None, **more):
    return fit(
        model or tiny(),
        source,
        recipe=recipe,
        settings=settings,
        run_dir=Path(folder),
        **VIEW,
        **more,
    )


def test_with_classes_alike_a_rare_class_counts_as_much():
    labels = np.array([0, 0, 0, 1])
    logits = np.eye(2)[[0, 0, 0, 0]] * 5.0
    assert score(logits, labels)[1] == 0.75
    weights = alike(labels)
    assert score(logits, labels, weights=weights)[1] == pytest.approx(0.5)
    assert effective_size(weights) == pytest.approx(3)
    assert effective_size(np.ones(7)) == 7


def abstract():
    """A state as `run` trains it, to restore checkpoints into."""
    memory = memory_of(RECIPE.loss, rows=len(SOURCE.train_rows), num_classes=3)
    return create_state(tiny(), muon(warmup_cosine(1e-2, 20)), memory=memory)[1]


def bits(result):
    return tree_digest((result.params, result.stats))


def metrics(folder):
    """Lines of metrics.jsonl without what a clock wrote."""
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    kept = [json.loads(line) for line in lines]
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in kept]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of four epochs that nothing disturbed, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return run(folder), folder


def test_a_run_learns_and_tells_every_epoch(whole):
    result, folder = whole
    lines = metrics(folder)
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert [line["step"] for line in lines] == [5, 10, 15, 20]
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]
    assert lines[-1]["val_top1"] > 0.8
    assert set(TIMINGS) <= set(result.history[0])
    assert (result.epochs_run, result.resumed_from, result.notes) == (4, 0, ())


def test_streaming_and_memory_give_the_same_bits(whole, tmp_path):
    streamed = run(tmp_path, source=dataclasses.replace(SOURCE, resident=False))
    assert bits(streamed) == bits(whole[0])
    assert metrics(tmp_path) == metrics(whole[1])


def test_another_seed_gives_other_bits(whole, tmp_path):
    other = run(tmp_path, settings=dataclasses.replace(SETTINGS, seed=1))
    assert bits(other) != bits(whole[0])


def test_a_finished_run_returns_at_once(whole):
    def refuse(rows):
        raise AssertionError("a finished run reads no image")

    again = run(whole[1], source=dataclasses.replace(SOURCE, read=refuse))
    assert bits(again) == bits(whole[0])
    assert again.history == whole[0].history
    assert again.resumed_from == 4


def test_a_run_cut_short_goes_on_to_the_same_bits(whole, tmp_path):
    no_time = dataclasses.replace(SETTINGS, max_minutes=0)
    first = run(tmp_path, settings=no_time)
    assert first.epochs_run == 1
    assert "max_minutes is spent" in first.notes[0]
    then = run(tmp_path, source=dataclasses.replace(SOURCE, resident=False))
    assert then.resumed_from == 1
    assert bits(then) == bits(whole[0])
    assert metrics(tmp_path) == metrics(whole[1])


def test_a_damaged_last_checkpoint_costs_an_epoch_and_no_bits(whole, tmp_path):
    shutil.copytree(whole[1], tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "4" / "memory.json").write_text("{")
    result = run(tmp_path / "run")
    assert result.resumed_from == 3
    assert "skipped checkpoint 4" in result.notes[0]
    assert bits(result) == bits(whole[0])
    assert metrics(tmp_path / "run") == metrics(whole[1])


def test_an_early_stop_hands_back_the_best_epoch(tmp_path):
    wrong = LABELS.copy()
    wrong[TRAIN:] = (wrong[TRAIN:] + 1) % 3  # what is learnt makes validation worse
    source = dataclasses.replace(SOURCE, labels=wrong)
    recipe = dataclasses.replace(RECIPE, epochs=12)
    patient = dataclasses.replace(SETTINGS, patience=2)
    result = run(tmp_path, source=source, recipe=recipe, settings=patient)
    assert result.stopped_early
    assert result.best_epoch < result.epochs_run < 12
    graphdef, _, _ = nnx.split(tiny(), nnx.Param, ...)
    predict = make_predict(graphdef, **VIEW)
    logits = np.asarray(predict(result.params, result.stats, read(SOURCE.val_rows)))
    best = result.history[result.best_epoch - 1]
    loss, top1 = score(logits, wrong[TRAIN:])
    assert top1 == best["val_top1"]
    assert loss == pytest.approx(best["val_loss"], rel=1e-5)
    assert loss != pytest.approx(result.history[-1]["val_loss"], rel=1e-3)
    again = run(tmp_path, source=source, recipe=recipe, settings=patient)
    assert again.stopped_early
    assert bits(again) == bits(result)


def test_without_validation_the_last_weights_are_kept_and_it_is_said(tmp_path):
    bare = dataclasses.replace(SOURCE, val_rows=np.empty(0, np.int64))
    patient = dataclasses.replace(SETTINGS, patience=1)
    result = run(tmp_path, source=bare, settings=patient)
    assert result.epochs_run == result.best_epoch == 4
    assert not result.stopped_early
    assert "no validation images" in result.notes[0]
    assert result.history[-1]["val_loss"] is None
    last = restore_epoch(tmp_path, abstract(), epoch=4)
    assert tree_digest(last.state.ema) == tree_digest((result.params, result.stats))


def test_fewer_images_than_a_batch_still_train(tmp_path):
    few = dataclasses.replace(SOURCE, train_rows=np.array([0, 3, 50]))
    result = run(tmp_path, source=few, recipe=dataclasses.replace(RECIPE, epochs=1))
    assert result.history[0]["step"] == 1


def test_progress_reaches_the_total(tmp_path):
    seen = []
    run(tmp_path, on_progress=lambda *told: seen.append(told))
    done, total, rate, note = seen[-1]
    assert done == total == 4 * TRAIN
    assert rate > 0
    assert note.startswith("epoch 4/4, loss ")
    assert [told[0] for told in seen] == sorted(told[0] for told in seen)


def test_an_error_while_reading_ends_the_run(tmp_path):
    def broken(rows):
        raise OSError("disk gone")

    source = dataclasses.replace(SOURCE, read=broken, resident=False)
    with pytest.raises(OSError, match="disk gone"):
        run(tmp_path, source=source)


def test_images_of_another_type_are_refused(tmp_path):
    source = dataclasses.replace(SOURCE, read=lambda rows: read(rows) / 255)
    with pytest.raises(UsageError, match="uint8 images"):
        run(tmp_path, source=source)


def test_a_folder_with_another_run_is_refused(whole):
    with pytest.raises(UsageError, match="other settings"):
        run(whole[1], recipe=dataclasses.replace(RECIPE, learning_rate=1e-4))
    with pytest.raises(UsageError, match="other settings"):
        run(whole[1], source=dataclasses.replace(SOURCE, labels=2 - LABELS))


def test_two_runs_do_not_share_a_folder(tmp_path):
    with locked(tmp_path), pytest.raises(WorkspaceError, match="another run"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"train_rows": np.empty(0, np.int64)}, "no row"),
        ({"labels": LABELS - 1}, "without a label"),
        ({"train_rows": np.array([3, 1])}, "sorted"),
    ],
)
def test_a_source_that_cannot_be_trained_on_is_refused(tmp_path, change, says):
    with pytest.raises(UsageError, match=says):
        run(tmp_path, source=dataclasses.replace(SOURCE, **change))


def test_a_loss_that_is_no_number_ends_the_run(tmp_path):
    wild = dataclasses.replace(RECIPE, learning_rate=1e30)
    with pytest.raises(SightlineError, match="Lower learning_rate"):
        run(tmp_path, recipe=wild)


def test_a_warm_start_knows_the_old_classes_from_the_first_step(whole, tmp_path):
    old = whole[0]
    still = dataclasses.replace(RECIPE, epochs=1, learning_rate=0.0)
    grown = run(
        tmp_path, recipe=still, model=tiny(num_classes=5), init=(old.params, old.stats)
    )
    old_head, head = old.params["head"], grown.params["head"]
    close = {"atol": 1e-6}  # the average of equal weights rounds
    np.testing.assert_allclose(head["kernel"][:, :3], old_head["kernel"], **close)
    fresh = nnx.as_pure(nnx.state(tiny(num_classes=5), nnx.Param))["head"]
    np.testing.assert_allclose(head["kernel"][:, 3:], fresh["kernel"][:, 3:], **close)


def test_a_warm_start_from_another_network_is_refused():
    old = {"a": np.zeros((2, 3)), "b": np.zeros(3)}
    with pytest.raises(UsageError, match="same network"):
        warm_start(old, {"a": np.zeros((2, 3))})
    with pytest.raises(UsageError, match="only add classes"):
        warm_start(old, {"a": np.zeros((2, 4)), "b": np.zeros(3)})
    with pytest.raises(UsageError, match="only add classes"):
        warm_start(old, {"a": np.zeros((1, 3)), "b": np.zeros(3)})


def lines(*pairs):
    one = {"seconds": 60.0, "val_images": 100}
    return [one | {"val_top1": t, "val_loss": v} for t, v in pairs]


def test_the_latest_epoch_that_cannot_be_told_from_the_best_is_kept():
    # The standard error of .7 of 100 images is .046.
    assert best_epoch(lines((0.5, 1), (0.7, 1), (0.66, 1), (0.6, 1))) == 3
    assert best_epoch(lines((0.7, 1), (0.65, 1), (0.64, 1))) == 1
    assert best_epoch(lines((1.0, 1), (0.99, 1))) == 1
    assert best_epoch(lines((0.0, 1), (0.0, 1))) == 2


def test_a_lower_loss_alone_keeps_a_run_going():
    limits = {"epochs": 9, "patience": 2, "max_minutes": None}
    assert not stop_reason(lines((0.5, 1.0), (0.5, 0.9), (0.5, 0.8)), **limits)
    assert stop_reason(lines((0.5, 0.8), (0.5, 0.9), (0.4, 1.0)), **limits) == "early"


def test_the_budget_lets_one_epoch_run():
    limits = {"epochs": 9, "patience": 0, "max_minutes": 0}
    assert not stop_reason([], **limits)
    assert stop_reason(lines((0.5, 1.0)), **limits) == "budget"


def test_score_agrees_with_a_softmax():
    logits = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32) * 50
    labels = np.arange(9) % 4
    expected = -jax.nn.log_softmax(logits)[np.arange(9), labels].mean()
    loss, top1 = score(logits, labels)
    assert loss == pytest.approx(float(expected), rel=1e-5)
    assert top1 == (logits.argmax(1) == labels).mean()


def train_in_child(folder, resident, killed):
    """Train on two CPU devices, slowly enough to be killed in between."""
    from models.steps import device_mesh, use_all_cores

    use_all_cores()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    source = dataclasses.replace(SOURCE, resident=resident)

    def slowly(*told):
        time.sleep(0.05)

    # Epochs so short are never saved on their way, unless asked to be.
    often = dataclasses.replace(SETTINGS, checkpoint_minutes=0 if killed else 10)
    run(
        folder,
        source=source,
        mesh=device_mesh(),
        on_progress=slowly,
        settings=often,
    )


def lines_written(folder):
    path = folder / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


MOMENTS = {
    "before the first epoch ends": lambda folder: (folder / "metrics.jsonl").exists(),
    "while the first checkpoint is written": lambda folder: (
        folder / "checkpoints" / ".1.aside"
    ).exists(),
    "between a line and its checkpoint": lambda folder: lines_written(folder) == 2,
    "right after a checkpoint": lambda folder: (folder / "checkpoints" / "2").exists(),
    "after a checkpoint within an epoch": lambda folder: (
        folder / "checkpoints" / "2.3"
    ).exists(),
    "while a checkpoint within an epoch is written": lambda folder: (
        folder / "checkpoints" / ".3.2.aside"
    ).exists(),
    "in the middle of the last epoch": lambda folder: (
        folder / "checkpoints" / "3"
    ).exists(),
}


def test_a_run_killed_at_any_moment_ends_in_the_same_bits(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "orbax.checkpoint"])

    def child(folder, *, resident, killed=True):
        given = folder, resident, killed
        process = context.Process(target=train_in_child, args=given)
        process.start()
        return process

    undisturbed = child(tmp_path / "whole", resident=True, killed=False)
    undisturbed.join()
    assert undisturbed.exitcode == 0
    killed = tmp_path / "killed"
    for number, (moment, reached) in enumerate(MOMENTS.items()):
        victim = child(killed, resident=bool(number % 2))
        while victim.is_alive() and not reached(killed):
            time.sleep(0.001)
        if "middle" in moment:
            time.sleep(0.03)
        assert victim.is_alive(), f"finished before it could be killed {moment}"
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
    last = child(killed, resident=False)
    last.join()
    assert last.exitcode == 0
    assert metrics(killed) == metrics(tmp_path / "whole")
    state = abstract()
    ends = [
        restore_epoch(folder, state, epoch=4).state
        for folder in (tmp_path / "whole", killed)
    ]
    assert tree_digest(ends[0]) == tree_digest(ends[1])
