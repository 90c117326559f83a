"""Who held what when: signed entries, their bounds, what is shown of them, and leases that were held at the same time."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from tests.core.feeds import identity
from tests.core.history_bench import cycle, history, share
from tests.core.lease_bench import WALL_MS, Bench, file

from sudocode_coordination.adapters.identity import generate_identity
from sudocode_coordination.api.history import Held, replay, signed_bytes
from sudocode_coordination.config import create_default_config
from sudocode_coordination.core.facts import EntryChange, Write
from sudocode_coordination.core.history_entries import entry_from_lease, entry_from_record, verify
from sudocode_coordination.core.lease_history import ENTRY_BYTES, MAX_OWNER_LEFT
from sudocode_coordination.errors import ConfigError
from sudocode_coordination.model import HistoryEntry, Json, Overlapped, PeerId, Resource

COMMIT = "c0ffee" + "0" * 34


# --- entries ---------------------------------------------------------------------------------------------------------------


def test_a_lease_that_is_held_is_an_open_entry() -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "a.py", priority=3)
    bench.settles()
    for viewer in ("alice", "bob"):
        (entry,) = history(bench, viewer, "a.py")
        assert (entry.peer_id, entry.agent_id, entry.ended_at, entry.reason) == ("alice", "agent-of-alice", None, "")
        assert (entry.resources, entry.mode, entry.priority, entry.grade) == ((file("a.py"),), "exclusive", 3, "quorum")
        assert not entry.lapsed


def test_its_end_is_written_once_with_what_was_left_behind() -> None:
    bench = Bench("alice", "bob")
    cycle(bench, "alice", "a.py", commit=COMMIT, branch="topic")
    for viewer in ("alice", "bob"):
        (entry,) = history(bench, viewer, "a.py")
        assert (entry.reason, entry.commit, entry.branch, entry.rival) == ("released", COMMIT, "topic", "")
        assert datetime.fromisoformat(entry.ended_at or "") - datetime.fromisoformat(entry.granted_at) == timedelta(seconds=1)
    assert bench["alice"].document == {}


def test_who_only_asked_or_waited_has_no_entry() -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "a.py")
    bench.settles()
    bench.asks("bob", "a.py")
    bench.settles()
    bench.asks("bob", "a.py", wait_ms=0)
    bench.settles()
    bench.releases("bob", everything=True)
    bench.settles()
    assert [entry.peer_id for entry in history(bench, "alice", "a.py")] == ["alice"]


@pytest.mark.parametrize(
    ("path", "found"),
    [("src/a/f.py", {"src/a", "**/*.py", "src/a/f.py"}), ("src/a/", {"src/a", "**/*.py", "src/a/f.py"}), ("docs/x.md", set())],
)
def test_what_overlaps_is_found(path: str, found: set[str]) -> None:
    bench = Bench("alice", "bob")
    for name, held in (("alice", "src/a/"), ("bob", "**/*.py"), ("alice", "src/a/f.py"), ("bob", "other")):
        cycle(bench, name, held)
    assert {entry.resources[0].path.rstrip("/") for entry in history(bench, "alice", path)} == found


def test_the_latest_grant_comes_first_and_there_is_a_limit() -> None:
    bench = Bench("alice", "bob")
    for name in ("alice", "bob", "alice", "bob"):
        cycle(bench, name, "a.py")
    entries = history(bench, "bob", "a.py")
    assert [entry.peer_id for entry in entries] == ["bob", "alice", "bob", "alice"]
    assert all(one.granted_at > two.granted_at for one, two in pairwise(entries))
    assert history(bench, "bob", "a.py", limit=2) == entries[:2]
    cycle(bench, "bob", "b.py")
    assert len(history(bench, "alice")) == 5, "without resources: all"


def test_renewals_never_enter() -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "a.py")
    bench.settles()
    before = bench["alice"].contents()
    bench.passes(3_600_000)
    assert bench["alice"].contents() == before


def test_a_grade_that_changes_is_signed_anew() -> None:
    bench = Bench("alice", "bob", fresh=False)
    bench.asks("alice", "a.py")
    bench.settles()
    assert [entry.grade for entry in history(bench, "bob", "a.py")] == ["provisional"]
    bench.fresh = True
    for name in ("alice", "bob"):
        bench.looks(name)
    bench.passes(200_000)
    assert [entry.grade for entry in history(bench, "bob", "a.py")] == ["quorum"]


@pytest.mark.parametrize(("how", "reason"), [("expires", "expired"), ("preempted", "preempted"), ("stops", "stopped")])
def test_every_end_has_its_reason(how: str, reason: str) -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "a.py")
    bench.settles()
    match how:
        case "expires":
            bench.cut("alice", "bob", suspected=False)
            bench.passes(300_000)
        case "preempted":
            bench.asks("bob", "a.py", priority=1)
        case _:
            bench.does("alice", bench.of("alice").stop(bench.now))
    bench.settles()
    entry = history(bench, "alice", "a.py")[-1]
    assert (entry.reason, entry.rival) == (reason, "agent-of-bob" if how == "preempted" else "")


def test_what_a_part_was_released_of_is_told_as_what_it_was() -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "a.py", "b.py", "c.py")
    bench.settles()
    bench.passes(1_000)
    bench.releases("alice", "b.py", commit=COMMIT)
    bench.settles()
    bench.passes(1_000)
    rest, part = history(bench, "bob")
    if rest.ended_at is not None:
        rest, part = part, rest
    assert (part.resources, part.reason, part.commit) == ((file("b.py"),), "released", COMMIT)
    assert (rest.resources, rest.ended_at, rest.commit) == ((file("a.py"), file("c.py")), None, None)
    assert rest.granted_at == part.granted_at, "the agent has held the rest all the time"


def test_a_holder_that_vanished_is_told_apart_from_one_that_holds_on() -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "a.py")
    bench.settles()
    bench.isolates("alice")
    bench.passes(400_000)
    (seen,) = history(bench, "bob", "a.py")
    assert (seen.ended_at, seen.lapsed) == (None, True)
    (own,) = history(bench, "alice", "a.py")
    assert (own.ended_at, own.lapsed) == (None, False), "it is alone, and holds on, provisionally"


def test_a_restart_closes_what_was_held_before() -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "a.py")
    bench.settles()
    bench.passes(1_000)
    bench.restarts("alice")
    share(bench)
    for viewer in ("alice", "bob"):
        (entry,) = history(bench, viewer, "a.py")
        assert (entry.reason, entry.ended_at) == ("restarted", "2027-01-15T08:00:01.000Z")
    cycle(bench, "alice", "a.py")
    assert [entry.reason for entry in history(bench, "bob", "a.py")] == ["released", "restarted"]


def test_what_was_kept_before_a_restart_counts_towards_the_bound() -> None:
    bench = Bench("alice", "bob", lease_history=3)
    for path in ("1", "2", "3"):
        cycle(bench, "alice", path)
    bench.restarts("alice")
    share(bench)
    cycle(bench, "alice", "4")
    assert [entry.resources[0].path for entry in history(bench, "bob")] == ["4", "3", "2"]


# --- bounds ----------------------------------------------------------------------------------------------------------------


def test_an_owner_keeps_its_last_ones_and_all_that_it_holds() -> None:
    bench = Bench("alice", "bob", lease_history=3)
    bench.asks("alice", "held.py")
    bench.settles()
    for number in range(10):
        cycle(bench, "alice", f"{number}.py")
    paths = [entry.resources[0].path for entry in history(bench, "bob")]
    assert paths == ["9.py", "8.py", "7.py", "held.py"]
    assert len(bench["alice"].history) == 3


def test_long_names_leave_room_for_fewer() -> None:
    bench = Bench("alice", lease_history=10)
    for number in range(20):
        cycle(bench, "alice", f"{number:02}{'x' * 1_000}.py")
    sizes = [len(msgspec.msgpack.encode(value)) for value in bench["alice"].history.values()]
    assert 1 < len(sizes) < 10
    assert sum(sizes) <= 10 * ENTRY_BYTES


def test_the_latest_is_kept_however_large() -> None:
    bench = Bench("alice", lease_history=1)
    cycle(bench, "alice", "x" * 1_000)
    assert len(bench["alice"].history) == 1


def test_the_shortest_history_is_the_last_lease() -> None:
    with pytest.raises(ConfigError):
        create_default_config("a", lease_history=0)
    bench = Bench("alice", "bob", lease_history=1)
    for path in ("a.py", "b.py"):
        cycle(bench, "alice", path, commit=COMMIT)
    assert [entry.resources for entry in history(bench, "bob")] == [(file("b.py"),)]


def test_an_entry_costs_no_write_of_its_own() -> None:
    bench = Bench("alice")
    asked = bench.asks("alice", "a.py")
    assert bench.granted(asked)
    _, outputs = bench.of("alice").release("agent-of-alice", (file("a.py"),), bench.now)
    writes = [output for output in outputs if isinstance(output, Write)]
    assert [(write.root, write.value is None, write.urgent) for write in writes] == [
        ("leaseHistory", False, False),
        ("leases", True, True),
    ], "what is urgent comes last, and takes along what waits"


# --- signatures ------------------------------------------------------------------------------------------------------------


def an_entry(**changes: Any) -> HistoryEntry:
    """Signed with a real key."""
    ring = identity("alice")
    entry = HistoryEntry(
        claim_id=f"{ring.peer_id}.1.1",
        peer_id=ring.peer_id,
        agent_id="a",
        resources=(file("a.py"),),
        granted_at="2027-01-15T08:00:00.000Z",
        ended_at="2027-01-15T09:00:00.000Z",
        reason="released",
        stamp=WALL_MS,
        signature="",
    )
    entry = msgspec.structs.replace(entry, **changes)
    return sign(entry)


def sign(entry: HistoryEntry) -> HistoryEntry:
    return msgspec.structs.replace(entry, signature=b64encode(identity("alice").sign(signed_bytes(entry))).decode())


def test_an_exported_entry_can_be_checked_by_itself() -> None:
    overlap = Overlapped(claim_id="p.1.1", peer_id="p", agent_id="b", since="2027", until="2028", base=COMMIT)
    entry = an_entry(overlaps=(overlap,), commit=COMMIT, token=7)
    exported = msgspec.json.encode(entry)
    assert verify(msgspec.json.decode(exported, type=HistoryEntry), generate_identity()), "any keyring can"


@pytest.mark.parametrize(
    "change",
    [
        {"claim_id": "{peer}.1.2"},
        {"agent_id": "b"},
        {"resources": (file("b.py"),)},
        {"mode": "shared"},
        {"priority": 1},
        {"grade": "strict"},
        {"token": 1},
        {"granted_at": "2027-01-15T08:00:00.001Z"},
        {"ended_at": None},
        {"reason": "expired"},
        {"commit": COMMIT},
        {"branch": "b"},
        {"rival": "b"},
        {"base": COMMIT},
        {"overlaps": (Overlapped(claim_id="p.1.1", peer_id="p", agent_id="b", since="", until=""),)},
        {"stamp": 1},
        {"fold": True},
        {"signature": "AAAA"},
        {"signature": "not base64!"},
        {"signature": "é"},
        {"peer_id": "{other}"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_is_changed_is_noticed(change: dict[str, Any]) -> None:
    peer, other = identity("alice").peer_id, identity("bob").peer_id
    change = {k: v.format(peer=peer, other=other) if isinstance(v, str) and "{" in v else v for k, v in change.items()}
    assert verify(an_entry(), identity("bob"))
    assert not verify(msgspec.structs.replace(an_entry(), **change), identity("bob"))


def test_every_field_is_covered() -> None:
    fields = {field.name for field in msgspec.structs.fields(HistoryEntry)} - {"signature", "lapsed"}
    assert len(msgspec.msgpack.decode(signed_bytes(an_entry()).partition(b"\0")[2])) == len(fields)


def test_nobody_signs_for_a_claim_of_another() -> None:
    stranger = identity("bob").peer_id
    assert not verify(an_entry(claim_id=f"{stranger}.1.1"), identity("bob"))


def test_entries_with_a_wrong_signature_or_of_another_owner_are_not_shown() -> None:
    bench = Bench("alice", "bob")
    cycle(bench, "alice", "a.py")
    ((key, value),) = bench["alice"].history.items()
    machine = bench.of("bob")

    def shown(owner: PeerId, changed: Json) -> int:
        rows = [(owner, key, changed)]
        return len(machine.history.query((), rows, [], limit=10, in_force=lambda _: True))

    assert shown("alice", value) == 1
    assert shown("bob", value) == 0, "alice's signature under bob's name"
    assert shown("alice", [*value[:1], "somebody", *value[2:]]) == 0
    assert shown("alice", ["AAAA", *value[1:]]) == 0


@pytest.mark.parametrize(
    "value",
    [None, 1, "text", [], {}, ["s"], ["s", "a", [["file", "a.py"]], "exclusive", 0, "quorum", "x" * 41, "y", "released", 1]],
)
def test_what_is_no_entry_is_none(value: Json) -> None:
    assert entry_from_record("alice", "1.1", value) is None
    assert entry_from_lease("alice", "1.1", value) is None
    bench = Bench("alice", "bob")
    change = EntryChange(root="leaseHistory", key="1.1", value=value)
    assert bench.of("bob").entries_changed("alice", (change,), bench.now) == []


@pytest.mark.parametrize("key", ["", "1", "x.y", "1.1.1", "9" * 41])
def test_what_is_under_no_claims_key_is_no_entry(key: str) -> None:
    bench = Bench("alice", "bob")
    cycle(bench, "alice", "a.py")
    (value,) = bench["alice"].history.values()
    assert entry_from_record("alice", key, value) is None


# --- who held it then ------------------------------------------------------------------------------------------------------


def at(minute: float) -> datetime:
    return datetime(2027, 1, 15, 8, 0, tzinfo=UTC) + timedelta(minutes=minute)


@pytest.mark.parametrize(
    ("minute", "expected"),
    [
        (-1, None),
        (-0.01, False),
        (0.01, False),
        (0.02, True),
        (30, True),
        (59.98, True),
        (59.99, False),
        (60.01, False),
        (60.02, None),
    ],
)
def test_near_its_ends_nobody_can_be_sure(minute: float, expected: bool | None) -> None:
    found = [held.sure for held in replay([an_entry()], at(minute))]
    assert found == ([] if expected is None else [expected])


def test_what_nobody_saw_the_end_of_is_not_sure() -> None:
    killed = an_entry(reason="restarted")
    lapsed = msgspec.structs.replace(an_entry(ended_at=None, reason=""), lapsed=True)
    held = an_entry(ended_at=None, reason="")
    assert replay([killed, lapsed, held], at(30)) == [Held(held, True), Held(killed, False), Held(lapsed, False)]


def test_clocks_may_be_said_to_be_better_or_worse() -> None:
    assert replay([an_entry()], at(0.001), clock_error_ms=10) == [Held(an_entry(), True)]
    assert replay([an_entry()], at(5), clock_error_ms=600_000) == [Held(an_entry(), False)]


@pytest.mark.parametrize("time", ["", "yesterday", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
def test_times_that_are_none_harm_nothing(time: str) -> None:
    for entry in (an_entry(granted_at=time), an_entry(ended_at=time)):
        replay([entry], at(0))


def test_a_day_can_be_replayed() -> None:
    bench = Bench("alice", "bob")
    for name in ("alice", "bob", "alice"):
        cycle(bench, name, "a.py")
        bench.passes(60_000)
    entries = history(bench, "bob", "a.py")
    for entry in entries:
        middle = datetime.fromisoformat(entry.granted_at) + timedelta(milliseconds=500)
        assert replay(entries, middle, clock_error_ms=100) == [Held(entry, True)]
        assert replay(entries, middle + timedelta(seconds=30)) == []


def test_what_a_hostile_owner_writes_is_bounded() -> None:
    bench = Bench("alice", "bob")
    cycle(bench, "alice", "a.py", commit=COMMIT)
    (value,) = bench["alice"].history.values()
    machine = bench.of("bob")
    for number in range(MAX_OWNER_LEFT + 10):
        changed = [*value[:2], [["file", f"{number}.py"]], *value[3:]]
        machine.entries_changed("alice", (EntryChange(root="leaseHistory", key=f"2.{number}", value=changed),), bench.now)
    known = [n for n in range(MAX_OWNER_LEFT + 10) if machine.history.handover((Resource("file", f"{n}.py"),), fold=False)]
    assert len(known) <= MAX_OWNER_LEFT
