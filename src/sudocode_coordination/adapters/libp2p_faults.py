"""A libp2p host with the faults of py-libp2p 0.8.1 closed. Each closing says which fault it answers.

`tests/conformance/test_network_faults.py` shows each fault, so that an upgrade of libp2p shows what may go.
"""

from __future__ import annotations

import functools
import logging
import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import trio
from libp2p import new_host
from libp2p.abc import IHost, INetStream, IRawConnection, ISecureConn
from libp2p.connection_types import ConnectionType
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection import swarm_connection
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.pubsub import pubsub as pubsub_module
from libp2p.pubsub.gossipsub import PROTOCOL_ID as GOSSIPSUB_V10
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11 as GOSSIPSUB_V11
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.rpc_queue import RpcQueue
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_PROTOCOL
from libp2p.transport import cmux
from libp2p.transport.exceptions import SecurityUpgradeFailure
from libp2p.transport.tcp import tcp
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.websocket import proxy_env
from libp2p.transport.websocket.connection import P2PWebSocketConnection
from libp2p.transport.websocket.transport import WebsocketTransport
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from sudocode_coordination.adapters.libp2p_swift import SwiftYamux, use_swift_yamux
from sudocode_coordination.core.conduct import Bucket
from sudocode_coordination.model import PeerId

log = logging.getLogger(__name__)
_Key = TypeVar("_Key")

MAX_GOSSIP_BYTES: Final = 192 << 10
"""One gossip message: an envelope of 64 KB, signed twice, with room; larger things go by stream."""
MAX_GOSSIP_RPC_BYTES: Final = 1 << 20
"""Several messages in one RPC of gossipsub."""
GOSSIP_PER_SECOND: Final = 200
"""Messages per second, forwarder and topic. A forwarder passes on what a whole swarm of 200 says."""
GOSSIP_PER_AUTHOR: Final = 40
"""Messages a second by one author, for long: twice what a flush each 50 ms makes. More are neither taken nor passed on."""
GOSSIP_AUTHOR_BURST: Final = 400
"""At once."""
GOSSIP_PER_FORWARDER: Final = 1_000
"""Messages a second on both topics that one peer hands us, for long, copies too. A swarm of 200 speaks through several
forwarders, each of whom drops what authors say above their limit; one who passes on more is dropped."""
GOSSIP_FORWARDER_BURST: Final = 5_000
"""At once: what waits for us while this machine sleeps is bounded by its queues (`_MAX_GOSSIP_QUEUE_PER_PEER`)."""
MAX_AUTHORS: Final = 1_024
"""Authors whose messages are counted; more than are admitted."""
STREAMS_PER_SECOND: Final = 5
"""Opened by one peer on a connection, for long; each costs a negotiation, 8 ms of CPU …"""
STREAMS_BURST: Final = 128
"""… and at once: twice what may be open, for one who closes and opens all of them anew."""
MAX_STREAMS_PER_CONNECTION: Final = 64
"""Open at once by one peer: sync, gossip, ping and identify need four."""
MAX_CONNECTIONS_PER_PEER: Final = 4
"""One is used; more exist only while both dial at once, or before a dead one is noticed."""
MAX_PENDING_HANDSHAKES: Final = 128
"""Inbound connections that have not yet shown who they are; each costs a socket and about 1 ms of CPU."""
MAX_PENDING_PER_HOST: Final = 32
"""Of those, from one network address: whoever opens connections there and says nothing must not keep out all others for the ten
seconds that each may take. A swarm behind one address shakes hands in milliseconds, and tries again."""
_MAX_GOSSIP_QUEUE_PER_PEER: Final = 256
"""Messages that wait to be written to one peer: as many as may wait to be published."""
_INBOUND_TOKENS: Final = 1 << 30
_HANDSHAKE_SECONDS: Final = 10.0
_GOODBYE_SECONDS: Final = 1.0
"""For the other side of a WebSocket to answer that it is closed."""
_close_websocket: Final = P2PWebSocketConnection.close


@dataclass(frozen=True, slots=True)
class Closings:
    """Which faults are closed. All of them, but in tests that show one."""

    noise_only: bool = True
    contained_streams: bool = True
    inbound_tokens: bool = True
    fresh_gossip_ids: bool = True
    gossip_rate: bool = True
    quiet_mesh: bool = True
    gate: bool = True


ALL_CLOSED: Final = Closings()


