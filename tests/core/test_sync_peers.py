"""Sync between peers: what is asked for, answered, forwarded, and held back."""

from __future__ import annotations

import msgspec
import pytest
from tests.core.feeds import WALL_MS, Peer, Pen, Swarm

from sudocode_coordination.core import sync as sync_module
from sudocode_coordination.core.author import FLUSH_MS, JOIN_ENVELOPES
from sudocode_coordination.core.feed import NOTHING_MORE, encode_envelope
from sudocode_coordination.core.sync import ASK_PAUSE_MS, EXCHANGE_MS, MAX_ASKS
from sudocode_coordination.core.wire import Envelope, Envelopes, Head, Heads, encode_frame
from sudocode_coordination.model import Now, PeerId

LEASE = {"agent": "agent-host-0123456789ab", "resources": [["file", "src/a/b/c.py"]], "state": "granted", "ttlMs": 300_000}


def heads_of(peer: Peer) -> dict[PeerId, tuple[int, int]]:
    return {head.owner: (head.epoch, head.seq) for head in peer.sync.hello()}


def said_envelopes(peer: Peer) -> list[Envelope]:
    return [e for _, message in peer.said if isinstance(message, Envelopes) for e in message.envelopes]


# --- between peers --------------------------------------------------------------------------------------------------------


def test_a_change_is_one_message_away() -> None:
    swarm = Swarm("a", "b", "c")
    swarm.link_all()
    swarm.settle()
    swarm.messages = 0
    swarm["a"].set("leases", "x", LEASE, urgent=True)
    swarm.settle()
    assert swarm.messages == 2
    assert swarm.agree()
    assert swarm["c"].entries() == {(swarm["a"].id, "x"): LEASE}
    assert swarm["a"].gossip == []


def test_new_peers_get_everything_in_one_exchange() -> None:
    swarm = Swarm("a", "b", "c")
    for name in ("a", "b"):
        for n in range(20):
            swarm[name].set("leases", f"k{n}", n, urgent=True)
    swarm.link("a", "b")
    swarm.settle()
    swarm.messages = 0
    swarm.link("a", "c")
    swarm.settle()
    assert swarm.messages == 2
    assert swarm.agree()
    (event,) = [event for event in swarm["c"].events if event.type == "sync-completed"]
    assert event.data == {"peerId": swarm["a"].id, "feeds": 3, "entries": 40}
    assert len(swarm["a"].events) == 2


def test_sync_completed_is_told_when_there_is_nothing_to_bring() -> None:
    swarm = Swarm("a", "b")
    swarm.link("a", "b")
    swarm.settle()
    assert [event.type for event in swarm["a"].events] == ["sync-completed"]


def test_many_small_envelopes_are_compacted_for_a_joiner() -> None:
    swarm = Swarm("a", "b", "c")
    swarm.link("a", "b")
    a = swarm["a"]
    for n in range(JOIN_ENVELOPES + 400):
        a.set("leases", f"k{n}", LEASE, urgent=True)
    swarm.settle()
    a.said.clear()
    swarm.link("a", "c")
    assert len(said_envelopes(a)) < 20
    swarm.settle()
    assert swarm.agree()
    assert len(swarm["c"].entries()) == JOIN_ENVELOPES + 400


def test_messages_stay_small() -> None:
    swarm = Swarm("a", "b")
    a = swarm["a"]
    for n in range(100):
        a.set("leases", f"k{n}", "x" * 30_000)
    swarm.advance(FLUSH_MS)
    swarm.link("a", "b")
    sizes = [len(encode_frame([message])) for _, message in a.said]
    assert len(sizes) > 5
    assert max(sizes) < 512 << 10
    swarm.settle()
    assert swarm.agree()


def test_a_large_answer_comes_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_module, "ANSWER_BYTES", 300_000)
    swarm = Swarm("a", "b")
    for n in range(50):
        swarm["a"].set("leases", f"k{n}", "x" * 30_000)
    swarm.advance(FLUSH_MS)
    swarm.link("a", "b")
    swarm.settle()
    assert not swarm.agree()
    assert swarm["b"].events == []
    swarm.advance(10 * ASK_PAUSE_MS)
    assert swarm.agree()
    assert len(swarm["b"].events) == 1


def test_repeated_questions_cost_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_module, "ANSWER_BYTES", 300_000)
    swarm = Swarm("a", "b")
    a, b = swarm["a"], swarm["b"]
    for n in range(50):
        a.set("leases", f"k{n}", "x" * 30_000)
    swarm.link("a", "b")
    for _ in range(100):
        a.take(a.sync.received(b.id, Heads(heads=(), reply=True), a.now))
    assert sum(len(e.update) for e in said_envelopes(a)) < 400_000


