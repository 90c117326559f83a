"""Who is met without the git remote: whom earlier reads have shown, at addresses that are found on this machine."""

from __future__ import annotations

from tests.core.discovery_bench import HIGH, ME, OTHER, TTL, WALL, Bench, kinds, record

from sudocode_coordination.core.admission import Admission
from sudocode_coordination.core.facts import Output, RosterChanged
from sudocode_coordination.core.io import (
    AddressesSighted,
    BranchReadFailed,
    DiskContents,
    ForgottenValue,
    Persist,
    RecordsSighted,
    ShowRecord,
    StoredValue,
)
from sudocode_coordination.core.nearby import (
    MAX_NEIGHBOURS,
    MAX_REMEMBERED,
    MAX_TOLD,
    REMEMBERED_MS,
    REWRITE_MS,
    SPACE,
    Memory,
    name_on_network,
)
from sudocode_coordination.core.peer_view import BranchView
from sudocode_coordination.core.records import parse_record, parse_wall
from sudocode_coordination.model import Now, PeerRecord
from sudocode_coordination.sim.identity import SimKeyring

HERE = "/ip4/127.0.0.1/tcp/9"


def kept(bench: Bench) -> dict[str, bytes]:
    """What is on the disk after all writes so far."""
    disk: dict[str, bytes] = {}
    for persist in bench.of(Persist):
        for operation in persist.operations:
            if isinstance(operation, StoredValue) and operation.space == SPACE:
                disk[operation.key] = operation.data
            elif isinstance(operation, ForgottenValue) and operation.space == SPACE:
                del disk[operation.key]
    return disk


def next_life(disk: dict[str, bytes], bench: Bench | None = None) -> Bench:
    """A machine that starts with that disk, and gets no answer from the remote."""
    bench = bench or Bench()
    values = tuple(StoredValue(space=SPACE, key=key, data=data) for key, data in disk.items())
    bench.do(bench.machine.started(bench.now(), DiskContents(values=values)))
    bench.do(bench.machine.branch_read_failed(BranchReadFailed(reason="moved away"), bench.now()))
    return bench


def shown_here(bench: Bench, *records: bytes) -> list[Output]:
    return bench.machine.sighted(RecordsSighted(records=records), bench.now())


def test_whom_an_earlier_life_has_found_is_known_and_counts_for_nothing() -> None:
    first = Bench().settled()
    first.branch = {**(first.branch or {}), "agent-x.json": record(OTHER, "x")}
    first.wait(80_000)
    second = next_life(kept(first))
    known = second.machine.known[OTHER.peer_id]
    assert (known.fresh, known.near, known.addresses) == (False, False, ("/ip4/192.0.2.9/tcp/1",))
    assert second.machine.roster == (ME.peer_id,)
    assert second.machine.on_branch == frozenset()


def test_a_record_found_here_gives_addresses_to_who_is_known_and_nothing_to_others() -> None:
    bench = next_life({OTHER.peer_id: record(OTHER, "x")})
    news = bench.do(shown_here(bench, record(OTHER, "x", address=HERE), record(HIGH, "y", address=HERE)))
    assert RosterChanged() in news
    assert list(bench.machine.known) == [OTHER.peer_id]
    known = bench.machine.known[OTHER.peer_id]
    assert known.near
    assert known.addresses == (HERE, "/ip4/192.0.2.9/tcp/1")
    assert not known.fresh
    assert not kinds(bench.do(shown_here(bench, record(OTHER, "x", address=HERE))), RosterChanged)
    assert RosterChanged() in bench.do(shown_here(bench))
    assert not bench.machine.known[OTHER.peer_id].near


def test_what_is_found_here_is_checked_as_if_it_came_from_the_branch() -> None:
    bench = next_life({OTHER.peer_id: record(OTHER, "x")})
    forged = record(OTHER, "x", address=HERE).replace(b"127.0.0.1", b"127.0.0.2")
    hostile = (forged, b"", b"{}", b'{"agentId": 5}', b"[" * 10_000, record(OTHER, "x", address=HERE)[:-9], record(ME, "me"))
    assert not kinds(bench.do(shown_here(bench, *hostile)), RosterChanged)
    many = tuple(record(SimKeyring(f"n{number}"), "n") for number in range(3)) * MAX_NEIGHBOURS
    bench.do(shown_here(bench, *many, record(OTHER, "x", address=HERE)))
    assert not bench.machine.known[OTHER.peer_id].near, "past the limit"


def test_what_is_told_on_the_network_gives_addresses_to_who_is_known_alone() -> None:
    bench = next_life({OTHER.peer_id: record(OTHER, "x")})
    told = {name_on_network(OTHER.peer_id): (HERE, "nonsense", *[f"/ip4/192.0.2.{n}/tcp/1" for n in range(99)])}
    assert RosterChanged() in bench.do(bench.machine.sighted(AddressesSighted(addresses={"0" * 32: (HERE,)} | told), bench.now()))
    assert list(bench.machine.known) == [OTHER.peer_id]
    known = bench.machine.known[OTHER.peer_id]
    assert known.near
    assert known.addresses[0] == HERE
    assert len(known.addresses) <= MAX_TOLD + 1
    assert not kinds(bench.do(bench.machine.sighted(AddressesSighted(addresses=told), bench.now())), RosterChanged)
    assert RosterChanged() in bench.do(bench.machine.sighted(AddressesSighted(addresses={}), bench.now()))
    assert not bench.machine.known[OTHER.peer_id].near
    assert OTHER.peer_id not in name_on_network(OTHER.peer_id)


