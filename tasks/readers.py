"""Reading the bytes of one source item: from a folder, a zip, a tar, or Parquet.

Readers hold paths only, so they travel to worker processes; what they open is kept per
process and shared by its threads.
"""

from __future__ import annotations

import bisect
import functools
import lzma
import os
import threading
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any

_lock = threading.Lock()
_local = threading.local()


@dataclass(frozen=True)
class FolderReader:
    """Files below a folder; `where` is the path below it."""

    root: str

    def read(self, where: str) -> bytes:
        """Return the bytes of one file."""
        # Plain descriptors cost a third of what open() does on small files.
        descriptor = os.open(os.path.join(self.root, where), os.O_RDONLY)
        try:
            size = os.fstat(descriptor).st_size
            data = os.read(descriptor, size + 1)
            while len(data) < size and (more := os.read(descriptor, size - len(data))):
                data += more
            return data
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class ZipReader:
    """Members of a zip archive, read in place; `where` is the member's name."""

    archive: str

    def read(self, where: str) -> bytes:
        """Return the bytes of one member, never more than its entry declares."""
        try:
            info = self._handle().getinfo(where)
            with self._handle().open(info) as member:
                return member.read(info.file_size)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, LookupError) as error:
            raise OSError(f"{self.archive}: member {where!r}: {error}") from error
        except (EOFError, RuntimeError) as error:  # encrypted, unknown compression
            raise OSError(f"{self.archive}: member {where!r}: {error}") from error

    def _handle(self) -> zipfile.ZipFile:
        """Open the archive once per thread; a fork must not share its file position."""
        key = (os.getpid(), self.archive, os.stat(self.archive).st_mtime_ns)
        if getattr(_local, "key", None) != key:
            _local.key = None
            if hasattr(_local, "zip"):
                _local.zip.close()
            _local.zip = zipfile.ZipFile(self.archive)
            _local.key = key
        handle: zipfile.ZipFile = _local.zip
        return handle


@dataclass(frozen=True)
class SliceReader:
    """Slices of one file, such as a tar; `where` is "offset:size"."""

    file: str

    def read(self, where: str) -> bytes:
        """Return the bytes of one slice."""
        offset, size = map(int, where.split(":"))
        descriptor = os.open(self.file, os.O_RDONLY)
        try:
            data = os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)
        if len(data) != size:
            raise OSError(f"{self.file}: ends before byte {offset + size:,}")
        return data


@dataclass(frozen=True)
class ParquetReader:
    """Image bytes in a column of Parquet shards; `where` is "shard:row"."""

    root: str
    column: str

    def read(self, where: str) -> bytes:
        """Return the bytes of one row; its row group stays in memory for the next."""
        shard, row = where.rsplit(":", 1)
        path = os.path.join(self.root, shard)
        changed = os.stat(path).st_mtime_ns
        try:
            with _lock:
                starts = _shard(path, changed)[1]
                group = bisect.bisect_right(starts, int(row)) - 1
                chunk = _row_group(path, changed, group, self.column)
        except ValueError as error:  # Arrow's own, on bytes that are no Parquet
            raise OSError(f"{path}: row {row}: {error}") from error
        cell = chunk[int(row) - starts[group]].as_py()
        value = cell.get("bytes") if isinstance(cell, dict) else cell
        return bytes(value or b"")


@functools.lru_cache(maxsize=8)
def _shard(path: str, _changed: int) -> tuple[Any, list[int]]:
    """Open a shard: the file, and the first row of each row group."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    starts, total = [], 0
    for i in range(file.metadata.num_row_groups):
        starts.append(total)
        total += file.metadata.row_group(i).num_rows
    return file, starts


# Neighbouring chunks run on different threads at once: they share these row groups.
@functools.lru_cache(maxsize=3)
def _row_group(path: str, changed: int, group: int, column: str) -> Any:
    table = _shard(path, changed)[0].read_row_group(group, columns=[column])
    return table.column(0).combine_chunks()


Reader = FolderReader | ZipReader | SliceReader | ParquetReader
