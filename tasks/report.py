"""The training report: what it holds, as one HTML file and as Prefect artifacts."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_contracts.references import CheckResult, Estimate, Verdict
from models.durable import write_over
from tasks.figures import (
    class_counts,
    confused_pairs,
    confusion,
    curves,
    reliability,
)
from tasks.fit_words import share_of
from tasks.gallery import (
    REASONS,
    Flip,
    by_reason,
    data_uri,
)
from tasks.pages import render_page
from tasks.report_content import ClassRow, Provenance, ReportContent, SliceRow
from tasks.summary_labels import MEANING
from tasks.wording import (
    VERDICTS,
    duration,
    estimate,
    finite,
    interval,
    metric_help,
    metric_name,
    number,
    printable,
    unit,
)

MAX_BYTES = 3_000_000
# Longest side and JPEG quality of the pictures, tried in turn until the page fits.
SIZES = ((96, 85), (80, 75), (64, 60), (48, 50))
HISTORY = (
    "epoch",
    "train_loss",
    "val_loss",
    "train_top1",
    "val_top1",
    "val_robust",
    "learning_rate",
    "images_per_second",
    "seconds",
    "data_stall",
)
SHARES = ("train_top1", "val_top1", "val_robust", "data_stall")
_WORST_FIRST = list(VERDICTS)[2:4] + list(VERDICTS)[4:] + list(VERDICTS)[1::-1]


def model_name(content: ReportContent) -> str:
    """Return the model and its version: grocery version 3."""
    version = "" if content.version is None else f" version {content.version}"
    return f"{content.name}{version}"


def headline(content: ReportContent) -> tuple[str, str, str]:
    """Return the tone (pass, warn or fail), the verdict and its reason in words."""
    gate, model = content.gate, model_name(content)
    stays = (
        "No version is in use yet."
        if gate.champion is None
        else f"Version {gate.champion} stays champion."
    )
    failed = _sentences(gate.checks, {Verdict.FAIL, Verdict.ERROR})
    open_ = _sentences(gate.checks, {Verdict.INCONCLUSIVE, Verdict.NOT_RUN})
    if content.promoted:
        blocking = [check.verdict for check in gate.checks if check.blocking]
        n, held = len(blocking), blocking.count(Verdict.PASS)
        held_words = (
            f"{'All ' if n > 1 and held == n else f'{held} of '}{n} "
            f"blocking check{'s' * (n != 1)} held."
        )
        before = (
            "It is the first champion."
            if gate.champion is None
            else f"It takes over from version {gate.champion}."
        )
        return "pass", f"Promoted: {model}", f"{held_words} {before}"
    if gate.verdict in (Verdict.PASS, Verdict.WARN):
        return "warn", f"Passed, not promoted: {model}", stays
    if gate.verdict == Verdict.INCONCLUSIVE:
        return "warn", f"Inconclusive: {model}", f"{open_ or failed} {stays}".strip()
    if gate.verdict == Verdict.NOT_RUN:
        return "warn", f"Gate not run: {model}", f"{open_} {stays}".strip()
    return "fail", f"Rejected: {model}", f"{failed or open_} {stays}".strip()


def _sentences(checks: Sequence[CheckResult], verdicts: set[Verdict]) -> str:
    """Join what the blocking checks with one of `verdicts` say."""
    said = [
        check.detail or f"{metric_name(check.check)}: {check.verdict.value}."
        for check in checks
        if check.blocking and check.verdict in verdicts
    ]
    return " ".join(text if text.endswith(".") else f"{text}." for text in said)


def gate_table(content: ReportContent) -> list[dict[str, Any]]:
    """Return the gate's checks as rows of text, for a Prefect table artifact."""
    rows = []
    for check in content.gate.checks:
        units = unit(check.check)
        rows.append(
            {
                "check": printable(metric_name(check.check)),
                "verdict": VERDICTS[check.verdict][1],
                "blocking": "yes" if check.blocking else "no",
                "value": number(check.value, units),
                "interval": interval(check.low, check.high, units),
                "limit": number(check.limit, units),
                "images": check.n,
                "detail": printable(check.detail),
            }
        )
    return rows


