"""Strict leases through whole nodes: what agents see, with fast claims before and fenced pushes after."""

from __future__ import annotations

from typing import Any

import pytest
from tests.core.node_swarm import NodeSwarm
from tests.core.strict_bench import TTL

from sudocode_coordination.api.requests import (
    AcquireLease,
    GetFindings,
    GetStatus,
    LeaseOutcome,
    ListLeases,
    PreparePush,
    PushDone,
    ReleaseLease,
    RenewLease,
)
from sudocode_coordination.config import CoordinationConfig, create_default_config
from sudocode_coordination.core.io import BuildTable, RequestCancelled, SwapTable
from sudocode_coordination.core.wire import MAX_IN_THE_WAY
from sudocode_coordination.errors import HeldError, RemoteError, UsageError
from sudocode_coordination.model import Resource

FILE = (Resource("file", "a.py"),)
OTHER = (Resource("file", "b.py"),)
STRICT = AcquireLease(resources=FILE, strict=True)


def test_the_answer_waits_for_the_token_and_has_it() -> None:
    swarm = NodeSwarm("ann")
    asked = swarm.puts("ann", STRICT)
    assert not swarm.answered("ann", asked)
    swarm.settles()
    outcome: LeaseOutcome = swarm.answer("ann", asked)
    assert outcome
    assert outcome.lease is not None
    assert (outcome.lease.grade, outcome.lease.strict, outcome.lease.token, outcome.lease.state) == ("strict", True, 1, "granted")
    assert outcome.lease.ttl_ms == TTL
    assert len(swarm.heard("ann", "lease-acquired", "ann")) == 1


def test_others_see_it_with_its_token() -> None:
    swarm = NodeSwarm("ann", "ben")
    swarm.asks("ann", STRICT)
    swarm.settles(1_000)
    (lease,) = swarm.asks("ben", ListLeases(everyone=True))
    assert (lease.agent_id, lease.grade, lease.strict, lease.token) == ("ann", "strict", True, 1)


def test_of_connected_ones_only_the_winner_pushes() -> None:
    swarm = NodeSwarm("ann", "ben", "cid")
    asked = {name: swarm.puts(name, STRICT) for name in ("ann", "ben", "cid")}
    swarm.settles(40_000)
    outcomes = {name: swarm.answer(name, number) for name, number in asked.items()}
    assert sum(bool(outcome) for outcome in outcomes.values()) == 1
    assert len(swarm.chain.grants()) == 1
    assert swarm.chain.pushes == 1


def test_a_release_hands_it_on_with_a_greater_token() -> None:
    swarm = NodeSwarm("ann", "ben")
    first = swarm.asks("ann", STRICT).lease
    waits = swarm.puts("ben", AcquireLease(resources=FILE, strict=True, wait_ms=0))
    swarm.settles(1_000)
    assert not swarm.answered("ben", waits)
    swarm.asks("ann", ReleaseLease(resources=FILE))
    swarm.settles(1_000)
    second = swarm.answer("ben", waits).lease
    assert second.token > first.token
    assert [entry.agent for entry in swarm.chain.table().entries.values()] == ["ben"]


def test_apart_the_table_decides_and_names_the_holder() -> None:
    swarm = NodeSwarm("ann", "ben", connected=False)
    swarm.settles(60_000)
    assert swarm.asks("ann", STRICT, within_ms=30_000)
    outcome = swarm.asks("ben", STRICT, within_ms=30_000)
    assert not outcome
    assert (outcome.reason, [h.agent_id for h in outcome.holders]) == ("held", ["ann"])
    assert not swarm.asks("ben", ListLeases())
    assert swarm.heard("ben", "lease-denied")[-1].data["holder"] == "ann"


def test_apart_under_another_policy_strict_ones_are_granted_all_the_same() -> None:
    swarm = NodeSwarm("ann", "ben", connected=False, partition_policy="majority")
    swarm.settles(60_000)
    assert swarm.asks("ann", STRICT, within_ms=30_000).lease.token == 1
    assert not swarm.asks("ann", AcquireLease(resources=OTHER), within_ms=30_000)


