"""What git would stop at: the changes of two worktrees put together as commits in our own repository, and merged there by git
itself.

    theirs: base blobs + hunks ──> blobs, whose ids must be those that their author told ──> commit ─┐
    mine:   what the scanner saw ──────────────────────────────────────────────────────────> commit ─┴─> git merge-tree

So a forecast is what git's own merge finds, with its renames and its attributes, wherever content is shared. Where it is not,
something stands for it that merges with nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from sudocode_coordination.adapters.diff_home import MARKER_SIZE, DiffHome
from sudocode_coordination.adapters.gitrun import GitFailedError
from sudocode_coordination.adapters.patches import Marked, placed_before, read_marked
from sudocode_coordination.adapters.worktree_scan import Seen
from sudocode_coordination.core.diff_entries import DiffError, ObjectId, Work, apply_hunks
from sudocode_coordination.core.merges import MergeConflict
from sudocode_coordination.model import LineRange

MAX_MERGE_BYTES: Final = 4 << 20
"""Of what `git merge-tree` says of four hundred files and what they run into."""
MAX_PLACED: Final = 50
"""Files in conflict whose lines are looked for."""
MAX_PLACES: Final = 100
"""In one file."""
_CONFLICT: Final = "CONFLICT ("


class MissingError(Exception):
    """Commits that somebody builds on are not in this clone."""

    def __init__(self, commits: Sequence[ObjectId]) -> None:
        super().__init__(f"commit {commits[0][:10]} is not in this clone")
        self.commits = tuple(commits)


class Merged(NamedTuple):
    """What `git merge-tree` says: the tree that it made, the paths in conflict by kind, and path -> stage -> blob."""

    tree: ObjectId
    conflicts: dict[str, str]
    stages: dict[str, dict[int, ObjectId]]


class Foresight:
    """Foretells merges of one clone.

    Args:
        home: where they are made.
    """

    def __init__(self, home: DiffHome) -> None:
        self._home = home

    async def commit_mine(self, seen: Seen) -> ObjectId:
        """Of what was seen in a worktree.

        Raises:
            GitFailedError: it can't be put together.
            DiffError: the same.
        """
        files = {path: None if blob is None else (blob.mode, blob.id) for path, blob in seen.files.items()}
        return await self._home.commit(seen.bases[0], (seen.head,), files)

    async def commit_theirs(self, work: Work) -> ObjectId:
        """Of what somebody shares.

        Raises:
            MissingError: it is built on commits that are not here.
            DiffError: it does not fit what it says to be built on; it may be on its way.
            GitFailedError: git does not do it.
        """
        home = self._home
        commits = (*work.parents, work.header.head or work.header.base)
        found = await home.read([f"{id_}^{{commit}}" for id_ in commits])
        known_commits = {id_ for id_, read in zip(commits, found, strict=True) if read is not None and read.id == id_}
        if missing := [id_ for id_ in work.parents if id_ not in known_commits]:
            raise MissingError(missing)
        bases = list(dict.fromkeys(entry.base for entry in work.files.values() if entry.base and entry.withheld is None))
        contents = dict(zip(bases, await home.read(bases), strict=True))
        known = list(dict.fromkeys(entry.blob for entry in work.files.values() if entry.blob and entry.withheld is not None))
        here = {id_ for id_, size in zip(known, await home.sizes(known), strict=True) if size is not None}
        objects: dict[ObjectId, tuple[str, bytes]] = {}
        files: dict[str, tuple[str, ObjectId] | None] = {}
        for path, entry in work.files.items():
            if entry.change == "deleted":
                files[path] = None
            elif entry.withheld == "submodule":
                files[path] = (entry.mode, entry.blob or home.id_of("blob", path.encode()))
            elif entry.withheld is not None and entry.blob in here:
                files[path] = (entry.mode, entry.blob)
            else:
                if entry.withheld is not None:
                    content = b"\0not shared\0" + (entry.blob or path).encode()
                else:
                    base = contents[entry.base] if entry.base else None
                    if entry.base and (base is None or base.kind != "blob"):
                        raise DiffError(f"blob {entry.base[:10]} is not in this clone")
                    content = apply_hunks(base.content if base is not None else b"", entry)
                id_ = home.id_of("blob", content)
                if entry.withheld is None and id_ != entry.blob:
                    raise DiffError(f"{path} is not whole yet")
                objects[id_] = ("blob", content)
                files[path] = (entry.mode, id_)
        home.add(objects)
        parents = (work.header.head,) if work.header.head in known_commits else work.parents
        return await home.commit(work.header.base, parents, files)

    async def foretell(self, seen: Seen, theirs: Work, root: Path | None) -> tuple[MergeConflict, ...]:
        """What a worktree's changes and somebody else's have in conflict.

        Args:
            seen: here.
            theirs: there.
            root: of the worktree; its attributes say how files are merged. None: there is none.

        Raises:
            MissingError, DiffError, GitFailedError: it can't be told, see above.
        """
        other = await self.commit_theirs(theirs)
        mine = await self.commit_mine(seen)
        merged = await self.merge(mine, other, root)
        chosen = merged.conflicts
        if chosen and set(seen.bases) != set(theirs.parents):
            chosen = await self._of_both(merged, seen, theirs, mine, other, root)
        try:
            places = await self._places(merged, [path for path in chosen if _has_lines(chosen[path])])
        except GitFailedError:
            places = {}  # files too large to look for lines in; the conflict counts all the same
        return tuple(
            MergeConflict(
                path=_plain(path, mine, other),
                kind=kind,
                lines=places.get(path, ((), ()))[0],
                their_lines=places.get(path, ((), ()))[1],
                certain=_certain(path, kind, theirs),
            )
            for path, kind in sorted(chosen.items())
        )

    async def _of_both(
        self, merged: Merged, seen: Seen, theirs: Work, mine: ObjectId, other: ObjectId, root: Path | None
    ) -> dict[str, str]:
        """The two are built on different commits. What those alone have in conflict, with each other or with one of the works, is
        on the remote for all to see, and not between these two."""
        sure = {path for path in merged.conflicts if path in seen.files and path in theirs.files}
        if sure == merged.conflicts.keys():
            return merged.conflicts
        with_their_base = await self.merge(mine, theirs.header.base, root)
        with_my_base = await self.merge(seen.bases[0], other, root)
        elsewhere = with_their_base.conflicts.keys() | with_my_base.conflicts.keys()
        return {path: kind for path, kind in merged.conflicts.items() if path in sure or path not in elsewhere}

    async def merge(self, one: ObjectId, other: ObjectId, root: Path | None) -> Merged:
        """Merge two commits, in memory.

        Raises:
            GitFailedError: git does not do it.
        """
        outcome = await self._home.run(
            "merge-tree", "--write-tree", "-z", "--messages", one, other, root=root, limit=MAX_MERGE_BYTES
        )
        if outcome.code not in (0, 1):
            outcome.checked("merge-tree")
        merged = parse_merged(outcome.stdout)
        # Git also speaks of conflicts that it has solved itself; what stays unmerged decides.
        return merged._replace(conflicts={path: kind for path, kind in merged.conflicts.items() if path in merged.stages})

    # --- where ----------------------------------------------------------------------------------------------------------------

    async def _places(self, merged: Merged, paths: Iterable[str]) -> dict[str, tuple[tuple[LineRange, ...], tuple[LineRange, ...]]]:
        """Where in both sides' files the conflicts are."""
        staged = [path for path in paths if {2, 3} <= merged.stages.get(path, {}).keys()][:MAX_PLACED]
        names = [name for path in staged for name in (f"{merged.tree}:{path}", merged.stages[path][2], merged.stages[path][3])]
        found = await self._home.read(names)
        marked: dict[str, Marked] = {}
        pairs: list[tuple[bytes, bytes]] = []
        for number, path in enumerate(staged):
            text, ours, theirs = found[3 * number : 3 * number + 3]
            if text is None or ours is None or theirs is None:
                continue
            read = read_marked(text.content, MARKER_SIZE)
            if read is None or not read.our_places:
                continue
            marked[path] = read
            pairs += [(ours.content, read.ours), (theirs.content, read.theirs)]
        changes = await self._home.changes(pairs) if pairs else []
        return {
            path: (
                placed_before(read.our_places[:MAX_PLACES], changes[2 * number]),
                placed_before(read.their_places[:MAX_PLACES], changes[2 * number + 1]),
            )
            for number, (path, read) in enumerate(marked.items())
        }


