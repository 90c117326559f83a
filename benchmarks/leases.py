"""Leases of real daemons: with so many peers, while so many are held, against what the parts cost by themselves.

Every peer is a daemon of its own on the same machine: with ten of them, eleven daemons share its processors, and what is measured
then is mostly their work. Each measured call is followed by a pause (`harness.PAUSE_S`).
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Final

import psutil
from tests.conformance.git_bench import http_server
from tests.e2e.swarm import Member, at_once, background, remote_of, soon, swarm

from benchmarks.between import hold_many, raw_round_trip
from benchmarks.harness import PAUSE_S, Figure, Options, folder, middle, tail, timed
from benchmarks.inside import bare_transactions
from sudocode_coordination.api.requests import AcquireLease, LeaseOutcome
from sudocode_coordination.client.blocking import Client
from sudocode_coordination.model import Resource

PEERS: Final = (0, 3, 10)
HELD: Final = (0, 100, 1_000, 10_000)
SAMPLES: Final = 40
STRICT_SAMPLES: Final = 30
"""Each of them is a push, and another one for its release."""
STRICT_HELD: Final = 1_000
STRICT_SIZES: Final = (0, 1_000, 10_000)
AGENTS: Final = 20
"""Who ask for strict leases at the same moment."""
SETTINGS: Final = ("--lease-ttl", "1h", "--timeout", "55s")
"""No renewal falls into a measurement: of 10,000 leases it takes seconds, and it comes once in half a ttl."""
NAMES: Final = ("ada", "bob", "cyd", "dan", "eve", "fay", "gus", "hal", "ivy", "jon", "kim")
MEETING_S: Final = 120.0
"""Eleven daemons on two cores take their time."""
KNOWN_S: Final = 300.0
"""For 10,000 leases to be held, and known to all."""
WAIT_MS: Final = 30_000
GOAL_STRICT: Final = 1.3
MB: Final = 1 << 20


def leases(options: Options) -> Iterator[Figure]:
    """Everything, for each number of peers and each number of leases held."""
    with folder() as path:
        transaction = middle(bare_transactions(path, options.times(500)))
    yield Figure(name="a bare SQLite transaction", value=transaction, unit="ms")
    for peers in PEERS[:2] if options.quick else PEERS:
        with swarm(*NAMES[: peers + 1], settings=SETTINGS, meeting_s=MEETING_S) as members:
            yield from _with_peers(members, transaction, options)


class _Asking:
    """Who asks and who is in the way: on two daemons if there are two, else two agents of one."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = members
        self.asker = _agent(members[0], "asker")
        self.rival = _agent(members[-1], "rival")
        self.contenders = [_agent(member, f"contender-{number}") for number, member in enumerate(members)]
        if len(members) == 1:
            self.contenders.append(_agent(members[0], "contender-1"))
        self._number = 0

    def fresh(self, what: str) -> str:
        """A name that nobody has asked for."""
        self._number += 1
        return f"asked/{what}/{self._number}.py"


def _agent(member: Member, name: str) -> Client:
    client = member.client(name)
    client.attach(name)
    return client


def _with_peers(members: Sequence[Member], transaction: float, options: Options) -> Iterator[Figure]:
    peers = len(members) - 1
    asking = _Asking(members)
    raw = raw_round_trip()
    yield Figure(name=f"raw stream round trip, {peers} peers", value=raw, unit="ms", note="two bare hosts beside them")
    held = 0
    for target in HELD[:2] if options.quick else HELD:
        where = f"{peers} peers, {target} held"
        if target:
            seconds = _hold(members, held, target)
            each = seconds / (target - held) * 1_000
            yield Figure(
                name=f"taken until all know, {where}", value=each, unit="ms", note=f"each of {target - held}, many at once"
            )
        held = target
        for what, samples in _fast(asking, options):
            of, base = ("raw", raw) if peers else ("a transaction", transaction)
            note = f"{middle(samples) / base:.1f} x {of}; {tail(samples)}"
            yield Figure(name=f"{what}, {where}", value=middle(samples), unit="ms", note=note)
        yield from _strict(asking, where, options)
        sizes = [psutil.Process(member.clone.pid).memory_info().rss / MB for member in members]
        yield Figure(name=f"memory of a daemon, {where}", value=middle(sizes), unit="MB", note=f"largest {max(sizes):.0f}")
    yield _crowd(members)
    if not peers:
        yield from _strict_held(asking, options)


