"""Feeds of owners that are long gone are dropped, over restarts; nobody else's are."""

from __future__ import annotations

from sudocode_coordination.core.departed import FORGET_MS, SPACE, Departed
from sudocode_coordination.core.io import DiskContents, ForgottenValue, StoredValue
from sudocode_coordination.model import Now

WALL = 1_800_000_000_000


def at(wall_ms: int) -> Now:
    return Now(0, WALL + wall_ms)


def test_an_owner_is_forgotten_after_a_week_and_not_before() -> None:
    departed = Departed()
    over, written = departed.looked({"me", "bob"}, {"me"}, at(0))
    assert (over, written) == ((), (StoredValue(space=SPACE, key="bob", data=str(WALL).encode()),))
    assert departed.looked({"me", "bob"}, {"me"}, at(FORGET_MS - 1)) == ((), ())
    assert departed.looked({"me", "bob"}, {"me"}, at(FORGET_MS)) == (("bob",), ())


def test_who_is_back_starts_anew() -> None:
    departed = Departed()
    departed.looked({"me", "bob"}, {"me"}, at(0))
    assert departed.looked({"me", "bob"}, {"me", "bob"}, at(1)) == ((), (ForgottenValue(space=SPACE, key="bob"),))
    over, written = departed.looked({"me", "bob"}, {"me"}, at(FORGET_MS))
    assert over == ()
    assert len(written) == 1


def test_a_restart_does_not_begin_the_week_again() -> None:
    departed = Departed()
    departed.started(DiskContents(values=(StoredValue(space=SPACE, key="bob", data=str(WALL).encode()),)))
    assert departed.looked({"me", "bob"}, {"me"}, at(FORGET_MS)) == (("bob",), ())


def test_what_is_noted_of_a_dropped_feed_goes_too() -> None:
    departed = Departed()
    departed.looked({"me", "bob"}, {"me"}, at(0))
    assert departed.looked({"me"}, {"me"}, at(FORGET_MS)) == ((), (ForgottenValue(space=SPACE, key="bob"),))


def test_an_unreadable_note_counts_as_none() -> None:
    departed = Departed()
    departed.started(DiskContents(values=(StoredValue(space=SPACE, key="bob", data=b"\xff"),)))
    assert departed.looked({"bob"}, set(), at(FORGET_MS))[0] == ()
