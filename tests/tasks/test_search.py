"""What a search may change, what it draws, and what it refuses before anything runs."""

import pytest
from pydantic import ValidationError

from data_contracts.errors import UsageError
from flows.arguments import parse, words
from flows.train import TrainConfig
from flows.tune import TuneConfig
from models.recipe import GENTLE, RATES
from tasks.search_draws import (
    changed,
    draw_trials,
    in_force,
    pinned,
    usual_space,
)
from tasks.search_space import USUAL, read_space, words_of
from tasks.train_settings import TrainSettings

N = 2_640
DEFAULTS = TrainSettings()


def draw(space, settings=DEFAULTS, *, trials=20, seed=0, n=N):
    ranges = read_space(space) if space else usual_space(settings, n=n)
    return draw_trials(ranges, settings, trials=trials, seed=seed, n=n)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (
            {"learning_rte": [1, 2]},
            "no setting .* such as search.train.augment.mixup. Did you mean train.lea",
        ),
        ({"decode.image_size": [32, 64]}, "names no .*`sightline train --help` lists"),
        ({"learning_rate": [1e-4, 1e-2, "logg"]}, "logg .* are linear, log, times"),
        ({"0": [1, 2]}, "Did you mean train.augment.zoom.0 or train.augment.blur"),
        ({"epochs": [3, 9]}, "cannot be searched: the rungs set it"),
        ({"epsilon": [2, 8]}, "trials are judged on plain images"),
        ({"train.seed": [0, 1]}, "the finals vary it"),
        ({"head": ["trained", "tau"]}, "finished network"),
        ({"combine": ["none", "soup"]}, "compares single networks"),
        ({"test_flip": ["yes", "no"]}, "asks a finished network"),
        ({"ema": [0.9]}, "two values or more"),
        ({"ema": []}, "two values or more"),
        ({"clip": ["low", "high", "log"]}, "two numbers and one of"),
        ({"clip": [1, 2, 3, "log"]}, "two numbers and one of"),
        ({"clip": [2, 1, "linear"]}, "from low to high"),
        ({"clip": [0, 1, "log"]}, "both above 0"),
        ({"clip": [1, 2], "train.clip": [1, 3]}, "given twice"),
        ({"ema": [0.9, 1.5]}, "train.ema=1.5 cannot be: .*less than 1"),
        ({"optimizer": ["muon", "sdg"]}, "train.optimizer=sdg cannot be"),
        ({"augment.mixup": [0.1, 2, "linear"]}, "mixup=2 cannot be"),
        ({"sam_radius": [0.5, 2, "times"], "optimizer": ["muon", "sgd"]}, None),
        (
            {"schedule": ["cosine", "schedule_free"], "optimizer": ["muon", "lion"]},
            "draws .*schedule=schedule_free.* cannot be: .*adamw or sgd",
        ),
        ({"mixup": [0.4, 0.6], "cutmix": [0.6, 0.7]}, None),
        ({"patience": ["few", "many"]}, "many is no number"),
    ],
)
def test_what_cannot_be_is_said_with_its_name(space, said):
    if said is None:
        assert len(draw(space)) > 1
        return
    with pytest.raises(UsageError, match=said):
        draw(space)


def test_the_config_refuses_before_any_image_is_read():
    given = {"data": "nowhere", "name": "shop"}
    with pytest.raises(ValidationError, match="names no setting"):
        TuneConfig(**given, tune={"search": {"rate": [1, 2]}})
    with pytest.raises(ValidationError, match=r"convnext_atto"):
        TuneConfig(
            **given,
            decode={"image_size": 16},
            tune={"search": {"preset": ["small", "convnext_atto"]}, "trials": 2},
        )
    with pytest.raises(ValidationError, match="compares single networks"):
        TuneConfig(**given, train={"ensemble": {"combine": "soup"}})
    with pytest.raises(ValidationError, match="stores the views of one recipe"):
        TuneConfig(**given, materialise={"views": 2})
    with pytest.raises(ValidationError, match=r"bound.* by tune.minutes|Bound"):
        TuneConfig(**given, train={"max_minutes": 5})
    with pytest.raises(ValidationError, match=r"came trials=5. Leave out"):
        TuneConfig(**given, tune={"find": "rate", "trials": 5})
    with pytest.raises(ValidationError, match="came probe=first"):
        TuneConfig(
            **given,
            train={"init": "a@1", "probe": "first"},
            tune={"find": "rate"},
        )


def test_all_that_minutes_could_draw_is_checked():
    """Few networks need more than 16 px: the first is drawn after the twelfth trial."""
    given = {"data": "nowhere", "name": "shop", "decode": {"image_size": 16}}
    late = {"preset": ["small"] * 40 + ["convnext_atto"], "ema": [0.5, 0.99, "linear"]}
    TuneConfig(**given, tune={"search": late, "trials": 5})
    with pytest.raises(ValidationError, match="convnext_atto"):
        TuneConfig(**given, tune={"search": late, "minutes": 60})


