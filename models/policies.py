"""RandAugment and TrivialAugment: ops and strengths drawn for each image.

The ops of an image are no sequence of passes: geometry adds up to one map, colour to
one set of numbers, and all images take the same few passes, in one fixed order.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from models.recipe import Augment

# Strongest amounts: RandAugment (arXiv 1909.13719), TrivialAugment's wide space
# (arXiv 2103.10158); shifts as shares of the side.
STRONGEST = {
    "identity": (0.0, 0.0),
    "shear_x": (0.3, 0.99),
    "shear_y": (0.3, 0.99),
    "shift_x": (0.45, 0.5),
    "shift_y": (0.45, 0.5),
    "rotate": (30.0, 135.0),
    "brightness": (0.9, 0.99),
    "saturation": (0.9, 0.99),
    "contrast": (0.9, 0.99),
    "sharpness": (0.9, 0.99),
    "posterize": (4.0, 6.0),
    "solarize": (1.0, 1.0),
    "autocontrast": (1.0, 1.0),
    "equalize": (1.0, 1.0),
}
OPS = tuple(STRONGEST)
# These are done or not, whatever the strength.
SWITCHES = ("autocontrast", "equalize")


def draw_ops(
    key: jax.Array, n: int, settings: Augment
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Draw what a policy does to `n` images.

    Returns:
        The ops (n, k) as positions in OPS, and the amounts of each kind, (n,), in the
        units that `draw_maps`, `draw_colour` and `draw_focus` take.
    """
    trivial = settings.policy == "trivial"
    k = 1 if trivial else settings.policy_ops
    which, level, side = jax.random.split(key, 3)
    ops = jax.random.randint(which, (n, k), 0, len(OPS))
    strength = (
        jax.random.uniform(level, (n, k))
        if trivial
        else jnp.full((n, k), settings.policy_magnitude)
    )
    sign = jax.random.rademacher(side, (n, k)).astype(jnp.float32)
    table = jnp.array([pair[trivial] for pair in STRONGEST.values()])

    def total(name: str, *, signed: bool = True) -> jax.Array:
        here = (ops == OPS.index(name)) * table[OPS.index(name)]
        size = 1.0 if name in SWITCHES else strength
        return jnp.sum(here * size * (sign if signed else 1.0), 1)

    def factor(name: str) -> jax.Array:
        return jnp.maximum(1 + total(name), 0.01)

    return ops, {
        "rotate": total("rotate") * jnp.pi / 180,
        **{name: total(name) for name in ("shear_x", "shear_y", "shift_x", "shift_y")},
        "gain": factor("brightness"),
        "saturation": factor("saturation"),
        "contrast": factor("contrast"),
        "sharpness": factor("sharpness"),
        # Above 1 nothing is as bright as that.
        "solarize": 1.001 - jnp.minimum(total("solarize", signed=False), 1),
        "levels": 2.0 ** jnp.floor(jnp.minimum(total("posterize", signed=False), 7)),
        "autocontrast": total("autocontrast", signed=False),
        "equalize": total("equalize", signed=False),
    }
