"""What an answer rests on, measured: what must be hidden for it to change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_contracts.dataset import Array
from models.explain.how import How
from tasks.inference import Floats, Predictor

SHARE = 4  # of the segments, one in so many is hidden at most
BLOCK = 16  # images at once, each with as many copies as segments are hidden


@dataclass(frozen=True, kw_only=True)
class Change:
    """What hiding the most important segments does to one answer.

    Attributes:
        image: Without them (h w 3), uint8.
        hidden: Segments hidden: the fewest that change the answer, else a quarter.
        segments: In all.
        share: Of the pixels hidden.
        before: Probability of the explained class.
        after: The same once they are hidden.
        random: The same once as many others, drawn at random, are hidden.
        answer: Class that is then the likeliest.
        changed: Whether that is another one than before.
    """

    image: Array
    hidden: int
    segments: int
    share: float
    before: float
    after: float
    random: float
    answer: str
    changed: bool

    def text(self, name: str) -> str:
        """Say it in a sentence.

        Args:
            name: The explained class.
        """
        parts = "segment" if self.hidden == 1 else f"{self.hidden} segments"
        said = (
            f"Hiding the most important {parts} of {self.segments}"
            f" ({self.share:.0%} of the image) takes {name} from {self.before:.0%} to"
            f" {self.after:.0%}"
        )
        said += (
            f", and the answer becomes {self.answer}."
            if self.changed
            else f"; the answer stays {self.answer}."
        )
        return f"{said} As many at random leave it at {self.random:.0%}."


def what_changes(
    predictor: Predictor, images: Array, maps: Floats, targets: Array, how: How
) -> list[Change]:
    """Hide the segments that maps mark most, one after the other, and ask each time.

    Args:
        predictor: Answers as in serving.
        images: uint8 (n h w 3), of the model's own size.
        maps: Of each image (n h w).
        targets: The explained class of each (n,).
        how: Cuts the segments and says what stands for hidden pixels.
    """
    found: list[Change] = []
    for start in range(0, len(images), BLOCK):
        here = slice(start, start + BLOCK)
        found += _changes(predictor, images[here], maps[here], targets[here], how)
    return found


def _changes(
    predictor: Predictor, images: Array, maps: Floats, targets: Array, how: How
) -> list[Change]:
    own, nothing = _cut(predictor, images, how)
    worth = _by_segment(maps, own, segments=how.cells**2)
    most = max(1, how.cells**2 // SHARE)
    drawn = np.random.default_rng((how.seed, 3)).random(worth.shape)
    chance = np.where(np.isfinite(worth), drawn, -np.inf)
    before = predictor(images)
    after, without = (
        predictor(_without(images, nothing, own, order, most=most)).reshape(
            len(images), most, before.shape[1]
        )
        for order in (worth, chance)
    )
    return [
        _change(predictor, images[i], nothing[i], own[i], worth[i], int(target), found)
        for i, (target, *found) in enumerate(
            zip(targets, before, after, without, strict=True)
        )
    ]


def _cut(predictor: Predictor, images: Array, how: How) -> tuple[Array, Array]:
    """Return the segment of each pixel (n h w), and what hides them (n h w 3)."""
    import jax.numpy as jnp

    from models.explain.segments import segment
    from models.explain.subject import hidden

    pixels = jnp.asarray(images, jnp.float32) / 255
    several = predictor.meta.get("members") or [predictor.meta]
    mean = jnp.asarray([each["mean"] for each in several], jnp.float32).mean(0)
    own = np.asarray(segment(pixels, cells=how.cells, kind=how.segments))
    nothing = np.rint(np.asarray(hidden(pixels, how.hide, mean)) * 255)
    return own, nothing.astype(np.uint8)


def _by_segment(maps: Floats, own: Array, *, segments: int) -> Array:
    """Return the mean of a map over each segment (n k), -inf where it has no pixel."""
    n = len(maps)
    place = (own.reshape(n, -1) + segments * np.arange(n)[:, None]).ravel()
    total = np.bincount(place, maps.ravel().astype(np.float64), n * segments)
    size = np.bincount(place, minlength=n * segments)
    mean = np.where(size > 0, total / np.maximum(size, 1), -np.inf)
    return mean.reshape(n, segments)


def _first(worth: Array) -> Array:
    """Return the rank (... k) of each segment, the most important one 0."""
    return np.argsort(np.argsort(-worth, axis=-1, kind="stable"), axis=-1)


def _without(
    images: Array, nothing: Array, own: Array, worth: Array, *, most: int
) -> Array:
    """Return images (n * most, h w 3) without the first 1 to `most` segments."""
    rank = np.take_along_axis(_first(worth), own.reshape(len(own), -1), 1)
    rank = rank.reshape(own.shape)
    many = rank[:, None] < np.arange(1, most + 1)[:, None, None]
    hidden = np.where(many[..., None], nothing[:, None], images[:, None])
    return hidden.reshape(-1, *images.shape[1:])


def _change(
    predictor: Predictor,
    image: Array,
    nothing: Array,
    own: Array,
    worth: Array,
    target: int,
    found: list[Floats],
) -> Change:
    before, after, drawn = found
    answers = after.argmax(1)
    flips = np.flatnonzero(answers != before.argmax())
    there = int(np.isfinite(worth).sum())
    # Segments that speak against the class are no reason for it.
    last = max(1, min(len(after), int((worth > 0).sum()))) - 1
    flips = flips[flips <= last]
    at = int(flips[0]) if len(flips) else last
    top = _first(worth)[own] <= at
    return Change(
        image=np.where(top[..., None], nothing, image),
        hidden=at + 1,
        segments=there,
        share=float(top.mean()),
        before=float(before[target]),
        after=float(after[at, target]),
        random=float(drawn[at, target]),
        answer=predictor.classes[int(answers[at])],
        changed=bool(answers[at] != before.argmax()),
    )
