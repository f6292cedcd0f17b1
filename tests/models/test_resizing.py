"""Progressive resizing: small views first, whole ones last, the same after a kill."""

import dataclasses

import jax
import numpy as np
import pytest

from models import steps
from models.recipe import Recipe
from models.resizing import stage_of, stage_sides
from tests.models.cuts import cut_within
from tests.models.test_fit import RECIPE, SETTINGS, SOURCE, bits, run

GROWING = dataclasses.replace(RECIPE, progressive=0.5, optimizer="sgd")


def enlarged(rows):
    """The images of `test_fit`, twice as large."""
    return SOURCE.read(rows).repeat(2, axis=1).repeat(2, axis=2)


LARGE = dataclasses.replace(SOURCE, read=enlarged)


@pytest.mark.parametrize(
    ("preset", "side", "change", "sides"),
    [
        ("small", 96, {}, (48, 64, 80, 96)),
        ("small", 48, {}, (24, 32, 40, 48)),
        ("small", 100, {"progressive_stages": 2}, (48, 100)),
        ("vit_tiny", 224, {}, (112, 144, 192, 224)),
        ("dinov2_small", 98, {"progressive": 0.1}, (28, 42, 70, 98)),
        ("convnext_atto", 48, {"progressive": 0.3}, (32, 32, 40, 48)),
        ("small", 6, {}, (6, 6, 6, 6)),
    ],
)
def test_sides_grow_by_the_patch_to_the_whole(preset, side, change, sides):
    recipe = Recipe(**{"preset": preset, "progressive": 0.5} | change)
    assert stage_sides(recipe, side) == sides


@pytest.mark.parametrize(
    ("epochs", "stages"),
    [(8, [0, 0, 1, 1, 2, 2, 3, 3]), (6, [0, 1, 1, 2, 3, 3]), (2, [1, 3]), (1, [3])],
)
def test_the_last_epoch_is_of_the_last_stage(epochs, stages):
    recipe = Recipe(epochs=epochs)
    assert [stage_of(recipe, epoch) for epoch in range(epochs)] == stages


def test_a_growing_run_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    seen, see = [], steps.view

    def watched(images, key, settings):
        pixels, own = see(images, key, settings)
        seen.append(pixels.shape[1])
        return pixels, own

    monkeypatch.setattr(steps, "view", watched)
    whole = run(tmp_path / "whole", source=LARGE, recipe=GROWING)
    assert seen == [16, 8]  # one program each, the largest first
    again = {"source": LARGE, "recipe": GROWING}
    cut_within(
        monkeypatch,
        lambda settings: run(tmp_path / "cut", settings=settings, **again),
        settings=SETTINGS,
        at=(1, 2),
    )
    assert bits(run(tmp_path / "cut", **again)) == bits(whole)
    assert whole.history[-1]["val_top1"] > 0.8
    assert jax.tree.all(jax.tree.map(lambda a: np.isfinite(a).all(), whole.params))
