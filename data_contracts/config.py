"""Shared base of every settings model."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A frozen settings model that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def digest(*parts: Any) -> str:
    """Return a 16-digit hexadecimal digest of JSON-serialisable `parts`.

    Pydantic models count by their fields; the order of dictionary keys does not matter.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, BaseModel):
            return value.model_dump(mode="json")
        raise TypeError(f"cannot digest {type(value).__name__}")

    text = json.dumps(parts, sort_keys=True, default=plain, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
