"""What others call things reaches git: names on the branch, what a remote answers, and what the repository's own configuration
says. None of it becomes an option, a path that is written, a command that runs, or a line on the terminal."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from tests.attacks.names import NASTY, is_plain
from tests.attacks.siege import MALLORY
from tests.conformance.git_bench import BRANCH, PEERS, Handle, Loop, git, make_remote, running_loop
from tests.core.feeds import identity

from sudocode_coordination.api.requests import GetStatus, PreparedPush, RemoteHealth
from sudocode_coordination.cli import pushing
from sudocode_coordination.cli.branch import read_branch
from sudocode_coordination.cli.screen import Screen
from sudocode_coordination.cli.text import clean
from sudocode_coordination.client.checkout import contains
from sudocode_coordination.config import MAX_CONFIG_BYTES, load_config
from sudocode_coordination.core.admission import Admission
from sudocode_coordination.core.io import BranchPublished, BranchRead, BranchReadFailed
from sudocode_coordination.core.keyring import Keyring
from sudocode_coordination.core.peer_view import BranchView
from sudocode_coordination.core.records import agent_of_name, build_record
from sudocode_coordination.errors import ConfigError, RemoteError
from sudocode_coordination.model import Now


@pytest.fixture
def loop() -> Iterator[Loop]:
    with running_loop() as running:
        yield running


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What git is told from now on: a file with all arguments of all commands, each ended by a zero."""
    real, log = shutil.which("git"), tmp_path / "told"
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "git").write_text(f'#!/bin/sh\nprintf "%s\\0" "$@" >> "{log}"\nexec "{real}" "$@"\n', "utf-8")
    (folder / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return log


def sound_record(name: str) -> bytes:
    key: Keyring = identity(name)
    return build_record(key, agent_id=name, multiaddrs=("/ip4/192.0.2.1/tcp/1",), capabilities=(), wall_ms=1, ttl_ms=900_000)


def write_tree(bare: Path, entries: dict[bytes, tuple[bytes, str]]) -> str:
    """A tree object with whatever names, as git itself would never write it."""
    raw = b"".join(mode + b" " + name + b"\0" + bytes.fromhex(sha) for name, (mode, sha) in sorted(entries.items()))
    return git(bare, "hash-object", "-t", "tree", "-w", "--literally", "--stdin", stdin=raw)


def hostile_branch(bare: Path, files: dict[bytes, bytes]) -> None:
    """Files of whatever name, beside a sound record of mallory's."""
    blobs = {content: git(bare, "hash-object", "-w", "--stdin", stdin=content) for content in {*files.values()}}
    good = git(bare, "hash-object", "-w", "--stdin", stdin=sound_record("mallory"))
    entries = {name: (b"100644", blobs[content]) for name, content in files.items() if b"\0" not in name and name}
    tree = write_tree(bare, entries | {b"agent-mallory.json": (b"100644", good)})
    for part in reversed(PEERS.split("/")):
        tree = write_tree(bare, {part.encode(): (b"40000", tree)})
    commit = git(bare, "commit-tree", "-m", "hostile", git(bare, "mktree", stdin=b""))
    body = git(bare, "cat-file", "commit", commit).replace(git(bare, "rev-parse", f"{commit}^{{tree}}"), tree)
    made = git(bare, "hash-object", "-t", "commit", "-w", "--literally", "--stdin", stdin=body.encode() + b"\n")
    (bare / "refs" / "heads" / BRANCH).write_text(made + "\n", "utf-8")


def nothing_ran(folder: Path, log: Path) -> None:
    assert not list(folder.rglob("owned"))
    words = log.read_bytes().split(b"\0")
    assert len(words) > 5
    for name in NASTY:
        if len(name) > 4:
            assert not [word for word in words if name.encode("utf-8", "replace") in word], name


def test_names_on_the_branch_stay_names(tmp_path: Path, loop: Loop, told: Path) -> None:
    bare = make_remote(tmp_path)
    git(tmp_path, "clone", "-q", str(bare), "clone")
    told.unlink()
    names = [text.encode("utf-8", "replace")[:250] for text in NASTY]
    names += [b"agent-" + name + b".json" for name in names] + [
        b"agent-\xff\xfe.json",
        b"agent-..json",
        b"agent-.json",
        b".",
        b"..",
        b".git",
    ]
    hostile_branch(bare, dict.fromkeys(names, sound_record("mallory")))
    told.unlink()

    handle = Handle(loop, tmp_path / "clone" / ".git")
    given = handle.read()
    assert isinstance(given, BranchRead), given
    view = BranchView(identity("ann"), Admission())
    view.take(given, frozenset(), Now(1, 1), 1)
    assert [known.agents.keys() for known in view.known(frozenset()).values()] == [{"mallory"}]
    assert len(view.skipped) > len(NASTY) // 2
    assert all(is_plain(clean(name)) and is_plain(clean(why)) for name, why in view.skipped.items())
    assert isinstance(handle.publish({"agent-ann.json": b"1"}), BranchPublished)

    seen = read_branch(str(tmp_path / "clone"), "origin", BRANCH)
    assert "mallory" in [record.agent_id for record in seen.records]
    assert all(agent_of_name(f"agent-{record.agent_id}.json") for record in seen.records)
    nothing_ran(tmp_path, told)
    assert git(tmp_path / "clone", "status", "--porcelain") == ""


def test_what_is_in_the_files_is_only_told(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    git(tmp_path, "clone", "-q", str(bare), "clone")
    contents = (b"\xff" * 300, b"[" * 16_000, b'{"agentId":"f2\xff"}', b"\x1b[2J", b"", b"9" * 16_000, b'"' + b"\\" * 9_001)
    hostile_branch(bare, {f"agent-f{n}.json".encode(): content for n, content in enumerate(contents)})
    given = Handle(loop, tmp_path / "clone" / ".git").read()
    assert isinstance(given, BranchRead)
    view = BranchView(identity("ann"), Admission())
    view.take(given, frozenset(), Now(1, 1), 1)
    bad = [f"agent-f{n}.json" for n in range(len(contents))]
    assert sorted(view.skipped) == bad
    seen = read_branch(str(tmp_path / "clone"), "origin", BRANCH)  # as `coord doctor` sees it
    assert [record.agent_id for record in seen.records] == ["mallory"]
    assert sorted(name for name, _ in seen.skipped) == bad


def test_a_commit_that_is_left_behind_is_asked_for_as_a_commit(tmp_path: Path, told: Path) -> None:
    bare = make_remote(tmp_path)
    git(tmp_path, "clone", "-q", str(bare), "clone")
    for name in NASTY:
        if "\0" not in name:
            assert contains(tmp_path / "clone", name) in (False, None)
    assert contains(tmp_path / "clone", "HEAD") is True
    assert told.exists()
    assert not list(tmp_path.rglob("owned"))


class FakeSession:
    """A daemon that prepares a push, and a user who looks."""

    agent = None

    def __init__(self) -> None:
        self.screen = Screen(as_json=False)

    def ask(self, request: Any, **_: Any) -> Any:
        if isinstance(request, GetStatus):
            return type("Status", (), {"remote": RemoteHealth(name="origin", branch="b", state="ok")})
        return PreparedPush(leases=(), ref="refs/coordination/leases", commit="", parent="", objects="")


@pytest.mark.parametrize("code", [0, 1])
@pytest.mark.parametrize("name", NASTY, ids=range(len(NASTY)))
def test_what_a_remote_answers_to_a_push_steers_nothing(
    name: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = f"To {name}\n!\trefs/heads/{name}:refs/heads/main\t[remote rejected] ({name})\nDone\n"
    monkeypatch.setattr(pushing, "_git_push", lambda *_: CompletedProcess([], code, lines, ""))
    session: Any = FakeSession()
    if code:
        with pytest.raises(RemoteError) as raised:
            pushing.push(session, type("Args", (), {"arguments": ["origin", "main"]}))  # type: ignore[arg-type]
        session.screen.error(raised.value)
    else:
        pushing.push(session, type("Args", (), {"arguments": ["origin", "main"]}))  # type: ignore[arg-type]
    out, err = capsys.readouterr()
    assert is_plain(out)
    assert is_plain(err)


# --- the repository's own configuration -----------------------------------------------------------------------------------


def repository(folder: Path, content: bytes) -> Path:
    (folder / ".sudocode").mkdir()
    (folder / ".sudocode" / "coordination.toml").write_bytes(content)
    return folder


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe",
        b"a" * (MAX_CONFIG_BYTES + 1),
        b"x = " + b"[" * 20_000,
        b"lease_ttl_ms = " + b"9" * 10_000,
        b"lease_ttl_ms = nan",
        b'agent_id = "\x1b[2J"',
        b'agent_id = "../../x"',
        b'git_remote = "--upload-pack=touch owned"',
        b'git_remote = ""',
        b'coordination_branch = "--force"',
        b'coordination_branch = "../../config"',
        b'coordination_branch = "a:b"',
        b'listen_addresses = ["/unix/tmp/x"]',
        b'"\x1b[2J" = 1',
        b"__proto__ = 1",
    ],
    ids=range(15),
)
def test_a_configuration_that_would_do_more_than_configure_is_an_error(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(repository(tmp_path, content), environment={})
    assert is_plain(clean(raised.value.message, 2_000))


def test_a_configuration_that_is_a_device_or_a_pipe_is_not_read(tmp_path: Path) -> None:
    folder = repository(tmp_path, b"")
    path = folder / ".sudocode" / "coordination.toml"
    for target in ("/dev/zero", "/dev/tty", "pipe", ".", "coordination.toml"):
        path.unlink()
        path.symlink_to(target)
        if target == "pipe":
            os.mkfifo(folder / ".sudocode" / "pipe")
            assert stat.S_ISFIFO(path.stat().st_mode)
        with pytest.raises(ConfigError):
            load_config(folder, environment={})


def test_a_remote_that_is_a_command_is_not_run(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    git(tmp_path, "clone", "-q", str(bare), "clone")
    remote = f"ext::sh -c touch% {tmp_path}/owned"
    assert load_config(repository(tmp_path, f'git_remote = "{remote}"'.encode()), environment={}).git_remote == remote
    failed = Handle(loop, tmp_path / "clone" / ".git", remote=remote).read()
    assert isinstance(failed, BranchReadFailed)
    assert "not allowed" in failed.reason
    assert read_branch(str(tmp_path / "clone"), remote, BRANCH).trouble
    assert not (tmp_path / "owned").exists()


def test_mallory_is_who_signed() -> None:
    """The record that stays in these stories is sound: what was refused was refused for what it is."""
    view = BranchView(identity("ann"), Admission())
    view.take(BranchRead(commit="c", records={"agent-mallory.json": sound_record("mallory")}), frozenset(), Now(1, 1), 1)
    assert list(view.known(frozenset())) == [MALLORY.peer_id]
