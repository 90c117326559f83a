"""A daemon with a fault, to be run as a process: `python -m tests.daemon.faulty FAULT …` with the daemon's own arguments.

Faults: `raises` (the node raises on a status), `hangs` (it never stops), `slow` (the network takes its time to come up).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import Any

from sudocode_coordination.adapters.ports import Deliver
from sudocode_coordination.api.requests import GetStatus
from sudocode_coordination.config import CoordinationConfig
from sudocode_coordination.core.io import Effect, Input, RequestReceived, Stopped
from sudocode_coordination.daemon import body
from sudocode_coordination.daemon.__main__ import main
from sudocode_coordination.daemon.body import RealSurroundings, RunningNetwork
from sudocode_coordination.daemon.pump import CoreNode
from sudocode_coordination.model import Instant, Now
from sudocode_coordination.place import Clone

FAULT = sys.argv[1]


class FaultyNode:
    """The real one, but."""

    def __init__(self, node: CoreNode) -> None:
        self._node = node

    def handle(self, given: Input, now: Now, more: Iterable[Input] = (), /) -> list[Effect]:
        effects = self._node.handle(self._look_at(given), now, map(self._look_at, more))
        return [effect for effect in effects if not (FAULT == "hangs" and isinstance(effect, Stopped))]

    @staticmethod
    def _look_at(given: Input) -> Input:
        if FAULT == "raises" and isinstance(given, RequestReceived) and isinstance(given.request, GetStatus):
            raise ZeroDivisionError("a fault of ours")
        return given

    def deadline(self) -> Instant | None:
        return self._node.deadline()


class FaultySurroundings(RealSurroundings):
    def __init__(self, clone: Clone, config: CoordinationConfig) -> None:
        super().__init__(clone, config)

    def node(self) -> CoreNode:
        return FaultyNode(super().node())

    def network(self, deliver: Deliver) -> RunningNetwork:
        if FAULT == "slow":
            time.sleep(3)
        return super().network(deliver)


if __name__ == "__main__":
    changed: Any = body
    changed.STOP_LIMIT_S = 1.0
    sys.exit(main(sys.argv[2:], FaultySurroundings))
