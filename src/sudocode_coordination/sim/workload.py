"""What the agents of a simulated swarm do all day: ask, wait, hold, change their minds, release.

Every request must be answered, and in time: with a limit, when the limit is over; without, when it is granted; at once, within the
time that it takes to notice that somebody does not answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final, TypeAlias

from sudocode_coordination.api.requests import (
    AcquireLease,
    AttachAgent,
    LeaseOutcome,
    ReleaseLease,
    RenewLease,
    SetWork,
    UpdateIssue,
)
from sudocode_coordination.core.io import Reply
from sudocode_coordination.core.lease_requests import DECIDE_MS
from sudocode_coordination.model import AgentId, Instant, Resource
from sudocode_coordination.sim.checkers import Violation
from sudocode_coordination.sim.plan import Plan
from sudocode_coordination.sim.world import CLIENT, SimNode, World

GUEST: Final = "-guest"
GUEST_CLIENT: Final = 2
"""Of agents that live no longer than their connection."""
ANSWER_SLACK_MS: Final = 100
"""What a request may take beyond its limit on a machine that is not late: the clock's drift, and the step itself."""
COMMIT: Final = "c0ffee" + "0" * 34
Answered: TypeAlias = Callable[[LeaseOutcome | None], None]


@dataclass(slots=True)
class Asked:
    """A request that is not answered yet."""

    node: SimNode
    life: int
    agent: AgentId
    request: AcquireLease
    at: Instant
    number: int = 0
    """By which it can be cancelled."""


