"""Compare every network with the module in PyTorch whose weights it takes.

    python benchmarks/parity.py [preset ...]

Weights are random, every tensor of them; each module's state dict goes through a file
and the import. Needs torch, torchvision, timm and safetensors.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import timm
import torch
import torchvision
from flax import nnx
from safetensors.torch import save_file

from models.backbones import create_model
from models.pretrained import read_weights
from models.transfer import import_weights
from tests.models.references import randomised

CLASSES = 10
SIDE = 224
TIMM = {
    "vit_tiny": "vit_tiny_patch16_224",
    "vit_small": "vit_small_patch16_224",
    "vit_base": "vit_base_patch16_224",
    "dinov2_small": "vit_small_patch14_dinov2",
    "dinov2_base": "vit_base_patch14_dinov2",
    "siglip_base": "vit_base_patch16_siglip_224",
}
OPTIONS: dict[str, dict[str, Any]] = {
    "dinov2_small": {"dynamic_img_size": True},
    "dinov2_base": {"dynamic_img_size": True},
    "siglip_base": {"act_layer": "gelu_tanh"},
}
TORCHVISION = {
    "resnet18_tv": "resnet18",
    "resnet34_tv": "resnet34",
    "resnet50_tv": "resnet50",
    "mobilenetv3_small": "mobilenet_v3_small",
    "mobilenetv3_large": "mobilenet_v3_large",
}
SIZES = ("atto", "femto", "pico", "nano", "tiny")
CONVNEXT = [f"convnext{version}_{size}" for version in ("", "v2") for size in SIZES]


def module_of(preset: str) -> tuple[torch.nn.Module, str]:
    """Build the module in PyTorch; return whose it is, too."""
    if preset in TORCHVISION:
        make = getattr(torchvision.models, TORCHVISION[preset])
        return make(num_classes=CLASSES), "torchvision"
    name = TIMM.get(preset, preset)
    options = OPTIONS.get(preset, {})
    return timm.create_model(name, num_classes=CLASSES, **options), "timm"


def compare(preset: str) -> str:
    """Return a row of the table for one network."""
    module, owner = module_of(preset)
    module = randomised(module)
    pixels = np.random.default_rng(0).normal(size=(1, SIDE, SIDE, 3)).astype("f4")
    with torch.no_grad():
        want = module(torch.from_numpy(pixels).permute(0, 3, 1, 2)).numpy()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_file(module.state_dict(), path)
        tensors = dict(read_weights(path).tensors)
    model = create_model(preset, num_classes=CLASSES, image_size=SIDE, seed=0)
    found = import_weights(model, tensors, head=True)
    graphdef, *_ = nnx.split(model, nnx.Param, ...)
    ask = jax.jit(lambda p, s, x: nnx.merge(graphdef, p, s)(x, train=False))
    got = np.asarray(ask(found.params, found.stats, pixels))
    worst, largest = np.abs(got - want).max(), np.abs(want).max()
    return f"| {preset} | {owner} | {worst:.1e} | {largest:.2f} |"


def main() -> None:
    """Print one row a network."""
    print("| preset | reference | largest difference of a logit | largest logit |")
    print("|---|---|---|---|")
    for preset in sys.argv[1:] or [*TORCHVISION, *CONVNEXT, *TIMM]:
        print(compare(preset), flush=True)


if __name__ == "__main__":
    main()
