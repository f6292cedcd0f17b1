"""Convolution with the same meaning as XLA's and a faster path on CPU.

XLA's CPU backend runs depthwise convolutions one group at a time and takes kernel
gradients at a third of matmul speed. Each shape gets the form measured fastest there;
other platforms keep the vendor's convolution. Give it to
`nnx.Conv(..., conv_general_dilated=convolve)`.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Pads = tuple[tuple[int, int], tuple[int, int]]
Pair = tuple[int, int]

NHWC = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
SMALL_MAP = 8  # below 8x8 outputs XLA's own kernel gradient is the faster one
TINY_MAP = 2  # at 2x2 outputs of 256 channels XLA takes 60 times as long as a matmul


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[Sequence[int]],
    *,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: lax.ConvDimensionNumbers | None = None,
    feature_group_count: int = 1,
    **options: Any,
) -> jax.Array:
    """Convolve `x` (n h w c) with `kernel` (h w in out), as XLA would.

    Args:
        x: Images or feature maps, channels last.
        kernel: Weights; `in` is the channels of one group.
        window_strides: Step of the window along h and w.
        padding: "SAME", "VALID", or (before, after) along h and w.
        lhs_dilation: Passed on; any dilation takes XLA's path.
        rhs_dilation: Passed on; any dilation takes XLA's path.
        dimension_numbers: Channels last only, which is what Flax asks for.
        feature_group_count: 1 (dense) and the channel count (depthwise) are fast.
        options: Precision and element type, for XLA's path.
    """
    native = functools.partial(
        lax.conv_general_dilated,
        window_strides=window_strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers or NHWC,
        feature_group_count=feature_group_count,
        **options,
    )
    dilated = any(step != 1 for step in (*(lhs_dilation or ()), *(rhs_dilation or ())))
    depthwise = (
        feature_group_count > 1
        and feature_group_count == x.shape[-1] == kernel.shape[-1]
    )
    if dilated or not (depthwise or feature_group_count == 1):
        return native(x, kernel)
    strides: Pair = (window_strides[0], window_strides[1])
    size: Pair = (kernel.shape[0], kernel.shape[1])
    pads = _explicit(padding, x.shape[1:3], size, strides)
    if not depthwise and _tiles(x, size, strides, pads):
        return _patch_matmul(x, kernel)
    tiny = max(_sides(x, size, strides, pads)) <= TINY_MAP
    one = _depthwise if depthwise else _columns_matmul if tiny else _dense
    fast = functools.partial(one, strides=strides, pads=pads)
    return lax.platform_dependent(x, kernel, cpu=fast, default=native)


def _explicit(padding: Any, image: Sequence[int], size: Pair, strides: Pair) -> Pads:
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(image, size, strides, padding)
    top, left = padding
    return (int(top[0]), int(top[1])), (int(left[0]), int(left[1]))


def _tiles(x: jax.Array, size: Pair, strides: Pair, pads: Pads) -> bool:
    """Say whether windows tile the map, so that a reshape gathers them."""
    whole = x.shape[1] % size[0] == 0 and x.shape[2] % size[1] == 0
    return size == strides and whole and not any(sum(pads, ()))


def _patch_matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    n, h, w, c = x.shape
    kh, kw, _, out = kernel.shape
    tiles = x.reshape(n, h // kh, kh, w // kw, kw, c).swapaxes(2, 3)
    flat = tiles.reshape(-1, kh * kw * c) @ kernel.reshape(-1, out)
    return flat.reshape(n, h // kh, w // kw, out)


def _sides(x: jax.Array, size: Pair, strides: Pair, pads: Pads) -> list[int]:
    """Return height and width of the output."""
    return [
        (side + sum(pad) - kernel) // stride + 1
        for side, pad, kernel, stride in zip(
            x.shape[1:3], pads, size, strides, strict=True
        )
    ]


def _columns_matmul(
    x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads
) -> jax.Array:
    windows = _windows(_pad(x, pads), (kernel.shape[0], kernel.shape[1]), strides)
    columns = jnp.concatenate(windows, axis=-1)
    return columns @ kernel.reshape(-1, kernel.shape[-1])


def _windows(x: jax.Array, size: Pair, strides: Pair) -> list[jax.Array]:
    """Return, for each kernel offset, the strided view of padded `x` it meets."""
    n, h, w, c = x.shape
    rows = (h - size[0]) // strides[0] * strides[0] + 1
    columns = (w - size[1]) // strides[1] * strides[1] + 1
    return [
        lax.slice(x, (0, i, j, 0), (n, i + rows, j + columns, c), (1, *strides, 1))
        for i in range(size[0])
        for j in range(size[1])
    ]


def _flipped(kernel: jax.Array, pads: Pads) -> Pads:
    """Return the padding of the transpose of a convolution by steps of one."""
    (top, bottom), (left, right) = pads
    height, width = kernel.shape[0] - 1, kernel.shape[1] - 1
    return (height - top, height - bottom), (width - left, width - right)


def _pad(x: jax.Array, pads: Pads) -> jax.Array:
    return jnp.pad(x, ((0, 0), *pads, (0, 0)))


def _per_image_sum(one: Any, x: jax.Array, grad: jax.Array, zero: jax.Array) -> Any:
    """Add `one(image, grad)` over the batch; one image's windows stay in cache."""

    def add(total: jax.Array, pair: tuple[jax.Array, jax.Array]) -> Any:
        return total + one(pair[0][None], pair[1]), None

    # The zero takes grad's type under shard_map, which a plain constant would not.
    start = zero + 0 * grad.ravel()[0].astype(zero.dtype)
    return lax.scan(add, start, (x, grad))[0]


