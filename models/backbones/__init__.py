"""Networks that turn images into embeddings and logits, one family a file.

Each has `features(x)` (maps by stride), `embed(x)` (n d), a call that gives logits
(n classes), a `head`, and `part_of(path)`, which says how deep a parameter sits.
"""

import dataclasses
from typing import Any

from flax import nnx

from data_contracts.errors import UsageError
from models import presets
from models.backbones import convnext, mobilenet, resnet, vit
from models.backbones.convnext import ConvNeXt
from models.backbones.mobilenet import MobileNet
from models.backbones.resnet import Block, ResNet, Shape
from models.backbones.vit import VisionTransformer
from models.design import PLAIN, Design, design_problem

__all__ = [
    "PRESETS",
    "Backbone",
    "Block",
    "ResNet",
    "Shape",
    "build",
    "create_model",
    "kept_model",
    "shape_of",
]

Backbone = ResNet | ConvNeXt | MobileNet | VisionTransformer
PRESETS = tuple(presets.PRESETS)
_FAMILIES = {
    "resnet": (resnet.SHAPES, ResNet),
    "convnext": (convnext.SHAPES, ConvNeXt),
    "mobilenet": (mobilenet.SHAPES, MobileNet),
    "vit": (vit.SHAPES, VisionTransformer),
}
_CLASSES = {
    resnet.Shape: ResNet,
    convnext.Shape: ConvNeXt,
    mobilenet.Shape: MobileNet,
    vit.Shape: VisionTransformer,
}


def shape_of(preset: str, *, image_size: int) -> Any:
    """Return the layers of `preset` for square images of `image_size`.

    Raises:
        UsageError: `preset` is not one of `PRESETS`.
    """
    family = presets.preset_of(preset).family
    if family == "resnet":
        return resnet.shape_of(preset, image_size=image_size)
    return _FAMILIES[family][0][preset]


def build(
    shape: Any, *, num_classes: int, rngs: nnx.Rngs, head: str = "linear"
) -> Backbone:
    """Build the network that a family's `Shape` describes, with fresh weights."""
    return _CLASSES[type(shape)](shape, num_classes=num_classes, rngs=rngs, head=head)


def create_model(
    preset: str,
    *,
    num_classes: int,
    image_size: int,
    seed: int,
    head: str = "linear",
    design: Design = PLAIN,
) -> Backbone:
    """Build the network `preset` with fresh weights.

    Args:
        preset: One of `PRESETS`.
        num_classes: Width of the head.
        image_size: Side of the images, pixels.
        seed: Of the weights.
        head: "linear", or "cosine" for logits without regard to lengths.
        design: Attention, pools, kernels and what is dropped in training.

    Raises:
        UsageError: `preset` is not one of `PRESETS`, its images must be larger, or it
            cannot have the design.
    """
    presets.check_side(preset, image_size)
    if said := design_problem(preset, design):
        raise UsageError(said + ".")
    shape = shape_of(preset, image_size=image_size)
    shape = dataclasses.replace(shape, design=design)
    return build(shape, num_classes=num_classes, rngs=nnx.Rngs(seed), head=head)


def kept_model(meta: dict[str, Any]) -> Backbone:
    """Build the network that `save_model` kept `meta` of, with fresh weights.

    Args:
        meta: Preset, classes, image size, head, network.
    """
    return create_model(
        meta["preset"],
        num_classes=len(meta["classes"]),
        image_size=meta["image_size"],
        seed=0,
        head=meta.get("head", "linear"),
        design=Design.of(meta.get("network")),
    )