def _hold(members: Sequence[Member], held: int, target: int) -> float:
    """The first daemon's agent takes leases until it has so many, and all know of them; how long that took, in seconds."""
    began = time.monotonic()
    hold_many(members[0].me, target - held, first=held)
    for member in members[1:]:
        soon("all are known", lambda m=member: _known(m, members[0].name) >= target, KNOWN_S)  # type: ignore[misc]
    return time.monotonic() - began


def _known(member: Member, agent: str) -> int:
    return sum(peer.leases_held for peer in member.me.peers() if peer.agent_id == agent)


# --- fast leases -------------------------------------------------------------------------------------------------------------


def _fast(asking: _Asking, options: Options) -> Iterator[tuple[str, list[float]]]:
    times = options.times(SAMPLES, 5)
    acquired, released = [], []
    for _ in range(times):
        name = asking.fresh("alone")
        acquired.append(timed(lambda name=name: _take(asking.asker, name)))  # type: ignore[misc]
        time.sleep(PAUSE_S)
        released.append(timed(lambda name=name: asking.asker.release_lease(name)))  # type: ignore[misc]
        time.sleep(PAUSE_S)
    yield "acquire", acquired
    yield "release", released
    rounds = [_contended(asking) for _ in range(times)]
    yield f"contended by {len(asking.contenders)}, granted", [won for won, _ in rounds]
    yield f"contended by {len(asking.contenders)}, last denied", [lost for _, lost in rounds]
    yield "release to next grant", [_wake(asking) for _ in range(times)]


def _take(client: Client, name: str, *, strict: bool = False) -> None:
    outcome = client.call(AcquireLease(resources=(Resource("file", name),), strict=strict, agent=client.agent))
    if not outcome:
        raise RuntimeError(f"{name} was not granted: {outcome}")
    if strict and (outcome.lease is None or outcome.lease.token is None):
        raise RuntimeError(f"{name} has no token: {outcome}")


def _contended(asking: _Asking) -> tuple[float, float]:
    """All ask at the same moment and do not wait: when the one who gets it knows, and when the last knows who does."""
    name = asking.fresh("contended")

    def ask(client: Client) -> tuple[float, LeaseOutcome]:
        began = time.perf_counter_ns()
        outcome = client.acquire_lease(name)
        return (time.perf_counter_ns() - began) / 1e6, outcome

    answers = at_once([lambda client=client: ask(client) for client in asking.contenders])  # type: ignore[misc]
    won = [took for took, outcome in answers if outcome]
    lost = [took for took, outcome in answers if not outcome]
    if len(won) != 1 or not lost:
        raise RuntimeError(f"{len(won)} of {len(answers)} were granted {name}")
    for client in asking.contenders:
        client.release_all()
    time.sleep(PAUSE_S)
    return won[0], max(lost)


def _wake(asking: _Asking) -> float:
    """From the call that releases until the one who waits on another daemon (without peers: another agent) has its answer."""
    name = asking.fresh("waited")
    _take(asking.asker, name)

    def wait() -> float:
        outcome = asking.rival.acquire_lease(name, wait_ms=WAIT_MS)
        if not outcome:
            raise RuntimeError(f"the waiter did not get {name}: {outcome}")
        return time.perf_counter()

    with background(wait) as waiting:
        soon("it waits", lambda: any(lease.agent_id == "rival" for lease in asking.members[0].on(name)), KNOWN_S)
        time.sleep(PAUSE_S)
        began = time.perf_counter()
        asking.asker.release_lease(name)
        woken = waiting.result(WAIT_MS / 1_000)
    asking.rival.release_lease(name)
    time.sleep(PAUSE_S)
    return (woken - began) * 1_000


# --- strict leases -----------------------------------------------------------------------------------------------------------


class _Pushes:
    """`git push` of one new commit with one new file to one ref of the same remote, by git alone; made before it is timed."""

    def __init__(self, member: Member) -> None:
        self._clone = member.clone
        self._number = 0

    def one(self) -> float:
        """Milliseconds."""
        self._number += 1
        file = self._clone.folder / ".git" / "pushed"
        file.write_text(f"{self._number} {time.time_ns()}\n")
        blob = self._clone.git("hash-object", "-w", str(file)).strip()
        index = {"GIT_INDEX_FILE": str(file.with_name("pushed-index"))}
        self._clone.git("update-index", "--add", "--cacheinfo", f"100644,{blob},pushed", **index)
        commit = self._clone.git("commit-tree", "-m", "pushed", self._clone.git("write-tree", **index).strip()).strip()
        took = timed(lambda: self._clone.git("push", "-q", "origin", f"+{commit}:refs/benchmarks/one"))
        time.sleep(PAUSE_S)
        return took


