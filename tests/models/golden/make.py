"""Write weights of miniatures, and PyTorch's answers, for tests without PyTorch.

    python -m tests.models.golden.make

Weights are rounded to float16, which halves the files; the answers are theirs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from tests.models.references import REFERENCES, VERSIONS, answers, randomised

FOLDER = Path(__file__).parent
KEPT = {
    "resnet": "resnet huggingface",
    "resnet50": "resnet50 huggingface",
    "convnext": "convnext torchvision",
    "convnextv2": "convnextv2 timm",
    "mobilenetv3": "mobilenetv3 torchvision",
    "vit": "vit huggingface",
    "dinov2": "dinov2 timm",
    "siglip": "siglip huggingface",
}
# As PyTorch pickles them; the others are .safetensors.
PICKLED = ("convnext", "mobilenetv3")


def main() -> None:
    """Write the files beside this one."""
    found = {}
    for name, key in KEPT.items():
        reference = REFERENCES[key]
        module = randomised(reference.build(), half=True)
        if key.endswith("huggingface"):
            module.half().save_pretrained(FOLDER / name)
            (FOLDER / name / "model.safetensors").rename(FOLDER / f"{name}.safetensors")
            (FOLDER / name / "config.json").unlink()
            (FOLDER / name).rmdir()
            module.float()
        else:
            half = {
                k: v.half() if v.is_floating_point() else v
                for k, v in module.state_dict().items()
            }
            if name in PICKLED:
                torch.save(half, FOLDER / f"{name}.pth")
            else:
                save_file(half, FOLDER / f"{name}.safetensors")
        (kind, answer), *_ = answers(reference, module).items()
        found[f"{name}.{kind}"] = answer
    np.savez_compressed(FOLDER / "answers.npz", **found)
    print({**VERSIONS, **{k: v.shape for k, v in found.items()}})


if __name__ == "__main__":
    main()
