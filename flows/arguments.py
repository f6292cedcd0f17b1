"""Turn `key=value` words and a YAML file into checked settings."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from data_contracts.errors import UsageError
from flows import values
from flows.config_file import read_yaml
from flows.leaves import Given, Setting, item_of, leaves, section_of

S = TypeVar("S", bound=BaseModel)
# Words that people use for a setting, where nothing is called that.
SPELLINGS = {"model": "preset", "optimiser": "optimizer"}


def parse(
    model: type[S], tokens: Sequence[str], *, environ: Mapping[str, str], verb: str = ""
) -> S:
    """Return the settings that `tokens` ask for, over those of `config=FILE.yaml`.

    Raises:
        UsageError: listing every unknown key, bad value and missing setting.
    """
    known = {setting.key: setting for setting in leaves(model)}
    given, problems = _read_tokens(tokens, known, verb)
    home = environ.get("HOME", "~")
    given = {key: _expand(value, home) for key, value in given.items()}
    if "config" in given:
        path = Path(str(given.pop("config").text))
        given = _under(given, read_yaml(path, model, problems))
    problems += _unknown(given, model, known, verb)
    chosen = _read_values(given, model, known, problems)
    settings = _build(model, chosen, known, problems, given)
    problems = list(dict.fromkeys(problems))
    if settings is None or problems:
        several = f"{len(problems)} settings to put right:\n  "
        raise UsageError((several if problems[1:] else "") + "\n  ".join(problems))
    return settings


def words(settings: BaseModel) -> list[str]:
    """Return the `key=value` words that give `settings`, less those of the defaults."""
    model = type(settings)
    usual = {setting.key: setting.default for setting in leaves(model, given=True)}
    found = []
    for key, field, value, _ in leaves(model, instance=settings, given=True):
        # A section that is off by default has no usual values: all of it is said.
        if key in usual and value == usual[key]:
            continue
        if item_of(field.annotation):
            items = value.items()
            found += [f"{key}.{name}={values.show(item)}" for name, item in items]
        else:
            found.append(f"{key}={values.show(value)}")
    return found


def _read_tokens(
    tokens: Sequence[str], known: Mapping[str, Setting], verb: str
) -> tuple[dict[str, Given], list[str]]:
    given: dict[str, Given] = {}
    problems: list[str] = []
    for token in tokens:
        key, sign, text = token.partition("=")
        key = _in_full(key, known)
        if token.startswith("-"):
            problems.append(_option_problem(token, known))
        elif not sign or not key:
            problems.append(_word_problem(token, known, verb))
        elif key in given:
            problems.append(f"'{key}' is given twice; keep one")
        else:
            given[key] = Given(text, "")
    return given, problems


def _in_full(key: str, known: Mapping[str, Setting]) -> str:
    """Return the dotted key that `key` is the unmistakable last part of, or `key`."""
    if _setting_of(key, known):
        return key
    ends = _ending(key, known) or _ending(SPELLINGS.get(key, key), known)
    if len(ends) == 1:
        return ends[0]
    for owner in _owners(key):
        owners = [
            end for end in _ending(owner, known) if item_of(known[end].field.annotation)
        ]
        if len(owners) == 1:
            return owners[0] + key.removeprefix(owner)
    return key


def _owners(key: str) -> list[str]:
    """Return what `key` may be an item of, the longest first: a.b and a of a.b.c."""
    parts = key.split(".")
    return [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]


def _ending(key: str, known: Mapping[str, Setting]) -> list[str]:
    return [other for other in known if other.rsplit(".", 1)[-1] == key]


def _option_problem(token: str, known: Mapping[str, Setting]) -> str:
    name, _, text = token.lstrip("-").partition("=")
    close = _closest(name.replace("-", "_"), known)
    hint = f": write {close}={text or 'VALUE'}" if close else ""
    rule = "settings are given as key=value, without dashes"
    return f"unknown option '{token}'; {rule}{hint}"


def _word_problem(token: str, known: Mapping[str, Setting], verb: str) -> str:
    looks_like_path = "/" in token or "." in token or os.path.exists(token)
    hint = ""
    if looks_like_path and "data" in known:
        hint = f"; did you mean data={token}?"
    elif close := _closest(token, known):
        hint = f"; did you mean {close}=VALUE?"
    return f"expected key=value, got '{token}'{hint}"


def _expand(value: Given, home: str) -> Given:
    # zsh and PowerShell leave `data=~/pictures` as it is; bash does not.
    if isinstance(value.text, str) and value.text.startswith("~/"):
        return value._replace(text=home + value.text[1:])
    return value


def _under(top: dict[str, Given], base: dict[str, Given]) -> dict[str, Given]:
    """Return `base` with `top` over it; a section switched off and then set is set."""
    kept = {
        key: value
        for key, value in base.items()
        if not any(other.startswith(f"{key}.") for other in top)
        and not any(key.startswith(f"{other}.") for other in top)
    }
    return kept | top


def _unknown(
    given: Mapping[str, Given],
    model: type[BaseModel],
    known: Mapping[str, Setting],
    verb: str,
) -> list[str]:
    problems = []
    for key, value in given.items():
        if _setting_of(key, known) or _optional_section(model, key):
            continue
        inside = [other for other in known if other.startswith(f"{key}.")]
        if inside:
            rule = "is a section; set what is in it, such as"
            problems.append(f"{value.where}'{key}' {rule} {inside[0]}=VALUE")
            continue
        near = _ending(key, known) or [_closest(key, known)]
        close = " or ".join(f"'{other}'" for other in near if other)
        hint = f" (did you mean {close}?)" if close else ""
        listed = f"settings are listed by `sightline {verb} --help`".replace("  ", " ")
        problems.append(f"{value.where}unknown setting '{key}'{hint}; {listed}")
    return problems


def _setting_of(key: str, known: Mapping[str, Setting]) -> Setting | None:
    """Return the setting that `key` gives a value, or one item of a mapping."""
    if key in known:
        return known[key]
    owners = (known[owner] for owner in _owners(key) if owner in known)
    return next((o for o in owners if item_of(o.field.annotation)), None)


def _optional_section(model: type[BaseModel], key: str) -> bool:
    """Tell whether `key` names a section that may be switched off with `none`."""
    name, _, rest = key.partition(".")
    field = model.model_fields.get(name)
    section = section_of(field.annotation) if field else None
    if field is None or section is None:
        return False
    if rest:
        return _optional_section(section, rest)
    return type(None) in get_args(field.annotation)


def _closest(key: str, known: Mapping[str, Setting]) -> str | None:
    if ends := _ending(key, known):
        return ends[0]
    near = get_close_matches(key, list(known), n=1, cutoff=0.6)
    if near:
        return near[0]
    last = {other.rsplit(".", 1)[-1]: other for other in reversed(list(known))}
    near = get_close_matches(key.rsplit(".", 1)[-1], list(last), n=1, cutoff=0.7)
    return last[near[0]] if near else None


def _read_values(
    given: Mapping[str, Given],
    model: type[BaseModel],
    known: Mapping[str, Setting],
    problems: list[str],
) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    for key, value in given.items():
        setting = _setting_of(key, known)
        if setting is None:
            if _optional_section(model, key):
                _switch_off(key, value, chosen, problems)
            continue
        try:
            _read_value(key, value, setting, chosen)
        except ValueError as error:
            problems.append(_bad_value(key, value, setting.field, str(error)))
    return chosen


def _read_value(
    key: str, value: Given, setting: Setting, chosen: dict[str, Any]
) -> None:
    item = item_of(setting.field.annotation)
    if item and key == setting.key:
        raise ValueError(f"give one item at a time: {key}.KEY=VALUE")
    if value.text is None:
        raise ValueError("a mapping came where one value belongs")
    if item:
        name = key.removeprefix(f"{setting.key}.")
        items = chosen.setdefault(setting.key, dict(setting.default or {}))
        items[name] = values.read(value.text, item)
    else:
        chosen[key] = values.read(value.text, setting.field.annotation)


def _switch_off(
    key: str, value: Given, chosen: dict[str, Any], problems: list[str]
) -> None:
    if value.text in values.NOTHING:
        chosen[key] = None
    else:
        rule = f"is a section; switch it off with {key}=none, or set what is in it"
        problems.append(f"{value.where}{key}={value.text}: '{key}' {rule}")


def _bad_value(key: str, value: Given, field: FieldInfo, hint: str = "") -> str:
    text = "{...}" if value.text is None else values.show(value.text)
    message = f"{value.where}{key}={text}: expected {values.allowed(field)}"
    return f"{message} ({hint})" if hint else message


def _build(
    model: type[S],
    chosen: Mapping[str, Any],
    known: Mapping[str, Setting],
    problems: list[str],
    given: Mapping[str, Given],
) -> S | None:
    try:
        return model.model_validate(_nest(model, chosen))
    except ValidationError as error:
        rejected = problems and set(given) - set(chosen)
        for detail in error.errors():
            key = ".".join(part for part in detail["loc"] if isinstance(part, str))
            if not (rejected and (key in rejected or key not in known)):
                problems.append(_explain(key, detail, known, given))
    return None


def _nest(
    model: type[BaseModel], chosen: Mapping[str, Any], prefix: str = ""
) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        key = prefix + name
        section = section_of(field.annotation)
        if key in chosen:
            nested[name] = chosen[key]
        elif section is not None and any(k.startswith(f"{key}.") for k in chosen):
            # A section's own default may differ from its class's: keep what it set.
            default = field.get_default(call_default_factory=True)
            kept = default.model_fields_set if isinstance(default, section) else ()
            base = {inner: getattr(default, inner) for inner in kept}
            nested[name] = base | _nest(section, chosen, f"{key}.")
    return nested


def _explain(
    key: str,
    detail: ErrorDetails,
    known: Mapping[str, Setting],
    given: Mapping[str, Given],
) -> str:
    setting = known.get(key) or known.get(key.rpartition(".")[0])
    whole = isinstance(detail["loc"][-1], str) if detail["loc"] else True
    if detail["type"] == "missing" and whole and setting is not None:
        meaning = (setting.field.description or values.allowed(setting.field)).rstrip(
            "."
        )
        return f"'{key}' is missing: give {key}=VALUE ({meaning})"
    reason = (
        detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    )
    if detail["type"] in ("value_error", "assertion_error") or setting is None:
        return f"{key}: {reason}" if key else reason
    value = given.get(setting.key, Given(values.show(detail["input"]), ""))
    return _bad_value(setting.key, value, setting.field)
