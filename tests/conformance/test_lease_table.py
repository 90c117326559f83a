"""What every lease table promises, checked on the real one and the simulated one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from tests.conformance.git_bench import Loop, git, make_remote, running_loop
from tests.conformance.table_bench import WALL_MS, Swapped, TableHandle, change, landed, lost, table_on, tip_of

from sudocode_coordination.adapters import ports
from sudocode_coordination.adapters.git_table import REF
from sudocode_coordination.core.io import BuildTable, Input, SwapTable, TableBuilt, TableRead, TableReadFailed, TableSwapFailed
from sudocode_coordination.sim.scheduler import Scheduler
from sudocode_coordination.sim.table import SimTablePort, SimTableRemote


class Clone(Protocol):
    """One user of the table."""

    def read(self, *, whole: bool = False) -> TableRead | TableReadFailed: ...
    def start_swap(self, parent: str | None, changes: dict[str, bytes | None], nonce: str = "") -> SwapTable: ...
    def outcome(self, wanted: SwapTable) -> Swapped: ...
    def swap(self, parent: str | None, changes: dict[str, bytes | None], nonce: str = "") -> Swapped: ...
    def build(self, parent: str | None, changes: dict[str, bytes | None], nonce: str = "") -> TableBuilt | TableSwapFailed: ...


class World(Protocol):
    """The remote, and what happens to it."""

    def clone(self) -> Clone: ...
    def tip(self) -> str | None: ...
    def files(self) -> dict[str, bytes]: ...
    def rewind(self) -> None:
        """Somebody sets the ref one commit back, or deletes it with the first one."""

    def reachable(self, reachable: bool) -> None: ...
    def refuse(self) -> None:
        """From now on nothing may be pushed."""


class RealWorld:
    def __init__(self, folder: Path, loop: Loop) -> None:
        self.folder = folder
        self.loop = loop
        self.bare = make_remote(folder)
        self.away = folder / "away.git"
        self.count = 0

    def clone(self) -> TableHandle:
        self.count += 1
        target = self.folder / f"clone {self.count}"
        git(self.folder, "clone", "-q", str(self.bare), str(target))
        return TableHandle(self.loop, target / ".git")

    def tip(self) -> str | None:
        return tip_of(self.bare)

    def files(self) -> dict[str, bytes]:
        return table_on(self.bare)

    def rewind(self) -> None:
        if git(self.bare, "rev-list", "--count", REF) == "1":
            git(self.bare, "update-ref", "-d", REF)
        else:
            git(self.bare, "update-ref", REF, f"{REF}^")

    def reachable(self, reachable: bool) -> None:
        if reachable:
            self.away.rename(self.bare)
        else:
            self.bare.rename(self.away)

    def refuse(self) -> None:
        hook = self.bare / "hooks" / "pre-receive"
        hook.parent.mkdir(exist_ok=True)
        hook.write_text("#!/bin/sh\nexit 1\n", "utf-8")
        hook.chmod(0o755)


class SimClone:
    def __init__(self, remote: SimTableRemote) -> None:
        self.got: list[Input] = []
        self.port = SimTablePort(remote, self.got.append)
        self.table: ports.LeaseTable = self.port
        self.scheduler = remote.scheduler
        self.tickets = 0

    def _one(self, fits: Callable[[Input], bool]) -> Input:
        def found() -> list[Input]:
            return [i for i in self.got if fits(i)]

        assert self.scheduler.run_while(lambda: not found(), limit=self.scheduler.instant + 300_000)
        given = found()[0]
        self.got.remove(given)
        return given

    def read(self, *, whole: bool = False) -> TableRead | TableReadFailed:
        self.table.read_table(whole=whole)
        given = self._one(lambda i: isinstance(i, TableRead | TableReadFailed))
        assert isinstance(given, TableRead | TableReadFailed)
        return given

    def start_swap(self, parent: str | None, changes: dict[str, bytes | None], nonce: str = "") -> SwapTable:
        self.tickets += 1
        wanted = change(self.tickets, parent, changes, nonce)
        self.table.swap_table(wanted)
        return wanted

    def outcome(self, wanted: SwapTable) -> Swapped:
        given = self._one(lambda i: isinstance(i, Swapped) and i.ticket == wanted.ticket)
        assert isinstance(given, Swapped)
        return given

    def swap(self, parent: str | None, changes: dict[str, bytes | None], nonce: str = "") -> Swapped:
        return self.outcome(self.start_swap(parent, changes, nonce))

    def build(self, parent: str | None, changes: dict[str, bytes | None], nonce: str = "") -> TableBuilt | TableSwapFailed:
        self.tickets += 1
        nonce = nonce or f"n{self.tickets}"
        self.table.build_table(BuildTable(ticket=self.tickets, parent=parent, changes=changes, nonce=nonce, wall_ms=WALL_MS))
        given = self._one(lambda i: isinstance(i, TableBuilt | TableSwapFailed) and i.ticket == self.tickets)
        assert isinstance(given, TableBuilt | TableSwapFailed)
        return given


class SimWorld:
    def __init__(self) -> None:
        self.remote = SimTableRemote(Scheduler(11))

    def clone(self) -> SimClone:
        return SimClone(self.remote)

    def tip(self) -> str | None:
        return self.remote.commit

    def files(self) -> dict[str, bytes]:
        return dict(self.remote.files)

    def rewind(self) -> None:
        self.remote.rewind()

    def reachable(self, reachable: bool) -> None:
        self.remote.reachable = reachable

    def refuse(self) -> None:
        self.remote.refuses = True


@pytest.fixture(params=["real", "sim"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    if request.param == "sim":
        yield SimWorld()
        return
    with running_loop() as loop:
        yield RealWorld(tmp_path, loop)


def read(clone: Clone, *, whole: bool = False) -> TableRead:
    given = clone.read(whole=whole)
    assert isinstance(given, TableRead), given
    return given


def test_no_table_reads_as_none(world: World) -> None:
    given = read(world.clone())
    assert (given.commit, given.base, given.changed, given.rewound) == (None, None, {}, False)


def test_the_first_swap_makes_the_table(world: World) -> None:
    one, other = world.clone(), world.clone()
    commit = landed(one.swap(None, {"meta": b"1", "leases/a/x": b"X\0\xff", "leases/b/ü y": b""}))
    assert world.tip() == commit
    assert world.files() == {"meta": b"1", "leases/a/x": b"X\0\xff", "leases/b/ü y": b""}
    given = read(other)
    assert given == TableRead(commit=commit, changed={"leases/a/x": b"X\0\xff", "leases/b/ü y": b"", "meta": b"1"}, ref=REF)


def test_a_swap_changes_what_is_named_and_keeps_the_rest(world: World) -> None:
    clone = world.clone()
    first = landed(clone.swap(None, {"meta": b"1", "a/x": b"1", "a/y": b"1", "b/z": b"1"}))
    second = landed(clone.swap(first, {"meta": b"2", "a/x": None, "b/z": None, "c/new": b"n", "gone/never": None}))
    assert world.files() == {"meta": b"2", "a/y": b"1", "c/new": b"n"}
    third = landed(clone.swap(second, dict.fromkeys(("meta", "a/y", "c/new"), None)))
    assert world.files() == {}
    assert world.tip() == third
    assert read(world.clone()).changed == {}


def test_of_two_swaps_from_one_parent_at_most_one_lands(world: World) -> None:
    clones = [world.clone() for _ in range(4)]
    parent: str | None = None
    for round_number in range(4):
        tries = [c.start_swap(parent, {f"a/{n}": b"%d" % round_number}, f"{round_number}.{n}") for n, c in enumerate(clones)]
        outcomes = [c.outcome(t) for c, t in zip(clones, tries, strict=True)]
        winners = [o for o in outcomes if not isinstance(o, TableSwapFailed)]
        assert len(winners) == 1, outcomes
        assert {lost(o) for o in outcomes if isinstance(o, TableSwapFailed)} == {"moved"}, outcomes
        parent = landed(winners[0])
        assert world.tip() == parent


def test_who_lost_reads_what_the_winner_wrote(world: World) -> None:
    one, other = world.clone(), world.clone()
    base = landed(one.swap(None, {"a/x": b"1", "a/y": b"1"}))
    assert read(other).commit == base
    tip = landed(one.swap(base, {"a/x": b"2", "a/y": None, "b/z": b"3"}))
    assert lost(other.swap(base, {"a/x": b"mine"})) == "moved"
    assert read(other) == TableRead(commit=tip, base=base, changed={"a/x": b"2", "a/y": None, "b/z": b"3"}, ref=REF)
    assert read(other) == TableRead(commit=tip, base=tip, ref=REF)
    assert read(other, whole=True) == TableRead(commit=tip, changed={"a/x": b"2", "b/z": b"3"}, ref=REF)


def test_after_an_own_swap_the_next_read_starts_there(world: World) -> None:
    one, other = world.clone(), world.clone()
    first = landed(one.swap(None, {"a/x": b"1"}))
    assert read(one) == TableRead(commit=first, base=first, ref=REF)
    read(other)
    second = landed(other.swap(first, {"a/y": b"2"}))
    assert read(one) == TableRead(commit=second, base=first, changed={"a/y": b"2"}, ref=REF)


def test_the_same_values_are_the_same_commit(world: World) -> None:
    one = world.clone()
    first = landed(one.swap(None, {"a/x": b"1"}))
    tip = landed(one.swap(first, {"a/x": b"2"}, "nonce"))
    assert landed(one.swap(first, {"a/x": b"2"}, "nonce")) == tip, "it is the tip: landed"
    assert lost(one.swap(first, {"a/x": b"2"}, "another nonce")) == "moved"
    assert world.tip() == tip


def test_a_commit_is_built_and_not_pushed(world: World) -> None:
    clone = world.clone()
    first = landed(clone.swap(None, {"a/x": b"1"}))
    built = clone.build(first, {"a/x": b"2"}, "nonce")
    assert isinstance(built, TableBuilt)
    assert built.ref == REF
    assert world.tip() == first
    assert landed(clone.swap(first, {"a/x": b"2"}, "nonce")) == built.commit


def test_a_rewound_or_deleted_table_is_told(world: World) -> None:
    clone = world.clone()
    first = landed(clone.swap(None, {"a/x": b"1"}))
    second = landed(clone.swap(first, {"a/x": b"2", "a/y": b"2"}))
    world.rewind()
    assert lost(clone.swap(second, {"a/x": b"3"})) == "moved"
    assert read(clone) == TableRead(commit=first, base=second, changed={"a/x": b"1", "a/y": None}, ref=REF, rewound=True)
    assert not read(clone).rewound
    world.rewind()
    given = read(clone)
    assert (given.commit, given.base, given.changed, given.rewound) == (None, first, {"a/x": None}, True)
    assert not read(clone).rewound
    assert lost(clone.swap(first, {"a/x": b"3"})) == "moved"
    assert landed(clone.swap(None, {"a/x": b"4"})) == world.tip()


def test_a_remote_out_of_reach_is_told_and_comes_back(world: World) -> None:
    clone = world.clone()
    first = landed(clone.swap(None, {"a/x": b"1"}))
    world.reachable(False)
    failed = clone.read()
    assert isinstance(failed, TableReadFailed)
    assert 0 < len(failed.reason) <= 400
    assert lost(clone.swap(first, {"a/x": b"2"}, "n")) == "unknown"
    world.reachable(True)
    assert landed(clone.swap(first, {"a/x": b"2"}, "n")) == world.tip()
    assert read(clone).changed == {}


def test_a_refusal_is_told_as_one(world: World) -> None:
    clone = world.clone()
    first = landed(clone.swap(None, {"a/x": b"1"}))
    world.refuse()
    assert lost(clone.swap(first, {"a/x": b"2"})) == "refused"
    assert world.tip() == first
    assert read(clone).commit == first


def test_answers_come_in_order(world: World) -> None:
    clone = world.clone()
    first = landed(clone.swap(None, {"a/x": b"1"}))
    swap = clone.start_swap(first, {"a/x": b"2"})
    after = read(clone)
    assert landed(clone.outcome(swap)) == after.commit == after.base


def test_many_changes_in_one_swap(world: World) -> None:
    clone = world.clone()
    files = {f"leases/{n % 16:x}/{n:04}": b"%d" % n for n in range(300)}
    commit = landed(clone.swap(None, dict(files)))
    assert read(world.clone()).changed == files
    landed(clone.swap(commit, dict.fromkeys(list(files)[:200], None)))
    assert world.files() == dict(list(files.items())[200:])
