"""Miniatures answer as PyTorch did when `golden/make.py` asked it."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from models.backbones import build
from models.pretrained import read_weights
from models.transfer import import_weights
from tests.models import miniatures

FOLDER = Path(__file__).parent / "golden"
# Ours, the scheme of its file, the side of its images.
GOLDEN = {
    "resnet": (miniatures.RESNET, "huggingface", 32),
    "resnet50": (miniatures.RESNET_50, "huggingface", 32),
    "convnext": (miniatures.CONVNEXT, "torchvision", 40),
    "convnextv2": (miniatures.CONVNEXT_V2, "timm", 32),
    "mobilenetv3": (miniatures.MOBILENET, "torchvision", 48),
    "vit": (miniatures.VIT, "huggingface", 32),
    "dinov2": (miniatures.DINOV2, "timm", 28),
    "siglip": (miniatures.SIGLIP, "huggingface", 32),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_miniature_answers_as_in_pytorch(name):
    shape, scheme, side = GOLDEN[name]
    (path,) = FOLDER.glob(f"{name}.[sp]*")
    weights = read_weights(path)
    model = build(shape, num_classes=miniatures.CLASSES, rngs=nnx.Rngs(0))
    found = import_weights(model, weights.tensors, head=True)
    assert found.scheme == scheme
    with np.load(FOLDER / "answers.npz") as answers:
        (key,) = (key for key in answers if key.startswith(f"{name}."))
        want = answers[key]
    graphdef, *_ = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def ask(params, stats, x):
        model = nnx.merge(graphdef, params, stats)
        if key.endswith("embed"):
            return model.embed(x)
        return model(x, train=False)

    got = ask(found.params, found.stats, miniatures.pixels(side))
    np.testing.assert_allclose(got, want, atol=1e-5, rtol=1e-5)


def test_the_kept_files_stay_small():
    sizes = [path.stat().st_size for path in FOLDER.iterdir() if path.is_file()]
    assert max(sizes) < 60_000
    assert sum(sizes) < 300_000
