"""Attacks on a finished model, and settings of training under attack."""

import numpy as np
import pytest
from pydantic import ValidationError

from data_contracts.store import Dataset
from models.recipe import Adversarial
from tasks.adversarial import Stand, withstand
from tasks.adversarial_settings import AdversarialSettings, AttackSettings
from tasks.train import recipe_of
from tasks.train_settings import TrainSettings
from tests.datasets import make_dataset


def test_what_stays_right_under_attack_was_right_before(predictor, tmp_path):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    labels = predictor(images).argmax(1)
    labels[0], labels[1] = (labels[0] + 1) % 3, -1
    dataset = Dataset(make_dataset(tmp_path / "set", 6, images=images))

    def stand(epsilon):
        given = AttackSettings(attack="pgd", epsilon=epsilon, steps=3)
        return withstand(predictor, dataset, np.arange(6), labels, given)

    calm = stand(0)
    assert calm.plain.tolist() == [False, False, True, True, True, True]
    assert calm.attacked.tolist() == calm.plain.tolist()
    assert not stand(255).attacked.any()


def test_a_model_without_slopes_and_with_few_classes_is_told():
    stand = Stand(np.ones(4, bool), np.ones(4, bool), np.full(4, -1), silent=3)
    few, silent = stand.notes(AttackSettings(), num_classes=2)
    assert "there are 2" in few
    assert "3 of 4 images have no gradient" in silent
    whole = stand._replace(silent=0)
    assert whole.notes(AttackSettings(), num_classes=10) == []


def test_training_asks_for_what_the_settings_say():
    given = {"against": "trades", "epsilon": 8, "trades_beta": 3}
    recipe = recipe_of(TrainSettings(adversarial=given), n=100)
    assert recipe.adversarial == Adversarial("trades", eps=8 / 255, beta=3)
    assert recipe_of(TrainSettings(), n=100).adversarial == Adversarial()


def test_figures_that_a_method_does_not_read_name_no_other_run():
    plain = TrainSettings().identity()
    idle = TrainSettings(adversarial=AdversarialSettings(epsilon=8))
    assert idle.identity() == plain
    fgsm = {"against": "fgsm"}
    asked = TrainSettings(adversarial=fgsm).identity()
    assert asked != plain
    assert TrainSettings(adversarial=fgsm | {"replays": 9}).identity() == asked


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sam_radius": 0.05}, "Set sam_radius=0"),
        ({"loss": "early_learning"}, "Set another loss"),
        ({"accumulate": 2, "against": "free"}, "accumulate=1"),
        ({"probe": "only", "init": "shop@1"}, "probe=first"),
        ({"ensemble": {"combine": "snapshots"}}, "combine=seeds"),
    ],
)
def test_what_cannot_go_with_attacked_views_is_refused(given, said):
    own = {"against": given.pop("against", "pgd")}
    with pytest.raises(ValidationError, match=said):
        TrainSettings(adversarial=own, **given)
