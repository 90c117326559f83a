"""What only real remotes can show of the lease table: every kind of URL, hosts that refuse, pushes cut off."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest
import trio
from tests.conformance.git_bench import Loop, fake_ssh, git, http_server, make_remote, nobody_left
from tests.conformance.table_bench import (
    TableHandle,
    change,
    clone_of,
    git_daemon,
    handle_of,
    hook_of,
    landed,
    lost,
    reason,
    table,
    tip_of,
    works,
)

from sudocode_coordination.adapters import git_table
from sudocode_coordination.adapters.git_table import BRANCH_REF, REF, GitTable
from sudocode_coordination.core.io import (
    Input,
    TableBuilt,
    TableReadFailed,
    TableSwapFailed,
    TableSwapped,
)

SCHEMES = ("path", "file", "git", "http", "ssh")


def served(stack: ExitStack, bare: Path, scheme: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A URL of a bare repository."""
    match scheme:
        case "path":
            return str(bare)
        case "file":
            return f"file://{bare}"
        case "git":
            return f"{stack.enter_context(git_daemon(bare.parent))}/{bare.name}"
        case "http":
            git(bare, "config", "http.receivepack", "true")
            return f"{stack.enter_context(http_server(bare.parent)).url}/{bare.name}"
        case _:
            monkeypatch.setenv("GIT_SSH_COMMAND", fake_ssh(bare.parent))
            return f"git@example.invalid:{bare}"


