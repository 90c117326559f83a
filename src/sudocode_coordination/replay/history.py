"""Merges of a real history, as if neither side had committed: what is foretold of them, and what git's own merge finds.

The way is that of live diffs (`adapters/worktree_scan.py`, `core/diff_entries.py`, `adapters/foresight.py`), with its limits, its
deny-list and its entries as they travel; only what is changed comes out of commits and not out of a worktree.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

import msgspec
import trio

from sudocode_coordination.adapters.diff_home import DiffHome
from sudocode_coordination.adapters.foresight import Foresight
from sudocode_coordination.adapters.gitrun import GitFailedError, GitRunner
from sudocode_coordination.adapters.worktree_scan import Seen, describe, not_told, sources_of, within_limit
from sudocode_coordination.adapters.worktree_status import Blob, read_committed
from sudocode_coordination.core.diff_entries import DiffError, ObjectId, Work, WorkHeader, read_entry
from sudocode_coordination.core.secrecy import Denial

TIMEOUT_S: Final = 120.0
"""Of one git command; large merges take seconds."""
MAX_MERGE_BYTES: Final = 16 << 20
"""Of what git says of one merge."""


class Replayed(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One merge."""

    ours: ObjectId
    theirs: ObjectId
    found: tuple[str, ...] = ()
    """Files that git's merge has in conflict."""
    foretold: tuple[str, ...] = ()
    """Files of which that was foretold."""
    uncertain: tuple[str, ...] = ()
    """Of those, where content was not shared."""
    changed: int = 0
    """Files changed on both sides together."""
    withheld: int = 0
    """Of theirs, those without content or name."""
    took_ms: float = 0
    """To foretell it, from what the other shares."""
    trouble: str = ""
    """Why it could not be foretold."""


