"""Pushes over http with a helper that waits for them: the same outcomes as by `git push`, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conformance.git_bench import GitHttpServer, Loop, descendants, git, http_server, make_remote, until
from tests.conformance.table_bench import (
    TableHandle,
    change,
    clone_of,
    handle_of,
    hook_of,
    landed,
    lost,
    reason,
    table,
    table_on,
    tip_of,
)

from sudocode_coordination.adapters import githelper
from sudocode_coordination.adapters.git_table import REF, GitTable
from sudocode_coordination.adapters.githelper import Conversation
from sudocode_coordination.adapters.gitpush import Landed, Lost, Pushed
from sudocode_coordination.core.io import Input, TableRead, TableSwapped


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    made = make_remote(tmp_path)
    git(made, "config", "http.receivepack", "true")
    return made


@pytest.fixture
def server(bare: Path) -> Iterator[GitHttpServer]:
    with http_server(bare.parent) as running:
        yield running


@pytest.fixture
def url(server: GitHttpServer) -> str:
    return f"{server.url}/origin.git"


def helpers() -> list[int]:
    """The helpers that run."""
    return [pid for pid, words in commands() if any("git-remote-http" in word for word in words)]


def commands() -> list[tuple[int, list[str]]]:
    """All children with their command lines."""
    found = []
    for process in descendants():
        with suppress(psutil.NoSuchProcess):
            found.append((process.pid, process.cmdline()))
    return found


# --- the same outcomes --------------------------------------------------------------------------------------------------------


def test_all_but_the_first_go_past_git_push(tmp_path: Path, loop: Loop, bare: Path, url: str, pushes: list[str]) -> None:
    one, other = handle_of(loop, tmp_path, url), handle_of(loop, tmp_path, url, "other")
    first = landed(one.swap(None, {"a/x": b"1", "b/y": b"1"}))
    until(lambda: len(helpers()) == 1, "one waits for the next push")
    second = landed(one.swap(first, {"a/x": b"2", "b/y": None}))
    third = landed(one.swap(second, {"a/new": b"3"}))
    assert pushes == [first]
    assert tip_of(bare) == third
    assert table_on(bare) == {"a/x": b"2", "a/new": b"3"}
    git(bare, "fsck", "--strict")
    assert git(bare, "rev-list", "--count", REF) == "3"
    assert table(one.read(whole=True)) == TableRead(commit=third, changed=dict(table_on(bare)), ref=REF)
    assert table(other.read()).changed == table_on(bare)
    assert landed(other.swap(third, {"a/x": b"4"}, "same"))
    assert landed(one.swap(third, {"a/x": b"4"}, "same")) == tip_of(bare), "it is there already"
    assert lost(one.swap(third, {"a/x": b"5"})) == "moved"


def test_refusals_have_the_hosts_words(tmp_path: Path, loop: Loop, bare: Path, url: str, pushes: list[str]) -> None:
    handle = handle_of(loop, tmp_path, url)
    first = landed(handle.swap(None, {"a/x": b"1"}))
    hook = hook_of(bare, "pre-receive", "echo 'only maintainers may push' >&2; exit 1")
    outcome = handle.swap(first, {"a/x": b"2"})
    assert lost(outcome) == "refused"
    assert "only maintainers may push" in reason(outcome)
    assert pushes == [first]
    hook.unlink()
    first = landed(handle.swap(first, {"a/x": b"2"}))
    pushes.clear()
    lock = bare / f"{REF}.lock"
    lock.touch()
    assert lost(handle.swap(first, {"a/x": b"3"}, "n")) == "moved"
    lock.unlink()
    landed(handle.swap(first, {"a/x": b"3"}, "n"))
    assert pushes == []


def test_logins_are_those_of_git(tmp_path: Path, loop: Loop, server: GitHttpServer, url: str, pushes: list[str]) -> None:
    server.login = "ada:secret"
    seen = tmp_path / "asked"
    helper = f"!f() {{ echo asked >>'{seen}'; echo username=ada; echo password=secret; }}; f"
    git(tmp_path, "-c", f"credential.helper={helper}", "clone", "-q", url, "clone")
    git(tmp_path / "clone", "config", "credential.helper", helper)
    handle = TableHandle(loop, tmp_path / "clone" / ".git")
    first = landed(handle.swap(None, {"a/x": b"1"}))
    until(lambda: bool(helpers()), "one waits")
    words = [word for _, words in commands() for word in words]
    assert not [word for word in words if "secret" in word and "credential.helper" not in word]
    seen.unlink()
    second = landed(handle.swap(first, {"a/x": b"2"}))
    assert seen.exists()
    assert pushes == [first]
    server.locked = True
    outcome = handle.swap(second, {"a/x": b"3"})
    assert lost(outcome) == "refused"
    assert "credentials" in reason(outcome)


def test_a_server_that_is_gone_is_told_by_git(tmp_path: Path, loop: Loop, bare: Path, url: str) -> None:
    handle = handle_of(loop, tmp_path, url)
    first = landed(handle.swap(None, {"a/x": b"1"}))
    away = bare.rename(tmp_path / "away.git")
    assert lost(handle.swap(first, {"a/x": b"2"}, "n")) in ("refused", "unknown")
    away.rename(bare)
    assert landed(handle.swap(first, {"a/x": b"2"}, "n")) == tip_of(bare)


# --- the one that waits -------------------------------------------------------------------------------------------------------


def test_it_waits_for_a_while_only(
    tmp_path: Path, loop: Loop, url: str, pushes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(githelper, "WAITS_S", 0.3)
    handle = handle_of(loop, tmp_path, url)
    first = landed(handle.swap(None, {"a/x": b"1"}))
    until(lambda: bool(helpers()), "one waits")
    until(lambda: not descendants(), "it is let go")
    second = landed(handle.swap(first, {"a/x": b"2"}))
    assert pushes == [first], "another is started when it is needed"
    until(lambda: bool(helpers()), "one waits again")
    loop.call(handle.scope.cancel)
    until(lambda: not descendants(), "a process is left")
    assert second


def test_one_that_was_killed_is_not_missed(tmp_path: Path, loop: Loop, bare: Path, url: str, pushes: list[str]) -> None:
    handle = handle_of(loop, tmp_path, url)
    first = landed(handle.swap(None, {"a/x": b"1"}))
    until(lambda: bool(helpers()), "one waits")
    for pid in helpers():
        os.kill(pid, signal.SIGKILL)
    second = landed(handle.swap(first, {"a/x": b"2"}))
    assert pushes == [first, second]
    until(lambda: bool(helpers()), "another waits")
    third = landed(handle.swap(second, {"a/x": b"3"}))
    assert tip_of(bare) == third
    assert pushes == [first, second]


@pytest.mark.slow
def test_one_that_hangs_is_unknown_and_leaves_nothing(tmp_path: Path, loop: Loop, bare: Path, url: str, pushes: list[str]) -> None:
    handle = TableHandle(loop, clone_of(url, tmp_path) / ".git", command_timeout_s=3.0)
    first = landed(handle.swap(None, {"a/x": b"1"}))
    gate = tmp_path / "gate"
    hook = hook_of(bare, "pre-receive", f"while [ ! -e '{gate}' ]; do sleep 0.02; done; exit 1")
    outcome = handle.swap(first, {"a/x": b"2"}, "n")
    assert lost(outcome) == "unknown"
    assert "no answer within" in reason(outcome)
    gate.touch()
    hook.unlink()
    assert pushes == [first]
    landed(handle.swap(first, {"a/x": b"2"}, "n"))


def test_stopping_gives_it_its_time(tmp_path: Path, bare: Path, url: str) -> None:
    clone = clone_of(url, tmp_path)
    taken = tmp_path / "taken"
    got: list[Input] = []
    lease_table = GitTable(clone / ".git", tmp_path / "leases.git", "origin", got.append)

    async def main() -> None:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                await nursery.start(lease_table.run)
                lease_table.swap_table(change(1, None, {"a/x": b"1"}))
                while not got:
                    await trio.sleep(0.01)
                first = got[0]
                assert isinstance(first, TableSwapped)
                hook_of(bare, "pre-receive", f"touch '{taken}'; sleep 0.3")
                lease_table.swap_table(change(2, first.commit, {"a/x": b"2"}))
                while not taken.exists():
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()

    trio.run(main)
    until(lambda: not descendants(), "a process is left")
    assert isinstance(got[1], TableSwapped)
    assert git(bare, "rev-list", "--count", REF) == "2"


# --- only where git would do the same ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting",
    [
        ("push.pushOption", "ci.skip"),
        ("protocol.http.allow", "Always"),
        ("remote.origin.vcs", "http"),
        ("url.http://127.0.0.1:.pushInsteadOf", "http://127.0.0.1:"),
    ],
)
def test_settings_that_only_git_push_knows(
    tmp_path: Path, loop: Loop, bare: Path, url: str, pushes: list[str], setting: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    git(bare, "config", "receive.advertisePushOptions", "true")
    own = tmp_path / "gitconfig"
    own.write_text("[user]\n\tname = n\n\temail = e@example.invalid\n", "utf-8")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(own))
    if "pushInsteadOf" in setting[0]:
        git(tmp_path, "config", "--global", setting[0].replace("127.0.0.1", "localhost"), setting[1])
    clone = clone_of(url, tmp_path)
    if "pushInsteadOf" not in setting[0]:
        git(clone, "config", *setting)
    handle = TableHandle(loop, clone / ".git")
    first = landed(handle.swap(None, {"a/x": b"1"}))
    second = landed(handle.swap(first, {"a/x": b"2"}))
    assert pushes == [first, second]
    assert helpers() == []


def test_a_change_in_the_users_own_settings_is_seen_at_once(
    tmp_path: Path, loop: Loop, bare: Path, server: GitHttpServer, url: str, pushes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "gitconfig"
    text = "[user]\n\tname = n\n\temail = e@example.invalid\n"
    own.write_text(text, "utf-8")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(own))
    other = make_remote(tmp_path, "other.git")
    git(other, "config", "http.receivepack", "true")
    handle = handle_of(loop, tmp_path, url)
    first = landed(handle.swap(None, {"a/x": b"1"}))
    second = landed(handle.swap(first, {"a/x": b"2"}))
    assert pushes == [first]
    git(bare, "push", "-q", str(other), f"{second}:{REF}")
    until(lambda: bool(helpers()), "one waits")
    own.write_text(text + f'[url "{server.url}/other.git"]\n\tinsteadOf = {url}\n', "utf-8")
    third = landed(handle.swap(second, {"a/x": b"3"}))
    assert tip_of(bare) == second
    assert tip_of(other) == third
    fourth = landed(handle.swap(third, {"a/x": b"4"}))
    assert tip_of(other) == fourth
    assert pushes == [first, third]


# --- others that answer --------------------------------------------------------------------------------------------------------

OLD, NEW = "1" * 40, "2" * 40
HEARD = f"ok\nok\nok\n{'3' * 40} refs/heads/main\n@refs/heads/main HEAD\n{OLD} {REF}\n\n"


def spoken(tmp_path: Path, before: str, after: str = "", complaint: str = "") -> tuple[Pushed | None, bool, str]:
    """Speak with a program that says the one, waits to be told to push, says the other and ends: what came of it, whether it is
    no use, and what it was told."""
    for name, text in (("before", before), ("after", after), ("complaint", complaint)):
        (tmp_path / name).write_text(text, "utf-8")
    answers = 'case "$line" in push*) cat complaint >&2; cat after; exit;; esac'
    script = f'cat before; while read -r line; do echo "$line" >>got; {answers}; done'

    async def main() -> tuple[Pushed | None, bool]:
        process = await trio.lowlevel.open_process(
            ["sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            start_new_session=True,
        )
        conversation = Conversation(process, REF, OLD)
        try:
            await conversation.ask()
            return await conversation.push(NEW, limit_s=20.0), conversation.unlike
        finally:
            await conversation.close()

    outcome, unlike = trio.run(main)
    return outcome, unlike, (tmp_path / "got").read_text("utf-8")


@pytest.mark.parametrize(("before", "unlike"), [("ok\nok\nunsupported\n" + HEARD[9:], True), ("x" * 70_000, True)])
def test_who_speaks_otherwise_is_sent_nothing(tmp_path: Path, before: str, unlike: bool) -> None:
    outcome, is_unlike, told = spoken(tmp_path, before)
    assert outcome is None
    assert is_unlike is unlike
    assert "push " not in told


def test_who_has_too_many_refs_is_sent_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(githelper, "MAX_REFS_BYTES", 100)
    outcome, unlike, told = spoken(tmp_path, HEARD)
    assert outcome is None
    assert unlike
    assert "push " not in told


@pytest.mark.parametrize("listed", [HEARD.replace(OLD, "4" * 40), HEARD.replace(REF, "refs/heads/other")])
def test_a_ref_that_is_not_what_it_should_be_is_not_touched(tmp_path: Path, listed: str) -> None:
    outcome, _, told = spoken(tmp_path, listed)
    assert isinstance(outcome, Lost)
    assert outcome.kind == "moved"
    assert "push " not in told


@pytest.mark.parametrize(
    ("after", "complaint", "kind"),
    [
        (f"ok {REF}\n\n", "", None),
        (f"error refs/heads/main no match\nok {REF}\n", "warning: slow\n" * 20_000, None),
        (f"error {REF} stale info\n\n", "", "moved"),
        (f"error {REF} failed to update ref\n\n", "remote: error: cannot lock ref\n", "moved"),
        (f'error {REF} "hook declined"\n\n', "remote: no\n", "refused"),
        (f"error {REF} pre-receive hook declined\n\n", "remote: no\n", "refused"),
        (f"error {REF} expecting report\n\n", "", "unknown"),
        (f"error {REF} unpacker error\n\n", "", "unknown"),
        ("", "error: RPC failed; HTTP 500 curl 22 The requested URL returned error: 500\n", "unknown"),
        ("", "error: RPC failed; HTTP 403 curl 22 The requested URL returned error: 403\n", "refused"),
        ("", "", "unknown"),
        ("ok refs/heads/other\n\n", "", "unknown"),
        ("x" * 70_000, "", "unknown"),
    ],
)
def test_what_answers_mean(tmp_path: Path, after: str, complaint: str, kind: str | None) -> None:
    outcome, _, told = spoken(tmp_path, HEARD, after, complaint)
    assert outcome == Landed() if kind is None else isinstance(outcome, Lost) and outcome.kind == kind, outcome
    asked = ["option progress false", "option verbosity 0", f"option cas {REF}:{OLD}", "list for-push"]
    assert told.splitlines()[:5] == [*asked, f"push {NEW}:{REF}"]


class _Pipes:
    """What a conversation uses of a process, with what it says in memory."""

    def __init__(self, said: bytes, complaint: bytes) -> None:
        self.stdin, self.heard = trio.testing.memory_stream_one_way_pair()
        out, self.stdout = trio.testing.memory_stream_one_way_pair()
        err, self.stderr = trio.testing.memory_stream_one_way_pair()
        self.returncode = 0
        self._to_say = ((out, said), (err, complaint))

    async def say(self) -> None:
        for stream, data in self._to_say:
            await stream.send_all(data)
            stream.close()


WORDS = st.sampled_from(
    ["ok", "error", "unsupported", "?", "", " ", REF, OLD, NEW, "\n", "\n\n", f"{OLD} {REF}\n", f"ok {REF}\n", "ü", "\0", '"']
)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.lists(WORDS, max_size=30).map(lambda words: "".join(words).encode())), st.booleans())
def test_whatever_is_said_there_is_an_outcome(said: bytes, listed: bool) -> None:
    """And nothing else than the one line that the remote is to be told."""

    async def main() -> tuple[Pushed | None, bytes]:
        pipes = _Pipes((HEARD.encode() if listed else b"") + said, b"fatal: no\n")
        await pipes.say()
        conversation = Conversation(pipes, REF, OLD)  # type: ignore[arg-type]
        await conversation.ask()
        outcome = await conversation.push(NEW, limit_s=20.0)
        pipes.stdin.close()
        heard = b""
        while chunk := await pipes.heard.receive_some(4096):
            heard += chunk
        return outcome, heard

    outcome, heard = trio.run(main)
    lines = heard.decode().splitlines()
    assert lines[:4] == ["option progress false", "option verbosity 0", f"option cas {REF}:{OLD}", "list for-push"]
    assert lines[4:] in ([], [f"push {NEW}:{REF}", ""])
    assert outcome is not None or lines[4:] == [], "what was sent is never taken for nothing"
