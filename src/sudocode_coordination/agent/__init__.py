"""`CoordinationAgent`: an agent of this clone, in this process. `BlockingCoordinationAgent` is the same for plain scripts.

If no daemon runs in the clone, the agent brings the whole daemon with it, on a private thread with its own trio loop: what the
caller's loop does, or fails to do, never lets a lease lapse. The command line and other agents find that daemon by its socket,
like any other; it ends when its agent stops. If one runs already, the agent attaches to it, and leaves it when it stops. Either
way everything goes through the socket, so there is one way for things to behave.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import anyio
import anyio.to_thread

from sudocode_coordination.agent.handlers import MAX_UNREAD_EVENTS, Emitter, Emitting, Reader, starter_of_tasks
from sudocode_coordination.agent.members import BlockingLeaseManager, LeaseManager, Network, State
from sudocode_coordination.agent.session import JOIN_LIMIT_S, Session
from sudocode_coordination.api.events import Event
from sudocode_coordination.api.requests import Subscribe
from sudocode_coordination.client.aio import caller_of_loop
from sudocode_coordination.client.blocking import Client
from sudocode_coordination.config import CoordinationConfig, load_config
from sudocode_coordination.errors import CoordinationError, DaemonBusyError, UsageError
from sudocode_coordination.model import ActiveWork, Json
from sudocode_coordination.place import find_clone

__all__ = ["BlockingCoordinationAgent", "CoordinationAgent"]

FIRST_REPLAY: Final = 1_000
"""Events of an own daemon's start that handlers should not miss."""

log = logging.getLogger(__name__)


class _AgentBase(Emitting):
    """What both agents are."""

    _emitter: Emitter

    def __init__(self, config: CoordinationConfig | None, repository: str | os.PathLike[str] | None) -> None:
        self.clone = find_clone(repository)
        self.config = config or load_config(Path(self.clone.root))
        self.folder = os.path.abspath(repository or ".")  # noqa: PTH100 - pathlib has no such thing without resolving links
        self.emitter = self._emitter = Emitter()
        self._session: Session | None = None
        self._wanted = False
        self.state = State(self)
        self.network = Network(self)

    @property
    def session(self) -> Session:
        """What is between start and stop."""
        if self._session is None or self._session.closed:
            raise CoordinationError("the agent is not started", hint="call start(), or use it in a `with` block")
        return self._session

    @property
    def calls(self) -> Client:
        """Blocking calls over the agent's connection."""
        return self.session.calls

    @property
    def owns_daemon(self) -> bool:
        """Whether the clone's daemon lives in this process, and ends with this agent."""
        return self.session.owns_daemon

    def set_active_work(
        self,
        *,
        issues: Iterable[str] = (),
        specs: Iterable[str] = (),
        files: Iterable[str] = (),
        status: str = "",
        metadata: Mapping[str, Json] | None = None,
    ) -> ActiveWork:
        """Tell what the agent works on; replaces what was told before."""
        return self.calls.set_work(issues=issues, specs=specs, files=files, status=status, metadata=metadata)

    def clear_active_work(self) -> None:
        """The agent works on nothing any more."""
        self.calls.clear_work()

    def _claim_start(self) -> None:
        if self._wanted:
            raise UsageError("the agent is started already")
        self._wanted = True
        self._session = None

    def _begin(self) -> None:
        session = Session(self.clone, self.config)
        session.calls.folder = self.folder
        self._session = session
        if not self._wanted:  # whoever waited for this was cancelled meanwhile
            session.close()

    def _subscribe(self, take: Callable[[Event | None], None]) -> None:
        """Events of the session's connection go to `take`, on its reading thread; None is the end."""
        session = self.session

        def heard(event: Event | None, end: CoordinationError | None) -> None:
            if event is not None:
                take(event)
            elif isinstance(end, DaemonBusyError) and session.connection.ended is None:
                log.warning("events came faster than they were read; some are lost")
                session.connection.ask(Subscribe(), lambda _answer: None)
            else:
                take(None)

        session.connection.listen(heard)
        session.calls.call(Subscribe(replay=FIRST_REPLAY if session.owns_daemon else 0))


