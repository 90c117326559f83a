"""Where a clone keeps its things: its git folders, our state folder, the daemon's socket, and names of its files.

Imports `os` alone: `coord check` runs at every edit of an agent and pays for what is loaded here. Git is run for names in a
bare repository alone.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

STATE_FOLDER: Final = "sudocode-coordination"
SOCKET_NAME: Final = "daemon.sock"
SOCKET_POINTER: Final = "socket-path"
"""File in the state folder that names the socket, if it could not be put there."""
HOME_FILE: Final = "home"
"""File in the state folder that says where that folder was when a daemon last ran: how a copy is told from its original."""
IDENTITY_FILE: Final = "identity.key"
RULES_FOLDER: Final = "rules"
"""Folder in the state folder: what was fetched of the remote's default branch to know who may join."""
TABLE_FOLDER: Final = "leases.git"
"""Bare repository in the state folder: the table of strict leases, as far as this clone has it."""
DIFFS_FOLDER: Final = "diffs.git"
"""Bare repository in the state folder: what is changed here and elsewhere, put together to be merged."""
MAX_SOCKET_PATH_BYTES: Final = 100
"""`sun_path` holds 108 bytes on Linux and 104 elsewhere; a few are kept free."""
HEAD_TIMEOUT_S: Final = 3.0
"""For git to say what a name is in HEAD: trees are small, and without an answer the name is taken as it is."""
MAX_POINTER_BYTES: Final = 4_096
"""Of a git pointer file (`.git`, `commondir`): one path."""


class Clone:
    """One clone: every worktree of it has the same `common_dir`.

    Attributes:
        common_dir: absolute, real path of git's common directory.
        work_tree: root of the worktree that was asked from, or None in a bare repository.
    """

    __slots__ = ("common_dir", "work_tree")

    def __init__(self, common_dir: str, work_tree: str | None) -> None:
        self.common_dir = common_dir
        self.work_tree = work_tree

    def __repr__(self) -> str:
        return f"Clone({self.common_dir!r}, {self.work_tree!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Clone) and (self.common_dir, self.work_tree) == (other.common_dir, other.work_tree)

    def __hash__(self) -> int:
        return hash((self.common_dir, self.work_tree))

    @property
    def root(self) -> str:
        """The work tree, or the bare repository: where git commands run and the configuration file is looked for."""
        return self.work_tree or self.common_dir

    @property
    def state_dir(self) -> str:
        """Folder of everything this package keeps."""
        return f"{self.common_dir}/{STATE_FOLDER}"

    def state_file(self, name: str) -> str:
        """Path of one of those things."""
        return f"{self.common_dir}/{STATE_FOLDER}/{name}"


def find_clone(start: str | os.PathLike[str] | None = None) -> Clone:
    """The clone that a folder (or a file in one) belongs to.

    Args:
        start: where to look from. Without it the current directory, and then `GIT_DIR`, `GIT_COMMON_DIR` and
            `GIT_WORK_TREE` count, as they do for git: hooks run with them set. An explicit place is never overruled.

    Raises:
        NotARepositoryError: there is no git repository there.
    """
    if start is None:
        try:
            cwd = os.getcwd()
        except OSError as error:
            raise _not_a_repository(".", str(error)) from None
        if os.environ.get("GIT_DIR"):
            return _from_environment(cwd)
        folder = cwd
    else:
        folder = os.fspath(start)
    if "\0" in folder:
        raise _not_a_repository(folder, "the path holds a NUL")
    folder = os.path.realpath(folder)
    asked = folder
    while True:
        git_dir = _git_dir_in(folder)
        if git_dir is not None:
            return Clone(_common_dir(git_dir), folder)
        if _is_git_dir(folder):
            return Clone(_common_dir(folder), _work_tree_of(folder))
        parent = os.path.dirname(folder)
        if parent == folder:
            raise _not_a_repository(asked, "neither it nor a folder above holds a `.git`")
        folder = parent


def socket_path(clone: Clone) -> str:
    """Where this clone's daemon listens, if one runs."""
    pointer = _read_line(clone.state_file(SOCKET_POINTER))
    if pointer and os.path.basename(pointer) == _runtime_socket_name(clone):
        return pointer
    return default_socket_path(clone)  # no pointer, or one that came along with a copied folder: it names the original's daemon


def default_socket_path(clone: Clone) -> str:
    """In the state folder if the path is short enough for a Unix socket, else a hashed name in `runtime_dir()`."""
    path = clone.state_file(SOCKET_NAME)
    return path if len(os.fsencode(path)) < MAX_SOCKET_PATH_BYTES else runtime_socket_path(clone)


def runtime_socket_path(clone: Clone) -> str:
    """For clones deep in the file system, and for file systems that can't hold sockets."""
    name = _runtime_socket_name(clone)
    return f"{runtime_dir(longest_name=len(name))}/{name}"


