"""Tune: settings of training, tried on a budget and judged on validation alone."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from data_contracts.errors import SightlineError
from data_contracts.references import DatasetRef, Reference
from flows import workspace
from flows.arguments import words
from flows.as_flow import as_flow, run_flow
from flows.result import Clock
from flows.stages import (
    TrainSettings,
    audit_limits,
    last,
    validate_dataset,
)
from flows.train import TrainConfig, images_of, size_problem
from models.durable import write_over
from models.recipe import LEAST_BATCH, STEPS
from tasks.ensemble_settings import EnsembleSettings
from tasks.label_review import read_reviews
from tasks.rates import RateFound, RatesFound, find_rates
from tasks.search_draws import changed
from tasks.step_settings import Optimizer, Probe, Schedule, growth_problem
from tasks.train import train_model
from tasks.transfer import check_start
from tasks.tune import (
    Search,
    failed_trial,
    following,
    judge_trial,
    open_search,
    trials_of,
)
from tasks.tune_outcome import Outcome, settle
from tasks.tune_report import (
    RATE_WORDS,
    rates_table,
    report_rates,
    report_search,
    table_of,
    verdict_of,
)
from tasks.tune_settings import Find, TuneSettings

# Training images where their number is not known yet: the most that still train in the
# smallest default batch, which leaves the least room for halves and parts of it.
NOMINAL = 2 * LEAST_BATCH * STEPS - 1
# Optimisers that schedule_free goes with.
AVERAGED = (Optimizer.adamw, Optimizer.sgd)


class TuneConfig(TrainConfig):
    """Settings of `sightline tune`: those of `train`, and of the search."""

    tune: TuneSettings = Field(TuneSettings(), description="How to search.")

    @model_validator(mode="after")
    def _can_be_searched(self) -> TuneConfig:
        if self.materialise.views:
            raise ValueError(
                "materialise.views stores the views of one recipe, and a search changes"
                " recipes. Leave materialise.views out"
            )
        if self.train.probe == Probe.only:
            raise ValueError(
                "probe=only trains in no epochs, which is all that a search changes."
                " Set probe=first or none"
            )
        if self.train.ensemble != EnsembleSettings():
            raise ValueError(
                "a search compares single networks that learn from labels alone; came"
                f" combine={self.train.ensemble.combine}"
                f" teacher={self.train.ensemble.teacher}. Leave train.ensemble out, and"
                " give it to `train` beside the settings that are found"
            )
        if self.tune.find == Find.rate:
            self._check_rate()
            return self
        if self.train.max_minutes is not None:
            raise ValueError(
                "a search compares whole trainings; came train.max_minutes="
                f"{self.train.max_minutes:g}, which would cut each by the clock. Bound"
                " the search by tune.minutes=…"
            )
        for settings in self.drawn():
            size = self.decode.image_size
            if said := size_problem(settings, size) or growth_problem(settings, size):
                raise ValueError(said)
        return self

    def _check_rate(self) -> None:
        """Raise ValueError where find=rate comes with what it would pass over."""
        own = words(self.tune.model_copy(update={"find": Find.settings}))
        if own:
            raise ValueError(
                "find=rate tries no settings; came "
                + " ".join(own)
                + ". Leave out what"
                " bounds a search, or leave out find=rate"
            )
        if self.train.probe != Probe.none:
            raise ValueError(
                f"find=rate starts from no fitted head; came probe={self.train.probe}."
                " Leave probe out, and give it to `train` beside the rate"
            )

    @property
    def training(self) -> TrainConfig:
        """The settings of `train` among them."""
        return TrainConfig(**{k: getattr(self, k) for k in TrainConfig.model_fields})

    def drawn(self) -> list[TrainSettings]:
        """Return the settings of the trials, as far as they are known before a run.

        Raises:
            ValueError: The space names what is no setting, or what cannot be.
        """
        try:
            found = trials_of(self.train, self.tune, n=NOMINAL)
            return [changed(self.train, changes, n=NOMINAL) for changes in found]
        except (SightlineError, ValidationError) as error:
            raise ValueError(str(error)) from None


class Tuned(Reference):
    """What a search came to, and where its page and settings lie."""

    outcome: Outcome | None = None
    rates: RatesFound | None = None
    dataset: DatasetRef
    seconds: dict[str, float] = Field(description="Wall time by stage.")
    best: str = Field("", description="Path of the settings to train with.")
    report: str = Field(description="Path of the HTML page.")
    commands: list[str] = Field(description="How to use what was found.")
    exit_code: int = 0

    def text(self) -> str:
        """Return the result for a person."""
        lines = []
        if self.outcome is not None:
            lines = [verdict_of(self.outcome), "", table_of(self.outcome), ""]
            lines += [self.outcome.short, ""] if self.outcome.short else []
        if self.rates is not None:
            lines = [RATE_WORDS, "", rates_table(self.rates.found), ""]
        lines += [f"  {'seconds':<9} {sum(self.seconds.values()):.0f}"]
        lines += [f"  {'settings':<9} {self.best}"] if self.best else []
        lines += [f"  {'use it':<9} {command}" for command in self.commands]
        lines += [f"  {'report':<9} {self.report}"]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return self.model_dump(mode="json")


def run_stages(config: TuneConfig) -> Tuned:
    """Prepare images as `train` does, try settings of training, name the best."""
    workspace.prepare()
    read_reviews(config.audit.review)
    rate = config.tune.find == Find.rate
    tried = [config.train] if rate else config.drawn()
    for init, preset, design in {(s.init, s.preset, s.network.design) for s in tried}:
        size, home = config.decode.image_size, workspace.home()
        check_start(init, preset, image_size=size, home=home, design=design)
    clock = Clock()
    source = source_of(config, clock=clock)
    runs = str(workspace.runs_root())
    if rate:
        with clock.stage("rates"):
            found = find_rates(source, config.train, name=config.name, runs=runs)
        commands = [command_of(config, rate) for rate in found.found if rate.suggested]
        return Tuned(
            rates=found,
            dataset=source,
            seconds=clock.seconds,
            report=report_rates(source, found, commands=commands),
            commands=commands,
        )
    with clock.stage("search"):
        search = search_on(source, config, runs=runs)
        outcome = settle(search)
    best = Path(search.folder) / "best.yaml"
    write_over(best, best_settings(config, search, outcome))
    given = [f"config={best}", f"data={config.data}", f"name={config.name}"]
    commands = [f"sightline train {shlex.join(given)}"]
    with clock.stage("report"):
        report = report_search(search, outcome, commands=commands)
    return Tuned(
        outcome=outcome,
        dataset=source,
        seconds=clock.seconds,
        best=str(best),
        report=report,
        commands=commands,
    )


def source_of(config: TuneConfig, *, clock: Clock) -> DatasetRef:
    """Return the snapshot that `train` would learn from."""
    datasets, _ = images_of(config, clock=clock)
    if "audit" in datasets:
        with clock.stage("validate"):
            limits = audit_limits(datasets["audit"], config.audit)
            validate_dataset(datasets["audit"], "audited", parameters=limits)
    return last(datasets)


def search_on(source: DatasetRef, config: TuneConfig, *, runs: str) -> Search:
    """Train trial after trial until the budget is spent; go on where one stopped."""
    search = open_search(source, config.train, config.tune, name=config.name, runs=runs)
    while (step := following(search)) is not None:
        settings = search.settings_of(step)
        start = time.perf_counter()
        try:
            trained = train_model(source, settings, name=config.name, runs=runs)
        except SightlineError as error:
            seconds = time.perf_counter() - start
            if failed_trial(search, step, error, seconds=seconds) is None:
                raise
            continue
        judge_trial(search, step, trained)
    return search


def best_settings(config: TuneConfig, search: Search, outcome: Outcome) -> str:
    """Return what `sightline train config=FILE` takes: settings given and found."""
    found = changed(config.train, outcome.trials[outcome.winner], n=search.n)
    lines = [f"# {verdict_of(outcome)}"]
    for word in words(config.training.model_copy(update={"train": found})):
        key, _, text = word.partition("=")
        if key not in ("data", "name"):
            lines.append(yaml.safe_dump({key: text}, allow_unicode=True).strip())
    return "\n".join(lines) + "\n"


def command_of(config: TuneConfig, rate: RateFound) -> str:
    """Return the command line that trains on the same images at a rate."""
    own = config.training
    usual = TrainSettings.model_fields
    names = ["optimizer", "learning_rate", "weight_decay"]
    if own.train.schedule == Schedule.schedule_free and rate.optimizer not in AVERAGED:
        names.append("schedule")
    plain = own.train.model_copy(update={name: usual[name].default for name in names})
    given = words(own.model_copy(update={"train": plain}))
    found = [f"optimizer={rate.optimizer}", f"learning_rate={rate.suggested:g}"]
    return f"sightline train {shlex.join([*given, *found])}"


tune = as_flow(run_stages, name="tune")


def run(config: TuneConfig) -> Tuned:
    """Search as a Prefect flow if a server is named, else in plain Python."""
    return run_flow(tune, run_stages, config)
