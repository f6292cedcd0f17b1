"""Put imported weights into a network: every tensor used, every parameter filled."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import jax
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from data_contracts.errors import SchemaError, UsageError
from models.backbones import Backbone
from models.backbones.vit import resampled
from models.keymaps import HEAD, Pixels, Scheme, schemes_of, split_name

Floats = NDArray[np.float32]
SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Imported:
    """Weights of others in our layout.

    Attributes:
        params: Parameters, as `fit(init=...)` takes them.
        stats: Running statistics of batch norms.
        scheme: Who named them.
        pixels: Mean and deviation of 0..1 pixels that such weights mostly expect.
        head: Whether the head came along; else it is fresh.
    """

    params: Any
    stats: Any
    scheme: str
    pixels: Pixels
    head: bool


def import_weights(
    model: Backbone, tensors: dict[str, NDArray[Any]], *, head: bool
) -> Imported:
    """Return the weights of `model` with those of `tensors`; `model` stays.

    Args:
        model: Network with fresh weights.
        tensors: By name, as `read_weights` gives them.
        head: Whether to take the head too, where it has as many classes.

    Raises:
        UsageError: The network has no import, or the names are of another family.
        SchemaError: A tensor has no place, another shape or type, or one is missing.
    """
    _, params, stats = nnx.split(model, nnx.Param, ...)
    trees = nnx.as_pure(params), nnx.as_pure(stats)
    leaves, structure = jax.tree_util.tree_flatten_with_path(trees)
    fresh = {_name(path): leaf for path, leaf in leaves}
    scheme = find_scheme(model, tensors)
    found = _placed(tensors, scheme.rules(model.shape), fresh)
    taken = head and all(
        found[name].shape == fresh[name].shape if name in found else False
        for name in fresh
        if name.startswith(f"{HEAD}/")
    )
    if not taken:
        found = {k: v for k, v in found.items() if not k.startswith(f"{HEAD}/")}
    _check(found, fresh, head=taken)
    merged = [found.get(_name(path), np.asarray(leaf)) for path, leaf in leaves]
    params, stats = structure.unflatten(merged)
    return Imported(params, stats, scheme.name, scheme.pixels, taken)


def find_scheme(model: Backbone, names: Any) -> Scheme:
    """Return the naming scheme that `names` follow.

    Raises:
        UsageError: There is none for this network.
    """
    schemes = schemes_of(model.shape)
    if not schemes:
        raise UsageError(
            "This network is Sightline's own, and no one else has weights for it. Start"
            " it from one of your versions (init=NAME@VERSION), or take another preset."
        )
    for scheme in schemes:
        if any(re.fullmatch(scheme.sign, name) for name in names):
            return scheme
    first = ", ".join(sorted(names)[:3])
    raise UsageError(
        f"These are not weights of this network as {_either(schemes)} names them; the"
        f" first tensors are {first}. Give the preset that the weights were made for."
    )


def _either(schemes: tuple[Scheme, ...]) -> str:
    return " or ".join(scheme.name for scheme in schemes)


def _placed(
    tensors: dict[str, NDArray[Any]], rules: Any, fresh: dict[str, Any]
) -> dict[str, Floats]:
    """Return the tensors by our names and in our layout, joined where ours are one."""
    found: dict[str, Floats] = {}
    parts: dict[str, dict[int, Floats]] = {}
    problems = []
    for name, tensor in tensors.items():
        target, kind = _target(name, rules)
        if target is None:
            problems.append(f"{name} has no place in this network")
        elif target:
            own, _, part = _numbered(target).partition("#")
            laid = _laid(name, tensor, kind, like=fresh.get(own))
            if part and int(part) not in parts.get(own, {}):
                parts.setdefault(own, {})[int(part)] = laid
            elif part or own in found:
                problems.append(f"{name} fills {own}, which another tensor has filled")
            else:
                found[own] = laid
    _raise(problems)
    for own, pieces in parts.items():
        shapes = [piece.shape for _, piece in sorted(pieces.items())]
        if len({shape[:-1] for shape in shapes}) > 1 or () in shapes:
            _raise([f"the parts of {own} are {shapes}, which do not join"])
        found[own] = np.concatenate([pieces[k] for k in sorted(pieces)], axis=-1)
    return found


def _target(name: str, rules: Any) -> tuple[str | None, str]:
    """Return our name of a tensor ("" for one not needed, None if there is none)."""
    for pattern, target, kind in rules:
        if hit := split_name(name, pattern, kind):
            match, own = hit
            if kind == "drop" or name.endswith("num_batches_tracked"):
                return "", kind
            return match.expand(target) + (f"/{own}" if own else ""), kind
    return None, ""


def _numbered(target: str) -> str:
    """Move a part's number from the module to the end: a#0/kernel is a/kernel#0."""
    module, mark, rest = target.partition("#")
    if not mark:
        return target
    part, _, leaf = rest.partition("/")
    return f"{module}/{leaf}#{part}"


