"""Each fault of py-libp2p 0.8.1 that the adapter closes: shown with the closing left out (`Closings`), or in libp2p's own
default, and gone with it. When an upgrade makes a test's first half fail, its closing may go."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.keys import KeyPair
from libp2p.custom_types import TProtocol
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from multiaddr import Multiaddr  # type: ignore[import-untyped]
from tests.conformance.network_bench import TCP, Bench, Node, RealBench, run_on
from tests.conformance.test_network import gossip_until_heard

from sudocode_coordination.adapters import libp2p_faults
from sudocode_coordination.adapters.identity import Identity
from sudocode_coordination.adapters.libp2p import Libp2pNetwork
from sudocode_coordination.adapters.libp2p_faults import Closings
from sudocode_coordination.adapters.links import ACCEPT, OPEN, SYNC_PROTOCOL, Hello, LinkLimits, encode_hello, read_hello
from sudocode_coordination.core.io import DialFailed, Listening, PeerConnected, PeerDisconnected, PeerRefused
from sudocode_coordination.errors import NetworkError

with_and_without = pytest.mark.parametrize("closed", [True, False], ids=["closed", "open"])
CHILD = Path(__file__).with_name("network_child.py")


def seed_of(name: str) -> bytes:
    return name.encode().ljust(32, b".")


def run_real(test: Callable[[RealBench], Any], *, seconds: float = 60.0, **options: Any) -> None:
    async def on_real(bench: Bench) -> None:
        assert isinstance(bench, RealBench)
        await test(bench)

    run_on("tcp", on_real, seconds=seconds, **options)


@asynccontextmanager
async def plain_host(name: str, **options: Any) -> AsyncIterator[Any]:
    """libp2p as it comes, with the identity of that name."""
    libp2p_faults.quiet_modules()
    listen = [Multiaddr(address) for address in options.pop("listen", TCP)]
    host = new_host(key_pair=create_new_key_pair(seed_of(name)), listen_addrs=listen, **options)
    swarm = host.get_network()
    assert isinstance(swarm, Swarm)
    sockets = libp2p_faults.Sockets()  # its own leaks would be taken for ours
    libp2p_faults.gate_peers(swarm, lambda *_: None, sockets)
    try:
        async with host.run(listen_addrs=listen):
            yield host
            with trio.CancelScope(shield=True):
                await host.close()
    finally:
        sockets.close_all()


@asynccontextmanager
async def attacker(victim: Node) -> AsyncIterator[tuple[Any, Any]]:
    """An admitted peer that speaks libp2p, but not as it should: the host, and its connection to the victim."""
    async with plain_host("mallory") as host:
        connection = await host.get_network().dial_addr(Multiaddr(victim.addresses[0]), ID.from_base58(victim.peer_id))
        yield host, connection


async def open_sync_stream(host: Any, victim: Node, number: int = 1) -> Any:
    stream = await host.new_stream(ID.from_base58(victim.peer_id), [TProtocol(SYNC_PROTOCOL)])
    await stream.write(encode_hello(Hello(OPEN, b"attacker", number)))
    assert (await read_hello(stream)).kind == ACCEPT
    return stream


async def knock(host: Any, victim: Node, *, refused: bool) -> None:
    """Dial and open a sync stream, which must fail or not."""
    try:
        await host.get_network().dial_addr(Multiaddr(victim.addresses[0]), ID.from_base58(victim.peer_id))
        await open_sync_stream(host, victim)
    except Exception:  # noqa: BLE001 - it may fail in any way
        assert refused
    else:
        assert not refused


async def read_to_the_end(stream: Any) -> None:
    """Until the other side has reset or closed it."""
    with trio.fail_after(8):
        while True:
            try:
                if not await stream.read(100):
                    return
            except Exception:  # noqa: BLE001 - as above
                return


def swarm_of(bench: RealBench, node: Node) -> Swarm:
    running = bench.real(node)._running
    assert running is not None
    return running.swarm


# --- forged peer ids ----------------------------------------------------------------------------------------------------


@with_and_without
def test_nobody_is_taken_for_another_by_a_public_key_alone(closed: bool) -> None:
    """Fault: /plaintext/2.0.0 is accepted by default."""

    async def test(bench: RealBench) -> None:
        ann = await bench.node("ann")
        bob = bench.make("bob")
        ann.admit(bob)
        victim = create_new_key_pair(seed_of("bob")).public_key

        class NoPrivateKey:
            def get_public_key(self) -> Any:
                return victim

        no_private_key: Any = NoPrivateKey()
        forged = KeyPair(no_private_key, victim)
        security = {TProtocol(PLAINTEXT_PROTOCOL_ID): InsecureTransport(forged)}
        async with plain_host("mallory", sec_opt=security) as mallory:
            await knock(mallory, ann, refused=closed)
        assert [up.peer for up in ann.of(PeerConnected)] == ([] if closed else [bob.peer_id])

    run_real(test, closings=Closings(noise_only=closed))


# --- one stream kills the host ------------------------------------------------------------------------------------------


@with_and_without
def test_bytes_that_are_no_text_end_only_their_stream(closed: bool) -> None:
    """Fault: non-UTF-8 bytes where a protocol's name is due end the host. And: a host that died is started again."""

    async def test(bench: RealBench) -> None:
        ann, bob = await bench.pair()
        mallory = bench.make("mallory")
        ann.admit(bob, mallory)
        await bench.connect(bob, ann)
        async with attacker(ann) as (_, connection):
            stream = await connection.muxed_conn.open_stream()
            await stream.write(b"\x13/multistream/1.0.0\n\x05\xff\xfe\xfd\xfc\n")
            if closed:
                for _ in range(20):
                    await bench.settle()
                assert not ann.of(PeerDisconnected)
            else:
                await bench.until(lambda: ann.of(PeerDisconnected) and len(ann.of(Listening)) == 2)
                assert ann.of(Listening)[0] == ann.of(Listening)[1], "a restarted host is found where it was"
                await bench.until(lambda: not bob.connected)
                await bench.connect(bob, ann)

    run_real(test, closings=Closings(contained_streams=closed))


