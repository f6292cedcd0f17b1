"""Designs of networks as settings: what goes together, names of runs, updates."""

from __future__ import annotations

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from pydantic import ValidationError

from data_contracts.errors import UsageError
from data_contracts.store import Dataset
from flows.arguments import parse
from flows.train import TrainConfig
from flows.update import UpdateTrainSettings, _like_champion
from models import registry
from models.backbones import vit
from models.checkpoint import load_model
from models.design import PLAIN, TAKES, Design
from tasks.augment_settings import AugmentSettings
from tasks.clean import CleanSettings, clean_dataset
from tasks.inference import Predictor
from tasks.network_settings import Attention, Kernels, NetworkSettings, Pool
from tasks.rebalance import rebalance_model
from tasks.split import SplitSettings, split_dataset
from tasks.train import recipe_of, train_model
from tasks.train_settings import TrainSettings
from tasks.transfer import check_start
from tests.datasets import make_dataset
from tests.models import miniatures


def test_the_settings_are_those_of_the_design():
    assert NetworkSettings().design == PLAIN
    fields = [field.name for field in dataclasses.fields(Design)]
    assert list(NetworkSettings.model_fields) == fields
    assert tuple(Attention) == TAKES["resnet"]["attention"]
    assert tuple(Kernels) == TAKES["resnet"]["kernels"]
    assert tuple(Pool) == TAKES["resnet"]["pool"]


def test_a_design_is_words_of_the_command_line():
    words = ["data=x", "name=y", "attention=cbam", "test_scales=.75,1", "pyramid=yes"]
    config = parse(TrainConfig, words, environ={}, verb="train")
    assert config.train.network.design == Design(
        attention="cbam", test_scales=(0.75, 1.0), pyramid=True
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"preset": "vit_tiny", "network": {"attention": "se"}}, "preset=vit_tiny"),
        ({"network": {"attention": "sae"}}, "attention"),
        ({"network": {"drop_path": 1}}, "drop_path"),
        ({"network": {"test_scales": []}}, "test_scales"),
        ({"network": {"test_scales": [1, 1]}}, "counts one scale twice; came 1,1"),
        ({"network": {"positions": "absolute"}}, "came attention=none"),
        (
            {
                "preset": "resnet50_tv",
                "init": "a.pth",
                "network": {"attention": "se"},
            },
            "init=a.pth holds weights of a plain resnet50_tv; came attention=se",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(given, said):
    with pytest.raises(ValidationError, match=said):
        TrainSettings(**given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"freeze": "backbone", "network": {"drop_path": 0.1}},
            "freeze=backbone leaves every block as it is.*Set network.drop_path=0",
        ),
        (
            {"probe": "only", "network": {"drop_path": 0.1}},
            "probe=only leaves every block as it is",
        ),
        (
            {"probe": "only", "network": {"dropout": 0.2}},
            "whole embeddings; came network.dropout=0.2",
        ),
    ],
)
def test_skipping_where_nothing_is_trained_is_refused(given, said):
    with pytest.raises(ValidationError, match=said):
        TrainSettings(init="a@1", **given)


def test_dropout_goes_with_a_head_that_is_trained():
    network = {"dropout": 0.2}
    assert TrainSettings(init="a@1", freeze="backbone", network=network)
    partly = {"freeze": "1", "network": {"drop_path": 0.1}}
    assert TrainSettings(init="a@1", **partly)


def test_an_update_of_a_frozen_backbone_may_set_drop_path_aside():
    champion = TrainSettings(network={"drop_path": 0.1}).model_dump(mode="json")
    frozen = {"freeze": "backbone"}
    with pytest.raises(UsageError, match=r"Set network\.drop_path=0"):
        _like_champion(UpdateTrainSettings(**frozen), champion)
    asked = UpdateTrainSettings(network={"drop_path": 0}, **frozen)
    assert _like_champion(asked, champion).network.drop_path == 0


def test_what_brings_no_layers_goes_with_the_weights_of_others():
    network = {"drop_path": 0.1, "dropout": 0.2, "test_flip": True}
    assert TrainSettings(preset="resnet50_tv", init="a.pth", network=network)


def test_views_too_small_for_a_network_are_refused_before_any_work():
    train = TrainSettings(preset="convnext_atto", network={"test_scales": [0.5, 1]})
    with pytest.raises(ValidationError, match=r"test_scales shows 0\.5 of 48 px"):
        TrainConfig(data="x", name="y", train=train, decode={"image_size": 48})


