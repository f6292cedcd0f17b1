"""Embeddings by patches: without labels, the same for the same seed, and telling."""

import numpy as np

from models.patches import learn_patches


def stripes(n: int = 96, seed: int = 0):
    rng = np.random.default_rng(seed)
    upright = np.arange(n) % 2 == 0
    y, x = np.mgrid[:32, :32]
    along = np.where(upright[:, None, None], x, y)
    wave = 128 + 80 * np.sin(along / 1.5 + rng.random((n, 1, 1)) * 6)
    wave = wave + rng.normal(0, 10, wave.shape)
    return np.repeat(wave.clip(0, 255).astype(np.uint8)[..., None], 3, 3), upright


def test_what_looks_alike_lies_together():
    images, upright = stripes()
    x = learn_patches(images, seed=0).embed(images)
    assert x.dtype == np.float32
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    near = x @ x.T
    np.fill_diagonal(near, -1)
    assert (upright[near.argmax(1)] == upright).mean() > 0.95


def test_batches_and_repetition_change_nothing():
    images, _ = stripes(24)
    encoder = learn_patches(images, seed=1)
    again = learn_patches(images, seed=1)
    whole = encoder.embed(images)
    assert np.array_equal(whole, again.embed(images))
    assert np.array_equal(whole[5:9], encoder.embed(images[5:9]))


def test_flat_images_are_no_trouble():
    images = np.full((20, 32, 32, 3), 7, np.uint8)
    assert np.isfinite(learn_patches(images, seed=0).embed(images)).all()