@with_and_without
def test_a_handler_that_raises_ends_only_its_stream(closed: bool) -> None:
    """Fault: an exception in a stream handler ends the host."""

    async def explode(*_: object) -> None:
        raise RuntimeError("a fault in a handler")

    async def test(bench: RealBench) -> None:
        ann, bob = await bench.pair()
        await bench.connect(bob, ann)
        running = bench.real(ann)._running
        assert running is not None
        running.host.set_stream_handler(TProtocol("/explode/1.0.0"), explode)
        bobs = bench.real(bob)._running
        assert bobs is not None
        with contextlib.suppress(Exception):  # it may end before the name is agreed on
            await bobs.host.new_stream(ID.from_base58(ann.peer_id), [TProtocol("/explode/1.0.0")])
        if closed:
            for _ in range(20):
                await bench.settle()
            assert not ann.of(PeerDisconnected)
        else:
            await bench.until(lambda: ann.of(PeerDisconnected))

    run_real(test, closings=Closings(contained_streams=closed))


# --- inbound refused for good -------------------------------------------------------------------------------------------


@with_and_without
def test_inbound_connections_are_never_used_up(closed: bool) -> None:
    """Fault: tokens of inbound connections are not given back; here there are 18 instead of 250."""

    async def test(bench: RealBench) -> None:
        ann, bob = await bench.pair()
        for number in range(30):
            ann.dial(bob)
            await bench.until(lambda: (bob.peer_id in ann.connected and ann.peer_id in bob.connected) or ann.of(DialFailed))
            if ann.of(DialFailed):
                assert not closed
                assert number == 18
                return
            ann.hang_up(bob)
            await bench.until(lambda: not ann.connected and not bob.connected)
        assert closed

    run_real(test, closings=Closings(inbound_tokens=closed), max_peers=1)


# --- gossip -------------------------------------------------------------------------------------------------------------


