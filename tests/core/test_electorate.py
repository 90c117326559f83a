"""Who counts, as a node works it out: from the branch, from what peers say, and from the life before."""

from __future__ import annotations

import msgspec
from tests.core.node_bench import ANN, BEN, NodeBench

from sudocode_coordination.api.requests import AcquireLease, ListLeases
from sudocode_coordination.core.electorate import MAX_UNTOLD, SPACE
from sudocode_coordination.core.io import BranchRead, DiskContents, DiskFailed, Persist, Send, StopRequested, StoredValue
from sudocode_coordination.core.roster import MAX_ADOPTED
from sudocode_coordination.core.wire import (
    MAX_MEMBERS,
    Ack,
    Claim,
    ClaimBody,
    Hello,
    Member,
    Members,
    decode_frame,
)
from sudocode_coordination.model import Resource

FILE = (Resource("file", "a.py"),)
HOUR_MS = 3_600_000
INTERVAL_MS = 60_000
FRESH_MS = 130_000


def with_ann() -> NodeBench:
    bench = NodeBench()
    bench.reads(ann=ANN)
    bench.connects(ANN)
    return bench


def a_claim() -> Claim:
    body = ClaimBody(f"{ANN.peer_id}.1.1", "ann", FILE, "exclusive", 0, 5, 60_000)
    return Claim(claim=body, round=1, hold_ms=60_000)


def voices(bench: NodeBench) -> set[str]:
    return set(bench.node.leases.view.voices or ())


def told(bench: NodeBench) -> list[set[str]]:
    return [{member.peer for member in m.members} for m in bench.said(ANN) if isinstance(m, Members)]


# --- what is told ---------------------------------------------------------------------------------------------------------------


def test_a_peer_is_told_who_counts_after_the_hello_and_before_any_answer_once_that_has_changed() -> None:
    bench = with_ann()
    assert [type(m) for m in bench.said(ANN) if isinstance(m, Hello | Members)][:2] == [Hello, Members]
    assert told(bench)[-1] == {bench.me, ANN.peer_id}
    bench.passes(30_000)
    count = len(told(bench))
    bench.reads(ben=BEN)
    bench.hears(ANN, a_claim())
    messages = [m for m in bench.said(ANN) if isinstance(m, Members | Ack)]
    assert [type(m) for m in messages[-2:]] == [Members, Ack]
    assert told(bench)[count:] == [{bench.me, ANN.peer_id, BEN.peer_id}]
    bench.passes(30_000)
    assert len(told(bench)) == count + 1, "told once"


def test_who_vanished_is_told_with_the_time_that_it_still_counts() -> None:
    bench = with_ann()
    bench.reads(ben=BEN)
    del bench.branch["agent-ben.json"]
    bench.reads()
    bench.loses(ANN)
    bench.passes(INTERVAL_MS)
    bench.connects(ANN)
    (last,) = [m for m in bench.said(ANN) if isinstance(m, Members)][-1:]
    left = {member.peer: member.left_ms for member in last.members}
    assert left[ANN.peer_id] - left[BEN.peer_id] == INTERVAL_MS


def test_whom_a_peer_counts_has_weight_here_and_a_lease_needs_more_voices() -> None:
    bench = with_ann()
    bench.hears(ANN, Members(members=(Member("x", HOUR_MS), Member("y", HOUR_MS))))
    view = bench.node.leases.view
    assert {"x", "y"} <= set(view.roster) & set(view.established) & view.suspected
    assert voices(bench) == {bench.me, ANN.peer_id}
    asked = bench.puts(AcquireLease(resources=FILE))
    (claim,) = [m for m in bench.said(ANN) if isinstance(m, Claim)]
    bench.hears(ANN, Ack(id=claim.claim.id, round=claim.round))
    reply = bench.answer(asked)
    assert reply is not None
    assert reply.value.lease.grade == "provisional"


