"""How a life of the node begins, with what the disk holds of earlier ones, and how it ends. Called by the node alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sudocode_coordination.config import CoordinationConfig
from sudocode_coordination.core.facts import Output, Root, Say
from sudocode_coordination.core.handing_over import leave_behind, take_over
from sudocode_coordination.core.io import Started
from sudocode_coordination.core.wire import Bye
from sudocode_coordination.model import Now

if TYPE_CHECKING:
    from sudocode_coordination.core.node import Node

RESERVED: Final = frozenset({"enable_file_diffs"})
"""Configuration keys of what is still to come: who sets one is told."""
_LEASE_ROOTS: Final[tuple[Root, Root]] = ("leaseHistory", "leases")


def begin(node: Node, config: CoordinationConfig, given: Started, now: Now) -> list[Output]:
    """Every machine learns what there was, and what of it is over."""
    for key in sorted(RESERVED):
        if getattr(config, key):
            node.desk.trouble(f"{key} is set, but has no effect in this version")
    if given.contents.lost:
        node.desk.trouble(given.contents.lost)
    out = node.sync.started(given.contents, now, newborn=given.newborn)
    incarnation = node.sync.incarnation
    ended, held = (list(node.sync.owner_entries(root, node.peer_id)) for root in _LEASE_ROOTS)
    out += node.leases.history.restarted(ended, held, now)
    for root in ("leases", "activeWork", "agentMetadata"):
        for key in [key for key, _ in node.sync.owner_entries(root, node.peer_id)]:
            out += node.sync.set(root, key, None, now)
    out += node.leases.started(incarnation, given.contents, now, newborn=given.newborn)
    out += node.electorate.started(given.contents, now, newborn=given.newborn)
    out += take_over(node.sync, given.contents, now)
    out += node.agents.started(given.contents)
    out += node.messages.started(now)
    node.departed.started(given.contents)
    node.strict.started(incarnation, given.contents)
    out += node.membership.started(incarnation, now)
    out += node.discovery.started(now, given.contents, given.formerly)
    return out + node.discovery.agents_changed(node.agents.local, now)


def leave(node: Node, now: Now, *, hand_over: bool) -> list[Output]:
    """Everything is ended, and everybody told; the own records leave the branch last."""
    node.membership.stop()
    node.strict.stop()
    known, whole = node.leases.testament(now)
    out = node.leases.stop(now) + node.electorate.stopping()
    for agent in node.agents.local:
        out += node.agents.clear_work(agent)
    if hand_over:
        out += leave_behind(node.sync, now)
    out += node.sync.flush(now)
    out += [Say(peer=peer, message=Bye(known=known, partial=not whole)) for peer in sorted(node.membership.connected_peers)]
    return out + node.discovery.stop(now, keep_record=hand_over)
