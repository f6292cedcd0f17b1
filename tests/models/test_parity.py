"""Imported weights give the numbers of the modules that they were made for."""

from __future__ import annotations

import importlib
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from models.backbones import build
from models.pretrained import read_weights
from models.transfer import import_weights
from tests.models.miniatures import CLASSES, pixels

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")
for name in ("torchvision", "timm", "transformers"):
    pytest.importorskip(name)
references = importlib.import_module("tests.models.references")


def write(module, folder: Path, scheme: str) -> Path:
    """Write the weights as their owners do; transformers renames tensors on disk."""
    if scheme.startswith("huggingface"):
        module.save_pretrained(folder)
        return folder / "model.safetensors"
    if scheme.startswith("timm"):
        safetensors.save_file(module.state_dict(), folder / "model.safetensors")
        return folder / "model.safetensors"
    torch.save(module.state_dict(), folder / "weights.pth")
    return folder / "weights.pth"


def ours(reference, path: Path) -> dict[str, np.ndarray]:
    model = build(reference.shape, num_classes=CLASSES, rngs=nnx.Rngs(0))
    found = import_weights(model, read_weights(path).tensors, head=True)
    assert found.head == (reference.logits is not None)
    graphdef, *_ = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def ask(params, stats, x):
        model = nnx.merge(graphdef, params, stats)
        embed = model.embed(x) if reference.embed else None
        return {"embed": embed, "logits": model(x, train=False)}

    return jax.device_get(ask(found.params, found.stats, pixels(reference.side)))


@pytest.mark.parametrize("name", references.REFERENCES)
def test_a_network_answers_as_the_module_whose_weights_it_took(name, tmp_path):
    reference = references.REFERENCES[name]
    module = references.randomised(reference.build())
    path = write(module, tmp_path, name.split()[1])
    got = ours(reference, path)
    for key, want in references.answers(reference, module).items():
        worst = np.abs(got[key] - want).max()
        print(f"{name}: {key} differs by {worst:.1e}, largest {np.abs(want).max():.1f}")
        np.testing.assert_allclose(got[key], want, atol=1e-4, rtol=1e-5)
