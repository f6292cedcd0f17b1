"""Progressive resizing: small views first, larger ones in stages; free of JAX.

EfficientNetV2 (Tan and Le 2021, arXiv 2104.00298, section 4.2, algorithm 1), of which
only the growing side is taken: views are as strong in every stage.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from models.presets import preset_of
from models.recipe import Recipe, side_of

# Maps of such a side halve evenly three times; transformers cut by their patch.
GRAIN = 8


def stage_sides(recipe: Recipe, side: int) -> tuple[int, ...]:
    """Return the side of the views in each stage, the last being `side`.

    They grow evenly from `recipe.progressive` of it, in multiples of the network's
    patch (of `GRAIN` without one), and are no smaller than the network can use.
    """
    known, stages = preset_of(recipe.preset), recipe.progressive_stages
    grain = known.least // 2 if known.family == "vit" else GRAIN
    shares = [
        recipe.progressive + (1 - recipe.progressive) * k / (stages - 1)
        for k in range(stages - 1)
    ]
    least = max(grain, known.least)
    rounded = [grain * round(side * share / grain) for share in shares]
    return (*(min(max(each, least), side) for each in rounded), side)


def stage_of(recipe: Recipe, epoch: int) -> int:
    """Return the stage of an epoch (from 0); the last epoch is of the last stage."""
    left = recipe.epochs - 1 - epoch
    stages = recipe.progressive_stages
    return stages - 1 - left * stages // recipe.epochs


class Growing:
    """The compiled steps of a run, one for each side of the views."""

    def __init__(self, recipe: Recipe, build: Callable[[int | None], Any]) -> None:
        """Wrap `build`, which makes the step for a side; None is the recipe's own."""
        self.full = build(None)
        self._recipe, self._build = recipe, build
        self._steps: dict[int, Any] = {}

    @property
    def seconds(self) -> float:
        """Seconds spent on compiling."""
        return float(sum(step.seconds for step in {self.full, *self._steps.values()}))

    def at(self, epoch: int) -> Any:
        """Return the step of an epoch (from 0)."""
        if self._recipe.progressive == 1:
            return self.full
        return lambda state, *batch: self.of(epoch, state, batch)(state, *batch)

    def of(self, epoch: int, state: Any, batch: Any) -> Any:
        """Return the step, not yet taken, of an epoch for such a batch."""
        if self._recipe.progressive == 1:
            return self.full
        augment = self._recipe.augment
        whole = side_of(augment, batch[0].shape[1])
        side = stage_sides(self._recipe, whole)[stage_of(self._recipe, epoch)]
        if not self._steps:
            # The last stage takes the most memory: it may not fail after the others.
            self.full.prepare(state, *batch)
            self._steps[whole] = self.full
        if side not in self._steps:
            self._steps[side] = self._build(side)
        return self._steps[side]
