"""The text of `sightline VERB --help`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from pydantic import BaseModel

from flows import values
from flows.leaves import Setting, item_of, leaves, section_of

COLUMNS = 100
WIDEST_KEY = 32


def help_text(model: type[BaseModel], verb: str, *, about: str = "") -> str:
    """List every setting of `model` by section: default, meaning, what is allowed."""
    settings = list(leaves(model))
    needed = "".join(f" {s.key}={s.key.upper()}" for s in settings if s.required)
    usage = (
        f"usage: sightline {verb}{needed} [key=value ...] [config=FILE.yaml] [--json]"
    )
    hang = " " * len("usage: sightline ")
    lines = textwrap.wrap(usage, COLUMNS, subsequent_indent=hang)
    lines += ["", *textwrap.wrap(f"{about}." if about else "", COLUMNS)]
    shown = {setting.key: _left(setting) for setting in settings}
    width = min(WIDEST_KEY, max((len(text) for text in shown.values()), default=0))
    for section, members in _sections(settings).items():
        lines += ["", _heading(model, section)]
        for setting in members:
            lines += _entry(shown[setting.key], setting, width)
    lines += ["", *_FOOT]
    return "\n".join(lines)


_FOOT = [
    "config=FILE.yaml reads settings from a file; key=value on the command line wins.",
    "--json prints one JSON object on standard output; all else goes to stderr.",
]


def _sections(settings: Iterable[Setting]) -> dict[str, list[Setting]]:
    found: dict[str, list[Setting]] = {"settings": []}
    for setting in settings:
        section = setting.key.rpartition(".")[0] or "settings"
        found.setdefault(section, []).append(setting)
    return {section: members for section, members in found.items() if members}


def _heading(model: type[BaseModel], section: str) -> str:
    about, inside = "", model
    for name in section.split("."):
        field = inside.model_fields.get(name)
        about = (field.description or "") if field else ""
        inside = (section_of(field.annotation) if field else None) or inside
    return f"{section}: {about}".rstrip()[:COLUMNS]


def _left(setting: Setting) -> str:
    if setting.required:
        return f"{setting.key} (required)"
    if item_of(setting.field.annotation):
        return f"{setting.key}.KEY=VALUE"
    return f"{setting.key}={values.show(setting.default)}"


def _entry(left: str, setting: Setting, width: int) -> list[str]:
    meaning = (setting.field.description or "").strip()
    bounds = values.allowed(setting.field)
    text = f"{meaning} [{bounds}]" if bounds != "text" else meaning
    room = COLUMNS - width - 4
    right = textwrap.wrap(text, room, break_on_hyphens=False) or [""]
    if len(left) > width:
        return [f"  {left}"[:COLUMNS], *(f"  {'':{width}}  {line}" for line in right)]
    first, *rest = right
    return [f"  {left:{width}}  {first}".rstrip()] + [
        f"  {'':{width}}  {line}" for line in rest
    ]
