"""What has changed in a worktree, as git's own commands say it. They take no lock and write nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from sudocode_coordination.adapters.gitrun import MAX_OUTPUT_BYTES, GitFailedError, GitRunner, Outcome
from sudocode_coordination.core.diff_entries import MAX_PARENTS, ObjectId

MAX_STATUS_BYTES: Final = 8 << 20
"""Of what `git status` says: some 80,000 changed or new files. Whoever has more has forgotten to ignore something."""
MAX_REFS: Final = 2_000
"""Branches on the remote that a base is looked for in, the latest first."""
MAX_REF_FOLDERS: Final = 1_000
"""Folders of them that are looked at for changes."""
SUBMODULE: Final = "160000"
SYMLINK: Final = "120000"


class Blob(NamedTuple):
    """A file in a tree."""

    mode: str
    id: ObjectId


class Changed(NamedTuple):
    """A path that differs from HEAD in the index or the worktree. `head`: None if it is not in HEAD."""

    path: str
    head: Blob | None
    mode: str = ""
    """Of the worktree's file, as git would add it; empty if git does not say."""
    staged: ObjectId = ""
    """Of the index, for submodules."""
    gone: bool = False
    """The worktree has it no more."""


class Status(NamedTuple):
    """`head` None: no commit yet. `unreadable`: paths that are in conflict, are repositories of their own, or are no text."""

    head: ObjectId | None
    branch: str
    changed: tuple[Changed, ...]
    unreadable: int


class WorktreeGit(GitRunner):
    """Runs commands in a worktree, also where the clone's configuration says that it has none (linked ones of a bare clone)."""

    def __init__(self, git_dir: Path, root: Path, remote: str, timeout_s: float) -> None:
        super().__init__(git_dir, root, remote, timeout_s)
        self._root = root

    async def run(
        self,
        *arguments: str,
        stdin: bytes | None = None,
        limit: int = MAX_OUTPUT_BYTES,
        environment: Mapping[str, str] | None = None,
    ) -> Outcome:
        """As `GitRunner.run`."""
        extra = {"GIT_WORK_TREE": str(self._root), **(environment or {})}
        return await super().run(*arguments, stdin=stdin, limit=limit, environment=extra)


async def read_status(git: GitRunner) -> Status:
    """Of the worktree that `git` runs in.

    Raises:
        GitFailedError: git can't tell, or it is too much.
    """
    arguments = ("--porcelain=v2", "--branch", "--no-ahead-behind", "-z", "--untracked-files=all", "--no-renames")
    # By one thread: what it takes of the processor is then no more than the time it takes, by which looks are paced.
    one_thread = ("-c", "core.preloadIndex=false")
    outcome = await git.run(*one_thread, "status", *arguments, "--ignore-submodules=dirty", limit=MAX_STATUS_BYTES)
    return parse_status(outcome.checked("status"))


def parse_status(listing: bytes) -> Status:
    """Of `git status --porcelain=v2 --branch -z`.

    Raises:
        GitFailedError: it is none.
    """
    head: ObjectId | None = None
    branch = ""
    changed: dict[str, Changed] = {}
    unreadable = 0
    for field in listing.split(b"\0")[:-1]:
        kind, _, rest = field.partition(b" ")
        if kind == b"#":
            name, _, value = rest.decode("utf-8", "replace").partition(" ")
            if name == "branch.oid" and value != "(initial)":
                head = value
            elif name == "branch.head" and value != "(detached)":
                branch = value
            continue
        parts = rest.split(b" ", 7) if kind == b"1" else [rest]
        try:
            path = parts[-1].decode()
        except UnicodeDecodeError:
            unreadable += 1
            continue
        if kind == b"1":
            if len(parts) != 8:
                raise GitFailedError("git status said something else than expected")
            _, _, mode_head, _, mode_here, id_head, id_index, _ = (part.decode("ascii", "replace") for part in parts)
            before = None if mode_head == "000000" else Blob(mode_head, id_head)
            gone = mode_here == "000000"
            changed[path] = Changed(path, before, "" if gone else mode_here, id_index, gone)
        elif kind == b"?" and not path.endswith("/"):
            # Taken out of the index and still there, it is told twice; `git add --all` would put it back.
            changed[path] = Changed(path, changed[path].head if path in changed else None)
        elif kind in (b"u", b"?"):
            unreadable += 1
        elif kind != b"!":
            raise GitFailedError("git status said something else than expected")
    return Status(head, branch, tuple(changed.values()), unreadable)


