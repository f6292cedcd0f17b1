"""Miniatures of every family in PyTorch, with every tensor random.

Needs torch, torchvision, timm and transformers, which the tests do without: they read
what `golden/make.py` kept of these.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import timm
import torch
import torchvision
import transformers
from timm.models import convnext as timm_convnext
from timm.models.vision_transformer import VisionTransformer
from torchvision.models import convnext as tv_convnext
from torchvision.models import mobilenetv3, resnet
from torchvision.models import vision_transformer as tv_vit

from tests.models.miniatures import (
    CLASSES,
    CONVNEXT,
    CONVNEXT_V2,
    DINOV2,
    MOBILENET,
    RESNET,
    RESNET_50,
    SIGLIP,
    VIT,
    pixels,
)

VERSIONS = {m.__name__: m.__version__ for m in (torch, torchvision, timm, transformers)}


@dataclasses.dataclass(frozen=True)
class Reference:
    """A module of others, and how to ask it.

    Attributes:
        build: Makes the module.
        embed: Gives its embedding, or None where only logits are told apart.
        shape: Ours.
        side: Of the images.
    """

    build: Callable[[], torch.nn.Module]
    shape: Any
    embed: Callable[[Any, Any], Any] | None = None
    logits: Callable[[Any, Any], Any] | None = lambda m, x: m(x)
    side: int = 32


def randomised(module: torch.nn.Module, *, half: bool = False) -> torch.nn.Module:
    """Give every parameter and statistic of `module` a value of its own."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape)
            if name.endswith("running_var"):
                value = 0.5 + torch.rand(tensor.shape)
            elif (
                tensor.ndim > 1 and tensor[0].numel() > 1 and max(tensor.shape[1:]) > 1
            ):
                value = noise / tensor[0].numel() ** 0.5
            elif name.endswith(("bias", "running_mean")):
                value = 0.2 * noise
            else:
                value = 1 + 0.2 * noise
            tensor.copy_(value.half().float() if half else value)
    return module.eval()


def answers(reference: Reference, module: torch.nn.Module) -> dict[str, np.ndarray]:
    """Return embedding and logits of the module for the images of the test."""
    x = torch.from_numpy(pixels(reference.side)).permute(0, 3, 1, 2)
    found = {}
    with torch.no_grad():
        for name in ("embed", "logits"):
            ask = getattr(reference, name)
            if ask is not None:
                found[name] = ask(module, x).numpy()
    return found


def timm_embed(module: Any, x: Any) -> Any:
    return module.forward_head(module.forward_features(x), pre_logits=True)


def named(name: str) -> Callable[[Any, Any], Any]:
    return lambda module, x: getattr(module(x), name)


def block(kind: Any, depths: list[int]) -> Callable[[], Any]:
    return lambda: resnet.ResNet(kind, depths, num_classes=CLASSES)


def hf_resnet(shape: Any, kind: str) -> Any:
    widen = 4 if shape.bottleneck else 1
    return transformers.ResNetForImageClassification(
        transformers.ResNetConfig(
            embedding_size=shape.widths[0],
            hidden_sizes=[widen * width for width in shape.widths],
            depths=list(shape.depths),
            layer_type=kind,
            num_labels=CLASSES,
        )
    )


def hf_convnext(shape: Any) -> Any:
    name = "V2" if shape.version == 2 else ""
    config = getattr(transformers, f"ConvNext{name}Config")
    model = getattr(transformers, f"ConvNext{name}ForImageClassification")
    return model(
        config(
            hidden_sizes=list(shape.widths),
            depths=list(shape.depths),
            num_labels=CLASSES,
            layer_norm_eps=1e-6,
        )
    )


def a_timm_convnext(shape: Any, **options: Any) -> Any:
    second = shape.version == 2
    return timm_convnext.ConvNeXt(
        depths=shape.depths,
        dims=shape.widths,
        use_grn=second,
        ls_init_value=None if second else 1e-6,
        num_classes=CLASSES,
        **options,
    )


def a_tv_convnext(shape: Any) -> Any:
    after = (*shape.widths[1:], None)
    settings = [
        tv_convnext.CNBlockConfig(width, out, depth)
        for width, out, depth in zip(shape.widths, after, shape.depths, strict=True)
    ]
    return tv_convnext.ConvNeXt(settings, num_classes=CLASSES)


def a_timm_vit(shape: Any, **options: Any) -> Any:
    return VisionTransformer(
        img_size=shape.grid * shape.patch,
        patch_size=shape.patch,
        embed_dim=shape.width,
        depth=shape.depth,
        num_heads=shape.heads,
        init_values=shape.scale,
        num_classes=CLASSES,
        class_token=shape.pool == "token",
        global_pool=shape.pool,
        act_layer="gelu_tanh" if shape.tanh else "gelu",
        **options,
    )


