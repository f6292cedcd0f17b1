"""Soups, snapshots' schedule, boosted heads, and a teacher in the step."""

from __future__ import annotations

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from flax import nnx

from models.backbones import build, resnet
from models.backbones.parts import BoostedHead
from models.batch_norms import has_batch_norm, make_statistics, remeasured
from models.boosting import Lessons, bagged_head, boosted_units, bootstrap
from models.distil import Teacher
from models.ensemble import averaged, greedy_soup
from models.heads import HeadRecipe
from models.losses import cross_entropy, distillation
from models.members import Member, member_of, stacked
from models.optim import make_optimizer
from models.recipe import Distil, Recipe, cycle_ends, soup_epochs
from models.steps import device_mesh
from tests.models.test_fit import RECIPE, SETTINGS, VIEW, bits, metrics, run, tiny

QUICK = HeadRecipe(steps=40, batch_size=32, learning_rate=3e-2)


def residual(seed=0):
    shape = resnet.Shape((4, 8), (1, 1), "half")
    return build(shape, num_classes=3, rngs=nnx.Rngs(seed))


def split(seed):
    parts = nnx.split(residual(seed), nnx.Param, ...)[1:]
    return tuple(nnx.as_pure(part) for part in parts)


def weights(*values):
    return [({"w": np.array([v], np.float32)}, {}) for v in values]


def test_a_soup_goes_from_the_best_down_and_takes_what_does_not_harm():
    top1 = {3.0: 0.7, 1.0: 0.9, 2.0: 0.8, 8.0: 0.6}
    top1 |= {1.5: 0.9, 2.0: 0.8}  # 1 and 2 together; then 3 would make it 2
    tried = []

    def judge(network):
        value = float(network[0]["w"][0])
        tried.append(value)
        return 1.0, top1.get(value, 0.0)

    soup, chosen = greedy_soup(weights(3.0, 1.0, 2.0, 8.0), judge)
    assert chosen == [1, 2]
    assert soup[0]["w"] == 1.5
    assert tried == [3.0, 1.0, 2.0, 8.0, 1.5, 2.0, pytest.approx(11 / 3)]


def test_of_equals_the_least_loss_comes_first():
    loss = {1.0: 0.5, 2.0: 0.1, 3.0: 0.3}
    order = greedy_soup(weights(1.0, 2.0, 3.0), lambda n: (loss.get(n[0]["w"][0]), 1))
    assert order[1] == [1, 2, 0]


def test_averaged_weights_get_the_statistics_that_images_give_them():
    mesh, images = (
        device_mesh(),
        np.random.default_rng(0).integers(0, 256, (32, 8, 8, 3)),
    )
    networks = [split(seed) for seed in (0, 1)]
    soup = averaged(networks)
    measure = make_statistics(residual(), **VIEW, mesh=mesh)
    params, stats = remeasured(measure, soup, np.split(images.astype(np.uint8), 2))
    np.testing.assert_array_equal(params["head"]["kernel"], soup[0]["head"]["kernel"])
    pixels = (images / 255 - VIEW["mean"]) / VIEW["std"]
    model = residual()
    nnx.update(model, *soup)
    seen = np.asarray(model.stem.conv(pixels.astype(np.float32)))
    found, kept = (each["stem"]["norm"] for each in (stats, soup[1]))
    np.testing.assert_allclose(found["mean"], seen.mean((0, 1, 2)), atol=1e-5)
    # A device and batch at a time, so that a little of the variance is between them.
    np.testing.assert_allclose(found["var"], seen.var((0, 1, 2)), rtol=0.05)
    assert np.abs(kept["var"] / found["var"] - 1).max() > 0.2


def test_frozen_parts_keep_their_statistics_and_others_are_measured():
    model, images = residual(), np.zeros((8, 8, 8, 3), np.uint8)
    model.frozen = 1
    weights = split(0)
    measure = make_statistics(model, **VIEW, mesh=device_mesh())
    _, stats = remeasured(measure, weights, [images])
    before, after = weights[1], stats
    np.testing.assert_array_equal(
        after["stem"]["norm"]["var"], before["stem"]["norm"]["var"]
    )
    assert (
        after["blocks"][0]["first"]["norm"]["var"]
        != before["blocks"][0]["first"]["norm"]["var"]
    ).all()
    assert has_batch_norm(model)


def test_an_average_keeps_types_and_counts():
    made = averaged(
        [({"w": np.float32(v)}, {"n": np.uint32(v)}) for v in (1, 4)],
    )
    assert made[0]["w"] == 2.5
    assert made[0]["w"].dtype == np.float32
    assert made[1]["n"] == 1


def test_stacked_networks_come_apart_again():
    made = stacked(weights(1.0, 2.0))
    assert made[0]["w"].shape == (2, 1)
    assert member_of(made, 1)[0]["w"] == 2


def test_cycles_end_with_epochs_and_the_rate_rises_again():
    assert cycle_ends(10, 4) == [2, 5, 8, 10]
    assert cycle_ends(3, 3) == [1, 2, 3]
    recipe = Recipe(epochs=4, cycles=2, warmup=0.1)
    _, rate = make_optimizer(recipe, 40)
    whole = make_optimizer(dataclasses.replace(recipe, epochs=2, cycles=1), 20)[1]
    np.testing.assert_allclose(
        [rate(k) for k in range(40)], 2 * [whole(k) for k in range(20)], rtol=1e-6
    )
    assert rate(19) < 0.1 * rate(22)


def test_a_soup_keeps_the_last_third():
    assert soup_epochs(30, 4) == [20, 23, 27, 30]
    assert soup_epochs(1, 4) == [1]
    assert all(1 <= epoch <= 9 for epoch in soup_epochs(9, 16))


