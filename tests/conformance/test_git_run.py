"""Single git commands: cut off, killed and reaped as they should be, and quiet about secrets."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from tests.conformance.git_bench import make_remote, nobody_left

from sudocode_coordination.adapters.gitrun import GitFailedError, GitRunner, Outcome, redact


def test_redaction() -> None:
    assert redact("remote: \x1b[2Jgone\a") == "remote: [2Jgone"
    assert redact("fatal: https://u:p@h.example/x?access_token=abc&y=1\n  'http://t@h'") == (
        "fatal: https://…@h.example/x?access_token=…&y=1 'http://…@h'"
    )


def run_git(tmp_path: Path, use: Callable[[GitRunner], object], *, timeout_s: float = 10.0) -> None:
    make_remote(tmp_path)

    async def main() -> None:
        with trio.fail_after(30):
            await use(GitRunner(tmp_path / "origin.git", None, "origin", timeout_s))  # type: ignore[misc]

    trio.run(main)
    assert nobody_left()


def test_too_much_output_is_cut_off(tmp_path: Path) -> None:
    async def use(runner: GitRunner) -> None:
        with pytest.raises(GitFailedError, match="more than 1000 bytes"):
            await runner.run("-c", "alias.flood=!yes", "flood", limit=1_000)

    run_git(tmp_path, use)


def test_children_of_children_are_killed(tmp_path: Path) -> None:
    async def use(runner: GitRunner) -> None:
        with pytest.raises(GitFailedError, match="no answer"):
            await runner.run("-c", "alias.nap=!sleep 60 & sleep 60", "nap")

    run_git(tmp_path, use, timeout_s=0.5)


def test_a_background_child_that_holds_the_pipes_is_not_waited_for(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"

    async def use(runner: GitRunner) -> None:
        outcome = await runner.run("-c", f"alias.leave=!setsid sleep 60 & echo $! > '{pid_file}'; echo said", "leave")
        assert outcome.stdout == b"said\n"

    try:
        run_git_only(tmp_path, use)
    finally:
        os.kill(int(pid_file.read_text("utf-8")), 9)


def run_git_only(tmp_path: Path, use: Callable[[GitRunner], object]) -> None:
    make_remote(tmp_path)

    async def main() -> None:
        with trio.fail_after(20):
            await use(GitRunner(tmp_path / "origin.git", None, "origin", 15.0))  # type: ignore[misc]

    trio.run(main)


def test_a_linked_worktree_that_was_removed_is_not_missed(tmp_path: Path) -> None:
    make_remote(tmp_path)
    worktree = tmp_path / "wt"
    worktree.mkdir()

    async def main() -> None:
        runner = GitRunner(tmp_path / "origin.git", worktree, "origin", 15.0)
        assert (await runner.run("rev-parse", "--git-dir")).code == 0
        worktree.rmdir()
        assert (await runner.run("rev-parse", "--git-dir")).code == 0
        late = GitRunner(tmp_path / "origin.git", worktree, "origin", 15.0)
        assert (await late.run("rev-parse", "--git-dir")).code == 0

    trio.run(main)


def test_the_telling_words_are_kept() -> None:
    ssh = "ssh: connect to host h port 22: Connection refused\nfatal: Could not read from remote repository.\n\nPlease make sure\n"
    with pytest.raises(GitFailedError) as told:
        Outcome(128, b"", ssh).checked("fetch")
    assert told.value.reason == "ssh: connect to host h port 22: Connection refused"
    path = "fatal: '/gone' does not appear to be a git repository\nfatal: Could not read from remote repository.\n"
    with pytest.raises(GitFailedError) as told:
        Outcome(128, b"", path).checked("fetch")
    assert told.value.reason == "there is no such remote repository: '/gone' does not appear to be a git repository"
