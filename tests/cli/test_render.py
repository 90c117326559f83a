"""Answers as people see them: complete, safe, and no wider than the terminal."""

from __future__ import annotations

import io
import shlex
from datetime import UTC, datetime

import pytest
from rich.cells import cell_len

from sudocode_coordination.api.requests import AgentInfo, LeaseOutcome, RemoteHealth, Status, Waits
from sudocode_coordination.cli import render
from sudocode_coordination.cli.conflicts import MAX_LINES, check_text, conflict_line
from sudocode_coordination.cli.screen import Block, draw, plain_lines
from sudocode_coordination.model import ActiveWork, Conflict, Draft, FieldUpdate, IssueUpdate, Lease, PeerInfo, Resource, SpecUpdate

EVIL = "\x1b[31mbob\u202e\r\n"
SINCE = "2026-01-01T00:00:00Z"
PEER = "12D3KooWJ7qFZ9R3xV2xZs7vhm4F3pQbD1yTn4y8cKqkq3xZ9abc"


def lease(**changes: object) -> Lease:
    values: dict[str, object] = {
        "claim_id": f"{PEER}.1.1",
        "peer_id": PEER,
        "agent_id": "bob",
        "resources": (Resource("file", "src/a.py"),),
        "ttl_ms": 300_000,
        "remaining_ms": 252_000,
        "since": SINCE,
        "grade": "quorum",
    }
    return Lease(**{**values, **changes})  # type: ignore[arg-type]


def peer(**changes: object) -> PeerInfo:
    values: dict[str, object] = {
        "agent_id": "bob",
        "peer_id": PEER,
        "connection": "direct",
        "address": "/ip4/192.168.178.123/tcp/43210",
        "latency_ms": 1.234,
        "last_seen": SINCE,
        "capabilities": ("code", "review", "test"),
        "leases_held": 2,
    }
    return PeerInfo(**{**values, **changes})  # type: ignore[arg-type]


def status(**changes: object) -> Status:
    values: dict[str, object] = {
        "state": "active",
        "peer_id": PEER,
        "agents": (AgentInfo(agent_id="alice", capabilities=("code",), default=True, leases_held=1),),
        "addresses": ("/ip4/10.0.0.1/tcp/4001",),
        "peers": (
            peer(agent_id="alice", connection="self", peer_id="me"),
            peer(),
            peer(agent_id="carol", connection="disconnected"),
        ),
        "work": (ActiveWork(agent_id="bob", peer_id=PEER, issues=("#42",), status="Token", started_at=SINCE, updated_at=SINCE),),
        "leases": (lease(), lease(agent_id="carol", state="pending", mine=True)),
        "remote": RemoteHealth(
            name="origin", branch="coordination", state="ok", commit="0123456789abcdef", last_read=SINCE, pushes=1
        ),
        "roster": (PEER, "me"),
        "partition_policy": "open",
        "started_at": SINCE,
        "version": "0.1.0",
    }
    return Status(**{**values, **changes})  # type: ignore[arg-type]


def plain(blocks: list[Block]) -> str:
    return "\n".join(line for block in blocks for line in plain_lines(block))


def drawn(blocks: list[Block], width: int) -> str:
    stream = io.StringIO()
    draw(blocks, stream, width)
    return stream.getvalue()


def work(**changes: object) -> ActiveWork:
    values: dict[str, object] = {"agent_id": EVIL, "peer_id": PEER, "started_at": SINCE, "updated_at": EVIL}
    return ActiveWork(**{**values, **changes})  # type: ignore[arg-type]


