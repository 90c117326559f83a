"""A machine that was suspended: the first thing that it says is true already, and whoever lost a lease meanwhile is told.

"A suspended laptop learns on waking, before its next write is allowed, that its leases ended."
"""

from __future__ import annotations

from typing import Any

import pytest
from tests.core.node_bench import ANN, NodeBench

from sudocode_coordination.api.requests import (
    AcquireLease,
    CheckConflicts,
    CoreRequest,
    GetStatus,
    ListLeases,
    ReleaseLease,
    RenewLease,
)
from sudocode_coordination.core.io import FrameReceived, Input, RequestReceived, Ticked
from sudocode_coordination.core.wire import Ack, Claim, ClaimBody, Disclosed, Granted, RenewAck, encode_frame
from sudocode_coordination.errors import UsageError
from sudocode_coordination.model import Resource

TTL_MS = 20_000
PAUSE_MS = 3 * TTL_MS
FILES = tuple(Resource("file", name) for name in ("a.py", "b.py", "c.py"))
AGENTS = ("me", "second", "third")


def holding() -> NodeBench:
    """Three agents of one clone hold a file each, Ann having agreed."""
    bench = NodeBench(lease_ttl_ms=TTL_MS, max_lease_ttl_ms=TTL_MS)
    bench.reads(ann=ANN)
    bench.connects(ANN)
    for agent, resource in zip(AGENTS, FILES, strict=True):
        bench.puts(AcquireLease(resources=(resource,), agent=agent))
        claim = next(m for m in reversed(bench.said(ANN)) if isinstance(m, Claim))
        bench.hears(ANN, Ack(id=claim.claim.id, round=claim.round))
    assert len([h for h in bench.node.leases.holdings() if h.granted]) == 3
    return bench


def lost(bench: NodeBench) -> list[str]:
    return sorted(str(event.agent_id) for event in bench.events("lease-lost"))


def number_of(bench: NodeBench) -> int:
    return max(bench.node.leases._rounds, default=1)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (ListLeases(), ()),
        (ListLeases(everyone=True), ()),
        (RenewLease(resources=FILES), None),
        (RenewLease(resources=FILES, agent="third"), None),
        (CheckConflicts(resources=FILES[1:], agent="me"), None),
        (ReleaseLease(everything=True), None),
        (GetStatus(), None),
    ],
)
def test_any_request_after_a_pause_is_answered_by_the_truth(request_: CoreRequest, expected: Any) -> None:
    bench = holding()
    bench.instant += PAUSE_MS
    answer: Any = None
    if isinstance(request_, RenewLease):
        with pytest.raises(UsageError, match="holds no lease on that"):
            bench.asks(request_)
    else:
        answer = bench.asks(request_)
    if expected is not None:
        assert tuple(answer) == expected
    match request_:
        case CheckConflicts():
            assert answer.conflicts == (), "the other agents' leases ended as well"
        case ReleaseLease():
            assert answer.released == (), "there was nothing left to release"
        case GetStatus():
            assert answer.leases == ()
        case _:
            pass
    assert lost(bench) == sorted(AGENTS)
    assert {event.data["reason"] for event in bench.events("lease-lost")} == {"expired"}


def test_asking_for_it_again_after_a_pause_is_a_new_claim_that_the_others_must_agree_to() -> None:
    bench = holding()
    before = {h.body.id for h in bench.node.leases.holdings()}
    bench.instant += PAUSE_MS
    asked = bench.puts(AcquireLease(resources=FILES[:1]))
    assert bench.answer(asked) is None, "nobody has agreed yet"
    assert lost(bench) == sorted(AGENTS)
    (claim,) = [m for m in bench.said(ANN) if isinstance(m, Claim) and not m.granted][-1:]
    assert claim.claim.id not in before
    theirs = ClaimBody(f"{ANN.peer_id}.1.1", "ann", FILES[:1], "exclusive", 0, 1, TTL_MS)
    held = Disclosed(theirs, granted=True, grade="quorum", remaining_ms=TTL_MS, reachable=True, round=1)
    bench.hears(ANN, Ack(id=claim.claim.id, round=claim.round, disclosed=(held,)))
    reply = bench.answer(asked)
    assert reply is not None
    assert not reply.value.granted
    assert [c.agent_id for c in reply.value.holders] == ["ann"]


@pytest.mark.parametrize("late", [True, False])
def test_what_peers_said_before_or_during_a_pause_saves_no_lease(late: bool) -> None:
    bench = holding()
    bench.passes(TTL_MS // 2)
    round_ = number_of(bench)
    ours = [h.body.id for h in bench.node.leases.holdings()]
    incarnation = bench.node.sync.incarnation
    bench.instant += PAUSE_MS
    given: list[Input] = [
        FrameReceived(peer=ANN.peer_id, frame=encode_frame([RenewAck(incarnation=incarnation, round=round_)])),
        FrameReceived(peer=ANN.peer_id, frame=encode_frame([Ack(id=id_, round=round_) for id_ in ours])),
        FrameReceived(peer=ANN.peer_id, frame=encode_frame([Granted(id=id_, grade="quorum") for id_ in ours])),
    ]
    if late:
        given.insert(0, Ticked(late_ms=PAUSE_MS))
    for each in given:
        bench.gives(each)
    assert bench.node.leases.holdings() == []
    assert lost(bench) == sorted(AGENTS)
    assert not bench.asks(ListLeases())


def test_a_late_tick_alone_tells_who_lost_what() -> None:
    bench = holding()
    bench.instant += PAUSE_MS
    bench.gives(Ticked(late_ms=PAUSE_MS - TTL_MS))
    assert lost(bench) == sorted(AGENTS)
    events = bench.events("lease-lost")
    assert sorted(event.data["lease"]["resources"][0][1] for event in events) == ["a.py", "b.py", "c.py"]


def test_in_one_step_the_loss_is_told_before_the_answer() -> None:
    bench = holding()
    bench.instant += PAUSE_MS
    step = bench.gives(RequestReceived(client=1, request_id=99, request=ListLeases()))
    kinds = [type(effect).__name__ for effect in step]
    assert kinds.index("Reply") > max(
        number for number, kind in enumerate(kinds) if kind == "Emit" and number < kinds.index("Reply")
    )
    assert [e.event.type for e in step[: kinds.index("Reply")] if hasattr(e, "event")].count("lease-lost") == 3


def test_a_pause_that_is_short_costs_nothing() -> None:
    bench = holding()
    bench.instant += TTL_MS // 2 + 2_000
    bench.gives(Ticked(late_ms=2_000))
    assert lost(bench) == []
    assert len(bench.asks(ListLeases())) == 1, "of the agent that asks"
    bench.hears(ANN, RenewAck(incarnation=bench.node.sync.incarnation, round=number_of(bench)))
    bench.passes(TTL_MS // 2)
    assert lost(bench) == []


def test_a_waiter_that_slept_past_its_limit_is_denied_when_it_wakes() -> None:
    bench = holding()
    theirs = ClaimBody(f"{ANN.peer_id}.1.1", "ann", (Resource("file", "z.py"),), "exclusive", 0, 1, TTL_MS)
    bench.hears(ANN, Claim(claim=theirs, round=1, hold_ms=TTL_MS, granted=True, grade="quorum"))
    asked = bench.puts(AcquireLease(resources=(Resource("file", "z.py"),), wait_ms=10_000))
    bench.instant += PAUSE_MS
    bench.gives(Ticked(late_ms=PAUSE_MS))
    reply = bench.answer(asked)
    assert reply is not None
    assert not reply.value.granted
    assert reply.value.reason in ("timeout", "no-answer")
