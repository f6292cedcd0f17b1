"""Wear of an audit's images: corruptions, and what covers a share of them."""

from __future__ import annotations

import functools

import numpy as np

from data_contracts.dataset import Array
from models.durable import write_over
from models.recipe import OCCLUDERS
from tasks.audit_attacks import Attacks
from tasks.audit_outcome import CoverRow
from tasks.audit_settings import ResilienceSettings
from tasks.evaluation import EvaluateSettings, Robustness
from tasks.parallel import spans
from tasks.robustness import measure_robustness
from tasks.scores import score, share_of


def wear(attacks: Attacks, settings: ResilienceSettings) -> Robustness:
    """Return top-1 under every corruption and severity; what was measured is read."""
    subject, test = attacks.subject, attacks.subject.test
    path = attacks.parts.folder / "wear.json"
    if not path.exists():
        asked = EvaluateSettings(
            level=settings.level,
            corruptions=settings.corruptions,
            severities=settings.severities,
            spoiled=len(test),
        )
        models = subject.predictor, None
        found = measure_robustness(
            test.dataset, test.rows, test.labels, test.groups, models, asked
        )
        write_over(path, found.model_dump_json())
    return Robustness.model_validate_json(path.read_text())


def cover(attacks: Attacks, settings: ResilienceSettings) -> list[CoverRow]:
    """Return top-1 with a share of each image covered, by occluder."""
    test = attacks.subject.test
    ways = [(name, share) for name in OCCLUDERS for share in settings.covered]
    if not ways:
        return []
    found = [
        attacks.parts.get(
            f"covered-{start}",
            functools.partial(_right, attacks, settings, start, stop),
        )["right"]
        for start, stop in spans(0, len(test), size=attacks.subject.part)
    ]
    right = np.concatenate(found, axis=1)
    return [
        CoverRow(
            occluder=name,
            share=share,
            accuracy=share_of(hits, groups=test.groups, level=settings.level),
        )
        for (name, share), hits in zip(ways, right, strict=True)
    ]


def _right(
    attacks: Attacks, settings: ResilienceSettings, start: int, stop: int
) -> dict[str, Array]:
    """Return 1 where the answer stays right (ways, n)."""
    import jax.numpy as jnp

    from models.occlude import occlude_rows

    subject = attacks.subject
    rows = np.resize(np.arange(start, stop), subject.part)
    images = subject.read(subject.test, rows)
    keys = (subject.test.keys[rows] % (1 << 31)).astype(np.int32)
    found = []
    for which in range(len(OCCLUDERS)):
        for share in settings.covered:
            seen, _ = occlude_rows(
                images,
                np.roll(images, 1, axis=0),
                keys,
                jnp.full(len(images), share),
                np.full(len(images), which),
                settings.attack_seed,
            )
            probs = subject.predictor(np.asarray(seen))
            found.append(score(probs, subject.test.labels[rows]).correct)
    return {"right": np.stack(found)[:, : stop - start]}
