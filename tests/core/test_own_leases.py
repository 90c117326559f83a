"""The owner's side of fast leases: waiting its turn, holding, renewing, giving way, letting go."""

from __future__ import annotations

import itertools

import pytest
from tests.core.lease_bench import Bench, every_order, file

from sudocode_coordination.core.claims import stretch
from sudocode_coordination.core.lease_requests import DECIDE_MS, MAX_NAMES_BYTES
from sudocode_coordination.core.wire import End
from sudocode_coordination.errors import ResourceError

TTL = 300_000


def held_by_alice(*others: str, **config: int) -> Bench:
    bench = Bench("alice", *(others or ("bob",)), **config)  # type: ignore[arg-type]
    bench.asks("alice", "a.py")
    bench.settles()
    return bench


# --- the queue ------------------------------------------------------------------------------------------------------------


def test_who_waits_is_queued_shown_and_told_behind_whom() -> None:
    bench = held_by_alice()
    asked = bench.asks("bob", "a.py", wait_ms=0)
    bench.settles()
    assert bench.answer(asked) is None
    (queued,) = bench["bob"].told("lease-queued")
    assert (queued["holder"], queued["queue"]) == ("agent-of-alice", ["agent-of-alice"])
    assert bench["bob"].document["1.1"]["state"] == "pending"
    shown = bench.of("alice").leases(bench.instant)
    assert [(lease.agent_id, lease.state) for lease in shown] == [("agent-of-alice", "granted"), ("agent-of-bob", "pending")]


def test_one_message_wakes_who_waits() -> None:
    bench = held_by_alice()
    asked = bench.asks("bob", "a.py", wait_ms=0)
    bench.settles()
    bench.instant += 700
    bench.releases("alice", "a.py")
    (end,) = bench.under_way("alice", "bob")
    assert isinstance(end, End)
    bench.delivers("alice", "bob")
    answer = bench.answer(asked)
    assert answer is not None
    assert answer.granted
    assert answer.waited_ms == 700


def test_a_waiters_hold_is_short_and_its_lease_is_not() -> None:
    bench = held_by_alice("bob", "carol")
    bench.asks("bob", "a.py", wait_ms=0)
    bench.settles()
    bench.releases("alice", "a.py")
    bench.settles()
    holding = bench["bob"].holding()
    assert holding.granted
    assert holding.valid_until == bench.instant + TTL
    assert [lease.remaining_ms for lease in bench.of("carol").leases(bench.instant)] == [TTL]


@pytest.mark.parametrize("order", list(itertools.permutations([("bob", 0), ("carol", 0), ("dave", 5)])))
def test_the_queue_goes_by_priority_and_then_by_who_came_first(order: tuple[tuple[str, int], ...]) -> None:
    bench = held_by_alice("bob", "carol", "dave", preempt_grace_ms=3_600_000)
    asked = {}
    for name, priority in order:
        asked[name] = bench.asks(name, "a.py", priority=priority, wait_ms=0)
        bench.settles()
    expected = [name for name, _ in sorted(order, key=lambda pair: -pair[1])]
    bench.releases("alice", "a.py")
    bench.settles()
    for name in expected:
        assert bench.holders("a.py") == [name]
        assert bench.granted(asked[name])
        bench.releases(name, "a.py")
        bench.settles()
    assert bench.holders("a.py") == []


def test_agents_of_one_clone_queue_too() -> None:
    bench = Bench("alice")
    bench.asks("alice", "a.py", agent="one")
    second = bench.asks("alice", "a.py", agent="two", wait_ms=0)
    third = bench.asks("alice", "a.py", agent="three", wait_ms=0)
    bench.releases("alice", "a.py", agent="one")
    assert (bench.granted(second), bench.granted(third)) == (True, False)
    bench.releases("alice", "a.py", agent="two")
    assert bench.granted(third)