@with_and_without
def test_gossip_of_a_restarted_peer_is_heard(closed: bool) -> None:
    """Fault: message ids begin at int(time.time()), so those after a quick restart count as seen for two minutes."""

    async def test(bench: RealBench) -> None:
        ann, bob = await bench.pair()
        await bench.connect(ann, bob)
        await gossip_until_heard(bench, ann, bob)
        for number in range(100):
            ann.network.gossip("sudocode/sync", b"before %d" % number)
            await bench.settle()
        await bench.until(lambda: b"before 99" in bob.gossip("sudocode/sync"))
        await bench.stop(ann)
        await bench.until(lambda: not bob.connected)
        await bench.start(ann)
        ann.admit(bob)
        await bench.connect(ann, bob)
        for number in range(60):
            ann.network.gossip("sudocode/sync", b"after %d" % number)
            await bench.settle()
        heard = sum(data.startswith(b"after") for data in bob.gossip("sudocode/sync"))
        assert (heard > 30) is closed, heard

    run_real(test, closings=Closings(fresh_gossip_ids=closed))


@with_and_without
def test_a_burst_of_gossip_arrives(closed: bool) -> None:
    """Faults: over 10 messages per second and forwarder are dropped; a subscription holds 32."""

    async def test(bench: RealBench) -> None:
        ann, bob = await bench.pair()
        await bench.connect(ann, bob)
        await gossip_until_heard(bench, ann, bob, topic="sudocode/presence")
        await gossip_until_heard(bench, ann, bob)
        for number in range(60):
            ann.network.gossip("sudocode/sync", b"burst %d" % number)

        def heard() -> int:
            return sum(data.startswith(b"burst") for data in bob.gossip("sudocode/sync"))

        if closed:
            await bench.until(lambda: heard() == 60)
        else:
            for _ in range(50):
                await bench.settle()
            assert heard() <= 20

    run_real(test, closings=Closings(gossip_rate=closed))


def test_gossip_of_strangers_and_broken_gossip_is_dropped() -> None:
    """Fault: a message that can't be verified ends pubsub. And: authors that are not admitted are not passed on."""

    async def test(bench: RealBench) -> None:
        ann, bob = await bench.pair()
        cid = await bench.node("cid")
        ann.admit(bob)
        bob.admit(ann, cid)
        cid.admit(ann, bob)
        await bench.connect(ann, bob)
        await bench.connect(bob, cid)
        running = bench.real(bob)._running
        assert running is not None
        await gossip_until_heard(bench, cid, bob)
        await gossip_until_heard(bench, bob, ann)
        assert not [data for data in ann.gossip("sudocode/sync") if data.startswith(b"cid")]
        from libp2p.pubsub.pb import rpc_pb2

        for broken in (
            rpc_pb2.Message(data=b"x", topicIDs=["sudocode/sync"], from_id=b"", seqno=b""),
            rpc_pb2.Message(data=b"x", topicIDs=["sudocode/sync"], from_id=b"\xff" * 40, seqno=b"1", signature=b"s", key=b"\xff"),
        ):
            rpc = rpc_pb2.RPC(publish=[broken])
            queue = running.pubsub.peer_queues[ID.from_base58(ann.peer_id)]
            queue.push(rpc)
        for _ in range(10):
            await bench.settle()
        await gossip_until_heard(bench, ann, bob)
        for node in (ann, bob, cid):
            assert not node.of(PeerDisconnected)

    run_real(test)


# --- kill -9, freeze, silence -------------------------------------------------------------------------------------------


