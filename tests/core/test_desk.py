"""Requests in, answers out: each is answered once, by the state it leads to, or with an error that says what to do."""

from __future__ import annotations

from typing import Any

import pytest
from tests.core.node_bench import ANN, BEN, NodeBench

from sudocode_coordination.api.requests import (
    AcquireLease,
    AttachAgent,
    CheckConflicts,
    ClearWork,
    CoreRequest,
    DetachAgent,
    GetFindings,
    GetStatus,
    LeaseOutcome,
    ListDrafts,
    ListIssues,
    ListLeases,
    ListPeers,
    ListSpecs,
    ListWork,
    Nothing,
    PublishDraft,
    ReadBranchNow,
    ReleaseLease,
    RenewLease,
    SaveDraft,
    SetWork,
    UpdateIssue,
    UpdateSpec,
)
from sudocode_coordination.core import desk as desk_module
from sudocode_coordination.core.io import BranchReadFailed, ClientGone, PeerConnected, RequestCancelled
from sudocode_coordination.errors import CoordinationError, RemoteError, ResourceError, UsageError
from sudocode_coordination.model import Resource

A, B = Resource("file", "a.py"), Resource("file", "b.py")


@pytest.mark.parametrize(
    "request_",
    [
        GetStatus(),
        ListPeers(),
        AcquireLease(resources=(A,)),
        ReleaseLease(everything=True),
        ListLeases(),
        CheckConflicts(resources=(A,)),
        SetWork(files=("a.py",)),
        ClearWork(),
        ListWork(),
        UpdateIssue(issue_id="I", fields={"x": 1}),
        UpdateIssue(issue_id="I", fields={"x": None}),
        ListIssues(),
        UpdateSpec(spec_path="s.md", fields={"x": 1}),
        ListSpecs(spec_path="./s.md"),
        SaveDraft(kind="note", target="", fields={}),
        ListDrafts(),
        PublishDraft(everything=True),
        AttachAgent(agent="other"),
        DetachAgent(agent="nobody"),
        GetFindings(),
        ReadBranchNow(),
    ],
    ids=lambda request: type(request).__name__,
)
def test_every_request_is_answered_once_with_what_it_promises(request_: CoreRequest) -> None:
    bench = NodeBench()
    bench.passes(20_000)
    value = bench.asks(request_)
    wanted: Any = request_.answer
    if getattr(wanted, "__origin__", None) is tuple:
        assert isinstance(value, list | tuple)
        assert all(isinstance(row, wanted.__args__[0]) for row in value)
    else:
        assert isinstance(value, wanted)


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (AcquireLease(resources=(Resource("file", "/etc"),)), ResourceError),
        (CheckConflicts(resources=(Resource("file", "../x"),)), ResourceError),
        (RenewLease(resources=(A,)), UsageError),
        (ReleaseLease(resources=(Resource("file", ""),)), ResourceError),
        (SetWork(files=("/etc",)), ResourceError),
        (UpdateIssue(issue_id="I", fields={}), UsageError),
        (UpdateSpec(spec_path="/etc", fields={"x": 1}), ResourceError),
        (ListSpecs(spec_path=".."), ResourceError),
        (PublishDraft(draft_ids=("none",)), UsageError),
        (AttachAgent(agent="a b"), UsageError),
        (AcquireLease(resources=(A,), agent="a/b"), UsageError),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_makes_no_sense_is_answered_with_why_and_what_to_do(request_: CoreRequest, error: type[CoordinationError]) -> None:
    bench = NodeBench()
    with pytest.raises(error) as refused:
        bench.asks(request_)
    assert refused.value.message
    assert refused.value.hint
    assert bench.asks(GetStatus()).state == "active"


def test_an_agent_is_here_as_soon_as_it_acts_and_not_if_it_only_looks() -> None:
    bench = NodeBench()
    bench.asks(ListLeases(agent="looker"))
    bench.asks(CheckConflicts(resources=(A,), agent="looker"))
    bench.asks(AcquireLease(resources=(A,), agent="actor"))
    assert [agent.agent_id for agent in bench.asks(GetStatus()).agents] == ["actor", "me"]
    assert [(p.agent_id, p.connection, p.leases_held) for p in bench.asks(ListPeers())] == [("actor", "self", 1), ("me", "self", 0)]


def test_an_agent_whose_first_request_is_refused_is_here_all_the_same() -> None:
    bench = NodeBench()
    with pytest.raises(ResourceError):
        bench.asks(AcquireLease(resources=(Resource("file", "/etc"),), agent="newcomer"))
    assert bench.node.sync.get("agentMetadata", bench.me, "newcomer") == {"capabilities": ["code", "review", "test"]}
    bench.passes(60_000)
    assert sorted(bench.branch) == ["agent-me.json", "agent-newcomer.json"]


def test_what_was_written_is_in_the_answer() -> None:
    bench = NodeBench()
    assert bench.asks(UpdateIssue(issue_id="I", fields={"x": 1})).fields["x"].value == 1
    assert bench.asks(UpdateSpec(spec_path="./s.md", fields={"x": 2})).spec_path == "s.md"
    assert bench.asks(UpdateIssue(issue_id="I", fields={"x": None})).fields == {}
    assert bench.asks(SetWork(files=("a.py",), status="busy")).status == "busy"
    assert bench.asks(AttachAgent(agent="other", capabilities=("cook",))).capabilities == ("cook",)