def test_readers_wait_for_a_writer_together() -> None:
    bench = held_by_alice("bob", "carol")
    readers = [bench.asks(name, "a.py", wait_ms=0, mode="shared") for name in ("bob", "carol")]
    bench.settles()
    bench.releases("alice", "a.py")
    bench.settles()
    assert all(bench.granted(asked) for asked in readers)


def test_who_waits_for_different_things_is_not_in_each_others_way() -> None:
    bench = held_by_alice("bob", "carol")
    bench.asks("alice", "b.py")
    bench.settles()
    both = bench.asks("bob", "a.py", "b.py", wait_ms=0)
    bench.settles()
    bench.releases("alice", "a.py")
    bench.settles()
    assert bench.answer(both) is None, "all or none"
    assert bench.holders("a.py") == []
    behind = bench.asks("carol", "a.py", wait_ms=0)
    bench.settles()
    assert bench.answer(behind) is None, "bob came first, for both"
    bench.releases("alice", "b.py")
    bench.settles()
    assert bench.granted(both)
    assert (bench.holders("a.py"), bench.holders("b.py")) == (["bob"], ["bob"])
    bench.releases("bob", everything=True)
    bench.settles()
    assert bench.granted(behind)


def test_two_that_need_the_same_two_do_not_wait_for_each_other() -> None:
    def scene() -> Bench:
        bench = Bench("alice", "bob")
        bench.plans_to("alice", lambda: bench.asks("alice", "a.py", "b.py", wait_ms=0))
        bench.plans_to("bob", lambda: bench.asks("bob", "b.py", "a.py", wait_ms=0))
        return bench

    for bench in every_order(scene):
        (winner,) = bench.holders("a.py")
        assert bench.holders("b.py") == [winner]
        bench.releases(winner, everything=True)
        bench.settles()
        (second,) = bench.holders("a.py")
        assert second != winner


def test_a_dead_waiter_delays_nobody_for_long() -> None:
    bench = held_by_alice("bob", "carol")
    bench.asks("bob", "a.py", wait_ms=0)
    bench.settles()
    behind = bench.asks("carol", "a.py", wait_ms=0)
    bench.settles()
    bench.isolates("bob")
    bench.releases("alice", "a.py")
    bench.settles()
    assert not bench.granted(behind)
    bench.passes(stretch(15_000) + 5_000, frozen=("bob",))
    assert bench.holders("a.py") == ["carol"]
    assert bench["carol"].holding().grade == "quorum"


# --- patience -------------------------------------------------------------------------------------------------------------


def test_a_wait_has_the_limit_it_was_given() -> None:
    bench = held_by_alice()
    asked = bench.asks("bob", "a.py", wait_ms=4_000)
    bench.settles()
    bench.passes(3_999)
    assert bench.answer(asked) is None
    bench.passes(1)
    answer = bench.answer(asked)
    assert answer is not None
    assert (answer.granted, answer.reason, answer.waited_ms) == (False, "timeout", 4_000)
    assert [c.agent_id for c in answer.holders] == ["agent-of-alice"]
    assert bench["bob"].machine.holdings() == []
    assert bench["bob"].document == {}
    assert [lease.agent_id for lease in bench.of("alice").leases(bench.instant)] == ["agent-of-alice"]


def test_without_a_limit_it_waits_for_days() -> None:
    bench = Bench("alice")
    bench.asks("alice", "a.py", agent="one")
    asked = bench.asks("alice", "a.py", agent="two", wait_ms=0)
    bench.passes(24 * 3_600_000)
    assert bench.answer(asked) is None
    bench.releases("alice", "a.py", agent="one")
    assert bench.granted(asked)


def test_who_does_not_wait_has_an_answer_in_seconds_even_if_nobody_answers() -> None:
    bench = Bench("alice", "bob", "carol")
    asked = bench.asks("alice", "a.py")
    bench.passes(DECIDE_MS, frozen=("bob", "carol"), silent=True)
    answer = bench.answer(asked)
    assert answer is not None
    assert (answer.granted, answer.reason, answer.holders) == (False, "no-answer", ())


