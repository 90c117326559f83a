"""Processes with a fault in them: they end whole, say why, and never live on by half."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.daemon.doubles import wait_for

from sudocode_coordination.client.blocking import Client
from sudocode_coordination.daemon.journal import Entry, read_journal
from sudocode_coordination.daemon.lifecycle import hold
from sudocode_coordination.errors import NoDaemonError, TimedOutError
from sudocode_coordination.place import Clone, find_clone

Starter = Callable[..., subprocess.Popen[bytes]]
LIMIT_S = 60.0


@pytest.fixture
def clone(short_tmp: Path) -> Clone:
    subprocess.run(["git", "init", "-q", str(short_tmp / "clone")], check=True)
    return find_clone(short_tmp / "clone")


@pytest.fixture
def start(clone: Clone) -> Iterator[Starter]:
    started: list[subprocess.Popen[bytes]] = []

    def starter(fault: str, *, wait: bool = True) -> subprocess.Popen[bytes]:
        reading, writing = os.pipe()
        config = json.dumps({"listen_addresses": ["/ip4/127.0.0.1/tcp/0"]})
        command = [sys.executable, "-m", "tests.daemon.faulty", fault, "--repository", clone.root, "--config", config]
        process = subprocess.Popen([*command, "--ready-fd", str(writing)], pass_fds=(writing,), stderr=subprocess.DEVNULL)
        started.append(process)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            assert b"pid" in pipe.readline()
            if wait:
                assert pipe.readline() == b'{"ready": true}\n'
        return process

    yield starter
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


def log_of(clone: Clone) -> str:
    return Path(clone.state_file("daemon.log")).read_text()


def test_a_node_that_raises_ends_the_process_with_a_trace(clone: Clone, start: Starter) -> None:
    process = start("raises")
    with Client(clone) as client, pytest.raises(NoDaemonError):
        client.status()
    assert process.wait(LIMIT_S) == 1
    assert "ZeroDivisionError" in log_of(clone)
    journal = Path(clone.state_file("journal.0"))
    assert str(journal) in log_of(clone)
    *_, last = read_journal(journal)
    assert isinstance(last, Entry)
    assert "GetStatus" in repr(last.input)
    with hold(clone):
        assert not Path(clone.state_file("daemon.sock")).exists()


def test_a_stop_that_hangs_is_bounded_and_told(clone: Clone, start: Starter) -> None:
    process = start("hangs")
    with Client(clone) as client, pytest.raises(TimedOutError, match="in order"):
        client.stop()
    assert process.wait(LIMIT_S) == 1
    assert "not everything could be ended" in log_of(clone)


def test_a_second_signal_ends_it_at_once(clone: Clone, start: Starter) -> None:
    process = start("hangs")
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: "stopping" in log_of(clone))
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_S) == 1
    with hold(clone):
        assert not Path(clone.state_file("daemon.sock")).exists()


def test_it_answers_and_stops_while_it_is_still_starting(clone: Clone, start: Starter) -> None:
    process = start("slow", wait=False)
    wait_for(lambda: Path(clone.state_file("daemon.sock")).exists())
    with Client(clone) as client:
        assert client.check_conflicts([f"{clone.root}/a.py"]).conflicts == ()
        client.stop()
    assert process.wait(LIMIT_S) == 0
