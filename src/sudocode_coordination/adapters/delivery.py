"""Both ways between the node and the network: inputs in order and never from within a method of the port; own gossip."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from sudocode_coordination.adapters.ports import Deliver
from sudocode_coordination.core.io import Input

MAX_GOSSIP_QUEUE: Final = 256
"""Own messages not yet handed to gossipsub; the oldest are dropped, gossip may be lost."""


class Outbox:
    """`now` delivers at once, `later` from a task of its own; whatever was given first comes first.

    It holds at most what methods of the port leave behind between two turns of the event loop.
    """

    def __init__(self, deliver: Deliver) -> None:
        self._deliver = deliver
        self._waiting: deque[Input] = deque()
        self._wake = trio.Event()

    def now(self, item: Input) -> None:
        """For tasks of the network."""
        self.flush()
        self._deliver(item)

    def later(self, item: Input) -> None:
        """For methods of the port: whoever calls one does not expect an input before it returns."""
        self._waiting.append(item)
        self._wake.set()

    def flush(self) -> None:
        """Deliver all that waits."""
        while self._waiting:
            self._deliver(self._waiting.popleft())

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.flush()
            self._wake = trio.Event()
            if not self._waiting:
                await self._wake.wait()


class GossipQueue:
    """Own gossip on its way out. What waits while the network restarts is published then."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[str, bytes]] = deque(maxlen=MAX_GOSSIP_QUEUE)
        self._wake = trio.Event()

    def put(self, topic: str, data: bytes) -> None:
        """Queue a message."""
        self._waiting.append((topic, data))
        self._wake.set()

    async def run(self, publish: Callable[[str, bytes], Awaitable[None]]) -> None:
        """Until cancelled."""
        while True:
            while self._waiting:
                await publish(*self._waiting.popleft())
            self._wake = trio.Event()
            if not self._waiting:
                await self._wake.wait()
