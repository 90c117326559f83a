"""What every disk promises, checked on the real one and the simulated one; then what only the real one can show."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Final, Protocol

import pytest

from sudocode_coordination.adapters import disk as disks
from sudocode_coordination.adapters import ports
from sudocode_coordination.adapters.disk import KEPT_CORRUPT_FILES, SqliteDisk, read_boot_id
from sudocode_coordination.core.io import ForgottenEpochs, ForgottenValue, StoredEnvelope, StoredValue
from sudocode_coordination.errors import StorageError
from sudocode_coordination.sim.disk import MAX_UNSYNCED, SimDisk


class Machine(Protocol):
    """Where the disk is, and what happens to it."""

    def disk(self) -> ports.Disk:
        """For a process that starts now."""

    def reboot(self) -> None:
        """The machine boots anew; nothing is lost by it."""

    def fail(self, failing: bool) -> None:
        """From now on writes can't, or can, succeed."""


class RealMachine:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.boot = 1
        self.disks: list[SqliteDisk] = []

    def disk(self) -> SqliteDisk:
        for disk in self.disks:
            disk.close()
        self.disks.append(SqliteDisk(self.folder / "state", boot_id=f"boot-{self.boot}"))
        return self.disks[-1]

    def reboot(self) -> None:
        self.boot += 1

    def fail(self, failing: bool) -> None:
        connection = self.disks[-1]._connection
        assert connection is not None
        # A database that may not grow is what a full disk looks like from here: SQLITE_FULL.
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages if failing else 1 << 30}")


class SimMachine:
    def __init__(self) -> None:
        self._disk = SimDisk(Random(1))

    def disk(self) -> SimDisk:
        self._disk.kill()
        return self._disk

    def reboot(self) -> None:
        # One that syncs: the simulated loss of power has a test of its own.
        self._disk._random = _KeepAll()
        self._disk.crash()

    def fail(self, failing: bool) -> None:
        self._disk.full = failing


class _KeepAll(Random):
    def randint(self, a: int, b: int) -> int:
        del a
        return b


