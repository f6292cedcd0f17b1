"""Occluders: how much they cover, where, and that nothing else is touched."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from models.augment import augment
from models.occlude import FAMILIES, image_keys, occlude, occlude_rows
from models.recipe import NONE, OCCLUDERS, Augment
from tasks.augment_settings import AugmentSettings, Occluder

SIDE = 48
FRACTIONS = np.linspace(0, 0.9, 16).astype(np.float32)


def photos(n=16, side=SIDE, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), np.uint8)


def covered(images, family=None, *, fraction=FRACTIONS, rows=None, seed=0):
    n = len(images)
    rows = np.arange(n) if rows is None else rows
    which = rows % 6 if family is None else np.full(n, OCCLUDERS.index(family))
    donors = np.full_like(images, 7)
    found = occlude_rows(images, donors, rows, fraction, which, seed)
    return tuple(np.asarray(part) for part in found)


each_family = pytest.mark.parametrize("family", OCCLUDERS)


def test_every_family_can_be_asked_for_by_the_settings():
    assert list(FAMILIES) == list(OCCLUDERS) == [str(name) for name in Occluder]
    assert AugmentSettings().model_dump() == dataclasses.asdict(Augment())


@each_family
def test_the_share_asked_for_is_covered(family):
    _, mask = covered(photos(), family)
    # An edge of a rectangle falls on a whole row at a time.
    np.testing.assert_allclose(mask.mean((1, 2)), FRACTIONS, atol=1.5 / SIDE)


@each_family
def test_pixels_outside_the_mask_stay_and_those_inside_change(family):
    images = photos()
    seen, mask = covered(images, family)
    np.testing.assert_array_equal(seen[~mask], images[~mask])
    assert (seen[mask] != images[mask]).any(axis=-1).mean() > 0.95


def test_nothing_is_covered_at_a_fraction_of_zero():
    images = photos()
    seen, mask = covered(images, fraction=np.zeros(16, np.float32))
    assert not mask.any()
    np.testing.assert_array_equal(seen, images)


def test_an_image_gets_the_same_occluder_whatever_the_batch():
    images, rows = photos(), np.arange(16)
    whole = covered(images)
    order = np.random.default_rng(3).permutation(16)
    for part in np.split(order, 2):
        found = covered(images[part], rows=rows[part], fraction=FRACTIONS[part])
        np.testing.assert_array_equal(found[1], whole[1][part])
        np.testing.assert_array_equal(found[0], whole[0][part])


def test_rows_and_seeds_get_different_occluders():
    images, share = photos(), np.full(16, 0.3, np.float32)
    _, mask = covered(images, "rectangle", fraction=share)
    assert len(np.unique(mask.reshape(16, -1), axis=0)) == 16
    _, other = covered(images, "rectangle", fraction=share, seed=1)
    assert (mask != other).any()


def test_objects_come_from_the_donor():
    seen, mask = covered(photos(), "object")
    assert (seen[mask] == 7).all()


def test_a_blur_is_smoother_than_the_image():
    seen, mask = covered(photos(), "blur")
    assert seen[mask].std() < 0.5 * photos()[mask].std()


def test_without_a_choice_the_key_draws_among_the_families():
    image = np.full((1, 8, 8, 3), 0.5, np.float32)
    images, share = np.tile(image, (64, 1, 1, 1)), np.full(64, 0.4, np.float32)
    draw = jax.jit(functools.partial(occlude, families=("object", "blur")))
    seen, mask = draw(images, images + 0.5, image_keys(0, np.arange(64)), share)
    # Blur leaves a flat image as it is; an object is white here.
    white = (np.asarray(seen) == 1).all(-1).any((1, 2))
    assert mask.any((1, 2)).all()
    assert 15 < white.sum() < 49


def test_occlusion_that_is_off_changes_no_operation():
    def program(settings):
        return str(jax.make_jaxpr(lambda x, k: augment(x, k, settings))(*given))

    given = photos(4), jax.random.key(0)
    other = dataclasses.replace(Augment(), occlude_most=0.1, occluders=("bars",))
    assert program(other) == program(Augment())
    assert program(dataclasses.replace(Augment(), occlude=0.5)) != program(Augment())


def test_the_chance_decides_how_many_images_are_covered():
    images = np.tile(photos(), (4, 1, 1, 1))
    settings = dataclasses.replace(NONE, occlude=0.5, occlude_most=0.5)
    compiled = jax.jit(lambda x, k: augment(x, k, settings))
    seen = np.asarray(compiled(images, jax.random.key(0)))
    hit = (np.abs(seen - images / 255).max((1, 2, 3)) > 1e-5).mean()
    assert 0.3 < hit < 0.7
    assert np.isfinite(seen).all()
    assert seen.min() >= 0
    assert seen.max() <= 1
