"""Who follows the shared document has what the daemon has, however it asks."""

from __future__ import annotations

import pytest
from tests.core.node_bench import NodeBench

from sudocode_coordination.api.requests import AcquireLease, DocumentChanges, FollowDocument, ReleaseLease, SetWork, UpdateIssue
from sudocode_coordination.core import document, following
from sudocode_coordination.core.facts import ROOTS
from sudocode_coordination.core.io import ClientGone, RequestCancelled
from sudocode_coordination.errors import CoordinationError
from sudocode_coordination.model import Json, Resource


class Follower:
    """A client that keeps what it is told."""

    def __init__(self, bench: NodeBench) -> None:
        self.bench = bench
        self.at = ""
        self.has: dict[tuple[str, str, str], Json] = {}

    def asks(self) -> int:
        return self.bench.puts(FollowDocument(since=self.at), client=7)

    def takes(self, asked: int) -> DocumentChanges | None:
        reply = self.bench.answer(asked)
        if reply is None:
            return None
        assert isinstance(reply.value, DocumentChanges)
        if reply.value.whole:
            self.has.clear()
        for entry in reply.value.entries:
            self.has[entry.root, entry.owner, entry.key] = entry.value
        self.has = {name: value for name, value in self.has.items() if value is not None}
        self.at = reply.value.at
        return reply.value

    def is_current(self) -> bool:
        seen = self.bench.node.sync.document
        return self.has == {(root, owner, key): value for root in ROOTS for owner, key, value in seen.entries(root)}


def test_first_everything_then_what_changes_as_it_changes() -> None:
    bench = NodeBench()
    follower = Follower(bench)
    first = follower.takes(follower.asks())
    assert first is not None
    assert first.whole
    assert ("agentMetadata", bench.me, "me") in follower.has
    for status in ("one", "two"):
        waiting = follower.asks()
        assert follower.takes(waiting) is None
        bench.passes(60_000)
        assert follower.takes(waiting) is None
        bench.asks(SetWork(files=("a.py",), status=status))
        news = follower.takes(waiting)
        assert news is not None
        assert [(entry.root, entry.owner) for entry in news.entries] == [("activeWork", bench.me)]
        assert not news.whole
        assert follower.is_current()


def test_what_changed_between_two_questions_is_told_at_once_and_each_entry_once() -> None:
    bench = NodeBench()
    follower = Follower(bench)
    follower.takes(follower.asks())
    for n in range(5):
        bench.asks(UpdateIssue(issue_id="I", fields={"x": n}))
    bench.asks(UpdateIssue(issue_id="J", fields={"y": 1}))
    bench.asks(UpdateIssue(issue_id="J", fields={"y": None}))
    news = follower.takes(follower.asks())
    assert news is not None
    assert len(news.entries) == 2
    assert follower.is_current()


def test_what_changed_together_is_told_together() -> None:
    bench = NodeBench()
    bench.asks(AcquireLease(resources=(Resource("file", "a.py"),)))
    follower = Follower(bench)
    follower.takes(follower.asks())
    waiting = follower.asks()
    bench.asks(ReleaseLease(everything=True))
    news = follower.takes(waiting)
    assert news is not None
    assert {(entry.root, entry.value is None) for entry in news.entries} == {("leases", True), ("leaseHistory", False)}
    assert follower.is_current()


def test_another_life_a_long_absence_and_a_made_up_place_are_answered_with_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "MAX_REMEMBERED", 3)
    bench = NodeBench()
    follower = Follower(bench)
    first = follower.takes(follower.asks())
    assert first is not None
    life, _, version = first.at.partition(".")
    for n in range(4):
        bench.asks(UpdateIssue(issue_id="I", fields={"x": n}))
    for place in ("1.1", first.at, f"{life}.{int(version) + 1_000}", f"{life}.", life, "x", f"{life}.{'9' * 17}"):
        answer = bench.asks(FollowDocument(since=place))
        assert answer.whole, place
    follower.at = f"{life}.{int(bench.asks(FollowDocument()).at.partition('.')[2]) - 1}"
    again = follower.takes(follower.asks())
    assert again is not None
    assert not again.whole


def test_who_has_gone_or_has_taken_it_back_is_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "MAX_WAITING", 2)
    bench = NodeBench()
    at = bench.asks(FollowDocument()).at
    gone, taken_back = bench.puts(FollowDocument(since=at), client=7), bench.puts(FollowDocument(since=at), client=8)
    with pytest.raises(CoordinationError, match="2 requests wait"):
        bench.asks(FollowDocument(since=at), client=9)
    bench.gives(ClientGone(client=7))
    bench.gives(RequestCancelled(client=8, request_id=taken_back))
    waiting = bench.puts(FollowDocument(since=at), client=8)
    bench.asks(SetWork(status="x"))
    assert [bench.answer(asked) is None for asked in (gone, taken_back, waiting)] == [True, True, False]


def test_a_document_that_is_too_large_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "MAX_WHOLE_BYTES", 200)
    bench = NodeBench()
    bench.asks(UpdateIssue(issue_id="I", fields={"x": "y" * 200}))
    with pytest.raises(CoordinationError, match="the shared document has more") as refused:
        bench.asks(FollowDocument())
    assert "coord leases" in refused.value.hint