def _strict(asking: _Asking, where: str, options: Options) -> Iterator[Figure]:
    """Nobody else wants it: one swap of the table on the remote. In turn with bare pushes, for the machine has its moods."""
    bare = _Pushes(asking.members[0])
    pushed, acquired, released = [], [], []
    for _ in range(options.times(STRICT_SAMPLES, 4)):
        name = asking.fresh("strict")
        pushed.append(bare.one())
        acquired.append(timed(lambda name=name: _take(asking.asker, name, strict=True)))  # type: ignore[misc]
        time.sleep(PAUSE_S)
        length = chain_length(asking.members[0])
        released.append(timed(lambda name=name: asking.asker.release_lease(name)))  # type: ignore[misc]
        soon("the release is in the table", lambda length=length: chain_length(asking.members[0]) > length, KNOWN_S)  # type: ignore[misc]
        time.sleep(PAUSE_S)
    push = middle(pushed)
    yield Figure(name=f"bare git push of one ref, {where}", value=push, unit="ms", note=tail(pushed))
    yield Figure(name=f"strict acquire, {where}", value=middle(acquired), unit="ms", note=tail(acquired))
    yield Figure(name=f"strict acquire / bare push, {where}", value=middle(acquired) / push, unit="x", goal=GOAL_STRICT)
    yield Figure(name=f"strict release, {where}", value=middle(released), unit="ms", note=f"pushed afterwards; {tail(released)}")


def strict(options: Options) -> Iterator[Figure]:
    """Strict acquires of one daemon alone, over a path and over http, with so many strict leases of its own in the table."""
    sizes = STRICT_SIZES[:1] if options.quick else STRICT_SIZES
    for scheme in ("path", "http"):
        with swarm(NAMES[0], settings=SETTINGS, meeting_s=MEETING_S) as members, ExitStack() as stack:
            bare = remote_of(members[0])
            if scheme == "http":
                subprocess.run(["git", "config", "http.receivepack", "true"], cwd=bare, check=True)
                server = stack.enter_context(http_server(bare.parent))
                members[0].clone.git("remote", "set-url", "origin", f"{server.url}/{bare.name}")
            asking = _Asking(members)
            held = 0
            for size in sizes:
                if size > held:
                    hold_many(asking.rival, size - held, first=held, folder="strict", strict=True)
                    held = size
                _settled(members[0])
                yield from _strict(asking, f"{scheme}, {size} in the table", options)


def _strict_held(asking: _Asking, options: Options) -> Iterator[Figure]:
    """So many in the table already."""
    count = options.times(STRICT_HELD)
    member = asking.members[0]
    before = chain_length(member)
    took = timed(lambda: hold_many(asking.rival, count, folder="strict", strict=True))
    commits = chain_length(member) - before
    note = f"each of {count}, {commits} commits in all"
    yield Figure(name="strict leases taken, many at once, 0 peers", value=took / count, unit="ms", note=note)
    yield from _strict(asking, f"0 peers, {count} in the table", options)


def chain_length(member: Member) -> int:
    """Commits of the strict table."""
    ref = "refs/coordination/leases"
    done = subprocess.run(["git", "rev-list", "--count", ref], cwd=remote_of(member), capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else 0


def _settled(member: Member) -> None:
    """A release may be pushed after it is answered; the next measurement begins when nothing is on its way."""
    length = -1
    while length != chain_length(member):
        length = chain_length(member)
        time.sleep(10 * PAUSE_S)


def _crowd(members: Sequence[Member]) -> Figure:
    """Many agents on all daemons ask for a strict lease each, all at once: how many pushes that takes."""
    agents = [_agent(members[number % len(members)], f"crowd-{number}") for number in range(AGENTS)]
    before = chain_length(members[0])

    def ask(number: int) -> float:
        return timed(lambda: _take(agents[number], f"crowd/{number}.py", strict=True))

    samples = at_once([partial(ask, number) for number in range(AGENTS)])
    commits = chain_length(members[0]) - before
    for agent in agents:
        agent.release_all()
    _settled(members[0])
    name = f"commits of {AGENTS} strict acquires at once, {len(members) - 1} peers"
    note = f"answered within {max(samples):.0f} ms, median {middle(samples):.0f} ms"
    return Figure(name=name, value=float(commits), unit="", note=note)
