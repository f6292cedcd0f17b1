"""The networks: shapes, sizes, determinism."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from data_contracts.errors import UsageError
from models.backbones import PRESETS, ResNet, Shape, build, create_model
from models.keymaps import schemes_of
from models.objective import make_objective
from models.optim import by_depth, by_parts, frozen_parts, muon
from models.presets import PRESETS as PRESETS_OF
from models.recipe import NONE, Recipe
from models.steps import create_state, make_train_step
from tests.models import miniatures


def leaves(model):
    return jax.tree.leaves(nnx.as_pure(nnx.state(model, nnx.Param)))


# Parameters without the head, as PyTorch counts them where it has the network; width
# of the embedding; strides of the maps at 96 px.
TABLE = {
    "small": (1_227_072, 256, (2, 4, 8, 16)),
    "resnet18": (11_176_512, 512, (4, 8, 16, 32)),
    "resnet18_tv": (11_176_512, 512, (4, 8, 16, 32)),
    "resnet34_tv": (21_284_672, 512, (4, 8, 16, 32)),
    "resnet50_tv": (23_508_032, 2048, (4, 8, 16, 32)),
    "convnext_atto": (3_374_520, 320, (4, 8, 16, 32)),
    "convnext_femto": (4_832_784, 384, (4, 8, 16, 32)),
    "convnext_pico": (8_532_672, 512, (4, 8, 16, 32)),
    "convnext_nano": (14_952_560, 640, (4, 8, 16, 32)),
    "convnext_tiny": (27_820_128, 768, (4, 8, 16, 32)),
    "convnextv2_atto": (3_387_400, 320, (4, 8, 16, 32)),
    "convnextv2_femto": (4_848_240, 384, (4, 8, 16, 32)),
    "convnextv2_pico": (8_553_280, 512, (4, 8, 16, 32)),
    "convnextv2_nano": (14_982_800, 640, (4, 8, 16, 32)),
    "convnextv2_tiny": (27_866_496, 768, (4, 8, 16, 32)),
    "mobilenetv3_small": (1_517_856, 1024, (4, 8, 16, 32)),
    "mobilenetv3_large": (4_202_032, 1280, (2, 4, 8, 16, 32)),
    "vit_tiny": (5_524_416, 192, (16,)),
    "vit_small": (21_665_664, 384, (16,)),
    "vit_base": (85_798_656, 768, (16,)),
    "dinov2_small": (22_056_192, 384, (14,)),
    "dinov2_base": (86_579_712, 768, (14,)),
    "siglip_base": (92_884_224, 768, (16,)),
}


@pytest.mark.parametrize("preset", TABLE)
def test_every_preset_has_its_size_and_shapes(preset):
    count, width, strides = TABLE[preset]
    model = nnx.eval_shape(
        lambda: create_model(preset, num_classes=7, image_size=96, seed=0)
    )
    graphdef, state = nnx.split(model)
    heads = sum(leaf.size for leaf in leaves(model.head))
    assert sum(leaf.size for leaf in leaves(model)) - heads == count
    assert model.head.in_features == width
    assert (PRESETS_OF[preset].embedding, PRESETS_OF[preset].stages) == (
        width,
        model.stages,
    )
    assert bool(PRESETS_OF[preset].schemes) == bool(schemes_of(model.shape))

    def ask(state, x):
        model = nnx.merge(graphdef, state)
        return model(x, train=False), model.features(x), model.embed(x)

    # Training sees images at three quarters of their side.
    for side in (96, 72):
        x = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
        logits, maps, embedding = jax.eval_shape(ask, state, x)
        assert logits.shape == (2, 7)
        assert embedding.shape == (2, width)
        assert tuple(maps) == strides
        for stride, found in maps.items():
            assert abs(found.shape[1] - side / stride) < 1


def test_the_table_has_every_preset():
    assert tuple(TABLE) == PRESETS


SMALLEST = {
    "resnet": miniatures.RESNET,
    "bottleneck": miniatures.RESNET_50,
    "convnext": miniatures.CONVNEXT,
    "convnextv2": miniatures.CONVNEXT_V2,
    "mobilenetv3": miniatures.MOBILENET,
    "vit": miniatures.VIT,
    "dinov2": miniatures.DINOV2,
    "siglip": miniatures.SIGLIP,
}


# Compiling a step takes seconds, so one of each family does.
@pytest.mark.parametrize("name", ["resnet", "convnextv2", "mobilenetv3", "dinov2"])
def test_every_family_takes_a_training_step_and_holds_still_what_is_frozen(name):
    model = build(SMALLEST[name], num_classes=3, rngs=nnx.Rngs(0))
    recipe = Recipe(freeze="1", layer_decay=0.5)
    tx = by_parts(muon(1e-2), recipe, model, steps=10)
    graphdef, state = create_state(model, tx)
    weights = state.params, state.stats
    step = make_train_step(
        graphdef,
        tx,
        augment=NONE,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        ema=0.0,
        objective=make_objective(
            recipe.loss, recipe.balance, smoothing=0.0, counts=np.ones(3), steps=2
        ),
        seed=0,
    )
    before = jax.device_get(weights)
    images = np.random.default_rng(0).integers(0, 256, (4, 24, 24, 3), np.uint8)
    for _ in range(2):
        state, seen = step(
            state, images, np.arange(4) % 3, np.ones(4, np.float32), np.arange(4)
        )
    assert np.isfinite(seen["loss"])
    after = jax.device_get((state.params, state.stats))
    moved = {}
    for (path, a), (_, b) in zip(
        *map(jax.tree_util.tree_leaves_with_path, (before, after)), strict=True
    ):
        keys = tuple(getattr(e, "key", getattr(e, "idx", e)) for e in path[1:])
        part = model.part_of(keys)
        moved.setdefault(part, []).append(not np.array_equal(a, b))
    assert not any(moved[0] + moved[1])
    assert set(moved) >= {0, 1, 2, model.stages + 2}
    assert all(any(moved[part]) for part in moved if part > 1)


@pytest.mark.parametrize("name", SMALLEST)
def test_a_frozen_backbone_gets_no_gradients(name):
    model = build(SMALLEST[name], num_classes=3, rngs=nnx.Rngs(0))
    model.frozen = frozen_parts("backbone", stages=model.stages)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params):
        model = nnx.merge(graphdef, params, rest, copy=True)
        return model(jnp.ones((2, 16, 16, 3)), train=True).sum()

    jaxpr = str(jax.make_jaxpr(jax.grad(loss))(params))
    forward = str(jax.make_jaxpr(loss)(params))
    assert jaxpr.count("conv_general_dilated") == forward.count("conv_general_dilated")


def test_the_learning_rate_falls_from_head_to_stem():
    tx = by_depth(optax.sgd(1.0), lambda path: path[0], frozen=0, decay=0.5, parts=3)
    params = {part: jnp.ones(2) for part in range(3)}
    updates, _ = tx.update(params, tx.init(params), params)
    assert [float(updates[part][0]) for part in range(3)] == [-0.25, -0.5, -1]


def test_parts_wake_from_the_head_to_the_stem():
    tx = by_depth(
        optax.sgd(1.0), lambda path: path[0], frozen=1, decay=1.0, parts=4, waking=4
    )
    params = {part: jnp.ones(2) for part in range(4)}
    state, learns = tx.init(params), []
    for _ in range(5):
        updates, state = tx.update(params, state, params)
        learns.append([bool(updates[part][0]) for part in range(4)])
    assert [row[0] for row in learns] == [False] * 5
    assert [row[1] for row in learns] == [False] * 4 + [True]
    assert [row[2] for row in learns] == [False] * 2 + [True] * 3
    assert all(row[3] for row in learns)


def test_images_too_small_for_a_network_are_refused():
    with pytest.raises(UsageError, match="needs images of 32 px at least; came"):
        create_model("convnext_atto", num_classes=3, image_size=24, seed=0)


def test_resnet18_has_the_size_of_the_paper():
    model = nnx.eval_shape(
        lambda: create_model("resnet18", num_classes=1000, image_size=224, seed=0)
    )
    count = sum(leaf.size for leaf in leaves(model))
    assert count == 11_689_512  # He et al. 2016 with 1x1 shortcuts


def test_a_seed_fixes_every_weight():
    one, again, other = (
        create_model("small", num_classes=3, image_size=32, seed=seed)
        for seed in (0, 0, 1)
    )
    same = [(a == b).all() for a, b in zip(leaves(one), leaves(again), strict=True)]
    assert all(same)
    assert any((a != b).any() for a, b in zip(leaves(one), leaves(other), strict=True))


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(UsageError, match="small, resnet18"):
        create_model("vgg", num_classes=3, image_size=32, seed=0)


def test_training_moves_the_running_statistics_and_evaluation_does_not():
    model = ResNet(Shape((4, 8), (1, 1), "half"), num_classes=3, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (4, 16, 16, 3)) + 1

    def stats():
        return np.concatenate(
            [np.ravel(a) for a in jax.tree.leaves(nnx.state(model, nnx.BatchStat))]
        )

    before = stats()
    model(x, train=False)
    np.testing.assert_array_equal(stats(), before)
    model(x, train=True)
    assert not np.allclose(stats(), before)


def test_odd_maps_shrink_without_losing_their_edge():
    model = ResNet(Shape((4, 8), (1, 1), "half"), num_classes=3, rngs=nnx.Rngs(0))
    assert model(jnp.ones((1, 22, 26, 3)), train=False).shape == (1, 3)


def test_an_embedding_does_not_depend_on_the_rest_of_the_batch():
    model = ResNet(Shape((4, 8), (1, 1), "half"), num_classes=3, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
    np.testing.assert_allclose(model.embed(x)[:1], model.embed(x[:1]), atol=1e-5)
