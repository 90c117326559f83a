"""What is said in words, and small decisions."""

from __future__ import annotations

import re
from typing import get_args

from sudocode_coordination.api.events import EventType
from sudocode_coordination.api.requests import LeaseOutcome, Waits
from sudocode_coordination.errors import NoDaemonError
from sudocode_coordination.mcp import link, news, shapes, tools, waiting, words
from sudocode_coordination.model import (
    AGENT_ID_PATTERN,
    Conflict,
    FieldUpdate,
    Handover,
    IssueUpdate,
    Lease,
    Message,
    Resource,
    SpecUpdate,
)

FILE = Resource("file", "src/a.py")
HELD = Conflict(resource=FILE, kind="lease", agent_id="bob", peer_id="p", priority=0, remaining_ms=60_000, note="moving it")


def _lease(**more: object) -> Lease:
    fields: dict[str, object] = {
        "claim_id": "p.1.1",
        "peer_id": "p",
        "agent_id": "alice",
        "resources": (FILE, Resource("issue", "#42")),
        "grade": "quorum",
        "ttl_ms": 300_000,
        "remaining_ms": 240_000,
        "since": "2026-01-31T14:05:00.000Z",
    }
    return Lease(**{**fields, **more})  # type: ignore[arg-type]


def test_resources_are_written_as_tools_take_them() -> None:
    shape = shapes.LeaseShape.model_validate(_lease())
    dumped = shape.model_dump(mode="json", by_alias=True)
    assert dumped["resources"] == ["src/a.py", "issue:#42"]
    assert (dumped["agentId"], dumped["remainingMs"], dumped["handover"]) == ("alice", 240_000, None)


def test_a_grant_says_what_to_build_on_and_what_is_not_sure() -> None:
    handover = Handover(commit="c0ffee", branch="feature/x", agent_id="bob", at="2026-01-31T14:05:00.000Z")
    lease = shapes.LeaseShape.model_validate(_lease(handover=handover, grade="provisional", token=7))
    text = words.granted_text(lease, 61_000)
    assert "leased src/a.py, issue:#42 to alice after 1m01s with fencing token 7" in text
    assert "bob left commit c0ffee on feature/x behind" in text
    assert "provisional" in text


def test_a_denial_says_who_and_what_can_be_done() -> None:
    fields = shapes.outcome_fields(LeaseOutcome(granted=False, reason="held", holders=(HELD,)))
    result = shapes.LeaseResult(agent_id="alice", **fields)
    assert "src/a.py: held by bob" in words.denied_text(result.holders, result.reason, result.cycle)
    hint = words.what_next(result.holders, result.reason, result.cycle)
    assert "wait_for_lease" in hint
    assert "about='src/a.py'" in hint
    assert "again" in words.what_next(result.holders, "timeout", ())


def test_a_deadlock_names_the_circle() -> None:
    circle = (
        Waits(agent_id="alice", peer_id="p", resource=FILE, holder_id="bob", held=True),
        Waits(agent_id="bob", peer_id="q", resource=Resource("issue", "#42"), holder_id="alice", held=True),
    )
    fields = shapes.outcome_fields(LeaseOutcome(granted=False, reason="deadlock", cycle=circle))
    result = shapes.LeaseResult(agent_id="alice", **fields)
    text = words.denied_text(result.holders, result.reason, result.cycle)
    assert "alice waits for src/a.py, which bob has; bob waits for issue:#42, which alice has" in text
    assert "Release" in words.what_next(result.holders, result.reason, result.cycle)


def test_too_few_peers_is_no_holder() -> None:
    assert "too few peers" in words.denied_text((), "no-answer", ())
    assert "status" in words.what_next((), "no-answer", ())


def test_an_error_has_its_code_and_the_next_step() -> None:
    result = tools.error_result(NoDaemonError("no daemon runs in /x", hint="start one with `coord start`"))
    assert result.is_error
    assert result.structured_content == {
        "error": {"code": "no-daemon", "message": "no daemon runs in /x", "hint": "start one with `coord start`"}
    }
    assert result.content[0].model_dump()["text"] == "no daemon runs in /x (no-daemon). Next: start one with `coord start`."


def test_words_of_others_stay_on_one_line() -> None:
    message = Message(
        message_id="1",
        agent_id="bob",
        peer_id="p",
        text="a\nb\x1b[31m",
        kind="release",
        resource=FILE,
        sent_at="2026-01-31T14:05:00Z",
    )
    (line,) = words.message_lines([shapes.MessageShape.model_validate(message)])
    assert line.startswith("bob (message 1) asks you to release src/a.py: a b")
    assert line.isprintable()
    lost = shapes.LostShape(resources=("src/a.py",), reason="preempted", holder="bob", at="")
    assert words.lost_lines([lost])[0].startswith("you lost the lease on src/a.py to bob (preempted)")


def test_long_lists_end_in_a_number() -> None:
    many = [shapes.ConflictShape.model_validate(HELD)] * (words.MAX_LINES + 5)
    assert words.conflict_text(many)[-1] == "… and 5 more"
    assert words.names(["x"] * (words.MAX_NAMES + 2)).endswith("and 2 more")
    shown, more = shapes.listed(shapes.ConflictShape, [HELD] * (shapes.MAX_LISTED + 3))
    assert (len(shown), more) == (shapes.MAX_LISTED, 3)


def test_live_fields_have_the_name_of_what_they_belong_to() -> None:
    field = FieldUpdate(value="done", agent_id="bob", updated_at="2026-01-31T14:05:00.000Z")
    issue = shapes.update_shape(IssueUpdate(issue_id="#42", fields={"status": field}))
    assert (issue.name, issue.written_by("bob"), issue.written_by("alice")) == ("issue:#42", True, False)
    assert words.update_lines([issue]) == ["issue:#42: status = done (bob)"]
    assert shapes.update_shape(SpecUpdate(spec_path="specs/a.md", fields={})).name == "spec:specs/a.md"


def test_the_place_in_line_is_that_of_the_claim_on_the_same() -> None:
    own = [
        _lease(),
        _lease(state="pending", position=3, resources=(FILE,)),
        _lease(state="pending", position=1, resources=(Resource("file", "other.py"),)),
    ]
    assert waiting.place_of(own, (FILE,)) == 3
    assert waiting.place_of(own, (Resource("file", "./src/a.py"),)) == 1
    assert waiting.place_of(own[:1], (FILE,)) is None


def test_progress_changes_when_the_line_does_and_not_with_time() -> None:
    first = waiting.standing(2, [HELD])
    assert first == "place 2 in line; src/a.py: held by bob (priority 0): moving it"
    later = Conflict(resource=FILE, kind="lease", agent_id="bob", peer_id="p", priority=0, remaining_ms=1, note="moving it")
    assert waiting.standing(2, [later]) == first
    assert waiting.standing(1, []) == "place 1 in line"


def test_every_event_makes_known_resources_out_of_date() -> None:
    known = {news.STATUS, news.LEASES, news.WORK, news.UPDATES}
    by_event = {event: news.changed_by(event) for event in get_args(EventType)}
    assert set().union(*by_event.values()) == known
    assert by_event["lease-acquired"] == {news.LEASES, news.STATUS}
    assert by_event["heartbeat-sent"] == frozenset()


def test_a_name_is_made_of_the_clients() -> None:
    assert re.fullmatch(r"claude-code-\d+-[0-9a-f]{4}", link.made_up("Claude Code (beta)").replace("-beta", ""))
    for odd in (None, "", "…", "x" * 500, "-a-"):
        assert AGENT_ID_PATTERN.match(link.made_up(odd))
