"""Lease history through whole nodes: the request, what it costs, restarts, peers that leave, and frames that bring all at once."""

from __future__ import annotations

from typing import Any

import pytest
from tests.core.node_bench import BIRTH, WALL, NodeBench
from tests.core.strict_bench import Chain, Port

from sudocode_coordination.api.requests import AcquireLease, LeaseHistory, LeaseOutcome, ListLeases, ReleaseLease
from sudocode_coordination.config import create_default_config
from sudocode_coordination.core.departed import FORGET_MS
from sudocode_coordination.core.history_entries import verify
from sudocode_coordination.core.io import (
    BranchPublished,
    BranchRead,
    BuildTable,
    DiskContents,
    Effect,
    Emit,
    FrameReceived,
    Input,
    Listening,
    PeerConnected,
    PeerDisconnected,
    Persist,
    Publish,
    ReadBranch,
    ReadTable,
    Reply,
    RequestReceived,
    Send,
    Started,
    StopRequested,
    StoredEnvelope,
    SwapTable,
    Ticked,
)
from sudocode_coordination.core.node import Node
from sudocode_coordination.core.wire import End, Envelopes, decode_frame
from sudocode_coordination.model import HistoryEntry, Now, PeerId, Resource
from sudocode_coordination.sim.identity import SimKeyring

COMMIT = "c0ffee" + "0" * 34
FILE = (Resource("file", "a.py"),)


class Pair:
    """Two nodes, a branch and a strict table that answer at once, and links that carry whole frames in their order."""

    def __init__(self, *names: str) -> None:
        self.instant = BIRTH
        self.rings = {name: SimKeyring(name) for name in names}
        self.names: dict[PeerId, str] = {ring.peer_id: name for name, ring in self.rings.items()}
        self.nodes = {name: Node(create_default_config(name), ring) for name, ring in self.rings.items()}
        self.branch: dict[str, bytes] = {}
        self.links: dict[tuple[str, str], list[bytes]] = {(a, b): [] for a in names for b in names if a != b}
        self.effects: dict[str, list[Effect]] = {name: [] for name in names}
        chain = Chain()
        self.ports = {name: Port(chain) for name in names}
        self._asked = 0
        for name in names:
            self.gives(name, Started(contents=DiskContents(), seed=1, newborn=True))
            self.gives(name, Listening(addresses=("/ip4/192.0.2.1/tcp/1",)))
        self.passes(120_000)  # every branch has been read since the other's record is there
        for a, b in self.links:
            self.gives(a, PeerConnected(peer=self.rings[b].peer_id, address="/x", direction="in"))
        self.passes(120_000)

    def gives(self, name: str, given: Input) -> None:
        effects = self.nodes[name].handle(given, Now(self.instant, WALL + self.instant - BIRTH))
        self.effects[name] += effects
        for effect in effects:
            match effect:
                case ReadBranch():
                    self.gives(name, BranchRead(commit="1" * 40, records=dict(self.branch)))
                case Publish(ticket=ticket, changes=changes):
                    self.branch = {k: v for k, v in (self.branch | changes).items() if v is not None}
                    self.gives(name, BranchPublished(ticket=ticket, commit="1" * 40))
                case ReadTable() | SwapTable() | BuildTable():
                    self.ports[name].jobs.append(effect)
                    self.gives(name, self.ports[name].answer())
                case Send(peer=peer, frame=frame) if self.names[peer] in self.nodes:
                    self.links[name, self.names[peer]].append(frame)

    def settles(self) -> None:
        while any(self.links.values()):
            for (sender, receiver), queue in self.links.items():
                if queue:
                    self.delivers(sender, receiver)

    def delivers(self, sender: str, receiver: str) -> None:
        self.gives(receiver, FrameReceived(peer=self.rings[sender].peer_id, frame=self.links[sender, receiver].pop(0)))

    def passes(self, ms: int) -> None:
        end = self.instant + ms
        while True:
            self.settles()
            due = [(at, name) for name, node in self.nodes.items() if (at := node.deadline()) is not None and at <= end]
            if not due:
                break
            at, name = min(due)
            self.instant = max(self.instant, at)
            self.gives(name, Ticked())
        self.instant = end

    def puts(self, name: str, request: Any) -> int:
        self._asked += 1
        self.gives(name, RequestReceived(client=1, request_id=self._asked, request=request))
        return self._asked

    def answer(self, name: str, asked: int) -> Any:
        return next((e.value for e in self.effects[name] if isinstance(e, Reply) and e.request_id == asked), None)

    def asks(self, name: str, request: Any) -> Any:
        asked = self.puts(name, request)
        self.settles()
        return self.answer(name, asked)

    def history(self, name: str) -> list[HistoryEntry]:
        found: list[HistoryEntry] = self.asks(name, LeaseHistory(resources=FILE))
        return found


