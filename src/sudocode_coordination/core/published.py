"""What leaves this clone, taken from where it is sent from: for people who want to know before others do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sudocode_coordination.api.answers import ToldOnNetwork, ToldRelays
from sudocode_coordination.api.requests import Published
from sudocode_coordination.config import CoordinationConfig
from sudocode_coordination.core.facts import ROOTS
from sudocode_coordination.core.nearby import SERVICE, name_on_network, told_on_network
from sudocode_coordination.core.relays import direct, is_circuit
from sudocode_coordination.core.strict_table import encode_entry, path_of

if TYPE_CHECKING:
    from sudocode_coordination.core.node import Node


def published(node: Node, config: CoordinationConfig) -> Published:
    """All of it but the records, which are on the branch as others read them."""
    own = {root: dict(node.sync.owner_entries(root, node.peer_id)) for root in ROOTS}
    leases = [entry for _, entry in sorted(node.strict.writer.table.entries.items()) if entry.owner == node.peer_id]
    return Published(
        peer_id=node.peer_id,
        remote=config.git_remote,
        branch=config.coordination_branch,
        table_ref=node.strict.writer.ref,
        table={path_of(entry.id): encode_entry(entry).decode() for entry in leases},
        peers={root: entries for root, entries in own.items() if entries},
        addresses=direct(node.listening),
        network=_on_network(node, config),
        relays=ToldRelays(
            used=node.membership.relays.used,
            announced=tuple(address for address in node.listening if is_circuit(address)),
            serves=config.relay_service,
            told=direct(node.listening) if config.relay_service else (),
        ),
    )


def _on_network(node: Node, config: CoordinationConfig) -> ToldOnNetwork | None:
    told = told_on_network(node.listening) if config.mdns else None
    if told is None:
        return None
    port, addresses = told
    return ToldOnNetwork(service=SERVICE, name=name_on_network(node.peer_id), addresses=addresses, port=port)
