"""The settings of a flow, flattened to dotted keys."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo


class Setting(NamedTuple):
    """One leaf of a settings model, under its dotted key."""

    key: str
    field: FieldInfo
    default: Any
    required: bool


class Given(NamedTuple):
    """One value that someone gave, and where; a mapping has no text."""

    text: str | list[str] | None
    where: str


def leaves(
    model: type[BaseModel],
    prefix: str = "",
    instance: BaseModel | None = None,
    *,
    given: bool = False,
) -> Iterator[Setting]:
    """List the leaf settings of `model`, sections flattened to dotted keys.

    Args:
        model: Settings to list.
        prefix: Put before every key.
        instance: Where values come from; else the defaults.
        given: Whether a section that `instance` switched off is a leaf.
    """
    for name, field in model.model_fields.items():
        default = (
            getattr(instance, name)
            if instance is not None
            else field.get_default(call_default_factory=True)
        )
        section = section_of(field.annotation)
        if section is None or (given and default is None):
            required = field.is_required() and instance is None
            yield Setting(prefix + name, field, default, required)
        else:
            inner = default if isinstance(default, section) else None
            yield from leaves(section, f"{prefix}{name}.", inner, given=given)


def item_of(kind: Any) -> Any:
    """Return the type of a mapping's values, or None if a field is no mapping."""
    return get_args(kind)[1] if get_origin(kind) is dict else None


def section_of(kind: Any) -> type[BaseModel] | None:
    """Return the settings model that a field nests, if it nests one."""
    if get_origin(kind) in (Union, types.UnionType):
        found = [section_of(member) for member in get_args(kind)]
        return next((member for member in found if member is not None), None)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    return None
