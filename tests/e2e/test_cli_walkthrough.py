"""The walk-through of the README by the real command in real clones, and what happens when daemons die."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import psutil
import pytest
from tests.e2e.clones import QUICK, Clone, connected, repository, wait_for


@pytest.fixture
def pair() -> Iterator[tuple[Clone, Clone]]:
    with repository("alice", "bob") as (alice, bob):
        yield alice, bob


def records(clone: Clone) -> set[str]:
    """What the remote has on the coordination branch."""
    clone.git("fetch", "-q", "origin", "coordination:refs/remotes/origin/coordination")
    return set(clone.git("show", "origin/coordination:.sudocode/coordination/peers/").split()[2:])


def test_walk_through(pair: tuple[Clone, Clone]) -> None:
    alice, bob = pair
    alice.start()
    bob.start()
    wait_for("both see each other within 5 s of the second start", lambda: connected(alice, bob), 5.0)

    assert alice.json("lease", "src/auth.py", "--note", "refactoring")["granted"] is True
    denied = bob.coord("lease", "src/auth.py", expect=3)
    assert "held by alice" in denied.stderr
    assert "refactoring" in denied.stderr
    assert "--wait" in denied.stderr
    document = bob.json("lease", "src/auth.py", expect=3)
    assert document["granted"] is False
    assert document["holders"][0]["agentId"] == "alice"
    assert document["error"]["code"] == "held"
    assert "held by alice" in bob.coord("check", "src/auth.py", expect=3).stdout
    assert bob.coord("check", "src/other.py").stdout == "free: src/other.py\n"

    assert bob.json("lease", "src/auth.py", "--priority", "9")["granted"] is True
    lost = wait_for("alice is told", lambda: alice.events("lease-lost"))
    assert lost[0]["agentId"] == "alice"
    assert lost[0]["data"]["holder"] == "bob"
    assert alice.json("leases")["leases"] == []

    assert records(alice) == {"agent-alice.json", "agent-bob.json"}
    assert "origin/coordination" in alice.git("branch", "-r")
    for clone in pair:
        assert clone.git("status", "--porcelain") == ""

    assert bob.json("stop") == {"stopped": True, "recordLeft": ""}
    assert records(alice) == {"agent-alice.json"}
    wait_for("bob's lease is free", lambda: alice.json("leases", "--all")["leases"] == [])
    assert alice.json("lease", "src/auth.py")["granted"] is True
    assert alice.json("stop") == {"stopped": True, "recordLeft": ""}
    for clone in pair:
        assert clone.json("status", expect=4)["error"]["code"] == "no-daemon"


def test_a_second_start_says_that_one_runs(pair: tuple[Clone, Clone]) -> None:
    alice, _ = pair
    alice.start()
    again = alice.coord("start", expect=1)
    assert f"a daemon runs in this clone already (pid {alice.pid})" in again.stderr
    assert alice.json("start", expect=1)["error"]["code"] == "already-running"
    alice.coord("stop")
    alice.start()  # directly after: nothing of the first is in the way


def test_kill_of_a_holder(pair: tuple[Clone, Clone]) -> None:
    alice, bob = pair
    alice.start(*QUICK)
    bob.start(*QUICK)
    wait_for("they meet", lambda: connected(alice, bob), 5.0)
    assert alice.json("lease", "src/auth.py")["granted"] is True
    bob.coord("lease", "src/auth.py", expect=3)
    alice.kill()
    assert bob.json("lease", "src/auth.py", "--wait", "30s")["granted"] is True
    assert alice.coord("leases", expect=4).stdout == ""
    assert (alice.state_dir / "daemon.sock").exists(), "a killed daemon leaves its socket behind"
    alice.start(*QUICK)
    assert alice.json("leases")["leases"] == []
    wait_for("they meet again", lambda: connected(alice, bob))
    assert alice.json("lease", "src/auth.py", expect=3)["holders"][0]["agentId"] == "bob"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_release_and_remove(pair: tuple[Clone, Clone], number: signal.Signals) -> None:
    alice, bob = pair
    alice.start()
    bob.start()
    wait_for("they meet", lambda: connected(alice, bob), 5.0)
    alice.json("lease", "src/auth.py")
    wait_for("bob knows", lambda: bob.json("leases", "--all")["leases"])
    process = psutil.Process(alice.pid)
    os.kill(process.pid, number)
    process.wait(15)
    assert records(bob) == {"agent-bob.json"}
    assert bob.json("lease", "src/auth.py")["granted"] is True
    assert list(alice.state_dir.glob("daemon.sock")) == []


def test_foreground(pair: tuple[Clone, Clone]) -> None:
    alice, _ = pair
    with alice.popen("start", "--foreground", "--agent-id", "alice", "--listen", "/ip4/127.0.0.1/tcp/0") as process:
        try:
            wait_for("it is active", (alice.state_dir / "daemon.json").exists, 20.0)
            assert alice.coord("status").stdout.startswith("active: alice")
            assert alice.pid == process.pid
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0, err
    assert "Ctrl-C" in err
    alice.coord("status", expect=4)