@contextmanager
def child(name: str, *admitted: Node, listen: str = TCP[0]) -> Iterator[tuple[subprocess.Popen[str], tuple[str, ...]]]:
    """A network part in its own process, and its addresses. It must say nothing on stderr."""
    process = subprocess.Popen(
        [sys.executable, str(CHILD), name, listen, *(node.peer_id for node in admitted)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        yield process, tuple(process.stdout.readline().split())
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGCONT)
        try:
            _, errors = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
    assert errors == ""


def test_a_killed_peer_is_noticed_at_once_and_reached_at_its_new_address() -> None:
    async def test(bench: RealBench) -> None:
        ann = await bench.node("ann")
        bob = bench.make("bob")
        ann.admit(bob)
        for _ in range(2):
            with child("bob", ann) as (process, addresses):
                ann.dial(bob, addresses)
                await bench.until(lambda: ann.connected)
                ann.send(bob, b"echo")
                await bench.until(lambda: ann.frames() == [b"echo"])
                began = trio.current_time()
                process.kill()
                await bench.until(lambda: not ann.connected)
                assert trio.current_time() - began < 2
            ann.inputs.clear()

    run_real(test)


def test_a_frozen_peer_is_given_up_and_comes_back() -> None:
    """Fault: by default a stopped peer is never noticed. The open half is a node that never minds silence."""

    async def test(bench: RealBench) -> None:
        ann = await bench.node("ann")
        bench.options["limits"] = LinkLimits(silence=1e9)
        patient = await bench.node("patient")
        bob = bench.make("bob")
        ann.admit(bob)
        patient.admit(bob)
        with child("bob", ann, patient) as (process, addresses):
            ann.dial(bob, addresses)
            patient.dial(bob, addresses)
            await bench.until(lambda: ann.connected and patient.connected)
            process.send_signal(signal.SIGSTOP)
            began = trio.current_time()
            await bench.until(lambda: not ann.connected)
            assert 4 < trio.current_time() - began < 10
            assert "silent" in ann.of(PeerDisconnected)[0].reason
            assert patient.connected
            process.send_signal(signal.SIGCONT)
            began = trio.current_time()
            while not ann.connected:
                ann.dial(bob, addresses)
                await bench.until(lambda: ann.connected or not ann.dialling)
            assert trio.current_time() - began < 3
            ann.send(bob, b"echo")
            await bench.until(lambda: ann.frames() == [b"echo"])

    run_real(test)


def test_idle_links_stay_up() -> None:
    """The other side of the keepalive: with limits made small, an idle link outlives the silence limit many times."""

    async def test(bench: RealBench) -> None:
        ann, bob = await bench.pair()
        await bench.connect(ann, bob)
        began = trio.current_time()
        await bench.until(lambda: trio.current_time() - began > 8)
        assert not ann.of(PeerDisconnected)
        assert not bob.of(PeerDisconnected)

    run_real(test, limits=LinkLimits(keepalive=0.5, silence=3.0))


# --- dialling -----------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_failed_dial_blocks_nobody() -> None:
    """Fault: after a failed dial libp2p refuses to try that peer for 60 s."""

    async def test(bench: RealBench) -> None:
        address = f"/ip4/127.0.0.1/tcp/{free_port()}"
        async with plain_host("cid") as default:
            ann = await bench.node("ann")
            bob = bench.make("bob")
            ann.admit(bob)
            info = PeerInfo(ID.from_base58(bob.peer_id), [Multiaddr(address)])
            ann.dial(bob, (address,))
            await bench.until(lambda: ann.of(DialFailed))
            with pytest.raises(SwarmException):
                await default.connect(info)
            bench.listen = (address,)
            bench.nodes.append(bob)
            await bench.start(bob)
            bob.admit(ann)
            with pytest.raises(SwarmException, match="recently failed"):
                await default.connect(info)
            began = trio.current_time()
            await bench.connect(ann, bob)
            assert trio.current_time() - began < 1

    run_real(test)


def test_all_addresses_are_tried() -> None:
    """Fault: libp2p tries two addresses of a peer, and no loopback one if there are others."""

    async def test(bench: RealBench) -> None:
        ann, bob = await bench.pair()
        dead = tuple(f"/ip4/127.0.0.{number}/tcp/1" for number in range(2, 12))
        silent = socket.socket()
        silent.bind(("127.0.0.1", 0))
        silent.listen(1)
        with silent:
            hanging = f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}"
            began = trio.current_time()
            ann.dial(bob, (hanging, *dead, *bob.addresses))
            await bench.until(lambda: ann.connected)
            assert trio.current_time() - began < 3

    run_real(test)


