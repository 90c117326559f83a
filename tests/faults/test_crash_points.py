"""Killed at any point: what the disk code writes is recorded, and each prefix of it must open to a state that is legal: all that
was told as done, and of what was under way all or nothing."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from tests.faults.recorder import STRACE, State, record, states

from sudocode_coordination.adapters.disk import SqliteDisk
from sudocode_coordination.adapters.identity import load_or_create_identity
from sudocode_coordination.core.io import DiskContents, DiskOperation, ForgottenEpochs, ForgottenValue, StoredEnvelope, StoredValue
from sudocode_coordination.daemon.lifecycle import write_private

pytestmark = pytest.mark.skipif(STRACE is None, reason="records system calls by strace")

SCRIPT: Final = """
import sys
from pathlib import Path
from tests.faults.test_crash_points import SMALL, WRITES
from sudocode_coordination.adapters.disk import SqliteDisk

def say(mark):
    sys.stdout.write(mark + "\\n")
    sys.stdout.flush()

disk = SqliteDisk(Path(sys.argv[1]), boot_id="boot")
disk.load()
say("loaded")
{body}
"""
TWO_LIVES: Final = """
for number, operations in enumerate(WRITES[:SMALL]):
    if number == SMALL // 2:
        disk.close()
        disk.load()
    disk.write(operations)
    say(f"{number}")
disk.close()
say("closed")
"""
LARGE: Final = """
for number, operations in enumerate(WRITES):
    disk.write(operations)
    say(f"{number}")
disk.close()
say("closed")
"""
SMALL: Final = 6
"""Of the writes, the first ones."""
ONE_IN: Final = 97
"""Of the thousands of moments of a large write, those that are tried by default."""


def _writes() -> tuple[tuple[DiskOperation, ...], ...]:
    """What a daemon writes in a short life: several rows at a time, replaced, forgotten, larger than a page; then a megabyte."""
    made: list[tuple[DiskOperation, ...]] = []
    for number in range(SMALL):
        data = bytes([number]) * (number * 700)
        made.append(
            (
                StoredEnvelope(owner="a", epoch=number + 1, seq=1, data=data),
                StoredValue(space="meta", key="one", data=b"%d" % number),
                StoredValue(space="meta", key="two", data=b"%d" % number),
                ForgottenEpochs(owner="a", below=number),
                ForgottenValue(space="meta", key="no such"),
            )
        )
    # A log of over a thousand pages: SQLite moves it into the database in the midst of this.
    made.append(tuple(StoredValue(space="bulk", key=f"{number}", data=b"x" * 9_000) for number in range(120)))
    made.append((ForgottenValue(space="bulk", key="7"), StoredValue(space="meta", key="one", data=b"last")))
    return tuple(made)


WRITES: Final = _writes()


def contents_after(count: int) -> DiskContents:
    """What is stored after so many of the writes."""
    envelopes: dict[tuple[str, int, int], StoredEnvelope] = {}
    values: dict[tuple[str, str], StoredValue] = {}
    for operations in WRITES[:count]:
        for operation in operations:
            match operation:
                case StoredEnvelope():
                    envelopes[operation.owner, operation.epoch, operation.seq] = operation
                case ForgottenEpochs(owner=owner, below=below):
                    envelopes = {name: e for name, e in envelopes.items() if name[0] != owner or name[1] >= below}
                case StoredValue():
                    values[operation.space, operation.key] = operation
                case ForgottenValue(space=space, key=key):
                    values.pop((space, key), None)
    return DiskContents(
        envelopes=tuple(envelopes[name] for name in sorted(envelopes)), values=tuple(values[name] for name in sorted(values))
    )


LEGAL: Final = [contents_after(count) for count in range(len(WRITES) + 1)]


@pytest.fixture
def again() -> Iterator[Path]:
    """Where the states are made: in memory if that can be had, for a disk takes its time to sync thousands of them."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None, ignore_cleanup_errors=True) as folder:
        yield Path(folder) / "state"


def check(state: State, folder: Path) -> None:
    """It opens to all that was told, and perhaps what was under way; it can be written, and read again."""
    state.make(folder)
    disk = SqliteDisk(folder, boot_id="boot")
    try:
        contents = disk.load()
        done = sum(mark.isdigit() for mark in state.told)
        found = DiskContents(envelopes=contents.envelopes, values=contents.values)
        assert found in LEGAL[done : done + 2], f"{state.after}: not what {done} writes leave"
        assert contents.intact or "loaded" not in state.told, f"{state.after}: something is said to be lost"
        assert contents.lost == "", f"{state.after}: {contents.lost}"
        disk.write((StoredValue(space="meta", key="afterwards", data=b"x"),))
        disk.close()
        assert StoredValue(space="meta", key="afterwards", data=b"x") in disk.load().values, state.after
    finally:
        disk.close()


