"""Memory of a device, and time of a step, with the training state whole and split.

    python benchmarks/split_state.py --devices 4

Memory is what XLA plans for a step on so many CPU devices (float32, views of full
size); nothing runs for it. `--rounds` also takes steps, whole and split in turns, and
tells the fastest of each. Prints a Markdown table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
VIEW = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
MIB = 1 << 20


def measured(
    preset: str, optimizer: str, *, side: int, batch: int, rounds: int
) -> dict[str, Any]:
    """Return MiB of a device and, of some rounds, the milliseconds of a step."""
    import jax

    from benchmarks.preset_costs import examples

    arms = {name: built(preset, optimizer, name, side, batch) for name in NAMES}
    line: dict[str, Any] = {"preset": preset, "optimizer": optimizer}
    for name, (program, _) in arms.items():
        plan = program.memory_analysis()
        line[f"{name}_state"] = plan.alias_size_in_bytes / MIB
        line[f"{name}_between"] = plan.temp_size_in_bytes / MIB
    states = {name: state for name, (_, state) in arms.items()}
    spent: dict[str, list[float]] = {name: [] for name in NAMES}
    for _ in range(rounds):
        for name in NAMES:
            start = time.perf_counter()
            found = arms[name][0](states[name], *examples(batch, side))
            states[name], _ = jax.block_until_ready(found)
            spent[name].append(1000 * (time.perf_counter() - start))
    return line | {f"{name}_ms": min(spent[name]) for name in NAMES if rounds}


NAMES = ("whole", "split")


def built(preset: str, optimizer: str, name: str, side: int, batch: int) -> Any:
    """Return a compiled step and the state that it begins from."""
    import jax
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    from benchmarks.preset_costs import examples
    from models.backbones import create_model
    from models.epoch import step_of
    from models.optim import make_optimizer
    from models.recipe import Augment, Recipe
    from models.room import shapes_of
    from models.shards import layout_of, placed
    from models.steps import cpu_mesh, create_state

    mesh = cpu_mesh()
    views = Augment(resolution=1)
    recipe = Recipe(preset, optimizer, batch_size=batch, augment=views)
    model = create_model(preset, num_classes=100, image_size=side, seed=0)
    tx, _ = make_optimizer(recipe, 100)
    graphdef, state = create_state(model, tx)
    layout = layout_of(state, mesh) if name == "split" else None
    step = step_of(
        recipe,
        (graphdef, tx),
        counts=np.ones(100, np.int64),
        steps=100,
        seed=0,
        mesh=mesh,
        layout=layout,
        **VIEW,
    )
    program = step.lower(shapes_of(state), *examples(batch, side)).compile()
    everywhere = NamedSharding(mesh, PartitionSpec())
    return program, placed(state, layout or jax.tree.map(lambda _: everywhere, state))


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--presets", default="vit_small,resnet50_tv")
    parser.add_argument("--optimizers", default="adamw,muon")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=0)
    given = parser.parse_args()
    import jax

    jax.config.update("jax_num_cpu_devices", given.devices)
    lines = []
    for preset in given.presets.split(","):
        for optimizer in given.optimizers.split(","):
            line = measured(
                preset,
                optimizer,
                side=given.side,
                batch=given.batch,
                rounds=given.rounds,
            )
            lines.append(line)
            print(json.dumps(line), file=sys.stderr, flush=True)
    print(table(lines))
    print(json.dumps({"benchmark": "split_state", **vars(given), "lines": lines}))


def table(lines: list[dict[str, Any]]) -> str:
    """Return the lines as a Markdown table."""
    keys = list(lines[0])
    rows = [" | ".join(keys), "|".join("---" for _ in keys)]
    for line in lines:
        cells = (line[key] for key in keys)
        rows.append(" | ".join(c if isinstance(c, str) else f"{c:,.0f}" for c in cells))
    return "\n".join(f"| {row} |" for row in rows)


if __name__ == "__main__":
    main()
