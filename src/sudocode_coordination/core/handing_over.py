"""What a clone that gets a new key leaves to its next life: its live fields of issues and specs, through the disk.

leave_behind: the entries end in the old feed, and are on the disk, in one transaction
take_over:    the next life, whatever its key is, writes them in its own name, and drops the note, in one transaction
"""

from __future__ import annotations

from typing import Final

import msgspec

from sudocode_coordination.core.facts import Output, Root
from sudocode_coordination.core.io import DiskContents, DiskOperation, ForgottenValue, Persist, StoredValue
from sudocode_coordination.core.sync import Sync
from sudocode_coordination.model import Json, Now

SPACE: Final = "handover"
ROOTS: Final[tuple[Root, ...]] = ("issueUpdates", "specUpdates")


class _Entry(msgspec.Struct, array_like=True, frozen=True):
    root: Root
    key: str
    value: Json


def leave_behind(sync: Sync, now: Now) -> list[Output]:
    """End the own live fields, and keep them for the next life."""
    entries = [_Entry(root, key, value) for root in ROOTS for key, value in sync.owner_entries(root, sync.own)]
    kept = tuple(StoredValue(space=SPACE, key=str(n), data=msgspec.json.encode(entry)) for n, entry in enumerate(entries))
    out: list[Output] = [Persist(operations=kept)] if kept else []
    for entry in entries:
        out += sync.set(entry.root, entry.key, None, now)
    return out


def take_over(sync: Sync, contents: DiskContents, now: Now) -> list[Output]:
    """Write what the life before has left. What can't be read is dropped: it is of no version that wrote it."""
    out: list[Output] = []
    done: list[DiskOperation] = []
    for value in contents.values:
        if value.space != SPACE:
            continue
        done.append(ForgottenValue(space=SPACE, key=value.key))
        try:
            entry = msgspec.json.decode(value.data, type=_Entry)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
        out += sync.set(entry.root, entry.key, entry.value, now)
    return [*out, Persist(operations=tuple(done))] if done else out
