"""Files that are written whole, once synced, by one writer at a time."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from data_contracts.errors import WorkspaceError

PATIENCE = 120.0  # seconds to wait for another writer
PAUSE = 0.02


@contextmanager
def machine_errors(path: Path) -> Iterator[None]:
    """Turn what the machine refuses (space, permission) into a `WorkspaceError`."""
    try:
        yield
    except OSError as error:
        refused = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
        if error.errno not in refused:
            raise
        raise WorkspaceError(
            f"cannot write under {path}: {error.strerror}. Free space or give "
            "permission, then run again; what was there is unchanged."
        ) from error


@contextmanager
def locked(folder: Path, *, patience: float = PATIENCE) -> Iterator[None]:
    """Hold the lock of `folder` against other processes and threads.

    Raises:
        WorkspaceError: It was not free within `patience` seconds, or may not be held.
    """
    with machine_errors(folder):
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        deadline = time.monotonic() + patience
        waited = f" for more than {patience:.0f} s" if patience else ""
        while not _try_lock(lock):
            if time.monotonic() > deadline:
                raise WorkspaceError(
                    f"{folder} is held by another run{waited}. "
                    "Wait for it to end, then run again."
                )
            time.sleep(PAUSE)
        with machine_errors(folder):
            yield
    finally:
        os.close(lock)


def write_over(path: Path, text: str) -> None:
    """Write `path` aside, then move it into place in one step."""
    aside = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    sync(path.parent)


def append_line(path: Path, line: bytes, *, keep: int) -> None:
    """Append one line, synced, after the first `keep` bytes; what follows is cut off.

    A write that fails half-way leaves the file as it was.
    """
    fresh = not path.exists()
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        os.ftruncate(file, keep)
        os.lseek(file, keep, os.SEEK_SET)
        try:
            rest = line
            while rest:
                rest = rest[os.write(file, rest) :]
            os.fsync(file)
        except OSError:
            os.ftruncate(file, keep)
            raise
    finally:
        os.close(file)
    if fresh:
        sync(path.parent)


def sync(path: Path) -> None:
    """Have the machine store a file or the entries of a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Have the machine store a folder and all within it."""
    for path in folder.rglob("*"):
        if not path.is_symlink():
            sync(path)
    sync(folder)


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _try_lock(lock: int) -> bool:
    """Take the lock if nobody holds it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