def _markdown(text: str) -> str:
    """Escape what Markdown or HTML would take for markup, on one line."""
    flat = " ".join(str(printable(text)).split())
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", html.escape(flat, quote=False))


def summary_markdown(content: ReportContent) -> str:
    """Return the verdict, the figures and the checks as short Markdown."""
    _, verdict, reason = headline(content)
    lines = [f"# {_markdown(verdict)}", "", _markdown(reason), ""]
    if content.metrics:
        lines += ["| Metric | Value (interval) | Images |", "|---|---|---|"]
        for key, figure in content.metrics.items():
            text = estimate(figure, unit(key))
            lines.append(f"| {_markdown(metric_name(key))} | {text} | {figure.n:,} |")
    lines += ["", "| Check | Verdict | What it says |", "|---|---|---|"]
    for row in gate_table(content):
        cells = [_markdown(row[key]) for key in ("check", "verdict", "detail")]
        lines.append(f"| {' | '.join(cells)} |")
    total = sum(content.stage_seconds.values())
    lines += ["", f"{content.n_images:,} images, {duration(total)}."]
    lines += [f"- {_markdown(note)}" for note in content.notes]
    return "\n".join(lines) + "\n"


def _scale(figures: Sequence[float | None]) -> tuple[float, float]:
    """Return the ends of an axis that holds `figures` with room at both sides."""
    known = [float(value) for value in figures if finite(value) and value is not None]
    if not known:
        return 0.0, 1.0
    room = 0.15 * (max(known) - min(known))
    if not room:  # one point, such as 100 % of 100 %: at the right end
        return known[0] - 1, known[0]
    return min(known) - room, max(known) + room


def _place(value: float | None, low: float = 0.0, high: float = 1.0) -> str:
    """Return where `value` lies between `low` and `high`, as a CSS percentage."""
    if not finite(value) or value is None:
        return "0%"
    return f"{100 * min(1.0, max(0.0, (value - low) / (high - low))):.2f}%"


def _ranked(rows: Sequence[ClassRow]) -> list[ClassRow]:
    """Order classes by recall, the worst first and those never tested last."""

    def key(row: ClassRow) -> tuple[bool, float, str]:
        tested = row.recall is not None and finite(row.recall.value)
        return (not tested, row.recall.value if tested and row.recall else 0, row.name)

    return sorted(rows, key=key)


def _slices(content: ReportContent) -> dict[str, list[SliceRow]]:
    """Group slices by name, the worst value first."""
    groups: dict[str, list[SliceRow]] = {}
    for row in content.slices:
        groups.setdefault(row.slice, []).append(row)
    return {
        name: sorted(
            rows, key=lambda r: r.top1.value if finite(r.top1.value) else np.inf
        )
        for name, rows in groups.items()
    }


def _best(ranked: Sequence[ClassRow]) -> list[ClassRow]:
    """Return the five classes recognised best, the best first."""
    return [row for row in ranked if row.recall and finite(row.recall.value)][:-6:-1]


