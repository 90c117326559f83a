"""`ports.Neighbourhood`: a folder of the user where every running daemon has its signed record, whatever repository it is of.

    <runtime dir>/near/<peer id>.json      locked (flock) by the daemon that shows it, for as long as it lives

A file that nobody has locked is of a daemon that was killed, and is removed by whoever looks. Whose record counts is for the core
to say: a daemon of another repository is none of its peers.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from sudocode_coordination.adapters.ports import Deliver
from sudocode_coordination.adapters.supervisor import next_beat
from sudocode_coordination.core.io import RecordsSighted
from sudocode_coordination.core.records import MAX_RECORD_BYTES
from sudocode_coordination.errors import StorageError
from sudocode_coordination.model import PeerId
from sudocode_coordination.place import private_dir, runtime_dir

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = logging.getLogger(__name__)

FOLDER: Final = "near"
LOOK_SECONDS: Final = 0.5
"""Between two looks: clones of one machine meet within a second. A look at a folder that has not changed is one system call."""
CROWD: Final = 10
"""With so many other daemons on this machine looks are half as frequent, at the beat that all else keeps: each wakes a process at
rest."""
LOOK_CLOSELY_EVERY: Final = 20
"""Looks after which files are read again though the folder has not changed: a lock that was let go does not show in it."""
LOOKS_PER_FILE: Final = 2
"""So many looks at least for each file that was found, so that fifty cost no more than ten: each is opened, tried and read. Nothing
waits for what a killed daemon left; a new one changes the folder."""
MAX_FILES: Final = 500
"""Read at most: more daemons than one machine holds. The first by name."""
_NAME: Final = re.compile(r"([1-9A-HJ-NP-Za-km-z]{1,60})\.json\Z")


class Everywhere:
    """Several neighbourhoods as one."""

    def __init__(self, *parts: Any) -> None:
        self._parts = parts

    def show_record(self, data: bytes) -> None:
        for part in self._parts:
            part.show_record(data)

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """All of them, until cancelled."""
        async with trio.open_nursery() as nursery:
            for part in self._parts:
                await nursery.start(part.run)
            task_status.started()


class Rendezvous:
    """See above. `run` it; `show_record` may be called before.

    Args:
        peer_id: whose record it is.
        deliver: gets `RecordsSighted`.
        folder: instead of the user's.
    """

    def __init__(self, peer_id: PeerId, deliver: Deliver, *, folder: Path | None = None) -> None:
        self._name = f"{peer_id}.json"
        self._deliver = deliver
        self._folder = folder or Path(runtime_dir()) / FOLDER
        self._path = str(self._folder)
        self._record: bytes | None = None
        self._held: int | None = None
        """Descriptor of the own file, which carries the lock."""
        self._seen: tuple[bytes, ...] = ()
        self._complaint = ""

    def show_record(self, data: bytes) -> None:
        self._record = data
        self._guarded(self._write)

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look around until cancelled; then take the own record away."""
        task_status.started()
        changed_ns, looks = -1, 0
        try:
            while True:
                changed_now_ns = self._changed_ns()
                if changed_now_ns != changed_ns or looks >= max(LOOK_CLOSELY_EVERY, LOOKS_PER_FILE * len(self._seen)):
                    self._guarded(self._look)
                    changed_ns, looks = changed_now_ns, 0
                looks += 1
                await trio.sleep_until(next_beat(LOOK_SECONDS * (2 if len(self._seen) >= CROWD else 1)))
        finally:
            self._guarded(self._remove)

    def _guarded(self, action: Callable[[], None]) -> None:
        """Clones that can't meet here meet by the branch: a folder that can't be used is told once, in the log."""
        try:
            action()
        except (OSError, StorageError) as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.warning("daemons on this machine are not looked for: %s", error)

    def _changed_ns(self) -> int:
        try:
            return os.stat(self._path).st_mtime_ns  # noqa: PTH116 - twice a second: a third of what pathlib takes
        except OSError:
            return 0

    # --- the own record ---------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        if self._record is None:
            return
        private_dir(str(self._folder.parent))
        private_dir(str(self._folder))
        target = self._folder / self._name
        draft = self._folder / f".{self._name}.{os.getpid()}"
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(descriptor, self._record)
            draft.rename(target)
        except OSError:
            os.close(descriptor)
            draft.unlink(missing_ok=True)
            raise
        if self._held is not None:
            os.close(self._held)
        self._held = descriptor

    def _remove(self) -> None:
        if self._held is None:
            return
        try:
            if self._is_there():
                (self._folder / self._name).unlink()
        finally:
            os.close(self._held)
            self._held = None

    def _is_there(self) -> bool:
        """Whether the file under the own name is the one that was written here."""
        assert self._held is not None
        try:
            return os.path.samestat(os.fstat(self._held), (self._folder / self._name).lstat())
        except FileNotFoundError:
            return False

    # --- others -----------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        if self._held is not None and not self._is_there():
            self._write()  # whoever cleans up temporary folders took it away
        try:
            names = sorted(path.name for path in self._folder.iterdir())
        except FileNotFoundError:
            names = []
        found = (self._read(name) for name in names[:MAX_FILES] if _NAME.match(name) and name != self._name)
        seen = tuple(data for data in found if data is not None)
        if seen != self._seen:
            self._seen = seen
            self._deliver(RecordsSighted(records=seen))

    def _read(self, name: str) -> bytes | None:
        """What a living daemon shows; None if there is none behind it."""
        path = self._folder / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None  # gone meanwhile, or no file
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return os.read(descriptor, MAX_RECORD_BYTES + 1)
            path.unlink(missing_ok=True)  # if its owner is back this very moment, it sees that and writes it again
            return None
        finally:
            os.close(descriptor)
