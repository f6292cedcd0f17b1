"""The default training recipe, with what each default was measured to give."""

import dataclasses

from models.augment import Augment


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Defaults for training a classifier from scratch."""

    preset: str = "small"
    epochs: int = 60
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup: float = 0.15
    clip: float = 1.0
    ema: float = 0.995
    label_smoothing: float = 0.1
    augment: Augment = dataclasses.field(default_factory=Augment)
