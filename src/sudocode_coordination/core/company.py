"""Who is here, as clients are shown it: agents of this clone, and those of all others."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from sudocode_coordination.api.requests import AgentInfo
from sudocode_coordination.core.agents import MAX_AGENTS
from sudocode_coordination.core.records import MAX_CAPABILITIES, MAX_CAPABILITY_CHARS
from sudocode_coordination.model import AGENT_ID_PATTERN, Now, PeerId, PeerInfo, iso_from_ms

if TYPE_CHECKING:
    from sudocode_coordination.core.node import Node


def counts(node: Node, peer: PeerId) -> bool:
    """Whether what a peer published still matters: it is this one, or of the roster, or connected."""
    return peer == node.peer_id or peer in node.discovery.roster or peer in node.membership.connected_peers


def own_agents(node: Node, now: Now) -> tuple[AgentInfo, ...]:
    """Agents of this clone."""
    held = node.leases.held_count(now.instant)
    return tuple(
        AgentInfo(
            agent_id=agent,
            capabilities=capabilities,
            default=agent == node.agents.default,
            leases_held=held.get((node.peer_id, agent), 0),
        )
        for agent, capabilities in node.agents.local.items()
    )


def everybody(node: Node, now: Now) -> tuple[PeerInfo, ...]:
    """All agents of the swarm, with how they are connected."""
    held = node.leases.held_count(now.instant)
    rows = [
        PeerInfo(
            agent_id=agent,
            peer_id=node.peer_id,
            connection="self",
            capabilities=capabilities,
            leases_held=held.get((node.peer_id, agent), 0),
            last_seen=iso_from_ms(now.wall_ms),
        )
        for agent, capabilities in node.agents.local.items()
    ]
    for peer_id, known in sorted(node.discovery.known.items()):
        if peer_id == node.peer_id or not counts(node, peer_id):
            continue
        peer = node.membership.peer(peer_id)
        live = {
            key: tuple(str(c)[:MAX_CAPABILITY_CHARS] for c in value["capabilities"][:MAX_CAPABILITIES])
            for key, value in islice(node.sync.owner_entries("agentMetadata", peer_id), MAX_AGENTS)
            if AGENT_ID_PATTERN.match(key) and isinstance(value, dict) and isinstance(value.get("capabilities"), list)
        }
        connected = peer is not None and peer.connected
        listed = {id_: record.capabilities for id_, record in known.agents.items()}
        for agent, capabilities in sorted((live if connected and live else listed | live).items()):
            record = known.agents.get(agent)
            heard = peer.heard_wall_ms if peer is not None else None
            rows.append(
                PeerInfo(
                    agent_id=agent,
                    peer_id=peer_id,
                    connection=node.membership.connection(peer_id),
                    address=peer.address if peer else None,
                    latency_ms=peer.latency_ms if peer else None,
                    last_seen=iso_from_ms(heard) if heard else (record.last_seen if record else None),
                    capabilities=capabilities,
                    leases_held=held.get((peer_id, agent), 0),
                    reason=node.membership.reason(peer_id, now.instant),
                )
            )
    return tuple(rows)
