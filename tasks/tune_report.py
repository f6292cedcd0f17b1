"""The page of a search: every trial's curve, the table, and the verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_contracts.references import DatasetRef
from models.durable import write_over
from tasks.figures import lines
from tasks.rates import RatesFound
from tasks.search_space import words_of
from tasks.stage import stage_task
from tasks.tune import Search, Tried
from tasks.tune_outcome import Outcome
from tasks.tune_settings import Measure
from tasks.wording import count, duration, interval, number, printable


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trial: what it changes, and the longest of its trainings."""

    trial: int
    changes: str
    epochs: int
    top1: float | None
    log_loss: float | None
    seconds: float
    failed: str
    mark: str


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
    against += f" {outcome.images} validation images that ranked no trial"
    if outcome.winner:
        return f"Trial {best.trial} is better than the defaults: {said} ({against})."
    return (
        f"The defaults stand: trial {best.trial}, the best of the finalists, is {said}"
        f" ({against})."
    )


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
        cells.append([mark, str(row.epochs), *figures, seconds, row.changes])
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
    strong: list[str] = []
    series = {}
    for line in (t for t in outcome.tried if not t.seed and not t.failed):
        name = f"trial {line.trial}, {line.epochs} epochs"
        series[name] = _history(folder, line)
        if line.epochs == outcome.plan["rungs"][-1] and line.trial in [0, *best[:2]]:
            strong.append(name)
    order = {trial: place for place, trial in enumerate([0, *best])}
    strong.sort(key=lambda name: order[int(name.split(",")[0].split()[1])])
    drawn = lines(
        series, strong=strong, title="Validation top-1", across="Epoch", percent=True
    )
    return drawn, strong


def _history(folder: Path, line: Tried) -> list[tuple[float, float]]:
    text = (folder.parent / line.run / "metrics.jsonl").read_text()
    found = [json.loads(epoch) for epoch in text.splitlines()]
    return [(epoch["epoch"], epoch["val_top1"]) for epoch in found]


@stage_task()
def report_search(search: Search, outcome: Outcome, *, command: str) -> str:
    """Write the page of a search beside its journal and return its path."""
    folder = Path(search.folder)
    curves, strong = _curves(outcome, folder)
    page = _render(
        title="Settings of training, tried on a budget",
        verdict=verdict_of(outcome),
        won=bool(outcome.winner),
        rows=rows_of(outcome),
        curves=curves,
        strong=strong,
        outcome=outcome,
        by_loss=outcome.measure == Measure.log_loss,
        total=sum(line.seconds for line in outcome.tried),
        command=command,
        rates=[],
    )
    write_over(folder / "report.html", page)
    return str(folder / "report.html")


@stage_task()
def report_rates(source: DatasetRef, found: RatesFound, *, command: str) -> str:
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
    page = _render(
        title="A learning rate for each optimiser",
        verdict=RATE_WORDS,
        won=False,
        rows=[],
        curves="",
        strong=[],
        outcome=None,
        by_loss=True,
        total=0.0,
        command=command,
        rates=drawn,
    )
    write_over(folder / "report.html", page)
    return str(folder / "report.html")


RATE_WORDS = (
    "Each optimiser trained once at rising rates. Suggested is a third of the rate of"
    " least loss; it is one draw, good to a factor of two or three, so a default that"
    " close to it stands."
)


def _render(**view: Any) -> str:
    """Return the page as one HTML file that loads nothing else."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "count": count, "duration": duration}
    environment.globals |= {"interval": interval}
    text: str = environment.get_template("tune.html").render(**view)
    return text


def rates_table(found: Sequence[Any]) -> str:
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
