"""What a peer knows of claims, and in which order they stand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sudocode_coordination.core import claims as claims_module
from sudocode_coordination.core.claims import (
    Claims,
    Known,
    Source,
    claim_id,
    incarnation_of,
    key_of,
    owner_of,
    rank_of,
    stretch,
)
from sudocode_coordination.core.wire import ClaimBody, Disclosed
from sudocode_coordination.model import LeaseMode, Resource

FILE = (Resource("file", "a"),)


def body(
    id_: str, *, agent: str = "x", mode: LeaseMode = "exclusive", priority: int = 0, lamport: int = 1, ttl_ms: int = 1_000
) -> ClaimBody:
    return ClaimBody(id_, agent, FILE, mode, priority, lamport, ttl_ms)


def known(id_: str, source: Source = "direct", expiry: int = 1_000, mode: LeaseMode = "exclusive", agent: str = "x") -> Known:
    return Known(body(id_, mode=mode, agent=agent), source, expiry, "then")


@given(st.integers(0, 7 * 24 * 3_600_000), st.integers(-10_000, 10_000), st.integers(-10_000, 10_000))
def test_a_stretched_time_is_longer_on_any_clock_than_the_time_itself_on_any_other(ms: int, mine: int, other: int) -> None:
    """Rates are parts per million off by up to rho = 1 %: `ms` on one clock have passed before `stretch(ms)` on another."""
    owner_needs = ms * 1_000_000 / (1_000_000 + other)
    observer_waits = stretch(ms) * 1_000_000 / (1_000_000 + mine)
    assert observer_waits > owner_needs


@pytest.mark.parametrize(
    ("id_", "incarnation"),
    [("p.3.4", 3), ("p.3", -1), ("p", -1), ("", -1), ("p.x.1", -1), ("p.1.x", -1), ("p.1.2.3", -1), ("p.-1.1", -1)],
)
def test_ids_name_their_owner_and_its_life(id_: str, incarnation: int) -> None:
    assert incarnation_of(id_) == incarnation
    assert owner_of(claim_id("peer", 3, 4)) == "peer"


def test_the_queue_goes_by_priority_then_time_then_name() -> None:
    inorder = [
        body("z.1.1", priority=9, lamport=50),
        body("z.1.2", priority=0, lamport=1),
        body("a.1.1", priority=0, lamport=2),
        body("a.1.2", priority=0, lamport=2),
        body("b.1.1", priority=0, lamport=2),
        body("a.1.3", priority=-1, lamport=0),
    ]
    backwards = inorder[::-1]
    assert sorted(backwards, key=key_of) == inorder


def test_of_two_holders_the_one_with_a_quorum_keeps_it_whatever_its_priority() -> None:
    assert rank_of(body("a.1.1", priority=-5, lamport=9), "quorum") < rank_of(body("b.1.1", priority=5), "provisional")
    assert rank_of(body("a.1.1", lamport=1), "quorum") < rank_of(body("b.1.1", lamport=2), "quorum")


def test_a_claim_counts_until_it_expires_or_ends() -> None:
    claims = Claims("me")
    claim = known("a.1.1", expiry=100)
    assert claims.add(claim)
    assert claims.is_live("a.1.1", 99)
    assert not claims.is_live("a.1.1", 100)
    assert claims.end("a.1.1") is claim
    assert not claims.is_live("a.1.1", 0)
    assert claims.is_ended("a.1.1")
    assert claims.get("a.1.1") is None
    assert not claims.add(known("a.1.1"))
    assert claims.learn(Disclosed(body("a.1.1"), True, "quorum", 500), 0, "then") is None
    assert (claims.of_owner("a"), list(claims.all()), claims.touching(FILE, 0)) == ([], [], [])
    assert claims.end("never.1.1") is None


def test_what_was_forgotten_counts_again_if_it_is_heard_of() -> None:
    claims = Claims("me")
    claims.add(known("a.1.1"))
    claims.forget("a.1.1")
    assert not claims.is_ended("a.1.1")
    assert claims.add(known("a.1.1"))
    assert claims.forget("b.1.1") is None


def test_own_claims_count_until_they_are_ended() -> None:
    claims = Claims("me")
    claims.add(known("me.1.1", "own", expiry=0))
    assert claims.is_live("me.1.1", 10**9)


def test_what_only_the_document_tells_counts_for_peers_of_the_roster() -> None:
    claims = Claims("me")
    claims.add(known("a.1.1", "document"))
    assert not claims.is_live("a.1.1", 0)
    claims.counted_owners = frozenset({"a"})
    assert claims.is_live("a.1.1", 0)


@pytest.mark.parametrize(
    ("other", "conflicts"),
    [
        (known("b.1.1"), True),
        (known("b.1.1", mode="shared"), True),
        (known("a.1.2"), False),
        (known("a.1.2", agent="another"), True),
        (known("b.1.1", expiry=0), False),
    ],
)
def test_what_conflicts(other: Known, conflicts: bool) -> None:
    claims = Claims("a")
    claims.add(other)
    assert (claims.conflicting(body("a.1.1"), 0) == [other]) == conflicts


def test_readers_conflict_with_writers_only() -> None:
    claims = Claims("me")
    claims.add(known("a.1.1", mode="shared"))
    assert claims.conflicting(body("b.1.1", mode="shared"), 0) == []
    assert len(claims.conflicting(body("b.1.1"), 0)) == 1


def test_what_is_disclosed_never_shortens_what_is_known() -> None:
    claims = Claims("me")
    learnt = claims.learn(Disclosed(body("a.1.1"), False, "provisional", 1_000), 0, "then")
    assert learnt is not None
    assert learnt.expiry == stretch(1_000)
    again = claims.learn(Disclosed(body("a.1.1"), True, "quorum", 10), 0, "then")
    assert again is learnt
    assert (learnt.expiry, learnt.granted, learnt.grade) == (stretch(1_000), True, "quorum")
    claims.learn(Disclosed(body("a.1.1"), False, "provisional", 5_000, round=1), 0, "then")
    assert (learnt.expiry, learnt.granted) == (stretch(5_000), True)
    claims.learn(Disclosed(body("a.1.1"), False, "provisional", 5_000, round=1), 1_000, "then")
    assert learnt.expiry == stretch(5_000), "the same refresh, told by another, adds nothing"


def test_nobody_invents_own_claims_or_ids_that_are_none() -> None:
    claims = Claims("me")
    assert claims.learn(Disclosed(body("me.1.1"), True, "quorum", 1_000), 0, "then") is None
    assert claims.learn(Disclosed(body("nonsense"), True, "quorum", 1_000), 0, "then") is None
    own = known("me.1.2", "own")
    claims.add(own)
    assert claims.learn(Disclosed(body("me.1.2"), True, "quorum", 1_000), 0, "then") is own
    assert (own.granted, own.source) == (False, "own")


def test_memory_is_bounded_but_always_has_room_for_own_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims_module, "MAX_CLAIMS", 2)
    monkeypatch.setattr(claims_module, "MAX_TOMBSTONES", 2)
    claims = Claims("me")
    assert claims.add(known("a.1.1"))
    assert claims.add(known("a.1.2"))
    assert not claims.add(known("a.1.3"))
    assert claims.add(known("me.1.1", "own"))
    for number in (1, 2, 3):
        claims.end(f"a.1.{number}")
    assert [claims.is_ended(f"a.1.{number}") for number in (1, 2, 3)] == [False, True, True]