@pytest.fixture(params=["real", "sim"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    if request.param == "sim":
        yield SimMachine()
        return
    real = RealMachine(tmp_path)
    yield real
    for disk in real.disks:
        disk.close()


def envelope(owner: str, epoch: int, seq: int, data: bytes = b"data") -> StoredEnvelope:
    return StoredEnvelope(owner=owner, epoch=epoch, seq=seq, data=data)


def value(space: str, key: str, data: bytes = b"data") -> StoredValue:
    return StoredValue(space=space, key=key, data=data)


def test_a_new_disk_is_empty_and_not_intact(machine: Machine) -> None:
    contents = machine.disk().load()
    assert (contents.envelopes, contents.values, contents.intact) == ((), (), False)


def test_what_is_written_is_there_for_the_next_process(machine: Machine) -> None:
    disk = machine.disk()
    disk.load()
    disk.write((envelope("b", 1, 2), envelope("a", 7, 1, b"\0\xff"), value("meta", "x")))
    disk.write((value("meta", "x", b"new"), value("claims", "x", b"")))
    disk.close()
    contents = machine.disk().load()
    assert contents.envelopes == (envelope("a", 7, 1, b"\0\xff"), envelope("b", 1, 2))
    assert contents.values == (value("claims", "x", b""), value("meta", "x", b"new"))
    assert contents.intact


def test_envelopes_come_in_order_of_owner_epoch_and_number(machine: Machine) -> None:
    disk = machine.disk()
    disk.load()
    written = [envelope(owner, epoch, seq) for owner in ("b", "a") for epoch in (10, 9) for seq in (10, 9, 1)]
    disk.write(tuple(written))
    found = machine.disk().load().envelopes
    assert found == tuple(sorted(written, key=lambda e: (e.owner, e.epoch, e.seq)))


def test_a_later_write_of_the_same_place_replaces_the_earlier(machine: Machine) -> None:
    disk = machine.disk()
    disk.load()
    disk.write((envelope("a", 1, 1, b"old"),))
    disk.write((envelope("a", 1, 1, b"new"),))
    assert machine.disk().load().envelopes == (envelope("a", 1, 1, b"new"),)


def test_forgetting(machine: Machine) -> None:
    disk = machine.disk()
    disk.load()
    disk.write((envelope("a", 1, 1), envelope("a", 2, 1), envelope("b", 1, 1), value("drafts", "x"), value("meta", "x")))
    disk.write((ForgottenEpochs(owner="a", below=2), ForgottenValue(space="drafts", key="x")))
    disk.write((ForgottenEpochs(owner="nobody", below=9), ForgottenValue(space="no", key="such")))
    contents = machine.disk().load()
    assert contents.envelopes == (envelope("a", 2, 1), envelope("b", 1, 1))
    assert contents.values == (value("meta", "x"),)


def test_operations_of_one_write_happen_in_their_order(machine: Machine) -> None:
    disk = machine.disk()
    disk.load()
    disk.write((value("meta", "x"), ForgottenValue(space="meta", key="x"), value("meta", "x", b"last")))
    disk.write((envelope("a", 1, 1), ForgottenEpochs(owner="a", below=5), envelope("a", 2, 1)))
    contents = machine.disk().load()
    assert contents.values == (value("meta", "x", b"last"),)
    assert contents.envelopes == (envelope("a", 2, 1),)


def test_after_a_boot_nothing_is_said_to_be_intact(machine: Machine) -> None:
    disk = machine.disk()
    disk.load()
    disk.write((value("meta", "x"),))
    machine.disk()
    machine.reboot()
    after = machine.disk().load()
    assert after.values == (value("meta", "x"),)
    assert not after.intact
    assert machine.disk().load().intact


def test_a_failed_write_leaves_nothing_and_the_disk_usable(machine: Machine) -> None:
    disk = machine.disk()
    disk.load()
    disk.write((value("meta", "before"),))
    machine.fail(True)
    with pytest.raises(StorageError) as caught:
        disk.write((value("meta", "small"), value("meta", "large", b"x" * 1_000_000)))
    assert "space" in caught.value.hint
    machine.fail(False)
    disk.write((value("meta", "z-after"),))
    assert [v.key for v in machine.disk().load().values] == ["before", "z-after"]


def test_a_closed_disk_takes_no_writes(machine: Machine) -> None:
    disk = machine.disk()
    disk.load()
    disk.close()
    with pytest.raises(StorageError):
        disk.write((value("meta", "x"),))
    assert machine.disk().load().values == ()


# --- the simulated one ----------------------------------------------------------------------------------------------------


def test_sim_loss_of_power_leaves_a_prefix() -> None:
    losses = set()
    for seed in range(50):
        disk = SimDisk(Random(seed))
        disk.load()
        for n in range(10):
            disk.write((value("meta", "a", bytes([n])), value("meta", "b", bytes([n]))))
        disk.crash()
        contents = disk.load()
        assert not contents.intact
        one, other = contents.values
        assert one.data == other.data
        losses.add(9 - one.data[0])
    assert losses == set(range(MAX_UNSYNCED + 1))


def test_sim_wipe() -> None:
    disk = SimDisk(Random(1))
    disk.load()
    disk.write((value("meta", "x"),))
    disk.wipe()
    assert disk.load().values == ()


# --- the real one ---------------------------------------------------------------------------------------------------------


def modes(folder: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        disk = SqliteDisk(tmp_path / "state")
        disk.load()
        disk.write((value("meta", "x"),))
        found = modes(tmp_path / "state")
        disk.close()
    finally:
        os.umask(old)
    assert set(found.values()) == {0o600}
    assert "state.db-wal" in found
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def corrupt_header(path: Path) -> None:
    path.write_bytes(b"no database at all" * 1_000)


def corrupt_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for page in range(4_096, len(data), 4_096):
        data[page : page + 16] = b"\xff" * 16
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5_000])


def other_version(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


@pytest.mark.parametrize("damage", [corrupt_header, corrupt_middle, truncate, other_version])
def test_a_corrupt_file_is_set_aside(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    disk = SqliteDisk(tmp_path, boot_id="boot")
    for round_number in range(1, KEPT_CORRUPT_FILES + 3):
        disk.load()
        disk.write(tuple(envelope("a", 1, seq, b"x" * 500) for seq in range(1, 100)))
        disk.close()
        damage(disk.path)
        damaged = disk.path.read_bytes()
        contents = disk.load()
        assert (contents.envelopes, contents.intact) == ((), False)
        disk.write((value("meta", "usable"),))
        aside = sorted(tmp_path.glob("state.db.corrupt-*"))
        assert len(aside) == min(round_number, KEPT_CORRUPT_FILES)
        assert (tmp_path / f"state.db.corrupt-{round_number}").read_bytes()[:1_000] == damaged[:1_000]
    disk.close()


def test_a_flipped_bit_in_content_is_noticed(tmp_path: Path) -> None:
    disk = SqliteDisk(tmp_path, boot_id="boot")
    disk.load()
    disk.write((envelope("a", 1, 1, b"m" * 100), envelope("a", 1, 2, b"n" * 100)))
    disk.close()
    data = disk.path.read_bytes()
    at = data.index(b"n" * 100)
    disk.path.write_bytes(data[:at] + b"N" + data[at + 1 :])
    contents = disk.load()
    disk.close()
    assert contents.envelopes == (envelope("a", 1, 1, b"m" * 100),)
    assert not contents.intact


def test_a_system_without_the_file_of_linux_is_asked_by_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_boot_id() == read_boot_id() != ""
    monkeypatch.setattr(disks, "BOOT_ID_FILE", tmp_path / "missing")
    monkeypatch.setattr(disks, "BOOT_ID_COMMAND", ("echo", "1B5A2F0C-this-boot"))
    assert read_boot_id() == "1B5A2F0C-this-boot"
    for unable in (("false",), (str(tmp_path / "no-such-program"),)):
        monkeypatch.setattr(disks, "BOOT_ID_COMMAND", unable)
        assert read_boot_id() == "", "then nothing is intact"


def test_a_second_process_is_told(tmp_path: Path) -> None:
    first, second = SqliteDisk(tmp_path), SqliteDisk(tmp_path)
    first.load()
    with pytest.raises(StorageError) as caught:
        second.load()
    assert "another process" in caught.value.hint
    first.write((value("meta", "x"),))
    first.close()


def test_a_place_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as caught:
        SqliteDisk(tmp_path / "file").load()
    assert caught.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StorageError) as caught:
            SqliteDisk(tmp_path).load()
    finally:
        tmp_path.chmod(0o700)
    assert "writable" in caught.value.hint


WRITER: Final = """
import sys
from pathlib import Path
from sudocode_coordination.adapters.disk import SqliteDisk
from sudocode_coordination.core.io import ForgottenEpochs, StoredEnvelope, StoredValue

disk = SqliteDisk(Path(sys.argv[1]))
last = max((int(v.data) for v in disk.load().values), default=0)
while True:
    last += 1
    operations = [StoredValue(space="meta", key=f"k{n}", data=str(last).encode()) for n in range(5)]
    operations.append(StoredEnvelope(owner="a", epoch=last, seq=1, data=b"x" * (last % 7 * 3_000)))
    operations.append(ForgottenEpochs(owner="a", below=last))
    disk.write(tuple(operations))
    sys.stdout.write(f"{last}\\n")
    sys.stdout.flush()
"""


def test_a_killed_writer_leaves_whole_transactions_and_all_that_it_told_of(tmp_path: Path) -> None:
    random = Random(7)
    told = 0
    for _ in range(8):
        child = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        try:
            for _ in range(random.randint(1, 200)):
                told = int(child.stdout.readline())
        finally:
            child.send_signal(signal.SIGKILL)
            rest = child.stdout.read().split(b"\n")
            child.wait()
            child.stdout.close()
        told = max([told, *(int(line) for line in rest[:-1])])
        disk = SqliteDisk(tmp_path)
        contents = disk.load()
        disk.close()
        assert contents.intact
        assert len({v.data for v in contents.values}) == 1
        last = int(contents.values[0].data)
        assert told <= last <= told + 1
        assert [e.epoch for e in contents.envelopes] == [last]
