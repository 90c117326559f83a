"""Pushes without `git push`: the same outcomes as with it, sooner, and only where it would do the same."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import trio
from tests.conformance.git_bench import Loop, descendants, git, make_remote, until
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

from sudocode_coordination.adapters import gitshort
from sudocode_coordination.adapters.git_table import REF, GitTable
from sudocode_coordination.adapters.gitdirect import Wanted, push_directly
from sudocode_coordination.adapters.gitpush import Landed, Lost, Pushed
from sudocode_coordination.adapters.gitway import local_path
from sudocode_coordination.core.io import Input, TableRead, TableSwapped

# --- the same outcomes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["path", "file", "relative", "odd", "sha256", "worktree"])
def test_all_but_the_first_go_past_git_push(tmp_path: Path, loop: Loop, pushes: list[str], kind: str) -> None:
    if kind == "sha256":
        git(tmp_path, "init", "-q", "--object-format=sha256", "seed")
        git(tmp_path / "seed", "commit", "-q", "--allow-empty", "-m", "first")
        git(tmp_path, "clone", "-q", "--bare", "seed", "o.git")
        bare = tmp_path / "o.git"
    elif kind == "worktree":
        bare = clone_of(str(make_remote(tmp_path)), tmp_path, "not bare")
    else:
        bare = make_remote(tmp_path, "quote'$(x) ü.git" if kind == "odd" else "origin.git")
    clone = clone_of(str(bare), tmp_path)
    git(clone, "remote", "set-url", "origin", {"file": f"file://{bare}", "relative": f"../{bare.name}"}.get(kind, str(bare)))
    one, other = TableHandle(loop, clone / ".git"), handle_of(loop, tmp_path, bare, "other")
    first = landed(one.swap(None, {"a/x": b"1", "b/y": b"1"}))
    second = landed(one.swap(first, {"a/x": b"2", "b/y": None}))
    third = landed(one.swap(second, {"a/new": b"3"}))
    assert pushes == [first]
    repository = bare / ".git" if kind == "worktree" else bare
    assert tip_of(repository) == third
    assert table_on(repository) == {"a/x": b"2", "a/new": b"3"}
    git(repository, "fsck", "--strict")
    assert git(repository, "rev-list", "--count", REF) == "3"
    assert table(one.read(whole=True)) == TableRead(commit=third, changed=dict(table_on(repository)), ref=REF)
    assert table(other.read()).changed == table_on(repository)
    git(one.folder, "fsck", "--strict")
    # What went past it is kept all the same: git's own push finds it, and makes the same commit of the same values.
    built = one.build(third, {"a/x": b"4"}, "n")
    assert landed(one.swap(third, {"a/x": b"4"}, "n")) == getattr(built, "commit", None)


@pytest.mark.parametrize("limit", ["1", "1000"])
def test_large_folders_arrive_whole(tmp_path: Path, loop: Loop, pushes: list[str], limit: str) -> None:
    bare = make_remote(tmp_path)
    git(bare, "config", "receive.unpackLimit", limit)
    git(bare, "config", "receive.fsckObjects", "true")
    handle = handle_of(loop, tmp_path, bare)
    filled: dict[str, bytes | None] = {f"leases/{n % 2}/{n:050}.json": b"%d" % n for n in range(1_200)}
    tip = landed(handle.swap(None, filled))
    for number in range(3):
        tip = landed(handle.swap(tip, {f"leases/1/{number:050}.new": b"x" * number, f"leases/0/{number * 2:050}.json": None}))
    assert len(pushes) == 1
    assert tip_of(bare) == tip
    git(bare, "fsck", "--strict")
    assert len(table_on(bare)) == 1_200


def test_of_two_only_one_lands(tmp_path: Path, loop: Loop, pushes: list[str]) -> None:
    bare = make_remote(tmp_path)
    one, other = handle_of(loop, tmp_path, bare), handle_of(loop, tmp_path, bare, "other")
    tip = landed(one.swap(None, {"a/x": b"0"}))
    table(other.read())
    tip = landed(other.swap(tip, {"a/x": b"1"}))
    table(one.read())
    pushes.clear()
    for number in range(5):
        tries = [handle.start_swap(tip, {"a/x": b"%d" % number}, f"{number}{handle is one}") for handle in (one, other)]
        outcomes = [handle.outcome(wanted) for handle, wanted in zip((one, other), tries, strict=True)]
        winners = [outcome.commit for outcome in outcomes if isinstance(outcome, TableSwapped)]
        assert len(winners) == 1, outcomes
        assert [lost(outcome) for outcome in outcomes if not isinstance(outcome, TableSwapped)] == ["moved"]
        tip = winners[0]
        assert {table(handle.read()).commit for handle in (one, other)} == {tip}
    assert pushes == []


def test_what_is_there_already_has_landed(tmp_path: Path, loop: Loop, pushes: list[str]) -> None:
    bare = make_remote(tmp_path)
    one, other = handle_of(loop, tmp_path, bare), handle_of(loop, tmp_path, bare, "other")
    first = landed(one.swap(None, {"a/x": b"1"}))
    table(other.read())
    second = landed(other.swap(first, {"a/x": b"2"}, "same"))
    pushes.clear()
    assert landed(one.swap(first, {"a/x": b"2"}, "same")) == second
    assert pushes == []


def test_refusals_have_the_hosts_words(tmp_path: Path, loop: Loop, pushes: list[str]) -> None:
    bare = make_remote(tmp_path)
    handle = handle_of(loop, tmp_path, bare)
    first = landed(handle.swap(None, {"a/x": b"1"}))
    hook = hook_of(bare, "pre-receive", "echo 'only maintainers may push' >&2; exit 1")
    outcome = handle.swap(first, {"a/x": b"2"})
    assert lost(outcome) == "refused"
    assert "only maintainers may push" in reason(outcome)
    assert len(pushes) == 1
    hook.unlink()
    landed(handle.swap(first, {"a/x": b"2"}))
    git(bare, "config", "receive.hideRefs", "refs/coordination")
    assert lost(handle.swap(tip_of(bare), {"a/x": b"3"})) in ("moved", "refused")


def test_a_locked_ref_is_contention(tmp_path: Path, loop: Loop, pushes: list[str]) -> None:
    bare = make_remote(tmp_path)
    handle = handle_of(loop, tmp_path, bare)
    first = landed(handle.swap(None, {"a/x": b"1"}))
    lock = bare / f"{REF}.lock"
    lock.touch()
    assert lost(handle.swap(first, {"a/x": b"2"}, "n")) == "moved"
    lock.unlink()
    landed(handle.swap(first, {"a/x": b"2"}, "n"))
    assert pushes == [first]


def test_a_remote_that_is_gone_is_told_by_git(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    handle = handle_of(loop, tmp_path, bare)
    first = landed(handle.swap(None, {"a/x": b"1"}))
    away = bare.rename(tmp_path / "away.git")
    outcome = handle.swap(first, {"a/x": b"2"}, "n")
    assert lost(outcome) == "unknown"
    assert "there is no such remote repository" in reason(outcome)
    away.rename(bare)
    assert landed(handle.swap(first, {"a/x": b"2"}, "n")) == tip_of(bare)
    until(lambda: not descendants(), "a process is left")


# --- sooner -------------------------------------------------------------------------------------------------------------------


def test_the_answer_does_not_wait_for_what_comes_behind(tmp_path: Path, loop: Loop, pushes: list[str]) -> None:
    bare = make_remote(tmp_path)
    handle = handle_of(loop, tmp_path, bare)
    first = landed(handle.swap(None, {"a/x": b"1"}))
    gate, over = tmp_path / "gate", tmp_path / "over"
    hook = hook_of(bare, "post-receive", f"while [ ! -e '{gate}' ]; do sleep 0.02; done; touch '{over}'")
    second = landed(handle.swap(first, {"a/x": b"2"}))
    assert not over.exists()
    assert tip_of(bare) == second
    waiting = handle.start_swap(second, {"a/x": b"3"})
    gate.touch()
    landed(handle.outcome(waiting))
    assert over.exists(), "the hook was let go on to its end"
    hook.unlink()
    assert pushes == [first]
    until(lambda: not descendants(), "a process is left")


# --- cut off ------------------------------------------------------------------------------------------------------------------


def test_one_that_hangs_is_unknown_and_leaves_nothing(tmp_path: Path, loop: Loop, pushes: list[str]) -> None:
    bare = make_remote(tmp_path)
    handle = TableHandle(loop, clone_of(str(bare), tmp_path) / ".git", command_timeout_s=3.0)
    first = landed(handle.swap(None, {"a/x": b"1"}))
    hook = hook_of(bare, "pre-receive", "exec sleep 60")
    outcome = handle.swap(first, {"a/x": b"2"}, "n")
    assert lost(outcome) == "unknown"
    assert "no answer within" in reason(outcome)
    hook.unlink()
    until(lambda: not descendants(), "a process is left")
    assert tip_of(bare) == first
    assert pushes == [first]
    landed(handle.swap(first, {"a/x": b"2"}, "n"))


@pytest.mark.parametrize("slow", [True, False])
def test_stopping_gives_it_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: bool) -> None:
    bare = make_remote(tmp_path)
    clone = clone_of(str(bare), tmp_path)
    taken = tmp_path / "taken"
    got: list[Input] = []
    lease_table = GitTable(clone / ".git", tmp_path / "leases.git", "origin", got.append)
    if slow:
        monkeypatch.setattr(gitshort, "STOP_GRACE_S", 0.2)

    async def main() -> None:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                await nursery.start(lease_table.run)
                lease_table.swap_table(change(1, None, {"a/x": b"1"}))
                while not got:
                    await trio.sleep(0.01)
                first = got[0]
                assert isinstance(first, TableSwapped)
                hook_of(bare, "pre-receive", f"touch '{taken}'; {'exec sleep 60' if slow else 'sleep 0.3'}")
                lease_table.swap_table(change(2, first.commit, {"a/x": b"2"}))
                while not taken.exists():
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()

    trio.run(main)
    until(lambda: not descendants(), "a process is left")
    assert git(bare, "rev-list", "--count", REF) == ("1" if slow else "2")
    assert not list(bare.rglob("*.lock"))


# --- only where git would do the same ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting",
    [("push.pushOption", "ci.skip"), ("remote.origin.receivepack", "git-receive-pack"), ("protocol.file.allow", "Always")],
)
def test_settings_that_only_git_push_knows(tmp_path: Path, loop: Loop, pushes: list[str], setting: tuple[str, str]) -> None:
    bare = make_remote(tmp_path)
    git(bare, "config", "receive.advertisePushOptions", "true")
    clone = clone_of(str(bare), tmp_path)
    git(clone, "config", *setting)
    handle = TableHandle(loop, clone / ".git")
    first = landed(handle.swap(None, {"a/x": b"1"}))
    second = landed(handle.swap(first, {"a/x": b"2"}))
    assert pushes == [first, second]


@pytest.mark.parametrize("included", [False, True])
def test_a_change_in_the_users_own_settings_is_seen_at_once(
    tmp_path: Path, loop: Loop, pushes: list[str], monkeypatch: pytest.MonkeyPatch, included: bool
) -> None:
    own = tmp_path / "gitconfig"
    text = "[user]\n\tname = n\n\temail = e@example.invalid\n"
    own.write_text(text + ("[include]\n\tpath = later\n" if included else ""), "utf-8")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(own))
    bare, other = make_remote(tmp_path), make_remote(tmp_path, "other.git")
    handle = handle_of(loop, tmp_path, bare)
    first = landed(handle.swap(None, {"a/x": b"1"}))
    second = landed(handle.swap(first, {"a/x": b"2"}))
    assert pushes == [first]
    git(bare, "push", "-q", str(other), f"{second}:{REF}")
    elsewhere = f'[url "{other}"]\n\tinsteadOf = {bare}\n'
    (tmp_path / "later" if included else own).write_text(elsewhere if included else text + elsewhere, "utf-8")
    third = landed(handle.swap(second, {"a/x": b"3"}))
    assert tip_of(bare) == second
    assert tip_of(other) == third
    fourth = landed(handle.swap(third, {"a/x": b"4"}))
    assert tip_of(other) == fourth
    assert pushes == [first, third]


def test_a_forbidden_protocol_stays_forbidden(
    tmp_path: Path, loop: Loop, pushes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = make_remote(tmp_path)
    clone = clone_of(str(bare), tmp_path)
    monkeypatch.setenv("GIT_ALLOW_PROTOCOL", "file:https")
    handle = TableHandle(loop, clone / ".git")
    first = landed(handle.swap(None, {"a/x": b"1"}))
    second = landed(handle.swap(first, {"a/x": b"2"}))
    assert pushes == [first, second]


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("/a/b.git", "/a/b.git"),
        ("../b.git", "../b.git"),
        ("./a:b", "./a:b"),
        ("/a:b", "/a:b"),
        ("b", "b"),
        ("file:///a/b c", "/a/b c"),
        ("file:///a%20b", None),
        ("file://host/a", None),
        ("host:a", None),
        ("a:b/c", None),
        ("ssh://host/a", None),
        ("https://host/a", None),
        ("ext::sh -c true", None),
        ("-x", None),
        ("~/a", None),
        ("/a\nb", None),
        ("", None),
    ],
)
def test_which_urls_are_paths(url: str, path: str | None) -> None:
    assert local_path(url) == path


# --- others that answer --------------------------------------------------------------------------------------------------------

OLD, NEW = "1" * 40, "2" * 40
OPTIONS = "report-status delete-refs side-band-64k object-format=sha1"


def packet(text: str) -> str:
    return f"{len(text.encode()) + 4:04x}{text}"


def said(old: str = OLD, options: str = OPTIONS, ref: str = REF) -> str:
    return packet(f"{'3' * 40} refs/heads/main\0{options}\n") + packet(f"{old} {ref}\n") + "0000"


def reported(*lines: str) -> str:
    return packet("\1" + "".join(packet(line + "\n") for line in lines) + "0000") + "0000"


def spoken(tmp_path: Path, before: str, after: str | None = None) -> tuple[bool | Lost, list[Pushed]]:
    """Speak with a program that says the one, reads what it gets (if it does), and says the other."""
    (tmp_path / "before").write_bytes(before.encode())
    (tmp_path / "after").write_bytes((after or "").encode())
    script = "cat before" if after is None else "cat before; cat >got; cat after"
    told: list[Pushed] = []

    async def answered(outcome: Pushed) -> None:
        told.append(outcome)

    async def main() -> bool | Lost:
        process = await trio.lowlevel.open_process(
            ["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path
        )
        try:
            return await push_directly(process, Wanted(NEW, REF, OLD, "sha1", b"PACK"), limit_s=20.0, answered=answered)
        finally:
            process.kill()
            await process.wait()

    return trio.run(main), told


@pytest.mark.parametrize(
    "before",
    [
        "",
        "zzzz",
        "0003",
        "fff8",
        "0000",
        said()[:-30],
        packet("ERR no\n"),
        said(options="report-status"),
        said(options=OPTIONS + " no-thin"),
        said(options=OPTIONS.replace("sha1", "sha256")),
        "HTTP/1.0 404 Not found\r\n\r\n",
    ],
)
def test_who_speaks_otherwise_is_sent_nothing(tmp_path: Path, before: str) -> None:
    assert spoken(tmp_path, before) == (False, [])


def test_who_has_too_many_refs_is_sent_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sudocode_coordination.adapters.gitdirect.MAX_REFS_BYTES", 100)
    assert spoken(tmp_path, said(), reported("unpack ok", f"ok {REF}")) == (False, [])


def test_what_is_sent_is_one_command_and_the_pack(tmp_path: Path) -> None:
    assert spoken(tmp_path, said(), reported("unpack ok", f"ok {REF}")) == (True, [Landed()])
    command = packet(f"{OLD} {NEW} {REF}\0 report-status side-band-64k object-format=sha1")
    assert (tmp_path / "got").read_bytes() == command.encode() + b"0000PACK"


@pytest.mark.parametrize(
    ("after", "kind"),
    [
        ("", "unknown"),
        ("0", "unknown"),
        ("gibberish", "unknown"),
        (reported(), "unknown"),
        (reported("unpack ok"), "unknown"),
        (reported("unpack ok", "ok refs/heads/other"), "unknown"),
        (reported("unpack ok", f"ok {REF}")[:40], "unknown"),
        (reported("unpack disk full", f"ng {REF} unpacker error"), "unknown"),
        (reported("unpack ok", f"ng {REF} hook declined"), "refused"),
        (reported("unpack ok", f"ng {REF} failed to update ref"), "moved"),
        (packet("\2hello\n") + packet("\3bad\n") + reported("unpack ok", f"ng {REF} no"), "refused"),
    ],
)
def test_what_answers_mean(tmp_path: Path, after: str, kind: str) -> None:
    done, told = spoken(tmp_path, said(), after)
    assert done
    assert [outcome.kind for outcome in told if isinstance(outcome, Lost)] == [kind], told


def test_a_ref_that_is_not_what_it_should_be_is_not_touched(tmp_path: Path) -> None:
    for before in (said(old="4" * 40), said(ref="refs/heads/other")):
        done, told = spoken(tmp_path, before, "")
        assert done
        assert [outcome.kind for outcome in told if isinstance(outcome, Lost)] == ["moved"]
        assert (tmp_path / "got").read_bytes() == b"0000"
