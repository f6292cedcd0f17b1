"""Settings of an audit: what a registered version is put through."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from data_contracts.config import Settings
from tasks.corrupt import SEVERITIES, Corruption

Levels = Annotated[float, Field(ge=0.5, le=255)]
Severity = Annotated[int, Field(ge=1, le=SEVERITIES)]


class ResilienceSettings(Settings):
    """How hard a version is attacked, and which defences are tried."""

    epsilon: float = Field(
        4,
        ge=0.5,
        le=128,
        description="Largest change of a sample, of 255 levels: 4 is 4/255.",
    )
    steps: int = Field(20, ge=2, le=1_000, description="Steps of PGD and of APGD.")
    targets: int = Field(9, ge=1, description="Classes that targeted APGD aims at.")
    queries: int = Field(500, ge=1, description="Answers that Square asks for.")
    curve: tuple[Levels, ...] = Field(
        (1, 2, 4, 8, 16, 32, 64, 128),
        description="Levels at which accuracy is followed down to chance.",
    )
    curve_images: int = Field(200, ge=1, description="Most images for that curve.")
    spoiled: bool = Field(True, description="Also measure noise, blur and other wear.")
    corruptions: tuple[Corruption, ...] = Field(
        tuple(Corruption), min_length=1, description="Which wear."
    )
    severities: tuple[Severity, ...] = Field(
        (1, 3, 5), min_length=1, description="How much of it."
    )
    covered: tuple[float, ...] = Field(
        (0.1, 0.3, 0.5), description="Shares of an image to cover; none is off."
    )
    detect: bool = Field(True, description="Whether to try detectors of attacks.")
    adaptive_steps: int = Field(
        40, ge=1, le=1_000, description="Steps of attacks that know the defence."
    )
    defend: bool = Field(True, description="Whether to try defences at serving.")
    reencode: int = Field(75, ge=1, le=100, description="Quality of the JPEG defence.")
    views: int = Field(8, ge=2, le=64, description="Cuts that the vote is over.")
    smallest: float = Field(
        0.8, ge=0.3, lt=1, description="Side of the smallest cut, as a share."
    )
    sigma: float = Field(
        0.25, ge=0, le=2, description="Noise of smoothing, in 0..1; 0 is off."
    )
    choose: int = Field(100, ge=1, description="Noisy copies that choose the class.")
    certify: int = Field(1_000, ge=10, description="Noisy copies that certify it.")
    alpha: float = Field(0.001, gt=0, lt=0.5, description="Chance that a radius errs.")
    smoothed: int = Field(100, ge=1, description="Most images to smooth.")
    level: float = Field(0.95, gt=0.5, lt=1, description="Coverage of intervals.")
    attack_seed: int = Field(0, ge=0, description="Seed of whatever is random.")

    @field_validator("curve", "severities", "corruptions", "covered")
    @classmethod
    def _once(cls, chosen: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(chosen)) < len(chosen):
            raise ValueError("each may be given once")
        return chosen

    @field_validator("covered")
    @classmethod
    def _shares(cls, chosen: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < share < 1 for share in chosen):
            raise ValueError("a share lies between 0 and 1")
        return chosen


class HardenSettings(Settings):
    """What images go through before a model answers them."""

    reencode: int = Field(
        0, ge=0, le=100, description="Answer images as a JPEG of this quality; 0: off."
    )
    views: int = Field(
        0, ge=0, le=64, description="Answer the mean of so many random cuts; 0: off."
    )
    smallest: float = Field(
        0.8, ge=0.3, lt=1, description="Side of the smallest cut, as a share."
    )
    secret: int = Field(
        0, ge=0, description="Draws the cuts; who knows it can aim at them."
    )

    @property
    def asked(self) -> bool:
        """Whether anything is asked for."""
        return bool(self.reencode or self.views)
