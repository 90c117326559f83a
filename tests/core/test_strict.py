"""Strict leases between several peers and one chain: who writes, what is told when, and what a bad remote can't break."""

from __future__ import annotations

from tests.core.strict_bench import TTL, StrictSwarm

from sudocode_coordination.core.io import SwapTable
from sudocode_coordination.core.wire import StrictAsk, StrictRelease


def test_a_lease_that_nobody_wants_costs_one_push_once_the_table_is_known() -> None:
    swarm = StrictSwarm("a")
    first = swarm.wants("a", "x.py")
    swarm.settles()
    assert swarm["a"].tokens == {first: 1}
    before = swarm.chain.pushes
    second = swarm.wants("a", "y.py")
    assert [type(job).__name__ for job in swarm["a"].port.jobs] == ["SwapTable"]
    swarm.settles()
    assert (swarm["a"].tokens[second], swarm.chain.pushes - before) == (2, 1)


def test_twenty_who_ask_at_once_cost_a_handful_of_pushes() -> None:
    names = [f"p{n:02}" for n in range(20)]
    swarm = StrictSwarm(*names)
    claims = {name: swarm.wants(name, f"{name}.py") for name in names}
    swarm.settles()
    assert all(claims[name] in swarm[name].tokens for name in names)
    assert swarm.chain.pushes <= 3
    assert sorted(token for name in names for token in swarm[name].tokens.values()) == list(range(1, 21))
    swarm.check()


def test_all_or_none_and_the_holder_is_named() -> None:
    swarm = StrictSwarm("a", "b")
    held = swarm.wants("a", "x.py")
    swarm.settles()
    wanted = swarm.wants("b", "x.py", "y.py")
    swarm.settles()
    refused = swarm["b"].refused[wanted]
    assert (refused.reason, [c.agent_id for c in refused.holders], [c.resource.path for c in refused.holders]) == (
        "held",
        ["agent-a"],
        ["x.py"],
    )
    assert list(swarm.chain.table().entries) == [held]


