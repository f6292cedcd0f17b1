"""Find covered pixels by a network that `sightline occlusion` trained."""

from __future__ import annotations

import functools
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from data_contracts.dataset import Array
from data_contracts.errors import SchemaError, UsageError
from data_contracts.references import Reference
from models.durable import write_over
from tasks.inference import devices, padded

KIND = "occlusion"
# Images in a compiled step: a multiple of the devices there may be.
BATCH = 32
Floats = NDArray[np.float32]
_LOADING = threading.Lock()


class DetectorRef(Reference):
    """A network that finds covered pixels."""

    name: str
    run: str = Field(description="Run that trained it.")
    uri: str = Field(description="Folder of its weights.")
    sha256: str = Field(description="Digest of its weights.")
    image_size: int = Field(description="Side of the images that it knows, pixels.")


def keep_detector(detectors: Path, ref: DetectorRef) -> None:
    """Let `ref` be found by its name from now on, in place of an older one."""
    detectors.mkdir(parents=True, exist_ok=True)
    kept = ref.model_dump_json(include={"run", "sha256", "image_size"})
    write_over(detectors / f"{ref.name}.json", kept)


def find_detector(detectors: Path, name: str) -> DetectorRef:
    """Return the network that was trained last under `name`.

    Args:
        detectors: Folder of what is known by name; the runs lie beside it.
        name: Name that `sightline occlusion` was given.

    Raises:
        UsageError: There is none.
    """
    path = detectors / f"{name}.json"
    if not path.exists():
        known = ", ".join(sorted(found.stem for found in detectors.glob("*.json")))
        raise UsageError(
            f"No network that finds occlusion is called {name!r} (known:"
            f" {known or 'none'}). Train one: sightline occlusion data=FOLDER"
            f" name={name}"
        )
    kept = json.loads(path.read_text("utf-8"))
    folder = detectors.parent / "runs" / kept["run"] / "model"
    return DetectorRef(name=name, uri=str(folder), **kept)


def check_size(known: int, size: int) -> None:
    """Raise UsageError unless images of side `size` are those that are `known`."""
    if size != known:
        raise UsageError(
            f"The network that finds occlusion knows images of {known} pixels, these"
            f" have {size}. Train one for them: sightline occlusion"
            f" decode.image_size={size}"
        )


class Detector:
    """A network that answers: images in, the chance of cover of each pixel out.

    Every image is computed in a batch of the same width, so that its answer does not
    depend on what is asked beside it.
    """

    def __init__(self, params: Any, stats: Any, meta: dict[str, Any]) -> None:
        mesh = devices()
        from flax import nnx

        from models.feed import place
        from models.segment import UNet
        from models.steps import make_predict

        if meta.get("kind") != KIND:
            raise SchemaError("These weights are not of a network that finds covers.")
        self.image_size = int(meta["image_size"])
        self._weights = place((params, stats), mesh, split=False)
        self._width = -(-BATCH // mesh.size) * mesh.size
        graphdef, *_ = nnx.split(UNet(rngs=nnx.Rngs(0)), nnx.Param, ...)
        self._predict = make_predict(
            graphdef, mean=tuple(meta["mean"]), std=tuple(meta["std"]), mesh=mesh
        )

    def __call__(self, images: Array) -> Floats:
        """Return the chance that each pixel is covered (n, h, w), of uint8 images.

        Raises:
            UsageError: The images have another size than those it has learnt from.
        """
        check_size(self.image_size, images.shape[1])
        out = np.empty(images.shape[:3], np.float32)
        for start in range(0, len(images), self._width):
            batch = images[start : start + self._width]
            filled = padded(batch, self._width)
            logits = np.asarray(self._predict(*self._weights, filled))[: len(batch)]
            # Beyond 60 the answer is 0 or 1 in float32 anyway.
            out[start : start + len(batch)] = 1 / (1 + np.exp(-logits.clip(-60, 60)))
        return out


def load_detector(folder: Path) -> Detector:
    """Return the network whose weights lie in `folder`, loaded once a process."""
    with _LOADING:  # threads that miss a cache together would all load
        return _loaded(folder)


@functools.lru_cache(maxsize=2)
def _loaded(folder: Path) -> Detector:
    devices()
    from models.checkpoint import load_model

    return Detector(*load_model(folder))
