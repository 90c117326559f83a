"""The connections under the links: those under way, which are in use, and the end of those that are not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import trio
from libp2p.abc import IHost
from libp2p.network.swarm import Swarm
from libp2p.pubsub.pubsub import Pubsub
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from sudocode_coordination.adapters import libp2p_faults as faults
from sudocode_coordination.model import PeerId

log = logging.getLogger(__name__)

UNUSED_SECONDS: Final = 8.0
"""A connection without a sync stream is closed after this long: longer than a hello may take."""
_CLOSE_SECONDS: Final = 3.0


@dataclass
class Dialling:
    """One `dial` until its one answer."""

    peer: PeerId
    addresses: list[Multiaddr]
    scope: trio.CancelScope
    hello_turn: trio.Lock = field(default_factory=trio.Lock)
    failures: list[str] = field(default_factory=list)


class Connections:
    """Of one running host."""

    def __init__(self, swarm: Swarm, nursery: trio.Nursery, sockets: faults.Sockets, on_flood: faults.OnFlood) -> None:
        self._swarm = swarm
        self._nursery = nursery
        self._sockets = sockets
        self._on_flood = on_flood
        self._used: set[int] = set()
        self._unused_since: dict[int, float] = {}

    def use(self, connection: Any) -> None:
        """It carries a link, or is on the way to one. Until `close_soon`."""
        self._used.add(id(connection))

    def close_soon(self, connection: Any) -> None:
        """In a task of the host."""
        self._nursery.start_soon(self._close, connection)

    def close_those_of(self, unwanted: Callable[[PeerId], bool]) -> None:
        """Those that carry no link and lead to an unwanted peer."""
        for connection in self._swarm.get_connections():
            if id(connection) not in self._used and unwanted(connection.muxed_conn.peer_id.to_base58()):
                self.close_soon(connection)

    def tick(self, now: float) -> None:
        """About every second: close what nobody uses, and what is flooded."""
        connections = self._swarm.get_connections()
        for connection in connections:
            if faults.buffered_bytes(connection) > faults.MAX_BUFFERED_BYTES:
                self._on_flood(connection.muxed_conn.peer_id.to_base58(), "sends more than its windows allow")
                self.close_soon(connection)
            elif id(connection) in self._used:
                continue
            elif now - self._unused_since.setdefault(id(connection), now) > UNUSED_SECONDS:
                self.close_soon(connection)
        alive = {id(connection) for connection in connections}
        for gone in [key for key in self._unused_since if key not in alive]:
            del self._unused_since[gone]

    async def _close(self, connection: Any) -> None:
        try:
            with trio.CancelScope(deadline=trio.current_time() + _CLOSE_SECONDS, shield=True):
                await connection.close()
        except Exception as error:  # noqa: BLE001 - it is being thrown away; it must not take the host with it
            log.debug("closing a connection: %r", error)
        finally:
            self._sockets.close(connection)
            self._used.discard(id(connection))
            self._unused_since.pop(id(connection), None)


@dataclass
class Running:
    """What exists only while a host runs."""

    host: IHost
    swarm: Swarm
    pubsub: Pubsub
    nursery: trio.Nursery
    connections: Connections
