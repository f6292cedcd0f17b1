"""Every method of explanation gives what its formula says, on networks small enough."""

from __future__ import annotations

import itertools
from math import factorial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from data_contracts.errors import UsageError
from models.attention_maps import attention_weights
from models.backbones import build
from models.explain import coalitions, faithfulness
from models.explain.explainer import METHODS, Explainer, batch_of, compiled
from models.explain.how import (
    BY_ASKING,
    BY_GRADIENT,
    SIGNED,
    Hide,
    How,
    Method,
    Segments,
)
from models.explain.segments import segment
from models.explain.subject import Subject
from models.members import Member, member_of, stacked
from tests.models import miniatures

RANDOM = np.random.default_rng(0)
SIDE = 12
IMAGES = RANDOM.integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)
TARGETS = np.array([0, 2, 1])
GREY = Member((0.5,) * 3, (0.25,) * 3)
LITTLE = {"steps": 8, "samples": 40, "cells": 3, "segments": Segments.grid}


class Formula(nnx.Module):
    """Logits by a linear map of the pixels and, where asked, a bend of it."""

    def __init__(self, bend=lambda x: x):
        w = np.random.default_rng(1).normal(size=(SIDE, SIDE, 3, 3)) / SIDE
        self.kernel = nnx.Param(jnp.asarray(w, jnp.float32))
        self.bend = bend

    def __call__(self, x, *, train):
        return self.bend(jnp.einsum("nhwc,hwck->nk", x, self.kernel[...]))


def explainer(method, *, model=None, background=None, **changes):
    subject, weights = Subject.of(model or Formula(), [GREY])
    how = How(Method(method), **(LITTLE | changes))
    return Explainer(subject, weights, how, background=background, batch=3)


def contributions(start):
    """Return what each pixel adds to a linear target's logit over those of `start`."""
    kernel = np.asarray(Formula().kernel[...])[..., TARGETS]
    away = (IMAGES / 255 - start) / 0.25
    return np.einsum("nhwc,hwcn->nhw", away, kernel)


def test_saliency_is_the_size_of_the_gradient():
    kernel = np.asarray(Formula().kernel[...])[..., TARGETS] / 0.25
    want = np.abs(kernel).max(2).transpose(2, 0, 1)
    for method in ("saliency", "smoothgrad"):
        np.testing.assert_allclose(explainer(method)(IMAGES, TARGETS), want, rtol=1e-4)


def test_integrated_gradients_sum_to_the_change_of_the_logit():
    maps, figures = explainer("integrated_gradients").explain(IMAGES, TARGETS)
    np.testing.assert_allclose(maps, contributions(0.5), rtol=1e-3, atol=1e-4)
    assert (figures["completeness"] < 1e-3).all()
    bent = explainer("integrated_gradients", model=Formula(jnp.tanh), steps=200)
    assert (bent.explain(IMAGES, TARGETS)[1]["completeness"] < 0.02).all()
    few = explainer("integrated_gradients", model=Formula(jnp.tanh), steps=1)
    assert (few.explain(IMAGES, TARGETS)[1]["completeness"] > 0.02).any()


def test_expected_gradients_start_from_usual_images():
    usual = RANDOM.integers(0, 256, (4, SIDE, SIDE, 3), np.uint8)
    found = explainer("expected_gradients", background=usual)
    maps, figures = found.explain(IMAGES, TARGETS)
    want = np.mean([contributions(one / 255) for one in usual], axis=0)
    np.testing.assert_allclose(maps, want, rtol=1e-3, atol=1e-4)
    assert (figures["completeness"] < 1e-3).all()


def test_expected_gradients_draw_from_all_usual_images_where_there_are_many():
    usual = np.zeros((64, SIDE, SIDE, 3), np.uint8)
    usual[32:] = 255
    maps = explainer("expected_gradients", background=usual)(IMAGES, TARGETS)
    black, white = contributions(0), contributions(1)
    share = np.median((maps - black) / (white - black))  # of starts that are white
    assert 0.2 < share < 0.8


