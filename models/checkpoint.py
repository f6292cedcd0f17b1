"""Orbax checkpoints of a run in progress, and of finished models."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from data_contracts.errors import SchemaError
from models.durable import machine_errors, sync, sync_tree, write_over

VERSION = 1
# What the machine may get over; the checkpoint itself is not to blame.
PASSING = (errno.EACCES, errno.EPERM, errno.EIO, errno.ENOMEM, errno.EMFILE)


class DamagedError(SchemaError):
    """A checkpoint that no program can read any more."""


@dataclass(frozen=True)
class Restored:
    """A checkpoint read back: arrays on the host, memory, and what was skipped."""

    state: Any
    memory: dict[str, Any]
    epoch: int
    step: int = 0
    notes: tuple[str, ...] = ()


def tree_digest(tree: Any) -> str:
    """Return a SHA-256 over the paths, types, shapes and bytes of all leaves."""
    seen = hashlib.sha256(layout_digest(tree).encode())
    for leaf in jax.tree.leaves(tree):
        seen.update(np.ascontiguousarray(leaf).tobytes())
    return seen.hexdigest()


def layout_digest(tree: Any) -> str:
    """Return a SHA-256 over the paths, types and shapes of all leaves."""
    seen = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        # Orbax gives list indices back as text, so only their spelling may count.
        name = "/".join(_key(entry) for entry in path)
        seen.update(f"{name} {np.dtype(leaf.dtype)} {tuple(leaf.shape)};".encode())
    return seen.hexdigest()


def save_checkpoint(
    run_dir: Path,
    state: Any,
    *,
    epoch: int,
    memory: dict[str, Any],
    keep: set[int],
    step: int = 0,
) -> Path:
    """Save `state` as checkpoint `epoch`, whole or not at all, then drop old ones.

    One within an epoch replaces the one before it, and leaves those of epochs alone.

    Args:
        run_dir: Folder of the run.
        state: Tree of arrays.
        epoch: Epochs finished; names the folder.
        memory: JSON beside the arrays.
        keep: Epochs whose checkpoints stay; all others are removed.
        step: Steps taken since, within the next epoch.
    """
    folder = run_dir / "checkpoints"
    final = folder / _name(epoch, step)
    with _written_aside(final) as aside:
        _save_tree(aside, state, {"epoch": epoch, **memory})
    for old in _finished(folder):
        stays = not old[1] and (bool(step) or old[0] in keep)
        if old != (epoch, step) and not stays:
            _discard(folder / _name(*old))
    return final


def restore_latest(run_dir: Path, abstract: Any) -> Restored:
    """Restore the newest checkpoint that is whole; epoch 0 where there is none.

    Args:
        run_dir: Folder of the run.
        abstract: Tree of the arrays (or shapes and types) expected.

    Raises:
        SchemaError: It is whole, but of another network or version.
    """
    folder, notes = run_dir / "checkpoints", []
    for unfinished in folder.glob(".*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    for epoch, step in sorted(_finished(folder), reverse=True):
        try:
            found = restore_epoch(run_dir, abstract, epoch=epoch, step=step)
        except DamagedError as error:
            notes.append(f"skipped checkpoint {_name(epoch, step)}: {error}")
        else:
            return replace(found, notes=tuple(notes))
    return Restored(None, {}, 0, notes=tuple(notes))


def restore_epoch(
    run_dir: Path, abstract: Any, *, epoch: int, step: int = 0
) -> Restored:
    """Restore checkpoint `epoch` of a run, or one so many steps after it.

    Raises:
        SchemaError: It is missing, damaged, or of another shape than `abstract`.
    """
    folder = run_dir / "checkpoints" / _name(epoch, step)
    state, memory = _load_tree(folder, abstract)
    return Restored(state, memory, epoch, step)


def save_model(path: Path, params: Any, stats: Any, *, meta: dict[str, Any]) -> None:
    """Save a finished model, whole or not at all.

    Args:
        path: New folder; one that exists is replaced.
        params: Trained parameters.
        stats: Batch statistics and other state that is not trained.
        meta: What is needed to build the model again: preset, num_classes,
            image_size, mean, std, label names. Must be JSON.
    """
    with _written_aside(path) as aside:
        _save_tree(aside, {"params": params, "stats": stats}, {"meta": meta})


def load_model(path: Path) -> tuple[Any, Any, dict[str, Any]]:
    """Load the params, stats and meta that `save_model` wrote.

    Raises:
        SchemaError: The folder is missing, damaged or of another version.
    """
    tree, memory = _load_tree(path, None)
    params, stats = (tree.get(k) or {} for k in ("params", "stats"))
    return nnx.State(params), nnx.State(stats), memory["meta"]


def _save_tree(folder: Path, tree: Any, memory: dict[str, Any]) -> None:
    host = jax.tree.map(np.asarray, jax.device_get(tree))
    try:
        with _quiet(), _checkpointer() as checkpointer:
            checkpointer.save(folder.absolute() / "arrays", host)
    except ValueError as error:  # what TensorStore makes of a full disk
        if "No space left" not in str(error):
            raise
        raise OSError(errno.ENOSPC, "No space left on device") from error
    own = {"sha256": tree_digest(host), "layout": layout_digest(host)}
    memory = {"version": VERSION, **own, **memory}
    write_over(folder / "memory.json", json.dumps(memory, indent=1))


def _load_tree(folder: Path, abstract: Any) -> tuple[Any, dict[str, Any]]:
    """Read arrays and memory, and compare the arrays with their digest."""
    fix = "Remove the folder to go on without it."
    try:
        memory = json.loads((folder / "memory.json").read_text(encoding="utf-8"))
        version, digest, layout = (memory[k] for k in ("version", "sha256", "layout"))
    except (OSError, ValueError, KeyError) as error:
        if getattr(error, "errno", None) in PASSING:
            raise
        raise DamagedError(
            f"{folder} is no whole checkpoint: {error!r}. {fix}"
        ) from None
    if version != VERSION:
        raise SchemaError(
            f"{folder} has checkpoint version {version}; this program reads {VERSION}."
            " Upgrade Sightline, or start another run."
        )
    like = None if abstract is None else jax.tree.map(_on_host, abstract)
    if like is not None and layout_digest(like) != layout:
        raise SchemaError(f"{folder} holds another network than the one asked for.")
    try:
        with _quiet(), _checkpointer() as checkpointer:
            tree = checkpointer.restore(folder.absolute() / "arrays", like)
    except Exception as error:  # Orbax raises many kinds for a damaged file
        if isinstance(error, MemoryError) or getattr(error, "errno", 0) in PASSING:
            raise
        text = str(error).strip().splitlines()[:1]
        raise DamagedError(f"{folder} cannot be read: {text}. {fix}") from error
    # As text, block 10 comes before block 2, and the digest goes by the order.
    tree = _numbered(tree) if like is None else tree
    if tree_digest(tree) != digest:
        raise DamagedError(f"{folder} is damaged: its arrays changed. {fix}")
    return tree, memory


def _checkpointer() -> Any:
    import orbax.checkpoint as ocp

    if jax.process_count() == 1:
        return ocp.StandardCheckpointer()
    # Whoever writes or reads does so by itself: Orbax would wait for the others.
    own = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"p{own}"
    )
    return ocp.StandardCheckpointer(multiprocessing_options=options)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Orbax from logging the errors that we raise."""
    log = logging.getLogger("absl")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _on_host(leaf: Any) -> Any:
    # Orbax gives NumPy arrays back where it is shown NumPy arrays.
    return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)


