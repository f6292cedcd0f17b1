"""The training report: what it holds, as one HTML file and as Prefect artifacts."""

from __future__ import annotations

import html
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_contracts.references import (
    CheckResult,
    ContractReport,
    Estimate,
    GateReport,
    Verdict,
)
from tasks.figures import (
    Bin,
    class_counts,
    confused_pairs,
    confusion,
    curves,
    finite,
    reliability,
)
from tasks.gallery import (
    REASONS,
    Augmented,
    Cleaned,
    Denoised,
    Flip,
    Mistake,
    Quarantined,
    by_reason,
    data_uri,
)

MAX_BYTES = 3_000_000
# Longest side and JPEG quality of the pictures, tried in turn until the page fits.
SIZES = ((96, 85), (80, 75), (64, 60), (48, 50))
METRICS = {
    "top1": ("Top-1", "the best guess is right"),
    "top5": ("Top-5", "the right class is among five guesses"),
    "macroprecision": ("Macro precision", "precision, every class counting the same"),
    "macrorecall": ("Macro recall", "recall, every class counting the same"),
    "macrof1": ("Macro F1", "precision and recall, every class counting the same"),
    "balancedaccuracy": ("Balanced accuracy", "recall, every class counting the same"),
    "ece": ("ECE", "how far confidence is from accuracy; lower is better"),
    "brier": ("Brier score", "squared error of the probabilities; lower is better"),
    "nll": ("NLL", "surprise at the right class, in nats; lower is better"),
}
VERDICTS = {
    Verdict.PASS: ("✓", "pass"),
    Verdict.WARN: ("!", "warning"),
    Verdict.FAIL: ("✕", "fail"),
    Verdict.ERROR: ("✕", "error"),
    Verdict.INCONCLUSIVE: ("~", "inconclusive"),
    Verdict.NOT_RUN: ("–", "not run"),
}
_WORST_FIRST = list(VERDICTS)[2:4] + list(VERDICTS)[4:] + list(VERDICTS)[1::-1]
# Control characters, lone surrogates (names that are not UTF-8) and marks that
# turn the direction of the text after them.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]"
)


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """One class: images in each split, and how well it is recognised on test."""

    name: str
    train: int = 0
    val: int = 0
    test: int = 0
    precision: float | None = None
    recall: Estimate | None = None
    f1: float | None = None


