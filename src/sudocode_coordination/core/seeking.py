"""When to look at the branch for new addresses: while a known peer does not answer, ever more rarely."""

from __future__ import annotations

from typing import Final

from sudocode_coordination.model import Instant

SEEK_MS: Final = 2_000
MAX_SEEK_MS: Final = 60_000
MIN_FAILURES: Final = 2
"""Dials in vain before the branch is asked: one may be bad luck."""


class Seeking:
    """The looks for the sake of peers that do not answer."""

    def __init__(self) -> None:
        self._last_at: Instant = 0
        self._count = 0

    def deadline(self, failures: int) -> Instant | None:
        """When to look next. `failures`: how often the most wanted peer has been tried in vain."""
        return self._next_at() if failures >= MIN_FAILURES else None

    def is_due(self, failures: int, now: Instant) -> bool:
        """Whether to look now, which counts as done."""
        if failures < MIN_FAILURES:
            self._count = 0
            return False
        if now < self._next_at():
            return False
        self._last_at = now
        self._count += 1
        return True

    def _next_at(self) -> Instant:
        return self._last_at + min(MAX_SEEK_MS, SEEK_MS << min(self._count, 10))
