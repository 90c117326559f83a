"""The real clock, and a beat that all who look at something ever so often keep together."""

from __future__ import annotations

import sys
import time
from typing import Final

import trio

from sudocode_coordination.model import Instant, Now

_COUNTS_SUSPEND: Final[int | None] = getattr(time, "CLOCK_MONOTONIC" if sys.platform == "darwin" else "CLOCK_BOOTTIME", None)
"""On macOS `CLOCK_MONOTONIC` goes on while the machine sleeps (clock_gettime(3)); Python's own monotonic clock does not."""
_NS_PER_MS: Final = 1_000_000


def next_beat(period_s: float) -> float:
    """The next whole multiple of a period, by trio's clock. Whoever looks every so often sleeps until then, so that a process at
    rest is woken once for all of them. (Trio's clock begins at random: processes don't wake together.)"""
    return (trio.current_time() // period_s + 1) * period_s


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