def test_who_is_new_takes_from_the_others_whose_weight_counts() -> None:
    bench = NodeBench(start=False)
    bench.reads(ann=ANN, ben=BEN)
    bench.begins(None)
    bench.reads()
    bench.connects(ANN)
    bench.hears(
        ANN, Members(members=(Member(ANN.peer_id, HOUR_MS, True), Member(BEN.peer_id, HOUR_MS), Member("x", HOUR_MS, True)))
    )
    view = bench.node.leases.view
    assert bench.me not in view.established
    assert view.groups == {ANN.peer_id: {ANN.peer_id, "x"}}
    assert view.elders == view.established
    bench.hears(ANN, Members(members=(Member(ANN.peer_id, HOUR_MS), Member(BEN.peer_id, HOUR_MS), Member("x", HOUR_MS, True))))
    assert ANN.peer_id in bench.node.leases.view.established
    assert bench.node.leases.view.elders == tuple(p for p in view.established if p != ANN.peer_id)
    bench.hears(
        ANN, Members(members=(Member(ANN.peer_id, HOUR_MS, True), Member(BEN.peer_id, HOUR_MS), Member("x", HOUR_MS, True)))
    )
    bench.passes(200_000)
    assert bench.node.leases.view.groups == view.groups
    settled = with_ann()
    settled.hears(ANN, Members(members=(Member(ANN.peer_id, HOUR_MS, True),)))
    assert settled.node.leases.view.groups == {}, "who is there for long knows by itself"
    (last,) = [m for m in settled.said(ANN) if isinstance(m, Members)][-1:]
    assert {member.peer for member in last.members if member.established} == {settled.me}


def test_a_peer_that_counts_more_than_there_is_room_for_is_no_voice_until_it_says_otherwise() -> None:
    bench = with_ann()
    many = tuple(Member(f"x{number}", HOUR_MS) for number in range(MAX_ADOPTED + 1))
    bench.hears(ANN, Members(members=many))
    assert voices(bench) == {bench.me}
    bench.hears(ANN, Members(members=many[:2]))
    assert voices(bench) == {bench.me, ANN.peer_id}
    bench.hears(ANN, Members(partial=True))
    assert voices(bench) == {bench.me}
    for number in range(MAX_UNTOLD + 1):
        bench.node.electorate.heard(f"y{number}", Members(partial=True), bench.now)
    assert len(bench.node.electorate._untold) <= MAX_UNTOLD


def test_more_members_than_a_message_holds_are_told_as_a_part() -> None:
    bench = NodeBench()
    for number in range(MAX_MEMBERS):
        bench.node.roster._since[f"x{number:05}"] = None
    bench.reads(ann=ANN)
    bench.connects(ANN)
    (last,) = [m for m in bench.said(ANN) if isinstance(m, Members)][-1:]
    assert len(last.members) == MAX_MEMBERS
    assert last.partial
    assert all(decode_frame(e.frame) for e in bench.of(Send)), "it fits a frame"


# --- what is kept ---------------------------------------------------------------------------------------------------------------


def again(bench: NodeBench) -> NodeBench:
    """The process is killed and started anew, with its disk; the branch is as it was."""
    new = NodeBench(contents=bench.disk(), start=False)
    new.instant, new.branch = bench.instant + 5_000, dict(bench.branch)
    new.begins(bench.disk())
    return new


def test_who_is_started_again_with_its_disk_counts_as_before() -> None:
    bench = NodeBench()
    new = again(bench)
    assert new.asks(AcquireLease(resources=FILE)).lease.grade == "quorum"
    bench = with_ann()
    bench.reads(ben=BEN)
    assert bench.node.leases.view.established == (bench.me,), "the others came later"
    bench.passes(600_000)
    new = again(bench)
    assert new.node.leases.view.established == bench.node.leases.view.established
    del new.branch["agent-ann.json"]
    new.reads()
    assert ANN.peer_id in new.node.leases.view.roster


def test_the_first_seconds_of_a_new_life_are_a_quorum_by_the_record_of_the_one_before() -> None:
    bench = NodeBench()
    bench.passes(1_000)
    new = NodeBench(contents=bench.disk(), start=False)
    new.instant, new.branch = bench.instant + 5_000, dict(bench.branch)
    new.begins(bench.disk(), listening=False)
    assert new.asks(AcquireLease(resources=FILE)).lease.grade == "quorum"
    late = NodeBench(contents=bench.disk(), start=False)
    late.instant, late.branch = bench.instant + 1_000_000, dict(bench.branch)
    late.begins(bench.disk(), listening=False)
    assert late.asks(AcquireLease(resources=FILE)).lease.grade == "provisional", "others take that record for out of date"