def _runtime_socket_name(clone: Clone) -> str:
    from hashlib import sha256

    return sha256(os.fsencode(clone.common_dir)).hexdigest()[:24] + ".sock"


def runtime_dir(longest_name: int = 0) -> str:
    """`$XDG_RUNTIME_DIR/sudocode-coordination`, or `/tmp/sudocode-coordination-<uid>` where that is missing or too long."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    folder = f"{base}/{STATE_FOLDER}"
    if base.startswith("/") and len(os.fsencode(folder)) + 1 + longest_name < MAX_SOCKET_PATH_BYTES and os.path.isdir(base):
        return folder
    return f"/tmp/{STATE_FOLDER}-{os.getuid()}"  # private_dir() refuses a folder that is not ours


def private_dir(folder: str) -> None:
    """Make sure that the folder is there, ours, no symlink, and closed to others (0700).

    Raises:
        StorageError: it belongs to somebody else, or can't be made.
    """
    from stat import S_ISDIR

    from sudocode_coordination.errors import StorageError

    try:
        if not os.path.lexists(folder):
            os.makedirs(folder, 0o700, exist_ok=True)
        found = os.lstat(folder)
        if not S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise StorageError(
                f"{folder} is not a folder of this user", hint="remove it, or set XDG_RUNTIME_DIR to a folder of yours"
            )
        if found.st_mode & 0o077:
            os.chmod(folder, 0o700)
    except OSError as error:
        raise StorageError(
            f"{folder}: {error.strerror}", hint="its parent folder must be writable, and the disk not full"
        ) from None


def home_of(clone: Clone) -> str:
    """What `HOME_FILE` holds: which folder the state folder is, and the path of the git directory around it."""
    found = os.stat(clone.state_dir)
    return f"{found.st_dev}:{found.st_ino} {clone.common_dir}"


def copied_from(clone: Clone) -> str | None:
    """The git directory that this clone's state was copied from and that has the same identity still.

    None if it is where it was, if it was moved, or if the original is out of sight.
    """
    home = _read_line(clone.state_file(HOME_FILE))
    if home is None or home == home_of(clone):
        return None
    mark, _, original = home.partition(" ")
    if original == clone.common_dir or mark == home_of(clone).partition(" ")[0]:
        return None
    theirs = _read_line(f"{original}/{STATE_FOLDER}/{IDENTITY_FILE}")
    return original if theirs is not None and theirs == _read_line(clone.state_file(IDENTITY_FILE)) else None


def repo_relative(clone: Clone, cwd: str | os.PathLike[str], path: str | os.PathLike[str]) -> str:
    """A file's name in the repository, the same from every worktree of the clone and every current directory.

    Links in the folders above it are resolved, the last part is kept as it is (it need not exist), and so is everything from
    the first part with a wildcard on: a pattern is not looked up.

    A slash at the end means a folder and all below (`core/resources.py`). What is there decides: a folder of that very name gets
    one, also if the name has wildcards (`app/[id]`, as git reads it), anything else loses it, and of what is not there it is as it
    was given. A link to a folder is no folder, but with a slash it stands for that folder. In a bare repository HEAD's tree is
    asked: the one case in which a git process runs.

    Args:
        clone: any worktree of it will do.
        cwd: what a relative path is relative to.
        path: as the user wrote it.

    Raises:
        ResourceError: it is empty, outside of the repository, in git's own folder, or the repository itself.
    """
    text = os.fspath(path)
    if not text.strip() or "\0" in text:
        raise _bad_path(text, "is no path", "give the path of a file or folder in the repository")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _bad_path(text, "is not UTF-8", "rename it: names that are no text can't be shared with other machines") from None
    slash = "/" if text.endswith("/") else ""
    absolute = os.path.join(cwd, text).rstrip("/") or "/"
    folder = _plain_folder(os.path.join(cwd, ""), absolute)
    if slash and os.path.islink(absolute) and os.path.isdir(absolute):
        real = os.path.realpath(absolute)
    elif folder is not None:
        real = os.path.normpath(os.path.join(os.path.realpath(folder), absolute[len(folder) :].lstrip("/")))
    else:
        parent, name = os.path.split(absolute)
        real = os.path.realpath(absolute) if name in (".", "..", "") else os.path.join(os.path.realpath(parent), name)
    root = _worktree_root(clone, real)
    in_git_folder = real == clone.common_dir or real.startswith(clone.common_dir + "/")
    if in_git_folder and not (root is not None and root.startswith(clone.common_dir + "/")):  # worktrees may lie in a bare clone
        if root is None and clone.work_tree is None and not os.path.isabs(text):
            name = _lexical(text)
            return name + (slash if (listed := _in_head(clone, name)) is None else "/" if listed else "")
        raise _bad_path(text, "is in git's own folder", "give the path of a file or folder in the work tree")
    if root is None and clone.work_tree is not None and real.startswith(clone.work_tree + "/"):
        raise _bad_path(text, "is another repository's, as of a submodule", "run coord there: that one has a daemon of its own")
    if root is None:
        raise _bad_path(text, "is outside of this repository", f"give a path below {clone.root}")
    if real == root:
        raise _bad_path(text, "is the repository itself", "give the path of a file or folder in it")
    if os.path.lexists(real):
        slash = "/" if os.path.isdir(real) and not os.path.islink(real) else ""
    return real[len(root) :].lstrip("/") + slash


def _in_head(clone: Clone, name: str) -> bool | None:
    """Whether HEAD's tree has a folder of that name; None if it has nothing there, or git does not say."""
    from sudocode_coordination.askgit import git

    kind = git(clone.common_dir, "cat-file", "-t", f"HEAD:{name}", timeout_s=HEAD_TIMEOUT_S)
    return kind.text == "tree" if kind.ok else None