def test_renewals_of_a_peer_are_one_push() -> None:
    swarm = StrictSwarm("a")
    for n in range(10):
        swarm.wants("a", f"{n}.py")
    swarm.settles()
    before = swarm.chain.pushes
    swarm.settles(ms=TTL // 3)
    assert swarm.chain.pushes == before + 1
    swarm.settles(ms=10 * TTL)
    assert len(swarm["a"].held()) == 10
    assert swarm.chain.pushes - before <= 33
    swarm.check()


def test_a_release_is_seen_by_who_waits() -> None:
    swarm = StrictSwarm("a", "b")
    held = swarm.wants("a", "x.py")
    waits = swarm.wants("b", "x.py", wait_ms=0)
    swarm.settles()
    assert waits not in swarm["b"].tokens
    swarm.drops("a", held)
    swarm.settles()
    assert swarm["b"].tokens[waits] > 1
    swarm.check()


def test_who_waits_for_one_out_of_reach_finds_the_release_in_the_table() -> None:
    swarm = StrictSwarm("a", "b")
    swarm.cuts("a", "b")
    held = swarm.wants("a", "x.py")
    swarm.settles()
    waits = swarm.wants("b", "x.py", wait_ms=0)
    swarm.settles(ms=60_000)
    assert waits not in swarm["b"].tokens
    swarm.drops("a", held, tell=False)
    swarm.settles(ms=20_000)
    assert waits in swarm["b"].tokens
    swarm.check()


def test_a_dead_holder_is_taken_over_after_its_ttl_and_a_fifth() -> None:
    swarm = StrictSwarm("a", "b")
    swarm.cuts("a", "b")
    swarm.wants("a", "x.py")
    swarm.settles()
    del swarm.peers["a"]
    waits = swarm.wants("b", "x.py", wait_ms=0)
    swarm.settles(ms=TTL * 6 // 5 - 20_000)
    assert waits not in swarm["b"].tokens
    swarm.settles(ms=60_000)
    assert swarm["b"].tokens[waits] > 1
    assert list(swarm.chain.table().entries) == [waits]


def test_a_live_holder_is_never_taken_over() -> None:
    swarm = StrictSwarm("a", "b")
    swarm.cuts("a", "b")
    held = swarm.wants("a", "x.py")
    swarm.settles()
    waits = swarm.wants("b", "x.py", wait_ms=0)
    for _ in range(40):
        swarm.settles(ms=TTL // 4)
        swarm.check()
    assert [c.id for c in swarm["a"].held()] == [held]
    assert waits not in swarm["b"].tokens


def test_a_higher_priority_is_noted_and_the_holder_gives_way_at_its_renewal() -> None:
    swarm = StrictSwarm("a", "b")
    swarm.cuts("a", "b")
    held = swarm.wants("a", "x.py")
    swarm.settles()
    waits = swarm.wants("b", "x.py", wait_ms=0, priority=5)
    swarm.settles(ms=1_000)
    entry = swarm.chain.table().entries[held]
    assert entry.preempt_by is not None
    assert entry.preempt_by.agent == "agent-b"
    swarm.settles(ms=TTL // 3)
    lost = swarm["a"].lost[held]
    assert (lost.reason, lost.holder) == ("preempted", "agent-b")
    swarm.drops("a", held, "preempted", tell=False)
    swarm.settles(ms=20_000)
    assert swarm["b"].tokens[waits] > 1


def test_who_gives_up_takes_its_note_back_and_the_holder_keeps_it() -> None:
    swarm = StrictSwarm("a", "b")
    swarm.cuts("a", "b")
    held = swarm.wants("a", "x.py")
    swarm.settles()
    waits = swarm.wants("b", "x.py", wait_ms=0, priority=5)
    swarm.settles(ms=TTL // 3 + 1_000)
    assert swarm["a"].lost[held].reason == "preempted", "it was told, and has a grace"
    swarm.drops("b", waits, "cancelled", tell=False)
    swarm.settles()
    assert swarm.chain.table().entries[held].preempt_by is None
    swarm.wants("a", "y.py")
    swarm.settles(ms=2 * TTL)
    assert held in [claim.id for claim in swarm["a"].held()]


def test_equal_priority_preempts_nobody() -> None:
    swarm = StrictSwarm("a", "b")
    held = swarm.wants("a", "x.py", priority=5)
    swarm.settles()
    swarm.wants("b", "x.py", priority=5, wait_ms=0)
    swarm.settles(ms=TTL)
    assert swarm.chain.table().entries[held].preempt_by is None


def test_a_preempted_holder_that_sees_nothing_is_taken_over_only_when_it_has_run_out() -> None:
    swarm = StrictSwarm("a", "b")
    swarm.cuts("a", "b")
    held = swarm.wants("a", "x.py")
    swarm.settles()
    waits = swarm.wants("b", "x.py", wait_ms=0, priority=5)
    for _ in range(30):
        while swarm["a"].port.jobs:
            swarm.answers("a", "down")
        while swarm["b"].port.jobs:
            swarm.answers("b")
        swarm.instant += TTL // 20
        for peer in swarm.peers.values():
            peer.flush()
        swarm.check()
    assert swarm["a"].lost[held].reason == "expired"
    assert waits in swarm["b"].tokens


def test_the_peer_with_the_lowest_id_writes_and_when_it_is_gone_the_asker_does() -> None:
    swarm = StrictSwarm("a", "b")
    claim = swarm.wants("b", "x.py")
    assert not swarm["b"].port.jobs
    swarm.delivers("b", "a")
    assert swarm["a"].port.jobs
    swarm.cuts("a", "b")
    swarm.settles()
    assert swarm["b"].tokens == {claim: 1}
    assert swarm.chain.grants() == [(claim, 1)]


def test_a_writer_that_says_nothing_is_left_alone_for_a_while() -> None:
    swarm = StrictSwarm("a", "b")
    swarm.links.clear()
    claim = swarm.wants("b", "x.py")
    swarm.links.clear()  # lost
    swarm.settles(ms=10_000)
    assert swarm["b"].tokens == {claim: 1}
    second = swarm.wants("b", "y.py")
    assert not swarm.links.get(("b", "a"))
    swarm.settles()
    assert swarm["b"].tokens[second] == 2


def test_what_two_have_pushed_is_granted_once() -> None:
    swarm = StrictSwarm("a", "b")
    claim = swarm.wants("b", "x.py")
    swarm.delivers("b", "a")
    swarm.answers("a")  # a has read the table, and is about to push
    swarm.cuts("a", "b")
    swarm.answers("b")
    swarm.answers("b")
    assert swarm["b"].tokens == {claim: 1}
    swarm.settles()
    assert swarm.chain.grants() == [(claim, 1)]


def test_a_lost_reply_is_looked_up() -> None:
    swarm = StrictSwarm("a")
    swarm.wants("a", "w.py")
    swarm.settles()
    claim = swarm.wants("a", "x.py")
    swarm.answers("a", "lost")
    swarm.settles()
    assert swarm["a"].tokens[claim] == 2
    assert [c for c, _ in swarm.chain.grants()].count(claim) == 1


def test_a_push_that_did_not_land_is_sent_again_as_the_same_commit() -> None:
    swarm = StrictSwarm("a")
    swarm.wants("a", "w.py")
    swarm.settles()
    claim = swarm.wants("a", "x.py")
    first = swarm["a"].port.jobs[0]
    swarm.answers("a", "unsent")
    swarm.answers("a")
    second = swarm["a"].port.jobs[0]
    assert (second.parent, second.changes, second.nonce, second.wall_ms) == (  # type: ignore[union-attr]
        first.parent,  # type: ignore[union-attr]
        first.changes,  # type: ignore[union-attr]
        first.nonce,  # type: ignore[union-attr]
        first.wall_ms,  # type: ignore[union-attr]
    )
    swarm.chain.land(first)  # type: ignore[arg-type]  # late
    swarm.settles()
    assert swarm["a"].tokens[claim] == 2
    swarm.check()


def test_an_overtaken_push_is_built_anew_on_what_is_there() -> None:
    swarm = StrictSwarm("a", "b")
    swarm.wants("a", "w.py")
    swarm.settles()
    swarm.cuts("a", "b")
    swarm.wants("b", "v.py")
    swarm.settles()
    one, two = swarm.wants("a", "x.py"), swarm.wants("b", "y.py")
    swarm.settles(ms=10_000)
    assert (one in swarm["a"].tokens, two in swarm["b"].tokens) == (True, True)
    assert swarm["a"].tokens[one] != swarm["b"].tokens[two]
    swarm.check()


def test_without_the_remote_who_does_not_wait_is_told_why() -> None:
    swarm = StrictSwarm("a")
    claim = swarm.wants("a", "x.py")
    swarm.settles(down=True)
    error = swarm["a"].refused[claim].error
    assert error is not None
    assert error.code == "remote"
    assert error.message.startswith("remote unreachable since 20")


def test_without_the_remote_who_waits_has_it_when_it_is_back() -> None:
    swarm = StrictSwarm("a")
    claim = swarm.wants("a", "x.py", wait_ms=0)
    swarm.settles(ms=600_000, down=True)
    assert claim not in swarm["a"].refused
    swarm.settles(ms=60_000)
    assert claim in swarm["a"].tokens
    assert claim in swarm["a"].valid
    swarm.check()


def test_a_held_one_outlives_the_remote_until_its_ttl_is_over_and_no_longer() -> None:
    swarm = StrictSwarm("a")
    claim = swarm.wants("a", "x.py")
    swarm.settles()
    swarm.settles(ms=TTL - 1, down=True)
    assert swarm["a"].held()
    swarm.settles(ms=1, down=True)
    assert (swarm["a"].held(), swarm["a"].lost[claim].reason) == ([], "expired")
    swarm.settles(ms=120_000)
    assert not swarm.chain.table().entries, "what nobody holds any more is taken out"


def test_a_remote_that_refuses_is_told_to_the_agent() -> None:
    swarm = StrictSwarm("a")
    claim = swarm.wants("a", "x.py", wait_ms=0)
    swarm.answers("a")
    swarm.answers("a", "refused")
    error = swarm["a"].refused[claim].error
    assert error is not None
    assert "refuses strict leases: hook declined" in error.message


def test_after_a_restart_entries_of_before_are_taken_out_and_only_then_the_table_is_read() -> None:
    swarm = StrictSwarm("a", "b")
    swarm.wants("a", "x.py")
    swarm.settles()
    swarm.dies("a")
    assert swarm["a"].port.jobs
    assert not StrictSwarm("z")["z"].port.jobs
    swarm.settles()
    assert not swarm.chain.table().entries
    claim = swarm.wants("a", "x.py")
    swarm.settles()
    assert swarm["a"].tokens[claim] > 1


def test_what_comes_into_the_table_after_its_peer_died_is_taken_out_too() -> None:
    swarm = StrictSwarm("a", "b")
    swarm.wants("a", "w.py")
    swarm.settles()
    swarm.wants("b", "x.py")
    swarm.delivers("b", "a")
    push = swarm["a"].port.jobs[0]
    assert isinstance(push, SwapTable)
    swarm.dies("b")
    swarm["a"].port.jobs.clear()
    swarm.answers("b")
    assert swarm.chain.land(push)
    swarm.settles(ms=120_000)
    assert [entry.owner for entry in swarm.chain.table().entries.values()] == ["a"]


def test_a_claim_given_up_while_it_was_on_its_way_does_not_stay_in_the_table() -> None:
    swarm = StrictSwarm("a", "b")
    claim = swarm.wants("b", "x.py")
    swarm.delivers("b", "a")
    swarm.drops("b", claim, "cancelled")
    swarm.settles()
    assert not swarm.chain.table().entries
    swarm.wants("a", "x.py")
    swarm.settles()
    assert [token for _, token in swarm.chain.grants()][-1] > 0


def test_a_rewound_table_is_told_and_tokens_go_on_growing() -> None:
    swarm = StrictSwarm("a")
    for n in range(5):
        swarm.wants("a", f"{n}.py")
        swarm.settles()
    swarm.chain.tip = swarm.chain.history[1]
    claim = swarm.wants("a", "x.py")
    swarm.settles(ms=5_000)
    assert any("rewound" in problem for problem in swarm["a"].strict.problems())
    assert swarm["a"].tokens[claim] > 5
    assert {lost.reason for lost in swarm["a"].lost.values()} == {"lost-conflict"}


def test_a_revision_that_fell_while_nobody_ran_is_noticed() -> None:
    swarm = StrictSwarm("a")
    for n in range(5):
        swarm.wants("a", f"{n}.py")
        swarm.settles()
    swarm.chain.tip = None
    swarm.dies("a")
    swarm.settles()
    claim = swarm.wants("a", "x.py")
    swarm.settles()
    assert swarm["a"].tokens[claim] > 5


def test_who_stops_in_order_need_not_look_when_it_is_back() -> None:
    swarm = StrictSwarm("a")
    swarm.wants("a", "x.py")
    swarm.settles()
    peer = swarm["a"]
    peer.strict.stop()
    swarm.drops("a", "a.1.1", "stopped")
    swarm.settles()
    assert peer.strict.quiet
    assert not swarm.chain.table().entries
    swarm.dies("a")
    assert not swarm["a"].port.jobs
    claim = swarm.wants("a", "x.py")
    swarm.settles()
    assert swarm["a"].tokens[claim] > 1


def test_after_a_disk_failed_the_next_lease_says_again_that_it_may_be_in_the_table() -> None:
    swarm = StrictSwarm("a")
    swarm.wants("a", "x.py")
    swarm["a"].disk.clear()
    swarm["a"].strict.disk_failed()
    swarm.wants("a", "y.py")
    swarm.settles()
    swarm.dies("a")
    swarm.settles()
    assert not swarm.chain.table().entries


def test_a_peer_that_stops_sends_others_away() -> None:
    swarm = StrictSwarm("a", "b")
    claim = swarm.wants("b", "x.py")
    swarm.delivers("b", "a")
    swarm["a"].strict.stop()
    second = swarm.wants("b", "y.py")
    swarm.settles()
    assert {claim, second} <= swarm["b"].tokens.keys()


def test_a_peer_does_not_take_the_name_of_anothers_operation() -> None:
    swarm = StrictSwarm("a", "b", "c")
    claim = swarm.wants("b", "x.py")
    swarm.delivers("b", "a")
    swarm.says("c", "a", StrictAsk(op=StrictRelease(claim, ("c.1.1",))))
    swarm.settles()
    assert swarm["b"].tokens == {claim: 1}
    swarm.check()


def test_a_peer_writes_nothing_in_the_name_of_another() -> None:
    swarm = StrictSwarm("a", "b")
    held = swarm.wants("a", "x.py")
    swarm.settles()
    swarm.says("b", "a", StrictAsk(op=StrictRelease("b.1.op9", (held,))))
    swarm.settles()
    assert list(swarm.chain.table().entries) == [held]


def test_a_lease_counts_from_before_it_was_asked_for() -> None:
    swarm = StrictSwarm("a", "b")
    swarm.wants("a", "w.py")
    swarm.settles()
    asked = swarm.instant
    claim = swarm.wants("b", "x.py")
    swarm.delivers("b", "a")
    swarm.instant += 3_000
    swarm.settles()
    assert swarm["b"].valid[claim] == asked + TTL


def test_a_renewal_counts_from_before_it_was_asked_for() -> None:
    swarm = StrictSwarm("a")
    claim = swarm.wants("a", "x.py")
    swarm.settles()
    begun = swarm.instant
    swarm.instant += TTL // 3
    swarm["a"].flush()
    swarm.instant += 100_000
    swarm.settles()
    assert swarm["a"].valid[claim] == begun + TTL // 3 + TTL


def test_what_got_in_by_an_earlier_asking_counts_from_then() -> None:
    swarm = StrictSwarm("a", "b")
    swarm.wants("a", "w.py")
    swarm.settles()
    asked = swarm.instant
    claim = swarm.wants("b", "x.py", wait_ms=0)
    swarm.delivers("b", "a")
    swarm.answers("a", "lost")  # it has landed, and a does not know it
    swarm.instant += 5_000
    swarm.cuts("a", "b")
    swarm.settles()
    assert swarm["b"].valid[claim] == asked + TTL


def test_what_came_too_late_is_renewed_before_it_is_told() -> None:
    swarm = StrictSwarm("a")
    swarm.wants("a", "w.py")
    swarm.settles()
    claim = swarm.wants("a", "x.py", wait_ms=0)
    job = swarm["a"].port.jobs[0]
    swarm.instant += TTL + 1
    assert isinstance(job, SwapTable)
    swarm.answers("a")
    assert claim not in swarm["a"].tokens
    swarm.settles()
    assert swarm["a"].valid[claim] == swarm.instant + TTL
