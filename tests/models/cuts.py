"""Cut a run short where a test wants it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from models import fit as loop
from models.epoch import FitSettings


class CutError(Exception):
    """Stands for a kill."""


def cut_within(
    monkeypatch: pytest.MonkeyPatch,
    train: Callable[[FitSettings], Any],
    *,
    settings: FitSettings,
    at: tuple[int, int],
) -> None:
    """Call `train`, and end it after the checkpoint `at`: epochs, and steps within."""
    save = loop.save_checkpoint

    def saved(*given: Any, **more: Any) -> None:
        save(*given, **more)
        if (more["epoch"], more["step"]) == at:
            raise CutError

    with monkeypatch.context() as change:
        change.setattr(loop, "save_checkpoint", saved)
        with pytest.raises(CutError):
            train(dataclasses.replace(settings, checkpoint_minutes=0))
