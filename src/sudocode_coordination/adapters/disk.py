"""The durable state of one clone in SQLite: `state.db` in write-ahead mode, for this daemon alone.

A commit is in the operating system's hands when `write` returns: a killed process loses nothing, a machine that loses power
may lose the last commits, never a part of one. So `intact` is said only if the machine has not been booted since.
Every row carries a checksum, since SQLite does not notice flipped bits in content.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import zlib
from pathlib import Path
from typing import Final, assert_never

from sudocode_coordination.core.io import (
    DiskContents,
    DiskOperation,
    ForgottenEpochs,
    ForgottenValue,
    StoredEnvelope,
    StoredValue,
)
from sudocode_coordination.errors import StorageError

DATABASE_FILE: Final = "state.db"
SCHEMA_VERSION: Final = 1
KEPT_CORRUPT_FILES: Final = 3
"""Databases that were set aside and are kept for whoever wants to look into it."""
WAL_LIMIT_BYTES: Final = 4 << 20
"""To what the log is cut back after a large transaction."""
BOOT_ID_FILE: Final = Path("/proc/sys/kernel/random/boot_id")
_SIDE_FILES: Final = ("-wal", "-shm", "-journal")
_CORRUPT_CODES: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_SCHEMA: Final = (
    "CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE envelopes (owner TEXT NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, crc INTEGER NOT NULL,
       data BLOB NOT NULL, PRIMARY KEY (owner, epoch, seq))""",
    """CREATE TABLE vals (space TEXT NOT NULL, key TEXT NOT NULL, crc INTEGER NOT NULL, data BLOB NOT NULL,
       PRIMARY KEY (space, key))""",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)


class _CorruptError(Exception):
    """The file is there, but no database that can be used."""


def read_boot_id() -> str:
    """What tells this boot of the machine from every other; empty where the system does not say (then nothing is intact)."""
    try:
        return BOOT_ID_FILE.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _storage_error(path: Path, error: Exception) -> StorageError:
    code = getattr(error, "sqlite_errorcode", None)
    primary = code & 0xFF if isinstance(code, int) else None
    if primary == sqlite3.SQLITE_FULL:
        hint = "the disk is full: free some space"
    elif primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM) or isinstance(error, PermissionError):
        hint = f"make {path.parent} and what is in it writable for you"
    elif primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        hint = "another process has it open: is a second daemon running?"
    else:
        hint = "check the disk; the state can be had again from other peers if the file is moved away"
    return StorageError(f"{path}: {error}", hint=hint)


