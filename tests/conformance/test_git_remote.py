"""What every git remote promises, checked on the real one and the simulated one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import msgspec
import pytest
from tests.conformance.git_bench import PEERS, Handle, Loop, files_on, git, make_remote, paths_on, running_loop, write_branch

from sudocode_coordination.adapters import ports
from sudocode_coordination.core.admission import Rules
from sudocode_coordination.core.io import BranchPublished, BranchPublishFailed, BranchRead, BranchReadFailed, Input
from sudocode_coordination.core.records import MAX_RECORD_BYTES
from sudocode_coordination.sim.remote import SimGitPort, SimGitRemote
from sudocode_coordination.sim.scheduler import Scheduler


class Clone(Protocol):
    """One user of the remote."""

    def read(self) -> BranchRead | BranchReadFailed: ...
    def start_publish(
        self, changes: dict[str, bytes | None], *, beside: Mapping[str, tuple[str, ...]] = MappingProxyType({}), final: bool = False
    ) -> int: ...
    def outcome(self, ticket: int) -> BranchPublished | BranchPublishFailed: ...
    def publish(
        self, changes: dict[str, bytes | None], *, beside: Mapping[str, tuple[str, ...]] = MappingProxyType({}), final: bool = False
    ) -> BranchPublished | BranchPublishFailed: ...


class World(Protocol):
    """The remote, and what happens to it."""

    def clone(self) -> Clone: ...
    def files(self) -> dict[str, bytes]: ...
    def elsewhere(self) -> list[str]: ...
    def by_hand(self, files: dict[str, bytes]) -> None:
        """Somebody with other tools sets the branch: these files, and a README at the root."""

    def delete_branch(self) -> None: ...
    def reachable(self, reachable: bool) -> None: ...


class RealWorld:
    def __init__(self, folder: Path, loop: Loop) -> None:
        self.folder = folder
        self.loop = loop
        self.bare = make_remote(folder)
        self.away = folder / "away.git"
        self.count = 0

    def clone(self) -> Handle:
        self.count += 1
        target = self.folder / f"clone {self.count}"
        git(self.folder, "clone", "-q", str(self.bare), str(target))
        return Handle(self.loop, target / ".git")

    def files(self) -> dict[str, bytes]:
        return files_on(self.bare)

    def elsewhere(self) -> list[str]:
        return [line.split("\t")[1] for line in paths_on(self.bare) if f"\t{PEERS}/" not in line]

    def by_hand(self, files: dict[str, bytes]) -> None:
        entries = {f"{PEERS}/{name}": ("100644", data) for name, data in files.items()}
        write_branch(self.bare, {**entries, "README": ("100644", b"hello\n")})

    def delete_branch(self) -> None:
        git(self.bare, "update-ref", "-d", "refs/heads/coordination")

    def reachable(self, reachable: bool) -> None:
        if reachable:
            self.away.rename(self.bare)
        else:
            self.bare.rename(self.away)


class SimClone:
    def __init__(self, remote: SimGitRemote) -> None:
        self.got: list[Input] = []
        self.port: ports.GitRemote = SimGitPort(remote, self.got.append)
        self.scheduler = remote.scheduler
        self.tickets = 0

    def read(self) -> BranchRead | BranchReadFailed:
        self.port.read_branch()
        assert self.scheduler.run_while(lambda: not self._reads(), limit=self.scheduler.instant + 60_000)
        found = self._reads()[0]
        self.got.remove(found)
        return found

    def _reads(self) -> list[BranchRead | BranchReadFailed]:
        return [i for i in self.got if isinstance(i, BranchRead | BranchReadFailed)]

    def start_publish(
        self, changes: dict[str, bytes | None], *, beside: Mapping[str, tuple[str, ...]] = MappingProxyType({}), final: bool = False
    ) -> int:
        self.tickets += 1
        self.port.publish(self.tickets, changes, beside=beside, final=final)
        return self.tickets

    def _outcomes(self, ticket: int) -> list[BranchPublished | BranchPublishFailed]:
        return [i for i in self.got if isinstance(i, BranchPublished | BranchPublishFailed) and i.ticket == ticket]

    def outcome(self, ticket: int) -> BranchPublished | BranchPublishFailed:
        assert self.scheduler.run_while(lambda: not self._outcomes(ticket), limit=self.scheduler.instant + 120_000)
        return self._outcomes(ticket)[0]

    def publish(
        self, changes: dict[str, bytes | None], *, beside: Mapping[str, tuple[str, ...]] = MappingProxyType({}), final: bool = False
    ) -> BranchPublished | BranchPublishFailed:
        return self.outcome(self.start_publish(changes, beside=beside, final=final))


class SimWorld:
    def __init__(self) -> None:
        self.remote = SimGitRemote(Scheduler(11))

    def clone(self) -> SimClone:
        return SimClone(self.remote)

    def files(self) -> dict[str, bytes]:
        return self.remote.files

    def elsewhere(self) -> list[str]:
        return list(self.remote.other_paths)

    def by_hand(self, files: dict[str, bytes]) -> None:
        self.remote.rewrite(files, ("README",))

    def delete_branch(self) -> None:
        self.remote.delete_branch()

    def reachable(self, reachable: bool) -> None:
        self.remote.reachable = reachable


@pytest.fixture(params=["real", "sim"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    if request.param == "sim":
        yield SimWorld()
        return
    with running_loop() as loop:
        yield RealWorld(tmp_path, loop)


def read(clone: Clone) -> BranchRead:
    """What is on the branch; at which commit of the default branch the rules were read is not the port's business."""
    given = clone.read()
    assert isinstance(given, BranchRead), given
    return msgspec.structs.replace(given, rules=Rules())