def _key(entry: Any) -> str:
    for name in ("key", "idx", "name"):
        if hasattr(entry, name):
            return str(getattr(entry, name))
    return str(entry)


def _numbered(tree: Any) -> Any:
    """Turn text keys that are numbers back into the list indices that NNX uses."""
    if not isinstance(tree, dict):
        return tree
    return {
        int(k) if isinstance(k, str) and k.isdigit() else k: _numbered(v)
        for k, v in tree.items()
    }


def _name(epoch: int, step: int) -> str:
    return f"{epoch}.{step}" if step else str(epoch)


def _finished(folder: Path) -> list[tuple[int, int]]:
    """Return epoch and step of every checkpoint that is whole."""
    if not folder.is_dir():
        return []
    found = [re.fullmatch(r"(\d+)(?:\.(\d+))?", p.name) for p in folder.iterdir()]
    return [(int(each[1]), int(each[2] or 0)) for each in found if each]


def _discard(path: Path) -> None:
    # Renamed first: a removal that is cut short must not leave half a checkpoint.
    aside = path.with_name(f".{path.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _written_aside(final: Path) -> Iterator[Path]:
    aside = final.with_name(f".{final.name}.aside")
    with machine_errors(final):
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        try:
            yield aside
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        sync_tree(aside)
        if final.exists():
            _discard(final)
        aside.rename(final)
        sync(final.parent)