def test_occlusion_is_the_mean_fall_over_the_windows_that_hide_a_pixel():
    maps = explainer("occlusion", window=0.5)(IMAGES, TARGETS)
    given, fallen, times = contributions(0.5), np.zeros(IMAGES.shape[:3]), 0
    for row, column in itertools.product((0, 3, 6), repeat=2):
        hides = np.zeros((SIDE, SIDE))
        hides[row : row + 6, column : column + 6] = 1
        fallen += (given * hides).sum((1, 2))[:, None, None] * hides
        times = times + hides
    np.testing.assert_allclose(maps, fallen / times, rtol=1e-3, atol=1e-4)


def by_segment(pixels):
    cells = pixels.reshape(len(pixels), 3, 4, 3, 4).sum((2, 4))
    return cells.reshape(len(pixels), 9)


def test_rise_and_lime_find_what_each_segment_adds():
    want = by_segment(contributions(0.5))
    for method, samples, least in (("rise", 600, 0.7), ("lime", 400, 0.999)):
        maps = explainer(method, samples=samples)(IMAGES, TARGETS)
        for one, other in zip(by_segment(maps), want, strict=True):
            assert np.corrcoef(one, other)[0, 1] > least
    maps, figures = explainer("lime", samples=400).explain(IMAGES, TARGETS)
    assert (figures["fit"] > 0.9).all()


def shapley(value, k):
    """Return exact Shapley values of a game on `k` players, by their definition."""
    found = np.zeros(k)
    for player in range(k):
        others = [i for i in range(k) if i != player]
        for size in range(k):
            chance = factorial(size) * factorial(k - size - 1) / factorial(k)
            for chosen in itertools.combinations(others, size):
                with_it = value(frozenset((*chosen, player)))
                found[player] += chance * (with_it - value(frozenset(chosen)))
    return found


def test_kernel_shap_is_exact_where_it_may_ask_everything():
    model = Formula(lambda x: jnp.tanh(x) + x**2 / 2)
    maps = explainer("kernel_shap", model=model, samples=510)(IMAGES, TARGETS)
    kernel = np.asarray(model.kernel[...])
    cell = np.arange(9).reshape(3, 3).repeat(4, 0).repeat(4, 1)
    for image, target, own in zip(IMAGES, TARGETS, maps, strict=True):
        part = np.einsum("hwc,hwck->hwk", (image / 255 - 0.5) / 0.25, kernel)[
            ..., target
        ]
        adds = np.bincount(cell.ravel(), part.ravel())

        def value(shown, adds=adds):
            x = adds[list(shown)].sum()
            return np.tanh(x) + x**2 / 2

        want = shapley(value, 9)
        np.testing.assert_allclose(own[::4, ::4].ravel(), want, rtol=1e-3, atol=1e-4)


def test_sampled_kernel_shap_keeps_its_sum_and_comes_near():
    rng = np.random.default_rng(2)
    k, pairs = 12, rng.normal(size=(12, 12))

    def game(shown):
        return shown @ rng_line + np.einsum("mi,ij,mj->m", shown, pairs, shown)

    rng_line = rng.normal(size=12)
    whole = game(np.ones((1, k)))[0]
    exact = rng_line + (pairs.sum(0) + pairs.sum(1)) / 2  # of a game of pairs
    for samples, off in ((k * 10, 1.5), (2**k - 2, 1e-6)):
        design = coalitions.kernel_shap(k, samples=samples, seed=0)
        values = design.values @ game(design.shown) + design.change * whole
        assert values.sum() == pytest.approx(whole)
        assert np.abs(values - exact).max() < off


def test_too_few_samples_for_the_segments_are_refused():
    for method in ("lime", "kernel_shap"):
        with pytest.raises(UsageError, match="Raise samples, or lower cells"):
            explainer(method, samples=10)