def test_no_branch_reads_as_none(world: World) -> None:
    assert read(world.clone()) == BranchRead(commit=None, records={})


def test_publishing_creates_the_branch(world: World) -> None:
    one, other = world.clone(), world.clone()
    done = one.publish({"agent-a.json": b"A\n\x00\xff"})
    assert isinstance(done, BranchPublished)
    assert read(other) == BranchRead(commit=done.commit, records={"agent-a.json": b"A\n\x00\xff"})
    assert world.files() == {"agent-a.json": b"A\n\x00\xff"}


def test_two_that_create_it_at_once_both_get_through(world: World) -> None:
    clones = [world.clone(), world.clone()]
    assert all(read(c).commit is None for c in clones)
    tickets = [c.start_publish({f"agent-{n}.json": b"x"}) for n, c in enumerate(clones)]
    assert all(isinstance(c.outcome(t), BranchPublished) for c, t in zip(clones, tickets, strict=True))
    assert sorted(world.files()) == ["agent-0.json", "agent-1.json"]


@pytest.mark.parametrize("count", [8, pytest.param(20, marks=pytest.mark.slow)])
def test_many_publishers_at_once_lose_nothing(world: World, count: int) -> None:
    clones = [world.clone() for _ in range(count)]
    tickets = [c.start_publish({f"agent-{n}.json": b"%d" % n}) for n, c in enumerate(clones)]
    outcomes = [c.outcome(t) for c, t in zip(clones, tickets, strict=True)]
    assert [o for o in outcomes if not isinstance(o, BranchPublished)] == []
    assert world.files() == {f"agent-{n}.json": b"%d" % n for n in range(count)}


def test_only_the_named_files_change(world: World) -> None:
    clone = world.clone()
    clone.publish({"agent-a.json": b"1", "agent-b.json": b"1", "agent-c.json": b"1"})
    assert isinstance(clone.publish({"agent-a.json": b"2", "agent-b.json": None, "agent-none.json": None}), BranchPublished)
    assert world.files() == {"agent-a.json": b"2", "agent-c.json": b"1"}
    assert read(clone).records == world.files()


def test_a_record_of_another_is_written_only_beside_one_that_is_there(world: World) -> None:
    clone = world.clone()
    clone.publish({"agent-a.json": b"1", "agent-b.json": b"1"})
    beside = {"agent-a.json": ("agent-a.json",), "agent-a2.json": ("agent-a.json",), "agent-c.json": ("agent-c.json",)}
    changes: dict[str, bytes | None] = {"agent-a.json": b"2", "agent-a2.json": b"2", "agent-c.json": b"2", "agent-b.json": b"2"}
    assert isinstance(clone.publish(changes, beside=beside), BranchPublished)
    assert world.files() == {"agent-a.json": b"2", "agent-a2.json": b"2", "agent-b.json": b"2"}
    world.clone().publish({"agent-a.json": None, "agent-a2.json": None})
    changes = {"agent-a.json": b"3", "agent-a2.json": b"3"}
    assert isinstance(clone.publish(changes, beside=beside), BranchPublished), "though the tip is not the one read last"
    assert world.files() == {"agent-b.json": b"2"}


def test_nothing_to_change_is_a_success_without_a_push(world: World) -> None:
    clone = world.clone()
    assert isinstance(clone.publish({"agent-a.json": None}), BranchPublished), "there is no branch, and none is needed"
    assert read(clone).commit is None
    done = clone.publish({"agent-a.json": b"1"})
    again = clone.publish({"agent-a.json": b"1", "agent-b.json": None})
    assert isinstance(done, BranchPublished)
    assert isinstance(again, BranchPublished)
    assert again.commit == done.commit == read(clone).commit


