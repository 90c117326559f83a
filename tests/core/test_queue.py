"""The queue: its order across machines, who is woken and by how much talk, who leaves it, and that nobody waits for ever."""

from __future__ import annotations

from collections import Counter
from functools import partial
from random import Random

import pytest
from tests.core.lease_bench import TTL, Bench, any_order, every_order, file

from sudocode_coordination.core.claims import stretch
from sudocode_coordination.core.holdings import QUEUED_HOLD_MS
from sudocode_coordination.core.own_leases import GRANTS_KEPT, RETRY_MS
from sudocode_coordination.core.waiting import AGING_MS, levels_earned
from sudocode_coordination.core.wire import Ack, Claim, End, Granted
from sudocode_coordination.model import LeaseMode

NAMES = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy", "kim", "leo")


def held_by_alice(*others: str, priority: int = 0, **config: int) -> Bench:
    bench = Bench("alice", *others, **config)  # type: ignore[arg-type]
    bench.asks("alice", "a.py", priority=priority)
    bench.settles()
    return bench


def waits(bench: Bench, name: str, *, priority: int = 0, mode: LeaseMode = "exclusive", path: str = "a.py", client: int = 1) -> int:
    asked = bench.asks(name, path, wait_ms=0, priority=priority, mode=mode, client=client)
    bench.settles()
    return asked


def served(bench: Bench, asked: dict[int, str], *, path: str = "a.py") -> list[str]:
    """Each holder lets go in turn: who gets it, in which order."""
    order: list[str] = []
    for _ in range(len(asked) + 1):
        for holder in bench.holders(path):
            bench.releases(holder, path)
            bench.settles()
        order += [name for number, name in asked.items() if bench.granted(number) and name not in order]
    return order


# --- order -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_first_come_first_served_across_machines(seed: int) -> None:
    """Whoever asks after having heard of another's request comes after it, wherever the two are, whatever the names."""
    dice = Random(seed)
    names = list(NAMES[:6])
    bench = Bench(*names)
    bench.asks("alice", "a.py")
    bench.settles()
    comers = names[1:]
    dice.shuffle(comers)
    asked = {waits(bench, name): name for name in comers}
    assert served(bench, asked) == comers


@pytest.mark.parametrize("seed", range(20))
def test_all_agree_on_the_order_of_those_who_ask_at_once(seed: int) -> None:
    bench = Bench("alice", "bob", "carol", "dave")
    bench.asks("alice", "a.py")
    bench.settles()
    asked: dict[int, str] = {}
    for name in ("bob", "carol", "dave"):
        bench.plans_to(name, lambda name=name: asked.update({bench.asks(name, "a.py", wait_ms=0): name}))  # type: ignore[misc]
    any_order(bench, Random(seed))
    shown = [
        [(lease.agent_id, lease.position) for lease in bench.of(name).leases(bench.instant)] for name in ("alice", "bob", "carol")
    ]
    assert shown[0] == shown[1] == shown[2]
    assert [position for _, position in shown[0]] == [None, 1, 2, 3]
    assert [f"agent-of-{name}" for name in served(bench, asked)] == [agent for agent, position in shown[0] if position]


def test_the_list_tells_who_waits_and_at_which_place() -> None:
    bench = held_by_alice("bob", "carol", "dave", preempt_grace_ms=3_600_000)
    bench.asks("bob", "a.py", "b.py", wait_ms=0)
    bench.settles()
    waits(bench, "carol", path="b.py")
    waits(bench, "dave", priority=2)
    for name in bench.stations:
        listed = {lease.agent_id: (lease.state, lease.position) for lease in bench.of(name).leases(bench.instant)}
        assert listed == {
            "agent-of-alice": ("granted", None),
            "agent-of-bob": ("pending", 2),
            "agent-of-carol": ("pending", 2),
            "agent-of-dave": ("pending", 1),
        }, name


