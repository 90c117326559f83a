"""Nothing of the user's is touched: everything in and around a clone is the same, byte for byte, after reads and publishes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from tests.conformance.git_bench import BRANCH, Handle, files_on, git, make_remote, running_loop
from tests.conformance.table_bench import STATE, TableHandle, landed, table, table_on, tip_of

from sudocode_coordination.core.io import BranchPublished, BranchRead, TableBuilt

TRACKING: Final = ("refs/remotes/origin/coordination", "refs/remotes/origin", "refs/remotes")
"""What may appear: the tracking ref, and its folders in a clone that had none."""
MIRRORED: Final = "clone.git/refs/heads/coordination"
"""In a mirror this is the tracking ref by the user's own refspec, and git keeps it when it pushes."""


def snapshot(*roots: Path) -> dict[str, tuple[object, ...]]:
    """Every file, folder and link: path -> mode, time of change and content; of objects only that they are still there."""
    found: dict[str, tuple[object, ...]] = {}
    for root in roots:
        for folder, folders, files in os.walk(root):
            for name in [*folders, *files]:
                path = Path(folder, name)
                status = path.lstat()
                if path.is_symlink():
                    content: object = path.readlink()
                elif path.is_dir():
                    content = "folder"
                else:
                    content = path.read_bytes()
                # A folder's time changes with the lock files that come and go in it.
                time_ns = status.st_mtime_ns if content != "folder" else 0
                found[f"{root.name}/{path.relative_to(root)}"] = (status.st_mode, time_ns, content)
    return found


def is_allowed(path: str) -> bool:
    """New objects, and the tracking ref."""
    return "/objects/" in f"/{path}/" or path.endswith(TRACKING)


def refs_of(folder: Path) -> str:
    """All refs but the tracking one, the reflogs of all, and the stash."""
    refs = git(folder, "for-each-ref", "--format=%(objectname) %(refname) %(symref)")
    logs = git(folder, "reflog", "show", "--all") if git(folder, "rev-list", "--all", "--max-count=1") else ""
    return "\n".join(line for line in refs.splitlines() if not line.split()[1].endswith("/coordination")) + logs


def commit(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text, "utf-8")
    git(folder, "add", name)
    git(folder, "commit", "-q", "-m", f"{name}: {text}")


def plain(base: Path, bare: Path) -> tuple[Path, Path]:
    git(base, "clone", "-q", str(bare), "clone")
    return base / "clone", base / "clone" / ".git"


def dirty(base: Path, bare: Path) -> tuple[Path, Path]:
    clone, git_dir = plain(base, bare)
    (clone / "file.txt").write_text("changed\n", "utf-8")
    (clone / "staged.txt").write_text("staged\n", "utf-8")
    git(clone, "add", "staged.txt")
    (clone / "untracked ü.txt").write_text("untracked\n", "utf-8")
    (clone / ".sudocode" / "coordination" / "peers").mkdir(parents=True)
    (clone / ".sudocode" / "coordination" / "peers" / "agent-mine.json").write_text("the user's own", "utf-8")
    return clone, git_dir


def stashed(base: Path, bare: Path) -> tuple[Path, Path]:
    clone, git_dir = plain(base, bare)
    (clone / "file.txt").write_text("in the stash\n", "utf-8")
    git(clone, "stash", "-q")
    git(clone, "pack-refs", "--all")
    git(clone, "fetch", "-q")
    return clone, git_dir


def detached(base: Path, bare: Path) -> tuple[Path, Path]:
    clone, git_dir = plain(base, bare)
    git(clone, "checkout", "-q", "--detach", "HEAD~1")
    return clone, git_dir


def rebasing(base: Path, bare: Path) -> tuple[Path, Path]:
    clone, git_dir = plain(base, bare)
    git(clone, "checkout", "-q", "-b", "topic", "HEAD~1")
    commit(clone, "file.txt", "conflict\n")
    failed = subprocess.run(["git", "rebase", "-q", "main"], cwd=clone, capture_output=True, check=False)
    assert failed.returncode != 0
    assert (git_dir / "rebase-merge").is_dir()
    return clone, git_dir


