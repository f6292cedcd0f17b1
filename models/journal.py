"""The append-only events of a model, and the state that they replay to."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from data_contracts.errors import SchemaError
from models.durable import append_line


class Action(StrEnum):
    """What can happen to a version."""

    REGISTERED = "registered"
    BLESSED = "blessed"
    REJECTED = "rejected"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    RETIRED = "retired"


@dataclass(frozen=True)
class Event:
    """One line of events.jsonl.

    Attributes:
        event: What happened.
        version: The version it happened to.
        before: Champion before; "from" on disk.
        to: Champion after.
        who: Who or what did it.
        when: ISO time, UTC.
        why: Reason.
        digest: SHA-256 of the version's gate.json, once it has one.
    """

    event: Action
    version: int
    before: int | None
    to: int | None
    who: str
    when: str
    why: str
    digest: str | None

    def record(self) -> dict[str, Any]:
        """Return the event as it lies on disk."""
        return {
            "event": str(self.event),
            "version": self.version,
            "from": self.before,
            "to": self.to,
            "who": self.who,
            "when": self.when,
            "why": self.why,
            "digest": self.digest,
        }


@dataclass
class State:
    """What a model's events amount to.

    Attributes:
        status: Version to the last of registered, blessed, rejected, retired.
        digests: Version to the digest of gate.json that blessed it.
        line: Champions up to the current one, less those that were rolled back.
        former: Every version that was ever champion.
    """

    status: dict[int, Action] = field(default_factory=dict)
    digests: dict[int, str | None] = field(default_factory=dict)
    line: list[int] = field(default_factory=list)
    former: set[int] = field(default_factory=set)

    @property
    def champion(self) -> int | None:
        """The current champion."""
        return self.line[-1] if self.line else None


def replay(events: Iterable[Event]) -> State:
    """Return the state after `events`."""
    state = State()
    for event in events:
        version = event.version
        if event.event in (Action.PROMOTED, Action.ROLLED_BACK):
            state.former.add(version)
            if event.event == Action.PROMOTED:
                state.line = [v for v in state.line if v != version]
            elif version in state.line:
                state.line = state.line[: state.line.index(version)]
            state.line.append(version)
            continue
        if state.status.get(version) == Action.RETIRED:
            continue
        state.status[version] = event.event
        if event.event == Action.BLESSED:
            state.digests[version] = event.digest
    return state


def read(folder: Path) -> list[Event]:
    """Return the events of a model; a last line torn by a crash does not count.

    Raises:
        SchemaError: Another line is not an event.
    """
    return _scan(folder)[0]


def append(folder: Path, event: Event) -> None:
    """Append one event, cutting off a torn last line. The caller holds the lock."""
    line = json.dumps(event.record(), ensure_ascii=True) + "\n"
    append_line(folder / "events.jsonl", line.encode(), keep=_scan(folder)[1])


def now() -> str:
    """Return the time as ISO text, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _scan(folder: Path) -> tuple[list[Event], int]:
    """Return the whole events and the number of bytes that they take."""
    path = folder / "events.jsonl"
    if not path.exists():
        return [], 0
    lines = re.findall(rb"[^\n]*\n|[^\n]+", path.read_bytes())
    events, size = [], 0
    for i, line in enumerate(lines, start=1):
        try:
            if not line.endswith(b"\n"):
                raise ValueError("torn line")
            events.append(_parse(line))
        except (ValueError, KeyError, TypeError) as error:
            if i == len(lines):
                break
            raise SchemaError(
                f"{path} line {i} is not an event ({error}). The file is only ever "
                "appended to; restore it from a copy."
            ) from error
        size += len(line)
    return events, size


def _parse(line: bytes) -> Event:
    """Return the event on one line."""
    found = json.loads(line)
    return Event(
        event=Action(found["event"]),
        version=int(found["version"]),
        before=found["from"],
        to=found["to"],
        who=found["who"],
        when=found["when"],
        why=found["why"],
        digest=found["digest"],
    )