def test_the_last_record_may_go_and_others_come_after(world: World) -> None:
    clone = world.clone()
    clone.publish({"agent-a.json": b"1"})
    assert isinstance(clone.publish({"agent-a.json": None}), BranchPublished)
    assert read(clone).records == {}
    assert read(clone).commit is not None
    clone.publish({"agent-b.json": b"1"})
    assert read(world.clone()).records == {"agent-b.json": b"1"}


def test_what_others_keep_on_the_branch_is_kept(world: World) -> None:
    world.by_hand({"agent-x.json": b"x", "notes.txt": b"n"})
    clone = world.clone()
    assert isinstance(clone.publish({"agent-a.json": b"1"}), BranchPublished)
    assert world.files() == {"agent-a.json": b"1", "agent-x.json": b"x", "notes.txt": b"n"}
    assert world.elsewhere() == ["README"]


def test_files_that_can_be_no_record_are_told(world: World) -> None:
    world.by_hand({"notes.txt": b"n", "agent-big.json": b"x" * (MAX_RECORD_BYTES + 1), "agent-ok.json": b"x" * MAX_RECORD_BYTES})
    given = read(world.clone())
    assert list(given.records) == ["agent-ok.json"]
    assert sorted(given.skipped) == ["agent-big.json", "notes.txt"]
    assert str(MAX_RECORD_BYTES) in given.skipped["agent-big.json"]


def test_a_branch_deleted_or_rewritten_by_others(world: World) -> None:
    clone = world.clone()
    clone.publish({"agent-a.json": b"1"})
    world.delete_branch()
    assert read(clone) == BranchRead(commit=None, records={})
    assert isinstance(clone.publish({"agent-b.json": b"1"}), BranchPublished)
    assert world.files() == {"agent-b.json": b"1"}
    world.delete_branch()
    assert isinstance(clone.publish({"agent-c.json": b"1"}), BranchPublished), "without having read that it is gone"
    assert world.files() in ({"agent-c.json": b"1"}, {"agent-b.json": b"1", "agent-c.json": b"1"})
    world.by_hand({"agent-x.json": b"x"})
    assert isinstance(clone.publish({"agent-a.json": b"2"}), BranchPublished)
    assert world.files() == {"agent-a.json": b"2", "agent-x.json": b"x"}
    world.by_hand({})
    assert read(clone).records == {}


def test_an_unreachable_remote_is_told_and_comes_back(world: World) -> None:
    clone = world.clone()
    clone.publish({"agent-a.json": b"1"})
    world.reachable(False)
    failed = clone.read()
    assert isinstance(failed, BranchReadFailed)
    assert 0 < len(failed.reason) <= 400
    assert isinstance(clone.publish({"agent-a.json": b"2"}), BranchPublishFailed)
    world.reachable(True)
    assert read(clone).records == {"agent-a.json": b"1"}
    assert isinstance(clone.publish({"agent-a.json": b"2"}), BranchPublished)
    assert world.files() == {"agent-a.json": b"2"}


def test_a_final_publish_goes_first_and_removes_what_the_one_under_way_wrote(world: World) -> None:
    clone = world.clone()
    under_way = clone.start_publish({"agent-a.json": b"1"})
    waits = clone.start_publish({"agent-b.json": b"1"})
    final = clone.start_publish({"agent-a.json": None, "agent-b.json": None}, final=True)
    assert isinstance(clone.outcome(final), BranchPublished)
    assert clone.outcome(under_way).ticket == under_way
    assert isinstance(clone.outcome(waits), BranchPublishFailed)
    assert world.files() == {}
    late = clone.publish({"agent-a.json": b"1"})
    assert isinstance(late, BranchPublishFailed), "nothing comes after a final one"


def test_a_final_publish_with_the_remote_down_ends_soon(world: World) -> None:
    clone = world.clone()
    clone.publish({"agent-a.json": b"1"})
    world.reachable(False)
    assert isinstance(clone.publish({"agent-a.json": None}, final=True), BranchPublishFailed)


def test_every_call_is_answered(world: World) -> None:
    clone = world.clone()
    tickets = [clone.start_publish({"agent-a.json": b"%d" % n}) for n in range(30)]
    outcomes = [clone.outcome(t) for t in tickets]
    assert isinstance(outcomes[0], BranchPublished)
    assert any(isinstance(o, BranchPublishFailed) and "wait" in o.reason for o in outcomes), "the line is bounded"
