"""Charts of a report: SVG from matplotlib, and what the page itself draws."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.wording import finite

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# matplotlib writes these colours and the page reads them as CSS variables, so that a
# chart follows the light or dark theme.
INK, MUTED, LINE = "#010203", "#010204", "#010205"
FIRST, SECOND, THIRD = "#010206", "#010207", "#010208"
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    FIRST: "--first",
    SECOND: "--second",
    THIRD: "--third",
}
# Any: the keys are a closed set of literals to the type checker.
_RC: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}
MATRIX_LIMIT = 25
MATRIX_KEPT = 16


@dataclass(frozen=True, kw_only=True)
class Bin:
    """One bin of a reliability diagram: confidences in [low, high)."""

    low: float
    high: float
    confidence: float
    accuracy: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Pair:
    """How often one class was taken for another."""

    label: str
    predicted: str
    n: int
    share: float


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """The part of a confusion matrix worth drawing."""

    names: list[str]
    counts: list[list[int]]
    shares: list[list[float]]
    n_classes: int


def _text(figure: Figure, salt: str) -> str:
    """Return the SVG of `figure` without prolog, sizes or addresses."""
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({**_RC, "svg.hashsalt": salt}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s(?:xmlns(?::\w+)?|width|height|version)="[^"]*"', "", svg, count=5)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    ids = re.sub(r"\W", "-", salt)
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{ids}-", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{salt}"', 1)


def _axes(*, width: float = 5.4, height: float = 2.9) -> tuple[Figure, Axes]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.add_subplot()


def curves(
    history: Sequence[Mapping[str, Any]],
    keys: Sequence[str],
    *,
    title: str,
    best: int | None = None,
    percent: bool = False,
    zero: bool = False,
) -> str:
    """Draw the columns `keys` of `history` against the epoch, as SVG.

    Args:
        history: one mapping per epoch; values that are missing are left out.
        keys: the first is drawn in the first colour, and so on.
        title: what the chart shows, for readers that cannot see it.
        best: epoch to mark.
        percent: write the axis in per cent of one.
        zero: start the axis at zero.

    Returns:
        An `<svg>` element, or the empty string when there is nothing to draw.
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    lines = [
        [(row["epoch"], row[key]) for row in history if finite(row.get(key))]
        for key in keys
    ]
    if not any(lines):
        return ""
    figure, axes = _axes()
    for points, colour in zip(lines, (FIRST, SECOND, THIRD), strict=False):
        few = "o" if len(points) < 8 else ""
        x, y = [epoch for epoch, _ in points], [value for _, value in points]
        axes.plot(x, y, color=colour, marker=few, markersize=4)
    epochs = [epoch for points in lines for epoch, _ in points]
    axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    axes.set_xlabel("Epoch")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    else:
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.5g}")
    if zero:
        axes.set_ylim(bottom=0)
    if best is not None and min(epochs) <= best <= max(epochs):
        _mark(axes, best, middle=(min(epochs) + max(epochs)) / 2)
    return _text(figure, title)


FEW = 10  # places along x that each get a tick


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    strong: Sequence[str],
    title: str,
    across: str,
    percent: bool = False,
    log: bool = False,
    wide: bool = False,
) -> str:
    """Draw many lines, the strong ones in colours and the others muted, as SVG.

    Args:
        series: points (x, y) by name.
        strong: names to draw in the colours, in their order.
        title: what the chart shows, for readers that cannot see it.
        across: what x is.
        percent: write the upright axis in per cent of one.
        log: x rises by factors.
        wide: for the whole width of a page, not half of it.

    Returns:
        An `<svg>` element, or the empty string when there is nothing to draw.
    """
    from matplotlib.ticker import (
        LogLocator,
        MaxNLocator,
        NullLocator,
        PercentFormatter,
    )

    if not any(series.values()):
        return ""
    figure, axes = _axes(width=7.2, height=3.6) if wide else _axes()
    colours = dict(zip(strong, (FIRST, SECOND, THIRD), strict=False))
    for name, points in series.items():
        colour, own = colours.get(name, MUTED), name in colours
        x, y = zip(*points, strict=True) if points else ((), ())
        few = "o" if len(points) < 8 else ""
        axes.plot(
            x,
            y,
            color=colour,
            linewidth=2 if own else 1,
            alpha=1 if own else 0.4,
            marker=few,
            markersize=3,
            zorder=3 if own else 2,
        )
    axes.set_xlabel(across)
    places = sorted({x for points in series.values() for x, _ in points})
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=8))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    if len(places) <= FEW:
        axes.set_xticks(places)
    if log or len(places) <= FEW:
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    return _text(figure, title)


