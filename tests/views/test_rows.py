"""What stands in the lists, and what is said about one thing."""

from __future__ import annotations

from typing import Any

import pytest
from tests.views.scene import HERE, LEASES, NOW, THERE, event, iso, later, lease, message, peer, status, work
from tests.views.test_state import conflict, picture

from sudocode_coordination.api.requests import RemoteHealth
from sudocode_coordination.model import Handover, HistoryEntry, Now, Resource
from sudocode_coordination.views.details import MAX_LINES, More, details, holders, resources_about, title_of
from sudocode_coordination.views.rows import TABS, Tab, age, recent, shown_rows, told
from sudocode_coordination.views.state import Claim, Filter, Picture

BY_NAME = {tab.name: tab for tab in TABS}


def shown(tab: str, of: Picture, chosen: str = "", now: Now = NOW) -> list[tuple[str, ...]]:
    return [tuple(cell.shown(now).text for cell in row.cells) for row in shown_rows(BY_NAME[tab], of, Filter(chosen), now)]


def full() -> Picture:
    of = picture()
    of.blockers_are({LEASES[4].claim_id: (conflict("bob", "src/auth.py"),)})
    of.conflicts_are([("alice", conflict("bob", "src/auth.py"))])
    of.messages_are([message("m1", "bob", "are you done?", "alice", kind="release", resource=Resource("file", "a.py"))], NOW)
    of.heard(event("lease-acquired", "bob", 1, lease=LEASES[1]), NOW)
    of.heard(event("heartbeat-sent", "alice", 2, count=1), NOW)
    return of


def test_leases() -> None:
    assert shown("leases", full()) == [
        ("docs/", "bob", "provisional, shared", "30s", "-", "0", "-"),
        ("src/api.py", "alice *", "held", "4m", "-", "0", "pagination"),
        ("src/auth.py, src/tokens.py", "bob", "held", "4m", "1", "5", "token refresh"),
        ("issue:#42", "dora", "strict 17", "4m", "-", "0", "-"),
    ]
    assert [row[3] for row in shown("leases", full(), now=later(35_500))] == ["over", "3m24s", "3m24s", "3m24s"]


def test_the_other_lists() -> None:
    of = full()
    assert shown("queue", of) == [("src/auth.py", "carol *", "1", "bob", "1m ago", "0", "-")]
    assert shown("work", of)[1] == ("bob", "src/auth.py", "Token refresh", "30s ago")
    assert shown("agents", of)[0][:2] == ("alice *", "this clone")
    assert shown("agents", of)[2] == ("bob", "direct", "12ms", "2s ago", "2", "code,review", "/ip4/192.0.2.7/tcp/4001")
    assert shown("conflicts", of) == [("alice *", "src/auth.py", "bob", "holds it", "now", "token refresh")]
    assert shown("messages", of) == [("new", "bob", "alice", "asks to release: [a.py] are you done?", "10s ago", "-")]
    assert [row[1:] for row in shown("events", of)] == [
        ("heartbeat-sent", "alice", "-"),
        ("lease-acquired", "bob", "src/auth.py, src/tokens.py"),
    ]
    assert [row.text(NOW)[9:] for row in recent(of, 5)] == ["bob lease-acquired src/auth.py, src/tokens.py"]


def test_filters_see_what_is_shown_and_whom_it_concerns() -> None:
    assert [row[1] for row in shown("leases", full(), "token")] == ["bob"]
    assert [row[0] for row in shown("leases", full(), "agent:bob -docs")] == ["src/auth.py, src/tokens.py"]
    assert [row[1] for row in shown("queue", full(), "agent:bob")] == ["carol *"]
    assert shown("leases", full(), "nothing") == []


@pytest.mark.parametrize("tab", TABS, ids=lambda tab: tab.name)
def test_nothing_that_steers_a_terminal_gets_into_a_row(tab: Tab) -> None:
    evil = "\x1b]0;x\x07\x9b2J\u202e\u200b\nq\udcff"
    of = Picture(NOW)
    of.took(
        status(
            leases=(lease(1, evil, evil, note=evil), lease(2, evil, evil, state="pending", note=evil)),
            work=(work(evil, THERE, evil, status=evil),),
            peers=(peer(evil, THERE),),
            problems=(evil,),
            remote=RemoteHealth(name=evil, branch=evil, state="ok"),
        ),
        NOW,
    )
    of.messages_are([message("m", evil, evil, evil, resource=Resource("issue", evil))], NOW)
    of.conflicts_are([(evil, conflict(evil, evil))])
    of.heard(event("conflicts-detected", evil, 1, conflicts=[conflict(evil, evil)], reason=evil), NOW)
    rows = shown_rows(tab, of, Filter(), NOW)
    assert rows
    for row in rows:
        more = More(conflicts=(conflict(evil, evil),), history=(entry(agent_id=evil, reason=evil, branch=evil),), trouble=evil)
        lines = [*details(of, row.item, NOW, more), *details(of, row.item, NOW)]
        texts = [cell.shown(NOW).text for cell in row.cells] + [part for line in lines for part in line] + [title_of(row.item)]
        assert [text for text in texts if not text.isprintable()] == []


