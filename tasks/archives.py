"""Archives as trees: zip and tar in place, compressed tar unpacked once to one tar."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import IO, Any

from data_contracts.errors import SourceError, WorkspaceError
from tasks.listing import SourceSettings, printable
from tasks.readers import SliceReader, ZipReader
from tasks.tree import Archive, Entry, escapes, load

COMPRESSED: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}
ZIP = (b"PK\x03\x04", b"PK\x05\x06")
BLOCK = 1 << 20
# Small files may compress well without being bombs.
SMALL = 16 << 20


def is_archive(path: str) -> bool:
    """Whether a file is a zip, a tar or a compressed tar, by its first bytes."""
    with open(path, "rb") as file:
        head = file.read(262 + 3)
    return (
        head[:4] in ZIP
        or head[257:262] == b"ustar"
        or head.startswith(tuple(COMPRESSED))
    )


def open_archive(path: str, settings: SourceSettings) -> Archive:
    """Return the members of an archive; none of them can be read outside of it.

    Raises:
        SourceError: The archive is damaged, or grows past the limits.
        WorkspaceError: The disk has no room to unpack a compressed tar.
    """
    try:
        # By its beginning: a tar whose last member is a zip ends like a zip.
        with open(path, "rb") as file:
            zipped = file.read(4) in ZIP
        if zipped:
            return _zip(path, settings)
        return _tar(path, settings)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error) as error:
        raise _damaged(path, error) from error


def _zip(path: str, settings: SourceSettings) -> Archive:
    entries, notes = dict[str, Entry](), list[str]()
    skipped = Counter[str]()
    facts = os.stat(path)
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = printable(info.filename.removeprefix("./"))
            if info.is_dir():
                continue
            if stat.S_ISLNK(info.external_attr >> 16):
                skipped["links"] += 1
                continue
            stamp = f"{info.file_size}-{info.CRC:08x}"
            entry = Entry(info.filename, info.file_size, stamp)
            growth = info.file_size / max(1, info.compress_size)
            entries[name] = _checked(entry, name, growth=growth, settings=settings)
            if info.flag_bits & 1:
                why = "the archive is encrypted; unpack it first"
                entries[name] = entry._replace(problem="encrypted", detail=why)
    notes += [f"{n:,} {what} in the archive skipped" for what, n in skipped.items()]
    if not entries and facts.st_size > 22:
        notes.append("the archive holds no files")
    return Archive(path, ZipReader(path), entries, notes)


def _checked(
    entry: Entry, name: str, *, growth: float, settings: SourceSettings
) -> Entry:
    """Return the entry, or with the reason why it must not be read."""
    if escapes(name):
        detail = f"the member's name {name!r} leaves the archive"
        return entry._replace(problem="escapes-root", detail=detail)
    if entry.size > SMALL and growth > settings.max_ratio:
        detail = (
            f"unpacks to {growth:,.0f} times its size, allowed {settings.max_ratio}"
        )
        return entry._replace(problem="bomb", detail=detail)
    if entry.size > settings.max_bytes:
        detail = f"{entry.size:,} bytes unpacked, allowed {settings.max_bytes:,}"
        return entry._replace(problem="too-many-bytes", detail=detail)
    return entry


def _tar(path: str, settings: SourceSettings) -> Archive:
    plain = _plain_tar(path, settings)
    size = os.stat(plain).st_size
    entries, notes = dict[str, Entry](), list[str]()
    skipped = Counter[str]()
    with tarfile.open(plain, "r:", errors="surrogateescape") as archive:
        for member in archive:
            name = printable(member.name.removeprefix("./"))
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                skipped["links and special files"] += 1
                continue
            where = f"{member.offset_data}:{member.size}"
            entry = Entry(where, member.size, f"{member.size}-{member.mtime}")
            if member.offset_data + member.size > size:
                why = "the archive ends before this member does"
                entry = entry._replace(problem="truncated", detail=why)
            entries[name] = _checked(entry, name, growth=1, settings=settings)
    notes += [f"{n:,} {what} in the archive skipped" for what, n in skipped.items()]
    return Archive(path, SliceReader(plain), entries, notes)


def _plain_tar(path: str, settings: SourceSettings) -> str:
    """Return the path itself, or of its uncompressed copy in the cache.

    The copy is one file: no member's name ever touches the disk.
    """
    with open(path, "rb") as file:
        head = file.read(6)
    unpack = next(
        (f for magic, f in COMPRESSED.items() if head.startswith(magic)), None
    )
    if unpack is None:
        return path
    facts = os.stat(path)
    key = f"{os.path.abspath(path)}:{facts.st_size}:{facts.st_mtime_ns}"
    name = hashlib.sha256(os.fsencode(key)).hexdigest()[:16] + ".tar"
    target = os.path.join(_cache(settings), name)
    if os.path.exists(target):
        return target
    most = min(
        settings.max_archive_bytes, max(SMALL, facts.st_size * settings.max_ratio)
    )
    with unpack(path, "rb") as packed:
        _store(packed, target, most=most, path=path)
    return target


def unpacked(tree: Archive, names: Sequence[str], settings: SourceSettings) -> str:
    """Write members to one folder of the cache, under names made here; return it.

    Args:
        tree: Archive.
        names: Members to write; "/" becomes "__".
        settings: Cache folder and limits.
    """
    stamps = ",".join(f"{name}:{tree.entries[name].stamp}" for name in names)
    key = hashlib.sha256(f"{tree.root}:{stamps}".encode()).hexdigest()[:16]
    folder = os.path.join(_cache(settings), key)
    for name in names:
        target = os.path.join(folder, name.replace("/", "__"))
        if not os.path.exists(target):
            most = settings.max_archive_bytes
            _store(io.BytesIO(load(tree, name)), target, most=most, path=tree.root)
    return folder


def _cache(settings: SourceSettings) -> str:
    home = os.environ.get("SIGHTLINE_HOME") or "workspace"
    cache = settings.cache_dir or os.path.join(os.path.expanduser(home), "cache")
    return os.path.join(os.path.abspath(cache), "archives")


def _store(packed: IO[bytes], target: str, *, most: int, path: str) -> None:
    """Copy a stream to a file that appears only when it is whole."""
    aside = f"{target}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(aside, "wb") as plain:
            _copy(packed, plain, most=most, path=path)
        os.replace(aside, target)
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise _damaged(path, error) from error
    except OSError as error:
        if error.errno is None:  # raised by a decompressor, not by the machine
            raise _damaged(path, error) from error
        raise WorkspaceError(
            f"unpacking {path!r} to {target!r} failed: {error.strerror}. Free some "
            "room, or choose another cache_dir."
        ) from error
    finally:
        if os.path.exists(aside):
            os.remove(aside)


def _damaged(path: str, error: Exception) -> SourceError:
    return SourceError(
        f"archive {path!r} cannot be read: {error}. Fetch or pack it again."
    )


def _copy(packed: IO[bytes], plain: IO[bytes], *, most: int, path: str) -> None:
    total = 0
    while block := packed.read(BLOCK):
        total += len(block)
        if total > most:
            raise SourceError(
                f"archive {path!r} unpacks to more than {most:,} bytes, like a "
                "bomb. If it is right, raise max_archive_bytes or max_ratio."
            )
        plain.write(block)
