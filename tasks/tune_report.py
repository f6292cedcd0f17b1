"""The page of a search: every trial's curve, the table, and the verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_contracts.references import DatasetRef
from models.durable import write_over
from tasks.figures import lines
from tasks.pages import render_page
from tasks.rates import RateFound, RatesFound
from tasks.search_space import words_of
from tasks.stage import stage_task
from tasks.tune import Search, Tried
from tasks.tune_outcome import Finalist, Outcome
from tasks.tune_settings import Measure
from tasks.wording import interval, number


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trial: what it changes, and the longest of its trainings."""

    trial: int
    changes: str
    epochs: int
    epochs_run: int
    top1: float | None
    log_loss: float | None
    seconds: float
    failed: str
    mark: str

    @property
    def length(self) -> str:
        """Its epochs; patience, or a failure, may end a training early."""
        early = 0 < self.epochs_run < self.epochs
        return f"{self.epochs_run} of {self.epochs}" if early else str(self.epochs)


def rows_of(outcome: Outcome) -> list[Row]:
    """Return one row a trial, those that went furthest and did best first."""
    finalists = {final.trial for final in outcome.finals}
    found = []
    for trial, changes in enumerate(outcome.trials):
        own = [t for t in outcome.tried if t.trial == trial and not t.seed]
        if not own:
            continue
        longest = max(own, key=lambda line: line.epochs)
        marks = {0: "defaults", outcome.winner: "winner"} if trial else {0: "defaults"}
        mark = marks.get(trial, "finalist" if trial in finalists else "")
        found.append(
            Row(
                trial=trial,
                changes=words_of(changes),
                epochs=longest.epochs,
                epochs_run=longest.epochs_run,
                top1=longest.top1,
                log_loss=longest.log_loss,
                seconds=sum(t.seconds for t in outcome.tried if t.trial == trial),
                failed=outcome.failures.get(trial, ""),
                mark=mark,
            )
        )
    by_loss = outcome.measure == Measure.log_loss

    def place(row: Row) -> tuple[bool, int, float]:
        score = row.log_loss if by_loss else row.top1
        lower = (score or 0) if by_loss else -(score or 0)
        return bool(row.failed), -row.epochs, lower

    return sorted(found, key=place)


def verdict_of(outcome: Outcome) -> str:
    """Say who won, or why the defaults stand."""
    by_loss = outcome.measure == Measure.log_loss
    units = "" if by_loss else "points"
    if not outcome.finals:
        return "The defaults stand: no trial came through."
    best = max(outcome.finals, key=lambda final: final.gain)
    if outcome.winner:
        best = next(f for f in outcome.finals if f.trial == outcome.winner)
    what = "log loss" if by_loss else "top-1"
    said = (
        f"{number(abs(best.gain), units)} {'better' if best.gain >= 0 else 'worse'} in"
        f" {what} {interval(best.low, best.high, units)}, gain in top-1"
        f" {number(best.top1 - best.default_top1, 'points', signed=True)}"
    )
    n = len(outcome.finals)
    against = f"{n} finalist{'s' * (n > 1)}, {outcome.plan['seeds']} seeds each, on"
    against += f" {outcome.images} validation images that ranked no trial,"
    against += f" {100 * outcome.sure:g} %{' for all finalists together' * (n > 1)}"
    if outcome.winner:
        return f"Trial {best.trial} is better than the defaults: {said} ({against})."
    return (
        f"The defaults stand, since {_why_not(best)}: trial {best.trial}, the best of"
        f" the finalists, is {said} ({against})."
    )


def _why_not(best: Finalist) -> str:
    """Return why a finalist does not win."""
    if best.low <= 0 <= best.high:
        return "the interval holds 0"
    return "it is worse" if best.high < 0 else "its top-1 is lower"


