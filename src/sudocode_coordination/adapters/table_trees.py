"""What is in a commit of the lease table, read out of our own repository; the folders of the last few stay in memory."""

from __future__ import annotations

from typing import Final

from sudocode_coordination.adapters.gitobjects import (
    EMPTY,
    MAX_DEPTH,
    Snapshot,
    Tree,
    count_files,
    differences,
    ids,
    reachable,
    tree_of,
)
from sudocode_coordination.adapters.gitrun import GitFailedError, GitRunner
from sudocode_coordination.adapters.gittree import GitTrees, ObjectsMissingError
from sudocode_coordination.adapters.table_home import TableHome

MAX_FILES: Final = 50_000
"""In a table: five times the leases that are measured. More is an error: a table of which a part is left out excludes nobody."""
MAX_FILE_BYTES: Final = 256 << 10
"""Of one file: as much as the core takes of any. A lease takes a few hundred. Larger ones can't be ours, and are skipped."""
MAX_TREE_BYTES: Final = 16 << 20
"""Of all folders that are read at once: MAX_FILES take 4 MB."""
MAX_TABLE_BYTES: Final = 64 << 20
"""Of all contents that are read at once."""
SNAPSHOTS: Final = 3
"""Whose folders are kept in memory: the tip, the one before, and what was built for a client's push. 0.7 MB at 10,000 leases."""


class TableTrees:
    """Snapshots of commits.

    Args:
        home: where they are.
    """

    def __init__(self, home: TableHome) -> None:
        self._home = home
        self._snapshots: dict[str, Snapshot] = {}

    def snapshot(self, commit: str) -> Snapshot | None:
        """What is in memory of a commit."""
        return self._snapshots.get(commit)

    def clear(self) -> None:
        """The objects are gone."""
        self._snapshots.clear()

    def keep(self, snapshot: Snapshot) -> Snapshot:
        """Remember it; the one that was not used for longest goes."""
        assert snapshot.commit is not None
        self._snapshots.pop(snapshot.commit, None)
        self._snapshots[snapshot.commit] = snapshot
        while len(self._snapshots) > SNAPSHOTS:
            del self._snapshots[next(iter(self._snapshots))]
        return snapshot

    async def load(self, git: GitRunner, commit: str) -> Snapshot:
        """A commit's folders, from memory or level by level; those that other snapshots have are not read again.

        Raises:
            ObjectsMissingError: not all of it is here.
            GitFailedError: it is malformed or huge.
        """
        if commit in self._snapshots:
            return self.keep(self._snapshots[commit])
        known: dict[bytes, Tree] = {}
        for snapshot in self._snapshots.values():
            known.update(snapshot.trees)
        parsed = await git.run("rev-parse", "--verify", "--quiet", f"{commit}^{{tree}}")
        if parsed.code != 0:
            raise ObjectsMissingError("objects of the lease table are missing here")
        root = bytes.fromhex(parsed.stdout.decode("ascii").strip())
        waiting = [] if root in known else [root]
        read_bytes = 0
        for _ in range(MAX_DEPTH + 1):
            if not waiting:
                break
            try:
                contents = await GitTrees(git).contents(ids(waiting), MAX_TREE_BYTES // len(waiting))
            except GitFailedError as failure:
                raise GitFailedError(f"the lease table's folders can't be read: {failure.reason}") from None
            for sha, raw in zip(waiting, contents, strict=True):
                if raw is None:
                    raise ObjectsMissingError("objects of the lease table are missing here")
                read_bytes += len(raw)
                known[sha] = tree_of(raw, self._home.sha_size)
            if read_bytes > MAX_TREE_BYTES:
                raise GitFailedError(f"the lease table's folders take more than {MAX_TREE_BYTES} bytes")
            waiting = sorted({below for sha in waiting for below in known[sha].subtrees} - known.keys())
        return self.keep(Snapshot(commit, root, reachable(root, known)))

    async def changed(self, git: GitRunner, old: Snapshot, new: Snapshot) -> dict[str, bytes | None]:
        """What is different: path -> content, or None where there is none any more.

        Raises:
            ObjectsMissingError: not all of it is here.
            GitFailedError: it is malformed or huge.
        """
        files = count_files(new)
        if files > MAX_FILES:
            raise GitFailedError(f"the lease table has {files} files, {MAX_FILES} allowed")
        found = dict(differences(old, new, self._home.sha_size))
        blobs = {path: sha.hex().encode() for path, sha in found.items() if sha is not None}
        trees = GitTrees(git)
        sizes = await trees.sizes(blobs)
        fitting: dict[str, bytes] = {}
        total = 0
        for path, size in sizes.items():
            if size is None:
                raise ObjectsMissingError("files of the lease table are missing here")
            if size <= MAX_FILE_BYTES:
                fitting[path] = blobs[path]
                total += size
        if total > MAX_TABLE_BYTES:
            raise GitFailedError(f"the lease table takes more than {MAX_TABLE_BYTES} bytes")
        each = total // max(1, len(fitting)) + 200  # with git's line before each
        contents = dict(zip(fitting, await trees.contents(list(fitting.values()), each), strict=True))
        changed = {path: contents.get(path) for path in found}
        # One that is too large now is gone for whoever knew it; against nothing there is nothing to tell.
        return {path: content for path, content in changed.items() if content is not None or old is not EMPTY}
