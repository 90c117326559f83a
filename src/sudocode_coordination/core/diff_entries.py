"""What is changed in a worktree, as it is shared: entries of the map `fileDiffs`, one for the worktree and one for each changed
file.

    <worktree>          WorkHeader   the commit on the git remote that all changes are made to, and of whom
    <worktree>|<path>   DiffEntry    blob that it was, hunks that were replaced in it, id of the blob that it is now

A hunk says which lines of the base blob are replaced by what. Old lines are not shared: whoever has the base has them, nobody else
gets them. The id of the new blob proves that what was put together is what its author has. Where content is not shared, the entry
says why. Laws: `apply_hunks(old, hunks_of…)` is the new content, byte for byte; whatever others wrote either parses to values
within the limits below, with paths that git would take, or counts as not there.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import msgspec

from sudocode_coordination.model import AGENT_ID_PATTERN, AgentId, Json, LineRange, SharedFile, WithheldReason

MAX_FILES: Final = 400
"""Changed files of one worktree that are shared: a day's work many times over; a vendored tree is not looked at file by file."""
MAX_WORKTREES: Final = 16
"""Of one clone: agents that each have one of their own."""
MAX_HUNKS: Final = 1_000
"""Of one file: half of what the grammar's limit on parts of a value allows."""
MAX_ENTRY_BYTES: Final = 30 << 10
"""Of one file's entry, below `grammar.MAX_VALUE_BYTES`: some 700 lines that are new."""
MAX_WORK_BYTES: Final = 256 << 10
"""Of all entries of one worktree; sixteen worktrees stay at half of what a clone may have alive (`author.MAX_LIVE_BYTES`)."""
_ENTRY_OVERHEAD: Final = 400
"""Two ids of 64 digits, names of fields, and their tags."""
_HUNK_OVERHEAD: Final = 24
"""Two numbers of six bytes, a length, and tags."""
MAX_PATH_BYTES: Final = 900
"""Of a path: fits into a key beside the worktree's name."""
MAX_PARENTS: Final = 8
"""Commits on the remote that unpushed work has as nearest ancestors: two after a merge, more if several branches were merged."""
MAX_LEFT_OUT: Final = 1_000_000
"""As a number that is shown."""
MAIN: Final = "."
"""Name of the main worktree; git's own names for the others never begin with a dot."""

ObjectId: TypeAlias = str
Mode: TypeAlias = Literal["100644", "100755", "120000", "160000"]
_OBJECT_ID = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")
_WORKTREE = re.compile(r"(?:\.|[A-Za-z0-9_][A-Za-z0-9._@+-]{0,79})\Z")
_NO_BRANCH = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]")
MAX_BRANCH_CHARACTERS: Final = 200


class DiffError(ValueError):
    """An entry that does not fit what it is to be applied to."""


class Hunk(msgspec.Struct, frozen=True, array_like=True):
    """`removed` lines behind the first `at` ones of the base are replaced by `text`, which has its line ends with it."""

    at: int
    removed: int
    text: str


class DiffEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One changed file."""

    change: Literal["added", "modified", "deleted"]
    mode: Mode | Literal[""] = ""
    """Of the changed file; empty: it is deleted."""
    blob: ObjectId = ""
    """Of the changed file; empty: it is deleted, or even that is not to be told."""
    base: ObjectId = ""
    """The blob that the hunks are of; empty: an empty one. For a renamed file, it is that of another path."""
    hunks: tuple[Hunk, ...] = ()
    encoding: Literal["utf-8", "latin-1"] = "utf-8"
    """How bytes became text; latin-1 where it was no UTF-8, as that is the same both ways for all bytes."""
    withheld: WithheldReason | None = None


class WorkHeader(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Of one worktree."""

    base: ObjectId
    """The commit that all changes are made to; it is on the git remote."""
    parents: tuple[ObjectId, ...] = ()
    """All nearest ancestors that are on the remote, if there are more than the base (of merges that are not pushed)."""
    head: ObjectId = ""
    """The commit that is checked out, if it is not the base; others may have it, by way of another remote or a worktree beside."""
    branch: str = ""
    agent: AgentId
    """The clone's default agent: whose the changes are, unless somebody holds or works on them."""
    left_out: int = 0
    """Changed files of which nothing is told."""


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """Of one worktree: header, and path -> entry."""

    header: WorkHeader
    files: dict[str, DiffEntry] = {}

    @property
    def parents(self) -> tuple[ObjectId, ...]:
        """The nearest ancestors that are on the remote; the base is the first."""
        return self.header.parents or (self.header.base,)


class Key(NamedTuple):
    """A key of the map; path empty: the header's."""

    worktree: str
    path: str

    def __str__(self) -> str:
        return f"{self.worktree}|{self.path}" if self.path else self.worktree


def read_key(text: str) -> Key | None:
    """None: no key of ours, or a path that git would not take."""
    worktree, bar, path = text.partition("|")
    if not _WORKTREE.match(worktree) or (bar and not is_path(path)):
        return None
    return Key(worktree, path)


