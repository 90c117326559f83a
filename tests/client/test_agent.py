"""The library: the example of the contract under asyncio, trio and in a plain script, and what may go wrong around it."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.daemon.doubles import wait_for

from sudocode_coordination import BlockingCoordinationAgent, Client, CoordinationAgent, create_default_config
from sudocode_coordination.api.events import Event
from sudocode_coordination.config import CoordinationConfig
from sudocode_coordination.errors import CoordinationError, NetworkError, NoDaemonError, NotARepositoryError, UsageError

BACKENDS = ("asyncio", "trio")
LIMIT_S = 60.0
pytestmark = pytest.mark.usefixtures("repository")


def config_of(agent_id: str = "my-agent-id", **values: Any) -> CoordinationConfig:
    return create_default_config(
        agent_id,
        **{
            "capabilities": ["code", "review", "test"],
            "coordination_branch": "coordination",
            "lease_ttl_ms": 300_000,
            "listen_addresses": ["/ip4/127.0.0.1/tcp/0"],
            **values,
        },
    )


@pytest.fixture
def repository(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = short_tmp / "clone"
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    subprocess.run(["git", "init", "-q", "--bare", str(short_tmp / "remote.git")], check=True)
    subprocess.run(["git", "-C", str(folder), "remote", "add", "origin", str(short_tmp / "remote.git")], check=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(params=BACKENDS)
def run(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    def runner(main: Callable[[], Any]) -> Any:
        async def limited() -> Any:
            with anyio.fail_after(LIMIT_S):
                return await main()

        return anyio.run(limited, backend=request.param)

    return runner


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("coordination-")]


def test_the_example_of_the_contract(run: Callable[[Any], Any]) -> None:
    heard: list[Event] = []

    async def main() -> None:
        agent = CoordinationAgent(config_of())
        agent.lease_manager.on("lease-acquired", heard.append)
        agent.network.on("peer-connected", heard.append)
        await agent.start()
        assert agent.owns_daemon
        agent.set_active_work(
            issues=["#42"],
            specs=["auth-service.md"],
            files=["src/auth/user_service.py"],
            status="Implementing OAuth token refresh",
            metadata={"branch": "feature/oauth"},
        )
        leases = agent.lease_manager
        grant = await leases.acquire_lease("src/file.py", type="file", priority=5)
        assert grant
        assert grant.lease is not None
        assert grant.lease.agent_id == "my-agent-id"
        assert not leases.check_conflicts(files=["src/file.py"], issues=["#1"], specs=["specs/auth.md"])
        assert await leases.acquire_leases(["src/a.py", "src/b.py"])
        assert len(leases.get_leases()) == 2
        released = await leases.release_lease("src/file.py")
        assert [str(lease.resources[0]) for lease in released.released] == ["src/file.py"]

        state = agent.state
        state.set_issue_update("#42", temp_title="…", temp_checklist={"token-refresh": {"status": "in-progress"}})
        state.set_spec_update("specs/auth.md", temp_title="Auth")
        (work,) = state.get_all_active_work()
        assert (work.agent_id, work.files, work.metadata) == (
            "my-agent-id",
            ("src/auth/user_service.py",),
            {"branch": "feature/oauth"},
        )
        assert len(state.get_all_leases()) == 1
        (issue,) = state.get_all_issue_updates()
        assert issue.fields["tempChecklist"].value == {"token-refresh": {"status": "in-progress"}}
        assert state.get_all_spec_updates()[0].spec_path == "specs/auth.md"
        assert state.get_issue_update("#42") == issue
        assert state.get_issue_update("#43") is None
        assert state.get_active_work() == work
        agent.clear_active_work()
        assert state.get_active_work() is None
        while len(heard) < 2:
            await anyio.sleep(0.005)
        await agent.stop()
        await agent.stop()

    run(main)
    assert [event.type for event in heard] == ["lease-acquired", "lease-acquired"]
    assert our_threads() == []
    with pytest.raises(NoDaemonError):
        Client()


def test_the_same_in_a_plain_script() -> None:
    heard: list[Event] = []
    with BlockingCoordinationAgent(config_of()) as agent:
        agent.lease_manager.on("lease-acquired", heard.append)
        agent.set_active_work(issues=["#42"], files=["a.py"], status="s")
        assert agent.lease_manager.acquire_lease("src/file.py", type="file", priority=5)
        assert agent.lease_manager.acquire_leases(["x", "y"], wait_ms=100)
        assert not agent.lease_manager.check_conflicts(files=["src/file.py"])
        assert len(agent.state.get_all_leases()) == 2
        agent.state.set_issue_update("#42", {"raw_name": 1}, temp_title="t")
        (issue,) = agent.state.get_all_issue_updates()
        assert sorted(issue.fields) == ["raw_name", "tempTitle"]
        assert [peer.agent_id for peer in agent.network.get_peers()] == ["my-agent-id"]
        wait_for(lambda: len(heard) == 2)
        # The command line finds this daemon like any other.
        with Client(agent="other") as other:
            denial = other.acquire_lease("src/file.py")
            assert not denial
            assert denial.holders[0].agent_id == "my-agent-id"
        assert agent.lease_manager.release_lease("src/file.py").released
    assert our_threads() == []


def test_a_second_agent_attaches_and_leaves(repository: Path, run: Callable[[Any], Any]) -> None:
    async def main() -> None:
        async with CoordinationAgent(config_of("first")) as first:
            second = CoordinationAgent(config_of("second"), repository)
            await second.start()
            assert (first.owns_daemon, second.owns_daemon) == (True, False)
            assert await second.lease_manager.acquire_lease("a.py")
            denial = await first.lease_manager.acquire_lease("a.py")
            assert not denial
            assert denial.holders[0].agent_id == "second"
            async with aclosing(first.events()) as events, anyio.create_task_group() as group:
                group.start_soon(second.stop)
                async for event in events:
                    if event.type == "lease-released":
                        break
            assert await first.lease_manager.acquire_lease("a.py")

    run(main)


def test_a_lost_agent_s_leases_end_with_its_connection() -> None:
    with BlockingCoordinationAgent(config_of("first")) as first:
        second = BlockingCoordinationAgent(config_of("second"))
        second.start()
        assert second.lease_manager.acquire_lease("a.py")
        second.session.connection.close()  # as if its process had died
        assert first.lease_manager.acquire_lease("a.py", wait_ms=10_000)
        second.stop()


def test_handlers_run_on_the_callers_loop_and_may_fail(run: Callable[[Any], Any], caplog: pytest.LogCaptureFixture) -> None:
    threads: list[threading.Thread] = []
    awaited: list[Event] = []

    def failing(_event: Event) -> None:
        threads.append(threading.current_thread())
        raise ValueError("from a handler")

    async def coroutine(event: Event) -> None:
        await anyio.sleep(0)
        awaited.append(event)
        raise ValueError("from a coroutine")

    async def main() -> None:
        async with CoordinationAgent(config_of()) as agent:
            agent.on("*", coroutine)
            take_off = agent.on("lease-acquired", failing)
            with pytest.raises(UsageError, match="lease-taken"):
                agent.on("lease-taken", failing)
            assert await agent.lease_manager.acquire_lease("a")
            while not (threads and awaited):
                await anyio.sleep(0.005)
            take_off()
            assert await agent.lease_manager.acquire_lease("b")
            while len([event for event in awaited if event.type == "lease-acquired"]) < 2:
                await anyio.sleep(0.005)

    with caplog.at_level(logging.ERROR):
        run(main)
    assert threads == [threading.main_thread()]
    assert "from a handler" in caplog.text
    assert "from a coroutine" in caplog.text


def test_a_blocked_loop_lets_no_lease_lapse(run: Callable[[Any], Any]) -> None:
    async def main() -> None:
        async with CoordinationAgent(config_of()) as agent:
            assert await agent.lease_manager.acquire_lease("a.py", ttl_ms=400)
            time.sleep(1.2)
            (lease,) = agent.lease_manager.get_leases()
            assert lease.state == "granted"
            assert lease.remaining_ms > 0

    run(main)


def test_events_end_with_the_agent() -> None:
    with BlockingCoordinationAgent(config_of()) as agent:
        seen: list[Event] = []
        reading = threading.Thread(target=lambda: seen.extend(agent.events()))
        reading.start()
        wait_for(lambda: agent._readers)
        assert agent.lease_manager.acquire_lease("a")
        agent.stop()
        reading.join(10)
        assert not reading.is_alive()
        assert "lease-acquired" in [event.type for event in seen]
        with pytest.raises(CoordinationError, match="not started"):
            agent.lease_manager.acquire_lease("b")


def test_a_start_that_is_cancelled_leaves_nothing() -> None:
    async def main() -> None:
        agent = CoordinationAgent(config_of())
        starting = asyncio.ensure_future(agent.start())
        await asyncio.sleep(0)
        while "coordination-daemon" not in our_threads():
            await asyncio.sleep(0.001)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting

    asyncio.run(main())
    wait_for(lambda: our_threads() == [], "the end of the daemon")
    with pytest.raises(NoDaemonError):
        Client()


def test_it_can_start_again() -> None:
    agent = BlockingCoordinationAgent(config_of())
    for _ in range(2):
        agent.start()
        with pytest.raises(UsageError, match="started already"):
            agent.start()
        assert agent.lease_manager.acquire_lease("a")
        agent.stop()


def test_why_it_can_not_start_is_raised(short_tmp: Path) -> None:
    with pytest.raises(NotARepositoryError):
        CoordinationAgent(config_of(), short_tmp)
    agent = BlockingCoordinationAgent(config_of(listen_addresses=["/ip4/203.0.113.7/tcp/1"]))
    with pytest.raises(CoordinationError, match="not started"):
        agent.state.get_all_leases()
    for _ in range(2):
        with pytest.raises(NetworkError):
            agent.start()
        assert our_threads() == []


def test_a_script_that_just_ends_leaves_nothing(repository: Path) -> None:
    script = """
import sys
from sudocode_coordination import BlockingCoordinationAgent, create_default_config
agent = BlockingCoordinationAgent(create_default_config("gone", listen_addresses=["/ip4/127.0.0.1/tcp/0"]))
agent.start()
assert agent.lease_manager.acquire_lease("a")
agent.set_active_work(status="s")
print("held")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "held\n", "")
    assert not (repository / ".git" / "sudocode-coordination" / "daemon.sock").exists()


def test_loading_it_loads_neither_trio_nor_libp2p() -> None:
    code = "import sys, sudocode_coordination.agent; print([m for m in ('trio', 'libp2p', 'pycrdt') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=dict(os.environ))
    assert done.stdout.strip() == "[]"
