"""What a network has beside its preset: shapes, sizes, gradients, what it computes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from data_contracts.errors import UsageError
from models.attention_maps import attention_maps, attention_weights
from models.backbones import build, create_model
from models.backbones.attention import (
    GRID,
    SPAN,
    BlockAttention,
    EfficientChannel,
    Heads,
    QueryPool,
    SqueezeExcite,
)
from models.backbones.parts import draw_paths, skipped
from models.design import PLAIN, TAKES, Design, design_problem, views_problem
from models.forward import forward
from models.optim import inner_convolutions
from models.scales import answer, resized
from models.steps import make_predict
from tests.models import miniatures

EVERYTHING = {"pool": "attention", "pyramid": True}
# Parameters (without the head, as in `test_backbones`) and width of the embedding.
TABLE = [
    ("small", {}, 1_227_072, 256),
    ("small", {"attention": "se"}, 1_239_368, 256),
    ("small", {"attention": "eca"}, 1_227_088, 256),
    ("small", {"attention": "cbam"}, 1_239_760, 256),
    ("small", {"attention": "heads"}, 836_544, 256),
    ("small", {"attention": "heads", "positions": "absolute"}, 835_520, 256),
    ("small", {"pool": "attention"}, 1_227_072 + 256, 256),
    ("small", {"pyramid": True}, 1_242_816, 384),
    ("small", {"kernels": "parallel"}, 1_102_192, 256),
    ("small", {"drop_path": 0.2, "dropout": 0.1}, 1_227_072, 256),
    ("resnet18", {"attention": "se", "kernels": "parallel"}, 10_266_624, 512),
    ("resnet50_tv", {"attention": "heads", **EVERYTHING}, 19_793_728, 2048 + 4 * 256),
    ("convnext_atto", {"attention": "cbam", **EVERYTHING}, 3_451_108, 320 + 4 * 40),
    ("convnextv2_atto", {"attention": "eca", "drop_path": 0.1}, 3_387_452, 320),
    ("mobilenetv3_small", EVERYTHING, 1_521_568, 1024 + 4 * 16),
    ("vit_tiny", {"pool": "attention", "drop_path": 0.1}, 5_524_416 + 192, 192),
]


def params_of(model):
    return nnx.as_pure(nnx.state(model, nnx.Param))


def size_of(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(("preset", "choices", "count", "width"), TABLE)
def test_every_design_has_its_size_and_shapes(preset, choices, count, width):
    design = Design(**choices)
    model = nnx.eval_shape(
        lambda: create_model(
            preset, num_classes=7, image_size=96, seed=0, design=design
        )
    )
    found = size_of(params_of(model)) - size_of(params_of(model.head))
    assert (found, model.head.in_features) == (count, width)
    graphdef, state = nnx.split(model)

    def ask(state, x):
        model = nnx.merge(graphdef, state)
        return model(x, train=False), model.embed(x)

    for side in (96, 72, 40):
        x = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
        logits, embedding = jax.eval_shape(ask, state, x)
        assert (logits.shape, embedding.shape) == ((2, 7), (2, width))


SMALLEST = {
    "resnet": miniatures.RESNET,
    "bottleneck": miniatures.RESNET_50,
    "convnext": miniatures.CONVNEXT,
    "convnextv2": miniatures.CONVNEXT_V2,
    "mobilenetv3": miniatures.MOBILENET,
    "vit": miniatures.VIT,
}
# Every layer of every family once.
ARMS = [
    ("resnet", {"attention": "se", "kernels": "parallel"}),
    ("resnet", {"attention": "heads", "drop_path": 0.3, "dropout": 0.3, **EVERYTHING}),
    ("bottleneck", {"attention": "heads", "positions": "absolute"}),
    ("bottleneck", {"attention": "cbam", "kernels": "parallel"}),
    ("convnext", {"attention": "eca", "drop_path": 0.3, **EVERYTHING}),
    ("mobilenetv3", {"dropout": 0.3, **EVERYTHING}),
    ("vit", {"drop_path": 0.3, "pool": "attention"}),
]
NAMES = [f"{name}-{'-'.join(choices)}" for name, choices in ARMS]


def mini(name, *, seed=0, **choices):
    """Return a miniature with a design whose every parameter counts."""
    shape = dataclasses.replace(SMALLEST[name], design=Design(**choices))
    model = build(shape, num_classes=3, rngs=nnx.Rngs(seed))
    random = np.random.default_rng(seed)

    def moved(leaf):
        return leaf + 0.3 * random.normal(size=leaf.shape).astype(np.float32)

    params = nnx.state(model, nnx.Param)
    nnx.update(model, jax.tree.map(moved, params))
    return model


def split(model):
    graphdef, params, stats = nnx.split(model, nnx.Param, ...)
    return graphdef, (nnx.as_pure(params), nnx.as_pure(stats))


def gradients(model, x, **options):
    graphdef, (params, stats) = split(model)

    @jax.jit
    def of(params):
        def loss(params):
            key = jax.random.key(1)
            logits, _ = forward(graphdef, (params, stats), x, key=key, **options)
            return (logits * jnp.arange(1.0, 4)).sum()

        return jax.value_and_grad(loss)(params)

    return of(params)


@pytest.mark.parametrize(("name", "choices"), ARMS, ids=NAMES)
def test_gradients_reach_every_parameter(name, choices):
    x = miniatures.pixels(40).repeat(2, 0)
    _, grads = gradients(mini(name, **choices), x)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(grad).all()
        assert np.abs(grad).max() > 0, jax.tree_util.keystr(path)


@pytest.mark.parametrize(("name", "choices"), ARMS, ids=NAMES)
def test_remat_and_bfloat16_go_on_working(name, choices):
    x = miniatures.pixels(40).repeat(2, 0)
    model = mini(name, **choices)
    (plain, grads), (again, same) = gradients(model, x), gradients(model, x, remat=True)
    np.testing.assert_allclose(plain, again, rtol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-2), grads, same
    )
    low, grads = gradients(model, x, precision="bfloat16")
    assert np.isfinite(low)
    assert all(np.isfinite(grad).all() for grad in jax.tree.leaves(grads))
    assert {grad.dtype for grad in jax.tree.leaves(grads)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(("name", "choices"), ARMS, ids=NAMES)
def test_what_pools_comes_after_the_stages_and_muon_knows_the_rest(name, choices):
    model = mini(name, **choices)
    params = params_of(model)
    for part in {"query", "pyramid"} & set(params):
        assert model.part_of((part,)) == model.stages + 1
    for path, axes in jax.tree_util.tree_leaves_with_path(
        inner_convolutions(params),
        is_leaf=lambda leaf: leaf is None or hasattr(leaf, "output_axis"),
    ):
        names = jax.tree_util.keystr(path)
        assert axes is None or "kernel" in names
        if "gate" in names and "conv" in names:
            assert axes is None  # two channels say too little for orthogonal steps
