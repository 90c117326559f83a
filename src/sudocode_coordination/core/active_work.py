"""Active work of all agents, as the document has it: judged once when it changes, with an index of what it is on.

What a change costs depends on its own size and on what is near, not on how much others have written; and what one peer can make
others keep is bounded.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from sudocode_coordination.core.overlap import Overlap
from sudocode_coordination.core.resources import pattern_count
from sudocode_coordination.model import AGENT_ID_PATTERN, ActiveWork, AgentId, Json, PeerId, Resource

MAX_OWNER_ENTRIES: Final = 500
"""Agents of one peer whose work is shown: as many as a clone may have."""
MAX_OWNER_NAMES: Final = 10_000
"""Files, issues and specs in the work of one peer's agents: a value holds some thousand at most."""
MAX_OWNER_PATTERNS: Final = 512
"""Of those, patterns: each may have to be compared with all names that are asked for, as in claims."""


class WorkEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An agent's active work in the document, under its id."""

    issues: tuple[str, ...] = ()
    specs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    status: str = ""
    metadata: dict[str, Json] = {}
    started_at: str
    updated_at: str


class _Kept:
    __slots__ = ("patterns", "touched", "work")

    def __init__(self, work: ActiveWork) -> None:
        self.work = work
        self.touched = touched_by(work)
        self.patterns = pattern_count(self.touched)


class WorkBoard:
    """See the module. `fold_case`: case does not count in this clone."""

    def __init__(self, *, fold_case: bool) -> None:
        self._fold_case = fold_case
        self._kept: dict[tuple[PeerId, AgentId], _Kept] = {}
        self._names: dict[PeerId, int] = {}
        self._patterns: dict[PeerId, int] = {}
        self._entries: dict[PeerId, int] = {}
        self._index = Overlap()

    def changed(self, owner: PeerId, agent: AgentId, value: Json) -> ActiveWork | None:
        """What stands under an agent's name now (None: nothing). What it works on; None if on nothing, or it can't be told."""
        name = (owner, agent)
        old = self._kept.pop(name, None)
        if old is not None:
            self._index.remove("/".join(name), old.touched, fold_case=self._fold_case)
            self._count(owner, old, -1)
        work = None if value is None else _work_of(owner, agent, value)
        if work is None:
            return None
        kept = _Kept(work)
        if (
            self._entries.get(owner, 0) >= MAX_OWNER_ENTRIES
            or self._names.get(owner, 0) + len(kept.touched) > MAX_OWNER_NAMES
            or self._patterns.get(owner, 0) + kept.patterns > MAX_OWNER_PATTERNS
        ):
            return None
        self._kept[name] = kept
        self._count(owner, kept, 1)
        self._index.add("/".join(name), kept.touched, fold_case=self._fold_case)
        return work

    def _count(self, owner: PeerId, kept: _Kept, sign: int) -> None:
        for counts, amount in ((self._entries, 1), (self._names, len(kept.touched)), (self._patterns, kept.patterns)):
            counts[owner] = counts.get(owner, 0) + sign * amount
            if not counts[owner]:
                del counts[owner]

    def all(self, agent: AgentId | None = None) -> list[ActiveWork]:
        """Of everyone, or of one agent, by name."""
        found = [kept.work for (_, name), kept in self._kept.items() if agent in (None, name)]
        return sorted(found, key=lambda work: (work.agent_id, work.peer_id))

    def near(self, resources: Iterable[Resource]) -> list[ActiveWork]:
        """What overlaps any of the resources, by name."""
        found = []
        for id_ in self._index.of(resources, fold_case=self._fold_case):
            owner, _, agent = id_.partition("/")
            found.append(self._kept[owner, agent].work)
        return sorted(found, key=lambda work: (work.agent_id, work.peer_id))


def _work_of(owner: PeerId, agent: AgentId, value: Json) -> ActiveWork | None:
    """None: it is no work, or that is no name of an agent."""
    if not AGENT_ID_PATTERN.match(agent):
        return None
    try:
        entry = msgspec.convert(value, WorkEntry)
    except (msgspec.ValidationError, ValueError):
        return None
    return ActiveWork(
        agent_id=agent,
        peer_id=owner,
        issues=entry.issues,
        specs=entry.specs,
        files=entry.files,
        status=entry.status,
        metadata=entry.metadata,
        started_at=entry.started_at,
        updated_at=entry.updated_at,
    )


def touched_by(work: ActiveWork) -> tuple[Resource, ...]:
    """What it is on, as resources."""
    files = [Resource("file", f) for f in work.files]
    return (*files, *(Resource("issue", i) for i in work.issues), *(Resource("spec", s) for s in work.specs))
