"""A disk that outlives the simulated processes that use it: killed, losing power, full, or wiped, all by seed."""

from __future__ import annotations

from random import Random
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

MAX_UNSYNCED: Final = 3
"""Last transactions that a loss of power may take: the operating system has written the ones before by then."""

_Tables = tuple[dict[tuple[str, int, int], bytes], dict[tuple[str, str], bytes]]


def _apply(tables: _Tables, operations: tuple[DiskOperation, ...]) -> None:
    envelopes, values = tables
    for operation in operations:
        match operation:
            case StoredEnvelope(owner=owner, epoch=epoch, seq=seq, data=data):
                envelopes[owner, epoch, seq] = data
            case ForgottenEpochs(owner=owner, below=below):
                for name in [name for name in envelopes if name[0] == owner and name[1] < below]:
                    del envelopes[name]
            case StoredValue(space=space, key=key, data=data):
                values[space, key] = data
            case ForgottenValue(space=space, key=key):
                values.pop((space, key), None)
            case _:
                assert_never(operation)


class SimDisk:
    """`ports.Disk` in memory. The same object serves one process after the other: each begins with `load`."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._synced: _Tables = ({}, {})
        self._unsynced: list[tuple[DiskOperation, ...]] = []
        self._open = False
        self._known_boot = False
        self.full = False
        """While set, every write fails."""

    def load(self) -> DiskContents:
        """All that is stored."""
        envelopes, values = dict(self._synced[0]), dict(self._synced[1])
        for operations in self._unsynced:
            _apply((envelopes, values), operations)
        intact, self._known_boot, self._open = self._known_boot, True, True
        return DiskContents(
            envelopes=tuple(
                StoredEnvelope(owner=owner, epoch=epoch, seq=seq, data=data)
                for (owner, epoch, seq), data in sorted(envelopes.items())
            ),
            values=tuple(StoredValue(space=space, key=key, data=data) for (space, key), data in sorted(values.items())),
            intact=intact,
        )

    def write(self, operations: tuple[DiskOperation, ...]) -> None:
        """All or nothing.

        Raises:
            StorageError: the disk is full, or closed.
        """
        if not self._open:
            raise StorageError("the disk is closed")
        if self.full:
            raise StorageError("the disk is full", hint="free some space")
        self._unsynced.append(operations)
        if len(self._unsynced) > MAX_UNSYNCED:
            _apply(self._synced, self._unsynced.pop(0))

    def close(self) -> None:
        """No more writes until the next `load`."""
        self._open = False

    def kill(self) -> None:
        """The process is gone, the machine runs on: what was written is there."""
        self._open = False

    def crash(self) -> None:
        """The machine loses power: some of the last transactions never reached the disk; a torn one counts as not there."""
        self._open = False
        self._known_boot = False
        kept = self._random.randint(0, len(self._unsynced))
        for operations in self._unsynced[:kept]:
            _apply(self._synced, operations)
        self._unsynced = []

    def wipe(self) -> None:
        """All is lost: another disk, or a fresh clone."""
        self._open = False
        self._known_boot = False
        self._synced = ({}, {})
        self._unsynced = []
