"""Which training settings go together, and what a run's name hangs on."""

import dataclasses
import json

import pytest
from pydantic import ValidationError

from data_contracts.errors import UsageError
from data_contracts.references import ModelRef
from flows.arguments import parse
from flows.train import TrainConfig
from flows.update import UpdateConfig, UpdateTrainSettings, _like_champion, _settings
from models.optim import OPTIMIZERS
from models.recipe import LATER, RATES, Recipe
from models.schedules import SCHEDULES
from tasks.step_settings import Optimizer, Precision, Schedule
from tasks.train import recipe_of
from tasks.train_settings import TrainSettings


def test_choices_are_those_of_the_models():
    assert set(Optimizer) == set(OPTIMIZERS) == set(RATES)
    assert set(Schedule) == set(SCHEDULES)
    assert set(Precision) == {"float32", "bfloat16"}
    assert set(LATER) <= {field.name for field in dataclasses.fields(Recipe)}
    # Cycles and what a teacher counts are said by `ensemble`.
    given = {*TrainSettings.model_fields, "cycles", "distil"}
    assert set(LATER) <= given


@pytest.mark.parametrize("optimizer", list(Optimizer))
def test_a_rate_left_out_is_the_optimizer_s_own(optimizer):
    own = recipe_of(TrainSettings(optimizer=optimizer), n=1000)
    assert (own.learning_rate, own.weight_decay) == RATES[optimizer]
    given = TrainSettings(optimizer=optimizer, learning_rate=0.5, weight_decay=0)
    recipe = recipe_of(given, n=1000)
    assert (recipe.learning_rate, recipe.weight_decay) == (0.5, 0)


def test_an_update_goes_on_at_a_share_of_the_rate():
    assert UpdateTrainSettings().rate == 6e-4
    assert UpdateTrainSettings(optimizer="sgd").rate == pytest.approx(
        0.1 * 3 / 14, rel=1e-5
    )
    assert UpdateTrainSettings(learning_rate=0.1).rate == 0.1
    # Settings of a first training are taken as they are.
    assert UpdateTrainSettings.model_validate(TrainSettings()).rate == 2.8e-3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"schedule": "schedule_free"}, "came optimizer=muon. Set optimizer=adamw"),
        (
            {"schedule": "schedule_free", "optimizer": "lion"},
            "steps of adamw or sgd; came optimizer=lion",
        ),
        (
            {"schedule": "schedule_free", "optimizer": "sgd", "ema": 0.9},
            "Leave ema out",
        ),
        (
            {"schedule": "schedule_free", "optimizer": "sgd", "layer_decay": 0.5},
            "freeze, layer_decay and unfreeze set parts apart",
        ),
        ({"accumulate": 8, "batch_size": 15}, "came batch_size=15. Lower accumulate"),
        ({"accumulate": 0}, "accumulate"),
        ({"sam_radius": -1}, "sam_radius"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"optimizer": "sdg"}, "optimizer"),
        ({"freeze": "backbone"}, "weights that have learnt nothing"),
        ({"init": "hf:a/b/x.json"}, "ends in .safetensors"),
        ({"init": "hf:\u00e9/x"}, "should read hf:owner/name"),
    ],
)
def test_what_does_not_go_together_is_refused(given, said):
    with pytest.raises(ValidationError, match=said):
        TrainSettings(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"schedule": "schedule_free", "optimizer": "adamw", "sam_radius": 0.05},
        {"schedule": "one_cycle", "optimizer": "sgd", "balance": "ldam_deferred"},
        {"accumulate": 8, "batch_size": 16, "remat": True, "precision": "bfloat16"},
        {"sam_radius": 0.05, "accumulate": 4, "loss": "early_learning"},
    ],
)
def test_what_goes_together_is_taken_and_reaches_the_recipe(given):
    recipe = recipe_of(TrainSettings(**given), n=1000)
    for name in given.keys() - {"balance", "loss"}:
        assert getattr(recipe, name) == given[name]


def test_options_left_alone_leave_the_run_its_name():
    usual = TrainSettings()
    assert not set(LATER) & usual.identity().keys()
    same = TrainSettings(learning_rate=2.8e-3, weight_decay=0.1, remat=False)
    assert same.identity() == usual.identity()
    often = TrainSettings(checkpoint_minutes=1, profile=True, shard="always")
    assert often.identity() == usual.identity()
    for change in ({"remat": True}, {"schedule": "constant"}, {"optimizer": "sgd"}):
        assert TrainSettings(**change).identity() != usual.identity()


