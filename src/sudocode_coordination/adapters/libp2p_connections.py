"""The connections under the links: those under way, which are in use, and the end of those that are not."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import trio
from libp2p.abc import IHost
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.pubsub.pubsub import Pubsub
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from sudocode_coordination.adapters import libp2p_faults as faults
from sudocode_coordination.adapters.libp2p_addresses import CircuitAddress
from sudocode_coordination.model import PeerId

log = logging.getLogger(__name__)

UNUSED_SECONDS: Final = 8.0
"""A connection without a sync stream is closed after this long: longer than a hello may take."""
MAX_BUFFERED_BYTES: Final = 32 << 20
"""Received on one connection and read by nobody. Yamux windows may grow to 16 MB each; a peer that ignores them gets no more."""
_CLOSE_SECONDS: Final = 3.0


@dataclass
class Dialling:
    """One `dial` until its one answer."""

    peer: PeerId
    addresses: list[Multiaddr]
    circuits: list[CircuitAddress]
    patience: float
    """Seconds until circuits are tried while the addresses do not answer."""
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
        self._held: Counter[int] = Counter()
        self._unused_since: dict[int, float] = {}

    def use(self, connection: Any) -> None:
        """It carries a link, or is on the way to one. Until `close_soon`."""
        self._used.add(id(connection))

    @contextmanager
    def held(self, connection: Any) -> Iterator[None]:
        """It carries something that is no link: a circuit, or an agreement with a relay."""
        self._held[id(connection)] += 1
        try:
            yield
        finally:
            self._held[id(connection)] -= 1
            if not self._held[id(connection)]:
                del self._held[id(connection)]

    def direct_to(self, peer: PeerId) -> Any | None:
        """A connection to that peer that goes through no relay; one that carries a link if there is one."""
        alive = [
            one for one in self._swarm.get_connections(ID.from_base58(peer)) if not one.is_closed and not faults.is_relayed(one)
        ]
        return max(alive, key=lambda one: id(one) in self._used, default=None)

    def done_with(self, connection: Any) -> None:
        """Its link has ended: nobody needs it, unless it is held."""
        self._used.discard(id(connection))
        if id(connection) not in self._held:
            self.close_soon(connection)

    def close_soon(self, connection: Any) -> None:
        """In a task of the host."""
        self._nursery.start_soon(self.close, connection)

    def close_those_of(self, unwanted: Callable[[PeerId], bool]) -> None:
        """Those that carry no link and lead to an unwanted peer."""
        for connection in self._swarm.get_connections():
            if id(connection) not in self._used and unwanted(connection.muxed_conn.peer_id.to_base58()):
                self.close_soon(connection)

    def tick(self, now: float) -> None:
        """About every second: close what nobody uses, and what is flooded."""
        connections = self._swarm.get_connections()
        for connection in connections:
            if _buffered_bytes(connection) > MAX_BUFFERED_BYTES:
                self._on_flood(connection.muxed_conn.peer_id.to_base58(), "sends more than its windows allow")
                self.close_soon(connection)
            elif id(connection) in self._used or id(connection) in self._held:
                self._unused_since.pop(id(connection), None)
            elif now - self._unused_since.setdefault(id(connection), now) > UNUSED_SECONDS:
                self.close_soon(connection)
        alive = {id(connection) for connection in connections}
        for gone in [key for key in self._unused_since if key not in alive]:
            del self._unused_since[gone]

    async def close(self, connection: Any) -> None:
        """Now. Never raises."""
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


def _buffered_bytes(connection: Any) -> int:
    """Bytes received on a connection and not read. Fault: Yamux only logs that a peer ignores its window."""
    buffers: dict[int, bytearray] = connection.muxed_conn.stream_buffers
    return sum(len(buffer) for buffer in buffers.values())
