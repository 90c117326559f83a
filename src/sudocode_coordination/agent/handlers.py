"""Handlers and readers of events, on the loop or thread that the caller wants them on."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import anyio

from sudocode_coordination.api.events import EVENT_TYPES, Event
from sudocode_coordination.errors import UsageError

Handler: TypeAlias = Callable[[Event], object]
"""Gets each event of its type. For a `CoordinationAgent` it may be a coroutine function."""
MAX_UNREAD_EVENTS: Final = 10_000
"""Events kept for handlers and iterators that are slow. More are dropped, with a warning."""

log = logging.getLogger(__name__)


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
                        if inspect.iscoroutine(result):
                            result.close()
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


def starter_of_tasks() -> Callable[[Awaitable[Any]], None]:
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


class Reader:
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
