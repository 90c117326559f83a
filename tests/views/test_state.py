"""What a view shows, as it is told: no daemon, no clock."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from tests.views.scene import HERE, LEASES, NOW, THERE, event, iso, later, lease, message, status

from sudocode_coordination.model import Conflict, ForetoldConflict, LineRange, Resource
from sudocode_coordination.views.state import MAX_EVENTS, MAX_TOLD, STANDS_MS, Filter, Picture, clashes_of, instant_of


def picture(**more: Any) -> Picture:
    shown = Picture(NOW)
    shown.live(NOW)
    shown.took(status(**more), NOW)
    return shown


def conflict(agent: str, path: str, kind: Any = "lease", peer: str = THERE) -> Conflict:
    return Conflict(resource=Resource("file", path), kind=kind, agent_id=agent, peer_id=peer, note="token refresh")


def test_everything_is_sorted_and_in_its_place() -> None:
    shown = picture()
    assert [peer.agent_id for peer in shown.agents] == ["alice", "carol", "bob"]
    assert [claim.lease.agent_id for claim in shown.held] == ["bob", "alice", "bob", "dora"]
    assert [claim.lease.agent_id for claim in shown.queue] == ["carol"]
    assert [work.agent_id for work in shown.work] == ["alice", "bob"]
    assert shown.agent == "alice"
    assert Picture(NOW, "carol").agent == "carol"
    assert Picture(NOW).agent == ""


def test_time_left_counts_down_without_being_told() -> None:
    claim = picture().claims[LEASES[0].claim_id]
    assert claim.left_ms(NOW.instant) == 240_000
    assert claim.left_ms(later(200_500).instant) == 39_500
    assert claim.left_ms(later(500_000).instant) == 0


def test_a_renewal_needs_no_question() -> None:
    shown = picture()
    renewed = msgspec.structs.replace(LEASES[1], remaining_ms=300_000)
    assert shown.heard(event("lease-renewed", "bob", 5_000, lease=renewed), later(5_000)) == frozenset()
    assert shown.claims[renewed.claim_id].left_ms(later(5_000).instant) == 300_000
    # One that is replayed from before the status is not news; of an unknown lease, or unreadable, it is asked.
    old = msgspec.structs.replace(LEASES[1], remaining_ms=1_000)
    assert shown.heard(event("lease-renewed", "bob", -5_000, lease=old), later(6_000)) == frozenset()
    assert shown.claims[renewed.claim_id].left_ms(later(6_000).instant) == 299_000
    assert shown.heard(event("lease-renewed", "eve", 7_000, lease=lease(9, "eve", "x")), later(7_000)) == {"status"}
    assert shown.heard(event("lease-renewed", "eve", 8_000, lease={"odd": 1}), later(8_000)) == {"status"}


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("heartbeat-sent", set()),
        ("issue-updated", set()),
        ("lease-acquired", {"status", "conflicts"}),
        ("work-started", {"status", "conflicts"}),
        ("lease-queued", {"status"}),
        ("peer-connected", {"status"}),
        ("message-received", {"messages"}),
    ],
)
def test_an_event_says_what_to_ask_anew(kind: Any, parts: set[str]) -> None:
    assert picture().heard(event(kind, "bob", 1), later(1)) == parts


def test_events_are_kept_once_and_not_for_ever() -> None:
    shown = picture()
    for number in range(MAX_EVENTS + 20):
        shown.heard(event("work-started", f"a{number}", number), NOW)
    assert len(shown.happened) == MAX_EVENTS
    assert [shown.happened[0].number, shown.happened[-1].number] == [21, MAX_EVENTS + 20]
    assert shown.heard(event("work-started", f"a{MAX_EVENTS}", MAX_EVENTS), NOW) == frozenset()  # replayed after a reconnection
    assert len(shown.happened) == MAX_EVENTS
    assert shown.happened[-1].number == MAX_EVENTS + 20


def test_conflicts_that_stand_and_conflicts_that_were_told() -> None:
    shown = picture()
    shown.conflicts_are([("alice", conflict("bob", "src/auth.py"))])
    told = event("conflicts-detected", "alice", 0, conflicts=[conflict("bob", "src/auth.py"), conflict("eve", "a.py", "work")])
    shown.heard(told, NOW)
    shown.heard(event("conflicts-detected", "alice", 1, lease=LEASES[0], holder="bob"), later(1))
    found = shown.clashes(later(1).instant)
    # What stands is not told twice.
    assert [(c.others, c.names, c.what, bool(c.at)) for c in found] == [
        (("bob",), ("src/auth.py",), "holds it", False),
        (("bob",), ("src/api.py",), "wants it, with a higher priority", True),
        (("eve",), ("a.py",), "works on it", True),
    ]
    assert len({c.key for c in found}) == 3
    assert [c.at for c in shown.clashes(later(STANDS_MS + 2).instant)] == [""]
    # Those of long ago are not news when they are replayed.
    shown.heard(event("conflicts-detected", "alice", -STANDS_MS, conflicts=[conflict("eve", "z")]), NOW)
    assert len(shown.clashes(NOW.instant)) == 3
    for number in range(MAX_TOLD + 5):
        shown.heard(event("conflicts-detected", "alice", number + 10, conflicts=[conflict("eve", f"f{number}")]), NOW)
    assert len(shown.clashes(NOW.instant)) == MAX_TOLD + 1


def test_conflicts_of_another_version_are_shown_as_far_as_they_are_understood() -> None:
    (odd,) = clashes_of(event("conflicts-detected", "a", conflicts=[{"kind": "odd", "agentId": 7, "resource": ["file", "x"]}, 3]))
    assert (odd.others, odd.names, odd.what) == ((), ("x",), "odd")
    (overlap,) = clashes_of(event("conflicts-detected", "a", lease=LEASES[1], overlap={"agentId": "eve"}))
    assert overlap.others == ("eve",)
    assert overlap.names == ("src/auth.py", "src/tokens.py")
    (nothing,) = clashes_of(event("conflicts-detected", "a", lease={"resources": [5, ["x", "y"]]}))
    assert nothing.names == ()


def test_changes_that_would_not_merge() -> None:
    shown = picture()
    foretold = ForetoldConflict(
        path="src/auth.py",
        kind="contents",
        agents=("alice",),
        lines=(LineRange(3, 5),),
        their_agents=("bob", "eve"),
        their_peer_id=THERE,
        their_branch="fix",
        their_lines=(LineRange(7, 6),),
        since=iso(),
    )
    unsure = msgspec.structs.replace(foretold, certain=False, their_branch="", lines=(), their_lines=())
    shown.conflicts_are([], [foretold, unsure])
    assert [(c.others, c.what, c.detail) for c in shown.clashes(NOW.instant)] == [
        (("bob", "eve"), "would not merge", "contents, lines 3-5 here, line 7 there, on fix"),
        (("bob", "eve"), "may not merge", "contents"),
    ]
    # They are asked for, also when they are over; what an event tells of them is not kept beside it.
    assert shown.heard(event("conflicts-detected", "alice", 1, foretold=[foretold]), NOW) == {"conflicts"}
    assert shown.heard(event("conflicts-cleared", "alice", 2, foretold=[foretold]), NOW) == {"conflicts"}
    shown.conflicts_are([])
    assert shown.clashes(NOW.instant) == []


def test_who_waits_behind_a_lease() -> None:
    shown = picture()
    auth, docs = shown.claims[LEASES[1].claim_id], shown.claims[LEASES[2].claim_id]
    assert [claim.lease.agent_id for claim in shown.waiting_behind(auth)] == ["carol"]
    assert shown.waiting_behind(docs) == []
    # A name that only overlaps: the daemon knows.
    shown.blockers_are({LEASES[4].claim_id: (conflict("bob", "docs/"),), "over": ()})
    assert [claim.lease.agent_id for claim in shown.waiting_behind(docs)] == ["carol"]
    shown.took(status(leases=LEASES[:4]), later(1))
    assert shown.blockers == {}


def test_messages() -> None:
    shown = picture()
    for_me = message("m1", "bob", "done?", "alice")
    read = message("m2", "bob", "old", "alice", acknowledged_by=("alice",), sent_at=iso(-90_000))
    mine = message("m3", "alice", "soon", "bob", peer_id=HERE, remaining_ms=5_000, sent_at=iso(-1))
    shown.messages_are([read, for_me, mine], NOW)
    assert [letter.message.message_id for letter in shown.letters_by_age(NOW.instant)] == ["m3", "m1", "m2"]
    assert shown.unread(NOW.instant) == 1
    assert shown.is_own(mine)
    assert [letter.message.message_id for letter in shown.letters_by_age(later(6_000).instant)] == ["m1", "m2"]


def test_the_daemon_goes_and_comes() -> None:
    shown = Picture(NOW)
    assert shown.link.state == "connecting"
    shown.gone("no daemon runs", "coord start", later(1))
    shown.gone("no daemon runs", "coord start", later(900))
    assert (shown.link.state, shown.link.since, shown.link.hint) == ("gone", later(1), "coord start")
    shown.live(later(1_000))
    shown.live(later(2_000))
    assert (shown.link.state, shown.link.since) == ("live", later(1_000))


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("", True),
        ("auth", True),
        ("AUTH  refresh", True),
        ("auth nothing", False),
        ("-auth", False),
        ("auth -docs", True),
        ("agent:bo", True),
        ("agent:auth", False),
        ("agent:", False),
        ("-", True),
    ],
)
def test_filter(text: str, taken: bool) -> None:
    assert Filter(text).takes("src/auth-x.py token refresh", ("bob",)) is taken
    assert bool(Filter(text)) is bool(text)


def test_the_document_has_all_of_it() -> None:
    shown = picture()
    shown.messages_are([message("m1", "bob", "hi", "alice")], NOW)
    shown.blockers_are({LEASES[4].claim_id: (conflict("bob", "src/auth.py"),)})
    shown.conflicts_are([("alice", conflict("bob", "src/auth.py"))])
    shown.heard(event("work-started", "bob", 1), later(1))
    document = json.loads(json.dumps(shown.document(later(1_000))))
    assert set(document) == {"takenAt", "agentId", "agents", "work", "leases", "queue", "conflicts", "messages", "events"}
    assert document["leases"][0]["remainingMs"] == 29_000
    assert document["queue"][0]["blockedBy"][0]["agentId"] == "bob"
    assert document["conflicts"][0] == {
        "agents": ["alice"],
        "others": ["bob"],
        "names": ["src/auth.py"],
        "what": "holds it",
        "detail": "token refresh",
        "at": None,
    }
    assert Picture(NOW).document(NOW)["takenAt"] is None


def test_times() -> None:
    assert instant_of("1970-01-01T00:00:01.500Z") == 1_500
    assert instant_of("1970-01-01T00:00:01") == 1_000
    assert instant_of("soon") is None
