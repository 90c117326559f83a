"""The flight recorder: bounded, private, readable after a crash."""

from __future__ import annotations

from pathlib import Path

import pytest

from sudocode_coordination.core.io import DiskContents, GossipReceived, Started, StoredEnvelope, Ticked
from sudocode_coordination.daemon import journal as journal_module
from sudocode_coordination.daemon.journal import Entry, Header, Journal, read_journal
from sudocode_coordination.errors import ProtocolError
from sudocode_coordination.model import Now

HEADER = Header(version="1", peer_id="p", config={"agent_id": "a"})


def test_what_is_recorded_is_read_back(short_tmp: Path) -> None:
    journal = Journal(short_tmp, HEADER)
    for n in range(100):
        journal.record(Now(n, n), GossipReceived(topic="t", data=b"%d" % n))
    journal.flush()
    journal.close()
    header, *entries = read_journal(journal.path)
    assert header == HEADER
    assert [e.instant for e in entries if isinstance(e, Entry)] == list(range(100))
    assert journal.path.stat().st_mode & 0o777 == 0o600


def test_it_is_flushed_by_time_and_survives_half_a_record(short_tmp: Path) -> None:
    journal = Journal(short_tmp, HEADER)
    journal.record(Now(1_000, 0), Ticked())
    journal.record(Now(1_001, 0), Ticked())
    journal.record(Now(9_000, 0), Ticked())
    journal.close()
    with journal.path.open("ab") as file:
        file.write(b"\0\0\0\x09half")
    assert len(list(read_journal(journal.path))) == 4


def test_it_stays_bounded_and_every_file_begins_with_a_header(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "MAX_FILE_BYTES", 20_000)
    monkeypatch.setattr(journal_module, "BUFFER_BYTES", 4_000)
    journal = Journal(short_tmp, HEADER)
    for n in range(1_000):
        journal.record(Now(n, n), GossipReceived(topic="t", data=bytes(200)))
    journal.flush()
    journal.close()
    files = sorted(short_tmp.iterdir())
    assert [file.name for file in files] == ["journal.0", "journal.1"]
    newest: list[int] = []
    for file in files:
        assert file.stat().st_size <= 20_000
        header, *entries = read_journal(file)
        assert header == HEADER
        newest.append(max(e.instant for e in entries if isinstance(e, Entry)))
    assert newest[0] == 999


def test_large_contents_of_the_disk_are_left_out(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "MAX_CONTENTS_BYTES", 1_000)
    journal = Journal(short_tmp, HEADER)
    contents = DiskContents(envelopes=(StoredEnvelope(owner="o", epoch=1, seq=1, data=bytes(5_000)),), intact=True)
    journal.record(Now(1, 1), Started(contents=contents, seed=9))
    journal.flush()
    journal.close()
    _, entry = read_journal(journal.path)
    assert isinstance(entry, Entry)
    assert entry.abridged
    assert entry.input == Started(contents=DiskContents(intact=True), seed=9)


def test_a_disk_that_refuses_ends_the_recording_only(short_tmp: Path) -> None:
    journal = Journal(short_tmp / "missing", HEADER)
    journal.record(Now(1, 1), Ticked())
    journal.flush()
    journal.close()
    assert not (short_tmp / "missing").exists()


def test_what_is_no_journal_is_refused(short_tmp: Path) -> None:
    (short_tmp / "x").write_bytes(b"\0\0\0\x01\xc1")
    with pytest.raises(ProtocolError):
        list(read_journal(short_tmp / "x"))