def quiet_modules() -> None:
    """Fault: libp2p's loggers have no handler, so that Python prints their warnings to stderr; and one module logs
    through the root logger, whose module functions install a stderr handler for the whole process."""
    logger = logging.getLogger("libp2p")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    # Fault: WebSocket dials go through the proxy that the environment names for HTTP, and print that on stdout.
    proxy_env.get_proxy_from_environment = _no_proxy
    # Fault: the port that TCP and WebSocket share is listened on without SO_REUSEPORT, so that nothing can be dialled from it.
    cmux.trio = _ReusingTrio()  # type: ignore[attr-defined,assignment]
    P2PWebSocketConnection.close = _close_soon  # type: ignore[method-assign,assignment]
    swarm_connection.logging = logging.getLogger(swarm_connection.__name__)  # type: ignore[attr-defined,assignment]


async def _close_soon(connection: P2PWebSocketConnection) -> None:
    """Fault: closing a WebSocket waits for the other side's word, or for a reader that has been cancelled, without a limit; and
    the swarm shields it. A daemon that stopped while somebody came in this way never ended."""
    with trio.move_on_after(_GOODBYE_SECONDS):
        await _close_websocket(connection)


class _ReusingTrio:
    """Trio for `cmux`, but for one function."""

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)

    @staticmethod
    async def serve_tcp(handler: Any, port: int, *, host: str | None = None, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        listeners = await tcp._open_reuseport_listeners(host, port)
        await trio.serve_listeners(handler, listeners, task_status=task_status)


def _no_proxy(url: str) -> str | None:  # noqa: ARG001 - the name is part of what it replaces
    return None


def make_host(
    seed: bytes,
    listen: Iterable[Multiaddr],
    *,
    max_connections: int,
    announce: Iterable[Multiaddr] = (),
    closings: Closings = ALL_CLOSED,
) -> tuple[IHost, Swarm]:
    """A host for TCP and WebSocket, Noise and Yamux, not running yet. `announce`: all that it tells of its addresses to peers that
    ask (identify), if any are given."""
    pair = create_new_key_pair(seed)
    # Fault: by default hosts also accept /plaintext/2.0.0 and secio, where a peer id can be forged with a public key alone.
    security: dict[TProtocol, Any] | None = None
    if closings.noise_only:
        noise = NoiseTransport(pair, noise_privkey=create_new_x25519_key_pair().private_key)
        security = {NOISE_PROTOCOL: noise}
    addresses = list(listen)
    use_swift_yamux()
    host = new_host(
        key_pair=pair,
        sec_opt=security,
        # Fault: mplex, the default's second choice, resets streams under pipelining.
        muxer_opt={TProtocol(YAMUX_PROTOCOL): SwiftYamux},
        listen_addrs=addresses,
        announce_addrs=list(announce) or None,
        disable_identify_address_discovery=True,
        connection_config=ConnectionConfig(
            min_connections=0,
            low_watermark=0,
            high_watermark=max_connections,
            max_connections=max_connections,
            max_connections_per_peer=MAX_CONNECTIONS_PER_PEER,
            inbound_upgrade_timeout=_HANDSHAKE_SECONDS,
            outbound_upgrade_timeout=_HANDSHAKE_SECONDS,
            # A dead peer is found by the keepalive on the sync stream (`links.py`): the health monitor asks one
            # connection after the other and opens a stream for each question, 8 ms of CPU.
            enable_health_monitoring=False,
        ),
    )
    swarm = host.get_network()
    assert isinstance(swarm, Swarm)
    for transport in (TCP(), WebsocketTransport(swarm.upgrader)):
        if not any(isinstance(known, type(transport)) for known in swarm.transport_manager.get_transports()):
            swarm.transport_manager.add_transport(transport)  # to dial with, where it is not listened on
    for known in swarm.transport_manager.get_transports():
        if isinstance(known, WebsocketTransport):
            _forget_dialled(known)
    swarm.retry_config = RetryConfig(max_retries=0)
    _disable_auto_connector(swarm)
    # The default manager's limits count per process lifetime and rate; ours are below and in `Libp2pNetwork`.
    swarm.set_resource_manager(None)
    # Fault: tokens of inbound connections are never given back; after 250 of them, ever, none is accepted.
    if closings.inbound_tokens:
        swarm._inbound_limiter.total_tokens = _INBOUND_TOKENS
    return host, swarm


def _forget_dialled(transport: WebsocketTransport) -> None:
    """Fault: the WebSocket transport counts and keeps every connection it ever dialled; past a limit it dials no more."""

    async def nothing(_: object) -> None:
        await trio.lowlevel.checkpoint()

    patched: Any = transport
    patched._track_connection = nothing


def _disable_auto_connector(swarm: Swarm) -> None:
    """Fault: even with watermarks of 0 it dials whoever it has heard of, up to half of the most there may be."""

    async def nothing(*_: object) -> None:
        await trio.lowlevel.checkpoint()

    connector: Any = swarm.auto_connector
    connector.maybe_connect = nothing
    connector.run_background_task = nothing


def drop_notifees(swarm: Swarm) -> None:
    """Fault: identify and pubsub open their streams on any connection at once, also on one of two that is about to be
    closed. The adapter starts gossip when the sync stream is up, and identifies nobody: the roster knows more."""
    swarm.notifees.clear()


async def close_listeners(swarm: Swarm) -> None:
    """Fault: a host that dies leaves its listeners open, in tasks of their own; with SO_REUSEPORT they go on taking half
    of the connections that are meant for its successor."""
    for close in (*(listener.close for listener in list(swarm.listeners.values())), swarm.transport_manager.close_all):
        try:
            with trio.CancelScope(deadline=trio.current_time() + 2, shield=True):
                await close()
        except Exception as error:  # noqa: BLE001 - the host is gone already; the others must be closed all the same
            log.debug("closing a listener: %r", error)


OnFlood = Callable[[PeerId, str], None]
"""(peer, reason): it does too much of something, and is to be dropped."""
Verdict = Callable[[PeerId, bool, str], str | None]
"""(peer, inbound, remote address) -> why it is refused."""


def gate_peers(
    swarm: Swarm, verdict: Verdict, sockets: Sockets, on_flood: OnFlood | None = None, *, closings: Closings = ALL_CLOSED
) -> None:
    """Fault: the connection gate knows addresses, never a peer id. Refuse right after Noise, before there is a muxer.
    `on_flood` is told of peers that wear out the muxer."""
    upgrader: Any = swarm.upgrader
    secure: Callable[..., Awaitable[ISecureConn]] = upgrader.upgrade_security
    pending: Counter[str] = Counter()

    async def shake_hands(raw: IRawConnection, peer_id: ID | None) -> ISecureConn:
        host = remote_address(raw).split("/tcp/")[0]
        if pending.total() >= MAX_PENDING_HANDSHAKES or pending[host] >= MAX_PENDING_PER_HOST:
            raise SecurityUpgradeFailure("too many handshakes at once")
        pending[host] += 1
        try:
            return await secure(raw, False, peer_id)
        finally:
            pending[host] -= 1
            if not pending[host]:
                del pending[host]

    async def upgrade_security(raw: IRawConnection, is_initiator: bool, peer_id: ID | None = None) -> ISecureConn:
        secured = await secure(raw, True, peer_id) if is_initiator else await shake_hands(raw, peer_id)
        sockets.watch(raw, secured)
        peer = secured.get_remote_peer()
        reason = verdict(peer.to_base58(), not is_initiator, remote_address(raw)) if closings.gate else None
        alive = [connection for connection in swarm.get_connections(peer) if not connection.is_closed]
        if reason is None and len(alive) >= MAX_CONNECTIONS_PER_PEER:
            reason = "too many connections of that peer"
        if reason is not None:
            await secured.close()
            raise SecurityUpgradeFailure(reason)
        watched: Any = secured
        watched._on_flood = on_flood
        return secured

    upgrader.upgrade_security = upgrade_security


def contain_streams(
    swarm: Swarm, may_open: Callable[[PeerId], bool], on_flood: OnFlood, *, closings: Closings = ALL_CLOSED
) -> None:
    """Fault: an exception of any stream handler, or bytes that are not UTF-8 where a protocol's name is due, ends the
    whole host. Here it ends the stream; and peers that may not open streams, or open too many, have none."""
    if not closings.contained_streams:
        return
    handle = swarm.common_stream_handler
    open_streams: Counter[int] = Counter()

    async def contained(stream: INetStream) -> None:
        connection = id(stream.muxed_conn)
        muxed: Any = stream.muxed_conn
        peer = muxed.peer_id.to_base58()
        opened: Bucket | None = getattr(muxed, "_streams_opened", None)
        if opened is None:
            opened = muxed._streams_opened = Bucket(STREAMS_PER_SECOND, STREAMS_BURST, trio.current_time())
        if not may_open(peer) or open_streams[connection] >= MAX_STREAMS_PER_CONNECTION:
            await stream.reset()
            return
        if not opened.take(1, trio.current_time()):
            on_flood(peer, f"opens too many streams: over {STREAMS_PER_SECOND} a second")
            await stream.reset()
            return
        open_streams[connection] += 1
        try:
            await handle(stream)
        except Exception as error:  # noqa: BLE001 - whatever a peer provokes ends its stream and nothing else
            log.debug("stream of %s ended: %r", stream.muxed_conn.peer_id, error)
            with trio.CancelScope(deadline=trio.current_time() + 1, shield=True):
                await stream.reset()
        finally:
            open_streams[connection] -= 1
            if not open_streams[connection]:
                del open_streams[connection]

    swarm.set_stream_handler(contained)


def make_pubsub(
    host: IHost,
    topics: Iterable[str],
    *,
    accepts: Callable[[PeerId, int], bool],
    on_message: Callable[[str, bytes], None],
    on_flood: OnFlood,
    closings: Closings = ALL_CLOSED,
) -> tuple[Pubsub, GossipSub]:
    """Gossipsub for these topics. `accepts(author, size)` decides what is taken and passed on."""
    router = GossipSub(
        # v1.0 and v1.1 are what JavaScript speaks too; later ones add only extensions that are not used.
        protocols=[GOSSIPSUB_V11, GOSSIPSUB_V10],
        # Every copy of a message costs about 2 ms of CPU to receive: a small mesh.
        degree=4,
        degree_low=2,
        degree_high=6,
        heartbeat_interval=2,
        # Peers reconnect within seconds; a mesh that shuns them for a minute loses their gossip.
        prune_back_off=5,
        unsubscribe_back_off=2,
        # Fault: over 10 messages per second, forwarder and topic are dropped, silently.
        max_messages_per_topic_per_second=GOSSIP_PER_SECOND if closings.gossip_rate else 10.0,
        # All peers of a swarm may sit behind one address: diversity of addresses is no protection here, admission is.
        eclipse_protection_enabled=False,
        adaptive_gossip_enabled=False,
    )
    # Fault: scores make it graft, prune and replace neighbours at every heartbeat for ever. Who may take part is decided elsewhere.
    if closings.quiet_mesh:
        router.scorer = None
    # Fault: with adaptation off this list grows with every message, read by nobody.
    patched_router: Any = router
    patched_router.recent_message_deliveries = defaultdict(lambda: deque(maxlen=1))
    # Fault: every heartbeat chooses whom to tell of messages, from all peers, also where there are none to tell of.
    tell = router.gossip_heartbeat

    def tell_if_any() -> defaultdict[ID, dict[str, list[bytes]]]:
        return tell() if any(router.mcache.history[: router.mcache.window_size]) else defaultdict(dict)

    patched_router.gossip_heartbeat = tell_if_any
    # Fault: a peer's outbound queue holds 32 messages, and a burst of more is dropped.
    queue_module: Any = pubsub_module
    queue_module.RpcQueue = functools.partial(RpcQueue, max_size=_MAX_GOSSIP_QUEUE_PER_PEER)
    known = frozenset(topics)
    pubsub = Pubsub(host, router, allowed_topics=known, max_inbound_rpc_size=MAX_GOSSIP_RPC_BYTES)
    # Fault: message ids begin at int(time.time()), so that those of a node restarted with the same key count as seen.
    if closings.fresh_gossip_ids:
        pubsub.counter = time.time_ns()
    own_id = host.get_id().to_bytes()

    authors: dict[bytes, Bucket] = {}
    forwarders: dict[ID, Bucket] = {}

    def valid(_: ID, message: rpc_pb2.Message) -> bool:
        if not accepts(ID(message.from_id).to_base58(), len(message.data)):
            return False
        if message.from_id == own_id:
            return True  # what is published here is judged, too, and a refusal raised
        # Not the author's fault for sure: old messages of it can be sent again by others.
        said = _bucket_of(authors, message.from_id, GOSSIP_PER_AUTHOR, GOSSIP_AUTHOR_BURST)
        return said.take(1, trio.current_time())

    for topic in known:
        pubsub.set_topic_validator(topic, valid, is_async_validator=False)

    def notify(message: rpc_pb2.Message) -> None:
        # Fault: a subscription's queue holds 32 messages, and one RPC may bring more. Hand them on at once instead.
        if message.from_id != own_id:
            for name in message.topicIDs:
                if name in known:
                    on_message(name, message.data)

    push = pubsub.push_msg

    async def contained_push(forwarder: ID, message: rpc_pb2.Message) -> None:
        # Fault: each message is a task of the pubsub service; one that can't be parsed or verified ends the service.
        if forwarder.to_bytes() != own_id:
            handed = _bucket_of(forwarders, forwarder, GOSSIP_PER_FORWARDER, GOSSIP_FORWARDER_BURST)
            if not handed.take(1, trio.current_time()):
                on_flood(forwarder.to_base58(), f"sends too much gossip: over {GOSSIP_PER_FORWARDER} messages a second")
                return
        try:
            await push(forwarder, message)
        except Exception as error:  # noqa: BLE001 - see above
            log.debug("gossip passed on by %s was not usable: %r", forwarder, error)

    patched: Any = pubsub
    patched.notify_subscriptions = notify
    patched.push_msg = contained_push
    return pubsub, router


def _bucket_of(buckets: dict[_Key, Bucket], key: _Key, rate: float, burst: float) -> Bucket:
    found = buckets.get(key)
    if found is None:
        if len(buckets) >= MAX_AUTHORS:
            del buckets[next(iter(buckets))]
        found = buckets[key] = Bucket(rate, burst, trio.current_time())
    return found


def _socket_of(connection: Any) -> trio.socket.SocketType | None:
    """The socket under a raw connection: TCP, shared port or WebSocket wrap it differently."""
    layer = connection
    for _ in range(8):
        found: trio.socket.SocketType | None = getattr(layer, "socket", None)
        if found is not None:
            return found
        layer = next(
            (inner for name in ("stream", "_ws_connection", "_stream") if (inner := getattr(layer, name, None)) is not None), None
        )
    return None


def remote_address(connection: Any) -> str:
    """Multiaddr of a raw connection's other end; empty if unknown. libp2p itself knows none for IPv6 and WebSocket."""
    if _goes_through_relay(connection):
        return str(connection.get_transport_addresses()[0])
    endpoint = connection.get_remote_address()
    if endpoint is None:
        found = _socket_of(connection)
        try:
            endpoint = found.getpeername()[:2] if found is not None else None
        except OSError:
            endpoint = None
    if endpoint is None:
        return ""
    host, port = endpoint
    return f"/{'ip6' if ':' in host else 'ip4'}/{host}/tcp/{port}"


def connection_address(connection: Any) -> str:
    """Multiaddr of the other end of a connection that `gate_peers` let through."""
    return str(connection.muxed_conn.secured_conn._remote_address)


def _goes_through_relay(raw: Any) -> bool:
    return isinstance(raw, RawConnection) and raw.get_connection_type() == ConnectionType.RELAYED


def is_relayed(connection: Any) -> bool:
    """Whether a connection that `gate_peers` let through goes through a relay. Fault: libp2p knows that of outbound ones alone."""
    return bool(connection.muxed_conn.secured_conn._relayed)


class Sockets:
    """Fault: a connection that is closed while its host stops, or over WebSocket while its peer is gone, leaves its socket
    open. Every connection's is known here, and closed with it."""

    def __init__(self) -> None:
        self._open: dict[int, trio.socket.SocketType] = {}

    def watch(self, raw: Any, secured: Any) -> None:
        """A new connection."""
        secured._remote_address = remote_address(raw)
        secured._relayed = _goes_through_relay(raw)
        found = None if secured._relayed else _socket_of(raw)
        if found is not None:
            self._open = {number: known for number, known in self._open.items() if known.fileno() >= 0}
            self._open[id(found)] = found
            secured._watched_socket = found

    def close(self, connection: Any) -> None:
        """For good, whatever libp2p did."""
        found = getattr(connection.muxed_conn.secured_conn, "_watched_socket", None)
        if found is not None:
            self._open.pop(id(found), None)
            found.close()

    def close_all(self) -> None:
        """At the end of a host."""
        for found in self._open.values():
            found.close()
        self._open.clear()