def table_of(outcome: Outcome) -> str:
    """Return the trials as aligned text."""
    cells = [["trial", "epochs", "top-1", "log loss", "seconds", "what differs"]]
    for row in rows_of(outcome):
        figures = (
            ["failed", ""]
            if row.failed
            else [number(row.top1), number(row.log_loss, "")]
        )
        mark = f"{row.trial}{'*' if row.mark == 'winner' else ''}"
        seconds = f"{row.seconds:.0f}"
        cells.append([mark, row.length, *figures, seconds, row.changes])
    widths = [max(len(line[i]) for line in cells) for i in range(5)]
    return "\n".join(
        "  "
        + "  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=False))
        + f"  {line[-1]}"
        for line in cells
    )


def _curves(outcome: Outcome, folder: Path) -> tuple[str, list[str]]:
    """Draw validation top-1 by epoch of every training that searched."""
    best = [f.trial for f in sorted(outcome.finals, key=lambda f: -f.gain)]
    if outcome.winner in best:
        best = [outcome.winner, *(t for t in best if t != outcome.winner)]
    drawn_of = {
        (line.trial, line.epochs): _history(folder, line)
        for line in outcome.tried
        if not line.seed and not line.failed
    }
    series = {_named(*of): history for of, history in drawn_of.items()}
    whole = outcome.plan["rungs"][-1]
    leading = [(trial, whole) for trial in (0, *best[:2])]
    strong = [_named(*of) for of in leading if of in drawn_of]
    drawn = lines(
        series,
        strong=strong,
        title="Validation top-1",
        across="Epoch",
        percent=True,
        wide=True,
    )
    return drawn, strong


def _named(trial: int, epochs: int) -> str:
    return f"trial {trial}, {epochs} epochs"


def _history(folder: Path, line: Tried) -> list[tuple[float, float]]:
    text = (folder.parent / line.run / "metrics.jsonl").read_text()
    found = [json.loads(epoch) for epoch in text.splitlines()]
    return [(epoch["epoch"], epoch["val_top1"]) for epoch in found]


@stage_task()
def report_search(search: Search, outcome: Outcome, *, commands: list[str]) -> str:
    """Write the page of a search beside its journal and return its path."""
    folder = Path(search.folder)
    curves, strong = _curves(outcome, folder)
    page = render_page(
        "tune.html",
        title="Settings of training, tried on a budget",
        verdict=verdict_of(outcome),
        won=bool(outcome.winner),
        rows=rows_of(outcome),
        curves=curves,
        strong=strong,
        outcome=outcome,
        by_loss=outcome.measure == Measure.log_loss,
        total=sum(line.seconds for line in outcome.tried),
        commands=commands,
        rates=[],
    )
    write_over(folder / "report.html", page)
    return str(folder / "report.html")


@stage_task()
def report_rates(source: DatasetRef, found: RatesFound, *, commands: list[str]) -> str:
    """Write the page of the learning rates and return its path."""
    drawn = [
        (
            rate,
            lines(
                {rate.optimizer: list(zip(rate.rates, rate.losses, strict=True))},
                strong=[rate.optimizer],
                title=f"Loss of {rate.optimizer} under a rising rate",
                across="Learning rate",
                log=True,
            ),
        )
        for rate in found.found
    ]
    folder = Path(found.folder)
    page = render_page(
        "tune.html",
        title="A learning rate for each optimiser",
        verdict=RATE_WORDS,
        won=False,
        rows=[],
        curves="",
        strong=[],
        outcome=None,
        by_loss=True,
        total=0.0,
        commands=commands,
        rates=drawn,
    )
    write_over(folder / "report.html", page)
    return str(folder / "report.html")


RATE_WORDS = (
    "Each optimiser trained once at rising rates. Suggested is a third of the rate of"
    " least loss. It is one draw, and a rough one: a default near it stands."
)


def rates_table(found: Sequence[RateFound]) -> str:
    """Return the rates as aligned text."""
    rows = [f"  {'optimiser':<10} {'default':>9} {'suggested':>10} {'steepest':>9}"]
    for rate in found:
        if rate.failed:
            rows.append(f"  {rate.optimizer:<10} {rate.default:>9g}  {rate.failed}")
            continue
        rows.append(
            f"  {rate.optimizer:<10} {rate.default:>9g} {rate.suggested:>10g}"
            f" {rate.steepest:>9g}  {rate.doubt}".rstrip()
        )
    return "\n".join(rows)
