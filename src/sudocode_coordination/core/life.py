"""How a node's life begins and ends, machine by machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sudocode_coordination.core.facts import Output, Root, Say
from sudocode_coordination.core.handing_over import leave_behind, take_over
from sudocode_coordination.core.io import Started
from sudocode_coordination.core.wire import Bye
from sudocode_coordination.model import Now

if TYPE_CHECKING:
    from sudocode_coordination.core.node import Node

STOP_MS: Final = 10_000
"""Longest wait for the removal of the own records."""
_LEASE_ROOTS: Final[tuple[Root, Root]] = ("leaseHistory", "leases")


def start(node: Node, given: Started, now: Now) -> list[Output]:
    """All machines take from the disk what is theirs."""
    me = node.peer_id
    node.rng.seed(given.seed)
    node.started_wall_ms = now.wall_ms
    if given.contents.lost:
        node.desk.trouble(given.contents.lost)
    out = node.sync.started(given.contents, now, newborn=given.newborn)
    incarnation = node.sync.incarnation
    ended, held = (list(node.sync.owner_entries(root, me)) for root in _LEASE_ROOTS)
    out += node.leases.history.restarted(ended, held, now)
    for root in ("leases", "activeWork", "agentMetadata", "fileDiffs"):
        for key in [key for key, _ in node.sync.owner_entries(root, me)]:
            out += node.sync.set(root, key, None, now)
    out += node.leases.started(incarnation, given.contents, now, newborn=given.newborn)
    out += node.electorate.started(given.contents, now, newborn=given.newborn)
    out += take_over(node.sync, given.contents, now)
    out += node.agents.started(given.contents)
    out += node.messages.started(now)
    node.diffs.started()
    node.departed.started(given.contents)
    node.strict.started(incarnation, given.contents)
    node.strict.fenced.started(me, given.contents, held, now)
    out += node.membership.started(incarnation, now)
    out += node.discovery.started(now, given.contents, given.formerly)
    return out + node.discovery.agents_changed(node.agents.local, now)


def stop(node: Node, now: Now, *, hand_over: bool) -> list[Output]:
    """What is held is given back, what is live is taken back, and all who listen are told."""
    if node.stopping:
        return []
    node.stopping = True
    node.stop_by = now.instant + STOP_MS
    node.membership.stop()
    node.strict.stop()
    known, whole = node.leases.testament(now)
    out = node.leases.stop(now) + node.electorate.stopping()
    for agent in node.agents.local:
        out += node.agents.clear_work(agent)
    node.diffs.stop()
    for key in [key for key, _ in node.sync.owner_entries("fileDiffs", node.peer_id)]:
        out += node.sync.set("fileDiffs", key, None, now)
    if hand_over:
        out += leave_behind(node.sync, now)
    out += node.sync.flush(now)
    out += [Say(peer=peer, message=Bye(known=known, partial=not whole)) for peer in sorted(node.membership.connected_peers)]
    return out + node.discovery.stop(now, keep_record=hand_over)