def _laid(name: str, tensor: NDArray[Any], kind: str, *, like: Any) -> Floats:
    """Return a tensor in the layout of ours, as float32.

    Raises:
        SchemaError: Its numbers are no floats, not finite, or have too many axes.
    """
    if tensor.dtype.kind != "f":
        raise SchemaError(
            f"Weights must be floats; {name} is {tensor.dtype}. Quantised files are not"
            " read: take the original."
        )
    with np.errstate(over="ignore"):
        values = tensor.astype(np.float32)
    if not np.isfinite(values).all():
        raise SchemaError(
            f"{name} holds numbers that are not finite. Fetch the file again."
        )
    squeezed = tuple(side for side in values.shape if side > 1)
    if kind in ("linear", "kernel") and values.ndim >= 2:
        # A 1x1 convolution is a dense layer.
        if values.shape[2:] not in ((), (1, 1)):
            raise SchemaError(f"{name} is {values.shape}; expected a dense layer.")
        return values.reshape(values.shape[:2]).T
    if values.ndim == 4 and kind == "conv":
        return values.transpose(2, 3, 1, 0)
    if kind == "table" and values.ndim > 1 and values.size:
        return _positions(values.reshape(-1, values.shape[-1]), like)
    if values.ndim > 1 and len(squeezed) <= 1:
        return values.reshape(-1)
    return values


def _positions(table: Floats, like: Any) -> Floats:
    """Fit positions that were learnt for another square grid."""
    if like is None or table.shape[1] != like.shape[1] or len(table) == len(like):
        return table
    extra = int(len(like) - round(len(like) ** 0.5) ** 2 != 0)
    for rows in (len(table), len(like)):
        if round((rows - extra) ** 0.5) ** 2 != rows - extra:
            return table
    side = round((len(like) - extra) ** 0.5)
    return np.asarray(
        resampled(jax.numpy.asarray(table), grid=(side, side), extra=extra)
    )


def _check(found: dict[str, Floats], fresh: dict[str, Any], *, head: bool) -> None:
    """Refuse what has no place, another shape, or is missing.

    Raises:
        SchemaError: Names of the first tensors concerned.
    """
    problems = [
        f"{name} is not part of this network"
        if name not in fresh
        else f"{name} is {value.shape}, this network's is {fresh[name].shape}"
        for name, value in found.items()
        if name not in fresh or value.shape != fresh[name].shape
    ]
    needed = {n for n in fresh if head or not n.startswith(f"{HEAD}/")}
    problems += [f"{name} is missing" for name in sorted(needed - set(found))]
    _raise(problems)


def _raise(problems: list[str]) -> None:
    if problems:
        more = len(problems) - SHOWN
        raise SchemaError(
            "These weights do not fit the network: "
            + "; ".join(problems[:SHOWN])
            + (f"; and {more} more" if more > 0 else "")
            + ". Give the preset that they were made for."
        )


def _name(path: Any) -> str:
    """Return a leaf's name without the half of the state that it is in."""
    return "/".join(str(getattr(e, "key", getattr(e, "idx", e))) for e in path[1:])
