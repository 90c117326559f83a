"""Mallory fills what all share: with feeds of made-up authors, with huge ones, with work on every file there is. What one peer can
make others keep, and what its changes cost them, is bounded."""

from __future__ import annotations

import pytest
from tests.attacks.siege import Siege
from tests.core.feeds import Pen

from sudocode_coordination.api.requests import CheckConflicts, ListPeers, ListWork, SetWork
from sudocode_coordination.core import active_work
from sudocode_coordination.core import feed as feeds
from sudocode_coordination.core.wire import Envelopes
from sudocode_coordination.model import Json, Resource


def work(*files: str, status: str = "") -> Json:
    stamp = "2027-01-15T08:00:00.000Z"
    return {
        "files": list(files),
        "issues": [],
        "specs": [],
        "status": status,
        "metadata": {},
        "startedAt": stamp,
        "updatedAt": stamp,
    }


def test_made_up_authors_do_not_take_the_room_of_those_who_come() -> None:
    siege = Siege()
    for start in range(0, 700, 100):
        made_up = [Pen(f"nobody-{n}") for n in range(start, start + 100)]
        siege.says(Envelopes(envelopes=tuple(pen.write({("activeWork", "x"): work()}) for pen in made_up)))
    store = siege.ann.node.sync.store
    assert len(store.owners()) == feeds.MAX_STRANGERS + 2  # and ann, and ben
    assert any("no room for another feed" in problem for problem in store.problems())
    carol = Pen("carol")
    siege.branch["agent-carol.json"] = siege.record_of("carol")
    siege.looks()
    siege.says(Envelopes(envelopes=(carol.write({("activeWork", "carol"): work("c.py")}),)))
    assert siege.ann.node.sync.document.get("activeWork", carol.owner, "carol") is not None
    siege.is_unharmed()


def test_made_up_authors_do_not_take_all_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "MAX_STRANGER_BYTES", 300_000)
    siege = Siege()
    for n in range(20):
        pen = Pen(f"nobody-{n}")
        siege.says(
            Envelopes(envelopes=(pen.write({("fileDiffs", "x"): "x" * 30_000}), pen.write({("fileDiffs", "y"): "y" * 30_000})))
        )
    store = siege.ann.node.sync.store
    assert sum(feed.size_bytes for feed in store._strangers()) <= 300_000
    siege.is_unharmed()


def test_a_feed_that_grows_without_end_is_refused_at_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "MAX_FEED_BYTES", 200_000)
    siege, pen = Siege(), Pen("mallory")
    for n in range(10):
        siege.says(Envelopes(envelopes=(pen.write({("fileDiffs", f"{n}"): "x" * 30_000}),)))
    feed = siege.ann.node.sync.store.feed(siege.mallory)
    assert feed is not None
    assert feed.size_bytes <= 200_000
    assert feed.refused_at is not None
    siege.is_unharmed()


def test_work_on_everything_is_bounded_and_changes_of_it_cost_what_they_are() -> None:
    siege, pen = Siege(), Pen("mallory")
    siege.asks("ann", SetWork(files=("src/a.py",), status="mine"))
    for n in range(40):
        names = [f"{n}/{i}" for i in range(1_000)]
        siege.says(Envelopes(envelopes=(pen.write({("activeWork", f"m{n}"): work(*names)}),)))
    shown = [entry for entry in siege.asks("ann", ListWork()) if entry.peer_id == siege.mallory]
    assert sum(len(entry.files) for entry in shown) == active_work.MAX_OWNER_NAMES
    # Two thousand changes: each cost a second and more as long as all work was looked at for each.
    siege.says(*(Envelopes(envelopes=(pen.write({("activeWork", "z"): work(status=str(n))}),)) for n in range(2_000)))
    assert siege.asks("ann", CheckConflicts(resources=(Resource("file", "39/1"),))).conflicts == ()
    assert [c.agent_id for c in siege.asks("ann", CheckConflicts(resources=(Resource("file", "3/1"),))).conflicts] == ["m3"]
    siege.is_unharmed()


def test_patterns_that_have_to_be_compared_with_everything_are_bounded() -> None:
    siege, pen = Siege(), Pen("mallory")
    for n in range(30):
        siege.says(Envelopes(envelopes=(pen.write({("activeWork", f"m{n}"): work(*(f"**/*{n}*{i}*" for i in range(100)))}),)))
    shown = [entry for entry in siege.asks("ann", ListWork()) if entry.peer_id == siege.mallory]
    assert sum(len(entry.files) for entry in shown) <= active_work.MAX_OWNER_PATTERNS


def test_more_agents_than_a_clone_can_have_are_not_listed() -> None:
    siege, pen = Siege(), Pen("mallory")
    for start in range(0, 600, 300):
        some = {("agentMetadata", f"m{n}"): {"capabilities": ["x" * 100, "y"]} for n in range(start, start + 300)}
        for key, value in some.items():
            siege.says(Envelopes(envelopes=(pen.write({key: value}),)))  # type: ignore[dict-item]
    rows = [peer for peer in siege.asks("ann", ListPeers()) if peer.peer_id == siege.mallory]
    assert len(rows) == 500
    assert max(len(word) for row in rows for word in row.capabilities) <= 64
    siege.is_unharmed()
