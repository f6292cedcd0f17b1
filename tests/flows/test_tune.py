"""The verb `tune`: a search that is killed goes on, and what it finds trains."""

import inspect
import json
import os
import shlex
import time
from pathlib import Path

import numpy as np
import pytest

from data_contracts.config import digest
from data_contracts.errors import (
    MemoryShort,
    SightlineError,
    UsageError,
    WorkspaceError,
)
from data_contracts.store import Dataset
from flows import tune, workspace
from flows.arguments import parse
from flows.train import TrainConfig
from flows.tune import TuneConfig, run
from models.checkpoint import load_model
from models.recipe import RATES
from tasks.train import Trained
from tasks.tune import Search, following, judge_trial, judges_of, val_rows
from tasks.tune_settings import TuneSettings
from tests.flows.conftest import small_config

SEARCH = {
    "search": {"learning_rate": [0.25, 4, "times"], "optimizer": ["muon", "adamw"]},
    "trials": 5,
    "rungs": 2,
    "finalists": 1,
    "final_seeds": 2,
}
# Of trials by learning rate: how sure the made-up networks are of the truth.
SURE = 0.6


def config(pictures, **changes) -> TuneConfig:
    base = small_config(pictures)
    given = {name: getattr(base, name) for name in TrainConfig.model_fields}
    return TuneConfig(**given, tune=TuneSettings(**(SEARCH | changes)))


def rates_of(pictures) -> TuneConfig:
    return TuneConfig(**vars(config(pictures)) | {"tune": TuneSettings(find="rate")})


class Trainer:
    """Trains in no time; may be interrupted, and knows how sure each run is."""

    def __init__(self, *, gain=0.0):
        self.settings, self.trained, self.gain = {}, [], gain
        self.stop_after, self.fails, self.least = None, {}, 0
        self.of_epoch = {}

    def __call__(self, source, settings, *, name, runs):
        run = f"{name}-{digest(settings.identity())}"
        folder = Path(runs) / run
        self.settings[run] = settings
        if error := self.fails.get(str(settings.optimizer)):
            time.sleep(0.02)
            raise error
        if not folder.exists():
            if len(self.trained) == self.stop_after:
                raise KeyboardInterrupt
            self.trained.append(run)
            (folder / "checkpoints").mkdir(parents=True)
            lines = [
                {
                    "epoch": e + 1,
                    "val_top1": 0.5,
                    "seconds": self.of_epoch.get(str(settings.optimizer), 2.0),
                }
                for e in range(settings.epochs - self.least)
            ]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / "metrics.jsonl").write_text(text)
        return Trained(
            run=run,
            folder=str(folder),
            classes=["bottle", "lamp", "mug"],
            best_epoch=1,
            epochs_run=settings.epochs - self.least,
            stopped_early=False,
            images_per_second=1.0,
            device="none",
            notes=[],
        )

    def answers(self, trained, dataset, rows):
        """Adam is surer than Muon by the gain; a seed moves every run a little."""
        settings = self.settings[trained.run]
        classes = np.arange(len(rows)) % 3
        rng = np.random.default_rng(int(digest(trained.run), 16))
        better = self.gain * (settings.optimizer == "adamw")
        sure = SURE + better + rng.normal(0, 0.01) + rng.normal(0, 0.05, len(rows))
        probs = np.repeat((1 - np.clip(sure, 0.05, 0.95))[:, None] / 2, 3, axis=1)
        probs[np.arange(len(rows)), classes] = np.clip(sure, 0.05, 0.95)
        return probs, classes


@pytest.fixture
def trainer(monkeypatch):
    def use(**how):
        made = Trainer(**how)
        monkeypatch.setattr(tune, "train_model", made)
        monkeypatch.setattr("tasks.tune._answers", made.answers)
        return made

    return use


def folder_of(found) -> Path:
    return Path(found.best).parent


def test_a_flow_takes_exactly_its_settings():
    parameters = inspect.signature(tune.tune.fn).parameters
    assert set(parameters) == set(TuneConfig.model_fields)


def test_a_search_names_a_better_trial_and_its_settings_train(
    trained, pictures, trainer
):
    made = trainer(gain=0.2)
    found = run(config(pictures))
    assert made.settings[found.outcome.tried[-1].run].optimizer == "adamw"
    winner = found.outcome.trials[found.outcome.winner]
    assert winner["train.optimizer"] == "adamw"
    assert "is better than the defaults" in found.text()
    page = Path(found.report).read_text("utf-8")
    assert "optimizer=adamw" in page
    assert "<svg" in page
    own = parse(
        TrainConfig,
        [f"config={found.best}", f"data={pictures}", "name=shop"],
        environ=os.environ,
    )
    assert own.train.optimizer == "adamw"
    assert own.train.augment == config(pictures).train.augment
    # The search trained just this, so `train` would find it done.
    runs = {line.run for line in found.outcome.tried}
    assert f"shop-{digest(own.train.identity())}" in runs
    assert all(
        not (workspace.runs_root() / line.run / "checkpoints").exists()
        for line in found.outcome.tried
    )


