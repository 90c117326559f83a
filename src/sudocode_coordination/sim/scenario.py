"""One seed's history: a swarm, agents that take and leave leases, and faults; then peace, in which all must come right."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from random import Random
from typing import Final

from sudocode_coordination.sim.checkers import (
    Violation,
    check_converged,
    check_let_go,
    check_the_dead_let_go,
)
from sudocode_coordination.sim.misfortune import Misfortunes
from sudocode_coordination.sim.plan import Plan, config_of, plan_of, with_networks
from sudocode_coordination.sim.terrain import Ground
from sudocode_coordination.sim.watch import Watch
from sudocode_coordination.sim.workload import Workload
from sudocode_coordination.sim.world import SimClock, World

SETTLE_MS: Final = 45_000
"""A swarm that has been whole for so long has found and repaired every overlap: silence is noticed, dials are tried again, the
branch is read."""
CALM_MS: Final = 10_000
"""Peace lasts that long at least before all is looked at."""
PEACE_MS: Final = 180_000
"""Everything must have come right by then."""
FAREWELL_MS: Final = 60_000
"""All leases must have ended by then after everybody has let go."""
SKEW_MS: Final = 30_000
"""By which the time of day of machines is wrong, if nobody has set it wrong on purpose."""
LOOK_MS: Final = 2_000
"""Between two looks at the whole."""


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


class Run:
    """A seed being run.

    Args:
        seed: of all dice.
        plan: None: the one that the seed stands for.
        words: keep the trace in words.
        networks: with NATs, a relay and shared machines, which leave the histories without them as they are.
    """

    def __init__(self, seed: int, plan: Plan | None = None, *, words: bool = False, networks: bool = False) -> None:
        self.seed = seed
        plan = plan or plan_of(seed)
        self.plan = plan = with_networks(seed, plan) if networks else plan
        dice = Random(seed * 104_729 + 3)
        self.world = World(seed, config=lambda name: config_of(name, plan), faults=plan.faults, words=words)
        for number in range(plan.nodes):
            worst = plan.drift_ppm
            drift = dice.choice((-worst, worst, dice.randint(-worst, worst)))
            offset_ms, skew_ms = dice.randint(0, 10**6), dice.randint(-SKEW_MS, SKEW_MS)
            node = self.world.add(f"n{number}", SimClock(offset_ms, drift, wall_off_ms=skew_ms - offset_ms))
            node.gather_ms = plan.gather_ms
        self.workload = Workload(self.world, plan, Random(dice.getrandbits(32)))
        self.misfortunes = Misfortunes(self.world, self.workload, plan, Random(dice.getrandbits(32)))
        self.watch = Watch(self.world)
        if plan.terrain is not None:
            self.world.ground = Ground(self.world, plan.terrain, Random(seed * 32_452_843 + 7))
        self._look_at = LOOK_MS
        self._longest_ms = config_of("n", plan).max_lease_ttl_ms

    def run(self) -> Outcome:
        """The whole history; a violation is in the outcome."""
        violation: str | None = None
        try:
            self._live()
        except Violation as error:
            violation = str(error)
        trace, work = self.world.trace, self.workload
        return Outcome(self.seed, trace.digest, trace.count, work.granted, work.denied, violation, tuple(trace.words or ()))

    def _live(self) -> None:
        plan = self.plan
        self.misfortunes.begin()
        self.workload.begin()
        if self.world.ground is not None:
            self.world.ground.begin()
        self._until(plan.trouble_ms)
        self.workload.over = True
        if self.world.ground is not None:
            self.world.ground.level()
        self.misfortunes.make_peace()
        calm = self.world.scheduler.instant + (SETTLE_MS + CALM_MS if plan.patient else CALM_MS)
        self._until(calm)
        # Who waits without limit may have all others before it.
        turns_ms = plan.nodes * (plan.agents + 1) * plan.hold_ms[1]
        # Whose record looks out of date, because a clock is wrong, counts once it is renewed.
        renewal_ms = config_of("n", plan).record_ttl_ms // 2
        self._until_well(calm + PEACE_MS + turns_ms + renewal_ms, let_go=False)
        self.workload.let_go()
        self._until_well(self.world.scheduler.instant + FAREWELL_MS, let_go=True)

    def _until(self, end: int) -> None:
        """Whatever happens until then, with a look at the whole now and then."""
        scheduler = self.world.scheduler
        while scheduler.instant < end:
            self._look_at = min(end, max(self._look_at, scheduler.instant + 1))
            scheduler.run_until(self._look_at)
            self._look_at += LOOK_MS
            settled = self._whole and scheduler.instant - self.misfortunes.troubled_at > SETTLE_MS
            self.watch.settle(settled=settled)
            self.watch.look_at_waiters(calm_ms=self._calm_ms())
            check_the_dead_let_go(self.world, self.misfortunes.died_at, self._longest_ms)

    @property
    def _whole(self) -> bool:
        """Nothing is cut, and no wall stands."""
        return self.misfortunes.whole and (self.world.ground is None or self.world.ground.open)

    def _calm_ms(self) -> int:
        """For how long nothing has gone wrong, and everything could go right."""
        mishaps, faults = self.misfortunes, self.world.network.faults
        everybody = len(self.world.running()) == len(self.world.nodes)
        flawless = not (faults.frame_loss or faults.link_loss) and self._whole and everybody and not self.world.network.slow
        return self.world.scheduler.instant - mishaps.troubled_at if flawless else 0

    def _until_well(self, limit: int, *, let_go: bool) -> None:
        """Until all that must come right has.

        Raises:
            Violation: it has not, in the end.
        """
        while (wrong := self._wrong(let_go=let_go)) is not None:
            if self.world.scheduler.instant >= limit:
                raise Violation(f"at {self.world.scheduler.instant}: {wrong}")
            self._until(self.world.scheduler.instant + LOOK_MS)

    def _wrong(self, *, let_go: bool) -> str | None:
        waiting = self.workload.open.values()
        if waiting:
            return f"never answered: {[f'{a.node.name}: {a.agent} asked at {a.at}' for a in waiting]}"
        try:
            if let_go:
                check_let_go(self.world)
            check_converged(self.world)
        except Violation as error:
            return str(error)
        return None


def run_seed(seed: int, *, networks: bool = False) -> Outcome:
    """One history."""
    return Run(seed, networks=networks).run()


def run_at_once(seed: int, *, networks: bool = False) -> Outcome:
    """One history, without looking for garbage meanwhile: a world is all alive until it ends, and then all garbage."""
    gc.disable()
    try:
        return run_seed(seed, networks=networks)
    finally:
        gc.collect(0)
        gc.enable()
