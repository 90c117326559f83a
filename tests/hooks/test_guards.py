"""Git's hooks: no commit and no push of what another agent has leased; what was there before runs as before."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.clones import COORD, Clone, connected, repository, wait_for

from sudocode_coordination.cli.guard import _pushed, _staged
from sudocode_coordination.client.plain import ask
from sudocode_coordination.hooks.git import BEGIN, KEPT, install, places, remove
from sudocode_coordination.place import find_clone, socket_path

pytestmark = pytest.mark.usefixtures("warm_daemons")


@pytest.fixture(scope="module")
def swarm() -> Iterator[tuple[Clone, Clone]]:
    with repository("alice", "bob") as (alice, bob):
        alice.start()
        bob.start()
        wait_for("they meet", lambda: connected(alice, bob), 20.0)
        alice.coord("guard", "install")
        yield alice, bob


def commit(clone: Clone, folder: Path | None = None, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", "commit", "-qm", "work", *more],
        cwd=folder or clone.folder,
        env={key: value for key, value in os.environ.items() if key != "COORD_AGENT"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def stage(clone: Clone, name: str, text: str, folder: Path | None = None) -> None:
    path = (folder or clone.folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    subprocess.run(["git", "add", "--", name], cwd=folder or clone.folder, check=True)


def lease(clone: Clone, other: Clone, path: str) -> None:
    clone.coord("lease", path)
    wait_for("the other sees it", lambda: path in other.coord("leases", "--all").stdout)


def test_a_commit_of_what_another_holds_is_refused_and_can_be_overridden(swarm: tuple[Clone, Clone]) -> None:
    alice, bob = swarm
    lease(bob, alice, "src/held.py")
    stage(alice, "src/held.py", "x\n")
    refused = commit(alice)
    assert refused.returncode != 0
    assert "src/held.py: held by bob" in refused.stderr
    assert "COORD_OVERRIDE" in refused.stderr
    assert commit(alice, COORD_OVERRIDE="agreed by phone").returncode == 0
    wait_for("bob is told", lambda: "agreed by phone" in bob.coord("messages").stdout)
    bob.coord("release", "src/held.py")
    stage(alice, "free.py", "x\n")
    assert commit(alice).returncode == 0


def test_what_a_commit_stages_by_itself_is_looked_at_too(swarm: tuple[Clone, Clone]) -> None:
    alice, _ = swarm
    stage(alice, "src/whole.py", "x\n")
    stage(alice, "src/other.py", "x\n")
    assert commit(alice).returncode == 0
    alice.coord("--agent", "helper", "lease", "src/whole.py")
    for name in ("src/whole.py", "src/other.py"):
        (alice.folder / name).write_text("y\n")
    # Both make an index of their own; the second one from a folder below.
    for refused in (commit(alice, None, "-a"), commit(alice, alice.folder / "src", "--", "whole.py")):
        assert "src/whole.py: held by helper" in refused.stderr
        assert refused.returncode != 0
    # What is left out of the commit is nobody's obstacle, though it is staged.
    stage(alice, "src/whole.py", "z\n")
    assert commit(alice, alice.folder / "src", "--", "other.py").returncode == 0
    alice.coord("--agent", "helper", "release", "--all")
    alice.git("reset", "-q", "--hard")


def test_own_leases_and_those_of_the_session_above_are_no_obstacle(swarm: tuple[Clone, Clone]) -> None:
    alice, _ = swarm
    alice.coord("lease", "mine.py")
    stage(alice, "mine.py", "x\n")
    assert commit(alice).returncode == 0
    # Another agent of the same clone is another agent …
    alice.coord("--agent", "helper", "lease", "helped.py")
    stage(alice, "helped.py", "x\n")
    refused = commit(alice)
    assert "helped.py: held by helper" in refused.stderr
    assert commit(alice, COORD_AGENT="helper").returncode == 0
    # … unless its session runs above git: this very process stands for it.
    session = {"resources": [["file", "session.py"]], "agent": "claude-x", "process": os.getpid()}
    assert ask(socket_path(find_clone(alice.folder)), "touch", session, 10)["granted"]
    stage(alice, "session.py", "x\n")
    assert commit(alice).returncode == 0
    ask(socket_path(find_clone(alice.folder)), "agent.detach", {"agent": "claude-x"}, 10)
    for agent in ("helper", "alice"):
        alice.coord("--agent", agent, "release", "--all")


def test_a_push_of_what_another_holds_is_refused(swarm: tuple[Clone, Clone]) -> None:
    alice, bob = swarm
    stage(alice, "pushed.py", "x\n")
    assert commit(alice).returncode == 0
    lease(bob, alice, "pushed.py")
    pushed = subprocess.run(
        ["git", "push", "-q", "origin", "HEAD:refs/heads/side"], cwd=alice.folder, capture_output=True, text=True, check=False
    )
    assert pushed.returncode != 0
    assert "pushed.py: held by bob" in pushed.stderr
    assert "side" not in alice.git("ls-remote", "--heads", "origin")
    bob.coord("release", "pushed.py")
    wait_for("free", lambda: "pushed.py" not in alice.coord("leases", "--all").stdout)
    subprocess.run(["git", "push", "-q", "origin", "HEAD:refs/heads/side"], cwd=alice.folder, check=True)
    assert "side" in alice.git("ls-remote", "--heads", "origin")


def test_a_push_after_a_strict_lease_was_lost_is_refused(swarm: tuple[Clone, Clone]) -> None:
    alice, bob = swarm
    alice.coord("lease", "strict.py", "--strict")
    stage(alice, "strict.py", "x\n")
    assert commit(alice).returncode == 0
    bob.coord("lease", "strict.py", "--strict", "--priority", "9")
    wait_for("alice has lost it", lambda: any(e["agentId"] == "alice" for e in alice.events("lease-lost")))
    push = ["git", "push", "-q", "origin", "HEAD:refs/heads/strict"]
    refused = subprocess.run(
        push, cwd=alice.folder, capture_output=True, text=True, check=False, env={**os.environ, "COORD_OVERRIDE": "no"}
    )
    assert refused.returncode != 0, "no word overrides a token"
    assert "strict.py" in refused.stderr
    bob.coord("release", "--all")
    wait_for("free", lambda: "strict.py" not in alice.coord("leases", "--all").stdout)
    assert "alice lost its strict lease on strict.py" in alice.coord("guard", "check", "strict.py", expect=3).stderr
    alice.coord("release", "--all")
    alice.coord("guard", "check", "strict.py")
    subprocess.run(push, cwd=alice.folder, check=True)


def test_linked_worktrees_have_the_guards_too(swarm: tuple[Clone, Clone], tmp_path: Path) -> None:
    alice, bob = swarm
    tree = tmp_path / "linked ü tree"
    alice.git("worktree", "add", "-q", str(tree), "-b", "linked")
    lease(bob, alice, "linked.py")
    stage(alice, "linked.py", "x\n", tree)
    assert "linked.py: held by bob" in commit(alice, tree).stderr
    bob.coord("release", "linked.py")


def test_ci_asks_for_what_a_branch_changes(swarm: tuple[Clone, Clone]) -> None:
    alice, bob = swarm
    stage(alice, "ci.py", "x\n")
    assert commit(alice).returncode == 0
    lease(bob, alice, "ci.py")
    found = alice.json("guard", "check", "--base", "HEAD~1", expect=3)
    assert [c["resource"] for c in found["conflicts"]] == [["file", "ci.py"]]
    assert found["error"]["code"] == "held"
    assert alice.json("guard", "check", "ci.py", expect=3)["conflicts"]
    bob.coord("release", "ci.py")
    wait_for("free", lambda: alice.coord("guard", "check", "ci.py", expect=None).returncode == 0)
    assert alice.coord("guard", "check", expect=2).stderr
    assert "no revision" in alice.coord("guard", "check", "--base=-x", expect=2).stderr


def test_without_a_daemon_nothing_is_held_up(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    alone = Clone(tmp_path)
    alone.coord("guard", "install")
    stage(alone, "a.py", "x\n")
    done = commit(alone)
    assert done.returncode == 0
    assert "not checked" in done.stderr


# --- what was there before --------------------------------------------------------------------------------------------------


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    return tmp_path


def _hook(repo: Path, name: str, text: str, folder: str = ".git/hooks") -> Path:
    path = repo / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def _install(repo: Path) -> None:
    for place in places(repo):
        install(place)


def _remove(repo: Path) -> None:
    for place in places(repo):
        remove(place)


SHELL_HOOK = '#!/usr/bin/env bash\n# of ours\necho "$0 $*" >> "$TRACE"; cat >> "$TRACE"\nexit 0\n'
PYTHON_HOOK = """#!/usr/bin/env python3
import os, sys
open(os.environ["TRACE"], "a").write("python " + " ".join(sys.argv[1:]) + sys.stdin.read())
"""


@pytest.mark.parametrize("text", [SHELL_HOOK, PYTHON_HOOK])
def test_a_hook_that_is_there_still_gets_its_arguments_and_input(
    repo: Path, text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    hook = _hook(repo, "pre-push", text)
    trace = tmp_path_factory.mktemp("trace") / "trace"
    _install(repo)
    _install(repo)
    assert hook.read_text().count(BEGIN) == 1
    given = "refs/heads/a 1 refs/heads/a 2\nrefs/heads/b 3 refs/heads/b 4\n"
    subprocess.run(
        [str(hook), "origin", "url"],
        input=given.replace(" 1 ", f" {'0' * 40} ").replace(" 3 ", f" {'0' * 40} "),
        cwd=repo,
        env={**os.environ, "TRACE": str(trace)},
        text=True,
        check=True,
        capture_output=True,
    )
    told = trace.read_text()
    assert "origin url" in told
    assert "refs/heads/b" in told
    _remove(repo)
    assert hook.read_text() == text
    assert sorted(path.name for path in hook.parent.iterdir() if not path.name.endswith(".sample")) == ["pre-push"]


def test_a_failing_hook_behind_the_guard_still_fails(repo: Path) -> None:
    hook = _hook(repo, "pre-commit", "#!/bin/sh\nexit 7\n")
    _install(repo)
    assert subprocess.run([str(hook)], cwd=repo, check=False, capture_output=True).returncode == 7


def test_a_guard_that_can_not_run_keeps_nobody_from_working_and_is_written_anew(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = _hook(repo, "pre-commit", SHELL_HOOK)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("sudocode_coordination.hooks.git.program", lambda: "/gone/bin/coord")
        _install(repo)
    alone, trace = Clone(repo), repo / "trace"
    stage(alone, "a.py", "x\n")
    done = commit(alone, TRACE=str(trace))
    assert done.returncode == 0
    assert "not checked" in done.stderr
    assert "coord init --yes" in done.stderr
    assert trace.exists(), "what is behind it runs"
    assert "guards" in alone.coord("init", "--yes").stdout
    assert "/gone" not in hook.read_text()
    assert "nothing to do" in alone.coord("init", "--yes").stdout
    _remove(repo)
    assert hook.read_text() == SHELL_HOOK


def test_a_hook_that_was_switched_off_stays_so(repo: Path) -> None:
    hook = _hook(repo, "pre-commit", "#!/bin/sh\nexit 7\n")
    hook.chmod(0o644)
    _install(repo)
    _install(repo)
    assert subprocess.run([str(hook)], cwd=repo, check=False, capture_output=True).returncode == 0
    assert all(place.is_current for place in places(repo))
    _remove(repo)
    assert (hook.read_text(), hook.stat().st_mode & 0o777) == ("#!/bin/sh\nexit 7\n", 0o644)


def test_what_another_program_put_in_the_place_of_our_hook_runs_and_stays(repo: Path) -> None:
    hook = _hook(repo, "pre-commit", PYTHON_HOOK)
    _install(repo)
    _hook(repo, "pre-commit", "#!/bin/sh\nexit 7\n")
    _install(repo)
    assert subprocess.run([str(hook)], cwd=repo, check=False, capture_output=True).returncode == 7
    _remove(repo)
    assert hook.read_text() == "#!/bin/sh\nexit 7\n"
    assert hook.with_name(hook.name + KEPT).read_text() == PYTHON_HOOK


def test_hooks_of_all_of_a_user_s_repositories_are_told_of_and_quiet_in_others(
    repo: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    hooks, other = tmp_path_factory.mktemp("hooks"), tmp_path_factory.mktemp("other")
    subprocess.run(["git", "init", "-q", str(other)], check=True)
    for folder in (repo, other):
        subprocess.run(["git", "config", "core.hooksPath", str(hooks)], cwd=folder, check=True)
    assert "for all repositories with these hooks" in Clone(repo).coord("init", "--yes").stdout
    alone = Clone(other)
    stage(alone, "a.py", "x\n")
    done = commit(alone)
    assert (done.returncode, done.stderr) == (0, "")


def test_hooks_that_are_switched_off_are_told_of(repo: Path) -> None:
    subprocess.run(["git", "config", "core.hooksPath", "/dev/null"], cwd=repo, check=True)
    done = subprocess.run([COORD, "guard", "install"], cwd=repo, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "hooks are switched off" in done.stderr
    assert "core.hooksPath" in done.stderr


def test_what_a_push_brings(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Of a branch that is new there, by the remote's name and by its URL."""
    url = str(tmp_path_factory.mktemp("hub"))
    subprocess.run(["git", "init", "-q", "--bare", url], check=True)
    alone = Clone(repo)
    alone.git("remote", "add", "origin", url)
    stage(alone, "old.py", "x\n")
    assert commit(alone).returncode == 0
    alone.git("push", "-q", "origin", "HEAD:refs/heads/main")
    stage(alone, "new.py", "x\n")
    assert commit(alone).returncode == 0
    told = [f"refs/heads/side {alone.git('rev-parse', 'HEAD').strip()} refs/heads/side {'0' * 40}", ""]
    for remote in ("origin", url):
        assert _pushed(str(repo), remote, told) == ["new.py"]


