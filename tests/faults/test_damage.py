"""A database that is damaged in any way: what is sound of it is kept, what is not is told, and nothing false is believed."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Final

import pytest

from sudocode_coordination.adapters.disk import DATABASE_FILE, SCHEMA_VERSION, SqliteDisk
from sudocode_coordination.core.io import DiskContents, StoredEnvelope, StoredValue

ENVELOPES: Final = tuple(
    StoredEnvelope(owner=owner, epoch=epoch, seq=seq, data=f"{owner}{epoch}{seq}".encode() * 20)
    for owner in ("ann", "bob")
    for epoch in (7, 8)
    for seq in (1, 2, 3)
)
VALUES: Final = tuple(StoredValue(space=space, key=f"key-{n}", data=b"v" * n) for space in ("drafts", "meta") for n in range(4))


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory if that can be had: this opens databases by the thousand."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None, ignore_cleanup_errors=True) as made:
        yield Path(made)


def written(folder: Path) -> bytes:
    disk = SqliteDisk(folder, boot_id="boot")
    disk.load()
    disk.write((*ENVELOPES, *VALUES))
    disk.close()
    return (folder / DATABASE_FILE).read_bytes()


def reopened(folder: Path, damaged: bytes) -> DiskContents:
    for file in folder.iterdir():
        file.unlink()
    (folder / DATABASE_FILE).write_bytes(damaged)
    disk = SqliteDisk(folder, boot_id="boot")
    try:
        contents = disk.load()
        disk.write((*ENVELOPES, *VALUES))
        disk.close()
        again = disk.load()
        assert (again.envelopes, again.values, again.intact, again.lost) == (ENVELOPES, VALUES, True, ""), "it did not heal"
        return contents
    finally:
        disk.close()


def judge(contents: DiskContents, what: str) -> bool:
    """Nothing but what was written is there, and what is missing is told; whether anything is missing."""
    assert set(contents.envelopes) <= set(ENVELOPES), what
    assert set(contents.values) <= set(VALUES), what
    whole = (contents.envelopes, contents.values) == (ENVELOPES, VALUES)
    assert whole or (contents.lost and not contents.intact), f"{what}: a loss is not told"
    return not whole


def flip(data: bytes, at: int, mask: int) -> bytes:
    return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


@pytest.mark.parametrize("tries", [400, pytest.param(20_000, marks=[pytest.mark.slow, pytest.mark.timeout(1_200)])])
def test_a_changed_byte_anywhere(folder: Path, tries: int) -> None:
    data = written(folder)
    random = Random(tries)
    losses = 0
    for number in range(tries):
        at, mask = random.randrange(len(data)), random.choice((1, 0x80, 0xFF, random.randrange(1, 256)))
        losses += judge(reopened(folder, flip(data, at, mask)), f"try {number}: byte {at} ^ {mask:#x}")
    assert losses > tries // 20


def test_cut_off_anywhere(folder: Path) -> None:
    data = written(folder)
    for size in sorted({1, 15, 16, 99, 100, 1_023, *range(1_024, len(data), 509)}):
        judge(reopened(folder, data[:size]), f"cut to {size} of {len(data)} bytes")


def test_pages_of_another_file_or_of_nothing(folder: Path) -> None:
    data = written(folder)
    random = Random(1)
    for page in range(len(data) // 1_024):
        for content in (bytes(1_024), b"\xff" * 1_024, random.randbytes(1_024), data[:1_024], data[-1_024:]):
            damaged = data[: page * 1_024] + content + data[(page + 1) * 1_024 :]
            judge(reopened(folder, damaged), f"page {page} is {content[:4]!r}")


def test_garbage_of_any_size(folder: Path) -> None:
    random = Random(2)
    for size in (1, 100, 512, 4_096, 100_000):
        for content in (random.randbytes(size), bytes(size), b"SQLite format 3\0" + random.randbytes(size)):
            contents = reopened(folder, content)
            assert not contents.intact
            assert "kept as state.db.corrupt-1" in contents.lost


@pytest.mark.parametrize("column", ["owner", "epoch", "seq", "data"])
def test_a_row_whose_name_or_data_changed_is_dropped_and_told_once(folder: Path, column: str) -> None:
    written(folder)
    connection = sqlite3.connect(folder / DATABASE_FILE)
    odd = {"owner": "CAST(x'61ff' AS TEXT)", "epoch": "9", "seq": "'text'", "data": "x'00'"}[column]
    connection.execute(f"UPDATE envelopes SET {column} = {odd} WHERE owner = 'ann' AND epoch = 8 AND seq = 3")
    connection.commit()
    connection.close()
    disk = SqliteDisk(folder, boot_id="boot")
    contents = disk.load()
    assert contents.envelopes == tuple(e for e in ENVELOPES if (e.owner, e.epoch, e.seq) != ("ann", 8, 3))
    assert contents.values == VALUES
    assert not contents.intact
    assert contents.lost.startswith("1 damaged entries of state.db were dropped")
    disk.close()
    assert disk.load().lost == "", "it is told once"
    disk.close()


def test_a_database_of_the_first_version_is_taken_over(folder: Path) -> None:
    disk = SqliteDisk(folder, boot_id="boot")
    disk.load()
    disk.write((*ENVELOPES, *VALUES))
    disk.close()

    def older(connection: sqlite3.Connection) -> None:
        for table in ("envelopes", "vals"):
            for rowid, data in connection.execute(f"SELECT rowid, data FROM {table}").fetchall():
                connection.execute(f"UPDATE {table} SET crc = ? WHERE rowid = ?", (zlib.crc32(data), rowid))
        connection.execute("UPDATE envelopes SET data = x'00' WHERE owner = 'bob' AND epoch = 7")
        connection.execute("PRAGMA user_version = 1")

    changed(folder, older)
    contents = disk.load()
    assert contents.envelopes == tuple(e for e in ENVELOPES if (e.owner, e.epoch) != ("bob", 7))
    assert contents.values == VALUES
    assert "3 damaged" in contents.lost
    disk.close()
    assert disk.load().intact
    disk.close()
    changed(folder, lambda connection: _expect_version(connection))


def _expect_version(connection: sqlite3.Connection) -> None:
    assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


def changed(folder: Path, change: Callable[[sqlite3.Connection], None]) -> None:
    connection = sqlite3.connect(folder / DATABASE_FILE)
    change(connection)
    connection.commit()
    connection.close()
