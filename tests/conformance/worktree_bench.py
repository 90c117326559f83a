"""A repository with worktrees whose changes can be looked at as two clones would, and what git itself says of their merge."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import trio

from sudocode_coordination.adapters.diff_home import DiffHome
from sudocode_coordination.adapters.foresight import Foresight
from sudocode_coordination.adapters.gitrun import GitRunner
from sudocode_coordination.adapters.worktree_scan import Scanner, Seen
from sudocode_coordination.core.diff_entries import Key, Work, read_entry, read_header, read_key
from sudocode_coordination.core.merges import MergeConflict
from sudocode_coordination.core.secrecy import Denial
from sudocode_coordination.core.writer import encode_value

IDENTITY = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in (("NAME", "t"), ("EMAIL", "t@t"))}


def git(folder: Path, *arguments: str, give: bytes = b"", codes: tuple[int, ...] = (0,), **environment: str) -> bytes:
    """Run git; what it says."""
    done = subprocess.run(
        ["git", "-c", "init.defaultBranch=main", *arguments],
        cwd=folder,
        input=give,
        capture_output=True,
        check=False,
        env={**os.environ, **IDENTITY, **environment},
    )
    assert done.returncode in codes, done.stderr.decode("utf-8", "replace")
    return done.stdout


def through_the_wire(work: Work) -> Work:
    """As another clone reads it: entries that were encoded, parsed and judged."""
    entries = {str(Key("wt", "")): msgspec.to_builtins(work.header)}
    entries |= {str(Key("wt", path)): msgspec.to_builtins(entry) for path, entry in work.files.items()}
    files = {}
    header = None
    for text, value in entries.items():
        encoded, plain = encode_value(value)
        assert len(encoded) <= 32 << 10
        key = read_key(text)
        assert key is not None
        if key.path:
            entry = read_entry(plain)
            assert entry is not None
            files[key.path] = entry
        else:
            header = read_header(plain)
    assert header is not None
    return Work(header=header, files=files)


class Side:
    """A worktree, looked at with a repository of its own, as its clone's daemon would."""

    def __init__(self, root: Path, git_dir: Path, common_dir: Path, homes: Path, **options: Any) -> None:
        self.root = root
        self.folder = homes / f"{root.name}.git"
        clone = GitRunner(common_dir, None, "origin", 30)
        self.home = DiffHome(common_dir, self.folder, "origin", clone, 30)
        self.foresight = Foresight(self.home)
        given = {
            "remote": "origin",
            "agent": root.name,
            "denial": Denial(),
            "coordination_branch": "coordination",
            "timeout_s": 30.0,
        }
        self.scanner = Scanner(root, git_dir, common_dir, self.home, **{**given, "timeout_s": 30.0, **options})
        trio.run(self.home.prepare)

    def look(self) -> Seen:
        return trio.run(self.scanner.look)

    def foretell(self, theirs: Work) -> dict[str, MergeConflict]:
        """What is foretold of this one's changes and somebody else's."""

        async def run() -> tuple[MergeConflict, ...]:
            return await self.foresight.foretell(await self.scanner.look(), theirs, self.root)

        return {conflict.path: conflict for conflict in trio.run(run)}

    def all_committed(self) -> str:
        """What `git commit` would make of all that is changed, as an object that no branch has."""
        index = self.folder / "oracle-index"
        head = git(self.root, "rev-parse", "HEAD").decode().strip()
        git(self.root, "read-tree", "HEAD", GIT_INDEX_FILE=str(index))
        git(self.root, "add", "--all", GIT_INDEX_FILE=str(index))
        tree = git(self.root, "write-tree", GIT_INDEX_FILE=str(index)).decode().strip()
        index.unlink()
        # Of its own name: else it may be, to the letter, a commit that the other side has made of the same in the same second.
        return git(self.root, "commit-tree", tree, "-p", head, "-m", f"all of {self.root.name}").decode().strip()


class Repository:
    """A clone with a bare remote, and worktrees."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        git(folder, "init", "-q", "--bare", "shop.git")
        git(folder, "clone", "-q", str(folder / "shop.git"), "ann")
        self.ann = folder / "ann"

    def commit(self, message: str = "x") -> str:
        git(self.ann, "add", "--all")
        git(self.ann, "commit", "-qm", message, "--allow-empty")
        return git(self.ann, "rev-parse", "HEAD").decode().strip()

    def push(self) -> None:
        git(self.ann, "push", "-q", "origin", "HEAD:refs/heads/main")

    def side(self, **options: Any) -> Side:
        return Side(self.ann, self.ann / ".git", self.ann / ".git", self.folder, **options)

    def linked(self, name: str = "ben", **options: Any) -> Side:
        root = self.folder / name
        git(self.ann, "worktree", "add", "-q", "--detach", str(root))
        return Side(root, self.ann / ".git" / "worktrees" / name, self.ann / ".git", self.folder, **options)

    def clone(self, name: str = "ben", **options: Any) -> Side:
        root = self.folder / name
        git(self.folder, "clone", "-q", str(self.folder / "shop.git"), name)
        return Side(root, root / ".git", root / ".git", self.folder, **options)


def merged_by_git(folder: Path, one: str, other: str) -> set[str]:
    """Paths in conflict, by git's own words."""
    said = git(folder, "merge-tree", "--write-tree", "--name-only", "-z", "--no-messages", one, other, codes=(0, 1))
    return set(said.decode().split("\0")[1:]) - {""}


def blocks(folder: Path, one: str, other: str, path: str) -> list[tuple[bytes, bytes]]:
    """What stands between the conflict markers of a file: ours and theirs."""
    tree = git(folder, "merge-tree", "--write-tree", "-z", one, other, codes=(0, 1)).split(b"\0")[0].decode()
    text = git(folder, "cat-file", "blob", f"{tree}:{path}")
    return re.findall(rb"^<{7} .*\n((?:(?!={7}).*\n)*?)={7}\r?\n((?:(?!>{7} ).*\n)*?)>{7} .*\n", text, re.MULTILINE)
