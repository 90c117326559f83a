"""Long random stories of asking, changing, giving back and giving up: in the end all were answered and nothing is left over."""

from __future__ import annotations

from random import Random

import pytest
from tests.core.lease_bench import Bench, file

from sudocode_coordination.core.lease_queue import LeaseQueue

NAMES = ("alice", "bob", "carol")
PATHS = ("a.py", "b.py", "src/", "src/c.py")
STEPS = 60


class Story:
    """Six agents on three peers, and dice."""

    def __init__(self, seed: int, grace_ms: int) -> None:
        self.dice = Random(seed)
        self.bench = Bench(*NAMES, preempt_grace_ms=grace_ms)
        self.agents = [(name, f"{name}{number}") for name in NAMES for number in (1, 2)]
        self.asked: list[int] = []
        self.cancelled: set[int] = set()

    def acts(self) -> None:
        dice, bench = self.dice, self.bench
        name, agent = dice.choice(self.agents)
        paths = dice.sample(PATHS, dice.choice((1, 1, 1, 2)))
        match dice.choice(("ask", "ask", "ask", "wait", "wait", "release", "release", "share", "all", "cancel", "gone")):
            case "ask" | "wait" as how:
                self.asked.append(
                    bench.asks(
                        name,
                        *paths,
                        agent=agent,
                        mode=dice.choice(("exclusive", "shared")),
                        priority=dice.choice((0, 0, 0, 1)),
                        wait_ms=None if how == "ask" else 0,
                        ttl_ms=dice.choice((None, 400_000)),
                        note=dice.choice(("", "", "n1", "n2")),
                        client=self.agents.index((name, agent)),
                    )
                )
            case "release":
                bench.releases(name, *paths, agent=agent)
            case "share":
                _, outputs = bench.of(name).release(agent, tuple(file(path) for path in paths), bench.now, to_shared=True)
                bench.does(name, outputs)
            case "all":
                bench.releases(name, agent=agent, everything=True)
            case "cancel":
                tickets = [h.ticket for h in bench[name].machine.holdings() if h.ticket is not None]
                if tickets:
                    ticket = dice.choice(tickets)
                    self.cancelled.add(ticket.request_id)
                    bench.does(name, bench.of(name).cancel(ticket, bench.now))
            case "gone":
                client = self.agents.index((name, agent))
                self.cancelled |= {
                    h.ticket.request_id
                    for h in bench[name].machine.holdings()
                    if h.ticket is not None and h.ticket.client == client
                }
                bench.does(name, bench.of(name).client_gone(client, bench.now))

    def some_arrives(self) -> None:
        for _ in range(self.dice.randrange(12)):
            ready = self.bench.ready(reorder=False)
            if not ready:
                return
            self.bench.takes(self.dice.choice(ready))

    def told(self) -> None:
        """It happens, and everything settles."""
        for _ in range(STEPS):
            self.acts()
            self.some_arrives()
            if self.dice.random() < 0.2:
                self.bench.settles()
                self.bench.passes(self.dice.choice((200, 3_000, 20_000)))
        self.bench.settles()
        self.bench.passes(30_000)

    def is_exclusive(self) -> None:
        """Nothing is held twice, by the agents' own account: also not between two agents of one daemon."""
        held = [
            (name, h.body)
            for name, station in self.bench.stations.items()
            for h in station.held()
            if self.bench.instant < h.valid_until
        ]
        for index, (name, body) in enumerate(held):
            conflicting = {k.body.id for k in self.bench.of(name).claims.conflicting(body, self.bench.instant) if k.granted}
            assert not conflicting & {other.id for _, other in held[index + 1 :]}, body

    def everybody_lets_go(self) -> None:
        """Who holds something and waits for nothing lets go, until nobody does; circles are broken, so that is all."""
        for _ in range(len(self.asked) + 5):
            self.is_exclusive()
            busy = [
                (name, agent)
                for name, agent in self.agents
                if any(h.body.agent == agent and h.granted for h in self.bench[name].machine.holdings())
                and not any(h.body.agent == agent and h.ticket is not None for h in self.bench[name].machine.holdings())
            ]
            for name, agent in busy:
                self.bench.releases(name, agent=agent, everything=True)
            self.bench.settles()
            self.bench.passes(30_000)
            if not any(station.machine.holdings() for station in self.bench.stations.values()):
                return
        left = {n: [(h.body, h.granted, h.suspects) for h in s.machine.holdings()] for n, s in self.bench.stations.items()}
        pytest.fail(f"they wait for ever: {left}")


@pytest.mark.parametrize("grace_ms", [0, 10_000])
@pytest.mark.parametrize("seed", range(25))
def test_every_request_is_answered_and_nothing_is_left(seed: int, grace_ms: int) -> None:
    story = Story(seed, grace_ms)
    story.told()
    story.is_exclusive()
    story.everybody_lets_go()
    bench = story.bench
    assert [asked for asked in story.asked if bench.answer(asked) is None and asked not in story.cancelled] == []
    for name, station in bench.stations.items():
        machine = bench.of(name)
        assert isinstance(machine, LeaseQueue)
        assert machine.leases(bench.instant) == [], name
        assert station.document == {}, name
        assert not machine._tickets
        assert not machine._of_agent