def _plain(path: str, *commits: ObjectId) -> str:
    """Where a file meets a folder of its name, git calls it by the commit as well."""
    name, tilde, commit = path.rpartition("~")
    return name if tilde and commit.partition("_")[0] in commits else path


def _has_lines(kind: str) -> bool:
    return kind in ("contents", "add/add", "content", "rename/rename")


def _certain(path: str, kind: str, theirs: Work) -> bool:
    """Whether content that is not shared has no part in it. Two binary files that differ never merge."""
    entry = theirs.files.get(path)
    if entry is not None:
        return entry.withheld in (None, "binary", "submodule")
    # A rename may have led here from a file that is not shared.
    return kind in ("modify/delete", "file/directory") or all(one.withheld is None for one in theirs.files.values())


def parse_merged(listing: bytes) -> Merged:
    """Of `git merge-tree --write-tree -z --messages`.

    Raises:
        GitFailedError: it is none.
    """
    fields = listing.decode("utf-8", "surrogateescape").split("\0")
    tree, at = fields[0], 1
    stages: dict[str, dict[int, ObjectId]] = {}
    while at < len(fields) and fields[at]:
        about, tab, path = fields[at].partition("\t")
        parts = about.split(" ")
        if not tab or len(parts) != 3 or not parts[2].isdigit():
            raise GitFailedError("git merge-tree said something else than expected")
        stages.setdefault(path, {})[int(parts[2])] = parts[1]
        at += 1
    at += 1
    conflicts: dict[str, str] = dict.fromkeys(stages, "")
    while at < len(fields) and fields[at]:
        if not fields[at].isdigit():
            break  # advice about submodules, for people
        count = int(fields[at])
        if at + count + 2 >= len(fields):
            raise GitFailedError("git merge-tree said something else than expected")
        paths, kind = fields[at + 1 : at + 1 + count], fields[at + 1 + count]
        at += count + 3
        if not kind.startswith(_CONFLICT):
            continue
        named = kind.removeprefix(_CONFLICT).partition(")")[0]
        concerned = [path for path in paths if path in stages] or paths[:1]
        for path in concerned:
            # The first one says most: a binary file in conflict is told of once more as one of contents.
            conflicts[path] = conflicts.get(path) or named
    return Merged(tree, {path: kind or "contents" for path, kind in conflicts.items()}, stages)
