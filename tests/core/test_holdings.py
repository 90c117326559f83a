"""What the answers to a round of an own claim amount to, by who answered, what is in the way, and the policy."""

from __future__ import annotations

import msgspec
import pytest

from sudocode_coordination.core.claims import Claims, Known
from sudocode_coordination.core.holdings import LEAST_HOLD_MS, QUEUED_HOLD_MS, Holding, Standing, View, standing
from sudocode_coordination.core.wire import ClaimBody
from sudocode_coordination.model import PartitionPolicy, Resource

FIVE = ("a", "b", "c", "d", "me")
TTL = 60_000


def known(id_: str) -> Known:
    return Known(ClaimBody(id_, "x", (Resource("file", "f"),), "exclusive", 0, 1, TTL), "direct", TTL, "then")


def stands(
    *answers: str,
    view: View | None = None,
    counted: tuple[str, ...] | None = None,
    blocking: tuple[Known, ...] = (),
    vouched: tuple[tuple[str, str], ...] = (),
    policy: PartitionPolicy = "open",
    memory: bool = True,
    granted: bool = False,
    now: int = 0,
) -> Standing:
    holding = Holding(known("me.1.1"), None, 0)
    holding.granted = granted
    holding.begin_round(1, 0)
    holding.answers.update(answers)
    holding.acks.update(answers if counted is None else counted)
    for claim, voucher in vouched:
        holding.vouched.setdefault(claim, set()).add(voucher)
    view = view or View(roster=FIVE, established=FIVE, roster_fresh=True, ready=True)
    return standing(holding, list(blocking), view, "me", policy, memory=memory, now=now)


def test_more_than_half_with_oneself_is_a_quorum() -> None:
    assert stands("a") == "open"
    assert stands("a", "b") == "quorum"
    four = View(roster=FIVE[1:], established=FIVE[1:], roster_fresh=True, ready=True)
    assert stands("b", view=four) == "open", "half is not more than half"
    assert stands("b", "c", view=four) == "quorum"


def test_strangers_have_no_voice() -> None:
    assert stands("x", "y", "z") == "open"


def test_who_may_have_forgotten_has_answered_but_has_no_voice() -> None:
    assert stands("a", "b", "c", "d", counted=("a",)) == "provisional"
    assert stands("a", "b", memory=False) == "open"
    assert stands("a", "b", "c", memory=False) == "quorum"


def test_a_majority_of_those_who_are_there_for_long_is_needed_as_well() -> None:
    view = View(roster=FIVE, established=("a", "d", "me"), roster_fresh=True, ready=True)
    assert stands("b", "c", view=view) == "open"
    assert stands("a", "c", view=view) == "quorum"


@pytest.mark.parametrize("policy", ["open", "majority", "closed"])
def test_nothing_stands_on_a_round_that_is_over_or_before_it_is_known_who_is_there(policy: PartitionPolicy) -> None:
    assert stands("a", "b", "c", "d", policy=policy, now=TTL - 1) == "quorum"
    assert stands("a", "b", "c", "d", policy=policy, now=TTL) == "open"
    unready = View(roster=FIVE, established=FIVE, roster_fresh=True)
    assert stands("a", "b", "c", "d", policy=policy, view=unready) == "open"


def test_a_stale_roster_makes_no_quorum() -> None:
    view = View(roster=FIVE, established=FIVE, ready=True)
    assert stands("a", "b", "c", "d", view=view) == "provisional"
    assert stands("a", "b", "c", "d", view=view, policy="closed") == "provisional"
    assert stands("a", "b", "c", "d", view=view, policy="majority") == "open"


@pytest.mark.parametrize(("policy", "expected"), [("open", "provisional"), ("majority", "open"), ("closed", "open")])
def test_with_the_rest_out_of_reach_the_policy_decides(policy: PartitionPolicy, expected: Standing) -> None:
    view = View(roster=FIVE, established=FIVE, suspected=frozenset("bcd"), roster_fresh=True, ready=True)
    assert stands("a", view=view, policy=policy) == expected
    assert stands(view=view, policy=policy) == "open", "a is there, and has not answered"


@pytest.mark.parametrize("policy", ["open", "closed"])
def test_who_is_connected_has_to_agree_to_a_provisional_lease_though_it_does_not_count(policy: PartitionPolicy) -> None:
    view = View(roster=("b", "me"), established=("b", "me"), connected=frozenset("ab"), ready=True)
    assert stands("b", view=view, policy=policy) == "open", "a is there, and has not answered"
    assert stands("a", "b", view=view, policy=policy) == "provisional"
    alone = view._replace(roster=("me",), established=("me",), connected=frozenset("a"))
    assert stands(view=alone, policy=policy) == "open"
    assert stands(view=alone._replace(roster_fresh=True), policy="open") == "quorum", "for that it need not be asked"


