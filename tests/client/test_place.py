"""Finding the clone, and names of files in it, from every place that people and hooks work in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sudocode_coordination.errors import NotARepositoryError, ResourceError, StorageError
from sudocode_coordination.place import (
    HOME_FILE,
    IDENTITY_FILE,
    MAX_SOCKET_PATH_BYTES,
    SOCKET_POINTER,
    Clone,
    copied_from,
    find_clone,
    home_of,
    private_dir,
    repo_relative,
    runtime_dir,
    runtime_socket_path,
    socket_path,
)


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repo(short_tmp: Path) -> Path:
    folder = (short_tmp / "répo with space").resolve()
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "src").mkdir()
    (folder / "src" / "a.py").write_text("1")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "one")
    return folder


def same_as_git(folder: Path, clone: Clone) -> None:
    common = Path(git(folder, "rev-parse", "--git-common-dir"))
    assert Path(clone.common_dir) == (folder / common).resolve()


def test_from_a_folder_below_and_from_a_file(repo: Path) -> None:
    for start in (repo, repo / "src", repo / "src" / "a.py", repo / "not" / "there"):
        assert find_clone(start) == Clone(str(repo / ".git"), str(repo))
    same_as_git(repo / "src", find_clone(repo / "src"))


def test_a_pointer_that_came_along_with_a_copied_folder_is_not_followed(repo: Path, short_tmp: Path) -> None:
    clone = find_clone(repo)
    Path(clone.state_dir).mkdir()
    Path(clone.state_file(SOCKET_POINTER)).write_text(runtime_socket_path(clone))
    assert socket_path(clone) == runtime_socket_path(clone)
    shutil.copytree(repo, short_tmp / "copy")
    copy = find_clone(short_tmp / "copy")
    assert socket_path(copy) == copy.state_file("daemon.sock")


def test_a_copy_is_told_from_a_moved_folder(repo: Path, short_tmp: Path) -> None:
    clone = find_clone(repo)
    Path(clone.state_dir).mkdir()
    assert copied_from(clone) is None
    Path(clone.state_file(IDENTITY_FILE)).write_bytes(b"key")
    Path(clone.state_file(HOME_FILE)).write_text(home_of(clone))
    assert copied_from(clone) is None
    shutil.copytree(repo, short_tmp / "copy")
    copy = find_clone(short_tmp / "copy")
    assert copied_from(copy) == clone.common_dir
    Path(copy.state_file(IDENTITY_FILE)).write_bytes(b"another")
    assert copied_from(copy) is None
    repo.rename(short_tmp / "moved")
    assert copied_from(find_clone(short_tmp / "moved")) is None


def test_linked_worktrees_share_the_common_directory(repo: Path, short_tmp: Path) -> None:
    git(repo, "worktree", "add", "-q", str(short_tmp / "wt"))
    clone = find_clone(short_tmp / "wt")
    assert clone == Clone(str(repo / ".git"), str((short_tmp / "wt").resolve()))
    same_as_git(short_tmp / "wt", clone)
    assert clone.state_dir == find_clone(repo).state_dir


def test_bare_repositories_and_worktrees_inside_one(repo: Path, short_tmp: Path) -> None:
    bare = (short_tmp / "bare.git").resolve()
    git(short_tmp, "clone", "-q", "--bare", str(repo), str(bare))
    assert find_clone(bare) == Clone(str(bare), None)
    assert find_clone(bare / "refs") == Clone(str(bare), None)
    git(bare, "worktree", "add", "-q", str(bare / "tree"))
    clone = find_clone(bare / "tree")
    assert clone == Clone(str(bare), str(bare / "tree"))
    assert repo_relative(clone, bare / "tree", "src/a.py") == "src/a.py"
    assert repo_relative(find_clone(bare), bare, "src/a.py") == "src/a.py"
    assert repo_relative(clone, bare / "tree", "src") == "src/"


def test_in_a_bare_repository_what_is_checked_in_says_what_a_name_is(repo: Path, short_tmp: Path) -> None:
    (repo / "app" / "[id]").mkdir(parents=True)
    (repo / "app" / "[id]" / "page").touch()
    (repo / "link").symlink_to("src")
    git(repo, "add", ".")
    git(repo, "commit", "-q", "-m", "names")
    bare = short_tmp / "bare.git"
    git(short_tmp, "clone", "-q", "--bare", str(repo), str(bare))
    clone = find_clone(bare)
    for given, expected in {
        "src": "src/",
        "./src/": "src/",
        "app/[id]": "app/[id]/",
        "app/[id]/page/": "app/[id]/page",
        "link": "link",
        "new": "new",
        "new/": "new/",
        "src/*": "src/*",
    }.items():
        assert repo_relative(clone, bare, given) == expected, given
    git(bare, "symbolic-ref", "HEAD", "refs/heads/unborn")
    assert [repo_relative(clone, bare, name) for name in ("src", "src/")] == ["src", "src/"]


def test_a_link_with_a_slash_is_what_it_leads_to(repo: Path, short_tmp: Path) -> None:
    (repo / "out").symlink_to(short_tmp)
    (repo / "root").symlink_to(repo)
    clone = find_clone(repo)
    assert repo_relative(clone, repo, "out") == "out"
    with pytest.raises(ResourceError, match="outside"):
        repo_relative(clone, repo, "out/")
    with pytest.raises(ResourceError, match="repository itself"):
        repo_relative(clone, repo, "root/")


def test_a_submodule_is_a_repository_of_its_own(repo: Path, short_tmp: Path) -> None:
    outer = short_tmp / "outer"
    outer.mkdir()
    git(outer, "init", "-q")
    git(outer, "submodule", "--quiet", "add", str(repo), "sub")
    clone = find_clone(outer / "sub" / "src")
    same_as_git(outer / "sub", clone)
    assert clone.work_tree == str((outer / "sub").resolve())
    for path in ("sub/src/a.py", "sub"):
        with pytest.raises(ResourceError, match="another repository's") as caught:
            repo_relative(find_clone(outer), outer, path)
        assert "run coord there" in caught.value.hint


def test_inside_the_git_directory(repo: Path) -> None:
    assert find_clone(repo / ".git" / "hooks") == Clone(str(repo / ".git"), str(repo))


def test_through_a_symbolic_link(repo: Path, short_tmp: Path) -> None:
    (short_tmp / "link").symlink_to(repo)
    assert find_clone(short_tmp / "link" / "src") == Clone(str(repo / ".git"), str(repo))


def test_no_repository_says_so(short_tmp: Path) -> None:
    with pytest.raises(NotARepositoryError, match="no git repository"):
        find_clone(short_tmp)
    (short_tmp / ".git").write_text("gitdir: /nowhere\n")
    with pytest.raises(NotARepositoryError):
        find_clone(short_tmp)
    with pytest.raises(NotARepositoryError):
        find_clone("a\0b")


def test_hooks_environment_counts_only_without_an_explicit_start(
    repo: Path, short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = short_tmp / "other"
    other.mkdir()
    git(other, "init", "-q")
    git(repo, "worktree", "add", "-q", str(short_tmp / "wt"))
    monkeypatch.chdir(short_tmp / "wt")
    monkeypatch.setenv("GIT_DIR", str(repo / ".git" / "worktrees" / "wt"))
    assert find_clone() == Clone(str(repo / ".git"), str((short_tmp / "wt").resolve()))
    assert find_clone(other).work_tree == str(other.resolve())
    monkeypatch.setenv("GIT_DIR", str(short_tmp / "nothing"))
    with pytest.raises(NotARepositoryError, match="GIT_DIR"):
        find_clone()
    monkeypatch.setenv("GIT_DIR", ".git")
    monkeypatch.chdir(repo)
    assert find_clone() == Clone(str(repo / ".git"), str(repo))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert find_clone() == Clone(str(repo / ".git"), str(other.resolve()))
    assert repo_relative(find_clone(), other, "new/file") == "new/file"


def test_file_names_are_the_same_from_everywhere(repo: Path, short_tmp: Path) -> None:
    git(repo, "worktree", "add", "-q", str(short_tmp / "wt"))
    (repo / "linked").symlink_to("src")
    (repo / "[x]").symlink_to("src")
    (repo / "src" / "auth").mkdir()
    (repo / "loose").symlink_to("nowhere")
    (repo / "app" / "[id]").mkdir(parents=True)
    (repo / "[y]" / "b").mkdir(parents=True)
    clone = find_clone(repo)
    cases = [
        (repo, "src/a.py", "src/a.py"),
        (repo / "src", "a.py", "src/a.py"),
        (repo / "src", "../new/deep/ünï.txt", "new/deep/ünï.txt"),
        (repo, str(repo / "src" / "a.py"), "src/a.py"),
        (short_tmp / "wt", "src/a.py", "src/a.py"),
        (repo, str(short_tmp / "wt" / "src" / "b.py"), "src/b.py"),
        (repo, "linked/a.py", "src/a.py"),
        (repo, "linked", "linked"),
        (repo, "./src//a.py", "src/a.py"),
        (repo, "src/", "src/"),
        (repo, "src", "src/"),
        (repo, "./src/auth", "src/auth/"),
        (repo / "src", "auth", "src/auth/"),
        (repo, str(repo / "src"), "src/"),
        (repo / "src" / "auth", ".", "src/auth/"),
        (repo, "linked/auth", "src/auth/"),
        (repo, "linked/", "src/"),
        (repo, "loose/", "loose"),
        (repo, "src/a.py/", "src/a.py"),
        (repo, "new", "new"),
        (repo, "new/", "new/"),
        (repo, "app/[id]", "app/[id]/"),
        (repo, "app/[ix]", "app/[ix]"),
        (repo, "src/*", "src/*"),
        (repo / "src", "./", "src/"),
        (repo, "src/*.py", "src/*.py"),
        (repo / "src", "auth/*", "src/auth/*"),
        (repo / "src", "*/", "src/*/"),
        (repo / "src", "**", "src/**"),
        (repo / "src", "../[ab]/./x?/../y.py", "[ab]/y.py"),
        (repo, "**/*.py", "**/*.py"),
        (repo, "linked/*/a.py", "src/*/a.py"),
        (repo, "[x]/a.py", "[x]/a.py"),
        (repo / "[y]", "a.py", "[y]/a.py"),
        (repo / "[y]", "b/*", "[y]/b/*"),
        (repo, str(repo / "src" / "*.py"), "src/*.py"),
        (repo, "*/../../x", None),
        (repo, "src/../src/..", None),
    ]
    for cwd, path, expected in cases:
        if expected is None:
            with pytest.raises(ResourceError, match=r"repository itself|outside"):
                repo_relative(clone, cwd, path)
        else:
            assert repo_relative(clone, cwd, path) == expected, path


@pytest.mark.parametrize("path", ["", "  ", "..", "../x", "/etc/passwd", ".", ".git/config", "a\0b", "\udcff", "src/../../y"])
def test_what_is_no_file_of_the_repository_is_refused_with_a_hint(repo: Path, path: str) -> None:
    with pytest.raises(ResourceError) as caught:
        repo_relative(find_clone(repo), repo, path)
    assert caught.value.hint


def test_long_paths_get_a_short_socket(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = Clone("/" + "x" * 120 + "/.git", None)
    path = socket_path(deep)
    assert len(os.fsencode(path)) < MAX_SOCKET_PATH_BYTES
    assert path.startswith(os.environ["XDG_RUNTIME_DIR"])
    assert path == socket_path(deep) != socket_path(Clone("/" + "y" * 120 + "/.git", None))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_tmp / ("z" * 90)))
    assert runtime_dir(40) == f"/tmp/sudocode-coordination-{os.getuid()}"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert runtime_dir() == f"/tmp/sudocode-coordination-{os.getuid()}"
    short = Clone(str(short_tmp), None)
    assert socket_path(short) == f"{short_tmp}/sudocode-coordination/daemon.sock"
    (short_tmp / "sudocode-coordination").mkdir()
    named = Path(runtime_socket_path(short)).name
    (short_tmp / "sudocode-coordination" / "socket-path").write_text(f"/elsewhere/{named}\n")
    assert socket_path(short) == f"/elsewhere/{named}"


def test_private_folders_refuse_what_is_not_ours(short_tmp: Path) -> None:
    private_dir(str(short_tmp / "mine"))
    (short_tmp / "open").mkdir(mode=0o777)
    private_dir(str(short_tmp / "open"))
    assert [(short_tmp / n).stat().st_mode & 0o777 for n in ("mine", "open")] == [0o700, 0o700]
    (short_tmp / "link").symlink_to(short_tmp / "mine")
    (short_tmp / "file").write_text("")
    for name in ("link", "file"):
        with pytest.raises(StorageError):
            private_dir(str(short_tmp / name))


def test_loading_it_loads_nothing_else() -> None:
    code = (
        "import sys; before = set(sys.modules); import sudocode_coordination.place; "
        "new = set(sys.modules) - before; print(sorted(m for m in new if m.split('.')[0] in "
        "('msgspec', 're', 'subprocess', 'pathlib', 'json', 'hashlib', 'trio', 'anyio')))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = done.stdout.strip()
    assert loaded == "[]"
