"""Agents of one daemon are as separate as agents of two: the same script comes to the same end."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.core.lease_bench import Bench, file

from sudocode_coordination.model import LeaseMode

Act = Callable[["Stage"], object]


class Stage:
    """Two agents, on one daemon or on two, and what they are told."""

    def __init__(self, *, apart: bool, grace_ms: int) -> None:
        self.bench = Bench("home", "other", preempt_grace_ms=grace_ms)
        self.peers = {"ann": "home", "ben": "other" if apart else "home"}
        self.asked: list[int] = []

    def asks(self, who: str, *paths: str, mode: LeaseMode = "exclusive", wait: bool = False, priority: int = 0) -> None:
        wait_ms = 0 if wait else None
        self.asked.append(
            self.bench.asks(self.peers[who], *paths, agent=who, mode=mode, wait_ms=wait_ms, priority=priority, client=len(who))
        )
        self.bench.settles()

    def releases(self, who: str, *paths: str, to_shared: bool = False) -> None:
        peer = self.peers[who]
        wanted = tuple(file(path) for path in paths)
        _, outputs = self.bench.of(peer).release(who, wanted, self.bench.now, to_shared=to_shared)
        self.bench.does(peer, outputs)
        self.bench.settles()

    def cancels(self, number: int) -> None:
        for station in self.bench.stations.values():
            for holding in station.machine.holdings():
                if holding.ticket is not None and holding.ticket.request_id == self.asked[number]:
                    self.bench.does(station.name, station.machine.cancel(holding.ticket, self.bench.now))
        self.bench.settles()

    def outcome(self) -> object:
        answers = [self.bench.answer(asked) for asked in self.asked]
        told = [
            None
            if answer is None
            else (
                answer.granted,
                answer.reason,
                [(c.agent_id, c.kind, c.resource.path) for c in answer.holders],
                [(w.agent_id, w.resource.path, w.holder_id, w.held) for w in answer.cycle],
            )
            for answer in answers
        ]
        held = sorted(
            (h.body.agent, h.body.mode, h.body.resources, h.granted)
            for station in self.bench.stations.values()
            for h in station.machine.holdings()
        )
        lost = sorted(
            (str(e.agent_id), str(e.data["reason"]), str(e.data.get("holder")))
            for station in self.bench.stations.values()
            for e in station.events
            if e.type == "lease-lost"
        )
        listed = [
            (lease.agent_id, lease.state, lease.mode, lease.position) for lease in self.bench.of("home").leases(self.bench.instant)
        ]
        return told, held, lost, listed


SCRIPTS: dict[str, list[Act]] = {
    "denied": [lambda s: s.asks("ann", "a"), lambda s: s.asks("ben", "a")],
    "right after a release": [lambda s: s.asks("ann", "a"), lambda s: s.releases("ann", "a"), lambda s: s.asks("ben", "a")],
    "readers": [lambda s: s.asks("ann", "a", mode="shared"), lambda s: s.asks("ben", "a", mode="shared")],
    "queue": [
        lambda s: s.asks("ann", "a", "b"),
        lambda s: s.asks("ben", "b", "c", wait=True),
        lambda s: s.asks("ann", "c", wait=True),
        lambda s: s.releases("ann", "b"),
        lambda s: s.releases("ben", "c"),
    ],
    "takes over": [lambda s: s.asks("ann", "a"), lambda s: s.asks("ben", "a", priority=1, wait=True)],
    "gives up in the grace": [
        lambda s: s.asks("ann", "a"),
        lambda s: s.asks("ben", "a", priority=1, wait=True),
        lambda s: s.cancels(1),
    ],
    "upgrade": [
        lambda s: s.asks("ann", "a", mode="shared"),
        lambda s: s.asks("ben", "a", mode="shared"),
        lambda s: s.asks("ann", "a", wait=True),
        lambda s: s.releases("ben", "a"),
    ],
    "two upgrades": [
        lambda s: s.asks("ann", "a", mode="shared"),
        lambda s: s.asks("ben", "a", mode="shared"),
        lambda s: s.asks("ben", "a", wait=True),
        lambda s: s.asks("ann", "a", wait=True),
    ],
    "downgrade": [
        lambda s: s.asks("ann", "a"),
        lambda s: s.asks("ben", "a", mode="shared", wait=True),
        lambda s: s.releases("ann", "a", to_shared=True),
    ],
    "deadlock": [
        lambda s: s.asks("ann", "a"),
        lambda s: s.asks("ben", "b"),
        lambda s: s.asks("ann", "b", wait=True),
        lambda s: s.asks("ben", "a", wait=True),
        lambda s: s.releases("ben", "b"),
    ],
    "folder": [lambda s: s.asks("ann", "src/"), lambda s: s.asks("ben", "src/x", "y"), lambda s: s.asks("ben", "y")],
    "twice": [lambda s: s.asks("ann", "a"), lambda s: s.asks("ann", "a"), lambda s: s.asks("ann", "a", mode="shared")],
}


@pytest.mark.parametrize("grace_ms", [0, 30_000])
@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS.keys())
def test_two_agents_fare_alike_on_one_daemon_and_on_two(script: list[Act], grace_ms: int) -> None:
    outcomes = []
    for apart in (False, True):
        stage = Stage(apart=apart, grace_ms=grace_ms)
        story: list[object] = []
        for act in script:
            act(stage)
            story.append(stage.outcome())
            stage.bench.passes(1_000)
        stage.bench.passes(60_000)
        story.append(stage.outcome())
        outcomes.append(story)
    assert outcomes[0] == outcomes[1]


def test_the_scripts_come_to_all_kinds_of_ends() -> None:
    """Else the comparison above would compare nothing."""
    ends = ""
    for script in SCRIPTS.values():
        stage = Stage(apart=True, grace_ms=0)
        for act in script:
            act(stage)
        ends += repr(stage.outcome())
    assert all(word in ends for word in ("'held'", "'deadlock'", "'preempted'", "'shared'", "'pending'", "True", "None"))


def test_a_lease_of_the_same_agent_id_in_another_clone_is_anothers() -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "a.py", agent="twin")
    bench.settles()
    asked = bench.asks("bob", "a.py", agent="twin")
    bench.settles()
    assert bench.answer(asked) is not None
    assert not bench.granted(asked)
