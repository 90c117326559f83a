"""What the page shows, as it is now: one task follows the daemon, for all pages that are open, and none when none is.

    events of the daemon ──┐                    ┌──> mailbox of a page: the latest state, and the events since it was emptied
                           ├──> state, by its ──┤
    every two seconds ─────┘    own requests    └──> …

A page that takes nothing holds up nobody: its mailbox has one state, and a limited number of events. If the daemon ends, pages are
told, and it is looked for until it is back.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any, Final

import anyio
import msgspec

from sudocode_coordination.api.events import Event
from sudocode_coordination.api.requests import Foretelling, Status
from sudocode_coordination.client.aio import AsyncClient
from sudocode_coordination.errors import CoordinationError, DaemonError, NoDaemonError
from sudocode_coordination.model import AgentId, SharedWork
from sudocode_coordination.place import Clone

REPLAYED: Final = 200
"""Events from before the page was opened that it shows."""
MAX_WAITING_EVENTS: Final = 500
"""Events of a mailbox; the oldest go. A page keeps as many."""
MAX_LISTED: Final = 2_000
"""Leases, messages, entries of work, … of a state, each: more can't be looked through, and a state is sent often."""
MAX_WORKTREES: Final = 200
"""Worktrees whose changes are shown: all of a large team."""
MAX_CHANGED: Final = 300
"""Files of one of them; a picture shows folders long before."""
MAX_PAGES: Final = 32
"""Mailboxes at a time."""
GATHER_S: Final = 0.03
"""Changes of this time are one new state: a lease that is handed over makes several events."""
PAUSE_S: Final = 0.1
"""At least that between two states: more of them would not be seen."""
POLL_S: Final = 2.0
"""Some things change without an event: who waits elsewhere, how well peers are reached, who has read a message."""
AGAIN_S: Final = 0.5
"""Until a daemon is looked for again, if there is none."""
NEWS_S: Final = 10.0
"""Events that are older when a page gets them are no news to its reader. Both times are of this machine."""
BEAT_S: Final = 15.0
"""A page that hears nothing for twice as long knows that the server is gone."""
log = logging.getLogger(__name__)


class Mailbox:
    """What one page has not been sent yet."""

    def __init__(self) -> None:
        self.events: deque[bytes] = deque(maxlen=MAX_WAITING_EVENTS)
        self.state: bytes | None = None
        self.closed = False
        self._news = anyio.Event()

    def event(self, line: bytes) -> None:
        """Something happened."""
        self.events.append(line)
        self._news.set()

    def replace(self, state: bytes) -> None:
        """How it is now; what was before need not be sent any more."""
        self.state = state
        self._news.set()

    def close(self) -> None:
        """There is nothing more for this page."""
        self.closed = True
        self._news.set()

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """JSON documents, one a line, until it is closed."""
        yield b'{"kind":"beat"}\n'
        while not self.closed:
            with anyio.move_on_after(BEAT_S) as waiting:
                await self._news.wait()
            if waiting.cancelled_caught:
                yield b'{"kind":"beat"}\n'
                continue
            self._news = anyio.Event()
            while self.events:
                yield self.events.popleft()
            if self.state is not None:
                state, self.state = self.state, None
                yield state
        yield b'{"kind":"closed"}\n'