def test_both_nodes_answer_who_held_it_and_the_next_one_is_handed_the_commit() -> None:
    pair = Pair("ann", "ben")
    assert pair.asks("ann", AcquireLease(resources=FILE))
    waiting = pair.puts("ben", AcquireLease(resources=FILE, wait_ms=0))
    pair.passes(1_000)
    pair.asks("ann", ReleaseLease(resources=FILE, commit=COMMIT, branch="topic"))
    outcome: LeaseOutcome = pair.answer("ben", waiting)
    assert outcome.granted
    assert outcome.lease is not None
    assert outcome.lease.handover is not None
    assert (outcome.lease.handover.commit, outcome.lease.handover.agent_id) == (COMMIT, "ann")
    for name in ("ann", "ben"):
        now_held, before = pair.history(name)
        assert (now_held.agent_id, now_held.ended_at, now_held.base) == ("ben", None, COMMIT)
        assert (before.agent_id, before.reason, before.commit, before.branch) == ("ann", "released", COMMIT, "topic")
        assert all(verify(entry, pair.rings["ann"]) for entry in (now_held, before))
        (lease,) = pair.asks(name, ListLeases(everyone=True))
        assert lease.handover == outcome.lease.handover
    told = [e.event for e in pair.effects["ben"] if isinstance(e, Emit) and e.event.type == "lease-acquired"]
    assert told[-1].data["lease"]["handover"]["commit"] == COMMIT


def test_a_strict_lease_is_in_it_with_its_token_and_handed_on_like_any_other() -> None:
    pair = Pair("ann", "ben")
    first: LeaseOutcome = pair.asks("ann", AcquireLease(resources=FILE, strict=True))
    pair.passes(1_000)
    waiting = pair.puts("ben", AcquireLease(resources=FILE, strict=True, wait_ms=0))
    pair.passes(1_000)
    assert pair.answer("ben", waiting) is None
    (held,) = pair.history("ben")
    pair.asks("ann", ReleaseLease(resources=FILE, commit=COMMIT))
    pair.passes(10_000)
    outcome: LeaseOutcome = pair.answer("ben", waiting)
    assert first.lease is not None
    assert outcome.lease is not None
    assert outcome.lease.handover is not None
    assert outcome.lease.handover.commit == COMMIT
    now_held, before = pair.history("ann")
    assert (held.grade, held.token, held.ended_at) == ("strict", first.lease.token, None)
    assert (before.grade, before.token, before.reason) == ("strict", first.lease.token, "released")
    assert (now_held.grade, now_held.token, now_held.base) == ("strict", outcome.lease.token, COMMIT)


def test_what_the_table_refuses_was_never_held() -> None:
    pair = Pair("ann", "ben")
    pair.asks("ann", AcquireLease(resources=FILE, strict=True))
    pair.passes(1_000)
    assert not pair.asks("ben", AcquireLease(resources=FILE, strict=True))
    pair.passes(20_000)
    assert [entry.agent_id for entry in pair.history("ben")] == ["ann"]


def test_the_entry_comes_in_the_frame_of_the_end_and_before_it() -> None:
    pair = Pair("ann", "ben")
    pair.asks("ann", AcquireLease(resources=FILE))
    pair.puts("ann", ReleaseLease(resources=FILE, commit=COMMIT))
    (frame,) = pair.links["ann", "ben"]
    kinds = [type(message) for message in decode_frame(frame)]
    assert kinds == [Envelopes, End]


