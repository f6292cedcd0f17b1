"""LIME and KernelSHAP beside the authors' code, and beside exact Shapley values.

    python -m venv /tmp/oracle && /tmp/oracle/bin/pip install shap lime scikit-learn
    /tmp/oracle/bin/python benchmarks/explanation_parity.py

Games are random: a line, pairs and a bend of the segments shown, so that no method is
right by chance. LIME sees the same questions in both. Needs no part of Sightline but
the two designs, and no JAX. Prints one JSON line.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from math import factorial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
GAMES = 5

Game = Callable[[Any], Any]


def game(k: int, seed: int) -> Game:
    """Return a game on `k` segments: rows of 0 and 1 (m k) to values (m,)."""
    rng = np.random.default_rng(seed)
    line, pairs = rng.normal(size=k), rng.normal(size=(k, k)) / k

    def value(shown: Any) -> Any:
        shown = np.atleast_2d(np.asarray(shown, np.float64))
        inner = shown @ line + np.einsum("mi,ij,mj->m", shown, pairs, shown)
        return np.tanh(inner) + inner / 2

    return value


def exact(value: Game, k: int) -> Any:
    """Return Shapley values by their definition, from all coalitions."""
    every = np.array(list(itertools.product((0.0, 1.0), repeat=k)))
    found = value(every)
    sizes = every.sum(1).astype(int)
    chance = np.array(
        [factorial(s) * factorial(k - s - 1) / factorial(k) for s in range(k)]
    )
    values = np.zeros(k)
    for player in range(k):
        without = np.flatnonzero(every[:, player] == 0)
        with_it = without + 2 ** (k - 1 - player)
        gain = found[with_it] - found[without]
        values[player] = (chance[sizes[without]] * gain).sum()
    return values


def ours(value: Game, k: int, samples: int) -> Any:
    """Return our KernelSHAP values."""
    from models.explain.coalitions import kernel_shap

    design = kernel_shap(k, samples=samples, seed=0)
    nothing, whole = value(np.zeros(k))[0], value(np.ones(k))[0]
    answers = value(design.shown) - nothing
    return design.values @ answers + design.change * (whole - nothing)


def theirs(value: Game, k: int, samples: int) -> Any:
    """Return shap's KernelSHAP values."""
    import shap

    np.random.seed(0)  # noqa: NPY002, shap draws from the global stream
    asked = shap.KernelExplainer(value, np.zeros((1, k)))
    return asked.shap_values(
        np.ones((1, k)), nsamples=samples, silent=True, l1_reg=False
    )[0]


def lime_gap(value: Game, k: int, samples: int) -> float:
    """Return the largest difference between our values and lime's regression."""
    from lime.lime_base import LimeBase
    from sklearn.metrics import pairwise_distances

    from models.explain.coalitions import LIME_WIDTH, lime

    design = lime(k, samples=samples, seed=0)
    answers = value(design.shown)

    def kernel(distance: Any) -> Any:
        return np.sqrt(np.exp(-(distance**2) / LIME_WIDTH**2))

    first = design.shown[:1]
    far = pairwise_distances(design.shown, first, metric="cosine").ravel()
    _, found, *_ = LimeBase(kernel).explain_instance_with_data(
        design.shown, answers[:, None], far, 0, 100_000, feature_selection="none"
    )
    want = np.zeros(k)
    for place, weight in found:
        want[place] = weight
    return float(np.abs(design.values @ answers - want).max())


def main() -> None:
    """Compare and print one JSON line."""
    found: dict[str, Any] = {"benchmark": "explanation_parity", "games": GAMES}
    for k, samples in ((8, 254), (12, 4094), (12, 600)):
        games = [game(k, seed) for seed in range(GAMES)]
        want = [exact(value, k) for value in games]
        both = {
            "ours": [ours(value, k, samples) for value in games],
            "shap": [theirs(value, k, samples) for value in games],
        }
        gaps = {
            name: float(np.abs(np.array(got) - np.array(want)).max())
            for name, got in both.items()
        }
        between = np.abs(np.array(both["ours"]) - np.array(both["shap"])).max()
        found[f"{k} segments, {samples} samples"] = {
            "largest gap to exact": gaps,
            "between": float(between),
            "largest value": float(np.abs(want).max()),
        }
        print(f"{k} segments, {samples} samples: done", file=sys.stderr)
    found["lime, largest gap"] = max(
        lime_gap(game(k, seed), k, 500) for k in (9, 49) for seed in range(GAMES)
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
