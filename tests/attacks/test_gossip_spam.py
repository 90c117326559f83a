"""Gossip comes from anybody by way of anybody. Authors prove who they are to every receiver; what one author says, and what one
peer hands on, is limited. Real hosts, real gossipsub."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from tests.conformance.network_attacker import run_real
from tests.conformance.network_bench import Node, RealBench

from sudocode_coordination.adapters import libp2p_faults
from sudocode_coordination.core.io import GossipReceived, PeerMisbehaved

TOPIC = "sudocode/presence"


def besieged(story: Callable[[RealBench, Node, Node, Any], Awaitable[None]]) -> None:
    """Ann is connected to ben and to mallory, and hears gossip of both; `pubsub` is mallory's own."""

    async def test(bench: RealBench) -> None:
        ann, ben = await bench.pair()
        mallory = await bench.node("mallory")
        ann.admit(ben, mallory)
        mallory.admit(ann)
        await bench.connect(ben, ann)
        await bench.connect(mallory, ann)
        for node in (ben, mallory):
            await heard(bench, node, ann)
        running = bench.real(mallory)._links.running
        assert running is not None
        await story(bench, ann, mallory, running.pubsub)
        assert ben.connected
        await heard(bench, ben, ann)

    run_real(test)


async def heard(bench: RealBench, by: Node, ann: Node) -> None:
    """Gossip of that one reaches ann: gossipsub takes a moment to see who is there."""
    word = f"{by.name} {len(ann.inputs)}".encode()
    while word not in ann.gossip(TOPIC):
        bench.real(by).gossip(TOPIC, word)
        await trio.sleep(0.05)


def test_more_than_an_author_has_to_say_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(bench: RealBench, ann: Node, mallory: Node, pubsub: Any) -> None:
        del mallory
        for n in range(400):
            await pubsub.publish(TOPIC, b"spam %d" % n)
            await trio.sleep(0)
        await bench.settle()
        taken = [data for data in ann.gossip(TOPIC) if data.startswith(b"spam")]
        assert len(taken) <= 40
        assert not ann.of(PeerMisbehaved)  # old messages of an author may be sent again by others: nobody is blamed

    monkeypatch.setattr(libp2p_faults, "GOSSIP_AUTHOR_BURST", 40)
    monkeypatch.setattr(libp2p_faults, "GOSSIP_PER_AUTHOR", 0.1)
    besieged(story)


def test_who_hands_on_too_much_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(bench: RealBench, ann: Node, mallory: Node, pubsub: Any) -> None:
        with trio.move_on_after(30):
            while not ann.of(PeerMisbehaved):
                await pubsub.publish(TOPIC, b"spam")
                await trio.sleep(0)
        assert {(told.peer, told.reason) for told in ann.of(PeerMisbehaved)} == {
            (mallory.peer_id, "sends too much gossip: over 1 messages a second")
        }
        await bench.until(lambda: mallory.peer_id not in ann.connected)

    monkeypatch.setattr(libp2p_faults, "GOSSIP_FORWARDER_BURST", 60)
    monkeypatch.setattr(libp2p_faults, "GOSSIP_PER_FORWARDER", 1)
    besieged(story)


def test_nobody_gossips_in_the_name_of_another() -> None:
    async def story(bench: RealBench, ann: Node, mallory: Node, pubsub: Any) -> None:
        running = bench.real(ann)._links.running
        assert running is not None
        ben = next(node for node in bench.nodes if node.name == "bob")
        number = 0

        def message(author: str, data: bytes, **changes: Any) -> rpc_pb2.Message:
            nonlocal number
            number += 1
            made = rpc_pb2.Message(data=data, topicIDs=[TOPIC], from_id=ID.from_base58(author).to_bytes(), seqno=b"%08d" % number)
            for name, value in changes.items():
                setattr(made, name, value)
            return made

        own_key = bench.real(mallory)._links.running.host.get_public_key().serialize()  # type: ignore[union-attr]
        forged = [
            message(ben.peer_id, b"forged"),
            message(ben.peer_id, b"forged", signature=b"x" * 64),
            message(ben.peer_id, b"forged", signature=b"x" * 64, key=own_key),
            message(ben.peer_id, b"forged", from_id=b""),
            message(ben.peer_id, b"forged", from_id=b"\xff" * 40, signature=b"x" * 64),
            message(ann.peer_id, b"forged", signature=b"x" * 64),
        ]
        for one in forged:
            await running.pubsub.push_msg(ID.from_base58(mallory.peer_id), one)
        await bench.settle()
        assert b"forged" not in [got.data for got in ann.of(GossipReceived)]
        del pubsub

    besieged(story)