def test_a_connection_alone_is_no_peer() -> None:
    """Fault: `connect` says that it worked before the peer has said anything. The hello on the sync stream does."""

    async def test(bench: RealBench) -> None:
        ann = await bench.node("ann")
        async with plain_host("mute") as mute, plain_host("cid") as default:
            peer = bench.make("mute")
            ann.admit(peer)
            addresses = tuple(str(address) for address in mute.get_transport_addrs())
            await default.connect(PeerInfo(mute.get_id(), [Multiaddr(address) for address in addresses]))
            ann.dial(peer, addresses)
            await bench.until(lambda: ann.of(DialFailed))
            assert not ann.of(PeerConnected)

    run_real(test)


# --- who may connect ----------------------------------------------------------------------------------------------------


@with_and_without
def test_strangers_get_no_connection(closed: bool) -> None:
    """Fault: the gate of libp2p knows addresses, never a peer id."""

    async def test(bench: RealBench) -> None:
        ann = await bench.node("ann")
        async with plain_host("mallory") as host:
            await knock(host, ann, refused=closed)
            if closed:
                await bench.until(lambda: ann.of(PeerRefused))
                assert ann.of(PeerRefused)[0].peer == host.get_id().to_base58()
                assert swarm_of(bench, ann).get_connections() == []
            assert bool(ann.of(PeerConnected)) is not closed

    run_real(test, closings=Closings(gate=closed))


# --- listening ----------------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_an_error() -> None:
    """Fault: two hosts listen on one port without a word, and each gets some of the connections."""
    address = f"/ip4/127.0.0.1/tcp/{free_port()}"

    async def default() -> None:
        async with plain_host("ann", listen=(address,)), plain_host("bob", listen=(address,)) as second:
            assert [str(found) for found in second.get_transport_addrs()] == [address]

    trio.run(default)

    async def ours() -> None:
        with socket.socket() as taken, trio.fail_after(10):
            taken.bind(("127.0.0.1", int(address.rsplit("/", 1)[1])))
            taken.listen()
            await Libp2pNetwork(Identity(seed_of("ann")), (address,), lambda _: None).run()

    with pytest.raises(NetworkError, match="can't listen") as caught:
        trio.run(ours)
    assert caught.value.hint


@pytest.mark.parametrize("address", ["/ip4/203.0.113.7/tcp/0", "/ip4/203.0.113.7/tcp/4001"])
def test_an_address_of_another_machine_is_an_error(address: str) -> None:
    """Fault: an address that can't be had raises nothing and leaves no address."""

    async def ours() -> None:
        with trio.fail_after(10):
            await Libp2pNetwork(Identity(seed_of("ann")), (address,), lambda _: None).run()

    with pytest.raises(NetworkError, match="can't listen"):
        trio.run(ours)


@pytest.mark.parametrize("address", ["", "garbage", "/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1"])
def test_what_is_no_address_is_an_error(address: str) -> None:
    with pytest.raises(NetworkError) as caught:
        Libp2pNetwork(Identity(seed_of("ann")), (address,), lambda _: None)
    assert caught.value.hint


def test_wildcards_are_announced_as_real_addresses() -> None:
    """Fault: 0.0.0.0 stays literal."""
    wildcards = ("/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/tcp/0/ws")

    async def default() -> None:
        async with plain_host("ann", listen=wildcards) as host:
            assert any("0.0.0.0" in str(address) for address in host.get_addrs())

    trio.run(default)

    async def test(bench: RealBench) -> None:
        bench.listen = wildcards
        ann = await bench.node("ann")
        bench.listen = TCP
        bob = await bench.node("bob")
        ann.admit(bob)
        bob.admit(ann)
        assert not any("/0.0.0.0/" in address for address in ann.addresses)
        loopback = [address for address in ann.addresses if "/127.0.0.1/" in address]
        assert len(loopback) == 2
        assert any(address.endswith("/ws") for address in loopback)
        for address in loopback:
            bob.dial(ann, (address,))
            await bench.until(lambda: ann.connected and bob.connected)
            bob.hang_up(ann)
            await bench.until(lambda: not ann.connected and not bob.connected)

    run_real(test)