@pytest.mark.parametrize("priority", [0, 3])
def test_later_readers_do_not_overtake_a_waiting_writer(priority: int) -> None:
    bench = Bench("alice", "bob", "carol", "dave")
    bench.asks("alice", "a.py", mode="shared", priority=3)
    bench.settles()
    writer = waits(bench, "bob", priority=priority)
    readers = [waits(bench, name, mode="shared", priority=priority) for name in ("carol", "dave")]
    refused = bench.asks("carol", "a.py", mode="shared", agent="hasty", priority=priority)
    bench.passes(15_000)
    assert [bench.answer(asked) for asked in (writer, *readers)] == [None] * 3
    answer = bench.answer(refused)
    assert answer is not None
    assert (answer.granted, answer.reason, answer.holders[0].kind) == (False, "timeout", "waiting")
    bench.releases("alice", "a.py")
    bench.settles()
    assert bench.granted(writer)
    bench.releases("bob", "a.py")
    bench.settles()
    assert all(bench.granted(asked) for asked in readers), "and then all of them together"


def test_under_a_stream_of_readers_a_writer_gets_its_turn() -> None:
    bench = Bench("alice", "bob", "carol")
    bench.asks("alice", "a.py", agent="reader0", mode="shared")
    bench.settles()
    writer = waits(bench, "bob")
    for number in range(1, 20):
        bench.asks("alice" if number % 2 else "carol", "a.py", agent=f"reader{number}", mode="shared", wait_ms=0)
        bench.settles()
    bench.releases("alice", "a.py", agent="reader0")
    bench.settles()
    assert bench.granted(writer)


# --- talk --------------------------------------------------------------------------------------------------------------------


def test_the_next_is_woken_by_one_message_on_its_way() -> None:
    bench = held_by_alice("bob", "carol", "dave")
    asked = [waits(bench, name) for name in ("bob", "carol", "dave")]
    bench.releases("alice", "a.py")
    assert [[type(m) for m in bench.under_way("alice", name)] for name in ("bob", "carol", "dave")] == [[End]] * 3
    bench.delivers("alice", "bob")
    assert bench.granted(asked[0]), "one one-way trip after the release"
    assert not bench.granted(asked[1])


def said(bench: Bench) -> Counter[str]:
    return Counter(type(message).__name__ for station in bench.stations.values() for _, message in station.said)


@pytest.mark.parametrize("waiters", [2, 4, 8, 11])
def test_a_hand_over_costs_as_many_messages_as_there_are_peers_not_their_square(waiters: int) -> None:
    names = NAMES[: waiters + 1]
    bench = held_by_alice(*names[1:])
    for name in names[1:]:
        waits(bench, name)
    others = waiters
    for holder in names[:-1]:
        before = said(bench)
        bench.releases(holder, "a.py")
        bench.settles()
        spent = said(bench) - before
        assert spent["End"] == others
        assert spent["Granted"] <= others
        # The new holder's claim for its full ttl, answered by all.
        assert (spent["Claim"], spent["Ack"]) == (others, others)
        assert spent.total() <= 4 * others
    assert bench.holders("a.py") == [names[-1]]


def test_waiting_costs_each_waiter_a_round_in_five_seconds() -> None:
    names = NAMES[:6]
    bench = held_by_alice(*names[1:])
    for name in names[1:]:
        waits(bench, name)
    bench.passes(5_000)
    before = said(bench)
    bench.passes(10 * 5_000)
    spent = said(bench) - before
    assert spent["Claim"] <= 10 * 5 * 5 + 5
    assert spent["Ack"] == spent["Claim"]
    assert spent["Granted"] == spent["End"] == 0


# --- leaving -----------------------------------------------------------------------------------------------------------------


def queue_of_two() -> tuple[Bench, int]:
    """Bob waits, and carol behind him."""
    bench = held_by_alice("bob", "carol")
    waits(bench, "bob", client=7)
    return bench, waits(bench, "carol")


def test_when_the_client_goes_its_place_is_free_at_once() -> None:
    bench, behind = queue_of_two()
    bench.does("bob", bench.of("bob").client_gone(7, bench.now))
    bench.settles()
    assert [lease.position for lease in bench.of("alice").leases(bench.instant)] == [None, 1]
    bench.releases("alice", "a.py")
    bench.settles()
    assert bench.granted(behind)


