"""What git's own text formats say: patches without context, and texts with conflict markers in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from sudocode_coordination.adapters.gitrun import GitFailedError
from sudocode_coordination.core.diff_entries import lines_of
from sudocode_coordination.model import LineRange

_FILE: Final = re.compile(rb"diff --git a/(\d+) b/(\d+)\n\Z")
_PLACE: Final = re.compile(rb"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_NO_NEWLINE: Final = b"\\"


class Change(NamedTuple):
    """`removed` lines behind the first `at` ones are replaced by `lines`."""

    at: int
    removed: int
    lines: list[bytes]


def parse_patches(patch: bytes) -> dict[str, list[Change]]:
    """Of a patch with no lines of context (`-U0`) of files whose names are numbers: name -> changes, from the top.

    Raises:
        GitFailedError: it is none.
    """
    found: dict[str, list[Change]] = {}
    changes: list[Change] = []
    old = new = 0
    for line in lines_of(patch):
        kind = line[:1]
        if old == new == 0 and (named := _FILE.match(line)):
            changes = found.setdefault(named[1].decode(), [])
        elif old == new == 0 and (place := _PLACE.match(line)):
            first, new = int(place[1]), _count(place[4])
            old = _count(place[2])
            changes.append(Change(first - 1 if old else first, old, []))
        elif kind == b"-" and old:
            old -= 1
        elif kind == b"+" and new:
            new -= 1
            changes[-1].lines.append(line[1:])
        elif kind == _NO_NEWLINE:
            # Of the line before it: of a removed one that tells nothing here.
            if changes and changes[-1].lines and new == 0:
                changes[-1].lines[-1] = changes[-1].lines[-1].removesuffix(b"\n")
        elif old or new:
            raise GitFailedError("a patch that is none")
    if old or new:
        raise GitFailedError("a patch that ends too early")
    return found


def _count(text: bytes | None) -> int:
    return 1 if text is None else int(text)


class Marked(NamedTuple):
    """A text with conflict markers, as each side would have it if all conflicts were decided for it, and where those are."""

    ours: bytes
    theirs: bytes
    our_places: list[LineRange]
    their_places: list[LineRange]


def read_marked(text: bytes, marker_size: int) -> Marked | None:
    """None: the markers do not pair up, so content has some of its own."""
    begin, middle, end = (letter * marker_size for letter in (b"<", b"=", b">"))
    ours: list[bytes] = []
    theirs: list[bytes] = []
    our_places: list[LineRange] = []
    their_places: list[LineRange] = []
    side = 0
    for line in lines_of(text):
        if line.startswith(begin + b" "):
            if side:
                return None
            side, our_first, their_first = 1, len(ours) + 1, len(theirs) + 1
        elif line.rstrip(b"\r\n") == middle:
            if side != 1:
                return None
            side = 2
        elif line.startswith(end + b" "):
            if side != 2:
                return None
            side = 0
            our_places.append(LineRange(our_first, len(ours)))
            their_places.append(LineRange(their_first, len(theirs)))
        else:
            if side != 2:
                ours.append(line)
            if side != 1:
                theirs.append(line)
    return None if side else Marked(b"".join(ours), b"".join(theirs), our_places, their_places)


def placed_before(places: Sequence[LineRange], changes: Sequence[Change]) -> tuple[LineRange, ...]:
    """Where lines of a changed text are in the text that it was before.

    Args:
        places: in the changed one.
        changes: that made it.
    """
    return tuple(LineRange(*_spanned(place, changes)) for place in places)


def _spanned(place: LineRange, changes: Sequence[Change]) -> tuple[int, int]:
    first = _before(place.first - 1, changes) + 1
    if place.last < place.first:
        return first, first - 1
    return first, max(first - 1, _before(place.last - 1, changes) + 1)


def _before(at: int, changes: Sequence[Change]) -> int:
    """Of lines counted from 0; one that was not there before stands where it was put."""
    shift = 0
    for change in changes:
        if at < change.at + shift:
            break
        if at < change.at + shift + len(change.lines):
            return change.at + min(at - change.at - shift, max(0, change.removed - 1))
        shift += len(change.lines) - change.removed
    return at - shift