def _mark(axes: Axes, epoch: int, *, middle: float) -> None:
    """Mark the kept epoch by a dashed line with its number."""
    axes.axvline(epoch, color=MUTED, linewidth=1, linestyle=(0, (3, 3)), zorder=1)
    left = epoch > middle
    axes.annotate(
        f"kept: epoch {epoch}",
        (epoch, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-5 if left else 5, -2),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top",
        color=MUTED,
        fontsize=9,
    )


def reliability(bins: Sequence[Bin]) -> str:
    """Draw accuracy against confidence, with the share of images below, as SVG."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    drawn = [b for b in bins if b.n > 0 and finite(b.confidence) and finite(b.accuracy)]
    if not drawn:
        return ""
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(5.4, 4.9), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3.4, 1])
    total = sum(b.n for b in drawn)
    upper.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
    confidence, accuracy = [b.confidence for b in drawn], [b.accuracy for b in drawn]
    upper.vlines(confidence, confidence, accuracy, color=SECOND, linewidth=2.2)
    upper.plot(confidence, accuracy, color=FIRST, marker="o", ms=5)
    lower.bar(
        [(b.low + b.high) / 2 for b in drawn],
        [b.n / total for b in drawn],
        width=[(b.high - b.low) * 0.88 for b in drawn],
        color=FIRST,
        alpha=0.45,
    )
    form = PercentFormatter(1.0, decimals=0, symbol=" %")
    upper.yaxis.set_major_formatter(form)
    lower.xaxis.set_major_formatter(form)
    lower.yaxis.set_major_formatter(form)
    upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="Right")
    lower.set(xlabel="Confidence of the best guess", ylabel="Images")
    return _text(figure, "Reliability diagram")


def class_counts(counts: NDArray[np.int64]) -> str:
    """Draw images per class, the largest class first, as SVG.

    Args:
        counts: (k, 3) images in train, val and test.
    """
    from matplotlib.ticker import MaxNLocator

    if counts.size == 0:
        return ""
    order = np.argsort(-counts.sum(axis=1), kind="stable")
    stacked = np.concatenate(
        [np.zeros((1, len(counts)), counts.dtype), counts[order].cumsum(axis=1).T]
    )
    figure, axes = _axes(width=10.5, height=2.4)
    edges = np.arange(len(counts) + 1) + 0.5
    for below, above, colour in zip(
        stacked[:-1], stacked[1:], (FIRST, SECOND, THIRD), strict=True
    ):
        axes.stairs(above, edges, baseline=below, fill=True, color=colour, linewidth=0)
    axes.set(xlim=(0.5, len(counts) + 0.5), ylabel="Images")
    axes.set_xlabel("Classes, the largest first")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    return _text(figure, "Images per class")


def confused_pairs(
    matrix: NDArray[np.int64], names: Sequence[str], *, top: int = 10
) -> list[Pair]:
    """Return the `top` most frequent mistakes of a (k, k) matrix, rows being truth."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    # Ties go to the pair that is the larger share of its class.
    support = np.maximum(matrix.sum(axis=1), 1)
    rank = wrong + wrong / support[:, None]
    order = np.argsort(-rank, axis=None, kind="stable")[:top]
    return [
        Pair(
            label=names[i],
            predicted=names[j],
            n=int(wrong[i, j]),
            share=float(wrong[i, j] / support[i]),
        )
        for i, j in (divmod(int(place), len(names)) for place in order)
        if wrong[i, j] > 0
    ]


def confusion(matrix: NDArray[np.int64], names: Sequence[str]) -> Matrix:
    """Return `matrix`, or the classes in most trouble when there are too many.

    Args:
        matrix: (k, k) counts; rows are the given labels, columns the predictions.
        names: k label names.

    Raises:
        ValueError: the matrix is not square or does not fit the names.
    """
    if matrix.shape != (len(names), len(names)):
        raise ValueError(
            f"confusion matrix must be ({len(names)}, {len(names)}) to fit its label "
            f"names, received {matrix.shape}"
        )
    kept = np.arange(len(names))
    if len(names) > MATRIX_LIMIT:
        wrong = matrix.copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-(wrong + wrong.T), axis=None, kind="stable")
        seen = np.stack(np.divmod(order[: 8 * MATRIX_KEPT], len(names)), axis=1)
        classes, first = np.unique(seen, return_index=True)
        kept = classes[np.argsort(first)][:MATRIX_KEPT]
    counts = matrix[np.ix_(kept, kept)]
    support = np.maximum(matrix.sum(axis=1)[kept], 1)
    return Matrix(
        names=[names[i] for i in kept.tolist()],
        counts=counts.tolist(),
        shares=(counts / support[:, None]).tolist(),
        n_classes=len(names),
    )
