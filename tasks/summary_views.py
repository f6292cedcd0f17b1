"""What the model saw: views of training images as the step makes them, with words."""

from __future__ import annotations

from typing import Any

import numpy as np

from data_contracts.dataset import Array
from data_contracts.store import Dataset
from models.recipe import NONE, Augment
from tasks.augment_settings import AugmentSettings
from tasks.gallery import Augmented
from tasks.lessons import labels_to_learn, pick_rows
from tasks.train import recipe_of
from tasks.train_settings import TrainSettings

IMAGES, VIEWS = 6, 5
# Least share of another image that is worth a word.
MIXED = 0.02
# Settings that every image may meet, and their words.
WORDS = {
    "flip": "mirror {:.0%}",
    "flip_up": "upside down {:.0%}",
    "rotate": "turn ±{:g}°",
    "stretch": "stretch ±{:g} log2",
    "shift": "shift {:.0%}",
    "shear": "shear ±{:g}°",
    "perspective": "perspective {:.0%}",
    "brightness": "brightness ±{:.0%}",
    "contrast": "contrast ±{:g} log2",
    "saturation": "saturation ±{:g} log2",
    "hue": "hue ±{:g}°",
    "grey": "grey {:.0%}",
    "blur": "blur {:.0%}",
    "noise_gaussian": "Gaussian noise {:.0%}",
    "noise_shot": "shot noise {:.0%}",
    "noise_speckle": "speckle {:.0%}",
    "noise_impulse": "salt and pepper {:.0%}",
    "jpeg": "JPEG blocks {:.0%}",
    "erase": "holes up to {:.0%} of the side",
    "occlude": "occluders {:.0%}",
    "mixup": "mixup {:.0%}",
    "cutmix": "CutMix {:.0%}",
}
POLICIES = {"rand": "RandAugment", "trivial": "TrivialAugment"}


def describe_views(augment: Augment) -> str:
    """Return what the settings change, in words, with how far or how often."""
    found = []
    if augment.zoom != NONE.zoom:
        low, high = augment.zoom
        found.append(f"crop of {low:.0%} to {high:.0%} of the side")
    if augment.policy != NONE.policy:
        found.append(POLICIES[augment.policy])
    for name, words in WORDS.items():
        value = getattr(augment, name)
        if value:
            found.append(words.format(value))
    return ", ".join(found)


def seen_in_training(
    source: Dataset, settings: TrainSettings
) -> tuple[list[Augmented], str]:
    """Return views of a few training images, mixed as in a step, and what was asked."""
    train = pick_rows(source, replay=None, seed=settings.seed)
    rows = np.sort(np.random.default_rng(settings.seed).permutation(train)[:IMAGES])
    images = source.take(rows)
    augment = recipe_of(settings, n=len(train)).augment
    names, label = source.names("label_names"), labels_to_learn(source)
    number = source.column("view") if source.has("view") else np.zeros(source.n, int)
    labels = [names[label[row]] for row in rows]
    seen, words = _views(images, labels, augment, seed=settings.seed)
    shown = [
        Augmented(
            seen=seen[i],
            original=images[i],
            label=labels[i] + (f", stored view {number[row]}" if number[row] else ""),
            words=words[i],
        )
        for i, row in enumerate(rows)
    ]
    return shown, "; ".join(filter(None, [describe_views(augment), _stored(source)]))


def _stored(source: Dataset) -> str:
    """Say how stored views were made, if there are any."""
    for entry in source.attributes["lineage"]:
        if entry["stage"] == "views":
            stored = AugmentSettings.model_validate(entry["settings"]["augment"])
            said = describe_views(Augment(**stored.model_dump()))
            return f"in {entry['settings']['views']} stored views of each image, {said}"
    return ""


def _views(
    images: Array, labels: list[str], augment: Augment, *, seed: int
) -> tuple[Array, list[list[str]]]:
    """Return views (n, VIEWS, h, w, 3) of `images`, and what happened to each."""
    import jax

    from models.augment import draw_views, view

    key = jax.random.key(seed)
    many = np.repeat(images, VIEWS, axis=0)
    pixels, own = view(jax.numpy.asarray(many), key, augment)
    draws = draw_views(key, len(many), augment, side=images.shape[1])
    of = [label for label in labels for _ in range(VIEWS)]
    words = [_words(draws, i, float(own[i]), of[::-1][i]) for i in range(len(many))]
    seen = np.asarray(np.rint(np.asarray(pixels) * 255), np.uint8)
    by_image = [words[i : i + VIEWS] for i in range(0, len(words), VIEWS)]
    return seen.reshape(len(images), VIEWS, *seen.shape[1:]), by_image


def _words(draws: Any, i: int, own: float, other: str) -> str:
    """Say what was done to view `i` that not every view meets."""
    from models.policies import OPS

    said = [] if own > 1 - MIXED else [f"{1 - own:.0%} {other}"]
    if draws.ops is not None:
        drawn = [OPS[op] for op in np.asarray(draws.ops[i])]
        said += [op.replace("_", " ") for op in drawn if op != "identity"]
    if draws.focus is not None and draws.focus.strength[i] == 1:
        said.append("blur")
    if draws.grain is not None:
        kinds = {"gaussian": "noise", "shot": "shot noise", "speckle": "speckle"}
        for name, word in {**kinds, "impulse": "salt and pepper"}.items():
            amount = getattr(draws.grain, name)
            if amount is not None and amount[i] > 0:
                said.append(word)
    if draws.blocks is not None and draws.blocks.quality[i] <= 100:
        said.append(f"JPEG {float(draws.blocks.quality[i]):.0f}")
    if draws.holes is not None and float(draws.holes.half[i].max()) > 0:
        said.append("holes")
    return ", ".join(said)
