"""Attacks: within their budgets, as strong as they should be, and none in vain."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_contracts.errors import UsageError
from models.attacks.balls import keys_of, lengths
from models.attacks.kept import silent, wrong
from models.attacks.losses import cross_entropy, dlr, dlr_towards
from models.attacks.pgd import fgsm, pgd
from models.attacks.registry import attack, attack_of
from models.attacks.run import NOT_BROKEN, WRONG_BEFORE, Attacker
from models.attacks.settings import METHODS, NORMS, Attack, fallback_of
from models.attacks.square import Square, bump_of

N, SIDE, CLASSES = 24, 8, 5
LABELS = jnp.arange(N) % CLASSES
KEYS = keys_of(jax.random.key(0), jnp.arange(N))
BUDGET = {"linf": 0.04, "l2": 0.4}
ENOUGH = {"linf": 1.0, "l2": 14.0}
SMALL = {"steps": 10, "queries": 200, "targets": 4}


def weights(classes=CLASSES):
    first, second = jax.random.split(jax.random.key(1))
    return (
        jax.random.normal(first, (3, 3, 3, 8)) / 3,
        jax.random.normal(second, (8 * SIDE * SIDE, classes)) / 6,
    )


def logits_of(given, pixels):
    """A convolution and a layer: not linear, quickly compiled."""
    kernel, head = given
    maps = jax.lax.conv_general_dilated(
        pixels - 0.5, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.tanh(maps).reshape(len(pixels), -1) @ head


def linear(pixels):
    return (pixels - 0.5).reshape(len(pixels), -1) @ weights()[1][: 3 * SIDE * SIDE]


NETWORK = functools.partial(logits_of, weights())


@pytest.fixture(scope="module")
def images():
    """Noise that the network takes for its label, and by no narrow margin alone."""
    noise = jax.random.uniform(jax.random.key(2), (N, SIDE, SIDE, 3))
    sure = functools.partial(
        pgd,
        NETWORK,
        steps=10,
        keep=False,
        loss=lambda logits, labels: -cross_entropy(logits, labels),
    )
    return jax.jit(lambda noise: sure(noise, LABELS, eps=0.1, keys=KEYS))(noise)


@functools.cache
def compiled(method, norm):
    settings = Attack(method=method, norm=norm, **SMALL)

    @jax.jit
    def run(images, eps, keys):
        return attack(settings, NETWORK, images, LABELS, keys=keys, eps=eps)

    return run


def robust(method, norm, images, eps):
    found = compiled(method, norm)(images, eps, KEYS)
    return float(1 - wrong(NETWORK(found), LABELS).mean())


every = pytest.mark.parametrize("method", METHODS)
both = pytest.mark.parametrize("norm", NORMS)


@every
@both
def test_budgets_and_the_range_of_pixels_hold_and_more_breaks_more(
    method, norm, images
):
    shares = []
    for eps in (0.0, 0.003, BUDGET[norm], ENOUGH[norm]):
        found = compiled(method, norm)(images, eps, KEYS)
        assert found.min() >= 0
        assert found.max() <= 1
        change = found - images
        size = jnp.abs(change) if norm == "linf" else lengths(change)
        assert size.max() <= eps + 1e-5
        if eps == 0:
            np.testing.assert_array_equal(found, images)
        shares.append(float(1 - wrong(NETWORK(found), LABELS).mean()))
    assert shares[0] == 1
    assert shares[2] < 1
    # One long step may pass what breaks an image.
    assert shares[3] == 0 or method == "fgsm"


@both
def test_attacks_stand_in_the_order_of_their_strength(norm, images):
    eps = BUDGET[norm]
    share = {method: robust(method, norm, images, eps) for method in METHODS}
    assert share["apgd_ce"] <= share["pgd"] <= share["fgsm"]
    assert share["apgd_dlr_targeted"] <= share["square"] + 1 / N
    assert share["standard"] <= min(share.values())


@pytest.mark.parametrize("method", ["pgd", "standard"])
def test_what_is_found_for_an_image_does_not_depend_on_its_batch(method, images):
    run = Attacker(logits_of, Attack(method=method, eps=0.03, **SMALL), batch_size=8)
    places = np.arange(N)
    whole = run(weights(), np.asarray(images), np.asarray(LABELS), places=places)
    back = slice(None, None, -1)
    other = run(
        weights(),
        np.asarray(images)[back],
        np.asarray(LABELS)[back],
        places=places[back],
    )
    np.testing.assert_array_equal(whole.broken, other.broken[back])
    np.testing.assert_allclose(whole.pixels, other.pixels[back], atol=1e-4)


def test_a_linear_network_falls_as_reckoned_by_hand(images):
    """There the steepest change is known: half the sign, or the slope itself."""
    head = np.asarray(weights()[1][: 3 * SIDE * SIDE], np.float64)
    pixels = np.asarray(images, np.float64)
    logits = (pixels - 0.5).reshape(N, -1) @ head
    odds = np.exp(logits - logits.max(1, keepdims=True))
    odds /= odds.sum(1, keepdims=True)
    odds[np.arange(N), np.asarray(LABELS)] -= 1
    slopes = (odds @ head.T).reshape(pixels.shape)
    for norm, eps in BUDGET.items():
        step = np.sign(slopes)
        if norm == "l2":
            flat = np.linalg.norm(slopes.reshape(N, -1), axis=1)
            step = slopes / flat[:, None, None, None]
        expected = np.clip(pixels + eps * step, 0, 1)
        found = fgsm(linear, images, LABELS, eps=eps, norm=norm, keys=KEYS)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_ratio_of_logits_is_that_of_the_paper_and_has_no_scale():
    logits, labels = jnp.array([[3.0, 1.0, 0.5, 0.0, -1.0]]), jnp.array([0])
    assert float(dlr(logits, labels)[0]) == pytest.approx(-2 / 2.5)
    towards = dlr_towards(jnp.array([2]))(logits, labels)
    assert float(towards[0]) == pytest.approx(-2.5 / (3 - 0.25))
    np.testing.assert_allclose(dlr(9 * logits, labels), dlr(logits, labels), rtol=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("method", ["apgd_dlr", "apgd_dlr_targeted"])
def test_few_classes_take_a_simpler_loss_which_is_said(classes, method, images):
    ask = functools.partial(logits_of, weights(classes))
    labels = ask(images).argmax(-1)
    settings = Attack(method=method, eps=0.3, **SMALL)
    found = attack(settings, ask, images, labels, keys=KEYS)
    assert wrong(ask(found), labels).mean() > 0.8
    needed = 4 if "targeted" in method else 3
    assert bool(fallback_of(method, classes)) == (classes < needed)
    assert not fallback_of(method, needed)


def test_square_needs_no_gradient_and_finds_what_others_miss(images):
    def rounded(pixels):
        return NETWORK(jnp.round(pixels * 16) / 16)

    labels = rounded(images).argmax(-1)
    flat, none = silent(rounded, images, labels)
    assert flat.all()
    assert not none.any()
    broken = {}
    for method in ("apgd_ce", "square"):
        settings = Attack(method=method, eps=0.08, **SMALL)
        found = attack(settings, rounded, images, labels, keys=KEYS)
        broken[method] = float(wrong(rounded(found), labels).mean())
    assert broken["square"] > broken["apgd_ce"] + 0.2


@pytest.mark.parametrize("side", [3, 4, 7])
def test_bumps_of_square_are_those_of_the_paper(side):
    """Equation 2 of arXiv 1912.00049, entry by entry."""

    def hill(h1, h2):
        n, found = h1 // 2, np.zeros((h2, h1))
        for (r, s), _ in np.ndenumerate(found):
            most = n - max(abs(s - h1 // 2), abs(r - h2 // 2))
            found[r, s] = sum(1 / (n + 1 - k) ** 2 for k in range(most + 1))
        return found

    expected = np.concatenate([hill(side, side // 2), -hill(side, side - side // 2)])
    corner = jnp.array([1])
    for across in (False, True):
        at = Square(corner, corner, jnp.asarray(side))
        bump = bump_of(at, (1, SIDE, SIDE, 1), across=across)[0, :, :, 0]
        turned = expected.T if across else expected
        inside = slice(1, 1 + side)
        np.testing.assert_allclose(bump[inside, inside], turned, rtol=1e-5)
        assert float(jnp.abs(bump).sum()) == pytest.approx(np.abs(turned).sum())


def test_slopes_that_are_no_numbers_are_noticed_and_lead_nowhere(images):
    def torn(pixels):
        return NETWORK(pixels) + 0 * jnp.sqrt(pixels[:, :1, 0, 0] * 0)

    _, none = silent(torn, images, LABELS)
    assert none.all()
    found = pgd(torn, images, LABELS, eps=0.1, keys=KEYS, random_start=False)
    assert np.isfinite(found).all()
    assert not silent(NETWORK, images, LABELS)[1].any()


def test_logits_that_are_no_numbers_are_no_right_answers():
    assert wrong(jnp.array([[jnp.nan, 1.0], [2.0, 1.0]]), jnp.array([0, 0])).tolist()


def test_survivors_alone_meet_the_next_attack_with_the_same_verdict(images):
    settings = Attack(eps=0.02, **SMALL)
    labels = np.asarray(LABELS).copy()
    labels[0] = (labels[0] + 1) % CLASSES
    run = Attacker(logits_of, settings, batch_size=16)
    found = run(weights(), np.asarray(images), labels)
    assert found.stage[0] == WRONG_BEFORE
    assert (found.stage == NOT_BROKEN).sum() == (~found.broken).sum()
    np.testing.assert_array_equal(found.pixels[0], images[0])
    again = wrong(NETWORK(jnp.asarray(found.pixels)), jnp.asarray(labels))
    np.testing.assert_array_equal(found.broken, again)
    empty = run(weights(), np.asarray(images)[:0], labels[:0])
    assert empty.pixels.shape == (0, SIDE, SIDE, 3)


def test_unknown_names_are_refused(images):
    with pytest.raises(UsageError, match="apgd_ce"):
        attack_of(Attack(method="magic"))
    with pytest.raises(UsageError, match="linf, l2"):
        attack(Attack(norm="l7"), NETWORK, images, LABELS, keys=KEYS)
