"""`coord demo`: three clones of a fresh repository meet, contend and hand over, told as it happens."""

from __future__ import annotations

import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Final

from sudocode_coordination.api.events import Event
from sudocode_coordination.api.requests import (
    AcquireLease,
    LeaseOutcome,
    ListLeases,
    ListPeers,
    ListWork,
    ReleaseLease,
    SetWork,
    Subscribe,
)
from sudocode_coordination.cli.screen import Block, Screen, Styled, error_document
from sudocode_coordination.cli.session import Session
from sudocode_coordination.cli.stage import CONFIG, Actor, DemoError, Stage, ending_on_sigterm, wait_for
from sudocode_coordination.cli.text import clean
from sudocode_coordination.errors import CoordinationError
from sudocode_coordination.model import Resource

FILE: Final = Resource("file", "src/auth.py")
STYLES: Final = {"alice": "cyan", "bob": "magenta", "carol": "yellow", "demo": "dim"}
RECORDS: Final = ".sudocode/coordination/peers/"
START_LIMIT_S: Final = 30.0
MEET_LIMIT_S: Final = 15.0
STEP_LIMIT_S: Final = 10.0
AFTER_TTL_S: Final = 5.0
"""A dead holder's lease is free at most this long after its ttl."""


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the timeline; times in milliseconds, `at` since the beginning."""

    at: int
    took: int
    who: str
    step: str
    text: str


class Story:
    """The steps, in order. Each checks what it tells.

    Args:
        stage: alice, bob and carol.
        tell: gets each step as it is done.
    """

    def __init__(self, stage: Stage, screen: Screen) -> None:
        self._stage = stage
        self._screen = screen
        self._began = time.monotonic()
        self.steps: list[Step] = []
        self.alice, self.bob, self.carol = stage.actors

    def play(self) -> None:
        """All of it.

        Raises:
            CoordinationError: a step did not hold.
        """
        self._start()
        self._meet()
        self._share()
        self._contend()
        self._hand_over()
        self._take_over()
        self._die()
        self._leave()

    @property
    def elapsed_ms(self) -> int:
        """Since the beginning."""
        return round((time.monotonic() - self._began) * 1000)

    @contextmanager
    def _doing(self, step: str, who: str, progress: str) -> Iterator[list[str]]:
        """One step: what is put into the list is told with the time that it took."""
        began = time.monotonic()
        said: list[str] = []
        with self._screen.progress(progress):
            yield said
        took = round((time.monotonic() - began) * 1000)
        done = Step(self.elapsed_ms, took, who, step, clean(" ".join(said), 500))
        self.steps.append(done)
        if not self._screen.as_json:
            self._screen.show(None, _told(done))

    def _start(self) -> None:
        with self._doing("start", "demo", "starting three daemons") as said:
            for actor in self._stage.actors:
                actor.launch()
            for actor in self._stage.actors:
                actor.wait_active(START_LIMIT_S)
            pids = ", ".join(f"{actor.name} {actor.pid}" for actor in self._stage.actors)
            said.append(f"one repository, three clones, one daemon each (pids: {pids})")

    def _meet(self) -> None:
        with self._doing("meet", "demo", "waiting for them to meet") as said:
            for actor in self._stage.actors:
                others = {other.name for other in self._stage.actors} - {actor.name}
                wait_for(
                    f"{actor.name} is connected to {' and '.join(sorted(others))}",
                    partial(_is_connected_to, actor, others),
                    MEET_LIMIT_S,
                )
            records = self._records()
            if len(records) != 3:
                raise DemoError(f"the coordination branch has {len(records)} peer records, not 3: {records}")
            said.append("they found each other on the coordination branch and are connected, all with all")

    def _records(self) -> list[str]:
        listed = self._stage.git("--git-dir", str(self._stage.remote), "ls-tree", "--name-only", "-r", "coordination", RECORDS)
        return listed.split()

    def _share(self) -> None:
        status = "Token refresh"
        with self._doing("share", "alice", "waiting for alice's work to show") as said:
            self.alice.client.call(SetWork(issues=("#42",), files=(FILE.path,), status=status))

            def seen(actor: Actor) -> bool:
                return any(work.agent_id == "alice" and work.status == status for work in actor.client.call(ListWork()))

            for actor in (self.bob, self.carol):
                wait_for(f"{actor.name} sees what alice works on", partial(seen, actor), STEP_LIMIT_S)
            said.append(f"works on issue #42, “{status}”; bob and carol see it")

    def _contend(self) -> None:
        with self._doing("lease", "alice", "alice takes the lease") as said:
            outcome = self.alice.client.call(AcquireLease(resources=(FILE,), note="Token refresh"))
            self._must_have(self.alice, outcome)
            grade = outcome.lease.grade if outcome.lease else "?"
            said.append(f"leases {FILE} ({grade})")
        with self._doing("denied", "bob", "bob asks too") as said:
            outcome = self.bob.client.call(AcquireLease(resources=(FILE,)))
            holders = sorted({holder.agent_id for holder in outcome.holders})
            if outcome.granted or holders != ["alice"]:
                raise DemoError(f"bob should be denied by alice, but got {outcome.granted=} and {holders=}")
            said.append(f"asks for {FILE}: denied, alice holds it")

    def _hand_over(self) -> None:
        waiting = Waiting(self.carol, AcquireLease(resources=(FILE,), wait_ms=20_000))
        with self._doing("wait", "carol", "carol queues") as said:
            wait_for("alice sees carol wait", lambda: _state_of(self.alice, "carol") == "pending", STEP_LIMIT_S)
            said.append("waits for it; alice sees that")
        with self._doing("hand over", "alice", "alice releases") as said:
            self.alice.client.call(ReleaseLease(resources=(FILE,)))
            self._must_have(self.carol, waiting.outcome(STEP_LIMIT_S))
            said.append("releases it, and carol has it")

    def _take_over(self) -> None:
        hearing = Hearing(self.carol, "lease-lost")
        try:
            with self._doing("take over", "bob", "bob asks with priority 9") as said:
                outcome = self.bob.client.call(AcquireLease(resources=(FILE,), priority=9, wait_ms=10_000, note="hotfix"))
                self._must_have(self.bob, outcome)
                said.append("has a hotfix: priority 9 takes it over from carol")
            with self._doing("told", "carol", "carol is told") as said:
                event = hearing.event(STEP_LIMIT_S)
                said.append(f"is told at once: {event.type}, {clean(event.data.get('reason', ''))}".rstrip(", "))
        finally:
            hearing.close()

    def _die(self) -> None:
        ttl_ms = CONFIG["lease_ttl_ms"]
        assert isinstance(ttl_ms, int)
        with self._doing("kill", "bob", "kill -9") as said:
            pid = self.bob.pid
            self.bob.kill()
            said.append(f"dies: kill -9 {pid}, still holding {FILE}")
        with self._doing("recover", "alice", "waiting for the dead bob's lease to run out") as said:
            limit_ms = ttl_ms + round(AFTER_TTL_S * 1000)
            began = time.monotonic()
            outcome = self.alice.client.call(AcquireLease(resources=(FILE,), wait_ms=limit_ms))
            self._must_have(self.alice, outcome)
            took = time.monotonic() - began
            grace_ms = CONFIG["gone_grace_ms"]
            why = f"bob was noticed gone, and its grace of {grace_ms} ms is over"
            if took * 1000 >= ttl_ms * 0.9:
                why = f"a lease lives {ttl_ms} ms unless its holder renews it"
            said.append(f"gets it {took:.1f} s later: {why}")

    def _leave(self) -> None:
        with self._doing("leave", "demo", "stopping the daemons") as said:
            killed = self._stage.stop_all()
            if killed:
                raise DemoError(f"did not stop in order: {', '.join(killed)}")
            left = [record for record in self._records() if "agent-bob" not in record]
            if left:
                raise DemoError(f"records left on the branch: {left}")
            said.append("alice and carol stop: leases released, records removed from the branch")

    def _must_have(self, actor: Actor, outcome: LeaseOutcome) -> None:
        if not outcome.granted:
            holders = ", ".join(holder.agent_id for holder in outcome.holders)
            raise DemoError(f"{actor.name} should have got {FILE}: {outcome.reason or 'denied'} ({holders or 'no holder named'})")


def _is_connected_to(actor: Actor, others: set[str]) -> bool:
    connected = {peer.agent_id for peer in actor.client.call(ListPeers()) if peer.connection in ("direct", "relayed")}
    return connected >= others


def _state_of(seen_by: Actor, agent: str) -> str | None:
    leases = seen_by.client.call(ListLeases(everyone=True))
    return next((lease.state for lease in leases if lease.agent_id == agent and FILE in lease.resources), None)


def _told(step: Step) -> list[Block]:
    who = step.who if step.who != "demo" else ""
    return [Styled(f"{step.at / 1000:6.2f} s  {who:<6} {step.text}  [{step.took} ms]", STYLES.get(step.who, ""))]


class Waiting:
    """A lease that is waited for on a connection of its own, in a thread."""

    def __init__(self, actor: Actor, request: AcquireLease) -> None:
        self._name = actor.name
        self._client = actor.new_client()
        self._outcomes: list[LeaseOutcome | CoordinationError] = []
        self._thread = threading.Thread(target=self._wait, args=(request,), daemon=True)
        self._thread.start()

    def _wait(self, request: AcquireLease) -> None:
        try:
            with self._client:
                self._outcomes.append(self._client.call(request, timeout_s=None))
        except CoordinationError as error:
            self._outcomes.append(error)

    def outcome(self, limit_s: float) -> LeaseOutcome:
        """What came of it.

        Raises:
            CoordinationError: the daemon's error, or nothing came in time.
        """
        self._thread.join(limit_s)
        if not self._outcomes:
            raise DemoError(f"{self._name} still waits after {limit_s:g} s")
        outcome = self._outcomes[0]
        if isinstance(outcome, CoordinationError):
            raise outcome
        return outcome


class Hearing:
    """Listens for an event of one type about an actor."""

    def __init__(self, actor: Actor, kind: str) -> None:
        self._what = (actor.name, kind)
        self._heard: list[Event] = []
        self._client = actor.new_client()
        self._client.connection.listen(self._listen)
        self._client.call(Subscribe())

    def _listen(self, event: Event | None, end: CoordinationError | None) -> None:
        del end  # `event` below finds out by its time limit
        if event is not None and (event.agent_id, event.type) == self._what:
            self._heard.append(event)

    def event(self, limit_s: float) -> Event:
        """The first one.

        Raises:
            DemoError: none came in time.
        """
        agent, kind = self._what
        return wait_for(f"{agent} hears {kind}", lambda: self._heard[0] if self._heard else None, limit_s)

    def close(self) -> None:
        """No more."""
        self._client.close()


def demo(session: Session, args: Namespace) -> int:
    """Play it; exit code 1 and the reason if a step does not hold."""
    del args
    screen = session.screen
    steps: list[Step] = []
    error: CoordinationError | None = None
    began = time.monotonic()
    with ending_on_sigterm():
        try:
            with Stage(("alice", "bob", "carol")) as stage:
                story = Story(stage, screen)
                steps = story.steps
                story.play()
        except CoordinationError as failed:
            error = failed
    elapsed_ms = round((time.monotonic() - began) * 1000)
    if screen.as_json:
        document = {"ok": error is None, "elapsedMs": elapsed_ms, "steps": [_document(step) for step in steps]}
        screen.document(document if error is None else {**document, "error": error_document(error)})
    elif error is not None:
        screen.error(error)
    else:
        screen.line(f"all held, in {elapsed_ms / 1000:.1f} s; nothing is left behind")
    return 0 if error is None else 1


def _document(step: Step) -> dict[str, object]:
    values = asdict(step)
    return {"atMs": values.pop("at"), "tookMs": values.pop("took"), **values}