def _plain_folder(cwd: str, path: str) -> str | None:
    """What of a path comes before the first part with a wildcard; None if there is none. The current directory has none."""
    at = len(cwd) if path.startswith(cwd) else 0
    specials = [i for i in map(path.find, "*?[\\", (at,) * 4) if i >= 0]
    return path[: path.rindex("/", 0, min(specials)) + 1] if specials else None


def _worktree_root(clone: Clone, path: str) -> str | None:
    """The worktree of this clone that a real path is in. A submodule or another repository on the way is not it."""
    known = clone.work_tree
    folder = path
    while True:
        if folder == known:
            return known
        git_dir = _git_dir_in(folder)
        if git_dir is not None:
            return folder if _common_dir(git_dir) == clone.common_dir else None
        parent = os.path.dirname(folder)
        if parent == folder:
            return None
        folder = parent


def _lexical(text: str) -> str:
    name = os.path.normpath(text)
    if name == "." or name.startswith(".."):
        raise _bad_path(text, "is outside of this repository", "give the path of a file or folder in it")
    return name


def _from_environment(cwd: str) -> Clone:
    git_dir = os.path.realpath(os.path.join(cwd, os.environ["GIT_DIR"]))
    if not _is_git_dir(git_dir):
        target = _gitdir_pointer(git_dir)
        if target is None:
            raise _not_a_repository(git_dir, "GIT_DIR names no git directory")
        git_dir = target
    common = os.environ.get("GIT_COMMON_DIR")
    common_dir = os.path.realpath(os.path.join(cwd, common)) if common else _common_dir(git_dir)
    named = os.environ.get("GIT_WORK_TREE")
    work_tree = os.path.realpath(os.path.join(cwd, named)) if named else _work_tree_of(git_dir)
    if work_tree is None and _git_dir_in(cwd) == git_dir:
        work_tree = os.path.realpath(cwd)
    return Clone(common_dir, work_tree)


def _git_dir_in(folder: str) -> str | None:
    """The git directory that `folder/.git` is or points to."""
    entry = folder + "/.git"
    if _is_git_dir(entry):
        return os.path.realpath(entry)
    return _gitdir_pointer(entry)


def _gitdir_pointer(entry: str) -> str | None:
    line = _read_line(entry)
    if line is None or not line.startswith("gitdir:"):
        return None
    git_dir = os.path.realpath(os.path.join(os.path.dirname(entry), line[len("gitdir:") :].strip()))
    return git_dir if _is_git_dir(git_dir) else None


def _is_git_dir(folder: str) -> bool:
    """As git decides it: a HEAD, and objects and refs there or in the common directory."""
    if not os.path.lexists(folder + "/HEAD"):
        return False
    if os.path.isfile(folder + "/commondir"):
        return True
    return os.path.isdir(folder + "/objects") and os.path.isdir(folder + "/refs")


def _common_dir(git_dir: str) -> str:
    line = _read_line(git_dir + "/commondir")
    return os.path.realpath(os.path.join(git_dir, line)) if line else os.path.realpath(git_dir)


def _work_tree_of(git_dir: str) -> str | None:
    """The work tree that belongs to a git directory, as far as it can be known without reading git's configuration."""
    line = _read_line(git_dir + "/gitdir")  # linked worktrees
    if line:
        return os.path.dirname(os.path.realpath(os.path.join(git_dir, line)))
    return os.path.dirname(git_dir) if os.path.basename(git_dir) == ".git" else None


def _read_line(path: str) -> str | None:
    """What a pointer file holds; None if there is none."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return os.fsdecode(os.read(handle, MAX_POINTER_BYTES)).rstrip("\r\n") or None
    except OSError:
        return None
    finally:
        os.close(handle)


def _not_a_repository(path: str, why: str) -> Exception:
    from sudocode_coordination.errors import NotARepositoryError

    return NotARepositoryError(f"{path} is in no git repository: {why}", hint="go to a clone, or make one with `git init`")


def _bad_path(path: str, what: str, hint: str) -> Exception:
    from sudocode_coordination.errors import ResourceError

    return ResourceError(f"path {path!r} {what}", hint=hint)
