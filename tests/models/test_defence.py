"""Defences on networks small enough to know what they must come to."""

from __future__ import annotations

import functools
from statistics import NormalDist

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.defence.adaptive import evade, make_step
from models.defence.detectors import (
    SCORES,
    Blend,
    Reference,
    fewer_levels,
    median,
    scores_of,
)
from models.defence.recode import (
    eight_bit,
    keys_by_content,
    random_views,
    reencode,
)
from models.defence.smoothing import make_counts
from models.defence.watch import QueryWatch

SIDE = 8


def photo(side: int = 48) -> np.ndarray:
    """Return one smooth picture with an edge, uint8."""
    y, x = np.mgrid[:side, :side] / side
    waves = np.stack([np.sin(7 * x) + y, np.cos(9 * y), x * y], -1)
    waves[:, side // 2 :] += 0.7
    return np.rint(255 * (waves - waves.min()) / np.ptp(waves)).astype(np.uint8)


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_reencoding_is_what_a_jpeg_file_gives_back(quality):
    image = photo()
    wanted = [cv2.IMWRITE_JPEG_QUALITY, quality]
    stored = cv2.imencode(".jpg", image[..., ::-1], wanted)[1]
    read = cv2.imdecode(stored, cv2.IMREAD_COLOR)[..., ::-1].astype(np.float32)
    code = jax.jit(functools.partial(reencode, quality=quality))
    apart = np.abs(np.asarray(code(image[None] / np.float32(255)))[0] * 255 - read)
    assert apart.mean() < 0.7  # of 255 levels; whole numbers are rounded elsewhere
    assert np.abs(read - image).mean() > 1.5 * apart.mean()


def test_reencoding_takes_any_side_and_passes_gradients():
    pixels = jnp.asarray(photo(13)[None] / 255.0, jnp.float32)
    slope = jax.jit(jax.grad(lambda x: reencode(x, quality=60).sum()))(pixels)
    assert slope.shape == (1, 13, 13, 3)
    assert float(jnp.abs(slope).mean()) > 0.1


def test_random_views_depend_on_the_image_and_the_seed_alone():
    pixels = jnp.asarray(np.random.default_rng(0).random((3, SIDE, SIDE, 3)), "float32")

    @jax.jit
    def views(images: jax.Array, seed: int = 0, smallest: float = 0.7) -> jax.Array:
        keys = keys_by_content(eight_bit(images), seed)
        return random_views(images, keys, views=2, smallest=smallest)

    whole = views(pixels)
    assert whole.shape == (2, 3, SIDE, SIDE, 3)
    np.testing.assert_allclose(views(pixels[1:2])[:, 0], whole[:, 1], atol=1e-6)
    assert float(jnp.abs(whole[0] - whole[1]).max()) > 0.01
    assert float(jnp.abs(views(pixels, 1) - whole).max()) > 0.01
    np.testing.assert_allclose(views(pixels, 0, 0.999999)[0], pixels, atol=1e-3)


def linear(side: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Return a direction and two classes parted at its middle."""
    direction = np.zeros((side, side, 3), np.float32)
    direction[0, 0, 0] = 1
    return direction, np.array([0.5], np.float32)


def ask(weights, pixels):
    """Answer 1 where the first sample is above one half, 0 below."""
    lead = 20 * ((pixels * weights[0]).sum((1, 2, 3)) - weights[1])
    return jnp.stack([-lead, lead], -1) / 2


def both(weights, pixels):
    return ask(weights, pixels), pixels.reshape(len(pixels), -1)


def test_squeezing_does_nothing_to_what_is_squeezed_already():
    flat = jnp.full((1, SIDE, SIDE, 3), 0.25)
    assert np.array_equal(median(flat), flat)
    assert np.array_equal(fewer_levels(fewer_levels(flat, 3), 3), fewer_levels(flat, 3))
    noise = np.random.default_rng(0).random((2, SIDE, SIDE, 3)).astype(np.float32)
    around = np.lib.stride_tricks.sliding_window_view(noise, (3, 3), (1, 2))
    inner = median(noise)[:, 1:-1, 1:-1]
    assert np.array_equal(inner, np.median(around, axis=(-2, -1)))
    hot = np.asarray(flat).copy()
    hot[0, 3, 3] = 1
    assert float(median(jnp.asarray(hot)).max()) == 0.25


def test_scores_rise_away_from_the_training_images():
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    close = 0.2 + 0.6 * labels[:, None] + rng.normal(0, 0.02, (200, 12))
    known = Reference.of(close.astype(np.float32), labels, 3)
    near = jnp.asarray(close[:8].reshape(8, 2, 2, 3), jnp.float32)
    far = near.at[:, 1].set(1 - near[:, 1])
    weights = linear()
    for name in ("mahalanobis", "neighbours"):
        score = SCORES[name]
        own = score(lambda x: both(weights, x), near, known)
        other = score(lambda x: both(weights, x), far, known)
        assert float(other.min()) > float(own.max()), name


def test_a_class_without_images_and_fewer_images_than_dimensions_are_borne():
    few = np.random.default_rng(0).random((3, 12)).astype(np.float32)
    known = Reference.of(few, np.array([0, 0, 2]), 4)
    pixels = jnp.asarray(few.reshape(3, 2, 2, 3))
    scores = scores_of(lambda x: both(linear(), x), pixels, known)
    assert scores.shape == (3, len(SCORES))
    assert np.isfinite(scores).all()


def test_a_blend_weighs_the_score_that_tells():
    rng = np.random.default_rng(0)
    clean, attacked = rng.normal(0, 1, (2, 300, 2)).astype(np.float32)
    attacked[:, 1] += 4
    blend = Blend.fit(clean, attacked)
    assert abs(blend.weights[0]) < 0.3 < 1 < blend.weights[1]
    assert np.mean(blend(attacked) > np.quantile(blend(clean), 0.95)) > 0.9


def test_the_adaptive_attack_fools_and_stays_below_the_threshold():
    weights = linear()

    def judge(weights, pixels):  # the detector sees another sample, which must be low
        return ask(weights, pixels), pixels[:, 1, 1, 2]

    clean = np.full((3, 2, 2, 3), 0.45, np.float32)
    clean[2] = 0.1
    step = jax.jit(make_step(judge, epsilon=0.1))
    found = evade(
        step,
        weights,
        clean,
        np.zeros(3, np.int32),
        starts=[clean],
        limits=(0.4, 0.1),
        steps=10,
    )
    assert found.fooled.tolist() == [True, True, False]  # the last is out of reach
    assert (found.score[:2] <= 0.4).all()
    assert np.abs(found.pixels - clean).max() <= 0.1 + 1e-6


def test_the_adaptive_attack_gains_nothing_below_a_level_of_a_file():
    def judge(weights, pixels):  # the answer turns between two levels
        lead = pixels[:, 0, 0, 0] * 255 - 127.2
        return jnp.stack([-lead, lead], -1), jnp.zeros(len(pixels))

    def fooled(levels):
        step = jax.jit(make_step(judge, epsilon=levels / 255))
        clean = np.full((1, 2, 2, 3), 127 / 255, np.float32)
        given = {"starts": [clean], "limits": (0.4, 0.1), "steps": 4}
        return evade(step, (), clean, np.zeros(1, np.int32), **given).fooled[0]

    assert not fooled(0.4)
    assert fooled(0.8)


def test_counts_under_noise_are_those_of_the_normal_distribution():
    pixels = jnp.full((2, 2, 2, 3), 0.5).at[0, 0, 0, 0].set(0.65)
    counts = jax.jit(make_counts(ask, draws=4_000))
    keys = jax.random.split(jax.random.key(0), 2)
    found = counts(linear(), 0.25, 0, pixels, keys)
    assert found.sum(1).tolist() == [4_000, 4_000]
    share = np.asarray(found)[:, 1] / 4_000
    assert share == pytest.approx([NormalDist().cdf(0.15 / 0.25), 0.5], abs=0.03)
    assert not np.array_equal(counts(linear(), 0.25, 1, pixels, keys), found)


def test_answers_that_are_no_numbers_are_counted_in_no_class():
    counts = make_counts(lambda _, pixels: jnp.full((len(pixels), 2), jnp.nan), draws=4)
    keys = jax.random.split(jax.random.key(0), 1)
    assert int(counts((), 1.0, 0, jnp.zeros((1, 2, 2, 3)), keys).sum()) == 0


def test_a_client_that_repeats_itself_is_noticed_and_others_are_not():
    rng = np.random.default_rng(0)
    watch = QueryWatch(memory=50, distance=4, limit=10, clients=2)
    own = rng.integers(1, 2**63, 40).astype(np.uint64)
    assert not watch.see("shop", own).suspicious
    flips = np.uint64(1) << rng.integers(0, 64, 40).astype(np.uint64)
    attack = own[:1] ^ flips
    found = watch.see("attacker", attack)
    assert found.suspicious
    assert found.near >= 39
    assert not watch.see("shop", own[:5]).suspicious  # a few retries


def test_the_watch_forgets_what_is_old_and_who_was_silent():
    watch = QueryWatch(memory=4, distance=0, limit=1, clients=2)
    repeated = np.full(4, 7, np.uint64)
    assert watch.see("a", repeated).suspicious
    assert not watch.see("a", np.array([8, 16, 32, 64], np.uint64)).suspicious
    watch.see("b", repeated)
    watch.see("c", repeated)
    assert len(watch) == 2
    assert watch.see("a", repeated[:1]).remembered == 1
    assert watch.see("blank", np.zeros(9, np.uint64)).near == 0
    with pytest.raises(ValueError, match="limit=4"):
        QueryWatch(memory=4, limit=4)
