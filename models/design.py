"""Choices beyond a preset: attention, pools, kernels, and views at test time.

Free of JAX, so that settings may know. Layers are in `attention`, `spatial` and
`pyramid` of `backbones`, views in `scales`. The defaults are the plain networks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, Self

from data_contracts.errors import SchemaError
from models.presets import PRESETS, preset_of

# Choices that bring layers of their own.
LAYERS = ("attention", "positions", "pool", "pyramid", "kernels")
# Choices of how a finished network is asked, which change no training.
VIEWS = ("test_scales", "test_flip")


@dataclasses.dataclass(frozen=True)
class Design:
    """What a network has and does beside its preset.

    Attributes:
        attention: none, se, eca, cbam, or heads (in the last stage), see `attention`.
        positions: How heads know places: relative or absolute.
        pool: "own" is the preset's: the mean of the last map, a transformer's token;
            "attention" weighs places by a learnt query.
        pyramid: Whether the embedding has pooled maps of all stages too.
        kernels: "single", or "parallel" ones of several sizes, see `spatial`.
        drop_path: Chance that an image skips the last block in training; earlier
            blocks are skipped less (stochastic depth, arXiv 1603.09382).
        dropout: Share of the embedding dropped in training.
        test_scales: Sides that an image is seen at once trained, shares of its own.
        test_flip: Whether it is seen mirrored too.
    """

    attention: str = "none"
    positions: str = "relative"
    pool: str = "own"
    pyramid: bool = False
    kernels: str = "single"
    drop_path: float = 0.0
    dropout: float = 0.0
    test_scales: tuple[float, ...] = (1.0,)
    test_flip: bool = False

    @classmethod
    def of(cls, kept: dict[str, Any] | None) -> Self:
        """Return the design that a model's meta holds; None is of an older model.

        Raises:
            SchemaError: It has choices that this version does not know.
        """
        values = dict(kept or {})
        known = {field.name for field in dataclasses.fields(cls)}
        if strange := sorted(values.keys() - known):
            raise SchemaError(
                f"This model's network has {strange[0]}, which this version of"
                " Sightline does not know. Use the version that trained it."
            )
        if "test_scales" in values:
            values["test_scales"] = tuple(values["test_scales"])
        return cls(**values)

    @property
    def layers(self) -> dict[str, Any]:
        """The choices that bring layers, less those at their defaults."""
        return self._changed(LAYERS)

    @property
    def views(self) -> dict[str, Any]:
        """The choices of views at test time, less those at their defaults."""
        return self._changed(VIEWS)

    def _changed(self, names: tuple[str, ...]) -> dict[str, Any]:
        found = {name: getattr(self, name) for name in names}
        return {k: v for k, v in found.items() if v != getattr(PLAIN, k)}


PLAIN = Design()

_MAPS = {"pool": ("own", "attention"), "pyramid": (False, True)}
# What a family takes, besides the defaults; dropout and views suit all.
TAKES: dict[str, dict[str, tuple[Any, ...]]] = {
    "resnet": {
        "attention": ("none", "se", "eca", "cbam", "heads"),
        "kernels": ("single", "parallel"),
        **_MAPS,
    },
    "convnext": {"attention": ("none", "se", "eca", "cbam"), **_MAPS},
    "mobilenet": _MAPS,
    "vit": {"pool": ("own", "attention")},
}
SKIPPING = ("resnet", "convnext", "vit")


def design_problem(preset: str, design: Design) -> str:
    """Say why the network `preset` cannot have `design`, "" if it can."""
    family = preset_of(preset).family
    takes = dict(TAKES[family])
    if preset == "siglip_base":  # whose own pool is attention already
        takes["pool"] = ("own",)
    for name in ("attention", "pool", "pyramid", "kernels"):
        own, asked = getattr(PLAIN, name), getattr(design, name)
        allowed = takes.get(name, (own,))
        if asked not in allowed:
            others = [of for of in TAKES if asked in TAKES[of].get(name, ())]
            return (
                f"preset={preset} takes {name}={_either(allowed)}; came"
                f" {name}={_said(asked)}. Leave {name} out, or take another preset,"
                f" such as {_first_of(others)}"
            )
    if design.drop_path and family not in SKIPPING:
        return (
            f"preset={preset} skips no blocks; came drop_path={design.drop_path:g}."
            " Leave drop_path out, or take another preset, such as"
            f" {_first_of(SKIPPING)}"
        )
    if design.positions != PLAIN.positions and design.attention != "heads":
        return (
            f"positions={design.positions} is how attention=heads knows places; came"
            f" attention={design.attention}. Leave positions out"
        )
    return ""


def _first_of(families: Iterable[str]) -> str:
    """Name one preset of each family."""
    names = {preset.family: name for name, preset in reversed(PRESETS.items())}
    return " or ".join(names[family] for family in families)


def _either(values: tuple[Any, ...]) -> str:
    return " or ".join(map(_said, values))


def _said(value: Any) -> str:
    return {True: "yes", False: "no"}.get(value, str(value))


def views_problem(preset: str, design: Design, image_size: int) -> str:
    """Say why the network cannot see images at `test_scales`, "" if it can."""
    least, smallest = preset_of(preset).least, min(design.test_scales)
    if design.test_scales == PLAIN.test_scales or smallest * image_size >= least:
        return ""
    return (
        f"preset={preset} needs images of {least} px at least; test_scales shows"
        f" {smallest:g} of {image_size} px. Leave small scales out, or raise"
        " decode.image_size"
    )
