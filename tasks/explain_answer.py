"""What an answer rests on, measured: what must be hidden for it to change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_contracts.dataset import Array
from models.explain.how import How
from tasks.inference import Floats, Predictor
from tasks.wording import number

SHARE = 4  # of the segments, one in so many is hidden at most
DRAWS = 8  # of as many segments, to compare with; the same of every image
BLOCK = 16  # images at once, each with as many copies as segments are hidden


@dataclass(frozen=True, kw_only=True)
class Change:
    """What hiding the most important segments does to one answer.

    Attributes:
        image: Without them (h w 3), uint8.
        hidden: Segments hidden: the fewest that change the answer, else a quarter;
            none where the map marks none.
        segments: In all.
        share: Of the pixels hidden.
        before: Probability of the explained class.
        after: The same once they are hidden.
        random: The same once as many, drawn at random, are hidden; the mean of draws.
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
        if not self.hidden:
            return (
                f"The map marks nothing that speaks for {name}, so nothing was hidden;"
                f" the answer is {self.answer}."
            )
        said = (
            f"Hiding the {self.parts} ({number(self.share)} of the image) takes {name}"
            f" from {number(self.before)} to {number(self.after)}"
        )
        said += (
            f", and the answer becomes {self.answer}."
            if self.changed
            else f"; the answer stays {self.answer}."
        )
        said += f" As many drawn at random leave it at {number(self.random)}."
        if self.random <= self.after:
            said += " Here the map marks no better than chance."
        return said

    @property
    def parts(self) -> str:
        """What was hidden: 3 most important of 49 segments."""
        many = f"{self.hidden} " if self.hidden > 1 else ""
        return f"{many}most important of {self.segments} segments"


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
    n, k = worth.shape
    # Segments that speak against the class are no reason for it.
    most = np.minimum(max(1, k // SHARE), (worth > 0).sum(1))
    counts = np.arange(most.max() + 1)

    def asked(gone: Array) -> Floats:
        """Return probabilities (n q c) without the segments marked in (n q k)."""
        probs = predictor(_without(images, nothing, own, gone))
        return probs.reshape(*gone.shape[:2], -1)

    rank = _ranks(worth)
    after = asked(rank[:, None] < counts[:, None])
    answers = after.argmax(2)
    flips = (answers != answers[:, :1]) & (counts <= most[:, None])
    changed = flips.any(1)
    hidden = np.where(changed, flips.argmax(1), most)
    drawn = np.random.default_rng((how.seed, 3)).random((DRAWS, k))
    chance = np.where(np.isfinite(worth)[:, None], drawn, -np.inf)
    random = asked(_ranks(chance) < hidden[:, None, None]).mean(1)
    gone = rank < hidden[:, None]
    top = np.take_along_axis(gone, own.reshape(n, -1), 1).reshape(own.shape)
    return [
        Change(
            image=np.where(top[i, ..., None], nothing[i], images[i]),
            hidden=int(hidden[i]),
            segments=int(np.isfinite(worth[i]).sum()),
            share=float(top[i].mean()),
            before=float(after[i, 0, target]),
            after=float(after[i, hidden[i], target]),
            random=float(random[i, target]),
            answer=predictor.classes[int(answers[i, hidden[i]])],
            changed=bool(changed[i]),
        )
        for i, target in enumerate(targets.tolist())
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


def _ranks(worth: Array) -> Array:
    """Return the rank (... k) of each segment, the most important one 0."""
    return np.argsort(np.argsort(-worth, axis=-1, kind="stable"), axis=-1)


def _without(images: Array, nothing: Array, own: Array, gone: Array) -> Array:
    """Return images (n * q, h w 3) without the segments marked in (n q k)."""
    top = np.take_along_axis(gone, own.reshape(len(own), 1, -1), 2)
    top = top.reshape(*gone.shape[:2], *own.shape[1:], 1)
    left = np.where(top, nothing[:, None], images[:, None])
    return left.reshape(-1, *images.shape[1:])