def test_a_fast_one_meets_a_strict_one_and_gives_way() -> None:
    swarm = NodeSwarm("ann", "ben", connected=False)
    swarm.settles(60_000)
    assert swarm.asks("ben", AcquireLease(resources=FILE, priority=9), within_ms=30_000)
    assert swarm.asks("ann", STRICT, within_ms=30_000)
    swarm.connects()
    swarm.settles(5_000)
    assert swarm.heard("ben", "lease-lost")[-1].data["reason"] == "lost-conflict"
    assert [lease.agent_id for lease in swarm.asks("ann", ListLeases(everyone=True))] == ["ann"]


def test_a_remote_that_is_gone_is_an_error_with_the_time_and_nothing_is_held() -> None:
    swarm = NodeSwarm("ann")
    swarm["ann"].how = "down"
    with pytest.raises(RemoteError, match="remote unreachable since 20"):
        swarm.asks("ann", STRICT, within_ms=31_000)
    assert not swarm.asks("ann", ListLeases())
    swarm["ann"].how = "well"
    assert swarm.asks("ann", STRICT, within_ms=60_000)


def test_a_remote_that_refuses_is_an_error() -> None:
    swarm = NodeSwarm("ann")
    asked = swarm.puts("ann", STRICT)
    swarm.remote()
    swarm["ann"].how = "refused"
    swarm.settles()
    with pytest.raises(RemoteError, match="refuses strict leases"):
        swarm.answer("ann", asked)


def test_who_holds_one_when_the_remote_goes_loses_it_at_its_time() -> None:
    swarm = NodeSwarm("ann")
    swarm.asks("ann", STRICT)
    swarm["ann"].how = "down"
    swarm.settles(TTL - 10_000)
    assert [lease.token for lease in swarm.asks("ann", ListLeases())] == [1]
    swarm.settles(20_000)
    assert not swarm.asks("ann", ListLeases())
    assert swarm.heard("ann", "lease-lost")[-1].data["reason"] == "expired"


def test_it_is_renewed_for_as_long_as_its_daemon_lives() -> None:
    swarm = NodeSwarm("ann")
    swarm.asks("ann", STRICT)
    swarm.settles(5 * TTL)
    (lease,) = swarm.asks("ann", ListLeases())
    assert (lease.token, lease.grade) == (1, "strict")
    assert lease.remaining_ms > TTL // 2
    told = len(swarm.heard("ann", "lease-renewed", "ann"))
    assert told >= 20, "twice in each ttl among peers, and three times in the table"


def test_what_its_agent_does_not_have_yet_is_not_told_to_be_renewed() -> None:
    swarm = NodeSwarm("ann")
    swarm["ann"].how = "down"
    asked = swarm.puts("ann", AcquireLease(resources=FILE, strict=True, wait_ms=0))
    swarm.settles(3 * TTL)
    assert not swarm.answered("ann", asked)
    assert not swarm.heard("ann", "lease-renewed")


def test_others_are_told_of_it_when_it_has_its_token() -> None:
    swarm = NodeSwarm("ann", "ben")
    swarm["ann"].how = swarm["ben"].how = "down"
    asked = swarm.puts("ann", AcquireLease(resources=FILE, strict=True, wait_ms=0))
    swarm.settles(5_000)
    assert [lease.state for lease in swarm.asks("ben", ListLeases(everyone=True))] == ["pending"]
    assert not swarm.heard("ben", "lease-acquired")
    swarm["ann"].how = swarm["ben"].how = "well"
    swarm.settles(60_000)
    assert swarm.answer("ann", asked)
    (event,) = swarm.heard("ben", "lease-acquired")
    assert event.data["lease"]["token"] == 1
    swarm.asks("ann", ReleaseLease(resources=FILE))
    swarm.settles(1_000)
    assert len(swarm.heard("ben", "lease-released")) == 1


