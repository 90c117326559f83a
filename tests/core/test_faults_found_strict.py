"""Faults that a hostile reading of strict leases found, each as the shortest story that showed it."""

from __future__ import annotations

import msgspec
import pytest
from tests.core.strict_bench import body_of

from sudocode_coordination.core.strict_table import Entry, Table, apply, path_of
from sudocode_coordination.core.wire import MAX_LAMPORT, StrictAcquire


def nothing(entry: Entry) -> bool:
    return not entry


def anything(entry: Entry) -> bool:
    return bool(entry)


def test_a_lease_whose_logical_time_was_driven_to_its_end_is_seen_by_others() -> None:
    claim = msgspec.structs.replace(body_of("ann", 1, "a.py"), lamport=MAX_LAMPORT)
    table = Table()
    table = table.changed(apply(table, [StrictAcquire(claim, MAX_LAMPORT)], nothing).changes)
    assert list(table.entries) == [claim.id]
    assert not table.skipped
    rival = apply(table, [StrictAcquire(body_of("ben", 1, "a.py"), 1)], nothing)
    assert rival.results["ben.1.1"].kind == "held"


def test_in_a_full_table_who_takes_over_is_not_overlooked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files come in the order of their paths, and the new one before the old one."""
    numbers = sorted(range(1, 40), key=lambda number: path_of(f"ann.1.{number}"))
    new, *old = numbers
    monkeypatch.setattr("sudocode_coordination.core.strict_table.MAX_ENTRIES", len(old))
    table = Table()
    fills = [StrictAcquire(body_of("ann", number, f"{number}.py", agent=str(number)), 1) for number in old]
    table = table.changed(apply(table, fills, nothing).changes)
    assert len(table) == len(old)
    takes = StrictAcquire(body_of("ann", new, f"{old[-1]}.py", agent="taker"), 1)
    applied = apply(table, [takes], anything)
    assert applied.results[takes.claim.id].kind == "done"
    assert takes.claim.id in table.changed(applied.changes).entries
