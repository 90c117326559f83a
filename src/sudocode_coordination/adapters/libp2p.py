"""The real network: `ports.Network` over libp2p.

One connection and one sync stream per peer: `libp2p_links.py`. Through relays: `libp2p_circuits.py`, and away from them again:
`libp2p_upgrades.py`. py-libp2p's faults are closed in `libp2p_faults.py`; this file knows the port, the life of a host, who may
connect, and dials.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

import trio
from libp2p.peer.id import ID
from libp2p.tools.anyio_service import background_trio_service
from libp2p.transport.exceptions import OpenConnectionError
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from sudocode_coordination.adapters import libp2p_addresses as addressing
from sudocode_coordination.adapters import libp2p_faults as faults
from sudocode_coordination.adapters.delivery import GossipQueue, Outbox
from sudocode_coordination.adapters.identity import Identity
from sudocode_coordination.adapters.libp2p_addresses import parse_circuit
from sudocode_coordination.adapters.libp2p_circuits import Circuits
from sudocode_coordination.adapters.libp2p_connections import Connections, Dialling, Running
from sudocode_coordination.adapters.libp2p_links import HELLO_SECONDS, SYNC, Links
from sudocode_coordination.adapters.libp2p_relay import HOP, STOP, RelayLimits, RelayService
from sudocode_coordination.adapters.libp2p_streams import gate_protocols
from sudocode_coordination.adapters.libp2p_upgrades import DCUTR, Upgrades
from sudocode_coordination.adapters.links import Direction, LinkLimits
from sudocode_coordination.adapters.ports import Deliver
from sudocode_coordination.adapters.supervisor import explain, next_beat, supervise
from sudocode_coordination.core.io import DialFailed, GossipReceived, Listening, PeerRefused, RelayAt, UpgradeFailed
from sudocode_coordination.core.wire import MAX_FRAME_BYTES
from sudocode_coordination.errors import NetworkError
from sudocode_coordination.model import PeerId

log = logging.getLogger(__name__)

TOPICS: Final = ("sudocode/sync", "sudocode/presence")
_TICK_SECONDS: Final = 1.0
MANY_LINKS: Final = 20
"""From here on looking at all links every second is much of what a daemon at rest does."""
LINKS_TIDIED: Final = 10
"""With so many links more it is looked a second later for connections that nobody uses."""
_LOOK_AT_INTERFACES_SECONDS: Final = 15.0
_DIAL_SECONDS: Final = 10.0
"""A whole dial, all addresses."""
_ATTEMPT_SECONDS: Final = 6.0
"""One address: TCP, Noise and Yamux. Three round trips; a lost SYN is repeated after 1 and 3 s."""
_STAGGER_SECONDS: Final = 0.05
"""Head start of an address over the next one."""
ANSWERED: Final = "answered, and cut off: it has not read this clone's record yet, or does not let it in (coord doctor there tells)"
"""What failed at each address says nothing of that: a connection was cut, in one of many ways."""
_MAX_CIRCUITS_TRIED: Final = 8
"""Of one peer: two addresses at each of two relays are announced, and the asker knows of some more."""
_MAX_REFUSALS_PER_SECOND: Final = 20
"""`PeerRefused` told to the node; strangers may knock as often as they like."""


@dataclass
class _Parts:
    """Of one running host."""

    running: Running
    circuits: Circuits
    upgrades: Upgrades


class Libp2pNetwork:
    """`ports.Network`. `run` it in a nursery; the other methods return at once and may be called from trio tasks only.

    Args:
        identity: whose peer id this is.
        listen_addresses: multiaddrs of TCP or WebSocket; port 0 is any.
        deliver: gets every input; never called from within a method of the port.
        announce_addresses: told instead of the interfaces' own addresses, if there are any.
        max_peers: links at most.
        relay_service: whether to relay for others.
        relay_limits: what is given to them.
        limits: times and sizes of a link.
        closings: for tests that show a fault of libp2p.
    """

    def __init__(
        self,
        identity: Identity,
        listen_addresses: Iterable[str],
        deliver: Deliver,
        *,
        announce_addresses: Iterable[str] = (),
        max_peers: int = 200,
        relay_service: bool = False,
        relay_limits: RelayLimits = RelayLimits(),  # noqa: B008 - immutable
        limits: LinkLimits = LinkLimits(),  # noqa: B008 - immutable
        closings: faults.Closings = faults.ALL_CLOSED,
    ) -> None:
        self.peer_id = identity.peer_id
        self._seed = identity.seed
        self._listen = addressing.parse_listen(listen_addresses)
        self._announce = tuple(announce_addresses)
        self._max_peers = max_peers
        self._limits = limits
        self._closings = closings
        self._admitted: frozenset[PeerId] = frozenset()
        self._dials: dict[PeerId, Dialling] = {}
        self._relay_service, self._relay_limits = relay_service, relay_limits
        self._relays: tuple[RelayAt, ...] = ()
        self._parts: _Parts | None = None
        self._outbox = Outbox(deliver)
        self._links = Links(
            identity.peer_id, self._outbox, limits, max_peers, may_connect=self._may_connect, taken_up=self._taken_up
        )
        self._gossip = GossipQueue()
        self._refusals_left = _MAX_REFUSALS_PER_SECOND
        self._addresses: tuple[str, ...] = ()

    # --- the port -------------------------------------------------------------------------------------------------------

    def dial(self, peer: PeerId, addresses: tuple[str, ...], relayed: tuple[str, ...] = (), patience_ms: int = 0) -> None:
        """Try all addresses until one answers as that peer. While a dial runs, another one for the same peer joins it."""
        if peer in self._links.of or peer in self._dials:
            return
        parts = self._parts
        if parts is None or peer not in self._admitted or peer == self.peer_id:
            reason = "the network is down" if parts is None else "it is not admitted"
            self._outbox.later(DialFailed(peer=peer, reason=reason))
            return
        circuits = [found for address in relayed[:_MAX_CIRCUITS_TRIED] if (found := parse_circuit(address, peer)) is not None]
        dial = Dialling(peer, addressing.dial_order(addresses, peer), circuits, patience_ms / 1000, trio.CancelScope())
        self._dials[peer] = dial
        parts.running.nursery.start_soon(self._run_dial, parts, dial)

    def upgrade(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        """Get a relayed peer a direct connection, and go on over that."""
        if self._parts is None:
            self._outbox.later(UpgradeFailed(peer=peer, reason="the network is down"))
        else:
            self._parts.upgrades.start(peer, addresses)

    def use_relays(self, relays: tuple[RelayAt, ...]) -> None:
        """Be reachable through these, as far as they agree. They may connect, if only to relay."""
        self._relays = relays
        if self._parts is not None:
            self._parts.circuits.use(relays)

    def hang_up(self, peer: PeerId, reason: str) -> None:
        """Close the connection, if there is one; what is queued still goes out, within a second."""
        link = self._links.of.get(peer)
        if link is not None:
            self._links.forget(link, reason, later=True)
            link.finish_nowait(reason)

    def admit(self, peers: tuple[PeerId, ...]) -> None:
        """The only peers that may connect from now on."""
        self._admitted = frozenset(peers) - {self.peer_id}
        for peer in [peer for peer in self._links.of if peer not in self._admitted]:
            self.hang_up(peer, "no longer admitted")
        for peer in [peer for peer in self._dials if peer not in self._admitted]:
            self._dials[peer].failures.append("no longer admitted")
            self._dials[peer].scope.cancel()
        if self._parts is not None:
            self._parts.running.connections.close_those_of(lambda peer: not self._may_open_streams(peer))

    def send(self, peer: PeerId, frame: bytes) -> None:
        """Queue a frame; a peer that takes too long or has too much queued is disconnected."""
        link = self._links.of.get(peer)
        if link is None:
            return
        if len(frame) > MAX_FRAME_BYTES:
            raise ValueError(f"frame of {len(frame)} bytes, {MAX_FRAME_BYTES} allowed")
        if not frame or link.send_nowait(frame):
            return
        self._links.forget(link, "too much queued for it", later=True)
        link.close_nowait("too much queued for it")

    def gossip(self, topic: str, data: bytes) -> None:
        """Publish; lost if nobody is connected or it is too large."""
        if topic not in TOPICS:
            raise ValueError(f"no such topic: {topic}")
        if self._links.of and len(data) <= faults.MAX_GOSSIP_BYTES:
            self._gossip.put(topic, data)

    # --- life -----------------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and serve until cancelled; then say goodbye within a few seconds. A host that dies is started again.

        Raises:
            NetworkError: there is nothing to listen on.
        """
        faults.quiet_modules()
        addressing.require_free_ports(self._listen)
        listen = self._listen
        started = False

        def on_started(listening: list[Multiaddr]) -> None:
            nonlocal started, listen
            listen = listening  # so that a restarted host is found where it was
            if not started:
                started = True
                task_status.started()

        await supervise(
            lambda done: self._run_host(listen, on_started, done),
            ended=self._on_host_ended,
            fatal=lambda error: isinstance(error, NetworkError) and not started,
        )

    def _on_host_ended(self) -> None:
        self._parts = self._links.running = None
        for link in list(self._links.of.values()):
            self._links.forget(link, "the network part ended")
        for peer in list(self._dials):
            del self._dials[peer]
            self._outbox.now(DialFailed(peer=peer, reason="the network part ended"))

    async def _run_host(self, listen: list[Multiaddr], on_started: Callable[[list[Multiaddr]], None], done: trio.Event) -> None:
        host, swarm = faults.make_host(
            self._seed,
            listen,
            max_connections=self._max_peers * 2 + 16,
            announce=[Multiaddr(address) for address in self._announce],
            closings=self._closings,
        )
        sockets = faults.Sockets()
        faults.gate_peers(swarm, self._verdict, sockets, self._links.flooded, closings=self._closings)
        pubsub, router = faults.make_pubsub(
            host,
            TOPICS,
            accepts=self._accepts_gossip,
            on_message=self._on_gossip,
            on_flood=self._links.flooded,
            closings=self._closings,
        )
        faults.drop_notifees(swarm)
        faults.contain_streams(swarm, self._may_open_streams, self._links.flooded, closings=self._closings)
        async with AsyncExitStack() as stack:
            stack.callback(sockets.close_all)
            stack.callback(pubsub.seen_messages.stop)  # fault: a thread that nobody ends
            stack.push_async_callback(faults.close_listeners, swarm)
            await stack.enter_async_context(host.run(listen_addrs=listen))
            listening = host.get_transport_addrs()
            if not listening or len(listening) < len([one for one in listen if not str(one).startswith("/ip6/")]):
                await host.close()
                raise NetworkError(
                    f"can't listen on {', '.join(str(one) for one in listen)}",
                    hint="are these addresses of this machine, and the ports free? /ip4/0.0.0.0/tcp/0 takes any",
                )
            await stack.enter_async_context(background_trio_service(router))
            await stack.enter_async_context(background_trio_service(pubsub))
            await pubsub.wait_until_ready()
            for topic in TOPICS:
                await pubsub.subscribe(topic)
            async with trio.open_nursery() as nursery:
                running = Running(host, swarm, pubsub, nursery, Connections(swarm, nursery, sockets, self._links.flooded))
                parts = self._put_together(running, listening)
                self._parts, self._links.running = parts, running
                nursery.start_soon(self._tick, parts)
                nursery.start_soon(parts.circuits.keep)
                nursery.start_soon(self._outbox.run)
                nursery.start_soon(self._gossip.run, pubsub.publish)
                self._addresses = ()
                self._announce_addresses(parts)
                on_started(listening)
                await done.wait()
                await self._say_goodbye()
                self._parts = self._links.running = None
                nursery.cancel_scope.cancel()
            await host.close()

    def _put_together(self, running: Running, listening: list[Multiaddr]) -> _Parts:
        circuits = Circuits(
            running.swarm,
            running.connections,
            running.nursery,
            connect=lambda peer, addresses: self._connect_to_relay(running, peer, addresses),
            may_connect=self._may_connect,
            refused=self._told_refused,
            changed=lambda: self._announce_addresses(parts, later=True),
        )
        upgrades = Upgrades(
            running, self._links, self._outbox, own=lambda: self._addresses, withheld=bool(self._announce), listening=listening
        )
        parts = _Parts(running, circuits, upgrades)
        host = running.host
        host.set_stream_handler(SYNC, lambda stream: self._links.on_stream(running, stream))
        host.set_stream_handler(STOP, circuits.on_stop_stream)
        host.set_stream_handler(DCUTR, upgrades.on_dcutr_stream)
        if self._relay_service:
            relay = RelayService(
                running.connections,
                own=host.get_id(),
                may_connect=self._may_connect,
                addresses=lambda: self._addresses,
                limits=self._relay_limits,
            )
            host.set_stream_handler(HOP, relay.on_hop_stream)
        # Who is no peer, but relays for this one, gets no further than that.
        gate_protocols(host, self._may_connect, open_to_all=(STOP,))
        circuits.use(self._relays)
        return parts

    async def _say_goodbye(self) -> None:
        for dial in list(self._dials.values()):
            dial.scope.cancel()
        links = list(self._links.of.values())
        for link in links:
            self.hang_up(link.peer, "leaving")
        with trio.move_on_after(self._limits.goodbye + 0.5):
            for link in links:
                await link.finished.wait()
        self._outbox.flush()

    # --- who may ----------------------------------------------------------------------------------------------------------

    def _may_connect(self, peer: PeerId) -> bool:
        return peer in self._admitted or not self._closings.gate

    def _accepts_gossip(self, author: PeerId, size: int) -> bool:
        return size <= faults.MAX_GOSSIP_BYTES and (author == self.peer_id or self._may_connect(author))

    def _is_relay(self, peer: PeerId) -> bool:
        return any(relay.peer == peer for relay in self._relays)

    def _may_open_streams(self, peer: PeerId) -> bool:
        return self._may_connect(peer) or self._is_relay(peer)

    def _verdict(self, peer: PeerId, inbound: bool, address: str) -> str | None:
        if peer in self._admitted:
            return "too many peers" if len(self._links.of) >= self._max_peers and peer not in self._links.of else None
        if not inbound and self._is_relay(peer):
            return None
        if inbound:
            self._told_refused(peer, address)
        return "not admitted"

    def _told_refused(self, peer: PeerId, address: str) -> None:
        if self._refusals_left > 0:
            self._refusals_left -= 1
            self._outbox.now(PeerRefused(peer=peer, address=address))

    # --- dialling -----------------------------------------------------------------------------------------------------------

    async def _run_dial(self, parts: _Parts, dial: Dialling) -> None:
        with dial.scope, trio.move_on_after(_DIAL_SECONDS) as limit:
            async with trio.open_nursery() as nursery:
                direct_failed = trio.Event()
                nursery.start_soon(self._dial_directly, parts, dial, direct_failed)
                if dial.circuits:
                    with trio.move_on_after(dial.patience):
                        await direct_failed.wait()
                    # Relays that are connected first: one that is down would cost all the time that is left.
                    direct_to = parts.running.connections.direct_to
                    for circuit in sorted(dial.circuits, key=lambda circuit: direct_to(circuit.relay) is None):
                        await self._attempt(parts, dial, circuit.text, lambda c=circuit: parts.circuits.dial(c, dial.peer))  # type: ignore[misc]
        if self._dials.get(dial.peer) is dial:
            del self._dials[dial.peer]
            if limit.cancelled_caught:
                dial.failures.append(f"no answer within {_DIAL_SECONDS:.0f} s")
            failures = [ANSWERED, *dial.failures[-1:]] if dial.answered else dial.failures[-4:]
            reason = "; ".join(dict.fromkeys(failures)) or "it has no usable address"
            self._outbox.now(DialFailed(peer=dial.peer, reason=reason, answered=dial.answered))

    async def _dial_directly(self, parts: _Parts, dial: Dialling, all_failed: trio.Event) -> None:
        peer_id = ID.from_base58(dial.peer)
        swarm = parts.running.swarm

        async def attempt(address: Multiaddr, failed: trio.Event) -> None:
            # Faults: `connect` and `dial_peer` try two addresses, drop loopback ones, wait 0.25 s, block a peer for
            # 60 s after a failure, and take a dead connection for a live one. `dial_addr` does none of that.
            swarm.unblock_peer(peer_id)
            try:
                await self._attempt(parts, dial, str(address), lambda: swarm.dial_addr(address, peer_id))
            finally:
                failed.set()

        async with trio.open_nursery() as nursery:
            for address in dial.addresses:
                failed = trio.Event()
                nursery.start_soon(attempt, address, failed)
                with trio.move_on_after(_STAGGER_SECONDS):
                    await failed.wait()
        all_failed.set()

    async def _attempt(self, parts: _Parts, dial: Dialling, address: str, connect: Callable[[], Any]) -> None:
        """One address; ends the dial if it answers."""
        connections = parts.running.connections
        connection: Any = None
        try:
            with trio.fail_after(_ATTEMPT_SECONDS):
                connection = await connect()
                connections.use(connection)
            async with dial.hello_turn:
                # Fault: a connection says nothing about a peer that refuses or is dead. The answered hello does.
                with trio.fail_after(HELLO_SECONDS):
                    await self._links.open(parts.running, dial.peer, connection, address)
                connection = None
                dial.scope.cancel()
        except Exception as error:  # noqa: BLE001 - whatever goes wrong with one address must not stop the others
            dial.failures.append(f"{address}: {explain(error)}")
            # A relay that refuses says nothing of the peer behind it.
            dial.answered |= _was_answered(error) and (connection is not None or "/p2p-circuit" not in address)
        finally:
            if connection is not None:
                connections.close_soon(connection)

    async def _connect_to_relay(self, running: Running, relay: PeerId, addresses: tuple[str, ...]) -> Any:
        """A direct connection without a link, at the first address that answers.

        Raises:
            NetworkError: none does.
        """
        if not self._may_open_streams(relay):
            raise NetworkError(f"{relay} is neither a peer nor a relay that was named")
        failures = []
        for address in addressing.dial_order(addresses, relay):
            peer_id = ID.from_base58(relay)
            running.swarm.unblock_peer(peer_id)
            try:
                with trio.fail_after(_ATTEMPT_SECONDS):
                    return await running.swarm.dial_addr(address, peer_id)
            except Exception as error:  # noqa: BLE001 - the next address may answer
                failures.append(f"{address}: {explain(error)}")
        raise NetworkError("; ".join(failures) or "the relay has no usable address")

    def _taken_up(self, peer: PeerId, direction: Direction) -> None:
        dial = self._dials.pop(peer, None)
        if dial is not None and direction == "in":
            dial.scope.cancel()  # one that came out of it ends it itself, in `_attempt`

    # --- housekeeping -----------------------------------------------------------------------------------------------------

    async def _tick(self, parts: _Parts) -> None:
        last = look = tidy_at = trio.current_time()
        turn = 0
        while True:
            await trio.sleep_until(next_beat(_TICK_SECONDS))
            now = trio.current_time()
            # What this process came late by is nobody's silence: it may have been asleep, or the machine has too much to do.
            paused = max(0.0, now - last - _TICK_SECONDS)
            last = now
            self._refusals_left = _MAX_REFUSALS_PER_SECOND
            # Half of many links at a time: each is looked at every other second. What was paused, all have to be told.
            links, turn = list(self._links.of.values()), turn + 1
            step = 2 if len(links) > MANY_LINKS and not paused else 1
            for link in links[turn % step :: step]:
                reason = link.tick(now, paused, len(links))
                if reason is not None:
                    self._links.forget(link, reason)
                    link.close_nowait(reason)
            if now >= tidy_at:  # a look at each costs microseconds
                tidy_at = now + _TICK_SECONDS * (len(self._links.of) // LINKS_TIDIED)
                parts.running.connections.tick(now)
            if now - look > _LOOK_AT_INTERFACES_SECONDS:
                look = now
                self._announce_addresses(parts)

    def _announce_addresses(self, parts: _Parts, *, later: bool = False) -> None:
        own = self._announce or addressing.announced(parts.running.host.get_transport_addrs())
        addresses = (*own, *parts.circuits.addresses)
        if addresses != self._addresses:
            self._addresses = addresses
            tell = self._outbox.later if later else self._outbox.now
            tell(Listening(addresses=addresses))

    # --- gossip -----------------------------------------------------------------------------------------------------------

    def _on_gossip(self, topic: str, data: bytes) -> None:
        self._outbox.now(GossipReceived(topic=topic, data=data))


def _was_answered(error: BaseException) -> bool:
    """Whether an attempt failed although somebody was there: it was neither refused by the machine, nor lost, nor too slow."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OpenConnectionError | trio.TooSlowError):
            return False
        cause = cause.__cause__
    return True
