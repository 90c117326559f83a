"""Everything that mallory can name (agents, notes, statuses, files, fields, branches, capabilities, addresses, reasons) is put in
front of ann's people and agents: by tables and lines, with colour and without, and as JSON. It steers none of them."""

from __future__ import annotations

import io
import json
import re
import shlex
from typing import Any

import msgspec
import pytest
from tests.attacks.names import NASTY, is_plain
from tests.attacks.siege import Siege
from tests.core.feeds import Pen

from sudocode_coordination.api.answers import Foretelling
from sudocode_coordination.api.requests import (
    AcquireLease,
    CheckConflicts,
    GetFindings,
    GetStatus,
    LeaseHistory,
    LeaseOutcome,
    ListIssues,
    ListLeases,
    ListMessages,
    ListPeers,
    ListSpecs,
    ListWork,
    Waits,
)
from sudocode_coordination.cli import render
from sudocode_coordination.cli.conflicts import check_text
from sudocode_coordination.cli.foretold import _blocks as foretold_blocks
from sudocode_coordination.cli.history import history_blocks
from sudocode_coordination.cli.messages import messages_blocks
from sudocode_coordination.cli.parser import build_parser
from sudocode_coordination.cli.screen import Block, Screen, draw, plain_lines
from sudocode_coordination.cli.text import clean, json_text
from sudocode_coordination.core.io import Emit
from sudocode_coordination.core.wire import Claim, ClaimBody, End, Envelopes, Left
from sudocode_coordination.errors import CoordinationError
from sudocode_coordination.hooks.agents import briefing_lines
from sudocode_coordination.mcp import words
from sudocode_coordination.model import ForetoldConflict, Handover, Resource, SharedFile, SharedWork

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
"""What rich itself says to a terminal."""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def check(blocks: list[Block], document: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """Shown in every way that there is; the plain one comes back."""
    plain = "\n".join(line for block in blocks for line in plain_lines(block))
    assert is_plain(plain), plain
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    for width in (40, 80, 400):
        terminal = Terminal()
        draw(blocks, terminal, width)
        drawn = COLOUR.sub("", terminal.getvalue())
        assert is_plain(drawn), drawn
    for pretty in (False, True):
        text = json_text(msgspec.to_builtins(document), pretty=pretty)
        assert text.isascii()
        assert is_plain(text)
        assert json.loads(text) == json.loads(json.dumps(msgspec.to_builtins(document)))
    return plain


def besieged() -> Siege:
    """Mallory has written every nasty name everywhere where a name can be written."""
    siege, pen = Siege(), Pen("mallory")
    for n, name in enumerate(NASTY):
        entry = {
            "issues": [name], "specs": [name], "files": [name, f"src/{name}"], "status": name, "metadata": {name[:100]: name},
            "startedAt": name, "updatedAt": name,
        }  # fmt: skip
        field = {"fields": {name: {"value": name, "at": "000001800000000.000001"}, "b": {"value": {name: [name]}, "at": name}}}
        writes: dict[Any, Any] = {
            ("activeWork", f"m{n}"): entry,
            ("activeWork", name[:200]): entry,
            ("issueUpdates", f"m|{name[:200]}"): field,
            ("specUpdates", f"m|{name[:200]}"): field,
            ("issueUpdates", f"{name[:100]}|i"): field,
            ("agentMetadata", f"m{n}"): {"capabilities": [name, [name], {name: 1}]},
            ("agentMetadata", name[:200]): {"capabilities": [name]},
            ("fileDiffs", name[:200]): name,
            ("leases", f"1.{n}"): {
                "agent": "m", "resources": [["file", name], ["issue", name], ["component", name]], "mode": "exclusive",
                "priority": 0, "lamport": 1, "ttlMs": 60_000, "state": "granted", "grade": "provisional", "since": name[:40],
                "note": name[:4_000],
                "handover": {"commit": "c0ffee" + "0" * 34, "branch": name[:200], "agentId": "m", "at": name[:40]},
            },
            ("leases", name[:30]): {"agent": name},
            ("messages", f"m{n}"): {
                "sender": "m", "to": [name[:90], "ann"], "resource": ["file", name], "text": name[:1_000], "replyTo": name[:90],
                "kind": ("note", "release")[n % 2], "sentAt": name[:40], "sentMs": 1, "ttlMs": 3_600_000,
            },
            ("messages", name[:90]): {
                "sender": "m", "to": [], "text": name[:1_000], "replyTo": "", "sentAt": name[:40], "sentMs": 1, "ttlMs": 3_600_000,
            },
        }  # fmt: skip
        siege.says(*(Envelopes(envelopes=(pen.write({key: value}),)) for key, value in writes.items()))
        body = ClaimBody(
            f"{siege.mallory}.1.{1_000 + n}",
            "m",
            (Resource("spec", name), Resource("file", f"a/{name}")),
            "exclusive",
            0,
            1,
            60_000,
            name[:4_000],
        )
        siege.says(Claim(claim=body, round=1, hold_ms=60_000, granted=True))
    assert siege.reason == ""
    return siege


@pytest.fixture(scope="module")
def siege() -> Siege:
    return besieged()


def test_what_is_listed_steers_nothing(siege: Siege, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = siege.asks("ann", ListPeers())
    work = siege.asks("ann", ListWork())
    leases = siege.asks("ann", ListLeases(everyone=True))
    assert len(work) >= len(NASTY)
    assert len(leases) >= 2 * len(NASTY)
    assert all(re.fullmatch(r"[\w.@+-]+", entry.agent_id) for entry in [*peers, *work, *leases])
    check(render.peers_blocks(peers), peers, monkeypatch)
    check(render.work_blocks(work), work, monkeypatch)
    check(render.leases_blocks(leases), leases, monkeypatch)
    status = siege.asks("ann", GetStatus())
    check(render.status_blocks(status), status, monkeypatch)
    for updates in (siege.asks("ann", ListIssues()), siege.asks("ann", ListSpecs())):
        assert len(updates) >= len(NASTY) - 3
        check(render.updates_blocks(updates), updates, monkeypatch)
    findings = siege.asks("ann", GetFindings())
    check([f"{clean(f.name)}: {clean(f.message, 500)}" for f in findings], findings, monkeypatch)


def test_what_is_said_steers_nothing(siege: Siege, monkeypatch: pytest.MonkeyPatch) -> None:
    found = siege.asks("ann", ListMessages(everything=True))
    check(messages_blocks(found), found, monkeypatch)
    assert len(found) > len(NASTY)
    # An agent is told how to answer by a line that it may run: no name of mallory's gets into that.
    told = briefing_lines({"messages": msgspec.to_builtins(found)}, "ann")
    told += [line for one in found for line in briefing_lines({"messages": [msgspec.to_builtins(one)]}, "ann")]
    assert all(is_plain(line) and "\n" not in line for line in [*told, *words.message_lines(found)])
    commands = [line.rpartition("(answer: ")[2] for line in told if "(answer: " in line and "--reply" in line]
    assert commands
    assert all(re.fullmatch(r"coord --agent ann say --reply \w+ '…'\)", command) for command in commands)


def test_what_is_changed_elsewhere_steers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Foretelling(
        enabled=True,
        conflicts=tuple(
            ForetoldConflict(
                path=name, kind=name, agents=(name,), worktree=name, their_agents=(name,), their_peer_id=name, their_worktree=name,
                their_branch=name, since=name,
            )
            for name in NASTY
        ),
        works=tuple(
            SharedWork(
                agents=(name,), peer_id=name, worktree=name, branch=name, base=name, unknown=name,
                files=(SharedFile(path=name, change="added"),),
            )
            for name in NASTY
        ),
        trouble=NASTY[0],
    )  # fmt: skip
    check(foretold_blocks(answer), answer, monkeypatch)


def test_markup_is_shown_as_it_was_written(siege: Siege, monkeypatch: pytest.MonkeyPatch) -> None:
    work = siege.asks("ann", ListWork())
    plain = check(render.work_blocks(work), work, monkeypatch)
    assert "[bold red]alarm[/bold red]" in plain
    terminal = Terminal()
    draw(render.work_blocks(work), terminal, 4_000)
    assert "[bold red]alarm[/bold red]" in terminal.getvalue()
    assert ":smiley:" in terminal.getvalue()
    assert COLOUR.search(terminal.getvalue())  # ours alone
    assert "\x1b]8;" not in terminal.getvalue()  # no link


@pytest.mark.parametrize("name", NASTY, ids=range(len(NASTY)))
def test_what_an_agent_is_told_before_an_edit_is_one_line_for_each_conflict(siege: Siege, name: str) -> None:
    asked = (Resource("component", name), Resource("issue", name))
    try:
        found = siege.asks("ann", CheckConflicts(resources=asked)).conflicts
    except AssertionError:  # ann can't even ask for such a name
        return
    assert found
    text = check_text(msgspec.to_builtins(found), [name])
    assert is_plain(text)
    assert len(text.split("\n")) == len(found)


@pytest.mark.parametrize("name", NASTY, ids=range(len(NASTY)))
def test_refusals_and_hints_can_be_read_and_pasted(siege: Siege, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    conflict = siege.asks("ann", CheckConflicts(resources=(Resource("file", "a/"),))).conflicts[0]
    held = LeaseOutcome(
        granted=False, holders=(msgspec.structs.replace(conflict, note=name, resource=Resource("file", name)),), reason=name
    )
    waits = Waits(agent_id="m", peer_id=siege.mallory, holder_id="ann", resource=Resource("file", name), held=True)
    deadlock = LeaseOutcome(granted=False, reason="deadlock", cycle=(waits, waits))
    for outcome in (held, deadlock):
        message, hint = render.denial(outcome, ["src/a.py"])
        assert is_plain(message + hint)
        check([message, hint], [message, hint], monkeypatch)
    # The command that is proposed means the name, and no option of ours.
    (command,) = re.findall(r"`(coord release .*)` lets", render.denial(deadlock, [])[1], re.DOTALL)
    if "…" not in command:
        args = build_parser().parse_args(shlex.split(command)[1:])
        assert args.resources == [clean(name)]
        assert not args.all
    screen_says_no_more_than_text(CoordinationError(name, hint=name), monkeypatch)


def screen_says_no_more_than_text(error: CoordinationError, monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = Terminal(), Terminal()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    Screen(as_json=False).error(error)
    Screen(as_json=True).error(error)
    monkeypatch.undo()
    assert is_plain(err.getvalue())
    assert is_plain(out.getvalue())
    assert out.getvalue().isascii()


@pytest.mark.parametrize("name", NASTY, ids=range(len(NASTY)))
def test_a_branch_that_is_left_behind_becomes_no_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`git merge <what mallory says>` is a line that agents type."""
    siege = Siege()
    body = ClaimBody(f"{siege.mallory}.1.1", "mallory", (Resource("file", "src/a.py"),), "exclusive", 0, 1, 60_000)
    siege.says(Claim(claim=body, round=1, hold_ms=60_000, granted=True))
    left = Left(commit="c0ffee" + "0" * 34, branch=name[:250], at=name[:40], stamp=1)
    siege.says(End(id=body.id, left=left))
    lease = siege.asks("ann", AcquireLease(resources=body.resources), within_ms=15_000).lease
    assert lease.handover.commit == left.commit
    assert not lease.handover.branch.startswith("-")
    assert ".." not in lease.handover.branch
    for handover in (lease.handover, Handover(commit=left.commit, branch=name[:250], agent_id="m", at=name)):
        lines = render.handover_lines(handover, False)
        text = check(lines, handover, monkeypatch)
        word = shlex.split(text.split("then git merge ", 1)[1])[0] if "…" not in text else left.commit
        assert not word.startswith("-")


def test_history_steers_nothing(siege: Siege, monkeypatch: pytest.MonkeyPatch) -> None:
    history = siege.asks("ann", LeaseHistory(resources=()))
    from sudocode_coordination.model import HistoryEntry

    made = [
        HistoryEntry(
            claim_id=name, peer_id=name, agent_id=name, resources=(Resource("file", name),), granted_at=name, ended_at=name,
            reason=name, commit=name, branch=name, rival=name, signature=name,
        )
        for name in NASTY
    ]  # fmt: skip
    check(history_blocks([*history, *made], frozenset({NASTY[0]})), made, monkeypatch)


def test_events_are_one_ascii_line_each(siege: Siege) -> None:
    events = [effect.event for effect in siege.ann.effects if isinstance(effect, Emit)]
    assert len(events) > len(NASTY)
    for event in events:
        line = json_text(msgspec.to_builtins(event), pretty=False)
        assert line.isascii()
        assert is_plain(line)


def test_reasons_quote_nothing_that_steers() -> None:
    siege = Siege()
    siege.sends(msgspec.msgpack.encode([{"t": "hello", "\x1b[2J": 1, "incarnation": "\x1b]0;owned\x07"}]))
    assert siege.is_out()
    assert is_plain("\n".join(line for block in render.peers_blocks(siege.peers()) for line in plain_lines(block)))