def test_when_its_daemon_is_killed_its_place_is_free_when_its_claim_has_run_out_or_it_is_back() -> None:
    for back in (False, True):
        bench, behind = queue_of_two()
        bench.isolates("bob")
        if back:
            bench.restarts("bob")
            for other in ("alice", "carol"):
                bench.heals("bob", other)
                bench.does(other, bench.of(other).peer_started("bob", 2, bench.now))
            bench.settles()
        bench.releases("alice", "a.py")
        bench.settles()
        assert bench.granted(behind) == back
        bench.passes(stretch(QUEUED_HOLD_MS) + 5_000, frozen=("bob",))
        assert bench.granted(behind)


def test_when_its_daemon_is_frozen_it_is_waited_for_no_longer_than_its_claim_counts_and_is_the_next_when_it_wakes() -> None:
    bench, behind = queue_of_two()
    bench.isolates("bob")
    bench.releases("alice", "a.py")
    bench.settles()
    assert not bench.granted(behind)
    bench.passes(stretch(QUEUED_HOLD_MS) + 5_000, frozen=("bob",))
    assert [bench.granted(behind), bench.holders("a.py")] == [True, ["carol"]]
    for other in ("alice", "carol"):
        bench.heals("bob", other)
    bench.ticks("bob")
    bench.settles()
    assert bench.holders("a.py") == ["carol"]
    bench.releases("carol", "a.py")
    bench.settles()
    assert bench.holders("a.py") == ["bob"]


def test_the_limit_of_a_wait_is_told_when_it_begins_and_when_it_is_over() -> None:
    bench = held_by_alice("bob")
    asked = bench.asks("bob", "a.py", wait_ms=9_000)
    bench.settles()
    (queued,) = bench["bob"].told("lease-queued")
    assert queued["waitMs"] == 9_000
    assert queued["lease"]["position"] == 1
    bench.passes(9_000)
    answer = bench.answer(asked)
    assert answer is not None
    assert (answer.reason, answer.waited_ms, [c.agent_id for c in answer.holders]) == ("timeout", 9_000, ["agent-of-alice"])


@pytest.mark.parametrize("cancelled_first", [True, False])
def test_who_gives_up_as_its_turn_comes_holds_nothing(cancelled_first: bool) -> None:
    bench, behind = queue_of_two()
    ticket = bench["bob"].holding().ticket
    assert ticket is not None
    bench.releases("alice", "a.py")
    if not cancelled_first:
        bench.settles()
        assert bench.holders("a.py") == ["bob"]
    bench.does("bob", bench.of("bob").cancel(ticket, bench.now))
    bench.settles()
    assert bench.granted(behind)
    assert bench.of("bob").holdings() == []
    assert bench.of("bob").cancel(ticket, bench.now) == []


def test_an_answer_that_nobody_got_does_not_cost_the_agent_what_it_had_before() -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "a.py", mode="shared", client=1)
    bench.settles()
    bench.asks("alice", "a.py", client=2)
    ticket = bench["alice"].holding().ticket
    assert ticket is not None
    bench.settles()
    bench.does("alice", bench.of("alice").cancel(ticket, bench.now))
    again = bench.asks("alice", "a.py", client=3)
    assert bench.granted(again)
    assert bench.holders("a.py") == ["alice"]


def test_granted_questions_are_not_remembered_for_ever() -> None:
    bench = Bench("alice")
    for number in range(GRANTS_KEPT + 50):
        bench.asks("alice", f"{number}.py")
    assert len(bench.of("alice")._granted_to) == GRANTS_KEPT


# --- no ----------------------------------------------------------------------------------------------------------------------


def test_right_after_a_release_elsewhere_nobody_is_refused_for_what_the_replica_still_shows() -> None:
    for bench in every_order(lambda: just_released()):
        assert bench.holders("a.py") == ["bob"]