def test_every_prefix_of_what_the_database_writes(tmp_path: Path, again: Path) -> None:
    changes = record(SCRIPT.format(body=TWO_LIVES), tmp_path / "state", tmp_path / "trace")
    seen = 0
    for state in states(changes):
        check(state, again)
        seen += 1
    assert seen > 300
    assert [change.mark for change in changes if change.mark][-1] == "closed", "all of it was recorded"
    assert {change.path for change in changes if change.path} >= {"state.db", "state.db-wal", "state.db-journal"}


@pytest.mark.parametrize("one_in", [ONE_IN, pytest.param(3, marks=[pytest.mark.slow, pytest.mark.timeout(1_200)])])
def test_prefixes_of_a_large_write(tmp_path: Path, again: Path, one_in: int) -> None:
    changes = record(SCRIPT.format(body=LARGE), tmp_path / "state", tmp_path / "trace")
    moved = 0
    for number, state in enumerate(states(changes)):
        if number % one_in == 0:
            check(state, again)
            moved += "closed" not in state.told and state.after.endswith("bytes") and " state.db," in state.after
    last = WRITES[SMALL]
    told = [number for number, change in enumerate(changes) if change.mark == str(SMALL)]
    assert any(change.path == "state.db" for change in changes[: told[0]][-500:]), f"{len(last)} values did not fill the log"
    assert moved


SET_ASIDE: Final = """
disk.write(WRITES[0])
disk.close()
with disk.path.open("r+b") as file:
    file.write(b"no database")
say("damaged")
disk.load()
say("loaded")
disk.write(WRITES[0])
say("0")
disk.close()
"""


def test_every_prefix_of_setting_a_damaged_database_aside(tmp_path: Path, again: Path) -> None:
    changes = record(SCRIPT.format(body=SET_ASIDE), tmp_path / "state", tmp_path / "trace")
    begun = next(number for number, change in enumerate(changes) if change.mark == "damaged")
    seen = 0
    for state in states(changes):
        if "damaged" not in state.told:
            continue
        state.make(again)
        disk = SqliteDisk(again, boot_id="boot")
        contents = disk.load()
        found = DiskContents(envelopes=contents.envelopes, values=contents.values)
        assert found in LEGAL[:2], state.after
        assert found == LEGAL[1] or "0" not in state.told, state.after
        disk.write(WRITES[1])
        disk.close()
        seen += 1
    assert seen > 30
    assert any(change.call == "rename" for change in changes[begun:])


def test_every_byte_that_a_new_identity_writes(tmp_path: Path, again: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from sudocode_coordination.adapters.identity import load_or_create_identity
os.umask(0)
Path(sys.argv[1]).mkdir(mode=0o700)
print(load_or_create_identity(Path(sys.argv[1]) / "identity.key").peer_id)
"""
    changes = record(code, tmp_path / "state", tmp_path / "trace")
    (told,) = (change.mark for change in changes if change.mark)
    made = 0
    for state in states(changes, every_byte=True):
        state.make(again)
        assert all(mode & 0o077 == 0 for mode in state.modes.values()), f"{state.after}: open to others"
        peer_id = load_or_create_identity(again / "identity.key").peer_id
        if "identity.key" in state.files:
            made += 1
            assert peer_id == told, f"{state.after}: the file is there, but is not the identity"
    assert made


def test_every_byte_of_a_file_that_is_replaced(tmp_path: Path, again: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from sudocode_coordination.daemon.lifecycle import write_private
os.umask(0)
Path(sys.argv[1]).mkdir(mode=0o700)
for content in (b"the old content", b"what is new"):
    write_private(Path(sys.argv[1]) / "file", content)
    print("written")
"""
    whole = (None, b"the old content", b"what is new")
    for state in states(record(code, tmp_path / "state", tmp_path / "trace"), every_byte=True):
        assert state.files.get("file") in whole[len(state.told) : len(state.told) + 2], state.after
        assert all(mode & 0o077 == 0 for mode in state.modes.values()), f"{state.after}: open to others"
        state.make(again)
        write_private(again / "file", b"last")
        assert (again / "file").read_bytes() == b"last"
