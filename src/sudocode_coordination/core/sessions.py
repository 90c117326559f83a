"""Agents that act through hooks: nobody attaches or detaches them by hand, so they come with their first act and leave when silent.

    touch -> here --silent for its idle time--> leaves: its leases end, its work is cleared

A session is also known by the process that its hooks run under: a git hook below the same process acts for the same agent. Laws:
every act of an agent begins its idle time anew; what it lost is told to it once, with the next briefing.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

from sudocode_coordination.api.requests import LostLease
from sudocode_coordination.core.facts import Notify
from sudocode_coordination.model import AgentId, Instant, Lease, Now, iso_from_ms

MAX_LOST: Final = 50
"""Lost leases that are told to one agent at a time; of more the latest."""


class _Session:
    __slots__ = ("idle_ms", "process", "until")

    def __init__(self) -> None:
        self.until: Instant = 0
        self.idle_ms = 0
        self.process: int | None = None


class Sessions:
    """The agents of this clone that leave when they are silent, and what each has yet to be told."""

    def __init__(self) -> None:
        self._sessions: dict[AgentId, _Session] = {}
        self._lost: dict[AgentId, deque[LostLease]] = {}

    def touched(self, agent: AgentId, idle_ms: int, process: int | None, now: Now) -> None:
        """It acts through a hook, under that process."""
        session = self._sessions.setdefault(agent, _Session())
        session.idle_ms = idle_ms
        session.process = process if process is not None else session.process
        session.until = now.instant + idle_ms

    def acted(self, agent: AgentId, now: Now) -> None:
        """It acts in another way."""
        session = self._sessions.get(agent)
        if session is not None:
            session.until = now.instant + session.idle_ms

    def left(self, agent: AgentId) -> None:
        """It is detached."""
        self._sessions.pop(agent, None)
        self._lost.pop(agent, None)

    def deadline(self) -> Instant | None:
        """When the next one has been silent for too long."""
        return min((session.until for session in self._sessions.values()), default=None)

    def silent(self, now: Now) -> list[AgentId]:
        """Those that have to leave."""
        return sorted(agent for agent, session in self._sessions.items() if session.until <= now.instant)

    def under(self, processes: tuple[int, ...]) -> AgentId | None:
        """Whose session runs under one of these, the nearest first; the one that acted last, if several do."""
        for process in processes:
            found = [
                (session.until - session.idle_ms, agent) for agent, session in self._sessions.items() if session.process == process
            ]
            if found:
                return max(found)[1]
        return None

    # --- what an agent is to be told ----------------------------------------------------------------------------------------

    def heard(self, note: Notify, now: Now) -> None:
        """An agent of this clone has lost a lease."""
        if note.agent_id is None or note.type != "lease-lost":
            return
        lease = msgspec.convert(note.data["lease"], Lease)
        if not lease.mine:
            return
        lost = self._lost.setdefault(note.agent_id, deque(maxlen=MAX_LOST))
        lost.append(
            LostLease(
                resources=lease.resources,
                reason=str(note.data.get("reason", "")),
                holder=str(note.data.get("holder") or ""),
                at=iso_from_ms(now.wall_ms),
            )
        )

    def lost(self, agent: AgentId) -> tuple[LostLease, ...]:
        """What it has lost since it was last asked, the oldest first."""
        return tuple(self._lost.pop(agent, ()))
