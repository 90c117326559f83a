"""Looks at the table of strict leases after each push that lands, and at who relies on what is in it.

The laws, by the names of `docs/leases.md`: no two leases in the table are in each other's way; S5, every grant has a greater token
than all before it, and a token never changes; S6, what an agent was told that it holds is in the chain; and as long as a holder
relies on its lease, by its own clock, nobody takes the entry away.
"""

from __future__ import annotations

import msgspec

from sudocode_coordination.core.strict_table import META, Entry, claim_at, conflict
from sudocode_coordination.core.wire import ClaimBody
from sudocode_coordination.model import ClaimId
from sudocode_coordination.sim.checkers import Violation, have_in_common
from sudocode_coordination.sim.table import Landing
from sudocode_coordination.sim.world import World


class StrictWatch:
    """The invariants of the table. It does not bear that somebody rewinds it.

    Args:
        world: whose table it is.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._seen = 0
        self._entries: dict[ClaimId, Entry] = {}
        self._tokens: dict[ClaimId, int] = {}
        """Of all grants that ever landed."""
        self._wanted: set[ClaimId] = set()
        self._greatest = 0
        self._revision = 0

    @property
    def news(self) -> bool:
        """Whether something has landed since the last look."""
        return len(self._world.table.history) > self._seen

    def look(self) -> None:
        """At what has landed since the last look.

        Raises:
            Violation: a commit broke a law.
        """
        for landing in self._world.table.history[self._seen :]:
            self._seen += 1
            self._take(landing)

    def _take(self, landing: Landing) -> None:
        fresh: list[Entry] = []
        for path, data in sorted(landing.changes.items()):
            id_ = claim_at(path)
            if path == META and data is not None:
                revision = msgspec.json.decode(data)["revision"]
                if revision <= self._revision:
                    raise Violation(f"at {landing.at}: the table's revision went from {self._revision} to {revision}")
                self._revision = revision
            if id_ is None:
                continue
            if data is None:
                self._entries.pop(id_, None)
                continue
            entry = msgspec.json.decode(data, type=Entry)
            self._entries[id_] = entry
            if entry.preempt_by is not None and entry.preempt_by.priority > entry.priority:
                self._wanted.add(id_)
            if id_ not in self._tokens:
                fresh.append(entry)
            elif self._tokens[id_] != entry.token:
                raise Violation(f"at {landing.at}: the token of {id_} went from {self._tokens[id_]} to {entry.token}")
        for entry in sorted(fresh, key=lambda entry: entry.token):
            if entry.token <= self._greatest:
                raise Violation(f"at {landing.at}: {entry.id} has token {entry.token}, and {self._greatest} was granted before")
            self._greatest = self._tokens[entry.id] = entry.token
        for entry in fresh:
            for other in self._entries.values():
                if conflict(other, _body_of(entry)) and have_in_common(_body_of(other), _body_of(entry)):
                    raise Violation(f"at {landing.at}: {entry.id} and {other.id} are both in the table, and in each other's way")

    def was_wanted(self, claim: ClaimId) -> bool:
        """Whether the table has told that somebody with a higher priority wants it."""
        return claim in self._wanted

    def has(self, claim: ClaimId) -> bool:
        """Whether it is in the table."""
        return claim in self._entries

    def check_held(self, node: str, claim: ClaimId, token: int | None) -> None:
        """An agent relies on a strict lease now.

        Raises:
            Violation: the table does not say so.
        """
        entry = self._entries.get(claim)
        if entry is None or entry.token != token:
            instant = self._world.scheduler.instant
            raise Violation(f"at {instant}: {node} holds {claim} with token {token}, and in the table is {entry and entry.token}")


def _body_of(entry: Entry) -> ClaimBody:
    return ClaimBody(
        id=entry.id,
        agent=entry.agent,
        resources=entry.resources,
        mode=entry.mode,
        priority=entry.priority,
        lamport=entry.lamport,
        ttl_ms=entry.ttl_ms,
        fold=entry.fold,
    )