FIELDS = {
    EVIL: FieldUpdate(value={"x": EVIL}, agent_id=EVIL, updated_at=SINCE),
    "s": FieldUpdate(value=EVIL, agent_id="a", updated_at=EVIL),
}
HOSTILE: list[list[Block]] = [
    render.status_blocks(
        status(
            agents=(AgentInfo(agent_id=EVIL, capabilities=(), default=True, leases_held=0),),
            addresses=(EVIL,),
            problems=(EVIL,),
            remote=RemoteHealth(name=EVIL, branch=EVIL, state="unreachable", since=EVIL, reason=EVIL),
            version=EVIL,
            peer_id=EVIL,
            started_at=EVIL,
        )
    ),
    render.peers_blocks([peer(agent_id=EVIL, address=EVIL, last_seen=EVIL, capabilities=(EVIL,), reason=EVIL)]),
    render.leases_blocks([lease(agent_id=EVIL, note=EVIL, resources=(Resource("file", EVIL),))]),
    render.work_blocks([work(issues=(EVIL,), specs=(EVIL,), files=(EVIL,), status=EVIL)]),
    render.updates_blocks([IssueUpdate(issue_id=EVIL, fields=FIELDS)]),
    render.updates_blocks([SpecUpdate(spec_path=EVIL, fields=FIELDS)]),
    render.drafts_blocks([Draft(draft_id=EVIL, agent_id=EVIL, kind="issue", target=EVIL, fields={EVIL: 1}, created_at=EVIL)]),
    [render.granted_line(lease(agent_id=EVIL, resources=(Resource("file", EVIL),)), 0)],
]


@pytest.mark.parametrize("blocks", HOSTILE)
def test_hostile_strings_never_reach_the_terminal(blocks: list[Block]) -> None:
    for text in (plain(blocks), drawn(blocks, 80)):
        assert "bob" in text
        for line in text.split("\n"):
            assert line.isprintable(), repr(line)


@pytest.mark.parametrize("width", [80, 40, 200])
def test_never_wider_than_the_terminal(width: int) -> None:
    long_id = "agent-" + "x" * 90
    blocks = [
        *render.status_blocks(status(peers=(peer(agent_id=long_id), peer(agent_id="日本語" * 20)))),
        *render.leases_blocks([lease(agent_id=long_id, note="n" * 500, resources=(Resource("file", "d/" * 200),))]),
        *render.work_blocks([work(agent_id=long_id, files=("f" * 300,))]),
        *render.updates_blocks([IssueUpdate(issue_id="i" * 200, fields=FIELDS)]),
    ]
    assert max(cell_len(line) for line in drawn(blocks, width).split("\n")) <= width


def test_status_at_80_columns_shows_who_and_what() -> None:
    text = drawn(render.status_blocks(status()), 80)
    for word in (
        "active: alice",
        "bob",
        "carol",
        "direct",
        "disconnected",
        "src/a.py",
        "waiting",
        "4m12s",
        "#42",
        "origin/coordination",
    ):
        assert word in text


def test_on_a_narrow_terminal_addresses_go_below() -> None:
    blocks = render.peers_blocks([peer(agent_id="agent-vm-5eafed32680b")])
    assert "    /ip4/192.168.178.123/tcp/43210  code,review,test\n" in drawn(blocks, 80)
    wide = drawn(blocks, 200).split("\n")
    assert wide[0].split() == ["agent", "connection", "address", "latency", "seen", "leases", "capabilities"]
    assert "/ip4/192.168.178.123/tcp/43210" in wide[1]


def test_status_in_plain_words() -> None:
    text = plain(render.status_blocks(status(problems=("the disk is full",))))
    assert text.startswith("active: alice\n")
    assert "1 push" in text
    assert "1 of 1 other clones connected, 2 on the branch, policy open" in text
    assert "problem  the disk is full" in text
    assert "bob" in text
    unreachable = RemoteHealth(name="origin", branch="coordination", state="unreachable", since=SINCE, reason="timed out")
    assert "unreachable since" in plain(render.status_blocks(status(remote=unreachable)))
    unknown = RemoteHealth(name="origin", branch="coordination", state="unknown")
    assert "not read yet" in plain(render.status_blocks(status(remote=unknown)))


def test_plain_tables_are_aligned_and_complete() -> None:
    lines = plain_lines(render.leases_blocks([lease(), lease(agent_id="carol", state="pending")])[0])
    assert lines[0].split() == ["RESOURCE", "AGENT", "STATE", "PRIORITY", "LEFT", "NOTE"]
    assert lines[1].split() == ["src/a.py", "bob", "held", "0", "4m12s", "-"]
    assert lines[2].split() == ["src/a.py", "carol", "waiting", "0", "-", "-"]
    assert lines[1].index("held") == lines[2].index("waiting")
    assert "waiting, place 2 " in plain(render.leases_blocks([lease(agent_id="carol", state="pending", position=2)]))


def test_nothing_to_show_is_said() -> None:
    for blocks in (
        render.peers_blocks([]),
        render.leases_blocks([]),
        render.work_blocks([]),
        render.updates_blocks([]),
        render.drafts_blocks([]),
    ):
        assert plain(blocks).strip()


