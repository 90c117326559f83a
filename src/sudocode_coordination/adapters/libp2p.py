"""The real network: `ports.Network` over libp2p.

One connection and one sync stream per peer (`links.py`). Who dials opens the stream on the connection it dialled. When both
dial at once, the stream that the smaller id opened stays:

| a hello comes in while                        | then                                                         |
|---|---|
| nothing is there                              | accept                                                       |
| own hello is under way, own id is larger      | accept; the own one will be refused                          |
| own hello is under way, own id is smaller     | wait for its answer, then as below                           |
| a stream is up, the hello is older than it    | refuse: a leftover of dialling at once                       |
| a stream is up, the hello is newer            | the other side has lost it: `PeerDisconnected`, then accept  |

py-libp2p's faults are closed in `libp2p_faults.py`; this file knows peers, dials and links.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from typing import Any, Final

import trio
from libp2p.abc import IHost, INetStream
from libp2p.connection_types import ConnectionType
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from sudocode_coordination.adapters import libp2p_addresses as addressing
from sudocode_coordination.adapters import libp2p_faults as faults
from sudocode_coordination.adapters.delivery import GossipQueue, Outbox
from sudocode_coordination.adapters.identity import Identity
from sudocode_coordination.adapters.libp2p_connections import Connections, Dialling, Running
from sudocode_coordination.adapters.links import (
    ACCEPT,
    DUPLICATE,
    OPEN,
    SYNC_PROTOCOL,
    Direction,
    Hello,
    Link,
    LinkLimits,
    encode_hello,
    read_hello,
)
from sudocode_coordination.adapters.ports import Deliver
from sudocode_coordination.adapters.supervisor import explain, supervise
from sudocode_coordination.core.io import (
    DialFailed,
    FrameReceived,
    GossipReceived,
    Listening,
    PeerConnected,
    PeerDisconnected,
    PeerMisbehaved,
    PeerRefused,
)
from sudocode_coordination.core.wire import MAX_FRAME_BYTES
from sudocode_coordination.errors import NetworkError, ProtocolError
from sudocode_coordination.model import PeerId

log = logging.getLogger(__name__)

TOPICS: Final = ("sudocode/sync", "sudocode/presence")
_SYNC: Final = TProtocol(SYNC_PROTOCOL)
_TICK_SECONDS: Final = 1.0
_LOOK_AT_INTERFACES_SECONDS: Final = 15.0
_DIAL_SECONDS: Final = 10.0
"""A whole dial, all addresses."""
_ATTEMPT_SECONDS: Final = 6.0
"""One address: TCP, Noise and Yamux. Three round trips; a lost SYN is repeated after 1 and 3 s."""
_STAGGER_SECONDS: Final = 0.05
"""Head start of an address over the next one."""
_HELLO_SECONDS: Final = 5.0
_MAX_REFUSALS_PER_SECOND: Final = 20
"""`PeerRefused` told to the node; strangers may knock as often as they like."""


class Libp2pNetwork:
    """`ports.Network`. `run` it in a nursery; the other methods return at once and may be called from trio tasks only.

    Args:
        identity: whose peer id this is.
        listen_addresses: multiaddrs of TCP or WebSocket; port 0 is any.
        deliver: gets every input; never called from within a method of the port.
        announce_addresses: told instead of the interfaces' own addresses, if there are any.
        max_peers: links at most.
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
        self._links: dict[PeerId, Link] = {}
        self._dials: dict[PeerId, Dialling] = {}
        self._openings: dict[PeerId, trio.Event] = {}
        self._instance = secrets.token_bytes(8)
        self._count = 0
        self._running: Running | None = None
        self._outbox = Outbox(deliver)
        self._gossip = GossipQueue()
        self._refusals_left = _MAX_REFUSALS_PER_SECOND
        self._addresses: tuple[str, ...] = ()

    # --- the port -------------------------------------------------------------------------------------------------------

    def dial(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        """Try all addresses until one answers as that peer. While a dial runs, another one for the same peer joins it."""
        if peer in self._links or peer in self._dials:
            return
        running = self._running
        if running is None or peer not in self._admitted or peer == self.peer_id:
            reason = "the network is down" if running is None else "it is not admitted"
            self._outbox.later(DialFailed(peer=peer, reason=reason))
            return
        dial = Dialling(peer, addressing.dial_order(addresses, peer), trio.CancelScope())
        self._dials[peer] = dial
        running.nursery.start_soon(self._run_dial, running, dial)

    def hang_up(self, peer: PeerId, reason: str) -> None:
        """Close the connection, if there is one; what is queued still goes out, within a second."""
        link = self._links.get(peer)
        if link is not None:
            self._forget(link, reason, later=True)
            link.finish_nowait(reason)

    def admit(self, peers: tuple[PeerId, ...]) -> None:
        """The only peers that may connect from now on."""
        self._admitted = frozenset(peers) - {self.peer_id}
        for peer in [peer for peer in self._links if peer not in self._admitted]:
            self.hang_up(peer, "no longer admitted")
        for peer in [peer for peer in self._dials if peer not in self._admitted]:
            self._dials[peer].failures.append("no longer admitted")
            self._dials[peer].scope.cancel()
        if self._running is not None:
            self._running.connections.close_those_of(lambda peer: peer not in self._admitted)

    def send(self, peer: PeerId, frame: bytes) -> None:
        """Queue a frame; a peer that takes too long or has too much queued is disconnected."""
        link = self._links.get(peer)
        if link is None:
            return
        if len(frame) > MAX_FRAME_BYTES:
            raise ValueError(f"frame of {len(frame)} bytes, {MAX_FRAME_BYTES} allowed")
        if not frame or link.send_nowait(frame):
            return
        self._forget(link, "too much queued for it", later=True)
        link.close_nowait("too much queued for it")

    def gossip(self, topic: str, data: bytes) -> None:
        """Publish; lost if nobody is connected or it is too large."""
        if topic not in TOPICS:
            raise ValueError(f"no such topic: {topic}")
        if self._links and len(data) <= faults.MAX_GOSSIP_BYTES:
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
        self._running = None
        for link in list(self._links.values()):
            self._forget(link, "the network part ended")
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
        faults.gate_peers(swarm, self._verdict, sockets, closings=self._closings)
        pubsub, router = faults.make_pubsub(
            host,
            TOPICS,
            accepts=self._accepts_gossip,
            on_message=self._on_gossip,
            on_flood=self._on_flood,
            closings=self._closings,
        )
        faults.drop_notifees(swarm)
        faults.contain_streams(swarm, self._may_connect, self._on_flood, closings=self._closings)
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
                running = Running(host, swarm, pubsub, nursery, Connections(swarm, nursery, sockets, self._on_flood))
                host.set_stream_handler(_SYNC, lambda stream: self._on_sync_stream(running, stream))
                self._running = running
                nursery.start_soon(self._tick, running)
                nursery.start_soon(self._outbox.run)
                nursery.start_soon(self._gossip.run, pubsub.publish)
                self._addresses = ()
                self._announce_addresses(host)
                on_started(listening)
                await done.wait()
                await self._say_goodbye()
                self._running = None
                nursery.cancel_scope.cancel()
            await host.close()

    async def _say_goodbye(self) -> None:
        for dial in list(self._dials.values()):
            dial.scope.cancel()
        links = list(self._links.values())
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

    def _verdict(self, peer: PeerId, inbound: bool, address: str) -> str | None:
        if peer in self._admitted:
            return "too many peers" if len(self._links) >= self._max_peers and peer not in self._links else None
        if inbound and self._refusals_left > 0:
            self._refusals_left -= 1
            self._outbox.now(PeerRefused(peer=peer, address=address))
        return "not admitted"

    # --- dialling -----------------------------------------------------------------------------------------------------------

    async def _run_dial(self, running: Running, dial: Dialling) -> None:
        with dial.scope, trio.move_on_after(_DIAL_SECONDS) as limit:
            async with trio.open_nursery() as nursery:
                for address in dial.addresses:
                    failed = trio.Event()
                    nursery.start_soon(self._attempt, running, dial, address, failed)
                    with trio.move_on_after(_STAGGER_SECONDS):
                        await failed.wait()
        if self._dials.get(dial.peer) is dial:
            del self._dials[dial.peer]
            if limit.cancelled_caught:
                dial.failures.append(f"no answer within {_DIAL_SECONDS:.0f} s")
            reason = "; ".join(dict.fromkeys(dial.failures[-4:])) or "it has no usable address"
            self._outbox.now(DialFailed(peer=dial.peer, reason=reason))

    async def _attempt(self, running: Running, dial: Dialling, address: Multiaddr, failed: trio.Event) -> None:
        peer_id = ID.from_base58(dial.peer)
        connection: Any = None
        try:
            with trio.fail_after(_ATTEMPT_SECONDS):
                # Faults: `connect` and `dial_peer` try two addresses, drop loopback ones, wait 0.25 s, block a peer for
                # 60 s after a failure, and take a dead connection for a live one. `dial_addr` does none of that.
                running.swarm.unblock_peer(peer_id)
                connection = await running.swarm.dial_addr(address, peer_id)
                running.connections.use(connection)
            async with dial.hello_turn:
                # Fault: a connection says nothing about a peer that refuses or is dead. The answered hello does.
                with trio.fail_after(_HELLO_SECONDS):
                    await self._open_sync_stream(running, dial.peer, connection, str(address))
                connection = None
                dial.scope.cancel()
        except Exception as error:  # noqa: BLE001 - whatever goes wrong with one address must not stop the others
            dial.failures.append(f"{address}: {explain(error)}")
        finally:
            failed.set()
            if connection is not None:
                running.connections.close_soon(connection)

    async def _open_sync_stream(self, running: Running, peer: PeerId, connection: Any, address: str) -> None:
        stream = await connection.new_stream()
        try:
            await MultiselectClient().select_one_of([_SYNC], MultiselectCommunicator(stream), int(_HELLO_SECONDS))
            stream.set_protocol(_SYNC)
            opening = self._openings[peer] = trio.Event()
            try:
                await stream.write(encode_hello(self._next_hello(OPEN)))
                answer = await read_hello(stream)
                if answer.kind != ACCEPT:
                    raise ProtocolError("it has a newer connection already" if answer.kind == DUPLICATE else "it refused")
                link = self._links.get(peer)
                if link is not None and _is_older(answer, link.remote):
                    raise ProtocolError("another connection was quicker")
                link = self._take_up(running, peer, stream, connection, address, "out", answer)
            finally:
                opening.set()
                if self._openings.get(peer) is opening:
                    del self._openings[peer]
        except BaseException:
            with trio.CancelScope(deadline=trio.current_time() + 1, shield=True):
                await stream.reset()
            raise
        running.nursery.start_soon(self._run_link, running, link, connection)

    def _next_hello(self, kind: int) -> Hello:
        self._count += 1
        return Hello(kind, self._instance, self._count)

    # --- links ----------------------------------------------------------------------------------------------------------

    async def _on_sync_stream(self, running: Running, stream: INetStream) -> None:
        peer = stream.muxed_conn.peer_id.to_base58()
        connection: Any = stream.swarm_conn  # type: ignore[attr-defined]
        hello = await self._hello_of(peer, stream)
        with trio.fail_after(_HELLO_SECONDS):
            while peer in self._openings and self.peer_id < peer:
                await self._openings[peer].wait()
        link = self._links.get(peer)
        refused = not self._may_connect(peer) or (link is None and len(self._links) >= self._max_peers)
        if refused or (link is not None and _is_older(hello, link.remote)):
            with trio.fail_after(_HELLO_SECONDS):
                await stream.write(encode_hello(self._next_hello(DUPLICATE)))
                await stream.close()
            return
        accept = self._next_hello(ACCEPT)
        address = faults.connection_address(connection)
        link = self._take_up(running, peer, stream, connection, address, "in", hello, encode_hello(accept))
        await self._run_link(running, link, connection)

    async def _hello_of(self, peer: PeerId, stream: INetStream) -> Hello:
        """The hello of who opened the stream; why there is none is told, and raised."""
        try:
            with trio.fail_after(_HELLO_SECONDS):
                hello = await read_hello(stream)
            if hello.kind != OPEN:
                raise ProtocolError(f"a hello of kind {hello.kind} where one that opens is due")
        except (trio.TooSlowError, ProtocolError) as error:
            slow = isinstance(error, trio.TooSlowError)  # it may be a fault of the machine, or of the way
            reason = f"opened a stream and said no hello within {_HELLO_SECONDS:.0f} s" if slow else str(error)
            self._outbox.now(PeerMisbehaved(peer=peer, reason=reason, keep_out=not slow))
            raise
        return hello

    def _take_up(
        self,
        running: Running,
        peer: PeerId,
        stream: INetStream,
        connection: Any,
        address: str,
        direction: Direction,
        remote: Hello,
        greeting: bytes = b"",
    ) -> Link:
        old = self._links.get(peer)
        if old is not None:
            self._forget(old, "replaced by a newer connection")
            old.close_nowait("replaced by a newer connection")
        faults.batch_window_updates(stream)
        link = Link(
            peer,
            stream,
            address=address,
            direction=direction,
            remote=remote,
            on_frame=self._on_frame,
            limits=self._limits,
            greeting=greeting,
        )
        running.connections.use(connection)
        self._links[peer] = link
        dial = self._dials.pop(peer, None)
        if dial is not None and direction == "in":
            dial.scope.cancel()  # one that came out of it ends it itself, in `_attempt`
        relayed = connection.get_connection_type() == ConnectionType.RELAYED
        self._outbox.now(PeerConnected(peer=peer, address=address, direction=direction, relayed=relayed))
        running.pubsub.manager.run_task(running.pubsub._handle_new_peer_with_retry, ID.from_base58(peer))
        return link

    async def _run_link(self, running: Running, link: Link, connection: Any) -> None:
        try:
            await link.run()
        finally:
            self._forget(link, link.reason)
            if link.fault:
                self._outbox.now(PeerMisbehaved(peer=link.peer, reason=link.reason))
            if self._running is running:
                running.connections.close_soon(connection)

    def _forget(self, link: Link, reason: str, *, later: bool = False) -> None:
        """The link is no longer the peer's: nothing of it is delivered any more but this."""
        if self._links.get(link.peer) is not link:
            return
        del self._links[link.peer]
        if self._running is not None:
            self._running.pubsub._handle_dead_peer(ID.from_base58(link.peer))
        item = PeerDisconnected(peer=link.peer, reason=reason)
        if later:
            self._outbox.later(item)
        else:
            self._outbox.now(item)

    def _on_flood(self, peer: PeerId, reason: str) -> None:
        """It does too much of something below the links."""
        link = self._links.get(peer)
        if link is not None:
            self._forget(link, reason)
            link.close_nowait(reason)
        self._outbox.now(PeerMisbehaved(peer=peer, reason=reason))

    def _on_frame(self, link: Link, frame: bytes) -> None:
        if self._links.get(link.peer) is link:
            self._outbox.now(FrameReceived(peer=link.peer, frame=frame))

    # --- housekeeping -----------------------------------------------------------------------------------------------------

    async def _tick(self, running: Running) -> None:
        last = look = trio.current_time()
        while True:
            await trio.sleep(_TICK_SECONDS)
            now = trio.current_time()
            # What this process came late by is nobody's silence: it may have been asleep, or the machine has too much to do.
            paused = max(0.0, now - last - _TICK_SECONDS)
            last = now
            self._refusals_left = _MAX_REFUSALS_PER_SECOND
            for link in list(self._links.values()):
                reason = link.tick(now, paused, len(self._links))
                if reason is not None:
                    self._forget(link, reason)
                    link.close_nowait(reason)
            running.connections.tick(now)
            if now - look > _LOOK_AT_INTERFACES_SECONDS:
                look = now
                self._announce_addresses(running.host)

    def _announce_addresses(self, host: IHost) -> None:
        addresses = self._announce or addressing.announced(host.get_transport_addrs())
        if addresses != self._addresses:
            self._addresses = addresses
            self._outbox.now(Listening(addresses=addresses))

    # --- gossip -----------------------------------------------------------------------------------------------------------

    def _on_gossip(self, topic: str, data: bytes) -> None:
        self._outbox.now(GossipReceived(topic=topic, data=data))


def _is_older(hello: Hello, current: Hello) -> bool:
    """Whether it was said before what the current link was opened with, by the same run of the same peer."""
    return hello.instance == current.instance and hello.number < current.number
