"""The bare repository of our own in which what is changed here and elsewhere is put together and merged.

It reads the clone's objects as its alternates, and keeps what is new beside them: the user's repository gets no object, no ref and
no lock of it. Everything in it can be made again, so it is emptied when much has piled up.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from sudocode_coordination.adapters.gitobjects import TREE, Entry, object_id, parse_tree, write_loose, write_tree
from sudocode_coordination.adapters.gitrun import GitFailedError, GitRunner, Outcome
from sudocode_coordination.adapters.patches import Change, parse_patches
from sudocode_coordination.adapters.table_home import TableHome
from sudocode_coordination.core.diff_entries import DiffError, ObjectId

MARKER_SIZE: Final = 67
"""Letters of a conflict marker here: longer than any line of `=` that people draw, so that markers are told from content."""
MAX_READ_BYTES: Final = 64 << 20
"""Of all objects read for one question: four hundred files, twice. More is refused, whoever asked for it."""
MAX_PATCH_BYTES: Final = 64 << 20
"""Of a patch of those."""
FETCH_TIMEOUT_S: Final = 60.0
"""For the commits that somebody else builds on, from a remote that is slow."""
_LOOSE: Final = 16
"""Objects in one of 256 folders, about 4,000 in all: then they are thrown away."""
_IDENTITY: Final = b"sudocode coordination <coordination@sudocode.invalid> 0 +0000"
_QUIET: Final = {
    # What the user's configuration says of drivers, renames and styles would change what is found, or run something.
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_COUNT": "0",
    "GIT_ATTR_NOSYSTEM": "1",
}


class Read(NamedTuple):
    """An object: its kind (`blob`, `tree`, `commit`), its id and its content."""

    kind: str
    id: ObjectId
    content: bytes


class DiffHome:
    """See the module.

    Args:
        common_dir: the clone's git common directory.
        folder: where the repository is, or will be.
        remote: name of the git remote.
        clone: runs commands in the clone.
        timeout_s: limit of one command.
    """

    def __init__(self, common_dir: Path, folder: Path, remote: str, clone: GitRunner, timeout_s: float) -> None:
        self._common_dir = common_dir.absolute()
        self._home = TableHome(common_dir, folder, remote, clone)
        self._remote = remote
        self._timeout_s = timeout_s
        self._runners: dict[Path | None, GitRunner] = {}
        self.lives = 0
        """How often it was emptied: what was written before is gone."""

    @property
    def objects(self) -> Path:
        """The folder of its own objects."""
        return self._home.objects

    @property
    def algorithm(self) -> str:
        """Of object ids."""
        return self._home.algorithm

    def environment_for_clone(self) -> dict[str, str]:
        """Commands run in the clone with this write their objects here."""
        objects = str(self._common_dir / "objects")
        if ":" in objects or objects.startswith('"'):
            escaped = objects.replace("\\", "\\\\").replace('"', '\\"')
            objects = f'"{escaped}"'
        return {"GIT_OBJECT_DIRECTORY": str(self.objects), "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects}

    async def prepare(self) -> None:
        """Make sure that it is there and sees what the clone has.

        Raises:
            GitFailedError: it can't be made.
        """
        await self._home.prepare()
        try:
            self._link()
        except OSError as error:
            raise GitFailedError(f"{self._home.folder}: {error.strerror or error}") from None

    def _link(self) -> None:
        folder = self._home.folder
        folder.chmod(0o700)
        _write(folder / "objects" / "info" / "alternates", str(self._common_dir / "objects").encode() + b"\n")
        own = _read(self._common_dir / "info" / "attributes")
        _write(folder / "info" / "attributes", (own or b"") + b"\n* conflict-marker-size=%d\n" % MARKER_SIZE)
        shallow = _read(self._common_dir / "shallow")  # a shallow clone's commits have fewer parents than they say
        if shallow is None:
            (folder / "shallow").unlink(missing_ok=True)
        else:
            _write(folder / "shallow", shallow)

    def begin_anew(self) -> None:
        """Remove what an earlier process has left: nothing of it was synced to the disk, and a power cut may have damaged it."""
        shutil.rmtree(self._home.folder, ignore_errors=True)
        self._home.doubt()

    def tidy(self) -> None:
        """Empty it if much has piled up.

        Raises:
            GitFailedError: as `wipe`.
        """
        try:
            full = sum(1 for _ in (self.objects / "17").iterdir()) >= _LOOSE
        except OSError:
            return
        if full:
            self.wipe()

    def wipe(self) -> None:
        """Throw all objects away.

        Raises:
            GitFailedError: the folder can't be made anew.
        """
        self.lives += 1
        shutil.rmtree(self.objects, ignore_errors=True)
        self._home.doubt()
        try:
            self.objects.mkdir(exist_ok=True)
            self._link()
        except OSError as error:
            raise GitFailedError(f"{self.objects}: {error.strerror or error}") from None

    async def run(self, *arguments: str, root: Path | None = None, stdin: bytes = b"", limit: int = MAX_READ_BYTES) -> Outcome:
        """Run a git command here; `root`: with the attributes of that worktree.

        Raises:
            GitFailedError: it could not be run, or said too much.
        """
        runner = self._runners.get(root)
        if runner is None:
            runner = self._runners[root] = GitRunner(self._home.folder, root, self._remote, self._timeout_s)
        environment = dict(_QUIET, GIT_INDEX_FILE=str(self._home.folder / "no-index"))
        if root is not None:
            environment["GIT_WORK_TREE"] = str(root)
        return await runner.run(*arguments, stdin=stdin, limit=limit, environment=environment)

    async def fetch(self, commits: Sequence[ObjectId]) -> None:
        """Get commits from the remote, without a trace in the clone.

        Raises:
            GitFailedError: the remote does not answer, or does not give them.
        """
        await self._home.prepare()
        runner = GitRunner(self._home.folder, None, self._remote, FETCH_TIMEOUT_S)
        outcome = await runner.run("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--refmap=", self._remote, *commits)
        outcome.checked("fetch")

    # --- objects --------------------------------------------------------------------------------------------------------------

    async def read(self, names: Sequence[str]) -> list[Read | None]:
        """Objects by name, in the order asked; None for those that are not here.

        Raises:
            GitFailedError: git did not answer as it should, or all together is too much.
        """
        if not names:
            return []
        outcome = await self.run("cat-file", "--batch", stdin="".join(f"{name}\n" for name in names).encode())
        data, at = outcome.checked("cat-file"), 0
        found: list[Read | None] = []
        for _ in names:
            end = data.find(b"\n", at)
            header = data[at:end]
            if end < 0:
                raise GitFailedError("git cat-file ended too early")
            fields = header.split(b" ")
            if len(fields) != 3 or not fields[2].isdigit():
                found.append(None)  # `<name> missing`, or ambiguous
                at = end + 1
                continue
            size = int(fields[2])
            found.append(Read(fields[1].decode(), fields[0].decode(), data[end + 1 : end + 1 + size]))
            at = end + 1 + size + 1
        return found

    async def sizes(self, ids: Sequence[ObjectId]) -> list[int | None]:
        """Of blobs; None for what is not here or is none."""
        if not ids:
            return []
        outcome = await self.run("cat-file", "--batch-check", stdin="".join(f"{id_}\n" for id_ in ids).encode())
        found: list[int | None] = []
        for line in outcome.checked("cat-file").splitlines():
            fields = line.split(b" ")
            found.append(int(fields[2]) if len(fields) == 3 and fields[1] == b"blob" else None)
        if len(found) != len(ids):
            raise GitFailedError("git cat-file left some out")
        return found

    def add(self, objects: Mapping[ObjectId, tuple[str, bytes]]) -> None:
        """Write objects.

        Raises:
            GitFailedError: the disk does not take them.
        """
        try:
            write_loose(self.objects, objects)
        except OSError as error:
            raise GitFailedError(f"{self.objects}: {error.strerror or error}") from None

    def add_blob(self, content: bytes) -> ObjectId:
        """Write a blob; its id."""
        id_ = self.id_of("blob", content)
        self.add({id_: ("blob", content)})
        return id_

    def id_of(self, kind: str, content: bytes) -> ObjectId:
        """What the id of an object would be."""
        return object_id(kind, content, self.algorithm).hex()

    async def commit(
        self, base: ObjectId, parents: Sequence[ObjectId], files: Mapping[str, tuple[str, ObjectId] | None]
    ) -> ObjectId:
        """A commit of what a base has with some files changed: path -> (mode, blob), None: removed. The same makes the same.

        Raises:
            DiffError: a path is a file and a folder at once, or the base is not here.
            GitFailedError: its folders can't be read.
        """
        wanted = _nested(files)
        folders = sorted({folder for path in files for folder in _folders(path)})
        names = [f"{base}^{{tree}}", *(f"{base}:{folder}" for folder in folders)]
        found = await self.read(names)
        if found[0] is None:
            raise DiffError(f"commit {base[:10]} is not here")
        trees = {
            folder: parse_tree(one.content, len(one.id) // 2)
            for folder, one in zip(("", *folders), found, strict=True)
            if one is not None and one.kind == "tree"
        }
        objects: dict[ObjectId, tuple[str, bytes]] = {}

        def add(kind: str, content: bytes) -> ObjectId:
            id_ = self.id_of(kind, content)
            objects[id_] = (kind, content)
            return id_

        def build(folder: str, changes: _Folder) -> ObjectId | None:
            entries = dict(trees.get(folder, {}))
            for name, change in changes.items():
                key = name.encode("utf-8", "surrogateescape")
                if isinstance(change, dict):
                    child = build(f"{folder}/{name}" if folder else name, change)
                    was = entries.get(key)
                    if child is not None:
                        entries[key] = Entry(TREE, bytes.fromhex(child))
                    elif was is not None and was.mode == TREE:
                        del entries[key]
                elif change is not None:
                    entries[key] = Entry(change[0].lstrip("0").encode(), bytes.fromhex(change[1]))
                else:
                    entries.pop(key, None)
            return add("tree", write_tree(entries)) if entries or not folder else None

        root = build("", wanted)
        lines = [f"tree {root}".encode(), *(f"parent {parent}".encode() for parent in parents)]
        lines += [b"author " + _IDENTITY, b"committer " + _IDENTITY]
        made = add("commit", b"\n".join(lines) + b"\n\nlive\n")
        self.add(objects)
        return made

    async def changes(self, pairs: Sequence[tuple[bytes, bytes]]) -> list[list[Change]]:
        """How each first text becomes the second.

        Raises:
            GitFailedError: git did not answer as it should.
        """
        # Two flat trees with numbers for names: one process for all, and no name that a patch could be broken with.
        sides: list[dict[bytes, Entry]] = [{}, {}]
        objects: dict[ObjectId, tuple[str, bytes]] = {}
        for number, pair in enumerate(pairs):
            for side, content in zip(sides, pair, strict=True):
                id_ = self.id_of("blob", content)
                objects[id_] = ("blob", content)
                side[b"%d" % number] = Entry(b"100644", bytes.fromhex(id_))
        ids = []
        for side in sides:
            raw = write_tree(side)
            ids.append(self.id_of("tree", raw))
            objects[ids[-1]] = ("tree", raw)
        self.add(objects)
        outcome = await self.run(
            *("diff-tree", "-p", "-U0", "--text", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames"),
            *("--diff-algorithm=histogram", "--src-prefix=a/", "--dst-prefix=b/", *ids),
            limit=MAX_PATCH_BYTES,
        )
        found = parse_patches(outcome.checked("diff-tree"))
        return [found.get(str(number), []) for number in range(len(pairs))]


_Folder = dict[str, "tuple[str, ObjectId] | _Folder | None"]


def _nested(files: Mapping[str, tuple[str, ObjectId] | None]) -> _Folder:
    """By folder. A file may come where a folder was, and the other way round: what is removed there goes with it.

    Raises:
        DiffError: there is a file where a folder is to be.
    """
    root: _Folder = {}
    for path, change in sorted(files.items()):  # a folder's own name comes before what lies in it
        *folders, name = path.split("/")
        here: _Folder | None = root
        for folder in folders:
            assert here is not None
            below = here.get(folder)
            if isinstance(below, tuple):
                if change is not None:
                    raise DiffError(f"{path} lies in what is a file")
                here = None
                break
            if below is None:
                below = here[folder] = {}
            here = below
        if here is not None:
            here[name] = change
    return root


def _folders(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _write(path: Path, content: bytes) -> None:
    if _read(path) != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