def just_released() -> Bench:
    """Alice has released, and her word of it is on its way; bob has heard of it by other means, and asks."""
    bench = held_by_alice("bob", "carol")
    bench.releases("alice", "a.py")
    bench.asks("bob", "a.py")
    return bench


def test_a_refusal_asks_the_holder_and_nobody_else() -> None:
    bench = held_by_alice("bob", "carol", "dave")
    asked = bench.asks("bob", "a.py")
    assert [peer for peer, message in bench["bob"].said if isinstance(message, Claim)] == ["alice"]
    bench.settles()
    answer = bench.answer(asked)
    assert answer is not None
    assert (answer.granted, answer.reason) == (False, "held")
    others = [type(m) for peer, m in bench["bob"].said if peer != "alice" and not isinstance(m, Ack)]
    assert others == [End, End], "alice may have told them of it"


def test_a_holder_that_says_nothing_is_believed_to_hold_it() -> None:
    bench = held_by_alice("bob", "carol")
    asked = bench.asks("bob", "a.py")
    bench.drops("bob", "alice")
    bench.passes(RETRY_MS, silent=True)
    answer = bench.answer(asked)
    assert answer is not None
    assert (answer.granted, answer.reason) == (False, "held")


# --- taking over -------------------------------------------------------------------------------------------------------------


def test_a_holder_keeps_its_lease_if_who_wanted_it_gave_up_in_the_grace() -> None:
    bench = held_by_alice("bob", "carol", preempt_grace_ms=30_000)
    waits(bench, "bob", priority=9, client=7)
    bench.passes(10_000)
    bench.does("bob", bench.of("bob").client_gone(7, bench.now))
    bench.settles()
    bench.passes(60_000)
    assert bench.holders("a.py") == ["alice"]
    later = waits(bench, "carol", priority=9)
    bench.passes(29_999)
    assert bench.holders("a.py") == ["alice"], "a new grace for a new rival"
    bench.passes(1)
    assert bench.granted(later)


def test_the_one_that_gets_it_is_named_not_the_one_that_asked_first() -> None:
    bench = held_by_alice("bob", "carol", preempt_grace_ms=30_000)
    waits(bench, "bob", priority=5)
    bench.passes(10_000)
    best = waits(bench, "carol", priority=7)
    bench.passes(20_000)
    assert bench.granted(best)
    (lost,) = bench["alice"].told("lease-lost")
    assert (lost["reason"], lost["holder"]) == ("preempted", "agent-of-carol")


# --- waiting for long ----------------------------------------------------------------------------------------------------------


def stream(bench: Bench, *, priority: int, minutes: int, patient: int) -> int | None:
    """Two agents hand it to each other, always asking with that priority before the other lets go: after how many minutes the
    patient one had it."""
    for minute in range(minutes):
        asker, holder = ("carol", "alice") if minute % 2 == 0 else ("alice", "carol")
        waits(bench, asker, priority=priority)
        bench.passes(60_000)
        bench.releases(holder, "a.py")
        bench.settles()
        if bench.granted(patient):
            return minute
    return None


@pytest.mark.parametrize("gap", [1, 4])
def test_who_waits_behind_higher_priorities_gets_its_turn_after_a_minute_for_each_level(gap: int) -> None:
    bench = held_by_alice("bob", "carol", priority=gap)
    patient = waits(bench, "bob")
    minutes = stream(bench, priority=gap, minutes=3 * gap + 6, patient=patient)
    assert minutes is not None
    assert gap - 1 <= minutes <= gap + 2
    (lease,) = [lease for lease in bench.of("carol").leases(bench.instant) if lease.state == "granted"]
    assert (lease.agent_id, lease.priority) == ("agent-of-bob", 0), "it is shown as it was asked"
    waits(bench, "alice", priority=gap)
    assert bench.holders("a.py") == ["bob"], "and is not taken over by those it has waited for"
    urgent = waits(bench, "alice", priority=gap + 1)
    assert bench.granted(urgent)


