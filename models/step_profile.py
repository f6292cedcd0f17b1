"""What a training step spends its time and memory on, traced while a run trains."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from models.durable import write_over
from models.epoch import Run
from models.feed import Batch, devices
from models.processes import leads
from models.room import bytes_of_device, planned

WARM_UP = 3  # steps before the trace: the first compiles
SHOWN = 15  # operations that an account names
# Products a second in bfloat16 without sparsity, twice over, by the makers' sheets.
PEAKS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L4": 121e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
}
# Operations that hold others, whose time would count twice.
HOLDERS = ("while", "call", "conditional")


class StepProfile:
    """Takes some steps of a run one by one, and traces them.

    A traced step waits for its result, so that its parts can be told apart; the steps
    before and after overlap as usual. The bits trained are the same.
    """

    def __init__(self, run: Run, folder: Path) -> None:
        """Trace as many steps of `run` as it asks for; an older trace is replaced."""
        self._run, self._folder = run, folder
        self._steps = run.settings.profile if leads() else 0
        self._taken, self._waited, self._tracing = 0, 0.0, False
        self._parts: list[tuple[float, float, float]] = []
        self._program: Any = None
        self._images: tuple[int, ...] = ()

    def batches(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Pass batches on, and measure how long each was waited for."""
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self._waited = time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def at(self, epoch: int) -> Any:
        """Return the step of an epoch (from 0)."""
        if not self._steps:
            return self._run.growing.at(epoch)
        return lambda state, *batch: self._step(epoch, state, batch)

    def _step(self, epoch: int, state: Any, batch: Any) -> Any:
        step = self._run.growing.of(epoch, state, batch)
        self._taken += 1
        if self._taken <= WARM_UP or len(self._parts) >= self._steps:
            return step(state, *batch)
        if not self._tracing:
            jax.block_until_ready(state)
            self._program = step.prepare(state, *batch)
            self._images = batch[0].shape
            self._start()
        begun = time.perf_counter()
        found = step(state, *batch)
        sent = time.perf_counter()
        jax.block_until_ready(found)
        done = time.perf_counter()
        self._parts.append((self._waited, sent - begun, done - sent))
        if len(self._parts) == self._steps:
            self.close()
        return found

    def _start(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # a million lines that nobody asked for
        jax.profiler.start_trace(str(self._folder), profiler_options=options)
        self._tracing = True

    def close(self) -> None:
        """End the trace, should it still run."""
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False

    def write(self, history: list[dict[str, Any]]) -> None:
        """Write `account.json` beside the trace; nothing where no step was traced.

        Args:
            history: Of the run so far, for its speed and its stalls.
        """
        if not self._parts:
            return
        waited, sent, run = (
            1000 * statistics.median(part) for part in zip(*self._parts, strict=True)
        )
        images = self._run.source.epoch_size
        seconds = [images / max(line["images_per_second"], 0.1) for line in history]
        stalled = sum(
            line["data_stall"] * spent
            for line, spent in zip(history, seconds, strict=True)
        )
        # Of two epochs the second: the first holds the compilation.
        usual = statistics.median_low(seconds)
        many, kind = devices(self._run.mesh), jax.devices()[0].device_kind
        account = {
            "devices": many,
            "device": kind,
            "traced": len(self._parts),
            "images": self._images,
            "data_ms": waited,
            "host_ms": sent,
            "device_ms": run,
            "usual_ms": 1000 * usual / len(self._run.sizes),
            "stall": stalled / sum(seconds),
            "compile_seconds": self._run.growing.seconds,
            "flops": many * flops_of(self._program),
            "peak": many * (peak_of(kind) or 0) or None,
            "memory": memory_of(self._program)
            | {"room": bytes_of_device(self._run.mesh)},
            "operations": top_operations(
                self._folder, self._program, steps=len(self._parts)
            ),
        }
        write_over(self._folder / "account.json", json.dumps(account, indent=1))


def flops_of(program: Any) -> float:
    """Return the operations of a step on one device, by XLA's count; 0 if untold."""
    with contextlib.suppress(jax.errors.JaxRuntimeError, NotImplementedError):
        found = program.cost_analysis() or {}
        return float(found.get("flops", 0.0))
    return 0.0


def peak_of(kind: str) -> float | None:
    """Return the most operations a second of one device, if its kind is known."""
    return next((peak for name, peak in PEAKS.items() if name in kind), None)


def memory_of(program: Any) -> dict[str, int]:
    """Return the bytes that a program plans for on one device."""
    plan = program.memory_analysis()
    if plan is None:
        return {"planned": 0, "inputs": 0, "between": 0}
    return {
        "planned": planned(program),
        "inputs": plan.argument_size_in_bytes,
        "between": plan.temp_size_in_bytes,
    }


def top_operations(folder: Path, program: Any, *, steps: int) -> list[dict[str, Any]]:
    """Return the operations of `program` that took longest, from the trace.

    Times are summed over devices and threads, a step's worth. Empty where the trace
    tells none.
    """
    spent: dict[str, float] = {}
    for event, name in _operations(folder, module=_module(program)):
        spent[name] = spent.get(name, 0.0) + event.duration_ns / 1e6 / steps
    whole = sum(spent.values())
    said = sources_of(program)
    longest = sorted(spent, key=lambda name: -spent[name])[:SHOWN]
    return [
        {
            "name": name,
            "source": said.get(name, ""),
            "ms": spent[name],
            "share": spent[name] / whole,
        }
        for name in longest
    ]


def _operations(folder: Path, *, module: str) -> Iterator[tuple[Any, str]]:
    for path in folder.rglob("*.xplane.pb"):
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            for line in plane.lines:
                for event in line.events:
                    told = {key: value for key, value in event.stats if key}
                    name = str(told.get("hlo_op", ""))
                    ours = str(told.get("hlo_module", module)).startswith(module)
                    if name and ours and not name.startswith(HOLDERS):
                        yield event, name


def _module(program: Any) -> str:
    found = re.match(r"HloModule ([^,\s]+)", program.as_text())
    return found[1] if found else ""


def sources_of(program: Any) -> dict[str, str]:
    """Return where in the network each operation of a program comes from."""
    lines = re.findall(
        r'^\s*(?:ROOT )?%?([\w.\-]+) = .*metadata=\{op_name="([^"]+)"',
        program.as_text(),
        flags=re.MULTILINE,
    )
    return {name: _short(source) for name, source in lines}


def _short(source: str) -> str:
    """Return the pass and the operation: gradient, conv_general_dilated."""
    parts = source.split("/")
    way = "backward" if any("transpose(" in part for part in parts) else ""
    way = way or ("forward" if any("jvp(" in part for part in parts) else "")
    return ", ".join(part for part in (way, parts[-1]) if part)
