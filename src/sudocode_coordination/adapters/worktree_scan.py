"""One worktree of this clone: what is changed in it and not on the git remote, as it is shared, and as it would be merged.

    git status ──> paths ──> names that are denied go ──> git hash-object, with the filters that `git add` would use
    git diff-tree base..HEAD ──┘                                 └──> binary, large, secret: said, not shown ──> hunks

Laws: a file is read again only when its times, size or inode have changed, or when it was written just before it was read; of a
denied name nothing is read; the index, the refs and the objects of the clone are not written to.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from time import time_ns
from typing import Final, Literal, NamedTuple

from sudocode_coordination.adapters.diff_home import DiffHome
from sudocode_coordination.adapters.gitrun import GitFailedError
from sudocode_coordination.adapters.worktree_status import (
    SUBMODULE,
    SYMLINK,
    Blob,
    Changed,
    File,
    WorktreeGit,
    look_at,
    read_bases,
    read_committed,
    read_status,
    refs_mark,
)
from sudocode_coordination.core.diff_entries import (
    MAX_ENTRY_BYTES,
    MAX_FILES,
    MAX_HUNKS,
    MAX_LEFT_OUT,
    MAX_WORK_BYTES,
    DiffEntry,
    Hunk,
    ObjectId,
    Work,
    WorkHeader,
    entry_bytes,
    is_branch,
    is_path,
)
from sudocode_coordination.core.secrecy import Denial, looks_secret
from sudocode_coordination.model import AgentId, WithheldReason

MAX_FILE_BYTES: Final = 1 << 20
"""Of a changed file that is compared line by line: 20,000 lines. What is larger was made by a program."""
BINARY_PREFIX: Final = 8_000
"""Bytes in which git looks for a NUL to tell binary files."""
MAX_COMPARED_BYTES: Final = 32 << 20
"""Of all files that are compared at once, before and now: what a look may take of memory, a few times over."""
RACY_NS: Final = 2_000_000_000
"""A file written as lately as this before it was read may be written again without another time to show for it: clocks of file
systems are coarse, the coarsest tick every two seconds."""
LARGE: Final = b"\0too large to be compared\0"
"""Begins what stands for a large file here."""
_MODES: Final = frozenset(("100644", "100755", SYMLINK))


class Seen(NamedTuple):
    """`work`: as it is shared; None: nothing is changed. `files`: all of it, as it is here: path -> file in the tree, None:
    deleted."""

    work: Work | None
    bases: tuple[ObjectId, ...]
    head: ObjectId
    files: Mapping[str, Blob | None]


class Pair(NamedTuple):
    """A file before, None: it is new, and now."""

    before: Blob | None
    now: Blob


class Scanner:
    """Looks at one worktree, again and again.

    Args:
        root: of the worktree.
        git_dir: of the worktree.
        common_dir: of the clone.
        home: where objects go.
        remote: name of the git remote.
        agent: the clone's default agent.
        denial: which names are denied.
        coordination_branch: has nothing to do with work.
        timeout_s: of one command.
    """

    def __init__(
        self,
        root: Path,
        git_dir: Path,
        common_dir: Path,
        home: DiffHome,
        *,
        remote: str,
        agent: AgentId,
        denial: Denial,
        coordination_branch: str,
        timeout_s: float,
    ) -> None:
        self.root = root
        self._git = WorktreeGit(git_dir, root, remote, timeout_s)
        self._common_dir = common_dir
        self._home = home
        self._remote = remote
        self._agent = agent
        self._denial = denial
        self._coordination_branch = coordination_branch
        self._life = -1
        self._bases: tuple[object, tuple[ObjectId, ...]] | None = None
        self._committed: tuple[tuple[ObjectId, ObjectId], dict[str, tuple[Blob | None, Blob | None]]] | None = None
        self._hashed: dict[str, tuple[File, ObjectId, int]] = {}
        """Path -> the file as it was, its blob, and when that was made (nanoseconds since 1970)."""
        self._entries: dict[tuple[Pair, ObjectId], DiffEntry] = {}
        """Of the last look: what makes an entry -> the entry."""

    async def look(self) -> Seen:
        """What is changed now.

        Raises:
            GitFailedError: git can't tell; the next look may.
        """
        if self._life != self._home.lives:
            self._life = self._home.lives
            self._hashed.clear()
        status = await read_status(self._git)
        if status.head is None:
            raise GitFailedError("there is no commit yet")
        bases = await self._bases_of(status.head)
        if not bases:
            # A bare clone that nobody has told otherwise keeps no branches of the remote.
            spec = f"git config remote.{self._remote}.fetch '+refs/heads/*:refs/remotes/{self._remote}/*'"
            known = f"nothing of {status.branch or status.head[:10]} is on {self._remote}, as far as it was fetched"
            raise GitFailedError(f"{known} (a bare clone first needs: {spec})")
        base = bases[0]
        committed = await self._committed_since(base, status.head)
        pairs, left_out = await self._pairs(status.changed, committed)
        entries = await self._described({path: pair for path, pair in pairs.items() if path not in left_out})
        header = WorkHeader(
            base=base,
            parents=bases if len(bases) > 1 else (),
            head=status.head if status.head != base else "",
            branch=status.branch if is_branch(status.branch) else "",
            agent=self._agent,
            left_out=min(MAX_LEFT_OUT, len(left_out) + status.unreadable),
        )
        work = Work(header=header, files=entries)
        files = {path: now for path, (_, now) in pairs.items() if path not in left_out}
        return Seen(work if entries or left_out else None, bases, status.head, files)

    async def _bases_of(self, head: ObjectId) -> tuple[ObjectId, ...]:
        mark = (head, refs_mark(self._common_dir, self._remote))
        if self._bases is None or self._bases[0] != mark:
            bases = await read_bases(self._git, self._remote, head, self._coordination_branch)
            self._bases = (mark, bases)
        return self._bases[1]

    async def _committed_since(self, base: ObjectId, head: ObjectId) -> dict[str, tuple[Blob | None, Blob | None]]:
        if self._committed is None or self._committed[0] != (base, head):
            self._committed = ((base, head), await read_committed(self._git, base, head))
        return self._committed[1]

    # --- which files, and what they are now -----------------------------------------------------------------------------------

    async def _pairs(
        self, changed: tuple[Changed, ...], committed: Mapping[str, tuple[Blob | None, Blob | None]]
    ) -> tuple[dict[str, tuple[Blob | None, Blob | None]], set[str]]:
        """Path -> (before, now) of all that differ from the base; and those of them that are not told of."""
        left_out = not_told({*committed, *(one.path for one in changed)}, self._denial)
        here = await self._here([one for one in changed if one.path not in left_out])
        pairs: dict[str, tuple[Blob | None, Blob | None]] = {path: pair for path, pair in committed.items() if path not in left_out}
        for one in changed:
            if one.path in left_out:
                continue
            before = committed[one.path][0] if one.path in committed else one.head
            pairs[one.path] = (before, here[one.path])
        return {path: pair for path, pair in pairs.items() if pair[0] != pair[1]}, left_out

    async def _here(self, changed: list[Changed]) -> dict[str, Blob | None]:
        """What the worktree has at these paths, hashed as `git add` would do it."""
        found: dict[str, Blob | None] = {}
        unread: dict[str, File] = {}
        known, self._hashed = self._hashed, {}
        for one in changed:
            if one.mode == SUBMODULE or (one.head is not None and one.head.mode == SUBMODULE):
                found[one.path] = Blob(SUBMODULE, one.staged) if one.mode == SUBMODULE else None
                continue
            file = look_at(self.root / one.path)
            if file is None or one.gone:
                found[one.path] = None
                continue
            mode = one.mode if one.mode in _MODES else file.mode
            if one.path in known and known[one.path][0] == file and file.written_ns < known[one.path][2] - RACY_NS:
                self._hashed[one.path] = known[one.path]
                found[one.path] = Blob(mode, known[one.path][1])
            elif file.size_bytes > MAX_FILE_BYTES:
                # Its content is not looked at; what stands for it differs when it has been written.
                self._hashed[one.path] = (file, self._home.add_blob(LARGE + repr(file.mark).encode()), time_ns())
                found[one.path] = Blob(mode, self._hashed[one.path][1])
            else:
                unread[one.path] = file
                found[one.path] = Blob(mode, "")
        now_ns = time_ns()
        for path, id_ in (await self._hash(unread)).items():
            blob = found[path]
            assert blob is not None
            self._hashed[path] = (unread[path], id_, now_ns)
            found[path] = Blob(blob.mode, id_)
        return {path: None if blob is not None and not blob.id else blob for path, blob in found.items()}

    async def _hash(self, unread: Mapping[str, File]) -> dict[str, ObjectId]:
        """Write them as blobs; those that are gone meanwhile are left out."""
        links = [path for path, file in unread.items() if file.mode == SYMLINK]
        plain = [path for path in unread if path not in links]
        found: dict[str, ObjectId] = {}
        for path in links:
            try:
                found[path] = self._home.add_blob(os.fsencode((self.root / path).readlink()))
            except OSError:
                continue
        ids = await self._hash_files(plain)
        if ids is None:  # one of them has just gone
            ids = [(await self._hash_files([path]) or [""])[0] for path in plain]
        return found | {path: id_ for path, id_ in zip(plain, ids, strict=True) if id_}

    async def _hash_files(self, paths: list[str]) -> list[ObjectId] | None:
        if not paths:
            return []
        outcome = await self._git.run(
            "hash-object",
            "-w",
            "--stdin-paths",
            stdin="".join(f"{_quoted(path)}\n" for path in paths).encode(),
            environment=self._home.environment_for_clone(),
        )
        ids = outcome.stdout.decode("ascii", "replace").split()
        return ids if outcome.code == 0 and len(ids) == len(paths) else None

    # --- how it is shared -----------------------------------------------------------------------------------------------------

    async def _described(self, pairs: Mapping[str, tuple[Blob | None, Blob | None]]) -> dict[str, DiffEntry]:
        known, self._entries = self._entries, {}
        entries, made_of = sources_of(pairs)
        unknown: dict[str, tuple[Pair, ObjectId]] = {}
        for path, made in made_of.items():
            if made in known:
                entries[path] = self._entries[made] = known[made]
            else:
                unknown[path] = made
        new = await describe(self._home, unknown)
        for path, entry in new.items():
            entries[path] = self._entries[unknown[path]] = entry
        return within_limit(entries)


def not_told(paths: set[str], denial: Denial) -> set[str]:
    """Of changed files, those that nothing is told of."""
    left_out = {path for path in paths if not is_path(path) or denial.denies(path)}
    return left_out | set(sorted(paths - left_out)[MAX_FILES:])


def sources_of(
    pairs: Mapping[str, tuple[Blob | None, Blob | None]],
) -> tuple[dict[str, DiffEntry], dict[str, tuple[Pair, ObjectId]]]:
    """Of changed files (path -> before, now): entries of those that are deleted; and of the others what `describe` wants."""
    gone = {path: before for path, (before, now) in pairs.items() if now is None and before is not None}
    by_name = {os.path.basename(path): blob for path, blob in gone.items()}  # noqa: PTH119 - git's paths
    by_id = {blob.id: blob for blob in gone.values()}
    made_of: dict[str, tuple[Pair, ObjectId]] = {}
    for path, (before, now) in pairs.items():
        if now is not None:
            # A renamed file is told by what it was, which is short, and which others have.
            source = before or by_id.get(now.id) or by_name.get(os.path.basename(path))  # noqa: PTH119
            made_of[path] = (Pair(before, now), "" if source is None or source.mode == SUBMODULE else source.id)
    return {path: DiffEntry(change="deleted") for path in gone}, made_of


async def describe(home: DiffHome, pairs: Mapping[str, tuple[Pair, ObjectId]]) -> dict[str, DiffEntry]:
    """Changed files as they are shared.

    Args:
        home: has their blobs.
        pairs: path -> (before and now, blob that the hunks are to be of).

    Raises:
        GitFailedError: git can't tell.
    """
    entries: dict[str, DiffEntry] = {}
    readable: list[str] = []
    plain = [path for path, (pair, _) in pairs.items() if pair.now.mode != SUBMODULE]
    sizes = dict(zip(plain, await home.sizes([pairs[path][0].now.id for path in plain]), strict=True))
    named = list(dict.fromkeys(source_id for _, source_id in pairs.values() if source_id))
    source_sizes = dict(zip(named, await home.sizes(named), strict=True))
    total = 0
    for path, (pair, source_id) in pairs.items():
        size = sizes.get(path)
        if pair.now.mode == SUBMODULE:
            entries[path] = _withheld(pair, "submodule")
        elif size is None or size > MAX_FILE_BYTES:
            entries[path] = _withheld(pair, "large")
        elif total + size + min(MAX_FILE_BYTES, source_sizes.get(source_id) or 0) > MAX_COMPARED_BYTES:
            entries[path] = _withheld(pair, "limit")
        else:
            total += size + min(MAX_FILE_BYTES, source_sizes.get(source_id) or 0)
            readable.append(path)
    contents = await home.read([pairs[path][0].now.id for path in readable])
    sources = await _sources(home, [pairs[path][1] for path in readable], source_sizes)
    texts: list[tuple[str, bytes, bytes]] = []
    for path, read, source in zip(readable, contents, sources, strict=True):
        if read is None or read.kind != "blob":
            raise GitFailedError(f"{path} is not here any more")
        if read.content.startswith(LARGE):
            entries[path] = _withheld(pairs[path][0], "large", known=False)
        elif b"\0" in read.content[:BINARY_PREFIX] or b"\0" in source[:BINARY_PREFIX]:
            entries[path] = _withheld(pairs[path][0], "binary")
        else:
            texts.append((path, source, read.content))
    for (path, _, content), changes in zip(texts, await home.changes([(old, new) for _, old, new in texts]), strict=True):
        encoding: Literal["utf-8", "latin-1"] = "utf-8" if _is_utf8(content) else "latin-1"
        hunks = tuple(Hunk(one.at, one.removed, b"".join(one.lines).decode(encoding)) for one in changes)
        pair, source_id = pairs[path]
        entry = DiffEntry(
            change="added" if pair.before is None else "modified",
            mode=pair.now.mode,  # type: ignore[arg-type]  # git has no others
            blob=pair.now.id,
            base=source_id,
            hunks=hunks,
            encoding=encoding,
        )
        if len(hunks) > MAX_HUNKS or entry_bytes(entry) > MAX_ENTRY_BYTES:
            entry = _withheld(pair, "large")
        elif looks_secret("".join(hunk.text for hunk in hunks), content.decode(encoding)):
            entry = _withheld(pair, "secret")
        entries[path] = entry
    return entries


async def _sources(home: DiffHome, ids: list[ObjectId], sizes: Mapping[ObjectId, int | None]) -> list[bytes]:
    known = [id_ for id_ in dict.fromkeys(ids) if id_]
    small = [id_ for id_ in known if (size := sizes[id_]) is not None and size <= MAX_FILE_BYTES]
    found = {id_: read.content for id_, read in zip(small, await home.read(small), strict=True) if read is not None}
    if missing := [id_ for id_ in known if id_ not in found and sizes[id_] is None]:
        raise GitFailedError(f"object {missing[0][:10]} is not in this clone")
    return [found.get(id_, b"\0" if id_ else b"") for id_ in ids]  # a large one counts as binary


def _withheld(pair: Pair, why: WithheldReason, *, known: bool = True) -> DiffEntry:
    """Of a secret not even the id: it would tell a guesser who guessed right. `known`: the id is that of the content."""
    return DiffEntry(
        change="added" if pair.before is None else "modified",
        mode=pair.now.mode,  # type: ignore[arg-type]  # git has no others
        blob=pair.now.id if known and why != "secret" else "",
        withheld=why,
    )


def within_limit(entries: dict[str, DiffEntry]) -> dict[str, DiffEntry]:
    """By path, with as many hunks as may be shared in all."""
    left = MAX_WORK_BYTES
    found: dict[str, DiffEntry] = {}
    for path, entry in sorted(entries.items()):
        size = entry_bytes(entry) + len(path.encode())
        if entry.hunks and size > left:
            found[path] = DiffEntry(change=entry.change, mode=entry.mode, blob=entry.blob, withheld="limit")
            continue
        left -= size
        found[path] = entry
    return found


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _quoted(path: str) -> str:
    """On a line of its own, as git reads it: what begins with a quotation mark is taken for quoted."""
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"' if path.startswith('"') else path
