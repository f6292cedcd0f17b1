"""Precision, parts of a batch, blocks recomputed, steps uphill."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from data_contracts.errors import UsageError
from models import steps
from models.backbones import ResNet, Shape
from models.forward import forward, lower
from models.losses import cross_entropy
from models.optim import (
    free_adamw,
)
from models.recipe import NONE
from tests.models.test_steps import (
    ELR,
    MEMORY,
    VIEW,
    Linear,
    N,
    batch,
    build,
    digest,
    make_objective,
)


def blocks():
    """Two residual blocks and batch norm; no dropout."""
    return ResNet(Shape((4, 8), (1, 1), "half"), num_classes=3, rngs=nnx.Rngs(0))


class Plain(nnx.Module):
    """Blocks without batch norm: an example's gradient is its own."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.stem = nnx.Conv(3, 8, (4, 4), strides=4, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(8, 8, rngs=rngs) for _ in range(3)])
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x, *, train, rngs=None):
        x = self.stem(x)
        for block in self.blocks:
            x = jax.nn.relu(block(x)) + x
        return self.head(self.norm(x).mean((1, 2)))


def stepped(model, *, count=1, images=N, tx=None, **settings):
    _, state, step = build(model, tx, **settings)
    for index in range(count):
        state, metrics = step(state, *batch(images, seed=index))
    return state, metrics


def close(one, other, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), one, other)


# Schedules


def test_a_sharpness_aware_step_takes_the_gradient_uphill():
    _, state, step = build(Linear(), sam_radius=0.5)
    start = jax.device_get(state.params)
    images, labels, weights, places = batch()
    x = (images / 255.0 - np.array(VIEW["mean"])) / np.array(VIEW["std"])

    def loss(params):
        kernel, bias = params["head"]["kernel"], params["head"]["bias"]
        logits = jnp.asarray(x.reshape(N, -1), jnp.float32) @ kernel + bias
        return cross_entropy(logits, labels, smoothing=0.1).mean()

    value, grads = jax.value_and_grad(loss)(start)
    far = 0.5 / optax.tree.norm(grads)
    worst = jax.tree.map(lambda w, g: w + far * g, start, grads)
    assert loss(worst) > value
    state, metrics = step(state, images, labels, weights, places)
    assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-5)
    uphill = jax.grad(loss)(worst)["head"]["kernel"]
    expected = start["head"]["kernel"] - 0.1 * uphill
    np.testing.assert_allclose(state.params["head"]["kernel"], expected, atol=1e-5)


def test_statistics_and_memory_are_those_of_the_weights_not_of_the_worst():
    plain, _ = stepped(blocks(), memory=MEMORY)
    sharp, _ = stepped(blocks(), memory=MEMORY, sam_radius=0.5)
    close(sharp.stats, plain.stats, rtol=1e-5, atol=1e-6)
    close(sharp.memory, plain.memory, rtol=1e-5, atol=1e-5)
    assert digest(sharp.params) != digest(plain.params)


# Parts of a batch


MIXED = dataclasses.replace(NONE, flip=0.5, mixup=0.5, cutmix=0.5, brightness=0.3)


@pytest.mark.parametrize("model", [Linear, Plain])
@pytest.mark.parametrize(
    "more", [{}, {"sam_radius": 0.1}, {"objective": make_objective(ELR), "decay": 0.7}]
)
def test_a_batch_in_parts_is_the_whole_batch(model, more):
    """With mixing, images of weight 0, and what is remembered."""

    def run(parts):
        _, state, step = build(
            model(), memory=MEMORY, augment=MIXED, accumulate=parts, **more
        )
        for index in range(2):
            images, labels, weights, places = batch(seed=index)
            weights[6:], places[7:] = 0, 99
            state, metrics = step(state, images, labels, weights, places)
        return state, metrics

    whole, of_whole = run(1)
    cut, of_cut = run(4)
    close(cut.params, whole.params, atol=1e-5)
    close(cut.memory, whole.memory, atol=1e-4)
    close(of_cut, of_whole, rtol=1e-4)