def test_announced_addresses_can_be_set() -> None:
    async def test(bench: RealBench) -> None:
        ann = await bench.node("ann")
        assert ann.addresses == ("/dns4/example.org/tcp/4001",)

    run_real(test, announce_addresses=("/dns4/example.org/tcp/4001",))


# --- a hostile peer loses its own connection and no other ---------------------------------------------------------------


def hostile(attack: Callable[[RealBench, Node, Any, Any], Any], **options: Any) -> None:
    """Run an attack of an admitted peer; ann's link to bob must not feel it."""

    async def test(bench: RealBench) -> None:
        ann, bob = await bench.pair()
        mallory = bench.make("mallory")
        ann.admit(bob, mallory)
        await bench.connect(bob, ann)
        async with attacker(ann) as (host, connection):
            await attack(bench, ann, host, connection)
            await bench.settle()
            assert bob.connected
            assert [gone for gone in ann.of(PeerDisconnected) if gone.peer == bob.peer_id] == []

    run_real(test, **options)


def ends_the_link(data: bytes, reason: str, **options: Any) -> None:
    async def attack(bench: RealBench, ann: Node, host: Any, _: Any) -> None:
        stream = await open_sync_stream(host, ann)
        await stream.write(data)
        await bench.until(lambda: ann.of(PeerDisconnected))
        assert reason in ann.of(PeerDisconnected)[0].reason

    hostile(attack, **options)


def test_an_announced_frame_that_is_too_large_ends_the_link() -> None:
    ends_the_link(b"\xff\xff\xff\xff", "allowed")


def test_a_frame_that_never_ends_ends_the_link() -> None:
    ends_the_link(struct.pack(">I", 1_000) + b"slow", "did not arrive", limits=LinkLimits(frame=0.5))


@pytest.mark.parametrize(
    "hello", [b"", b"\x00\x00\x00\x16" + b"garbage-garbage-garbag", b"\xff\xff\xff\xff", b"GET / HTTP/1.1\r\n\r\n"]
)
def test_a_hello_that_is_none_makes_no_link(hello: bytes) -> None:
    async def attack(_: RealBench, ann: Node, host: Any, __: Any) -> None:
        stream = await host.new_stream(ID.from_base58(ann.peer_id), [TProtocol(SYNC_PROTOCOL)])
        await stream.write(hello)
        await read_to_the_end(stream)
        assert not [up for up in ann.of(PeerConnected) if up.peer == host.get_id().to_base58()]

    hostile(attack)


def test_many_streams_and_unknown_protocols_are_reset() -> None:
    async def attack(bench: RealBench, ann: Node, host: Any, connection: Any) -> None:
        for number in range(5):
            with pytest.raises(Exception, match="stream"):
                await host.new_stream(ID.from_base58(ann.peer_id), [TProtocol(f"/unknown/{number}")])
        for _ in range(libp2p_faults.MAX_STREAMS_PER_CONNECTION + 20):
            stream = await connection.muxed_conn.open_stream()
            await stream.write(b"\x13/multistream/1.0.0\n")
        for _ in range(5):
            await bench.settle()

    hostile(attack)


@with_and_without
def test_a_frame_of_gigabytes_is_not_waited_for(closed: bool) -> None:
    """Fault: Yamux reads what a header announces into memory, up to 4 GB, for as long as it takes."""

    async def attack(bench: RealBench, ann: Node, _: Any, connection: Any) -> None:
        def connections() -> int:
            return len(swarm_of(bench, ann).get_connections(connection.swarm.self_id))

        assert connections() == 1
        await connection.muxed_conn._write_frame(struct.pack("!BBHII", 0, 0, 0, 1, 3 << 30))
        if closed:
            await bench.until(lambda: not connections())
        else:
            await connection.muxed_conn._write_frame(bytes(10_000))
            for _ in range(20):
                await bench.settle()
            assert connections() == 1

    hostile(attack, closings=Closings(bounded_buffers=closed))


