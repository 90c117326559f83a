"""`CoordinationAgent`: an agent of this clone, in this process. `BlockingCoordinationAgent` is the same for plain scripts.

If no daemon runs in the clone, the agent brings the whole daemon with it, on a private thread with its own trio loop: what the
caller's loop does, or fails to do, never lets a lease lapse. The command line and other agents find that daemon by its socket,
like any other; it ends when its agent stops. If one runs already, the agent attaches to it, and leaves it when it stops. Either
way everything goes through the socket, so there is one way for things to behave.
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import logging
import os
import queue
import re
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Mapping
from types import TracebackType
from typing import Any, Final, Self, TypeAlias, TypeVar

import anyio
import anyio.to_thread

from sudocode_coordination.api.events import EVENT_TYPES, Event
from sudocode_coordination.api.requests import CheckResult, Request, Subscribe
from sudocode_coordination.client.aio import AsyncClient, caller_of_loop
from sudocode_coordination.client.blocking import Client
from sudocode_coordination.client.calls import Awaits, Blocks, Calls
from sudocode_coordination.client.connect import DEFAULT_TIMEOUT_S, Connection
from sudocode_coordination.config import CoordinationConfig, load_config
from sudocode_coordination.errors import (
    AlreadyRunningError,
    CoordinationError,
    DaemonBusyError,
    DaemonError,
    NoDaemonError,
    TimedOutError,
    UsageError,
)
from sudocode_coordination.model import ActiveWork, IssueUpdate, Json, Lease, PeerInfo, SpecUpdate
from sudocode_coordination.place import Clone, find_clone

R = TypeVar("R")
Handler: TypeAlias = Callable[[Event], object]
"""Gets each event of its type. For a `CoordinationAgent` it may be a coroutine function."""
START_LIMIT_S: Final = 60.0
"""For the daemon to become active: importing libp2p on a very busy machine."""
JOIN_LIMIT_S: Final = 20.0
"""For the daemon's thread to end; it gives itself twelve seconds."""
RETRY_S: Final = 0.05
"""While another process's daemon has the lock and not yet the socket."""
MAX_UNREAD_EVENTS: Final = 10_000
"""Events kept for handlers and iterators that are slow. More are dropped, with a warning."""
FIRST_REPLAY: Final = 1_000
"""Events of an own daemon's start that handlers should not miss."""

log = logging.getLogger(__name__)


# --- events ---------------------------------------------------------------------------------------------------------------


class Emitter:
    """Handlers by event type. What a handler raises is logged, and stops nobody."""

    def __init__(self) -> None:
        self._handlers: dict[str, list[Handler]] = {}

    def on(self, event_type: str, handler: Handler) -> Callable[[], None]:
        """Call `handler` with each event of that type (`*`: of all). The result takes it off again.

        Raises:
            UsageError: there is no such type.
        """
        if event_type != "*" and event_type not in EVENT_TYPES:
            raise UsageError(f"there is no event {event_type!r}", hint=f"there are: *, {', '.join(EVENT_TYPES)}")
        handlers = self._handlers.setdefault(event_type, [])
        handlers.append(handler)
        return lambda: handlers.remove(handler) if handler in handlers else None

    def emit(self, event: Event, started: Callable[[Awaitable[Any]], None] | None) -> None:
        """Call the handlers; `started` takes what coroutine functions among them return."""
        for handler in (*self._handlers.get(event.type, ()), *self._handlers.get("*", ())):
            try:
                result = handler(event)
                if inspect.isawaitable(result):
                    if started is None:
                        raise TypeError("a blocking agent can't run coroutine functions")
                    started(result)
            except Exception:
                log.exception("a handler of %s failed", event.type)


class Emitting:
    """Whatever has `on`."""

    _emitter: Emitter

    def on(self, event_type: str, handler: Handler) -> Callable[[], None]:
        """Call `handler` with each event of that type (`*`: of all), also before `start`. The result takes it off again.

        Raises:
            UsageError: there is no such type.
        """
        return self._emitter.on(event_type, handler)


async def _guarded(result: Awaitable[Any]) -> None:
    try:
        await result
    except Exception:
        log.exception("an event handler failed")


