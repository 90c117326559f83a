"""Who waits for whom: circles of waiting agents and which of them to break, and what a long wait earns.

Everything here is computed from the claims that a peer knows, alike on every peer that knows the same ones.

- A claim waits for another agent if a claim of that agent is in its way: one that is held and need not give way to it, or one
  that goes first. Agents that wait for each other in a circle would wait for ever: one request of the circle is refused.
- Which one: waiting claims are taken in the order of the queue, and one that closes a circle with those before it is left
  out. So every circle loses the last in order that it needs to lose, and no circle loses two.
- A claim that waits behind higher priorities gains a level a minute.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple, TypeAlias

from sudocode_coordination.api.requests import Waits
from sudocode_coordination.core.claims import Claims, Known, key_of, priority_of
from sudocode_coordination.core.overlap import Overlap
from sudocode_coordination.core.wire import MAX_AGED
from sudocode_coordination.model import AgentId, Instant, PeerId, Resource

AGING_MS: Final = 60_000
"""Of waiting behind a higher priority, for one level: short against what is worth queueing for, long against the time a lease is
held that a hook takes for one edit."""
MAX_LOOKS: Final = 20_000
"""Pairs of claims in one graph: some ten milliseconds. A circle among more is left to the limits of the waits."""

Who: TypeAlias = tuple[PeerId, AgentId]


class Wait(NamedTuple):
    """One claim waits for another."""

    claim: Known
    behind: Known


def who(known: Known) -> Who:
    """Whose claim it is: agents of one clone are as separate as agents of two."""
    return known.owner, known.body.agent


def is_in_the_way(other: Known, claim: Known) -> bool:
    """Whether a conflicting claim keeps this one waiting until its agent does something."""
    if other.granted:
        return claim.body.priority <= priority_of(other.body)
    return key_of(other.body) < key_of(claim.body)


class WaitGraph:
    """Who waits for whom, as the claims are at one instant."""

    def __init__(self, claims: Claims, now: Instant) -> None:
        self.changes = claims.changes
        self.instant = now
        self._claims = claims
        self._looks = 0
        self._edges: dict[str, list[Known]] = {}
        self._queue = claims.waiting(now)
        self._waiting: dict[Who, list[Known]] = {}
        for known in self._queue:
            self._waiting.setdefault(who(known), []).append(known)

    def circle_to_break(self, mine: Known) -> tuple[Wait, ...]:
        """A circle of waiting agents of which `mine` is the claim to be refused, its wait first; empty if there is none."""
        reached = self._reached_from(mine)
        if reached is None or who(mine) not in reached:
            return ()
        kept: dict[Who, list[Known]] = {}
        for claim in self._queue:
            if who(claim) not in reached:
                continue
            found = self._path(claim, kept)
            if claim is mine:
                return found
            if not found:
                kept.setdefault(who(claim), []).append(claim)
        return ()

    def _ahead(self, claim: Known) -> list[Known]:
        """The claims that this one waits for."""
        found = self._edges.get(claim.body.id)
        if found is None:
            conflicting = self._claims.conflicting(claim.body, self.instant)
            self._looks += 1 + len(conflicting)
            found = self._edges[claim.body.id] = [other for other in conflicting if is_in_the_way(other, claim)]
        return found

    def _reached_from(self, mine: Known) -> set[Who] | None:
        """Agents that `mine` waits for, and those that they wait for, and so on. None: there is too much to look at."""
        reached: set[Who] = set()
        todo = [mine]
        while todo:
            for other in self._ahead(todo.pop()):
                if who(other) not in reached:
                    reached.add(who(other))
                    todo += self._waiting.get(who(other), ())
            if self._looks > MAX_LOOKS:
                return None
        return reached

    def _path(self, start: Known, kept: dict[Who, list[Known]]) -> tuple[Wait, ...]:
        """The shortest way from that claim back to its agent, over the kept ones."""
        before: dict[Who, Wait] = {}
        todo = deque((start,))
        while todo:
            claim = todo.popleft()
            for other in self._ahead(claim):
                there = who(other)
                if there in before:
                    continue
                before[there] = Wait(claim, other)
                if there == who(start):
                    return _unwound(before, start)
                todo.extend(kept.get(there, ()))
        return ()


def _unwound(before: dict[Who, Wait], start: Known) -> tuple[Wait, ...]:
    steps = [before[who(start)]]
    while steps[-1].claim is not start:
        steps.append(before[who(steps[-1].claim)])
    return tuple(reversed(steps))


def members(circle: Iterable[Wait]) -> dict[str, PeerId]:
    """The claims of a circle, with their owners."""
    return {known.body.id: known.owner for wait in circle for known in wait}


def described(circle: Iterable[Wait]) -> tuple[Waits, ...]:
    """A circle as its agents are told of it."""
    return tuple(
        Waits(
            agent_id=wait.claim.body.agent,
            peer_id=wait.claim.owner,
            resource=_common(wait),
            holder_id=wait.behind.body.agent,
            held=wait.behind.granted,
        )
        for wait in circle
    )


def _common(wait: Wait) -> Resource:
    wanted = Overlap()
    wanted.add("wanted", wait.claim.body.resources, fold_case=wait.claim.body.fold)
    theirs = wait.behind.body
    return next((r for r in theirs.resources if wanted.touches(r, fold_case=theirs.fold)), theirs.resources[0])


def levels_earned(claim: Known, ahead: Iterable[Known], waited_ms: int) -> int:
    """Levels of priority that a waiting claim should have by now.

    One for each `AGING_MS`, but only as many as bring it level with some higher priority in its way (more would change nothing),
    and never more than those have that ask with the same priority and came earlier: within a priority nobody is overtaken.
    """
    earned = min(waited_ms // AGING_MS, MAX_AGED)
    body = claim.body
    useful = body.aged
    for other in ahead:
        theirs = other.body
        if not other.granted and theirs.priority == body.priority and theirs.lamport <= body.lamport:
            earned = min(earned, theirs.aged)
    for other in ahead:
        gap = priority_of(other.body) - body.priority
        if useful < gap <= earned:
            useful = gap
    return useful
