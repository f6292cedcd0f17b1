"""How a page is made of its template: one HTML file that loads nothing else."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from tasks.gallery import data_uri
from tasks.wording import count, duration, interval, number, printable


@functools.cache
def environment() -> Any:
    """Return the environment of the templates, which escapes everything it shows."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"number": number, "count": count, "duration": duration}
    made.globals |= {"interval": interval, "uri": data_uri}
    return made


def render_page(
    name: str, /, *, filters: dict[str, Any] | None = None, **view: Any
) -> str:
    """Return the template `name` of this folder, filled.

    Args:
        name: File of the template, most of which extend `page.html`.
        filters: Filters of its own.
        view: What it shows.
    """
    own = environment().overlay()
    own.filters = own.filters | (filters or {})
    text: str = own.get_template(name).render(**view)
    return text
