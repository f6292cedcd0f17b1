"""The exception tree.

    SightlineError
    ├── UsageError       exit 2: a setting, path or name that cannot be right
    │   ├── SourceError      the images or their manifest cannot be read
    │   └── SchemaError      a workspace or array that does not fit this version
    ├── ContractError    exit 3: the data broke a critical rule
    ├── GateError        exit 4: a model may not be promoted
    └── WorkspaceError   exit 1: the machine said no (disk full, no permission)
        └── MemoryShort      a step or a batch does not fit the device

Messages say the rule, what came, where, and what to do.
"""

from __future__ import annotations


class SightlineError(Exception):
    """Any error that Sightline raises on purpose."""

    exit_code = 1


class UsageError(SightlineError):
    """A setting, path or name that cannot be right."""

    exit_code = 2


class SourceError(UsageError):
    """Images or a manifest that cannot be read."""


class SchemaError(UsageError):
    """A workspace, dataset or array that does not fit this version."""


class ContractError(SightlineError):
    """Data that broke a critical rule; nothing was trained on it."""

    exit_code = 3


class GateError(SightlineError):
    """A model that may not be promoted."""

    exit_code = 4


class WorkspaceError(SightlineError):
    """The machine refused: disk full, no permission, a lock held by another run."""


class MemoryShort(WorkspaceError):
    """What was asked does not fit the memory of the device; less of it may."""