def test_options_are_words_of_the_command_line():
    words = ["data=x", "name=y", "train.schedule=one_cycle", "sam_radius=.05"]
    words += ["optimizer=sgd", "precision=bfloat16", "accumulate=2", "remat=yes"]
    train = parse(TrainConfig, words, environ={}, verb="train").train
    assert train == TrainSettings(
        schedule="one_cycle",
        sam_radius=0.05,
        optimizer="sgd",
        precision="bfloat16",
        accumulate=2,
        remat=True,
    )


def test_views_that_cannot_grow_are_refused():
    words = ["data=x", "name=y", "preset=convnext_atto", "image_size=40"]
    for progressive in (".5", ".9"):
        asked = [*words, f"train.progressive={progressive}"]
        with pytest.raises(UsageError, match="no smaller side to start from"):
            parse(TrainConfig, asked, environ={}, verb="train")
    asked = [*words[:3], "image_size=64", "train.progressive=.5"]
    assert parse(TrainConfig, asked, environ={}, verb="train").train.progressive == 0.5


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"progressive": 0.5}, "image_size=40: progressive=0.5 has no smaller side"),
        ({"network": {"test_scales": [0.5, 1]}}, "test_scales shows 0.5 of 40 px"),
    ],
)
def test_an_update_that_its_champion_s_images_are_too_small_for_is_refused(
    given, said, tmp_path
):
    train = TrainSettings(preset="convnext_atto").model_dump(mode="json")
    config = {"train": train, "decode": {"image_size": 40}}
    (tmp_path / "manifest.json").write_text(json.dumps({"config": config}))
    champion = ModelRef(name="shop", version=1, uri=str(tmp_path))
    where = {"name": "shop", "data": "x"}
    assert _settings(UpdateConfig(**where), champion).train.preset == "convnext_atto"
    with pytest.raises(UsageError, match=said):
        _settings(UpdateConfig(**where, train=UpdateTrainSettings(**given)), champion)


def test_stages_of_views_that_do_not_grow_name_no_run():
    assert TrainSettings(progressive_stages=3).identity() == TrainSettings().identity()
    growing = TrainSettings(progressive=0.5)
    assert "progressive" in growing.identity()
    assert recipe_of(growing, n=100).progressive == 0.5


def test_an_update_takes_over_what_the_champion_held_still():
    champion = TrainSettings(
        preset="vit_tiny", init="a@1", freeze="6", optimizer="adamw", layer_decay=0.7
    )
    like = _like_champion(UpdateTrainSettings(), champion.model_dump())
    assert (like.freeze, like.optimizer, like.layer_decay) == ("6", "adamw", 0.7)
    assert like.init is None
    assert _like_champion(UpdateTrainSettings(freeze="8"), champion.model_dump())
    with pytest.raises(UsageError, match="has 12 stages"):
        _like_champion(UpdateTrainSettings(freeze="13"), champion.model_dump())


def test_an_update_to_another_network_is_refused():
    champion = TrainSettings(preset="vit_tiny").model_dump()
    assert _like_champion(UpdateTrainSettings(preset="vit_tiny"), champion)
    with pytest.raises(UsageError, match="a vit_tiny; came preset=small"):
        _like_champion(UpdateTrainSettings(preset="small"), champion)


def test_an_update_may_follow_an_update_that_held_parts_still():
    champion = UpdateTrainSettings(preset="vit_tiny", freeze="6").model_dump()
    like = _like_champion(UpdateTrainSettings(), champion)
    assert (like.freeze, like.init) == ("6", None)
    again = _like_champion(UpdateTrainSettings(), like.model_dump())
    assert again == like


def test_an_update_learns_which_optimizer_it_has_before_it_refuses():
    champion = TrainSettings(optimizer="adamw").model_dump()
    asked = UpdateTrainSettings(schedule="schedule_free")
    assert _like_champion(asked, champion).optimizer == "adamw"
    with pytest.raises(UsageError, match="came optimizer=muon"):
        _like_champion(asked, TrainSettings().model_dump())


def test_an_update_starts_from_the_champion_alone():
    with pytest.raises(ValidationError, match="starts from the champion"):
        UpdateTrainSettings(init="weights.safetensors")