@pytest.mark.parametrize("policy", ["open", "majority", "closed"])
def test_what_is_in_the_way_is_in_the_way_of_everything(policy: PartitionPolicy) -> None:
    assert stands("a", "b", "c", "d", blocking=(known("a.1.1"),), policy=policy) == "open"


def test_only_what_is_gone_for_all_that_anybody_knows_is_not_in_the_way_of_a_provisional_lease() -> None:
    view = View(roster=FIVE, established=FIVE, suspected=frozenset("d"), gone=frozenset("d"), roster_fresh=True, ready=True)
    gone = known("d.1.1")
    assert stands("a", "b", "c", view=view, blocking=(gone,)) == "provisional"
    assert stands("a", "b", "c", view=view, blocking=(gone,), vouched=(("d.1.1", "b"),)) == "open"
    assert stands("a", "b", "c", view=view, blocking=(gone,), vouched=(("d.1.1", "d"),)) == "provisional", "its own word is old"
    assert stands("a", "b", "c", view=view, blocking=(gone, known("a.1.1"))) == "open"
    assert stands("a", "b", "c", view=view, blocking=(gone,), policy="closed") == "open"


def test_alone_one_is_a_majority() -> None:
    assert stands(view=View(roster=("me",), established=("me",), roster_fresh=True, ready=True)) == "quorum"
    assert stands(view=View(roster_fresh=True, ready=True)) == "quorum"


def test_a_round_forgets_what_was_answered_to_the_one_before() -> None:
    holding = Holding(known("me.1.1"), None, 0)
    holding.begin_round(1, 0)
    for answers in (holding.acks, holding.answers, holding.blockers, holding.yielded, holding.asked_again):
        answers.add("a")
    holding.vouched["a.1.1"] = {"b"}
    holding.waits.add("b.1.1")
    holding.begin_round(2, 10)
    assert not (holding.acks | holding.answers | holding.blockers | holding.yielded | holding.asked_again)
    assert not holding.vouched
    assert holding.waits == {"b.1.1"}, "what it gave way to itself it waits for until that ends"
    assert (holding.round, holding.sent_at) == (2, 10)


def test_while_it_waits_its_turn_a_claim_counts_for_a_short_time_only() -> None:
    holding = Holding(known("me.1.1"), None, 0)
    assert holding.hold_ms == TTL
    holding.queued = True
    holding.begin_round(1, 0)
    assert holding.hold_ms == QUEUED_HOLD_MS
    holding.ttl_ms = 5_000
    holding.begin_round(2, 0)
    assert holding.hold_ms == 5_000
    holding.ttl_ms, holding.granted = TTL, True
    holding.begin_round(3, 0)
    assert holding.hold_ms == TTL


def test_in_the_way_is_what_lives_and_did_not_yield() -> None:
    claims = Claims("me")
    for id_ in ("a.1.1", "b.1.1", "c.1.1", "d.1.1"):
        claims.add(known(id_))
    holding = Holding(known("me.1.1"), None, 0)
    holding.blockers = {"a.1.1", "b.1.1", "never.1.1"}
    holding.waits = {"c.1.1", "d.1.1"}
    holding.yielded = {"b.1.1"}
    assert [k.body.id for k in holding.blocking(claims, 0)] == ["a.1.1", "c.1.1", "d.1.1"]
    claims.end("c.1.1")
    assert [k.body.id for k in holding.blocking(claims, 0)] == ["a.1.1", "d.1.1"]
    assert [k.body.id for k in holding.blocking(claims, TTL)] == []
    assert holding.waits == set()


def test_a_waiting_claim_counts_so_briefly_that_a_dead_waiter_leaves_time_to_renew_what_it_waited_for() -> None:
    for ttl_ms, held_for_ms in ((600_000, QUEUED_HOLD_MS), (20_000, 6_666), (1_000, LEAST_HOLD_MS)):
        blocker = known("a.1.1")
        blocker.body = msgspec.structs.replace(blocker.body, ttl_ms=ttl_ms)
        holding = Holding(known("me.1.1"), None, 0)
        holding.queue([blocker])
        holding.begin_round(1, 0)
        assert holding.hold_ms == held_for_ms


# --- closed: no new fast grants without all live members of the last view ---------------------------------------------------------


