"""The simulated lease table under all its faults: nobody is told what is not so, and the chain stays one."""

from __future__ import annotations

from random import Random

import pytest
from tests.conformance.table_bench import change

from sudocode_coordination.core.io import Input, SwapTable, TableRead, TableReadFailed, TableSwapFailed, TableSwapped
from sudocode_coordination.sim.scheduler import Scheduler
from sudocode_coordination.sim.table import SimTablePort, SimTableRemote, commit_of


class Pusher:
    """One that pushes again and again; after `unknown` it sends the same once more, or reads."""

    def __init__(self, remote: SimTableRemote, name: str) -> None:
        self.name = name
        self.remote = remote
        self.dice = Random(name)
        self.port = SimTablePort(remote, self.took)
        self.tip: str | None = None
        self.files: dict[str, bytes] = {}
        self.tries = 0
        self.trying: SwapTable | None = None
        self.told: list[tuple[str, str]] = []
        """What was told of commits: (commit, landed or kind)."""

    def go(self) -> None:
        if self.dice.random() < 0.2:
            self.port.read_table(whole=self.dice.random() < 0.3)
            return
        self.tries += 1
        path = f"a/{self.dice.randrange(4)}"
        content = None if self.dice.random() < 0.2 else f"{self.name}{self.tries}".encode()
        self.trying = change(self.tries, self.tip, {path: content}, f"{self.name}{self.tries}")
        self.port.swap_table(self.trying)

    def took(self, given: Input) -> None:
        match given:
            case TableRead():
                if given.base is None:
                    self.files = {}
                assert given.base in (None, self.tip)
                self.apply(given.changed)
                self.tip = given.commit
                assert self.files == self.remote.files_at(self.tip)
            case TableSwapped(commit=commit):
                assert self.trying is not None
                assert commit == commit_of(self.trying)
                self.told.append((commit, "landed"))
                self.apply(self.trying.changes)
                self.tip = commit
                assert self.files == self.remote.files_at(self.tip)
            case TableSwapFailed(kind=kind):
                assert self.trying is not None
                self.told.append((commit_of(self.trying), kind))
                if kind == "unknown" and self.dice.random() < 0.5:
                    self.port.swap_table(self.trying)
                else:
                    self.port.read_table()
                return
            case TableReadFailed():
                pass
            case _:
                raise AssertionError(given)
        self.remote.scheduler.after(self.dice.randrange(2_000), self.go)

    def apply(self, changed: dict[str, bytes | None]) -> None:
        for path, content in changed.items():
            if content is None:
                self.files.pop(path, None)
            else:
                self.files[path] = content


@pytest.mark.parametrize("seed", range(20))
def test_nobody_is_told_what_is_not_so(seed: int) -> None:
    scheduler = Scheduler(seed)
    remote = SimTableRemote(scheduler)
    remote.lost_reply_share, remote.late_share = 0.1, 0.1
    pushers = [Pusher(remote, name) for name in "abcd"]
    for pusher in pushers:
        scheduler.after(1, pusher.go)
    for at in (200_000, 500_000):
        scheduler.at(at, lambda: setattr(remote, "reachable", False))
        scheduler.at(at + 30_000, lambda: setattr(remote, "reachable", True))
    scheduler.run_until(1_000_000)
    commits = [landing.commit for landing in remote.history]
    assert [landing.parent for landing in remote.history] == [None, *commits[:-1]], "one chain"
    assert len(set(commits)) == len(commits) > 20
    told = [item for pusher in pushers for item in pusher.told]
    assert {commit for commit, what in told if what == "landed"} <= set(commits)
    assert not {commit for commit, what in told if what in ("moved", "refused")} & set(commits)
    unknown = {commit for commit, what in told if what == "unknown"}
    assert unknown & set(commits), "some of these had landed"
    assert unknown - set(commits), "and some had not"
    assert {what for _, what in told} == {"landed", "moved", "unknown"}