def test_a_lost_push_is_asked_for_at_once() -> None:
    swarm = Swarm("a", "b")
    swarm.link("a", "b")
    swarm.settle()
    a, b = swarm["a"], swarm["b"]
    a.set("leases", "x", 1, urgent=True)
    a.said.clear()
    a.set("leases", "y", 2, urgent=True)
    swarm.settle()
    assert swarm.agree()
    assert len(b.entries()) == 2


def test_a_peer_that_cannot_deliver_is_not_asked_for_ever() -> None:
    peer, pen = Peer("a"), Pen("far")
    peer.tick()
    peer.take(peer.sync.peer_up(pen.owner, peer.now))
    peer.take(peer.sync.greeted(pen.owner, (Head("someone", 5, 5),), peer.now))
    asked = 0
    while (deadline := peer.sync.deadline()) is not None and deadline < EXCHANGE_MS * 0.7:
        peer.now = Now(deadline, WALL_MS)
        peer.said.clear()
        peer.tick()
        asked += len(peer.said)
    assert asked == MAX_ASKS
    assert peer.events == []


def test_the_exchange_heals_what_was_lost_silently() -> None:
    swarm = Swarm("a", "b")
    swarm.link("a", "b")
    swarm.settle()
    swarm["a"].set("leases", "x", 1, urgent=True)
    swarm["a"].said.clear()
    swarm.advance(round(EXCHANGE_MS * 1.3))
    assert swarm.agree()
    assert swarm["b"].entries()


def test_at_rest_only_the_exchange_goes_on() -> None:
    swarm = Swarm("a", "b", "c", "d")
    swarm.link_all()
    swarm.settle()
    swarm.advance(1_000)
    swarm.messages = 0
    swarm.advance(EXCHANGE_MS * 10)
    # Per peer and exchange: a question and an answer.
    assert 4 * 8 * 2 <= swarm.messages <= 4 * 13 * 2
    assert not any(peer.changes for peer in swarm.peers.values())


def test_without_peers_there_is_nothing_to_wait_for() -> None:
    peer = Peer("a")
    peer.tick()
    assert peer.sync.deadline() is None
    peer.take(peer.sync.peer_up("x", peer.now))
    assert peer.sync.deadline() is not None
    peer.take(peer.sync.peer_down("x", peer.now))
    assert peer.sync.deadline() is None


def test_through_an_intermediate_peer_at_once() -> None:
    swarm = Swarm("a", "b", "c", "d")
    for one, other in (("a", "b"), ("b", "c"), ("c", "d")):
        swarm.link(one, other)
    swarm.settle()
    for peer in swarm.peers.values():
        peer.sync.set_reachability(False)
    swarm["a"].set("leases", "x", LEASE, urgent=True)
    swarm.settle()
    assert swarm.agree()
    assert swarm["d"].entries()
    # Also a new epoch, in parts.
    for n in range(300):
        swarm["a"].set("leases", f"k{n}", "y" * 1_000)
    swarm["a"].start()
    swarm.cut("a", "b")
    swarm.link("a", "b")
    swarm["a"].sync.set_reachability(False)
    swarm.settle()
    assert swarm.agree()
    assert len(swarm["d"].entries()) > 200


def test_an_unfinished_snapshot_is_passed_on_and_finished_by_others() -> None:
    swarm = Swarm("a", "b")
    a, b, pen = swarm["a"], swarm["b"], Pen("gone", epoch=3, parts=2)
    first, second = pen.lease("x", 1), pen.lease("y", 2)
    a.take(a.sync.gossiped(encode_envelope(first), a.now))
    b.take(b.sync.gossiped(encode_envelope(second), b.now))
    swarm.link("a", "b")
    swarm.settle()
    assert heads_of(b)[pen.owner] == (3, 2)
    assert b.entries() == {(pen.owner, "x"): 1, (pen.owner, "y"): 2}
    swarm.advance(round(EXCHANGE_MS * 1.3))
    assert swarm.agree()


def test_gossip_is_a_hint() -> None:
    swarm = Swarm("a", "b", "c")
    for peer in swarm.peers.values():
        peer.sync.set_reachability(False)
    for one, other in (("a", "b"), ("b", "c")):
        swarm.link(one, other)
    swarm.settle()
    a, c = swarm["a"], swarm["c"]
    a.gossip.clear()
    a.set("leases", "x", 1, urgent=True)
    (data,) = a.gossip
    c.take(c.sync.gossiped(data, c.now))
    assert c.entries() == {(a.id, "x"): 1}
    # A gap in gossip is asked for from whoever is there.
    a.set("leases", "y", 2, urgent=True)
    a.set("leases", "z", 3, urgent=True)
    swarm["b"].said.clear()
    swarm.settle()
    c.take(c.sync.gossiped(a.gossip[-1], c.now))
    swarm.settle()
    assert len(c.entries()) == 3
    for rubbish in (b"", b"\xc1", data[:-3], data + b"x", b"\x95" * 100_000):
        assert c.sync.gossiped(rubbish, c.now) == []