def test_killed_anywhere_it_goes_on_without_training_twice(trained, pictures, trainer):
    made = trainer()
    whole = run(config(pictures))
    path = folder_of(whole) / "journal.jsonl"
    lines = path.read_bytes()
    for run_ in made.trained:
        (workspace.runs_root() / run_ / "metrics.jsonl").unlink()
        (workspace.runs_root() / run_).rmdir()
    path.unlink()

    again = trainer()
    again.stop_after = 4
    with pytest.raises(KeyboardInterrupt):
        run(config(pictures))
    assert len(path.read_bytes().splitlines()) == 4
    path.write_bytes(path.read_bytes()[:-9])  # torn in the middle of the last line
    again.stop_after = None
    second = run(config(pictures))
    assert again.trained == made.trained
    assert path.read_bytes() == lines
    assert second.outcome == whole.outcome
    third = run(config(pictures))
    assert len(again.trained) == len(made.trained)
    assert third.outcome == whole.outcome


@pytest.mark.parametrize("error", [SightlineError, MemoryShort])
def test_a_trial_that_fails_is_named_and_left_behind(trained, pictures, trainer, error):
    made = trainer()
    made.fails["adamw"] = error("The training loss became nan")
    found = run(config(pictures))
    assert found.outcome.winner == 0
    assert "The defaults stand" in found.text()
    assert "failed" in found.text()
    failed = [line for line in found.outcome.tried if line.failed]
    assert failed
    assert all(line.seconds >= 0.02 for line in failed)  # they count as time spent
    assert "The training loss became nan" in Path(found.report).read_text()
    assert (
        parse(
            TrainConfig,
            [f"config={found.best}", f"data={pictures}", "name=shop"],
            environ=os.environ,
        ).train.identity()
        == small_config(pictures).train.identity()
    )


def test_a_full_disk_ends_the_search_and_bad_defaults_do_too(
    trained, pictures, trainer
):
    made = trainer()
    made.fails["adamw"] = WorkspaceError("disk full")
    with pytest.raises(WorkspaceError):
        run(config(pictures))
    made.fails = {"muon": SightlineError("The training loss became nan")}
    with pytest.raises(SightlineError, match="defaults cannot be trained"):
        run(config(pictures, search_seed=1))


def test_minutes_bound_the_trials_and_too_few_say_what_is_needed(
    trained, pictures, trainer
):
    made = trainer()
    with pytest.raises(UsageError, match=r"a whole training takes about 0.5 minutes"):
        run(config(pictures, trials=None, minutes=1))
    assert len(made.trained) == 1
    # 2 s an epoch: 4 final runs of 15 epochs take 120 s, the search 35 and more.
    found = run(config(pictures, trials=None, minutes=4))
    spent = sum(line.seconds for line in found.outcome.tried)
    assert 180 < spent <= 240
    assert len(found.outcome.trials) > 4


def test_finals_are_reserved_at_the_slowest_epoch_that_leads(
    trained, pictures, trainer
):
    made = trainer(gain=0.2)
    made.of_epoch["adamw"] = 4.0
    found = run(config(pictures, trials=None, minutes=5))
    spent = sum(line.seconds for line in found.outcome.tried)
    # Two finals of 15 epochs at 4 s and two at 2 s: 180 s; by the defaults only 120.
    assert 200 < spent <= 300


def test_patience_is_shown_and_does_not_make_epochs_faster(trained, pictures, trainer):
    made = trainer()
    made.least = 2
    found = run(config(pictures))
    line = found.outcome.tried[0]
    assert line.epochs_run == line.epochs - 2
    assert line.of_epoch == 2.0
    assert "13 of 15" in found.text()
    assert "13 of 15" in Path(found.report).read_text("utf-8")


def test_trials_are_ranked_by_one_half_and_judged_by_the_other(
    trained, pictures, trainer, monkeypatch
):
    made = trainer()
    dataset = Dataset(trained.dataset)
    rows = val_rows(dataset)
    judged = judges_of(dataset, rows, seed=0)

    def answers(trained, dataset, rows):
        """All is right where finalists are judged, all wrong where trials rank."""
        probs, classes = made.answers(trained, dataset, rows)
        probs[~judged] = np.roll(np.eye(3)[classes[~judged]], 1, axis=1)
        return probs, classes

    monkeypatch.setattr("tasks.tune._answers", answers)
    outcome = run(config(pictures, search_seed=0)).outcome
    ranked = [line.top1 for line in outcome.tried if not line.seed]
    finals = [line.top1 for line in outcome.tried if line.seed]
    assert set(ranked) == {0.0}
    assert set(finals) == {1.0}
    final = outcome.finals[0]
    assert (final.top1, final.default_top1) == (1.0, 1.0)
    assert final.log_loss < 1 < outcome.tried[0].log_loss
    assert outcome.images == judged.sum()