@pytest.mark.parametrize("method", BY_GRADIENT[2:])
def test_a_network_without_a_slope_is_refused_with_what_to_take(method):
    found = explainer(method, model=Formula(jnp.round), background=IMAGES)
    with pytest.raises(UsageError, match=r"none reaches.*occlusion, rise"):
        found(IMAGES, TARGETS)


def test_methods_that_only_ask_need_no_slope():
    maps = explainer("occlusion", model=Formula(lambda x: jnp.round(5 * x)))
    assert maps(IMAGES, TARGETS).any()


def test_answers_that_are_no_numbers_are_refused():
    with pytest.raises(UsageError, match="no number"):
        explainer("occlusion", model=Formula(lambda x: x * jnp.nan))(IMAGES, TARGETS)


def test_what_cannot_be_explained_is_said():
    found = explainer("saliency")
    with pytest.raises(UsageError, match="no images to explain"):
        found(IMAGES[:0], TARGETS[:0])
    with pytest.raises(UsageError, match="3 images and 2 targets"):
        found(IMAGES, TARGETS[:2])
    with pytest.raises(UsageError, match="uint8"):
        found(IMAGES / 255, TARGETS)
    with pytest.raises(UsageError, match="came 1 below 0"):
        found(IMAGES, TARGETS - [0, 0, 2])
    with pytest.raises(UsageError, match="starts from usual images"):
        explainer("expected_gradients")
    with pytest.raises(UsageError, match="method=gradcam"):
        explainer("rollout")


@pytest.mark.parametrize("method", ["smoothgrad", "rise", "kernel_shap"])
def test_an_image_is_explained_alike_whatever_stands_beside_it(method):
    model = Formula(jnp.tanh)
    together = explainer(method, model=model)(IMAGES, TARGETS)
    alone = explainer(method, model=model)(IMAGES[2:], TARGETS[2:])
    np.testing.assert_allclose(together[2:], alone, atol=1e-6)
    other = explainer(method, model=model, seed=1)(IMAGES, TARGETS)
    assert not np.allclose(other, together)


def test_several_networks_are_explained_by_the_mean_of_their_logits():
    one, other = Formula(), Formula()
    other.kernel[...] = -2 * other.kernel[...]
    subject, first = Subject.of(one, [GREY])
    second = Subject.of(other, [GREY])[1]
    both = stacked([member_of(first, 0), member_of(second, 0)])
    subject = Subject(subject.graphdef, (GREY, GREY), subject.kind)
    how = How(Method.integrated_gradients, **LITTLE)
    maps = Explainer(subject, both, how, batch=3)(IMAGES, TARGETS)
    np.testing.assert_allclose(maps, -contributions(0.5) / 2, rtol=1e-3, atol=1e-4)


def test_clusters_follow_colours_and_fill_the_image():
    image = np.zeros((1, SIDE, SIDE, 3), np.float32)
    image[:, :, 5:] = 1
    own = np.asarray(segment(image, cells=3, kind=Segments.clusters))[0]
    assert not set(own[:, :5].ravel()) & set(own[:, 5:].ravel())
    assert own.max() < 9


def test_hiding_keeps_nothing_of_the_detail():
    subject, _ = Subject.of(Formula(), [GREY])
    from models.explain.subject import hidden

    pixels = jnp.asarray(IMAGES / 255, jnp.float32)
    for hide, deviation in ((Hide.mean, 1e-6), (Hide.black, 1e-6), (Hide.blur, 0.25)):
        nothing = np.asarray(hidden(pixels, hide, subject.mean))
        assert nothing.std() < deviation


