"""The parts under the commands: git without prompts, passing on, the screen, the clone that a session is in."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import threading
import time
from argparse import Namespace
from pathlib import Path

import msgspec
import pytest

from sudocode_coordination.askgit import git, remote_environment
from sudocode_coordination.cli import commands, lifecycle, screen
from sudocode_coordination.cli.branch import last_line, parse_time, read_branch
from sudocode_coordination.cli.doctor import examine
from sudocode_coordination.cli.parser import build_parser
from sudocode_coordination.cli.passing import next_sudocode
from sudocode_coordination.cli.session import Session
from sudocode_coordination.config import CoordinationConfig, config_from_mapping
from sudocode_coordination.errors import ConfigError, CoordinationError, ResourceError, TimedOutError, UsageError
from sudocode_coordination.model import Resource
from sudocode_coordination.place import find_clone


@pytest.fixture
def clone(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    subprocess.run(["git", "init", "-q", str(short_tmp)], check=True)
    monkeypatch.chdir(short_tmp)
    monkeypatch.delenv("COORD_AGENT", raising=False)
    return short_tmp.resolve()


def session(agent: str | None = None, *, as_json: bool = False) -> Session:
    return Session(screen.Screen(as_json=as_json), agent)


class Terminal(io.StringIO):
    """Looks like one."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


# --- git ----------------------------------------------------------------------------------------------------------------


def test_git_that_takes_too_long_is_ended_with_all_its_children(clone: Path) -> None:
    git(str(clone), "config", "alias.slow", "!sleep 30")
    began = time.monotonic()
    answer = git(str(clone), "slow", timeout_s=0.3)
    assert time.monotonic() - began < 10
    assert answer.code is None
    assert not answer.ok
    assert answer.error == "no answer in 0.3 s"


