"""The fast path of `coord check` and the full command do the same."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from sudocode_coordination.api import codec
from sudocode_coordination.cli import entry, fast
from sudocode_coordination.cli.run import run
from sudocode_coordination.client import plain
from sudocode_coordination.model import RESOURCE_TYPES, Conflict, Resource

HELD = Conflict(
    resource=Resource("file", "src/held.py"),
    kind="lease",
    agent_id="bob",
    peer_id="p",
    priority=5,
    remaining_ms=252_000,
    note="\x1b[1mü\u202e",
)
WORK = Conflict(resource=Resource("issue", "#42"), kind="work", agent_id="carol", peer_id="p")


class FakeDaemon:
    """Answers `check` as the daemon does: a conflict for every name in `taken`."""

    def __init__(self, path: Path) -> None:
        self.asked: list[dict[str, object]] = []
        self.hello = codec.encode_notification(codec.HELLO, codec.Hello(codec.API_VERSION, "0.1.0", os.getpid()))
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection, connection.makefile("rwb") as file:
                file.write(self.hello)
                file.flush()
                line = file.readline()
                if line == b"end\n":
                    return
                if not line:
                    continue
                call = json.loads(line)
                self.asked.append({key: value for key, value in call["params"].items() if value != []})
                names = {tuple(resource) for resource in call["params"]["resources"]}
                conflicts = [c for c in (HELD, WORK) if (c.resource.type, c.resource.path) in names]
                file.write(codec.encode_result(call["id"], {"conflicts": msgspec.to_builtins(conflicts)}))
                file.flush()
                file.readline()

    def end(self, path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(str(path))
            last.sendall(b"end\n")
            self._thread.join()
        self._listener.close()


@pytest.fixture
def clone(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    subprocess.run(["git", "init", "-q", str(short_tmp)], check=True)
    (short_tmp / "src").mkdir()
    (short_tmp / ".git" / "sudocode-coordination").mkdir(mode=0o700)
    monkeypatch.chdir(short_tmp / "src")
    monkeypatch.delenv("COORD_AGENT", raising=False)
    return short_tmp


@pytest.fixture
def daemon(clone: Path) -> Iterator[FakeDaemon]:
    path = clone / ".git" / "sudocode-coordination" / "daemon.sock"
    fake = FakeDaemon(path)
    yield fake
    fake.end(path)


USUAL = [
    ["free.py"],
    ["held.py"],
    ["free.py", "../other.py"],
    ["held.py", "free.py", "--json"],
    ["--json", "free.py"],
    ["issue:#42"],
    ["issue:#42", "held.py", "--agent", "me"],
    ["spec:s.md", "component:ui", "file:issue:x"],
    ["directory/"],
    ["../src"],
    ["../src/"],
    ["../src/**/*.py"],
    ["Grüße mit Leerzeichen.py"],
]


@pytest.mark.parametrize("argv", USUAL)
def test_both_ways_print_and_exit_the_same(argv: list[str], daemon: FakeDaemon, capfd: pytest.CaptureFixture[str]) -> None:
    quick = fast.fast_check(argv)
    quick_said = capfd.readouterr()
    assert quick is not None
    slow = run(["check", *argv])
    slow_said = capfd.readouterr()
    assert (quick, quick_said.out, quick_said.err) == (slow, slow_said.out, slow_said.err)
    assert daemon.asked[0] == daemon.asked[1]


def test_a_folder_is_asked_for_as_a_folder_and_no_process_is_run(
    clone: Path, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", pytest.fail)
    monkeypatch.setattr(os, "posix_spawn", pytest.fail)
    (clone / "src" / "auth").mkdir()
    (clone / "src" / "a.py").touch()
    assert fast.fast_check(["auth", ".", "a.py/", "new", "spec:auth", "component:auth"]) == 0
    (asked,) = daemon.asked
    assert asked["resources"] == [
        ["file", "src/auth/"],
        ["file", "src/"],
        ["file", "src/a.py"],
        ["file", "src/new"],
        ["spec", "src/auth/"],
        ["component", "auth"],
    ]


def test_in_a_bare_repository_the_full_command_asks_git(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["git", "init", "-q", "--bare", str(short_tmp)], check=True)
    monkeypatch.chdir(short_tmp)
    assert fast.fast_check(["src"]) is None


@pytest.mark.usefixtures("daemon")
def test_conflicts_exit_with_3(capfd: pytest.CaptureFixture[str]) -> None:
    assert fast.fast_check(["held.py"]) == 3
    assert capfd.readouterr().out == "src/held.py: held by bob (priority 5, 4m12s left): �[1mü�\n"
    assert fast.fast_check(["free.py"]) == 0
    assert capfd.readouterr().out == "free: src/free.py\n"


def test_agent_of_the_environment(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COORD_AGENT", "carol")
    assert fast.fast_check(["a.py"]) == 0
    assert fast.fast_check(["a.py", "--agent", "dave"]) == 0
    assert run(["check", "a.py"]) == 0
    assert [asked["agent"] for asked in daemon.asked] == ["carol", "dave", "carol"]
    assert capfd.readouterr().out.count("free: ") == 3


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--help"],
        ["--json"],
        ["a", "--issue", "1"],
        ["a", "--agent"],
        ["a", "--agent", "no id"],
        ["../../outside"],
        [""],
        ["issue:"],
        ["--", "a"],
    ],
)
def test_what_is_unusual_is_left_to_the_full_command(
    argv: list[str], daemon: FakeDaemon, capfd: pytest.CaptureFixture[str]
) -> None:
    assert fast.fast_check(argv) is None
    assert capfd.readouterr() == ("", "")
    assert daemon.asked == []


def test_another_version_of_the_api_is_left_to_the_full_command(daemon: FakeDaemon) -> None:
    daemon.hello = codec.encode_notification(codec.HELLO, codec.Hello(codec.API_VERSION + 1, "9", 1))
    assert fast.fast_check(["a"]) is None


@pytest.mark.usefixtures("clone")
def test_without_a_daemon_the_full_command_tells(capfd: pytest.CaptureFixture[str]) -> None:
    assert fast.fast_check(["a"]) is None
    assert run(["check", "a"]) == 4
    assert "coord start" in capfd.readouterr().err
    assert run(["check", "a", "--json"]) == 4
    assert json.loads(capfd.readouterr().out)["error"]["code"] == "no-daemon"


def test_constants_are_those_of_the_real_ones() -> None:
    assert codec.API_VERSION == plain.API_VERSION
    assert codec.MAX_ANSWER_BYTES == plain.MAX_ANSWER_BYTES
    assert tuple(field.encode_name for field in msgspec.structs.fields(Conflict)) == fast.CONFLICT_KEYS
    assert fast._TYPES == RESOURCE_TYPES


@pytest.mark.usefixtures("daemon")
def test_entry_imports_next_to_nothing() -> None:
    code = (
        "import sys; before = set(sys.modules); sys.argv = ['coord', 'check', 'held.py']\n"
        "from sudocode_coordination.cli.entry import main\n"
        "assert main() == 3\n"
        "print(' '.join(sorted(set(sys.modules) - before)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = {name for name in done.stderr.split() if name.startswith("sudocode_coordination")}
    assert ours == {
        "sudocode_coordination",
        "sudocode_coordination.cli",
        "sudocode_coordination.cli.conflicts",
        "sudocode_coordination.cli.entry",
        "sudocode_coordination.cli.fast",
        "sudocode_coordination.cli.text",
        "sudocode_coordination.client",
        "sudocode_coordination.client.plain",
        "sudocode_coordination.place",
    }
    assert set(done.stderr.split()) - ours <= {"__future__", "_json", "_socket", "unicodedata"}


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize("closed_first", [fast.fast_check, lambda argv: run(["check", *argv])])
def test_nobody_reads(closed_first: Callable[[list[str]], int | None]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    kept = os.dup(1)
    os.dup2(writing, 1)
    try:
        with os.fdopen(os.dup(1), "w") as stream, pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            assert closed_first(["held.py"]) == 141
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(writing)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")  # noqa: PTH110
@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize("into_the_full", [fast.fast_check, lambda argv: run(["check", *argv])])
def test_a_full_disk_is_told_of(into_the_full: Callable[[list[str]], int | None], capsys: pytest.CaptureFixture[str]) -> None:
    kept = os.dup(1)
    try:
        with open("/dev/full", "w") as full, pytest.MonkeyPatch.context() as patch:  # noqa: PTH123
            patch.setattr(sys, "stdout", full)
            assert into_the_full(["held.py"]) == 1
    finally:
        os.dup2(kept, 1)
        os.close(kept)
    assert capsys.readouterr().err.startswith("error: the output can't be written: No space left on device\nhint: ")


def test_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(argv: list[str]) -> int | None:
        del argv
        raise KeyboardInterrupt

    monkeypatch.setattr(fast, "fast_check", interrupted)
    monkeypatch.setattr(sys, "argv", ["coord", "check", "a"])
    assert entry.main() == 130
