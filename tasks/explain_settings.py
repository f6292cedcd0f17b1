"""Settings of `sightline explain`."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from data_contracts.config import Settings
from models.explain.how import Hide, How, Method, Segments


class Order(StrEnum):
    """Which images are explained first."""

    mistakes = "mistakes"
    unsure = "unsure"
    given = "given"


class ExplainSettings(Settings):
    """How answers are explained."""

    method: Method = Field(
        Method.gradcam, description="How maps are made, see docs/explanations.md."
    )
    target: str = Field(
        "predicted",
        description="Class that is explained: predicted, given (its label), or a"
        " class by name.",
    )
    order: Order = Field(
        Order.mistakes,
        description="mistakes: the surest first, then the other images; unsure: the"
        " least sure; given: as they come.",
    )
    hide: Hide = Field(
        Hide.mean,
        description="What stands for hidden pixels and starts paths: the training"
        " images' mean colour, the image blurred, or black.",
    )
    steps: int = Field(
        32, ge=1, le=512, description="Gradients of an image, where a path is taken."
    )
    samples: int = Field(
        1000,
        ge=2,
        le=20_000,
        description="Questions of an image by rise, lime and kernel_shap.",
    )
    segments: Segments = Field(
        Segments.clusters,
        description="How lime and kernel_shap cut an image: a grid, or clusters of"
        " colour and place.",
    )
    cells: int = Field(
        7, ge=2, le=20, description="Rows and columns of segments, and of RISE's grid."
    )
    window: float = Field(
        0.25, gt=0, lt=1, description="Side of what occlusion hides, of the image's."
    )
    noise: float = Field(
        0.15, gt=0, le=1, description="Of smoothgrad, of the image's range of values."
    )
    usual: int = Field(
        64,
        ge=1,
        le=512,
        description="Training images expected_gradients starts from, one a step.",
    )
    neighbours: int = Field(
        4, ge=0, le=12, description="Nearest training images shown; 0 leaves them out."
    )
    boxed: int = Field(
        200,
        ge=0,
        description="Images with boxes behind the table of classes; 0 leaves it out.",
    )
    seed: int = Field(0, ge=0, description="Of all draws.")

    @property
    def how(self) -> How:
        """The method and its budget, as `models.explain` takes them."""
        return How(
            method=self.method,
            hide=self.hide,
            steps=self.steps,
            samples=self.samples,
            cells=self.cells,
            segments=self.segments,
            window=self.window,
            noise=self.noise,
            seed=self.seed,
        )
