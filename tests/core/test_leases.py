"""Fast leases between peers: who is asked, who answers what, and that of all who want the same, one gets it."""

from __future__ import annotations

from random import Random

import pytest
from tests.core.lease_bench import TTL, Bench, a_body, a_claim, any_order, every_order, file

from sudocode_coordination.core.claims import stretch
from sudocode_coordination.core.facts import Say
from sudocode_coordination.core.io import Persist
from sudocode_coordination.core.lease_requests import DECIDE_MS
from sudocode_coordination.core.own_leases import RETRY_MS
from sudocode_coordination.core.wire import Ack, Claim, ClaimBody, Disclosed, End, Granted, RenewAck
from sudocode_coordination.model import PartitionPolicy

# --- asking ---------------------------------------------------------------------------------------------------------------


def test_alone_on_the_branch_a_lease_is_granted_at_once() -> None:
    bench = Bench("alice")
    asked = bench.asks("alice", "a.py", note="token refresh")
    answer = bench.answer(asked)
    assert answer is not None
    assert answer.lease is not None
    assert (answer.lease.state, answer.lease.grade, answer.lease.mine) == ("granted", "quorum", True)
    assert answer.lease.remaining_ms == TTL
    assert bench["alice"].said == []
    assert bench["alice"].document["1.1"]["note"] == "token refresh"
    assert [event.type for event in bench["alice"].events] == ["lease-acquired"]


def test_two_of_three_are_a_majority() -> None:
    bench = Bench("alice", "bob", "carol")
    asked = bench.asks("alice", "a.py")
    assert bench.answer(asked) is None
    bench.delivers("alice", "bob")
    bench.delivers("bob", "alice")
    assert bench.granted(asked)
    assert bench["alice"].holding().grade == "quorum"
    assert len(bench["alice"].said) == 2, "one claim to each: nothing more until it is renewed"


def test_the_lease_counts_from_when_the_question_was_sent() -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "a.py")
    bench.instant += 400
    bench.settles()
    assert bench["alice"].holding().valid_until == bench.instant - 400 + TTL


@pytest.mark.parametrize(("policy", "grade"), [("open", "provisional"), ("majority", None), ("closed", None)])
def test_out_of_reach_of_all_the_policy_decides(policy: PartitionPolicy, grade: str | None) -> None:
    bench = Bench("alice", "bob", "carol", policy=policy)
    bench.isolates("alice")
    asked = bench.asks("alice", "a.py")
    assert [h.grade for h in bench["alice"].held()] == ([grade] if grade else [])
    bench.passes(DECIDE_MS)
    answer = bench.answer(asked)
    assert answer is not None
    assert answer.granted == (grade is not None)
    assert answer.reason == ("" if grade else "no-answer")


def test_who_is_not_suspected_yet_is_waited_for() -> None:
    bench = Bench("alice", "bob", "carol")
    bench.cut("alice", "bob", suspected=False)
    bench.cut("alice", "carol")
    asked = bench.asks("alice", "a.py")
    assert bench.answer(asked) is None
    bench.suspected["alice"].add("bob")
    bench.looks("alice")
    assert bench.granted(asked)
    assert bench["alice"].holding().grade == "provisional"


@pytest.mark.parametrize(("policy", "granted"), [("open", True), ("closed", True), ("majority", False)])
def test_without_a_fresh_roster_there_is_no_quorum_though_all_agree(policy: PartitionPolicy, granted: bool) -> None:
    bench = Bench("alice", "bob", fresh=False, policy=policy)
    asked = bench.asks("alice", "a.py")
    bench.settles()
    assert bench.granted(asked) == granted
    assert all(h.grade == "provisional" for h in bench["alice"].held())


def test_a_provisional_lease_becomes_a_quorum_lease_as_soon_as_it_can() -> None:
    bench = Bench("alice", "bob", fresh=False)
    bench.asks("alice", "a.py")
    bench.settles()
    bench.fresh = True
    bench.looks("alice")
    assert bench["alice"].holding().grade == "quorum"
    assert bench["alice"].document["1.1"]["grade"] == "quorum"


