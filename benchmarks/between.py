"""Between daemons: real ones on loopback, asked through their sockets, against a raw libp2p stream measured in the same run."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tests.e2e.swarm import MEETING_S, Member, background, soon, swarm

from benchmarks.harness import PAUSE_S, Figure, Options, middle, spread, timed
from benchmarks.processes import bare_host
from sudocode_coordination.api.codec import Answered
from sudocode_coordination.api.requests import AcquireLease
from sudocode_coordination.client.blocking import Client
from sudocode_coordination.errors import CoordinationError
from sudocode_coordination.model import Resource

JOINED: Final = 10_000
AT_ONCE: Final = 256
"""Requests under way while leases are taken."""
CONNECTING_S: Final = 20.0
"""For a socket to be there after `coord start` was called."""


def raw_round_trip() -> float:
    """Of two bare hosts in two processes, in ms."""
    with bare_host("echo") as (_, address):
        command = [sys.executable, "-m", "benchmarks.bare", "ping", address]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent, timeout=60)
    return middle(json.loads(done.stdout))


def acquire(options: Options) -> Iterator[Figure]:
    """A lease through the socket: with nobody else, and confirmed by three peers."""
    raw = raw_round_trip()
    yield Figure(name="raw libp2p stream round trip", value=raw, unit="ms", note="300 bytes, two bare hosts")
    with swarm("ada") as (ada,):
        pings = [_paused(ada.me.ping) for _ in range(options.times(100, 10))]
        yield Figure(name="socket round trip (ping)", value=middle(pings), unit="ms", note=spread(pings))
        samples = _leases(ada, options)
        yield Figure(name="acquire alone, through the socket", value=middle(samples), unit="ms", note=spread(samples))
    with swarm("ada", "bob") as members:
        samples = _leases(members[0], options)
    note = f"{middle(samples) / raw:.2f} x raw; {spread(samples)}"
    yield Figure(name="acquire confirmed by one peer", value=middle(samples), unit="ms", note=note)
    with swarm("ada", "bob", "cyd", "dan") as members:
        samples = _leases(members[0], options)
    yield Figure(name="acquire confirmed by three peers", value=middle(samples), unit="ms", note=spread(samples))
    yield Figure(name="the same / raw round trip", value=middle(samples) / raw, unit="x", goal=2.5)


def _paused(action: Callable[[], object]) -> float:
    took = timed(action)
    time.sleep(PAUSE_S)
    return took


def _leases(member: Member, options: Options) -> list[float]:
    client = member.me
    samples = []
    for number in range(-3, options.times(100, 10)):
        name = f"src/{number}.py"
        took = timed(lambda name=name: client.acquire_lease(name))  # type: ignore[misc]
        if number >= 0:
            samples.append(took)
        client.release_lease(name)
        time.sleep(PAUSE_S)
    return samples


def change(options: Options) -> Iterator[Figure]:
    """From `set_work` here until a client of a peer has the event."""
    raw = raw_round_trip()
    with swarm("ada", "bob") as (ada, bob):
        heard: dict[str, float] = {}
        arrived = threading.Condition()

        def listen() -> None:
            try:
                for event in bob.client().events():
                    if event.type == "work-started":
                        with arrived:
                            heard[event.data["work"]["status"]] = time.perf_counter()
                            arrived.notify_all()
            except CoordinationError:
                return  # the daemon has ended, and so has the measurement

        threading.Thread(target=listen, daemon=True).start()
        time.sleep(1.0)
        samples = []
        for number in range(options.times(100, 10)):
            status = f"number {number}"
            began = time.perf_counter()
            ada.me.set_work(status=status)
            with arrived:
                if not arrived.wait_for(lambda status=status: status in heard, 5.0):  # type: ignore[misc]
                    raise RuntimeError("a change did not show within 5 s")
            samples.append((heard[status] - began) * 1_000)
            ada.me.clear_work()
            time.sleep(PAUSE_S)
    value = middle(samples)
    yield Figure(name="a change shows on a peer", value=value, unit="ms", note=spread(samples))
    yield Figure(name="the same / raw round trip (two one-way trips)", value=value / raw, unit="x", goal=1.0)


def join(options: Options) -> Iterator[Figure]:
    """A new clone meets one that holds very many leases."""
    count = options.times(JOINED)
    with swarm("ada", "bob") as (ada, bob):
        bob.close()
        bob.clone.coord("stop")
        state = bob.clone.state_dir / "state.db"
        state.unlink()  # nothing is known from the time before
        took = timed(lambda: hold_many(ada.me, count))
        yield Figure(name=f"{count} leases taken through the socket", value=took / 1_000, unit="s")
        with background(bob.clone.start) as started:
            client = _first_connection(bob)
            soon("they meet", lambda: "ada" in bob.direct(), MEETING_S)
            seconds = soon("all leases are known", lambda: _held(client, "ada") >= count, 60.0)
            started.result(MEETING_S)
        soon("they can be listed", lambda: len(client.leases(everyone=True)) == count, 5.0)
    note = "from connected to all of them known, as a client sees it"
    yield Figure(name=f"{count} leases joined", value=seconds, unit="s", goal=1.0, note=note)


def _first_connection(member: Member) -> Client:
    """The socket is there long before the daemon is active."""

    def connected() -> bool:
        try:
            member.client()
        except CoordinationError:
            return False
        return True

    soon("a socket", connected, CONNECTING_S)
    return member.me


def _held(client: Client, agent: str) -> int:
    return sum(peer.leases_held for peer in client.peers() if peer.agent_id == agent)


def hold_many(client: Client, count: int, *, first: int = 0, folder: str = "src", strict: bool = False) -> None:
    """Take so many leases, as many at once as a client may well ask for. `first`: how many it holds already."""
    free = threading.Semaphore(AT_ONCE)
    failures: list[object] = []

    def answered(answer: Answered | CoordinationError) -> None:
        if not (isinstance(answer, Answered) and answer.error is None):
            failures.append(answer)
        free.release()

    for number in range(first, first + count):
        free.acquire()
        name = Resource("file", f"{folder}/module_{number // 100}/file_{number}.py")
        client.connection.ask(AcquireLease(resources=(name,), strict=strict, agent=client.agent), answered)
    for _ in range(AT_ONCE):
        free.acquire()
    if failures or len(client.leases()) != first + count:
        raise RuntimeError(f"not all were granted: {failures[:3]}")