def test_what_cannot_be_together_is_drawn_again():
    space = {"schedule": ["cosine", "schedule_free"], "optimizer": ["muon", "adamw"]}
    trials = draw(space, trials=4)
    assert sorted(words_of(changes) for changes in trials) == [
        "optimizer=adamw",
        "optimizer=adamw schedule=schedule_free",
        "the defaults",
    ]


def test_settings_of_text_are_searched_as_text():
    trials = draw({"freeze": [1.0, 2.0, "none"]}, TrainSettings(init="a@1"))
    assert [changes.get("train.freeze") for changes in trials] == [None, "1", "2"] or [
        changes.get("train.freeze") for changes in trials
    ] == [None, "2", "1"]


def test_trial_0_is_the_defaults_and_others_differ_from_it_and_each_other():
    trials = draw(None)
    assert trials[0] == {}
    assert len({words_of(changes) for changes in trials}) == 20
    for changes in trials[1:]:
        own = changed(DEFAULTS, changes, n=N)
        assert any(in_force(own, k, n=N) != in_force(DEFAULTS, k, n=N) for k in changes)
        assert own.batch_size in (None, 64, 256)


def test_the_same_seed_draws_the_same_and_a_longer_search_begins_with_a_shorter():
    assert draw(None, trials=6) == draw(None)[:6]
    assert draw(None, seed=1) != draw(None)


def test_a_rate_is_a_multiple_of_its_optimizer_s():
    space = {"optimizer": ["adamw", "sgd"], "learning_rate": [0.5, 2, "times"]}
    for changes in draw(space)[1:]:
        own = changed(DEFAULTS, changes, n=N)
        usual = RATES[own.optimizer][0]
        assert 0.49 * usual <= own.rate <= 2.01 * usual


def test_what_someone_set_is_held_and_what_cannot_be_is_left_out():
    def keys(**given):
        return {range_.key for range_ in usual_space(TrainSettings(**given), n=N)}

    assert keys() == set(USUAL)
    assert keys(**DEFAULTS.model_dump()) == set(USUAL)  # as a form sends them
    assert "train.ema" not in keys(ema=0.99)
    assert not any("augment" in key for key in keys(augment={"mixup": 0.1}))
    assert "train.label_smoothing" not in keys(loss="focal")
    free = keys(schedule="schedule_free", optimizer="adamw")
    assert not free & {"train.ema", "train.optimizer"}


def test_a_space_that_runs_dry_gives_fewer_trials():
    assert len(draw({"optimizer": ["muon", "adamw", "sgd"]})) == 3
    assert draw({"ema": [0.995, 0.99]}) == [{}, {"train.ema": 0.99}]


def test_a_part_of_a_pair_changes_alone():
    own = changed(DEFAULTS, {"train.augment.zoom.0": 0.3}, n=N)
    assert own.augment.zoom == (0.3, 1.0)
    assert own.augment.mixup == 0.2
    with pytest.raises(UsageError, match="small to large"):
        draw({"train.augment.zoom.0": [0.5, 1.5]})
    policy = changed(DEFAULTS, {"train.augment.policy": "rand"}, n=N)
    assert policy.augment.rotate == 0


def test_all_rungs_see_the_views_of_the_whole_training():
    whole = TrainSettings(epochs=40)
    short = pinned(whole, whole=whole, n=N, epochs=5)
    assert short.epochs == 5
    assert short.augment.mixup == 0.2
    assert pinned(whole, whole=whole, n=N, epochs=40) == whole
    own = changed(whole, {"train.augment.mixup": 0.0}, n=N)
    assert pinned(own, whole=whole, n=N, epochs=5).augment == own.augment
    brief = TrainSettings(epochs=20)
    assert pinned(brief, whole=brief, n=N, epochs=5).augment is None
    assert changed(brief, {"train.augment.mixup": 0.1}, n=N).augment.zoom == GENTLE.zoom


def test_ranges_come_from_words_and_from_a_file_by_their_path(tmp_path):
    given = ["data=x", "name=shop"]
    path = tmp_path / "search.yaml"
    path.write_text(
        "tune:\n  search:\n    train.learning_rate: [1e-4, 1e-2, log]\n"
        "    optimizer: [muon, adamw]\n"
    )
    by_file = parse(TuneConfig, [*given, f"config={path}"], environ={})
    by_words = parse(
        TuneConfig,
        [
            *given,
            "search.train.learning_rate=1e-4,1e-2,log",
            "tune.search.optimizer=muon,adamw",
        ],
        environ={},
    )
    assert by_file == by_words
    assert by_file.tune.search["train.learning_rate"] == [1e-4, 1e-2, "log"]
    again = parse(TuneConfig, words(by_file), environ={})
    assert again == by_file


def test_settings_that_were_found_come_back_from_their_words():
    for changes in draw(None)[1:]:
        own = TrainConfig(data="x", name="y", train=changed(DEFAULTS, changes, n=N))
        back = parse(TrainConfig, words(own), environ={})
        assert back.train.identity() == own.train.identity()