def test_nobody_is_granted_anything_before_it_is_known_who_is_there() -> None:
    bench = Bench("alice")
    view = bench.view("alice")._replace(ready=False)
    bench.does("alice", bench.of("alice").view_changed(view, bench.now))
    asked = bench.asks("alice", "a.py")
    assert bench.answer(asked) is None
    bench.looks("alice")
    assert bench.granted(asked)


def test_those_who_do_not_answer_are_asked_again_every_second_and_only_they() -> None:
    bench = Bench("alice", "bob", "carol", "dave")
    bench.asks("alice", "a.py")
    bench.drops("alice", "bob")
    bench.drops("alice", "carol")
    bench.settles()
    bench.passes(RETRY_MS - 1)
    assert bench.holders("a.py") == []
    bench.passes(1)
    assert bench.holders("a.py") == ["alice"]
    assert [peer for peer, _ in bench["alice"].said] == ["bob", "carol", "dave", "bob", "carol"]


# --- denying --------------------------------------------------------------------------------------------------------------


def test_what_is_known_to_be_held_is_denied_by_the_holders_word_and_the_holder_named() -> None:
    bench = Bench("alice", "bob", "carol")
    bench.asks("alice", "a.py", note="mine for now")
    bench.settles()
    said = len(bench["bob"].said)
    asked = bench.asks("bob", "a.py", "b.py")
    bench.settles()
    answer = bench.answer(asked)
    assert answer is not None
    assert not answer
    assert answer.reason == "held"
    assert [(c.kind, c.agent_id, c.peer_id, c.resource, c.note) for c in answer.holders] == [
        ("lease", "agent-of-alice", "alice", file("a.py"), "mine for now")
    ]
    told = [(peer, type(message)) for peer, message in bench["bob"].said[said:]]
    assert told == [("alice", Claim), ("alice", End), ("carol", End)]
    assert len(bench["alice"].said) == 3, "two claims and one answer: nobody else is troubled with it"
    (denied,) = bench["bob"].told("lease-denied")
    assert denied["holder"] == "agent-of-alice"


def test_what_others_know_to_be_held_is_denied_by_their_disclosure() -> None:
    bench = Bench("alice", "bob", "carol")
    bench.cut("alice", "carol")
    bench.asks("alice", "a.py")
    bench.settles()
    asked = bench.asks("carol", "a.py")
    assert bench.answer(asked) is None
    bench.settles()
    answer = bench.answer(asked)
    assert answer is not None
    assert [c.agent_id for c in answer.holders] == ["agent-of-alice"]
    assert bench.holders("a.py") == ["alice"]


def test_agents_of_one_clone_exclude_each_other_without_a_word() -> None:
    bench = Bench("alice")
    assert bench.granted(bench.asks("alice", "a.py", agent="one"))
    answer = bench.answer(bench.asks("alice", "a.py", agent="two"))
    assert answer is not None
    assert [c.agent_id for c in answer.holders] == ["one"]


def test_readers_share_and_writers_do_not() -> None:
    bench = Bench("alice", "bob", "carol")
    readers = [bench.asks(name, "a.py", mode="shared") for name in ("alice", "bob")]
    bench.settles()
    assert all(bench.granted(asked) for asked in readers)
    asked = bench.asks("carol", "a.py")
    bench.settles()
    answer = bench.answer(asked)
    assert answer is not None
    assert sorted(c.agent_id for c in answer.holders) == ["agent-of-alice", "agent-of-bob"]


# --- racing ---------------------------------------------------------------------------------------------------------------


def racing(racers: tuple[str, ...], everyone: tuple[str, ...] = ()) -> Bench:
    bench = Bench(*(everyone or racers))
    for name in racers:
        bench.plans_to(name, lambda name=name: bench.asks(name, "a.py"))  # type: ignore[misc]
    return bench