def test_the_first_read_of_this_life_replaces_what_was_kept() -> None:
    bench = next_life({OTHER.peer_id: record(OTHER, "x"), HIGH.peer_id: record(HIGH, "y")})
    assert sorted(bench.machine.known) == sorted((OTHER.peer_id, HIGH.peer_id))
    bench.wait(3_000, auto=False)
    bench.read({"agent-x.json": record(OTHER, "x", wall_ms=WALL + 1)})
    assert list(bench.machine.known) == [OTHER.peer_id]
    assert bench.machine.known[OTHER.peer_id].fresh


def test_a_kept_record_does_not_make_the_branchs_old_one_fresh() -> None:
    bench = next_life({OTHER.peer_id: record(OTHER, "x", wall_ms=WALL - 9 * TTL)})
    bench.wait(3_000, auto=False)
    bench.read({"agent-x.json": record(OTHER, "x", wall_ms=WALL - 5 * TTL)})
    assert not bench.machine.known[OTHER.peer_id].fresh


def test_who_is_connected_stays_until_it_disconnects_though_the_branch_has_it_no_more() -> None:
    bench = next_life({OTHER.peer_id: record(OTHER, "x")})
    bench.do(bench.machine.connected_changed(frozenset({OTHER.peer_id}), bench.now()))
    assert OTHER.peer_id in bench.machine.roster
    bench.wait(3_000, auto=False)
    bench.read({})
    assert OTHER.peer_id in bench.machine.known
    bench.do(bench.machine.connected_changed(frozenset(), bench.now()))
    assert not bench.machine.known


def test_who_left_in_order_is_remembered_and_who_is_a_week_old_is_not() -> None:
    bench = Bench().settled()
    own = dict(bench.branch or {})
    bench.branch = {**own, "agent-x.json": record(OTHER, "x")}
    bench.wait(80_000)
    bench.machine.memory.said_goodbye(OTHER.peer_id)
    bench.branch = dict(own)
    bench.wait(80_000)
    assert OTHER.peer_id not in bench.machine.known
    assert list(kept(bench)) == [OTHER.peer_id]
    late = Bench()
    late.instant += REMEMBERED_MS + 1_000
    assert not next_life(kept(bench), late).machine.known


def test_whose_record_somebody_else_removed_is_not_remembered() -> None:
    bench = Bench().settled()
    own = dict(bench.branch or {})
    bench.machine.memory.said_goodbye(OTHER.peer_id)  # in an earlier life
    bench.branch = {**own, "agent-x.json": record(OTHER, "x")}
    bench.wait(80_000)
    assert list(kept(bench)) == [OTHER.peer_id]
    bench.branch = dict(own)
    bench.wait(80_000)
    assert kept(bench) == {}


def test_renewals_are_seldom_worth_a_write() -> None:
    def parsed(data: bytes) -> PeerRecord:
        found = parse_record("agent-x.json", data, ME)
        assert isinstance(found, PeerRecord)
        return found

    memory, view = Memory(ME), BranchView(ME, Admission())
    writes = []
    for hours in range(49):
        data = record(OTHER, "x", wall_ms=WALL + hours * 3_600_000)
        view.remember([("agent-x.json", data, parsed(data))])
        view._seen["agent-x.json"].remembered = False
        operations = memory.branch_read(view, Now(0, WALL + hours * 3_600_000))
        writes += [parse_wall(parsed(operation.data).last_seen) for operation in operations if isinstance(operation, StoredValue)]
    assert writes == [WALL, WALL + REWRITE_MS, WALL + 2 * REWRITE_MS]
    memory.disk_failed()
    assert len(memory.branch_read(view, Now(0, WALL))) == 1


def test_what_the_disk_has_is_checked_and_bounded() -> None:
    record_of_other = record(OTHER, "x")
    assert not next_life(
        {HIGH.peer_id: record_of_other, ME.peer_id: record(ME, "me"), OTHER.peer_id: record_of_other[:-30]}
    ).machine.known
    memory = Memory(ME)
    values = tuple(StoredValue(space=SPACE, key=OTHER.peer_id, data=record_of_other) for _ in range(MAX_REMEMBERED + 10))
    other_space = StoredValue(space="claims", key=OTHER.peer_id, data=record_of_other)
    assert len(memory.started(DiskContents(values=(other_space, values[0])), Now(0, WALL))) == 1


def test_the_own_record_is_shown_when_it_says_something_new() -> None:
    bench = Bench().settled()
    [shown] = bench.of(ShowRecord)
    assert isinstance(parse_record("agent-me.json", shown.data, OTHER), PeerRecord)
    bench.wait(2 * TTL)
    assert bench.of(ShowRecord) == [shown], "renewals are none of it"
    bench.do(bench.machine.listening(("/ip4/192.0.2.7/tcp/5",), bench.now()))
    assert len(bench.of(ShowRecord)) == 2


def test_it_is_shown_though_the_remote_cannot_be_read() -> None:
    bench = next_life({})
    bench.do(bench.machine.agents_changed({"me": ()}, bench.now()))
    assert not bench.of(ShowRecord)
    bench.do(bench.machine.listening((HERE,), bench.now()))
    assert len(bench.of(ShowRecord)) == 1
