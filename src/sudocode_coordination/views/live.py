"""Keeps a `Picture` up to date: asks the daemon what events make out of date, through daemons that go and come again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final, TypeVar

import anyio

from sudocode_coordination.api.events import Event
from sudocode_coordination.api.requests import CheckConflicts, GetStatus, ListConflicts, ListMessages, Ping, Request, Subscribe
from sudocode_coordination.client.aio import AsyncClient
from sudocode_coordination.errors import CoordinationError, DaemonBusyError, NoDaemonError, UsageError
from sudocode_coordination.model import AgentId, Conflict, Now, Resource
from sudocode_coordination.place import Clone
from sudocode_coordination.views.state import Part, Picture, resources_of

R = TypeVar("R")
GATHER_S: Final = 0.15
"""Events of this time are answered by one look: a lease that is handed over makes several."""
LOOK_S: Final = 4.0
"""Between two looks without an event: renewals by others, latencies and who waits elsewhere make none."""
AGAIN_S: Final = 1.0
"""Until a daemon is looked for again, if there is none: trying costs a system call."""
ANSWER_S: Final = 5.0
"""The daemon answers out of its memory; one that takes longer hangs, and that must show."""
REPLAYED: Final = 200
"""Events from before that are told at the beginning: some screens of them. All that the daemon keeps could be more than it tells at
once (`server.MAX_EVENT_BACKLOG_BYTES`)."""
MAX_ASKED: Final = 64
"""Questions about single claims or agents in one look, so that a swarm in which all wait costs no more than this."""
NOBODY: Final = "-"
"""Who asks what is in the way of others: no agent can have that id, so nobody's leases are left out, and no session counts as
having acted because somebody looked."""


class Live:
    """See the module.

    Args:
        clone: whose daemon.
        agent: who acts; None is the daemon's default agent.
        picture: what is kept up to date.
        clock: both clocks, read together.
        changed: called when the picture has changed.
    """

    def __init__(
        self, clone: Clone, agent: AgentId | None, picture: Picture, clock: Callable[[], Now], changed: Callable[[], None]
    ) -> None:
        self._clone = clone
        self._agent = agent
        self._picture = picture
        self._clock = clock
        self._changed = changed
        self._client: AsyncClient | None = None
        self._stale: set[Part] = set()
        self._news = anyio.Event()
        self._waiting_seen: object = None
        self._scope: anyio.CancelScope | None = None

    @property
    def client(self) -> AsyncClient:
        """A connection to the daemon.

        Raises:
            NoDaemonError: there is none now.
        """
        if self._client is None:
            raise NoDaemonError(f"no daemon runs in {self._clone.root}", hint="start one with `coord start`")
        return self._client

    def look(self, *parts: Part) -> None:
        """Ask anew, soon."""
        self._stale.update(parts)
        self._news.set()

    async def run(self) -> None:
        """Until it is stopped. Errors of the daemon are shown in the picture, not raised."""
        with anyio.CancelScope() as self._scope:
            while True:
                try:
                    await self._follow()
                except* CoordinationError as errors:
                    error = _first(errors)
                    self._picture.gone(error.message, error.hint, self._clock())
                    self._changed()
                finally:
                    self._client = None
                await anyio.sleep(AGAIN_S)

    def stop(self) -> None:
        """End `run`."""
        if self._scope is not None:
            self._scope.cancel()

    async def once(self) -> None:
        """All of it, one time.

        Raises:
            DaemonError: the daemon does not answer.
        """
        async with AsyncClient(self._clone, agent=self._agent, folder=self._clone.root) as client:
            await self._ask(client, {"status", "messages", "conflicts"})

            def heard(event: Event | None, _end: CoordinationError | None) -> None:
                if event is not None:  # that there are no more, the question below tells
                    self._picture.heard(event, self._clock())

            leave = client.connection.listen(heard)
            await _answer(client, Subscribe(replay=REPLAYED))
            await _answer(client, Ping())  # its answer comes after the events
            leave()

    async def _follow(self) -> None:
        async with AsyncClient(self._clone, agent=self._agent, folder=self._clone.root) as client:
            self._client = client
            self._waiting_seen = None
            self.look("status", "messages", "conflicts")
            async with anyio.create_task_group() as group:
                group.start_soon(self._listen, client)
                while True:
                    await self._look(client)

    async def _listen(self, client: AsyncClient) -> None:
        replay = REPLAYED
        while True:
            try:
                async with contextlib.aclosing(client.events(replay=replay)) as events:
                    async for event in events:
                        self._hear(event)
            except DaemonBusyError:  # more has happened than could be told in time: what is so now is asked for
                replay = 0
                self.look("status", "messages", "conflicts")
                await anyio.sleep(GATHER_S)

    def _hear(self, event: Event) -> None:
        parts = self._picture.heard(event, self._clock())
        if parts:
            self.look(*parts)
        self._changed()

    async def _look(self, client: AsyncClient) -> None:
        with anyio.move_on_after(LOOK_S):
            await self._news.wait()
            await anyio.sleep(GATHER_S)
        self._news = anyio.Event()
        stale, self._stale = self._stale, set()
        # Messages are not asked for without cause: it is the agent that asks, and its session would never end.
        await self._ask(client, stale | {"status"})
        self._picture.live(self._clock())
        self._changed()

    async def _ask(self, client: AsyncClient, parts: set[Part]) -> None:
        before = self._clock()
        self._picture.took(await _answer(client, GetStatus()), before)
        waiting = frozenset((id_, claim.held) for id_, claim in self._picture.claims.items())
        if waiting != self._waiting_seen:
            await self._ask_blockers(client)
            self._waiting_seen = waiting
        if "messages" in parts:
            before = self._clock()
            messages = await _answer(client, ListMessages(everything=True, agent=self._agent))
            self._picture.messages_are(messages, before)
        if "conflicts" in parts:
            await self._ask_conflicts(client)

    async def _ask_blockers(self, client: AsyncClient) -> None:
        found = {}
        for claim in self._picture.queue[:MAX_ASKED]:
            lease = claim.lease
            checked = await self.in_the_way(client, lease.resources)
            others = (c for c in checked if c.kind == "lease" and (c.agent_id, c.peer_id) != (lease.agent_id, lease.peer_id))
            found[lease.claim_id] = tuple(others)
        self._picture.blockers_are(found)

    async def _ask_conflicts(self, client: AsyncClient) -> None:
        """What agents of this clone run into with what they say that they work on, and with what they have changed."""
        status = self._picture.status
        own = [work for work in self._picture.work if status is not None and work.peer_id == status.peer_id]
        found: list[tuple[AgentId, Conflict]] = []
        for work in own[:MAX_ASKED]:
            checked = await self.in_the_way(client, resources_of(work))
            found += [
                (work.agent_id, conflict)
                for conflict in checked
                if conflict.kind in ("lease", "work") and (conflict.agent_id, conflict.peer_id) != (work.agent_id, work.peer_id)
            ]
        self._picture.conflicts_are(found, (await _answer(client, ListConflicts())).conflicts)

    async def in_the_way(self, client: AsyncClient, resources: tuple[Resource, ...]) -> tuple[Conflict, ...]:
        """All who hold, wait for or work on what overlaps these; nobody does if they name nothing that can be leased.

        Raises:
            DaemonError: the daemon does not answer.
        """
        if not resources:
            return ()
        try:
            return (await _answer(client, CheckConflicts(resources=resources, agent=NOBODY))).conflicts
        except UsageError:
            return ()  # what people say that they work on can be anything


async def _answer(client: AsyncClient, request: Request[R]) -> R:
    return await client.call(request, timeout_s=ANSWER_S)


def _first(errors: BaseExceptionGroup[CoordinationError]) -> CoordinationError:
    found: BaseException = errors
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, CoordinationError)
    return found