def test_what_others_have_pushed_comes_with_a_merge_and_is_nobody_s_change(
    repo: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    url = str(tmp_path_factory.mktemp("hub"))
    subprocess.run(["git", "init", "-q", "--bare", url], check=True)
    alone = Clone(repo)
    alone.git("remote", "add", "origin", url)

    def commits(*names: str) -> None:
        for name in names:
            stage(alone, name, f"{names}\n")
        assert commit(alone).returncode == 0

    commits("base.py")
    alone.git("checkout", "-q", "-b", "theirs")
    commits("theirs.py", "both.py")
    alone.git("push", "-q", "origin", "theirs")
    alone.git("checkout", "-q", "-b", "side", "HEAD~1")
    commits("both.py")
    alone.git("push", "-q", "origin", "side")
    there = alone.git("rev-parse", "HEAD").strip()
    subprocess.run(["git", "merge", "-q", "theirs"], cwd=repo, check=False, capture_output=True)
    stage(alone, "both.py", "agreed\n")
    assert _staged(str(repo), None) == ["both.py"]
    assert commit(alone).returncode == 0
    commits("mine.py")
    commits("back.py")
    alone.git("revert", "--no-edit", "HEAD")
    told = [f"refs/heads/side {alone.git('rev-parse', 'HEAD').strip()} refs/heads/side {there}"]
    assert sorted(_pushed(str(repo), "origin", told)) == ["both.py", "mine.py"]


def test_hooks_are_where_git_looks_for_them(repo: Path) -> None:
    subprocess.run(["git", "config", "core.hooksPath", "tools/hooks"], cwd=repo, check=True)
    _install(repo)
    assert BEGIN in (repo / "tools" / "hooks" / "pre-commit").read_text()
    assert not (repo / ".git" / "hooks" / "pre-commit").exists()
    _remove(repo)
    assert list((repo / "tools" / "hooks").iterdir()) == []


def test_husky_s_own_hooks_are_the_ones_that_stay(repo: Path) -> None:
    subprocess.run(["git", "config", "core.hooksPath", ".husky/_"], cwd=repo, check=True)
    before = "npx lint-staged\n"
    hook = _hook(repo, "pre-commit", before, ".husky")
    _hook(repo, "pre-commit", "#!/bin/sh\n. h\n", ".husky/_")
    _install(repo)
    text = hook.read_text()
    assert BEGIN in text
    assert text.index("guard check") < text.index("lint-staged") or text.startswith(before)
    assert BEGIN not in (repo / ".husky" / "_" / "pre-commit").read_text()
    _remove(repo)
    assert hook.read_text() == before


def test_a_name_that_is_taken_is_told(repo: Path) -> None:
    hook = _hook(repo, "pre-commit", PYTHON_HOOK)
    hook.with_name(hook.name + KEPT).write_text("mine")
    done = subprocess.run([COORD, "guard", "install"], cwd=repo, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is there already" in done.stderr
    assert hook.read_text() == PYTHON_HOOK
