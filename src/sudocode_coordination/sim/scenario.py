"""One seed's history: a swarm, agents that take and leave leases, and faults; then peace, in which all must come right."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Final, NamedTuple

from sudocode_coordination.api.requests import (
    AcquireLease,
    AttachAgent,
    LeaseOutcome,
    ReleaseLease,
    RenewLease,
    SetWork,
    UpdateIssue,
)
from sudocode_coordination.config import CoordinationConfig, create_default_config
from sudocode_coordination.core.io import Reply
from sudocode_coordination.core.node import STOP_MS
from sudocode_coordination.model import Instant, PeerId, Resource
from sudocode_coordination.sim.checkers import NoRevival, Violation, check_converged, check_exclusion
from sudocode_coordination.sim.network import NetworkFaults
from sudocode_coordination.sim.world import CLIENT, SimClock, SimNode, World

TROUBLE_MS: Final = 120_000
"""How long agents work and faults happen."""
PEACE_MS: Final = 180_000
"""Then nothing bad happens any more; it must be long enough for reconnects, expiry and anti-entropy."""
SETTLE_MS: Final = 45_000
"""A swarm that has been whole for so long has found and repaired every overlap."""
FILES: Final = 4
LONG_HOLDS: Final = 15
FURTHER_FAULTS_FROM: Final = 400
"""Seeds from here on have the faults of `_further` too. Those below keep the histories in which faults were found."""
CLOCKS_OFF_MS: Final = (-86_400_000, -60_000, 0, 60_000, 86_400_000)
"""A day: records look stale, or of the future, to those who start then."""
GUEST: Final = "-guest"
GUEST_CLIENT: Final = 2
"""Of agents that live no longer than their connection."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a seed came to."""

    seed: int
    digest: str
    events: int
    granted: int
    denied: int
    violation: str | None = None
    words: tuple[str, ...] = ()


class _Asked(NamedTuple):
    node: SimNode
    life: int
    agent: str
    at: Instant


def _config(name: str) -> CoordinationConfig:
    return create_default_config(
        name, lease_ttl_ms=20_000, max_lease_ttl_ms=20_000, gone_grace_ms=8_000, peer_discovery_interval_ms=15_000
    )


def _faults(dice: Random) -> NetworkFaults:
    harsh = dice.random() < 0.6
    return NetworkFaults(
        latency_ms=(1, dice.choice((5, 40, 200))),
        frame_loss=dice.choice((0.0, 0.02, 0.1)) if harsh else 0.0,
        frame_duplication=dice.choice((0.0, 0.05)) if harsh else 0.0,
        frame_reordering=dice.choice((0.0, 0.05, 0.2)) if harsh else 0.0,
        link_loss=dice.choice((0.0, 0.002)) if harsh else 0.0,
        gossip_loss=0.3,
        gossip_duplication=0.1,
        gossip_reordering=0.3,
    )


