"""What goes wrong in a simulated swarm beyond what the wires do by chance: machines, clocks, disks, partitions, the remote."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Final

from sudocode_coordination.core.life import STOP_MS
from sudocode_coordination.model import Instant, PeerId
from sudocode_coordination.sim.checkers import Violation
from sudocode_coordination.sim.network import NetworkFaults
from sudocode_coordination.sim.plan import Misfortune, Plan
from sudocode_coordination.sim.workload import Workload
from sudocode_coordination.sim.world import SimClock, SimNode, World

CLOCKS_OFF_MS: Final = (-86_400_000, -60_000, 0, 60_000, 86_400_000)
"""A day: records look stale, or of the future, to those who start then."""
SUSPENDS_MS: Final = (17_000, 30_000, 60_000)
"""Longer than any ttl."""
SLOW_MS: Final = 400
FORGETS_MS: Final = 20_000
"""Between two restarts of one on whose voice all depends; for half of the time somebody can't reach it."""
TURNS: Final = 4
"""How often in a row somebody is alone."""
WHISPERS_MS: Final = 8_000
"""Between two times that one can't reach it; each time ends before a connection is given up."""
LATE_MS: Final = 900
"""Less than what a node takes for a suspend."""


class Misfortunes:
    """All that happens to a world until there is peace.

    Args:
        world: whom it happens to.
        workload: whose agents lose their requests with their processes.
        plan: what may happen.
        dice: for this alone.
    """

    def __init__(self, world: World, workload: Workload, plan: Plan, dice: Random) -> None:
        self._world = world
        self._workload = workload
        self._plan = plan
        self._dice = dice
        self._over = False
        self.troubled_at: Instant = 0
        """When something last went wrong, or came right again."""
        self.whole = True
        """No wire is cut."""
        self._wiped: list[SimNode] = []
        """Those that have lost their disk and not started since."""
        self.died_at: dict[PeerId, tuple[int, Instant]] = {}
        """Peer -> the incarnation that died last, and when."""

    def begin(self) -> None:
        """Start the swarm, and plan what happens to it."""
        dice, scheduler = self._dice, self._world.scheduler
        for node in self._world.nodes:
            scheduler.at(dice.randint(0, 2_000), lambda node=node: self._start(node))  # type: ignore[misc]
        plan = self._plan
        first = 4_000 + plan.calm_ms
        last = plan.trouble_ms - 5_000 if plan.within_ms is None else first + plan.within_ms
        for _ in range(dice.randint(*plan.how_many) if plan.misfortunes else 0):
            scheduler.at(dice.randint(first, last), self._happen)

    def make_peace(self) -> None:
        """All is well, and stays so."""
        self._over = True
        world = self._world
        world.network.faults = NetworkFaults(latency_ms=(1, 20))
        world.network.slow.clear()
        world.remote.lost_reply_share = 0.0
        world.remote.reachable = True
        world.remote.read_only = False
        world.table.reachable = True
        world.table.lost_reply_share = world.table.late_share = 0.0
        self._heal()
        for node in world.nodes:
            node.disk.full = False
            node.in_time()
            node.git.connected = node.table.connected = True
            self._thaw(node)
            self._start(node)

    # --- one thing ----------------------------------------------------------------------------------------------------------

    def _happen(self) -> None:
        if self._over:
            return
        self._trouble()
        dice = self._dice
        node = dice.choice(self._world.nodes)
        self._one(dice.choice(self._plan.misfortunes), node, dice.choice(self._plan.durations_ms))

    def _one(self, kind: Misfortune, node: SimNode, duration_ms: int) -> None:
        dice, world = self._dice, self._world
        self._world.trace.note(f"{world.scheduler.instant} {node.name} {kind} {duration_ms}")
        match kind:
            case "kill" | "power" | "disk":
                if node.node is None:
                    return
                self._kill(node, power_cut=kind != "kill")
                if kind == "disk":
                    self._lose_disk(node)
                self._later(duration_ms, lambda: self._start(node))
            case "freeze" | "suspend":
                if node.node is not None and not node.frozen:
                    node.freeze()
                    self._later(duration_ms if kind == "freeze" else dice.choice(SUSPENDS_MS), lambda: self._thaw(node))
            case "split":
                self._split()
                self._later(duration_ms, self._heal)
            case "one-way" | "pair":
                self._cut(one_way=kind == "one-way")
                self._later(duration_ms, self._heal)
            case "flap":
                for _ in range(dice.randint(2, 4)):
                    at = dice.randint(0, duration_ms)
                    self._later(at, lambda: self._cut(one_way=False))
                    self._later(at + dice.choice((100, 2_000, 7_500)), self._heal)
            case "slow":
                world.network.slow[node.peer_id] = SLOW_MS
                self._later(duration_ms, lambda: world.network.slow.pop(node.peer_id, None))
            case "late":
                node.late_ms = LATE_MS
                self._later(duration_ms, node.in_time)
            case "remote":
                world.remote.reachable = world.table.reachable = False
                self._later(duration_ms, self._remote_back)
            case "own-remote":
                node.git.connected = node.table.connected = False
                self._later(duration_ms, lambda: self._reconnect(node))
            case "refusing":
                world.remote.read_only = dice.random() < 0.5
                world.remote.lost_reply_share = world.table.lost_reply_share = 0.3
                world.table.late_share = 0.2
                self._later(duration_ms, self._remote_back)
            case "branch":
                world.remote.delete_branch()
            case "stop":
                self._stop(node, duration_ms)
            case "stops":  # two of them, and who is left is split
                self._split()
                self._later(duration_ms, self._heal)
                for leaver in dice.sample(world.nodes, min(2, len(world.nodes))):
                    self._stop(leaver, duration_ms)
            case "full":
                node.disk.full = True
                self._later(duration_ms, lambda: self._disk_has_room(node))
            case "clock":
                node.set_clock(replace(node.clock, wall_off_ms=dice.choice(CLOCKS_OFF_MS) - node.clock.offset_ms))
            case "drift":
                node.set_clock(
                    _drifting(node.clock, world.scheduler.instant, dice.randint(-self._plan.drift_ppm, self._plan.drift_ppm))
                )
            case "client":
                if node.node is not None and not node.frozen:
                    self._workload.client_gone(node)
            case "restarts":
                self._split()
                for after_ms in (0, dice.randint(1_000, 6_000), dice.randint(7_000, 15_000)):
                    self._later(after_ms, lambda: self._restart(node, power_cut=dice.random() < 0.3))
                self._later(dice.randint(2_000, 30_000), self._heal)
            case "alone":  # one after the other
                for turn in range(TURNS):
                    self._later(turn * duration_ms * 3 // 2, lambda: self._isolate(dice.choice(world.nodes), duration_ms))
            case "island":
                self._isolate(node, duration_ms)
                node.git.connected = node.table.connected = False
                self._later(duration_ms, lambda: self._reconnect(node))
            case "voices":
                self._third_party(duration_ms, FORGETS_MS, self._forgets)
            case "whispers":
                self._third_party(duration_ms, WHISPERS_MS, self._whispers)
            case _:
                raise ValueError(f"no such misfortune: {kind}")

    def _later(self, delay_ms: int, action: Callable[[], object]) -> None:
        """Unless there is peace by then, which has put it right."""

        def act() -> None:
            if not self._over:
                self._trouble()
                action()

        self._world.scheduler.after(delay_ms, act)

    def _trouble(self) -> None:
        self.troubled_at = self._world.scheduler.instant

    # --- machines -----------------------------------------------------------------------------------------------------------

    def _start(self, node: SimNode) -> None:
        if node.node is None:
            self._trouble()
            if node in self._wiped:
                # Who has lost its disk, and whose clock is behind what it was, can't be told from its earlier life: a known limit.
                self._wiped.remove(node)
                incarnation, _ = self.died_at[node.peer_id]
                behind_ms = incarnation + 1 - node.now.wall_ms
                if behind_ms > 0:
                    node.set_clock(replace(node.clock, wall_off_ms=node.clock.wall_off_ms + behind_ms))
            node.start()

    def _lose_disk(self, node: SimNode) -> None:
        node.lose_disk()
        self._wiped.append(node)

    def _kill(self, node: SimNode, *, power_cut: bool) -> None:
        self._workload.process_died(node)
        assert node.node is not None
        self.died_at[node.peer_id] = (node.node.sync.incarnation, self._world.scheduler.instant)
        node.kill(power_cut=power_cut)

    def _restart(self, node: SimNode, *, power_cut: bool, wipe: bool = False) -> None:
        if node.node is not None:
            self._kill(node, power_cut=power_cut or wipe)
        if wipe and node.node is None:
            self._lose_disk(node)
        self._start(node)

    def _stop(self, node: SimNode, down_ms: int) -> None:
        """In order; everything that waits there must be answered."""
        if node.node is None or node.frozen:
            return
        self.died_at[node.peer_id] = (node.node.sync.incarnation, self._world.scheduler.instant)
        node.stop()
        waiting = self._workload.waiting_at(node)
        if waiting:
            raise Violation(f"at {self._world.scheduler.instant}: {node.name} stops, and {waiting} have no answer")
        self._later(down_ms + STOP_MS + 1_000, lambda: self._start(node))

    def _thaw(self, node: SimNode) -> None:
        if node.frozen:
            self._trouble()
            node.thaw()

    def _reconnect(self, node: SimNode) -> None:
        node.git.connected = node.table.connected = True

    def _disk_has_room(self, node: SimNode) -> None:
        node.disk.full = False

    # --- wires --------------------------------------------------------------------------------------------------------------

    def _split(self) -> None:
        ids = [node.peer_id for node in self._world.nodes]
        self._dice.shuffle(ids)
        cut = self._dice.randint(1, len(ids) - 1)
        self._world.network.partition(tuple(ids[:cut]), tuple(ids[cut:]))
        self.whole = False

    def _cut(self, *, one_way: bool) -> None:
        one, two = self._dice.sample(self._world.nodes, 2)
        self._world.network.cut(one.peer_id, two.peer_id, one_way=one_way)
        self.whole = False

    def _third_party(self, duration_ms: int, every_ms: int, happens: Callable[[SimNode, SimNode], None]) -> None:
        """Two that can't hear each other, and a third one on whom all depends between them."""
        one, two, *_, third = self._world.nodes if len(self._world.nodes) > 2 else [*self._world.nodes, self._world.nodes[0]]
        self._world.network.cut(one.peer_id, two.peer_id)
        self.whole = False
        self._later(duration_ms, self._heal)
        for at in range(self._dice.randint(500, every_ms), duration_ms, every_ms):
            lost = self._dice.choice((one, two))
            self._later(at, lambda lost=lost: happens(lost, third))  # type: ignore[misc]

    def _forgets(self, lost: SimNode, third: SimNode) -> None:
        """It begins anew, and one of the two can't reach it."""
        self._restart(third, power_cut=self._dice.random() < 0.5, wipe=self._dice.random() < 0.3)
        self._part(lost, third, FORGETS_MS // 2)

    def _whispers(self, lost: SimNode, third: SimNode) -> None:
        """What one of the two says to it is heard late."""
        self._part(lost, third, self._dice.randint(WHISPERS_MS // 8, WHISPERS_MS * 3 // 4))

    def _part(self, one: SimNode, two: SimNode, duration_ms: int) -> None:
        """Only these, for that long."""
        self._world.network.cut(one.peer_id, two.peer_id)
        self.whole = False
        self._later(duration_ms, lambda: self._world.network.heal(one.peer_id, two.peer_id))

    def _isolate(self, node: SimNode, duration_ms: int) -> None:
        for other in self._world.nodes:
            if other is not node:
                self._part(node, other, duration_ms)

    def _heal(self) -> None:
        self._trouble()
        self.whole = True
        self._world.network.heal_all()

    def _remote_back(self) -> None:
        remote, table = self._world.remote, self._world.table
        remote.reachable = table.reachable = True
        remote.read_only = False
        remote.lost_reply_share = table.lost_reply_share = table.late_share = 0.0


def _drifting(clock: SimClock, instant: Instant, drift_ppm: int) -> SimClock:
    """The same clock with another rate from now on: it shows the same time now."""
    shown = clock.read(instant)
    fresh = replace(clock, offset_ms=0, drift_ppm=drift_ppm)
    offset = shown.instant - fresh.read(instant).instant
    return replace(fresh, offset_ms=offset)
