"""The simulated world itself: clocks, lives, disks that fail; and the checkers, which find what is put before them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from sudocode_coordination.api.events import Event
from sudocode_coordination.api.requests import AcquireLease, GetStatus, LeaseOutcome, ReleaseLease, Status
from sudocode_coordination.config import create_default_config
from sudocode_coordination.core.facts import Notify
from sudocode_coordination.core.io import Reply
from sudocode_coordination.core.life import STOP_MS
from sudocode_coordination.core.overlap import Overlap
from sudocode_coordination.model import Resource
from sudocode_coordination.sim.checkers import (
    Violation,
    check_converged,
    check_exclusion,
    check_let_go,
    check_the_dead_let_go,
    holdings,
)
from sudocode_coordination.sim.misfortune import _drifting
from sudocode_coordination.sim.network import NetworkFaults
from sudocode_coordination.sim.watch import LOOK_MS, WAKE_MS, Watch
from sudocode_coordination.sim.world import SimClock, SimNode, World

FILE = Resource("file", "a.py")


def world_of(*names: str, **config: Any) -> tuple[World, list[SimNode]]:
    world = World(1, config=partial(create_default_config, **config), faults=NetworkFaults())
    nodes = [world.add(name) for name in names]
    for node in nodes:
        node.start()
    world.scheduler.run_until(10_000)
    return world, nodes


def acquire(node: SimNode, world: World) -> LeaseOutcome:
    replies: list[Reply] = []
    node.ask(AcquireLease(resources=(FILE,)), replies.append)
    assert world.scheduler.run_while(lambda: not replies, limit=world.scheduler.instant + 60_000)
    outcome = replies[0].value
    assert isinstance(outcome, LeaseOutcome)
    return outcome


@pytest.mark.parametrize("drift_ppm", [-9_000, 0, 7, 9_000])
def test_a_clock_tells_when_it_will_show_a_time(drift_ppm: int) -> None:
    clock = SimClock(offset_ms=123_456, drift_ppm=drift_ppm)
    for local in (123_456, 123_457, 200_000, 5_000_000):
        when = clock.when(local)
        assert clock.read(when).instant >= local
        assert when == 0 or clock.read(when - 1).instant < local


def test_two_meet_and_one_holds() -> None:
    world, (alice, bob) = world_of("alice", "bob")
    assert acquire(alice, world)
    denial = acquire(bob, world)
    assert not denial
    assert [conflict.agent_id for conflict in denial.holders] == ["alice"]
    assert [h.body.agent for h in holdings(alice)] == ["alice"]
    assert list(holdings(bob)) == []
    check_exclusion(world, settled=True)
    world.scheduler.run_until(world.scheduler.instant + 1_000)
    check_converged(world)


def test_who_asks_a_process_that_ends_before_it_takes_that_in_has_an_error() -> None:
    world, (alice,) = world_of("alice")
    replies: list[Reply] = []
    alice.ask(AcquireLease(resources=(FILE,), strict=True), replies.append)
    assert world.scheduler.run_while(lambda: not replies, limit=world.scheduler.instant + 60_000)
    alice.table.connected = False  # so that it ends when its time is over, whatever else it has to do
    alice.stop()
    world.scheduler.run_until(world.scheduler.instant + STOP_MS - 500)
    alice.gather_ms = 1_000
    alice.ask(AcquireLease(resources=(FILE,)), replies.append)
    alice.cancel(alice.ask(AcquireLease(resources=(FILE,)), replies.append))
    world.scheduler.run_until(world.scheduler.instant + 1_500)
    assert alice.node is None
    assert [reply.error.message for reply in replies if reply.error] == ["the connection was closed"]


def test_a_killed_process_holds_nothing_when_it_is_back() -> None:
    world, (alice, bob) = world_of("alice", "bob")
    assert acquire(alice, world)
    alice.kill()
    assert list(holdings(alice)) == []
    alice.start()
    world.scheduler.run_until(world.scheduler.instant + 20_000)
    assert list(holdings(alice)) == []
    assert acquire(bob, world)


def test_a_full_disk_is_told_and_the_node_goes_on() -> None:
    world, (alice, _) = world_of("alice", "bob")
    alice.disk.full = True
    replies: list[Reply] = []
    alice.ask(AcquireLease(resources=(FILE,)), lambda _: None)
    world.scheduler.run_until(world.scheduler.instant + 1_000)
    alice.ask(GetStatus(), replies.append)
    status = replies[0].value
    assert isinstance(status, Status)
    assert any("the disk failed" in problem for problem in status.problems)


def test_the_exclusion_checker_sees_two_holders() -> None:
    world, (alice, bob) = world_of("alice", "bob")
    assert acquire(alice, world)
    assert bob.node is not None
    # Bob is made to believe that he is alone, and that nobody holds anything.
    bob.node.leases.claims._known.clear()
    bob.node.leases.claims._overlap = Overlap()
    bob.node.leases.view = bob.node.leases.view._replace(roster=(bob.peer_id,), established=(), connected=frozenset())
    bob.node.leases.acquire("bob", AcquireLease(resources=(FILE,)), None, bob.now)
    with pytest.raises(Violation, match=r"alice .* and bob .* both hold"):
        check_exclusion(world, settled=True)


def two_held_without_knowing() -> tuple[World, SimNode, SimNode]:
    """Alice holds the file; Bob is made to believe that he is alone, and that nobody holds anything."""
    world, (alice, bob) = world_of("alice", "bob")
    assert acquire(alice, world)
    assert bob.node is not None
    bob.node.leases.claims._known.clear()
    bob.node.leases.claims._overlap = Overlap()
    return world, alice, bob


def grant_alone(node: SimNode) -> None:
    assert node.node is not None
    node.node.leases.view = node.node.leases.view._replace(roster=(node.peer_id,), established=(), connected=frozenset())
    node.node.leases.acquire("bob", AcquireLease(resources=(FILE,)), None, node.now)


def test_the_watch_sees_two_holders_at_the_step_that_makes_the_second() -> None:
    world, alice, bob = two_held_without_knowing()
    watch = Watch(world)
    watch.look()
    assert [(node.name, held.body.agent) for node, held in watch.held()] == [("alice", "alice")]
    grant_alone(bob)
    with pytest.raises(Violation, match=r"bob .* and alice .* both hold"):
        watch.stepped(bob)
    assert alice.node is not None


def test_the_watch_sees_that_a_settled_swarm_has_an_overlap() -> None:
    world, _, bob = two_held_without_knowing()
    watch = Watch(world)
    watch.look()
    grant_alone(bob)
    assert bob.node is not None
    for holding in bob.node.leases.holdings():
        holding.grade = "provisional"
    watch.stepped(bob)  # apart, and provisional: that may be
    with pytest.raises(Violation, match="both hold"):
        watch.settle(settled=True)


def test_the_watch_sees_an_overlap_with_somebody_in_contact() -> None:
    world, alice, bob = two_held_without_knowing()
    watch = Watch(world)
    watch.look()
    grant_alone(bob)
    assert bob.node is not None
    for holding in bob.node.leases.holdings():
        holding.grade = "provisional"
    bob.node.leases.view = bob.node.leases.view._replace(connected=frozenset({alice.peer_id}))
    with pytest.raises(Violation, match="though they are in contact"):
        watch.stepped(bob)


@pytest.mark.parametrize("met_first", [True, False])
def test_who_is_met_in_the_step_of_the_grant_was_in_contact_only_if_that_came_first(met_first: bool) -> None:
    world, alice, bob = two_held_without_knowing()
    watch = Watch(world)
    watch.look()
    grant_alone(bob)
    assert bob.node is not None
    (holding,) = bob.node.leases.holdings()
    holding.grade = "provisional"
    bob.node.leases.view = bob.node.leases.view._replace(connected=frozenset({alice.peer_id}))
    granted = Event(type="lease-acquired", agent_id="bob", timestamp="", data={"lease": {"claimId": holding.body.id}})
    met = Event(type="peer-connected", agent_id="alice", timestamp="", data={"peerId": alice.peer_id})
    for event in (met, granted) if met_first else (granted, met):
        world.happened(bob, event)
    if met_first:
        with pytest.raises(Violation, match="though they are in contact"):
            watch.stepped(bob)
    else:
        watch.stepped(bob)


def test_the_watch_sees_a_claim_come_back() -> None:
    world, (alice, _) = world_of("alice", "bob")
    watch = Watch(world)
    assert acquire(alice, world)
    assert alice.node is not None
    (holding,) = alice.node.leases.holdings()
    world.scheduler.instant += holding.valid_until - alice.now.instant  # nothing runs meanwhile
    holding.valid_until += 10_000
    with pytest.raises(Violation, match="revived"):
        watch.stepped(alice)


def test_the_watch_sees_a_lease_given_up_to_nobody() -> None:
    """To one that has ended in the same step it may be, but it must have gone before."""
    world, alice, bob = two_held_without_knowing()
    watch = Watch(world)
    watch.look()
    grant_alone(bob)
    assert bob.node is not None
    (holding,) = bob.node.leases.holdings()
    holding.grade = "provisional"
    watch.stepped(bob)
    (mine,) = watch._held["alice"]
    lost: dict[str, object] = {"lease": {"claimId": mine}, "reason": "lost-conflict"}

    def told(**more: object) -> Event:
        return Event(type="lease-lost", agent_id="alice", timestamp="", data=lost | more)

    with pytest.raises(Violation, match="to nobody"):
        world.happened(alice, told())
    with pytest.raises(Violation, match="to nobody"):
        world.happened(alice, told(overlap={"claimId": holding.body.id}))  # a provisional one ranks below it
    watch._ever[holding.body.id] = watch._ever[holding.body.id]._replace(grade="strict")
    world.happened(alice, told(overlap={"claimId": holding.body.id}))


def test_the_watch_sees_a_lease_taken_over_by_one_of_no_higher_priority() -> None:
    world, alice, bob = two_held_without_knowing()
    watch = Watch(world)
    watch.look()
    (mine,) = watch._held["alice"]
    lost: dict[str, object] = {"lease": {"claimId": mine}, "reason": "preempted", "holder": "bob"}
    event = Event(type="lease-lost", agent_id="alice", timestamp="", data=lost)
    (resource, *_) = watch._held["alice"][mine].body.resources
    for asked in (Resource("file", "elsewhere"), resource):
        for priority in (0, 1):
            with pytest.raises(Violation, match="nor what bob asked for"):
                world.happened(alice, event)
            bob.asked_for["bob"] = [AcquireLease(resources=(asked,), priority=priority, agent="bob")]
    world.happened(alice, event)


def test_the_watch_sees_who_waits_for_nothing_once_the_branch_can_have_been_looked_at() -> None:
    world, nodes = world_of("alice", "bob", partition_policy="majority")
    watch = Watch(world)
    world.remote.reachable = False
    world.scheduler.run_until(3 * 60_000)
    nodes[0].ask(AcquireLease(resources=(FILE,), wait_ms=0), lambda _: None)

    def looks(calm_ms: int) -> None:
        for _ in range(4):
            world.scheduler.run_until(world.scheduler.instant + WAKE_MS)
            watch.look_at_waiters(calm_ms=calm_ms)

    looks(LOOK_MS - 1)
    with pytest.raises(Violation, match="nothing is in its way"):
        looks(LOOK_MS)


def test_the_watch_sees_a_lease_end_without_a_word() -> None:
    world, (alice, _) = world_of("alice", "bob")
    watch = Watch(world)
    assert acquire(alice, world)
    assert alice.node is not None
    (holding,) = alice.node.leases.holdings()
    del alice.node.leases._own[holding.body.id]
    with pytest.raises(Violation, match="was not told"):
        watch.stepped(alice)


def test_the_watch_sees_a_lease_released_that_nobody_gave_back() -> None:
    world, (alice, _) = world_of("alice", "bob")
    watch = Watch(world)
    assert acquire(alice, world)
    assert alice.node is not None
    released = alice.node.leases.release("alice", (FILE,), alice.now)[1]
    assert released
    for event in [effect for effect in released if isinstance(effect, Notify)]:
        world.happened(alice, Event(type=event.type, agent_id="alice", timestamp="", data=event.data))
    with pytest.raises(Violation, match="had not asked for it"):
        watch.stepped(alice)
    alice.willed["alice"] = world.scheduler.instant


def test_a_release_that_was_asked_for_is_none() -> None:
    world, (alice, _) = world_of("alice", "bob")
    watch = Watch(world)
    assert acquire(alice, world)
    alice.ask(ReleaseLease(resources=(FILE,)), lambda _: None)
    assert watch.held() == []


def test_what_is_left_of_a_lease_is_seen() -> None:
    world, (alice, _) = world_of("alice", "bob")
    check_let_go(world)
    assert acquire(alice, world)
    with pytest.raises(Violation, match="left over at alice"):
        check_let_go(world)
    assert alice.node is not None
    died_at = {alice.peer_id: (alice.node.sync.incarnation, world.scheduler.instant)}
    alice.kill()
    world.scheduler.run_until(world.scheduler.instant + 60_000)
    check_the_dead_let_go(world, died_at, 300_000)
    with pytest.raises(Violation, match=r"bob counts .*, gone for"):
        check_the_dead_let_go(world, died_at, 20_000)


def test_a_late_machine_and_another_clock_change_nothing_for_whoever_holds() -> None:
    world, (alice, bob) = world_of("alice", "bob")
    assert acquire(alice, world)
    alice.late_ms = 900
    bob.set_clock(_drifting(bob.clock, world.scheduler.instant, 9_000))
    world.network.slow[bob.peer_id] = 400
    world.scheduler.run_until(world.scheduler.instant + 400_000)
    assert [h.body.agent for h in holdings(alice)] == ["alice"]
    assert not acquire(bob, world)


def test_a_clock_with_another_rate_shows_the_same_time_at_first() -> None:
    clock = SimClock(offset_ms=77, drift_ppm=-5_000)
    other = _drifting(clock, 1_000_000, 9_000)
    assert other.read(1_000_000) == clock.read(1_000_000)
    assert other.read(2_000_000).instant - other.read(1_000_000).instant == 1_009_000


def test_the_convergence_checker_sees_a_difference() -> None:
    world, (alice, bob) = world_of("alice", "bob")
    check_converged(world)
    world.network.cut(alice.peer_id, bob.peer_id)
    assert alice.node is not None
    alice.node.sync.set("issueUpdates", "alice|#1", {"fields": {}}, alice.now, urgent=True)
    with pytest.raises(Violation, match="documents of alice and bob differ"):
        check_converged(world)
