"""Faults that a hostile reading of the core found, each as the shortest story that showed it."""

from __future__ import annotations

import pytest
from tests.core.lease_bench import Bench, file


# --- leases -----------------------------------------------------------------------------------------------------------------


def test_a_lease_renewed_for_less_ends_with_that_and_not_with_what_it_had() -> None:
    bench = Bench("alice", "bob", "cora")
    bench.asks("alice", "f", ttl_ms=300_000)
    bench.settles()
    _, outputs = bench.of("alice").renew("agent-of-alice", (file("f"),), 5_000, bench.now)
    bench.does("alice", outputs)
    bench.settles()
    bench.cut("alice", "bob", suspected=False)
    bench.cut("alice", "cora", suspected=False)
    bench.passes(6_000)
    asked = bench.asks("bob", "f")
    bench.settles()
    assert bench.granted(asked)
    assert bench.holders("f") == ["bob"]


def test_what_two_waiters_tell_each_other_of_a_dead_holder_does_not_keep_its_lease_alive() -> None:
    bench = Bench("alice", "bob", "cora", policy="majority")
    bench.asks("alice", "f", ttl_ms=300_000)
    bench.settles()
    bench.isolates("alice")
    first = bench.asks("bob", "f", wait_ms=0)
    bench.asks("cora", "f", wait_ms=0)
    bench.settles()
    bench.passes(330_000)
    assert bench.granted(first)


@pytest.mark.parametrize("ttl_ms", [7 * 24 * 3_600_000, 1])
def test_what_is_disclosed_can_be_read(ttl_ms: int) -> None:
    from sudocode_coordination.core.wire import decode_frame, encode_frame

    bench = Bench("alice", "bob", "cora", max_lease_ttl_ms=7 * 24 * 3_600_000)
    bench.asks("alice", "f", ttl_ms=ttl_ms)
    bench.settles()
    bench.asks("bob", "f", wait_ms=0)
    bench.delivers("bob", "cora")
    for message in bench.under_way("cora", "bob"):
        assert decode_frame(encode_frame([message])) == (message,)


def test_a_waiter_whose_claim_is_released_by_another_of_its_agent_is_answered() -> None:
    bench = Bench("alice", "bob")
    bench.asks("bob", "f")
    bench.settles()
    asked = bench.asks("alice", "f", wait_ms=0)
    bench.settles()
    bench.releases("alice", everything=True)
    answer = bench.answer(asked)
    assert answer is not None
    assert not answer.granted
    assert answer.reason == "released"


def test_waiters_are_answered_when_the_peer_stops() -> None:
    bench = Bench("alice", "bob")
    bench.asks("bob", "f")
    bench.settles()
    asked = bench.asks("alice", "f", wait_ms=0)
    bench.settles()
    bench.does("alice", bench.of("alice").stop(bench.now))
    answer = bench.answer(asked)
    assert answer is not None
    assert (answer.granted, answer.reason) == (False, "stopped")


def test_what_was_let_go_in_two_steps_is_gone() -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "a", "b")
    bench.settles()
    bench.releases("alice", "a")
    bench.releases("alice", "b")
    bench.settles()
    bench.passes(10_000)
    assert bench.of("alice").holdings() == []


def test_what_was_let_go_a_moment_ago_is_not_held_already() -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "a", "b")
    bench.settles()
    bench.releases("alice", "a")
    asked = bench.asks("alice", "a")
    bench.settles()
    assert bench.granted(asked)
    assert bench.holders("a") == ["alice"]
    assert bench.holders("b") == ["alice"]


def test_who_waits_for_two_and_lets_one_go_is_answered_with_the_other() -> None:
    bench = Bench("alice", "bob")
    bench.asks("bob", "a", "b")
    bench.settles()
    asked = bench.asks("alice", "a", "b", wait_ms=0)
    bench.settles()
    bench.releases("alice", "a")
    bench.settles()
    bench.releases("bob", "a", "b")
    bench.settles()
    answer = bench.answer(asked)
    assert answer is not None
    assert answer.lease is not None
    assert answer.lease.resources == (file("b"),)
    assert len(bench.of("alice").holdings()) == 1


def test_the_rest_of_a_lease_that_was_lost_meanwhile_is_not_taken_again() -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "a", "b")
    bench.settles()
    bench.releases("alice", "a")  # the claim on the rest is on its way
    asked = bench.asks("bob", "b", priority=9)
    bench.delivers("bob", "alice")
    bench.settles()
    assert bench.granted(asked)
    assert len(bench["alice"].told("lease-lost")) == 1
    bench.releases("bob", "b")
    bench.settles()
    bench.passes(20_000)
    assert bench.holders("b") == []


def test_stopping_while_the_rest_of_a_lease_is_on_its_way() -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "a", "b")
    bench.settles()
    bench.releases("alice", "a")
    bench.does("alice", bench.of("alice").stop(bench.now))
    assert bench.of("alice").holdings() == []
