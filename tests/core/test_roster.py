"""Whose voices make a quorum: slow to forget, slow to trust."""

from __future__ import annotations

from itertools import combinations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from sudocode_coordination.core.roster import GOODBYE_MS, MAX_ADOPTED, MAX_OVER, Roster, StoredRoster

WINDOW = 1_000
FRESH = 150
"""A read is fresh for so long: part of the window."""


def looked(*listed: str, now: int = 0, roster: Roster | None = None) -> Roster:
    roster = roster or Roster("me", WINDOW, FRESH)
    roster.update(listed, own=True, read_at=now, now=now)
    return roster


def watched(roster: Roster, *listed: str, since: int, until: int) -> None:
    """The branch is read all the time."""
    for now in [*range(since, until, FRESH), until]:
        looked(*listed, now=now, roster=roster)


def test_alone_one_counts_oneself() -> None:
    roster = Roster("me", WINDOW, FRESH)
    assert (roster.members, roster.established(0)) == (("me",), ("me",))
    looked("me", roster=roster)
    assert (roster.members, roster.established(0)) == (("me",), ("me",))


def test_those_who_were_there_before_have_weight_and_the_newcomer_has_a_voice() -> None:
    roster = looked("a", "b")
    assert roster.members == ("a", "b", "me")
    assert roster.established(WINDOW - 1) == ("a", "b")
    assert roster.established(WINDOW) == ("a", "b", "me")


def test_who_comes_later_has_a_voice_at_once_and_weight_later() -> None:
    roster = looked()
    looked("z", now=100, roster=roster)
    assert roster.members == ("me", "z")
    assert roster.established(100 + WINDOW - 1) == ("me",)
    assert roster.established(100 + WINDOW) == ("me", "z")


def test_who_vanishes_without_a_word_lingers() -> None:
    roster = looked("a", "b")
    watched(roster, "b", since=100, until=100 + WINDOW - 1)
    assert "a" in roster.members
    assert roster.voices == {"b", "me"}, "it has weight, but no voice"
    assert roster.deadline(100 + WINDOW - 1) == 100 + WINDOW
    roster.passed(100 + WINDOW)
    assert roster.members == ("b", "me")


def test_who_is_back_before_that_has_never_been_away() -> None:
    roster = looked("a")
    watched(roster, since=100, until=WINDOW - FRESH - 1)
    looked("a", now=WINDOW - FRESH - 1, roster=roster)
    assert "a" in roster.voices
    watched(roster, since=WINDOW, until=2 * WINDOW - 1)
    assert roster.members == ("a", "me")
    assert "a" in roster.established(2 * WINDOW - 1)


def test_who_says_goodbye_is_not_counted_though_its_record_is_still_there() -> None:
    roster = looked("a", "b")
    roster.left("a", 0)
    roster.left("me", 0)
    roster.left("nobody", 0)
    looked("a", "b", now=10, roster=roster)
    assert "a" not in roster.members
    looked("b", now=20, roster=roster)
    assert "a" not in roster.members, "nor does it linger when the record goes"
    looked("a", "b", now=30, roster=roster)
    assert "a" in roster.members
    assert roster.established(30) == ("b",), "back again it is a newcomer"


def test_a_goodbye_is_over_with_the_next_hello_or_if_the_record_stays() -> None:
    roster = looked("a", "b")
    roster.left("a", 0)
    roster.left("b", 0)
    roster.back("b")
    looked("a", "b", now=GOODBYE_MS - 1, roster=roster)
    assert list(roster.members) == ["b", "me"]
    looked("a", "b", now=GOODBYE_MS, roster=roster)
    assert list(roster.members) == ["a", "b", "me"]


def test_before_the_first_look_nobody_known_is_established_for_having_been_there() -> None:
    roster = Roster("me", WINDOW, FRESH)
    roster.update(["a"], own=False, read_at=0, now=0)
    assert roster.members == ("a", "me")
    assert roster.established(10) == ("me",)
    looked("a", "b", now=20, roster=roster)
    assert roster.established(20) == ("a", "b"), "the first look tells who was here before"


@given(st.lists(st.sets(st.sampled_from("abcd")), max_size=6))
def test_members_are_all_who_were_listed_within_the_window(listings: list[set[str]]) -> None:
    roster = Roster("me", WINDOW, FRESH)
    for number, listed in enumerate(listings):
        looked(*listed, now=number * 100, roster=roster)
    assert set(roster.members) == {"me"}.union(*listings)
    assert set(roster.established(600)) <= set(roster.members)


@given(st.sets(st.sampled_from("abcdef"), min_size=2), st.sampled_from("abcdef"))
def test_majorities_of_before_and_after_one_change_meet(before: set[str], change: str) -> None:
    """The reason for two majorities: who looks before and who looks after a change has a voice in common with every quorum."""
    after = before ^ {change}

    def quorums(members: set[str], established: set[str]) -> list[set[str]]:
        sizes = range(1, len(members) + 1)
        subsets = [set(part) for size in sizes for part in combinations(sorted(members), size)]
        return [s for s in subsets if 2 * len(s) > len(members) and 2 * len(s & established) > len(established)]

    if not after:
        return
    lingering = before | after
    for old in quorums(before, before):
        assert all(old & new for new in quorums(lingering, before))


# --- what the model found -------------------------------------------------------------------------------------------------------


