"""The relay's side of Circuit Relay v2 (https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md).

    RESERVE   a peer wishes to be reached through this one: noted for as long as its connection lives
    CONNECT   a peer wishes to reach one that has reserved: a STOP stream to that one, then bytes are carried both ways

Only admitted peers get here, and only to admitted peers are they let through. The bytes are Noise between the two: what this peer
sees is who talks to whom, when, and how much. py-libp2p's own service is not used, see docs/adr/0018-own-relay.md.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, Limit, Reservation, Status, StopMessage
from libp2p.relay.circuit_v2.pb.circuit_pb2 import PeerId as CircuitPeer
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from sudocode_coordination.adapters import libp2p_faults as faults
from sudocode_coordination.adapters.libp2p_connections import Connections
from sudocode_coordination.adapters.libp2p_streams import drop, hear, open_stream, say
from sudocode_coordination.adapters.libp2p_yamux import batch_window_updates
from sudocode_coordination.errors import ProtocolError
from sudocode_coordination.model import PeerId

log = logging.getLogger(__name__)

HOP: Final = TProtocol("/libp2p/circuit/relay/0.2.0/hop")
STOP: Final = TProtocol("/libp2p/circuit/relay/0.2.0/stop")
RESERVATION_SECONDS: Final = 3_600
"""As the specification has it; renewed at half of it."""
_PIECE_BYTES: Final = 64 << 10
"""Carried at once: a quarter of Yamux's window."""
_WRITE_SECONDS: Final = 10.0
"""One piece must have been taken: as on any other link."""
_IDLE_SECONDS: Final = 30.0
"""Without a byte either way: links say something every 2.5 s, so that both ends of this one are gone."""


class RelayLimits(NamedTuple):
    """What this peer gives to others."""

    reservations: int = 256
    """Peers that are reachable through this one: more than a swarm has (`max_peers` is 200). Each is a few bytes here."""
    circuits: int = 400
    """At once: each of 200 peers twice. A circuit is two streams and some 300 KB of buffers at the worst."""
    circuits_per_peer: int = 48
    """At once, to it and from it: a connection has 64 streams, and the peer's own talk with the relay needs some."""
    circuit_seconds: float = 24 * 3_600.0
    """A day: two peers that no hole can be punched for keep one for as long as they run, and make a new one within a second. The
    specification's two minutes are for strangers."""
    circuit_bytes: int = 1 << 30
    """Both ways together: 12 KB/s for a day. An idle pair of peers needs 50 bytes/s; a join some MB."""