def merging(base: Path, bare: Path) -> tuple[Path, Path]:
    clone, git_dir = plain(base, bare)
    git(clone, "checkout", "-q", "-b", "topic", "HEAD~1")
    commit(clone, "file.txt", "conflict\n")
    failed = subprocess.run(["git", "merge", "-q", "main"], cwd=clone, capture_output=True, check=False)
    assert failed.returncode != 0
    assert (git_dir / "MERGE_HEAD").is_file()
    return clone, git_dir


def linked_worktree(base: Path, bare: Path) -> tuple[Path, Path]:
    clone, git_dir = plain(base, bare)
    git(clone, "worktree", "add", "-q", "-b", "side", str(base / "work tree ü"))
    (base / "work tree ü" / "file.txt").write_text("changed there\n", "utf-8")
    return base / "work tree ü", git_dir


def bare_clone(base: Path, bare: Path) -> tuple[Path, Path]:
    git(base, "clone", "-q", "--bare", str(bare), "clone.git")
    return base / "clone.git", base / "clone.git"


def mirror_clone(base: Path, bare: Path) -> tuple[Path, Path]:
    git(base, "clone", "-q", "--mirror", str(bare), "clone.git")
    return base / "clone.git", base / "clone.git"


def shallow(base: Path, bare: Path) -> tuple[Path, Path]:
    git(base, "clone", "-q", "--depth=1", f"file://{bare}", "clone")
    assert (base / "clone" / ".git" / "shallow").is_file()
    return base / "clone", base / "clone" / ".git"


def single_branch(base: Path, bare: Path) -> tuple[Path, Path]:
    git(base, "clone", "-q", "--single-branch", "--no-tags", str(bare), "clone")
    return base / "clone", base / "clone" / ".git"


def submodule(base: Path, bare: Path) -> tuple[Path, Path]:
    git(base, "init", "-q", "super")
    git(base / "super", "submodule", "--quiet", "add", str(bare), "the sub")
    git(base / "super", "commit", "-q", "-m", "with a submodule")
    git_dir = base / "super" / ".git" / "modules" / "the sub"
    assert git_dir.is_dir()
    return base / "super" / "the sub", git_dir


def superproject(base: Path, bare: Path) -> tuple[Path, Path]:
    library = make_remote(base, "library.git")
    clone, git_dir = plain(base, bare)
    git(clone, "submodule", "--quiet", "add", str(library), "library")
    git(clone, "commit", "-q", "-m", "with a submodule")
    git(clone, "config", "submodule.recurse", "true")
    git(clone, "config", "push.recurseSubmodules", "on-demand")
    return clone, git_dir


def separate_git_dir(base: Path, bare: Path) -> tuple[Path, Path]:
    git(base, "clone", "-q", "--separate-git-dir", str(base / "elsewhere"), str(bare), "clone")
    return base / "clone", base / "elsewhere"


def unborn(base: Path, bare: Path) -> tuple[Path, Path]:
    git(base, "init", "-q", "clone")
    git(base / "clone", "remote", "add", "origin", str(bare))
    return base / "clone", base / "clone" / ".git"


def opinionated(base: Path, bare: Path) -> tuple[Path, Path]:
    """Settings that make a careless fetch or push touch more than it should."""
    clone, git_dir = plain(base, bare)
    for key, value in {
        "fetch.prune": "true",
        "fetch.pruneTags": "true",
        "fetch.writeCommitGraph": "true",
        "fetch.recurseSubmodules": "true",
        "remote.origin.tagOpt": "--tags",
        "push.followTags": "true",
        "push.default": "matching",
        "push.gpgSign": "if-asked",
        "push.autoSetupRemote": "true",
        "core.logAllRefUpdates": "always",
        "core.fsmonitor": "true",
        "gc.auto": "1",
        "commit.gpgSign": "true",
        "core.autocrlf": "true",
    }.items():
        git(clone, "config", key, value)
    git(clone, "tag", "-a", "-m", "local", "v-local")
    git(bare, "tag", "v-remote", "main")
    git(bare, "branch", "new-on-remote", "main")
    return clone, git_dir