def _starter_of_tasks() -> Callable[[Awaitable[Any]], None]:
    """A function that runs a handler's coroutine on the current loop, as a task of nobody's."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        spawn = trio.lowlevel.spawn_system_task
        return lambda result: spawn(_guarded, result)
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    def start(result: Awaitable[Any]) -> None:
        task = loop.create_task(_guarded(result))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    return start


# --- the daemon in this process -------------------------------------------------------------------------------------------


class _Host:
    """A daemon on a thread of this process."""

    def __init__(self, clone: Clone, config: CoordinationConfig) -> None:
        self._clone = clone
        self._config = config
        self._active = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._live, name="coordination-daemon", daemon=True)

    def start(self) -> None:
        """Returns when it is active.

        Raises:
            AlreadyRunningError: another process is this clone's daemon.
            CoordinationError: it can't start.
        """
        self._thread.start()
        if not self._active.wait(START_LIMIT_S):
            raise TimedOutError(f"the daemon was not active after {START_LIMIT_S:.0f} s", hint="`coord doctor` may say why")
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    def join(self) -> None:
        """Wait until it has ended.

        Raises:
            TimedOutError: it does not end.
        """
        self._thread.join(JOIN_LIMIT_S)
        if self._thread.is_alive():
            raise TimedOutError("the daemon's thread does not end", hint="end this process")

    def _live(self) -> None:
        try:
            import trio

            from sudocode_coordination.daemon.body import Daemon, RealSurroundings
            from sudocode_coordination.daemon.lifecycle import hold

            with hold(self._clone) as holding:
                parts = RealSurroundings(self._clone, self._config)
                daemon = Daemon(holding, self._config, parts, ready=self._active.set, signals=False)
                trio.run(daemon.run)
        except BaseException as error:
            self._failure = error
            if self._active.is_set():
                log.critical("the daemon of this process has ended by a fault", exc_info=error)
        finally:
            self._active.set()


class _Session:
    """From start to stop: the connection, and the daemon if it is ours."""

    def __init__(self, clone: Clone, config: CoordinationConfig) -> None:
        self._config = config
        self._host: _Host | None = None
        self.connection = self._open(clone)
        self.closed = False
        self._lock = threading.Lock()
        self.calls = Client(clone, agent=config.agent_id, folder=clone.root, connection=self.connection)
        try:
            if self._host is None:
                self.calls.attach(config.agent_id, capabilities=config.capabilities, bound=True)
        except BaseException:
            self.close()
            raise
        atexit.register(self._at_exit)

    @property
    def owns_daemon(self) -> bool:
        """Whether the daemon is of this process."""
        return self._host is not None

    def _open(self, clone: Clone) -> Connection:
        give_up = time.monotonic() + START_LIMIT_S
        while True:
            try:
                return Connection(clone)
            except NoDaemonError:
                pass
            host = _Host(clone, self._config)
            try:
                host.start()
                self._host = host
            except AlreadyRunningError:  # its socket will be there in a moment
                if time.monotonic() > give_up:
                    raise
                time.sleep(RETRY_S)

    def close(self) -> None:
        """Release everything and leave. More than once does nothing."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
        atexit.unregister(self._at_exit)
        try:
            if self._host is not None:
                self.calls.stop()
            else:
                self.calls.detach(self._config.agent_id)
        except DaemonError as error:
            log.warning("the daemon could not be told to let go: %s", error)
        finally:
            self.connection.close()
        if self._host is not None:
            self._host.join()

    def _at_exit(self) -> None:
        try:
            self.close()
        except CoordinationError as error:
            log.warning("leaving: %s", error)


# --- what agents offer ----------------------------------------------------------------------------------------------------


class _Member:
    """What has an agent, and speaks for it."""

    _emitter: Emitter
    clone: Clone
    folder: str
    agent: str | None

    def __init__(self, owner: _AgentBase) -> None:
        self._owner = owner
        self._emitter = owner.emitter
        self.clone = owner.clone
        self.folder = owner.folder
        self.agent = owner.config.agent_id


class State(_Member):
    """What all agents share. Every call is answered out of the daemon's memory, in about a millisecond."""

    def set_issue_update(self, issue_id: str, fields: Mapping[str, Json] | None = None, **named: Json) -> IssueUpdate:
        """Write live fields of an issue; None takes the own value back. `temp_title=…` writes the field `tempTitle`."""
        return self._owner.calls.update_issue(issue_id, {**(fields or {}), **_camel_keys(named)})

    def set_spec_update(self, spec_path: str, fields: Mapping[str, Json] | None = None, **named: Json) -> SpecUpdate:
        """Write live fields of a spec; None takes the own value back. `temp_title=…` writes the field `tempTitle`."""
        return self._owner.calls.update_spec(spec_path, {**(fields or {}), **_camel_keys(named)})

    def get_issue_update(self, issue_id: str) -> IssueUpdate | None:
        """Live fields of an issue, if anybody wrote any."""
        return next(iter(self._owner.calls.issues(issue_id)), None)

    def get_spec_update(self, spec_path: str) -> SpecUpdate | None:
        """Live fields of a spec, if anybody wrote any."""
        return next(iter(self._owner.calls.specs(spec_path)), None)

    def get_all_issue_updates(self) -> tuple[IssueUpdate, ...]:
        """Live fields of all issues."""
        return self._owner.calls.issues()

    def get_all_spec_updates(self) -> tuple[SpecUpdate, ...]:
        """Live fields of all specs."""
        return self._owner.calls.specs()

    def get_all_active_work(self) -> tuple[ActiveWork, ...]:
        """What everyone works on."""
        return self._owner.calls.work()

    def get_active_work(self, agent_id: str | None = None) -> ActiveWork | None:
        """What an agent works on; without an id this one."""
        return next(iter(self._owner.calls.work(agent=agent_id or self.agent)), None)

    def get_all_leases(self) -> tuple[Lease, ...]:
        """The leases of all agents, and who waits."""
        return self._owner.calls.leases(everyone=True)