async def read_bases(git: GitRunner, remote: str, head: ObjectId, without: str) -> tuple[ObjectId, ...]:
    """The nearest ancestors of HEAD that are on the remote, as this clone knows it; none, if nothing of it is.

    Args:
        git: runs commands in the clone.
        remote: its name.
        head: a commit.
        without: a branch that has nothing to do with work.

    Raises:
        GitFailedError: git can't tell.
    """
    listed = await git.run(
        *("for-each-ref", f"--count={MAX_REFS}", "--sort=-committerdate"),
        *("--format=%(objectname) %(objecttype) %(refname)", f"refs/remotes/{remote}/"),
    )
    tips: dict[str, None] = {}
    for line in listed.checked("for-each-ref").decode("utf-8", "replace").splitlines():
        id_, kind, name = line.split(" ", 2)
        if kind == "commit" and name != f"refs/remotes/{remote}/{without}":
            tips[id_] = None
    if head in tips:
        return (head,)
    if not tips:
        return ()
    outcome = await git.run("merge-base", "--all", head, *tips)
    if outcome.code == 1:
        return ()
    return tuple(sorted(outcome.checked("merge-base").decode().split()))[:MAX_PARENTS]


async def read_committed(git: GitRunner, base: ObjectId, head: ObjectId) -> dict[str, tuple[Blob | None, Blob | None]]:
    """What was committed since a commit: path -> (before, now).

    Raises:
        GitFailedError: git can't tell, or it is too much.
    """
    if base == head:
        return {}
    outcome = await git.run("diff-tree", "-r", "-z", "--raw", "--no-renames", "--full-index", base, head, limit=MAX_STATUS_BYTES)
    return dict(parse_raw(outcome.checked("diff-tree")))


def parse_raw(listing: bytes) -> Iterator[tuple[str, tuple[Blob | None, Blob | None]]]:
    """Of `git diff-tree -r -z --raw`; paths that are no text are left out."""
    fields = listing.split(b"\0")
    for about, path in zip(fields[::2], fields[1::2], strict=False):
        mode_old, mode_new, old, new, _ = about.decode("ascii", "replace").lstrip(":").split(" ", 4)
        try:
            name = path.decode()
        except UnicodeDecodeError:
            continue
        before = None if mode_old == "000000" else Blob(mode_old, old)
        yield name, (before, None if mode_new == "000000" else Blob(mode_new, new))


def refs_mark(common_dir: Path, remote: str) -> tuple[object, ...]:
    """Something that differs once a branch of the remote has moved here: a fetch or a push. Looks at files' times only."""
    marks: list[object] = [_mark(common_dir / name) for name in ("packed-refs", "reftable/tables.list")]
    for count, (folder, _, _) in enumerate(os.walk(common_dir / "refs" / "remotes" / remote)):
        if count >= MAX_REF_FOLDERS:
            break
        marks.append((folder, _mark(Path(folder))))
    return tuple(marks)


def _mark(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


class File(NamedTuple):
    """What is known of a file without reading it: the same as long as nobody has written it."""

    mode: str
    size_bytes: int
    written_ns: int
    """The later of its times, in nanoseconds since 1970."""
    mark: tuple[int, ...]


def look_at(path: Path) -> File | None:
    """None: there is no file or link."""
    try:
        found = path.lstat()
    except OSError:
        return None
    mark = (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_mode)
    written_ns = max(found.st_mtime_ns, found.st_ctime_ns)
    if stat.S_ISLNK(found.st_mode):
        return File(SYMLINK, found.st_size, written_ns, mark)
    if stat.S_ISREG(found.st_mode):
        return File("100755" if found.st_mode & stat.S_IXUSR else "100644", found.st_size, written_ns, mark)
    return None


class Worktree(NamedTuple):
    """A worktree of the clone: its name among others, its root, and its own git directory."""

    name: str
    root: Path
    git_dir: Path


def linked_worktrees(common_dir: Path) -> list[Worktree]:
    """Those that are there, by git's name for them."""
    try:
        names = sorted(os.listdir(common_dir / "worktrees"))  # noqa: PTH208 - names alone
    except OSError:
        return []
    found = []
    for name in names:
        git_dir = common_dir / "worktrees" / name
        try:
            pointer = (git_dir / "gitdir").read_text("utf-8", "surrogateescape").strip()
        except OSError:
            continue
        root = Path(os.path.normpath(git_dir / pointer)).parent
        if (root / ".git").is_file():
            found.append(Worktree(name, root, git_dir))
    return found
