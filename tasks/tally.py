"""Add up predictions as they come; parts are merged in any order to the same bits.

A tally holds integer sums alone. Duplicate groups are dealt to buckets by their key,
and every sum is kept for each bucket: drawing buckets with replacement resamples whole
groups (random groups, Wolter 2007, chapter 2), however many images there were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from tasks.intervals import Floats, Ints
from tasks.scores import Scores, score

BUCKETS = 256
# Steps of the log-odds of a probability, for what depends on their order.
STEPS = 1024
REACH = 12.0  # log-odds beyond which probabilities share the end steps
RANKED = 2_000  # classes up to which ranks are kept
KEPT = 10_000_000  # probabilities kept as they are: 80 MB
UNIT = float(1 << 30)


class Tally:
    """Sums over predictions, from which `tasks.tallied.measure` makes every figure.

    Attributes:
        k: Classes.
        slices: Names of the values of each sliced column.
        sums: Integer arrays by name, added up by `merge`.
        confusion: Sparse counts (k, k), [label][predicted].
        kept: Labels and probs as they came, while they are few; else None.
    """

    def __init__(
        self,
        k: int,
        *,
        slices: Mapping[str, Sequence[str]] | None = None,
        champion: bool = False,
    ) -> None:
        self.k = k
        self.slices = {name: list(values) for name, values in (slices or {}).items()}
        self.champion = champion
        self.ranked = k <= RANKED
        # Few classes have room for more buckets of ranks.
        self.rank_buckets = int(np.clip(16_384 // k, 16, 64))
        self.kept: list[tuple[Ints, Floats]] | None = []
        self.confusion: Any = sparse.csr_matrix((k, k), dtype=np.int64)
        shapes: dict[str, tuple[int, ...]] = {
            "n": (BUCKETS,),
            "correct": (BUCKETS,),
            "top5": (BUCKETS,),
            "answered": (BUCKETS,),
            "excluded": (1,),
            "brier": (BUCKETS, 2),
            "nll": (BUCKETS, 2),
            **dict.fromkeys(("right", "given", "images"), (BUCKETS, k)),
            **dict.fromkeys(("step_n", "step_right"), (BUCKETS, STEPS)),
            "step_sure": (BUCKETS, STEPS, 2),
        }
        for name, values in self.slices.items():
            shapes |= {f"slice {name}": (2, BUCKETS, len(values))}
        if champion:
            shapes |= {"rival": (4, BUCKETS)}
        self.sums: dict[str, Ints] = {
            name: np.zeros(shape, np.int64) for name, shape in shapes.items()
        }
        if self.ranked:
            ranks = (2, self.rank_buckets, k, STEPS)
            self.sums["ranks"] = np.zeros(ranks, np.int32)

    def update(
        self,
        probs: ArrayLike,
        labels: ArrayLike,
        *,
        groups: ArrayLike,
        slices: Mapping[str, ArrayLike] | None = None,
        champion: ArrayLike | None = None,
    ) -> None:
        """Add predictions.

        Args:
            probs: (n, k) class probabilities.
            labels: (n,) classes; those below 0 or from k on are left out and counted.
            groups: (n,) whole numbers, the key of the duplicate group of each image:
                the same wherever it is seen, such as the start of a digest.
            slices: (n,) position of each image in the names of each sliced column;
                negative is none.
            champion: (n, k) the champion's probabilities.
        """
        p, y = np.asarray(probs, np.float64), np.asarray(labels, np.int64)
        key = np.asarray(groups)
        if p.ndim != 2 or p.shape != (len(y), self.k) or key.shape != y.shape:
            raise ValueError(
                f"probs (n, {self.k}), labels and groups (n,) came as {p.shape},"
                f" {y.shape}, {key.shape}"
            )
        keep = (y >= 0) & (y < self.k)
        self.sums["excluded"] += int((~keep).sum())
        if not keep.any():
            return
        p, y, bucket = p[keep], y[keep], bucket_of(key[keep])
        answers = score(p, y)
        self._add_scores(answers, bucket)
        self._add_ranks(np.where(answers.answered[:, None], p, 1 / self.k), y, bucket)
        for name in self.slices:
            code = np.asarray((slices or {})[name], np.int64)[keep]
            inside = code >= 0
            into, at = self.sums[f"slice {name}"], (bucket[inside], code[inside])
            np.add.at(into[0], at, 1)
            np.add.at(into[1], at, answers.correct[inside].astype(np.int64))
        if self.champion:
            assert champion is not None
            self._add_rival(answers, score(np.asarray(champion)[keep], y), bucket)

    def merge(self, other: Self) -> Self:
        """Add what another tally of the same make holds to this one.

        Raises:
            ValueError: It counts other classes or slices.
        """
        mine = (self.k, self.slices, self.champion)
        if mine != (other.k, other.slices, other.champion):
            raise ValueError("tallies of different classes, slices or champions")
        for name, sums in other.sums.items():
            self.sums[name] += sums
        self.confusion = self.confusion + other.confusion
        if self.kept is not None:
            self._keep(other.kept)
        return self

    @property
    def n(self) -> int:
        """Images added up, those left out apart."""
        return int(self.sums["n"].sum())

    def _add_scores(self, answers: Scores, bucket: Ints) -> None:
        s, correct = self.sums, answers.correct.astype(np.int64)
        np.add.at(s["n"], bucket, 1)
        np.add.at(s["correct"], bucket, correct)
        np.add.at(s["top5"], bucket, answers.top5.astype(np.int64))
        np.add.at(s["answered"], bucket, answers.answered.astype(np.int64))
        for name in ("brier", "nll"):
            np.add.at(s[name], bucket, fixed(getattr(answers, name)))
        np.add.at(s["images"], (bucket, answers.label), 1)
        np.add.at(s["right"], (bucket, answers.label), correct)
        seen = answers.predicted >= 0
        given = answers.predicted[seen]
        np.add.at(s["given"], (bucket[seen], given), 1)
        step = step_of(answers.confidence)
        np.add.at(s["step_n"], (bucket, step), 1)
        np.add.at(s["step_right"], (bucket, step), correct)
        np.add.at(s["step_sure"], (bucket, step), fixed(answers.confidence))
        cells = (np.ones(len(given), np.int64), (answers.label[seen], given))
        self.confusion = self.confusion + sparse.csr_matrix(cells, (self.k, self.k))

    def _add_ranks(self, p: Floats, y: Ints, bucket: Ints) -> None:
        if not self.ranked:
            self.kept = None
            return
        positive, every = self.sums["ranks"]
        part, step = bucket % self.rank_buckets, step_of(p)
        columns = np.arange(self.k)
        np.add.at(every, (part[:, None], columns[None], step), 1)
        np.add.at(positive, (part, y, step[np.arange(len(y)), y]), 1)
        if self.kept is not None:
            self._keep([(y, p)])

    def _keep(self, more: list[tuple[Ints, Floats]] | None) -> None:
        """Keep predictions as they are while all of them are few."""
        few = self.n * self.k <= KEPT
        self.kept = [*(self.kept or []), *more] if few and more is not None else None

    def _add_rival(self, mine: Scores, its: Scores, bucket: Ints) -> None:
        marks = (
            mine.predicted == its.predicted,
            mine.correct > its.correct,
            mine.correct < its.correct,
            its.correct > 0,
        )
        for into, mark in zip(self.sums["rival"], marks, strict=True):
            np.add.at(into, bucket, mark.astype(np.int64))


def bucket_of(keys: NDArray[Any]) -> Ints:
    """Return the bucket of each group key, spread evenly (splitmix64, Steele 2014)."""
    with np.errstate(over="ignore"):
        z = keys.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) % np.uint64(BUCKETS)).astype(np.int64)


def step_of(probs: Floats) -> Ints:
    """Return the step of the log-odds scale on which each probability lies."""
    share = np.clip(probs, 0, 1)
    with np.errstate(divide="ignore"):
        odds = np.log(share) - np.log1p(-share)
    inner = STEPS - 2
    place = np.floor((odds + REACH) * (inner / (2 * REACH)))
    return np.asarray(np.clip(place, -1, inner) + 1, np.int64)


def fixed(values: Floats) -> Ints:
    """Return values as whole numbers (n, 2) that add up without rounding."""
    scaled = values * UNIT
    high = np.floor(scaled)
    return np.stack([high, np.rint((scaled - high) * UNIT)], axis=1).astype(np.int64)


def from_fixed(sums: Ints) -> Floats:
    """Return what sums (..., 2) of `fixed` stand for."""
    return (sums[..., 0] + sums[..., 1] / UNIT) / UNIT
