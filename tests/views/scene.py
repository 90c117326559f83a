"""A swarm as a daemon would tell of it, for tests of views: alice's clone, and bob's, which holds what carol waits for."""

from __future__ import annotations

from typing import Any

import msgspec

from sudocode_coordination.api.events import Event, EventType
from sudocode_coordination.api.requests import AgentInfo, RemoteHealth, Status
from sudocode_coordination.model import ActiveWork, Lease, Message, Now, PeerInfo, Resource, iso_from_ms

HERE = "12D3KooWalice"
THERE = "12D3KooWbob"
WALL_MS = 1_770_000_000_000
NOW = Now(1_000_000, WALL_MS)


def later(ms: int) -> Now:
    return Now(NOW.instant + ms, NOW.wall_ms + ms)


def iso(ms: int = 0) -> str:
    """A time, by milliseconds from `NOW`."""
    return iso_from_ms(WALL_MS + ms)


def lease(number: int, agent: str, *paths: str, peer: str = THERE, **more: Any) -> Lease:
    values = {"ttl_ms": 300_000, "remaining_ms": 240_000, "since": iso(-60_000), "grade": "quorum", "mine": peer == HERE, **more}
    resources = tuple(Resource("issue" if path.startswith("#") else "file", path) for path in paths)
    return Lease(claim_id=f"{peer}.1.{number}", peer_id=peer, agent_id=agent, resources=resources, **values)


def work(agent: str, peer: str, *files: str, status: str = "") -> ActiveWork:
    return ActiveWork(agent_id=agent, peer_id=peer, files=files, status=status, started_at=iso(-90_000), updated_at=iso(-30_000))


def peer(agent: str, peer_id: str, connection: Any = "direct", leases_held: int = 0) -> PeerInfo:
    return PeerInfo(
        agent_id=agent,
        peer_id=peer_id,
        connection=connection,
        address=None if connection == "self" else "/ip4/192.0.2.7/tcp/4001",
        latency_ms=None if connection == "self" else 12.25,
        last_seen=iso(-2_000),
        capabilities=("code", "review"),
        leases_held=leases_held,
    )


LEASES = (
    lease(1, "alice", "src/api.py", peer=HERE, note="pagination"),
    lease(2, "bob", "src/auth.py", "src/tokens.py", note="token refresh", priority=5),
    lease(3, "bob", "docs/", mode="shared", grade="provisional", remaining_ms=30_000),
    lease(4, "dora", "#42", grade="strict", token=17, strict=True),
    lease(5, "carol", "src/auth.py", peer=HERE, state="pending", position=1, remaining_ms=300_000),
)


def status(**more: Any) -> Status:
    values: dict[str, Any] = {
        "state": "active",
        "peer_id": HERE,
        "agents": (
            AgentInfo(agent_id="alice", capabilities=("code",), default=True, leases_held=1),
            AgentInfo(agent_id="carol", capabilities=("code",), default=False, leases_held=0),
        ),
        "addresses": (),
        "peers": (peer("bob", THERE, leases_held=2), peer("carol", HERE, "self"), peer("alice", HERE, "self", 1)),
        "work": (work("bob", THERE, "src/auth.py", status="Token refresh"), work("alice", HERE, "src/api.py", "src/auth.py")),
        "leases": LEASES,
        "remote": RemoteHealth(name="origin", branch="coordination", state="ok"),
        "roster": (HERE, THERE),
        "partition_policy": "open",
        "started_at": iso(-3_600_000),
        "version": "0.1.0",
    }
    return Status(**{**values, **more})


def event(kind: EventType, agent: str, ms: int = 0, **data: Any) -> Event:
    built = {key: msgspec.to_builtins(value) for key, value in data.items()}
    return Event(type=kind, agent_id=agent, timestamp=iso(ms), data=built)


def message(id_: str, agent: str, text: str, *to: str, peer_id: str = THERE, **more: Any) -> Message:
    values = {"sent_at": iso(-10_000), "remaining_ms": 3_590_000, "mine": peer_id == HERE, **more}
    return Message(message_id=id_, agent_id=agent, peer_id=peer_id, to=to, text=text, **values)