class Workload:
    """All agents of a world.

    Args:
        world: where they are.
        plan: what they are like.
        dice: theirs alone.
    """

    def __init__(self, world: World, plan: Plan, dice: Random) -> None:
        self._world = world
        self._plan = plan
        self._dice = dice
        self.open: dict[int, Asked] = {}
        """Requests that are not answered. Those of a process that dies need not be."""
        self.granted = self.denied = self.cancelled = 0
        self.over = False
        """Nobody asks for anything any more."""
        self._count = 0

    def begin(self) -> None:
        """Let all agents start."""
        dice = self._dice
        nodes = self._world.nodes
        for node in nodes[: len(nodes) - self._plan.silent]:
            for number in range(dice.randint(1, self._plan.agents)):
                self.plan_next(node, f"{node.name}-a{number}", self._plan.calm_ms + dice.randint(500, 4_000))
            if dice.random() < self._plan.guests:
                self.plan_next(node, f"{node.name}{GUEST}", self._plan.calm_ms + dice.randint(500, 4_000))

    def plan_next(self, node: SimNode, agent: AgentId, delay_ms: int) -> None:
        """The agent does something then."""
        self._world.scheduler.after(delay_ms, lambda: self._act(node, agent))

    def _pause_ms(self) -> int:
        return self._dice.randint(*self._plan.pause_ms)

    def _act(self, node: SimNode, agent: AgentId) -> None:
        if self.over:
            return
        dice = self._dice
        if node.node is None or node.frozen:
            self.plan_next(node, agent, self._pause_ms())
        elif dice.random() < self._plan.chatter:
            self._chat(node, agent)
            self.plan_next(node, agent, self._pause_ms())
        else:
            self._ask(node, agent)

    def _chat(self, node: SimNode, agent: AgentId) -> None:
        dice = self._dice
        match dice.choice(("work", "issue", "renew")):
            case "work":
                request = SetWork(files=(f"f{dice.randrange(4)}",), status="work", agent=agent)
                node.ask(request, lambda _: None)
            case "issue":
                node.ask(UpdateIssue(issue_id=f"#{dice.randrange(3)}", fields={"title": agent}, agent=agent), lambda _: None)
            case "renew":
                ttl_ms = dice.choice((None, 2_000, 6_000))
                resource = dice.choice(self._plan.resources)
                node.ask(RenewLease(resources=(resource,), ttl_ms=ttl_ms, agent=agent), lambda _: None)

    # --- asking -----------------------------------------------------------------------------------------------------------

    def _request(self, agent: AgentId) -> AcquireLease:
        dice, plan = self._dice, self._plan
        many = len(plan.resources) > 1 and dice.random() < plan.several
        return AcquireLease(
            resources=tuple(dice.sample(plan.resources, 2 if many else 1)),
            priority=5 if dice.random() < plan.urgent else 0,
            wait_ms=dice.choice(plan.waits_ms),
            mode="shared" if dice.random() < plan.shared else "exclusive",
            strict=plan.strict > 0 and dice.random() < plan.strict,
            agent=agent,
        )

    def _ask(self, node: SimNode, agent: AgentId) -> None:
        dice = self._dice
        life, hold_ms = node.lives, dice.randint(*self._plan.hold_ms)
        request = self._request(agent)
        if agent.endswith(GUEST):
            node.ask(AttachAgent(agent=agent, bound=True), lambda _: None, client=GUEST_CLIENT)

        def answered(outcome: LeaseOutcome | None) -> None:
            if outcome is None or not outcome.granted:
                self.plan_next(node, agent, self._pause_ms())
                return
            self._world.scheduler.after(hold_ms, lambda: self._release(node, life, agent, request.resources))
            if dice.random() < self._plan.nested:
                self._world.scheduler.after(hold_ms // 2, lambda: self._ask_more(node, life, agent))
            self.plan_next(node, agent, hold_ms + self._pause_ms())

        asked = self._send(node, agent, request, answered)
        if asked is not None and request.wait_ms is not None and dice.random() < 0.15:
            self._world.scheduler.after(dice.randint(0, 4_000), lambda: self._cancel(asked))

    def _ask_more(self, node: SimNode, life: int, agent: AgentId) -> None:
        """While it holds something already. It lets go of that in time whatever comes of this."""
        if self.over or node.lives != life or node.node is None or node.frozen:
            return
        request = self._request(agent)

        def answered(outcome: LeaseOutcome | None) -> None:
            if outcome is not None and outcome.granted:
                hold_ms = self._dice.randint(*self._plan.hold_ms)
                self._world.scheduler.after(hold_ms, lambda: self._release(node, life, agent, request.resources))

        self._send(node, agent, request, answered)

    def _send(self, node: SimNode, agent: AgentId, request: AcquireLease, then: Answered) -> Asked | None:
        """Ask; None if the answer came at once."""
        self._count += 1
        count = self._count
        asked = self.open[count] = Asked(node, node.lives, agent, request, self._world.scheduler.instant)

        def answered(reply: Reply) -> None:
            self.open.pop(count, None)
            outcome = reply.value if isinstance(reply.value, LeaseOutcome) else None
            granted = outcome is not None and outcome.granted
            self.granted += granted
            self.denied += not granted
            self._check_answer(asked, reply, outcome)
            then(outcome)

        asked.number = node.ask(request, answered, client=GUEST_CLIENT if agent.endswith(GUEST) else CLIENT)
        return asked if count in self.open else None

    def _check_answer(self, asked: Asked, reply: Reply, outcome: LeaseOutcome | None) -> None:
        node, limit_ms = asked.node, asked.request.wait_ms
        instant = self._world.scheduler.instant
        waited = instant - asked.at
        what = f"at {instant}: {asked.agent} asked at {asked.at} (wait {limit_ms})"
        if node.paused_at < asked.at and not node.late_ms and limit_ms != 0 and not asked.request.strict:
            longest = (DECIDE_MS if limit_ms is None else limit_ms) * 101 // 100 + ANSWER_SLACK_MS
            if waited > longest:
                raise Violation(f"{what} and was answered only then")
        if outcome is None:
            stopping = node.node is None or node.node.stopping
            codes = ("storage", "remote") if asked.request.strict else ("storage",)
            if reply.error is None or not (stopping or reply.error.code in codes):
                raise Violation(f"{what}: {reply.error}")
        elif outcome.granted:
            if outcome.lease is None or outcome.lease.agent_id != asked.agent:
                raise Violation(f"{what} and was granted {outcome.lease}")
        elif limit_ms == 0 and outcome.reason not in ("released", "stopped", "deadlock"):
            raise Violation(f"{what} and was denied: {outcome.reason}")

    def _cancel(self, asked: Asked) -> None:
        if asked.node.lives != asked.life or asked.node.node is None or asked.node.frozen or asked not in self.open.values():
            return
        self.open = {count: other for count, other in self.open.items() if other is not asked}
        self.cancelled += 1
        client = GUEST_CLIENT if asked.agent.endswith(GUEST) else CLIENT
        asked.node.cancel(asked.number, client=client)
        self.plan_next(asked.node, asked.agent, self._pause_ms())

    # --- letting go -------------------------------------------------------------------------------------------------------

    def _release(self, node: SimNode, life: int, agent: AgentId, resources: tuple[Resource, ...]) -> None:
        if node.lives != life or node.node is None:
            return
        dice = self._dice
        if len(resources) > 1 and dice.random() < 0.5:  # one after the other
            node.ask(ReleaseLease(resources=resources[:1], agent=agent), lambda _: None)
            self._world.scheduler.after(dice.choice((0, 5, 500)), lambda: self._release(node, life, agent, resources[1:]))
            return
        commit, branch = (COMMIT, "work") if dice.random() < 0.3 else (None, "")
        node.ask(ReleaseLease(resources=resources, commit=commit, branch=branch, agent=agent), lambda _: None)

    def let_go(self) -> None:
        """Everybody releases all that they have."""
        for node in self._world.running():
            assert node.node is not None
            for agent in node.node.agents.local:
                node.ask(ReleaseLease(everything=True, agent=agent), lambda _: None)

    # --- what becomes of requests ---------------------------------------------------------------------------------------

    def waiting_at(self, node: SimNode) -> list[AgentId]:
        """Agents there that have no answer yet."""
        return [asked.agent for asked in self.open.values() if asked.node is node]

    def process_died(self, node: SimNode) -> None:
        """Nobody will answer what was asked there."""
        for count, asked in list(self.open.items()):
            if asked.node is node:
                del self.open[count]
                self.plan_next(node, asked.agent, 2_000)

    def client_gone(self, node: SimNode) -> None:
        """The guest's connection closes.

        Raises:
            Violation: it holds something, though it is gone.
        """
        guest = f"{node.name}{GUEST}"
        for count, asked in list(self.open.items()):
            if asked.node is node and asked.agent == guest:
                del self.open[count]
                self.plan_next(node, guest, 2_000)
        node.client_gone(GUEST_CLIENT)
        assert node.node is not None
        left = [h.body.id for h in node.node.leases.holdings() if h.body.agent == guest]
        if left:
            raise Violation(f"at {self._world.scheduler.instant}: the connection of {guest} is gone, and it has {left}")
