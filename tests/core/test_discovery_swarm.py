"""Whole swarms of discovery machines on one simulated remote: they find each other, and push little."""

from __future__ import annotations

from functools import partial
from random import Random

import pytest

from sudocode_coordination.config import create_default_config
from sudocode_coordination.core.discovery import Discovery
from sudocode_coordination.core.facts import Output, Say
from sudocode_coordination.core.io import (
    BranchPublished,
    BranchPublishFailed,
    BranchRead,
    BranchReadFailed,
    DiskContents,
    Input,
    Publish,
    ReadBranch,
)
from sudocode_coordination.core.records import parse_record, parse_wall
from sudocode_coordination.core.wire import RecordOffer
from sudocode_coordination.model import Instant, PeerRecord
from sudocode_coordination.sim.identity import SimKeyring
from sudocode_coordination.sim.remote import SimGitPort, SimGitRemote
from sudocode_coordination.sim.scheduler import Scheduler

TTL = 900_000
MINUTE = 60_000


class Swarm:
    """Machines on a perfect network: whoever knows each other is connected."""

    def __init__(self, count: int, seed: int) -> None:
        self.scheduler = Scheduler(seed)
        self.remote = SimGitRemote(self.scheduler)
        self.networked = True
        self.nodes: dict[str, Node] = {}
        for n in range(count):
            node = Node(self, n)
            self.nodes[node.peer] = node

    def connect(self) -> None:
        """Connect all that let each other in; a stranger's attempt is a knock."""
        for peer, node in sorted(self.nodes.items()):
            others = {p for p in node.machine.known if p in self.nodes and self.nodes[p].running and self.networked}
            for other in sorted(others):
                theirs = self.nodes[other]
                if peer not in theirs.machine.known and node.running:
                    theirs.act(theirs.machine.knocked(peer, "", self.scheduler.now()))
            mutual = frozenset(p for p in others if peer in self.nodes[p].machine.known)
            if mutual != node.connected and node.running:
                node.connected = mutual
                node.act(node.machine.connected_changed(mutual, self.scheduler.now()))

    def run(self, until: Instant, *, step_ms: int = 1_000) -> None:
        while self.scheduler.instant < until:
            self.scheduler.run_until(min(until, self.scheduler.instant + step_ms))
            self.connect()


class Node:
    def __init__(self, swarm: Swarm, number: int) -> None:
        self.swarm = swarm
        self.key = SimKeyring(f"node-{number}")
        self.peer = self.key.peer_id
        self.agent = f"agent-{number}"
        self.machine = Discovery(self.key, create_default_config(self.agent), Random(number))
        self.port = SimGitPort(swarm.remote, self.took)
        self.connected: frozenset[str] = frozenset()
        self.running = False
        self.armed: Instant | None = None

    def start(self) -> None:
        self.running = True
        now = self.swarm.scheduler.now()
        self.act(self.machine.started(now, DiskContents()))
        self.act(self.machine.agents_changed({self.agent: ("code",)}, now))
        self.act(self.machine.listening(("/ip4/192.0.2.1/tcp/1",), now))

    def stop(self) -> None:
        self.act(self.machine.stop(self.swarm.scheduler.now()))
        self.running = False

    def crash(self) -> None:
        self.running = False
        self.port.crash()

    def took(self, given: Input) -> None:
        now = self.swarm.scheduler.now()
        match given:
            case BranchRead():
                self.act(self.machine.branch_read(given, now))
            case BranchReadFailed():
                self.act(self.machine.branch_read_failed(given, now))
            case BranchPublished():
                self.act(self.machine.branch_published(given, now))
            case BranchPublishFailed():
                self.act(self.machine.branch_publish_failed(given, now))
            case _:
                raise AssertionError(given)

    def act(self, outputs: list[Output]) -> None:
        for output in outputs:
            match output:
                case ReadBranch():
                    self.port.read_branch()
                case Publish(ticket=ticket, changes=changes, beside=beside, final=final):
                    self.port.publish(ticket, changes, beside=beside, final=final)
                case Say(peer=peer, message=RecordOffer() as offer):
                    self.swarm.scheduler.after(20, partial(self.swarm.nodes[peer].offered, self.peer, offer))
                case _:
                    pass
        due = self.machine.deadline()
        if self.running and due is not None and (self.armed is None or due < self.armed):
            self.armed = due
            self.swarm.scheduler.at(due, self.tick)

    def offered(self, peer: str, offer: RecordOffer) -> None:
        if self.running and peer in self.connected:
            self.act(self.machine.offered(peer, offer, self.swarm.scheduler.now()))

    def tick(self) -> None:
        self.armed = None
        if self.running:
            self.act(self.machine.ticked(self.swarm.scheduler.now(), 0))


