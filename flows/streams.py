"""Keep standard output for the result, and turn what the machine says into words."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from data_contracts.errors import WorkspaceError

FULL = {errno.ENOSPC, errno.EDQUOT}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


class Terminated(KeyboardInterrupt):
    """The process was asked to stop by a signal other than Ctrl-C."""


@contextmanager
def only_result() -> Iterator[Callable[[str], None]]:
    """Send all output to standard error, but for what the given function writes.

    The descriptor itself is redirected: libraries in C++ and child processes print too.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with _terminable():
            yield lambda text: _write(kept, text)
    finally:
        with suppress(BrokenPipeError, ValueError):
            sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _write(descriptor: int, text: str) -> None:
    if not text:
        return
    rest = f"{text}\n".encode(errors="surrogateescape")
    with suppress(BrokenPipeError):
        while rest:
            rest = rest[os.write(descriptor, rest) :]


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that children and locks are let go."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def machine_error(error: BaseException) -> WorkspaceError | None:
    """Return what the machine refused, if that is what lies behind `error`."""
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if (refused := _refusal(cause)) is not None:
            return refused
        cause = cause.__cause__ or cause.__context__
    return None


def _refusal(error: BaseException) -> WorkspaceError | None:
    code = error.errno if isinstance(error, OSError) else None
    name = getattr(error, "filename", None)
    where = f" at '{name}'" if name else ""
    # Rust libraries report the same in words.
    if code in FULL or "No space left on device" in str(error):
        return WorkspaceError(
            f"the disk is full{where}. Free some space, or set SIGHTLINE_HOME to a "
            "larger disk; the same command goes on from the last completed stage"
        )
    if code in FORBIDDEN or "Permission denied (os error" in str(error):
        return WorkspaceError(
            f"no permission{where}. Sightline reads its sources and writes under "
            "SIGHTLINE_HOME: check who owns them, or set SIGHTLINE_HOME elsewhere"
        )
    if isinstance(error, MemoryError):
        return WorkspaceError(
            "out of memory. Lower the batch or image size, or end other programs"
        )
    return None
