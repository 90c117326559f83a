"""Relays, circuits and moves with peers that do not behave, and with another implementation."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
from libp2p.custom_types import TProtocol
from libp2p.host.exceptions import StreamFailure
from libp2p.network.stream.exceptions import StreamReset
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, Status, StopMessage
from libp2p.relay.circuit_v2.pb.circuit_pb2 import PeerId as CircuitPeer
from libp2p.relay.circuit_v2.pb.dcutr_pb2 import HolePunch
from libp2p.relay.circuit_v2.protocol import CircuitV2Protocol
from libp2p.relay.circuit_v2.resources import RelayLimits as PlainLimits
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr  # type: ignore[import-untyped]
from tests.conformance.network_attacker import attacker, open_sync_stream, plain_host, read_to_the_end, run_real
from tests.conformance.network_bench import Node, RealBench

from sudocode_coordination.adapters import libp2p_faults
from sudocode_coordination.adapters.libp2p_addresses import parse_circuit
from sudocode_coordination.adapters.libp2p_connections import UNUSED_SECONDS
from sudocode_coordination.adapters.libp2p_links import HELLO_SECONDS
from sudocode_coordination.adapters.libp2p_relay import HOP, STOP, expect
from sudocode_coordination.adapters.libp2p_streams import MAX_MESSAGE_BYTES, hear, say
from sudocode_coordination.adapters.libp2p_upgrades import DCUTR, _usable
from sudocode_coordination.adapters.links import DUPLICATE, MOVE, SYNC_PROTOCOL, Hello, encode_hello, read_hello
from sudocode_coordination.core.io import PeerConnected, PeerDisconnected, RelayAt
from sudocode_coordination.errors import ProtocolError
from sudocode_coordination.sim.identity import SimKeyring

PEER = SimKeyring("ann").peer_id
RELAY = SimKeyring("relay").peer_id


def attacked(attack: Callable[[RealBench, Node, Node, Any], Any]) -> None:
    """A relay, bob who can be reached through it, and mallory, whom both admit. Their link must not feel the attack."""

    async def test(bench: RealBench) -> None:
        relay, bob = await bench.node("relay"), await bench.node("bob")
        mallory = bench.make("mallory")
        relay.admit(bob, mallory)
        bob.admit(relay, mallory)
        bob.use(relay)
        await bench.connect(bob, relay)
        await bench.until(lambda: bob.circuits)
        async with attacker(relay) as (host, _):
            await attack(bench, relay, bob, host)
            await bench.settle()
            assert bob.connected == {relay.peer_id}
            assert not bob.of(PeerDisconnected)
            assert not relay.of(PeerDisconnected)

    run_real(test)


async def stream_of(host: Any, to: Node, protocol: TProtocol) -> Any:
    return await host.new_stream(ID.from_base58(to.peer_id), [protocol])


def peer_bytes(node: Node) -> CircuitPeer:
    return CircuitPeer(id=ID.from_base58(node.peer_id).to_bytes())


def test_what_is_no_message_ends_its_stream() -> None:
    messages = (b"", b"\xff" * 20, b"\x05hello", b"\xff\xff\x03", b"\x00", bytes([MAX_MESSAGE_BYTES & 0x7F | 0x80, 0x7F]))

    async def attack(_: RealBench, relay: Node, __: Node, host: Any) -> None:
        for protocol in (HOP, STOP, DCUTR):
            for data in messages:
                with suppress(Exception):  # it may be reset at any moment
                    stream = await stream_of(host, relay, protocol)
                    await stream.write(data)
                    await stream.close()
                    await read_to_the_end(stream)

    attacked(attack)


def test_a_relay_refuses_what_makes_no_sense() -> None:
    async def attack(_: RealBench, relay: Node, bob: Node, host: Any) -> None:
        me = CircuitPeer(id=host.get_id().to_bytes())
        stranger = CircuitPeer(id=ID.from_base58(RELAY).to_bytes())
        for message, status in (
            (HopMessage(type=HopMessage.STATUS, status=Status.OK), Status.UNEXPECTED_MESSAGE),
            (HopMessage(type=HopMessage.CONNECT, peer=stranger), Status.PERMISSION_DENIED),
            (HopMessage(type=HopMessage.CONNECT, peer=CircuitPeer(id=b"")), Status.PERMISSION_DENIED),
            (HopMessage(type=HopMessage.CONNECT, peer=me), Status.PERMISSION_DENIED),
        ):
            stream = await stream_of(host, relay, HOP)
            await say(stream, message)
            assert (await hear(stream, HopMessage)).status == status
        # Reserving in somebody else's name reserves for the one who asks.
        stream = await stream_of(host, relay, HOP)
        await say(stream, HopMessage(type=HopMessage.RESERVE, peer=peer_bytes(bob)))
        answer = expect(await hear(stream, HopMessage))
        assert answer.limit.data > 0
        assert all(str(Multiaddr(address)).endswith(relay.peer_id) for address in answer.reservation.addrs)

    attacked(attack)


def test_a_circuit_that_says_nothing_of_use_costs_nobody_anything() -> None:
    async def attack(bench: RealBench, relay: Node, bob: Node, host: Any) -> None:
        for data in (b"", b"no noise at all" * 100):
            stream = await stream_of(host, relay, HOP)
            await say(stream, HopMessage(type=HopMessage.CONNECT, peer=peer_bytes(bob)))
            expect(await hear(stream, HopMessage))
            await stream.write(data or b"\x13")
            if data:
                await read_to_the_end(stream)
            await stream.reset()
        assert not [up for up in bob.of(PeerConnected) if up.peer != relay.peer_id]
        await bench.settle()

    attacked(attack)


def test_who_is_no_relay_of_ours_brings_nobody() -> None:
    async def attack(_: RealBench, relay: Node, bob: Node, host: Any) -> None:
        stream = await stream_of(host, relay, STOP)
        await say(stream, StopMessage(type=StopMessage.CONNECT, peer=peer_bytes(bob)))
        assert (await hear(stream, StopMessage)).status == Status.PERMISSION_DENIED

    attacked(attack)


def test_holes_are_punched_from_relayed_connections_alone() -> None:
    async def attack(_: RealBench, relay: Node, __: Node, host: Any) -> None:
        with suppress(StreamReset):  # it may be at any moment
            try:
                stream = await stream_of(host, relay, DCUTR)
            except StreamFailure as failure:  # while it opens, too
                reason: BaseException | None = failure
                while not isinstance(reason, StreamReset):
                    assert reason is not None, "it was not reset, but failed in another way"
                    reason = reason.__cause__
                return
            await say(stream, HolePunch(type=HolePunch.CONNECT, ObsAddrs=[b"\x04\x7f\x00\x00\x01\x06\x00\x01"]))
            with pytest.raises(StreamReset):
                await hear(stream, HolePunch)

    attacked(attack)


def test_nothing_moves_that_is_not_relayed() -> None:
    async def attack(bench: RealBench, relay: Node, __: Node, host: Any) -> None:
        for _ in range(2):  # without a link, and with one
            stream = await stream_of(host, relay, TProtocol(SYNC_PROTOCOL))
            await stream.write(encode_hello(Hello(MOVE, b"attacker", 5)))
            assert (await read_hello(stream)).kind == DUPLICATE
            await open_sync_stream(host, relay, number=9)
            await bench.until(lambda: len([up for up in relay.of(PeerConnected) if up.peer == host.get_id().to_base58()]) == 1)
            if len(relay.connected) == 2:
                return

    attacked(attack)


def test_a_relay_of_another_making_will_do() -> None:
    async def test(bench: RealBench) -> None:
        ann, bob = await bench.pair()
        async with plain_host("relay") as host:
            circuit = CircuitV2Protocol(host, PlainLimits(600, 1 << 24, 8, 8), allow_hop=True)
            async with background_trio_service(circuit):
                await circuit.event_started.wait()
                name = host.get_id().to_base58()
                at = str(host.get_transport_addrs()[0])
                for node in (ann, bob):
                    node._call(lambda node=node: node.network.use_relays((RelayAt(peer=name, addresses=(at,)),)))  # type: ignore[misc]
                    await bench.until(lambda node=node: node.circuits)  # type: ignore[misc]
                ann.dial_through(bob, bob.circuits[0])
                await bench.until(lambda: bob.peer_id in ann.connected and ann.peer_id in bob.connected)
                assert bob.of(PeerConnected)[0].relayed
                ann.send(bob, bytes(100_000))
                await bench.until(lambda: bob.frames() == [bytes(100_000)])
                ann.upgrade(bob)
                await bench.until(lambda: not bench.real(ann)._links.of[bob.peer_id].relayed)
                await bench.settle()
                assert not ann.of(PeerDisconnected)

    run_real(test)


# --- parts --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        f"/ip4/192.0.2.1/tcp/1/p2p/{RELAY}/p2p-circuit",
        f"/ip4/192.0.2.1/tcp/1/ws/p2p/{RELAY}/p2p-circuit/p2p/{PEER}",
        f"/dns4/relay.example/tcp/1/p2p/{RELAY}/p2p-circuit",
    ],
)
def test_a_circuit_address_names_a_relay_and_where_it_is(address: str) -> None:
    found = parse_circuit(address, PEER)
    assert found is not None
    assert found.relay == RELAY
    assert address.startswith(f"{found.at}/p2p/{RELAY}")
    assert found.text == address.removesuffix(f"/p2p/{PEER}")


@pytest.mark.parametrize(
    "address",
    [
        "/ip4/192.0.2.1/tcp/1",
        "/ip4/192.0.2.1/tcp/1/p2p-circuit",
        f"/p2p/{RELAY}/p2p-circuit",
        f"/ip4/192.0.2.1/tcp/1/p2p/{PEER}/p2p-circuit",
        f"/ip4/192.0.2.1/tcp/1/p2p/{RELAY}/p2p-circuit/p2p/{RELAY}",
        f"/ip4/192.0.2.1/udp/1/quic-v1/p2p/{RELAY}/p2p-circuit",
        f"/ip4/192.0.2.1/tcp/1/p2p/{RELAY}/p2p-circuit/p2p-circuit",
        "/ip4/192.0.2.1/tcp/1/p2p/0OIl/p2p-circuit",
    ],
)
def test_what_leads_nowhere_is_no_circuit_address(address: str) -> None:
    assert parse_circuit(address, PEER) is None


def test_addresses_to_punch_towards_are_plain_tcp_and_few() -> None:
    told = ["/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.1/tcp/1/ws", "/ip4/192.0.2.1/udp/1/quic-v1", "/ip4/192.0.2.1/tcp/0"]
    message = HolePunch(type=HolePunch.CONNECT, ObsAddrs=[*(Multiaddr(text).to_bytes() for text in told), b"\xff\xff", b""])
    assert [str(address) for address in _usable(message, PEER)] == ["/ip4/192.0.2.1/tcp/1"]
    many = HolePunch(ObsAddrs=[Multiaddr(f"/ip4/192.0.2.1/tcp/{port}").to_bytes() for port in range(1, 100)])
    assert len(_usable(many, PEER)) == 8


def test_a_refusal_of_a_relay_is_told_in_words() -> None:
    with pytest.raises(ProtocolError, match="not reachable through it"):
        expect(HopMessage(type=HopMessage.STATUS, status=Status.NO_RESERVATION))
    with pytest.raises(ProtocolError, match="something else"):
        expect(HopMessage(type=HopMessage.CONNECT))


def test_a_connection_outlives_a_hello() -> None:
    assert UNUSED_SECONDS > HELLO_SECONDS


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "open"])
def test_the_port_that_is_listened_on_can_be_dialled_from(closed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Holes are punched from there. Fault: TCP and WebSocket on one port listen without SO_REUSEPORT."""
    if not closed:
        monkeypatch.setattr(libp2p_faults, "_ReusingTrio", lambda: trio)

    async def test(bench: RealBench) -> None:
        bench.listen = ("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws")
        ann = await bench.node("ann")
        [port] = {int(address.split("/")[4]) for address in ann.addresses}
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if closed:
                other.bind(("127.0.0.1", port))
            else:
                with pytest.raises(OSError, match="in use"):
                    other.bind(("127.0.0.1", port))

    run_real(test)