def vit_config(kind: Any, shape: Any, **options: Any) -> Any:
    return kind(
        hidden_size=shape.width,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads,
        intermediate_size=4 * shape.width,
        image_size=shape.grid * shape.patch,
        patch_size=shape.patch,
        layer_norm_eps=1e-6,
        num_labels=CLASSES,
        **options,
    )


def a_mobilenet() -> Any:
    inputs, rows = 16, []
    for row in MOBILENET.rows:
        bend = "HS" if row.hard_swish else "RE"
        rows.append(
            mobilenetv3.InvertedResidualConfig(
                *(inputs, row.size, row.inner, row.outputs, row.squeeze, bend),
                *(row.stride, 1, 1.0),
            )
        )
        inputs = row.outputs
    return mobilenetv3.MobileNetV3(rows, MOBILENET.hidden, num_classes=CLASSES)


def hf_logits(module: Any, x: Any) -> Any:
    return module(x).logits


def last_token(module: Any, x: Any) -> Any:
    return module(x, interpolate_pos_encoding=True).last_hidden_state[:, 0]


WIDE = dataclasses.replace(RESNET, widths=(64, 128, 256, 512), depths=(1, 1, 1, 1))
WIDE_50 = dataclasses.replace(WIDE, bottleneck=True, depths=(1, 2, 1, 1))
SIDE = {"side": VIT.grid * VIT.patch}
REFERENCES = {
    "resnet torchvision": Reference(block(resnet.BasicBlock, [1, 1, 1, 1]), WIDE),
    "resnet50 torchvision": Reference(
        block(resnet.Bottleneck, [1, 2, 1, 1]), WIDE_50, side=40
    ),
    "resnet huggingface": Reference(
        functools.partial(hf_resnet, RESNET, "basic"), RESNET, logits=hf_logits
    ),
    "resnet50 huggingface": Reference(
        functools.partial(hf_resnet, RESNET_50, "bottleneck"),
        RESNET_50,
        logits=hf_logits,
    ),
    "convnext torchvision": Reference(
        functools.partial(a_tv_convnext, CONVNEXT), CONVNEXT, side=40
    ),
    "convnext timm": Reference(
        functools.partial(a_timm_convnext, CONVNEXT, conv_mlp=True),
        CONVNEXT,
        embed=timm_embed,
    ),
    "convnext huggingface": Reference(
        functools.partial(hf_convnext, CONVNEXT), CONVNEXT, logits=hf_logits
    ),
    "convnextv2 timm": Reference(
        functools.partial(a_timm_convnext, CONVNEXT_V2), CONVNEXT_V2, embed=timm_embed
    ),
    "convnextv2 huggingface": Reference(
        functools.partial(hf_convnext, CONVNEXT_V2), CONVNEXT_V2, logits=hf_logits
    ),
    "mobilenetv3 torchvision": Reference(a_mobilenet, MOBILENET, side=48),
    "vit torchvision": Reference(
        lambda: tv_vit.VisionTransformer(
            *(VIT.grid * VIT.patch, VIT.patch, VIT.depth, VIT.heads, VIT.width),
            *(4 * VIT.width,),
            num_classes=CLASSES,
        ),
        VIT,
        **SIDE,
    ),
    "vit timm": Reference(
        functools.partial(a_timm_vit, VIT), VIT, embed=timm_embed, **SIDE
    ),
    "vit timm, other size": Reference(
        functools.partial(a_timm_vit, VIT, dynamic_img_size=True),
        VIT,
        embed=timm_embed,
        side=5 * VIT.patch,
    ),
    "vit huggingface": Reference(
        lambda: transformers.ViTForImageClassification(
            vit_config(transformers.ViTConfig, VIT)
        ),
        VIT,
        logits=hf_logits,
        **SIDE,
    ),
    "dinov2 timm": Reference(
        functools.partial(a_timm_vit, DINOV2),
        DINOV2,
        embed=timm_embed,
        side=DINOV2.grid * DINOV2.patch,
    ),
    "dinov2 huggingface": Reference(
        lambda: transformers.Dinov2Model(vit_config(transformers.Dinov2Config, DINOV2)),
        DINOV2,
        embed=named("pooler_output"),
        logits=None,
        side=DINOV2.grid * DINOV2.patch,
    ),
    "siglip timm": Reference(
        functools.partial(a_timm_vit, SIGLIP),
        SIGLIP,
        embed=timm_embed,
        side=SIGLIP.grid * SIGLIP.patch,
    ),
    "siglip huggingface": Reference(
        lambda: transformers.SiglipVisionModel(
            vit_config(transformers.SiglipVisionConfig, SIGLIP)
        ),
        SIGLIP,
        embed=named("pooler_output"),
        logits=None,
        side=SIGLIP.grid * SIGLIP.patch,
    ),
}