@dataclass(frozen=True, kw_only=True)
class SliceRow:
    """Top-1 on the test images that share one value, such as domain = studio."""

    slice: str
    value: str
    top1: Estimate


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where the images, the code and the numbers come from."""

    source: str = ""
    dataset_uri: str = ""
    snapshot: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)
    code_version: str = ""
    commit: str = ""
    seed: int | None = None
    device: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ReportContent:
    """Everything a report shows; what is left out is left out of the page.

    Attributes:
        metrics: figures on test by name (top1, top5, macro_f1, ece, brier, ...).
        champion_metrics: the same figures of the champion on the same images.
        differences: candidate minus champion, from the paired intervals.
        history: one mapping per epoch: epoch, train_loss, train_top1, val_loss,
            val_top1, learning_rate, images_per_second, seconds.
        confusion: (k, k) counts, rows being the given label.
        splits: images per split after splitting.
        missing: what was absent from the source, and what was done about it.
        reason_counts: images left out by cleaning, by reason.
        quarantine_counts: files that could not be read, by reason.
        commands: title and command line, in the order shown.
    """

    name: str
    gate: GateReport
    version: int | None = None
    title: str = "Training report"
    run_id: str = ""
    date: str = ""
    promoted: bool = False
    metrics: Mapping[str, Estimate] = field(default_factory=dict)
    champion_metrics: Mapping[str, Estimate] = field(default_factory=dict)
    differences: Mapping[str, Estimate] = field(default_factory=dict)
    notes: Sequence[str] = ()
    history: Sequence[Mapping[str, Any]] = ()
    best_epoch: int | None = None
    label_names: Sequence[str] = ()
    confusion: NDArray[np.int64] | None = None
    classes: Sequence[ClassRow] = ()
    slices: Sequence[SliceRow] = ()
    bins: Sequence[Bin] = ()
    mistakes: Sequence[Mistake] = ()
    flips: Sequence[Flip] = ()
    n_images: int = 0
    splits: Mapping[str, int] = field(default_factory=dict)
    missing: Sequence[str] = ()
    augmented: Sequence[Augmented] = ()
    cleaned: Sequence[Cleaned] = ()
    reason_counts: Mapping[str, int] = field(default_factory=dict)
    denoised: Sequence[Denoised] = ()
    noise_counts: Mapping[str, int] = field(default_factory=dict)
    quarantine: Sequence[Quarantined] = ()
    quarantine_counts: Mapping[str, int] = field(default_factory=dict)
    contracts: Sequence[ContractReport] = ()
    provenance: Provenance = field(default_factory=Provenance)
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    commands: Mapping[str, str] = field(default_factory=dict)


def printable(value: Any) -> Any:
    """Return `value`, with what cannot or must not be written shown as �."""
    return _UNPRINTABLE.sub("�", value) if type(value) is str else value


def metric_name(key: str) -> str:
    """Return the name of a metric as people write it: macro_f1 is Macro F1."""
    plain = re.sub(r"[\W_]", "", key).lower()
    return METRICS[plain][0] if plain in METRICS else key.replace("_", " ").capitalize()


def metric_help(key: str) -> str:
    """Return what a metric means, or nothing for one we do not know."""
    return METRICS.get(re.sub(r"[\W_]", "", key).lower(), ("", ""))[1]


def is_share(key: str) -> bool:
    """Tell whether a metric or check is written in per cent."""
    return not re.search(r"ece|brier|nll|loss|calibration", key.lower())


def number(value: float | None, *, percent: bool = False, signed: bool = False) -> str:
    """Return `value` in words: 58.5 %, 0.083, or a dash when there is none."""
    if not finite(value) or value is None:
        return "–"
    sign = "+" if signed else ""
    text = f"{100 * value:{sign}.1f} %" if percent else f"{value:{sign}.3f}"
    return text.replace("-", "−")


def interval(low: float | None, high: float | None, *, percent: bool = False) -> str:
    """Return an interval in words: (56.6 to 60.4), or nothing when there is none."""
    if not (finite(low) and finite(high)):
        return ""
    ends = [number(end, percent=percent).removesuffix(" %") for end in (low, high)]
    return f"({ends[0]} to {ends[1]})"


def estimate(figure: Estimate | None, *, percent: bool = True) -> str:
    """Return a figure and its interval: 58.5 % (56.6 to 60.4)."""
    if figure is None:
        return "–"
    ends = interval(figure.low, figure.high, percent=percent)
    return f"{number(figure.value, percent=percent)} {ends}".strip()


def duration(seconds: float) -> str:
    """Return a time in words: 4.2 s, 3 min 12 s, 1 h 4 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def count(value: int) -> str:
    """Return a whole number with thousands marked: 2,485."""
    return f"{value:,}"


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
        n = sum(check.blocking for check in gate.checks)
        held = f"All {n} blocking checks held." if n > 1 else "The gate held."
        before = (
            "It is the first champion."
            if gate.champion is None
            else f"It takes over from version {gate.champion}."
        )
        return "pass", f"Promoted: {model}", f"{held} {before}"
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
        percent = is_share(check.check)
        rows.append(
            {
                "check": printable(metric_name(check.check)),
                "verdict": VERDICTS[check.verdict][1],
                "blocking": "yes" if check.blocking else "no",
                "value": number(check.value, percent=percent),
                "interval": interval(check.low, check.high, percent=percent),
                "limit": number(check.limit, percent=percent),
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
            text = estimate(figure, percent=is_share(key))
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
    room = 0.15 * (max(known) - min(known)) or 0.05
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
            history, ("val_top1", "train_top1"), title="Top-1", best=best, percent=True
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
        "ranked": _ranked(content.classes),
        "slices": _slices(content),
        "reasons": by_reason(content.cleaned, content.reason_counts),
        "quarantined": Counter(q.reason for q in content.quarantine)
        | Counter(content.quarantine_counts),
        "contracts": contracts,
        "rank": {verdict: i for i, verdict in enumerate(_WORST_FIRST)},
        "settings": _settings(content.provenance),
        "total_seconds": sum(content.stage_seconds.values()),
    }


def _environment() -> Any:
    """Return the template environment, which escapes everything it is given."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "estimate": estimate,
        "duration": duration,
        "count": count,
        "metric_name": metric_name,
    }
    environment.globals |= {
        "interval": interval,
        "is_share": is_share,
        "metric_help": metric_help,
        "place": _place,
        "scale": _scale,
        "finite": finite,
        "VERDICTS": VERDICTS,
        "REASONS": REASONS,
    }
    return environment


def render_report(content: ReportContent) -> str:
    """Return the report as one HTML page that loads nothing else.

    Pictures shrink, then lose quality, until the page is under `MAX_BYTES`.
    """
    template = _environment().get_template("report.html")
    view = _view(content)
    page = ""
    for side, quality in SIZES:

        def uri(image: Any, side: int = side, quality: int = quality) -> str:
            return data_uri(image, side=side, quality=quality)

        page = template.render(**view, uri=uri)
        if len(page) <= MAX_BYTES:
            break
    return page


def write_report(content: ReportContent, path: Path) -> Path:
    """Write the report to `path` in one step: readers see the old or the new one."""
    page = render_report(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, suffix=".part", delete=False
    ) as file:
        try:
            file.write(page)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    return path
