"""Faults that a hostile reading of strict leases found, each as the shortest story that showed it."""

from __future__ import annotations

import msgspec
import pytest
from tests.core.lease_bench import Bench
from tests.core.node_swarm import NodeSwarm
from tests.core.strict_bench import StrictSwarm, body_of
from tests.core.test_strict_writer import Desk

from sudocode_coordination.api.requests import AcquireLease, ListLeases, ReleaseLease
from sudocode_coordination.core.io import BuildTable
from sudocode_coordination.core.strict_table import Entry, Table, apply, encode_entry, path_of
from sudocode_coordination.core.strict_writer import HOLD_MS, MAX_PEER_BYTES
from sudocode_coordination.core.wire import (
    MAX_FRAME_BYTES,
    MAX_IN_THE_WAY,
    MAX_LAMPORT,
    MAX_STRICT_CLAIMS,
    StrictAcquire,
    StrictAnswer,
    StrictRelease,
    StrictRenew,
    encode_frame,
)
from sudocode_coordination.model import Resource


def nothing(entry: Entry) -> bool:
    return entry.token < 0


def anything(entry: Entry) -> bool:
    return entry.token >= 0


def test_a_lease_whose_logical_time_was_driven_to_its_end_is_seen_by_others() -> None:
    claim = msgspec.structs.replace(body_of("ann", 1, "a.py"), lamport=MAX_LAMPORT)
    table = Table()
    table = table.changed(apply(table, [StrictAcquire(claim, MAX_LAMPORT)], nothing).changes)
    assert list(table.entries) == [claim.id]
    assert not table.skipped
    rival = apply(table, [StrictAcquire(body_of("ben", 1, "a.py"), 1)], nothing)
    assert rival.results["ben.1.1"].kind == "held"


def test_in_a_full_table_who_takes_over_is_not_overlooked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files come in the order of their paths, and the new one before the old one."""
    numbers = sorted(range(1, 40), key=lambda number: path_of(f"ann.1.{number}"))
    new, *old = numbers
    monkeypatch.setattr("sudocode_coordination.core.strict_table.MAX_ENTRIES", len(old))
    table = Table()
    fills = [StrictAcquire(body_of("ann", number, f"{number}.py", agent=str(number)), 1) for number in old]
    table = table.changed(apply(table, fills, nothing).changes)
    assert len(table) == len(old)
    takes = StrictAcquire(body_of("ann", new, f"{old[-1]}.py", agent="taker"), 1)
    applied = apply(table, [takes], anything)
    assert applied.results[takes.claim.id].kind == "done"
    assert takes.claim.id in table.changed(applied.changes).entries


def test_a_table_full_of_leases_of_the_dead_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else takes them out, if nobody wants just those files."""
    monkeypatch.setattr("sudocode_coordination.core.strict_table.MAX_ENTRIES", 3)
    table = Table()
    dead = [StrictAcquire(body_of("ann", n, f"{n}.py", agent=str(n)), 1) for n in range(3)]
    table = table.changed(apply(table, dead, nothing).changes)
    wants = StrictAcquire(body_of("ben", 1, "x.py"), 1)
    assert apply(table, [wants], nothing).results["ben.1.1"].kind == "full"
    applied = apply(table, [wants], anything)
    assert applied.results["ben.1.1"].kind == "done"
    assert list(table.changed(applied.changes).entries) == ["ben.1.1"]


def test_a_client_that_pushes_again_and_again_holds_nobody_up() -> None:
    desk = Desk()
    desk.gives(StrictAcquire(body_of("a", 1, "x.py"), 1))
    desk.runs()
    desk.gives(StrictRenew("a.1.renewal", ("a.1.1",)))
    end = desk.instant + HOLD_MS
    tries = 0
    while desk.instant < end:
        tries += 1
        desk.writer.prepare(StrictRenew(f"a.1.op{tries}", ("a.1.1",)), desk.now)
        desk.pumps()
        assert isinstance(desk.port.jobs[0], BuildTable)
        desk.answers()
        assert desk.runs() == []
        desk.instant += HOLD_MS // 3
    assert desk.writer.deadline() == end
    desk.writer.prepare(StrictRenew("a.1.last", ("a.1.1",)), desk.now)
    assert [done.op for done in desk.runs()] == [StrictRenew("a.1.renewal", ("a.1.1",))]


def test_a_refusal_fits_a_frame_whatever_is_in_the_way() -> None:
    """Who got a larger one would hang up on the peer that writes for all."""
    table = Table()
    long = [Resource("file", f"src/{n:02}/{'😀' * 1_000}") for n in range(20)]
    entries = [
        Entry(
            id=f"ann.1.{n}", agent=str(n), resources=tuple(long), mode="shared", priority=0, ttl_ms=1_000, token=n, note="n" * 4_000
        )
        for n in range(1, MAX_IN_THE_WAY + 1)
    ]
    table = table.changed({path_of(entry.id): encode_entry(entry) for entry in entries})
    assert len(table) == MAX_IN_THE_WAY
    result = apply(table, [StrictAcquire(body_of("ben", 1, "src/"), 1)], nothing).results["ben.1.1"]
    assert len(result.holders) == MAX_IN_THE_WAY
    assert all(holder.resources for holder in result.holders)
    assert len(encode_frame([StrictAnswer(id="ben.1.1", result=result)])) < MAX_FRAME_BYTES


def test_one_peers_operations_take_only_so_much_of_the_memory() -> None:
    desk = Desk()
    names = tuple(f"b.1.{n:0190}" for n in range(MAX_STRICT_CLAIMS))
    most = MAX_PEER_BYTES // (MAX_STRICT_CLAIMS * len(names[0]))
    for n in range(most):
        desk.gives(StrictRelease(f"b.1.op{n}", names), "b")
    assert not desk.writer.settled
    desk.gives(StrictRelease("b.1.more", names), "b")
    assert [(done.op.id, done.failure) for done in desk.writer.settled if isinstance(done.op, StrictRelease)] == [
        ("b.1.more", "busy")
    ]
    desk.gives(StrictRelease("c.1.op1", names), "c")
    desk.gives(StrictRelease("a.1.op1", names))
    assert len(desk.runs()) == most + 3
    desk.gives(StrictRelease("b.1.op1", names), "b")
    assert [done.failure for done in desk.runs()] == [None]


def test_a_lease_for_a_moment_is_no_flood_of_messages() -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "a.py", ttl_ms=5)
    bench.settles()
    bench.passes(1_000)
    assert sum(bench.sent.values()) < 50


def test_a_strict_lease_for_a_moment_is_no_flood_of_pushes() -> None:
    swarm = StrictSwarm("a")
    swarm.wants("a", "x.py", wait_ms=0, ttl_ms=1)
    swarm.settles(ms=10_000)
    assert swarm.chain.pushes < 25


@pytest.mark.parametrize("to_shared", [False, True])
def test_who_waits_for_the_table_and_gives_a_part_back_is_answered(to_shared: bool) -> None:
    swarm = NodeSwarm("ann")
    two = (Resource("file", "a.py"), Resource("file", "b.py"))
    waits = swarm.puts("ann", AcquireLease(resources=two, strict=True, wait_ms=0))
    swarm.puts("ann", ReleaseLease(resources=two[:1], to_shared=to_shared))
    swarm.settles(5_000)
    assert swarm.answer("ann", waits)
    assert [lease.resources for lease in swarm.asks("ann", ListLeases())] == [two if to_shared else two[1:]]
