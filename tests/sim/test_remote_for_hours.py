"""The git remote is down for hours, in virtual time and with the default configuration: who knows each other goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from sudocode_coordination.api.requests import AcquireLease, LeaseOutcome, ReleaseLease
from sudocode_coordination.config import create_default_config
from sudocode_coordination.core.discovery import MAX_RETRY_MS
from sudocode_coordination.core.io import Reply
from sudocode_coordination.model import Resource
from sudocode_coordination.sim.network import NetworkFaults
from sudocode_coordination.sim.remote import TIME_LIMIT_MS
from sudocode_coordination.sim.scheduler import WALL_EPOCH_MS
from sudocode_coordination.sim.world import SimNode, World

MINUTE = 60_000
HOUR = 60 * MINUTE


def met(nodes: list[SimNode]) -> bool:
    ids = {node.peer_id for node in nodes}
    return all(node.node is not None and node.node.membership.connected_peers >= ids - {node.peer_id} for node in nodes)


def ask(world: World, node: SimNode, path: str) -> LeaseOutcome:
    answers: list[Reply] = []
    node.ask(AcquireLease(resources=(Resource("file", path),)), answers.append)
    assert world.scheduler.run_while(lambda: not answers, limit=world.scheduler.instant + MINUTE)
    value: Any = answers[0].value
    assert isinstance(value, LeaseOutcome)
    return value


def let_go(world: World, node: SimNode) -> None:
    answers: list[Reply] = []
    node.ask(ReleaseLease(), answers.append)
    assert world.scheduler.run_while(lambda: not answers, limit=world.scheduler.instant + MINUTE)


def _counted(do: Callable[..., None], looks: list[int], world: World) -> Callable[..., None]:
    def counted(*args: Any, **options: Any) -> None:
        looks.append(world.scheduler.instant)
        do(*args, **options)

    return counted


def looks_of(nodes: list[SimNode], world: World) -> dict[str, list[int]]:
    """When each asks the remote for anything, from now on; also in later lives."""
    looks: dict[str, list[int]] = {node.name: [] for node in nodes}
    for node in nodes:
        git = node.git
        for name in ("read_branch", "publish"):
            setattr(git, name, _counted(getattr(git, name), looks[node.name], world))
    return looks


@pytest.mark.parametrize(("seed", "hours"), [(1, 2), *(pytest.param(seed, 6, marks=pytest.mark.slow) for seed in range(2, 8))])
def test_work_goes_on_without_the_remote_and_it_is_asked_ever_more_rarely(seed: int, hours: int) -> None:
    world = World(seed, config=create_default_config, faults=NetworkFaults())
    ann, bob, cid = nodes = [world.add(name) for name in ("ann", "bob", "cid")]
    for node in nodes:
        node.start()
    assert world.scheduler.run_while(lambda: not met(nodes), limit=5 * MINUTE)
    world.scheduler.run_until(world.scheduler.instant + 2 * MINUTE)
    before = ask(world, ann, "before.py")
    assert before.lease is not None
    assert before.lease.grade == "quorum"

    world.remote.reachable = world.table.reachable = False
    looks = looks_of(nodes, world)
    began = world.scheduler.instant
    for turn in range(6 * hours):
        world.scheduler.run_until(began + (turn + 1) * 10 * MINUTE)
        holder, other = nodes[turn % 3], nodes[(turn + 1) % 3]
        assert ask(world, holder, f"{turn}.py").granted, "all who are there agree"
        refused = ask(world, other, f"{turn}.py")
        assert not refused.granted
        assert [conflict.agent_id for conflict in refused.holders] == [holder.name]
        if holder is not ann:
            let_go(world, holder)
        if turn == 6:  # one of them is started again meanwhile: it knows the others from before
            cid.kill()
            cid.start()
            assert world.scheduler.run_while(lambda: not met(nodes), limit=world.scheduler.instant + 5 * MINUTE)
    for node in nodes:
        assert node.node is not None
        assert not [event for event in node.events if event.type in ("lease-lost", "lease-expired")]
    assert met(nodes)
    hour = [at for at in looks["ann"] if at >= began + HOUR and at < began + 2 * HOUR]
    assert 0 < len(hour) <= 2 * HOUR // MAX_RETRY_MS, "a look and a push a minute, at the most"
    gaps = [later - at for at, later in zip(looks["ann"], looks["ann"][1:], strict=False)]
    assert max(gaps) <= 1.2 * MAX_RETRY_MS + TIME_LIMIT_MS, "and it is found within that when it is back"

    world.remote.reachable = world.table.reachable = True
    back = world.scheduler.instant
    world.scheduler.run_until(back + 5 * MINUTE)
    for node in nodes:
        assert node.node is not None
        assert node.node.discovery.health.state == "ok"
    for name, data in world.remote.files.items():
        seen_ms = datetime.fromisoformat(json.loads(data)["lastSeen"]).timestamp() * 1_000
        assert seen_ms > WALL_EPOCH_MS + back - MINUTE, f"{name} is refreshed"
    assert met(nodes)
    # Whose record was out of date for hours counts in full again after the window (docs/leases.md): an hour and four looks.
    world.scheduler.run_until(back + 2 * HOUR)
    after = ask(world, bob, "after.py")
    assert after.lease is not None
    assert after.lease.grade == "quorum"
    assert [conflict.agent_id for conflict in ask(world, cid, "before.py").holders] == ["ann"], "held all the time"
