"""What `init=` may say: how a start of training is named; free of heavy imports."""

from __future__ import annotations

import re

from models.presets import preset_of
from models.pretrained import SUFFIXES

VERSION_OF = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})@([1-9]\d*)")
RUN_OF = re.compile(r"run:([A-Za-z0-9][A-Za-z0-9._-]*)")
ON_HUB = re.compile(r"hf:([\w-][\w.-]*)/([\w-][\w.-]*)((?:/[\w-][\w.-]*)*)", re.ASCII)


def init_problem(init: str, preset: str) -> str:
    """Say why `init` cannot be what the network `preset` starts from, "" if it may."""
    if VERSION_OF.fullmatch(init) or RUN_OF.fullmatch(init):
        return ""
    if init.startswith("hf:"):
        found = ON_HUB.fullmatch(init)
        if not found or (found[3] and not found[3].endswith(SUFFIXES)):
            return (
                f"init={init} should read hf:owner/name or hf:owner/name/file, with a"
                f" file that ends in {', '.join(SUFFIXES)}"
            )
    elif not init.endswith(SUFFIXES):
        return (
            f"init={init} is neither a weights file ({', '.join(SUFFIXES)}), nor"
            " NAME@VERSION, nor run:RUN, nor hf:owner/name"
        )
    if not preset_of(preset).schemes:
        return (
            f"preset={preset} is Sightline's own network, and no one else has weights"
            " for it. Start from one of your versions (init=NAME@VERSION), or take"
            " another preset"
        )
    return ""