def is_decided(bench: Bench, racers: int) -> None:
    """One has it, and all others know who."""
    (winner,) = bench.holders("a.py")
    answers = [answer for station in bench.stations.values() for answer in station.answers.values()]
    assert len(answers) == racers
    assert sum(answer.granted for answer in answers) == 1
    assert {c.peer_id for answer in answers for c in answer.holders} == {winner}


@pytest.mark.parametrize("reorder", [False, True])
def test_of_two_racers_one_wins_whatever_the_order(reorder: bool) -> None:
    orders = 0
    for bench in every_order(lambda: racing(("alice", "bob")), reorder=reorder):
        orders += 1
        if reorder:
            bench.passes(DECIDE_MS)
            assert len(bench.holders("a.py")) == 1
        else:
            is_decided(bench, 2)
    assert orders >= 3


def test_of_two_racers_before_a_witness_one_wins_whatever_the_order() -> None:
    orders = 0
    for bench in every_order(lambda: racing(("alice", "bob"), ("alice", "bob", "carol"))):
        orders += 1
        is_decided(bench, 2)
    assert orders > 50


@pytest.mark.parametrize("seed", range(60))
def test_of_three_racers_one_wins_in_any_order(seed: int) -> None:
    bench = racing(("alice", "bob", "carol"))
    any_order(bench, Random(seed))
    is_decided(bench, 3)


def test_the_one_that_all_learn_of_first_wins() -> None:
    bench = Bench("alice", "bob", "carol")
    first = bench.asks("carol", "a.py")
    bench.delivers("carol", "alice")
    bench.delivers("carol", "bob")
    second = bench.asks("alice", "a.py")
    bench.settles()
    assert bench.granted(first)
    assert not bench.granted(second)


def test_a_later_claim_does_not_hold_up_the_first_because_its_owner_answered_too_early() -> None:
    bench = Bench("alice", "bob", "carol")
    asked = bench.asks("alice", "a.py")
    bench.delivers("alice", "bob")
    bench.asks("bob", "a.py")
    bench.delivers("bob", "carol")
    bench.delivers("alice", "carol")
    bench.delivers("carol", "alice")
    bench.delivers("bob", "alice")
    assert bench.answer(asked) is None, "carol told of bob's claim, and bob had none to yield"
    bench.settles()
    assert bench.granted(asked)
    assert bench.instant == bench.now.instant


def test_a_yield_does_not_outlive_the_round_it_was_given_in() -> None:
    bench = Bench("alice", "bob", "carol", policy="majority")
    bench.asks("carol", "a.py", ttl_ms=10_000)
    bench.settles()
    bench.asks("alice", "a.py", wait_ms=0)
    bench.asks("bob", "a.py", wait_ms=0)
    bench.settles()
    bench.passes(6_000)
    bench.isolates("alice")
    bench.passes(12_000)
    bench.releases("carol", "a.py")
    bench.settles()
    bench.passes(12_000)
    assert bench.holders("a.py") == ["bob"], "alice has not been heard of for longer than she counts"
    bench.heals("alice", "carol")
    bench.settles()
    bench.passes(20_000)
    assert bench.holders("a.py") == ["bob"], "bob gave way to alice once, and knows nothing of it any more"


# --- answering --------------------------------------------------------------------------------------------------------------


def test_a_claim_is_on_disk_before_it_is_acknowledged() -> None:
    bench = Bench("alice", "bob")
    outputs = bench.of("bob").received("alice", a_claim("alice.1.1"), bench.now)
    kinds = [type(output) for output in outputs]
    assert kinds.index(Persist) < kinds.index(Say)
    bench.does("bob", outputs)
    assert list(bench["bob"].disk) == ["alice.1.1"]
    bench.hears("bob", "alice", End(id="alice.1.1", reason="released"))
    assert bench["bob"].disk == {}