class Network(_Member, Emitting):
    """The peers."""

    def get_peers(self) -> tuple[PeerInfo, ...]:
        """All agents of the swarm, with how they are connected."""
        return self._owner.calls.peers()


class _LeaseTable:
    """The methods of both lease managers."""

    acquire_lease = Calls.acquire_lease
    acquire_leases = Calls.acquire_lease
    renew_lease = Calls.renew_lease
    release_lease = Calls.release_lease
    release_leases = Calls.release_lease
    release_all = Calls.release_all


class _LeaseReads(_Member, Emitting):
    """What both lease managers answer at once, out of the daemon's memory."""

    def check_conflicts(
        self,
        files: Iterable[str] = (),
        issues: Iterable[str] = (),
        specs: Iterable[str] = (),
        components: Iterable[str] = (),
    ) -> CheckResult:
        """Who else holds or works on these, by what this clone knows. Truthy if anybody does."""
        return self._owner.calls.check_conflicts(files, issues, specs, components)

    def get_leases(self) -> tuple[Lease, ...]:
        """The agent's own leases."""
        return self._owner.calls.leases()


class LeaseManager(_LeaseTable, _LeaseReads, Awaits):
    """Leases; what changes them is awaited."""

    async def call(self, request: Request[R], *, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> R:
        """See `Awaits.call`."""
        own = AsyncClient(self.clone, agent=self.agent, folder=self.folder, connection=self._owner.session.connection)
        return await own.call(request, timeout_s=timeout_s)


class BlockingLeaseManager(_LeaseTable, _LeaseReads, Blocks):
    """Leases; every call waits."""

    def call(self, request: Request[R], *, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> R:
        """See `Blocks.call`."""
        return self._owner.calls.call(request, timeout_s=timeout_s)


class _AgentBase(Emitting):
    """What both agents are."""

    _emitter: Emitter

    def __init__(self, config: CoordinationConfig | None, repository: str | os.PathLike[str] | None) -> None:
        self.clone = find_clone(repository)
        self.config = config or load_config_of(self.clone)
        self.folder = os.path.abspath(repository or ".")  # noqa: PTH100 - pathlib has no such thing without resolving links
        self.emitter = self._emitter = Emitter()
        self._session: _Session | None = None
        self.state = State(self)
        self.network = Network(self)

    @property
    def session(self) -> _Session:
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

    def _begin(self) -> None:
        if self._session is not None and not self._session.closed:
            raise UsageError("the agent is started already")
        self._session = session = _Session(self.clone, self.config)
        session.calls.folder = self.folder

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
        self._readers: list[_Reader] = []

    async def start(self) -> None:
        """Join: bring up the clone's daemon, or attach to the one that runs. Handlers run on the loop that this runs on.

        Raises:
            CoordinationError: why the daemon can't start.
        """
        run_on_loop = caller_of_loop()
        start_task = _starter_of_tasks()
        self._readers = []
        # Not abandoned when cancelled: a daemon that nobody knows of must not be left behind.
        await anyio.to_thread.run_sync(self._begin)

        def on_loop(event: Event | None) -> None:
            for reader in tuple(self._readers):
                reader.put(event)
            if event is not None:
                self.emitter.emit(event, start_task)

        try:
            await anyio.to_thread.run_sync(self._subscribe, lambda event: run_on_loop(lambda: on_loop(event)))
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.stop()
            raise

    async def stop(self) -> None:
        """Leave: every lease is released, the peer record removed. More than once does nothing."""
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
        reader = _Reader()
        self._readers.append(reader)
        try:
            while (event := await reader.get()) is not None:
                yield event
        finally:
            self._readers.remove(reader)


class _Reader:
    """One `events()`. All of it happens on the agent's loop."""

    def __init__(self) -> None:
        self._unread: deque[Event | None] = deque()
        self._news = anyio.Event()

    def put(self, event: Event | None) -> None:
        """An event, or None: the end."""
        if len(self._unread) >= MAX_UNREAD_EVENTS and event is not None:
            log.warning("events are not read; %s is dropped", event.type)
            return
        self._unread.append(event)
        self._news.set()

    async def get(self) -> Event | None:
        """The next one."""
        while not self._unread:
            self._news = anyio.Event()
            await self._news.wait()
        return self._unread.popleft()


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
        self._begin()
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
            self._subscribe(take)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Leave: every lease is released, the peer record removed. More than once does nothing."""
        if self._session is not None:
            self._session.close()
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


def load_config_of(clone: Clone) -> CoordinationConfig:
    """The configuration of a clone and the environment.

    Raises:
        ConfigError: it does not hold.
    """
    from pathlib import Path

    return load_config(Path(clone.root))


def _camel_keys(named: Mapping[str, Json]) -> dict[str, Json]:
    return {re.sub(r"_([a-z0-9])", lambda found: found[1].upper(), key): value for key, value in named.items()}
