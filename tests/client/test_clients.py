"""Both clients against a real socket: answers, errors, time limits, cancellation, threads, events."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.daemon.doubles import ThreadedServer, serving, wait_for

from sudocode_coordination.api.events import Event
from sudocode_coordination.api.requests import AcquireLease, CheckResult, ListIssues
from sudocode_coordination.client import aio, blocking
from sudocode_coordination.client.aio import AsyncClient
from sudocode_coordination.client.blocking import Client
from sudocode_coordination.daemon import server as server_module
from sudocode_coordination.errors import CoordinationError, DaemonBusyError, NoDaemonError, ProtocolError, ResourceError
from sudocode_coordination.model import Resource
from sudocode_coordination.place import Clone

BACKENDS = ("asyncio", "trio")


@pytest.fixture
def served(short_tmp: Path) -> Iterator[ThreadedServer]:
    subprocess.run(["git", "init", "-q", str(short_tmp)], check=True)
    with serving(short_tmp / ".git") as running:
        running.clone = Clone(str(short_tmp / ".git"), str(short_tmp))
        yield running


@pytest.fixture(params=BACKENDS)
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[Any]]], Any]:
    def runner(main: Callable[[], Awaitable[Any]]) -> Any:
        async def limited() -> Any:
            with anyio.fail_after(20):
                return await main()

        return anyio.run(limited, backend=request.param)

    return runner


def event(number: int, size: int = 0) -> Event:
    return Event(type="heartbeat-sent", agent_id="a", timestamp="2026-01-01T00:00:00.000Z", data={"count": number, "x": "x" * size})


def emit(served: ThreadedServer, *events: Event) -> None:
    for one in events:
        served.inside(lambda one=one: served.server.emit(one))  # type: ignore[misc]


# --- blocking -------------------------------------------------------------------------------------------------------------


def test_named_calls_make_requests_with_names_from_the_repository(served: ThreadedServer) -> None:
    root = served.clone.root
    with Client(served.clone, agent="me", folder=f"{root}/src") as client:
        assert client.check_conflicts(["a.py"], issues=["#1"], specs=["../specs/s.md"]) == CheckResult(conflicts=())
        assert not client.acquire_lease("a.py", priority=5)
        assert client.acquire_lease(["free", Resource("component", "db")], "issue", note="why")
        with pytest.raises(ResourceError):
            client.acquire_lease("/etc/passwd")
        with pytest.raises(ResourceError):
            client.acquire_lease("", "issue")
    check, denied, granted = served.asked()
    assert check.resources == (Resource("file", "src/a.py"), Resource("issue", "#1"), Resource("spec", "specs/s.md"))
    assert check.agent == "me"
    assert denied == AcquireLease(resources=(Resource("file", "src/a.py"),), priority=5, agent="me")
    assert granted.resources == (Resource("issue", "free"), Resource("component", "db"))


def test_errors_are_raised_as_what_they_are(served: ThreadedServer) -> None:
    with Client(served.clone) as client:
        with pytest.raises(CoordinationError, match="can't be encoded"):
            client.set_work(status="x")
        with pytest.raises(DaemonBusyError, match="within"):
            client.call(ListIssues(), timeout_s=0.05)
        wait_for(served.cancelled, "the request being taken back")
        with pytest.raises(ProtocolError):
            client.set_work(metadata={"x": object()})
        client.ping()


def test_threads_share_a_client(served: ThreadedServer) -> None:
    with Client(served.clone) as client:
        ended: list[BaseException] = []

        def wait_in_line() -> None:
            try:
                client.acquire_lease(f"{served.clone.root}/held", wait=True)
            except NoDaemonError as error:
                ended.append(error)

        waiting = threading.Thread(target=wait_in_line)
        waiting.start()
        wait_for(served.asked)
        for _ in range(50):
            client.ping()
        client.close()
        waiting.join(10)
        assert not waiting.is_alive()
    assert len(ended) == 1
    wait_for(served.gone)


def test_without_a_daemon_the_next_step_is_named(short_tmp: Path) -> None:
    clone = Clone(str(short_tmp), None)
    with pytest.raises(NoDaemonError) as caught:
        Client(clone)
    assert "coord start" in caught.value.hint
    (short_tmp / "sudocode-coordination").mkdir()
    (short_tmp / "sudocode-coordination" / "daemon.sock").write_text("no socket")
    with pytest.raises(NoDaemonError):
        Client(clone)


def test_a_daemon_that_ends_is_noticed_by_everything(short_tmp: Path) -> None:
    with serving(short_tmp) as served:
        clone = Clone(str(short_tmp), None)
        client = Client(clone)
        events = client.events(replay=5)
        emit(served, event(1))
        assert next(events) == event(1)
        client.stop()
    with pytest.raises(NoDaemonError):
        next(events)
    with pytest.raises(NoDaemonError):
        client.ping()
    client.close()
    client.close()


def test_events_end_when_nothing_happens_or_when_they_are_lost(served: ThreadedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client(served.clone) as client:
        assert list(client.events(timeout_s=0.05)) == []
        monkeypatch.setattr(blocking, "MAX_UNREAD_EVENTS", 3)
        events = client.events(replay=10)
        emit(served, event(0))
        assert next(events) == event(0)
        emit(served, *(event(n) for n in range(1, 50)))
        wait_for(lambda: len(served.server._recent) == 50)
        client.ping()
        with pytest.raises(DaemonBusyError, match="lost"):
            list(events)


def test_an_older_or_newer_daemon_is_refused_with_a_hint(served: ThreadedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "API_VERSION", 99)
    with Client(served.clone) as client:
        wait_for(lambda: client.connection.ended is not None)
        with pytest.raises(ProtocolError, match="99") as caught:
            client.ping()
        assert "coord start" in caught.value.hint


def test_a_server_that_is_full_says_so(served: ThreadedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_CLIENTS", 0)
    client = Client(served.clone)
    wait_for(lambda: client.connection.ended is not None)
    with pytest.raises(DaemonBusyError, match="too many clients"):
        client.ping()
    client.close()


def test_loading_the_blocking_client_loads_nothing_heavy() -> None:
    code = (
        "import sys, sudocode_coordination.client.blocking; "
        "print([m for m in ('trio', 'anyio', 'libp2p', 'pycrdt', 'asyncio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


# --- async ----------------------------------------------------------------------------------------------------------------


def test_the_same_names_to_await(served: ThreadedServer, run: Callable[[Any], Any]) -> None:
    async def main() -> None:
        async with AsyncClient(served.clone, agent="me", folder=served.clone.root) as client:
            assert await client.peers() == ()
            assert await client.check_conflicts(files=["a"]) == CheckResult(conflicts=())
            assert await client.acquire_lease("free")
            with pytest.raises(CoordinationError, match="can't be encoded"):
                await client.set_work(status="x")
            with pytest.raises(DaemonBusyError):
                await client.call(ListIssues(), timeout_s=0.05)

    run(main)


def test_cancelling_takes_the_request_back(served: ThreadedServer, run: Callable[[Any], Any]) -> None:
    async def main() -> None:
        async with AsyncClient(served.clone, folder=served.clone.root) as client:
            with anyio.move_on_after(0.05) as scope:
                await client.acquire_lease("held", wait=True)
            assert scope.cancelled_caught
            while not served.cancelled():
                await anyio.sleep(0.005)
            await client.ping()

    run(main)


def test_an_answer_that_nobody_takes_is_told_of_though_it_has_come(served: ThreadedServer) -> None:
    resource = Resource("file", "free")
    with Client(served.clone) as client:
        answered = threading.Event()
        call_id = client.connection.ask(AcquireLease(resources=(resource,)), lambda _answer: answered.set())
        assert answered.wait(10)
        client.connection.forget(call_id)
        client.ping()
        while not served.cancelled():
            time.sleep(0.005)


def test_many_at_once(served: ThreadedServer, run: Callable[[Any], Any]) -> None:
    async def main() -> None:
        async with AsyncClient(served.clone, folder=served.clone.root) as client:
            done: list[int] = []

            async def one(number: int) -> None:
                assert await client.acquire_lease(f"free{number}")
                done.append(number)

            async with anyio.create_task_group() as group:
                for number in range(200):
                    group.start_soon(one, number)
            assert sorted(done) == list(range(200))

    run(main)


def test_events_arrive_in_order_and_end_with_the_daemon(served: ThreadedServer, run: Callable[[Any], Any]) -> None:
    seen: list[int] = []

    async def main() -> None:
        async with AsyncClient(served.clone) as client, aclosing(client.events(replay=1_000)) as events:
            emit(served, *(event(n) for n in range(20)))
            async for one in events:
                seen.append(one.data["count"])
                if len(seen) == 20:
                    await client.stop()

    with pytest.raises(NoDaemonError):
        run(main)
    assert seen == list(range(20))


def test_events_that_are_not_read_are_known_to_be_lost(
    served: ThreadedServer, run: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aio, "MAX_UNREAD_EVENTS", 5)

    async def main() -> None:
        async with AsyncClient(served.clone) as client, aclosing(client.events(replay=1_000)) as events:
            emit(served, *(event(n) for n in range(50)))
            async for _ in events:
                await anyio.sleep(0.01)

    with pytest.raises(DaemonBusyError, match="lost"):
        run(main)


def test_without_a_daemon(short_tmp: Path, run: Callable[[Any], Any]) -> None:
    async def main() -> None:
        with pytest.raises(NoDaemonError):
            async with AsyncClient(Clone(str(short_tmp), None)):
                raise AssertionError("there is none")

    run(main)