def test_others_are_told_nothing_of_one_that_never_got_there() -> None:
    swarm = NodeSwarm("ann", "ben")
    swarm["ann"].how = swarm["ben"].how = "down"
    asked = swarm.puts("ann", AcquireLease(resources=FILE, strict=True, wait_ms=20_000))
    swarm.settles(60_000)
    assert not swarm.answer("ann", asked)
    assert not swarm.asks("ben", ListLeases(everyone=True))
    assert not swarm.heard("ben", "lease-acquired")
    assert not swarm.heard("ben", "lease-released")


def test_its_ttl_stays_as_it_is_in_the_table() -> None:
    swarm = NodeSwarm("ann")
    swarm.asks("ann", STRICT)
    swarm.asks("ann", AcquireLease(resources=OTHER))
    with pytest.raises(UsageError, match="the ttl of a strict lease"):
        swarm.asks("ann", RenewLease(resources=FILE + OTHER, ttl_ms=2 * TTL))
    assert swarm.asks("ann", AcquireLease(resources=FILE, strict=True, ttl_ms=2 * TTL)).lease.ttl_ms == TTL
    before = {lease.resources: lease.ttl_ms for lease in swarm.asks("ann", ListLeases())}
    assert before[FILE] == TTL
    assert before[OTHER] != 2 * TTL, "nothing of what was refused is done"
    assert [lease.ttl_ms for lease in swarm.asks("ann", RenewLease(resources=FILE, ttl_ms=TTL))] == [TTL]
    swarm.settles(TTL)
    assert [entry.ttl_ms for entry in swarm.chain.table().entries.values()] == [TTL]


def test_it_is_reentrant_but_a_fast_one_is_not_enough() -> None:
    swarm = NodeSwarm("ann")
    fast = swarm.asks("ann", AcquireLease(resources=FILE)).lease
    strict = swarm.asks("ann", STRICT).lease
    assert (fast.token, strict.token) == (None, 1)
    assert swarm.asks("ann", STRICT).lease.claim_id == strict.claim_id
    assert swarm.asks("ann", AcquireLease(resources=FILE)).lease.claim_id == strict.claim_id
    assert [lease.claim_id for lease in swarm.asks("ann", ListLeases())] == [strict.claim_id]


def test_a_fast_one_stays_if_the_strict_one_is_refused() -> None:
    swarm = NodeSwarm("ann")
    fast = swarm.asks("ann", AcquireLease(resources=FILE)).lease
    swarm["ann"].how = "down"
    with pytest.raises(RemoteError):
        swarm.asks("ann", STRICT, within_ms=31_000)
    assert [lease.claim_id for lease in swarm.asks("ann", ListLeases())] == [fast.claim_id]


def test_who_does_not_wait_for_it_any_more_leaves_nothing_behind() -> None:
    swarm = NodeSwarm("ann")
    swarm.asks("ann", AcquireLease(resources=OTHER, strict=True))
    asked = swarm.puts("ann", STRICT)
    swarm.gives("ann", RequestCancelled(client=1, request_id=asked))
    swarm.settles(5_000)
    assert [entry.resources for entry in swarm.chain.table().entries.values()] == [OTHER]


def test_part_of_it_can_be_released() -> None:
    swarm = NodeSwarm("ann")
    swarm.asks("ann", AcquireLease(resources=FILE + OTHER, strict=True))
    swarm.asks("ann", ReleaseLease(resources=FILE))
    swarm.settles(5_000)
    (lease,) = swarm.asks("ann", ListLeases())
    assert (lease.resources, lease.strict, lease.token) == (OTHER, True, 2)
    assert [entry.resources for entry in swarm.chain.table().entries.values()] == [OTHER]


def test_a_higher_priority_takes_it_over_with_notice() -> None:
    swarm = NodeSwarm("ann", "ben", preempt_grace_ms=5_000)
    swarm.asks("ann", STRICT)
    waits = swarm.puts("ben", AcquireLease(resources=FILE, strict=True, priority=5, wait_ms=0))
    swarm.settles(1_000)
    assert not swarm.answered("ben", waits)
    assert swarm.heard("ann", "conflicts-detected")
    swarm.settles(6_000)
    assert swarm.answer("ben", waits).lease.token > 1
    assert swarm.heard("ann", "lease-lost")[-1].data["reason"] == "preempted"