@pytest.mark.parametrize("keep", [1, 50])
def test_a_lease_and_its_end_are_one_write_each_however_long_the_history(keep: int) -> None:
    bench = NodeBench(lease_history=keep)
    bench.passes(60_000)
    for request in (AcquireLease(resources=FILE), ReleaseLease(resources=FILE)):
        step = bench.gives(RequestReceived(client=1, request_id=1, request=request))
        (persist,) = (effect for effect in step if isinstance(effect, Persist))
        assert sum(isinstance(operation, StoredEnvelope) for operation in persist.operations) == 1
        before = len(bench.of(Persist))
        bench.passes(1_000)
        assert len(bench.of(Persist)) == before, "nothing is written later, either"


def test_what_was_held_at_a_crash_is_closed_by_the_next_life() -> None:
    bench = NodeBench()
    bench.asks(AcquireLease(resources=FILE))
    bench.asks(ReleaseLease(resources=FILE, commit=COMMIT))
    bench.asks(AcquireLease(resources=FILE))
    bench.passes(1_000)
    again = NodeBench(contents=bench.disk())
    closed, ended = again.asks(LeaseHistory(resources=FILE))
    assert (closed.reason, closed.base, ended.reason) == ("restarted", COMMIT, "released")
    assert [key for key, _ in again.node.sync.owner_entries("leases", again.me)] == []
    outcome = again.asks(AcquireLease(resources=FILE))
    assert outcome.lease.handover.commit == COMMIT
    third = NodeBench(contents=again.disk())
    assert [e.reason for e in third.asks(LeaseHistory(resources=FILE))] == ["restarted", "restarted", "released"]


def test_a_lost_disk_is_a_lost_history_and_nothing_worse() -> None:
    bench = NodeBench()
    bench.asks(AcquireLease(resources=FILE))
    again = NodeBench(contents=DiskContents())
    assert again.asks(LeaseHistory(resources=FILE)) == []


def test_the_history_of_a_peer_that_left_is_there_for_a_week() -> None:
    pair = Pair("ann", "ben")
    pair.asks("ann", AcquireLease(resources=FILE))
    pair.asks("ann", ReleaseLease(resources=FILE, commit=COMMIT))
    pair.gives("ann", StopRequested())
    pair.settles()
    del pair.nodes["ann"]
    for link in pair.links:
        pair.links[link].clear()
    pair.gives("ben", PeerDisconnected(peer=pair.rings["ann"].peer_id, reason="gone"))
    node = pair.nodes["ben"]

    def looks(later_ms: int) -> list[str]:
        pair.instant += later_ms
        pair.gives("ben", BranchRead(commit="2" * 40, records=dict(pair.branch)))
        return [entry.agent_id for entry in pair.history("ben")]

    assert looks(0) == ["ann"]
    assert looks(FORGET_MS - 3_600_000) == ["ann"]
    assert node.leases.history.handover(FILE, fold=False) is not None
    assert looks(7_200_000) == []
    assert node.leases.history.handover(FILE, fold=False) is None


def test_everything_is_asked_for_without_a_name_and_at_most_so_many() -> None:
    bench = NodeBench()
    for number in range(5):
        bench.asks(AcquireLease(resources=(Resource("issue", f"#{number}"),)))
        bench.asks(ReleaseLease(everything=True))
        bench.passes(1_000)
    assert [e.resources[0].path for e in bench.asks(LeaseHistory())] == ["#4", "#3", "#2", "#1", "#0"]
    assert [e.resources[0].path for e in bench.asks(LeaseHistory(limit=2))] == ["#4", "#3"]
    assert [e.resources[0].path for e in bench.asks(LeaseHistory(resources=(Resource("issue", "#3"),)))] == ["#3"]


def test_very_many_leases_leave_a_small_feed() -> None:
    bench = NodeBench()
    largest = 0
    for number in range(1_000):
        bench.asks(AcquireLease(resources=(Resource("file", f"src/module_{number}.py"),)))
        bench.asks(ReleaseLease(everything=True))
        feed = bench.node.sync.store.feed(bench.me)
        assert feed is not None
        largest = max(largest, feed.size_bytes)
        bench.effects.clear()
        bench.steps.clear()
    assert len(bench.asks(LeaseHistory())) == 50
    assert largest <= 33 << 10
