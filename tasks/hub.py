"""Weights from the Hugging Face Hub, kept in the workspace by the digest of a file.

cache/weights/sha256/<digest>.<suffix>         what was fetched, under its content
cache/weights/hf/<owner>/<name>/<file>.json    which content a name stood for
cache/weights/hf/<owner>/<name>/<file>         put here by hand, where there is no net
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import re
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from data_contracts.errors import SchemaError, UsageError, WorkspaceError
from data_contracts.store import storage_errors
from models.durable import sha256, write_over
from tasks.progress import Progress
from tasks.starts import ON_HUB

log = logging.getLogger("sightline")

HOST = "https://huggingface.co"
TIMEOUT = 30.0
BLOCK = 1 << 20
USUAL = ("model.safetensors", "pytorch_model.bin")
# What says under which licence, and for which pixels, weights were made.
ABOUT = ("README.md", "preprocessor_config.json", "config.json")
MOST_ABOUT = 1 << 20


class _Missing(Exception):
    """The host answers, and has no such file."""


def fetched(name: str, *, cache: Path) -> Path:
    """Return the weights `hf:owner/name[/file]`, downloading what is not there yet.

    Files that say what they are for (`ABOUT`) come to `folder_of(name)`.

    Args:
        name: What `ON_HUB` matches.
        cache: Folder of what can be fetched again.

    Raises:
        UsageError: The hub has no such file.
        WorkspaceError: The hub cannot be reached.
        SchemaError: A kept file is no longer what was fetched.
    """
    folder, asked = folder_of(name, cache=cache), _file_of(name)
    files = [asked] if asked else list(USUAL)
    for file in files:
        if (kept := _kept(folder / file, cache=cache)) is not None:
            return kept
    with storage_errors(str(folder)):
        # First what says which pixels they expect: weights alone would count as whole.
        for about in ABOUT:
            with contextlib.suppress(_Missing):
                _fetch_about(
                    f"{_address(name)}/{about}",
                    folder / about,
                    by_hand=folder / files[0],
                )
        for file in files:
            with contextlib.suppress(_Missing):
                return _download(f"{_address(name)}/{file}", folder, file, cache=cache)
    raise UsageError(
        f"{name}: the hub has no {' or '.join(files)} there, or it is not public. Name"
        " a file that exists (hf:owner/name/file), or put it at"
        f" {folder / files[0]} by hand."
    )


def folder_of(name: str, *, cache: Path) -> Path:
    """Return the folder that a repository's files have in the cache."""
    found = ON_HUB.fullmatch(name)
    assert found is not None
    return cache / "weights" / "hf" / found[1] / found[2]


def _file_of(name: str) -> str:
    found = ON_HUB.fullmatch(name)
    assert found is not None
    return found[3].lstrip("/")


def _address(name: str) -> str:
    found = ON_HUB.fullmatch(name)
    assert found is not None
    return f"{HOST}/{found[1]}/{found[2]}/resolve/main"