def test_apart_a_higher_priority_is_seen_at_the_renewal_and_has_its_grace() -> None:
    swarm = NodeSwarm("ann", "ben", connected=False, preempt_grace_ms=5_000)
    swarm.settles(60_000)
    swarm.asks("ann", STRICT, within_ms=30_000)
    waits = swarm.puts("ben", AcquireLease(resources=FILE, strict=True, priority=5, wait_ms=0))
    swarm.settles(TTL // 3 + 30_000)
    assert swarm.heard("ann", "conflicts-detected")[-1].data["holder"] == "ben"
    assert swarm.heard("ann", "lease-lost")[-1].data["reason"] == "preempted"
    assert swarm.answer("ben", waits).lease.token > 1


def test_who_waits_for_the_table_when_a_higher_priority_comes_goes_on_waiting() -> None:
    swarm = NodeSwarm("ann", "ben")
    swarm["ann"].how = swarm["ben"].how = "down"
    waits = swarm.puts("ann", AcquireLease(resources=FILE, strict=True, wait_ms=0))
    swarm.settles(2_000)
    first = swarm.puts("ben", AcquireLease(resources=FILE, priority=5, wait_ms=0))
    swarm.settles(2_000)
    assert swarm.answer("ben", first)
    assert not swarm.answered("ann", waits)
    swarm["ann"].how = swarm["ben"].how = "well"
    swarm.asks("ben", ReleaseLease(resources=FILE))
    swarm.settles(60_000)
    assert swarm.answer("ann", waits).lease.token is not None
    assert [entry.agent for entry in swarm.chain.table().entries.values()] == ["ann"]


def test_stopping_takes_the_entries_out_before_it_is_done() -> None:
    swarm = NodeSwarm("ann", "ben")
    swarm.asks("ann", STRICT)
    swarm.asks("ben", AcquireLease(resources=OTHER, strict=True))
    swarm.stops("ann")
    swarm.settles(1_000)
    assert swarm["ann"].stopped
    assert [entry.agent for entry in swarm.chain.table().entries.values()] == ["ben"]


def test_a_node_that_never_needed_the_table_never_reads_it() -> None:
    swarm = NodeSwarm("ann", "ben")
    swarm.asks("ann", AcquireLease(resources=FILE))
    swarm.settles(3_600_000)
    assert (swarm.chain.pushes, swarm["ann"].port.delivered) == (0, None)


def test_a_rewound_table_is_told_by_status_and_doctor() -> None:
    swarm = NodeSwarm("ann")
    swarm.asks("ann", STRICT)
    swarm.asks("ann", AcquireLease(resources=OTHER, strict=True))
    swarm.chain.tip = swarm.chain.history[0]
    swarm.settles(TTL // 3 + 10_000)
    assert any("rewound" in problem for problem in swarm.asks("ann", GetStatus()).problems)
    assert any("rewound" in finding.message and not finding.ok for finding in swarm.asks("ann", GetFindings()))
    assert swarm.heard("ann", "lease-lost")


# --- fenced pushes ----------------------------------------------------------------------------------------------------------


def test_without_strict_leases_a_push_needs_nothing() -> None:
    swarm = NodeSwarm("ann")
    swarm.asks("ann", AcquireLease(resources=FILE))
    prepared = swarm.asks("ann", PreparePush())
    assert (prepared.leases, prepared.commit, prepared.ref) == ((), "", "")


def test_a_push_carries_a_commit_that_renews_the_agents_leases_and_only_its() -> None:
    swarm = NodeSwarm("ann")
    swarm.asks("ann", STRICT)
    swarm.asks("ann", AcquireLease(resources=OTHER, strict=True, agent="ada"))
    made: list[BuildTable] = []
    asked = swarm.puts("ann", PreparePush())
    made += [job for job in swarm["ann"].port.jobs if isinstance(job, BuildTable)]
    swarm.settles()
    prepared = swarm.answer("ann", asked)
    assert [lease.token for lease in prepared.leases] == [1]
    assert (prepared.parent, prepared.objects) == (swarm.chain.tip, "/objects")
    assert prepared.ref.startswith("refs/")
    assert swarm.chain.land(made[0])
    assert swarm.chain.tip == prepared.commit
    assert sorted((e.agent, e.renewals) for e in swarm.chain.table().entries.values()) == [("ada", 0), ("ann", 1)]
    swarm.asks("ann", PushDone(commit=prepared.commit, landed=True))
    assert swarm["ann"].port.delivered == prepared.commit
    assert swarm.asks("ann", AcquireLease(resources=(Resource("file", "c.py"),), strict=True)).lease.token > 2


def test_what_another_peer_wrote_is_read_before_anything_is_called_lost() -> None:
    swarm = NodeSwarm("ann", "ben")
    writer = min(("ann", "ben"), key=lambda name: swarm[name].peer)
    other = "ben" if writer == "ann" else "ann"
    swarm.asks(other, AcquireLease(resources=OTHER, strict=True))
    swarm.asks(other, PreparePush())  # it has read the table now
    swarm.settles(10_000)
    lease = swarm.asks(other, STRICT).lease
    prepared = swarm.asks(other, PreparePush())
    assert lease.claim_id in [found.claim_id for found in prepared.leases]
    assert prepared.parent == swarm.chain.tip


def test_a_stale_holder_is_told_who_has_it_with_which_token() -> None:
    swarm = NodeSwarm("ann", "ben", connected=False)
    swarm.settles(60_000)
    swarm.asks("ann", STRICT, within_ms=30_000)
    prepared = swarm.asks("ann", PreparePush())
    swarm["ann"].how = "down"
    waits = swarm.puts("ben", AcquireLease(resources=FILE, strict=True, wait_ms=0))
    swarm.settles(TTL * 13 // 10)
    token = swarm.answer("ben", waits).lease.token
    swarm["ann"].how = "well"
    assert prepared.parent != swarm.chain.tip, "the old commit can't land any more"
    swarm.asks("ann", PushDone(commit=prepared.commit, landed=False), within_ms=60_000)
    with pytest.raises(HeldError, match=f"ben has it with token {token}"):
        swarm.asks("ann", PreparePush())
    swarm.asks("ann", ReleaseLease(resources=FILE))
    assert swarm.asks("ann", PreparePush()).commit == ""


def test_who_lost_one_pushes_again_once_it_is_leased_anew() -> None:
    swarm = NodeSwarm("ann")
    first = swarm.asks("ann", STRICT).lease
    swarm["ann"].how = "down"
    swarm.settles(TTL * 13 // 10)
    swarm["ann"].how = "well"
    with pytest.raises(HeldError, match=f"token {first.token}, expired"):
        swarm.asks("ann", PreparePush())
    again = swarm.asks("ann", STRICT, within_ms=60_000).lease
    assert [lease.token for lease in swarm.asks("ann", PreparePush()).leases] == [again.token]


def test_what_a_killed_daemon_held_is_lost_through_every_restart_until_it_is_let_go() -> None:
    swarm = NodeSwarm("ann", "ben")
    first = swarm.asks("ann", STRICT).lease
    swarm.asks("ann", AcquireLease(resources=OTHER))
    swarm.restarts("ann")
    with pytest.raises(HeldError, match=rf"a\.py \(token {first.token}, restarted\)"):
        swarm.asks("ann", PreparePush())
    taken = swarm.asks("ben", AcquireLease(resources=FILE, strict=True, wait_ms=0), within_ms=60_000).lease
    for _ in range(2):
        swarm.restarts("ann")
        swarm.connects()
        swarm.settles(60_000)
        with pytest.raises(HeldError, match=f"token {first.token}, restarted.*ben has it with token {taken.token}"):
            swarm.asks("ann", PreparePush())
    swarm.asks("ann", ReleaseLease(resources=FILE))
    assert swarm.asks("ann", PreparePush()).commit == ""
    swarm.restarts("ann")
    assert swarm.asks("ann", PreparePush()).commit == "", "that it was let go is kept, too"


def test_what_was_lost_before_a_restart_is_made_good_by_a_new_lease_for_good() -> None:
    swarm = NodeSwarm("ann")
    swarm.asks("ann", STRICT)
    swarm["ann"].how = "down"
    swarm.settles(TTL * 13 // 10)
    swarm["ann"].how = "well"
    swarm.restarts("ann")
    with pytest.raises(HeldError, match="expired"):
        swarm.asks("ann", PreparePush())
    assert swarm.asks("ann", STRICT, within_ms=60_000)
    assert swarm.asks("ann", PreparePush()).leases
    swarm.asks("ann", ReleaseLease(resources=FILE), within_ms=60_000)
    swarm.restarts("ann")
    assert swarm.asks("ann", PreparePush()).commit == ""


def test_what_an_orderly_stop_gave_back_is_not_lost() -> None:
    swarm = NodeSwarm("ann")
    swarm.asks("ann", STRICT)
    swarm.stops("ann")
    swarm.settles(5_000)
    assert swarm["ann"].stopped
    swarm.restarts("ann")
    assert swarm.asks("ann", PreparePush()).commit == ""


def test_nothing_is_put_before_a_push_that_is_under_way() -> None:
    swarm = NodeSwarm("ann")
    swarm.asks("ann", STRICT)
    prepared = swarm.asks("ann", PreparePush())
    asked = swarm.puts("ann", AcquireLease(resources=OTHER, strict=True))
    assert not [job for job in swarm["ann"].port.jobs if isinstance(job, SwapTable)]
    swarm.asks("ann", PushDone(commit=prepared.commit, landed=False))
    assert swarm.answer("ann", asked)


def test_two_askings_of_one_agent_are_both_answered() -> None:
    """The one that gets into the table first takes the place of the other, which waits for the table still."""
    swarm = NodeSwarm("ann")
    asked = [swarm.puts("ann", STRICT), swarm.puts("ann", STRICT)]
    swarm.settles()
    outcomes: list[LeaseOutcome] = [swarm.answer("ann", number) for number in asked]
    assert all(outcomes)
    assert len(swarm.asks("ann", ListLeases())) == 1


def test_what_is_released_while_its_rest_waits_for_the_table_does_not_come_back() -> None:
    swarm = NodeSwarm("ann")
    assert swarm.asks("ann", AcquireLease(resources=FILE + OTHER, strict=True))
    swarm.puts("ann", ReleaseLease(resources=FILE))
    swarm.puts("ann", ReleaseLease(resources=OTHER))
    swarm.settles()
    assert not swarm.asks("ann", ListLeases())
    assert [event.type for event in swarm.heard("ann", "lease-acquired", "ann")] == ["lease-acquired"]


@pytest.mark.parametrize("ignoring", ["ann", "ben"])
def test_a_denial_names_the_holder_whichever_clone_ignores_case(ignoring: str, monkeypatch: pytest.MonkeyPatch) -> None:

    def config(name: str, **fields: Any) -> CoordinationConfig:
        return create_default_config(name, ignore_case=name == ignoring, **fields)

    monkeypatch.setattr("tests.core.node_swarm.create_default_config", config)
    swarm = NodeSwarm("ann", "ben", connected=False)
    swarm.settles(60_000)
    assert swarm.asks("ann", AcquireLease(resources=(Resource("file", "README"),), strict=True), within_ms=30_000)
    denied = swarm.asks("ben", AcquireLease(resources=(Resource("file", "readme"),), strict=True), within_ms=30_000)
    assert [(holder.agent_id, holder.resource.path) for holder in denied.holders] == [("ann", "README")]


def test_a_denial_names_the_holder_of_more_than_an_answer_carries() -> None:
    swarm = NodeSwarm("ann", "ben", connected=False)
    swarm.settles(60_000)
    names = tuple(Resource("file", f"{number:03d}") for number in range(MAX_IN_THE_WAY + 10))
    assert swarm.asks("ann", AcquireLease(resources=names, strict=True), within_ms=30_000)
    denied = swarm.asks("ben", AcquireLease(resources=names[-1:], strict=True), within_ms=30_000)
    assert [(holder.agent_id, holder.resource) for holder in denied.holders] == [("ann", names[-1])]
