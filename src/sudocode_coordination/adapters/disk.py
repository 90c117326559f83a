"""The durable state of one clone in SQLite: `state.db` in write-ahead mode, for this daemon alone.

A commit is in the operating system's hands when `write` returns: a killed process loses nothing, a machine that loses power
may lose the last commits, never a part of one. So `intact` is said only if the machine has not been booted since.
Every row carries a checksum, since SQLite does not notice flipped bits in content. What is damaged is left out and told in
`DiskContents.lost`; what can't be read as a database at all is set aside.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import zlib
from pathlib import Path
from typing import Any, Final, assert_never

import msgspec

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
SCHEMA_VERSION: Final = 2
"""1: checksums were of the data alone."""
KEPT_CORRUPT_FILES: Final = 3
"""Databases that were set aside and are kept for whoever wants to look into it."""
WAL_LIMIT_BYTES: Final = 4 << 20
"""To what the log is cut back after a large transaction."""
BOOT_ID_FILE: Final = Path("/proc/sys/kernel/random/boot_id")
"""On Linux."""
BOOT_ID_COMMAND: Final = ("/usr/sbin/sysctl", "-n", "kern.bootsessionuuid")
"""On macOS."""
BOOT_ID_TIMEOUT_S: Final = 5.0
_SIDE_FILES: Final = ("-wal", "-shm", "-journal")
_CORRUPT_CODES: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
PAGE_BYTES: Final = 1_024
"""Little is stored, in many tables and indexes: small pages, and no free ones, waste less."""
_FORMATS: Final = slice(18, 20)
_NEWEST_FORMAT: Final = 2
"""Where SQLite's header has the versions needed to write and to read; 2 is write-ahead logging."""
_COMES_BACK: Final = "what was shared comes back from other peers; own lease history and drafts do not"
_TABLES: Final = (
    "CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE envelopes (owner TEXT NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, crc INTEGER NOT NULL,
       data BLOB NOT NULL, PRIMARY KEY (owner, epoch, seq))""",
    """CREATE TABLE vals (space TEXT NOT NULL, key TEXT NOT NULL, crc INTEGER NOT NULL, data BLOB NOT NULL,
       PRIMARY KEY (space, key))""",
)


_KEYS: Final = {"envelopes": "owner, epoch, seq", "vals": "space, key"}
"""Table -> the columns that name a row."""


class _CorruptError(Exception):
    """The file is there, but no database that can be used."""


def read_boot_id() -> str:
    """What tells this boot of the machine from every other; empty where the system does not say (then nothing is intact)."""
    with contextlib.suppress(OSError, UnicodeDecodeError):  # another system
        return BOOT_ID_FILE.read_text("ascii").strip()
    try:
        said = subprocess.run(BOOT_ID_COMMAND, stdin=subprocess.DEVNULL, capture_output=True, timeout=BOOT_ID_TIMEOUT_S, check=True)
        return said.stdout.decode("ascii").strip()
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
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
    elif primary in _CORRUPT_CODES:
        hint = "the database is damaged; the next start sets it aside: coord stop, then coord start"
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
        except _CorruptError as error:
            self.close()
            why = str(error)
        try:
            kept = self._set_aside()
            contents = self._load()
            lost = f"{DATABASE_FILE} could not be used ({why}) and is kept as {kept}: {_COMES_BACK}"
            return msgspec.structs.replace(contents, lost=lost)
        except (OSError, _CorruptError) as error:
            self.close()
            raise _storage_error(self._path, error) from error

    def _load(self) -> DiskContents:
        try:
            connection = self._open()
            return self._read(connection)
        except sqlite3.Error as error:
            self.close()
            # Of statements that never change, SQLITE_ERROR means that the tables are not what they were.
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _CORRUPT_CODES | {sqlite3.SQLITE_ERROR}:
                raise _CorruptError(str(error)) from error
            raise _storage_error(self._path, error) from error
        except UnicodeDecodeError as error:  # SQLite's own complaint quotes what is damaged
            self.close()
            raise _CorruptError("its schema is no text") from error
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
        connection.text_factory = _text
        if self._is_new():
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
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
            for statement in _TABLES:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("COMMIT")
        elif version == 1:
            self._upgrade(connection)
        elif version != SCHEMA_VERSION:
            raise _CorruptError(f"schema version {version}, this is {SCHEMA_VERSION}")
        tables = {sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE type = 'table'")}
        if tables != set(_TABLES):
            raise _CorruptError("its tables are not those of this program")
        # At once, rather than at the first write: is it writable, and not open elsewhere?
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
        return connection

    def _is_new(self) -> bool:
        """Whether the file is empty. What SQLite would take for something else than damage shows in the first bytes."""
        with self._path.open("rb") as file:
            header = file.read(PAGE_BYTES)
        if 0 < len(header) < PAGE_BYTES and not self._path.with_name(self._path.name + "-journal").exists():
            raise _CorruptError(f"{len(header)} bytes are no database")  # an empty one, to SQLite
        if len(header) == PAGE_BYTES and max(header[_FORMATS]) > _NEWEST_FORMAT:
            raise _CorruptError("its format is of a future SQLite")  # a read-only one
        return not header

    @staticmethod
    def _upgrade(connection: sqlite3.Connection) -> None:
        """From version 1: sound rows get their checksum anew, the others are left for `_read` to find."""
        connection.execute("BEGIN IMMEDIATE")
        for table, keys in _KEYS.items():
            rows = connection.execute(f"SELECT rowid, {keys}, crc, data FROM {table}").fetchall()
            for rowid, *names, crc, data in rows:
                if isinstance(data, bytes) and zlib.crc32(data) == crc:
                    connection.execute(f"UPDATE {table} SET crc = ? WHERE rowid = ?", (_checksum(data, *names), rowid))
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")

    def _read(self, connection: sqlite3.Connection) -> DiskContents:
        (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise _CorruptError(str(verdict))
        connection.execute("BEGIN IMMEDIATE")
        envelopes, damaged = self._sound_rows(connection, "envelopes")
        values, more = self._sound_rows(connection, "vals")
        damaged += more
        before = connection.execute("SELECT value FROM about WHERE name = 'boot'").fetchone()
        connection.execute("INSERT OR REPLACE INTO about VALUES ('boot', ?)", (self._boot_id,))
        connection.execute("COMMIT")
        same_boot = before is not None and before[0] == self._boot_id != ""
        lost = f"{damaged} damaged entries of {DATABASE_FILE} were dropped: {_COMES_BACK}" if damaged else ""
        return DiskContents(
            envelopes=tuple(StoredEnvelope(owner=o, epoch=e, seq=s, data=data) for o, e, s, data in envelopes),
            values=tuple(StoredValue(space=space, key=key, data=data) for space, key, data in values),
            intact=same_boot and not damaged,
            lost=lost,
        )

    @staticmethod
    def _sound_rows(connection: sqlite3.Connection, table: str) -> tuple[list[tuple[Any, ...]], int]:
        """Names and data of a table's rows, in order, and how many were damaged: those are deleted."""
        keys = _KEYS[table]
        sound: list[tuple[Any, ...]] = []
        damaged: list[int] = []
        for rowid, *names, crc, data in connection.execute(f"SELECT rowid, {keys}, crc, data FROM {table} ORDER BY {keys}"):
            if isinstance(data, bytes) and _checksum(data, *names) == crc:
                sound.append((*names, data))
            else:
                damaged.append(rowid)
        for rowid in damaged:
            connection.execute(f"DELETE FROM {table} WHERE rowid = ?", (rowid,))
        return sound, len(damaged)

    def _set_aside(self) -> str:
        """Make room for a fresh file; the newest few unusable ones are kept. The name that this one has now."""
        name = self._path.name + ".corrupt-"
        numbers = sorted(
            int(number) for file in self._path.parent.glob(name + "*") if (number := file.name.removeprefix(name)).isdigit()
        )
        kept = f"{name}{numbers[-1] + 1 if numbers else 1}"
        self._path.rename(self._path.with_name(kept))
        for suffix in _SIDE_FILES:
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        for old in numbers[: -(KEPT_CORRUPT_FILES - 1)]:
            self._path.with_name(f"{name}{old}").unlink(missing_ok=True)
        return kept

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
                row = (owner, epoch, seq, _checksum(data, owner, epoch, seq), data)
                connection.execute("INSERT OR REPLACE INTO envelopes VALUES (?, ?, ?, ?, ?)", row)
            case ForgottenEpochs(owner=owner, below=below):
                connection.execute("DELETE FROM envelopes WHERE owner = ? AND epoch < ?", (owner, below))
            case StoredValue(space=space, key=key, data=data):
                named = (space, key, _checksum(data, space, key), data)
                connection.execute("INSERT OR REPLACE INTO vals VALUES (?, ?, ?, ?)", named)
            case ForgottenValue(space=space, key=key):
                connection.execute("DELETE FROM vals WHERE space = ? AND key = ?", (space, key))
            case _:
                assert_never(operation)

    def close(self) -> None:
        """No more writes until the next `load`."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _text(raw: bytes) -> str:
    """A column that is no text any more shows in its checksum, not as an error of the whole."""
    return raw.decode("utf-8", "replace")


def _checksum(data: bytes, *names: object) -> int:
    """Of a row: what it is called and what it holds."""
    return zlib.crc32(data, zlib.crc32("\0".join(map(str, names)).encode("utf-8", "surrogatepass")))
