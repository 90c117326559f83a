"""Leases that were held at the same time: found when their holders meet, told to both agents, and written down by both."""

from __future__ import annotations

from tests.core.history_bench import cycle, history, share
from tests.core.lease_bench import Bench, Ring, every_order, file

from sudocode_coordination.core.facts import EntryChange, Notify
from sudocode_coordination.core.history_entries import MAX_OVERLAPS, verify
from sudocode_coordination.model import HistoryEntry, Overlapped

COMMIT = "c0ffee" + "0" * 34


def apart() -> Bench:
    """Alice holds it, then they are cut, and bob is granted it, too."""
    bench = Bench("alice", "bob", "carol", fresh=False)
    cycle(bench, "carol", "a.py", commit=COMMIT)
    bench.cut("alice", "bob")
    bench.cut("carol", "bob")
    bench.asks("alice", "a.py")
    bench.settles()
    bench.passes(1_000)
    bench.asks("bob", "a.py")
    bench.settles()
    bench.passes(1_000)
    assert bench.holders("a.py") == ["alice", "bob"]
    bench.heals("alice", "bob")
    return bench


def test_of_two_that_held_it_both_agents_are_told_and_both_entries_say_so() -> None:
    for bench in every_order(apart):
        share(bench)
        assert bench.holders("a.py") == ["alice"]
        (lost,) = bench["bob"].told("lease-lost")
        assert (lost["reason"], lost["holder"]) == ("lost-conflict", "agent-of-alice")
        assert lost["overlap"]["agentId"] == "agent-of-alice"
        (told,) = bench["alice"].told("conflicts-detected")
        assert (told["lease"]["agentId"], told["overlap"]["agentId"]) == ("agent-of-alice", "agent-of-bob")
        bench.releases("alice", "a.py")
        share(bench)
        loser = next(e for e in history(bench, "alice", "a.py") if e.peer_id == "bob")
        winner = next(e for e in history(bench, "bob", "a.py") if e.peer_id == "alice")
        assert (loser.reason, loser.rival, loser.base) == ("lost-conflict", "agent-of-alice", COMMIT)
        (of_loser,), (of_winner,) = loser.overlaps, winner.overlaps
        assert (of_loser.claim_id, of_winner.claim_id) == (winner.claim_id, loser.claim_id)
        assert of_winner.since == of_loser.since == loser.granted_at, "from when the later of the two was granted"
        assert of_winner.until == of_loser.until == loser.ended_at
        assert of_winner.base == COMMIT


def test_the_winner_learns_of_it_from_the_history_after_its_own_end() -> None:
    bench = apart()
    bench.delivers("alice", "bob")
    assert bench.holders("a.py") == ["alice"]
    bench.releases("alice", "a.py")
    key = next(key for key, value in bench["alice"].history.items() if value[1] == "agent-of-alice")
    share(bench)
    (told,) = bench["alice"].told("conflicts-detected")
    assert told["lease"]["remainingMs"] == 0
    entry = next(e for e in history(bench, "bob", "a.py") if e.peer_id == "alice")
    assert [overlap.agent_id for overlap in entry.overlaps] == ["agent-of-bob"]
    assert verify(entry, Ring("bob"))
    assert bench["alice"].history[key] is not None


def test_nothing_that_is_told_twice_is_told_twice() -> None:
    bench = apart()
    share(bench)
    ((key, value),) = bench["bob"].history.items()
    change = EntryChange(root="leaseHistory", key=key, value=value)
    assert bench.of("alice").entries_changed("bob", (change,), bench.now) == []


def test_an_overlap_that_its_author_did_not_sign_is_not_believed() -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "a.py")
    bench.settles()
    made_up = apart()
    share(made_up)
    (value,) = made_up["bob"].history.values()
    overlap = ["alice.1.1", "x", "", "", None]
    changed = [[overlap] if isinstance(part, (list, tuple)) and part and len(part[0]) == 5 else part for part in value]
    assert changed != list(value)
    change = EntryChange(root="leaseHistory", key="1.1", value=changed)
    assert bench.of("alice").entries_changed("bob", (change,), bench.now) == []
    assert bench["alice"].holding().overlaps == ()


def test_overlaps_that_are_written_down_are_few() -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "a.py")
    bench.settles()
    ring = Ring("bob")
    history_of_bob = type(bench.of("bob").history)(ring, 50)
    told = 0
    for number in range(1, 2 * MAX_OVERLAPS):
        rival = Overlapped(claim_id="alice.1.1", peer_id="alice", agent_id="agent-of-alice", since="", until="")
        entry = HistoryEntry(
            claim_id=f"bob.1.{number}",
            peer_id="bob",
            agent_id="b",
            resources=(file("a.py"),),
            granted_at="",
            ended_at="",
            overlaps=(rival,),
            stamp=1,
            signature="",
        )
        (write,) = history_of_bob._keep_entry(entry)
        change = EntryChange(root="leaseHistory", key=write.key, value=write.value)
        told += sum(isinstance(o, Notify) for o in bench.of("alice").entries_changed("bob", (change,), bench.now))
    assert told == len(bench["alice"].holding().overlaps) == MAX_OVERLAPS
