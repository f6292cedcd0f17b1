"""Which views may be asked for together."""

import dataclasses

import pytest
from pydantic import ValidationError

from models.recipe import Augment
from tasks.augment_settings import DRAWN, AugmentSettings


def test_settings_mirror_the_recipe():
    assert Augment(**AugmentSettings().model_dump()) == Augment()
    fields = {field.name for field in dataclasses.fields(Augment)}
    assert fields == set(AugmentSettings.model_fields)


@pytest.mark.parametrize("policy", ["rand", "trivial"])
def test_a_policy_takes_over_what_it_draws_and_leaves_the_crop(policy):
    found = AugmentSettings(policy=policy)
    assert not any(getattr(found, name) for name in DRAWN)
    assert found.zoom == Augment().zoom
    assert found.flip == Augment().flip
    assert AugmentSettings.model_validate(found.model_dump()) == found


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"policy": "rand", "rotate": 10}, "policy=rand draws rotate itself"),
        ({"policy": "trivial", "contrast": 0.5}, "Leave contrast out"),
        ({"policy_magnitude": 0.5}, "Set policy=rand"),
        ({"mixup": 0.6, "cutmix": 0.6}, "mixup + cutmix is 1.2"),
        ({"noise_gaussian": 0.7, "noise_shot": 0.7}, "add up to 1.4"),
        ({"blur_size": (0.02, 0.01)}, "from small to large"),
        ({"zoom": (1.0, 0.4)}, "from small to large"),
        ({"noise_severity": 6}, "noise_severity"),
        ({"perspective": 1.5}, "perspective"),
    ],
)
def test_what_contradicts_itself_is_refused_in_words(given, said):
    with pytest.raises(ValidationError, match=said.replace("+", r"\+")):
        AugmentSettings(**given)
