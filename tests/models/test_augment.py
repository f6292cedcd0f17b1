"""Random views: what each setting may change, and what it may not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.augment import Draws, augment, draw, draw_each, mix, render, side_of
from models.blocks import Blocks
from models.recipe import NONE, Augment

KEY = jax.random.key(0)


def photos(n=8, side=16):
    return np.random.default_rng(1).integers(0, 256, (n, side, side, 3)).astype("uint8")


def only(**settings):
    return dataclasses.replace(NONE, **settings)


def test_nothing_asked_is_nothing_done():
    np.testing.assert_allclose(augment(photos(), KEY, NONE), photos() / 255, atol=1e-6)


def test_a_view_of_the_whole_image_is_the_image():
    # A mirror with chance 0 still samples through the warp.
    seen = augment(photos(), KEY, only(rotate=1e-9))
    np.testing.assert_allclose(seen, photos() / 255, atol=1e-5)


def test_a_certain_flip_mirrors_left_and_right():
    seen = augment(photos(), KEY, only(flip=1))
    np.testing.assert_allclose(seen, photos()[:, :, ::-1] / 255, atol=1e-5)


def test_a_quarter_turn_is_rot90():
    seen = np.asarray(augment(photos(64), KEY, only(rotate=90.0)))
    assert not np.allclose(seen, photos(64) / 255, atol=1e-2)
    quarter = jnp.array([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]])
    turned = render(jnp.asarray(photos(1)), Draws(maps=quarter), size=16)
    np.testing.assert_allclose(turned[0], np.rot90(photos(1)[0], -1) / 255, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        Augment(),
        only(rotate=180.0),
        only(zoom=(0.1, 2.0)),
        only(shift=1.0),
        only(stretch=2.0),
        only(brightness=1.0),
        only(contrast=3.0),
        only(saturation=3.0),
        only(erase=1.0),
        only(flip_up=1.0),
        only(shear=60.0),
        only(perspective=0.9),
        only(hue=180.0),
        only(grey=1.0),
        only(blur=1.0, blur_size=(0.05, 0.1)),
        only(noise_gaussian=0.4, noise_shot=0.3, noise_speckle=0.3),
        only(noise_impulse=1.0),
        only(jpeg=1.0, jpeg_quality=1),
        only(erase=1.0, erase_holes=3, erase_fill="noise", erase_stretch=4.0),
        only(erase=1.0, erase_fill="mean"),
        only(policy="rand", policy_magnitude=1.0, policy_ops=8),
        only(policy="trivial"),
    ],
    ids=lambda s: "-".join(k for k, v in vars(s).items() if v != vars(NONE)[k]),
)
def test_views_are_finite_and_in_range(settings):
    seen = np.asarray(augment(photos(), KEY, settings))
    assert seen.dtype == np.float32
    assert np.isfinite(seen).all()
    assert seen.min() >= 0
    assert seen.max() <= 1 + 1e-6
    same = seen.shape == photos().shape
    assert not (same and np.allclose(seen, photos() / 255, atol=1e-3))


def test_the_same_key_gives_the_same_views_and_another_gives_others():
    one, again = (augment(photos(), KEY, Augment()) for _ in range(2))
    other = augment(photos(), jax.random.key(1), Augment())
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other, atol=1e-2)


def test_every_image_of_a_batch_is_seen_differently():
    same = np.repeat(photos(1), 8, axis=0)
    seen = np.asarray(augment(same, KEY, Augment()))
    assert len(np.unique(seen.reshape(8, -1).mean(1).round(6))) == 8


def test_size_and_resolution_set_the_side_of_the_view():
    assert augment(photos(), KEY, only(size=24)).shape == (8, 24, 24, 3)
    assert augment(photos(), KEY, only(resolution=0.75)).shape == (8, 12, 12, 3)


@pytest.mark.parametrize(
    ("side", "view"), [(16, 16), (32, 32), (40, 32), (48, 36), (64, 48), (224, 168)]
)
def test_views_are_smaller_than_images_but_small_images_stay_whole(side, view):
    assert side_of(Augment(), side) == view
    assert side_of(Augment(resolution=0.75), side) == round(0.75 * side)


def test_a_gray_picture_stays_gray():
    gray = np.repeat(photos()[..., :1], 3, axis=3)
    seen = np.asarray(augment(gray, KEY, Augment()))
    np.testing.assert_allclose(seen[..., 0], seen[..., 1], atol=1e-5)
    np.testing.assert_allclose(seen[..., 0], seen[..., 2], atol=1e-5)


def test_erasing_greys_one_square_and_spares_the_rest():
    seen = np.asarray(augment(photos(64), KEY, only(erase=0.5)))
    gone = (np.abs(seen - photos(64) / 255) > 1e-6).any(-1)
    assert 0 < gone.mean() < 0.25
    assert np.allclose(seen[gone], 0.5)


def test_without_mixing_every_image_is_its_own():
    pixels = jnp.asarray(photos() / 255.0)
    mixed, own = mix(pixels, KEY, NONE)
    assert mixed is pixels
    assert (own == 1).all()


def test_mixup_blends_with_the_mirror_place_in_the_batch():
    pixels = jnp.arange(8.0)[:, None, None, None] * jnp.ones((1, 4, 4, 3))
    mixed, own = mix(pixels, KEY, only(mixup=1.0))
    expected = own * np.arange(8) + (1 - own) * np.arange(8)[::-1]
    np.testing.assert_allclose(mixed[:, 0, 0, 0], expected, atol=1e-5)
    assert len(np.unique(own)) == 8


def test_cutmix_keeps_the_share_it_reports():
    pixels = jnp.arange(8.0)[:, None, None, None] * jnp.ones((1, 16, 16, 3))
    mixed, own = mix(pixels, KEY, only(cutmix=1.0))
    left = (np.asarray(mixed)[..., 0] == np.arange(8.0)[:, None, None]).mean((1, 2))
    np.testing.assert_allclose(left, own, atol=1e-6)
    assert 0 < own.min() < own.max() <= 1


def test_what_is_off_is_not_drawn():
    draws = draw(KEY, 8, NONE, side=16)
    assert jax.tree.leaves(draws) == []
    colour = draw(KEY, 8, only(contrast=0.5), side=16).colour
    assert (colour.hue, colour.gain, colour.levels) == (None, None, None)


def test_the_default_takes_no_pass_that_it_does_not_need():
    draws = draw(KEY, 8, Augment(), side=16)
    assert (draws.focus, draws.grain, draws.blocks, draws.holes) == (None,) * 4
    assert draws.maps.shape == (8, 2, 3)


EVERYTHING = Augment(
    flip_up=0.5,
    shear=10,
    perspective=0.3,
    hue=20,
    grey=0.2,
    blur=0.5,
    noise_gaussian=0.3,
    noise_shot=0.2,
    noise_speckle=0.2,
    noise_impulse=0.3,
    jpeg=0.5,
    erase=0.5,
    erase_holes=2,
    erase_stretch=1.0,
    erase_fill="noise",
)


def test_a_view_depends_on_its_own_key_and_not_on_its_batch():
    settings = dataclasses.replace(EVERYTHING, policy="rand")
    keys = jax.vmap(lambda row: jax.random.fold_in(KEY, row))(jnp.arange(12))
    images = photos(12, 24)

    def seen(rows):
        draws = draw_each(keys[rows], settings, side=24)
        views = render(jnp.asarray(images[rows]), draws, size=24)
        return np.rint(np.asarray(views) * 255)

    rows = np.arange(12)
    whole = seen(rows)
    np.testing.assert_array_equal(seen(rows[::-1])[::-1], whole)
    others = np.array([*range(5, 8)] * 4)
    np.testing.assert_array_equal(seen(others), whole[others])


def test_many_images_are_rendered_in_parts_and_come_to_the_same(monkeypatch):
    draws = draw(KEY, 12, EVERYTHING, side=24)
    images = jnp.asarray(photos(12, 24))
    whole = render(images, draws, size=20)
    monkeypatch.setattr("models.passes.CACHED", 4 * 24**2)
    np.testing.assert_allclose(render(images, draws, size=20), whole, atol=1e-5)


def test_an_upside_down_mirror_is_flipud():
    seen = augment(photos(), KEY, only(flip_up=1))
    np.testing.assert_allclose(seen, photos()[:, ::-1] / 255, atol=1e-5)


def test_grey_takes_all_colour_and_keeps_the_brightness():
    seen = np.asarray(augment(photos(), KEY, only(grey=1.0)))
    luma = photos() / 255 @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(seen, np.repeat(luma[..., None], 3, -1), atol=1e-5)


def test_a_turn_of_hue_keeps_grey_pixels_and_the_brightness():
    gray = np.repeat(photos()[..., :1], 3, axis=3)
    same = np.asarray(augment(gray, KEY, only(hue=180.0)))
    np.testing.assert_allclose(same, gray / 255, atol=2e-3)
    soft = (photos() // 4 + 96).astype("uint8")
    turned = np.asarray(augment(soft, KEY, only(hue=60.0)))
    weights = [0.299, 0.587, 0.114]
    np.testing.assert_allclose(turned @ weights, soft / 255 @ weights, atol=2e-3)
    assert np.abs(turned - soft / 255).mean() > 0.01


def test_a_blur_keeps_the_mean_and_takes_the_detail():
    seen = np.asarray(
        augment(photos(side=32), KEY, only(blur=1, blur_size=(0.05, 0.05)))
    )
    still = photos(side=32) / 255
    np.testing.assert_allclose(seen.mean((1, 2)), still.mean((1, 2)), atol=0.03)
    assert (seen.std((1, 2)) < 0.4 * still.std((1, 2))).all()


@pytest.mark.parametrize(
    ("kind", "deviation"),
    [
        ("noise_gaussian", lambda x, a: np.full_like(x, a["gaussian"])),
        ("noise_speckle", lambda x, a: a["speckle"] * x),
        ("noise_shot", lambda x, a: np.sqrt(a["shot"] * x)),
    ],
)
def test_noise_has_the_deviation_of_its_kind(kind, deviation):
    flat = np.full((4, 64, 64, 3), 128, "uint8")
    draws = draw(KEY, 4, only(**{kind: 1.0}), side=64)
    seen = np.asarray(render(jnp.asarray(flat), draws, size=64))
    drawn = vars(draws.grain).items()
    amounts = {k: v for k, v in drawn if k != "seed" and v is not None}
    for row in range(4):
        own = {kind: float(v[row]) for kind, v in amounts.items()}
        expected = deviation(np.array(128 / 255), own)
        assert seen[row].std() == pytest.approx(expected, rel=0.03)
        assert seen[row].mean() == pytest.approx(128 / 255, abs=0.003)


def test_impulses_are_black_and_white_and_as_many_as_drawn():
    flat = np.full((4, 64, 64, 3), 128, "uint8")
    draws = draw(KEY, 4, only(noise_impulse=1.0), side=64)
    seen = np.asarray(render(jnp.asarray(flat), draws, size=64))
    for value in (0.0, 1.0):
        share = (seen == value).mean((1, 2, 3))
        np.testing.assert_allclose(share, draws.grain.impulse / 2, atol=0.005)
    assert np.isin(seen, [0, 1, np.float32(128 / 255)]).all()


def test_an_image_gets_one_kind_of_noise():
    chances = dict.fromkeys(
        ["noise_gaussian", "noise_shot", "noise_speckle", "noise_impulse"], 0.25
    )
    grain = draw(KEY, 400, only(**chances), side=8).grain
    kinds = [grain.gaussian > 0, grain.shot > 0, grain.speckle > 0, grain.impulse > 0]
    assert (np.sum(kinds, 0) == 1).all()
    assert all(60 < kind.sum() < 140 for kind in kinds)


def test_strong_compression_leaves_blocks_and_weak_hardly_anything():
    ramp = np.broadcast_to(np.arange(64) * 3 + 20, (2, 64, 64))
    smooth = np.repeat(ramp[..., None], 3, -1).astype("uint8")

    def at(quality):
        draws = Draws(blocks=Blocks(jnp.full(2, quality)))
        return np.asarray(render(smooth, draws, size=64))

    rough, gentle = at(3.0), at(95.0)
    assert np.abs(gentle - smooth / 255).max() < 0.02
    inside, across = np.abs(np.diff(rough[0, 0, :, 0])), slice(7, None, 8)
    assert inside[across].mean() > 2 * np.delete(inside, np.s_[7::8]).mean()


def test_holes_are_as_many_and_as_filled_as_asked():
    settings = only(erase=0.3, erase_holes=3, erase_fill="mean")
    seen = np.asarray(augment(photos(32, 32), KEY, settings))
    still = photos(32, 32) / 255
    gone = (np.abs(seen - still) > 1e-5).any(-1)
    means = still.mean((1, 2))
    for row in range(32):
        filled = seen[row][gone[row]]
        assert np.abs(filled - means[row]).max(initial=0) < 1e-4
    one = np.asarray(augment(photos(32, 32), KEY, only(erase=0.3)))
    assert gone.mean() > 2 * (np.abs(one - still) > 1e-5).any(-1).mean()


def test_holes_come_to_the_share_of_images_that_was_asked():
    settings = only(erase=1.0, erase_chance=0.25)
    seen = np.asarray(augment(photos(400, 8), KEY, settings))
    touched = (np.abs(seen - photos(400, 8) / 255) > 1e-5).any((1, 2, 3))
    assert 0.15 < touched.mean() < 0.3


def test_views_of_one_pixel_wide_images_are_fine():
    seen = np.asarray(augment(photos(2, 1), KEY, only(rotate=10.0)))
    np.testing.assert_allclose(seen, photos(2, 1) / 255, atol=1e-5)
    assert side_of(only(resolution=0.5), 64) == 32


def test_the_default_views_are_those_of_the_first_version():
    soft = (photos() // 4 + 96).astype("uint8")
    seen = augment(
        soft, KEY, dataclasses.replace(Augment(), erase=0.4, resolution=0.75)
    )
    means = [0.5863, 0.6183, 0.3878, 0.3789, 0.3612, 0.6386, 0.5163, 0.4174]
    spread = [0.0451, 0.0415, 0.0561, 0.0399, 0.0432, 0.0626, 0.0637, 0.0761]
    np.testing.assert_allclose(seen.mean((1, 2, 3)), means, atol=1e-4)
    np.testing.assert_allclose(seen.std((1, 2, 3)), spread, atol=1e-4)