class Feed:
    """See the module.

    Args:
        clone: whose daemon is followed.
        agent: who acts on the page; None is the daemon's default agent.
    """

    def __init__(self, clone: Clone, agent: AgentId | None) -> None:
        self._clone = clone
        self._agent = agent
        self._mailboxes: list[Mailbox] = []
        self._watched = anyio.Event()
        self._stale = anyio.Event()
        self._client: AsyncClient | None = None
        self._state: bytes | None = None
        """The last one, for pages that come; None while nobody follows."""
        self._recent: deque[Event] = deque(maxlen=REPLAYED)

    async def client(self) -> AsyncClient:
        """A client for the agent that acts, on the connection that is there, or a new one.

        Raises:
            DaemonError: there is no daemon, or it does not answer.
        """
        if self._client is None or self._client.connection.ended is not None:
            client = AsyncClient(self._clone, agent=self._agent, folder=self._clone.root)
            await client.open()
            if self._client is None or self._client.connection.ended is not None:
                self._client = client
            else:  # another task was faster
                await client.aclose()
        return self._client

    def changed(self) -> None:
        """The page has done something: what it shows is out of date."""
        self._stale.set()

    @contextmanager
    def watch(self) -> Iterator[Mailbox]:
        """A mailbox for a page, as long as it is open. The oldest page is closed if there are too many."""
        mailbox = Mailbox()
        while len(self._mailboxes) >= MAX_PAGES:
            self._mailboxes.pop(0).close()
        for event in self._recent:
            mailbox.event(_event_line(event))
        if self._state is not None:
            mailbox.replace(self._state)
        self._mailboxes.append(mailbox)
        self._watched.set()
        try:
            yield mailbox
        finally:
            if mailbox in self._mailboxes:
                self._mailboxes.remove(mailbox)

    async def run(self) -> None:
        """Follow the daemon while pages are open, until cancelled."""
        try:
            while True:
                await self._watched.wait()
                try:
                    await self._follow()
                except CoordinationError as error:
                    self._tell_state(_no_daemon(error))
                    await anyio.sleep(AGAIN_S)
                    if not self._mailboxes:
                        self._watched = anyio.Event()
        finally:
            await self._close()

    # --- inside -----------------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Until the daemon ends, or no page is open."""
        ended: list[CoordinationError] = []
        await self.client()
        self._recent.clear()
        async with anyio.create_task_group() as group:

            async def task(follow: Any) -> None:
                try:
                    await follow()
                except CoordinationError as error:
                    ended.append(error)
                group.cancel_scope.cancel()

            group.start_soon(task, self._hear)
            group.start_soon(task, self._look)
        await self._close()
        if ended:
            raise ended[0]

    async def _hear(self) -> None:
        client = await self.client()
        async with contextlib.aclosing(client.events(replay=REPLAYED)) as events:
            async for event in events:
                if event.type != "heartbeat-sent":
                    self._recent.append(event)
                    line = _event_line(event)
                    for mailbox in self._mailboxes:
                        mailbox.event(line)
                    self._stale.set()

    async def _look(self) -> None:
        while self._mailboxes:
            self._stale = anyio.Event()
            self._tell_state(await self._now(await self.client()))
            await anyio.sleep(PAUSE_S)
            with anyio.move_on_after(POLL_S):
                await self._stale.wait()
                await anyio.sleep(GATHER_S)
        self._watched = anyio.Event()

    async def _close(self) -> None:
        client, self._client = self._client, None
        self._state = None
        if client is not None:
            await client.aclose()

    def _tell_state(self, state: bytes) -> None:
        self._state = state
        for mailbox in self._mailboxes:
            mailbox.replace(state)

    async def _now(self, client: AsyncClient) -> bytes:
        status: Status
        foretelling: Foretelling
        status, leases, messages, issues, specs, foretelling = await _together(
            client.status,
            partial(client.leases, everyone=True),
            partial(client.messages, everything=True),
            client.issues,
            client.specs,
            partial(_foretelling, client),
        )
        default = next((agent.agent_id for agent in status.agents if agent.default), "")
        lists = {
            "work": status.work,
            "leases": leases,
            "messages": messages,
            "issues": issues,
            "specs": specs,
            "peers": status.peers,
            "foretold": foretelling.conflicts,
        }
        return _line(
            "state",
            {
                "clone": os.path.basename(self._clone.root.rstrip("/")),  # noqa: PTH119 - a name for people
                "agent": self._agent or default,
                "daemon": True,
                "state": status.state,
                "peerId": status.peer_id,
                "agents": status.agents,
                "remote": status.remote,
                "problems": (*status.problems, *((foretelling.trouble,) if foretelling.trouble else ())),
                "foretelling": foretelling.enabled,
                "changes": [_changed(work) for work in foretelling.works[:MAX_WORKTREES]],
                "startedAt": status.started_at,
                "version": status.version,
                **{name: found[:MAX_LISTED] for name, found in lists.items()},
                "leftOut": {name: len(found) - MAX_LISTED for name, found in lists.items() if len(found) > MAX_LISTED},
            },
        )


async def _together(*calls: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Their answers, asked for side by side: on a busy machine each way to the daemon and back takes its time.

    Raises:
        CoordinationError: what one of them raised.
    """
    answers: list[Any] = [None] * len(calls)
    errors: list[CoordinationError] = []

    async def ask(place: int, call: Callable[[], Awaitable[Any]]) -> None:
        try:
            answers[place] = await call()
        except CoordinationError as error:
            errors.append(error)

    async with anyio.create_task_group() as group:
        for place, call in enumerate(calls):
            group.start_soon(ask, place, call)
    if errors:
        raise errors[0]
    return answers


async def _foretelling(client: AsyncClient) -> Foretelling:
    try:
        return await client.conflicts()
    except DaemonError:
        raise
    except CoordinationError as error:
        log.debug("conflicts are not foretold: %s", error)  # a daemon of an older version
        return Foretelling(enabled=False)


def _changed(work: SharedWork) -> dict[str, Any]:
    """What the page shows of uncommitted and unpushed changes: who, and which files."""
    files = [file.path for file in work.files[:MAX_CHANGED]]
    return {"agents": work.agents, "mine": work.mine, "branch": work.branch, "files": files, "more": len(work.files) - len(files)}


def _line(kind: str, document: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"kind": kind, **document}) + b"\n"


def _event_line(event: Event) -> bytes:
    age_s = time.time() - datetime.fromisoformat(event.timestamp).timestamp()
    return _line("event", {"event": event, "past": age_s > NEWS_S})


def _no_daemon(error: CoordinationError) -> bytes:
    gone = isinstance(error, NoDaemonError)
    message = "no daemon runs in this clone" if gone else error.message
    return _line("state", {"daemon": False, "message": message, "hint": error.hint or "start one with `coord start`"})
