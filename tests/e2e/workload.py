"""Agents that lease, renew, wait and give back, at random but seeded, and write down every call."""

from __future__ import annotations

import threading
from random import Random
from typing import Final, TypeVar

import msgspec
from tests.e2e.checker import Call, Kind
from tests.e2e.recorder import Bench, now_ms

from sudocode_coordination.api.requests import (
    AcquireLease,
    AttachAgent,
    LeaseOutcome,
    ListLeases,
    Released,
    ReleaseLease,
    RenewLease,
    Request,
)
from sudocode_coordination.client.blocking import Client
from sudocode_coordination.errors import CoordinationError
from sudocode_coordination.model import Lease, LeaseMode, Resource

R = TypeVar("R")
PATIENCE_S: Final = 12.0
"""For an answer, beyond what the request itself waits. Daemons are stopped for less."""
POOL: Final = (
    Resource("file", "src/auth.py"),
    Resource("file", "src/core/"),
    Resource("file", "src/core/loop.py"),
    Resource("file", "src/ui.py"),
    Resource("file", "docs/a.md"),
    Resource("issue", "#7"),
)
"""Few, so that all meet all; one lies in another."""
WAITS_MS: Final = (None, None, 300, 2_000)
AWAY_S: Final = 0.05


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How agents work."""

    operations: int
    """At least so many calls in all; more if the faults take longer."""
    think_s: float = 0.5
    """Between two calls of one agent, at most."""
    strict: float = 0.0
    """Share of the acquires that are strict."""
    pool: tuple[Resource, ...] = POOL


class Agent:
    """One agent: a connection to its daemon, one call at a time. It holds at most one lease that it knows of."""

    def __init__(self, bench: Bench, daemon: str, name: str, plan: Plan, seed: int) -> None:
        self.name = name
        self._bench = bench
        self._daemon = daemon
        self._plan = plan
        self._rng = Random(seed)
        self._client: Client | None = None
        self._held: Lease | None = None

    def work(self) -> None:
        """Until the run is over; then it gives everything back."""
        while not self._bench.over.is_set():
            if self._client is None:
                self._come_back()
                continue
            self._step()
            self._bench.over.wait(self._rng.uniform(0, self._plan.think_s))
        while self._client is None:
            self._come_back()
        self._release(everything=True)
        self._leave()

    def _step(self) -> None:
        dice = self._rng.random()
        if self._held is None:
            self._acquire()
        elif dice < 0.25:
            self._ask("renew", RenewLease(resources=self._held.resources, agent=self.name))
        elif dice < 0.35:
            self._look()
        else:
            self._release()

    def _acquire(self) -> None:
        rng = self._rng
        resources = tuple(rng.sample(self._plan.pool, rng.choice((1, 1, 1, 2, 3))))
        mode: LeaseMode = "shared" if rng.random() < 0.25 else "exclusive"
        strict = rng.random() < self._plan.strict
        request = AcquireLease(resources=resources, mode=mode, wait_ms=rng.choice(WAITS_MS), strict=strict, agent=self.name)
        answer = self._ask("acquire", request, (request.wait_ms or 0) / 1_000)
        self._held = answer.lease if answer else None

    def _look(self) -> None:
        seen = self._ask("look", ListLeases(agent=self.name))
        if seen is not None and self._held is not None and self._held.claim_id not in {lease.claim_id for lease in seen}:
            self._held = None

    def _release(self, *, everything: bool = False) -> None:
        resources = () if everything or self._held is None else self._held.resources
        strict = self._held is not None and self._held.strict
        self._held = None
        self._ask("release", ReleaseLease(resources=resources, everything=not resources, agent=self.name), strict=strict)

    def _ask(self, kind: Kind, request: Request[R], waits_s: float = 0.0, *, strict: bool = False) -> R | None:
        """Ask, and write it down. None: there was no answer; the connection is made anew, for the daemon may be another."""
        assert self._client is not None
        begun = now_ms()
        asked = Call(daemon=self._daemon, agent=self.name, kind=kind, begun=begun, answered=None, strict=strict)
        if isinstance(request, AcquireLease):
            asked = msgspec.structs.replace(asked, resources=request.resources, mode=request.mode, strict=request.strict)
        number = self._bench.asked(asked)
        try:
            answer = self._client.call(request, timeout_s=PATIENCE_S + waits_s)
        except CoordinationError as error:
            self._bench.answered(number, msgspec.structs.replace(asked, error=error.code))
            self._leave()
            return None
        self._bench.answered(number, with_answer(asked, answer))
        return answer

    def _come_back(self) -> None:
        try:
            self._client = self._bench.client(self._daemon, self.name)
            self._client.call(AttachAgent(agent=self.name), timeout_s=PATIENCE_S)
        except CoordinationError:
            self._leave()
            threading.Event().wait(AWAY_S)
            return
        self._release(everything=True)

    def _leave(self) -> None:
        self._held = None
        if self._client is not None:
            self._client.close()
            self._client = None


def with_answer(asked: Call, answer: object) -> Call:
    """The call with what came of it."""
    call = msgspec.structs.replace(asked, answered=now_ms())
    match answer:
        case LeaseOutcome(granted=True, lease=Lease() as lease):
            return msgspec.structs.replace(call, granted=True, claims=(lease.claim_id,), token=lease.token)
        case LeaseOutcome():
            return msgspec.structs.replace(
                call, holders=tuple(h.agent_id for h in answer.holders if h.kind == "lease"), reason=answer.reason
            )
        case Released():
            return msgspec.structs.replace(call, claims=tuple(lease.claim_id for lease in answer.released))
        case tuple():
            return msgspec.structs.replace(call, claims=tuple(lease.claim_id for lease in answer if lease.state == "granted"))
        case _:
            raise TypeError(f"{answer!r} is no answer to a call that is recorded")


def busy(bench: Bench, plan: Plan, *, each: int = 2, seed: int = 1) -> list[Agent]:
    """So many agents at each daemon, at work until the run is over."""
    agents = [
        Agent(bench, daemon, f"{daemon}-{number}", plan, seed * 1_000 + 10 * place + number)
        for place, daemon in enumerate(bench.names)
        for number in range(each)
    ]
    for agent in agents:
        bench.spawn(agent.work, agent.name, "agent")
    return agents
