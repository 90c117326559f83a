"""The socket of a real daemon, misused: by other users, and by clients of its own user that flood, stall and talk nonsense."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import pytest
from tests.daemon.doubles import RawClient
from tests.e2e.clones import Clone, repository, wait_for

from sudocode_coordination.api.codec import MAX_REQUEST_BYTES, Answered, Hello, Overflowed
from sudocode_coordination.api.events import Event
from sudocode_coordination.client.blocking import Client
from sudocode_coordination.daemon.server import MAX_CLIENTS

NOBODY: Final = 65_534
"""A user that owns nothing."""
STRANGER: Final = """
import os, socket, sys
os.setgroups([])
os.setresgid(int(sys.argv[2]), int(sys.argv[2]), int(sys.argv[2]))
os.setresuid(int(sys.argv[2]), int(sys.argv[2]), int(sys.argv[2]))
connection = socket.socket(socket.AF_UNIX)
try:
    connection.connect(sys.argv[1])
    connection.settimeout(20)
    while data := connection.recv(65536):
        sys.stdout.write(data.decode())
except OSError as error:
    sys.stdout.write(type(error).__name__)
"""


@pytest.fixture(scope="module")
def ann() -> Iterator[Clone]:
    with repository("ann") as (clone,):
        clone.start()
        yield clone


def socket_of(clone: Clone) -> Path:
    return clone.state_dir / "daemon.sock"


def still_answers(clone: Clone) -> None:
    with Client.connect(clone.folder) as client:
        client.ping()
        assert client.status().state == "active"
    clone.coord("check", "src/auth.py")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_other_users_get_nothing_even_if_the_folders_are_opened(ann: Clone) -> None:
    def stranger() -> str:
        command = [sys.executable, "-c", STRANGER, str(socket_of(ann)), str(NOBODY)]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd="/", timeout=60).stdout

    ann.folder.parent.chmod(0o755)  # as a home folder often is
    assert stranger() == "PermissionError"
    assert ann.state_dir.stat().st_mode & 0o777 == 0o700
    assert socket_of(ann).stat().st_mode & 0o777 == 0o600
    ann.state_dir.chmod(0o711)
    socket_of(ann).chmod(0o666)
    try:
        (refused,) = stranger().splitlines()
        assert json.loads(refused)["error"]["message"] == "this daemon belongs to another user"
        findings = {f["name"]: f["ok"] for f in ann.json("doctor", expect=1)["findings"]}
        assert not findings["permissions"]
        assert not findings["socket"]
    finally:
        ann.state_dir.chmod(0o700)
        socket_of(ann).chmod(0o600)
    assert "a process of user 65534 was refused" in (ann.state_dir / "daemon.log").read_text()
    still_answers(ann)


def test_floods_stalls_and_nonsense_hold_up_nobody(ann: Clone) -> None:
    with ExitStack() as stack:
        # One that reads no answers, one whose line never ends, one whose line is too long, one that talks nonsense.
        deaf, endless, long, silly = (stack.enter_context(RawClient(socket_of(ann))) for _ in range(4))
        for number in range(500):
            deaf.call(number, "status")
        endless.say(b'{"jsonrpc":"2.0","id":1,"method":"lease","params":{"note":"')
        with suppress(BrokenPipeError, ConnectionResetError):
            long.say(b"x" * (2 * MAX_REQUEST_BYTES))
        silly.say(b"\0\xff\n[[[[\n{}\n" * 1_000)
        still_answers(ann)
        # So many that there is no room for more; who comes then is told so, and who leaves makes room.
        crowd = [stack.enter_context(RawClient(socket_of(ann))) for _ in range(MAX_CLIENTS + 20)]
        heard = [client.hear() for client in crowd]
        refused = [answer for answer in heard if isinstance(answer, Answered)]
        assert refused
        assert {answer.error.data.code for answer in refused if answer.error} == {"daemon-busy"}
        assert ann.json("status", expect=4)["error"]["code"] == "daemon-busy"
        for client in crowd:
            client.socket.close()
        wait_for("there is room again", lambda: ann.coord("check", "src/auth.py", expect=None).returncode == 0)
    still_answers(ann)


def test_a_slow_reader_of_events_holds_up_neither_the_others_nor_its_own_answers(ann: Clone) -> None:
    with RawClient(socket_of(ann)) as slow, RawClient(socket_of(ann)) as quick, Client.connect(ann.folder) as worker:
        for client in (slow, quick):
            client.call(1, "events")
            assert client.answer().error is None
        for number in range(500):
            worker.set_work(status=f"{number:05}" + "x" * 4_000)
            while not isinstance(event := quick.hear(), Event) or not event.type.startswith("work-"):
                assert event is not None
            assert event.data["work"]["status"].startswith(f"{number:05}")
        worker.clear_work()
        slow.call(2, "ping")
        seen = 0
        while isinstance(heard := slow.hear(), Event | Hello):
            seen += 1
        assert isinstance(heard, Overflowed), "it is told that some are lost"
        assert 0 < seen < 500
        assert slow.answer().id == 2
    assert "reads events too slowly" in (ann.state_dir / "daemon.log").read_text()
    still_answers(ann)