def randomised(shape):
    model = build(shape, num_classes=3, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(3)
    moved = jax.tree.map(
        lambda leaf: leaf + 0.2 * rng.normal(size=leaf.shape).astype("f4"),
        nnx.state(model, nnx.Param),
    )
    nnx.update(model, moved)
    return model


def test_gradcam_of_a_mean_and_a_linear_head_is_the_heads_own_map():
    from models.backbones import Shape

    model = randomised(Shape((4, 6), (1, 1), "half"))
    maps = explainer("gradcam", model=model)(IMAGES, TARGETS)
    pixels = (jnp.asarray(IMAGES / 255, jnp.float32) - 0.5) / 0.25
    *_, last = model.features(pixels).values()
    kernel = np.asarray(model.head.kernel[...])[:, TARGETS]
    own = np.maximum(np.einsum("nhwc,cn->nhw", last, kernel), 0) / last[0, :, :, 0].size
    want = jax.image.resize(jnp.asarray(own), (3, SIDE, SIDE), "linear")
    np.testing.assert_allclose(maps, want, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("size", [1, 1e-6])
def test_gradcam_pp_is_equation_19_whatever_the_size_of_gradients(size):
    from models.backbones import Shape
    from models.explain.cam import last_map

    model = randomised(Shape((4, 6), (1, 1), "half"))
    model.head.kernel[...] *= size
    pixels = (jnp.asarray(IMAGES / 255, jnp.float32) - 0.5) / 0.25
    found = last_map(nnx.clone(model), pixels, jnp.asarray(TARGETS))
    seen, slope = (np.asarray(x, np.float64) for x in found)
    total = seen.sum((1, 2), keepdims=True)
    share = slope**2 / (2 * slope**2 + total * slope**3)
    weights = (share * np.maximum(slope, 0)).sum((1, 2), keepdims=True)
    want = np.maximum((weights * seen).sum(-1), 0) / size
    maps = explainer("gradcam_pp", model=model)(IMAGES, TARGETS) / size
    want = jax.image.resize(jnp.asarray(want), maps.shape, "linear")
    np.testing.assert_allclose(maps, want, rtol=1e-3, atol=1e-5)


def test_a_transformer_has_class_maps_and_rollout():
    model = randomised(miniatures.VIT)
    for method in ("gradcam", "gradcam_pp"):
        found = explainer(method, model=model)
        # The class token answers: the last tokens' own gradient would be zero.
        assert found(IMAGES, TARGETS).shape == (3, SIDE, SIDE)
    maps = explainer("rollout", model=model)(IMAGES, TARGETS)
    pixels = (jnp.asarray(IMAGES / 255, jnp.float32) - 0.5) / 0.25
    weights = attention_weights(model, pixels)
    paths = np.eye(5)
    for index in range(2):
        share = np.asarray(weights[f"blocks.{index}.attention"]).mean(1)
        paths = (share + np.eye(5)) / 2 @ paths
    want = jax.image.resize(
        jnp.asarray(paths[:, 0, 1:].reshape(3, 2, 2)), (3, SIDE, SIDE), "linear"
    )
    np.testing.assert_allclose(maps, want, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["CONVNEXT_V2", "MOBILENET", "SIGLIP", "RESNET_50"])
@pytest.mark.parametrize("method", ["gradcam", "saliency", "rollout"])
def test_every_backbone_is_traced_or_refused(name, method):
    model = build(getattr(miniatures, name), num_classes=3, rngs=nnx.Rngs(0))
    subject, weights = Subject.of(model, [GREY])
    how = How(Method(method), **LITTLE)
    if method == Method.rollout and name != "SIGLIP":
        with pytest.raises(UsageError, match="Take method=gradcam"):
            Explainer(subject, weights, how)
        return
    found, _ = jax.eval_shape(
        compiled(subject, how, None), weights, IMAGES, TARGETS, IMAGES
    )
    assert found.shape == (3, SIDE, SIDE)
    assert found.dtype == np.float32


def test_every_method_is_listed_once():
    assert set(METHODS) == set(Method)
    assert set(BY_ASKING) <= set(SIGNED)
    assert not set(BY_ASKING) & set(BY_GRADIENT)


def test_a_call_takes_fewer_images_where_each_takes_many_gradients():
    assert batch_of(How(Method.saliency), side=64) == 32
    assert batch_of(How(Method.smoothgrad, steps=32), side=64) == 4
    assert batch_of(How(Method.smoothgrad, steps=32), side=224) == 1


def test_deletion_of_what_counts_falls_fast_and_insertion_rises_fast():
    subject, weights = Subject.of(Formula(), [GREY])
    removal = faithfulness.Removal(subject, weights)
    good = contributions(0.5).astype(np.float32)
    deleted, inserted = removal(IMAGES, TARGETS, good)
    whole = deleted[:, 0]
    np.testing.assert_allclose(whole, inserted[:, -1], rtol=1e-4)
    worse = removal(IMAGES, TARGETS, -good)
    assert (faithfulness.area(deleted) < faithfulness.area(worse[0])).all()
    assert (faithfulness.area(inserted) > faithfulness.area(worse[1])).all()
    with pytest.raises(UsageError, match="size of its image"):
        removal(IMAGES, TARGETS, good[:, 1:])


def test_deletion_starts_from_the_probability_that_is_served():
    from models.members import answers_of

    members = (Member((0.5,) * 3, (0.25,) * 3, 3.0), Member((0.4,) * 3, (0.3,) * 3))
    subject, first = Subject.of(Formula(), [GREY])
    both = stacked([member_of(first, 0)] * 2)
    subject = Subject(subject.graphdef, members, subject.kind)
    deleted, _ = faithfulness.Removal(subject, both)(
        IMAGES, TARGETS, contributions(0.5).astype(np.float32)
    )
    pixels = jnp.asarray(IMAGES / 255, jnp.float32)
    served = jnp.exp(answers_of(subject.graphdef, both, members, pixels))
    want = np.take_along_axis(np.asarray(served), TARGETS[:, None], 1)[:, 0]
    np.testing.assert_allclose(deleted[:, 0], want, rtol=1e-4)


def test_energy_and_pointing_against_masks():
    maps = np.zeros((2, 4, 4), np.float32)
    maps[0, 0, 0], maps[0, 3, 3], maps[0, 2, 2] = 3, 1, -9
    masks = np.zeros((2, 4, 4), bool)
    masks[:, :2, :2] = True
    inside = faithfulness.energy_inside(maps, masks)
    assert inside[0] == pytest.approx(0.75)
    assert np.isnan(inside[1])
    np.testing.assert_allclose(faithfulness.pointing(maps, masks), [1, 0.25])
    for measure in (faithfulness.energy_inside, faithfulness.pointing):
        with pytest.raises(UsageError, match=r"A mask .*\(2, 4, 4\), came \(2, 3, 4\)"):
            measure(maps, masks[:, 1:])


def test_agreement_is_spearmans_correlation():
    from scipy.stats import spearmanr

    one, other = RANDOM.integers(0, 5, (2, 3, 6, 6)).astype(np.float32)
    want = [spearmanr(a.ravel(), b.ravel())[0] for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(faithfulness.rank_agreement(one, other), want, atol=1e-6)
    assert faithfulness.rank_agreement(one, np.ones_like(one)).max() == 0


def test_controls_know_nothing_of_the_network():
    edges = faithfulness.edge_maps(np.full((1, 8, 8, 3), 7, np.uint8))
    assert edges.shape == (1, 8, 8)
    assert edges.max() == 0
    step = np.zeros((1, 8, 8, 3), np.uint8)
    step[:, :, 4:] = 200
    assert (faithfulness.edge_maps(step)[0].argmax(1) // 2 >= 1).all()
    random = faithfulness.random_maps((2, 8, 8), seed=0)
    np.testing.assert_array_equal(random, faithfulness.random_maps((2, 8, 8), seed=0))
    moved = faithfulness.change_under_noise(random, random[None] * 1.5)
    np.testing.assert_allclose(moved, 0.5, rtol=1e-5)


def test_shuffled_weights_are_the_same_numbers_elsewhere():
    _, weights = Subject.of(Formula(), [GREY])
    shuffled = faithfulness.shuffled_weights(weights, seed=0)
    (own,), (other,) = jax.tree.leaves(weights), jax.tree.leaves(shuffled)
    assert not np.array_equal(own, other)
    np.testing.assert_array_equal(np.sort(own.ravel()), np.sort(other.ravel()))
