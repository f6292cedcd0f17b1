"""What a person sees while a stage works: one bar on standard error."""

from __future__ import annotations

import logging
import sys
import threading
from types import TracebackType

BAR = "{desc} {percentage:3.0f}% {bar:30} {rate_fmt}, {remaining} left {postfix}"

log = logging.getLogger("sightline")


class Progress:
    """A progress bar with rate and time left, silent where nobody looks."""

    def __init__(self, label: str, *, total: int, unit: str) -> None:
        from tqdm import tqdm

        self._lock = threading.Lock()
        self._bar = tqdm(
            total=total,
            desc=f"  {label:<10}",
            unit=f" {unit}",
            file=sys.stderr,
            leave=False,
            disable=not sys.stderr.isatty(),
            mininterval=0.2,
            bar_format=BAR,
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def advance(self, count: int, note: str = "") -> None:
        """Say that `count` more are done."""
        with self._lock:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)

    def reach(self, done: int, total: int, rate: float, note: str) -> None:
        """Say that `done` of `total` are done, in the form that training reports."""
        self.advance(done - self._bar.n if not self._bar.disable else 0, note)
        if self._bar.disable and "loss" in note:
            log.info("  %s, %.0f images/s", note, rate)