def test_it_is_acknowledged_each_time_even_if_others_told_of_it_first() -> None:
    bench = Bench("alice", "bob", "carol")
    bench.asks("bob", "a.py", wait_ms=0)
    disclosed = Disclosed(a_body("alice.1.1"), granted=False, grade="provisional", remaining_ms=1_000)
    bench.hears("bob", "carol", Ack(id="bob.1.1", round=1, disclosed=(disclosed,)))
    for round_ in (1, 1, 2):
        bench.hears("bob", "alice", a_claim("alice.1.1", round_=round_))
    answers = [m for peer, m in bench["bob"].said if peer == "alice" and isinstance(m, Ack)]
    assert [(a.id, a.round, a.counts) for a in answers] == [("alice.1.1", 1, True)] * 2 + [("alice.1.1", 2, True)]


def test_a_claim_that_has_ended_never_lives_again() -> None:
    bench = Bench("alice", "bob", "carol")
    bench.hears("bob", "alice", End(id="alice.1.1", reason="released"))
    bench.hears("bob", "alice", a_claim("alice.1.1", granted=True))
    assert bench.granted(bench.asks("bob", "b.py")) is False
    bench.hears(
        "bob", "carol", Ack(id="bob.1.1", round=1, disclosed=(Disclosed(a_body("alice.1.1"), True, "quorum", remaining_ms=TTL),))
    )
    bench.writes_reach("bob", "alice")
    assert [lease.claim_id for lease in bench.of("bob").leases(bench.instant)] == ["bob.1.1"]
    (answer,) = [m for peer, m in bench["bob"].said if isinstance(m, Ack)]
    assert answer == Ack(id="alice.1.1", round=1, lamport=1, counts=False), "the owner must hear that it is no voice for it"


def test_observers_forget_a_silent_holder_a_little_after_its_own_ttl() -> None:
    bench = Bench("alice", "bob", "carol")
    bench.asks("alice", "a.py", ttl_ms=20_000)
    bench.settles()
    bench.passes(stretch(20_000) - 1, frozen=("alice",))
    assert [lease.peer_id for lease in bench.of("bob").leases(bench.instant)] == ["alice"]
    bench.passes(1, frozen=("alice",))
    assert bench.of("bob").leases(bench.instant) == []
    assert [d["reason"] for d in bench["bob"].told("lease-expired")] == ["expired"]
    assert bench["bob"].disk == {}


def test_a_holder_that_slept_finds_its_lease_over_before_it_answers_anything() -> None:
    bench = Bench("alice", "bob", "carol")
    bench.asks("alice", "a.py", ttl_ms=20_000)
    bench.settles()
    bench.passes(60_000, frozen=("alice",))
    assert bench.granted(bench.asks("bob", "a.py")) is False
    bench.settles()
    assert bench.holders("a.py") == ["bob"]
    bench.ticks("alice")
    assert bench["alice"].held() == []
    assert [d["reason"] for d in bench["alice"].told("lease-lost")] == ["expired"]
    assert [d["reason"] for d in bench["alice"].told("lease-expired")] == ["expired"]


def test_even_without_a_tick_a_lapsed_lease_is_not_defended() -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "a.py", ttl_ms=20_000)
    bench.settles()
    bench.instant += 20_000
    bench.hears("alice", "bob", a_claim("bob.1.1"))
    assert bench["alice"].held() == []
    (answer,) = [m for _, m in bench["alice"].said if isinstance(m, Ack)]
    assert answer.yields == ("alice.1.1",)


def test_a_claim_with_more_in_its_way_than_fits_an_answer_is_not_acknowledged_for_a_quorum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sudocode_coordination.core.claims.MAX_RESOURCES", 2)
    bench = Bench("alice", "bob")
    for path in ("a.py", "b.py", "c.py"):
        bench.asks("bob", path)
    bench.settles()
    wide = ClaimBody("alice.1.1", "x", (file("a.py"), file("b.py"), file("c.py")), "exclusive", 0, 9, TTL)
    bench.hears("bob", "alice", Claim(claim=wide, round=1, hold_ms=TTL))
    _, answer = bench["bob"].said[-1]
    assert isinstance(answer, Ack)
    assert len(answer.disclosed) == 2
    assert not answer.counts


