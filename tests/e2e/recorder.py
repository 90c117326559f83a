"""Daemons at work while faults are made, with everything written down: what clients asked and were answered, what daemons told,
who was cut off from whom. `checker.py` judges it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from itertools import combinations
from pathlib import Path
from typing import Final, Literal, TypeAlias, TypeVar, cast, get_args

import msgspec
import psutil
from tests.e2e.checker import Call, Commit, Entry, Fault, History, Told, ToldKind
from tests.e2e.clones import COORD, LIMIT_S, Clone, repository, wait_for
from tests.e2e.links import Namespaces, Proxies, links
from tests.e2e.swarm import at_once

from sudocode_coordination.api.events import Event
from sudocode_coordination.api.requests import ListPeers
from sudocode_coordination.client.blocking import Client
from sudocode_coordination.errors import CoordinationError
from sudocode_coordination.model import Lease, Resource

T = TypeVar("T")
Role: TypeAlias = Literal["fault", "agent", "listener"]
SETTINGS: Final = (
    *("--heartbeat", "500ms", "--discovery-interval", "1s", "--lease-ttl", "3s"),
    *("--set", "max_lease_ttl_ms=10000", "--set", "gone_grace_ms=1500", "--set", "strict_lease_ttl_ms=6000"),
)
"""Everything that takes time takes as little as it may."""
TTL_S: Final = 3.0
NOTICED_S: Final = 14.0
"""A silent cut is noticed after seven seconds, and suspected five later: only then anything is granted without the other side."""
MEETING_S: Final = 60.0
"""For daemons to find each other (again) on a machine that does other things as well. Dials back off to 15 s."""
ASKING_S: Final = 2.0
"""Whether daemons have met is asked of daemons that may be stopped."""
CLOCK_MS: Final = 20.0
"""If the wall clock has moved by more against the one that counts from boot, somebody set it, and the history is worth nothing."""
PLANTED: Final = Path(__file__).parent / "planted.py"
TABLE: Final = "refs/coordination/leases"
KINDS: Final = frozenset(get_args(ToldKind))


def now_ms() -> int:
    """The wall clock, as daemons put it into events."""
    return time.time_ns() // 1_000_000


def drift_ms() -> float:
    """Of the wall clock against the one that nobody can set."""
    return (time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) / 1e6


def told_of(daemon: str, event: Event) -> Told | None:
    """What an event says of a lease that this daemon holds itself."""
    if event.type not in KINDS:
        return None
    lease = msgspec.convert(event.data["lease"], Lease)
    if not lease.mine:
        return None
    return Told(
        at=round(datetime.fromisoformat(event.timestamp).timestamp() * 1_000),
        daemon=daemon,
        kind=cast(ToldKind, event.type),
        claim=lease.claim_id,
        agent=lease.agent_id,
        resources=lease.resources,
        mode=lease.mode,
        grade=lease.grade,
        remaining_ms=lease.remaining_ms,
        token=lease.token,
        reason=str(event.data.get("reason", "")),
    )


def chain_of(remote: Path) -> Iterator[Commit]:
    """The commits of the table of strict leases, read with nothing but git; each must have the one before as its only parent."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=remote, check=True, capture_output=True, text=True).stdout

    if not git("for-each-ref", TABLE):
        return
    read: dict[str, tuple[str, Entry]] = {}
    before: list[str] = []
    for line in git("rev-list", "--reverse", "--parents", TABLE).splitlines():
        commit, *parents = line.split()
        assert parents == before, f"{commit} has the parents {parents}, not {before}"
        before = [commit]
        entries: dict[str, Entry] = {}
        for file in git("ls-tree", "-r", commit).splitlines():
            about, path = file.split("\t")
            blob = about.split()[2]
            if path.startswith("leases/"):
                if blob not in read:
                    read[blob] = entry_of(git("cat-file", "blob", blob))
                claim, entry = read[blob]
                entries[claim] = entry
        yield Commit(revision=json.loads(git("cat-file", "blob", f"{commit}:meta"))["revision"], entries=entries)


def entry_of(text: str) -> tuple[str, Entry]:
    """A lease's file: its claim, and what the checker wants to know."""
    found = json.loads(text)
    resources = tuple(Resource(*resource) for resource in found["resources"])
    return found["id"], Entry(agent=found["agent"], resources=resources, mode=found["mode"], token=found["token"])


