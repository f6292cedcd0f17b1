"""Read settings from a YAML file, every value with its line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml
from pydantic import BaseModel

from flows.leaves import Given, item_of, section_of


def read_yaml(
    path: Path, model: type[BaseModel], problems: list[str]
) -> dict[str, Given]:
    """Return the settings of a YAML file by dotted key; add errors to `problems`.

    Scalars stay text, so that `no` and `1e4` mean what they do on the command line.
    """
    try:
        loader = yaml.SafeLoader(path.read_text("utf-8"))
        root = loader.get_single_node()
    except yaml.YAMLError as error:
        problems.append(_yaml_problem(path, error))
        return {}
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        problems.append(f"config='{path}' cannot be read: {reason}")
        return {}
    if root is None:
        return {}
    if not _is_mapping(root):
        problems.append(f"{path}:1: expected 'key: value' lines at the top of the file")
        return {}
    found: dict[str, Given] = {}
    for key, node in _walk(root, model, "", path, problems):
        where = f"{path}:{node.start_mark.line + 1}: "
        found[key] = Given(_node_text(node), where)
    return found


def _walk(
    node: yaml.Node,
    model: type[BaseModel] | None,
    prefix: str,
    path: Path,
    problems: list[str],
) -> Iterator[tuple[str, yaml.Node]]:
    seen: set[str] = set()
    for key_node, value_node in node.value:
        name = str(key_node.value)
        where = f"{path}:{key_node.start_mark.line + 1}:"
        if name in seen:
            problems.append(f"{where} '{prefix}{name}' is given twice; keep one")
            continue
        seen.add(name)
        field = model.model_fields.get(name) if model else None
        section = section_of(field.annotation) if field else None
        if section is not None and _is_mapping(value_node):
            yield from _walk(value_node, section, f"{prefix}{name}.", path, problems)
        elif field and item_of(field.annotation) and _is_mapping(value_node):
            yield from _walk(value_node, None, f"{prefix}{name}.", path, problems)
        else:
            yield prefix + name, value_node


def _is_mapping(node: yaml.Node) -> bool:
    return isinstance(node, yaml.MappingNode)


def _node_text(node: yaml.Node) -> str | list[str] | None:
    if isinstance(node, yaml.SequenceNode):
        if any(_is_mapping(item) for item in node.value):
            return str(yaml.serialize(node))
        # Not deeper: an anchor may hold itself.
        scalar = yaml.ScalarNode
        return [i.value if isinstance(i, scalar) else "[...]" for i in node.value]
    return str(node.value) if isinstance(node, yaml.ScalarNode) else None


def _yaml_problem(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or str(error).splitlines()[0]
    place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
    return f"{path}{place}: not valid YAML: {reason}"
