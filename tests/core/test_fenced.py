"""Fenced pushes: who may push, with what, and what a stale holder is told."""

from __future__ import annotations

from random import Random

import pytest
from tests.core.strict_bench import BIRTH, WALL, body_of

from sudocode_coordination.core import fenced
from sudocode_coordination.core.facts import Respond
from sudocode_coordination.core.fenced import FencedPushes, LostLease
from sudocode_coordination.core.holdings import Ticket
from sudocode_coordination.core.io import DiskContents, Persist, Reply, StoredValue, TableRead
from sudocode_coordination.core.lease_requests import LeaseRequests
from sudocode_coordination.core.strict_part import StrictPart
from sudocode_coordination.core.strict_post import ASK_MS, KEEP_MS, SHUN_MS
from sudocode_coordination.core.strict_table import apply
from sudocode_coordination.core.strict_writer import Built, TableWriter
from sudocode_coordination.core.wire import Lost, StrictAcquire, StrictRenew, StrictResult
from sudocode_coordination.errors import HeldError
from sudocode_coordination.model import Now, Resource

NOW = Now(BIRTH, WALL)
OP = StrictRenew("a.1.op1", ("a.1.1",))
MINE = LostLease(body_of("a", 1, "x.py"), 3, "expired", "")


def pushes() -> tuple[FencedPushes, TableWriter]:
    writer = TableWriter("a", Random(1), lambda _: False)
    return FencedPushes(writer), writer


def test_an_agent_without_strict_leases_has_nothing_to_prove() -> None:
    fenced_pushes, _ = pushes()
    (respond,) = fenced_pushes.prepare("ann", Ticket(1, 2), None, NOW)
    assert isinstance(respond, Respond)
    ready = fenced_pushes.take(Ticket(1, 2))
    assert ready is not None
    assert (ready.claims, ready.built.commit) == ((), "")
    assert fenced_pushes.take(Ticket(1, 2)) is None


def test_a_lost_lease_stands_in_the_way_until_it_is_let_go() -> None:
    fenced_pushes, writer = pushes()
    fenced_pushes.lose(MINE)
    with pytest.raises(HeldError, match=r"token 3, expired.*nobody is known"):
        fenced_pushes.prepare("agent-a", Ticket(1, 1), OP, NOW)
    changes = apply(writer.table, [StrictAcquire(body_of("b", 1, "x.py"), 1)], lambda _: False).changes
    writer.took(TableRead(commit="f" * 40, changed=changes), NOW)
    with pytest.raises(HeldError, match="agent-b has it with token 1"):
        fenced_pushes.prepare("agent-a", Ticket(1, 1), OP, NOW)
    assert fenced_pushes.prepare("somebody", Ticket(1, 1), None, NOW)
    fenced_pushes.let_go("agent-a", (Resource("file", "y.py"),))
    with pytest.raises(HeldError):
        fenced_pushes.prepare("agent-a", Ticket(1, 1), OP, NOW)
    fenced_pushes.let_go("agent-a", (Resource("file", "x.py"),))
    assert fenced_pushes.prepare("agent-a", Ticket(1, 1), OP, NOW) == []


def test_what_is_not_let_go_stays_lost() -> None:
    fenced_pushes, _ = pushes()
    fenced_pushes.lose(LostLease(body_of("a", 1, "x.py", "y.py", "z z.py"), 3, "expired", ""))
    fenced_pushes.let_go("agent-a", (Resource("file", "x.py"),))
    with pytest.raises(HeldError, match=r"on y.py, z z.py \(token 3") as refused:
        fenced_pushes.prepare("agent-a", Ticket(1, 1), OP, NOW)
    assert refused.value.hint.endswith("coord release y.py 'z z.py'")
    fenced_pushes.let_go("agent-a", (Resource("file", "y.py"), Resource("file", "z z.py")))
    assert fenced_pushes.prepare("agent-a", Ticket(1, 1), OP, NOW) == []


def test_what_was_lost_is_made_good_by_a_lease_on_all_of_it() -> None:
    fenced_pushes, _ = pushes()
    fenced_pushes.lose(LostLease(body_of("a", 1, "x.py", "y.py"), 3, "expired", ""))
    fenced_pushes.regained(body_of("a", 2, "x.py"))
    with pytest.raises(HeldError, match="token 3"):
        fenced_pushes.prepare("agent-a", Ticket(1, 1), OP, NOW)
    fenced_pushes.regained(body_of("a", 3, "x.py", "y.py"))
    assert fenced_pushes.prepare("agent-a", Ticket(1, 1), OP, NOW) == []


def test_lost_leases_are_bounded_and_all_can_be_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fenced, "MAX_LOST", 2)
    fenced_pushes, _ = pushes()
    for n in range(1, 5):
        fenced_pushes.lose(LostLease(body_of("a", n, f"{n}.py"), n, "expired", ""))
    with pytest.raises(HeldError, match="token 3"):
        fenced_pushes.prepare("agent-a", Ticket(1, 1), OP, NOW)
    fenced_pushes.let_go("agent-a", (), everything=True)
    assert fenced_pushes.prepare("agent-a", Ticket(1, 1), OP, NOW) == []


def kept(pushes: FencedPushes) -> DiskContents:
    """The disk as it is then."""
    (persist,) = pushes.keep()
    assert isinstance(persist, Persist)
    assert pushes.keep() == []
    return DiskContents(values=tuple(op for op in persist.operations if isinstance(op, StoredValue)))


