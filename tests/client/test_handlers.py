"""Event handlers of the library: on the loop that the caller has, and never in each other's way."""

from __future__ import annotations

import asyncio
import inspect
import logging

import pytest
import trio

from sudocode_coordination.agent.handlers import MAX_UNREAD_EVENTS, Emitter, Reader, starter_of_tasks
from sudocode_coordination.agent.members import BlockingLeaseManager, LeaseManager, State
from sudocode_coordination.agent.session import Session
from sudocode_coordination.api.events import Event
from sudocode_coordination.client.connect import no_daemon
from sudocode_coordination.client.speaking import Named
from sudocode_coordination.errors import UsageError
from sudocode_coordination.place import Clone


def event(kind: str = "lease-acquired") -> Event:
    return Event(type=kind, agent_id="a", timestamp="2026-01-01T00:00:00.000Z")  # type: ignore[arg-type]


def test_a_handler_gets_its_type_and_the_star_gets_all_until_taken_off() -> None:
    emitter, seen = Emitter(), list[str]()
    off = emitter.on("lease-acquired", lambda e: seen.append(e.type))
    emitter.on("*", lambda e: seen.append(f"* {e.type}"))
    emitter.emit(event(), None)
    emitter.emit(event("lease-lost"), None)
    off()
    off()
    emitter.emit(event(), None)
    assert seen == ["lease-acquired", "* lease-acquired", "* lease-lost", "* lease-acquired"]


def test_an_unknown_type_is_refused_with_the_list_of_known_ones() -> None:
    with pytest.raises(UsageError) as refused:
        Emitter().on("lease-aquired", print)
    assert "lease-acquired" in refused.value.hint


def test_what_a_handler_raises_is_logged_and_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    emitter, seen = Emitter(), list[Event]()

    def fails(_: Event) -> None:
        raise ValueError("mine")

    emitter.on("*", fails)
    emitter.on("*", seen.append)
    with caplog.at_level(logging.ERROR):
        emitter.emit(event(), None)
    assert len(seen) == 1
    assert "mine" in caplog.text


def test_a_blocking_agent_says_that_it_runs_no_coroutines(caplog: pytest.LogCaptureFixture) -> None:
    emitter = Emitter()

    async def handler(_: Event) -> None:
        raise AssertionError("never runs")

    emitter.on("*", handler)
    with caplog.at_level(logging.ERROR):
        emitter.emit(event(), None)
    assert "blocking agent" in caplog.text


def test_coroutine_handlers_run_on_asyncio_and_on_trio() -> None:
    async def scene() -> None:
        from anyio import Event as Flag
        from anyio import fail_after

        emitter, done = Emitter(), Flag()

        async def handler(_: Event) -> None:
            done.set()

        emitter.on("*", handler)
        emitter.emit(event(), starter_of_tasks())
        with fail_after(10):
            await done.wait()

    asyncio.run(scene())
    trio.run(scene)


def test_a_reader_keeps_a_bounded_number_of_events_and_the_end(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> int:
        reader = Reader()
        with caplog.at_level(logging.WARNING):
            for _ in range(MAX_UNREAD_EVENTS + 5):
                reader.put(event())
        reader.put(None)
        count = 0
        while await reader.get() is not None:
            count += 1
        return count

    assert asyncio.run(scene()) == MAX_UNREAD_EVENTS
    assert "is dropped" in caplog.text


def test_both_lease_managers_have_the_same_names_and_all_say_what_they_do() -> None:
    def names(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert names(BlockingLeaseManager) - {"call"} == names(LeaseManager) - {"call"}
    for kind in (BlockingLeaseManager, State, Session):
        for name, member in vars(kind).items():
            if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, Named)):
                assert inspect.getdoc(member), f"{kind.__name__}.{name} has no docstring"


def test_without_a_daemon_the_error_says_what_to_do() -> None:
    error = no_daemon(Clone("/x/.git", "/x"))
    assert (error.code, error.exit_code) == ("no-daemon", 4)
    assert "/x" in error.message
    assert "coord start" in error.hint
