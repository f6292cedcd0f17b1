"""Whether a step fits the memory of the device, known before it runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from data_contracts.errors import MemoryShort, UsageError
from models.feed import devices
from models.machine import memory
from models.processes import spans
from models.recipe import Recipe
from models.shards import held, layout_of
from models.steps import TrainState

FULL = "RESOURCE_EXHAUSTED"
GIB = 1 << 30


def chosen_layout(
    state: TrainState, mesh: Mesh | None, recipe: Recipe, shard: str
) -> Any:
    """Return how a training state lies on the devices, see `shards`; None is whole.

    Beside a whole state, a device needs room for a gradient, as large as the weights;
    beside a part of one, for the whole weights.

    Args:
        state: The state; its shapes count.
        mesh: Devices that a batch is split over.
        recipe: Whose steps are taken.
        shard: "never"; "always"; or "auto", where it does not fit whole.

    Raises:
        UsageError: It is always to be split, and cannot be.
        MemoryShort: It does not fit.
    """
    room, weights = bytes_of_device(mesh), held(state.params)
    whole, split = held(state), 0
    layout, why = None, _hindrance(mesh, recipe)
    if mesh is not None and not why:
        layout = layout_of(state, mesh)
        split = held(state, layout)
        if split == whole:
            why = f"no large array of it can be cut in {mesh.size} equal parts"
    if shard == "always" and why:
        raise UsageError(
            f"shard=always splits the training state over the devices, but {why}. Leave"
            " shard out."
        )
    apart = not why and (shard == "always" or whole + weights > room)
    if shard == "never" or not apart:
        layout = None
    need = whole if layout is None else split + weights
    if need > room:
        never = apart and shard == "never"
        other = " Set shard=auto, which splits them." if never else ""
        raise MemoryShort(
            "The memory of the device is too small: weights, optimiser and average of"
            f" preset={recipe.preset} take {need / GIB:.3g} GiB on each of"
            f" {devices(mesh)}, and there are {room / GIB:.3g}.{other} Use a smaller"
            " preset, or more devices or memory."
        )
    return layout


def _hindrance(mesh: Mesh | None, recipe: Recipe) -> str:
    """Say why a training state cannot be split, "" if it can."""
    if devices(mesh) == 1:
        return "a batch of this size is on one device"
    if spans(mesh):
        return "they belong to several processes"
    if recipe.adversarial.method == "free":
        return "against=free steps the weights several times within a step"
    return ""


class Ahead:
    """A step that is compiled for each shape of batch before it first runs.

    What the compiler plans to hold is then known, and a step that cannot fit ends in
    an error rather than in a process that the system kills.

    Attributes:
        compiled: Programs by the shape of a batch's images.
        seconds: Spent on tracing and compiling.
    """

    def __init__(
        self,
        step: Any,
        recipe: Recipe,
        mesh: Mesh | None,
        *,
        resident: int = 0,
        split: bool = False,
    ) -> None:
        """Wrap `step`.

        Args:
            step: From `make_train_step`.
            recipe: What an error tells and varies.
            mesh: Devices that a batch is split over.
            resident: Images that wait on each device (or in the machine's memory).
            split: Whether the devices split the state.
        """
        self.compiled: dict[tuple[int, ...], Any] = {}
        self.seconds = 0.0
        self._step, self._recipe, self._mesh = step, recipe, mesh
        self._resident, self._split = resident, split
        self._asked: Any = None

    def __call__(
        self, state: TrainState, *batch: Any
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Take the step, compiled now if this is the first of its shape.

        Raises:
            MemoryShort: It does not fit the device.
        """
        found: tuple[TrainState, dict[str, jax.Array]]
        found = self.prepare(state, *batch)(state, *batch)
        return found

    def prepare(self, state: TrainState, *batch: Any) -> Any:
        """Return the program for such a batch; it must fit the device.

        Raises:
            MemoryShort: It does not.
        """
        shape = batch[0].shape
        if shape not in self.compiled:
            start = time.perf_counter()
            self._asked = shapes_of((state, *batch))
            self.compiled[shape] = self._step.lower(*self._asked).compile()
            self.seconds += time.perf_counter() - start
            self._check(shape)
        return self.compiled[shape]

    @property
    def room(self) -> int:
        """Bytes that a step may take on one device."""
        image = self._asked[1].shape[1:]
        taken = self._resident * image[0] * image[1] * image[2]
        if jax.default_backend() == "cpu":
            taken //= devices(self._mesh)
        return bytes_of_device(self._mesh) - taken

    def largest(self) -> int | None:
        """Return the largest batch, of halves of this one, that is planned to fit."""
        parts = self._recipe.accumulate
        multiple = parts * devices(self._mesh)
        size = self._recipe.batch_size // 2
        while size >= max(2 * parts, multiple):
            width = -(-size // multiple) * multiple
            state, *batch = self._asked
            smaller = [
                jax.ShapeDtypeStruct((width, *leaf.shape[1:]), leaf.dtype)
                for leaf in batch
            ]
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                if planned(self._step.lower(state, *smaller).compile()) <= self.room:
                    return size
            size //= 2
        return None

    def _check(self, shape: tuple[int, ...]) -> None:
        need, room = planned(self.compiled[shape]), self.room
        if need > room:
            said = f"one plans {need / GIB:.3g} GiB, and there are {room / GIB:.3g}."
            raise MemoryShort(self.advice(said))

    def advice(self, said: str) -> str:
        """Return the text of an error: what happened, and what to set."""
        size, parts = self._recipe.batch_size, self._recipe.accumulate
        cut = f" in {parts} parts" if parts > 1 else ""
        largest = self.largest() if self._asked else None
        ways = []
        if largest:
            ways.append(f"batch_size={largest}, the largest half that fits")
        if size // devices(self._mesh) >= 4 * parts:
            ways.append(f"accumulate={2 * parts}")
        ways += [] if self._recipe.remat else ["remat=yes"]
        if not largest and not self._split and devices(self._mesh) > 1:
            ways.append("shard=always")
        tried = "" if largest else " No smaller batch fits either."
        advice = "Set " + ", or ".join(ways) if ways else "Use smaller views"
        return (
            f"The memory of the device is too small for steps of batch_size={size}"
            f"{cut}: {said}{tried} {advice}, and run again; or use a device with more"
            " memory."
        )


def shapes_of(tree: Any) -> Any:
    """Return the shapes and types of arrays, which may be gone."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)


def planned(compiled: Any) -> int:
    """Return the bytes that a compiled program holds on each device; 0 if not told."""
    plan = compiled.memory_analysis()
    if plan is None:
        return 0
    inputs, outputs = plan.argument_size_in_bytes, plan.output_size_in_bytes
    return int(inputs + outputs - plan.alias_size_in_bytes + plan.temp_size_in_bytes)


def bytes_of_device(mesh: Mesh | None) -> int:
    """Return the memory of one device; those of a CPU share the machine's."""
    device = jax.local_devices()[0] if mesh is None else mesh.local_devices[0]
    own = (device.memory_stats() or {}).get("bytes_limit")
    return int(own or memory() // devices(mesh))


@contextlib.contextmanager
def enough_memory(step: Ahead) -> Iterator[None]:
    """Turn a device's lack of memory into an error that says what to change.

    Raises:
        MemoryShort: A batch does not fit.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if FULL not in str(error):
            raise
        first = str(error).strip().splitlines()[0]
        raise MemoryShort(step.advice(first)) from error


@contextlib.contextmanager
def enough_to_judge(images: int) -> Iterator[None]:
    """Turn a lack of memory in validation into an error that says what to change.

    Raises:
        MemoryShort: So many images at once do not fit.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if FULL not in str(error):
            raise
        raise MemoryShort(
            f"The memory of the device is too small to judge {images} images at once:"
            f" {str(error).strip().splitlines()[0]} Use a smaller preset or smaller"
            " images, or a device with more memory."
        ) from error
