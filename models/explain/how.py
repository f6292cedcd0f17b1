"""Which method explains, and how much of it; free of JAX, so that settings may know."""

from __future__ import annotations

import dataclasses
from enum import StrEnum


class Method(StrEnum):
    """How a map is made."""

    gradcam = "gradcam"
    gradcam_pp = "gradcam_pp"
    rollout = "rollout"
    saliency = "saliency"
    smoothgrad = "smoothgrad"
    integrated_gradients = "integrated_gradients"
    expected_gradients = "expected_gradients"
    occlusion = "occlusion"
    rise = "rise"
    lime = "lime"
    kernel_shap = "kernel_shap"


class Hide(StrEnum):
    """What stands where pixels are hidden, and where paths of gradients start."""

    mean = "mean"
    blur = "blur"
    black = "black"


class Segments(StrEnum):
    """How an image is cut for LIME and KernelSHAP."""

    grid = "grid"
    clusters = "clusters"


# Those that need a gradient from the answer down to the pixels or the last map.
BY_GRADIENT = (
    *(Method.gradcam, Method.gradcam_pp, Method.saliency, Method.smoothgrad),
    *(Method.integrated_gradients, Method.expected_gradients),
)
# Those that take `steps` gradients of an image.
BY_PATH = (Method.smoothgrad, Method.integrated_gradients, Method.expected_gradients)
# Those that only ask: they explain whatever answers.
BY_ASKING = (Method.occlusion, Method.rise, Method.lime, Method.kernel_shap)
# Those whose maps tell what speaks against the class, too.
SIGNED = (
    *(Method.integrated_gradients, Method.expected_gradients),
    *BY_ASKING,
)


@dataclasses.dataclass(frozen=True)
class How:
    """A method and its budget.

    Attributes:
        method: Of `Method`.
        hide: What stands for nothing.
        steps: Gradients of an image: of integrated, expected and smooth gradients.
        samples: Questions of an image: of RISE, LIME and KernelSHAP.
        cells: Rows and columns of the grid that RISE draws, and of the segments.
        segments: How LIME and KernelSHAP cut an image.
        window: Side of what `occlusion` hides, as a share of the image's.
        noise: Of SmoothGrad, as a share of the image's range.
        seed: Of all draws, which are the same for every image.
    """

    method: Method = Method.gradcam
    hide: Hide = Hide.mean
    steps: int = 32
    samples: int = 1000
    cells: int = 7
    segments: Segments = Segments.clusters
    window: float = 0.25
    noise: float = 0.15
    seed: int = 0