class CoordinationAgent(_AgentBase):
    """An agent for asyncio and trio: `async with CoordinationAgent(config) as agent`, or `start` and `stop`.

    Args:
        config: `create_default_config(…)`; without it the configuration of the repository and the environment.
        repository: a folder in the clone; relative paths are relative to it. Without it the current directory.

    Raises:
        NotARepositoryError: the folder is in no clone.
        ConfigError: the repository's configuration does not hold.
    """

    def __init__(self, config: CoordinationConfig | None = None, repository: str | os.PathLike[str] | None = None) -> None:
        super().__init__(config, repository)
        self.lease_manager = LeaseManager(self)
        self._readers: list[Reader] = []

    async def start(self) -> None:
        """Join: bring up the clone's daemon, or attach to the one that runs. Handlers run on the loop that this runs on.

        Raises:
            CoordinationError: why the daemon can't start.
        """
        run_on_loop = caller_of_loop()
        start_task = starter_of_tasks()
        self._claim_start()
        self._readers = []

        def on_loop(event: Event | None) -> None:
            for reader in tuple(self._readers):
                reader.put(event)
            if event is not None:
                self.emitter.emit(event, start_task)

        try:
            await anyio.to_thread.run_sync(self._begin)
            await anyio.to_thread.run_sync(self._subscribe, lambda event: run_on_loop(lambda: on_loop(event)))
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.stop()
            raise

    async def stop(self) -> None:
        """Leave: every lease is released, the peer record removed. More than once does nothing."""
        self._wanted = False
        session = self._session
        if session is not None:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(session.close)
            for reader in tuple(self._readers):
                reader.put(None)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    async def events(self) -> AsyncGenerator[Event, None]:
        """Events from now on, until the agent stops or its daemon ends."""
        if self.session.connection.ended is not None:
            return
        reader = Reader()
        self._readers.append(reader)
        try:
            while (event := await reader.get()) is not None:
                yield event
        finally:
            self._readers.remove(reader)


class BlockingCoordinationAgent(_AgentBase):
    """An agent for plain scripts: `with BlockingCoordinationAgent(config) as agent`, or `start` and `stop`.

    Every call waits for its answer; handlers run on a thread of their own, one after the other. Arguments are those of
    `CoordinationAgent`.
    """

    def __init__(self, config: CoordinationConfig | None = None, repository: str | os.PathLike[str] | None = None) -> None:
        super().__init__(config, repository)
        self.lease_manager = BlockingLeaseManager(self)
        self._readers: list[queue.Queue[Event | None]] = []
        self._unhandled: queue.Queue[Event | None] = queue.Queue(MAX_UNREAD_EVENTS)
        self._handling: threading.Thread | None = None

    def start(self) -> None:
        """Join: bring up the clone's daemon, or attach to the one that runs.

        Raises:
            CoordinationError: why the daemon can't start.
        """
        self._claim_start()
        self._unhandled = queue.Queue(MAX_UNREAD_EVENTS)
        self._handling = threading.Thread(target=self._handle, args=(self._unhandled,), name="coordination-events", daemon=True)
        self._handling.start()
        unhandled = self._unhandled

        def take(event: Event | None) -> None:
            for waiting in (unhandled, *self._readers):
                try:
                    waiting.put_nowait(event)
                except queue.Full:
                    log.warning("events are not handled; %s is dropped", "the end" if event is None else event.type)

        try:
            self._begin()
            self._subscribe(take)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Leave: every lease is released, the peer record removed. More than once does nothing."""
        self._wanted = False
        if self._session is not None:
            self._session.close()
        else:
            self._unhandled.put(None)
        if self._handling is not None and self._handling is not threading.current_thread():
            self._handling.join(JOIN_LIMIT_S)
            self._handling = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def events(self, *, timeout_s: float | None = None) -> Generator[Event, None, None]:
        """Events from now on, until the agent stops or its daemon ends. `timeout_s`: or nothing has happened for that long."""
        reader: queue.Queue[Event | None] = queue.Queue(MAX_UNREAD_EVENTS)
        if self.session.connection.ended is not None:
            return
        self._readers.append(reader)
        try:
            while (event := reader.get(timeout=timeout_s)) is not None:
                yield event
        except queue.Empty:
            return
        finally:
            self._readers.remove(reader)

    def _handle(self, unhandled: queue.Queue[Event | None]) -> None:
        while (event := unhandled.get()) is not None:
            self.emitter.emit(event, None)
