"""Paint over what covers an image, where a network finds it."""

from __future__ import annotations

import shutil
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

import numpy as np
import zarr
from pydantic import Field, model_validator

from data_contracts.config import Settings
from data_contracts.dataset import Array
from data_contracts.errors import UsageError
from data_contracts.references import DatasetRef
from data_contracts.store import Dataset
from tasks.detector import (
    Detector,
    DetectorRef,
    check_size,
    find_detector,
    load_detector,
)
from tasks.parallel import Span, map_spans, spans
from tasks.stage import Build, run_stage, stage_task

VERSION = 1
# How far around it each painted pixel looks, in pixels.
RADIUS = 3


class Method(StrEnum):
    """How to paint over: Telea 2004, or Bertalmio et al. 2001 (Navier-Stokes)."""

    off = "off"
    telea = "telea"
    ns = "ns"


class InpaintSettings(Settings):
    """Settings of the stage `inpaint`."""

    method: Method = Field(
        Method.off,
        description="off, telea or ns (Navier-Stokes); see docs/data-quality.md.",
    )
    detector: str | None = Field(
        None, description="Name of the network, as trained by `sightline occlusion`."
    )
    mask_threshold: float = Field(
        0.5, gt=0, lt=1, description="Chance of cover from which a pixel is painted."
    )
    min_occluded: float = Field(
        0.02, ge=0, le=1, description="Images with a smaller covered share stay."
    )
    max_occluded: float = Field(
        0.5, gt=0, le=1, description="Images with a larger covered share stay."
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.method != Method.off and self.detector is None:
            raise ValueError(
                f"method={self.method} needs a network that finds what is covered,"
                " got none; give detector=NAME of one that `sightline occlusion` made"
            )
        if self.min_occluded > self.max_occluded:
            raise ValueError(
                f"min_occluded={self.min_occluded} is above"
                f" max_occluded={self.max_occluded}; no image lies between"
            )
        return self


def paint_over(images: Array, masks: Array, *, method: Method) -> Array:
    """Fill the masked pixels of each image from those around them.

    Args:
        images: uint8 (n, h, w, 3).
        masks: Pixels to fill, bool (n, h, w).
        method: telea or ns.
    """
    import cv2

    flag = {Method.telea: cv2.INPAINT_TELEA, Method.ns: cv2.INPAINT_NS}[method]
    out = images.copy()
    for row in np.flatnonzero(masks.any(axis=(1, 2))):
        out[row] = cv2.inpaint(images[row], masks[row].astype(np.uint8), RADIUS, flag)
    return out


def repair(
    images: Array, detector: Detector, settings: InpaintSettings
) -> tuple[Array, Array, Array]:
    """Find what covers each image; paint over it if neither too little nor too much.

    Returns:
        The images, the covered share of each (n,), and which were painted (n,).
    """
    masks = detector(images) >= settings.mask_threshold
    share = masks.mean(axis=(1, 2), dtype=np.float64).astype(np.float32)
    hit = (share >= settings.min_occluded) & (share <= settings.max_occluded)
    hit &= share > 0
    masks[~hit] = False
    return paint_over(images, masks, method=settings.method), share, hit


def repair_dataset_images(
    build: Build, settings: InpaintSettings, found: DetectorRef
) -> None:
    """Write `occluded` and `inpainted`, and the pixels of painted images."""
    assert build.parent is not None
    keep = build.parent.column("keep")
    folder = Path(found.uri)

    def work(group: zarr.Group, span: Span) -> tuple[Array, Array]:
        pixels: Any = group["images"]
        rows, kept = slice(*span), keep[slice(*span)]
        share = np.zeros(len(kept), np.float32)
        hit = np.zeros(len(kept), bool)
        if kept.any():
            images = np.asarray(pixels[rows])
            images[kept], share[kept], hit[kept] = repair(
                images[kept], load_detector(folder), settings
            )
            if hit.any():
                pixels[rows] = images
        return share, hit

    size = build.parent.chunk
    parts = map_spans(
        work, spans(0, len(keep), size=size), session=build.session, label="inpaint"
    )
    shares, hits = zip(*parts, strict=True)
    build.writer.write(occluded=np.concatenate(shares), inpainted=np.concatenate(hits))
    build.writer.annotate(inpaint=found.model_dump(include={"run", "sha256"}))


@stage_task(retries=2)
def inpaint_dataset(
    source: DatasetRef, settings: InpaintSettings, *, found: DetectorRef
) -> DatasetRef:
    """Paint over what the network `found` finds covered in the images of `source`."""
    return run_stage(
        "inpaint",
        lambda build: repair_dataset_images(build, settings, found),
        uri=source.uri,
        parent=source,
        version=VERSION,
        settings=settings,
        inputs=found.sha256,
    )


def wanted_detector(
    settings: InpaintSettings, *, size: int, detectors: str
) -> DetectorRef | None:
    """Return the network that the stage needs, None where the stage is off.

    Args:
        settings: Of the stage.
        size: Side of the images, pixels.
        detectors: Folder of the networks by name.

    Raises:
        UsageError: There is no network of that name, or it knows another size.
    """
    if settings.method == Method.off or settings.detector is None:
        return None
    found = find_detector(Path(detectors), settings.detector)
    check_size(found.image_size, size)
    return found


def keep_beside(model: Path, dataset: Dataset, *, runs: Path) -> None:
    """Copy the network that repaired the training images into the folder `model`.

    Serving then repairs by the same weights, whatever is trained under its name later.

    Raises:
        UsageError: The network's run was removed.
    """
    used = dataset.attributes.get("inpaint")
    if used is not None:
        folder, origin = model / "detector", runs / used["run"] / "model"
        if not origin.is_dir():
            raise UsageError(
                f"{origin} is gone, which repaired the images. Train the network again:"
                " sightline occlusion."
            )
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(origin, folder)


def repaired_as_trained(images: Array, meta: dict[str, Any], model: Path) -> Array:
    """Repair images as the stage `inpaint` repaired those that `model` learnt from.

    Args:
        images: uint8 (n, h, w, 3), denoised.
        meta: What the model keeps of its training.
        model: Folder of its weights.
    """
    if not meta.get("inpaint") or not len(images):
        return images
    settings = InpaintSettings.model_validate(meta["inpaint"])
    return repair(images, load_detector(model / "detector"), settings)[0]
