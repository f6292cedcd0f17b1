"""How torchvision, timm and Hugging Face name the weights of each family.

A scheme is a list of rules (pattern, target, kind): a module of theirs, by a regular
expression, is a module of ours, and the kind says how its tensors are laid out.
Targets that end in `#0`, `#1`, ... are joined along the outputs in that order.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from models.backbones import convnext, mobilenet, resnet, vit
from models.presets import HALF, IMAGENET

Rule = tuple[str, str, str]
Pixels = tuple[tuple[float, float, float], tuple[float, float, float]]
# What the tensors of a module of theirs are called in ours.
NAMES = {
    "conv": {"weight": "kernel", "bias": "bias"},
    "linear": {"weight": "kernel", "bias": "bias"},
    "norm": {
        "weight": "scale",
        "bias": "bias",
        "running_mean": "mean",
        "running_var": "var",
        "num_batches_tracked": "",
    },
    # The rule names the tensor itself.
    "vector": {"": ""},
    "table": {"": ""},
    "kernel": {"": ""},
    "drop": {"": ""},
}
HEAD = "head"


@dataclasses.dataclass(frozen=True)
class Scheme:
    """One way to name the weights of a family.

    Attributes:
        name: "torchvision", "timm" or "huggingface".
        sign: Pattern of a name that no other scheme of the family has.
        rules: Rules for the layers of a shape.
        pixels: Mean and deviation of the pixels that such weights mostly expect.
    """

    name: str
    sign: str
    rules: Callable[[Any], list[Rule]]
    pixels: Pixels = IMAGENET


def _resnet_rules(
    shape: resnet.Shape, *, conv: str, norm: str, down: tuple[str, str], block: str
) -> list[Rule]:
    """Return rules for the blocks; `conv` and `norm` have a place for the number."""
    parts = ("first", "second", "third")[: 3 if shape.bottleneck else 2]
    rules, number = [], 0
    for stage, depth in enumerate(shape.depths):
        for index in range(depth):
            theirs, ours = block.format(stage=stage, one=stage + 1, index=index), number
            for k, part in enumerate(parts):
                rules += _pair(
                    theirs + conv.format(k=k, one=k + 1),
                    theirs + norm.format(k=k, one=k + 1),
                    f"blocks/{ours}/{part}",
                )
            rules += _pair(
                theirs + down[0], theirs + down[1], f"blocks/{ours}/shortcut"
            )
            number += 1
    return rules


def _pair(conv: str, norm: str, ours: str) -> list[Rule]:
    return [(conv, f"{ours}/conv", "conv"), (norm, f"{ours}/norm", "norm")]


def _resnet_torch(shape: resnet.Shape) -> list[Rule]:
    return [
        *_pair("conv1", "bn1", "stem"),
        *_resnet_rules(
            shape,
            block=r"layer{one}\.{index}\.",
            conv="conv{one}",
            norm="bn{one}",
            down=(r"downsample\.0", r"downsample\.1"),
        ),
        ("fc", HEAD, "linear"),
    ]


def _resnet_hf(shape: resnet.Shape) -> list[Rule]:
    stem = r"(?:resnet\.)?embedder\.embedder\."
    return [
        *_pair(f"{stem}convolution", f"{stem}normalization", "stem"),
        *_resnet_rules(
            shape,
            block=r"(?:resnet\.)?encoder\.stages\.{stage}\.layers\.{index}\.",
            conv=r"layer\.{k}\.convolution",
            norm=r"layer\.{k}\.normalization",
            down=(r"shortcut\.convolution", r"shortcut\.normalization"),
        ),
        (r"classifier\.1", HEAD, "linear"),
    ]


def _convnext_torch(shape: convnext.Shape) -> list[Rule]:
    rules: list[Rule] = []
    for stage in range(len(shape.depths)):
        ours = rf"parts/{stage}/blocks/\1"
        block = rf"features\.{2 * stage + 1}\.(\d+)\."
        rules += [
            (rf"{block}layer_scale", f"{ours}/scale", "vector"),
            (rf"{block}block\.0", f"{ours}/conv", "conv"),
            (rf"{block}block\.2", f"{ours}/norm", "norm"),
            (rf"{block}block\.3", f"{ours}/first", "linear"),
            (rf"{block}block\.5", f"{ours}/second", "linear"),
        ]
        down = rf"features\.{2 * stage}\."
        rules += [
            (f"{down}0", f"parts/{stage}/norm", "norm"),
            (f"{down}1", f"parts/{stage}/down", "conv"),
        ][: 2 if stage else 0]
    return [
        (r"features\.0\.0", "stem", "conv"),
        (r"features\.0\.1", "stem_norm", "norm"),
        *rules,
        (r"classifier\.0", "norm", "norm"),
        (r"classifier\.2", HEAD, "linear"),
    ]


def _convnext_timm(shape: convnext.Shape) -> list[Rule]:
    del shape
    block, ours = r"stages\.(\d+)\.blocks\.(\d+)\.", r"parts/\1/blocks/\2"
    return [
        (r"stem\.0", "stem", "conv"),
        (r"stem\.1", "stem_norm", "norm"),
        (r"stages\.(\d+)\.downsample\.0", r"parts/\1/norm", "norm"),
        (r"stages\.(\d+)\.downsample\.1", r"parts/\1/down", "conv"),
        (f"{block}gamma", f"{ours}/scale", "vector"),
        (f"{block}conv_dw", f"{ours}/conv", "conv"),
        (f"{block}norm", f"{ours}/norm", "norm"),
        (rf"{block}mlp\.fc1", f"{ours}/first", "linear"),
        (rf"{block}mlp\.grn", f"{ours}/response", "norm"),
        (rf"{block}mlp\.fc2", f"{ours}/second", "linear"),
        (r"head\.norm", "norm", "norm"),
        (r"head\.fc", HEAD, "linear"),
    ]


def _convnext_hf(shape: convnext.Shape) -> list[Rule]:
    del shape
    own = r"(?:convnext(?:v2)?\.)?"
    stage = rf"{own}encoder\.stages\.(\d+)\."
    block, ours = rf"{stage}layers\.(\d+)\.", r"parts/\1/blocks/\2"
    return [
        (rf"{own}embeddings\.patch_embeddings", "stem", "conv"),
        (rf"{own}embeddings\.layernorm", "stem_norm", "norm"),
        (rf"{stage}downsampling_layer\.0", r"parts/\1/norm", "norm"),
        (rf"{stage}downsampling_layer\.1", r"parts/\1/down", "conv"),
        (f"{block}layer_scale_parameter", f"{ours}/scale", "vector"),
        (f"{block}dwconv", f"{ours}/conv", "conv"),
        (f"{block}layernorm", f"{ours}/norm", "norm"),
        (f"{block}pwconv1", f"{ours}/first", "linear"),
        (f"{block}grn", f"{ours}/response", "norm"),
        (f"{block}pwconv2", f"{ours}/second", "linear"),
        (f"{own}layernorm", "norm", "norm"),
        ("classifier", HEAD, "linear"),
    ]


def _mobilenet_torch(shape: mobilenet.Shape) -> list[Rule]:
    rules: list[Rule] = []
    inputs = mobilenet.STEM
    for index, row in enumerate(shape.rows):
        theirs, ours = rf"features\.{index + 1}\.block\.", f"blocks/{index}"
        parts = ["widen"] * (row.inner != inputs) + ["depthwise"]
        parts += ["squeeze"] * row.squeeze + ["narrow"]
        for k, part in enumerate(parts):
            if part == "squeeze":
                rules += [
                    (rf"{theirs}{k}\.fc1", f"{ours}/squeeze/first", "linear"),
                    (rf"{theirs}{k}\.fc2", f"{ours}/squeeze/second", "linear"),
                ]
            else:
                rules += _pair(rf"{theirs}{k}\.0", rf"{theirs}{k}\.1", f"{ours}/{part}")
        inputs = row.outputs
    last = rf"features\.{len(shape.rows) + 1}\."
    return [
        *_pair(r"features\.0\.0", r"features\.0\.1", "stem"),
        *rules,
        *_pair(f"{last}0", f"{last}1", "last"),
        (r"classifier\.0", "hidden", "linear"),
        (r"classifier\.3", HEAD, "linear"),
    ]


def _vit_torch(shape: vit.Shape) -> list[Rule]:
    del shape
    block, ours = r"encoder\.layers\.encoder_layer_(\d+)\.", r"blocks/\1"
    qkv = rf"{block}self_attention\.in_proj_"
    return [
        ("class_token", "token", "vector"),
        ("conv_proj", "stem", "conv"),
        (r"encoder\.pos_embedding", "positions", "table"),
        (f"{block}ln_1", f"{ours}/norm1", "norm"),
        (f"{qkv}weight", f"{ours}/attention/qkv/kernel", "kernel"),
        (f"{qkv}bias", f"{ours}/attention/qkv/bias", "vector"),
        (rf"{block}self_attention\.out_proj", f"{ours}/attention/out", "linear"),
        (f"{block}ln_2", f"{ours}/norm2", "norm"),
        (rf"{block}mlp\.(?:0|linear_1)", f"{ours}/mlp/first", "linear"),
        (rf"{block}mlp\.(?:3|linear_2)", f"{ours}/mlp/second", "linear"),
        (r"encoder\.ln", "norm", "norm"),
        (r"heads\.head", HEAD, "linear"),
    ]


def _vit_timm(shape: vit.Shape) -> list[Rule]:
    del shape
    block, ours = r"blocks\.(\d+)\.", r"blocks/\1"
    return [
        ("cls_token", "token", "vector"),
        ("mask_token", "", "drop"),
        (r"patch_embed\.proj", "stem", "conv"),
        ("pos_embed", "positions", "table"),
        (rf"{block}norm([12])", rf"{ours}/norm\2", "norm"),
        (rf"{block}attn\.qkv", f"{ours}/attention/qkv", "linear"),
        (rf"{block}attn\.proj", f"{ours}/attention/out", "linear"),
        (rf"{block}ls([12])\.gamma", rf"{ours}/scale\2", "vector"),
        (rf"{block}mlp\.fc1", f"{ours}/mlp/first", "linear"),
        (rf"{block}mlp\.fc2", f"{ours}/mlp/second", "linear"),
        ("norm", "norm", "norm"),
        (r"attn_pool\.latent", "pool/probe", "vector"),
        (r"attn_pool\.q", "pool/qkv#0", "linear"),
        (r"attn_pool\.kv", "pool/qkv#1", "linear"),
        (r"attn_pool\.proj", "pool/out", "linear"),
        (r"attn_pool\.norm", "pool/norm", "norm"),
        (r"attn_pool\.mlp\.fc1", "pool/mlp/first", "linear"),
        (r"attn_pool\.mlp\.fc2", "pool/mlp/second", "linear"),
        ("head", HEAD, "linear"),
    ]


def _vit_hf(shape: vit.Shape) -> list[Rule]:
    """Names of ViT and DINOv2, which differ in norms, dense layers and scales only."""
    del shape
    own = r"(?:vit\.|dinov2\.)?"
    block, ours = rf"{own}encoder\.layer\.(\d+)\.", r"blocks/\1"
    inner = rf"{block}attention\.attention\."
    return [
        (rf"{own}embeddings\.cls_token", "token", "vector"),
        (rf"{own}embeddings\.mask_token", "", "drop"),
        (rf"{own}embeddings\.patch_embeddings\.projection", "stem", "conv"),
        (rf"{own}embeddings\.position_embeddings", "positions", "table"),
        (f"{block}(?:layernorm_before|norm1)", f"{ours}/norm1", "norm"),
        (f"{inner}query", f"{ours}/attention/qkv#0", "linear"),
        (f"{inner}key", f"{ours}/attention/qkv#1", "linear"),
        (f"{inner}value", f"{ours}/attention/qkv#2", "linear"),
        (rf"{block}attention\.output\.dense", f"{ours}/attention/out", "linear"),
        (rf"{block}layer_scale([12])\.lambda1", rf"{ours}/scale\2", "vector"),
        (f"{block}(?:layernorm_after|norm2)", f"{ours}/norm2", "norm"),
        (rf"{block}(?:intermediate\.dense|mlp\.fc1)", f"{ours}/mlp/first", "linear"),
        (rf"{block}(?:output\.dense|mlp\.fc2)", f"{ours}/mlp/second", "linear"),
        (f"{own}layernorm", "norm", "norm"),
        (rf"{own}pooler\.dense\.\w+", "", "drop"),
        ("classifier", HEAD, "linear"),
    ]


def _siglip_hf(shape: vit.Shape) -> list[Rule]:
    del shape
    own = r"(?:vision_model\.)?"
    block, ours = rf"{own}encoder\.layers\.(\d+)\.", r"blocks/\1"
    return [
        (r"(?:text_model\..*|logit_scale|logit_bias)", "", "drop"),
        (rf"{own}embeddings\.position_ids", "", "drop"),
        (rf"{own}embeddings\.patch_embedding", "stem", "conv"),
        (rf"{own}embeddings\.position_embedding\.weight", "positions", "table"),
        (rf"{block}layer_norm([12])", rf"{ours}/norm\2", "norm"),
        (rf"{block}self_attn\.q_proj", f"{ours}/attention/qkv#0", "linear"),
        (rf"{block}self_attn\.k_proj", f"{ours}/attention/qkv#1", "linear"),
        (rf"{block}self_attn\.v_proj", f"{ours}/attention/qkv#2", "linear"),
        (rf"{block}self_attn\.out_proj", f"{ours}/attention/out", "linear"),
        (rf"{block}mlp\.fc1", f"{ours}/mlp/first", "linear"),
        (rf"{block}mlp\.fc2", f"{ours}/mlp/second", "linear"),
        (f"{own}post_layernorm", "norm", "norm"),
        (rf"{own}head\.probe", "pool/probe", "vector"),
        (rf"{own}head\.attention\.in_proj_weight", "pool/qkv/kernel", "kernel"),
        (rf"{own}head\.attention\.in_proj_bias", "pool/qkv/bias", "vector"),
        (rf"{own}head\.attention\.out_proj", "pool/out", "linear"),
        (rf"{own}head\.layernorm", "pool/norm", "norm"),
        (rf"{own}head\.mlp\.fc1", "pool/mlp/first", "linear"),
        (rf"{own}head\.mlp\.fc2", "pool/mlp/second", "linear"),
    ]


def schemes_of(shape: Any) -> tuple[Scheme, ...]:
    """Return the ways to name the weights of a family's `Shape`; none for `pooled`."""
    if isinstance(shape, resnet.Shape):
        if shape.shortcut == "pooled":
            return ()
        return (
            # timm names residual networks as torchvision does.
            Scheme("torchvision", r"layer1\.0\.conv1\.weight", _resnet_torch),
            Scheme("huggingface", r".*embedder\.embedder\..*", _resnet_hf),
        )
    if isinstance(shape, convnext.Shape):
        return (
            Scheme("torchvision", r"features\.1\.0\.block\.0\.weight", _convnext_torch),
            Scheme("timm", r"stages\.0\.blocks\.0\.conv_dw\.weight", _convnext_timm),
            Scheme("huggingface", r".*layers\.0\.dwconv\.weight", _convnext_hf),
        )
    if isinstance(shape, mobilenet.Shape):
        sign = r"features\.1\.block\.0\.0\.weight"
        return (Scheme("torchvision", sign, _mobilenet_torch),)
    # DINOv2 saw ImageNet's pixels, ViT (AugReg) and SigLIP those from -1 to 1.
    pixels = IMAGENET if shape.scale else HALF
    timm = Scheme("timm", r"blocks\.0\.attn\.qkv\.weight", _vit_timm, pixels)
    if shape.pool == "map":
        sign = r".*encoder\.layers\.0\.self_attn\.q_proj\.weight"
        return (timm, Scheme("huggingface", sign, _siglip_hf, pixels))
    sign = r".*encoder\.layer\.0\.attention\.attention\.query\.weight"
    own = r"encoder\.layers\.encoder_layer_0\.ln_1\.weight"
    return (
        Scheme("torchvision", own, _vit_torch),
        timm,
        Scheme("huggingface", sign, _vit_hf, pixels),
    )


def split_name(name: str, pattern: str, kind: str) -> tuple[re.Match[str], str] | None:
    """Match a tensor's name with a rule; return the match and our name for its end."""
    for theirs, ours in NAMES[kind].items():
        end = rf"\.{theirs}" if theirs else ""
        if found := re.fullmatch(pattern + end, name):
            return found, ours
    return None
