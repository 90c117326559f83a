"""The real clock."""

from __future__ import annotations

import sys
import time
from typing import Final

from sudocode_coordination.model import Instant, Now

_COUNTS_SUSPEND: Final[int | None] = getattr(time, "CLOCK_MONOTONIC" if sys.platform == "darwin" else "CLOCK_BOOTTIME", None)
"""On macOS `CLOCK_MONOTONIC` goes on while the machine sleeps (clock_gettime(3)); Python's own monotonic clock does not."""
_NS_PER_MS: Final = 1_000_000


class BootClock:
    """`ports.Clock`: a clock that counts suspend where the system has one (Linux, macOS), else the monotonic clock."""

    def now(self) -> Now:
        """Both clocks, read together."""
        return Now(self.instant(), time.time_ns() // _NS_PER_MS)

    def instant(self) -> Instant:
        """Monotonic milliseconds."""
        if _COUNTS_SUSPEND is None:
            return time.monotonic_ns() // _NS_PER_MS
        return time.clock_gettime_ns(_COUNTS_SUSPEND) // _NS_PER_MS
