"""Live diffs: what is changed in the worktrees of this clone is shared, and conflicts with what others have changed are foretold.

    WorkSeen ──> own entries of `fileDiffs`          entries of others ──> their works
         └───────────── pairs that may conflict, one ForetellMerge at a time ─────────────┘
                                MergeForetold ──> conflicts, events

A pair is a worktree of this clone and another one, of another clone or of this. A pair is asked about again when either side has
changed. Laws: own entries say what was seen last (`life.py` removes them with the daemon); at most one merge is asked for at a
time; `conflicts-detected` is told once for a conflict (a pair, a path, a kind), `conflicts-cleared` when it is over; what a peer
writes takes bounded room, and what it removes is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from sudocode_coordination.core.agents import Entries
from sudocode_coordination.core.diff_entries import (
    MAX_FILES,
    MAX_WORKTREES,
    DiffEntry,
    Key,
    Work,
    WorkHeader,
    is_path,
    may_conflict,
    read_entry,
    read_header,
    read_key,
)
from sudocode_coordination.core.facts import EntryChange, Notify, Output, Write
from sudocode_coordination.core.merges import ForetellMerge, MergeConflict, MergeForetold, WorkSeen, WorkUnseen
from sudocode_coordination.model import AgentId, Instant, Json, Now, PeerId, WallMs

MAX_OWNER_FILES: Final = 2 * MAX_FILES
"""Changed files of one peer that are kept, of all its worktrees: what its memory costs here is bounded by its feed as well."""
MAX_CONFLICTS: Final = 200
"""Of one pair that are kept: whoever has more of them knows what to do after the first ones."""
MAX_PAIRS: Final = 2_000
"""That may conflict: forty worktrees here and fifty elsewhere. More are not asked about."""
MAX_TOLD: Final = 50
"""Conflicts in one event: events are kept."""
RETRY_MS: Final = 60_000
"""Until a pair that could not be judged is tried again: a fetch may have brought what was missing."""
MAX_REASON_CHARS: Final = 200


class Pair(msgspec.Struct, frozen=True, order=True, array_like=True):
    """A worktree of this clone, and the other one."""

    worktree: str
    peer: PeerId
    theirs: str


class Found(msgspec.Struct, frozen=True):
    """A conflict, and when it was first seen."""

    conflict: MergeConflict
    since: WallMs


class FileDiffs:
    """See the module.

    Args:
        peer_id: this peer.
        document: the shared document.
        enabled: whether this clone takes part.
        tell: describes conflicts of a pair for clients and events, and says of which own agents they are.
    """

    def __init__(
        self,
        peer_id: PeerId,
        document: Entries,
        tell: Callable[[Pair, tuple[Found, ...], Now], list[tuple[tuple[AgentId, ...], Json]]],
        *,
        enabled: bool,
    ) -> None:
        self._me = peer_id
        self._document = document
        self._tell = tell
        self.enabled = enabled
        self.trouble = ""
        """Why own worktrees can't be looked at."""
        self.works: dict[tuple[PeerId, str], Work] = {}
        """Of all, own ones too, by peer and worktree."""
        self._parts: dict[tuple[PeerId, str], dict[str, DiffEntry]] = {}
        """Entries of others, also those that have no header yet."""
        self._headers: dict[tuple[PeerId, str], WorkHeader] = {}
        self._counts: dict[PeerId, int] = {}
        self._found: dict[Pair, tuple[Found, ...]] = {}
        self._unknown: dict[Pair, str] = {}
        self._waiting: dict[Pair, None] = {}
        """To be asked about, the longest first."""
        self._asked: tuple[int, Pair] | None = None
        self._tickets = 0
        self._retry_at: Instant | None = None

    # --- life ---------------------------------------------------------------------------------------------------------------

    def started(self) -> None:
        """Take over what peers have shared before. What this clone shared in an earlier life is gone: it may not be so any more."""
        for owner, key, value in self._document.entries("fileDiffs"):
            if owner != self._me:
                self._learn(owner, key, value)

    def stop(self) -> None:
        """Nothing is foretold any more."""
        self._waiting.clear()
        self.enabled = False

    def deadline(self) -> Instant | None:
        """When pairs that could not be judged are tried again."""
        return self._retry_at

    def ticked(self, now: Now) -> list[Output]:
        """Try them again."""
        if self._retry_at is None or self._retry_at > now.instant:
            return []
        self._retry_at = None
        for pair in self._unknown:
            self._waiting.setdefault(pair)
        return self._ask_next()

    # --- what is changed here -----------------------------------------------------------------------------------------------

    def seen(self, given: WorkSeen, now: Now) -> list[Output]:
        """Share it, and see what it conflicts with."""
        if not self.enabled:
            return []
        name = (self._me, given.worktree)
        before = self.works.get(name)
        if before == given.work:
            return []
        if given.work is None:
            del self.works[name]
        elif before is None and sum(1 for peer, _ in self.works if peer == self._me) >= MAX_WORKTREES:
            return []
        else:
            self.works[name] = given.work
        return self._share(given.worktree, before, given.work) + self._changed(name, now)

    def unseen(self, given: WorkUnseen) -> list[Output]:
        """Why nothing is seen; what was seen last stays."""
        self.trouble = given.reason[:MAX_REASON_CHARS]
        return []

    def _share(self, worktree: str, before: Work | None, after: Work | None) -> list[Output]:
        """Entries that differ."""
        old, new = (({} if work is None else work.files) for work in (before, after))
        out: list[Output] = [
            Write(root="fileDiffs", key=str(Key(worktree, path)), value=None) for path in sorted(old.keys() - new.keys())
        ]
        for path, entry in sorted(new.items()):
            if old.get(path) != entry:
                out.append(Write(root="fileDiffs", key=str(Key(worktree, path)), value=msgspec.to_builtins(entry)))
        if before is None or after is None or before.header != after.header:
            value = None if after is None else msgspec.to_builtins(after.header)
            out.append(Write(root="fileDiffs", key=str(Key(worktree, "")), value=value))
        return out

    # --- what is changed elsewhere ------------------------------------------------------------------------------------------

    def entries_changed(self, owner: PeerId, changes: tuple[EntryChange, ...], now: Now) -> list[Output]:
        """What others share."""
        if owner == self._me:
            return []
        touched = {
            worktree
            for change in changes
            if change.root == "fileDiffs" and (worktree := self._learn(owner, change.key, change.value)) is not None
        }
        out: list[Output] = []
        for worktree in sorted(touched):
            out += self._changed((owner, worktree), now)
        return out

    def _learn(self, owner: PeerId, text: str, value: Json) -> str | None:
        """Take an entry in; its worktree, if that changes anything."""
        key = read_key(text)
        if key is None:
            return None
        name = (owner, key.worktree)
        if not key.path:
            header = None if value is None else read_header(value)
            if header is not None and len([1 for peer, _ in self._headers if peer == owner]) < MAX_WORKTREES:
                self._headers[name] = header
            else:
                self._headers.pop(name, None)
        else:
            parts = self._parts.setdefault(name, {})
            entry = None if value is None else read_entry(value)
            if parts.pop(key.path, None) is not None:
                self._count(owner, -1)
            if entry is not None and self._counts.get(owner, 0) < MAX_OWNER_FILES:
                parts[key.path] = entry
                self._count(owner, 1)
            if not parts:
                del self._parts[name]
        header = self._headers.get(name)
        if header is None:
            self.works.pop(name, None)
        else:
            self.works[name] = Work(header=header, files=dict(self._parts.get(name, {})))
        return key.worktree

    def _count(self, owner: PeerId, by: int) -> None:
        count = self._counts.pop(owner, 0) + by
        if count:
            self._counts[owner] = count

    # --- pairs --------------------------------------------------------------------------------------------------------------

    def _changed(self, name: tuple[PeerId, str], now: Now) -> list[Output]:
        """Look at all pairs that a work is one of."""
        if not self.enabled:
            return []
        peer, worktree = name
        own = [of for owner, of in self.works if owner == self._me]
        pairs = {Pair(of, peer, worktree) for of in own if (self._me, of) != name}
        pairs |= {pair for pair in (*self._found, *self._unknown) if (pair.peer, pair.theirs) == name}
        if peer == self._me:
            pairs |= {Pair(worktree, *other) for other in self.works if other != name}
            pairs |= {pair for pair in (*self._found, *self._unknown) if pair.worktree == worktree}
        out: list[Output] = []
        for pair in sorted(pairs):
            mine, theirs = self.works.get((self._me, pair.worktree)), self.works.get((pair.peer, pair.theirs))
            if mine is None or theirs is None or not may_conflict(mine, theirs):
                self._waiting.pop(pair, None)
                self._unknown.pop(pair, None)
                out += self._settle(pair, (), now)
            elif len(self._waiting) < MAX_PAIRS:
                self._waiting.setdefault(pair)
        return out + self._ask_next()

    def _ask_next(self) -> list[Output]:
        while self._asked is None and self._waiting:
            pair = next(iter(self._waiting))
            del self._waiting[pair]
            theirs = self.works.get((pair.peer, pair.theirs))
            if theirs is None or (self._me, pair.worktree) not in self.works:
                continue
            self._tickets += 1
            self._asked = (self._tickets, pair)
            return [ForetellMerge(ticket=self._tickets, worktree=pair.worktree, theirs=theirs)]
        return []

    def foretold(self, given: MergeForetold, now: Now) -> list[Output]:
        """What git found of the pair that was asked about last."""
        if self._asked is None or self._asked[0] != given.ticket:
            return []
        _, pair = self._asked
        self._asked = None
        out: list[Output] = []
        here = (self._me, pair.worktree) in self.works and (pair.peer, pair.theirs) in self.works
        if here and self.enabled:
            self._unknown.pop(pair, None)
            if given.unknown:
                self._unknown[pair] = given.unknown[:MAX_REASON_CHARS]
                self._retry_at = self._retry_at or now.instant + RETRY_MS
            if pair not in self._waiting or given.conflicts:  # what is asked about again may be over only for a moment
                out += self._settle(pair, given.conflicts, now)
        return out + self._ask_next()

    def _settle(self, pair: Pair, conflicts: tuple[MergeConflict, ...], now: Now) -> list[Output]:
        """What is foretold of the pair from now on."""
        before = {(one.conflict.path, one.conflict.kind): one for one in self._found.get(pair, ())}
        after: dict[tuple[str, str], Found] = {}
        for conflict in [one for one in conflicts if is_path(one.path)][:MAX_CONFLICTS]:
            name = (conflict.path, conflict.kind)
            after[name] = Found(conflict, before[name].since if name in before else now.wall_ms)
        out: list[Output] = []
        # Told while both works are known still: what is over is told of as it was.
        for kind, ones in (
            ("conflicts-cleared", [before[name] for name in before if name not in after]),
            ("conflicts-detected", [after[name] for name in after if name not in before]),
        ):
            by_agent: dict[AgentId, list[Json]] = {}
            for agents, told in self._tell(pair, tuple(ones[:MAX_TOLD]), now) if ones else ():
                for agent in agents:
                    by_agent.setdefault(agent, []).append(told)
            out += [
                Notify(type=kind, agent_id=agent, data={"foretold": told})  # type: ignore[arg-type]  # both are types of events
                for agent, told in sorted(by_agent.items())
            ]
        if after:
            self._found[pair] = tuple(after.values())
        else:
            self._found.pop(pair, None)
        return out

    # --- what is known --------------------------------------------------------------------------------------------------------

    def found(self) -> list[tuple[Pair, tuple[Found, ...]]]:
        """All conflicts that are foretold, by pair."""
        return sorted(self._found.items())

    def unknown(self, peer: PeerId, worktree: str) -> str:
        """Why conflicts with that work can't be foretold, if they can't with any of this clone's."""
        return next((why for pair, why in sorted(self._unknown.items()) if (pair.peer, pair.theirs) == (peer, worktree)), "")
