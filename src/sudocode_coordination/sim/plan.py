"""What a seed is about: how large the swarm is, what its agents do, what goes wrong. Drawn from the seed, or made for one fault.

Times are kept short (ttl, grace, discovery), so that within a minute of virtual time leases are renewed, expire, and are fought
over many times.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from random import Random
from typing import Any, Final, Literal, TypeAlias

import msgspec

from sudocode_coordination.config import CoordinationConfig, create_default_config
from sudocode_coordination.model import PartitionPolicy, Resource
from sudocode_coordination.sim.network import NetworkFaults
from sudocode_coordination.sim.terrain import Terrain, terrain_of

MISFORTUNES: Final = (
    "kill",
    "power",
    "disk",
    "freeze",
    "suspend",
    "split",
    "one-way",
    "pair",
    "flap",
    "slow",
    "late",
    "remote",
    "own-remote",
    "refusing",
    "branch",
    "stop",
    "stops",
    "full",
    "clock",
    "drift",
    "client",
    "restarts",
    "alone",
    "island",
    "voices",
    "whispers",
)
"""By name; `misfortune.py` has what each is."""
Misfortune: TypeAlias = str
Kind: TypeAlias = Literal["files", "tree", "names"]

TREE: Final = ("a/", "a/x.py", "a/b/", "a/b/y.py", "a/*.py", "**/*.py", "c", "c/z.md", "**/z.*")
"""Names of which many overlap without being equal."""

MAX_CONFIGS: Final = 256
"""Configurations that are kept: checking one costs as much as some hundred steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A kind of history. Times in milliseconds, chances from 0 to 1."""

    nodes: int = 3
    agents: int = 2
    """Of each node, at most."""
    resources: tuple[Resource, ...] = (Resource("file", "f0"), Resource("file", "f1"))
    faults: NetworkFaults = field(default_factory=NetworkFaults)
    config: tuple[tuple[str, Any], ...] = ()
    """Differences from what `config_of` begins with."""
    drift_ppm: int = 9_000
    """How wrong a clock's rate may be; many are as wrong as that."""
    calm_ms: int = 0
    """First the swarm finds together, so long that all its members count fully; then all else begins."""
    trouble_ms: int = 50_000
    """Until when agents work and things go wrong."""
    misfortunes: tuple[Misfortune, ...] = MISFORTUNES
    how_many: tuple[int, int] = (0, 6)
    within_ms: int | None = None
    """All of them begin so soon after the calm; None: whenever there is time for them."""
    silent: int = 0
    """So many nodes, the last ones, have no agents and are voices only."""
    durations_ms: tuple[int, ...] = (500, 3_000, 9_000, 20_000)
    hold_ms: tuple[int, int] = (100, 5_000)
    pause_ms: tuple[int, int] = (100, 4_000)
    waits_ms: tuple[int | None, ...] = (None, None, 0, 3_000, 15_000)
    """Of `AcquireLease.wait_ms`."""
    several: float = 0.25
    shared: float = 0.15
    urgent: float = 0.15
    """Asks with a higher priority."""
    nested: float = 0.15
    """Asks for more while it holds."""
    strict: float = 0.0
    """Asks for strict leases."""
    guests: float = 0.3
    """Of the nodes has an agent that lives no longer than its connection."""
    chatter: float = 0.2
    """Does something else than asking for a lease."""
    gather_ms: int = 0
    """How long what is said to a node waits for more, to be one step with it."""
    terrain: Terrain | None = None
    """None: every node reaches every other one, and each is alone on its machine."""
    patient: bool = False
    """Agents hold for so long that an overlap is still there when the swarm has settled."""


@lru_cache(MAX_CONFIGS)
def _checked(config: tuple[tuple[str, Any], ...]) -> CoordinationConfig:
    values: dict[str, Any] = {
        "agent_id": "n",
        "lease_ttl_ms": 8_000,
        "max_lease_ttl_ms": 8_000,
        "gone_grace_ms": 5_000,
        "peer_discovery_interval_ms": 5_000,
    }
    return create_default_config(**values | dict(config))


