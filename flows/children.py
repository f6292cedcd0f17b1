"""Start programs beside this one and stop them all, with whatever they started."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from data_contracts.errors import UsageError, WorkspaceError

# Every child carries this variable, and hands it to its own children. A worker starts
# flow runs in sessions of their own, where a process group would not reach them.
MARK = "SIGHTLINE_UP"


class Child(NamedTuple):
    """A program that was started, and where it logs."""

    name: str
    program: subprocess.Popen[bytes]
    log: Path


def start(
    name: str,
    command: Sequence[str],
    *,
    environ: Mapping[str, str],
    logs: Path,
    at: Path,
) -> Child:
    """Start `command` in the folder `at`; Ctrl-C in this terminal does not reach it."""
    log = logs / f"{name}.log"
    with log.open("wb") as output:
        program = subprocess.Popen(
            command,
            env=dict(environ),
            cwd=at,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    return Child(name, program, log)


def check_alive(child: Child) -> None:
    """Raise a WorkspaceError with the end of its log if `child` has ended."""
    code = child.program.poll()
    if code is not None:
        raise WorkspaceError(
            f"the {child.name} ended by itself (exit code {code}); the end of "
            f"'{child.log}' says:\n{tail(child.log)}"
        )


def wait_until_healthy(child: Child, address: str, *, seconds: float) -> None:
    """Wait until the server `child` answers at `address`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        check_alive(child)
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise WorkspaceError(
        f"the {child.name} did not answer at {address} within {seconds:.0f} s; the end "
        f"of '{child.log}' says:\n{tail(child.log)}"
    )


def finish(child: Child, *, seconds: float) -> None:
    """Wait for `child` to end well; raise a WorkspaceError if it does not."""
    try:
        code = child.program.wait(seconds)
    except subprocess.TimeoutExpired:
        code = None
    if code != 0:
        how = "did not end in time" if code is None else f"failed (exit code {code})"
        raise WorkspaceError(
            f"the {child.name} {how}; the end of '{child.log}' says:\n{tail(child.log)}"
        )


def stop(mark: str, *, last: Sequence[Child], seconds: float = 20) -> None:
    """Stop every program that carries `mark`, those of `last` after all others.

    Each is asked first, and killed only when it has not ended in time.
    """
    spared = {child.program.pid for child in last}
    spared |= {pid for keeper in spared for pid in _below(keeper)}
    _end(mark, spared=spared, seconds=seconds)
    _end(mark, spared=set(), seconds=seconds)


def _end(mark: str, *, spared: set[int], seconds: float) -> None:
    programs = [p for p in _marked(mark) if p.pid not in spared]
    for program in programs:
        _signal(program, signal.SIGTERM)
    _, alive = psutil.wait_procs(programs, timeout=seconds)
    # What was started since the list was made is in no list: look again.
    alive += [p for p in _marked(mark) if p.pid not in spared]
    for program in alive:
        _signal(program, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=5)


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for program in psutil.process_iter():
        try:
            ours = program.environ().get(MARK) == mark
            if ours and program.status() != psutil.STATUS_ZOMBIE:
                found.append(program)
        except (psutil.Error, OSError):
            continue  # Another user's, or ended meanwhile.
    return found


def _below(pid: int) -> list[int]:
    try:
        return [p.pid for p in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def _signal(program: psutil.Process, number: signal.Signals) -> None:
    try:
        program.send_signal(number)
    except psutil.Error:
        return


def tail(log: Path, lines: int = 12) -> str:
    """Return the last lines of a log."""
    text = log.read_text("utf-8", errors="replace")
    return "\n".join(text.splitlines()[-lines:])


def check_port_is_free(port: int) -> None:
    """Raise a UsageError if something listens on `port` of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError as error:
            raise UsageError(
                f"port={port} needs special rights; take one above 1023"
            ) from error
        except OSError as error:
            raise UsageError(
                f"port={port} is in use: another `sightline up`, or another program. "
                f"Stop it, or take another port, such as port={port + 1}"
            ) from error
