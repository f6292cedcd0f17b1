"""Vocabulary and settings of the embedded catalogue."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import Field, field_validator, model_validator

from data_contracts.config import Settings

COARSE = {
    "kitchen": ("mug", "bowl", "teapot", "bottle"),
    "home": ("vase", "lamp", "chair", "book"),
    "fashion": ("bag", "hat", "sneaker", "watch"),
}

KINDS = tuple(kind for kinds in COARSE.values() for kind in kinds)

LOOKALIKE = {
    "mug": "bowl",
    "bowl": "hat",
    "teapot": "mug",
    "bottle": "vase",
    "vase": "bottle",
    "lamp": "vase",
    "chair": "lamp",
    "book": "bag",
    "bag": "book",
    "hat": "bowl",
    "sneaker": "hat",
    "watch": "lamp",
}
DOMAINS = ("studio", "street")

COLOURS = {
    "red": (0.78, 0.13, 0.13),
    "orange": (0.92, 0.47, 0.12),
    "yellow": (0.94, 0.78, 0.20),
    "green": (0.18, 0.52, 0.25),
    "teal": (0.10, 0.55, 0.58),
    "blue": (0.15, 0.32, 0.72),
    "purple": (0.45, 0.24, 0.62),
    "pink": (0.92, 0.55, 0.66),
    "brown": (0.47, 0.30, 0.18),
    "black": (0.12, 0.12, 0.13),
    "white": (0.93, 0.92, 0.89),
    "gray": (0.55, 0.56, 0.58),
}

COLOUR_NAMES = tuple(COLOURS)

MATERIALS = ("matte", "glossy", "metal", "wood", "fabric", "leather")

PATTERNS = ("plain", "stripes", "dots", "checks")

TAGS = COLOUR_NAMES + MATERIALS + PATTERNS

USELESS = ("blank", "dark", "blurred")

BROKEN = ("truncated", "empty", "text", "bomb")

SENSOR = ("gaussian", "impulse")

SPLITS = ("train", "val", "test")


class LabelNoise(StrEnum):
    """How wrong labels come about."""

    SYMMETRIC = "symmetric"
    PAIRWISE = "pairwise"
    INSTANCE = "instance"


class SensorNoise(StrEnum):
    """What the sensor adds."""

    GAUSSIAN = "gaussian"
    IMPULSE = "impulse"
    MIXED = "mixed"


class SplitForm(StrEnum):
    """Where the catalogue says which split a picture belongs to."""

    NONE = "none"
    FOLDERS = "folders"
    MANIFEST = "manifest"


class CatalogueSettings(Settings):
    """Settings for the embedded catalogue."""

    images: int = Field(1200, ge=1, le=1_000_000, description="Number of files.")
    image_size: int = Field(96, ge=32, le=512, description="Side of a picture, pixels.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of everything drawn.")
    first: int = Field(
        0, ge=0, le=1_000_000_000, description="First row: a later era goes on here."
    )
    kinds: tuple[str, ...] = Field(
        KINDS, min_length=1, description="Product kinds, the most frequent first."
    )
    imbalance: float = Field(
        1.0, ge=1.0, le=1000.0, description="Most over least frequent kind."
    )
    label_noise: float = Field(0.0, ge=0.0, le=0.6, description="Share mislabelled.")
    label_noise_kind: LabelNoise = Field(
        LabelNoise.SYMMETRIC,
        description="Any other kind, the lookalike, or more where it is hard to see.",
    )
    sensor_noise: float = Field(0.0, ge=0.0, le=1.0, description="Share made noisy.")
    sensor_noise_kind: SensorNoise = Field(
        SensorNoise.MIXED, description="Gaussian, salt-and-pepper, or either."
    )
    occluders: float = Field(0.0, ge=0.0, le=1.0, description="Share partly covered.")
    duplicates: float = Field(
        0.0, ge=0.0, le=0.5, description="Share that repeats an earlier picture."
    )
    exact: float = Field(
        0.5, ge=0.0, le=1.0, description="Share of duplicates copied byte by byte."
    )
    broken: float = Field(0.0, ge=0.0, le=0.5, description="Share that do not decode.")
    useless: float = Field(
        0.0, ge=0.0, le=0.5, description="Share blank, far too dark or far too blurred."
    )
    street: float = Field(0.4, ge=0.0, le=1.0, description="Share not in the studio.")
    drift: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="How far colours, light and places have moved, as in a later era.",
    )
    users: int = Field(200, ge=0, le=1_000_000, description="Users with a log.")
    events: int = Field(6000, ge=0, le=50_000_000, description="Clicks and purchases.")
    splits: SplitForm = Field(
        SplitForm.NONE, description="Where given splits are written."
    )
    quality: int = Field(90, ge=30, le=100, description="JPEG quality.")

    @field_validator("kinds")
    @classmethod
    def _known(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown or len(set(kinds)) < len(kinds):
            raise ValueError(
                f"kinds must be distinct names out of {', '.join(KINDS)}; "
                f"got {', '.join(kinds)}"
            )
        return kinds

    @model_validator(mode="after")
    def _wrong_needs_another(self) -> Self:
        if self.label_noise and len(self.kinds) < 2:
            raise ValueError("label_noise needs at least two kinds to confuse")
        return self