class SqliteDisk:
    """`ports.Disk` in a folder of its own.

    Args:
        folder: made with mode 0700 if it is missing; the database in it has mode 0600.
        boot_id: as `read_boot_id` gives it.
    """

    def __init__(self, folder: Path, *, boot_id: str | None = None) -> None:
        self._path = folder / DATABASE_FILE
        self._boot_id = read_boot_id() if boot_id is None else boot_id
        self._connection: sqlite3.Connection | None = None

    @property
    def path(self) -> Path:
        """The database file."""
        return self._path

    # --- opening --------------------------------------------------------------------------------------------------------

    def load(self) -> DiskContents:
        """All that is stored. A corrupt file is set aside as `state.db.corrupt-<n>`, and what is missing shows as not intact.

        Raises:
            StorageError: there is no way to keep anything here.
        """
        self.close()
        try:
            return self._load()
        except _CorruptError:
            self.close()
        try:
            self._set_aside()
            return self._load()
        except (OSError, _CorruptError) as error:
            self.close()
            raise _storage_error(self._path, error) from error

    def _load(self) -> DiskContents:
        try:
            connection = self._open()
            return self._read(connection)
        except sqlite3.Error as error:
            self.close()
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _CORRUPT_CODES:
                raise _CorruptError(str(error)) from error
            raise _storage_error(self._path, error) from error
        except OSError as error:
            self.close()
            raise _storage_error(self._path, error) from error

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # SQLite would make it with the process's umask, and its side files with the database's mode.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        os.chmod(self._path, 0o600)  # noqa: PTH101 (beside os.open)
        # The daemon writes from one thread at a time, but not always from the one that opened it.
        connection = sqlite3.connect(self._path, timeout=1.0, isolation_level=None, check_same_thread=False)
        self._connection = connection
        if self._path.stat().st_size == 0:
            # Little is stored, in many tables and indexes: small pages, and no free ones, waste less.
            connection.execute("PRAGMA page_size = 1024")
            connection.execute("PRAGMA auto_vacuum = FULL")
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise sqlite3.OperationalError(f"journal mode {mode} instead of wal")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            connection.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute("COMMIT")
        elif version != SCHEMA_VERSION:
            raise _CorruptError(f"schema version {version}")
        # At once, rather than at the first write: is it writable, and not open elsewhere?
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
        return connection

    def _read(self, connection: sqlite3.Connection) -> DiskContents:
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise _CorruptError(str(verdict))
        rows = connection.execute("SELECT owner, epoch, seq, crc, data FROM envelopes ORDER BY owner, epoch, seq").fetchall()
        envelopes = tuple(
            StoredEnvelope(owner=owner, epoch=epoch, seq=seq, data=data)
            for owner, epoch, seq, crc, data in rows
            if _sound(crc, data)
        )
        value_rows = connection.execute("SELECT space, key, crc, data FROM vals ORDER BY space, key").fetchall()
        values = tuple(StoredValue(space=space, key=key, data=data) for space, key, crc, data in value_rows if _sound(crc, data))
        before = connection.execute("SELECT value FROM about WHERE name = 'boot'").fetchone()
        connection.execute("INSERT OR REPLACE INTO about VALUES ('boot', ?)", (self._boot_id,))
        sound = len(envelopes) == len(rows) and len(values) == len(value_rows)
        same_boot = before is not None and before[0] == self._boot_id != ""
        return DiskContents(envelopes=envelopes, values=values, intact=sound and same_boot)

    def _set_aside(self) -> None:
        """Make room for a fresh file; the newest few unusable ones are kept."""
        name = self._path.name + ".corrupt-"
        numbers = sorted(
            int(number) for file in self._path.parent.glob(name + "*") if (number := file.name.removeprefix(name)).isdigit()
        )
        self._path.rename(self._path.with_name(f"{name}{numbers[-1] + 1 if numbers else 1}"))
        for suffix in _SIDE_FILES:
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        for old in numbers[: -(KEPT_CORRUPT_FILES - 1)]:
            self._path.with_name(f"{name}{old}").unlink(missing_ok=True)

    # --- writing --------------------------------------------------------------------------------------------------------

    def write(self, operations: tuple[DiskOperation, ...]) -> None:
        """All or nothing.

        Raises:
            StorageError: nothing of it was written.
        """
        connection = self._connection
        if connection is None:
            raise StorageError(f"{self._path} is closed")
        try:
            connection.execute("BEGIN IMMEDIATE")
            for operation in operations:
                self._do(connection, operation)
            connection.execute("COMMIT")
        except (sqlite3.Error, UnicodeEncodeError, OverflowError) as error:
            # SQLite has rolled back by itself after some errors, and then says that there is nothing to roll back.
            if connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            raise _storage_error(self._path, error) from error

    @staticmethod
    def _do(connection: sqlite3.Connection, operation: DiskOperation) -> None:
        match operation:
            case StoredEnvelope(owner=owner, epoch=epoch, seq=seq, data=data):
                row = (owner, epoch, seq, zlib.crc32(data), data)
                connection.execute("INSERT OR REPLACE INTO envelopes VALUES (?, ?, ?, ?, ?)", row)
            case ForgottenEpochs(owner=owner, below=below):
                connection.execute("DELETE FROM envelopes WHERE owner = ? AND epoch < ?", (owner, below))
            case StoredValue(space=space, key=key, data=data):
                connection.execute("INSERT OR REPLACE INTO vals VALUES (?, ?, ?, ?)", (space, key, zlib.crc32(data), data))
            case ForgottenValue(space=space, key=key):
                connection.execute("DELETE FROM vals WHERE space = ? AND key = ?", (space, key))
            case _:
                assert_never(operation)

    def close(self) -> None:
        """No more writes until the next `load`."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _sound(crc: object, data: object) -> bool:
    return isinstance(data, bytes) and zlib.crc32(data) == crc
