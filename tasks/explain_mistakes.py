"""Maps for the gallery of a training report: where a network looked when it erred."""

from __future__ import annotations

from pathlib import Path

from data_contracts.dataset import Array
from tasks.explain_picture import overlay
from tasks.inference import devices, fitted


def class_maps(model: Path, images: Array, classes: Array) -> list[Array]:
    """Return Grad-CAM over each image (h w 3), uint8: what speaks for its class.

    It is the cheapest method: one pass through the network, and one back through its
    head.

    Args:
        model: Folder of the weights.
        images: uint8 (n h w 3).
        classes: Position of the explained class of each image (n,).
    """
    if not len(images):
        return []
    devices()
    from models.checkpoint import load_model
    from models.explain.explainer import Explainer
    from models.explain.how import How
    from models.explain.subject import subject_of

    params, stats, meta = load_model(model)
    subject, weights = subject_of(params, stats, meta)
    seen = fitted(images, size=int(meta["image_size"]))
    maps = Explainer(subject, weights, How(), mesh=devices())(seen, classes)
    return [overlay(*pair, signed=False) for pair in zip(seen, maps, strict=True)]
