"""Print the table of docs/models.md: parameters and multiply-adds of every network.

python benchmarks/model_table.py
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from models.backbones import PRESETS, create_model
from models.presets import preset_of

SIDES = (224, 64)


def multiply_adds(jaxpr: Any) -> int:
    """Return the products of all convolutions and matrix products in `jaxpr`."""
    total = 0
    for step in jaxpr.eqns:
        name, out = step.primitive.name, step.outvars[0].aval
        if name == "dot_general":
            ((contracted, _), _) = step.params["dimension_numbers"]
            left = step.invars[0].aval.shape
            total += math.prod(out.shape) * math.prod(left[i] for i in contracted)
        elif name == "conv_general_dilated":
            total += math.prod(out.shape) * math.prod(step.invars[1].aval.shape[:3])
        elif name == "cond":  # one branch a platform, which all mean the same
            total += max(multiply_adds(each.jaxpr) for each in step.params["branches"])
        else:
            for value in step.params.values():
                inner = getattr(value, "jaxpr", value)
                total += multiply_adds(inner) if hasattr(inner, "eqns") else 0
    return total


def figures(preset: str) -> tuple[int, list[float]]:
    """Return parameters without a head, and 10^9 multiply-adds by `SIDES`."""
    counts, size = [], 0
    for side in SIDES:
        model = nnx.eval_shape(
            lambda side=side: create_model(
                preset, num_classes=2, image_size=side, seed=0
            )
        )
        graphdef, state = nnx.split(model)
        params = nnx.state(model, nnx.Param)
        size = sum(
            leaf.size
            for path, leaf in jax.tree_util.tree_leaves_with_path(params)
            if path[0].key != "head"
        )
        x = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        ask = jax.make_jaxpr(lambda s, x, g=graphdef: nnx.merge(g, s).embed(x))
        counts.append(multiply_adds(ask(state, x).jaxpr) / 1e9)
    return size, counts


def main() -> None:
    """Print one row a network."""
    sides = " | ".join(f"G multiply-adds, {side} px" for side in SIDES)
    print(f"| preset | M parameters | {sides} | embedding | least px | weights of |")
    print("|---" * (5 + len(SIDES)) + "|")
    for preset in PRESETS:
        size, counts = figures(preset)
        known = preset_of(preset)
        cells = [preset, f"{size / 1e6:.2f}", *(f"{count:.2f}" for count in counts)]
        cells += [known.embedding, known.least, ", ".join(known.schemes) or "none"]
        print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
