"""Sync: every peer ends with every feed, over any connected shape, with little sent; what is said is stored before."""

from __future__ import annotations

import time
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.feeds import WALL_MS, Peer, Pen, Swarm

from sudocode_coordination.core.author import FLUSH_BYTES, FLUSH_MS
from sudocode_coordination.core.facts import EntriesChanged, EntryChange, Output, Say
from sudocode_coordination.core.feed import EPOCHS_SPACE, NOTHING_MORE, encode_envelope
from sudocode_coordination.core.io import DiskContents, Persist, StoredEnvelope, StoredValue
from sudocode_coordination.core.sync import Sync
from sudocode_coordination.core.wire import Envelope, Envelopes, Head
from sudocode_coordination.errors import UsageError
from sudocode_coordination.model import Now, PeerId
from sudocode_coordination.sim.identity import SimKeyring

LEASE = {"agent": "agent-host-0123456789ab", "resources": [["file", "src/a/b/c.py"]], "state": "granted", "ttlMs": 300_000}


def heads_of(peer: Peer) -> dict[PeerId, tuple[int, int]]:
    return {head.owner: (head.epoch, head.seq) for head in peer.sync.hello()}


def said_envelopes(peer: Peer) -> list[Envelope]:
    return [e for _, message in peer.said if isinstance(message, Envelopes) for e in message.envelopes]


# --- own entries ----------------------------------------------------------------------------------------------------------


def test_own_writes_show_at_once_and_are_stored_within_50_ms() -> None:
    peer = Peer("a")
    peer.tick()
    stored = len(peer.stored)
    assert peer.set("leases", "x", {"n": 1.0}) == [
        EntriesChanged(owner=peer.id, changes=(EntryChange(root="leases", key="x", value={"n": 1}),))
    ]
    assert peer.sync.get("leases", peer.id, "x") == {"n": 1}
    peer.set("leases", "y", 2)
    peer.set("leases", "x", 3)
    assert len(peer.stored) == stored
    assert peer.sync.deadline() == peer.now.instant + FLUSH_MS
    peer.now = Now(peer.now.instant + FLUSH_MS, WALL_MS + FLUSH_MS)
    peer.tick()
    assert len(peer.stored) == stored + 1
    assert peer.sync.deadline() is None
    again = Peer("a", peer.disk)
    assert again.entries() == {(peer.id, "x"): 3, (peer.id, "y"): 2}