def test_git_never_asks_and_goes_where_it_is_sent(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert git(str(clone), "rev-parse", "--show-toplevel").text == str(clone)
    environment = remote_environment(str(clone))
    assert environment["GIT_TERMINAL_PROMPT"] == "0"
    assert "BatchMode=yes" in environment["GIT_SSH_COMMAND"]


def test_the_users_own_ssh_command_is_used(clone: Path) -> None:
    used = clone / "used"
    git(str(clone), "config", "core.sshCommand", f"touch '{used}' #")
    git(str(clone), "remote", "add", "origin", "ssh://git@host.invalid/x.git")
    assert read_branch(str(clone), "origin", "coordination").trouble
    assert used.exists()


def test_a_branch_that_is_not_there(clone: Path) -> None:
    subprocess.run(["git", "init", "-q", "--bare", str(clone / "r.git")], check=True)
    git(str(clone), "remote", "add", "origin", str(clone / "r.git"))
    assert read_branch(str(clone), "origin", "coordination").commit is None
    view = read_branch(str(clone), "nowhere", "coordination")
    assert "nowhere" in view.trouble


def test_git_complaints_are_cut_to_what_matters() -> None:
    assert last_line("warning: x\nfatal: no such repo\n\nPlease make sure\n") == "no such repo"
    assert last_line("one\ntwo\n") == "two"
    ssh = "ssh: connect to host h port 22: Connection refused\nfatal: Could not read from remote repository.\n\nPlease make sure\n"
    assert last_line(ssh) == "ssh: connect to host h port 22: Connection refused"
    assert last_line("") == ""
    assert parse_time("not a time") is None


def test_doctor_of_a_clone_without_anything(clone: Path) -> None:
    findings = {finding.name: finding for finding in examine(session())}
    assert findings["repository"].message == f"{clone} (ordinary clone)"
    assert findings["daemon"].ok is True
    assert findings["remote"].ok is False
    assert "git remote add origin" in findings["remote"].hint


@pytest.mark.parametrize(
    ("key", "bad", "good"),
    [
        ("coordination_branch", ["a..b", "a//b", "a/", "a.", "a.lock", "x/.y", "a.lock/b", "a b"], ["a", "team/sync", "v1.2-x"]),
        ("listen_addresses", [["bla"], ["/tcp/1"], ["/ip4/1.2.3.4"], ["/ip4/1.2.3.4/udp/1"]], [[], ["/ip6/::/tcp/0/ws"]]),
        ("announce_addresses", [["/ip4//tcp/1"]], [["/dns4/example.org/tcp/4001/ws"]]),
        ("record_ttl_ms", [10**30, 1], [60_000]),
        ("preempt_grace_ms", [10**30, -1], [0]),
        ("agent_id", ["", "a b", "x" * 101], ["a"]),
    ],
)
def test_what_could_not_work_is_no_configuration(key: str, bad: list[object], good: list[object]) -> None:
    for value in bad:
        with pytest.raises(ConfigError, match=key):
            config_from_mapping({key: value})
    for value in good:
        config_from_mapping({key: value})


def test_doctor_tells_a_bad_configuration(clone: Path) -> None:
    (clone / ".sudocode").mkdir()
    (clone / ".sudocode" / "coordination.toml").write_text("lease_ttl = 5\n")
    findings = {finding.name: finding for finding in examine(session())}
    assert findings["configuration"].ok is False
    assert "lease_ttl" in findings["configuration"].message


# --- session ------------------------------------------------------------------------------------------------------------


def test_who_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COORD_AGENT", raising=False)
    assert session().agent is None
    monkeypatch.setenv("COORD_AGENT", "env")
    assert session().agent == "env"
    assert session().named_agent is None
    assert session("flag").agent == "flag"
    monkeypatch.setenv("COORD_AGENT", "not an id")
    with pytest.raises(UsageError):
        session()
    assert session("flag").agent == "flag"


def test_resources(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (clone / "d").mkdir()
    monkeypatch.chdir(clone / "d")
    found = session().resources(["a.py", "issue:#42", "spec:s.md", "component: ui ", "file:issue:x", str(clone / "b.py"), "sub/"])
    assert found == (
        Resource("file", "d/a.py"),
        Resource("issue", "#42"),
        Resource("spec", "d/s.md"),
        Resource("component", "ui"),
        Resource("file", "d/issue:x"),
        Resource("file", "b.py"),
        Resource("file", "d/sub/"),
    )
    assert session().resources(["issue:x"], "issue") == (Resource("issue", "issue:x"),)
    with pytest.raises(UsageError):
        session().resources(["issue:"])
    with pytest.raises(ResourceError):
        session().resources(["../../x"])


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (commands.release, Namespace(resources=[], all=False, type=None)),
        (commands.release, Namespace(resources=["a"], all=True, type=None)),
        (commands.check, Namespace(paths=[], issue=[], spec=[])),
        (commands.work_set, Namespace(issue=[], spec=[], file=[], status="", meta=[])),
        (commands.issue_update, Namespace(id="1", set=[], title=None, status=None, draft=False)),
        (commands.issue_update, Namespace(id="1", set=["title=x"], title="y", status=None, draft=False)),
        (commands.draft_publish, Namespace(ids=[], all=False)),
    ],
)
def test_usage_is_checked_before_the_daemon_is_asked(function: object, arguments: Namespace) -> None:
    assert callable(function)
    with pytest.raises(UsageError):
        function(session(), arguments)


# --- start --------------------------------------------------------------------------------------------------------------


def test_flags_become_configuration() -> None:
    line = "start --agent-id a --capabilities x,y --listen /ip4/1.2.3.4/tcp/1 --listen /ip4/1.2.3.4/tcp/2 --lease-ttl 10m"
    args = build_parser().parse_args([*line.split(), "--set", "relays=/dns/r/tcp/1,/dns/s/tcp/1", "--set", "max_peers=7"])
    assert lifecycle.config_flags(args) == {
        "agent_id": "a",
        "capabilities": ("x", "y"),
        "listen_addresses": ("/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.4/tcp/2"),
        "lease_ttl_ms": 600_000,
        "relays": ("/dns/r/tcp/1", "/dns/s/tcp/1"),
        "max_peers": "7",
    }
    assert lifecycle.config_flags(build_parser().parse_args(["start"])) == {}


@pytest.mark.parametrize(("pair", "kind"), [("x", UsageError), ("nope=1", ConfigError), ("agent_id=b", UsageError)])
def test_bad_settings(pair: str, kind: type[UsageError]) -> None:
    with pytest.raises(kind):
        lifecycle.config_flags(build_parser().parse_args(["start", "--agent-id", "a", "--set", pair]))