def test_who_cancels_leaves_the_queue() -> None:
    bench = held_by_alice("bob", "carol")
    cancelled = bench.asks("bob", "a.py", wait_ms=0)
    bench.settles()
    behind = bench.asks("carol", "a.py", wait_ms=0)
    bench.settles()
    ticket = bench["bob"].holding().ticket
    assert ticket is not None
    bench.does("bob", bench.of("bob").cancel(ticket, bench.now))
    bench.releases("alice", "a.py")
    bench.settles()
    assert bench.answer(cancelled) is None
    assert bench.granted(behind)
    assert bench.of("bob").cancel(ticket, bench.now) == []


def test_a_client_that_goes_takes_its_questions_along_and_leaves_its_leases() -> None:
    bench = held_by_alice()
    bench.asks("bob", "b.py", client=7)
    bench.settles()
    mine = bench.asks("bob", "a.py", wait_ms=0, client=7)
    other = bench.asks("bob", "a.py", agent="patient", wait_ms=0, client=8)
    bench.settles()
    bench.does("bob", bench.of("bob").client_gone(7, bench.now))
    bench.releases("alice", "a.py")
    bench.settles()
    assert bench.answer(mine) is None
    assert bench.granted(other)
    assert bench.holders("b.py") == ["bob"]


# --- more important -------------------------------------------------------------------------------------------------------


def test_a_higher_priority_takes_over_at_once_and_the_holder_is_told_by_whom() -> None:
    bench = held_by_alice()
    asked = bench.asks("bob", "a.py", priority=9)
    bench.settles()
    assert bench.granted(asked)
    assert bench.holders("a.py") == ["bob"]
    (lost,) = bench["alice"].told("lease-lost")
    assert (lost["reason"], lost["holder"]) == ("preempted", "agent-of-bob")
    assert bench["alice"].told("lease-released") == []


def test_it_is_the_holder_that_ends_its_lease_and_never_the_one_who_wants_it() -> None:
    bench = held_by_alice()
    asked = bench.asks("bob", "a.py", priority=9, wait_ms=0)
    assert bench.holders("a.py") == ["alice"]
    bench.drops("bob", "alice")
    bench.passes(500)
    assert not bench.granted(asked)
    bench.passes(500)
    assert bench.granted(asked), "asked again a second later"


def test_with_a_grace_the_holder_may_finish() -> None:
    bench = held_by_alice(preempt_grace_ms=30_000)
    asked = bench.asks("bob", "a.py", priority=9, wait_ms=0)
    bench.settles()
    (warned,) = bench["alice"].told("conflicts-detected")
    assert (warned["holder"], warned["graceMs"]) == ("agent-of-bob", 30_000)
    bench.passes(29_999)
    assert bench.holders("a.py") == ["alice"]
    assert len(bench["alice"].told("conflicts-detected")) == 1, "told once, however often it is asked"
    bench.passes(1)
    assert bench.holders("a.py") == ["bob"]
    assert bench.granted(asked)
    assert [d["reason"] for d in bench["alice"].told("lease-lost")] == ["preempted"]


def test_a_holder_that_lets_go_within_the_grace_lost_nothing() -> None:
    bench = held_by_alice(preempt_grace_ms=30_000)
    asked = bench.asks("bob", "a.py", priority=9, wait_ms=0)
    bench.settles()
    bench.releases("alice", "a.py")
    bench.settles()
    assert bench.granted(asked)
    assert bench["alice"].told("lease-lost") == []


@pytest.mark.parametrize("priority", [-5, 0])
def test_equal_and_lower_priorities_never_take_over(priority: int) -> None:
    bench = held_by_alice()
    refused = bench.asks("bob", "a.py", priority=priority)
    waits = bench.asks("bob", "a.py", priority=priority, wait_ms=0)
    bench.settles()
    bench.passes(2 * TTL)
    assert bench.answer(refused) is not None
    assert bench.answer(waits) is None
    assert bench.holders("a.py") == ["alice"]


