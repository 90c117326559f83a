"""The laws of `ports.Network` where a relay is between two peers, and on the way from there to a direct connection."""

from __future__ import annotations

import random
from typing import Any

import pytest
from libp2p.peer.id import ID
from multiaddr import Multiaddr  # type: ignore[import-untyped]
from tests.conformance.network_attacker import swarm_of
from tests.conformance.network_bench import Bench, Node, RealBench, SimBench, run_on
from tests.conformance.test_network import gossip_until_heard

from sudocode_coordination.adapters import libp2p_circuits, libp2p_links, libp2p_upgrades
from sudocode_coordination.adapters.libp2p_faults import is_relayed
from sudocode_coordination.adapters.libp2p_relay import RelayLimits
from sudocode_coordination.adapters.libp2p_streams import say
from sudocode_coordination.core.io import (
    DialFailed,
    Listening,
    PeerConnected,
    PeerDisconnected,
    PeerMoved,
    PeerRefused,
    RelayAt,
    UpgradeFailed,
)
from sudocode_coordination.core.wire import MAX_FRAME_BYTES
from sudocode_coordination.sim.wires import SimNetworkWorld

everywhere = pytest.mark.parametrize("kind", ["sim", "tcp", pytest.param("ws", marks=pytest.mark.slow)])


async def three(bench: Bench) -> tuple[Node, Node, Node]:
    """Two, and a relay through which the second can be reached; all admit each other."""
    ann, bob, relay = [await bench.node(name) for name in ("ann", "bob", "relay")]
    for node in (ann, bob, relay):
        node.admit(*(other for other in (ann, bob, relay) if other is not node))
    bob.use(relay)
    await bench.until(lambda: bob.circuits)
    assert bob.circuits[0].endswith(f"/p2p/{relay.peer_id}/p2p-circuit")
    return ann, bob, relay


async def relayed(bench: Bench) -> tuple[Node, Node, Node]:
    """The same, with the two connected through the relay."""
    ann, bob, relay = await three(bench)
    ann.dial_through(bob, bob.circuits[0])
    await bench.until(lambda: bob.peer_id in ann.connected and ann.peer_id in bob.connected)
    return ann, bob, relay


@everywhere
def test_a_relay_connects_two(kind: str) -> None:
    async def test(bench: Bench) -> None:
        ann, bob, relay = await relayed(bench)
        for node in (ann, bob):
            [up] = node.of(PeerConnected)
            assert up.relayed
            assert relay.peer_id in up.address
            assert "/p2p-circuit" in up.address
        large = random.Random(1).randbytes(MAX_FRAME_BYTES)
        ann.send(bob, b"before", large, b"after")
        bob.send(ann, large)
        await bench.until(lambda: len(bob.frames()) == 3 and ann.frames())
        assert bob.frames() == [b"before", large, b"after"]
        assert ann.frames() == [large]
        assert not relay.frames(), "it sees none of them"
        ann.hang_up(bob)
        await bench.until(lambda: not bob.connected)

    run_on(kind, test)


@everywhere
def test_a_direct_address_goes_before_a_relay(kind: str) -> None:
    async def test(bench: Bench) -> None:
        ann, bob, _ = await three(bench)
        direct = tuple(address for address in bob.addresses if address not in bob.circuits)
        ann.dialling[bob.peer_id] += 1
        ann._call(lambda: ann.network.dial(bob.peer_id, direct, bob.circuits, 10_000))
        await bench.until(lambda: bob.peer_id in ann.connected and ann.peer_id in bob.connected)
        assert not ann.of(PeerConnected)[0].relayed

    run_on(kind, test)


@everywhere
def test_a_peer_that_has_not_agreed_with_the_relay_is_not_reached(kind: str) -> None:
    async def test(bench: Bench) -> None:
        ann, bob, relay = [await bench.node(name) for name in ("ann", "bob", "relay")]
        for node in (ann, bob, relay):
            node.admit(*(other for other in (ann, bob, relay) if other is not node))
        await bench.connect(bob, relay)
        ann.dial_through(bob, f"{relay.addresses[0]}/p2p/{relay.peer_id}/p2p-circuit")
        await bench.until(lambda: ann.of(DialFailed))
        assert ann.of(DialFailed)[0].peer == bob.peer_id
        assert not bob.of(PeerRefused)

    run_on(kind, test)


