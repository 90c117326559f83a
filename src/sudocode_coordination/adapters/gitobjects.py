"""Git's objects made by hand: ids, trees, commits, loose files. What the program would need a process for each is done in a
fraction of a millisecond; the formats are git's own and older than all its releases.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from sudocode_coordination.adapters.gitrun import GitFailedError

TREE: Final = b"40000"
BLOB: Final = b"100644"
PLAIN_FILES: Final = frozenset((BLOB, b"100755"))
_LINES: Final = {size: re.compile(rb"([^ \0]*) ([^\0]*)\0(.{%d})" % size, re.DOTALL) for size in (20, 32)}
"""A tree's entries, by the size of ids."""
MAX_DEPTH: Final = 4
"""Folders below one another in a table; ours has one level. What lies deeper is kept and not read."""
_STORED: Final = 0
"""Compression of loose files: none. A large folder would take a millisecond to write and one to read, it is packed anew for the
push anyway, and packing makes an end of it (`TableHome.wants_packing`)."""
_IDENTITY: Final = b"sudocode coordination <coordination@sudocode.invalid>"


class UnfitError(GitFailedError):
    """What was asked for can't be put into a table, now or later."""


class Entry(NamedTuple):
    """One line of a tree: mode without leading zeros, and the id in bytes."""

    mode: bytes
    sha: bytes


class Tree(NamedTuple):
    """A tree object. `files`: plain ones in it, without those in its subtrees."""

    raw: bytes
    subtrees: tuple[bytes, ...]
    files: int


class Snapshot(NamedTuple):
    """All trees of one commit, raw: a table of 10,000 files takes 0.7 MB so, and ten times that as dicts."""

    commit: str | None
    root: bytes | None
    trees: Mapping[bytes, Tree]


EMPTY: Final = Snapshot(None, None, {})


class Made(NamedTuple):
    """A commit that was made, and the objects that are new with it: id in hex -> (type, content).

    `before`: what was at the place of a folder in the parent, id -> id, both in bytes.
    """

    snapshot: Snapshot
    objects: dict[str, tuple[str, bytes]]
    before: dict[bytes, bytes]


def object_id(kind: str, content: bytes, algorithm: str) -> bytes:
    """The id of an object, in bytes."""
    return hashlib.new(algorithm, b"%s %d\0" % (kind.encode(), len(content)) + content, usedforsecurity=False).digest()


def parse_tree(raw: bytes, sha_size: int) -> dict[bytes, Entry]:
    """A tree's entries by name.

    Raises:
        GitFailedError: it is malformed; fetching does not check that.
    """
    found = _LINES[sha_size].findall(raw)
    # What is no entry was skipped.
    if sum(len(mode) + len(name) for mode, name, _ in found) + len(found) * (2 + sha_size) != len(raw):
        raise GitFailedError("the lease table has a malformed folder")
    return {name: Entry(mode.lstrip(b"0"), sha) for mode, name, sha in found}


def tree_of(raw: bytes, sha_size: int) -> Tree:
    """The tree with what is asked of it most.

    Raises:
        GitFailedError: it is malformed.
    """
    return _tree(raw, parse_tree(raw, sha_size))


def _tree(raw: bytes, entries: Mapping[bytes, Entry]) -> Tree:
    subtrees = tuple(entry.sha for entry in entries.values() if entry.mode == TREE)
    return Tree(raw, subtrees, sum(entry.mode in PLAIN_FILES for entry in entries.values()))


def write_tree(entries: Mapping[bytes, Entry]) -> bytes:
    """The bytes of a tree: entries in git's order, in which a folder's name ends with a slash."""
    order = sorted(entries.items(), key=lambda item: item[0] + (b"/" if item[1].mode == TREE else b""))
    return b"".join(b"%s %s\0%s" % (entry.mode, name, entry.sha) for name, entry in order)


def count_files(snapshot: Snapshot) -> int:
    """Plain files in it. A tree that stands in many places counts in each, and is looked at once."""
    known: dict[tuple[bytes, int], int] = {}

    def count(sha: bytes, depth: int) -> int:
        tree = snapshot.trees.get(sha)
        if tree is None or depth > MAX_DEPTH:
            return 0
        if (sha, depth) not in known:
            known[sha, depth] = tree.files + sum(count(sub, depth + 1) for sub in tree.subtrees)
        return known[sha, depth]

    return 0 if snapshot.root is None else count(snapshot.root, 0)


def differences(old: Snapshot, new: Snapshot, sha_size: int) -> Iterator[tuple[str, bytes | None]]:
    """Paths of plain files that differ, with the new blob's id, or None if it is gone. Equal folders are not looked into."""

    def entries(snapshot: Snapshot, sha: bytes | None) -> dict[bytes, Entry]:
        tree = None if sha is None else snapshot.trees.get(sha)
        return {} if tree is None else parse_tree(tree.raw, sha_size)

    def compare(left: bytes | None, right: bytes | None, prefix: bytes, depth: int) -> Iterator[tuple[str, bytes | None]]:
        if left == right or depth > MAX_DEPTH:
            return
        before, after = entries(old, left), entries(new, right)
        for name in sorted(before.keys() | after.keys()):
            was, now = before.get(name), after.get(name)
            if was == now:
                continue
            yield from compare(_folder(was), _folder(now), prefix + name + b"/", depth + 1)
            file_was, file_now = _file(was), _file(now)
            if file_was != file_now:
                path = _text(prefix + name)
                if path is not None:
                    yield path, file_now

    yield from compare(old.root, new.root, b"", 0)


