"""From a relayed connection to a direct one: at the peer's addresses, or by punching a hole through two NATs (DCUtR).

    who was dialled through the relay                who dialled
      CONNECT own addresses  ───────────────────────►
                             ◄─────────────────────── CONNECT own addresses
      SYNC                   ───────────────────────►
      half a round trip later: connect                at once: connect

Both connect from the port they listen on, so that each NAT takes what comes from the other side for an answer. Where the two meet
in one connection, who dialled through the relay is the client of the handshake: it received SYNC
(https://github.com/libp2p/specs/blob/master/relay/DCUtR.md).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.dcutr_pb2 import HolePunch
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from sudocode_coordination.adapters import libp2p_addresses as addressing
from sudocode_coordination.adapters import libp2p_faults as faults
from sudocode_coordination.adapters.delivery import Outbox
from sudocode_coordination.adapters.libp2p_connections import Running
from sudocode_coordination.adapters.libp2p_links import Links
from sudocode_coordination.adapters.libp2p_streams import drop, hear, open_stream, say
from sudocode_coordination.adapters.links import MOVE
from sudocode_coordination.adapters.supervisor import explain
from sudocode_coordination.core.io import UpgradeFailed
from sudocode_coordination.errors import ProtocolError
from sudocode_coordination.model import PeerId

log = logging.getLogger(__name__)

DCUTR: Final = TProtocol("/libp2p/dcutr")
_IDENTIFY: Final = TProtocol("/ipfs/id/1.0.0")
_MAX_IDENTIFY_BYTES: Final = 64 << 10
"""With keys, protocols and a signed record a few KB."""
_ROUNDS: Final = 3
"""As the specification has it."""
_ROUND_SECONDS: Final = 5.0
"""A SYN that came too early for the other NAT is repeated after 1 and 3 s."""
_RETRY_SECONDS: Final = 0.25
"""Between two tries at one address, where it is refused and not ignored."""
_DIRECT_SECONDS: Final = 6.0
_MAX_WAIT_SECONDS: Final = 2.0
"""Half a round trip through the relay, at most: past that the measurement is of no use."""
_OBSERVED_SECONDS: Final = 90.0
"""How long an outer address is good: NATs keep a port for minutes. The system refuses to connect between the same two ports again
for one."""
_MAX_OBSERVERS: Final = 16
"""Relays whose answers are kept: a few are in use."""
_MAX_ADDRESSES: Final = 8
"""Told and tried: the outer address twice, and a few interfaces."""


class Upgrades:
    """Of one running host.

    Args:
        own: addresses of this host as they are announced.
        withheld: they were set, and no others are to be told, not even as a relay sees them.
        listening: what the host listens on.
    """

    def __init__(
        self,
        running: Running,
        links: Links,
        outbox: Outbox,
        *,
        own: Callable[[], tuple[str, ...]],
        withheld: bool,
        listening: list[Multiaddr],
    ) -> None:
        self._running = running
        self._links = links
        self._outbox = outbox
        self._own = own
        self._withheld = withheld
        self._listening = listening
        self._under_way: set[PeerId] = set()
        self._seen: dict[PeerId, tuple[float, list[str]]] = {}
        """Relay -> when it was asked, and the own outer addresses."""

    def start(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        """Try it; ends in `PeerMoved`, `PeerDisconnected` or `UpgradeFailed`."""
        link = self._links.of.get(peer)
        if link is None or not link.relayed:
            self._outbox.later(UpgradeFailed(peer=peer, reason="it is not connected by a relay"))
        elif peer not in self._under_way:
            self._under_way.add(peer)
            self._running.nursery.start_soon(self._upgrade, peer, addresses)

    def _is_relayed(self, peer: PeerId) -> bool:
        link = self._links.of.get(peer)
        return link is not None and link.relayed and not link.moving

    async def _upgrade(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        failures: list[str] = []
        try:
            # Both at once: addresses behind a NAT answer nobody, and it takes seconds to know that.
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._dial_directly, peer, addresses, failures)
                link = self._links.of.get(peer)
                if link is not None and link.direction == "in":
                    await self._punch_in_rounds(peer, failures)
                    if not self._is_relayed(peer):
                        nursery.cancel_scope.cancel()
        finally:
            self._under_way.discard(peer)
        if self._is_relayed(peer):
            reason = "; ".join(dict.fromkeys(failures[-4:])) or "nothing to try"
            self._outbox.now(UpgradeFailed(peer=peer, reason=reason))

    async def _punch_in_rounds(self, peer: PeerId, failures: list[str]) -> None:
        for number in range(_ROUNDS):
            if not self._is_relayed(peer):
                return
            try:
                await self._lead(peer, as_client=number == 1)
            except Exception as error:  # noqa: BLE001 - the relayed connection goes on, whatever goes wrong here
                failures.append(f"hole punching: {explain(error)}")

    async def _dial_directly(self, peer: PeerId, addresses: tuple[str, ...], failures: list[str]) -> None:
        turn = trio.Lock()

        async def attempt(address: Multiaddr) -> None:
            try:
                connection = await self._connect(peer, address)
                async with turn:
                    await self._move(peer, connection, address)
                nursery.cancel_scope.cancel()
            except Exception as error:  # noqa: BLE001 - whatever goes wrong with one address must not stop the others
                failures.append(f"{address}: {explain(error)}")

        with trio.move_on_after(_DIRECT_SECONDS):
            async with trio.open_nursery() as nursery:
                for address in addressing.dial_order(addresses, peer):
                    nursery.start_soon(attempt, address)

    async def _connect(self, peer: PeerId, address: Multiaddr, *, punch: bool = False, as_server: bool = False) -> Any:
        """A direct connection; `punch`: from the port that is listened on."""
        peer_id = ID.from_base58(peer)
        swarm = self._running.swarm
        swarm.unblock_peer(peer_id)
        source = self._source(address) if punch else None
        if as_server:
            return await swarm.dial_addr_as_responder(address, peer_id, source)
        return await swarm.dial_addr(address, peer_id, source)

    async def _move(self, peer: PeerId, connection: Any, address: Multiaddr) -> None:
        self._running.connections.use(connection)
        try:
            await self._links.open(self._running, peer, connection, str(address), MOVE)
        except BaseException:
            self._running.connections.done_with(connection)
            raise

    # --- hole punching ------------------------------------------------------------------------------------------------------

    async def _lead(self, peer: PeerId, *, as_client: bool) -> None:
        """One round, by who was dialled. `as_client`: be the client of the handshake, for where the other side's connection does
        not meet ours but accepts it."""
        carrier = self._links.carrier(peer)
        if carrier is None:
            return
        stream = await open_stream(carrier, DCUTR)
        try:
            told = await self._addresses_to_tell(carrier)
            began = trio.current_time()
            await say(stream, HolePunch(type=HolePunch.CONNECT, ObsAddrs=told))
            answer = await hear(stream, HolePunch)
            if answer.type != HolePunch.CONNECT:
                raise ProtocolError("something else than CONNECT was answered")
            round_trip = trio.current_time() - began
            await say(stream, HolePunch(type=HolePunch.SYNC))
            await trio.sleep(min(round_trip / 2, _MAX_WAIT_SECONDS))
            await self._punch(peer, _usable(answer, peer), as_server=not as_client)
        finally:
            await drop(stream)

    async def on_dcutr_stream(self, stream: INetStream) -> None:
        """The part of who dialled; whoever calls resets the stream if this raises."""
        peer = stream.muxed_conn.peer_id.to_base58()
        carrier: Any = stream.swarm_conn  # type: ignore[attr-defined]
        if not faults.is_relayed(carrier) or not self._is_relayed(peer):
            raise ProtocolError("hole punching where nothing is relayed")
        told = await self._addresses_to_tell(carrier)
        request = await hear(stream, HolePunch)
        if request.type != HolePunch.CONNECT:
            raise ProtocolError("something else than CONNECT was asked")
        await say(stream, HolePunch(type=HolePunch.CONNECT, ObsAddrs=told))
        sync = await hear(stream, HolePunch)
        if sync.type != HolePunch.SYNC:
            raise ProtocolError("something else than SYNC was said")
        await self._punch(peer, _usable(request, peer), as_server=False)
        await stream.close()

    async def _punch(self, peer: PeerId, addresses: list[Multiaddr], *, as_server: bool) -> None:
        turn = trio.Lock()

        async def attempt(address: Multiaddr) -> None:
            while self._is_relayed(peer):
                try:
                    connection = await self._connect(peer, address, punch=True, as_server=as_server)
                    if as_server:
                        return  # the client of the handshake opens the stream, and so knows that both sides have it
                    async with turn:
                        await self._move(peer, connection, address)
                    return
                except Exception as error:  # noqa: BLE001 - refused, unreachable, not the peer: all of it is usual here
                    log.debug("punching towards %s: %r", address, error)
                    await trio.sleep(_RETRY_SECONDS)

        with trio.move_on_after(_ROUND_SECONDS):
            async with trio.open_nursery() as nursery:
                for address in addresses:
                    nursery.start_soon(attempt, address)
                while self._is_relayed(peer):
                    await trio.sleep(_RETRY_SECONDS)
                nursery.cancel_scope.cancel()

    def _source(self, towards: Multiaddr) -> tuple[str, int] | None:
        """The address to connect from: that which is listened on."""
        plain = sorted(self._listening, key=lambda address: str(address).endswith("/ws"))
        for family, host, port in map(addressing.endpoint, plain):
            if family == addressing.endpoint(towards)[0]:
                return host, port
        return None

    async def _addresses_to_tell(self, carrier: Any) -> list[bytes]:
        """Where the other side may reach this one: as the relay sees it, unless that is withheld, and as it is announced."""
        found: dict[str, None] = {}
        try:
            found |= dict.fromkeys(await self._observed(carrier) if not self._withheld else ())
        except Exception as error:  # noqa: BLE001 - the relay need not tell; the own addresses are left
            log.debug("the relay did not tell how it sees this peer: %r", error)
        beyond = [address for address in self._own() if "/p2p-circuit" not in address and not address.endswith("/ws")]
        found |= dict.fromkeys(beyond)
        return [Multiaddr(address).to_bytes() for address in list(found)[:_MAX_ADDRESSES]]

    async def _observed(self, carrier: Any) -> list[str]:
        """The outer address of the port that is listened on: a connection from there to the relay shows it, whatever number the NAT
        gives it; and the same with the inner number, which many NATs keep."""
        relay = faults.connection_address(carrier).partition("/p2p-circuit")[0].rpartition("/p2p/")[2]
        known = self._running.connections.direct_to(relay)
        at = addressing.parse(faults.connection_address(known)) if known is not None else None
        source = self._source(at) if at is not None else None
        if at is None or source is None:
            return []
        told_at, told = self._seen.get(relay, (0.0, []))
        if told and trio.current_time() - told_at < _OBSERVED_SECONDS:
            return told
        found: list[str] = []
        with trio.move_on_after(_DIRECT_SECONDS):
            try:
                connection = await self._connect(relay, at, punch=True)
                try:
                    found = [str(await _ask_who_i_am(connection))]
                finally:
                    self._running.connections.close_soon(connection)
            except Exception as error:  # noqa: BLE001 - that port may not be free for it; the other connection knows the host
                log.debug("no look at the outer address of the own port: %r", error)
            seen = await _ask_who_i_am(known)
            found.append(f"/{addressing.endpoint(seen)[0]}/{addressing.endpoint(seen)[1]}/tcp/{source[1]}")
        if len(self._seen) >= _MAX_OBSERVERS:
            self._seen.clear()
        self._seen[relay] = (trio.current_time(), found)
        return found


async def _ask_who_i_am(connection: Any) -> Multiaddr:
    """How the other side sees this one.

    Raises:
        ProtocolError: it does not tell.
    """
    stream = await open_stream(connection, _IDENTIFY)
    try:
        told = await hear(stream, Identify, limit=_MAX_IDENTIFY_BYTES)
    finally:
        await drop(stream)
    seen = addressing.parse(str(Multiaddr(told.observed_addr)))
    if seen is None:
        raise ProtocolError("no address was told")
    return seen


def _usable(message: HolePunch, peer: PeerId) -> list[Multiaddr]:
    """The addresses in a message that a hole can be punched towards: plain TCP."""
    told = []
    for data in message.ObsAddrs[:_MAX_ADDRESSES]:
        try:
            told.append(str(Multiaddr(data)))
        except Exception as error:  # noqa: BLE001 - a multiaddr of anything raises anything
            log.debug("no address: %r", error)
    return [address for address in addressing.dial_order(told, peer) if not str(address).endswith("/ws")]
