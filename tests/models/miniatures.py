"""The smallest network of each family that has all of its parts."""

from __future__ import annotations

import numpy as np

from models.backbones import convnext, mobilenet, resnet, vit

CLASSES = 5
RESNET = resnet.Shape((8, 8, 12, 16), (1, 2, 1, 1), "imagenet", shortcut="strided")
RESNET_50 = resnet.Shape(
    (4, 4, 6, 6), (1, 2, 1, 1), "imagenet", bottleneck=True, shortcut="strided"
)
CONVNEXT = convnext.Shape((8, 12, 16, 16), (1, 1, 2, 1))
CONVNEXT_V2 = convnext.Shape((8, 12, 16, 16), (1, 1, 2, 1), version=2)
MOBILENET = mobilenet.Shape(
    rows=(
        mobilenet.Row(3, 16, 16, True, False, 2),
        mobilenet.Row(3, 24, 16, False, False, 2),
        mobilenet.Row(5, 24, 16, True, True, 1),
        mobilenet.Row(5, 32, 8, True, True, 2),
    ),
    hidden=24,
)
VIT = vit.Shape(18, 2, 3, patch=8, grid=4)
DINOV2 = vit.Shape(18, 2, 3, patch=7, grid=4, scale=1e-5)
SIGLIP = vit.Shape(18, 1, 3, patch=8, grid=4, pool="map", tanh=True)


def pixels(side: int) -> np.ndarray:
    """Return two normalised images (n h w c) that are always the same."""
    random = np.random.default_rng(0)
    return random.normal(size=(2, side, side, 3)).astype(np.float32)
