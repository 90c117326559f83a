"""Whole nodes in a world where two can't reach each other, and a third one relays."""

from __future__ import annotations

import pytest

from sudocode_coordination.api.requests import AcquireLease
from sudocode_coordination.config import CoordinationConfig, create_default_config
from sudocode_coordination.core.io import Reply
from sudocode_coordination.model import Resource
from sudocode_coordination.sim.network import NetworkFaults
from sudocode_coordination.sim.world import SimNode, World

FILE = Resource("file", "src/auth.py")


def config(name: str) -> CoordinationConfig:
    return create_default_config(name, relay_service=name == "relay")


def connection(one: SimNode, two: SimNode) -> str:
    assert one.node is not None
    return one.node.membership.connection(two.peer_id)


@pytest.mark.parametrize("seed", range(8))
def test_what_is_cut_off_is_relayed_and_goes_direct_when_it_can(seed: int) -> None:
    world = World(seed, config=config, faults=NetworkFaults(link_loss=0.0))
    ann, bob, relay = nodes = [world.add(name) for name in ("ann", "bob", "relay")]
    world.network.cut(ann.peer_id, bob.peer_id)
    for node in nodes:
        node.start()
    assert world.scheduler.run_while(lambda: connection(ann, bob) != "relayed" or connection(bob, ann) != "relayed", limit=120_000)
    answers: list[Reply] = []
    for node in (ann, bob):
        node.ask(AcquireLease(resources=(FILE,)), answers.append)
    world.scheduler.run_until(world.scheduler.instant + 20_000)
    assert sorted(bool(answer.value) for answer in answers) == [False, True]
    seen = [len(node.events) for node in (ann, bob)]
    world.network.heal(ann.peer_id, bob.peer_id)
    ends = world.scheduler.instant + 1_200_000
    assert world.scheduler.run_while(lambda: connection(ann, bob) != "direct" or connection(bob, ann) != "direct", limit=ends)
    for node, before in zip((ann, bob), seen, strict=True):
        assert not [event for event in node.events[before:] if event.type == "peer-disconnected"]
    relay.kill()
    world.scheduler.run_until(world.scheduler.instant + 20_000)
    assert connection(ann, bob) == connection(bob, ann) == "direct"


def test_when_the_relay_is_gone_so_is_the_connection_and_it_comes_back_with_it() -> None:
    world = World(3, config=config, faults=NetworkFaults())
    ann, bob, relay = nodes = [world.add(name) for name in ("ann", "bob", "relay")]
    world.network.cut(ann.peer_id, bob.peer_id)
    for node in nodes:
        node.start()
    assert world.scheduler.run_while(lambda: connection(ann, bob) != "relayed", limit=120_000)
    relay.kill()
    assert world.scheduler.run_while(lambda: connection(ann, bob) == "relayed", limit=world.scheduler.instant + 60_000)
    relay.start()
    assert world.scheduler.run_while(lambda: connection(ann, bob) != "relayed", limit=world.scheduler.instant + 600_000)
