"""The flight recorder: every input that the node got, with its time, so that what happened can be told, or run again.

Two files, `journal.0` (being written) and `journal.1` (before it), 0600, each at most `MAX_FILE_BYTES`. A file is a sequence
of records: four bytes of length (big-endian), then MessagePack. The first record of a file is a `Header`, the others are
`Entry`. Keys and passwords never are inputs, so none are in it; what agents write about their work is.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from sudocode_coordination.core.io import DiskContents, Input, Started
from sudocode_coordination.errors import ProtocolError
from sudocode_coordination.model import Now

MAX_FILE_BYTES: Final = 8 << 20
"""Two of them are hours of a busy swarm, and nothing on a disk."""
BUFFER_BYTES: Final = 64 << 10
"""Written when this much has gathered, or after `FLUSH_AFTER_MS`: one system call for hundreds of inputs."""
FLUSH_AFTER_MS: Final = 2_000
MAX_CONTENTS_BYTES: Final = MAX_FILE_BYTES // 4
"""What the disk held at start is left out beyond this: the rest of the file is worth more."""

log = logging.getLogger(__name__)


class Header(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What the node was made of."""

    version: str
    peer_id: str
    config: dict[str, Any]


class Entry(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One input. `abridged`: the disk contents of a `Started` were left out. `together`: taken in one step with the one before."""

    instant: int
    wall_ms: int
    input: Input
    abridged: bool = False
    together: bool = False


Record: TypeAlias = Header | Entry


class Journal:
    """Writes; a disk that refuses ends the recording, never the daemon."""

    def __init__(self, folder: Path, header: Header) -> None:
        self.path = folder / "journal.0"
        self._old = folder / "journal.1"
        self._header = header
        self._buffer = bytearray()
        self._encoder = msgspec.msgpack.Encoder()
        self._file: int | None = None
        self._size = 0
        self._flush_due = 0
        self._open()

    def record(self, now: Now, given: Input, *, together: bool = False) -> None:
        """Note an input before the node handles it."""
        if self._file is None:
            return
        self._append(Entry(instant=now.instant, wall_ms=now.wall_ms, input=given, together=together))
        if isinstance(given, Started) and len(self._buffer) > MAX_CONTENTS_BYTES:
            self._buffer.clear()
            self._append(self._header)
            bare = Started(contents=DiskContents(intact=given.contents.intact), seed=given.seed)
            self._append(Entry(instant=now.instant, wall_ms=now.wall_ms, input=bare, abridged=True))
        if len(self._buffer) >= BUFFER_BYTES or now.instant >= self._flush_due:
            self._flush_due = now.instant + FLUSH_AFTER_MS
            self.flush()

    def flush(self) -> None:
        """Hand what has gathered to the operating system."""
        if self._file is None or not self._buffer:
            return
        try:
            if self._size and self._size + len(self._buffer) > MAX_FILE_BYTES:
                gathered = bytes(self._buffer)
                os.close(self._file)
                self._file = None
                self._open()
                self._buffer += gathered
            if self._file is not None:
                view = memoryview(self._buffer)
                while view:
                    written = os.write(self._file, view)
                    self._size += written
                    view = view[written:]
                view.release()
        except OSError as error:
            log.warning("the journal ends here: %s: %s", self.path, error)
            self.close()
        self._buffer = bytearray()

    def close(self) -> None:
        """No more records."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> None:
        try:
            if self.path.exists():
                self.path.replace(self._old)
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError as error:
            log.warning("no journal will be kept: %s: %s", self.path, error)
            return
        self._size = 0
        self._buffer.clear()
        self._append(self._header)

    def _append(self, record: Record) -> None:
        data = self._encoder.encode(record)
        self._buffer += len(data).to_bytes(4, "big")
        self._buffer += data


def read_journal(path: Path) -> Iterator[Record]:
    """The records of one file; a last one that was cut off by a crash is left out.

    Raises:
        ProtocolError: it is no journal.
    """
    decoder = msgspec.msgpack.Decoder(Record)
    data = path.read_bytes()
    at = 0
    while at + 4 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if at + 4 + size > len(data):
            return
        try:
            record: Record = decoder.decode(data[at + 4 : at + 4 + size])
        except msgspec.MsgspecError as error:
            raise ProtocolError(f"{path}: no journal, or one of another version: {error}") from None
        yield record
        at += 4 + size
