"""The networks: shapes, sizes, determinism."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from data_contracts.errors import UsageError
from models.backbones import PRESETS, ResNet, Shape, create_model


def leaves(model):
    return jax.tree.leaves(nnx.as_pure(nnx.state(model, nnx.Param)))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("side", [32, 64, 96])
def test_every_preset_gives_logits_and_embeddings(preset, side):
    model = nnx.eval_shape(
        lambda: create_model(preset, num_classes=7, image_size=side, seed=0)
    )
    graphdef, state = nnx.split(model)
    x = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)

    def both(state, x):
        model = nnx.merge(graphdef, state)
        return model(x, train=False), model.embed(x)

    logits, embedding = jax.eval_shape(both, state, x)
    assert logits.shape == (2, 7)
    assert embedding.shape == (2, {"small": 256, "resnet18": 512}[preset])


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
