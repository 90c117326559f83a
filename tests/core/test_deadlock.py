"""Agents that hold something and wait for more, in circles: one request of a circle is refused, and says what to release."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from random import Random

import pytest
from tests.core.lease_bench import TTL, Bench, a_body, any_order, every_order, file

from sudocode_coordination.api.requests import LeaseOutcome
from sudocode_coordination.core import waiting
from sudocode_coordination.core.claims import Claims, Known, key_of
from sudocode_coordination.core.waiting import Wait, WaitGraph, members
from sudocode_coordination.core.wire import Claim


def told(bench: Bench, asked: Iterable[int]) -> list[LeaseOutcome]:
    """The refusals for a deadlock among the answers."""
    answers = [bench.answer(one) for one in asked]
    return [answer for answer in answers if answer is not None and answer.reason == "deadlock"]


def crossed(names: tuple[str, ...], witnesses: tuple[str, ...] = ()) -> Bench:
    """Each holds a file and is about to ask for that of the next."""
    bench = Bench(*names, *witnesses)
    for name in names:
        bench.asks(name, f"{name}.py")
        bench.settles()
    for name, other in zip(names, (*names[1:], names[0]), strict=True):
        bench.plans_to(name, lambda name=name, other=other: bench.asks(name, f"{other}.py", wait_ms=0))  # type: ignore[misc]
    return bench


def is_broken_once(bench: Bench, names: tuple[str, ...]) -> None:
    """One was refused: the last in order. All still hold what they held, and the others get on when it lets go."""
    asked = range(len(names) + 1, 2 * len(names) + 1)
    bench.passes(20_000)
    (refusal,) = told(bench, asked)
    circle = refusal.cycle
    victim = circle[0].agent_id.removeprefix("agent-of-")
    assert {wait.agent_id for wait in circle} == {f"agent-of-{name}" for name in names}
    assert all(one.holder_id == two.agent_id for one, two in itertools.pairwise((*circle, circle[0])))
    assert circle[-1].resource == file(f"{victim}.py"), "what it would have to release"
    assert [c.resource for c in refusal.holders] == [circle[0].resource]
    for name in names:
        assert bench.holders(f"{name}.py") == [name]
    (lost,) = bench[victim].told("lease-denied")
    said = {m.claim.id: m.claim for s in bench.stations.values() for _, m in s.said if isinstance(m, Claim)}
    still = [h.body for s in bench.stations.values() for h in s.machine.holdings() if not h.granted]
    assert all(key_of(body) < key_of(said[lost["lease"]["claimId"]]) for body in still), "it had come last"
    assert lost["reason"] == "deadlock"
    assert [wait["agentId"] for wait in lost["cycle"]] == [wait.agent_id for wait in circle]
    bench.releases(victim, everything=True)
    bench.settles()
    for _ in names:
        for name in names:
            if name != victim and not [h for h in bench[name].machine.holdings() if not h.granted]:
                bench.releases(name, everything=True)
                bench.settles()
    assert sum(bench.granted(one) for one in asked) == len(names) - 1
    assert not any(s.machine.holdings() for s in bench.stations.values())


def test_two_that_wait_for_each_other_in_every_order() -> None:
    names = ("alice", "bob")
    orders = 0
    for bench in every_order(lambda: crossed(names)):
        orders += 1
        is_broken_once(bench, names)
    assert orders >= 5


@pytest.mark.parametrize("seed", range(60))
def test_two_that_wait_for_each_other_before_a_witness(seed: int) -> None:
    bench = crossed(("alice", "bob"), ("carol",))
    any_order(bench, Random(seed))
    is_broken_once(bench, ("alice", "bob"))


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("count", [3, 4])
def test_a_longer_circle_in_any_order(seed: int, count: int) -> None:
    names = ("alice", "bob", "carol", "dave")[:count]
    bench = crossed(names)
    any_order(bench, Random(seed))
    is_broken_once(bench, names)


def test_agents_of_one_daemon_wait_in_circles_too_and_are_told_at_once() -> None:
    bench = Bench("alice", "bob")
    for agent in ("one", "two"):
        bench.asks("alice", f"{agent}.py", agent=agent)
    bench.settles()
    first = bench.asks("alice", "two.py", agent="one", wait_ms=0)
    second = bench.asks("alice", "one.py", agent="two", wait_ms=0)
    bench.settles()
    (refusal,) = told(bench, (first, second))
    assert bench.answer(second) == refusal
    assert [(w.agent_id, w.resource.path, w.holder_id, w.held) for w in refusal.cycle] == [
        ("two", "one.py", "one", True),
        ("one", "two.py", "two", True),
    ]
    bench.releases("alice", "two.py", agent="two")
    assert bench.granted(first)


def test_the_refusal_comes_within_two_round_trips() -> None:
    bench = crossed(("alice", "bob"))
    for name in ("alice", "bob"):
        bench.plans.pop(name)()
        bench.settles()
    assert told(bench, (3, 4)), "no time has passed"


def test_who_could_be_let_in_by_a_higher_priority_is_in_no_circle() -> None:
    bench = Bench("alice", "bob", preempt_grace_ms=60_000)
    bench.asks("alice", "a.py")
    bench.asks("bob", "b.py", priority=5)
    bench.settles()
    one = bench.asks("alice", "b.py", wait_ms=0)
    two = bench.asks("bob", "a.py", priority=5, wait_ms=0)
    bench.settles()
    bench.passes(59_000)
    assert told(bench, (one, two)) == []
    bench.passes(1_000)
    assert bench.granted(two), "it took over"


def test_two_readers_that_both_want_to_write() -> None:
    for order in itertools.permutations(("alice", "bob")):
        bench = Bench("alice", "bob", "carol")
        for name in ("alice", "bob"):
            bench.asks(name, "a.py", mode="shared")
            bench.settles()
        asked = {name: bench.asks(name, "a.py", wait_ms=0) for name in order}
        bench.settles()
        bench.passes(10_000)
        (refusal,) = told(bench, asked.values())
        assert bench.answer(asked["bob"]) == refusal, "it has read for less long than alice"
        assert [h.body.mode for h in bench["bob"].held()] == ["shared"], "it keeps what it has"
        assert bench.answer(asked["alice"]) is None
        bench.releases("bob", "a.py")
        bench.settles()
        assert bench.granted(asked["alice"])
        assert [h.body.mode for h in bench["alice"].held()] == ["exclusive"]


def test_a_circle_through_the_queue_is_one_too() -> None:
    """Bob goes before alice at a.py, which is free but kept for him until alice releases b.py, which he needs as well."""
    bench = Bench("alice", "bob")
    bench.asks("alice", "b.py")
    bench.settles()
    both = bench.asks("bob", "a.py", "b.py", wait_ms=0)
    bench.settles()
    more = bench.asks("alice", "a.py", wait_ms=0)
    bench.settles()
    bench.passes(10_000)
    (refusal,) = told(bench, (both, more))
    assert bench.answer(more) == refusal
    assert [(w.agent_id, w.held) for w in refusal.cycle] == [("agent-of-alice", False), ("agent-of-bob", True)]
    bench.releases("alice", "b.py")
    bench.settles()
    assert bench.granted(both)


def test_who_has_let_go_meanwhile_is_no_reason_to_refuse() -> None:
    """Alice asks and lets go of what the other wants before the circle could be looked at twice."""

    def scene() -> Bench:
        bench = crossed(("alice", "bob"))
        ask = bench.plans["alice"]
        bench.plans["alice"] = lambda: (ask(), bench.releases("alice", "alice.py"))
        return bench

    orders = 0
    for bench in every_order(scene):
        orders += 1
        bench.passes(20_000)
        assert told(bench, (3, 4)) == []
        assert bench.holders("alice.py") == ["bob"]
        bench.releases("bob", everything=True)
        bench.settles()
        assert bench.holders("bob.py") == ["alice"]
    assert orders >= 3


def test_who_gives_up_meanwhile_is_no_reason_to_refuse() -> None:
    bench = crossed(("alice", "bob"))
    bench.plans.pop("alice")()
    bench.settles()
    bench.plans.pop("bob")()
    bench.delivers("bob", "alice")
    ticket = bench["alice"].holding().ticket
    assert ticket is not None
    bench.does("alice", bench.of("alice").cancel(ticket, bench.now))
    bench.settles()
    bench.passes(20_000)
    assert bench.answer(4) is None, "bob waits for alice, who waits for nobody"
    bench.releases("alice", "alice.py")
    bench.settles()
    assert bench.granted(4)


def test_nobody_is_refused_for_a_circle_whose_other_side_does_not_answer() -> None:
    bench = crossed(("alice", "bob"), ("carol",))
    bench.plans.pop("alice")()
    bench.settles()
    bench.plans.pop("bob")()
    bench.drops("alice", "bob")
    bench.cut("alice", "bob")
    bench.settles()
    bench.passes(5_000)
    assert told(bench, (3, 4)) == []
    bench.heals("alice", "bob")
    bench.settles()
    bench.passes(20_000)
    assert len(told(bench, (3, 4))) == 1


def test_of_circles_that_have_a_request_in_common_no_more_are_refused_than_need_be() -> None:
    """Alice and bob wait for each other, and so do bob and carol, by the same request of bob, the second in order."""
    bench = Bench("alice", "bob", "carol")
    for name in ("alice", "bob", "carol"):
        bench.asks(name, f"{name}.py")
        bench.settles()
    asked = [
        bench.asks("alice", "bob.py", wait_ms=0),
        bench.asks("bob", "alice.py", "carol.py", wait_ms=0),
        bench.asks("carol", "bob.py", wait_ms=0),
    ]
    bench.settles()
    bench.passes(30_000)
    refused = told(bench, asked)
    assert 1 <= len(refused) <= 2
    assert bench.answer(asked[0]) is None, "the first in order is never refused"


# --- the search itself ------------------------------------------------------------------------------------------------------


def claims_of(*bodies: tuple[str, str, bool, int]) -> Claims:
    """Claims `(agent, path, granted, lamport)` of peers by the name of their agent, as a witness knows them."""
    claims = Claims("witness")
    for number, (agent, path, granted, lamport) in enumerate(bodies):
        known = Known(a_body(f"{agent}.1.{number + 1}", path, lamport=lamport), "direct", TTL, "")
        known.granted = granted
        claims.add(known)
    return claims


def circle_to_break(claims: Claims, known: Known, now: int) -> tuple[Wait, ...]:
    return WaitGraph(claims, now).circle_to_break(known)


def waits_of(claims: Claims) -> dict[str, Known]:
    return {known.owner: known for known in claims.waiting(0)}


def test_everybody_sees_the_same_victim() -> None:
    names = ["ann", "ben", "cleo", "dan"]
    held = [(name, name, True, 1) for name in names]
    waits = [(name, other, False, 10 + n) for n, (name, other) in enumerate(zip(names, names[1:] + names[:1], strict=True))]
    for order in itertools.permutations(waits):
        claims = claims_of(*order, *held)
        victims = [name for name, known in waits_of(claims).items() if circle_to_break(claims, known, 0)]
        assert victims == ["dan"]
    circle = circle_to_break(claims, waits_of(claims)["dan"], 0)
    assert [wait.claim.owner for wait in circle] == ["dan", "ann", "ben", "cleo"]
    assert [wait.behind.owner for wait in circle] == ["ann", "ben", "cleo", "dan"]
    assert set(members(circle).values()) == set(names)


def test_a_request_that_is_refused_itself_breaks_the_circles_behind_it() -> None:
    # ann <-> ben by ben's request for both, ben <-> cleo by the same: without ben's, cleo waits for nobody who waits.
    claims = claims_of(
        ("ann", "a", True, 1),
        ("ben", "b", True, 2),
        ("cleo", "c", True, 3),
        ("ann", "b", False, 10),
        ("cleo", "b", False, 12),
    )
    both = a_body("ben.1.9", "a", lamport=11)
    known = Known(type(both)(both.id, both.agent, (file("a"), file("c")), "exclusive", 0, 11, TTL), "direct", TTL, "")
    claims.add(known)
    victims = [name for name, waiting in waits_of(claims).items() if circle_to_break(claims, waiting, 0)]
    assert victims == ["ben"]


def test_a_queue_is_no_circle_however_long() -> None:
    claims = claims_of(("ann", "a", True, 1), *((f"waiter{n:03}", "a", False, n + 2) for n in range(60)))
    assert not any(circle_to_break(claims, known, 0) for known in claims.waiting(0))


def test_what_has_run_out_is_waited_for_by_nobody() -> None:
    claims = claims_of(("ann", "a", True, 1), ("ben", "b", True, 2), ("ann", "b", False, 10), ("ben", "a", False, 11))
    assert circle_to_break(claims, waits_of(claims)["ben"], 0)
    for known in claims.of_owner("ann"):
        known.expiry = 5
    assert not circle_to_break(claims, waits_of(claims)["ben"], 5)


def test_too_much_to_look_at_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "MAX_LOOKS", 3)
    claims = claims_of(("ann", "a", True, 1), ("ben", "b", True, 2), ("ann", "b", False, 10), ("ben", "a", False, 11))
    assert not circle_to_break(claims, waits_of(claims)["ben"], 0)
