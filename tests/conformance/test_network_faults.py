"""Each fault of py-libp2p 0.8.1 that the adapter closes: shown with the closing left out (`Closings`), or in libp2p's own
default, and gone with it. When an upgrade makes a test's first half fail, its closing may go."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.keys import KeyPair
from libp2p.custom_types import TProtocol
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from multiaddr import Multiaddr  # type: ignore[import-untyped]
from tests.conformance.network_attacker import (
    attacker,
    knock,
    plain_host,
    run_real,
    seed_of,
    swarm_of,
    with_and_without,
)
from tests.conformance.network_bench import TCP, Node, RealBench
from tests.conformance.test_network import gossip_until_heard

from sudocode_coordination.adapters.identity import Identity
from sudocode_coordination.adapters.libp2p import Libp2pNetwork
from sudocode_coordination.adapters.libp2p_faults import Closings
from sudocode_coordination.adapters.links import LinkLimits
from sudocode_coordination.core.io import DialFailed, Listening, PeerConnected, PeerDisconnected, PeerRefused
from sudocode_coordination.errors import NetworkError

CHILD = Path(__file__).with_name("network_child.py")


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
        running = bench.real(ann)._links.running
        assert running is not None
        running.host.set_stream_handler(TProtocol("/explode/1.0.0"), explode)
        bobs = bench.real(bob)._links.running
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
        running = bench.real(bob)._links.running
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


@pytest.mark.slow
def test_idle_links_stay_up() -> None:
    """The other side of the keepalive: with limits made small, an idle link outlives the silence limit many times."""

    async def test(bench: RealBench) -> None:
        ann, bob = await bench.pair()
        await bench.connect(ann, bob)
        began = trio.current_time()
        await bench.until(lambda: trio.current_time() - began > 8)
        assert [*ann.of(PeerDisconnected), *bob.of(PeerDisconnected)] == []

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