def test_who_does_not_know_whom_its_last_life_counted_is_no_voice_for_the_window() -> None:
    disk = with_ann().disk()
    for contents in (
        msgspec.structs.replace(disk, intact=False),
        msgspec.structs.replace(disk, values=tuple(v for v in disk.values if v.space != SPACE)),
        msgspec.structs.replace(disk, values=(StoredValue(space=SPACE, key=SPACE, data=b"\xc1"),)),
    ):
        bench = NodeBench(contents=contents)
        assert bench.asks(AcquireLease(resources=FILE)).lease.grade == "provisional"
        bench.passes(HOUR_MS)
        assert not bench.node.leases.remembers(bench.instant)
        bench.passes(2 * FRESH_MS + 200_000)
        assert bench.node.leases.remembers(bench.instant)
        assert bench.asks(ListLeases())[0].grade == "quorum", "by its next renewal"


def test_who_never_saw_the_branch_has_counted_nobody() -> None:
    bench = NodeBench(start=False)
    bench.remote = False
    bench.begins(None)
    assert NodeBench(contents=bench.disk()).node.leases.remembers(bench.instant)


def test_after_a_goodbye_the_next_life_joins() -> None:
    bench = with_ann()
    bench.gives(StopRequested())
    new = NodeBench(contents=bench.disk())
    assert new.node.leases.view.roster == (new.me,)
    assert new.asks(AcquireLease(resources=FILE)).lease.grade == "quorum"


def test_a_leaver_that_is_back_and_finds_the_branch_gone_is_no_voice_for_the_window() -> None:
    bench = with_ann()
    bench.gives(StopRequested())
    new = NodeBench(start=False)
    new.remote = False
    new.begins(bench.disk())
    new.remote = True
    new.gives(BranchRead(commit=None, records={}))
    new.passes(60_000)
    assert new.node.roster.looked
    assert not new.node.leases.remembers(new.instant)
    assert new.asks(AcquireLease(resources=FILE)).lease.grade == "provisional"


def test_the_roster_is_not_written_with_every_look_but_after_every_failure() -> None:
    bench = NodeBench()

    def written() -> int:
        return sum(1 for p in bench.of(Persist) for o in p.operations if isinstance(o, StoredValue) and o.space == SPACE)

    bench.passes(30_000)
    before = written()
    bench.passes(HOUR_MS)
    assert written() - before <= HOUR_MS // FRESH_MS + 1
    before = written()
    bench.gives(DiskFailed(reason="full"))
    assert written() == before + 1


# --- what time does ---------------------------------------------------------------------------------------------------------------


def test_a_peer_whose_record_is_too_old_to_count_is_no_voice_for_others() -> None:
    bench = with_ann()
    bench.hears(ANN, a_claim())
    assert bench.said(ANN)[-1].counts  # type: ignore[union-attr]
    bench.remote = False
    for _ in range(20):
        bench.passes(50_000)
        bench.hears(ANN, Hello(incarnation=1))
    bench.hears(ANN, a_claim())
    answer = bench.said(ANN)[-1]
    assert isinstance(answer, Ack)
    assert not answer.counts


def test_what_a_read_was_good_for_is_over_before_anything_is_decided_on_it() -> None:
    bench = NodeBench()
    bench.remote = False
    bench.instant += FRESH_MS + INTERVAL_MS
    assert bench.asks(AcquireLease(resources=FILE)).lease.grade == "provisional"


def test_whoever_cannot_be_found_is_gone_only_after_the_grace() -> None:
    bench = with_ann()
    bench.hears(ANN, msgspec.structs.replace(a_claim(), granted=True))
    new = NodeBench(contents=bench.disk())
    assert new.node.leases.view.suspected == {ANN.peer_id}
    assert new.node.leases.view.gone == frozenset()
    new.passes(30_000)
    assert new.node.leases.view.gone == {ANN.peer_id}


def test_a_disk_without_a_roster_is_none() -> None:
    assert not NodeBench(contents=DiskContents(intact=True)).node.leases.remembers(0)