class Run:
    """A seed being run."""

    def __init__(self, seed: int, *, words: bool = False) -> None:
        self.seed = seed
        dice = self._dice = Random(seed * 7_919 + 1)
        self.world = World(seed, config=_config, faults=_faults(dice), words=words)
        for number in range(dice.randint(2, 5)):
            clock = SimClock(offset_ms=dice.randint(0, 10**6), drift_ppm=dice.randint(-9_000, 9_000))
            self.world.add(f"n{number}", clock)
        self.granted = self.denied = 0
        self._open: dict[int, _Asked] = {}
        """Requests that are not answered. Those of a process that dies need not be."""
        self._count = 0
        self._revival = NoRevival()
        self._troubled_at = 0
        self._whole = True
        self._peace = False
        self._patient = seed % 5 == 4
        """Agents of this world hold leases for so long that an overlap is still there when the swarm has settled."""
        self._more_dice = Random(seed * 104_729 + 3) if seed >= FURTHER_FAULTS_FROM else None

    def run(self) -> Outcome:
        """The whole history; a violation is in the outcome."""
        violation: str | None = None
        try:
            self._live()
        except Violation as error:
            violation = str(error)
        trace = self.world.trace
        return Outcome(self.seed, trace.digest, trace.count, self.granted, self.denied, violation, tuple(trace.words or ()))

    def _live(self) -> None:
        scheduler, dice = self.world.scheduler, self._dice
        for node in self.world.nodes:
            scheduler.at(dice.randint(0, 3_000), lambda node=node: self._start(node))  # type: ignore[misc]
            for agent in range(dice.randint(1, 2)):
                self._plan_agent(node, f"{node.name}-a{agent}", dice.randint(1_000, 6_000))
        for _ in range(dice.randint(0, 8)):
            scheduler.at(dice.randint(5_000, TROUBLE_MS - 20_000), self._misfortune)
        if self._more_dice is not None:
            self._plan_further(self._more_dice)
        self._until(TROUBLE_MS)
        self._make_peace()
        self._until(TROUBLE_MS + PEACE_MS)
        self._let_go()
        self._until(TROUBLE_MS + PEACE_MS + 60_000)
        if self._open:
            left_open = [f"{a.node.name}: {a.agent} asked at {a.at}" for a in self._open.values()]
            raise Violation(f"never answered: {left_open}")
        check_converged(self.world)
        left = [h.body.id for n in self.world.running() if n.node for h in n.node.leases.holdings()]
        if left:
            raise Violation(f"left over: {left}")

    def _until(self, end: int) -> None:
        scheduler = self.world.scheduler
        while scheduler.instant < end:
            before = scheduler.instant
            if not scheduler.step():
                return
            if scheduler.instant != before:
                settled = self._whole and scheduler.instant - self._troubled_at > SETTLE_MS
                check_exclusion(self.world, settled=settled)
                self._revival.check(self.world)

    # --- agents -----------------------------------------------------------------------------------------------------------

    def _plan_agent(self, node: SimNode, agent: str, delay_ms: int) -> None:
        self.world.scheduler.after(delay_ms, lambda: self._act(node, agent))

    def _act(self, node: SimNode, agent: str) -> None:
        if self._peace:
            return
        dice = self._dice
        pause_ms = dice.randint(200, 8_000)
        if node.node is None or node.frozen:
            self._plan_agent(node, agent, pause_ms)
            return
        roll = dice.random()
        if roll < 0.1:
            node.ask(SetWork(files=(f"f{dice.randrange(FILES)}",), status="work", agent=agent), lambda _: None)
        elif roll < 0.2:
            node.ask(UpdateIssue(issue_id=f"#{dice.randrange(3)}", fields={"title": agent}, agent=agent), lambda _: None)
        else:
            self._acquire(node, agent)
            return
        self._plan_agent(node, agent, pause_ms)

    def _acquire(self, node: SimNode, agent: str) -> None:
        dice = self._dice
        count = 2 if dice.random() < 0.25 else 1
        resources = tuple(Resource("file", f"f{i}") for i in dice.sample(range(FILES), count))
        request = AcquireLease(
            resources=resources,
            priority=5 if dice.random() < 0.15 else 0,
            wait_ms=dice.choice((None, None, 3_000, 30_000)),
            mode="shared" if dice.random() < 0.1 else "exclusive",
            agent=agent,
        )
        life = node.lives
        hold_ms, pause_ms = dice.randint(100, 9_000), dice.randint(200, 8_000)
        hold_ms *= LONG_HOLDS if self._patient else 1
        self._count += 1
        number = self._count
        self._open[number] = _Asked(node, life, agent, self.world.scheduler.instant)
        guest = agent.endswith(GUEST)

        def answered(reply: Reply) -> None:
            self._open.pop(number, None)
            outcome = reply.value
            if isinstance(outcome, LeaseOutcome) and outcome.granted:
                self.granted += 1
                self.world.scheduler.after(hold_ms, lambda: self._release(node, life, agent, resources))
                self._plan_agent(node, agent, hold_ms + pause_ms)
            else:
                self.denied += 1
                self._plan_agent(node, agent, pause_ms)

        if guest:
            node.ask(AttachAgent(agent=agent, bound=True), lambda _: None, client=GUEST_CLIENT)
        node.ask(request, answered, client=GUEST_CLIENT if guest else CLIENT)

    def _release(self, node: SimNode, life: int, agent: str, resources: tuple[Resource, ...]) -> None:
        if node.lives != life or node.node is None:
            return
        more = self._more_dice
        if more is not None and len(resources) > 1 and more.random() < 0.5:  # one after the other
            first, resources = resources[:1], resources[1:]
            node.ask(ReleaseLease(resources=first, agent=agent), lambda _: None)
            self.world.scheduler.after(more.choice((0, 5, 500)), lambda: self._release(node, life, agent, resources))
            return
        node.ask(ReleaseLease(resources=resources, agent=agent), lambda _: None)

    # --- faults -----------------------------------------------------------------------------------------------------------

    def _start(self, node: SimNode) -> None:
        if node.node is None:
            self._trouble()
            node.start()

    def _trouble(self) -> None:
        self._troubled_at = self.world.scheduler.instant

    def _kill(self, node: SimNode, *, power_cut: bool) -> None:
        for number, asked in list(self._open.items()):
            if asked.node is node:
                del self._open[number]
                self._plan_agent(node, asked.agent, 5_000)
        node.kill(power_cut=power_cut)

    def _misfortune(self) -> None:
        if self._peace:
            return
        self._trouble()
        dice, world = self._dice, self.world
        node = dice.choice(world.nodes)
        duration_ms = dice.choice((500, 3_000, 9_000, 30_000))
        match dice.choice(("kill", "power", "disk", "freeze", "split", "one-way", "remote", "remote", "branch")):
            case "kill" | "power" | "disk" as kind:
                if node.node is None:
                    return
                self._kill(node, power_cut=kind != "kill")
                if kind == "disk":
                    node.lose_disk()
                world.scheduler.after(duration_ms, lambda: self._start(node))
            case "freeze":
                if node.node is not None and not node.frozen:
                    node.freeze()
                    world.scheduler.after(duration_ms, lambda: self._thaw(node))
            case "split":
                ids = [n.peer_id for n in world.nodes]
                cut = dice.randint(1, len(ids) - 1)
                dice.shuffle(ids)
                world.network.partition(tuple(ids[:cut]), tuple(ids[cut:]))
                self._whole = False
                world.scheduler.after(duration_ms, self._heal)
            case "one-way":
                one, two = dice.sample(world.nodes, 2)
                world.network.cut(one.peer_id, two.peer_id, one_way=True)
                self._whole = False
                world.scheduler.after(duration_ms, self._heal)
            case "remote":
                world.remote.reachable = False
                world.scheduler.after(duration_ms, self._remote_back)
            case "branch":
                world.remote.delete_branch()

    # --- further faults ---------------------------------------------------------------------------------------------------

    def _plan_further(self, more: Random) -> None:
        """Stops in order, full disks, clocks that are set, long suspends, clients that vanish, restarts while the swarm is split,
        ttls that are made shorter."""
        scheduler = self.world.scheduler
        for node in self.world.nodes:
            if more.random() < 0.5:
                self._plan_agent(node, f"{node.name}{GUEST}", more.randint(1_000, 6_000))
        for _ in range(more.randint(1, 8)):
            scheduler.at(more.randint(5_000, TROUBLE_MS - 20_000), lambda: self._further(more))

    def _further(self, more: Random) -> None:
        if self._peace:
            return
        self._trouble()
        world = self.world
        node = more.choice(world.nodes)
        duration_ms = more.choice((500, 3_000, 9_000, 30_000))
        match more.choice(("stop", "stop", "stops", "full", "clock", "suspend", "client", "client", "restarts", "renew", "renew")):
            case "stop":
                self._stop(node, duration_ms)
            case "stops":  # two of them, and who is left is split
                self._split(more.sample([n.peer_id for n in world.nodes], len(world.nodes)), more.randint(1, len(world.nodes) - 1))
                world.scheduler.after(duration_ms, self._heal)
                for leaver in more.sample(world.nodes, min(2, len(world.nodes))):
                    self._stop(leaver, duration_ms)
            case "full":
                node.disk.full = True
                world.scheduler.after(duration_ms, lambda: self._disk_has_room(node))
            case "clock":
                node.clock = replace(node.clock, wall_off_ms=more.choice(CLOCKS_OFF_MS))
            case "suspend":
                if node.node is not None and not node.frozen:
                    node.freeze()
                    world.scheduler.after(more.choice((21_000, 45_000, 70_000)), lambda: self._thaw(node))
            case "client":
                self._client_gone(node)
            case "restarts":
                self._split(more.sample([n.peer_id for n in world.nodes], len(world.nodes)), more.randint(1, len(world.nodes) - 1))
                for after_ms in (0, more.randint(1_000, 6_000), more.randint(7_000, 15_000)):
                    world.scheduler.after(after_ms, lambda: self._restart(node, power_cut=more.random() < 0.3))
                world.scheduler.after(more.randint(2_000, 30_000), self._heal)
            case "renew":
                if node.node is not None and not node.frozen:
                    for lease in node.node.leases.leases(node.now.instant):
                        if lease.mine and lease.state == "granted":
                            ttl_ms = more.choice((2_000, 6_000, 20_000))
                            node.ask(RenewLease(resources=lease.resources, ttl_ms=ttl_ms, agent=lease.agent_id), lambda _: None)

    def _stop(self, node: SimNode, down_ms: int) -> None:
        """In order; everything that waits there must be answered."""
        if node.node is None or node.frozen:
            return
        node.stop()
        waiting = [asked.agent for asked in self._open.values() if asked.node is node]
        if waiting:
            raise Violation(f"at {self.world.scheduler.instant}: {node.name} stops, and {waiting} have no answer")
        self.world.scheduler.after(down_ms + STOP_MS + 1_000, lambda: self._start(node))

    def _split(self, ids: list[PeerId], cut: int) -> None:
        self.world.network.partition(tuple(ids[:cut]), tuple(ids[cut:]))
        self._whole = False

    def _restart(self, node: SimNode, *, power_cut: bool) -> None:
        if self._peace:
            return
        if node.node is not None:
            self._kill(node, power_cut=power_cut)
        self._start(node)

    def _client_gone(self, node: SimNode) -> None:
        if node.node is None or node.frozen:
            return
        guest = f"{node.name}{GUEST}"
        for number, asked in list(self._open.items()):
            if asked.node is node and asked.agent == guest:
                del self._open[number]
                self._plan_agent(node, guest, 2_000)
        node.client_gone(GUEST_CLIENT)
        left = [h.body.id for h in node.node.leases.holdings() if h.body.agent == guest]
        if left:
            raise Violation(f"at {self.world.scheduler.instant}: the connection of {guest} is gone, and it has {left}")

    def _disk_has_room(self, node: SimNode) -> None:
        self._trouble()
        node.disk.full = False

    def _thaw(self, node: SimNode) -> None:
        self._trouble()
        if node.frozen:
            node.thaw()

    def _heal(self) -> None:
        self._trouble()
        self._whole = True
        self.world.network.heal_all()

    def _remote_back(self) -> None:
        self.world.remote.reachable = True

    def _make_peace(self) -> None:
        self._peace = True
        self.world.network.faults = NetworkFaults(latency_ms=(1, 20))
        self.world.remote.lost_reply_share = 0.0
        self._heal()
        self._remote_back()
        for node in self.world.nodes:
            node.disk.full = False
            self._thaw(node)
            self._start(node)

    def _let_go(self) -> None:
        for node in self.world.running():
            assert node.node is not None
            for agent in node.node.agents.local:
                node.ask(ReleaseLease(everything=True, agent=agent), lambda _: None)


def run_seed(seed: int) -> Outcome:
    """One history."""
    return Run(seed).run()