def entry(**more: Any) -> HistoryEntry:
    values: dict[str, Any] = {
        "claim_id": "c",
        "peer_id": THERE,
        "agent_id": "dora",
        "resources": (Resource("file", "src/auth.py"),),
        "granted_at": iso(-600_000),
        "ended_at": iso(-300_000),
        "reason": "released",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "branch": "main",
        "signature": "",
        **more,
    }
    return HistoryEntry(**values)


def said(of: Picture, item: Any, more: More | None = None) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    label = ""
    for line in details(of, item, NOW, more):
        label = line.label or label
        found.setdefault(label, []).append(line.text)
    return found


def test_a_lease_in_full() -> None:
    of = full()
    claim = of.claims[LEASES[1].claim_id]
    more = More(
        history=(entry(), entry(ended_at=None)), conflicts=(conflict("bob", "src/auth.py"), conflict("eve", "src/", "work"))
    )
    lines = said(of, claim, more)
    assert lines["what"] == ["src/auth.py", "src/tokens.py"]
    assert lines["holder"] == ["bob"]
    assert lines["left"] == ["4m of 5m, unless it is renewed"]
    assert lines["since"][0].endswith("1m ago")
    assert lines["waits"] == ["1. carol, since 1m ago"]
    assert lines["does"] == ["Token refresh"]
    # It is not in its own way.
    assert lines["also here"] == ["eve works on src/"]
    assert lines["history"][0].endswith("dora  src/auth.py  released, 5m ago  left 0123456789 on main")
    assert "to now  dora" in lines["history"][1]
    assert title_of(claim) == "Lease: src/auth.py, src/tokens.py"
    assert holders(of, claim) == ("bob",)


def test_states_are_explained() -> None:
    of = full()
    assert "fencing token 17" in said(of, of.claims[LEASES[3].claim_id])["state"][0]
    assert "may overlap" in said(of, of.claims[LEASES[2].claim_id])["state"][0]
    waits = of.claims[LEASES[4].claim_id]
    assert said(of, waits)["state"] == ["waits, place 1"]
    assert said(of, waits)["held by"] == ["bob: src/auth.py"]
    assert holders(of, waits) == ("bob",)
    left = Handover(commit="a" * 40, branch="fix", agent_id="eve", at=iso(-5_000))
    handed = Claim(lease(9, "bob", *(f"f{n}" for n in range(30)), handover=left), NOW.instant)
    assert said(of, handed)["build on"] == ["aaaaaaaaaa on fix, left by eve 5s ago"]
    assert said(of, handed)["what"][-1] == "+10"


def test_the_other_things_in_full() -> None:
    of = full()
    items = {tab.name: shown_rows(tab, of, Filter(), NOW)[-1].item for tab in TABS}
    assert said(of, items["agents"])["holds"] == [
        "docs/  (provisional, shared, 30s left)",
        "src/auth.py, src/tokens.py  (held, 4m left)",
    ]
    assert said(of, items["agents"])["agent"] == ["bob"]
    assert said(of, of.agents[0])["agent"] == ["alice (of this clone, this view acts for it)"]
    assert said(of, of.agents[1])["waits for"] == ["src/auth.py  (waits, place 1)"]
    assert said(of, items["work"])["works on"] == ["src/auth.py"]
    assert said(of, items["conflicts"])["when"] == ["it is so now"]
    assert said(of, items["messages"])["asks"] == ["to release it"]
    assert said(of, items["events"])["says"] == ["src/auth.py, src/tokens.py"]
    assert resources_about(items["messages"]) == (Resource("file", "a.py"),)
    assert resources_about(items["agents"]) == ()
    assert holders(of, items["messages"]) == ("bob",)
    assert said(of, items["events"], More(trouble="no daemon"))["unknown"] == ["no daemon"]
    long = Claim(lease(8, "bob", "x"), 0)
    assert len(details(of, long, NOW, More(history=(entry(),) * 900))) < MAX_LINES


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"peerId": "x", "address": "/ip4/1", "reason": "gone"}, "gone  /ip4/1"),
        ({"lease": {"resources": [["issue", "#1"], ["file", "a"]]}, "holder": "bob", "queue": 2}, "issue:#1, a  by bob  2 ahead"),
        ({"work": {"files": ["a"], "issues": ["#2"], "status": "busy"}}, "#2, a  busy"),
        ({"issueId": "#3", "fields": {"title": 1, "x": 2}}, "issue #3  title, x"),
        ({"message": {"agentId": "bob", "text": "hi\n"}}, "from bob: hi "),
        ({"conflicts": [{"resource": ["file", "a"], "agentId": "eve"}]}, "a with eve"),
        ({"foretold": [{"path": "a.py", "theirAgents": ["bob", "eve"]}]}, "a.py with bob, eve"),
        ({"lease": 7, "work": [], "fields": "x", "conflicts": {"a": 1}, "queue": "many"}, ""),
    ],
)
def test_what_events_say(data: dict[str, Any], text: str) -> None:
    assert told(event("lease-denied", "a", **data)) == text


@pytest.mark.parametrize(
    ("iso_time", "text"),
    [
        (None, "-"),
        ("soon", "soon"),
        (iso(60_000), "in 1m"),
        (iso(1_000), "now"),
        (iso(-59_000), "59s ago"),
        (iso(-119_000), "1m ago"),
    ],
)
def test_ages(iso_time: str | None, text: str) -> None:
    assert age(iso_time, NOW) == text


def test_peers_of_this_clone_are_known_by_it() -> None:
    assert full().status.peer_id == HERE  # type: ignore[union-attr]