def test_every_flag_is_a_key_of_the_configuration() -> None:
    everything = "start --agent-id a --capabilities c --branch b --remote r --listen l --announce n --lease-ttl 1s"
    more = "--discovery-interval 1s --heartbeat 1s --partition-policy open"
    flags = lifecycle.config_flags(build_parser().parse_args([*everything.split(), *more.split()]))
    assert set(flags) <= {field.name for field in msgspec.structs.fields(CoordinationConfig)}
    assert len(flags) == 10


@pytest.mark.parametrize(
    ("written", "kind", "words"),
    [
        (b'{"pid": 0}\n{"error": {"code": "network", "message": "no address", "hint": "h"}}\n', CoordinationError, "no address"),
        (b"", CoordinationError, "ended before it was active"),
    ],
)
def test_a_start_that_fails_is_told(clone: Path, written: bytes, kind: type[CoordinationError], words: str) -> None:
    reading, writing = os.pipe()
    os.write(writing, written)
    os.close(writing)
    try:
        with pytest.raises(kind, match=words):
            lifecycle.wait_ready(reading, find_clone(clone), 5)
    finally:
        os.close(reading)


def test_a_start_that_takes_long_is_told(clone: Path) -> None:
    reading, writing = os.pipe()
    try:
        os.write(writing, b'{"pid": 17}\n')
        with pytest.raises(TimedOutError, match="goes on starting"):
            lifecycle.wait_ready(reading, find_clone(clone), 0.05)
        os.write(writing, b'{"pid": 17}\n{"rea')
        os.write(writing, b'dy": true}\n')
        assert lifecycle.wait_ready(reading, find_clone(clone), 5) == 17
    finally:
        os.close(reading)
        os.close(writing)


# --- screen -------------------------------------------------------------------------------------------------------------


def test_on_a_terminal_tables_are_drawn_and_json_is_indented(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "60")
    screen.Screen(as_json=False).show(None, [screen.Table(("a", "b"), (("1", screen.Styled("2", "red")),)), "line"])
    # Dim is no colour: NO_COLOR, which is set in tests, leaves it.
    assert re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()).split() == ["a", "b", "1", "2", "line"]
    assert "\x1b[31m" not in terminal.getvalue()
    screen.Screen(as_json=True).document({"k": "\u202e"})
    assert terminal.getvalue().endswith('{\n  "k": "\\u202e"\n}\n')


def test_progress_is_shown_after_a_second_and_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(screen, "PROGRESS_AFTER_S", 0.01)
    with screen.Screen(as_json=False).progress("waiting"):
        deadline = time.monotonic() + 10
        while "waiting … 1s" not in terminal.getvalue():
            assert time.monotonic() < deadline
            threading.Event().wait(0.01)
    assert terminal.getvalue().endswith("\x1b[2K")
    quiet = Terminal()
    monkeypatch.setattr(sys, "stderr", quiet)
    with screen.Screen(as_json=True).progress("waiting"):
        pass
    assert quiet.getvalue() == ""


def test_errors_are_cleaned(capsys: pytest.CaptureFixture[str]) -> None:
    screen.Screen(as_json=False).error(CoordinationError("from \x1b[2J afar", hint="do\nthis"))
    assert capsys.readouterr().err == "error: from �[2J afar\nhint: do this\n"


# --- sudocode -----------------------------------------------------------------------------------------------------------


def test_the_next_sudocode_is_not_ourselves(short_tmp: Path) -> None:
    own, copy, plain, real = (short_tmp / name for name in ("own", "copy", "plain", "real"))
    for folder in (own, copy, plain, real):
        folder.mkdir()
    ours = "#!/usr/bin/python\nfrom sudocode_coordination.cli.entry import sudocode_main\n"
    (own / "sudocode").write_text(ours)
    (copy / "sudocode").write_text(ours)
    (plain / "sudocode").write_text("not executable")
    (real / "sudocode").write_text("#!/bin/sh\n")
    for folder in (own, copy, real):
        (folder / "sudocode").chmod(0o755)
    path = os.pathsep.join(str(folder) for folder in (own, copy, plain, short_tmp / "missing", real))
    assert next_sudocode(own / "sudocode", path) == real / "sudocode"
    assert next_sudocode(own / "sudocode", str(own)) is None
    assert next_sudocode(own / "sudocode", "") is None
