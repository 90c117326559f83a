"""A daemon whose wall clock can be set: `python -m tests.faults.odd_clock FILE …` with the daemon's own arguments. The number of
milliseconds that the file holds is added to it, from that moment on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from sudocode_coordination.adapters.clock import BootClock
from sudocode_coordination.daemon import body
from sudocode_coordination.daemon.__main__ import main
from sudocode_coordination.model import Now

OFFSET = Path(sys.argv[1])


class OddClock(BootClock):
    """The monotonic one is the system's."""

    def now(self) -> Now:
        true = super().now()
        return Now(true.instant, true.wall_ms + int(OFFSET.read_text() or "0"))


if __name__ == "__main__":
    changed: Any = body
    changed.BootClock = OddClock
    sys.exit(main(sys.argv[2:]))
