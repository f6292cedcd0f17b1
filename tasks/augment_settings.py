"""Settings of random views; they mirror `Augment` of `models/recipe.py`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from data_contracts.config import Settings
from models.recipe import Augment

DEFAULTS = Augment()
# What a policy draws itself.
DRAWN = "rotate shear shift perspective brightness contrast saturation hue grey".split()
NOISES = "noise_gaussian noise_shot noise_speckle noise_impulse".split()


class Policy(StrEnum):
    """Who chooses the changes of an image."""

    none = "none"
    rand = "rand"
    trivial = "trivial"


class Fill(StrEnum):
    """Fillings of erased rectangles."""

    grey = "grey"
    mean = "mean"
    noise = "noise"


class Occluder(StrEnum):
    """What may cover a part of an image, see `models/occlude.py`."""

    rectangle = "rectangle"
    bars = "bars"
    grid = "grid"
    object = "object"
    texture = "texture"
    blur = "blur"


Share = Annotated[float, Field(gt=0, le=2)]
BlurShare = Annotated[float, Field(ge=0, le=0.1)]


class AugmentSettings(Settings):
    """Random views, made on the device inside the compiled step."""

    flip: float = Field(DEFAULTS.flip, ge=0, le=1, description="Chance to mirror.")
    rotate: float = Field(
        DEFAULTS.rotate, ge=0, le=180, description="Largest turn, degrees."
    )
    zoom: tuple[Share, Share] = Field(
        DEFAULTS.zoom, description="Smallest and largest side of a view, shares."
    )
    stretch: float = Field(
        DEFAULTS.stretch, ge=0, le=2, description="Largest log2 aspect change."
    )
    shift: float = Field(
        DEFAULTS.shift, ge=0, le=1, description="Largest move beyond the edge."
    )
    brightness: float = Field(
        DEFAULTS.brightness, ge=0, le=1, description="Largest change, share."
    )
    contrast: float = Field(
        DEFAULTS.contrast, ge=0, le=3, description="Largest log2 change."
    )
    saturation: float = Field(
        DEFAULTS.saturation, ge=0, le=3, description="Largest log2 change."
    )
    erase: float = Field(
        DEFAULTS.erase,
        ge=0,
        le=1,
        description="Side of the largest hole, share.",
    )
    occlude: float = Field(
        DEFAULTS.occlude, ge=0, le=1, description="Chance to cover a part."
    )
    occlude_most: float = Field(
        DEFAULTS.occlude_most, gt=0, le=0.9, description="Largest covered share."
    )
    occluders: tuple[Occluder, ...] = Field(
        tuple(Occluder), min_length=1, description="What covers a part."
    )
    mixup: float = Field(
        DEFAULTS.mixup, ge=0, le=1, description="Chance to blend image pairs."
    )
    cutmix: float = Field(
        DEFAULTS.cutmix, ge=0, le=1, description="Chance to paste between pairs."
    )
    resolution: float | None = Field(
        DEFAULTS.resolution,
        gt=0,
        le=2,
        description="Side of the views, share; none: .75, small images whole.",
    )
    size: int | None = Field(
        DEFAULTS.size, ge=8, description="Side of the views; none: by resolution."
    )
    flip_up: float = Field(
        DEFAULTS.flip_up, ge=0, le=1, description="Chance to turn upside down."
    )
    shear: float = Field(
        DEFAULTS.shear, ge=0, le=60, description="Largest slant, degrees."
    )
    perspective: float = Field(
        DEFAULTS.perspective,
        ge=0,
        le=0.9,
        description="Largest change of scale towards a corner, share.",
    )
    hue: float = Field(
        DEFAULTS.hue, ge=0, le=180, description="Largest turn of hue, degrees."
    )
    grey: float = Field(
        DEFAULTS.grey, ge=0, le=1, description="Chance to lose all colour."
    )
    blur: float = Field(DEFAULTS.blur, ge=0, le=1, description="Chance of a blur.")
    blur_size: tuple[BlurShare, BlurShare] = Field(
        DEFAULTS.blur_size,
        description="Least and largest standard deviation of a blur, shares of side.",
    )
    noise_gaussian: float = Field(
        DEFAULTS.noise_gaussian, ge=0, le=1, description="Chance of Gaussian noise."
    )
    noise_shot: float = Field(
        DEFAULTS.noise_shot, ge=0, le=1, description="Chance of shot noise."
    )
    noise_speckle: float = Field(
        DEFAULTS.noise_speckle, ge=0, le=1, description="Chance of speckle."
    )
    noise_impulse: float = Field(
        DEFAULTS.noise_impulse, ge=0, le=1, description="Chance of salt and pepper."
    )
    noise_severity: float = Field(
        DEFAULTS.noise_severity, gt=0, le=5, description="Largest severity of noise."
    )
    jpeg: float = Field(
        DEFAULTS.jpeg, ge=0, le=1, description="Chance of JPEG's blocks."
    )
    jpeg_quality: int = Field(
        DEFAULTS.jpeg_quality, ge=1, le=100, description="Lowest JPEG quality."
    )
    erase_chance: float = Field(
        DEFAULTS.erase_chance, ge=0, le=1, description="Chance of holes, with erase."
    )
    erase_holes: int = Field(
        DEFAULTS.erase_holes, ge=1, le=16, description="Holes in an image."
    )
    erase_stretch: float = Field(
        DEFAULTS.erase_stretch, ge=0, le=4, description="Largest log2 aspect of a hole."
    )
    erase_fill: Fill = Field(
        Fill(DEFAULTS.erase_fill), description="What stands in a hole."
    )
    policy: Policy = Field(
        Policy(DEFAULTS.policy),
        description="RandAugment or TrivialAugment, in place of hand-set strengths.",
    )
    policy_ops: int = Field(
        DEFAULTS.policy_ops, ge=1, le=8, description="Ops of RandAugment an image."
    )
    policy_magnitude: float = Field(
        DEFAULTS.policy_magnitude,
        ge=0,
        le=1,
        description="Strength of RandAugment, share; 0.3 is 9 of 30.",
    )

    @model_validator(mode="before")
    @classmethod
    def _left_to_the_policy(cls, given: Any) -> Any:
        """Switch off what a policy draws, unless someone set it."""
        if not isinstance(given, dict) or given.get("policy") in (None, "none"):
            return given
        return dict.fromkeys(DRAWN, 0.0) | given

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for name in ("zoom", "blur_size"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} goes from small to large, got {low},{high}")
        if self.mixup + self.cutmix > 1:
            raise ValueError(
                "an image is either blended or pasted into: mixup + cutmix is"
                f" {self.mixup + self.cutmix:g}, more than 1. Lower one"
            )
        noise = sum(getattr(self, name) for name in NOISES)
        if noise > 1:
            raise ValueError(
                "an image gets one kind of noise at most: the chances of"
                f" {', '.join(NOISES)} add up to {noise:g}, more than 1. Lower them"
            )
        self._check_policy()
        return self

    def _check_policy(self) -> None:
        if self.policy == Policy.none:
            given = self.model_fields_set & {"policy_ops", "policy_magnitude"}
            idle = sorted(n for n in given if getattr(self, n) != getattr(DEFAULTS, n))
            if idle:
                raise ValueError(
                    f"{idle[0]} needs a policy. Set policy=rand, or leave it out"
                )
            return
        both = [name for name in DRAWN if getattr(self, name)]
        if both:
            raise ValueError(
                f"policy={self.policy} draws {both[0]} itself, but {both[0]}="
                f"{getattr(self, both[0]):g} came too. Leave {both[0]} out, or set"
                " policy=none"
            )
