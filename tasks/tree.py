"""The files of a source, on disk or in an archive, found safely and without reading."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from data_contracts.errors import SourceError
from tasks.listing import filename, printable
from tasks.readers import Reader

IMAGE_SUFFIXES = frozenset(
    ("jpg", "jpeg", "jpe", "jfif", "png", "apng", "gif", "webp", "bmp", "dib", "tif")
) | {"tiff"}
# Pictures that cannot be decoded become rows, so that the report names them.
CAMERA_RAW = frozenset(("cr2", "cr3", "nef", "arw", "dng", "orf", "rw2"))
OTHER_PICTURES = CAMERA_RAW | {
    "heic",
    "heif",
    "avif",
    "jp2",
    "j2k",
    "jxl",
    "psd",
    "exr",
}
MAGIC = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF8",
    b"RIFF",
    b"BM",
    b"II*\0",
    b"MM\0*",
)


class Entry(NamedTuple):
    """One file: what its reader needs, its size and stamp, or why it is unusable."""

    where: str
    size: int = 0
    stamp: str = ""
    problem: str = ""
    detail: str = ""

    @property
    def there(self) -> bool:
        """Whether it can be read; the limit of bytes is for pictures only."""
        return self.problem in ("", "too-many-bytes")


@dataclass(frozen=True)
class Archive:
    """Members of an archive by printable name."""

    root: str
    reader: Reader
    entries: dict[str, Entry]
    notes: list[str] = field(default_factory=list)

    def find(self, name: str) -> Entry:
        """Return the member of this name, or an entry with a problem."""
        if escapes(name):
            return Entry(
                "", problem="escapes-root", detail=f"{name!r} leaves the archive"
            )
        plain = os.path.normpath(name).replace(os.sep, "/")
        missing = Entry("", problem="missing-file", detail="not in the archive")
        return self.entries.get(plain, missing)

    def files(self) -> dict[str, Entry]:
        """Return every visible file, in order of name."""
        return {n: e for n, e in sorted(self.entries.items()) if not hidden(n)}

    def read(self, name: str) -> bytes:
        """Return the bytes of a member."""
        return self.reader.read(self.entries[name].where)

    def begin(self, name: str) -> bytes:
        """Return the first bytes of a member."""
        return self.read(name)[:16]


@dataclass(frozen=True)
class Folder:
    """Files below a folder; links are followed once, and out of it only if allowed."""

    root: str
    reader: Reader
    outside_links: bool = False
    max_bytes: int = 64 << 20
    notes: list[str] = field(default_factory=list)
    _real: dict[str, str] = field(default_factory=dict)
    _walked: list[dict[str, Entry]] = field(default_factory=list)

    def find(self, name: str) -> Entry:
        """Return the file of this printable name, or an entry with a problem."""
        given = filename(name) if "\\" in name else name
        if os.path.isabs(given):
            given = os.path.relpath(given, self.root)
            inside = os.path.relpath(
                os.path.realpath(os.path.join(self.root, given)),
                os.path.realpath(self.root),
            )
            given = inside if escapes(given) else given
        if "\0" in given:
            return Entry(
                "", problem="bad-name", detail="the name holds a NUL character"
            )
        if escapes(given):
            detail = f"{name!r} lies outside of {self.root}"
            return Entry("", problem="escapes-root", detail=detail)
        return self._entry(os.path.normpath(given))

    def files(self) -> dict[str, Entry]:
        """Return every visible file below the root, in order of name; walked once."""
        if not self._walked:
            found = {printable(where): entry for where, entry in self._walk()}
            self._walked.append(dict(sorted(found.items())))
        return self._walked[0]

    def read(self, name: str) -> bytes:
        """Return the bytes of a file."""
        return self.reader.read(filename(name))

    def begin(self, name: str) -> bytes:
        """Return the first bytes of a file."""
        with open(os.path.join(self.root, filename(name)), "rb") as file:
            return file.read(16)

    def _entry(self, where: str) -> Entry:
        path = os.path.join(self.root, where)
        try:
            facts = os.lstat(path)
            link = stat.S_ISLNK(facts.st_mode)
            return self._usable(where, os.stat(path) if link else facts, link=link)
        except FileNotFoundError:
            problem, detail = "missing-file", f"no file at {path!r}"
        except PermissionError:
            problem, detail = "no-permission", f"{path!r} may not be looked at"
        except (OSError, ValueError) as error:
            loop = isinstance(error, OSError) and error.errno == errno.ELOOP
            problem, detail = "symlink-loop" if loop else "bad-name", str(error)
        return Entry(where, problem=problem, detail=printable(detail))

    def _usable(self, where: str, facts: os.stat_result, *, link: bool) -> Entry:
        """Return the entry of a file that is there, with the reason not to read it."""
        path, problem, detail = os.path.join(self.root, where), "", ""
        if not stat.S_ISREG(facts.st_mode):
            problem, detail = "not-a-file", "a folder or a special file"
        elif not self.outside_links and not self._inside(path, link=link):
            problem = "escapes-root"
            detail = "a link leads out of the source; allow it with outside_links"
        elif facts.st_size > self.max_bytes:
            problem = "too-many-bytes"
            detail = f"{facts.st_size:,} bytes, allowed {self.max_bytes:,}"
        elif not facts.st_mode & stat.S_IROTH and not os.access(path, os.R_OK):
            problem, detail = "no-permission", "the file may not be read"
        stamp = f"{facts.st_size}-{facts.st_mtime_ns}"
        return Entry(where, facts.st_size, stamp, problem, detail)

    def _inside(self, path: str, *, link: bool) -> bool:
        """Whether a path lies below the root once links are followed."""
        if link:
            return below(os.path.realpath(path), self._root())
        parent = os.path.dirname(path)
        if parent not in self._real:
            self._real[parent] = os.path.realpath(parent)
        return below(self._real[parent], self._root())

    def _root(self) -> str:
        if "" not in self._real:
            self._real[""] = os.path.realpath(self.root)
        return self._real[""]

    def _walk(self) -> Iterator[tuple[str, Entry]]:
        """Yield the visible files, by their paths below the root."""
        skipped, seen, todo = Counter[str](), set[str](), [""]
        while todo:
            folder = todo.pop()
            try:
                with os.scandir(os.path.join(self.root, folder)) as entries:
                    found = sorted(entries, key=lambda entry: os.fsencode(entry.name))
            except OSError as error:
                if not folder:
                    raise
                why = f"the folder cannot be opened: {error.strerror}"
                yield folder, Entry(folder, problem="no-permission", detail=why)
                continue
            for entry in found:
                where = os.path.join(folder, entry.name)
                if entry.name.startswith("."):
                    skipped["hidden"] += 1
                elif not _is_folder(entry):
                    yield where, self._entry(where)
                elif not entry.is_symlink() or self._follow(entry.path, where, seen):
                    todo.append(where)
        if skipped["hidden"]:
            self.notes.append(f"{skipped['hidden']:,} hidden files or folders skipped")

    def _follow(self, path: str, where: str, seen: set[str]) -> bool:
        """Whether to enter a linked folder; says why not."""
        real = os.path.realpath(path)
        if below(self._root(), real):
            self.notes.append(
                f"link {printable(where)!r} skipped: it loops back to {real!r}"
            )
        elif below(real, self._root()):
            self.notes.append(
                f"link {printable(where)!r} skipped: {real!r} is listed by its own name"
            )
        elif not self.outside_links:
            self.notes.append(
                f"link {printable(where)!r} skipped: it leads out of the source; "
                "allow it with outside_links"
            )
        elif real not in seen:
            seen.add(real)
            return True
        return False


Tree = Folder | Archive
# A table of ten million images; more than this is no table.
MAX_TABLE = 2 << 30


def load(tree: Tree, name: str) -> bytes:
    """Return the bytes of a file that is no picture: a table, an annotation, a list.

    Raises:
        SourceError: It may not be read, or is larger than any table.
    """
    entry = tree.find(name)
    if not entry.there:
        raise SourceError(f"{name!r} cannot be used ({entry.problem}): {entry.detail}.")
    if entry.size > MAX_TABLE:
        raise SourceError(
            f"{name!r} holds {entry.size:,} bytes, allowed {MAX_TABLE:,}. Split it."
        )
    return tree.read(name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def escapes(name: str) -> bool:
    """Whether a relative name is absolute or climbs out of its root."""
    parts = os.path.normpath(name).replace("\\", "/").split("/")
    return os.path.isabs(name) or parts[0] == ".." or parts[0].endswith(":")


def below(path: str, root: str) -> bool:
    """Whether a real path is a root, or lies below it."""
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def hidden(name: str) -> bool:
    """Whether any part of a path is hidden, or left by an operating system."""
    parts = [part for part in name.split("/") if part not in (".", "..")]
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def suffix(name: str) -> str:
    """Return the last ending of a name in lower case, without its dot."""
    last = name.rsplit("/", 1)[-1]
    return last.rsplit(".", 1)[-1].lower() if "." in last else ""


def images(tree: Tree, notes: list[str]) -> dict[str, Entry]:
    """Return the files of a tree that are meant as pictures; say what was skipped.

    A file without an ending counts when it begins like a picture.
    """
    found, skipped = dict[str, Entry](), Counter[str]()
    for name, entry in tree.files().items():
        ending = suffix(name)
        known = ending in IMAGE_SUFFIXES or ending in OTHER_PICTURES
        known |= entry.problem == "no-permission"
        if known or (not (ending or entry.problem) and _looks_like_image(tree, name)):
            found[name] = entry
        else:
            skipped[ending or "no ending"] += 1
    if skipped:
        what = ", ".join(f"{ending} {n:,}" for ending, n in skipped.most_common(5))
        notes.append(f"{skipped.total():,} files skipped: not images ({what})")
    return found


def _looks_like_image(tree: Tree, name: str) -> bool:
    try:
        return tree.begin(name).startswith(MAGIC)
    except OSError:
        return False