def test_a_run_is_named_by_its_layers_and_not_by_its_views():
    usual = TrainSettings()
    assert "network" not in usual.identity()
    views = TrainSettings(network={"test_flip": True, "test_scales": [0.75, 1]})
    assert views.identity() == usual.identity()
    assert recipe_of(views.of_the_network(), n=100) == recipe_of(usual, n=100)
    for change in ({"attention": "eca"}, {"drop_path": 0.1}):
        other = TrainSettings(network=change)
        assert other.identity() != usual.identity()
        assert repr(recipe_of(other, n=100)) != repr(recipe_of(usual, n=100))


def test_an_update_takes_over_the_layers_and_may_choose_views():
    champion = TrainSettings(
        network={"attention": "se", "drop_path": 0.1, "test_flip": True}
    ).model_dump(mode="json")
    like = _like_champion(UpdateTrainSettings(), champion)
    assert like.network.design == Design(attention="se", drop_path=0.1, test_flip=True)
    own = UpdateTrainSettings(network={"test_scales": [0.75, 1], "dropout": 0.2})
    assert _like_champion(own, champion).network.design == Design(
        attention="se",
        drop_path=0.1,
        dropout=0.2,
        test_flip=True,
        test_scales=(0.75, 1.0),
    )
    with pytest.raises(UsageError, match="have attention=se; came attention=cbam"):
        _like_champion(UpdateTrainSettings(network={"attention": "cbam"}), champion)
    old = {k: v for k, v in champion.items() if k != "network"}
    assert _like_champion(UpdateTrainSettings(), old).network == NetworkSettings()


def test_training_and_serving_see_one_network_and_views_cost_no_training(
    tmp_path, monkeypatch
):
    shape = dataclasses.replace(miniatures.VIT, depth=1)
    monkeypatch.setitem(vit.SHAPES, "vit_tiny", shape)
    source = make_dataset(tmp_path, 40, size=32)
    source = clean_dataset(source, CleanSettings(min_std=0, min_sharpness=0))
    source = split_dataset(source, SplitSettings())
    settings = TrainSettings(
        preset="vit_tiny",
        epochs=1,
        batch_size=16,
        augment=AugmentSettings(mixup=0, cutmix=0),
        network={"pool": "attention", "drop_path": 0.1},
    )
    runs = str(tmp_path / "runs")
    first = train_model(source, settings, name="toy", runs=runs)
    asked = NetworkSettings(pool="attention", drop_path=0.1, test_flip=True)
    flipped = settings.model_copy(update={"network": asked})
    assert train_model(source, flipped, name="toy", runs=runs) == first
    assert rebalance_model(source, first, settings) == first
    second = rebalance_model(source, first, flipped)
    assert second.run.startswith(f"{first.run}-")
    assert rebalance_model(source, first, flipped) == second

    (weights, _, meta), (same, _, seen) = map(load_model, (first.model, second.model))
    jax.tree.map(np.testing.assert_array_equal, weights, same)
    assert Design.of(meta["network"]) == Design(pool="attention", drop_path=0.1)
    assert Design.of(seen["network"]) == asked.design
    assert seen["temperature"] != meta["temperature"]

    images = Dataset(source).take(np.arange(6))
    one, both = Predictor.load(first.model), Predictor.load(second.model)
    mirrored = images[:, :, ::-1]
    np.testing.assert_allclose(both(images), both(mirrored), atol=1e-5)
    assert np.abs(one(images) - one(mirrored)).max() > 1e-4
    means = (one.embed(images) + one.embed(mirrored)) / 2
    np.testing.assert_allclose(both.embed(images), means, atol=1e-5)

    registry.register(
        tmp_path / "models",
        "toy",
        build=lambda folder: shutil.copytree(second.model, folder / "model"),
        run_id=second.run,
        manifest={"run": second.run},
    )
    start = {"image_size": 32, "home": tmp_path}
    check_start("toy@1", "vit_tiny", design=asked.without_views().design, **start)
    with pytest.raises(UsageError, match="was built with pool=attention; came none"):
        check_start("toy@1", "vit_tiny", **start)


def test_an_update_learns_under_attack_as_its_champion_did():
    champion = TrainSettings(adversarial={"against": "pgd", "epsilon": 8})
    kept = champion.model_dump(mode="json")
    like = _like_champion(UpdateTrainSettings(), kept)
    assert like.adversarial == champion.adversarial
    fewer = _like_champion(UpdateTrainSettings(adversarial={"watch": 64}), kept)
    assert fewer.adversarial.watch == 64
    assert fewer.adversarial.recipe.eps == champion.adversarial.recipe.eps
    plain = UpdateTrainSettings(adversarial={"against": "none"})
    assert _like_champion(plain, kept).adversarial.against == "none"
    old = {k: v for k, v in kept.items() if k != "adversarial"}
    assert _like_champion(UpdateTrainSettings(), old).adversarial.against == "none"