def test_a_peer_that_ignores_windows_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault: Yamux only logs that more comes than its window allows, and keeps it."""
    monkeypatch.setattr(libp2p_faults, "MAX_BUFFERED_BYTES", 1 << 20)

    async def attack(bench: RealBench, ann: Node, host: Any, connection: Any) -> None:
        stream = await connection.muxed_conn.open_stream()
        frame = struct.pack("!BBHII", 0, 0, 0, stream.stream_id, 60_000) + b"\x7f" * 60_000
        handled = trio.current_time()
        with contextlib.suppress(Exception):
            while trio.current_time() - handled < 10:
                await connection.muxed_conn._write_frame(frame)
        await bench.until(lambda: not swarm_of(bench, ann).get_connections(host.get_id()))
        assert trio.current_time() - handled < 10

    hostile(attack)


def test_connections_without_a_sync_stream_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    from sudocode_coordination.adapters import libp2p as adapter

    monkeypatch.setattr(adapter, "_UNUSED_CONNECTION_SECONDS", 1.0)

    async def attack(bench: RealBench, ann: Node, host: Any, _: Any) -> None:
        assert swarm_of(bench, ann).get_connections(host.get_id())
        await bench.until(lambda: not swarm_of(bench, ann).get_connections(host.get_id()))

    hostile(attack)


# --- quiet, and clean ---------------------------------------------------------------------------------------------------


def test_importing_and_running_configures_no_logging() -> None:
    """Faults: libp2p logs through the root logger, which installs a stderr handler; it has no handler of its own."""
    program = (
        "import logging, sys, trio\n"
        "from sudocode_coordination.adapters.identity import generate_identity\n"
        "from sudocode_coordination.adapters.libp2p import Libp2pNetwork\n"
        "async def main():\n"
        "    one = Libp2pNetwork(generate_identity(), ('/ip4/127.0.0.1/tcp/0',), seen.append)\n"
        "    with trio.move_on_after(1):\n"
        "        async with trio.open_nursery() as nursery:\n"
        "            nursery.start_soon(one.run)\n"
        "            while not seen: await trio.sleep(0.01)\n"
        "            other = generate_identity().peer_id\n"
        "            one.admit((other,))\n"
        "            one.dial(other, seen[0].addresses + ('/ip4/127.0.0.1/tcp/1', '/ip4/127.0.0.1/tcp/1/ws'))\n"
        "            while len(seen) < 2: await trio.sleep(0.01)\n"
        "seen = []\n"
        "trio.run(main)\n"
        "assert len(seen) == 2, seen\n"
        "assert not logging.getLogger().handlers\n"
    )
    environment = dict(os.environ, HTTP_PROXY="http://127.0.0.1:9", http_proxy="http://127.0.0.1:9")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_end_is_clean_whenever_it_comes() -> None:
    """Cancelled at every moment of a start, a dial and a transfer, nothing but the cancellation comes out."""
    for milliseconds in (0, 1, 2, 4, 8, 12, 16, 24, 32, 48):

        async def main(milliseconds: int = milliseconds) -> None:
            seen: dict[str, list[Any]] = {"ann": [], "bob": []}
            nodes = {name: Libp2pNetwork(Identity(seed_of(name)), TCP, seen[name].append) for name in seen}

            async def act() -> None:
                while not seen["ann"] or not seen["bob"]:
                    await trio.sleep(0)
                nodes["ann"].admit((nodes["bob"].peer_id,))
                nodes["bob"].admit((nodes["ann"].peer_id,))
                nodes["ann"].dial(nodes["bob"].peer_id, seen["bob"][0].addresses)
                while len(seen["ann"]) < 2:
                    await trio.sleep(0)
                for _ in range(10):
                    nodes["ann"].send(nodes["bob"].peer_id, bytes(500_000))

            with trio.fail_after(20), trio.move_on_after(milliseconds / 1_000):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(nodes["ann"].run)
                    nursery.start_soon(nodes["bob"].run)
                    nursery.start_soon(act)

        began = time.monotonic()
        trio.run(main)
        assert time.monotonic() - began < 10