# --- what a peer may not say ---------------------------------------------------------------------------------------------


def test_nobody_speaks_for_another() -> None:
    bench = Bench("alice", "bob", "mallory")
    asked = bench.asks("alice", "a.py")
    bench.settles()
    assert bench.granted(asked)
    said = len(bench["bob"].said)
    bench.hears("bob", "mallory", a_claim("alice.1.2", "b.py", granted=True))
    bench.hears("bob", "mallory", a_claim("no id", "b.py", granted=True))
    bench.hears("bob", "mallory", a_claim("mallory.x.1", "b.py", granted=True))
    bench.hears("bob", "mallory", End(id="alice.1.1", reason="released"))
    assert [fault.peer for fault in bench["bob"].faults] == ["mallory"] * 4
    bench.hears("bob", "mallory", Granted(id="alice.1.1", grade="provisional"))
    bench.hears("alice", "mallory", End(id="alice.1.1", reason="released"))
    bench.hears("alice", "mallory", Granted(id="alice.1.1", grade="provisional"))
    assert len(bench["bob"].said) == said
    assert [(lease.claim_id, lease.state) for lease in bench.of("bob").leases(bench.instant)] == [("alice.1.1", "granted")]
    assert bench.of("bob").leases(bench.instant)[0].grade == "quorum"
    assert bench.holders("a.py") == ["alice"]


def test_nobody_yields_for_another() -> None:
    bench = Bench("alice", "bob", "mallory")
    bench.asks("bob", "a.py")
    bench.settles()
    bench.asks("alice", "a.py", wait_ms=0)
    bench.drops("alice", "bob")
    holding = bench["alice"].holding()
    bench.hears("alice", "mallory", Ack(id="alice.1.1", round=holding.round, yields=("bob.1.1",)))
    assert bench.holders("a.py") == ["bob"]
    assert not holding.granted


def test_a_claim_keeps_the_body_it_began_with() -> None:
    bench = Bench("alice", "bob")
    bench.hears("bob", "alice", a_claim("alice.1.1", "a.py"))
    said = len(bench["bob"].said)
    bench.hears("bob", "alice", a_claim("alice.1.1", "b.py", round_=2))
    bench.hears("bob", "alice", a_claim("alice.1.1", "a.py", priority=9, round_=2))
    assert len(bench["bob"].said) == said
    (lease,) = bench.of("bob").leases(bench.instant)
    assert (lease.resources, lease.priority) == ((file("a.py"),), 0)


def test_what_is_said_of_own_claims_is_known_better_here() -> None:
    bench = Bench("alice", "mallory")
    bench.asks("alice", "b.py")
    invented = Disclosed(a_body("alice.1.77", "b.py"), granted=True, grade="quorum", remaining_ms=TTL)
    bench.hears("alice", "mallory", Ack(id="alice.1.1", round=1, disclosed=(invented,)))
    assert bench.holders("b.py") == ["alice"]


def test_answers_to_nothing_are_no_answers() -> None:
    bench = Bench("alice", "bob", "carol")
    asked = bench.asks("alice", "a.py")
    bench.hears("alice", "bob", Ack(id="alice.1.1", round=77))
    bench.hears("alice", "bob", Ack(id="alice.1.9", round=1))
    bench.hears("alice", "bob", RenewAck(incarnation=1, round=1))
    bench.hears("alice", "bob", RenewAck(incarnation=9, round=1))
    bench.hears("alice", "stranger", Ack(id="alice.1.1", round=1))
    assert bench.answer(asked) is None


def test_the_lamport_clock_runs_ahead_of_all_that_was_heard() -> None:
    bench = Bench("alice", "bob")
    bench.hears("alice", "bob", a_claim("bob.1.1", "b.py", lamport=41))
    bench.asks("alice", "a.py")
    assert bench["alice"].holding().body.lamport == 42
    bench.hears("alice", "bob", Ack(id="alice.1.1", round=1, lamport=99))
    bench.asks("alice", "c.py")
    assert bench["alice"].holding().body.lamport == 100
