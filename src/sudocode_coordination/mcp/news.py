"""What changes in the swarm, for MCP clients that have subscribed to resources (`subscriptions/listen`)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Final

import anyio
from mcp.server.subscriptions import InMemorySubscriptionBus, ResourceUpdated, ServerEvent

from sudocode_coordination.api.events import EventType
from sudocode_coordination.client.aio import AsyncClient
from sudocode_coordination.errors import CoordinationError
from sudocode_coordination.mcp.link import Link

STATUS: Final = "coord://status"
LEASES: Final = "coord://leases"
WORK: Final = "coord://work"
UPDATES: Final = "coord://updates"
GATHER_S: Final = 0.1
"""Changes of this time are one notification: a lease that is handed over makes several events."""
REPLAYED: Final = 100
"""Events from before the subscription that are heard: some may have come since the first notification."""
AGAIN_S: Final = 5.0
"""Until a daemon is looked for again, if there is none."""
log = logging.getLogger(__name__)


def changed_by(event: EventType) -> frozenset[str]:
    """The resources that an event makes out of date."""
    if event in ("heartbeat-sent", "sync-completed", "lease-renewed", "lease-denied"):
        return frozenset()
    if event.startswith("lease-"):
        return frozenset((LEASES, STATUS))
    if event.startswith("work-"):
        return frozenset((WORK, STATUS))
    if event.startswith("peer-"):
        return frozenset((STATUS,))
    return frozenset((UPDATES,)) if event in ("issue-updated", "spec-updated") else frozenset()


class Bus(InMemorySubscriptionBus):
    """Knows whether anybody ever listened: without, no event is followed."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted = anyio.Event()

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        """See `SubscriptionBus.subscribe`."""
        self.wanted.set()
        return super().subscribe(listener)


async def follow(link: Link, bus: Bus) -> None:
    """Tell the bus what changes, for ever."""
    await bus.wanted.wait()
    while True:
        with contextlib.suppress(CoordinationError):
            await _follow(await link.looking(), bus)
        # No daemon, or not any more. That is a change too, once there is one again.
        await anyio.sleep(AGAIN_S)


async def _follow(client: AsyncClient, bus: Bus) -> None:
    changed: set[str] = {STATUS, LEASES, WORK, UPDATES}
    news = anyio.Event()
    news.set()

    async def listen() -> None:
        nonlocal news
        async with contextlib.aclosing(client.events(replay=REPLAYED)) as events:
            async for event in events:
                changed.update(changed_by(event.type))
                if changed:
                    news.set()

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(listen)
            while True:
                await news.wait()
                await anyio.sleep(GATHER_S)
                news = anyio.Event()
                told = sorted(changed)
                changed.clear()
                for uri in told:
                    await bus.publish(ResourceUpdated(uri=uri))
    except* CoordinationError as errors:
        log.info("changes are not followed: %s", errors.exceptions[0])
