"""What is foretold, as clients are shown it: whose changes they are, where, and with whom they would not merge."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from sudocode_coordination.api.requests import Foretelling
from sudocode_coordination.core.company import counts
from sudocode_coordination.core.diff_entries import MAIN, shared_files
from sudocode_coordination.core.file_diffs import Found, Pair
from sudocode_coordination.core.resources import matches
from sudocode_coordination.model import (
    AgentId,
    Conflict,
    ForetoldConflict,
    Json,
    Now,
    PeerId,
    Resource,
    SharedWork,
    iso_from_ms,
)

if TYPE_CHECKING:
    from sudocode_coordination.core.node import Node


def whose(node: Node, peer: PeerId, worktree: str, paths: Iterable[str], now: Now) -> tuple[AgentId, ...]:
    """Agents of that clone who hold the files, or else work on them; or else its default agent, if that is known."""
    resources = tuple(Resource("file", path) for path in paths)
    touching = node.leases.claims.touching(resources, now.instant, fold_case=node.folds_case)
    found = {known.body.agent for known in touching if known.owner == peer and known.granted}
    found = found or {work.agent_id for work in node.agents.near(resources) if work.peer_id == peer}
    if found:
        return tuple(sorted(found))
    if peer == node.peer_id:
        return (node.agents.default,)
    theirs = node.diffs.works.get((peer, worktree))
    return () if theirs is None else (theirs.header.agent,)


def shown(node: Node, pair: Pair, found: Iterable[Found], now: Now) -> list[ForetoldConflict]:
    """Conflicts of a pair as clients see them."""
    theirs = node.diffs.works.get((pair.peer, pair.theirs))
    return [
        ForetoldConflict(
            path=one.conflict.path,
            kind=one.conflict.kind,
            agents=whose(node, node.peer_id, pair.worktree, (one.conflict.path,), now),
            worktree=_shown_name(pair.worktree),
            lines=one.conflict.lines,
            their_agents=whose(node, pair.peer, pair.theirs, (one.conflict.path,), now),
            their_peer_id=pair.peer,
            their_worktree=_shown_name(pair.theirs),
            their_branch="" if theirs is None else theirs.header.branch,
            their_lines=one.conflict.their_lines,
            certain=one.conflict.certain,
            since=iso_from_ms(one.since),
        )
        for one in found
    ]


def described(node: Node, pair: Pair, found: tuple[Found, ...], now: Now) -> list[tuple[tuple[AgentId, ...], Json]]:
    """The same for events, with the own agents that are concerned."""
    return [(one.agents, msgspec.to_builtins(one)) for one in shown(node, pair, found, now)]


def conflicts(node: Node, now: Now, agent: AgentId | None = None) -> tuple[ForetoldConflict, ...]:
    """All that is foretold, or what concerns one agent of this clone."""
    everything = [one for pair, found in node.diffs.found() if counts(node, pair.peer) for one in shown(node, pair, found, now)]
    chosen = [one for one in everything if agent is None or agent in one.agents]
    return tuple(sorted(chosen, key=lambda one: (one.path, one.worktree, one.their_agents, one.their_worktree, one.kind)))


def foretelling(node: Node, now: Now, agent: AgentId | None) -> Foretelling:
    """The whole picture."""
    works = [
        SharedWork(
            agents=whose(node, peer, worktree, work.files, now),
            peer_id=peer,
            worktree=_shown_name(worktree),
            branch=work.header.branch,
            base=work.header.base,
            files=shared_files(work),
            left_out=work.header.left_out,
            mine=peer == node.peer_id,
            unknown=node.diffs.unknown(peer, worktree),
        )
        for (peer, worktree), work in sorted(node.diffs.works.items())
        if counts(node, peer)
    ]
    return Foretelling(
        enabled=node.diffs.enabled,
        conflicts=conflicts(node, now, agent),
        works=tuple(sorted((w for w in works if agent is None or agent in w.agents), key=lambda w: not w.mine)),
        trouble=node.diffs.trouble,
    )


def merge_conflicts(node: Node, agent: AgentId, resources: tuple[Resource, ...], now: Now) -> tuple[Conflict, ...]:
    """What an agent would run into on these resources when it merges."""
    files = [resource for resource in resources if resource.type == "file"]

    def asked(path: str) -> bool:
        return any(resource.path == path or matches(resource, path, fold_case=node.folds_case) for resource in files)

    near = [
        (pair, [one for one in found if asked(one.conflict.path)]) for pair, found in node.diffs.found() if counts(node, pair.peer)
    ]
    return tuple(
        Conflict(
            resource=Resource("file", one.path),
            kind="merge",
            agent_id=other,
            peer_id=one.their_peer_id,
            note=_note(one),
            lines=one.lines,
            their_lines=one.their_lines,
        )
        for pair, found in near
        for one in shown(node, pair, found, now)
        for other in one.their_agents
        if not (one.their_peer_id == node.peer_id and other == agent)
    )


def _note(one: ForetoldConflict) -> str:
    certainty = "" if one.certain else ", perhaps"
    return one.kind + certainty + (f", on {one.their_branch}" if one.their_branch else "")


def _shown_name(worktree: str) -> str:
    return "" if worktree == MAIN else worktree
