"""Records that the publisher pushes for others: of who is on the branch, and no longer than that."""

from __future__ import annotations

from tests.core.discovery_bench import HIGH, ME, OTHER, WALL, record

from sudocode_coordination.core.admission import Admission
from sudocode_coordination.core.io import BranchRead
from sudocode_coordination.core.offers import MAX_OFFERS, Offers
from sudocode_coordination.core.peer_view import BranchView
from sudocode_coordination.model import Now

NOW = Now(1_000, WALL)


def view_of(records: dict[str, bytes]) -> BranchView:
    view = BranchView(ME, Admission())
    look(view, records)
    return view


def look(view: BranchView, records: dict[str, bytes]) -> None:
    view.take(BranchRead(commit="c", records={**records, "agent-me.json": record(ME, "me")}), frozenset(), NOW, NOW.instant)


def test_only_of_who_is_on_the_branch() -> None:
    view = view_of({"agent-x.json": record(OTHER, "x")})
    offers = Offers(ME, view, 15_000)
    offers.take(OTHER.peer_id, record(OTHER, "x", wall_ms=WALL + 1), frozenset(), NOW)
    offers.take(OTHER.peer_id, record(OTHER, "more"), frozenset(), NOW)
    offers.take(OTHER.peer_id, record(HIGH, "y"), frozenset(), NOW)
    offers.take(OTHER.peer_id, record(ME, "me", wall_ms=WALL + 1), frozenset(), NOW)
    offers.take(OTHER.peer_id, b"{}", frozenset(), NOW)
    changes, beside = offers.changes()
    assert sorted(changes) == ["agent-more.json", "agent-x.json"]
    assert beside == dict.fromkeys(changes, ("agent-x.json",))
    assert "agent-x.json" in offers
    assert sorted(offers.times()) == [NOW.instant + 15_000, NOW.instant + 150_000], "a renewal has time"
    look(view, {})
    offers.branch_read()
    assert offers.changes() == ({}, {})


def test_what_is_pushed_or_of_who_has_left_is_dropped() -> None:
    view = view_of({"agent-x.json": record(OTHER, "x"), "agent-y.json": record(HIGH, "y")})
    offers = Offers(ME, view, 15_000)
    renewed = record(OTHER, "x", wall_ms=WALL + 1)
    offers.take(OTHER.peer_id, renewed, frozenset(), NOW)
    offers.take(HIGH.peer_id, record(HIGH, "y", wall_ms=WALL + 1), frozenset(), NOW)
    offers.published({"agent-x.json": record(OTHER, "x"), "agent-y.json": None})
    assert len(offers.times()) == 2, "those were others"
    offers.published({"agent-x.json": renewed})
    offers.keep(frozenset({OTHER.peer_id}))
    assert offers.times() == []


def test_no_more_than_are_read() -> None:
    view = view_of({"agent-x.json": record(OTHER, "x")})
    offers = Offers(ME, view, 15_000)
    made = record(OTHER, "x", wall_ms=WALL + 1)
    for n in range(MAX_OFFERS):
        offers._offers[f"agent-{n:05}.json"] = None  # type: ignore[assignment]
    offers.take(OTHER.peer_id, made, frozenset(), NOW)
    assert "agent-x.json" not in offers
