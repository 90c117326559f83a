"""The simulated world itself: clocks, lives, disks that fail; and the checkers, which find what is put before them."""

from __future__ import annotations

import pytest

from sudocode_coordination.api.requests import AcquireLease, GetStatus, LeaseOutcome, Status
from sudocode_coordination.config import create_default_config
from sudocode_coordination.core.io import Reply
from sudocode_coordination.core.overlap import Overlap
from sudocode_coordination.model import Resource
from sudocode_coordination.sim.checkers import NoRevival, Violation, check_converged, check_exclusion, holdings
from sudocode_coordination.sim.network import NetworkFaults
from sudocode_coordination.sim.world import SimClock, SimNode, World

FILE = Resource("file", "a.py")


def world_of(*names: str) -> tuple[World, list[SimNode]]:
    world = World(1, config=create_default_config, faults=NetworkFaults())
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
    check_converged(world)


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


def test_the_revival_checker_sees_a_claim_come_back() -> None:
    world, (alice, _) = world_of("alice", "bob")
    checker = NoRevival()
    assert acquire(alice, world)
    checker.check(world)
    assert alice.node is not None
    (holding,) = alice.node.leases.holdings()
    valid_until, holding.valid_until = holding.valid_until, 0
    checker.check(world)
    holding.valid_until = valid_until
    with pytest.raises(Violation, match="revived"):
        checker.check(world)


def test_the_convergence_checker_sees_a_difference() -> None:
    world, (alice, bob) = world_of("alice", "bob")
    check_converged(world)
    world.network.cut(alice.peer_id, bob.peer_id)
    assert alice.node is not None
    alice.node.sync.set("issueUpdates", "alice|#1", {"fields": {}}, alice.now, urgent=True)
    with pytest.raises(Violation, match="documents of alice and bob differ"):
        check_converged(world)
