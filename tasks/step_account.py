"""One page on what a training step spends, from the trace of a run."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from models.durable import write_over
from tasks.pages import render_page
from tasks.wording import duration, number

log = logging.getLogger("sightline")
STEPS = 8  # that a profile traces
PARTS = (
    ("data_ms", "data", "waiting for the batch"),
    ("host_ms", "host", "sending the step off"),
    ("device_ms", "device", "computing"),
)


def tell_account(run: Path) -> Path | None:
    """Write the page of a run's trace and log its gist; None where it has no trace."""
    path = run / "profile" / "account.json"
    if not path.exists():
        log.info("profile   no step was traced: too few of them were left to train")
        return None
    account = json.loads(path.read_text(encoding="utf-8"))
    for line in gist(account):
        log.info("profile   %s", line)
    page = path.with_name("report.html")
    write_over(page, render(account, name=run.name))
    log.info("profile   %s", page)
    return page


def gist(account: dict[str, Any]) -> list[str]:
    """Return the account in a few lines."""
    parts = ", ".join(f"{name} {account[key]:.1f}" for key, name, _ in PARTS)
    lines = [
        f"a traced step of {account['images'][0]} images takes"
        f" {step_ms(account):.1f} ms: {parts}"
    ]
    lines.append(
        f"in the run {account['usual_ms']:.1f} ms a step, waiting for images"
        f" {number(account['stall'])} of the time; compiling took"
        f" {duration(account['compile_seconds'])}"
    )
    held = account["memory"]
    plan = f"plans {size(held['planned'])} of {size(held['room'])} on a device"
    lines.append(f"{rate(account)}; {plan}")
    if account["operations"]:
        top = account["operations"][0]
        part = f"{number(top['share'])} of the time of all"
        lines.append(f"longest operation: {top['name']} ({top['source']}), {part}")
    return lines


def step_ms(account: dict[str, Any]) -> float:
    """Return the milliseconds of a traced step."""
    return float(sum(account[key] for key, _, _ in PARTS))


def rate(account: dict[str, Any]) -> str:
    """Return the arithmetic of a step, and how much of the device that is."""
    if not account["flops"]:
        return "the compiler counts no operations"
    second = account["flops"] / (account["device_ms"] / 1000)
    text = f"{_operations(account['flops'])} a step, {_operations(second)}/s"
    if account["peak"]:
        text += f", {number(second / account['peak'])} of the bfloat16 peak"
    return text


def _operations(value: float) -> str:
    unit, by = ("TFLOP", 1e12) if value >= 1e12 else ("GFLOP", 1e9)
    return f"{value / by:.3g} {unit}"


def size(value: float) -> str:
    """Return bytes in words: 34.3 MiB."""
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} GiB"


def render(account: dict[str, Any], *, name: str) -> str:
    """Return the page as one HTML file that loads nothing else."""
    return render_page(
        "step_account.html",
        filters={"size": size},
        a=account,
        name=name,
        parts=PARTS,
        step_ms=step_ms(account),
        rate=rate(account),
    )