class Bench:
    """Daemons, links between them, and the record."""

    def __init__(self, clones: Sequence[Clone], net: Namespaces | Proxies, settings: Sequence[str] = SETTINGS) -> None:
        self.clones = {clone.name: clone for clone in clones}
        self.net = net
        self.calls: list[Call] = []
        self.faults: list[Fault] = []
        self.over = threading.Event()
        """Nobody asks for anything more."""
        self._settings = tuple(settings)
        self._lock = threading.Lock()
        self._told: dict[str, list[Told]] = {name: [] for name in self.clones}
        self._began_drift = drift_ms()
        self._leaving = threading.Event()
        self._threads: dict[Role, list[threading.Thread]] = {"fault": [], "agent": [], "listener": []}
        self._failures: list[BaseException] = []

    @property
    def names(self) -> tuple[str, ...]:
        """Of the daemons."""
        return tuple(self.clones)

    @property
    def remote(self) -> Path:
        """The bare repository that all push to."""
        return next(iter(self.clones.values())).folder.parent / "remote.git"

    # --- daemons ---------------------------------------------------------------------------------------------------------------

    def start(self, name: str, *, planted: str = "") -> None:
        """Its daemon; with a fault planted into it, if one is named (`planted.py`)."""
        clone = self.clones[name]
        coord = [sys.executable, str(PLANTED), planted] if planted else [COORD]
        command = [*self.net.command(name), *coord, "start", "--agent-id", name, *self.net.settings(name), *self._settings]
        done = subprocess.run(
            command, cwd=clone.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        assert done.returncode == 0, f"{name} did not start: {done.stdout}{done.stderr}"
        self.net.started(name, clone.pid)

    def client(self, name: str, agent: str | None = None) -> Client:
        """A connection."""
        return Client.connect(self.clones[name].folder, agent=agent)

    def direct(self, name: str) -> set[str]:
        """Agents that it says it is connected to; none if it says nothing."""
        try:
            with self.client(name) as client:
                return {peer.agent_id for peer in client.call(ListPeers(), timeout_s=ASKING_S) if peer.connection == "direct"}
        except CoordinationError:
            return set()

    def meet(self, pairs: Iterable[frozenset[str]]) -> None:
        """Wait until each of these pairs is connected, as both say."""
        wanted = {frozenset(pair) for pair in pairs}
        names = sorted(set().union(*wanted)) if wanted else []

        def met() -> bool:
            seen = {name: self.direct(name) for name in names}
            return all(b in seen[a] and a in seen[b] for a, b in map(sorted, wanted))

        wait_for(f"{names} meet", met, MEETING_S)

    def all_pairs(self, among: Iterable[str] | None = None) -> frozenset[frozenset[str]]:
        """Every two, or every two of which one is named."""
        some = set(self.names if among is None else among)
        return frozenset(frozenset(pair) for pair in combinations(self.names, 2) if some & set(pair))

    # --- the record --------------------------------------------------------------------------------------------------------------

    def asked(self, call: Call) -> int:
        """A client is about to ask; the number is for `answered`."""
        with self._lock:
            self.calls.append(call)
            return len(self.calls) - 1

    @property
    def operations(self) -> int:
        """How many were answered."""
        return sum(1 for call in list(self.calls) if call.answered is not None)

    def told(self, name: str, kind: ToldKind) -> list[Told]:
        """What a daemon has told so far, of one kind."""
        return [told for told in list(self._told[name]) if told.kind == kind]

    def answered(self, number: int, call: Call) -> None:
        """What came of it."""
        self.calls[number] = call

    def spawn(self, what: Callable[[], None], name: str, role: Role) -> threading.Thread:
        """A thread whose failure is the run's failure."""

        def run() -> None:
            try:
                what()
            except BaseException as error:  # noqa: BLE001 - raised by `join`
                self._failures.append(error)

        thread = threading.Thread(target=run, name=name)
        self._threads[role].append(thread)
        thread.start()
        return thread

    def listen(self, name: str) -> None:
        """Write down what a daemon tells, over its deaths, until the run is over."""
        heard = self._told[name]
        while not self._leaving.is_set():
            try:
                with self.client(name) as client, contextlib.closing(client.events(replay=1_000)) as events:
                    for event in events:
                        told = told_of(name, event)
                        if told is not None:
                            heard.append(told)
            except CoordinationError:
                self._leaving.wait(0.02)

    def history(self) -> History:
        """All that happened: faults are over, those who were apart have met, agents have given back what they held. Ends the
        daemons: the last word of each is in it."""
        self.join("fault")
        self.over.set()
        self.join("agent")
        ended = now_ms()
        self._end_daemons()
        self.join("listener")
        moved = abs(drift_ms() - self._began_drift)
        assert moved < CLOCK_MS, f"the clock was set by {moved:.0f} ms meanwhile"
        told = tuple(one for heard in self._told.values() for one in heard)
        chain = tuple(chain_of(self.remote))
        return History(told=told, calls=tuple(self.calls), faults=tuple(self.faults), chain=chain, ended=ended)

    def close(self) -> None:
        """Give everything up; what went wrong in a thread is raised."""
        self.over.set()
        self._end_daemons()
        for role in self._threads:
            self.join(role)

    def _end_daemons(self) -> None:
        self._leaving.set()
        for clone in self.clones.values():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                os.kill(clone.pid, signal.SIGTERM)

    def join(self, role: Role) -> None:
        """Wait for all threads of a kind, and raise what went wrong in one."""
        while self._threads[role]:
            thread = self._threads[role].pop(0)
            thread.join(MEETING_S + LIMIT_S)
            assert not thread.is_alive(), f"{thread.name} does not end"
        if self._failures:
            raise self._failures.pop(0)

    # --- faults ------------------------------------------------------------------------------------------------------------------

    @contextmanager
    def fault(self, what: str, pairs: frozenset[frozenset[str]]) -> Iterator[None]:
        """The block makes it and ends it; each pair counts as apart until it has met again, which is waited for by nobody."""
        begun = now_ms()
        yield
        for pair in sorted(pairs, key=sorted):
            self.spawn(lambda pair=pair: self._apart(what, begun, pair), f"after {what}", "fault")  # type: ignore[misc]

    def _apart(self, what: str, begun: int, pair: frozenset[str]) -> None:
        self.meet([pair])
        self.faults.append(Fault(what=what, begun=begun, until=now_ms(), apart=frozenset({pair})))

    def kill(self, name: str) -> None:
        """kill -9, and start it again."""
        with self.fault("kill", self.all_pairs([name])):
            self.clones[name].kill()
            dead = now_ms()
            self.faults.append(Fault(what="killed", begun=dead, until=dead, died=name))
            self.start(name)

    def stop(self, name: str, seconds: float) -> None:
        """SIGSTOP, and SIGCONT."""
        with self.fault("stop", self.all_pairs([name])):
            process = psutil.Process(self.clones[name].pid)
            process.send_signal(signal.SIGSTOP)
            try:
                self.pause(seconds)
            finally:
                process.send_signal(signal.SIGCONT)

    def cut(self, pairs: Iterable[tuple[str, str]], seconds: float) -> None:
        """Lose all that is sent between these."""
        listed = list(pairs)
        with self.fault("cut", frozenset(map(frozenset, listed))):
            for one, other in listed:
                self.net.cut(one, other)
            try:
                self.pause(seconds)
            finally:
                for one, other in listed:
                    self.net.heal(one, other)

    def lose_remote(self, seconds: float) -> None:
        """Nobody finds the git remote."""
        begun = now_ms()
        remote, away = self.remote, self.remote.with_name("away.git")
        remote.rename(away)
        try:
            self.pause(seconds)
        finally:
            away.rename(remote)
        self.faults.append(Fault(what="remote", begun=begun, until=now_ms()))

    def pause(self, seconds: float) -> None:
        """How long a fault lasts is part of it; less if the run is given up."""
        self._leaving.wait(seconds)


@contextmanager
def bench(
    *names: str, settings: Sequence[str] = SETTINGS, planted: dict[str, str] | None = None, proxies: bool = False
) -> Iterator[Bench]:
    """A repository, its clones with a daemon each, all of them connected, everything they tell written down."""
    with ExitStack() as stack:
        net = stack.enter_context(links(*names, force_proxies=proxies))
        clones = stack.enter_context(repository(*names))
        made = Bench(clones, net, settings)
        stack.callback(made.close)
        at_once([lambda name=name: made.start(name, planted=(planted or {}).get(name, "")) for name in names])  # type: ignore[misc]
        for name in names:
            made.spawn(lambda name=name: made.listen(name), f"events of {name}", "listener")  # type: ignore[misc]
        made.meet(made.all_pairs())
        yield made
