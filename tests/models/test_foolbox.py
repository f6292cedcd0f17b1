"""Attacks find the images that foolbox finds, where it is installed."""

import jax
import numpy as np
import pytest

from models.attacks.pgd import fgsm, pgd
from tests.models.test_attacks import BUDGET, KEYS, LABELS, NETWORK, SIDE, N

foolbox = pytest.importorskip("foolbox", reason="see docs/robustness-training.md")

STEPS, SHARE = 10, 0.25
THEIRS = {
    ("fgsm", "linf"): "LinfFastGradientAttack",
    ("fgsm", "l2"): "L2FastGradientAttack",
    ("pgd", "linf"): "LinfPGD",
    ("pgd", "l2"): "L2PGD",
}


@pytest.mark.parametrize(("method", "norm"), THEIRS)
def test_images_are_those_of_foolbox(method, norm):
    """To rounding: 1e-5 of a pixel's range."""
    images = jax.random.uniform(jax.random.key(2), (N, SIDE, SIDE, 3))
    path = {"steps": STEPS, "rel_stepsize": SHARE} if method == "pgd" else {}
    attack = getattr(foolbox.attacks, THEIRS[method, norm])(random_start=False, **path)
    model = foolbox.JAXModel(NETWORK, bounds=(0, 1), data_format="channels_last")
    _, theirs, _ = attack(model, images, LABELS, epsilons=BUDGET[norm])
    usual = {"eps": BUDGET[norm], "norm": norm, "keys": KEYS}
    if method == "pgd":
        usual |= {"steps": STEPS, "step_size": SHARE, "keep": False}
    single = pgd if method == "pgd" else fgsm
    ours = single(NETWORK, images, LABELS, random_start=False, **usual)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