def test_messages_of_unknown_peers_are_dropped() -> None:
    peer, pen = Peer("a"), Pen("far")
    assert peer.sync.received(pen.owner, Envelopes(envelopes=(pen.lease("x", 1),)), peer.now) == []
    assert peer.sync.received(pen.owner, Heads(reply=True), peer.now) == []
    assert peer.sync.greeted(pen.owner, (), peer.now) == []
    assert peer.entries() == {}


def test_forged_own_envelopes_change_nothing() -> None:
    peer, pen = Peer("a"), Pen("far")
    peer.set("leases", "x", 1, urgent=True)
    peer.take(peer.sync.peer_up(pen.owner, peer.now))
    before = heads_of(peer)
    forged = msgspec.structs.replace(pen.lease("x", 1), owner=peer.id, epoch=WALL_MS * 2)
    peer.take(peer.sync.received(pen.owner, Envelopes(envelopes=(forged,)), peer.now))
    assert [fault.peer for fault in peer.faults] == [pen.owner]
    peer.take(peer.sync.greeted(pen.owner, (Head(peer.id, WALL_MS * 3, 7),), peer.now))
    assert heads_of(peer) == before
    assert peer.sync.incarnation == before[peer.id][0]


def test_a_forgotten_owner_does_not_come_back_by_way_of_others() -> None:
    swarm = Swarm("a", "b", "c")
    swarm.link_all()
    swarm["c"].set("leases", "x", 1, urgent=True)
    swarm.settle()
    gone = swarm["c"].id
    swarm.cut("a", "c")
    swarm.cut("b", "c")
    a = swarm["a"]
    a.take(a.sync.forget_owner(gone))
    assert a.entries() == {}
    swarm.messages = 0
    swarm.advance(EXCHANGE_MS * 5)
    assert a.entries() == {}
    assert swarm.messages < 30
    # Not even after a restart; but it does when it writes again.
    a.start()
    swarm.cut("a", "b")
    swarm.link("a", "b")
    swarm.settle()
    assert a.entries() == {}
    assert gone not in a.sync.known_owners()
    c = swarm["c"]
    c.now = Now(c.now.instant, c.now.wall_ms + 10)
    c.start()
    c.set("leases", "y", 2, urgent=True)
    swarm.link_all()
    swarm.settle()
    assert swarm.agree()
    assert a.entries() == {(gone, "x"): 1, (gone, "y"): 2}
    assert a.take(a.sync.forget_owner(a.id)) == []


def test_a_fork_of_the_own_feed_heals() -> None:
    """Two machines with one key, or a disk copied: others refuse the second half, say so, and it begins anew."""
    swarm = Swarm("a", "b")
    a, b = swarm["a"], swarm["b"]
    a.tick()
    twin = Pen("a", epoch=a.sync.incarnation)
    b.take(b.sync.gossiped(encode_envelope(twin.write({("leases", "x"): 1})), b.now))
    swarm.link("a", "b")
    swarm.settle()
    a.set("leases", "x", 2, urgent=True)
    swarm.settle()
    assert any("refused" in problem for problem in b.sync.problems())
    assert b.entries() == a.entries() == {(a.id, "x"): 2}


def test_a_peer_that_was_forgotten_by_mistake_is_taken_up_again_when_they_meet() -> None:
    swarm = Swarm("a", "b")
    a, b = swarm["a"], swarm["b"]
    swarm.link("a", "b")
    b.set("leases", "x", 1, urgent=True)
    swarm.settle()
    swarm.cut("a", "b")
    a.take(a.sync.forget_owner(b.id))
    incarnation = b.sync.incarnation
    swarm.link("a", "b")
    swarm.settle()
    assert a.entries() == {(b.id, "x"): 1}
    assert b.sync.incarnation == incarnation
    # It is not made to do so over and over by somebody who keeps saying so.
    before = heads_of(b)[b.id]
    for _ in range(10):
        epoch, _ = heads_of(b)[b.id]
        b.take(b.sync.received(a.id, Heads(heads=(Head(b.id, epoch, NOTHING_MORE),)), b.now))
    assert heads_of(b)[b.id] == before