@functools.partial(jax.custom_vjp, nondiff_argnames=("strides", "pads"))
def _dense(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=NHWC)


def _dense_forward(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> Any:
    return _dense(x, kernel, strides, pads), (x, kernel)


def _dense_backward(strides: Pair, pads: Pads, saved: Any, grad: jax.Array) -> Any:
    x, kernel = saved
    plain = functools.partial(
        lax.conv_general_dilated,
        window_strides=strides,
        padding=pads,
        dimension_numbers=NHWC,
    )
    flipped = _flipped(kernel, pads)
    if strides == (1, 1) and min(sum(flipped, ())) >= 0:
        # The same convolution and bits; within a loop XLA takes 10 times as long for
        # its own transpose, which attacks on images repeat.
        back = kernel[::-1, ::-1].swapaxes(2, 3)
        dx = lax.conv_general_dilated(
            grad, back, strides, flipped, dimension_numbers=NHWC
        )
    else:
        (dx,) = jax.vjp(lambda a: plain(a, kernel), x)[1](grad)
    if min(grad.shape[1:3]) < SMALL_MAP:
        return dx, jax.vjp(lambda k: plain(x, k), kernel)[1](grad)[0]
    kh, kw, features, out = kernel.shape

    def outer(image: jax.Array, g: jax.Array) -> jax.Array:
        windows = _windows(image, (kh, kw), strides)
        columns = [window.reshape(-1, features) for window in windows]
        return g.reshape(-1, out).T @ jnp.concatenate(columns, axis=-1)

    zero = jnp.zeros((out, kh * kw * features), jnp.float32)
    total = _per_image_sum(outer, _pad(x, pads), grad, zero)
    return dx, total.T.reshape(kernel.shape).astype(kernel.dtype)


_dense.defvjp(_dense_forward, _dense_backward)


@functools.partial(jax.custom_vjp, nondiff_argnames=("strides", "pads"))
def _depthwise(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    taps = kernel.reshape(-1, kernel.shape[-1])
    windows = _windows(_pad(x, pads), kernel.shape[:2], strides)
    shifted = (window * tap for window, tap in zip(windows, taps, strict=True))
    return functools.reduce(jnp.add, shifted)


def _depthwise_forward(
    x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads
) -> Any:
    return _depthwise(x, kernel, strides, pads), (x, kernel)


def _depthwise_backward(strides: Pair, pads: Pads, saved: Any, grad: jax.Array) -> Any:
    x, kernel = saved
    size = kernel.shape[:2]
    shift_add = _depthwise.__wrapped__
    flipped = _flipped(kernel, pads)
    if strides == (1, 1) and min(sum(flipped, ())) >= 0:
        # The transpose is a convolution too. With the loop below: 162 to 97 ms for
        # value and gradients of 7x7 on 16 maps of 48x48x96, on one core.
        dx = shift_add(grad, kernel[::-1, ::-1], strides, flipped)
    else:
        (dx,) = jax.vjp(lambda a: shift_add(a, kernel, strides, pads), x)[1](grad)
    height = (grad.shape[1] - 1) * strides[0] + 1

    def outer(image: jax.Array, g: jax.Array) -> jax.Array:
        # A loop over the rows of the kernel, since 49 sums side by side take XLA ten
        # times as long to compile as 7.
        def of_row(row: jax.Array) -> jax.Array:
            rows = lax.dynamic_slice_in_dim(image, row, height, axis=1)
            windows = _windows(rows, (1, size[1]), strides)
            return jnp.stack([(window[0] * g).sum((0, 1)) for window in windows])

        return lax.map(of_row, jnp.arange(size[0])).reshape(-1, g.shape[-1])

    zero = jnp.zeros((size[0] * size[1], kernel.shape[-1]), jnp.float32)
    total = _per_image_sum(outer, _pad(x, pads), grad, zero)
    return dx, total.reshape(kernel.shape).astype(kernel.dtype)


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)
