"""The peers' side of Circuit Relay v2: agree with relays to be reached through them, dial through them, take what comes through.

A circuit is a stream to the relay on which Noise and Yamux are spoken with the other peer, as on a TCP connection: it passes the
same gate, and the relay can read nothing of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio
from libp2p.abc import INetStream
from libp2p.connection_types import ConnectionType
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, Status, StopMessage
from libp2p.relay.circuit_v2.pb.circuit_pb2 import PeerId as CircuitPeer
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from sudocode_coordination.adapters import libp2p_addresses as addressing
from sudocode_coordination.adapters.libp2p_addresses import CircuitAddress
from sudocode_coordination.adapters.libp2p_connections import Connections
from sudocode_coordination.adapters.libp2p_relay import HOP, RESERVATION_SECONDS, expect
from sudocode_coordination.adapters.libp2p_streams import drop, hear, open_stream, say
from sudocode_coordination.adapters.libp2p_yamux import batch_window_updates
from sudocode_coordination.adapters.supervisor import next_beat
from sudocode_coordination.core.io import RelayAt
from sudocode_coordination.model import PeerId

log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 1.0
"""Between two looks at the connections to relays: one that is lost is agreed upon anew within a second."""
_RETRY_SECONDS: Final = (1.0, 2.0, 5.0, 15.0, 60.0)
"""After a relay could not be had; the last one repeats."""
_KEPT_SECONDS: Final = 30.0
"""Addresses at a relay that was lost stay announced this long: it may only have been restarted, and a change costs a push."""
_MAX_ANNOUNCED_PER_RELAY: Final = 2
"""Who knows the relay knows its other addresses; a record has room for 32 in all."""


class Circuit(RawConnection):
    """A stream to a relay in the place of a socket."""

    def __init__(self, stream: Any, *, initiator: bool, address: Multiaddr) -> None:
        super().__init__(stream, initiator, ConnectionType.RELAYED, [address])
        batch_window_updates(stream)

    def get_remote_address(self) -> tuple[str, int] | None:
        return None  # that of the relay is not the peer's

    async def close(self) -> None:
        await drop(self.stream)


class _Reservation:
    """What is agreed with one relay."""

    def __init__(self, relay: RelayAt) -> None:
        self.relay = relay
        self.connection: Any = None
        self.good_until: float = 0.0
        """By trio's clock, while the connection lives."""
        self.renew_at: float = 0.0
        self.lost_at: float | None = None
        self.failures = 0
        self.busy = False
        self.announced: tuple[str, ...] = ()

    def holds(self, now: float) -> bool:
        return self.connection is not None and not self.connection.is_closed and now < self.good_until