class RelayService:
    """Serves the HOP protocol.

    Args:
        may_connect: who is admitted.
        addresses: own addresses, as they are announced.
        limits: see there.
    """

    def __init__(
        self,
        connections: Connections,
        *,
        own: ID,
        may_connect: Callable[[PeerId], bool],
        addresses: Callable[[], tuple[str, ...]],
        limits: RelayLimits = RelayLimits(),  # noqa: B008 - immutable
    ) -> None:
        self._connections = connections
        self._own = own
        self._may_connect = may_connect
        self._addresses = addresses
        self.limits = limits
        self._reserved: dict[PeerId, tuple[Any, float]] = {}
        """Connection, and until when by trio's clock."""
        self._circuits: Counter[PeerId] = Counter()
        self._total = 0

    @property
    def circuits(self) -> int:
        """How many are open."""
        return self._total

    async def on_hop_stream(self, stream: INetStream) -> None:
        """A peer asks for something; whoever calls resets the stream if this raises."""
        connection: Any = stream.swarm_conn  # type: ignore[attr-defined]
        peer = stream.muxed_conn.peer_id.to_base58()
        message = await hear(stream, HopMessage)
        if faults.is_relayed(connection):
            await _refuse(stream, Status.PERMISSION_DENIED)
        elif message.type == HopMessage.RESERVE:
            await self._reserve(stream, connection, peer)
        elif message.type == HopMessage.CONNECT:
            await self._connect(stream, connection, peer, message)
        else:
            await _refuse(stream, Status.UNEXPECTED_MESSAGE)

    async def _reserve(self, stream: INetStream, connection: Any, peer: PeerId) -> None:
        self._forget_the_gone()
        if peer not in self._reserved and len(self._reserved) >= self.limits.reservations:
            await _refuse(stream, Status.RESERVATION_REFUSED)
            return
        self._reserved[peer] = (connection, trio.current_time() + RESERVATION_SECONDS)
        mine = Multiaddr(f"/p2p/{self._own.to_base58()}")
        reservation = Reservation(
            expire=int(time.time()) + RESERVATION_SECONDS,
            addrs=[
                Multiaddr(address).encapsulate(mine).to_bytes() for address in self._addresses() if "/p2p-circuit" not in address
            ],
        )
        await say(stream, HopMessage(type=HopMessage.STATUS, status=Status.OK, reservation=reservation, limit=self._limit()))
        await stream.close()
        # The connection may have no link: it is held for as long as the reservation is.
        with self._connections.held(connection), trio.move_on_after(RESERVATION_SECONDS):
            await connection.event_closed.wait()

    def _forget_the_gone(self) -> None:
        now = trio.current_time()
        self._reserved = {
            peer: (connection, until)
            for peer, (connection, until) in self._reserved.items()
            if until > now and not connection.is_closed and self._may_connect(peer)
        }

    def _limit(self) -> Limit:
        return Limit(duration=int(self.limits.circuit_seconds), data=self.limits.circuit_bytes)

    async def _connect(self, stream: INetStream, connection: Any, source: PeerId, message: HopMessage) -> None:
        try:
            target = ID(message.peer.id).to_base58()
        except ValueError:
            await _refuse(stream, Status.MALFORMED_MESSAGE)
            return
        self._forget_the_gone()
        if not self._may_connect(target) or target == source:
            await _refuse(stream, Status.PERMISSION_DENIED)
        elif target not in self._reserved:
            await _refuse(stream, Status.NO_RESERVATION)
        elif self._total >= self.limits.circuits or any(
            self._circuits[end] >= self.limits.circuits_per_peer for end in (source, target)
        ):
            await _refuse(stream, Status.RESOURCE_LIMIT_EXCEEDED)
        else:
            there = self._reserved[target][0]
            self._total += 1
            self._circuits.update((source, target))
            try:
                with self._connections.held(connection), self._connections.held(there):
                    await self._run_circuit(stream, there, source)
            finally:
                self._total -= 1
                self._circuits.subtract((source, target))
                self._circuits += Counter()  # forgets who has none

    async def _run_circuit(self, stream: INetStream, there: Any, source: PeerId) -> None:
        try:
            far = await open_stream(there, STOP)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the target's connection, the asker is told
            log.debug("no stream to the target of a circuit: %r", error)
            await _refuse(stream, Status.CONNECTION_FAILED)
            return
        try:
            peer = CircuitPeer(id=ID.from_base58(source).to_bytes())
            await say(far, StopMessage(type=StopMessage.CONNECT, peer=peer, limit=self._limit()))
            answer = await hear(far, StopMessage)
            if answer.type != StopMessage.STATUS or answer.status != Status.OK:
                await _refuse(stream, Status.CONNECTION_FAILED)
                return
            await say(stream, HopMessage(type=HopMessage.STATUS, status=Status.OK, limit=self._limit()))
            await self._carry(stream, far)
        finally:
            await drop(far)

    async def _carry(self, near: INetStream, far: Any) -> None:
        """Until one side closes, or a limit is reached. Then both are reset: a status would look like the peers' own bytes."""
        left = self.limits.circuit_bytes
        for stream in (near, far):
            batch_window_updates(stream)

        async def one_way(source: Any, target: Any) -> None:
            nonlocal left
            while left > 0:
                data = await source.read(_PIECE_BYTES)
                if not data:
                    break
                left -= len(data)
                idle.deadline = trio.current_time() + _IDLE_SECONDS
                with trio.fail_after(_WRITE_SECONDS):
                    await target.write(data)
            nursery.cancel_scope.cancel()

        with trio.move_on_after(self.limits.circuit_seconds), trio.move_on_after(_IDLE_SECONDS) as idle:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one_way, near, far)
                nursery.start_soon(one_way, far, near)
        await drop(near)


async def _refuse(stream: INetStream, status: Any) -> None:
    await say(stream, HopMessage(type=HopMessage.STATUS, status=status))
    await stream.close()


def why_refused(status: Any) -> str:
    """In words, for people."""
    words: dict[Any, str] = {
        Status.RESERVATION_REFUSED: "it has no room for more reservations",
        Status.RESOURCE_LIMIT_EXCEEDED: "it carries as many circuits as it may",
        Status.PERMISSION_DENIED: "it does not relay between these two",
        Status.CONNECTION_FAILED: "the peer does not answer it",
        Status.NO_RESERVATION: "the peer is not reachable through it",
    }
    return words.get(status, f"status {status}")


def expect(message: HopMessage) -> HopMessage:
    """The answer of a relay, if it is a good one.

    Raises:
        ProtocolError: it refused.
    """
    if message.type != HopMessage.STATUS:
        raise ProtocolError("the relay answered something else")
    if message.status != Status.OK:
        raise ProtocolError(f"the relay refused: {why_refused(message.status)}")
    return message