def is_path(path: str) -> bool:
    """Whether it is one in a repository that can be shared: relative, in normal form, of printable text, outside of git's
    folder."""
    if not path or not path.isprintable() or len(path.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES:
        return False
    return all(part not in ("", ".", "..") and part.lower() != ".git" for part in path.split("/"))


def worktree_name(name: str) -> str:
    """Git's name of a linked worktree, as keys have it."""
    plain = re.sub(r"[^A-Za-z0-9._@+-]", "-", name)[:80]
    return plain if _WORKTREE.match(plain) and plain != MAIN else f"_{plain[:79]}"


def read_entry(value: Json) -> DiffEntry | None:
    """What a peer wrote of a file; None if it is none, or out of bounds. Those of a newer version's shape are passed over."""
    entry: DiffEntry | None = _convert(value, DiffEntry)
    if entry is None or len(entry.hunks) > MAX_HUNKS:
        return None
    if not all(id_ == "" or _OBJECT_ID.match(id_) for id_ in (entry.blob, entry.base)):
        return None
    if (entry.change == "deleted") != (entry.mode == "") or (entry.change == "deleted" and (entry.hunks or entry.blob)):
        return None
    end = 0
    for number, hunk in enumerate(entry.hunks):
        if hunk.removed < 0 or hunk.at < end or (number and hunk.at == end):
            return None
        end = hunk.at + hunk.removed
    return entry


def read_header(value: Json) -> WorkHeader | None:
    """The same of a worktree."""
    header: WorkHeader | None = _convert(value, WorkHeader)
    if header is None or len(header.parents) > MAX_PARENTS or not AGENT_ID_PATTERN.match(header.agent):
        return None
    if not all(_OBJECT_ID.match(id_) for id_ in (header.base, *header.parents, header.head or header.base)):
        return None
    if header.parents and header.parents[0] != header.base:
        return None
    return header if 0 <= header.left_out <= MAX_LEFT_OUT and is_branch(header.branch) else None


def is_branch(name: str) -> bool:
    """Whether it can be shown as a branch's name."""
    return len(name) <= MAX_BRANCH_CHARACTERS and (not name or name.isprintable()) and not _NO_BRANCH.search(name)


def _convert(value: Json, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, ValueError):
        return None


def entry_bytes(entry: DiffEntry) -> int:
    """At least what the entry takes when it is shared."""
    try:
        return _ENTRY_OVERHEAD + sum(len(hunk.text.encode()) + _HUNK_OVERHEAD for hunk in entry.hunks)
    except UnicodeEncodeError:  # lone surrogates can't be shared
        return MAX_ENTRY_BYTES + 1


def lines_of(data: bytes) -> list[bytes]:
    """As git counts lines: each up to and with its newline; the last one may lack it."""
    parts = data.split(b"\n")
    lines = [part + b"\n" for part in parts[:-1]]
    return [*lines, parts[-1]] if parts[-1] else lines


def apply_hunks(base: bytes, entry: DiffEntry) -> bytes:
    """The new content.

    Raises:
        DiffError: the hunks are not of this base.
    """
    lines = lines_of(base)
    out: list[bytes] = []
    done = 0
    for hunk in entry.hunks:
        if not done <= hunk.at <= hunk.at + hunk.removed <= len(lines):
            raise DiffError(f"a hunk of lines {hunk.at} to {hunk.at + hunk.removed} where there are {len(lines)}")
        out += lines[done : hunk.at]
        try:
            out.append(hunk.text.encode(entry.encoding))
        except UnicodeEncodeError:
            raise DiffError(f"text that is no {entry.encoding}") from None
        done = hunk.at + hunk.removed
    return b"".join([*out, *lines[done:]])


def changed_lines(entry: DiffEntry) -> tuple[LineRange, ...]:
    """Where the hunks are in the changed file."""
    found: list[LineRange] = []
    shift = 0
    for hunk in entry.hunks:
        count = hunk.text.count("\n") + (1 if hunk.text and not hunk.text.endswith("\n") else 0)
        first = hunk.at + shift + 1
        found.append(LineRange(first, first + count - 1))
        shift += count - hunk.removed
    return tuple(found)


def shared_files(work: Work) -> tuple[SharedFile, ...]:
    """As clients are shown them, by path."""
    return tuple(
        SharedFile(path=path, change=entry.change, lines=changed_lines(entry), withheld=entry.withheld)
        for path, entry in sorted(work.files.items())
    )


# --- whether two can conflict ---------------------------------------------------------------------------------------------


def may_conflict(mine: Work, theirs: Work) -> bool:
    """Whether git could find a conflict between the two: no means no. What is sure takes git itself.

    With one base, a conflict needs a path that both changed; or one that is a folder to the other; or a file that one added to a
    folder that the other may have renamed, which then has files that are deleted.
    """
    if not mine.files or not theirs.files:
        return False
    if set(mine.parents) != set(theirs.parents) or mine.files.keys() & theirs.files.keys():
        return True
    if mine.header.head and theirs.header.head:
        return True  # commits that both have and that are not on the remote may be what both are built on
    for one, other in ((mine, theirs), (theirs, mine)):
        if any(folder in other.files for path in one.files for folder in _folders(path)):
            return True
        added = any(entry.change == "added" for entry in one.files.values())
        if added and any(entry.change == "deleted" for entry in other.files.values()):
            return True
    return False


def _folders(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]
