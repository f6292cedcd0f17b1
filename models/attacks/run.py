"""Attack any number of images, in compiled batches, each attack on the survivors."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from numpy.typing import NDArray

from models.attacks.balls import keys_of
from models.attacks.kept import silent, wrong
from models.attacks.registry import attack
from models.attacks.settings import Attack, stages_of
from models.steps import AXIS

# logits_of(weights, pixels (n h w c) in 0..1) -> logits (n k)
WeightedLogits = Callable[[Any, jax.Array], jax.Array]
NOT_BROKEN, WRONG_BEFORE = -1, -2


class Attacked(NamedTuple):
    """What became of n images.

    Attributes:
        pixels: As the attack left them (n h w c), float32 in 0..1.
        broken: Whether their answers are wrong (n,).
        stage: What broke them (n,): a place in `stages_of`; `WRONG_BEFORE` where the
            answer was wrong without an attack, `NOT_BROKEN` where none did.
    """

    pixels: NDArray[np.float32]
    broken: NDArray[np.bool_]
    stage: NDArray[np.int8]


class Attacker:
    """An attack on one network's structure; weights, labels and `eps` are arguments.

    Every batch has the same shape, so that each stage is compiled once. What is found
    for an image depends on the image, its place and the seed alone.
    """

    def __init__(
        self,
        logits_of: WeightedLogits,
        settings: Attack,
        *,
        batch_size: int = 64,
        seed: int = 0,
        mesh: Mesh | None = None,
    ) -> None:
        """Compile nothing yet.

        Args:
            logits_of: Pure; batch norms at their running statistics.
            settings: Which attack.
            batch_size: Images in a compiled step, over all devices.
            seed: Of random starts and squares.
            mesh: Devices to split a batch over.
        """
        devices = 1 if mesh is None else mesh.size
        self._width = -(-batch_size // devices) * devices
        self._key = jax.random.key(seed)
        self.settings = settings

        def stage(single: Attack, weights: Any, batch: Any, eps: Any, key: Any) -> Any:
            images, labels, places = batch
            ask = functools.partial(logits_of, weights)
            keys = keys_of(key, places)
            found = attack(single, ask, images, labels, keys=keys, eps=eps)
            return found, wrong(ask(found), labels)

        def before(weights: Any, batch: Any, *_: Any) -> Any:
            return wrong(logits_of(weights, batch[0]), batch[1])

        def unheard(weights: Any, batch: Any, *_: Any) -> Any:
            return silent(functools.partial(logits_of, weights), *batch[:2])

        single = [
            dataclasses.replace(settings, method=method)
            for method in stages_of(settings.method)
        ]
        split = functools.partial(_on_devices, mesh=mesh)
        self._stages = [split(functools.partial(stage, each)) for each in single]
        self._before, self._silent = split(before), split(unheard)

    def __call__(
        self,
        weights: Any,
        images: NDArray[Any],
        labels: NDArray[Any],
        *,
        places: NDArray[Any] | None = None,
        eps: float | None = None,
    ) -> Attacked:
        """Attack each image that is answered rightly.

        Args:
            weights: For `logits_of`.
            images: (n h w c), uint8, or float32 in 0..1.
            labels: (n,), the right answers.
            places: A number of each image, for its random key; None counts them.
            eps: Another budget than the settings'.
        """
        if not len(images):
            none = np.zeros(0, np.int8)
            return Attacked(np.asarray(images, np.float32), none.astype(bool), none)
        pixels, labels, places = self._given(images, labels, places)
        found = pixels.copy()
        budget = np.float32(self.settings.eps if eps is None else eps)
        (broken,) = self._run(self._before, weights, (pixels, labels, places), budget)
        stage = np.where(broken, WRONG_BEFORE, NOT_BROKEN).astype(np.int8)
        for number, single in enumerate(self._stages):
            left = np.flatnonzero(~broken)
            if not len(left):
                break
            batch = pixels[left], labels[left], places[left]
            key = jax.random.fold_in(self._key, number)
            new, fell = self._run(single, weights, batch, budget, key)
            found[left], broken[left] = new, fell
            stage[left[fell]] = number
        return Attacked(found, broken, stage)

    def silent(
        self, weights: Any, images: NDArray[Any], labels: NDArray[Any]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which images have no slope, and which one of no numbers (n,)."""
        given = self._given(images, labels, None)
        flat, none = self._run(self._silent, weights, given, np.float32(0))
        return flat, none

    def _given(
        self, images: NDArray[Any], labels: NDArray[Any], places: NDArray[Any] | None
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        pixels = np.asarray(images, np.float32)
        if images.dtype == np.uint8:
            pixels = pixels / np.float32(255)
        numbers = np.arange(len(images)) if places is None else places
        return pixels, np.asarray(labels, np.int32), numbers.astype(np.uint32)

    def _run(
        self, compiled: Any, weights: Any, given: Any, eps: Any, key: Any = None
    ) -> list[NDArray[Any]]:
        """Return the outcomes of all rows, a batch at a time."""
        key = self._key if key is None else key
        parts = []
        for start in range(0, len(given[0]), self._width):
            rows = np.arange(start, min(start + self._width, len(given[0])))
            whole = tuple(each[np.resize(rows, self._width)] for each in given)
            out = jax.tree.leaves(compiled(weights, whole, eps, key))
            parts.append([np.asarray(each)[: len(rows)] for each in out])
        return [np.concatenate(each) for each in zip(*parts, strict=True)]


def _on_devices(local: Callable[..., Any], mesh: Mesh | None) -> Any:
    """Compile `local(weights, batch, eps, key)`, each device with its share."""
    if mesh is None:
        return jax.jit(local)
    whole, part = PartitionSpec(), PartitionSpec(AXIS)
    split = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(whole, part, whole, whole),
        out_specs=part,
        check_vma=False,
    )
    return jax.jit(split)