def test_batch_norm_sees_a_part_and_moves_once_a_part():
    class Norm(nnx.Module):
        def __init__(self):
            self.norm = nnx.BatchNorm(3, momentum=0.5, rngs=nnx.Rngs(0))
            self.head = nnx.Linear(3, 3, rngs=nnx.Rngs(0))

        def __call__(self, x, *, train, rngs=None):
            x = self.norm(x.mean((1, 2)), use_running_average=not train)
            return self.head(x)

    images, *_ = batch()
    x = (images / 255.0 - np.array(VIEW["mean"])) / np.array(VIEW["std"])
    means = x.mean((1, 2)).reshape(2, N // 2, 3).mean(1)
    state, _ = stepped(Norm(), accumulate=2)
    expected = 0.5 * (0.5 * means[0]) + 0.5 * means[1]
    np.testing.assert_allclose(state.stats["norm"]["mean"], expected, rtol=1e-3)


def test_every_part_draws_its_own_dropout():
    class Dropped(nnx.Module):
        def __init__(self):
            self.head = nnx.Linear(3, 3, rngs=nnx.Rngs(0))
            self.drop = nnx.Dropout(0.5)

        def __call__(self, x, *, train, rngs=None):
            ones = 0 * self.head(x.mean((1, 2))) + jnp.array([1.0, 2.0, 4.0])
            return self.drop(ones, deterministic=not train, rngs=rngs)

    _, state, step = build(Dropped(), memory=MEMORY, accumulate=2)
    images, _, weights, places = batch(8)
    state, _ = step(state, images, np.zeros(8, np.int32), weights, places)
    margins = np.asarray(state.memory["margin"])[:8, 0]
    assert (margins[:4] != margins[4:]).any()


# Precision


def test_bfloat16_computes_low_and_keeps_the_rest_high():
    model = blocks()
    seen = {}

    def spy(name, layer):
        def look(values, /, *, dtype=None, **more):
            out = promote(values, dtype=dtype, **more)
            seen[name] = [None if v is None else str(v.dtype) for v in out]
            return out

        promote, layer.promote_dtype = layer.promote_dtype, look

    lower(model)
    spy("conv", model.blocks[0].first.conv)
    spy("norm", model.blocks[0].first.norm)
    spy("head", model.head)
    out = model(jnp.ones((2, 16, 16, 3), jnp.bfloat16), train=True)
    assert seen["conv"][:2] == ["bfloat16", "bfloat16"]
    assert seen["norm"] == ["bfloat16", *["float32"] * 4]
    assert set(seen["head"]) == {"float32"}
    assert out.dtype == jnp.float32


def test_statistics_in_bfloat16_are_float32_s():
    """A mean of 256 and a spread of 1 has no room in bfloat16's eight bits."""

    class Norm(nnx.Module):
        def __init__(self):
            self.norm = nnx.BatchNorm(1, momentum=0.0, rngs=nnx.Rngs(0))

        def __call__(self, x, *, train, rngs=None):
            return self.norm(x, use_running_average=not train)[:, 0, 0]

    graphdef, params, stats = nnx.split(Norm(), nnx.Param, ...)
    x = 1 + jnp.arange(64.0).reshape(64, 1, 1, 1) / 128
    _, after = forward(
        graphdef,
        (nnx.as_pure(params), nnx.as_pure(stats)),
        x,
        key=jax.random.key(0),
        precision="bfloat16",
    )
    assert after["norm"]["mean"].dtype == jnp.float32
    assert float(after["norm"]["mean"][0]) == pytest.approx(float(x.mean()), rel=1e-6)


@pytest.mark.parametrize("model", [blocks, Plain])
def test_a_step_in_bfloat16_is_near_that_in_float32(model):
    exact, full = stepped(model(), images=32)
    rough, half = stepped(model(), images=32, precision="bfloat16")
    kept = jax.tree.leaves((rough.params, rough.stats, rough.ema))
    assert {str(leaf.dtype) for leaf in kept} == {"float32"}
    assert digest(rough.params) != digest(exact.params)
    assert float(half["loss"]) == pytest.approx(float(full["loss"]), rel=1e-2)
    _, start, _ = build(model())
    moves = [
        np.concatenate(
            [np.ravel(a - b) for a, b in zip(*map(jax.tree.leaves, pair), strict=True)]
        )
        for pair in ((exact.params, start.params), (rough.params, start.params))
    ]
    assert np.linalg.norm(moves[1] - moves[0]) < 0.05 * np.linalg.norm(moves[0])


# Blocks computed twice


@pytest.mark.parametrize("model", [blocks, Plain])
def test_recomputed_blocks_give_the_same_step(model):
    whole, _ = stepped(model(), count=2, images=16)
    again, _ = stepped(model(), count=2, images=16, remat=True)
    close(again.params, whole.params, atol=1e-5)
    close(again.stats, whole.stats, atol=1e-5)


def test_recomputed_blocks_draw_the_same_dropout():
    class Dropping(nnx.Module):
        def __init__(self):
            self.drop = nnx.Dropout(0.5)

        def __call__(self, x, *, train, rngs):
            return self.drop(x, deterministic=not train, rngs=rngs)

    class Net(nnx.Module):
        def __init__(self):
            self.head = nnx.Linear(3, 3, rngs=nnx.Rngs(0))
            self.blocks = nnx.List([Dropping(), Dropping()])

        def __call__(self, x, *, train, rngs=None):
            x = self.head(x.mean((1, 2)))
            for block in self.blocks:
                x = block(x, train=train, rngs=rngs)
            return x

    whole, _ = stepped(Net())
    again, _ = stepped(Net(), remat=True)
    close(again.params, whole.params, atol=1e-6)


def test_recomputing_takes_less_memory():
    class Deep(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.blocks = nnx.List([Wide(rngs) for _ in range(6)])
            self.head = nnx.Linear(64, 3, rngs=rngs)

        def __call__(self, x, *, train, rngs=None):
            x = x.reshape(len(x), -1)[:, :64]
            for block in self.blocks:
                x = block(x) + x
            return self.head(x)

    class Wide(nnx.Module):
        def __init__(self, rngs):
            self.up = nnx.Linear(64, 1024, rngs=rngs)
            self.down = nnx.Linear(1024, 64, rngs=rngs)

        def __call__(self, x):
            return self.down(jnp.tanh(self.up(x)))

    def memory(**settings):
        _, state, step = build(Deep(), **settings)
        compiled = step.lower(state, *batch(512)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    plain = memory()
    assert memory(remat=True) < 0.7 * plain
    assert memory(accumulate=8) < 0.5 * plain


def test_a_network_without_blocks_has_none_to_recompute():
    with pytest.raises(UsageError, match=r"Linear has none\. Set remat=no"):
        stepped(Linear(), remat=True)


def test_two_devices_take_the_step_of_one():
    """All at once; early learning, so that what is remembered counts too."""
    options = {
        "sam_radius": 0.1,
        "accumulate": 2,
        "remat": True,
        "memory": MEMORY,
        "objective": make_objective(ELR),
        "decay": 0.7,
    }
    mesh = steps.cpu_mesh()
    if mesh.size < 2:
        pytest.skip("needs two devices")
    tx = free_adamw(0.01)
    split, of_split = stepped(Plain(), tx=tx, images=16, mesh=mesh, **options)
    whole, of_whole = stepped(Plain(), tx=tx, images=16, **options)
    close(split.params, whole.params, atol=1e-4)
    close(split.ema, whole.ema, atol=1e-4)
    close(split.memory, whole.memory, atol=1e-4)
    close(of_split, of_whole, rtol=1e-4)


# Whole runs