def _folder(entry: Entry | None) -> bytes | None:
    return entry.sha if entry is not None and entry.mode == TREE else None


def _file(entry: Entry | None) -> bytes | None:
    return entry.sha if entry is not None and entry.mode in PLAIN_FILES else None


def _text(path: bytes) -> str | None:
    try:
        return path.decode()
    except UnicodeDecodeError:
        return None  # nobody of us has written it


def make_commit(
    parent: Snapshot, changes: Mapping[str, bytes | None], *, message: str, wall_ms: int, algorithm: str, sha_size: int
) -> Made:
    """A commit on top of `parent`: only folders with changes in them are made anew. The same arguments make the same commit.

    Raises:
        UnfitError: a path is none.
        GitFailedError: what the parent has at a path can't be read.
    """
    objects: dict[str, tuple[str, bytes]] = {}
    before: dict[bytes, bytes] = {}
    trees = dict(parent.trees)

    def add(kind: str, content: bytes) -> bytes:
        sha = object_id(kind, content, algorithm)
        objects[sha.hex()] = (kind, content)
        return sha

    def edit(sha: bytes | None, wanted: Mapping[tuple[bytes, ...], bytes | None]) -> bytes | None:
        if sha is not None and sha not in trees:
            raise GitFailedError("a folder of the lease table is missing here")
        entries = {} if sha is None else parse_tree(trees[sha].raw, sha_size)
        below: dict[bytes, dict[tuple[bytes, ...], bytes | None]] = {}
        for path, content in wanted.items():
            if len(path) > 1:
                below.setdefault(path[0], {})[path[1:]] = content
            elif content is not None:
                entries[path[0]] = Entry(BLOB, add("blob", content))
            elif _file(entries.get(path[0])) is not None:
                del entries[path[0]]
        for name, inner in below.items():
            child = edit(_folder(entries.get(name)), inner)
            if child is not None:
                entries[name] = Entry(TREE, child)
            elif _folder(entries.get(name)) is not None:
                del entries[name]
        if not entries:
            return None
        raw = write_tree(entries)
        made = add("tree", raw)
        trees[made] = _tree(raw, entries)
        if sha is not None:
            before[made] = sha
        return made

    root = edit(parent.root, {split_path(path): content for path, content in changes.items()})
    if root is None:
        root = add("tree", b"")
        trees[root] = Tree(b"", (), 0)
    lines = [b"tree " + root.hex().encode()]
    if parent.commit is not None:
        lines.append(b"parent " + parent.commit.encode())
    date = max(0, wall_ms // 1000)
    lines += [b"%s %s %d +0000" % (who, _IDENTITY, date) for who in (b"author", b"committer")]
    commit = add("commit", b"\n".join(lines) + b"\n\n" + message.encode())
    return Made(Snapshot(commit.hex(), root, reachable(root, trees)), objects, before)


def reachable(root: bytes, trees: Mapping[bytes, Tree]) -> dict[bytes, Tree]:
    """Those of the trees that are below `root`."""
    found: dict[bytes, Tree] = {}
    level = {root}
    for _ in range(MAX_DEPTH + 1):
        level = {sha for sha in level if sha in trees and sha not in found}
        found.update((sha, trees[sha]) for sha in level)
        level = {below for sha in level for below in trees[sha].subtrees}
    return found


def split_path(path: str) -> tuple[bytes, ...]:
    """The parts of a path in a table.

    Raises:
        UnfitError: git would not take it, or it is deeper than `MAX_DEPTH`.
    """
    parts = tuple(path.encode("utf-8", "surrogateescape").split(b"/"))
    if len(parts) > MAX_DEPTH + 1 or any(p in (b"", b".", b"..") or p.lower() == b".git" or b"\0" in p for p in parts):
        raise UnfitError(f"{path!r} is no path of a lease table")
    return parts


def write_loose(folder: Path, objects: Mapping[str, tuple[str, bytes]]) -> None:
    """Put objects into an object folder. One that is there is made young again, so that it is not pruned.

    Not synced to the disk: all of it can be had from the remote again.

    Raises:
        OSError: it can't be written.
    """
    # One temporary name for all: somebody waits for the push that comes next, and has six of them written first.
    temporary = folder / f"tmp_obj_{os.getpid()}_{threading.get_ident()}"
    for sha, (kind, content) in objects.items():
        target = folder / sha[:2] / sha[2:]
        try:
            os.utime(target)
            continue
        except FileNotFoundError:
            data = zlib.compress(b"%s %d\0" % (kind.encode(), len(content)) + content, _STORED)
        temporary.unlink(missing_ok=True)
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444), "wb") as file:
                file.write(data)
            try:
                temporary.replace(target)
            except FileNotFoundError:
                target.parent.mkdir()
                temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def ids(objects: Iterable[bytes]) -> list[bytes]:
    """In hex, as git's commands want them."""
    return [sha.hex().encode() for sha in objects]
