"""Whose voices make a quorum: slow to forget, slow to trust."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from sudocode_coordination.core.roster import GOODBYE_MS, Roster

WINDOW = 1_000


def looked(*listed: str, now: int = 0, roster: Roster | None = None) -> Roster:
    roster = roster or Roster("me", WINDOW)
    roster.update(listed, looked=True, now=now)
    return roster


def test_alone_one_counts_oneself() -> None:
    roster = Roster("me", WINDOW)
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
    looked("b", now=500, roster=roster)
    looked("b", now=500 + WINDOW - 1, roster=roster)
    assert "a" in roster.members
    looked("b", now=500 + WINDOW, roster=roster)
    assert roster.members == ("b", "me")


def test_who_is_back_before_that_has_never_been_away() -> None:
    roster = looked("a")
    looked(now=500, roster=roster)
    looked("a", now=900, roster=roster)
    looked(now=1_400, roster=roster)
    looked(now=1_400 + WINDOW - 1, roster=roster)
    assert roster.members == ("a", "me")
    assert "a" in roster.established(1_400)


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
    roster = Roster("me", WINDOW)
    roster.update(["a"], looked=False, now=0)
    assert roster.members == ("a", "me")
    assert roster.established(10) == ("me",)
    looked("a", "b", now=20, roster=roster)
    assert roster.established(20) == ("a", "b"), "the first look tells who was here before"


@given(st.lists(st.sets(st.sampled_from("abcd")), max_size=6))
def test_members_are_all_who_were_listed_within_the_window(listings: list[set[str]]) -> None:
    roster = Roster("me", WINDOW)
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