@everywhere
def test_who_is_no_relay_relays_nothing(kind: str) -> None:
    async def test(bench: Bench) -> None:
        ann, bob, cid = [await bench.node(name) for name in ("ann", "bob", "cid")]
        for node in (ann, bob, cid):
            node.admit(*(other for other in (ann, bob, cid) if other is not node))
        bob.use(cid)
        await bench.connect(bob, cid)
        await bench.connect(ann, cid)
        await bench.settle()
        ann.dial_through(bob, f"{cid.addresses[0]}/p2p/{cid.peer_id}/p2p-circuit")
        await bench.until(lambda: ann.of(DialFailed))
        assert not bob.circuits

    run_on(kind, test)


@everywhere
@pytest.mark.parametrize("who", ["the relay", "the target"])
def test_strangers_do_not_get_through(kind: str, who: str) -> None:
    async def test(bench: Bench) -> None:
        ann, bob, relay = await three(bench)
        (relay if who == "the relay" else bob).admit(*([bob] if who == "the relay" else [relay]))
        ann.dial_through(bob, bob.circuits[0])
        await bench.until(lambda: ann.of(DialFailed))
        assert not bob.of(PeerConnected)
        if kind != "sim" and who == "the target":
            await bench.until(lambda: bob.of(PeerRefused))

    run_on(kind, test)


@everywhere
@pytest.mark.parametrize("leader", ["who dialled", "who was dialled", "both"])
def test_it_moves_to_a_direct_connection_without_losing_a_frame(kind: str, leader: str) -> None:
    async def test(bench: Bench) -> None:
        ann, bob, relay = await relayed(bench)
        dice = random.Random(3)
        there = [dice.randbytes(dice.choice((1, 400, 30_000, 200_000))) for _ in range(120)]
        back = [dice.randbytes(dice.choice((1, 400, 30_000, 200_000))) for _ in range(120)]
        for index in range(0, 120, 30):
            ann.send(bob, *there[index : index + 30])
            bob.send(ann, *back[index : index + 30])
            if index == 30:
                if leader in ("who dialled", "both"):
                    ann.upgrade(bob)
                if leader in ("who was dialled", "both"):
                    bob.upgrade(ann)
            await bench.until(lambda index=index: len(bob.frames()) > index and len(ann.frames()) > index)  # type: ignore[misc]
        await bench.until(lambda: ann.of(PeerMoved) and bob.of(PeerMoved))
        await bench.until(lambda: len(bob.frames()) == 120 and len(ann.frames()) == 120)
        assert bob.frames() == there
        assert ann.frames() == back
        for node in (ann, bob):
            assert len(node.of(PeerMoved)) == 1
            assert not node.of(PeerDisconnected)
        await bench.stop(relay)
        await bench.settle()
        assert bob.peer_id in ann.connected, "the relay is of no use to them any more"
        assert not ann.of(PeerDisconnected)

    run_on(kind, test)


@everywhere
def test_where_there_is_no_direct_way_it_stays_relayed(kind: str) -> None:
    async def test(bench: Bench) -> None:
        ann, bob, _ = await relayed(bench)
        if kind == "sim":
            assert isinstance(bench, SimBench)
            assert isinstance(bench.world, SimNetworkWorld)
            bench.world.cut(ann.peer_id, bob.peer_id)
        ann.upgrade(bob, ("/ip4/127.0.0.1/tcp/1",))
        await bench.until(lambda: ann.of(UpgradeFailed))
        await bench.settle()
        assert not ann.of(PeerMoved)
        assert bob.peer_id in ann.connected

    run_on(kind, test)


@everywhere
def test_what_is_not_relayed_is_not_upgraded(kind: str) -> None:
    async def test(bench: Bench) -> None:
        ann, bob = await bench.pair()
        ann.upgrade(bob)
        await bench.until(lambda: len(ann.of(UpgradeFailed)) == 1)
        await bench.connect(ann, bob)
        ann.upgrade(bob)
        await bench.until(lambda: len(ann.of(UpgradeFailed)) == 2)
        await bench.settle()
        assert not ann.of(PeerMoved)
        assert not ann.of(PeerDisconnected)

    run_on(kind, test)