def test_who_was_off_for_so_long_that_somebody_may_have_dropped_it_is_a_newcomer_when_it_is_back() -> None:
    roster = looked("a", "b")
    watched(roster, "b", since=100, until=WINDOW - FRESH)
    assert "a" in roster.members
    looked("a", "b", now=WINDOW - FRESH, roster=roster)
    assert "a" in roster.voices
    assert "a" not in roster.established(WINDOW - FRESH), "read sooner after it was last seen, another has dropped it by now"


def test_and_so_is_this_peer_itself() -> None:
    roster = looked("a", now=0)
    watched(roster, "a", since=100, until=2 * WINDOW)
    assert "me" in roster.established(2 * WINDOW)
    for now in range(2 * WINDOW + 100, 3 * WINDOW, 100):
        roster.update(["a"], own=False, read_at=now, now=now)
    looked("a", now=3 * WINDOW, roster=roster)
    assert roster.established(3 * WINDOW) == ("a",)
    alone = looked(now=0)
    looked(now=5 * WINDOW, roster=alone)
    assert alone.established(5 * WINDOW) == ("me",)


def test_of_many_who_slept_the_first_to_be_back_is_the_one_whom_the_others_find_there() -> None:
    """Else each would have weight with itself alone, and two of them could make a quorum with newcomers."""
    now = 9 * WINDOW
    first, second = looked("second", "third"), looked("first", "third")
    for roster in (first, second):
        roster.update([], own=False, read_at=now, now=now)
    looked(now=now + 10, roster=first)
    looked("second", now=now + 20, roster=first)
    looked("second", "third", now=now + 30, roster=first)
    assert first.established(now + 30) == ("me",)
    second.update(["first"], own=False, read_at=now + 15, now=now + 15)
    looked("first", now=now + 20, roster=second)
    assert second.established(now + 20) == ("first", "third"), "the third has not been seen yet"
    looked("first", "third", "new", "newer", now=now + 30, roster=second)
    assert second.established(now + 30) == ("first",)


def test_the_window_passes_only_while_the_branch_is_read() -> None:
    roster = looked("a", "b")
    looked("b", now=100, roster=roster)
    roster.passed(100 + WINDOW)
    assert "a" in roster.members, "nobody has looked for it"
    looked("b", now=100 + 2 * WINDOW, roster=roster)
    assert "a" in roster.members, "it may have been back"
    watched(roster, "b", since=100 + 2 * WINDOW, until=100 + 3 * WINDOW)
    assert "a" not in roster.members


def test_whom_another_counts_is_counted_with_weight_and_no_voice_for_as_long() -> None:
    teller = looked("a", "c", "me")
    watched(teller, "a", "me", since=100, until=400)
    assert dict(teller.told(400)) == {"a": WINDOW, "c": WINDOW - 300, "me": WINDOW}
    roster = looked("teller")
    assert roster.adopt([*teller.told(400), ("teller", WINDOW)], 400)
    assert list(roster.members) == ["a", "c", "me", "teller"]
    assert roster.voices == {"me", "teller"}
    assert {"a", "c"} <= set(roster.established(400))
    watched(roster, "teller", since=100, until=400 + WINDOW - 300 + FRESH)
    assert list(roster.members) == ["a", "me", "teller"]
    watched(roster, "teller", since=400 + WINDOW, until=400 + WINDOW + FRESH)
    assert list(roster.members) == ["me", "teller"]
    assert roster.adopt([("a", WINDOW)], 3_000)
    assert list(roster.members) == ["me", "teller"], "known better here: it is gone"
    looked("a", "teller", now=3_000, roster=roster)
    assert "a" in roster.voices, "until it is there again"


def test_who_said_goodbye_here_is_not_brought_back_by_another() -> None:
    roster = looked("a", "b")
    roster.left("a", 0)
    looked("b", now=GOODBYE_MS, roster=roster)
    assert roster.adopt([("a", WINDOW), ("me", WINDOW)], GOODBYE_MS)
    assert roster.members == ("b", "me")


def test_nobody_can_make_others_count_without_end() -> None:
    roster = looked("a")
    assert not roster.adopt([(f"x{number:04}", 10**9) for number in range(MAX_ADOPTED + 1)], 0)
    assert len(roster.members) == MAX_ADOPTED + 2
    watched(roster, "a", since=0, until=WINDOW + FRESH)
    assert roster.members == ("a", "me")
    for number in range(MAX_OVER + 10):
        roster.left(f"y{number}", 0)
    assert len(roster.stored().over) == MAX_OVER


def test_who_was_told_of_and_is_seen_is_a_newcomer() -> None:
    roster = looked("a")
    assert roster.adopt([("b", WINDOW)], 10)
    looked("a", "b", now=100, roster=roster)
    assert "b" in roster.voices
    assert "b" not in roster.established(100)


def test_the_next_life_counts_whom_this_one_counted() -> None:
    roster = looked("a", "b")
    watched(roster, "b", since=100, until=400)
    roster.left("b", 400)
    roster.adopt([("c", WINDOW)], 400)
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode(roster.stored()), type=StoredRoster)
    again = Roster("me", WINDOW, FRESH)
    again.restore(stored)
    assert again.stored() == roster.stored()
    looked(now=500, roster=again)
    assert again.members == ("a", "c", "me")
    assert again.voices == {"me"}
    assert again.established(500) == ("a", "c"), "weight is not dealt anew"
