"""What only the real git can show: every kind of remote, refusals, hangs, hostile branches, and that nothing is left behind."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import trio
from tests.conformance.git_bench import (
    BRANCH,
    PEERS,
    Handle,
    Loop,
    children,
    fake_ssh,
    files_on,
    git,
    http_server,
    make_remote,
    nobody_left,
    paths_on,
    write_branch,
)

from sudocode_coordination.adapters.git import GitCli
from sudocode_coordination.adapters.gittree import PEERS_PATH
from sudocode_coordination.core.io import BranchPublished, BranchPublishFailed, BranchRead, BranchReadFailed, Input


def clone_of(url: str, folder: Path, name: str = "clone", *options: str) -> Path:
    git(folder, "clone", "-q", *options, url, name)
    return folder / name


def works(handle: Handle, bare: Path) -> None:
    """Publish, change, remove, read: the whole round."""
    assert isinstance(handle.read(), BranchRead)
    done = handle.publish({"agent-a.json": b"1", "agent-b.json": b"1"})
    assert isinstance(done, BranchPublished), done
    assert isinstance(handle.publish({"agent-a.json": b"2", "agent-b.json": None}), BranchPublished)
    given = handle.read()
    assert isinstance(given, BranchRead)
    assert given.records == {"agent-a.json": b"2"} == files_on(bare)


# --- remotes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["origin.git", "with space.git", "ümläut 名.git", "-dash.git", "quote'$(x).git"])
@pytest.mark.parametrize("scheme", ["path", "file"])
def test_remotes_in_the_file_system(tmp_path: Path, loop: Loop, name: str, scheme: str) -> None:
    bare = make_remote(tmp_path / ".", "plain.git")
    (tmp_path / "deep ü").mkdir()
    bare = bare.rename(tmp_path / "deep ü" / name)
    url = str(bare) if scheme == "path" else f"file://{bare}"
    works(Handle(loop, clone_of(url, tmp_path, "clone ö x") / ".git"), bare)


def test_a_relative_remote_starts_at_the_work_tree(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    clone = clone_of(str(bare), tmp_path)
    git(clone, "remote", "set-url", "origin", "../origin.git")
    works(Handle(loop, clone / ".git"), bare)


def test_http(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    git(bare, "config", "http.receivepack", "true")
    with http_server(tmp_path) as server:
        works(Handle(loop, clone_of(f"{server.url}/origin.git", tmp_path) / ".git"), bare)


def test_ssh_style(tmp_path: Path, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = make_remote(tmp_path)
    monkeypatch.setenv("GIT_SSH_COMMAND", fake_ssh(tmp_path))
    for n, url in enumerate((f"git@example.invalid:{bare}", f"ssh://git@example.invalid:2222{bare}")):
        git(bare, "update-ref", "-d", f"refs/heads/{BRANCH}")
        works(Handle(loop, clone_of(url, tmp_path, f"c{n}") / ".git"), bare)


def test_an_ssh_command_of_the_users_is_used(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    clone = clone_of(str(bare), tmp_path)
    git(clone, "remote", "set-url", "origin", f"example.invalid:{bare}")
    git(clone, "config", "core.sshCommand", fake_ssh(tmp_path))
    works(Handle(loop, clone / ".git"), bare)


def test_an_empty_remote(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path, commits=0)
    works(Handle(loop, clone_of(str(bare), tmp_path) / ".git"), bare)


def test_a_sha256_repository(tmp_path: Path, loop: Loop) -> None:
    git(tmp_path, "init", "-q", "--object-format=sha256", "seed")
    git(tmp_path / "seed", "commit", "-q", "--allow-empty", "-m", "first")
    git(tmp_path, "clone", "-q", "--bare", "seed", "o.git")
    works(Handle(loop, clone_of(str(tmp_path / "o.git"), tmp_path) / ".git"), tmp_path / "o.git")


def test_a_partial_clone(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    git(bare, "config", "uploadpack.allowFilter", "true")
    works(Handle(loop, clone_of(f"file://{bare}", tmp_path, "clone", "--filter=blob:none") / ".git"), bare)


def test_another_remote_name_and_branch(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    clone = clone_of(str(bare), tmp_path, "clone", "--origin", "up-stream")
    handle = Handle(loop, clone / ".git", remote="up-stream", branch="team/coord")
    assert isinstance(handle.publish({"agent-a.json": b"1"}), BranchPublished)
    assert git(clone, "branch", "-r", "--list", "*/team/*").strip() == "up-stream/team/coord"


# --- what users see ---------------------------------------------------------------------------------------------------------


def test_the_folder_is_the_contracts() -> None:
    assert b"/".join(PEERS_PATH) == b".sudocode/coordination/peers"


def test_both_commands_of_the_contract_show_it(tmp_path: Path, loop: Loop) -> None:
    clone = clone_of(str(make_remote(tmp_path)), tmp_path)
    Handle(loop, clone / ".git").publish({"agent-a.json": b"1"})
    assert "origin/coordination" in git(clone, "branch", "-r")
    assert "agent-a.json" in git(clone, "show", f"origin/coordination:{PEERS}/")
    other = clone_of(str(tmp_path / "origin.git"), tmp_path, "single", "--single-branch")
    handle = Handle(loop, other / ".git")
    handle.read()
    assert "agent-a.json" in git(other, "show", f"origin/coordination:{PEERS}/")
    git(tmp_path / "origin.git", "update-ref", "-d", f"refs/heads/{BRANCH}")
    handle.read()
    assert "coordination" not in git(other, "branch", "-r")


def test_commits_are_orphan_unsigned_and_by_nobody_of_the_users(
    tmp_path: Path, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = make_remote(tmp_path)
    clone = clone_of(str(bare), tmp_path)
    empty = tmp_path / "empty.gitconfig"
    empty.write_text(
        "[user]\n useConfigOnly = true\n[commit]\n gpgSign = true\n[push]\n gpgSign = true\n[gpg]\n program = false\n", "utf-8"
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(empty))
    handle = Handle(loop, clone / ".git")
    assert isinstance(handle.publish({"agent-a.json": b"1"}), BranchPublished)
    assert git(bare, "log", "--format=%an <%ae> %cn %G?", BRANCH) == (
        "sudocode coordination <coordination@sudocode.invalid> sudocode coordination N"
    )
    assert git(bare, "rev-list", "--count", BRANCH) == "1"


def test_environment_of_a_hook_that_started_us_does_not_mislead(
    tmp_path: Path, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = make_remote(tmp_path)
    clone = clone_of(str(bare), tmp_path)
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_QUARANTINE_PATH"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_TRACE", "1")
    handle = Handle(loop, clone / ".git")
    assert isinstance(handle.publish({"agent-a.json": b"1"}), BranchPublished)
    monkeypatch.undo()
    assert files_on(bare) == {"agent-a.json": b"1"}


def test_no_hook_of_the_users_runs(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    clone = clone_of(str(bare), tmp_path)
    told = tmp_path / "ran"
    for hook in ("pre-push", "reference-transaction", "post-commit", "pre-auto-gc"):
        path = clone / ".git" / "hooks" / hook
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\necho {hook} >> '{told}'\nexit 1\n", "utf-8")
        path.chmod(0o755)
    works(Handle(loop, clone / ".git"), bare)
    assert not told.exists()


# --- refusals ---------------------------------------------------------------------------------------------------------------


def test_history_is_bounded(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    handle = Handle(loop, clone_of(str(bare), tmp_path) / ".git", max_history=5)
    other = Handle(loop, clone_of(str(bare), tmp_path, "other") / ".git", max_history=5)
    other.publish({"agent-x.json": b"x"})
    for n in range(12):
        assert isinstance(handle.publish({"agent-a.json": b"%d" % n}), BranchPublished)
        assert int(git(bare, "rev-list", "--count", BRANCH)) <= 6
    given = other.read()
    assert isinstance(given, BranchRead)
    assert given.records == {"agent-a.json": b"11", "agent-x.json": b"x"}


def test_a_remote_that_refuses_to_rewrite_history_gets_it_longer(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    git(bare, "config", "receive.denyNonFastForwards", "true")
    git(bare, "config", "receive.denyDeletes", "true")
    handle = Handle(loop, clone_of(str(bare), tmp_path) / ".git", max_history=3)
    for n in range(8):
        assert isinstance(handle.publish({"agent-a.json": b"%d" % n}), BranchPublished)
    assert git(bare, "rev-list", "--count", BRANCH) == "8"


def test_a_hook_of_the_remote_that_refuses_is_quoted(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    hook = bare / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho 'only maintainers may push' >&2\nexit 1\n", "utf-8")
    hook.chmod(0o755)
    handle = Handle(loop, clone_of(str(bare), tmp_path) / ".git")
    began = time.monotonic()
    failed = handle.publish({"agent-a.json": b"1"})
    assert isinstance(failed, BranchPublishFailed)
    assert "only maintainers may push" in failed.reason
    assert time.monotonic() - began < 10, "asked once, not again and again"
    assert isinstance(handle.read(), BranchRead)


def test_a_password_is_never_asked_for_nor_shown(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    clone = clone_of(str(bare), tmp_path)
    with http_server(tmp_path) as server:
        server.locked = True
        host = server.url.removeprefix("http://")
        git(clone, "remote", "set-url", "origin", f"http://me:hunter2@{host}/origin.git?token=hunter3")
        failed = Handle(loop, clone / ".git").read()
    assert isinstance(failed, BranchReadFailed)
    assert "credentials" in failed.reason
    assert "hunter" not in failed.reason


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/x.git", "ssh://127.0.0.1:1/x.git", "/nowhere/at all.git", "file:///nowhere.git"]
)
def test_reasons_are_short_and_in_one_line(tmp_path: Path, loop: Loop, url: str) -> None:
    clone = clone_of(str(make_remote(tmp_path)), tmp_path)
    git(clone, "remote", "set-url", "origin", url)
    failed = Handle(loop, clone / ".git").read()
    assert isinstance(failed, BranchReadFailed)
    assert 10 < len(failed.reason) <= 300
    assert "\n" not in failed.reason


def test_a_remote_or_repository_that_is_not_there(tmp_path: Path, loop: Loop) -> None:
    clone = clone_of(str(make_remote(tmp_path)), tmp_path)
    failed = Handle(loop, clone / ".git", remote="upstream").read()
    assert isinstance(failed, BranchReadFailed)
    assert "upstream" in failed.reason
    assert isinstance(Handle(loop, tmp_path / "gone" / ".git").read(), BranchReadFailed)


def test_a_malformed_directory_is_a_failure_and_no_crash(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    tree = git(bare, "hash-object", "-t", "tree", "-w", "--literally", "--stdin", stdin=b"40000 .sudocode")
    commit = git(bare, "commit-tree", "-m", "hostile", git(bare, "mktree", "--missing", stdin=b""))
    handle = Handle(loop, clone_of(str(bare), tmp_path) / ".git")
    body = git(bare, "cat-file", "commit", commit).replace(git(bare, "rev-parse", f"{commit}^{{tree}}"), tree)
    hostile = git(bare, "hash-object", "-t", "commit", "-w", "--literally", "--stdin", stdin=body.encode() + b"\n")
    (bare / "refs" / "heads" / BRANCH).write_text(hostile + "\n", "utf-8")
    assert isinstance(handle.read(), BranchReadFailed)
    assert isinstance(handle.publish({"agent-a.json": b"1"}), BranchPublishFailed)
    git(bare, "update-ref", "-d", f"refs/heads/{BRANCH}")
    works(handle, bare)


# --- hostile and odd branches -----------------------------------------------------------------------------------------------


def test_what_is_no_plain_file_is_told_and_kept(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    commit = git(bare, "rev-parse", "main")
    write_branch(
        bare,
        {
            "top.sh": ("100755", b"#!/bin/sh\n"),
            ".sudocode/other/deep/file": ("100644", b"x"),
            "sub": ("160000", commit.encode()),
            "link": ("120000", b"/etc/passwd"),
            f"{PEERS}/agent-link.json": ("120000", b"/etc/passwd"),
            f"{PEERS}/agent-dir.json/agent-x.json": ("100644", b"x"),
            f"{PEERS}/agent-mod.json": ("160000", commit.encode()),
            f"{PEERS}/agent-exec.json": ("100755", b"e"),
            f"{PEERS}/agent-ok.json": ("100644", b"o"),
            f"{PEERS}/ünlesbar\n.json": ("100644", b"o"),
        },
    )
    before = set(paths_on(bare))
    handle = Handle(loop, clone_of(str(bare), tmp_path) / ".git")
    given = handle.read()
    assert isinstance(given, BranchRead)
    assert given.records == {"agent-exec.json": b"e", "agent-ok.json": b"o"}
    assert {given.skipped[f"agent-{n}.json"] for n in ("link", "dir", "mod")} == {"not a plain file"}
    assert isinstance(handle.publish({"agent-a.json": b"1"}), BranchPublished)
    assert set(paths_on(bare)) - before == {p for p in paths_on(bare) if p.endswith(f"{PEERS}/agent-a.json")}
    assert before <= set(paths_on(bare))


@pytest.mark.parametrize("path", [".sudocode", ".sudocode/coordination", PEERS])
def test_a_file_where_the_folder_belongs(tmp_path: Path, loop: Loop, path: str) -> None:
    bare = make_remote(tmp_path)
    write_branch(bare, {path: ("100644", b"x"), "other": ("100644", b"y")})
    handle = Handle(loop, clone_of(str(bare), tmp_path) / ".git")
    given = handle.read()
    assert isinstance(given, BranchRead)
    assert given.records == {}
    assert isinstance(handle.publish({"agent-a.json": b"1"}), BranchPublished)
    assert files_on(bare) == {"agent-a.json": b"1"}


@pytest.mark.parametrize("name", ["../x", "agent-../../x.json", "-agent.json", "x.json", "agent-a/b.json"])
def test_no_other_file_can_be_written(tmp_path: Path, loop: Loop, name: str) -> None:
    bare = make_remote(tmp_path)
    assert isinstance(Handle(loop, clone_of(str(bare), tmp_path) / ".git").publish({name: b"1"}), BranchPublishFailed)
    assert files_on(bare) == {}


def test_objects_pruned_by_the_user_are_fetched_again(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    clone = clone_of(str(bare), tmp_path)
    handle = Handle(loop, clone / ".git")
    Handle(loop, clone_of(str(bare), tmp_path, "other") / ".git").publish({"agent-x.json": b"x"})
    assert isinstance(handle.read(), BranchRead)
    git(clone, "update-ref", "-d", "refs/remotes/origin/coordination")
    git(clone, "gc", "-q", "--prune=now")
    assert isinstance(handle.publish({"agent-a.json": b"1"}), BranchPublished)
    assert files_on(bare) == {"agent-a.json": b"1", "agent-x.json": b"x"}


# --- hangs and cancellation -------------------------------------------------------------------------------------------------


@pytest.fixture
def hung_remote(tmp_path: Path) -> Iterator[Path]:
    """A clone whose remote takes connections and never says a word."""
    clone = clone_of(str(make_remote(tmp_path)), tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        git(clone, "remote", "set-url", "origin", f"http://127.0.0.1:{listener.getsockname()[1]}/x.git")
        yield clone


def test_a_hung_remote_ends_at_the_time_limit_and_leaves_no_child(hung_remote: Path, loop: Loop) -> None:
    handle = Handle(loop, hung_remote / ".git", command_timeout_s=0.5)
    began = time.monotonic()
    failed = handle.read()
    assert isinstance(failed, BranchReadFailed)
    assert "0.5 s" in failed.reason
    assert isinstance(handle.publish({"agent-a.json": b"1"}), BranchPublishFailed)
    assert time.monotonic() - began < 10
    assert nobody_left()


def test_cancelling_kills_and_reaps(hung_remote: Path) -> None:
    got: list[Input] = []
    cli = GitCli(hung_remote / ".git", "origin", BRANCH, got.append, random=Random(1))

    async def main() -> None:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                await nursery.start(cli.run)
                cli.read_branch()
                while not any("ls-remote" in c.cmdline() for c in children()):
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()

    trio.run(main)
    assert nobody_left()
    assert got == []


def test_a_final_publish_does_not_wait_for_a_hung_read(hung_remote: Path, loop: Loop) -> None:
    handle = Handle(loop, hung_remote / ".git", final_timeout_s=1.0)
    loop.call(handle.cli.read_branch)
    began = time.monotonic()
    assert isinstance(handle.publish({"agent-a.json": None}, final=True), BranchPublishFailed)
    assert time.monotonic() - began < 6
    assert nobody_left()


def test_a_push_that_was_cut_off_may_have_landed_and_is_not_doubled(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    hook = bare / "hooks" / "post-receive"
    hook.parent.mkdir(exist_ok=True)
    # The ref is updated by then; the pusher gets no answer.
    hook.write_text("#!/bin/sh\nexec sleep 30\n", "utf-8")
    hook.chmod(0o755)
    handle = Handle(loop, clone_of(str(bare), tmp_path) / ".git", command_timeout_s=1.5)
    assert isinstance(handle.publish({"agent-a.json": b"1"}), BranchPublishFailed)
    assert files_on(bare) == {"agent-a.json": b"1"}
    hook.unlink()
    assert isinstance(handle.publish({"agent-a.json": b"1"}), BranchPublished)
    assert git(bare, "rev-list", "--count", BRANCH) == "1"
    assert nobody_left()


def test_a_locked_ref_on_the_remote_is_waited_for(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    handle = Handle(loop, clone_of(str(bare), tmp_path) / ".git")
    lock = bare / "refs" / "heads" / f"{BRANCH}.lock"
    lock.touch()
    ticket = handle.start_publish({"agent-a.json": b"1"})
    # Long enough for the first attempts to meet the lock; if they do not, the test still holds.
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        time.sleep(0.05)
    assert handle.got == []
    lock.unlink()
    assert isinstance(handle.outcome(ticket), BranchPublished)


def test_a_locked_tracking_ref_hurts_nothing(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    clone = clone_of(str(bare), tmp_path)
    (clone / ".git/refs/remotes/origin").mkdir(parents=True, exist_ok=True)
    lock = clone / ".git/refs/remotes/origin/coordination.lock"
    lock.touch()
    works(Handle(loop, clone / ".git"), bare)
    lock.unlink()