class Circuits:
    """Of one running host.

    Args:
        connect: makes a direct connection to a peer at one of these addresses.
        may_connect: who is admitted.
        refused: told of a peer that came through a relay and is not admitted.
        changed: called when `addresses` has changed.
    """

    def __init__(
        self,
        swarm: Swarm,
        connections: Connections,
        nursery: trio.Nursery,
        *,
        connect: Callable[[PeerId, tuple[str, ...]], Awaitable[Any]],
        may_connect: Callable[[PeerId], bool],
        refused: Callable[[PeerId, str], None],
        changed: Callable[[], None],
    ) -> None:
        self._swarm = swarm
        self._connections = connections
        self._nursery = nursery
        self._connect = connect
        self._may_connect = may_connect
        self._refused = refused
        self._changed = changed
        self._reservations: dict[PeerId, _Reservation] = {}

    @property
    def addresses(self) -> tuple[str, ...]:
        """Own addresses at relays."""
        return tuple(address for reservation in self._reservations.values() for address in reservation.announced)

    def use(self, relays: tuple[RelayAt, ...]) -> None:
        """Be reachable through these, and no others."""
        kept = {relay.peer: self._reservations.get(relay.peer) or _Reservation(relay) for relay in relays}
        before = self.addresses
        self._reservations = kept
        for relay in relays:
            if kept[relay.peer].relay != relay:  # it is elsewhere now: no use in waiting
                kept[relay.peer].relay, kept[relay.peer].failures, kept[relay.peer].renew_at = relay, 0, 0.0
        if self.addresses != before:
            self._changed()

    # --- being reached ------------------------------------------------------------------------------------------------------

    async def keep(self) -> None:
        """See to it that every relay is agreed with, until cancelled."""
        while True:
            now = trio.current_time()
            for reservation in list(self._reservations.values()):
                self._look_at(reservation, now)
            await trio.sleep_until(next_beat(_LOOK_SECONDS))

    def _look_at(self, reservation: _Reservation, now: float) -> None:
        if not reservation.holds(now):
            if reservation.connection is not None:
                reservation.connection, reservation.lost_at, reservation.renew_at = None, now, now
            if reservation.announced and reservation.lost_at is not None and now - reservation.lost_at > _KEPT_SECONDS:
                reservation.announced = ()
                self._changed()
        if now >= reservation.renew_at and not reservation.busy:
            reservation.busy = True
            self._nursery.start_soon(self._reserve, reservation)

    async def _reserve(self, reservation: _Reservation) -> None:
        relay = reservation.relay
        try:
            connection = self._connections.direct_to(relay.peer) or await self._connect(relay.peer, relay.addresses)
            with self._connections.held(connection):
                stream = await open_stream(connection, HOP)
                try:
                    await say(stream, HopMessage(type=HopMessage.RESERVE))
                    answer = expect(await hear(stream, HopMessage))
                finally:
                    await drop(stream)
                seconds = min(max(60.0, answer.reservation.expire - time.time()), RESERVATION_SECONDS)
                now = trio.current_time()
                reservation.connection, reservation.lost_at, reservation.failures = connection, None, 0
                reservation.good_until, reservation.renew_at = now + seconds, now + seconds / 2
                self._announce(reservation)
                self._nursery.start_soon(self._hold, reservation, connection)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a relay, it is tried again
            log.debug("no reservation at %s: %r", relay.peer, error)
            wait = _RETRY_SECONDS[min(reservation.failures, len(_RETRY_SECONDS) - 1)]
            reservation.failures += 1
            reservation.renew_at = trio.current_time() + wait
        finally:
            reservation.busy = False

    async def _hold(self, reservation: _Reservation, connection: Any) -> None:
        """What comes through the relay comes on that connection."""
        with self._connections.held(connection):
            while self._reservations.get(reservation.relay.peer) is reservation and reservation.connection is connection:
                with trio.move_on_after(_LOOK_SECONDS):
                    await connection.event_closed.wait()
                    return

    def _announce(self, reservation: _Reservation) -> None:
        relay = reservation.relay
        usable = [str(address) for address in addressing.dial_order(relay.addresses, relay.peer)]
        beyond = [address for address in usable if not addressing.is_loopback(address)] or usable
        announced = tuple(f"{address}/p2p/{relay.peer}/p2p-circuit" for address in beyond[:_MAX_ANNOUNCED_PER_RELAY])
        if self._reservations.get(relay.peer) is reservation and announced != reservation.announced:
            reservation.announced = announced
            self._changed()

    async def on_stop_stream(self, stream: INetStream) -> None:
        """A relay brings a peer; whoever calls resets the stream if this raises."""
        relay = stream.muxed_conn.peer_id.to_base58()
        message = await hear(stream, StopMessage)
        source = ID(message.peer.id).to_base58()
        if relay not in self._reservations or message.type != StopMessage.CONNECT or not self._may_connect(source):
            await say(stream, StopMessage(type=StopMessage.STATUS, status=Status.PERMISSION_DENIED))
            await stream.close()
            if relay in self._reservations and message.type == StopMessage.CONNECT:
                self._refused(source, f"/p2p/{relay}/p2p-circuit")
            return
        await say(stream, StopMessage(type=StopMessage.STATUS, status=Status.OK))
        address = Multiaddr(f"/p2p/{relay}/p2p-circuit")
        circuit = Circuit(stream, initiator=False, address=address)
        with self._connections.held(stream.swarm_conn):  # type: ignore[attr-defined]
            muxed: Any = await self._swarm.upgrade_inbound_raw_conn(circuit, address)
            await muxed.event_closed.wait()

    # --- dialling -----------------------------------------------------------------------------------------------------------

    async def dial(self, address: CircuitAddress, peer: PeerId) -> Any:
        """A connection to a peer through a relay, proven by Noise to be with that peer.

        Raises:
            ProtocolError: the relay refused.
        """
        connection = self._connections.direct_to(address.relay)
        if connection is None:
            connection = await self._connect(address.relay, (str(address.at),))
        peer_id = ID.from_base58(peer)
        with self._connections.held(connection):
            stream = await open_stream(connection, HOP)
            try:
                await say(stream, HopMessage(type=HopMessage.CONNECT, peer=CircuitPeer(id=peer_id.to_bytes())))
                expect(await hear(stream, HopMessage))
                circuit = Circuit(stream, initiator=True, address=Multiaddr(f"{address.text}/p2p/{peer}"))
                dialled = await self._swarm.upgrade_outbound_raw_conn(circuit, peer_id)
            except BaseException:
                await drop(stream)
                raise
        self._nursery.start_soon(self._hold_while_open, connection, dialled)
        return dialled

    async def _hold_while_open(self, connection: Any, dialled: Any) -> None:
        with self._connections.held(connection):
            await dialled.event_closed.wait()
