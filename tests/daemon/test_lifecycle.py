"""What a daemon holds: lock, socket, files; then real daemons, killed, raced and stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.daemon.doubles import wait_for

from sudocode_coordination.cli.lifecycle import spawn
from sudocode_coordination.client.blocking import Client
from sudocode_coordination.config import create_default_config
from sudocode_coordination.daemon.lifecycle import Holding, hold, settle_config, with_case_rule, write_private
from sudocode_coordination.errors import (
    AlreadyRunningError,
    ConfigError,
    NetworkError,
    NoDaemonError,
    StorageError,
)
from sudocode_coordination.place import SOCKET_POINTER, Clone, find_clone, socket_path

LOOPBACK = {"listen_addresses": ("/ip4/127.0.0.1/tcp/0",)}
START_S = 60.0


@pytest.fixture
def clone(short_tmp: Path) -> Clone:
    folder = short_tmp / "clone"
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    subprocess.run(["git", "init", "-q", "--bare", str(short_tmp / "remote.git")], check=True)
    subprocess.run(["git", "-C", str(folder), "remote", "add", "origin", str(short_tmp / "remote.git")], check=True)
    return find_clone(folder)


# --- held in this process -------------------------------------------------------------------------------------------------


def test_one_holds_the_clone_and_the_other_is_told_who(clone: Clone) -> None:
    with hold(clone):
        with pytest.raises(AlreadyRunningError, match=f"pid {os.getpid()}"):
            hold(clone)
    with hold(clone):
        pass


def test_the_state_folder_and_all_in_it_are_private(clone: Clone) -> None:
    with hold(clone) as holding:
        listener = holding.listen()
        holding.announce(create_default_config("me"))
        listener.close()
        folder = Path(clone.state_dir)
        assert folder.stat().st_mode & 0o777 == 0o700
        modes = {file.name: oct(file.stat().st_mode & 0o777) for file in folder.iterdir()}
        assert modes == dict.fromkeys(("daemon.lock", "daemon.sock", "daemon.json"), "0o600")
        info = json.loads((folder / "daemon.json").read_text())
        assert info["pid"] == os.getpid()
        assert info["agentId"] == "me"
    assert sorted(file.name for file in folder.iterdir()) == ["daemon.lock"]


def test_a_stale_socket_is_replaced(clone: Clone) -> None:
    with hold(clone) as holding:
        holding.listen().close()
        with hold_again(holding) as second:
            second.listen().close()


def hold_again(holding: Holding) -> Holding:
    """As after a kill -9: the lock is free, the files are there."""
    os.close(holding._lock)
    holding._lock = -1
    return hold(holding.clone)


def test_deep_clones_have_their_socket_elsewhere(short_tmp: Path) -> None:
    deep = short_tmp / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    clone = Clone(str(deep), None)
    with hold(clone) as holding:
        listener = holding.listen()
        path = socket_path(clone)
        assert path.startswith(os.environ["XDG_RUNTIME_DIR"])
        assert Path(path).parent.stat().st_mode & 0o777 == 0o700
        assert Path(clone.state_file(SOCKET_POINTER)).read_text() == path
        listener.close()
    assert not Path(path).exists()
    assert not Path(clone.state_file(SOCKET_POINTER)).exists()


def test_folders_whose_names_are_no_text(short_tmp: Path) -> None:
    folder = short_tmp / os.fsdecode(b"n\xff")
    folder.mkdir()
    clone = Clone(str(folder), None)
    with hold(clone) as holding:
        listener = holding.listen()
        holding.announce(create_default_config("me"))
        assert "\\xff" in json.loads(Path(clone.state_file("daemon.json")).read_text())["socket"]
        assert Path(socket_path(clone)).is_socket()
        listener.close()


def test_a_folder_that_can_not_be_written_is_a_clear_error(short_tmp: Path) -> None:
    (short_tmp / "sudocode-coordination").write_text("in the way")
    with pytest.raises(StorageError) as caught:
        hold(Clone(str(short_tmp), None))
    assert caught.value.hint
    with pytest.raises(StorageError):
        write_private(short_tmp / "missing" / "file", b"")


def test_the_generated_agent_id_is_kept_and_a_given_one_goes_first(clone: Clone) -> None:
    with hold(clone):
        first = settle_config(clone, {}, {})
        assert settle_config(clone, {}, {}).agent_id == first.agent_id
        assert settle_config(clone, {"agent_id": "me"}, {}).agent_id == "me"
        assert settle_config(clone, {}, {"COORD_AGENT_ID": "env"}).agent_id == "env"
        assert settle_config(clone, {}, {}).agent_id == first.agent_id
        Path(clone.state_file("agent-id")).write_text("no good id!")
        assert settle_config(clone, {}, {}).agent_id not in (first.agent_id, "no good id!")
        with pytest.raises(ConfigError):
            settle_config(clone, {"nonsense": 1}, {})


def test_whether_case_counts_is_what_git_says_unless_it_is_configured(short_tmp: Path) -> None:
    subprocess.run(["git", "init", "-q", str(short_tmp)], check=True)
    clone = find_clone(short_tmp)
    unset = create_default_config("me")
    assert unset.ignore_case is None
    for said, expected in (("true", True), ("yes", True), ("false", False)):
        subprocess.run(["git", "-C", str(short_tmp), "config", "core.ignorecase", said], check=True)
        assert with_case_rule(clone, unset).ignore_case is expected
        assert with_case_rule(clone, create_default_config("me", ignore_case=not expected)).ignore_case is not expected
    subprocess.run(["git", "-C", str(short_tmp), "config", "--unset", "core.ignorecase"], check=True)
    assert with_case_rule(clone, unset).ignore_case is False
    assert settle_config(clone, {}, {"COORD_AGENT_ID": "me", "COORD_IGNORE_CASE": "true"}).ignore_case is True


# --- processes ------------------------------------------------------------------------------------------------------------


def start(clone: Clone, **flags: Any) -> int:
    return spawn(clone, {**LOOPBACK, **flags}, timeout_s=START_S)


def stop(clone: Clone, pid: int) -> None:
    with Client(clone) as client:
        client.stop()
    wait_for(lambda: not psutil.pid_exists(pid), "the end of the daemon")


def test_start_stop_and_a_second_start(clone: Clone) -> None:
    pid = start(clone, agent_id="me")
    process = psutil.Process(pid)
    assert process.ppid() != os.getpid()
    assert os.getsid(pid) == pid
    with pytest.raises(AlreadyRunningError, match=str(pid)):
        start(clone)
    with Client(clone) as client:
        status = client.status()
        assert [agent.agent_id for agent in status.agents] == ["me"]
        assert status.addresses
        assert client.acquire_lease(f"{clone.root}/a.py")
    stop(clone, pid)
    state = Path(clone.state_dir)
    assert not {"daemon.sock", "daemon.json"} & {file.name for file in state.iterdir()}
    assert not any(file.stat().st_mode & 0o077 for file in state.iterdir())
    with pytest.raises(NoDaemonError, match="no daemon runs") as caught:
        Client(clone)
    assert "coord start" in caught.value.hint


def test_after_kill_9_the_next_one_takes_over(clone: Clone) -> None:
    first = start(clone)
    with Client(clone) as client:
        agent = client.status().agents[0].agent_id
        assert client.acquire_lease(f"{clone.root}/a.py")
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: not psutil.pid_exists(first))
        with pytest.raises(NoDaemonError):
            client.ping()
    assert Path(clone.state_file("daemon.sock")).exists()
    second = start(clone)
    with Client(clone) as client:
        status = client.status()
        assert status.agents[0].agent_id == agent
        assert client.leases() == ()
    stop(clone, second)


def test_of_starts_that_race_one_wins_and_the_others_say_so(clone: Clone) -> None:
    def attempt(_n: int) -> int | AlreadyRunningError:
        try:
            return start(clone)
        except AlreadyRunningError as error:
            return error

    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(attempt, range(3)))
    pids = [result for result in results if isinstance(result, int)]
    assert len(pids) == 1, results
    stop(clone, pids[0])


def test_sigterm_releases_everything_and_removes_the_record(clone: Clone, short_tmp: Path) -> None:
    pid = start(clone, agent_id="me")
    remote = short_tmp / "remote.git"

    def records() -> str:
        listed = subprocess.run(
            ["git", "-C", str(remote), "ls-tree", "-r", "--name-only", "coordination"], capture_output=True, text=True, check=False
        )
        return listed.stdout

    wait_for(lambda: "agent-me.json" in records(), "the peer record")
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not psutil.pid_exists(pid), "the end of the daemon")
    assert "agent-me.json" not in records()
    assert not Path(clone.state_file("daemon.sock")).exists()


def test_a_remote_that_hangs_holds_up_neither_start_nor_stop(
    clone: Clone, short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = short_tmp / "ssh"
    hanging.write_text("#!/bin/sh\nexec sleep 1000\n")
    hanging.chmod(0o755)
    monkeypatch.setenv("GIT_SSH_COMMAND", str(hanging))
    subprocess.run(["git", "-C", clone.root, "remote", "add", "dead", "ssh://nobody@127.0.0.1/x"], check=True)
    pid = start(clone, git_remote="dead")
    with Client(clone) as client:
        assert client.status().remote.state != "ok"
    began = time.monotonic()
    os.kill(pid, signal.SIGINT)
    while psutil.pid_exists(pid):
        assert time.monotonic() - began < 20, "it does not end"
        time.sleep(0.02)


def test_why_it_can_not_start_is_said_and_nothing_stays_behind(clone: Clone) -> None:
    with pytest.raises(NetworkError):
        start(clone, listen_addresses=("/ip4/203.0.113.7/tcp/1",))
    with pytest.raises(ConfigError):
        start(clone, lease_ttl_ms=-1)
    Path(clone.state_file("identity.key")).chmod(0o644)
    with pytest.raises(StorageError, match="identity"):
        start(clone)
    with hold(clone):
        pass  # no process has the lock


def test_in_the_foreground_it_tells_on_standard_error(clone: Clone, short_tmp: Path) -> None:
    command = [sys.executable, "-m", "sudocode_coordination.daemon", "--repository", str(short_tmp)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "error:" in done.stderr
    assert "hint:" in done.stderr
    with hold(clone):
        command = [*command[:-1], clone.root]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert f"pid {os.getpid()}" in done.stderr