def test_in_a_closed_swarm_a_majority_is_not_enough_for_a_new_lease_but_keeps_one() -> None:
    assert stands("a", "b", "c", policy="closed") == "open"
    assert stands("a", "b", "c", "d", policy="closed") == "quorum"
    assert stands("a", "b", "c", policy="closed", granted=True) == "quorum", "a new one no, but it is extended"
    assert stands("a", policy="closed", granted=True) == "open"
    silent = View(roster=FIVE, established=FIVE, suspected=frozenset("d"), gone=frozenset("d"), roster_fresh=True, ready=True)
    assert stands("a", "b", "c", view=silent, policy="closed") == "open", "it may live on the other side of a partition"


def test_in_a_closed_swarm_who_vanished_from_the_branch_is_not_live_unless_it_is_connected() -> None:
    view = View(roster=FIVE, established=FIVE, voices=frozenset({"a", "b", "c", "me"}), roster_fresh=True, ready=True)
    assert stands("a", "b", "c", view=view, policy="closed") == "quorum"
    assert stands("a", "b", "c", view=view._replace(roster_fresh=False), policy="closed") == "provisional"
    assert stands("a", "b", "c", view=view._replace(connected=frozenset("d")), policy="closed") == "open"
    assert stands("a", "b", "c", "d", view=view._replace(connected=frozenset("d")), policy="closed") == "quorum"


def test_in_a_closed_swarm_nothing_is_granted_before_there_was_a_view() -> None:
    nobody = View(roster=("me",), established=("me",), branch_seen=False, ready=True)
    assert stands(view=nobody, policy="closed") == "open"
    assert stands(view=nobody, policy="open") == "provisional"


def test_the_vanished_have_weight_but_no_voice() -> None:
    view = View(roster=FIVE, established=FIVE, voices=frozenset({"a", "b", "c", "me"}), roster_fresh=True, ready=True)
    assert stands("a", "d", view=view) == "open"
    assert stands("a", "b", view=view) == "quorum"
    assert stands("d", view=view._replace(roster=("b", "c", "d", "me"), established=("d", "me"))) == "open"


def test_who_is_new_counts_a_voice_only_if_the_voices_are_a_majority_of_those_who_have_weight_with_it() -> None:
    four = ("a", "b", "c", "d")
    view = View(roster=FIVE, established=four, elders=four, roster_fresh=True, ready=True)
    assert stands("a", "b", "c", view=view) == "quorum"
    old = frozenset({"a", "x", "y"})
    assert stands("a", "b", "c", view=view._replace(groups={"a": old})) == "open", "then b and c are two of four"
    assert stands("a", "b", "c", view=view._replace(groups={"a": frozenset("ab")})) == "quorum"
    chain = {"a": old, "b": frozenset("ab"), "c": frozenset("bc")}
    assert stands("a", "b", "c", "d", view=view._replace(groups=chain)) == "provisional", "without a also b falls, and then c"


def test_who_is_new_needs_a_majority_of_those_by_whom_others_that_are_new_may_hold() -> None:
    four = ("a", "b", "c", "d")
    view = View(roster=FIVE, established=four, roster_fresh=True, ready=True)
    assert stands("b", "c", "d", view=view._replace(groups={"a": frozenset("b")})) == "quorum"
    assert stands("b", "c", "d", view=view._replace(groups={"a": frozenset("x")})) == "open", "a may hold by x"
    assert stands("b", "c", "d", view=view._replace(groups={"a": frozenset("ax")}, elders=four)) == "quorum", "a has weight itself"
    assert stands("b", "c", "d", view=view._replace(groups={"x": frozenset("x")})) == "quorum", "x has no weight here"


def test_those_who_are_new_and_some_who_were_there_are_no_majority_if_those_say_who_else_was() -> None:
    """a holds by y and z, which then lose their disk and say that they are new. d and e join with this peer; b and c were there."""
    seven = ("a", "b", "c", "d", "e", "y", "z")
    new = {"y": {*"abcdez"}, "z": {*"abcdey"}, "d": {*"abceyz", "me"}, "e": {*"abcdyz", "me"}}
    view = View(roster=(*seven, "me"), established=seven, elders=("a", "b", "c"), roster_fresh=True, ready=True)
    groups = {peer: frozenset(group) for peer, group in new.items()}
    assert stands("b", "c", "d", "e", view=view._replace(groups=groups)) == "quorum"
    groups |= dict.fromkeys("bc", frozenset("abcyz"))
    assert stands("b", "c", "d", "e", view=view._replace(groups=groups)) == "open"