@everywhere
def test_when_the_relay_goes_both_sides_know_it_and_when_it_is_back_it_is_of_use_again(kind: str) -> None:
    async def test(bench: Bench) -> None:
        ann, bob, relay = await relayed(bench)
        await bench.stop(relay)
        await bench.until(lambda: not ann.connected and not bob.connected)
        await bench.start(relay)
        relay.admit(ann, bob)
        relay.use()
        await bench.until(lambda: len(relay.inputs) and relay.addresses)
        bob.use(relay)
        await bench.until(lambda: any(relay.addresses[0] in circuit for circuit in bob.circuits))
        for attempt in range(40):
            ann.dial_through(bob, f"{relay.addresses[0]}/p2p/{relay.peer_id}/p2p-circuit")
            await bench.until(lambda attempt=attempt: ann.connected or len(ann.of(DialFailed)) > attempt)  # type: ignore[misc]
            if ann.connected:
                break
        await bench.until(lambda: bob.peer_id in ann.connected and ann.peer_id in bob.connected)
        await bench.settle()

    run_on(kind, test)


def test_a_relay_that_is_elsewhere_is_tried_there_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libp2p_circuits, "_RETRY_SECONDS", (1e9,))

    async def test(bench: Bench) -> None:
        assert isinstance(bench, RealBench)
        bob, relay = [await bench.node(name) for name in ("bob", "relay")]
        bob.admit(relay)
        relay.admit(bob)
        nowhere = RelayAt(peer=relay.peer_id, addresses=("/ip4/127.0.0.1/tcp/1",))
        bob._call(lambda: bob.network.use_relays((nowhere,)))
        parts = bench.real(bob)._parts
        assert parts is not None
        await bench.until(lambda: parts.circuits._reservations[relay.peer_id].failures == 1)
        bob.use(relay)
        await bench.until(lambda: bob.circuits)

    run_on("tcp", test)


@everywhere
def test_who_is_admitted_no_more_is_disconnected_through_a_relay_too(kind: str) -> None:
    async def test(bench: Bench) -> None:
        ann, bob, relay = await relayed(bench)
        bob.admit(relay)
        await bench.until(lambda: not ann.connected and not bob.connected)

    run_on(kind, test)


@pytest.mark.parametrize("kind", ["tcp"])
def test_a_relay_that_is_no_peer_may_relay_and_nothing_else(kind: str) -> None:
    async def test(bench: Bench) -> None:
        ann, bob, relay = [await bench.node(name) for name in ("ann", "bob", "relay")]
        ann.admit(bob)
        bob.admit(ann)
        relay.admit(ann, bob)
        for node in (ann, bob):
            node.use(relay)
            await bench.until(lambda node=node: node.circuits)  # type: ignore[misc]
        ann.dial_through(bob, bob.circuits[0])
        await bench.until(lambda: bob.peer_id in ann.connected and ann.peer_id in bob.connected)
        relay.dial(ann)
        await bench.until(lambda: relay.of(DialFailed))
        await bench.settle()
        assert relay.peer_id not in ann.connected
        assert not [up for up in ann.of(PeerConnected) if up.peer == relay.peer_id]
        ann.use()
        bob.use()
        await bench.until(lambda: not bob.circuits)

    run_on(kind, test)


@pytest.mark.parametrize("kind", ["tcp"])
def test_a_relay_gives_no_more_than_it_says(kind: str) -> None:
    async def test(bench: Bench) -> None:
        ann, bob, relay = await three(bench)
        ann.dial_through(bob, bob.circuits[0])
        await bench.until(lambda: ann.connected)
        cid = await bench.node("cid")
        for node in (ann, bob, relay):
            node.admit(ann, bob, cid, relay)
        cid.admit(ann, bob, relay)
        cid.dial_through(bob, bob.circuits[0])
        await bench.until(lambda: cid.of(DialFailed))
        assert "as many circuits as it may" in cid.of(DialFailed)[0].reason
        for _ in range(40):  # past its bytes the circuit ends, and both sides know it
            ann.send(bob, bytes(100_000))
        await bench.until(lambda: not ann.connected and not bob.connected)
        assert len(bob.frames()) < 40

    limits = RelayLimits(circuits=1, circuit_bytes=1_000_000)
    run_on(kind, test, relay_limits=limits)


