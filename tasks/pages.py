"""How a page is made of its template: one HTML file that loads nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.wording import count, duration, interval, number, printable


def render_page(
    name: str, /, *, filters: dict[str, Any] | None = None, **view: Any
) -> str:
    """Return the template `name` of this folder, filled; what it shows is escaped.

    Args:
        name: File of the template.
        filters: Filters of its own.
        view: What it shows.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "count": count, "duration": duration}
    environment.filters |= filters or {}
    environment.globals |= {"interval": interval}
    text: str = environment.get_template(name).render(**view)
    return text
