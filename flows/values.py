"""Read the text of one setting as its type, and say in words what a type allows."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Sequence
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

YES = ("yes", "true", "on", "1")
NO = ("no", "false", "off", "0")
NOTHING = ("none", "null", "~", "")


def read(text: str | list[str], kind: Any) -> Any:
    """Return `text` as a value of the type `kind`.

    Raises:
        ValueError: if it cannot be; the message may suggest a close match.
    """
    origin, members = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return read(text, members[0])
    if origin in (Union, types.UnionType):
        return _read_union(text, members)
    if origin in (list, tuple, set, frozenset) or kind in (list, tuple, set):
        item = members[0] if members else str
        if models_in(item):
            return _read_models(text)
        return [read(part, item) for part in _split(text)]
    if isinstance(text, list):
        raise ValueError("a list came where one value belongs")
    if origin is Literal or (isinstance(kind, type) and issubclass(kind, Enum)):
        return _read_choice(text, choices(kind))
    if kind in (bool, int, float):
        return {bool: _read_bool, int: _read_int, float: _read_float}[kind](text)
    return Path(text) if kind is Path else text


def choices(kind: Any) -> dict[str, Any]:
    """Return the members of an enum or Literal by the text that names them."""
    if get_origin(kind) is Literal:
        return {show(value): value for value in get_args(kind)}
    return {show(value): value for value in kind}


def show(value: Any) -> str:
    """Return `value` as someone would type it on the command line."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, BaseModel):
        return json.dumps(_told(value))
    if isinstance(value, (list, tuple, set, frozenset)):
        if any(isinstance(item, BaseModel) for item in value):
            return f"[{', '.join(map(show, value))}]"
        return ",".join(show(item) for item in value)
    short = f"{value:g}" if isinstance(value, float) else ""
    return short if short and float(short) == value else str(value)


def allowed(field: FieldInfo) -> str:
    """Say in words what the field accepts, such as 'a whole number, 1 to 1000'."""
    words, bounds = kind_words(field.annotation), bounds_words(field)
    if bounds and words.endswith(" or none"):
        return f"{words.removesuffix(' or none')}, {bounds}, or none"
    return f"{words}, {bounds}" if bounds else words


def kind_words(kind: Any) -> str:
    """Say in words what kind of value a type is."""
    origin, members = get_origin(kind), get_args(kind)
    if origin is Annotated:
        bounds = bounds_words(FieldInfo.from_annotation(kind))
        return ", ".join(filter(None, [kind_words(members[0]), bounds]))
    if origin in (Union, types.UnionType):
        return " or ".join(kind_words(member) for member in members)
    if origin is dict:
        return f"{kind_words(members[1])} for each KEY"
    if origin in (list, tuple, set, frozenset):
        if tags := [tag for model in models_in(members[0]) for tag in _tags(model)]:
            first, _ = tags[0]
            known = ", ".join(tag for _, tag in tags)
            return f"a list such as [{{{first}: {tags[0][1]}}}], each one of {known}"
        return f"a list (a,b,c), each {kind_words(members[0])}"
    if origin is Literal or (isinstance(kind, type) and issubclass(kind, Enum)):
        return f"one of {', '.join(choices(kind))}"
    words = {bool: "yes or no", int: "a whole number", float: "a number"}
    return words.get(kind, "none" if kind in (None, type(None)) else "text")


def bounds_words(field: FieldInfo) -> str:
    """Say in words which bounds a field has, such as 'above 0, at most 1'."""
    limits: dict[str, Any] = {}
    for rule in field.metadata:
        for name in ("ge", "gt", "le", "lt", "multiple_of", "min_length", "max_length"):
            if getattr(rule, name, None) is not None:
                limits[name] = show(getattr(rule, name))
        if getattr(rule, "pattern", None):
            limits["pattern"] = getattr(rule.pattern, "pattern", rule.pattern)
    if "ge" in limits and "le" in limits:
        limits["range"] = f"{limits.pop('ge')} to {limits.pop('le')}"
    words = {
        "range": "{}",
        "ge": "at least {}",
        "gt": "above {}",
        "le": "at most {}",
        "lt": "below {}",
        "multiple_of": "a multiple of {}",
        "min_length": "length at least {}",
        "max_length": "length at most {}",
        "pattern": "like {}",
    }
    return ", ".join(
        words[name].format(limits[name]) for name in words if name in limits
    )


def models_in(kind: Any) -> list[type[BaseModel]]:
    """Return the settings models that the items of a list may be."""
    origin, members = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return models_in(members[0])
    if origin in (Union, types.UnionType):
        return [model for member in members for model in models_in(member)]
    return [kind] if isinstance(kind, type) and issubclass(kind, BaseModel) else []


def _tags(model: type[BaseModel]) -> list[tuple[str, str]]:
    """Return the fields that say which model is meant, and their value."""
    return [
        (name, str(field.default))
        for name, field in model.model_fields.items()
        if get_origin(field.annotation) is Literal
    ]


def _told(model: BaseModel) -> dict[str, Any]:
    """Return the fields of a model that must be written to get it again."""
    tags = {name for name, _ in _tags(type(model))}
    usual = {name: field.default for name, field in type(model).model_fields.items()}
    return {
        name: value
        for name, value in model.model_dump(mode="json").items()
        if name in tags or value != usual[name]
    }


def _read_models(text: str | list[str]) -> list[dict[str, Any]]:
    """Read a list of sections, in YAML's brackets; scalars stay text."""
    import yaml

    try:
        found = yaml.load(text, yaml.BaseLoader) if isinstance(text, str) else text
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML: {getattr(error, 'problem', '')}") from error
    found = [found] if isinstance(found, dict) else found or []
    if not all(isinstance(item, dict) for item in found):
        raise ValueError("each item stands in braces, with its keys")
    return found


def _split(text: str | list[str]) -> Sequence[str]:
    if isinstance(text, list):
        return text
    inner = text[1:-1] if text[:1] == "[" and text[-1:] == "]" else text
    return [part.strip() for part in inner.split(",")] if inner.strip() else []


def _read_union(text: str | list[str], members: Sequence[Any]) -> Any:
    # Text fits every string, so it is tried last; an enum's own "none" comes first.
    late = {type(None): 1, str: 2}
    problem = ValueError("it fits none of the types")
    for kind in sorted(members, key=lambda member: late.get(member, 0)):
        if kind is type(None):
            if isinstance(text, str) and text.lower() in NOTHING:
                return None
            continue
        try:
            return read(text, kind)
        except ValueError as error:
            problem = error
    raise problem


def _read_choice(text: str, known: dict[str, Any]) -> Any:
    if text in known:
        return known[text]
    close = get_close_matches(text.lower(), [name.lower() for name in known], n=1)
    found = [name for name in known if close and name.lower() == close[0]]
    raise ValueError(f"did you mean '{found[0]}'?" if found else "")


def _read_bool(text: str) -> bool:
    if text.lower() not in YES + NO:
        raise ValueError("")
    return text.lower() in YES


def _read_int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        number = float(text) if _is_number(text) else math.nan
    if not number.is_integer():
        raise ValueError("")
    return int(number)


def _read_float(text: str) -> float:
    if not _is_number(text):
        raise ValueError("")
    return float(text)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
