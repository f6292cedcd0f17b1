"""Run a stage once: build on a branch, commit, publish by a tag."""

from __future__ import annotations

import datetime
import functools
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import icechunk
from pydantic import BaseModel

from data_contracts.config import digest
from data_contracts.dataset import SCHEMA_VERSION
from data_contracts.locks import exclusive
from data_contracts.references import DatasetRef
from data_contracts.store import (
    Dataset,
    Writer,
    find_stage,
    holds_dataset,
    open_repository,
    storage_errors,
)

log = logging.getLogger("sightline")

P = ParamSpec("P")
R = TypeVar("R")


def stage_task(
    *, retries: int = 0, limit: str | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function a Prefect task inside a flow run, and itself elsewhere.

    Arguments and results are references, small and typed; the digest tags are the
    cache, so Prefect's own is off. Only errors of the machine are retried.

    Args:
        retries: Further tries after an error of the machine.
        limit: Global concurrency limit to hold one slot of, where the server has it.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.lru_cache(maxsize=1)
        def as_task() -> Callable[P, R]:
            from prefect import Task
            from prefect.cache_policies import NO_CACHE

            return cast(
                "Callable[P, R]",
                Task(
                    holding(limit, function) if limit else function,
                    retries=retries,
                    retry_delay_seconds=2,
                    retry_condition_fn=_may_pass,
                    cache_policy=NO_CACHE,
                ),
            )

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            run = as_task() if in_flow_run() else function
            return run(*args, **kwargs)

        return call

    return decorate


def holding(limit: str, function: Callable[P, R]) -> Callable[P, R]:
    """Let `function` run only while it holds a slot of a global concurrency limit."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        from prefect.concurrency.sync import concurrency

        with concurrency(limit, occupy=1, strict=False):
            return function(*args, **kwargs)

    return run


def in_flow_run() -> bool:
    """Whether a Prefect flow run is calling."""
    context = sys.modules.get("prefect.context")
    return context is not None and context.FlowRunContext.get() is not None


def _may_pass(task: Any, run: Any, state: Any) -> bool:
    error = state.result(raise_on_failure=False)
    return isinstance(error, OSError | icechunk.IcechunkError)


@dataclass
class Build:
    """What a stage has in its hands while it builds."""

    session: icechunk.Session
    writer: Writer
    parent: Dataset | None

    def settle(self) -> None:
        """Commit what is written so far to the branch: only clean sessions fork."""
        branch = self.session.branch
        if branch is None or not self.session.has_uncommitted_changes:
            return
        self.session.commit("unfinished")
        repository = open_repository(self.writer.uri)
        self.session = repository.writable_session(branch)
        self.writer = Writer.of(self.session, self.writer.uri)


def run_stage(
    stage: str,
    build: Callable[[Build], None],
    *,
    uri: str,
    parent: DatasetRef | None,
    version: int,
    settings: BaseModel,
    inputs: str = "",
) -> DatasetRef:
    """Return the snapshot of this stage, building it if it does not exist.

    Args:
        stage: Name of the stage.
        build: Writes the stage's arrays; called at most once.
        uri: Folder of the dataset.
        parent: Snapshot to start from; None starts empty.
        version: Raised when the stage's code changes what it writes.
        settings: The stage's settings; part of its identity.
        inputs: Digest of what else the result depends on.

    Raises:
        WorkspaceError: Disk full or no permission.
    """
    identity = stage_identity(
        stage, parent=parent, version=version, settings=settings, inputs=inputs
    )
    with storage_errors(uri), exclusive(lock_of(uri), what=f"Dataset {uri}"):
        done = find_stage(uri, stage, identity=identity)
        if done is not None:
            log.info(
                "%-9s %s images, already done (%s)", stage, f"{done.n:,}", identity
            )
            return done
        start = time.monotonic()
        _build(stage, build, uri, parent, identity, settings, version)
        made = find_stage(uri, stage, identity=identity)
    assert made is not None
    log.info(
        "%-9s %s images in %.1f s (%s)",
        stage,
        f"{made.n:,}",
        time.monotonic() - start,
        identity,
    )
    return made


def stage_identity(
    stage: str,
    *,
    parent: DatasetRef | None,
    version: int,
    settings: BaseModel,
    inputs: str = "",
) -> str:
    """Return the digest that names a stage's result."""
    return digest(parent.digest if parent else "", stage, version, settings, inputs)


def find_head(uri: str, key: str) -> DatasetRef | None:
    """Return the newest snapshot of a line of ingests, named by `key`."""
    if not holds_dataset(uri):
        return None
    repository = open_repository(uri)
    branch = f"head-{key}"
    if branch not in repository.list_branches():
        return None
    snapshot = repository.lookup_branch(branch)
    *_, entry = Dataset.at(uri, snapshot).attributes["lineage"]
    return find_stage(uri, entry["stage"], identity=entry["digest"])


def set_head(ref: DatasetRef, key: str) -> None:
    """Make `ref` the newest snapshot of the line of ingests named by `key`."""
    with storage_errors(ref.uri), exclusive(lock_of(ref.uri), what=ref.uri):
        repository = open_repository(ref.uri)
        branch = f"head-{key}"
        if branch in repository.list_branches():
            repository.reset_branch(branch, ref.snapshot)
        else:
            repository.create_branch(branch, ref.snapshot)


def lock_of(uri: str) -> Path:
    """Return the lock file of the dataset at `uri`."""
    return Path(f"{uri}.lock")


def _build(
    stage: str,
    build: Callable[[Build], None],
    uri: str,
    parent: DatasetRef | None,
    identity: str,
    settings: BaseModel,
    version: int,
) -> None:
    repository = open_repository(uri, create=True)
    tag = f"{stage}-{identity}"
    base = parent.snapshot if parent else _empty(repository)
    if tag in repository.list_branches():  # left by a killed run
        repository.delete_branch(tag)
    repository.create_branch(tag, base)
    session = repository.writable_session(tag)
    before = Dataset(parent) if parent else None
    start = time.monotonic()
    work = Build(session, Writer.of(session, uri), before)
    build(work)
    entry: dict[str, Any] = {
        "stage": stage,
        "digest": identity,
        "version": version,
        "settings": settings.model_dump(mode="json"),
        "seconds": round(time.monotonic() - start, 3),
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    past = before.attributes.get("lineage", []) if before else []
    done = Writer.of(work.session, uri)
    done.annotate(schema_version=SCHEMA_VERSION, lineage=[*past, entry])
    snapshot = work.session.commit(stage, {"digest": identity})
    repository.create_tag(tag, snapshot)
    repository.delete_branch(tag)


def _empty(repository: icechunk.Repository) -> str:
    """Return the snapshot that every repository starts with."""
    *_, first = repository.ancestry(branch="main")
    return first.id
