"""The client for plain scripts: every call waits in its thread. Any number of threads may share one client."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Generator
from types import TracebackType
from typing import Final, TypeVar

from sudocode_coordination.api.codec import Answered
from sudocode_coordination.api.events import Event
from sudocode_coordination.api.requests import Request, Subscribe
from sudocode_coordination.client.calls import Calls
from sudocode_coordination.client.connect import DEFAULT_TIMEOUT_S, Connection, again, outcome, timed_out
from sudocode_coordination.client.speaking import Blocks
from sudocode_coordination.errors import CoordinationError, DaemonBusyError
from sudocode_coordination.place import Clone, find_clone

R = TypeVar("R")
MAX_UNREAD_EVENTS: Final = 10_000
"""Events that an iterator keeps for its reader. More end it with an error: events are lost then, and that must be known."""


class Client(Calls, Blocks):
    """A connection to the daemon of a clone; the module says how it waits. Use it with `with`, or `close()` it.

    Args:
        clone: whose daemon; without it the clone of the current directory.
        agent: who acts; None is the daemon's default agent.
        folder: what relative paths are relative to; without it the current directory.
        connection: one that is open already, to be shared.

    Raises:
        NotARepositoryError: the current directory is in no clone.
        NoDaemonError: no daemon runs.
        DaemonBusyError: it does not accept connections.
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
        self.connection = connection or Connection(self.clone)

    @classmethod
    def connect(cls, path: str | os.PathLike[str] | None = None, *, agent: str | None = None) -> Client:
        """A client for the clone that `path` is in (or the current directory); relative paths are relative to it."""
        return cls(find_clone(path), agent=agent, folder=path)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the connection. The daemon drops what is still waited for, and bound agents leave."""
        self.connection.close()

    def call(self, request: Request[R], *, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> R:
        """See `Blocks.call`."""
        done = threading.Event()
        answers: list[Answered | CoordinationError] = []

        def answered(answer: Answered | CoordinationError) -> None:
            answers.append(answer)
            done.set()

        call_id = self.connection.ask(request, answered)
        try:
            in_time = done.wait(timeout_s)
        except BaseException:  # Ctrl-C
            self.connection.forget(call_id)
            raise
        if not in_time:
            self.connection.forget(call_id)
            raise timed_out(timeout_s or 0)
        return outcome(request, answers[0])

    def events(self, *, replay: int = 0, timeout_s: float | None = None) -> Generator[Event, None, None]:
        """Events as they happen, on a connection of its own, until the daemon ends or the iterator is closed.

        Args:
            replay: first the last ones, at most that many (and 1,000).
            timeout_s: ends quietly when nothing has happened for that long.

        Raises:
            NoDaemonError: the daemon has ended.
            DaemonBusyError: events were read too slowly, and some are lost.
        """
        heard: queue.Queue[Event | CoordinationError] = queue.Queue(MAX_UNREAD_EVENTS)
        too_slow = DaemonBusyError("events were not read fast enough, some are lost", hint="read them in a thread of their own")

        def listener(event: Event | None, end: CoordinationError | None) -> None:
            if lost.is_set():
                return
            try:
                heard.put_nowait(event or end or too_slow)
            except queue.Full:
                lost.set()

        lost = threading.Event()
        with Client(self.clone, folder=self.folder) as own:
            own.connection.listen(listener)
            own.call(Subscribe(replay=replay))
            while True:
                try:
                    item = heard.get(timeout=timeout_s)
                except queue.Empty:
                    return
                if isinstance(item, CoordinationError):
                    raise again(item)
                yield item
                if lost.is_set() and heard.empty():
                    raise too_slow
