"""Histories with NATs, a relay and shared machines: links move while leases are asked for, and nothing that must hold is broken."""

from __future__ import annotations

from collections import Counter
from typing import Final

import pytest

from sudocode_coordination.core.io import Input, PeerConnected, PeerMoved, RecordsSighted
from sudocode_coordination.sim.__main__ import outcomes
from sudocode_coordination.sim.plan import plan_of, with_networks
from sudocode_coordination.sim.scenario import Run, run_seed
from sudocode_coordination.sim.terrain import terrain_of
from sudocode_coordination.sim.world import SimNode

SEEDS: Final = 10


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("first", [1_000, 2_000])
def test_seeds_without_a_violation(first: int) -> None:
    found = list(outcomes(range(first, first + 500), 1, networks=True))
    assert [f"seed {outcome.seed}: {outcome.violation}" for outcome in found if outcome.violation] == []
    assert sum(outcome.granted for outcome in found) > 15 * len(found)
    assert sum(outcome.denied for outcome in found) > 5 * len(found)


def test_links_come_up_relayed_and_move_while_leases_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[str] = Counter()
    deliver = SimNode.deliver

    def counted(node: SimNode, given: Input) -> None:
        match given:
            case PeerConnected(relayed=relayed):
                seen["relayed" if relayed else "direct"] += 1
            case PeerMoved():
                seen["moved"] += 1
                seen["moved with leases"] += node.node is not None and bool(node.node.leases._own)
            case RecordsSighted(records=records) if records:
                seen["sighted"] += 1
            case _:
                pass
        deliver(node, given)

    monkeypatch.setattr(SimNode, "deliver", counted)
    found = [Run(seed, networks=True).run() for seed in range(SEEDS)]
    assert [f"seed {outcome.seed}: {outcome.violation}" for outcome in found if outcome.violation] == []
    assert min(seen[kind] for kind in ("relayed", "direct", "moved", "moved with leases", "sighted")) >= 3, seen
    assert run_seed(0, networks=True) == found[0], "the same seed is the same history"


def test_histories_without_networks_are_as_they_were() -> None:
    """They throw no die more: recorded seeds stay what they were recorded for."""
    run = Run(4)
    assert run.plan == plan_of(4)
    assert run.plan.terrain is None
    assert run.world.ground is None


def test_there_is_always_somebody_who_relays_and_a_way_to_all() -> None:
    for seed in range(300):
        plan = with_networks(seed, plan_of(seed))
        terrain = terrain_of(seed, plan.nodes)
        assert plan.terrain == terrain
        assert plan.nodes >= 3
        for pair in terrain.walls:
            assert terrain.relay not in pair
            assert not set(pair) <= set(terrain.together), "on one machine there is no NAT between them"