def test_look_alikes_judge_or_rank_together():
    class Groups:
        def column(self, name):
            return np.array([7, 7, 7, 3, 3, 9, 4, 4, 1, 1, 0, 0])

    rows = np.arange(1, 12)
    judged = judges_of(Groups(), rows, seed=0)
    groups = Groups().column("group")[rows]
    assert not set(groups[judged]) & set(groups[~judged])
    assert len(set(groups[judged])) == len(set(groups[~judged])) == 3
    seeds = [judges_of(Groups(), rows, seed=seed) for seed in range(4)]
    assert any((other != judged).any() for other in seeds)


def test_other_weights_or_another_way_to_train_begin_another_search(
    trained, pictures, monkeypatch
):
    given = config(pictures)
    train = given.train.model_copy(update={"init": "shop@1"})

    def folder(**changes):
        tune_settings = given.tune.model_copy(update=changes)
        runs = str(workspace.runs_root())
        return tune.open_search(
            trained.dataset, train, tune_settings, name="shop", runs=runs
        ).folder

    first = folder()
    assert folder() == first
    with monkeypatch.context() as patch:
        patch.setattr("tasks.tune.content_of", lambda init, home: "replaced")
        assert folder() != first
    with monkeypatch.context() as patch:
        patch.setattr("tasks.tune.TRAINING", 0)
        assert folder() != first
    with monkeypatch.context() as patch:
        patch.setattr("tasks.tune.trials_of", lambda *a, **k: [{}, {"train.ema": 0}])
        assert folder() != first


def test_a_space_that_runs_dry_says_so(trained, pictures, trainer):
    trainer()
    found = run(config(pictures, search={"optimizer": ["muon", "adamw", "sgd"]}))
    said = "The space holds 3 different trials, the defaults among them; up to 5"
    assert said in found.text()
    assert said in Path(found.report).read_text("utf-8")


def test_a_real_run_is_judged_on_the_images_that_rank(trained, pictures):
    found = config(pictures, rungs=1)
    source = trained.dataset
    folder = workspace.runs_root()
    search = tune.open_search(
        source, found.train, found.tune, name="shop", runs=str(folder)
    )
    step = following(search)
    assert search.settings_of(step).identity() == found.train.identity()
    # The defaults were trained before, under this name.
    made = tune.train_model(
        source, search.settings_of(step), name="shop", runs=str(folder)
    )
    line = judge_trial(search, step, made)
    answers = np.load(Path(search.folder) / "answers" / f"{made.run}.npz")
    assert len(answers["hit"]) == trained.images["val"]
    kept = made.history[made.best_epoch - 1]["val_top1"]
    assert answers["hit"].mean() == pytest.approx(kept, abs=1e-6)
    assert line == search.tried[0]
    assert Search.model_validate_json(search.model_dump_json()).tried == [line]


def test_every_optimizer_gets_a_rate_from_where_training_starts(
    trained, pictures, monkeypatch
):
    from models.rate_finder import read_curve

    asked = []

    def curve(model, feed, *, recipe, seed, mesh, mean, std):
        asked.append((recipe.optimizer, len(feed.train_rows)))
        if recipe.optimizer == "lion":
            raise SightlineError("The loss failed after 3 steps")
        rates = np.geomspace(1e-4, 1, 40)
        return read_curve(rates, 2 - np.sin(np.linspace(0, 4, 40)))

    monkeypatch.setattr("models.rate_finder.find_rate", curve)
    found = run(rates_of(pictures))
    assert [name for name, _ in asked] == list(RATES)
    assert len({n for _, n in asked}) == 1
    assert "The loss failed after 3 steps" in found.text()
    page = Path(found.report).read_text("utf-8")
    assert page.count("<svg") == 3
    assert run(rates_of(pictures)).rates == found.rates
    assert len(asked) == 4  # kept from the first time
    assert len(found.commands) == 3
    for command, rate in zip(
        found.commands, [r for r in found.rates.found if r.suggested], strict=True
    ):
        own = parse(TrainConfig, shlex.split(command)[2:], environ=os.environ)
        assert own.train.optimizer == rate.optimizer
        assert own.train.learning_rate == rate.suggested
        assert own.train.augment == config(pictures).train.augment
        assert command in found.text()
        assert f"optimizer={rate.optimizer} learning_rate={rate.suggested:g}" in command
    monkeypatch.setattr("tasks.rates.TRAINING", 0)
    assert run(rates_of(pictures)).rates.folder != found.rates.folder
    assert len(asked) == 8


def test_rates_start_from_the_weights_that_init_names(trained):
    from flax import nnx

    from data_contracts.store import Dataset
    from tasks.lessons import pick_rows
    from tasks.rates import _start
    from tasks.train import recipe_of
    from tasks.train_settings import TrainSettings

    dataset = Dataset(trained.dataset)
    rows = pick_rows(dataset, replay=None, seed=0)
    settings = TrainSettings(init="shop@1")
    home = workspace.home()
    model, _, view = _start(
        dataset, rows, settings, recipe_of(settings, n=len(rows)), home=home
    )
    params, _, meta = load_model(Path(trained.model.uri) / "model")
    own = nnx.as_pure(nnx.state(model, nnx.Param))
    np.testing.assert_array_equal(own["head"]["kernel"], params["head"]["kernel"])
    assert view["mean"] == tuple(meta["mean"])
