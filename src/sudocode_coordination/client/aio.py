"""The client for asyncio and trio. Answers are read by a thread of its own, so it needs no background task, and its loop may
be blocked without harm."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import Final, Self, TypeVar

import anyio
import anyio.to_thread

from sudocode_coordination.api.codec import Answered
from sudocode_coordination.api.events import Event
from sudocode_coordination.api.requests import Request, Subscribe
from sudocode_coordination.client.calls import Calls
from sudocode_coordination.client.connect import DEFAULT_TIMEOUT_S, Connection, again, outcome, timed_out
from sudocode_coordination.client.speaking import Awaits
from sudocode_coordination.errors import CoordinationError, DaemonBusyError
from sudocode_coordination.place import Clone, find_clone

R = TypeVar("R")
MAX_UNREAD_EVENTS: Final = 10_000
"""Events that an iterator keeps for its reader. More end it with an error: events are lost then, and that must be known."""


def caller_of_loop() -> Callable[[Callable[[], None]], None]:
    """A function that runs others on the current event loop, from any thread. Does nothing once the loop has ended."""
    trio = sys.modules.get("trio")  # only looked at: importing it costs, and whoever runs in it has done so
    if trio is not None and trio.lowlevel.in_trio_run():
        token = trio.lowlevel.current_trio_token()

        def in_trio(run: Callable[[], None]) -> None:
            try:
                token.run_sync_soon(run)
            except trio.RunFinishedError:
                return

        return in_trio
    loop = asyncio.get_running_loop()

    def in_asyncio(run: Callable[[], None]) -> None:
        try:
            loop.call_soon_threadsafe(run)
        except RuntimeError:  # the loop is closed
            return

    return in_asyncio


class AsyncClient(Calls, Awaits):
    """A connection to the daemon of a clone: `async with AsyncClient.connect() as client`.

    Args:
        clone: whose daemon; without it the clone of the current directory.
        agent: who acts; None is the daemon's default agent.
        folder: what relative paths are relative to; without it the current directory.
        connection: one that is open already, to be shared.

    Raises:
        NotARepositoryError: the current directory is in no clone.
    """

    def __init__(
        self,
        clone: Clone | None = None,
        *,
        agent: str | None = None,
        folder: str | os.PathLike[str] | None = None,
        connection: Connection | None = None,
    ) -> None:
        self.clone = clone or find_clone()
        self.agent = agent
        self.folder = os.path.abspath(folder or ".")  # noqa: PTH100 - pathlib has no such thing without resolving links
        self._connection = connection

    @classmethod
    def connect(cls, path: str | os.PathLike[str] | None = None, *, agent: str | None = None) -> Self:
        """A client for the clone that `path` is in (or the current directory); it connects when it is entered."""
        return cls(find_clone(path), agent=agent, folder=path)

    async def open(self) -> None:
        """Connect.

        Raises:
            NoDaemonError: no daemon runs.
            DaemonBusyError: it does not accept connections.
        """
        if self._connection is None:
            self._connection = await anyio.to_thread.run_sync(Connection, self.clone)

    async def aclose(self) -> None:
        """End the connection. The daemon drops what is still waited for, and bound agents leave."""
        if self._connection is not None:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._connection.close)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    @property
    def connection(self) -> Connection:
        """The connection, once there is one."""
        if self._connection is None:
            raise RuntimeError("use `async with`, or `await client.open()` first")
        return self._connection

    async def call(self, request: Request[R], *, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> R:
        """See `Awaits.call`."""
        done = anyio.Event()
        run_on_loop = caller_of_loop()
        answers: list[Answered | CoordinationError] = []

        def answered(answer: Answered | CoordinationError) -> None:
            answers.append(answer)
            run_on_loop(done.set)

        call_id = self.connection.ask(request, answered)
        try:
            with anyio.move_on_after(timeout_s):
                await done.wait()
        except BaseException:
            self.connection.forget(call_id)
            raise
        if not answers:
            self.connection.forget(call_id)
            raise timed_out(timeout_s or 0)
        return outcome(request, answers[0])

    async def events(self, *, replay: int = 0) -> AsyncGenerator[Event, None]:
        """Events as they happen, on a connection of its own, until the daemon ends.

        Args:
            replay: first the last ones, at most that many (and 1,000).

        Raises:
            NoDaemonError: the daemon has ended.
            DaemonBusyError: events were read too slowly, and some are lost.
        """
        run_on_loop = caller_of_loop()
        heard: deque[Event] = deque()
        ended: list[CoordinationError] = []
        news = anyio.Event()

        def listener(event: Event | None, end: CoordinationError | None) -> None:
            if event is not None and not ended and len(heard) < MAX_UNREAD_EVENTS:
                heard.append(event)
            elif not ended:
                ended.append(end or DaemonBusyError("events were not read fast enough, some are lost", hint="subscribe again"))
            run_on_loop(lambda: news.set())

        async with AsyncClient(self.clone, folder=self.folder) as own:
            own.connection.listen(listener)
            await own.call(Subscribe(replay=replay))
            while True:
                while heard:
                    yield heard.popleft()
                if ended:
                    raise again(ended[0])
                await news.wait()
                news = anyio.Event()