def test_snapshots_go_on_after_a_cut_to_the_same_bits(tmp_path):
    recipe = dataclasses.replace(RECIPE, cycles=2)
    whole = run(tmp_path / "whole", recipe=recipe, keep=[2, 4])
    short = dataclasses.replace(SETTINGS, max_minutes=0)
    run(tmp_path / "cut", recipe=recipe, keep=[2, 4], settings=short)
    then = run(tmp_path / "cut", recipe=recipe, keep=[2, 4])
    assert then.resumed_from == 1
    assert bits(then) == bits(whole)
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    assert sorted(then.kept) == [2, 4]
    again = run(tmp_path / "whole", recipe=recipe, keep=[2, 4])
    for epoch, kept in again.kept.items():
        np.testing.assert_array_equal(
            kept[0]["head"]["kernel"], then.kept[epoch][0]["head"]["kernel"]
        )


def test_a_kept_epoch_that_cannot_be_read_is_left_out_and_it_is_said(tmp_path):
    run(tmp_path, keep=[2, 3, 4])
    damaged = tmp_path / "checkpoints" / "2"
    assert damaged.is_dir()
    shutil.rmtree(damaged / "arrays")
    again = run(tmp_path, keep=[2, 3, 4])
    assert sorted(again.kept) == [3, 4]
    said = " ".join(again.notes)
    assert "epoch 2 is left out" in said
    assert "left to put together: 3, 4" in said


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    found = run(tmp_path_factory.mktemp("teacher"))
    graphdef = nnx.split(tiny(), nnx.Param, ...)[0]
    member = Member(VIEW["mean"], VIEW["std"])
    return Teacher(
        graphdef, stacked([(found.params, found.stats)]), (member,), (0, 1, 2), 2.0
    )


def test_a_taught_run_goes_on_after_a_cut_to_the_same_bits(teacher, tmp_path):
    recipe = dataclasses.replace(RECIPE, distil=Distil(0.9, 2.0))
    whole = run(tmp_path / "whole", recipe=recipe, teacher=teacher)
    short = dataclasses.replace(SETTINGS, max_minutes=0)
    run(tmp_path / "cut", recipe=recipe, teacher=teacher, settings=short)
    then = run(tmp_path / "cut", recipe=recipe, teacher=teacher)
    assert bits(then) == bits(whole)
    assert bits(then) != bits(run(tmp_path / "plain"))


def test_a_teacher_answers_in_the_learner_s_order_and_scale(teacher):
    pixels = np.random.default_rng(0).random((4, 8, 8, 3), np.float32)
    straight = teacher.answers(teacher.weights, pixels)
    np.testing.assert_allclose(straight.sum(1), 1, rtol=1e-5)
    turned = dataclasses.replace(teacher, order=(2, 0, 1))
    np.testing.assert_allclose(
        turned.answers(teacher.weights, pixels), straight[:, [2, 0, 1]], rtol=1e-5
    )
    larger = dataclasses.replace(teacher, scale=2.0)
    assert larger.answers(teacher.weights, pixels).shape == (4, 3)


def test_distillation_is_cross_entropy_where_the_teacher_is_sure():
    logits = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    labels = np.array([0, 1, 2, 0, 1])
    sure = np.eye(3, dtype=np.float32)[labels]
    np.testing.assert_allclose(
        distillation(logits, sure, temperature=1.0),
        cross_entropy(logits, labels),
        rtol=1e-5,
    )
    soft = jax.nn.softmax(logits / 3)
    slope = jax.grad(lambda z: distillation(z, soft, temperature=3.0).sum())(logits)
    np.testing.assert_allclose(slope, 0, atol=1e-6)  # nothing left to learn


def lessons(n=120, seed=0):
    """Four blobs, two a class, which no linear head parts."""
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 2, (n, 2))
    x = (2 * corner - 1 + rng.normal(0, 0.3, (n, 2))).astype(np.float32)
    labels = (corner[:, 0] ^ corner[:, 1]).astype(np.int64)
    return Lessons(x, labels, np.arange(n) // 2, np.ones(n, np.float32))


def test_a_bootstrap_draws_groups_whole():
    counts = bootstrap(lessons(), members=3, seed=0)
    assert counts.shape == (3, 120)
    np.testing.assert_array_equal(counts[:, ::2], counts[:, 1::2])
    assert (counts.sum(1) == 120).all()
    assert (counts[0] != counts[1]).any()


def test_bagged_heads_become_one():
    start = np.zeros((2, 2), np.float32), np.zeros(2, np.float32)
    ask = {"recipe": QUICK, "seed": 0}
    kernel, bias = bagged_head(lessons(), start, members=3, **ask)
    assert (kernel.shape, bias.shape) == ((2, 2), (2,))
    assert np.isfinite(kernel).all()


def test_boosted_units_part_what_a_linear_head_cannot():
    start = np.zeros((2, 2), np.float32), np.zeros(2, np.float32)
    units, kept = boosted_units(lessons(), lessons(seed=1), start, recipe=QUICK, seed=0)
    head = BoostedHead(2, 2, rngs=nnx.Rngs(0))
    head.kernel[...], head.bias[...] = start
    for name, value in units.items():
        getattr(head, name)[...] = value
    judged = lessons(200, seed=2)
    right = np.asarray(head(judged.embeddings)).argmax(1) == judged.labels
    assert kept > 0
    assert right.mean() > 0.9


def test_stages_that_validation_does_not_like_are_left_out():
    wrong = lessons(seed=1)
    wrong = dataclasses.replace(wrong, labels=1 - wrong.labels)
    start = np.zeros((2, 2), np.float32), np.zeros(2, np.float32)
    units, kept = boosted_units(lessons(), wrong, start, recipe=QUICK, seed=0)
    assert kept == 0
    assert not units["out"].any()