def test_a_lease_is_asked_for_renewed_and_released() -> None:
    bench = NodeBench()
    outcome = bench.asks(AcquireLease(resources=(A, B)))
    assert isinstance(outcome, LeaseOutcome)
    assert outcome
    bench.passes(1_000)
    (lease,) = bench.asks(RenewLease(resources=(A,)))
    assert lease.remaining_ms == lease.ttl_ms
    released = bench.asks(ReleaseLease(resources=(A, B))).released
    assert [lease.resources for lease in released] == [(A, B)]
    assert bench.asks(ListLeases(everyone=True)) == []


def test_a_waiting_request_is_answered_when_its_turn_has_come_or_never_if_it_was_taken_back() -> None:
    bench = NodeBench()
    bench.asks(AcquireLease(resources=(A,)))
    cancelled = bench.puts(AcquireLease(resources=(A,), agent="one", wait_ms=0))
    gone = bench.puts(AcquireLease(resources=(A,), agent="two", wait_ms=0), client=2)
    waiting = bench.puts(AcquireLease(resources=(A,), agent="three", wait_ms=0))
    bench.gives(RequestCancelled(client=1, request_id=cancelled))
    bench.gives(ClientGone(client=2))
    bench.asks(ReleaseLease(everything=True))
    assert bench.answer(cancelled) is None
    assert bench.answer(gone) is None
    reply = bench.answer(waiting)
    assert reply is not None
    assert reply.value.granted


def test_a_bound_agent_its_leases_and_its_work_end_with_the_connection() -> None:
    bench = NodeBench()
    bench.asks(AttachAgent(agent="bound", bound=True), client=7)
    bench.asks(AcquireLease(resources=(A,), agent="bound"), client=7)
    bench.asks(SetWork(files=("a.py",), agent="bound"), client=7)
    bench.gives(ClientGone(client=6))
    assert len(bench.asks(ListLeases(everyone=True))) == 1
    bench.gives(ClientGone(client=7))
    assert bench.asks(ListLeases(everyone=True)) == []
    assert bench.asks(ListWork()) == []
    assert [agent.agent_id for agent in bench.asks(GetStatus()).agents] == ["me"]


def test_detaching_ends_everything_of_an_agent() -> None:
    bench = NodeBench()
    bench.asks(AcquireLease(resources=(A,), agent="other"))
    waiting = bench.puts(AcquireLease(resources=(A,), wait_ms=0))
    assert bench.asks(DetachAgent(agent="other")) == Nothing()
    reply = bench.answer(waiting)
    assert reply is not None
    assert reply.value.granted


def test_conflicts_are_leases_and_work_of_others() -> None:
    bench = NodeBench()
    bench.asks(AcquireLease(resources=(A,), agent="holder", note="soon done"))
    bench.asks(SetWork(files=("b.py",), agent="worker"))
    found = bench.asks(CheckConflicts(resources=(A, B)))
    assert [(c.kind, c.agent_id) for c in found.conflicts] == [("lease", "holder"), ("work", "worker")]
    assert not bench.asks(CheckConflicts(resources=(B,), agent="worker"))


# --- the branch -----------------------------------------------------------------------------------------------------------


def test_a_look_at_the_branch_is_answered_when_it_has_been_read() -> None:
    bench = NodeBench()
    bench.passes(20_000)
    bench.remote = False
    first, second = bench.puts(ReadBranchNow()), bench.puts(ReadBranchNow(), client=2)
    taken_back = bench.puts(ReadBranchNow(), client=3)
    bench.gives(ClientGone(client=3))
    assert bench.answer(first) is None
    bench.reads()
    assert bench.answer(taken_back) is None
    assert [reply.value for asked in (first, second) if (reply := bench.answer(asked))] == [Nothing(), Nothing()]


def test_a_look_that_fails_is_answered_with_why() -> None:
    bench = NodeBench()
    bench.passes(20_000)
    bench.remote = False
    asked = bench.puts(ReadBranchNow())
    bench.gives(BranchReadFailed(reason="no route"))
    reply = bench.answer(asked)
    assert reply is not None
    assert reply.error is not None
    assert reply.error.code == RemoteError.code
    assert "no route" in reply.error.message
    findings = {finding.name: finding for finding in bench.asks(GetFindings())}
    assert (findings["remote"].ok, "no route" in findings["remote"].message) == (False, True)


def test_looks_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "MAX_WAITING", 1)
    bench = NodeBench()
    bench.passes(20_000)
    bench.remote = False
    bench.puts(ReadBranchNow())
    with pytest.raises(CoordinationError, match="wait for the git remote"):
        bench.asks(ReadBranchNow())


# --- looking --------------------------------------------------------------------------------------------------------------


def test_peers_are_told_with_how_they_are_reached() -> None:
    bench = NodeBench()
    bench.reads(ann=ANN, ben=BEN)
    bench.gives(PeerConnected(peer=ANN.peer_id, address="/x", direction="in", relayed=True))
    rows: dict[str, Any] = {row.agent_id: row for row in bench.asks(ListPeers())}
    assert (rows["ann"].connection, rows["ann"].address, rows["ann"].peer_id) == ("relayed", "/x", ANN.peer_id)
    assert rows["ben"].connection in ("connecting", "disconnected")
    assert rows["me"].connection == "self"
    status = bench.asks(GetStatus())
    assert sorted(status.roster) == sorted((bench.me, ANN.peer_id, BEN.peer_id))
    assert (status.remote.state, status.remote.pushes) == ("ok", 1)


def test_troubles_are_told_the_latest_ones() -> None:
    bench = NodeBench()
    for number in range(desk_module.MAX_TROUBLES + 5):
        bench.node.desk.trouble(f"trouble {number}")
    problems = bench.asks(GetStatus()).problems
    assert problems == tuple(f"trouble {n}" for n in range(5, desk_module.MAX_TROUBLES + 5))
    assert [f.message for f in bench.asks(GetFindings()) if f.name == "problem"] == list(problems)
