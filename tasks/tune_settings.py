"""Settings of a search for better settings."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from data_contracts.config import Settings
from models.recipe import RATES

TRIALS = 12
MOST_TRIALS = 300


class Find(StrEnum):
    """What is looked for."""

    settings = "settings"
    rate = "rate"


class Measure(StrEnum):
    """What trials are compared by."""

    log_loss = "log_loss"
    top1 = "top1"


class TuneSettings(Settings):
    """Settings of the search."""

    find: Find = Field(
        Find.settings,
        description="Settings of training, or the learning rate of each optimiser"
        f" alone ({', '.join(RATES)}).",
    )
    search: dict[str, list[float | str]] = Field(
        {},
        description="By setting of training: choices a,b,c or LOW,HIGH,KIND with KIND"
        " linear, log or times; none: usual ones.",
    )
    trials: int | None = Field(
        None,
        ge=2,
        le=MOST_TRIALS,
        description="Settings to try, the defaults among them; none: as many as"
        f" minutes allow, else {TRIALS}.",
    )
    minutes: float | None = Field(
        None,
        gt=0,
        description="To aim at for all trainings together, not counting preparation;"
        " none has no limit.",
    )
    eta: int = Field(3, ge=2, le=10, description="One in so many goes up a rung.")
    rungs: int = Field(
        3, ge=1, le=6, description="Lengths of training, the last a whole one."
    )
    finalists: int = Field(
        2, ge=1, le=10, description="Trials to hold against the defaults at the end."
    )
    final_seeds: int = Field(
        3, ge=2, le=20, description="Trainings of each finalist and of the defaults."
    )
    measure: Measure = Field(
        Measure.log_loss, description="What trials are compared by, on validation."
    )
    sure: float = Field(
        0.95,
        gt=0.5,
        lt=1,
        description="Level at which a winner must be better, for all finalists"
        " together.",
    )
    search_seed: int = Field(0, ge=0, description="Of what is drawn.")

    @property
    def draws(self) -> int:
        """How many trials to draw; time may allow fewer."""
        return self.trials or (MOST_TRIALS if self.minutes else TRIALS)
