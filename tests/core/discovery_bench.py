"""A discovery machine with its clock and branch in the hands of a test."""

from __future__ import annotations

from random import Random
from typing import Any, Final

from sudocode_coordination.config import create_default_config
from sudocode_coordination.core.discovery import Discovery
from sudocode_coordination.core.facts import Output
from sudocode_coordination.core.io import (
    BranchPublished,
    BranchRead,
    DiskContents,
    Publish,
    ReadBranch,
)
from sudocode_coordination.core.records import build_record, to_write
from sudocode_coordination.model import Now
from sudocode_coordination.sim.identity import SimKeyring

TTL: Final = 900_000
INTERVAL: Final = 60_000
WALL: Final = 1_800_000_000_000
KEYS: Final = sorted((SimKeyring(f"peer-{n}") for n in range(8)), key=lambda key: key.peer_id)
LOW, ME, HIGH, OTHER = KEYS[0], KEYS[3], KEYS[5], KEYS[6]
ADDRESS: Final = ("/ip4/192.0.2.7/tcp/4001",)


def record(key: SimKeyring, agent: str, *, wall_ms: int = WALL, address: str = "/ip4/192.0.2.9/tcp/1", ttl_ms: int = TTL) -> bytes:
    return build_record(key, agent_id=agent, multiaddrs=(address,), capabilities=("code",), wall_ms=wall_ms, ttl_ms=ttl_ms)


class Bench:
    """A machine, its clock, and a branch that is what the test says."""

    def __init__(self, key: SimKeyring = ME, seed: int = 1, **config: Any) -> None:
        self.key = key
        self.machine = Discovery(key, create_default_config("me", **config), Random(seed))
        self.instant = 1_000_000
        self.branch: dict[str, bytes] | None = None
        self.outputs: list[Output] = []
        self.commits = 0

    def now(self) -> Now:
        return Now(self.instant, WALL + self.instant - 1_000_000)

    def do(self, outputs: list[Output]) -> list[Output]:
        self.outputs += outputs
        return outputs

    def of(self, kind: type[Any]) -> list[Any]:
        return [o for o in self.outputs if isinstance(o, kind)]

    def start(self) -> list[Output]:
        self.do(self.machine.started(self.now(), DiskContents()))
        self.do(self.machine.agents_changed({"me": ("code",)}, self.now()))
        return self.do(self.machine.listening(ADDRESS, self.now()))

    def read(self, branch: dict[str, bytes] | None = None) -> list[Output]:
        """The answer to the read under way."""
        if branch is not None:
            self.branch = branch
        self.commits += 1
        commit = None if self.branch is None else f"{self.commits:040x}"
        return self.do(self.machine.branch_read(BranchRead(commit=commit, records=dict(self.branch or {})), self.now()))

    def landed(self, publish: Publish) -> list[Output]:
        self.branch = dict(self.branch or {})
        for name, data in to_write(publish.changes, publish.beside, set(self.branch)).items():
            if data is None:
                self.branch.pop(name, None)
            else:
                self.branch[name] = data
        return self.do(self.machine.branch_published(BranchPublished(ticket=publish.ticket, commit="c" * 40), self.now()))

    def wait(self, ms: int, *, auto: bool = True) -> list[Output]:
        """Let time pass; reads and pushes succeed at once if `auto`."""
        end = self.instant + ms
        got: list[Output] = []
        while (due := self.machine.deadline()) is not None and due <= end:
            assert due > self.instant or not auto, "a deadline that has passed and does nothing would spin"
            self.instant = max(due, self.instant)
            step = self.do(self.machine.ticked(self.now(), 0))
            got += step
            if not step:
                assert (later := self.machine.deadline()) is None or later > self.instant
            while auto and step:
                following: list[Output] = []
                for output in step:
                    if isinstance(output, ReadBranch):
                        following += self.read()
                    elif isinstance(output, Publish):
                        following += self.landed(output)
                got += following
                step = following
        self.instant = end
        return got

    def settled(self) -> Bench:
        """Started, published, read again."""
        self.start()
        for output in self.read():
            if isinstance(output, Publish):
                self.landed(output)
        self.wait(2_000)
        assert self.machine.published
        return self


def kinds(outputs: list[Output], kind: type[Any]) -> list[Any]:
    return [o for o in outputs if isinstance(o, kind)]