def test_urgent_and_large_writes_do_not_wait() -> None:
    peer = Peer("a")
    peer.tick()
    assert any(isinstance(output, Persist) for output in peer.set("leases", "x", 1, urgent=True))
    outputs: list[Output] = []
    for n in range(3):
        assert not any(isinstance(output, Persist) for output in outputs)
        outputs = peer.set("leases", f"large{n}", "x" * (FLUSH_BYTES // 3))
    assert any(isinstance(output, Persist) for output in outputs)
    # Urgent also sends along what waits, even if it changes nothing itself.
    peer.set("leases", "y", 1)
    assert any(isinstance(output, Persist) for output in peer.set("leases", "x", 1, urgent=True))


def test_a_write_that_changes_nothing_does_nothing() -> None:
    peer = Peer("a")
    peer.set("leases", "x", {"a": 1, "b": 2}, urgent=True)
    assert peer.set("leases", "x", {"b": 2, "a": 1}, urgent=True) == []
    assert peer.set("leases", "never", None, urgent=True) == []


def test_written_and_removed_before_the_flush() -> None:
    peer = Peer("a")
    peer.tick()
    peer.set("leases", "x", 1)
    peer.set("leases", "x", None)
    stored = set(peer.stored)
    peer.take(peer.sync.flush(peer.now))
    assert peer.stored == stored


@pytest.mark.parametrize(
    ("key", "value"), [("", 1), ("k" * 2_000, 1), ("\ud800", 1), ("k", 2**60), ("k", {1: 2}), ("k", "x" * 40_000)]
)
def test_what_cannot_be_shared_is_told_and_leaves_nothing(key: str, value: object) -> None:
    peer = Peer("a")
    with pytest.raises(UsageError):
        peer.set("leases", key, value, urgent=True)
    assert peer.entries() == {}


def test_own_entries_are_bounded() -> None:
    peer = Peer("a")

    def fill() -> None:
        for n in range(1_000):
            peer.set("leases", f"k{n}", "x" * 30_000)

    with pytest.raises(UsageError, match="8 MB"):
        fill()
    assert len(peer.entries()) > 200
    # Those that are there can still be changed and removed, and then there is room.
    for n in range(10):
        peer.set("leases", f"k{n}", "y" * 30_000, urgent=True)
        peer.set("leases", f"k{n}", None, urgent=True)
    peer.set("leases", "new", "x" * 30_000, urgent=True)
    assert Peer("a", peer.disk).sync.problems() == []
    assert len(Peer("a", peer.disk).entries()) == len(peer.entries())


# --- epochs ---------------------------------------------------------------------------------------------------------------


def test_every_start_is_a_new_epoch() -> None:
    peer = Peer("a")
    assert peer.sync.incarnation == peer.now.wall_ms
    peer.set("leases", "x", 1, urgent=True)
    first = heads_of(peer)[peer.id]
    seen = [peer.sync.incarnation]
    # Even if it dies before its first flush, and with a clock that goes back.
    for back in (0, 0, 5, 10_000):
        peer.now = Now(peer.now.instant, peer.now.wall_ms - back)
        peer.start()
        seen.append(peer.sync.incarnation)
    assert sorted(set(seen)) == seen
    peer.set("leases", "x", 2, urgent=True)
    assert heads_of(peer)[peer.id] > first
    assert {envelope.epoch for envelope in peer.stored_contents().envelopes} == {seen[-1]}
    peer.now = Now(5, WALL_MS + 1_000_000)
    peer.start()
    assert peer.sync.incarnation == peer.now.wall_ms


def test_what_was_removed_right_after_the_start_is_not_published_again() -> None:
    swarm = Swarm("a", "b")
    a, b = swarm["a"], swarm["b"]
    a.set("leases", "stale", 1)
    a.set("issueUpdates", "#1", "kept", urgent=True)
    swarm.link("a", "b")
    swarm.settle()
    swarm.cut("a", "b")
    a.start()
    a.set("leases", "stale", None)
    b.changes.clear()
    swarm.link("a", "b")
    swarm.settle()
    (change,) = [change for changed in b.changes for change in changed.changes]
    assert (change.key, change.value) == ("stale", None)
    assert b.sync.get("issueUpdates", a.id, "#1") == "kept"


def test_a_peer_that_lost_its_disk_and_whose_clock_went_back_goes_on_beyond_what_others_have() -> None:
    swarm = Swarm("a", "b")
    a, b = swarm["a"], swarm["b"]
    swarm.link("a", "b")
    a.set("leases", "before", 1, urgent=True)
    swarm.settle()
    swarm.cut("a", "b")
    known = heads_of(b)[a.id]
    a.disk.wipe()
    a.now = Now(0, 1_000)
    a.start()
    a.set("leases", "after", 2, urgent=True)
    assert heads_of(a)[a.id] < known
    swarm.link("a", "b")
    swarm.settle()
    assert heads_of(a)[a.id] == heads_of(b)[a.id] > known
    assert b.entries() == a.entries() == {(a.id, "after"): 2}
    a.set("leases", "later", 3, urgent=True)
    swarm.settle()
    assert swarm.agree()
    assert b.sync.problems() == []


def test_no_epoch_is_used_twice_when_the_disk_rolled_back_to_the_same_one() -> None:
    swarm = Swarm("a", "b")
    a, b = swarm["a"], swarm["b"]
    swarm.link("a", "b")
    for n in range(3):
        a.set("leases", "x", n, urgent=True)
    swarm.settle()
    epoch, _ = heads_of(b)[a.id]
    swarm.cut("a", "b")
    # Worst case: the same epoch again, and other envelopes in it.
    a.disk.wipe()
    a.now = Now(a.now.instant, epoch - 1)
    a.start()
    assert a.sync.incarnation == epoch
    a.set("leases", "x", "other", urgent=True)
    swarm.link("a", "b")
    swarm.settle()
    assert swarm.agree()
    assert a.entries() == {(a.id, "x"): "other"}
    assert heads_of(b)[a.id][0] > epoch


def test_unsound_things_on_disk_are_left_out() -> None:
    pen, forged = Pen("pen"), Pen("forged")
    good, lost = [pen.lease("x", n) for n in range(5)], [forged.lease("x", n) for n in range(3)]
    envelopes = [
        StoredEnvelope(owner=e.owner, epoch=e.epoch, seq=e.seq, data=encode_envelope(e)) for e in (*good[:2], *good[3:], *lost)
    ]
    envelopes[-2] = msgspec.structs.replace(envelopes[-2], data=b"rubbish")
    envelopes[-3] = msgspec.structs.replace(envelopes[-3], data=encode_envelope(msgspec.structs.replace(lost[0], update=b"\0\0")))
    values = (
        StoredValue(space=EPOCHS_SPACE, key="gone", data=b"12"),
        StoredValue(space=EPOCHS_SPACE, key="odd", data=b"x12"),
        StoredValue(space="meta", key="gone2", data=b"12"),
    )
    peer = Peer("a")
    sync = Sync(peer.keyring, Random(1), "test")
    sync.started(DiskContents(envelopes=tuple(envelopes), values=values), peer.now)
    assert list(sync.entries("leases")) == [(pen.owner, "x", 1)]
    assert sync.hello()[-1] == Head("gone", 12, NOTHING_MORE)
    assert (pen.owner, 1, 2) in {(h.owner, h.epoch, h.seq) for h in sync.hello()}


# --- chance ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.integers(0, 2**32))
def test_whatever_happens_all_agree_in_the_end(seed: int) -> None:
    random = Random(seed)
    names = ["a", "b", "c", "d"][: random.randint(2, 4)]
    swarm = Swarm(*names, seed=seed)
    for peer in swarm.peers.values():
        peer.sync.set_reachability(random.random() < 0.5)
    for _ in range(60):
        peer = swarm[random.choice(names)]
        match random.randrange(8):
            case 0 | 1 | 2:
                value = random.choice([None, 1, "x" * random.choice((1, 3_000, 30_000)), LEASE])
                peer.set("leases", random.choice("xyz"), value, urgent=random.random() < 0.5)
            case 3:
                swarm.advance(random.choice((10, 100, 2_000)))
            case 4:
                one, other = random.sample(names, 2)
                if frozenset((swarm[one].id, swarm[other].id)) in swarm.links:
                    swarm.cut(one, other)
                else:
                    swarm.link(one, other)
            case 5:
                # Lose what is under way, as a connection that closes does.
                for to in {to for to, _ in peer.said}:
                    far = swarm.by_id[to]
                    name = next(n for n in names if swarm[n] is far)
                    mine = next(n for n in names if swarm[n] is peer)
                    swarm.cut(mine, name)
            case 6:
                swarm.settle()
            case _:
                mine = next(n for n in names if swarm[n] is peer)
                for other in names:
                    if frozenset((peer.id, swarm[other].id)) in swarm.links:
                        swarm.cut(mine, other)
                match random.randrange(3):
                    case 0:
                        peer.disk.kill()
                    case 1:
                        peer.disk.crash()
                    case _:
                        peer.disk.wipe()
                # A machine takes a second to come up; within the same millisecond an epoch might be used twice.
                peer.now = Now(peer.now.instant, peer.now.wall_ms + 1_000)
                peer.start()
    swarm.link_all()
    for peer in swarm.peers.values():
        peer.sync.set_reachability(True)
    swarm.settle()
    swarm.advance(5_000)
    assert swarm.agree()
    for peer in swarm.peers.values():
        assert not [problem for problem in peer.sync.problems() if "refused" in problem or "signature" in problem]


# --- size and speed -------------------------------------------------------------------------------------------------------


def churn(peer: Peer, cycles: int) -> int:
    """Leases come and go; the most bytes that the stored feed had."""
    most = 0
    for n in range(cycles):
        peer.set("leases", f"{peer.id}.{n}", LEASE, urgent=True)
        peer.set("leases", f"{peer.id}.{n}", None, urgent=True)
        if n % 16 == 0:
            most = max(most, sum(len(e.data) for e in peer.disk.load().envelopes))
    return max(most, sum(len(e.data) for e in peer.disk.load().envelopes))


def test_lease_cycles_leave_little() -> None:
    swarm = Swarm("a", "b")
    swarm.link("a", "b")
    a, b = swarm["a"], swarm["b"]
    for _ in range(10):
        assert churn(a, 200) < 32 << 10
        swarm.settle()
    assert sum(len(e.data) for e in b.disk.load().envelopes) < 32 << 10
    assert len(b.sync.document.encode_state()) < 32 << 10
    assert swarm.agree()


@pytest.mark.slow
def test_100_000_lease_cycles_leave_little() -> None:
    assert churn(Peer("a"), 100_000) < 32 << 10


def test_a_set_among_10_000_entries_and_a_join_are_fast() -> None:
    swarm = Swarm("a", "b")
    a, b = swarm["a"], swarm["b"]
    value = {**LEASE, "note": "x" * 60}
    for n in range(10_000):
        a.sync.set("leases", f"{a.id}.{n}", value, a.now)
    a.take(a.sync.flush(a.now))
    times = []
    for n in range(500):
        started = time.process_time()
        outputs = a.sync.set("leases", f"{a.id}.{n}", n, a.now, urgent=True)
        times.append(time.process_time() - started)
        a.take(outputs)
    # 0.07 ms here; the margins are for loaded machines.
    assert sorted(times)[len(times) // 2] < 0.000_3
    started = time.process_time()
    swarm.link("a", "b")
    messages = [message for _, message in a.said if isinstance(message, Envelopes)]
    a.said.clear()
    for message in messages:
        outputs = b.sync.received(a.id, message, b.now)
    assert time.process_time() - started < 2.0
    assert len(b.entries()) == 10_000
    assert any(not isinstance(output, Say) for output in outputs)


def test_after_the_disk_failed_the_next_write_stores_the_own_feed_anew_and_whole() -> None:
    keyring = SimKeyring("alice")
    sync = Sync(keyring, Random(1), "test")
    sync.started(DiskContents(intact=True), Now(0, 1_000_000))
    sync.flush(Now(0, 1_000_000))
    lost = sync.set("activeWork", "a", 1, Now(1, 1_000_001), urgent=True)
    assert any(isinstance(output, Persist) for output in lost)

    sync.disk_failed(Now(2, 1_000_002))
    told = sync.set("activeWork", "b", 2, Now(3, 1_000_003), urgent=True)
    stored = [op for output in told if isinstance(output, Persist) for op in output.operations]

    again = Sync(keyring, Random(2), "test")
    again.started(DiskContents(envelopes=tuple(op for op in stored if isinstance(op, StoredEnvelope))), Now(9, 2_000_000))
    assert dict(again.owner_entries("activeWork", keyring.peer_id)) == {"a": 1, "b": 2}
