"""The convolution means what XLA's does, in every form it takes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from models import conv

# (height, width, channels, kernel, outputs, stride, padding, groups)
FORMS = {
    "dense": (9, 12, 5, 3, 7, 1, "SAME", 1),
    "dense, one channel": (8, 8, 1, 3, 1, 1, "SAME", 1),
    "dense, strided": (17, 16, 4, 3, 6, 2, ((1, 1), (1, 1)), 1),
    "dense, stride drops edges": (12, 19, 3, 4, 5, 2, "VALID", 1),
    "dense, even kernel": (16, 16, 3, 4, 6, 2, ((1, 1), (1, 1)), 1),
    "dense, uneven padding": (10, 10, 3, 3, 4, 1, ((0, 2), (1, 0)), 1),
    "dense, tiny map": (3, 5, 6, 3, 8, 1, "SAME", 1),
    "dense, two by two": (2, 2, 6, 3, 8, 1, "SAME", 1),
    "dense, down to two by two": (4, 4, 6, 3, 8, 2, ((1, 1), (1, 1)), 1),
    "dense, one pixel, uneven": (1, 2, 6, 3, 8, 1, ((1, 1), (0, 2)), 1),
    "pointwise": (5, 6, 8, 1, 3, 1, "SAME", 1),
    "pointwise, strided": (8, 8, 8, 1, 3, 2, "VALID", 1),
    "patches": (12, 8, 3, 4, 10, 4, "VALID", 1),
    "patches that do not tile": (13, 9, 3, 4, 10, 4, "VALID", 1),
    "depthwise": (9, 9, 6, 3, 6, 1, "SAME", 6),
    "depthwise, strided": (9, 10, 6, 5, 6, 2, ((2, 2), (2, 2)), 6),
    "grouped": (8, 8, 6, 3, 4, 1, "SAME", 2),
    "depthwise, two outputs a channel": (8, 8, 3, 3, 6, 1, "SAME", 3),
}


def native(x, kernel, stride, padding, groups):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def ours(x, kernel, stride, padding, groups):
    strides = (stride, stride)
    return conv.convolve(x, kernel, strides, padding, feature_group_count=groups)


@functools.partial(jax.jit, static_argnums=(0, 3, 4, 5))
def value_and_gradients(form, x, kernel, stride, padding, groups):
    y, back = jax.vjp(lambda a, k: form(a, k, stride, padding, groups), x, kernel)
    return y, *back(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))


def sample(form, dtype=np.float32):
    height, width, channels, size, outputs, stride, padding, groups = form
    random = np.random.default_rng(0)
    x = random.normal(size=(3, height, width, channels))
    kernel = random.normal(size=(size, size, channels // groups, outputs))
    return (jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)), (
        stride,
        padding,
        groups,
    )


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_value_and_both_gradients_are_those_of_xla(form):
    arrays, static = sample(form)
    expected = value_and_gradients(native, *arrays, *static)
    for want, got in zip(
        expected, value_and_gradients(ours, *arrays, *static), strict=True
    ):
        assert got.shape == want.shape
        np.testing.assert_allclose(
            got, want, atol=2e-6 * float(jnp.abs(want).max()), rtol=0
        )


def test_dilation_goes_to_xla():
    (x, kernel), _ = sample(FORMS["dense"])
    options = {"rhs_dilation": (2, 2), "dimension_numbers": conv.NHWC}
    want = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", **options)
    got = conv.convolve(x, kernel, (1, 1), "SAME", **options)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_half_precision_stays_half_precision():
    arrays, static = sample(FORMS["dense"], jnp.bfloat16)
    for array in value_and_gradients(ours, *arrays, *static):
        assert array.dtype == jnp.bfloat16


def test_flax_convolutions_accept_it():
    layer = nnx.Conv(4, 6, (3, 3), conv_general_dilated=conv.convolve, rngs=nnx.Rngs(0))
    plain = nnx.Conv(4, 6, (3, 3), rngs=nnx.Rngs(0))
    x = jnp.ones((2, 8, 8, 4))
    np.testing.assert_allclose(layer(x), plain(x), atol=1e-5)


def test_it_maps_over_a_further_axis():
    (x, kernel), _ = sample(FORMS["dense"])
    many = jnp.stack([x, 2 * x])
    got = jax.vmap(lambda a: ours(a, kernel, 1, "SAME", 1))(many)
    np.testing.assert_allclose(got[1], 2 * got[0], rtol=1e-5, atol=1e-5)


def test_depthwise_gradients_take_no_grouped_convolution():
    (x, kernel), static = sample(FORMS["depthwise"])
    lowered = value_and_gradients.lower(ours, x, kernel, *static)
    assert "convolution" not in lowered.compile().as_text()
