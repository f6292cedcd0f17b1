"""A Prefect flow of a function of settings, so that form and shell take the same."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

from prefect import Flow

from data_contracts.config import Settings

Config = TypeVar("Config", bound=Settings)
Result = TypeVar("Result")


def as_flow(run_stages: Callable[[Config], Result], *, name: str) -> Flow[..., Result]:
    """Return a flow that takes the fields of the settings as its parameters.

    Prefect draws its form from a function's signature and the `Args:` of its docstring,
    so both are made of the settings here.

    Args:
        run_stages: What the flow does; its parameter `config` names the settings.
        name: Of the flow, and of the module's attribute that holds it.
    """
    hints = get_type_hints(run_stages)
    config: type[Config] = hints["config"]

    def stages(**sections: Any) -> Result:
        return run_stages(config(**sections))

    fields = config.model_fields
    required = inspect.Parameter.empty
    vars(stages)["__signature__"] = inspect.Signature(
        [
            inspect.Parameter(
                field,
                inspect.Parameter.KEYWORD_ONLY,
                default=required if info.is_required() else info.default,
                annotation=info.annotation,
            )
            for field, info in fields.items()
        ],
        return_annotation=hints["return"],
    )
    about = (inspect.getdoc(run_stages) or "").split("\n")[0]
    args = "\n".join(f"    {key}: {fields[key].description}" for key in fields)
    stages.__doc__ = f"{about}\n\nArgs:\n{args}\n"
    stages.__module__ = run_stages.__module__
    stages.__name__ = stages.__qualname__ = name
    return Flow(stages, name=name)


def run_flow(
    flow: Flow[..., Result], run_stages: Callable[[Config], Result], config: Config
) -> Result:
    """Run as a Prefect flow if a server is named, else in plain Python."""
    if not os.environ.get("PREFECT_API_URL"):
        return run_stages(config)
    result: Result = flow(
        **{key: getattr(config, key) for key in type(config).model_fields}
    )
    return result