@pytest.mark.parametrize("kind", ["tcp"])
def test_a_relay_has_room_for_so_many(kind: str) -> None:
    async def test(bench: Bench) -> None:
        ann, bob, _ = await three(bench)
        relay = bench.nodes[2]
        ann.use(relay)
        await bench.connect(ann, relay)
        await bench.settle()
        for _ in range(3):
            await bench.settle()
        assert bob.circuits
        assert not ann.circuits

    run_on(kind, test, relay_limits=RelayLimits(reservations=1))


@pytest.mark.parametrize("kind", ["tcp"])
def test_the_relayed_connection_is_let_go(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libp2p_links, "LINGER_SECONDS", 0.1)

    async def test(bench: Bench) -> None:
        ann, bob, _ = await relayed(bench)
        assert isinstance(bench, RealBench)
        for node, other in ((ann, bob), (bob, ann)):
            assert [is_relayed(one) for one in swarm_of(bench, node).get_connections(ID.from_base58(other.peer_id))] == [True]
        bob.upgrade(ann)
        await bench.until(lambda: ann.of(PeerMoved) and bob.of(PeerMoved))
        for node, other in ((ann, bob), (bob, ann)):
            swarm, peer = swarm_of(bench, node), ID.from_base58(other.peer_id)
            await bench.until(lambda swarm=swarm, peer=peer: [is_relayed(one) for one in swarm.get_connections(peer)] == [False])  # type: ignore[misc]
        await gossip_until_heard(bench, ann, bob)
        assert not ann.of(PeerDisconnected)

    run_on(kind, test)


@everywhere
def test_both_may_dial_through_the_relay_at_once(kind: str) -> None:
    async def test(bench: Bench) -> None:
        ann, bob, relay = await three(bench)
        ann.use(relay)
        await bench.until(lambda: ann.circuits)
        for _ in range(4):
            ann.dial_through(bob, bob.circuits[0])
            bob.dial_through(ann, ann.circuits[0])
            await bench.until(lambda: bob.peer_id in ann.connected and ann.peer_id in bob.connected)
            await bench.settle()
            assert not ann.of(PeerDisconnected)
            assert not bob.of(PeerDisconnected)
            ann.hang_up(bob)
            await bench.until(lambda: bob.peer_id not in ann.connected and ann.peer_id not in bob.connected)
            for node in (ann, bob):
                assert not node.of(DialFailed)
                node.inputs = list(node.of(Listening))

    run_on(kind, test)


@pytest.mark.parametrize("announced", ["", "/dns4/clone.invalid/tcp/4001"], ids=["told", "withheld"])
def test_what_is_withheld_is_not_told_to_punch_a_hole_either(announced: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    async def noted(stream: Any, message: Any) -> None:
        told.extend(str(Multiaddr(address)) for address in message.ObsAddrs)
        await say(stream, message)

    monkeypatch.setattr(libp2p_upgrades, "say", noted)

    async def test(bench: Bench) -> None:
        assert isinstance(bench, RealBench)
        bench.options["announce_addresses"] = (announced,) if announced else ()
        ann, bob = await bench.node("ann"), await bench.node("bob")
        del bench.options["announce_addresses"]
        relay = await bench.node("relay")
        for node in (ann, bob, relay):
            node.admit(*(other for other in (ann, bob, relay) if other is not node))
        await bench.connect(ann, relay)
        bob.use(relay)
        await bench.until(lambda: bob.circuits)
        ann.dial_through(bob, bob.circuits[0])
        await bench.until(lambda: bob.peer_id in ann.connected and ann.peer_id in bob.connected)
        bob.upgrade(ann, ("/ip4/127.0.0.1/tcp/1",))  # who was dialled leads
        await bench.until(lambda: len(told) >= 2)  # both spoke of it
        assert (set(told) == {announced}) is bool(announced)

    run_on("tcp", test)
