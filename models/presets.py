"""The networks by name, and what they ask for; free of JAX, so that settings may know.

Layers are in `backbones`, names of imported weights in `keymaps`.
"""

from __future__ import annotations

import dataclasses

from data_contracts.errors import UsageError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclasses.dataclass(frozen=True)
class Preset:
    """What a network asks for.

    Attributes:
        family: Module of `backbones`: resnet, convnext, mobilenet, vit.
        least: Side of the smallest images that leave more than one place to look at.
        stages: What `freeze` counts, besides the stem.
        schemes: Whose weights fit, by the name that `keymaps` gives them.
        embedding: Width of an embedding.
    """

    family: str
    least: int
    stages: int
    embedding: int
    schemes: tuple[str, ...] = ()


_TV, _ALL = ("torchvision", "timm", "huggingface"), ("timm", "huggingface")
_WIDTHS = {"atto": 320, "femto": 384, "pico": 512, "nano": 640, "tiny": 768}

PRESETS: dict[str, Preset] = {
    "small": Preset("resnet", 1, 4, 256),
    "resnet18": Preset("resnet", 1, 4, 512),
    "resnet18_tv": Preset("resnet", 32, 4, 512, _TV),
    "resnet34_tv": Preset("resnet", 32, 4, 512, _TV),
    "resnet50_tv": Preset("resnet", 32, 4, 2048, _TV),
    **{
        f"convnext_{size}": Preset("convnext", 32, 4, width, _TV)
        for size, width in _WIDTHS.items()
    },
    **{
        f"convnextv2_{size}": Preset("convnext", 32, 4, width, _ALL)
        for size, width in _WIDTHS.items()
    },
    "mobilenetv3_small": Preset("mobilenet", 32, 4, 1024, ("torchvision",)),
    "mobilenetv3_large": Preset("mobilenet", 32, 5, 1280, ("torchvision",)),
    "vit_tiny": Preset("vit", 32, 12, 192, _TV),
    "vit_small": Preset("vit", 32, 12, 384, _TV),
    "vit_base": Preset("vit", 32, 12, 768, _TV),
    "dinov2_small": Preset("vit", 28, 12, 384, _ALL),
    "dinov2_base": Preset("vit", 28, 12, 768, _ALL),
    "siglip_base": Preset("vit", 32, 12, 768, _ALL),
}


def preset_of(name: str) -> Preset:
    """Return what the network `name` asks for.

    Raises:
        UsageError: There is no such network.
    """
    if name not in PRESETS:
        raise UsageError(
            f"A backbone is one of {', '.join(PRESETS)}; came {name!r}. Pick one."
        )
    return PRESETS[name]


def side_problem(name: str, image_size: int) -> str:
    """Say why images are too small for the network `name`, "" if they are not."""
    least = preset_of(name).least
    if image_size >= least:
        return ""
    return (
        f"preset={name} needs images of {least} px at least; came"
        f" decode.image_size={image_size}. Set decode.image_size={least} or more, or"
        " preset=small"
    )


def check_side(name: str, image_size: int) -> None:
    """Refuse images that the network `name` would see nothing in.

    Raises:
        UsageError: They are smaller than its smallest.
    """
    if said := side_problem(name, image_size):
        raise UsageError(said)