@pytest.mark.parametrize("seed", range(5))
def test_two_that_start_together_see_each_other_within_seconds(seed: int) -> None:
    swarm = Swarm(2, seed)
    for node in swarm.nodes.values():
        node.start()
    swarm.run(5_000)
    assert all(len(node.connected) == 1 for node in swarm.nodes.values())


@pytest.mark.parametrize("seed", range(3))
def test_a_later_one_is_let_in_within_seconds(seed: int) -> None:
    swarm = Swarm(4, seed)
    first, *rest = swarm.nodes.values()
    first.start()
    for n, node in enumerate(rest):
        swarm.run((n + 1) * 37_000)
        node.start()
        swarm.run((n + 1) * 37_000 + 5_000)
        assert len(node.connected) == n + 1


def test_a_connected_swarm_pushes_seldom_and_no_record_ages() -> None:
    swarm = Swarm(25, 7)
    for n, node in enumerate(swarm.nodes.values()):
        swarm.run(n * 5_000)
        node.start()
    swarm.run(3 * MINUTE)
    swarm.run(10 * MINUTE, step_ms=10_000)
    assert all(len(node.connected) == 24 for node in swarm.nodes.values())
    busiest = 0
    for minute in range(10, 70):
        swarm.run((minute + 1) * MINUTE, step_ms=MINUTE)
        busiest = max(busiest, swarm.remote.pushes_between(minute * MINUTE, (minute + 1) * MINUTE))
        for name, data in swarm.remote.files.items():
            record = parse_record(name, data, SimKeyring("reader"))
            assert isinstance(record, PeerRecord)
            assert swarm.scheduler.now().wall_ms - (parse_wall(record.last_seen) or 0) < TTL * 5 // 6
    assert busiest <= 6
    assert swarm.remote.pushes_between(10 * MINUTE, 70 * MINUTE) <= 60
    assert len(swarm.remote.files) == 25


def test_the_publisher_may_crash_and_the_branch_may_vanish() -> None:
    swarm = Swarm(6, 3)
    for node in swarm.nodes.values():
        node.start()
    swarm.run(2 * MINUTE)
    swarm.nodes[min(swarm.nodes)].crash()
    swarm.run(5 * MINUTE)
    swarm.remote.delete_branch()
    swarm.run(20 * MINUTE)
    assert len(swarm.remote.files) == 5
    swarm.remote.rewrite({"agent-junk.json": b"{"}, ("README",))
    swarm.run(40 * MINUTE)
    assert len(swarm.remote.files) == 6
    assert swarm.remote.other_paths == ("README",)
    assert all(len(node.machine.roster) == 5 for node in swarm.nodes.values() if node.running)


def test_an_outage_of_the_remote_hurts_nobody_and_is_told() -> None:
    swarm = Swarm(4, 5)
    for node in swarm.nodes.values():
        node.start()
    swarm.run(2 * MINUTE)
    swarm.remote.reachable = False
    swarm.run(45 * MINUTE)
    for node in swarm.nodes.values():
        assert node.machine.health.state == "unreachable"
        assert len(node.machine.roster) == 4
        assert len(node.connected) == 3
    swarm.networked = False
    swarm.connect()
    swarm.run(50 * MINUTE)
    assert all(len(node.machine.roster) == 4 for node in swarm.nodes.values()), "known from before, to connect to again"
    swarm.remote.reachable = swarm.networked = True
    swarm.run(60 * MINUTE)
    assert all(node.machine.health.state == "ok" and node.machine.published for node in swarm.nodes.values())


@pytest.mark.parametrize("seed", range(5))
def test_lost_replies_and_stops_leave_only_who_is_there(seed: int) -> None:
    swarm = Swarm(8, seed)
    swarm.remote.lost_reply_share = 0.3
    nodes = list(swarm.nodes.values())
    for node in nodes:
        node.start()
    swarm.run(5 * MINUTE)
    assert len(swarm.remote.files) == 8
    swarm.remote.lost_reply_share = 0.0
    for node in nodes[:4]:
        node.stop()
    swarm.run(6 * MINUTE)
    assert sorted(swarm.remote.files) == sorted(f"agent-{node.agent}.json" for node in nodes[4:])
    assert all(node.machine.stopped for node in nodes[:4])
    swarm.run(8 * MINUTE)
    assert all(len(node.machine.roster) == 4 for node in nodes[4:])


def test_a_read_only_clone_says_so_and_goes_on() -> None:
    swarm = Swarm(2, 1)
    swarm.remote.read_only = True
    for node in swarm.nodes.values():
        node.start()
    swarm.run(3 * MINUTE)
    for node in swarm.nodes.values():
        assert "refused" in node.machine.health.reason
    assert swarm.remote.attempts == 0