def conflict(**changes: object) -> Conflict:
    values: dict[str, object] = {"resource": Resource("file", "src/a.py"), "kind": "lease", "agent_id": "bob", "peer_id": PEER}
    return Conflict(**{**values, **changes})  # type: ignore[arg-type]


def test_a_deadlock_names_the_circle_and_what_to_release() -> None:
    waits = [("ann", "src/b.py", "ben"), ("ben", "src/a b.py", "ann")]
    cycle = tuple(Waits(agent_id=a, peer_id="p", resource=Resource("file", path), holder_id=b, held=True) for a, path, b in waits)
    message, hint = render.denial(LeaseOutcome(granted=False, reason="deadlock", cycle=cycle), ["src/b.py"])
    assert message == "deadlock: ann waits for src/b.py of ben, ben waits for src/a b.py of ann"
    assert "`coord release 'src/a b.py'`" in hint
    _, hint = render.denial(LeaseOutcome(granted=False, reason="deadlock", cycle=cycle), ["src/b.py"], "helper")
    assert "`coord --agent helper release" in hint


def test_denial_names_the_holder_and_the_way_on() -> None:
    held = conflict(priority=5, remaining_ms=252_000, note="refactoring")
    message, hint = render.denial(LeaseOutcome(granted=False, holders=(held,), reason="held"), ["src/a.py"])
    assert message == "src/a.py: held by bob (priority 5, 4m12s left): refactoring"
    assert "coord lease src/a.py --wait" in hint
    assert "--priority 6" in hint
    _, hint = render.denial(LeaseOutcome(granted=False, holders=(held,), reason="held"), ["src/a.py"], "helper")
    assert "`coord --agent helper lease src/a.py --wait`" in hint, "typed as it stands, it is the same agent's"
    message, _ = render.denial(LeaseOutcome(granted=False, reason="no majority"), [])
    assert message == "no majority"
    message, _ = render.denial(LeaseOutcome(granted=False, reason="no-answer"), [])
    assert message == "too few peers answered in time (no-answer)"


def test_a_command_that_is_proposed_means_the_same_in_a_shell() -> None:
    asked = ["src/**/user.py", "it's here/", "app/[id]", "issue:#42", "$HOME", "--shared"]
    _, hint = render.denial(LeaseOutcome(granted=False, holders=(conflict(),), reason="held"), asked)
    assert "`coord lease 'src/**/user.py' " in hint
    command = hint[hint.index("`") + 1 : hint.rindex("`")]
    assert shlex.split(command) == ["coord", "lease", *asked, "--wait"]
    _, hint = render.denial(LeaseOutcome(granted=False, holders=(conflict(),), reason="held"), [f"{n}.py" for n in range(99)])
    assert len(hint) < 120


def test_conflict_lines() -> None:
    issue = {"resource": ["issue", "#42"], "kind": "work", "agentId": "carol", "note": "Token refresh"}
    assert conflict_line(issue) == "issue:#42: carol works on it: Token refresh"
    assert (
        conflict_line({"resource": ["file", "a"], "kind": "waiting", "agentId": "c", "priority": 0, "remainingMs": 12_000})
        == "a: c waits for it (priority 0)"
    )
    many = [issue] * (MAX_LINES + 5)
    assert check_text(many, ["x"]).split("\n")[-1].startswith("… and 5 more")
    assert check_text([], ["src/a.py"]) == "free: src/a.py"
    assert check_text([], ["a", "b"]) == "free: all 2"


def test_provisional_grants_say_so() -> None:
    assert "may overlap" in render.granted_line(lease(grade="provisional"), 0)
    assert "after 2s" in render.granted_line(lease(), 2_000)
    assert "may overlap" not in render.granted_line(lease(), 0)


def test_ago() -> None:
    now = datetime(2026, 1, 1, 0, 0, 10, tzinfo=UTC)
    assert render.ago("2026-01-01T00:00:00Z", now) == "10s ago"
    assert render.ago("2026-01-01T00:00:09.500Z", now) == "now"
    assert render.ago("2026-01-01T00:01:10", now) == "in 1m"
    assert render.ago(None) == "-"
    assert render.ago("\x1bgarbage") == "�garbage"