# --- every kind of remote -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
def test_four_at_once_have_one_winner(tmp_path: Path, loop: Loop, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = make_remote(tmp_path)
    rounds = Random(5)
    with ExitStack() as stack:
        url = served(stack, bare, scheme, monkeypatch)
        handles = [handle_of(loop, tmp_path, url, f"clone {n} ü") for n in range(4)]
        parent = None
        for number in range(6):
            # All write one file, or each its own: a table is one thing, so there is one winner all the same.
            paths = ["a/x"] * 4 if rounds.random() < 0.5 else [f"a/{n}" for n in range(4)]
            tries = [
                h.start_swap(parent, {path: b"%d" % n}, f"{number}.{n}")
                for n, (h, path) in enumerate(zip(handles, paths, strict=True))
            ]
            outcomes = [h.outcome(t) for h, t in zip(handles, tries, strict=True)]
            winners = [o.commit for o in outcomes if isinstance(o, TableSwapped)]
            assert len(winners) == 1, outcomes
            assert [o for o in outcomes if isinstance(o, TableSwapFailed) and o.kind != "moved"] == []
            assert tip_of(bare) == winners[0]
            parent = winners[0]
            assert {table(h.read()).commit for h in handles} == {parent}
        assert git(bare, "rev-list", "--count", REF) == "6"


@pytest.mark.parametrize("name", ["with space.git", "ümläut 名.git", "-dash.git", "quote'$(x).git", 'double"\\.git'])
def test_remotes_with_odd_names(tmp_path: Path, loop: Loop, name: str) -> None:
    bare = make_remote(tmp_path, "plain.git")
    (tmp_path / "deep ü").mkdir()
    bare = bare.rename(tmp_path / "deep ü" / name)
    works(handle_of(loop, tmp_path, bare, "clone ö x"), bare)


def test_a_relative_remote_starts_at_the_work_tree(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    clone = clone_of(str(bare), tmp_path)
    git(clone, "remote", "set-url", "origin", "../origin.git")
    works(TableHandle(loop, clone / ".git", work_tree=clone), bare)
    git(tmp_path, "clone", "-q", "--bare", str(bare), "bare.git")
    git(tmp_path / "bare.git", "remote", "set-url", "origin", "../origin.git")
    assert table(TableHandle(loop, tmp_path / "bare.git").read()).commit == tip_of(bare)


def test_an_empty_remote(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path, commits=0)
    works(handle_of(loop, tmp_path, bare), bare)


def test_a_sha256_repository(tmp_path: Path, loop: Loop) -> None:
    git(tmp_path, "init", "-q", "--object-format=sha256", "seed")
    git(tmp_path / "seed", "commit", "-q", "--allow-empty", "-m", "first")
    git(tmp_path, "clone", "-q", "--bare", "seed", "o.git")
    bare = tmp_path / "o.git"
    one, other = handle_of(loop, tmp_path, bare), handle_of(loop, tmp_path, bare, "other")
    works(one, bare)
    assert len(tip_of(bare) or "") == 64
    assert table(other.read()).changed == {"a/x": b"2"}


def test_the_clones_settings_lead_to_the_remote(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    clone = clone_of(str(bare), tmp_path)
    git(clone, "config", f"url.{tmp_path}/.insteadOf", "short:")
    git(clone, "remote", "set-url", "origin", "short:origin.git")
    git(clone, "config", "remote.origin.promisor", "true")
    git(clone, "config", "remote.origin.partialclonefilter", "tree:0")
    (clone / "elsewhere").mkdir()
    git(clone, "config", "core.worktree", "../elsewhere")
    works(TableHandle(loop, clone / ".git"), bare)


def test_changed_settings_are_seen_at_once(tmp_path: Path, loop: Loop) -> None:
    bare, other = make_remote(tmp_path), make_remote(tmp_path, "other.git")
    clone = clone_of(str(bare), tmp_path)
    handle = TableHandle(loop, clone / ".git")
    works(handle, bare)
    git(clone, "remote", "set-url", "origin", str(other))
    assert table(handle.read()).commit is None
    assert table(handle.read()).ref == ""


def test_a_setting_in_an_included_file_is_seen_after_it_has_failed(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    clone = clone_of(str(bare), tmp_path)
    git(clone, "remote", "set-url", "origin", "short:origin.git")
    git(clone, "config", "include.path", str(tmp_path / "included"))
    handle = TableHandle(loop, clone / ".git")
    assert isinstance(handle.read(), TableReadFailed)
    (tmp_path / "included").write_text(f'[url "{tmp_path}/"]\n\tinsteadOf = short:\n', "utf-8")
    works(handle, bare)


def test_an_ssh_command_of_the_users_is_used(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    clone = clone_of(str(bare), tmp_path)
    git(clone, "remote", "set-url", "origin", f"example.invalid:{bare}")
    git(clone, "config", "core.sshCommand", fake_ssh(tmp_path))
    works(TableHandle(loop, clone / ".git"), bare)


def test_a_push_url_decides(tmp_path: Path, loop: Loop) -> None:
    bare, mirror, third = make_remote(tmp_path), make_remote(tmp_path, "mirror.git"), make_remote(tmp_path, "third.git")
    clone = clone_of(str(mirror), tmp_path)
    git(clone, "config", "remote.origin.pushurl", str(bare))
    git(clone, "config", "--add", "remote.origin.pushurl", str(third))
    works(TableHandle(loop, clone / ".git"), bare)
    assert tip_of(mirror) is None
    assert tip_of(third) is None


# --- hosts that refuse ----------------------------------------------------------------------------------------------------------

ONLY_BRANCHES = (
    'while read old new ref; do case "$ref" in refs/heads/*) ;; *) echo "only branches, please" >&2; exit 1;; esac; done'
)
NOT_REFS = 'case "$1" in refs/heads/*) ;; *) echo "only branches, please" >&2; exit 1;; esac'


def refusing(bare: Path, how: str) -> None:
    match how:
        case "pre-receive":
            hook_of(bare, "pre-receive", ONLY_BRANCHES)
        case "update":
            hook_of(bare, "update", NOT_REFS)
        case _:
            git(bare, "config", f"{how}.hideRefs", "refs/coordination")


@pytest.mark.parametrize("how", ["pre-receive", "update", "transfer", "receive", "uploadpack"])
def test_a_host_that_takes_only_branches_gets_a_branch(tmp_path: Path, loop: Loop, how: str) -> None:
    bare = make_remote(tmp_path)
    refusing(bare, how)
    one, other = handle_of(loop, tmp_path, bare), handle_of(loop, tmp_path, bare, "other")
    works(one, bare, BRANCH_REF)
    assert tip_of(bare, REF) is None
    given = table(other.read())
    assert given.ref == BRANCH_REF
    assert given.changed == {"a/x": b"2"}
    tip = landed(other.swap(given.commit, {"a/y": b"3"}))
    built = one.build(tip, {"a/z": b"4"})
    assert lost(one.swap(None, {"a/x": b"0"})) == "moved"
    assert isinstance(built, TableBuilt)
    assert built.ref == BRANCH_REF


def test_what_exists_decides_whatever_the_host_takes_now(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    one, other = handle_of(loop, tmp_path, bare), handle_of(loop, tmp_path, bare, "other")
    first = landed(one.swap(None, {"a/x": b"1"}))
    refusing(bare, "update")
    assert lost(other.swap(None, {"a/x": b"2"})) == "moved"
    assert "only branches, please" in reason(one.swap(first, {"a/x": b"2"}))
    assert tip_of(bare, BRANCH_REF) is None


def test_two_tables_are_told_until_one_is_gone(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    one, other = handle_of(loop, tmp_path, bare), handle_of(loop, tmp_path, bare, "other")
    first = landed(one.swap(None, {"a/x": b"1"}))
    git(bare, "update-ref", BRANCH_REF, "refs/heads/main")
    told = reason(one.read())
    assert REF in told
    assert BRANCH_REF in told
    assert lost(other.swap(None, {"a/y": b"1"})) == "unknown"
    git(bare, "update-ref", "-d", BRANCH_REF)
    assert table(one.read()).commit == first


def test_a_host_that_refuses_everything_says_so(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    hook_of(bare, "pre-receive", "echo 'only maintainers may push' >&2; exit 1")
    handle = handle_of(loop, tmp_path, bare)
    outcome = handle.swap(None, {"a/x": b"1"})
    assert lost(outcome) == "refused"
    assert REF in reason(outcome)
    assert BRANCH_REF in reason(outcome)
    assert "only maintainers may push" in reason(outcome)
    assert git(bare, "for-each-ref", "refs/coordination", BRANCH_REF) == ""


def test_credentials_are_not_asked_for_nor_shown(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    git(bare, "config", "http.receivepack", "true")
    with http_server(tmp_path) as server:
        handle = handle_of(loop, tmp_path, f"{server.url}/origin.git")
        first = landed(handle.swap(None, {"a/x": b"1"}))
        host = server.url.removeprefix("http://")
        git(tmp_path / "clone", "remote", "set-url", "origin", f"http://me:hunter2@{host}/origin.git?token=hunter3")
        server.locked = True
        outcome = handle.swap(first, {"a/x": b"2"})
        assert lost(outcome) == "refused", outcome
        assert "credentials" in reason(outcome)
        assert "hunter" not in reason(outcome) + reason(handle.read())


def test_a_reader_without_the_right_to_push_is_refused(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    git(bare, "config", "http.receivepack", "false")
    with http_server(tmp_path) as server:
        handle = handle_of(loop, tmp_path, f"{server.url}/origin.git")
        assert lost(handle.swap(None, {"a/x": b"1"})) == "refused"
        assert table(handle.read()).commit is None


# --- pushes that are cut off ----------------------------------------------------------------------------------------------------


def test_a_push_that_lands_after_its_client_gave_up(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    gate, taken = tmp_path / "gate", tmp_path / "taken"
    # Not in the client's process group, as a server is: it goes on when the client is killed.
    hook_of(bare, "pre-receive", f"touch '{taken}'; while [ ! -e '{gate}' ]; do sleep 0.02; done")
    url = f"example.invalid:{bare}"
    clone = clone_of(str(bare), tmp_path)
    git(clone, "remote", "set-url", "origin", url)
    script = tmp_path / "detached ssh"
    script.write_text(f'#!/bin/sh\nexec setsid {fake_ssh(tmp_path)} "$@"\n', "utf-8")
    script.chmod(0o755)
    git(clone, "config", "core.sshCommand", f"'{script}'")
    handle = TableHandle(loop, clone / ".git", command_timeout_s=3.0)
    outcome = handle.swap(None, {"a/x": b"1"}, "n")
    assert lost(outcome) == "unknown", outcome
    assert taken.exists()
    assert table(handle.read()).commit is None, "it has not landed, and it will"
    gate.touch()
    end = time.monotonic() + 20
    while tip_of(bare) is None:
        assert time.monotonic() < end, "the push never landed"
        time.sleep(0.02)  # a poll; the deadline above is the limit
    assert landed(handle.swap(None, {"a/x": b"1"}, "n")) == tip_of(bare)
    assert git(bare, "rev-list", "--count", REF) == "1"


def test_a_push_without_an_answer_may_have_landed(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    handle, other = handle_of(loop, tmp_path, bare), handle_of(loop, tmp_path, bare, "other")
    first = landed(handle.swap(None, {"a/x": b"1"}))
    # The ref is updated by then; the pusher gets no answer.
    hook = hook_of(bare, "post-receive", "exec sleep 30")
    slow = TableHandle(loop, tmp_path / "clone" / ".git", command_timeout_s=1.5)
    assert lost(slow.swap(first, {"a/x": b"2"}, "n")) == "unknown"
    hook.unlink()
    tip = tip_of(bare)
    assert tip not in (None, first)
    later = landed(other.swap(table(other.read()).commit, {"a/y": b"3"}))
    outcome = slow.swap(first, {"a/x": b"2"}, "n")
    assert lost(outcome) == "unknown", "it did land: nobody may be told for sure that it did not"
    assert table(slow.read()).commit == later
    assert nobody_left()


def test_a_locked_ref_is_contention(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    handle = handle_of(loop, tmp_path, bare)
    first = landed(handle.swap(None, {"a/x": b"1"}))
    lock = bare / f"{REF}.lock"
    lock.touch()
    assert lost(handle.swap(first, {"a/x": b"2"}, "n")) == "moved"
    assert table(handle.read()).commit == first
    lock.unlink()
    landed(handle.swap(first, {"a/x": b"2"}, "n"))


def test_stopping_lets_a_push_end_and_leaves_no_lock(tmp_path: Path) -> None:
    bare = make_remote(tmp_path)
    clone = clone_of(str(bare), tmp_path)
    taken = tmp_path / "taken"
    hook_of(bare, "pre-receive", f"touch '{taken}'; sleep 0.3")
    got: list[Input] = []
    table = GitTable(clone / ".git", tmp_path / "leases.git", "origin", got.append)

    async def main() -> None:
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                await nursery.start(table.run)
                table.swap_table(change(1, None, {"a/x": b"1"}))
                while not taken.exists():
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()

    trio.run(main)
    assert nobody_left()
    assert tip_of(bare) is not None, "it had two seconds to end, and needed less"
    assert not list(bare.rglob("*.lock"))


def test_stopping_does_not_wait_for_a_push_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git_table, "STOP_GRACE_S", 0.2)
    bare = make_remote(tmp_path)
    clone = clone_of(str(bare), tmp_path)
    taken = tmp_path / "taken"
    hook_of(bare, "pre-receive", f"touch '{taken}'; exec sleep 60")
    table = GitTable(clone / ".git", tmp_path / "leases.git", "origin", lambda _given: None)

    async def main() -> None:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                await nursery.start(table.run)
                table.swap_table(change(1, None, {"a/x": b"1"}))
                while not taken.exists():
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()

    trio.run(main)
    assert nobody_left()
    assert tip_of(bare) is None
    assert not list(bare.rglob("*.lock"))


def test_too_much_in_line_is_told(tmp_path: Path, loop: Loop) -> None:
    handle = handle_of(loop, tmp_path, make_remote(tmp_path))
    wanted = [change(n, None, {"a/x": b"1"}) for n in range(30)]

    def ask() -> None:
        for one in wanted:
            handle.table.swap_table(one)

    loop.call(ask)
    outcomes = [handle.outcome(one) for one in wanted]
    assert sum(isinstance(o, TableSwapped) for o in outcomes) == 1
    assert "too many" in reason(outcomes[-1])