class Figures(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Of all merges together, by file."""

    merges: int
    in_conflict: int
    """Merges that git stops at."""
    changed_files: int
    files_in_conflict: int
    foretold: int
    right: int
    recall: float | None
    """Of the files in conflict, the share that was foretold; None: there were none."""
    precision: float | None
    """Of what was foretold, the share that is in conflict; None: nothing was."""
    uncertain: int
    uncertain_right: int
    withheld: int
    troubles: int
    median_ms: float


def figures(merges: list[Replayed]) -> Figures:
    """Add them up."""
    found = sum(len(one.found) for one in merges)
    foretold = sum(len(one.foretold) for one in merges)
    right = sum(len(set(one.found) & set(one.foretold)) for one in merges)
    times = sorted(one.took_ms for one in merges)
    return Figures(
        merges=len(merges),
        in_conflict=sum(1 for one in merges if one.found),
        changed_files=sum(one.changed for one in merges),
        files_in_conflict=found,
        foretold=foretold,
        right=right,
        recall=right / found if found else None,
        precision=right / foretold if foretold else None,
        uncertain=sum(len(one.uncertain) for one in merges),
        uncertain_right=sum(len(set(one.uncertain) & set(one.found)) for one in merges),
        withheld=sum(one.withheld for one in merges),
        troubles=sum(1 for one in merges if one.trouble),
        median_ms=round(times[len(times) // 2], 1) if times else 0.0,
    )


class History:
    """A repository's history.

    Args:
        common_dir: its git common directory.
        root: its worktree, whose attributes say how files are merged; None: it has none.
        scratch: a folder for objects of our own.
    """

    def __init__(self, common_dir: Path, root: Path | None, scratch: Path) -> None:
        self._git = GitRunner(common_dir, root, "origin", TIMEOUT_S)
        self._root = root
        self._home = DiffHome(common_dir, scratch, "origin", self._git, TIMEOUT_S)
        self._foresight = Foresight(self._home)
        self._denial = Denial()

    async def prepare(self) -> None:
        """Make what is needed.

        Raises:
            GitFailedError: it can't be made.
        """
        await self._home.prepare()

    async def merges(self, revision: str, limit: int) -> list[tuple[ObjectId, ObjectId]]:
        """Parents of the latest merges of two.

        Raises:
            GitFailedError: there is no such revision.
        """
        wanted = ("--min-parents=2", "--max-parents=2", f"--max-count={limit}", "--parents")
        outcome = await self._git.run("rev-list", *wanted, "--end-of-options", revision)
        lines = outcome.checked("rev-list").decode().splitlines()
        return [(fields[1], fields[2]) for fields in map(str.split, lines)]

    async def branches(self, limit: int) -> list[tuple[ObjectId, ObjectId]]:
        """All pairs of branches, as if they were to be merged.

        Raises:
            GitFailedError: git can't tell.
        """
        outcome = await self._git.run("for-each-ref", "--format=%(objectname)", "refs/heads")
        tips = list(dict.fromkeys(outcome.checked("for-each-ref").decode().split()))
        return [(one, two) for number, one in enumerate(tips) for two in tips[:number]][:limit]

    async def replay(self, pairs: list[tuple[ObjectId, ObjectId]]) -> AsyncIterator[Replayed]:
        """Each pair, in order; those without a common ancestor are left out.

        Raises:
            GitFailedError: git can't merge them itself.
        """
        for ours, theirs in pairs:
            bases = await self._git.run("merge-base", "--all", ours, theirs)
            if bases.code == 0:
                yield await self._one(tuple(sorted(bases.stdout.decode().split())), ours, theirs)
            self._home.tidy()

    async def _one(self, bases: tuple[ObjectId, ...], ours: ObjectId, theirs: ObjectId) -> Replayed:
        found = await self._in_conflict(ours, theirs)
        mine, _ = await self._seen(bases, ours)
        other, withheld = await self._seen(bases, theirs)
        replayed = Replayed(ours=ours, theirs=theirs, found=found, changed=len(mine.files.keys() | other.files), withheld=withheld)
        if mine.work is None or other.work is None:
            return replayed
        shared = _as_read(other.work)
        began = trio.current_time()
        try:
            conflicts = await self._foresight.foretell(mine, shared, self._root)
        except (DiffError, GitFailedError) as error:
            return msgspec.structs.replace(replayed, trouble=str(error))
        return msgspec.structs.replace(
            replayed,
            foretold=tuple(sorted({one.path for one in conflicts})),
            uncertain=tuple(sorted({one.path for one in conflicts if not one.certain})),
            took_ms=round((trio.current_time() - began) * 1000, 1),
        )

    async def _in_conflict(self, ours: ObjectId, theirs: ObjectId) -> tuple[str, ...]:
        """By git's own merge, in the repository itself with its configuration."""
        environment = {} if self._root is None else {"GIT_WORK_TREE": str(self._root)}
        outcome = await self._git.run(
            *("merge-tree", "--write-tree", "--name-only", "-z", "--no-messages", ours, theirs),
            environment={**environment, "GIT_OBJECT_DIRECTORY": str(self._home.objects), **self._home.environment_for_clone()},
            limit=MAX_MERGE_BYTES,
        )
        if outcome.code not in (0, 1):
            outcome.checked("merge-tree")
        names = outcome.stdout.decode("utf-8", "surrogateescape").split("\0")[1:]
        return tuple(sorted({_plain(name, ours, theirs) for name in names if name}))

    async def _seen(self, bases: tuple[ObjectId, ...], commit: ObjectId) -> tuple[Seen, int]:
        """As a worktree with all of it uncommitted; and of how many files content or name are not shared."""
        pairs = await read_committed(self._git, bases[0], commit)
        left_out = not_told(set(pairs), self._denial)
        told: Mapping[str, tuple[Blob | None, Blob | None]] = {path: pair for path, pair in pairs.items() if path not in left_out}
        entries, made_of = sources_of(told)
        entries = within_limit({**entries, **await describe(self._home, made_of)})
        header = WorkHeader(base=bases[0], parents=bases if len(bases) > 1 else (), agent="replay")
        work = Work(header=header, files=entries) if entries else None
        withheld = len(left_out) + sum(1 for entry in entries.values() if entry.withheld is not None)
        # What is changed here is all here, whether it is shared or not.
        return Seen(work, bases, commit, {path: now for path, (_, now) in pairs.items()}), withheld


def _as_read(work: Work) -> Work:
    """As another clone reads it."""
    read = {path: read_entry(msgspec.to_builtins(entry)) for path, entry in work.files.items()}
    return Work(header=work.header, files={path: entry for path, entry in read.items() if entry is not None})


def _plain(path: str, *commits: ObjectId) -> str:
    name, tilde, commit = path.rpartition("~")
    return name if tilde and commit.partition("_")[0] in commits else path