KINDS: Final = (
    plain,
    dirty,
    stashed,
    detached,
    rebasing,
    merging,
    linked_worktree,
    bare_clone,
    mirror_clone,
    shallow,
    single_branch,
    submodule,
    superproject,
    separate_git_dir,
    unborn,
    opinionated,
)


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_nothing_of_the_users_is_touched(tmp_path: Path, make: Callable[[Path, Path], tuple[Path, Path]]) -> None:
    bare = make_remote(tmp_path, commits=3)
    base = tmp_path / "home of ü"
    base.mkdir()
    clone, git_dir = make(base, bare)
    git(tmp_path, "clone", "-q", str(bare), "other")
    on_remote = git(bare, "for-each-ref")
    before, refs = snapshot(base), refs_of(clone)
    with running_loop() as loop:
        work_tree = None if git_dir == clone else clone
        mine = Handle(loop, git_dir, work_tree=work_tree, max_history=2, rules_folder=tmp_path / "rules")
        other = Handle(loop, tmp_path / "other" / ".git", max_history=2)
        assert isinstance(mine.read(), BranchRead)
        for n in range(2):
            for who, handle in (("mine", mine), ("other", other)):
                done = handle.publish({f"agent-{who}.json": b"%d" % n})
                assert isinstance(done, BranchPublished), done
                assert isinstance(mine.read(), BranchRead)
        final = mine.publish({"agent-mine.json": None}, final=True)
        assert isinstance(final, BranchPublished), final
    assert files_on(bare) == {"agent-other.json": b"1"}
    after = snapshot(base)
    new = {path for path in after if path not in before and not is_allowed(path)}
    assert new == ({f"{base.name}/{MIRRORED}"} if make is mirror_clone else set())
    assert {path for path in before if path not in after} == set()
    assert {path for path in before if after[path] != before[path] and not path.endswith(TRACKING)} == set()
    assert refs_of(clone) == refs
    tracking = git(clone, "rev-parse", TRACKING[0])
    assert tracking == git(bare, "rev-parse", f"refs/heads/{BRANCH}")
    git(clone, "fsck", "--connectivity-only")
    others = [line for line in git(bare, "for-each-ref").splitlines() if not line.endswith(f"refs/heads/{BRANCH}")]
    assert others == on_remote.splitlines(), "nothing else was pushed"


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_the_lease_table_touches_nothing_of_the_users(tmp_path: Path, make: Callable[[Path, Path], tuple[Path, Path]]) -> None:
    bare = make_remote(tmp_path, commits=3)
    base = tmp_path / "home of ü"
    base.mkdir()
    clone, git_dir = make(base, bare)
    git(tmp_path, "clone", "-q", str(bare), "other")
    on_remote = git(bare, "for-each-ref")
    before = snapshot(base)
    with running_loop() as loop:
        mine = TableHandle(loop, git_dir, work_tree=None if git_dir == clone else clone)
        other = TableHandle(loop, tmp_path / "other" / ".git")
        assert table(mine.read()).commit is None
        tip = landed(mine.swap(None, {"a/mine": b"1"}))
        assert table(other.read()).commit == tip
        tip = landed(other.swap(tip, {"a/other": b"1"}))
        assert table(mine.read()).changed == {"a/other": b"1"}
        tip = landed(mine.swap(tip, {"a/mine": None, "b/ü": b"2"}))
        assert isinstance(mine.build(tip, {"a/built": b"1"}), TableBuilt)
    assert table_on(bare) == {"a/other": b"1", "b/ü": b"2"}
    assert tip_of(bare) == tip
    ours = str(git_dir.relative_to(base.parent) / STATE)
    after = snapshot(base)
    assert {
        path for path in after if path not in before and not f"{path}/".startswith((f"{ours}/", str(Path(ours).parent)))
    } == set()
    assert {path for path in before if path not in after} == set()
    assert {path for path in before if after[path] != before[path]} == set()
    others = [line for line in git(bare, "for-each-ref").splitlines() if not line.endswith("refs/coordination/leases")]
    assert others == on_remote.splitlines(), "nothing else was pushed"
