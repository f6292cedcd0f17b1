"""Imports point down only; each layer stays off what belongs to another."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BELOW = {
    "flows": {"flows", "tasks", "models", "data_contracts"},
    "tasks": {"tasks", "models", "data_contracts"},
    "serving": {"serving", "models", "data_contracts"},
    "models": {"models", "data_contracts"},
    "data_contracts": {"data_contracts"},
}
# An accelerator host has these and no more; two modules also read and write files.
MODELS_MAY_USE = {"jax", "jaxlib", "flax", "optax", "numpy"}
MODELS_ON_DISK = {"models.registry", "models.checkpoint"}
ON_DISK_MAY_USE = MODELS_MAY_USE | {"pydantic", "orbax"}
FLOWS_MAY_NOT_USE = {
    *("numpy", "jax", "flax", "optax", "scipy", "pandas", "pyarrow", "cv2"),
    *("zarr", "icechunk", "dask", "orbax"),
}

Sources = Mapping[str, str]


def read_sources() -> dict[str, str]:
    found = [path for layer in BELOW for path in (ROOT / layer).rglob("*.py")]
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text("utf-8")
        for path in found
    }


def imports(module: str, source: str, *, at_once: bool = False) -> Iterator[str]:
    """Every module that `source` imports: `at_once`, or also inside functions."""
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        node = pending.pop()
        if at_once and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        pending.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = module.rsplit(".", node.level)[0] if node.level else ""
            base = ".".join(filter(None, [parent, node.module]))
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def violations(sources: Sources) -> list[str]:
    """Say each import that the layering forbids."""
    found = set()
    for module, source in sources.items():
        layer = module.partition(".")[0]
        for name in imports(module, source):
            top = name.partition(".")[0]
            if top in BELOW and top not in BELOW[layer]:
                found.add(f"{module} imports {top}: arrows point down only")
            if layer == "flows" and top in FLOWS_MAY_NOT_USE:
                found.add(f"{module} imports {top}: flows never touch an array")
    return sorted(found) + models_violations(sources)


def models_violations(sources: Sources) -> list[str]:
    """Say each library that a module of `models` pulls in and may not."""
    found = []
    for module in (name for name in sources if name.startswith("models")):
        may = ON_DISK_MAY_USE if module in MODELS_ON_DISK else MODELS_MAY_USE
        for name in sorted(libraries(module, sources) - may):
            found.append(f"{module} pulls in {name}: models run alone on a host")
    return found


def libraries(module: str, sources: Sources) -> set[str]:
    """Libraries that `module` uses, or that importing it needs through our own."""
    pending, seen, found = [module], set(), set()
    while pending:
        current = pending.pop()
        seen.add(current)
        at_once = current != module
        for name in imports(current, sources[current], at_once=at_once):
            top = name.partition(".")[0]
            if name in sources and name not in seen:
                pending.append(name)
            elif top not in BELOW and top not in sys.stdlib_module_names:
                found.add(top)
    return found


def test_every_import_points_down():
    assert violations(read_sources()) == []


@pytest.mark.parametrize(
    ("module", "source", "said"),
    [
        ("tasks.clean", "import flows.train", "arrows point down only"),
        ("data_contracts.store", "def f():\n    from models import conv", "point down"),
        ("serving.app", "from tasks import report", "arrows point down only"),
        ("flows.train", "import numpy as np", "never touch an array"),
        ("flows.train", "def f():\n    import jax.numpy", "never touch an array"),
        ("models.conv", "import prefect", "run alone"),
        ("models.conv", "from orbax import checkpoint", "run alone"),
        ("models.registry", "import pandas", "run alone"),
    ],
)
def test_a_forbidden_import_is_found(module, source, said):
    (line,) = violations({module: source})
    assert module in line
    assert said in line


def test_a_library_pulled_in_through_another_module_is_found():
    sources = {
        "models.steps": "from data_contracts import config",
        "data_contracts.config": "import pydantic",
    }
    assert violations(sources) == [
        "models.steps pulls in pydantic: models run alone on a host"
    ]


def test_a_library_that_a_lower_module_imports_only_when_called_is_not_needed():
    sources = {
        "models.fit": "from models import checkpoint",
        "models.checkpoint": "def save():\n    import orbax.checkpoint",
    }
    assert violations(sources) == []


def test_disk_modules_may_use_orbax_and_relative_imports_resolve():
    sources = {"models.checkpoint": "import orbax.checkpoint\nfrom . import conv"}
    assert violations(sources) == []
    assert "models.conv" in imports("models.checkpoint", "from . import conv")
