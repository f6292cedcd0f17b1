"""What a network has beside its preset: shapes, sizes, gradients, what it computes."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from data_contracts.errors import SchemaError, UsageError
from models.attention_maps import attention_maps, attention_weights
from models.backbones import build, convnext, create_model, resnet, vit
from models.backbones.attention import QueryPool
from models.backbones.parts import draw_paths, skipped
from models.design import PLAIN, TAKES, Design, design_problem, views_problem
from models.forward import forward
from models.optim import inner_convolutions
from models.presets import PRESETS
from models.scales import answer, resized
from models.steps import make_predict
from tests.models import miniatures

BOTH = {"pool": "attention", "pyramid": True}
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
    ("resnet50_tv", {"attention": "heads", **BOTH}, 19_793_728, 2048 + 4 * 256),
    ("convnext_atto", {"attention": "cbam", **BOTH}, 3_451_108, 320 + 4 * 40),
    ("convnextv2_atto", {"attention": "eca", "drop_path": 0.1}, 3_387_452, 320),
    ("mobilenetv3_small", BOTH, 1_521_568, 1024 + 4 * 16),
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

    for side in (96, 40):
        x = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
        logits, embedding = jax.eval_shape(ask, state, x)
        assert (logits.shape, embedding.shape) == ((2, 7), (2, width))


TINY = {
    "resnet": resnet.Shape((8, 16), (1, 1), "half"),
    "convnext": convnext.Shape((8, 16), (1, 1)),
    "vit": vit.Shape(12, 1, 3, patch=4, grid=2),
}
ARMS: dict[str, dict[str, object]] = {
    "resnet": {"attention": "heads", "kernels": "parallel", "drop_path": 0.5, **BOTH},
    "convnext": {"attention": "cbam", "drop_path": 0.5, "dropout": 0.3, **BOTH},
    "vit": {"drop_path": 0.5, "pool": "attention"},
}
PIXELS = miniatures.pixels(16).repeat(3, 0)
PIXELS *= np.linspace(0.5, 1, 6, dtype=np.float32)[:, None, None, None]


def tiny(arm, **choices):
    """Return a miniature with a design, no parameter of which is at rest."""
    shape = dataclasses.replace(TINY[arm], design=Design(**(choices or ARMS[arm])))
    model = build(shape, num_classes=3, rngs=nnx.Rngs(0))
    random = np.random.default_rng(0)
    params = nnx.state(model, nnx.Param)
    moved = jax.tree.map(
        lambda leaf: leaf + 0.3 * random.normal(size=leaf.shape).astype("f4"), params
    )
    nnx.update(model, moved)
    return model


@functools.cache
def gradients(arm, **options):
    """Return the loss, new statistics and gradients of one step of a miniature."""
    graphdef, params, stats = nnx.split(tiny(arm), nnx.Param, ...)
    stats = nnx.as_pure(stats)

    def loss(params):
        logits, after = forward(
            graphdef, (params, stats), PIXELS, key=jax.random.key(1), **options
        )
        return (logits * jnp.arange(1.0, 4)).sum(), after

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(nnx.as_pure(params))


def named(tree):
    found = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in found}


@pytest.mark.parametrize("arm", ARMS)
def test_gradients_reach_every_parameter(arm):
    _, grads = gradients(arm)
    found = {name: float(np.abs(grad).max()) for name, grad in named(grads).items()}
    assert all(np.isfinite(list(found.values())))
    assert [name for name, most in found.items() if not most] == []


def test_blocks_that_are_computed_twice_skip_the_same_images():
    (value, _), grads = gradients("resnet")
    (again, _), same = gradients("resnet", remat=True)
    np.testing.assert_allclose(value, again, rtol=1e-4)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(same), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3)


def test_in_bfloat16_weights_and_statistics_stay_float32():
    (value, stats), grads = gradients("resnet", precision="bfloat16")
    assert np.isfinite(value)
    floats = [leaf.dtype for leaf in jax.tree.leaves((stats, grads))]
    assert set(floats) == {jnp.dtype("float32")}


@pytest.mark.parametrize("arm", ARMS)
def test_what_pools_follows_the_stages_and_gates_take_adams_steps(arm):
    model = tiny(arm)
    params = params_of(model)
    for part in {"query", "pyramid"} & set(params):
        assert model.part_of((part,)) == model.stages + 1
    orthogonal = " ".join(named(inner_convolutions(params)))
    for name in named(params):
        if "qkv" in name or "levels" in name or "five" in name:
            assert (f"{name}." in orthogonal) == name.endswith("['kernel']"), name
        if "['gate']['conv']" in name or "rows" in name or "query" in name:
            assert f"{name}." not in orthogonal, name


# What is skipped


def test_no_image_skips_a_block_at_rate_0_or_outside_training():
    for rate, train in ((0.0, True), (0.5, False)):
        paths = draw_paths(rate, PIXELS, 3, train=train, rngs=nnx.Rngs(0))
        assert paths == [None] * 3
        assert skipped(PIXELS, paths[0]) is PIXELS
    with pytest.raises(ValueError, match="needs rngs"):
        draw_paths(0.5, PIXELS, 3, train=True, rngs=None)


def test_skipping_keeps_the_mean_and_grows_with_depth():
    many = jnp.ones((4000, 2))
    paths = draw_paths(0.6, many, 3, train=True, rngs=nnx.Rngs(0))
    for k, keep in enumerate(paths, 1):
        stay = 1 - 0.6 * k / 3
        out = np.asarray(skipped(many, keep))
        assert (out[:, 0] == out[:, 1]).all()  # an image as a whole
        assert np.mean(out != 0) == pytest.approx(stay, abs=0.03)
        assert out.mean() == pytest.approx(1, abs=0.06)


def test_evaluation_draws_nothing_and_training_differs_by_key():
    model = tiny("vit")

    @functools.partial(jax.jit, static_argnames="train")
    def ask(key, train):
        return model(PIXELS, train=train, rngs=nnx.Rngs(dropout=key))

    keys = jax.random.split(jax.random.key(0))
    np.testing.assert_array_equal(ask(keys[0], False), ask(keys[1], False))
    one, same, other = (ask(keys[key], True) for key in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3


# Where a network looks


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)


def looked_at(model):
    return jax.jit(lambda x: (attention_weights(model, x), attention_maps(model, x)))(
        PIXELS
    )


def test_maps_of_a_residual_network():
    model = tiny("resnet")
    raw, maps = looked_at(model)
    assert set(raw) == set(maps) == {"blocks.1.second.heads", "query"}
    assert raw["blocks.1.second.heads"].shape == (6, 4, 16, 16)
    for found in maps.values():
        assert found.shape == (6, 4, 4)
        close(found.sum((1, 2)), np.ones(6))
    close(raw["blocks.1.second.heads"].sum(-1), np.ones((6, 4, 16)))
    assert type(model.query) is QueryPool  # the network stayed as it was


def test_maps_of_gates_and_tokens():
    _, maps = looked_at(tiny("convnext"))
    assert {name: found.shape for name, found in maps.items()} == {
        "parts.0.blocks.0.gate": (6, 4, 4),
        "parts.1.blocks.0.gate": (6, 2, 2),
        "query": (6, 2, 2),
    }
    assert all(((found > 0) & (found <= 1)).all() for found in maps.values())
    model = tiny("vit", dropout=0.1)
    raw, maps = looked_at(model)
    assert raw["blocks.0.attention"].shape == (6, 3, 17, 17)
    close(raw["blocks.0.attention"].sum(-1), np.ones((6, 3, 17)))
    found = maps["blocks.0.attention"]
    assert found.shape == (6, 4, 4)
    close(found.sum((1, 2)) + raw["blocks.0.attention"][:, :, 0, 0].mean(1), np.ones(6))


# Views at test time


def test_a_network_answers_by_the_mean_of_its_views():
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    model = tiny("resnet", attention="se")
    graphdef, params, stats = nnx.split(model, nnx.Param, ...)
    scales = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    pixels = (images.astype(np.float32) / 255 - 0.5) / 0.25
    views = [pixels, resized(pixels, 0.75), pixels[:, :, ::-1]]
    views.append(views[1][:, :, ::-1])
    assert views[1].shape == (4, 12, 12, 3)
    for embed in (False, True):
        ask = model.embed if embed else functools.partial(model, train=False)
        design = Design(test_scales=(1.0, 0.75), test_flip=True)
        predict = make_predict(graphdef, embed=embed, design=design, **scales)
        want = np.mean([ask(view) for view in views], 0)
        np.testing.assert_allclose(
            predict(params, stats, images), want, rtol=1e-3, atol=1e-3
        )
        one = answer(ask, pixels)
        np.testing.assert_array_equal(one, ask(pixels))


# What goes together


@pytest.mark.parametrize(
    ("preset", "choices", "said"),
    [
        ("vit_tiny", {"attention": "se"}, "preset=vit_tiny takes attention=none; came"),
        ("convnext_atto", {"attention": "heads"}, "such as small"),
        ("mobilenetv3_small", {"drop_path": 0.1}, "skips no blocks; came drop_path=.1"),
        ("vit_tiny", {"pyramid": True}, "takes pyramid=no; came pyramid=yes"),
        ("siglip_base", {"pool": "attention"}, "takes pool=own; came pool=attention"),
        ("small", {"positions": "absolute"}, "Leave positions out"),
    ],
)
def test_what_a_preset_cannot_have_is_refused(preset, choices, said):
    found = design_problem(preset, Design(**choices))
    assert said.replace("=.1", "=0.1") in found
    with pytest.raises(UsageError):
        create_model(
            preset, num_classes=2, image_size=32, seed=0, design=Design(**choices)
        )


def test_every_family_takes_the_plain_design():
    assert all(design_problem(preset, PLAIN) == "" for preset in PRESETS)
    assert set(TAKES) == {preset.family for preset in PRESETS.values()}


def test_scales_may_not_show_less_than_a_preset_needs():
    small = Design(test_scales=(0.5, 1.0))
    assert "needs images of 32 px at least; test_scales shows 0.5 of 48 px" in (
        views_problem("convnext_atto", small, 48)
    )
    assert views_problem("convnext_atto", small, 64) == ""
    assert views_problem("small", small, 32) == ""


def test_a_design_comes_back_from_json():
    design = Design(attention="se", test_scales=(0.75, 1.0), drop_path=0.1)
    kept = json.loads(json.dumps(dataclasses.asdict(design)))
    assert Design.of(kept) == design
    assert Design.of(None) == PLAIN
    with pytest.raises(SchemaError, match="has halo, which"):
        Design.of({"halo": 1})
    assert (design.layers, design.views) == (
        {"attention": "se"},
        {"test_scales": (0.75, 1.0)},
    )