def test_what_is_lost_is_kept_until_it_is_let_go() -> None:
    first, _ = pushes()
    assert first.keep() == [], "most never lose any"
    first.lose(MINE)
    second, _ = pushes()
    second.started("a", kept(first), (), NOW)
    assert second.keep() == [], "it is on the disk"
    with pytest.raises(HeldError, match="token 3, expired"):
        second.prepare("agent-a", Ticket(1, 1), OP, NOW)
    second.let_go("agent-a", (Resource("file", "x.py"),))
    assert kept(second).values == ()


def test_what_is_damaged_on_the_disk_keeps_nobody_from_starting() -> None:
    fenced_pushes, _ = pushes()
    damaged = tuple(StoredValue(space=fenced.SPACE, key="lost", data=data) for data in (b"", b"\xc1", b"\x91\x01"))
    fenced_pushes.started("a", DiskContents(values=damaged), (), NOW)
    assert fenced_pushes.prepare("agent-a", Ticket(1, 1), OP, NOW) == []


def test_only_what_was_in_the_table_was_lost_with_a_daemon() -> None:
    entry = {"agent": "ann", "mode": "exclusive", "priority": 0, "lamport": 1, "ttlMs": 60_000, "since": "2026-01-01T00:00:00.000Z"}
    entry |= {"state": "granted", "grade": "strict", "strict": True, "token": 4, "resources": [["file", "x.py"]]}
    other = [["file", "y.py"]]
    held = [
        ("1.1", entry),
        ("1.2", entry | {"resources": other, "token": None}),
        ("1.3", entry | {"resources": other, "state": "pending"}),
        ("1.4", entry | {"resources": other, "mode": "none of these"}),
    ]
    fenced_pushes, _ = pushes()
    fenced_pushes.started("a", DiskContents(), held, NOW)
    with pytest.raises(HeldError, match=r"x\.py \(token 4, restarted\)"):
        fenced_pushes.prepare("ann", Ticket(1, 1), OP, NOW)
    fenced_pushes.let_go("ann", (Resource("file", "x.py"),))
    assert fenced_pushes.prepare("ann", Ticket(1, 1), OP, NOW) == []


def test_what_a_full_disk_did_not_take_is_kept_when_there_is_room() -> None:
    fenced_pushes, _ = pushes()
    fenced_pushes.disk_works()
    assert fenced_pushes.keep() == []
    fenced_pushes.lose(MINE)
    assert kept(fenced_pushes).values
    fenced_pushes.disk_works()
    assert kept(fenced_pushes).values
    fenced_pushes.let_go("agent-a", (), everything=True)
    assert kept(fenced_pushes).values == ()
    fenced_pushes.disk_works()
    assert kept(fenced_pushes).values == ()


def test_agents_who_lost_some_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fenced, "MAX_LOSERS", 2)
    fenced_pushes, _ = pushes()
    for agent in ("a", "b", "a", "c"):
        fenced_pushes.lose(LostLease(body_of(agent, 1, "x.py"), 3, "expired", ""))
    assert fenced_pushes.prepare("agent-b", Ticket(1, 1), OP, NOW) == []
    for agent in ("agent-a", "agent-c"):
        with pytest.raises(HeldError):
            fenced_pushes.prepare(agent, Ticket(1, 2), OP, NOW)


@pytest.mark.parametrize(
    ("built", "code", "says"),
    [
        (Built(OP, result=StrictResult("done", lost=(Lost("a.1.1", "gone"),))), "held", "is lost"),
        (Built(OP, result=StrictResult("done", lost=(Lost("a.1.1", "preempted", "bob"),))), "held", "higher priority: bob"),
        (Built(OP, failure="unreachable", reason="no route"), "remote", "no route"),
    ],
)
def test_a_commit_that_can_not_be_made_is_an_error(built: Built, code: str, says: str) -> None:
    fenced_pushes, _ = pushes()
    fenced_pushes.prepare("ann", Ticket(1, 1), OP, NOW)
    (reply,) = fenced_pushes.made(built)
    assert isinstance(reply, Reply)
    assert reply.error is not None
    assert reply.error.code == code
    assert says in reply.error.message
    assert fenced_pushes.made(built) == [], "answered once"


def test_what_landed_is_told_once_and_the_table_is_read() -> None:
    fenced_pushes, writer = pushes()
    fenced_pushes.prepare("ann", Ticket(1, 1), OP, NOW)
    fenced_pushes.made(Built(OP, commit="c" * 40, parent="b" * 40, ref="r", objects="/o"))
    ready = fenced_pushes.take(Ticket(1, 1))
    assert ready is not None
    assert (ready.claims, ready.at, ready.built.commit) == (("a.1.1",), BIRTH, "c" * 40)
    fenced_pushes.done("d" * 40, landed=True)
    assert fenced_pushes.landed() == []
    fenced_pushes.done("c" * 40, landed=True)
    assert writer.wants_read
    assert [fencing.claims for fencing in fenced_pushes.landed()] == [("a.1.1",)]
    assert fenced_pushes.landed() == []


def test_an_asker_gives_up_before_the_writer_does() -> None:
    assert ASK_MS < KEEP_MS < SHUN_MS
    assert issubclass(LeaseRequests, StrictPart)
