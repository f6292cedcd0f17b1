"""Layers of attention and the pyramid give what NumPy computes of their formulas."""

import re

import jax
import numpy as np
import pytest
from flax import nnx

from models.backbones.attention import (
    GRID,
    SPAN,
    BlockAttention,
    EfficientChannel,
    Heads,
    QueryPool,
    SqueezeExcite,
)
from models.backbones.pyramid import Pyramid

RANDOM = np.random.default_rng(0)
MAPS = RANDOM.normal(size=(2, 3, 4, 8)).astype(np.float32)


def drawn(module):
    """Return a module with random weights, and these as NumPy arrays by name."""
    params = nnx.state(module, nnx.Param)
    moved = jax.tree.map(
        lambda leaf: RANDOM.normal(size=leaf.shape).astype("f4"), params
    )
    nnx.update(module, moved)
    pure = nnx.as_pure(nnx.state(module, nnx.Param))
    return module, {
        ".".join(re.findall(r"\w+", jax.tree_util.keystr(path))): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(pure)
    }


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def dense(w, name, x):
    return x @ w[f"{name}.kernel"] + w[f"{name}.bias"]


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)


def test_squeeze_and_excite():
    module, w = drawn(SqueezeExcite(8, rngs=nnx.Rngs(0)))
    hidden = np.maximum(dense(w, "first", MAPS.mean((1, 2))), 0)
    close(module(MAPS), MAPS * sigmoid(dense(w, "second", hidden))[:, None, None])


def test_efficient_channel_attention():
    module, w = drawn(EfficientChannel(8, rngs=nnx.Rngs(0)))
    assert len(w["taps"]) == 3
    assert len(EfficientChannel(256, rngs=nnx.Rngs(0)).taps) == 5
    gate = np.stack(
        [np.convolve(mean, w["taps"][::-1], "same") for mean in MAPS.mean((1, 2))]
    )
    close(module(MAPS), MAPS * sigmoid(gate)[:, None, None])


def test_block_attention():
    module, w = drawn(BlockAttention(8, rngs=nnx.Rngs(0)))

    def said(x):
        return dense(w, "second", np.maximum(dense(w, "first", x), 0))

    gate = sigmoid(said(MAPS.mean((1, 2))) + said(MAPS.max((1, 2))))
    x = MAPS * gate[:, None, None]
    seen = np.pad(
        np.stack([x.mean(-1), x.max(-1)], -1), ((0, 0), *[(3, 3)] * 2, (0, 0))
    )
    place = np.zeros(MAPS.shape[:3])
    for i, j in np.ndindex(3, 4):
        window = seen[:, i : i + 7, j : j + 7]
        place[:, i, j] = np.einsum("nabc,abc->n", window, w["conv.kernel"][..., 0])
    close(module(MAPS), x * sigmoid(place)[..., None])
    close(module.weights(MAPS), sigmoid(place))


@pytest.mark.parametrize("positions", ["relative", "absolute"])
def test_heads(positions):
    module, w = drawn(Heads(8, positions=positions, rngs=nnx.Rngs(0)))
    n, h, width, _ = MAPS.shape
    qkv = dense(w, "qkv", MAPS).reshape(n, h, width, 3, 4, 2)
    if positions == "absolute":
        rows, columns = (
            np.asarray(jax.image.resize(w[name], (side, 2), "linear"))
            for name, side in (("rows", h), ("columns", width))
        )
    out, share = np.zeros((n, h, width, 4, 2)), np.zeros((n, 4, h * width, h * width))
    for i, y, x, head in np.ndindex(n, h, width, 4):
        query = qkv[i, y, x, 0, head] / np.sqrt(2)
        logits = np.zeros((h, width))
        for y2, x2 in np.ndindex(h, width):
            if positions == "relative":
                place = w["rows"][y2 - y + SPAN] + w["columns"][x2 - x + SPAN]
            else:
                place = rows[y2] + columns[x2]
            logits[y2, x2] = query @ (qkv[i, y2, x2, 1, head] + place)
        found = softmax(logits.ravel())
        share[i, head, y * width + x] = found
        out[i, y, x, head] = found @ qkv[i, :, :, 2, head].reshape(-1, 2)
    close(module(MAPS), out.reshape(MAPS.shape))
    close(module.weights(MAPS), share)


def test_heads_far_apart_share_a_position():
    assert GRID == SPAN == 7
    module, _ = drawn(Heads(8, positions="relative", rngs=nnx.Rngs(0)))
    long = RANDOM.normal(size=(1, 1, 12, 8)).astype(np.float32)
    assert np.isfinite(module(long)).all()


def test_a_learnt_query_starts_as_the_mean():
    module = QueryPool(8)
    close(module(MAPS), MAPS.mean((1, 2)))
    module, w = drawn(module)
    share = softmax((MAPS @ w["query"] / np.sqrt(8)).reshape(2, -1))
    close(module(MAPS), np.einsum("nt,ntc->nc", share, MAPS.reshape(2, -1, 8)))
    close(module.weights(MAPS), share.reshape(2, 3, 4))


def test_a_pyramid_adds_coarse_maps_to_fine_ones():
    module, w = drawn(Pyramid((4, 8), rngs=nnx.Rngs(0)))
    fine = RANDOM.normal(size=(2, 5, 8, 4)).astype(np.float32)
    low = dense(w, "levels.1", MAPS)
    high = dense(w, "levels.0", fine)
    high = high + low.repeat(2, 1).repeat(2, 2)[:, :5]

    def pooled(x, norm):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        x = x * w[f"{norm}.scale"] + w[f"{norm}.bias"]
        return np.maximum(x, 0).mean((1, 2))

    want = np.concatenate([pooled(high, "norms.0"), pooled(low, "norms.1")], -1)
    close(module((fine, MAPS)), want)
    # Maps whose sides were cut by an odd pool are filled from their edge.
    odd = RANDOM.normal(size=(2, 7, 9, 4)).astype(np.float32)
    assert module((odd, MAPS)).shape == (2, module.outputs)