def _kept(path: Path, *, cache: Path) -> Path | None:
    """Return the file that an earlier run fetched or a person put at `path`."""
    if path.is_file():
        return path
    record = path.with_name(f"{path.name}.json")
    if not record.is_file():
        return None
    try:
        digest = str(json.loads(record.read_text())["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise SchemaError(
            f"{record} is damaged ({error!r}). Remove it to fetch the weights again."
        ) from error
    blob = _blob(digest, path.suffix, cache=cache)
    if not blob.is_file():
        return None
    if sha256(blob) != digest:
        raise SchemaError(
            f"{blob} is not what was fetched from {path.parent.name}: it changed on"
            " disk. Remove it to fetch it again."
        )
    return blob


def _blob(digest: str, suffix: str, *, cache: Path) -> Path:
    return cache / "weights" / "sha256" / f"{digest}{suffix}"


def _download(url: str, folder: Path, file: str, *, cache: Path) -> Path:
    """Fetch `url` whole or not at all, and note which content it had."""
    blobs = cache / "weights" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    with _open(url, by_hand=folder / file) as answer:
        size = int(answer.headers.get("Content-Length") or 0)
        log.info("weights   %s (%.0f MB)", url, size / 1e6)
        handle, name = tempfile.mkstemp(dir=blobs, prefix=".fetching-")
        try:
            with (
                os.fdopen(handle, "wb") as out,
                Progress("weights", total=size, unit="B") as bar,
            ):
                count = 0
                while block := _block(answer, url, by_hand=folder / file):
                    out.write(block)
                    count += len(block)
                    bar.advance(len(block))
            if size and count != size:
                raise _unreachable(url, f"{count:,} of {size:,} bytes", folder / file)
            digest = sha256(Path(name))
            os.chmod(name, 0o644)  # a workspace may be shared
            blob = _blob(digest, Path(file).suffix, cache=cache)
            os.replace(name, blob)
        finally:
            Path(name).unlink(missing_ok=True)
    record = folder / f"{file}.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    write_over(record, json.dumps({"sha256": digest, "size": count, "url": url}))
    return blob


def _fetch_about(url: str, path: Path, *, by_hand: Path) -> None:
    if not path.exists():
        with _open(url, by_hand=by_hand) as answer:
            text = _block(answer, url, by_hand=by_hand, size=MOST_ABOUT)
            size = int(answer.headers.get("Content-Length") or 0)
        if len(text) < min(size, MOST_ABOUT):
            raise _unreachable(url, f"{len(text):,} of {size:,} bytes", by_hand)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_over(path, text.decode("utf-8", "replace"))


def _open(url: str, *, by_hand: Path) -> Any:
    request = urllib.request.Request(url, headers={"User-Agent": "sightline"})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            if error.code in (401, 403, 404):
                raise _Missing from error
            raise _unreachable(url, f"status {error.code}", by_hand) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise _unreachable(url, str(reason), by_hand) from error
    if url.startswith("https:") and not answer.url.startswith("https:"):
        answer.close()
        raise _unreachable(url, f"it leads to {answer.url}, not encrypted", by_hand)
    return answer


def _block(answer: Any, url: str, *, by_hand: Path, size: int = BLOCK) -> bytes:
    try:
        return bytes(answer.read(size))
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(url, repr(error), by_hand) from error


def _unreachable(url: str, what: str, by_hand: Path) -> WorkspaceError:
    return WorkspaceError(
        f"{url} cannot be fetched ({what}). Try again with a network, or put the"
        f" weights at {by_hand} by hand."
    )


def licence_of(folder: Path, metadata: dict[str, str]) -> str:
    """Return the licence that a model card or a file's own metadata names.

    Args:
        folder: Where README.md may lie.
        metadata: Of the weights file.
    """
    card = folder / "README.md"
    if card.is_file():
        text = card.read_text(encoding="utf-8", errors="replace")
        front = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
        lines = r"^(licen[sc]e|license_name):[ \t]*(\S.*)$"
        said: dict[str, str] = dict(re.findall(lines, front[1] if front else "", re.M))
        for key in ("license_name", "license", "licence"):
            if key in said:
                return said[key].strip().strip("\"'")
    for key in ("license", "licence"):
        if metadata.get(key):
            return metadata[key]
    return "unknown"


def pixels_of(folder: Path) -> tuple[list[float], list[float]] | None:
    """Return the mean and deviation of 0..1 pixels that a folder's files name.

    Raises:
        SchemaError: They name figures that cannot be such.
    """
    for file, section, keys in (
        ("preprocessor_config.json", None, ("image_mean", "image_std")),
        ("config.json", "pretrained_cfg", ("mean", "std")),
    ):
        path = folder / file
        if not path.is_file():
            continue
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            found = found.get(section) or {} if section else found
            if not all(found.get(key) for key in keys):
                continue
            mean, std = ([float(x) for x in found[key]] for key in keys)
        except (ValueError, TypeError, AttributeError) as error:
            raise SchemaError(
                f"{path} cannot be read ({error}). Fetch it again."
            ) from (error)
        if len(mean) != 3 or len(std) != 3 or not _of_pixels(mean, std):
            raise SchemaError(
                f"{path} names mean {mean} and deviation {std}; expected three figures"
                " each, of pixels from 0 to 1. Correct or remove it."
            )
        return mean, std
    return None


def _of_pixels(mean: list[float], std: list[float]) -> bool:
    return all(0 <= x <= 1 for x in mean) and all(0 < x <= 1 for x in std)