def test_agents_of_one_clone_take_over_too() -> None:
    bench = Bench("alice")
    bench.asks("alice", "a.py", agent="one")
    assert bench.granted(bench.asks("alice", "a.py", agent="two", priority=1))
    assert [d["holder"] for d in bench["alice"].told("lease-lost")] == ["two"]


# --- asking for more, giving back a part ------------------------------------------------------------------------------------


def test_what_an_agent_holds_it_has_already() -> None:
    bench = held_by_alice()
    bench.asks("alice", "b.py", "c.py", priority=3)
    bench.settles()
    said = len(bench["alice"].said)
    for asked in (bench.asks("alice", "a.py"), bench.asks("alice", "c.py", priority=2), bench.asks("alice", "b.py", mode="shared")):
        assert bench.granted(asked)
    assert len(bench["alice"].said) == said
    assert len(bench["alice"].held()) == 2


def test_what_is_stronger_or_more_than_that_is_asked_for() -> None:
    bench = Bench("alice")
    bench.asks("alice", "a.py", mode="shared")
    assert bench.granted(bench.asks("alice", "a.py"))
    assert bench.granted(bench.asks("alice", "a.py", priority=5))
    assert bench.granted(bench.asks("alice", "a.py", "b.py"))
    held = [(h.body.mode, h.body.priority, len(h.body.resources)) for h in bench["alice"].held()]
    assert held == [("exclusive", 5, 1), ("exclusive", 0, 2)], "what is asked for takes the place of what says no more"


def test_all_of_several_or_none() -> None:
    bench = held_by_alice("bob", "carol")
    asked = bench.asks("bob", "b.py", "a.py", "c.py")
    bench.settles()
    answer = bench.answer(asked)
    assert answer is not None
    assert not answer
    assert [c.resource for c in answer.holders] == [file("a.py")]
    asked = bench.asks("carol", "b.py", "c.py")
    bench.settles()
    assert bench.granted(asked)


def test_giving_back_a_part_never_frees_the_rest() -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "a.py", "b.py")
    bench.settles()
    for_a = bench.asks("bob", "a.py", agent="one", wait_ms=0)
    for_b = bench.asks("bob", "b.py", agent="two", wait_ms=0)
    bench.settles()
    (released,) = bench.releases("alice", "b.py", "not held")
    assert released.resources == (file("a.py"), file("b.py"))
    while any(bench.links.values()):
        for sender, receiver in sorted(bench.links):
            if bench.links[sender, receiver]:
                bench.delivers(sender, receiver)
                assert bench.holders("a.py") == ["alice"]
    assert bench.answer(for_a) is None
    assert bench.granted(for_b)
    (heir,) = bench["alice"].held()
    assert heir.body.resources == (file("a.py"),)
    assert bench["alice"].told("lease-lost") == []
    bench.releases("alice", "a.py")
    bench.settles()
    assert bench.granted(for_a)


def test_the_rest_keeps_its_place_in_the_queue() -> None:
    bench = held_by_alice("bob", "carol")
    bench.asks("bob", "a.py", "b.py", wait_ms=0)
    bench.settles()
    behind = bench.asks("carol", "a.py", wait_ms=0)
    bench.settles()
    bench.releases("bob", "b.py")
    bench.settles()
    bench.releases("alice", "a.py")
    bench.settles()
    assert bench.holders("a.py") == ["bob"]
    assert bench.answer(behind) is None


def test_a_release_of_what_is_not_held_does_nothing() -> None:
    bench = held_by_alice()
    assert bench.releases("bob", "a.py") == []
    assert bench.releases("alice", "b.py") == []
    assert bench.releases("alice", "a.py", agent="another") == []
    assert bench.holders("a.py") == ["alice"]


def test_names_that_are_too_long_together_are_refused() -> None:
    bench = Bench("alice")
    with pytest.raises(ResourceError, match="too long for one lease"):
        bench.asks("alice", *(f"{number:03}{'x' * 250}" for number in range(MAX_NAMES_BYTES // 250)))
    with pytest.raises(ResourceError):
        bench.asks("alice", "/etc/passwd")
    assert bench["alice"].machine.holdings() == []