def test_a_long_wait_takes_nothing_over() -> None:
    bench = held_by_alice("bob", priority=2)
    patient = waits(bench, "bob")
    bench.passes(3_600_000)
    assert bench.answer(patient) is None
    assert bench.holders("a.py") == ["alice"]
    assert [h.body.aged for h in bench["bob"].machine.holdings()] == [2], "level with what it waits for, and no more"
    assert len(bench["bob"].told("lease-queued")) == 1
    bench.releases("alice", "a.py")
    bench.settles()
    assert bench.granted(patient)


def test_within_a_priority_a_long_wait_overtakes_nobody() -> None:
    bench = held_by_alice("bob", "carol", "dave", priority=3)
    asked = {waits(bench, name): name for name in ("bob", "carol", "dave")}
    bench.passes(20 * AGING_MS)
    assert [lease.position for lease in bench.of("alice").leases(bench.instant)] == [None, 1, 2, 3]
    assert served(bench, asked) == ["bob", "carol", "dave"]


def test_equal_priorities_never_age() -> None:
    bench = held_by_alice("bob", "carol")
    for name in ("bob", "carol"):
        waits(bench, name)
    bench.passes(20 * AGING_MS)
    assert {h.body.aged for name in ("bob", "carol") for h in bench[name].machine.holdings()} == {0}
    assert bench["bob"].machine.holdings()[0].body.id == "bob.1.1", "no new claims for nothing"


def test_a_waiter_that_ages_keeps_its_limit_its_question_and_its_time() -> None:
    bench = held_by_alice("bob", priority=1)
    asked = bench.asks("bob", "a.py", wait_ms=150_000)
    bench.settles()
    bench.passes(100_000)
    assert [h.body.aged for h in bench["bob"].machine.holdings()] == [1]
    (ticket,) = [h.ticket for h in bench["bob"].machine.holdings()]
    assert ticket is not None
    bench.passes(50_000)
    answer = bench.answer(asked)
    assert answer is not None
    assert (answer.reason, answer.waited_ms) == ("timeout", 150_000)
    assert bench["bob"].document == {}


def test_what_a_wait_earns() -> None:
    bench = held_by_alice("bob", priority=5)
    waits(bench, "bob")
    (mine,) = bench.of("bob").claims.waiting(bench.instant)
    ahead = [bench.of("bob").claims.get("alice.1.1")]
    assert ahead[0] is not None
    earned = [levels_earned(mine, [k for k in ahead if k], minutes * AGING_MS) for minutes in (0, 4, 5, 50)]
    assert earned == [0, 0, 5, 5]
    assert levels_earned(mine, [], 50 * AGING_MS) == 0


def test_all_of_several_in_any_naming_order() -> None:
    """Every peer wants the same three files, each names them in another order: they get them one after the other."""
    names = ("alice", "bob", "carol")
    paths = ("a.py", "b.py", "c.py")
    for seed in range(30):
        bench = Bench(*names)
        dice = Random(seed)
        for name in names:
            mine = list(paths)
            dice.shuffle(mine)
            bench.plans_to(name, partial(bench.asks, name, *mine, wait_ms=0))
        any_order(bench, dice)
        turns = []
        for _ in names:
            (holder,) = bench.holders("a.py")
            assert bench.holders("b.py") == bench.holders("c.py") == [holder]
            turns.append(holder)
            bench.releases(holder, everything=True)
            bench.settles()
        assert sorted(turns) == sorted(names)
        assert not any(s.told("lease-denied") for s in bench.stations.values())


def test_who_is_told_of_a_grant_are_those_who_wait() -> None:
    bench = held_by_alice("bob", "carol", "dave")
    for name in ("bob", "carol"):
        waits(bench, name)
    bench.releases("alice", "a.py")
    bench.settles()
    assert [peer for peer, m in bench["bob"].said if isinstance(m, Granted)] == ["carol"]
    assert file("a.py") in bench["bob"].holding().body.resources
    assert bench["bob"].holding().valid_until == bench.instant + TTL