def _spread(classes: Sequence[ClassRow]) -> str:
    """Say how unequal the classes are."""
    train = sorted(row.train for row in classes)
    if not train:
        return ""
    middle = train[len(train) // 2]
    return (
        f"{len(train):,} classes; training images per class: "
        f"{train[0]:,} at least, {middle:,} in the middle, {train[-1]:,} at most"
    )


def _flips(content: ReportContent) -> list[tuple[str, list[Flip], int]]:
    """Split the flips in (title, pictures, total): fixed, then broken."""
    groups = []
    for key, title, fixed in (("fixed", "Fixed", True), ("broken", "Broken", False)):
        shown = [flip for flip in content.flips if flip.fixed == fixed]
        total = max(len(shown), len(content.gate.flips.get(key, ())))
        groups.append((title, shown, total))
    return groups


def _cell(key: str, value: Any) -> str:
    """Return one figure of the training history in words."""
    if not finite(value):
        return "–"
    if key == "epoch":
        return f"{value:.0f}"
    if key in ("images_per_second", "seconds"):
        return f"{value:,.1f}"
    return (
        f"{value:.2e}"
        if key == "learning_rate"
        else number(value, "%" if key in SHARES else "")
    )


def stalled(history: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the share of the training time that steps waited for their images."""
    told = [line for line in history if "data_stall" in line]
    if not told:
        return None
    seconds = [1 / max(line["images_per_second"], 0.1) for line in told]
    return float(np.average([line["data_stall"] for line in told], weights=seconds))


def withstood(
    history: Sequence[Mapping[str, Any]], best: int | None
) -> Estimate | None:
    """Return the kept epoch's validation top-1 under attack; None without attacks."""
    for line in history:
        if line["epoch"] == best and finite(line.get("val_robust")):
            return share_of(line["val_robust"], line["robust_images"])
    return None


def _settings(provenance: Provenance) -> str:
    """Return the settings as YAML."""
    import yaml

    plain = json.loads(json.dumps(provenance.settings, default=str))
    return (
        str(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)) if plain else ""
    )


def _charts(content: ReportContent) -> dict[str, str]:
    """Draw every chart that there are figures for."""
    best, history = content.best_epoch, content.history
    counts = np.array([(c.train, c.val, c.test) for c in content.classes], np.int64)
    return {
        "loss": curves(history, ("val_loss", "train_loss"), title="Loss", best=best),
        "top1": curves(
            history,
            ("val_top1", "train_top1", "val_robust"),
            title="Top-1",
            best=best,
            percent=True,
        ),
        "rate": curves(history, ("learning_rate",), title="Learning rate", zero=True),
        "speed": curves(
            history, ("images_per_second",), title="Images per second", zero=True
        ),
        "reliability": reliability(content.bins),
        "classes": class_counts(counts),
    }


def _view(content: ReportContent) -> dict[str, Any]:
    """Gather what the template needs beside the content itself."""
    matrix, names = content.confusion, list(content.label_names)
    tone, verdict, reason = headline(content)
    ranked = _ranked(content.classes)
    contracts = sorted(
        content.contracts, key=lambda report: _WORST_FIRST.index(report.verdict)
    )
    return {
        "c": content,
        "tone": tone,
        "verdict": verdict,
        "reason": reason,
        "charts": _charts(content),
        "matrix": None if matrix is None else confusion(matrix, names),
        "pairs": [] if matrix is None else confused_pairs(matrix, names),
        "ranked": ranked,
        "slices": _slices(content),
        "reasons": by_reason(content.cleaned, content.reason_counts),
        "quarantined": Counter(q.reason for q in content.quarantine)
        | Counter(content.quarantine_counts),
        "contracts": contracts,
        "best": _best(ranked),
        "spread": _spread(content.classes),
        "flips": _flips(content),
        "stalled": stalled(content.history),
        "withstood": withstood(content.history, content.best_epoch),
        "history_keys": [k for k in HISTORY if any(k in e for e in content.history)],
        "settings": _settings(content.provenance),
        "total_seconds": sum(content.stage_seconds.values()),
    }


# What its template asks of them.
HELPERS = {
    "unit": unit,
    "metric_help": metric_help,
    "place": _place,
    "scale": _scale,
    "finite": finite,
    "cell": _cell,
    "VERDICTS": VERDICTS,
    "REASONS": REASONS,
    "MEANING": MEANING,
}
FILTERS = {
    "estimate": estimate,
    "metric_name": metric_name,
    "file_name": lambda path: str(path).rsplit("/", 1)[-1],
}


def render_report(content: ReportContent) -> str:
    """Return the report as one HTML page that loads nothing else.

    Pictures shrink, then lose quality, until the page is under `MAX_BYTES`.
    """
    view = HELPERS | _view(content)
    page = ""
    for side, quality in SIZES:

        def uri(image: Any, side: int = side, quality: int = quality) -> str:
            return data_uri(image, side=side, quality=quality)

        page = render_page("report.html", filters=FILTERS, **view, uri=uri)
        if len(page) <= MAX_BYTES:
            break
    return page


def write_report(content: ReportContent, path: Path) -> Path:
    """Write the report to `path` in one step: readers see the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_over(path, render_report(content))
    return path
