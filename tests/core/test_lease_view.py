"""Claims as clients and the document see them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sudocode_coordination.core.claims import Known
from sudocode_coordination.core.holdings import Holding
from sudocode_coordination.core.lease_view import conflicts_of, describe, entry_key, entry_of, known_from_entry
from sudocode_coordination.core.wire import ClaimBody
from sudocode_coordination.model import Resource

A, B = Resource("file", "a"), Resource("issue", "B-1")


def known(
    id_: str, *, resources: tuple[Resource, ...] = (A,), agent: str = "x", granted: bool = True, expiry: int = 5_000
) -> Known:
    claim = Known(ClaimBody(id_, agent, resources, "shared", 3, 17, 4_000, "why"), "direct", expiry, "then")
    claim.granted = granted
    return claim


def holding(granted: bool) -> Holding:
    claim = Known(ClaimBody("me.2.1", "x", (A,), "exclusive", 0, 1, 4_000), "own", 0, "then")
    mine = Holding(claim, None, 0)
    mine.granted, mine.valid_until = granted, 2_500
    return mine


def test_an_entry_says_all_that_another_must_know() -> None:
    claim = known("a.7.12", resources=(A, B))
    mine = Holding(claim, None, 0)
    mine.granted, mine.grade = True, "quorum"
    assert entry_key("a.7.12") == "7.12"
    written = msgspec.json.decode(msgspec.json.encode(entry_of(mine)))
    read = known_from_entry("a", "7.12", written, now=100, stretched=50)
    assert read is not None
    assert read.body == claim.body
    assert (read.granted, read.grade, read.since, read.source, read.expiry) == (True, "quorum", "then", "document", 150)


@given(
    st.text(max_size=8),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ),
)
def test_whatever_is_in_the_document_reading_it_never_fails(key: str, value: Any) -> None:
    assert known_from_entry("a", key, value, 0, 0) is None


@pytest.mark.parametrize("key", ["²._1", "1.²", "1.1.1", "-1.1", "1."])
def test_keys_that_only_look_like_numbers_are_none(key: str) -> None:
    mine = Holding(known("a.1.1"), None, 0)
    assert known_from_entry("a", key, entry_of(mine), 0, 0) is None


def test_a_lease_has_the_time_that_its_owner_may_rely_on() -> None:
    mine = describe(holding(True).known, holding(True), 1_000)
    assert (mine.state, mine.remaining_ms, mine.mine) == ("granted", 1_500, True)
    waiting = describe(holding(False).known, holding(False), 1_000)
    assert (waiting.state, waiting.remaining_ms) == ("pending", 3_000)
    other = describe(known("a.1.1"), None, 3_000)
    assert (other.state, other.remaining_ms, other.mine) == ("granted", 2_000, False)
    assert describe(known("a.1.1", expiry=9_999), None, 0).remaining_ms == 4_000, "no more than its ttl, for all the caution"
    assert describe(known("a.1.1"), None, 9_999).remaining_ms == 0


def test_conflicts_are_told_per_resource_holders_first() -> None:
    blocking = [known("b.1.1", granted=False, agent="b"), known("a.1.1", resources=(A, B), agent="a")]
    found = conflicts_of(blocking, [A, B], {}, 0)
    assert [(c.kind, c.agent_id, c.resource) for c in found] == [("lease", "a", A), ("lease", "a", B), ("waiting", "b", A)]
    assert [c.resource for c in conflicts_of(blocking, [B], {}, 0)] == [B]
    assert (found[0].priority, found[0].note, found[0].remaining_ms) == (3, "why", 4_000)