def config_of(name: str, plan: Plan) -> CoordinationConfig:
    """Configuration of a node."""
    relays = plan.terrain is not None and name == f"n{plan.terrain.relay}"
    return msgspec.structs.replace(_checked(plan.config), agent_id=name, relay_service=relays)


def plan_of(seed: int) -> Plan:
    """The plan that a seed stands for."""
    dice = Random(seed * 7_919 + 1)
    policy: PartitionPolicy = dice.choice(("open", "open", "open", "majority", "closed"))
    ttl_ms = dice.choice((4_000, 8_000, 8_000, 16_000))
    patient = dice.random() < 0.15
    return Plan(
        nodes=dice.choice((2, 3) if patient else (2, 2, 3, 3, 3, 3, 4, 4, 5)),
        agents=1 if patient else dice.choice((1, 1, 2)),
        resources=_resources(dice),
        faults=_faults(dice),
        config=(
            ("partition_policy", policy),
            ("lease_ttl_ms", ttl_ms),
            ("max_lease_ttl_ms", dice.choice((ttl_ms, ttl_ms, 16_000))),
            ("gone_grace_ms", dice.choice((3_000, 5_000, 8_000))),
            ("peer_discovery_interval_ms", dice.choice((3_000, 3_000, 6_000, 15_000))),
            ("preempt_grace_ms", dice.choice((0, 0, 1_500))),
            ("strict_lease_ttl_ms", dice.choice((6_000, 12_000))),
            ("record_ttl_ms", dice.choice((60_000, 900_000))),
        ),
        drift_ppm=dice.choice((0, 9_000, 9_000)),
        how_many=dice.choice(((0, 0), (1, 4), (3, 8))),
        several=dice.choice((0.1, 0.4)),
        shared=dice.choice((0.0, 0.15, 0.4)),
        urgent=dice.choice((0.0, 0.15, 0.3)),
        nested=dice.choice((0.0, 0.2)),
        hold_ms=(30_000, 60_000) if patient else (100, dice.choice((2_000, 6_000))),
        pause_ms=(100, dice.choice((1_500, 5_000))),
        patient=patient,
        strict=dice.choice((0.0, 0.0, 0.3, 1.0)),
        gather_ms=dice.choice((0, 0, 5, 40)),
    )


def with_networks(seed: int, plan: Plan) -> Plan:
    """The same with NATs, a relay, and nodes that share a machine; of three nodes at least."""
    nodes = max(3, plan.nodes)
    return replace(plan, nodes=nodes, terrain=terrain_of(seed, nodes))


def _resources(dice: Random) -> tuple[Resource, ...]:
    kind: Kind = dice.choice(("files", "files", "tree", "names"))
    match kind:
        case "files":
            return tuple(Resource("file", f"f{number}") for number in range(dice.randint(1, 4)))
        case "tree":
            return tuple(Resource("file", path) for path in dice.sample(TREE, dice.randint(3, 6)))
        case "names":
            return (Resource("issue", "#1"), Resource("component", "core"), Resource("spec", "s.md"), Resource("file", "s.md"))


def _faults(dice: Random) -> NetworkFaults:
    harsh = dice.random() < 0.6
    return NetworkFaults(
        latency_ms=(1, dice.choice((5, 40, 200))),
        frame_loss=dice.choice((0.0, 0.02, 0.1)) if harsh else 0.0,
        frame_duplication=dice.choice((0.0, 0.05)) if harsh else 0.0,
        frame_reordering=dice.choice((0.0, 0.05, 0.2)) if harsh else 0.0,
        link_loss=dice.choice((0.0, 0.002)) if harsh else 0.0,
        gossip_loss=0.3,
        gossip_duplication=0.1,
        gossip_reordering=0.3,
    )
