"""Real daemons in real clones, with clients of the library in this process: several clones at the very same moment."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, TypeVar

from tests.e2e.clones import Clone, repository, wait_for

from sudocode_coordination.api.events import Event
from sudocode_coordination.api.requests import LeaseOutcome
from sudocode_coordination.client.blocking import Client
from sudocode_coordination.model import Lease

T = TypeVar("T")
MEETING_S: Final = 20.0
"""For daemons that were started together to meet, on a machine that does other things as well."""
STARTED_AT_ONCE: Final = 4
"""Daemons; more of them would take longer to start than `coord start` waits."""
VIEW_S: Final = 1.0
"""How soon all must see the same."""
POLL_S: Final = 0.01


class Member:
    """A clone with a running daemon, and a client of it for each agent that asks."""

    def __init__(self, clone: Clone) -> None:
        self.clone = clone
        self.name = clone.name
        self._clients: list[Client] = []

    def client(self, agent: str | None = None) -> Client:
        """A new connection."""
        client = Client.connect(self.clone.folder, agent=agent)
        self._clients.append(client)
        return client

    @property
    def me(self) -> Client:
        """The connection for the default agent, made anew when the daemon was."""
        if not self._clients or self._clients[0].connection.ended is not None:
            self.close()
            self.client()
        return self._clients[0]

    def start(self, *settings: str) -> None:
        """Start the daemon (again)."""
        self.close()
        self.clone.start(*settings)

    def close(self) -> None:
        """End the connections."""
        clients, self._clients = self._clients, []
        for client in clients:
            client.close()

    # --- what is seen from here -------------------------------------------------------------------------------------------

    def holders(self, path: str) -> list[str]:
        """Agents that hold this file, as this clone sees it."""
        return [lease.agent_id for lease in self.on(path) if lease.state == "granted"]

    def waiting(self, path: str) -> list[str]:
        """Agents in line for it."""
        return [lease.agent_id for lease in self.on(path) if lease.state == "pending"]

    def on(self, path: str) -> list[Lease]:
        """All claims on a file."""
        return [lease for lease in self.me.leases(everyone=True) if any(r.path == path for r in lease.resources)]

    def direct(self) -> set[str]:
        """Agents that are connected directly."""
        return {peer.agent_id for peer in self.me.peers() if peer.connection == "direct"}

    def events(self, *kinds: str) -> list[Event]:
        """The recent ones of these types."""
        return [event for event in self.me.events(replay=1_000, timeout_s=0.2) if event.type in kinds]


def have_met(members: list[Member]) -> bool:
    """Everybody is connected to everybody, and counts everybody."""
    names = {member.name for member in members}
    return all(member.direct() >= names - {member.name} and len(member.me.status().roster) >= len(members) for member in members)


@contextmanager
def swarm(*names: str, settings: tuple[str, ...] = (), meeting_s: float = MEETING_S) -> Iterator[list[Member]]:
    """A repository with as many clones, their daemons running and connected to each other."""
    with ExitStack() as stack:
        clones = stack.enter_context(repository(*names))
        members = [Member(clone) for clone in clones]
        stack.callback(_end_all, members)
        for first in range(0, len(members), STARTED_AT_ONCE):
            some = members[first : first + STARTED_AT_ONCE]
            at_once([lambda m=member: m.start(*settings) for member in some])  # type: ignore[misc]
        wait_for("all have met", lambda: have_met(members), meeting_s)
        yield members


def _end_all(members: list[Member]) -> None:
    """All begin to leave before the first is waited for."""
    for member in members:
        member.close()
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(member.clone.pid, signal.SIGTERM)


def at_once(actions: list[Callable[[], T]]) -> list[T]:
    """Do these in as many threads, let go at the same moment; their results in order."""
    barrier = threading.Barrier(len(actions))

    def act(action: Callable[[], T]) -> T:
        barrier.wait(10)
        return action()

    with ThreadPoolExecutor(len(actions)) as pool:
        return [future.result(60) for future in [pool.submit(act, action) for action in actions]]


@contextmanager
def background(action: Callable[[], T]) -> Iterator[Future[T]]:
    """Do it meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(action)


def soon(what: str, condition: Callable[[], bool], limit_s: float = VIEW_S) -> float:
    """Wait until it holds; how long that took, in seconds."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < limit_s, f"not within {limit_s} s: {what}"
        time.sleep(POLL_S)
    return time.monotonic() - began


def contend(members: list[Member], path: str) -> None:
    """One round: all ask for it at the same moment without waiting; one has it, and all know who."""
    outcomes: list[LeaseOutcome] = at_once([lambda m=member: m.me.acquire_lease(path) for member in members])  # type: ignore[misc]
    winners = [member for member, outcome in zip(members, outcomes, strict=True) if outcome]
    assert len(winners) == 1, f"{[winner.name for winner in winners]} were granted: {outcomes}"
    winner = winners[0]
    for member, outcome in zip(members, outcomes, strict=True):
        if member is not winner:
            assert [holder.agent_id for holder in outcome.holders] == [winner.name], f"{member.name} was told {outcome}"
    try:
        soon("the same view", lambda: all(one_holder(member, path, winner.name) for member in members))
    except AssertionError as error:
        seen = {member.name: [(lease.agent_id, lease.state) for lease in member.on(path)] for member in members}
        raise AssertionError(f"{error}: {winner.name} has it, seen are {seen}") from None
    assert len({member.on(path)[0].claim_id for member in members}) == 1
    winner.me.release_lease(path)
    soon("free for all", lambda: all(not member.on(path) for member in members))


def one_holder(member: Member, path: str, name: str) -> bool:
    """Whether nobody but that agent has or wants it, as seen there."""
    return [(lease.agent_id, lease.state) for lease in member.on(path)] == [(name, "granted")]


def remote_of(member: Member) -> Path:
    """The bare repository that its clone came from."""
    return member.clone.folder.parent / "remote.git"
