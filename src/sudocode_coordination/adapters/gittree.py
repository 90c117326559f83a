"""Directories and files of the coordination branch: read and written as git objects, no index and no work tree in between."""

from __future__ import annotations

from typing import Final, NamedTuple

from sudocode_coordination.adapters.gitrun import GitFailedError, GitRunner
from sudocode_coordination.core.records import agent_of_name

PEERS_PATH: Final = (b".sudocode", b"coordination", b"peers")
MAX_LISTING_BYTES: Final = 4 << 20
"""Of one directory on the branch: 40,000 entries. More is no coordination branch."""
_TREE: Final = b"40000"
_MODES: Final = frozenset((_TREE, b"100644", b"100664", b"100755", b"120000", b"160000"))
PLAIN_FILES: Final = frozenset((b"100644", b"100755"))


class ObjectsMissingError(GitFailedError):
    """Objects that were here are gone: the user's `git gc --prune=now` in between. Fetching again brings them back."""


class Entry(NamedTuple):
    """One line of a directory: mode as in the object (no leading zeros), `blob`, `tree` or `commit`, and the id in hex."""

    mode: bytes
    kind: bytes
    sha: bytes


class GitTrees:
    """The objects behind the branch.

    Args:
        git: runs the commands.
    """

    def __init__(self, git: GitRunner) -> None:
        self._git = git

    async def sizes(self, names: dict[str, bytes]) -> dict[str, int | None]:
        """The sizes of files given as name -> id; None for those that are missing or no files."""
        if not names:
            return {}
        outcome = await self._git.run(
            "cat-file", "--batch-check", stdin=b"".join(sha + b"\n" for sha in names.values()), limit=200 * (len(names) + 1)
        )
        lines = outcome.checked("cat-file").splitlines()
        found: dict[str, int | None] = {}
        for name, line in zip(names, lines, strict=True):
            fields = line.split(b" ")
            found[name] = int(fields[2]) if len(fields) == 3 and fields[1] == b"blob" else None
        return found

    async def contents(self, specs: list[bytes], limit_each: int) -> list[bytes | None]:
        """The contents of objects, None for those that are missing."""
        if not specs:
            return []
        outcome = await self._git.run(
            "cat-file", "--batch", stdin=b"".join(spec + b"\n" for spec in specs), limit=limit_each * len(specs)
        )
        data = outcome.checked("cat-file")
        found: list[bytes | None] = []
        at = 0
        for _ in specs:
            end = data.index(b"\n", at)
            fields = data[at:end].split(b" ")
            if fields[-1] in (b"missing", b"ambiguous"):
                found.append(None)
                at = end + 1
                continue
            size = int(fields[-1])
            found.append(data[end + 1 : end + 1 + size])
            at = end + size + 2
        return found

    async def read(self, tip: str | None) -> list[dict[bytes, Entry]]:
        """The directories from the root down to `peers`, empty where there is none.

        Raises:
            ObjectsMissingError: not even the commit is here.
            GitFailedError: a directory is malformed or huge.
        """
        if tip is None:
            return [{} for _ in range(len(PEERS_PATH) + 1)]
        paths = [b"/".join(PEERS_PATH[:depth]) for depth in range(len(PEERS_PATH) + 1)]
        specs = [tip.encode() + (b":" + path if path else b"^{tree}") for path in paths]
        sizes = await self._git.run("cat-file", "--batch-check", stdin=b"".join(s + b"\n" for s in specs), limit=4_096)
        wanted: list[bytes] = []
        for depth, line in enumerate(sizes.checked("cat-file").splitlines()):
            fields = line.split(b" ")
            if fields[-1] in (b"missing", b"ambiguous"):
                if depth == 0:
                    raise ObjectsMissingError("objects of the coordination branch are missing in this clone")
                break
            if fields[1] != b"tree":
                break
            if int(fields[2]) > MAX_LISTING_BYTES:
                raise GitFailedError(f"the coordination branch has a directory of {int(fields[2])} bytes")
            wanted.append(fields[0])
        contents = await self.contents(wanted, MAX_LISTING_BYTES)
        found = [_parse_tree(content or b"", len(tip) // 2) for content in contents]
        return found + [{} for _ in range(len(PEERS_PATH) + 1 - len(found))]

    async def write(self, trees: list[dict[bytes, Entry]], changes: dict[str, bytes | None]) -> bytes | None:
        """The root tree with the changes made; None if they make no difference."""
        peers = dict(trees[-1])
        for name, content in sorted(changes.items()):
            if agent_of_name(name) is None:
                raise GitFailedError(f"{name!r} is no name of a peer record")
            if content is None:
                peers.pop(name.encode(), None)
                continue
            written = await self._git.run("hash-object", "-w", "--stdin", "--no-filters", stdin=content)
            peers[name.encode()] = Entry(b"100644", b"blob", written.checked("hash-object").strip())
        if peers == trees[-1]:
            return None
        child = peers
        for depth in range(len(PEERS_PATH), -1, -1):
            sha = await self._write_tree(child) if child or depth == 0 else b""
            if depth == 0:
                return sha
            parent = dict(trees[depth - 1])
            name_above = PEERS_PATH[depth - 1]
            if child:
                parent[name_above] = Entry(_TREE, b"tree", sha)
            else:
                parent.pop(name_above, None)
            child = parent
        raise AssertionError("the loop ends at the root")

    async def _write_tree(self, entries: dict[bytes, Entry]) -> bytes:
        sound = sorted((name, entry) for name, entry in entries.items() if _is_sound(name, entry))
        lines = [e.mode.zfill(6) + b" " + e.kind + b" " + e.sha + b"\t" + name + b"\0" for name, e in sound]
        # --missing: entries of others that a partial clone has not fetched stay what they are.
        outcome = await self._git.run("mktree", "-z", "--missing", stdin=b"".join(lines))
        return outcome.checked("mktree").strip()


def _is_sound(name: bytes, entry: Entry) -> bool:
    """Whether git would write that entry, too. One that it would not, made by hand, must not keep everybody from publishing: it is
    left out of the next commit."""
    known = entry.mode in _MODES and entry.sha.strip(b"0")
    return bool(known) and b"/" not in name and name.lower() not in (b"", b".", b"..", b".git")


def _parse_tree(data: bytes, sha_size: int) -> dict[bytes, Entry]:
    """A tree object's entries by name.

    Raises:
        GitFailedError: the object is malformed; fetching does not check that.
    """
    entries: dict[bytes, Entry] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at)
        end = data.find(b"\0", space)
        if space < 0 or end < 0 or end + 1 + sha_size > len(data):
            raise GitFailedError("the coordination branch has a malformed directory")
        mode, name = data[at:space].lstrip(b"0"), data[space + 1 : end]
        kind = b"tree" if mode == _TREE else b"commit" if mode == b"160000" else b"blob"
        entries[name] = Entry(mode, kind, data[end + 1 : end + 1 + sha_size].hex().encode())
        at = end + 1 + sha_size
    return entries
