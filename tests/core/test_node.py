"""The node's laws: timers before inputs, writes before words, few frames, and that nothing from outside breaks it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.node_bench import ANN, BEN, NodeBench

from sudocode_coordination.api.requests import AcquireLease, GetStatus, ListLeases, SetWork, UpdateIssue
from sudocode_coordination.core import step as step_module
from sudocode_coordination.core.beats import PRESENCE_TOPIC
from sudocode_coordination.core.electorate import READY_MS
from sudocode_coordination.core.io import (
    Admit,
    BranchPublishFailed,
    BranchReadFailed,
    Dial,
    DialFailed,
    DiskFailed,
    FrameReceived,
    Gossip,
    GossipReceived,
    HangUp,
    PeerRefused,
    Persist,
    Publish,
    ReadBranch,
    Send,
    Started,
    Stopped,
    StopRequested,
    StoredValue,
    Ticked,
)
from sudocode_coordination.core.life import STOP_MS
from sudocode_coordination.core.step import FRAME_BYTES
from sudocode_coordination.core.sync import SYNC_TOPIC
from sudocode_coordination.core.wire import (
    MAX_FRAME_BYTES,
    Ack,
    Bye,
    Claim,
    ClaimBody,
    End,
    Hello,
    Presence,
    Signed,
    encode_message,
    encode_signed,
)
from sudocode_coordination.errors import CoordinationError
from sudocode_coordination.model import Resource

FILE = (Resource("file", "a.py"),)


def a_claim(number: int = 1, *, granted: bool = True, incarnation: int = 1) -> Claim:
    body = ClaimBody(f"{ANN.peer_id}.{incarnation}.{number}", "ann", FILE, "exclusive", 0, 5, 60_000)
    return Claim(claim=body, round=1, hold_ms=60_000, granted=granted, grade="quorum")


def with_ann(**config: Any) -> NodeBench:
    bench = NodeBench(**config)
    bench.reads(ann=ANN)
    bench.connects(ANN)
    return bench


# --- order ----------------------------------------------------------------------------------------------------------------


def test_of_each_step_all_writes_come_first_and_in_one_transaction() -> None:
    bench = with_ann()
    bench.puts(AcquireLease(resources=FILE))
    bench.hears(ANN, a_claim(1), a_claim(2, granted=False))
    bench.puts(SetWork(files=("b.py",), agent="newcomer"))
    bench.puts(UpdateIssue(issue_id="I", fields={"x": 1}))
    bench.passes(120_000)
    bench.gives(StopRequested())
    writing = [step for step in bench.steps if any(isinstance(effect, Persist) for effect in step)]
    assert len(writing) >= 5
    for step in writing:
        assert [number for number, effect in enumerate(step) if isinstance(effect, Persist)] == [0]


def test_what_has_lapsed_lapses_before_anything_is_decided_on_it() -> None:
    bench = with_ann()
    bench.hears(ANN, a_claim())
    assert len(bench.asks(ListLeases(everyone=True))) == 1
    bench.instant += 70_000
    bench.gives(FrameReceived(peer=ANN.peer_id, frame=b"\x90"))
    assert bench.asks(ListLeases(everyone=True)) == []
    assert [event.data["reason"] for event in bench.events("lease-expired")] == ["expired"]


def test_a_machine_that_slept_finds_its_own_lease_over_first() -> None:
    bench = NodeBench(lease_ttl_ms=20_000, max_lease_ttl_ms=20_000)
    assert bench.asks(AcquireLease(resources=FILE))
    bench.instant += 3_600_000
    assert bench.asks(ListLeases()) == []
    assert len(bench.events("lease-lost")) == 1


def test_what_a_step_says_to_a_peer_goes_in_one_frame() -> None:
    bench = with_ann()
    step = bench.hears(ANN, a_claim(1), a_claim(2), a_claim(3))
    assert len([effect for effect in step if isinstance(effect, Send)]) == 1
    assert [type(m) for m in bench.said(ANN)[-3:]] == [Ack] * 3


def test_a_large_step_is_cut_into_frames_that_a_peer_takes() -> None:
    bench = with_ann()
    names = tuple(Resource("file", f"{'x' * 200}{n:03}") for n in range(100))
    for number in range(40):
        bench.puts(AcquireLease(resources=names, agent=f"agent-{number}", mode="shared", note="n" * 4_000))
    bench.loses(ANN)
    bench.passes(200)
    before = len(bench.of(Send))
    bench.connects(ANN)
    frames = [effect.frame for effect in bench.of(Send)[before:]]
    assert len(frames) > 2
    assert sum(map(len, frames)) > FRAME_BYTES
    assert all(len(frame) <= MAX_FRAME_BYTES for frame in frames)
    told = [m for m in bench.said(ANN) if isinstance(m, Claim)]
    assert len({m.claim.id for m in told}) == 40


def test_no_frame_holds_more_messages_than_a_peer_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_module, "MAX_MESSAGES", 2)
    bench = with_ann()
    step = bench.hears(ANN, *(a_claim(number) for number in range(1, 6)))
    sizes = [len(msgspec.msgpack.decode(effect.frame)) for effect in step if isinstance(effect, Send)]
    assert sizes == [2, 2, 1]


# --- peers ----------------------------------------------------------------------------------------------------------------


def test_a_peer_on_the_branch_is_let_in_dialled_and_greeted() -> None:
    bench = NodeBench()
    bench.reads(ann=ANN)
    assert bench.of(Admit)[-1] == Admit(peers=(ANN.peer_id,))
    bench.passes(1_000)
    assert [dial.peer for dial in bench.of(Dial)] == [ANN.peer_id]
    bench.connects(ANN)
    hello = bench.said(ANN)[0]
    assert isinstance(hello, Hello)
    assert hello.incarnation == bench.node.sync.incarnation > 0
    assert [event.agent_id for event in bench.events("peer-connected")] == ["ann"]


def test_a_malformed_frame_hangs_up() -> None:
    bench = with_ann()
    step = bench.gives(FrameReceived(peer=ANN.peer_id, frame=b"\xc1"))
    (hang_up,) = [effect for effect in step if isinstance(effect, HangUp)]
    assert hang_up.peer == ANN.peer_id
    assert "malformed" in hang_up.reason


def test_frames_of_who_is_not_connected_are_not_heard() -> None:
    bench = with_ann()
    bench.loses(ANN)
    bench.hears(ANN, a_claim())
    bench.hears(BEN, Bye())
    assert bench.asks(ListLeases(everyone=True)) == []


def test_goodbye_ends_what_the_peer_held_and_leaves_the_roster() -> None:
    bench = with_ann()
    bench.hears(ANN, a_claim())
    assert ANN.peer_id in bench.node.roster.members
    bench.hears(ANN, Bye())
    bench.loses(ANN)
    assert bench.asks(ListLeases(everyone=True)) == []
    del bench.branch["agent-ann.json"]
    bench.reads()
    assert bench.node.roster.members == (bench.me,)
    lease = bench.asks(AcquireLease(resources=FILE)).lease
    assert lease.grade == "quorum"


def test_a_new_life_of_a_peer_ends_the_leases_of_the_one_before() -> None:
    bench = with_ann()
    bench.hears(ANN, a_claim())
    bench.loses(ANN)
    bench.connects(ANN, incarnation=2)
    assert bench.asks(ListLeases(everyone=True)) == []


def test_a_stranger_at_the_door_makes_it_look_at_the_branch() -> None:
    bench = NodeBench()
    bench.passes(5_000)
    looks = len(bench.of(ReadBranch))
    bench.gives(PeerRefused(peer=BEN.peer_id, address="/x"))
    assert len(bench.of(ReadBranch)) == looks + 1


def test_while_a_known_peer_does_not_answer_newer_addresses_are_looked_for_ever_more_rarely() -> None:
    bench = NodeBench(peer_discovery_interval_ms=600_000)
    bench.reads(ann=ANN)
    looks: list[int] = []
    while bench.instant < 1_000_000 + 120_000:
        before = len(bench.of(ReadBranch))
        bench.passes(500)
        if bench.of(Dial):
            bench.gives(DialFailed(peer=ANN.peer_id, reason="refused"))
        if len(bench.of(ReadBranch)) > before:
            looks.append(bench.instant)
    assert 4 <= len(looks) <= 9
    gaps = [later - earlier for earlier, later in pairwise(looks[1:])]
    assert gaps[-1] > gaps[0]


# --- leases ---------------------------------------------------------------------------------------------------------------


def test_before_the_branch_was_seen_nothing_is_granted_but_not_for_long() -> None:
    bench = NodeBench(start=False)
    bench.remote = False
    bench.gives(Started(contents=NodeBench(start=False).disk(), seed=1, newborn=True))
    asked = bench.puts(AcquireLease(resources=FILE))
    bench.passes(READY_MS - 1)
    assert bench.answer(asked) is None
    bench.passes(1)
    reply = bench.answer(asked)
    assert reply is not None
    assert reply.value.granted
    assert reply.value.lease.grade == "provisional"


def test_no_quorum_before_the_own_record_was_seen_on_the_branch() -> None:
    bench = NodeBench(start=False)
    bench.remote = False
    bench.gives(Started(contents=NodeBench(start=False).disk(), seed=1, newborn=True))
    bench.reads()
    assert bench.asks(AcquireLease(resources=FILE)).lease.grade == "provisional"
    bench.remote = True
    assert NodeBench().asks(AcquireLease(resources=FILE)).lease.grade == "quorum"


def test_when_the_branch_cannot_be_read_any_more_quorums_end() -> None:
    bench = NodeBench()
    bench.remote = False
    bench.passes(140_000)
    bench.gives(BranchReadFailed(reason="no route"))
    assert bench.asks(AcquireLease(resources=FILE)).lease.grade == "provisional"
    status = bench.asks(GetStatus())
    assert (status.remote.state, status.remote.reason) == ("unreachable", "no route")


def test_after_a_failed_disk_this_peer_is_no_voice() -> None:
    bench = with_ann()
    assert bench.node.leases.remembers(bench.instant)
    bench.gives(DiskFailed(reason="disk full"))
    assert not bench.node.leases.remembers(bench.instant)
    bench.hears(ANN, a_claim())
    answer = bench.said(ANN)[-1]
    assert isinstance(answer, Ack)
    assert not answer.counts
    assert any("disk full" in problem for problem in bench.asks(GetStatus()).problems)


def test_after_a_restart_claims_of_others_count_and_own_entries_are_gone() -> None:
    bench = with_ann()
    bench.hears(ANN, a_claim())
    bench.puts(AcquireLease(resources=(Resource("file", "b.py"),)))
    bench.puts(SetWork(files=("b.py",)))
    bench.passes(1_000)
    again = NodeBench(contents=bench.disk())
    assert again.node.sync.incarnation > bench.node.sync.incarnation
    assert [lease.agent_id for lease in again.asks(ListLeases(everyone=True))] == ["ann"]
    assert again.asks(GetStatus()).work == ()
    assert not again.asks(AcquireLease(resources=FILE))


# --- gossip ---------------------------------------------------------------------------------------------------------------


def beat(count: int = 1, key: object = ANN, payload: bytes | None = None) -> bytes:
    assert key in (ANN, BEN)
    keyring = ANN if key is ANN else BEN
    payload = payload or encode_message(Presence(incarnation=1, count=count))
    return encode_signed(Signed(keyring.peer_id, payload, keyring.sign(b"sudocode-coordination/presence/1\0" + payload)))


def test_beats_by_gossip_count_once_and_only_if_signed() -> None:
    bench = NodeBench()
    bench.reads(ann=ANN)
    heard = bench.node.beats.latest
    forged = encode_signed(Signed(ANN.peer_id, encode_message(Presence(incarnation=1, count=9)), b"s" * 64))
    for data in (forged, b"", b"\xc1", beat(payload=b"\xc1"), beat(payload=encode_message(Bye())), beat(key=BEN)):
        bench.gives(GossipReceived(topic=PRESENCE_TOPIC, data=data))
    bench.gives(GossipReceived(topic="other", data=beat()))
    assert heard == {}
    bench.gives(GossipReceived(topic=PRESENCE_TOPIC, data=beat(3)))
    bench.gives(GossipReceived(topic=PRESENCE_TOPIC, data=beat(2)))
    assert heard == {ANN.peer_id: (1, 3)}


def test_the_own_beat_is_gossiped_only_if_somebody_is_out_of_direct_reach() -> None:
    bench = with_ann(heartbeat_interval_ms=10_000, gone_grace_ms=600_000)
    bench.passes(30_000)
    assert [g for g in bench.of(Gossip) if g.topic == PRESENCE_TOPIC] == []
    bench.reads(ben=BEN)
    bench.passes(12_500)
    assert [g for g in bench.of(Gossip) if g.topic == PRESENCE_TOPIC]


# --- the end --------------------------------------------------------------------------------------------------------------


def test_stopping_ends_leases_says_goodbye_removes_the_record_and_is_done() -> None:
    bench = with_ann()
    bench.puts(AcquireLease(resources=FILE))
    bench.hears(ANN, Ack(id=f"{bench.me}.{bench.node.sync.incarnation}.1", round=1))
    bench.remote = False
    bench.gives(StopRequested())
    said = bench.said(ANN)
    assert [type(m) for m in said if isinstance(m, End | Bye)] == [End, Bye]
    (removal,) = [p for p in bench.of(Publish) if p.final]
    assert removal.changes == {"agent-me.json": None}
    assert bench.of(Stopped) == []
    with pytest.raises(CoordinationError, match="the daemon is stopping"):
        bench.asks(AcquireLease(resources=FILE))
    bench.gives(StopRequested())
    bench.lands(removal)
    assert len(bench.of(Stopped)) == 1
    assert bench.node.deadline() is None


def test_stopping_does_not_wait_for_a_remote_for_ever() -> None:
    for failing in (True, False):
        bench = NodeBench()
        bench.remote = False
        bench.gives(StopRequested())
        (removal,) = [p for p in bench.of(Publish) if p.final]
        if failing:
            bench.gives(BranchPublishFailed(ticket=removal.ticket, reason="no route"))
        bench.passes(STOP_MS - 1)
        bench.passes(1)
        assert len(bench.of(Stopped)) == 1


# --- whatever comes -------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_whatever_a_peer_sends_nothing_is_raised(frames: list[bytes]) -> None:
    bench = with_ann()
    for frame in frames:
        bench.gives(FrameReceived(peer=ANN.peer_id, frame=frame))
        bench.gives(GossipReceived(topic=PRESENCE_TOPIC, data=frame))
        bench.gives(GossipReceived(topic=SYNC_TOPIC, data=frame))
    assert bench.asks(GetStatus()).state == "active"


def test_what_is_unreadable_on_disk_does_not_keep_it_from_starting() -> None:
    broken = tuple(StoredValue(space=space, key="x", data=b"\xc1") for space in ("claims", "drafts", "epochs", "agents", "meta"))
    disk = msgspec.structs.replace(NodeBench(start=False).disk(), values=broken)
    bench = NodeBench(contents=disk)
    assert "1 drafts on disk can't be read" in bench.asks(GetStatus()).problems
    assert not bench.node.leases.remembers(bench.instant)


def test_a_tick_that_is_not_due_does_nothing() -> None:
    bench = NodeBench()
    bench.passes(30_000)
    assert bench.gives(Ticked()) == []
