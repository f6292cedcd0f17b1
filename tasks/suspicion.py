"""How much speaks against a label: held-out heads, neighbours, training dynamics."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from data_contracts.dataset import Array
from tasks.confident import (
    confident_joint,
    margins,
    noise_rate,
    prune_by_noise_rate,
    ranks,
)

# Planted flips, where there are ten times as many images.
LEAST = 25
# Shares of planted flips, from the top, at which the noise rate is read.
DEPTHS = np.linspace(0.2, 0.5, 7)


@dataclass(frozen=True)
class Views:
    """What the embeddings say of each row, whatever its label.

    Attributes:
        x: Embeddings (n, d).
        pool: Rows to learn from (n,); the others are only judged.
        fold: Fold of the pool rows (n,), -1 elsewhere.
        index: Neighbours as row numbers (n, j).
        cosine: How near they are (n, j), -2 for none.
    """

    x: NDArray[np.float32]
    pool: Array
    fold: Array
    index: Array
    cosine: Array


@dataclass(frozen=True)
class Suspicion:
    """What speaks against the label of each row.

    Attributes:
        probs: Of heads that did not see the row, (n, k).
        votes: Margin by which its neighbours name another class, (n,).
        voted: The other class that they name most, (n,).
        aum: Area under the margin in training, nan where unknown, (n,).
        labels: Given classes (n,).
        pool: Rows that were learnt from (n,).
    """

    probs: NDArray[np.float32]
    votes: Array
    voted: Array
    aum: Array
    labels: Array
    pool: Array

    @cached_property
    def parts(self) -> dict[str, Array]:
        """Each score on its own, the larger the more suspicious."""
        found = {"head": margins(self.probs, self.labels), "neighbours": self.votes}
        if np.isfinite(self.aum).any():
            found["dynamics"] = -self.aum
        return found

    @cached_property
    def score(self) -> NDArray[np.float32]:
        """Mean of the ranks of all scores, 0..1.

        Pool and held-out rows are ranked apart: an encoder that was fitted on the pool
        has an opinion of its labels.
        """
        out = np.zeros(len(self.labels))
        for side in (self.pool, ~self.pool):
            seen = [
                (known, ranks(part[side & known]))
                for part in self.parts.values()
                if (side & (known := np.isfinite(part))).any()
            ]
            total, count = np.zeros(len(out)), np.zeros(len(out))
            for known, rank in seen:
                total[side & known] += rank
                count[side & known] += 1
            np.divide(total, count, out=out, where=side & (count > 0))
        return out.astype(np.float32)

    @cached_property
    def guessed(self) -> Array:
        """The other class that the head finds likeliest, (n,)."""
        others = self.probs.copy()
        others[np.arange(len(others)), self.labels] = -np.inf
        return np.asarray(others.argmax(axis=1))

    @cached_property
    def head_doubts(self) -> Array:
        """Rows whose label the held-out head puts behind another, (n,)."""
        return np.asarray(self.parts["head"] > 0)

    @property
    def doubted(self) -> Array:
        """Rows whose label the head or the neighbours put behind another, (n,)."""
        return np.asarray(self.head_doubts | (self.votes > 0))

    @property
    def agreed(self) -> Array:
        """Rows where head and neighbours name the same other class, (n,)."""
        agree = self.guessed == self.voted
        return np.asarray(self.head_doubts & (self.votes > 0) & agree)

    @cached_property
    def confident(self) -> tuple[float, Array]:
        """The noise rate by confident learning, and the pool rows that it doubts."""
        joint = confident_joint(self.probs[self.pool], self.labels[self.pool])
        doubtful = np.zeros(len(self.labels), bool)
        doubtful[self.pool] = prune_by_noise_rate(
            self.probs[self.pool], self.labels[self.pool], joint
        )
        return noise_rate(joint), doubtful


def folds_of(
    labels: Array, group: Array, pool: Array, *, folds: int, seed: int
) -> Array:
    """Divide the pool in folds, classes evenly and groups whole; -1 elsewhere, (n,)."""
    fold = np.full(len(labels), -1, np.int64)
    rows = np.flatnonzero(pool)
    _, first, member = np.unique(group[rows], return_index=True, return_inverse=True)
    label = labels[rows][first]
    order = np.random.default_rng((seed, 17)).permutation(len(label))
    order = order[np.argsort(label[order], kind="stable")]
    # Going on from class to class keeps the folds even where classes are small.
    of_group = np.empty(len(label), np.int64)
    of_group[order] = np.arange(len(order)) % folds
    fold[rows] = of_group[member]
    return fold


def look(
    x: NDArray[np.float32],
    *,
    labels: Array,
    group: Array,
    pool: Array,
    folds: int,
    neighbours: int,
    seed: int,
) -> Views:
    """Find folds and neighbours of every row, once for all judgements.

    Args:
        x: Embeddings (n, d).
        labels: Given classes (n,); folds are balanced by them.
        group: Look-alikes (n,): never neighbours, always in one fold.
        pool: Rows to learn from (n,).
        folds: Number of heads.
        neighbours: Number of voters.
        seed: Of the folds.
    """
    from models.neighbours import nearest, partial_whitening

    fold = folds_of(labels, group, pool, folds=folds, seed=seed)
    turned, rows = partial_whitening(x[pool])(x), np.flatnonzero(pool)
    index, cosine = nearest(
        turned,
        turned[rows],
        apart=(group, group[rows]),
        k=min(neighbours, len(rows)),
    )
    return Views(x=x, pool=pool, fold=fold, index=rows[index], cosine=cosine)


def judge(
    views: Views, labels: Array, *, num_classes: int, aum: Array | None = None
) -> Suspicion:
    """Hold `labels` (n,) against the embeddings.

    Args:
        views: Folds and neighbours.
        labels: Given classes (n,).
        num_classes: How many classes, k.
        aum: Mean margin of each row in training (n,), nan where unknown.
    """
    from models.probe import held_out_logits
    from tasks.inference import softmax

    logits = held_out_logits(views.x, labels, views.fold, num_classes=num_classes)
    votes, voted = poll(labels[views.index], views.cosine, labels)
    return Suspicion(
        probs=softmax(logits),
        votes=votes,
        voted=voted,
        aum=np.full(len(labels), np.nan) if aum is None else aum,
        labels=labels,
        pool=views.pool,
    )


def poll(said: Array, cosine: Array, labels: Array) -> tuple[Array, Array]:
    """Let neighbours vote by their cosines.

    Args:
        said: Labels of the neighbours (n, j).
        cosine: How near they are (n, j); those under -1 have no vote.
        labels: Given classes (n,).

    Returns:
        Share of the best other class minus that of the given one (n,), and that other
        class (n,), the given one where no neighbour names another.
    """
    votes, voted = np.empty(len(labels)), np.empty(len(labels), np.int64)
    for start in range(0, len(labels), 4_096):
        rows = slice(start, start + 4_096)
        weight = np.where(cosine[rows] < -1.5, 0, np.maximum(cosine[rows], 1e-6))
        weight = weight / np.maximum(weight.sum(1, keepdims=True), 1e-12)
        own, names = labels[rows], said[rows]
        for_label = np.where(names == own[:, None], weight, 0).sum(1)
        same = names[:, :, None] == names[:, None, :]
        behind = np.einsum("nij,nj->ni", same, weight)
        behind = np.where(names == own[:, None], 0, behind)
        best = behind.argmax(1)
        at = np.arange(len(own))
        votes[rows] = behind[at, best] - for_label
        voted[rows] = np.where(behind[at, best] > 0, names[at, best], own)
    return votes, voted


def plant(
    labels: Array, pool: Array, *, share: float, seed: int
) -> tuple[Array, Array]:
    """Give a share of the pool rows another of the pool's classes, drawn evenly.

    Returns:
        The labels with the planted ones (n,), and where they are, bool (n,).
    """
    rng = np.random.default_rng((seed, 23))
    rows = np.flatnonzero(pool)
    classes, place = np.unique(labels[rows], return_inverse=True)
    # A rate read from a handful of flips would be a guess.
    n = max(round(share * len(rows)), min(LEAST, len(rows) // 10), 1)
    chosen = rng.permutation(len(rows))[:n]
    moved = (place[chosen] + rng.integers(1, len(classes), len(chosen))) % len(classes)
    planted, where = labels.copy(), np.zeros(len(labels), bool)
    planted[rows[chosen]] = classes[moved]
    where[rows[chosen]] = True
    return planted, where


def auroc(score: Array, positive: Array) -> float:
    """Return the chance that a positive row scores above another, ties half."""
    n = int(positive.sum())
    if n in (0, len(positive)):
        return float("nan")
    rank = ranks(score) * len(score)
    return float((rank[positive].sum() - n * (n + 1) / 2) / n / (len(positive) - n))


def planted_rate(score: Array, planted: Array) -> float:
    """Bound the noise rate of the other rows by how planted flips score.

    If a share r of the others were flips like these, then at least r times the planted
    share would lie above any score: the least such bound over a range of scores.
    """
    own, others = np.sort(score[planted]), np.sort(score[~planted])
    if not len(own) or not len(others):
        return 0.0
    at = np.quantile(own, 1 - DEPTHS)
    above = 1 - np.searchsorted(others, at, side="left") / len(others)
    of_own = 1 - np.searchsorted(own, at, side="left") / len(own)
    return float(np.clip(np.min(above / np.maximum(of_own, 1e-12)), 0, 1))
