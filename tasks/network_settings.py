"""Settings of what a network has beside its preset; they mirror `models/design.py`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from data_contracts.config import Settings
from models.design import LAYERS, PLAIN, VIEWS, Design, design_problem


class Attention(StrEnum):
    """What a convolutional network attends by."""

    none = "none"
    se = "se"
    eca = "eca"
    cbam = "cbam"
    heads = "heads"


class Positions(StrEnum):
    """How heads know places."""

    relative = "relative"
    absolute = "absolute"


class Pool(StrEnum):
    """What makes an embedding of the last map."""

    own = "own"
    attention = "attention"


class Kernels(StrEnum):
    """What a block looks at its map with."""

    single = "single"
    parallel = "parallel"


Scale = Annotated[float, Field(ge=0.25, le=2)]


class NetworkSettings(Settings):
    """Attention, several scales, and what is skipped in training."""

    attention: Attention = Field(
        Attention(PLAIN.attention),
        description="Weigh channels (se, eca), places too (cbam), or let places of the"
        " last stage attend to each other (heads).",
    )
    positions: Positions = Field(
        Positions(PLAIN.positions), description="How heads know places."
    )
    pool: Pool = Field(
        Pool(PLAIN.pool),
        description="What pools the last map: the preset's own way, or a learnt query.",
    )
    pyramid: bool = Field(
        PLAIN.pyramid, description="Put pooled maps of all stages into the embedding."
    )
    kernels: Kernels = Field(
        Kernels(PLAIN.kernels), description="One size of kernel, or 1, 3 and 5 at once."
    )
    drop_path: float = Field(
        PLAIN.drop_path,
        ge=0,
        le=0.9,
        description="Chance to skip the last block in training; earlier ones less.",
    )
    dropout: float = Field(
        PLAIN.dropout, ge=0, le=0.9, description="Share of the embedding left out."
    )
    test_scales: tuple[Scale, ...] = Field(
        PLAIN.test_scales,
        min_length=1,
        max_length=5,
        description="Sides that a trained network sees an image at, shares of its own.",
    )
    test_flip: bool = Field(
        PLAIN.test_flip, description="Let it see each image mirrored too."
    )

    @model_validator(mode="after")
    def _each_scale_once(self) -> Self:
        if len(set(self.test_scales)) < len(self.test_scales):
            raise ValueError(
                "test_scales counts one scale twice; came"
                f" {','.join(f'{s:g}' for s in self.test_scales)}. Name each once"
            )
        return self

    @property
    def design(self) -> Design:
        """What these settings ask for."""
        return Design.of(self.model_dump(mode="json"))

    def without_views(self) -> Self:
        """Return the part that training depends on."""
        return self.model_copy(update={name: getattr(PLAIN, name) for name in VIEWS})


def check_network(preset: str, network: NetworkSettings, *, foreign: str = "") -> None:
    """Raise ValueError where a preset, a design and a start do not go together.

    Args:
        preset: The network.
        network: The settings.
        foreign: Weights of others that training starts from.
    """
    design = network.design
    if said := design_problem(preset, design):
        raise ValueError(said)
    if foreign and design.layers:
        raise ValueError(
            f"init={foreign} holds weights of a plain {preset}; came"
            f" {told(design.layers)}, whose layers it lacks. Leave that out, or start"
            " from a version of yours that has it (init=NAME@VERSION)"
        )


def told(layers: dict[str, Any]) -> str:
    """Name choices as one would type them."""
    said = {True: "yes", False: "no"}
    named = (f"{name}={said.get(value, value)}" for name, value in layers.items())
    return " ".join(named) or "none of attention, pool, pyramid and kernels"


def like_champion(given: NetworkSettings, kept: dict[str, Any]) -> dict[str, Any]:
    """Return a champion's network with what an update gives of its own.

    Args:
        given: Settings of the update.
        kept: The champion's, as JSON; empty if it is older than these.

    Raises:
        ValueError: The update asks for other layers, which weights cannot follow.
    """
    own = given.model_dump(mode="json", exclude_unset=True)
    known = NetworkSettings.model_validate(kept)
    merged = NetworkSettings.model_validate(known.model_dump(mode="json") | own)
    for name in LAYERS:
        if getattr(merged, name) != getattr(known, name):
            raise ValueError(
                f"an update learns on with the champion's layers, which have"
                f" {told({name: getattr(known, name)})}; came"
                f" {told({name: getattr(merged, name)})}. Leave {name} out, or train"
                " anew: sightline train"
            )
    return merged.model_dump(mode="json")
