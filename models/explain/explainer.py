"""Any method under one signature: images and targets in, maps out."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from numpy.typing import NDArray

from data_contracts.errors import UsageError
from models.backbones.vit import VisionTransformer
from models.explain import asking, cam, coalitions, gradients, rollout
from models.explain.how import BY_ASKING, BY_PATH, How, Method
from models.explain.subject import Case, Subject
from models.steps import AXIS

Floats = NDArray[np.float32]
Figures = dict[str, Floats]
# Images of one call, and of 64 px also gradients: measured on two cores.
BATCH, GRADIENTS = 32, 128
METHODS = asking.METHODS | {
    Method.gradcam: cam.gradcam,
    Method.gradcam_pp: cam.gradcam_pp,
    Method.rollout: rollout.rollout,
    Method.saliency: gradients.saliency,
    Method.smoothgrad: gradients.smoothgrad,
    Method.integrated_gradients: gradients.integrated_gradients,
    Method.expected_gradients: gradients.expected_gradients,
}


class Explainer:
    """A compiled method: `explainer(images, targets)` gives maps (n h w), float32.

    Every image has the same random draws, whatever stands beside it.
    """

    def __init__(
        self,
        subject: Subject,
        weights: Any,
        how: How,
        *,
        background: NDArray[np.uint8] | None = None,
        mesh: Mesh | None = None,
        batch: int | None = None,
    ) -> None:
        """Compile nothing yet, but refuse what cannot be.

        Args:
            subject: The network.
            weights: Its stacked weights.
            how: The method and its budget.
            background: Usual images (m h w c), for expected gradients.
            mesh: Devices to split a batch over; None is JAX's default device.
            batch: Images of one call, fewer are filled up; none: as `batch_of`.

        Raises:
            UsageError: The method is not one for this network.
        """
        check_method(subject, how, background=background)
        self.subject, self.how, self._weights = subject, how, weights
        self._batch = batch
        self._devices = mesh.size if mesh is not None else 1
        self._background = background
        self._run = compiled(subject, how, mesh)

    def with_weights(self, weights: Any) -> Explainer:
        """Return the same explanation of other weights; nothing is compiled anew."""
        other = object.__new__(Explainer)
        other.__dict__ |= self.__dict__ | {"_weights": weights}
        return other

    def __call__(
        self, images: NDArray[np.uint8], targets: NDArray[np.integer]
    ) -> Floats:
        """Return the maps (n h w) of images (n h w c), uint8, for targets (n,)."""
        return self.explain(images, targets)[0]

    def explain(
        self, images: NDArray[np.uint8], targets: NDArray[np.integer]
    ) -> tuple[Floats, Figures]:
        """Return maps (n h w), and what the method says of itself by name, (n,) each.

        Raises:
            UsageError: There are no images, targets do not fit, or no gradient comes
                through.
        """
        _check(images, targets)
        maps = np.empty(images.shape[:3], np.float32)
        figures: dict[str, list[Any]] = {}
        usual = images[:1] if self._background is None else self._background
        width = self._batch or batch_of(self.how, side=images.shape[1])
        width = -(-width // self._devices) * self._devices
        for start in range(0, len(images), width):
            rows = np.arange(start, min(start + width, len(images)))
            filled = np.resize(rows, width)
            wanted = np.asarray(targets[filled], np.int32)
            found, told = self._run(self._weights, images[filled], wanted, usual)
            maps[rows] = np.asarray(found)[: len(rows)]
            for name, values in told.items():
                figures.setdefault(name, []).append(np.asarray(values)[: len(rows)])
        joined = {name: np.concatenate(parts) for name, parts in figures.items()}
        self._check_found(maps, joined)
        return maps, joined

    def _check_found(self, maps: Floats, figures: Figures) -> None:
        slope = figures.pop("slope", None)
        others = ", ".join(BY_ASKING)
        if not np.isfinite(maps).all():
            raise UsageError(
                f"method={self.how.method} gave a map that is no number: the network's"
                f" answers or gradients overflow. Take one of {others}, or look at"
                " the weights."
            )
        if slope is not None and not slope.any():
            raise UsageError(
                f"method={self.how.method} needs a gradient, and none reaches the"
                " pixels: a stage of the network has no slope, or is held still. Take"
                f" a method that only asks: {others}."
            )


def batch_of(how: How, *, side: int) -> int:
    """Return how many images of a `side` are worth explaining at once."""
    room = max(1.0, (side / 64) ** 2)
    gradients = how.steps if how.method in BY_PATH else 1
    return max(1, min(BATCH, int(GRADIENTS / room) // gradients))


def check_method(
    subject: Subject, how: How, *, background: NDArray[np.uint8] | None
) -> None:
    """Refuse a method that the network does not have.

    Raises:
        UsageError: It is attention rollout of a network that is no transformer,
            expected gradients without images to expect, or has too few samples.
    """
    if how.method in (Method.lime, Method.kernel_shap):
        coalitions.check_samples(how.cells**2, how.samples)
    if how.method == Method.rollout and not issubclass(subject.kind, VisionTransformer):
        raise UsageError(
            "method=rollout follows attention through the blocks of a transformer"
            " (vit_…, dinov2_…, siglip_…); this network is none. Take"
            f" method={Method.gradcam}, or one of {', '.join(BY_ASKING)}."
        )
    if how.method == Method.expected_gradients and (
        background is None or not len(background)
    ):
        raise UsageError(
            "method=expected_gradients starts from usual images, and there are none."
            f" Give some training images, or take {Method.integrated_gradients}."
        )


def _check(images: NDArray[np.uint8], targets: NDArray[np.integer]) -> None:
    if not len(images):
        raise UsageError("There are no images to explain. Give at least one.")
    if len(images) != len(targets):
        raise UsageError(
            f"Each image has one target; came {len(images):,} images and"
            f" {len(targets):,} targets."
        )
    if images.ndim != 4 or images.dtype != np.uint8:
        raise UsageError(
            f"Images are uint8 (n h w c); came {images.dtype} {images.shape}."
        )
    if (targets < 0).any():
        raise UsageError(
            "A target is the position of a class; came"
            f" {int((targets < 0).sum()):,} below 0, as of images without a label."
            " Leave these out, or explain what is predicted."
        )


def compiled(subject: Subject, how: How, mesh: Mesh | None) -> Any:
    """Compile explain(weights, images, targets, background) to maps and figures."""

    def local(weights: Any, images: Any, targets: Any, background: Any) -> Any:
        pixels, usual = (x.astype(jnp.float32) / 255 for x in (images, background))
        case = Case(subject, weights, pixels, targets, usual, how)
        maps, figures = METHODS[how.method](case)
        return maps.astype(jnp.float32), figures

    return on_devices(local, mesh, split=(False, True, True, False))


def on_devices(local: Any, mesh: Mesh | None, *, split: tuple[bool, ...]) -> Any:
    """Compile `local`, whose arguments marked by `split` are shared out by rows."""
    if mesh is None:
        return jax.jit(local)
    whole, part = PartitionSpec(), PartitionSpec(AXIS)
    specs = tuple(part if own else whole for own in split)
    return jax.jit(
        jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=part, check_vma=False)
    )
