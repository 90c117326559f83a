"""The real clock."""

from __future__ import annotations

import time
from typing import Final

from sudocode_coordination.model import Instant, Now

_BOOTTIME: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)
_NS_PER_MS: Final = 1_000_000


class BootClock:
    """`ports.Clock`: CLOCK_BOOTTIME, which counts suspend, where the system has it (Linux), else the monotonic clock."""

    def now(self) -> Now:
        """Both clocks, read together."""
        return Now(self.instant(), time.time_ns() // _NS_PER_MS)

    def instant(self) -> Instant:
        """Monotonic milliseconds."""
        if _BOOTTIME is None:
            return time.monotonic_ns() // _NS_PER_MS
        return time.clock_gettime_ns(_BOOTTIME) // _NS_PER_MS
