"""`uv run python -m benchmarks.soak [--daemons N] [--minutes M] …`: many real daemons on this machine, for a while, measured.

    start -> mesh -> burst of leases -> rest -> churn -> rest -> stop

Memory, descriptors, threads, CPU and disk of each daemon are sampled all along; pushes to the remote are counted while nothing
changes. The samples go to a JSON file, and to a plot (`--plot`). It stops what it started, whatever ends it, and leaves nothing
but those files.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any, Final

import msgspec
import psutil
from tests.e2e.clones import Clone, repository

from benchmarks.harness import isolate
from benchmarks.plot import Panel, Series, write_plot
from sudocode_coordination.api.codec import Answered
from sudocode_coordination.api.requests import AcquireLease
from sudocode_coordination.cli.lifecycle import spawn
from sudocode_coordination.client.blocking import Client
from sudocode_coordination.client.connect import outcome
from sudocode_coordination.errors import CoordinationError
from sudocode_coordination.model import Resource
from sudocode_coordination.place import find_clone

MB: Final = 1 << 20
MAX_DAEMONS: Final = 100
"""Each takes some 80 MB."""
STARTED_AT_ONCE: Final = 2
"""More of them take longer each, and `coord start` gives up."""
START_S: Final = 120.0
MESH_S: Final = 600.0
"""For all to be connected to all; each looks at the branch once a minute, or when it is knocked at."""
SEEN_S: Final = 60.0
"""Until a burst that is not seen by all counts as lost."""
RESTARTS_S: Final = 10.0
"""Between two restarts while it churns, if it churns for long enough."""
SAMPLES: Final = 240
"""Over the whole run: one every so often, at least every second."""
PEEK_S: Final = 0.05
"""Between two looks at whether all have seen the burst."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One moment. Of each daemon that ran: memory in bytes (RSS, and what it alone has), descriptors, threads, disk in bytes."""

    at_s: float
    phase: str
    rss: dict[str, int]
    own: dict[str, int]
    descriptors: dict[str, int]
    threads: dict[str, int]
    disk: dict[str, int]
    cpu_s: float
    """Of all together, since the start, those that have ended included."""


class Rest(msgspec.Struct, frozen=True, kw_only=True):
    """A time in which nobody asked for anything."""

    seconds: float
    cpu_percent: float
    """Of one core, all daemons together and their children."""
    pushes: int
    """To the remote, by all together."""
    load: float
    """Of the machine, the mean over a minute: what else ran."""


class Result(msgspec.Struct, kw_only=True):
    """What a run came to."""

    daemons: int
    minutes: float
    python: str
    cpus: int
    mesh_s: float = 0.0
    """From the last start until all were connected to all."""
    burst: int = 0
    burst_granted_s: float = 0.0
    """Until the last of them was granted."""
    burst_seen_s: float = 0.0
    """Until all daemons showed all of them."""
    burst_cpu_s: float = 0.0
    """Seconds of CPU that all daemons together took for it."""
    rests: list[Rest] = msgspec.field(default_factory=list)
    churned: dict[str, int] = msgspec.field(default_factory=dict)
    """What was done while it churned: leases, changes of work, restarts, kills."""
    trouble: list[str] = msgspec.field(default_factory=list)
    """Errors that clients had, and problems that daemons told of; the first ones."""
    samples: list[Sample] = msgspec.field(default_factory=list)


class Member:
    """A clone, its daemon and one client of it."""

    def __init__(self, clone: Clone) -> None:
        self.clone = clone
        self.name = clone.name
        self.process: psutil.Process | None = None
        self._client: Client | None = None

    def start(self) -> None:
        """Start its daemon, with the settings that everybody has."""
        flags = {"agent_id": self.name, "listen_addresses": ("/ip4/127.0.0.1/tcp/0",)}
        self.process = psutil.Process(spawn(find_clone(self.clone.folder), flags, timeout_s=START_S))

    @property
    def me(self) -> Client:
        """A client; made anew when the daemon was."""
        if self._client is None or self._client.connection.ended is not None:
            self.hang_up()
            self._client = Client.connect(self.clone.folder)
        return self._client

    def hang_up(self) -> None:
        """End the client."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Let the daemon end, and wait for that."""
        self.hang_up()
        process, self.process = self.process, None
        if process is not None:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
                process.wait(30)

    def disk(self) -> int:
        """Bytes of the state folder."""
        total = 0
        for folder, _, names in os.walk(self.clone.state_dir):
            for name in names:
                with suppress(FileNotFoundError):  # replaced meanwhile
                    total += (Path(folder) / name).lstat().st_size
        return total


class Soak:
    """One run; see the module."""

    def __init__(
        self, members: list[Member], say: Callable[[str], None], *, seconds: float, burst: int, seed: int, calm: float
    ) -> None:
        self.members = members
        self.seconds = seconds
        self.calm = calm
        self.result = Result(
            daemons=len(members),
            minutes=round(seconds / 60, 1),
            python=platform.python_version(),
            cpus=os.cpu_count() or 0,
            burst=burst,
        )
        self._random = Random(seed)
        self._say = say
        self._began = time.monotonic()
        self._phase = "start"
        self._over = threading.Event()
        self._cpu: dict[int, float] = {}
        self._lock = threading.Lock()

    # --- phases -----------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """All phases; samples are taken all along."""
        with ThreadPoolExecutor(1) as pool:
            sampling = pool.submit(self._sample_on)
            try:
                self._all_phases()
            finally:
                self._over.set()
            sampling.result()

    def _all_phases(self) -> None:
        self._form_mesh()
        self._burst()
        part = self.seconds / 5
        self._rest(part)
        self._churn(self.seconds - 2 * part)
        self._rest(part)
        self._look_for_problems()

    def _form_mesh(self) -> None:
        self._phase = "mesh"
        with ThreadPoolExecutor(STARTED_AT_ONCE) as pool:
            for number, _ in enumerate(pool.map(Member.start, self.members), 1):
                if number % 10 == 0:
                    self._say(f"{number} daemons run")
        self.result.mesh_s = round(self._until(self._meshed, MESH_S), 1)
        self._say(f"all are connected to all, {self.result.mesh_s} s after the last start")

    def _meshed(self) -> bool:
        wanted = len(self.members) - 1
        return all(sum(peer.connection == "direct" for peer in member.me.peers()) >= wanted for member in self.members)

    def _burst(self) -> None:
        self._phase = "burst"
        total, count = self.result.burst, len(self.members)
        cpu, began = self._cpu_now(), time.monotonic()

        waits = threading.Semaphore(0)

        def answered(member: Member, request: AcquireLease, answer: Answered | CoordinationError) -> None:
            try:
                if not outcome(request, answer):
                    self._trouble(f"{member.name} was denied {request.resources[0].path}")
            except CoordinationError as error:
                self._trouble(f"{member.name}: {error.code}: {error.message}")
            finally:
                waits.release()

        for number in range(total):
            member = self.members[number % count]
            request = AcquireLease(resources=(Resource("file", f"burst/{number}.py"),), wait_ms=10_000)
            member.me.connection.ask(request, partial(answered, member, request))
        for _ in range(total):
            if not waits.acquire(timeout=SEEN_S):
                self._trouble(f"a lease was not answered within {SEEN_S:g} s")
                break
        self.result.burst_granted_s = round(time.monotonic() - began, 2)
        blind = list(self.members)  # who has seen all is not asked again: answering costs as well

        def all_see() -> bool:
            while blind and self._granted_seen(blind[-1]) >= total:
                blind.pop()
            return not blind

        self._until(all_see, SEEN_S)
        self.result.burst_seen_s = round(time.monotonic() - began, 2)
        self.result.burst_cpu_s = round(self._cpu_now() - cpu, 2)
        self._say(
            f"{total} leases granted after {self.result.burst_granted_s} s, seen by all after {self.result.burst_seen_s} s, "
            f"{self.result.burst_cpu_s} s of CPU (load {os.getloadavg()[0]:.1f})"
        )
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(lambda member: member.me.release_all(), self.members))

    @staticmethod
    def _granted_seen(member: Member) -> int:
        return sum(peer.leases_held for peer in member.me.peers())

    def _rest(self, seconds: float) -> None:
        self._phase = "calm"
        for member in self.members:
            member.hang_up()
        time.sleep(self.calm)
        self._phase = "rest"
        pushes, cpu = self._pushes(), self._cpu_now()
        for member in self.members:
            member.hang_up()
        began = time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - began
        used = self._cpu_now() - cpu
        load = round(os.getloadavg()[0], 1)
        rest = Rest(seconds=round(took), cpu_percent=round(used / took * 100, 2), pushes=self._pushes() - pushes, load=load)
        self.result.rests.append(rest)
        self._say(f"at rest for {rest.seconds} s: {rest.cpu_percent} % of a core, {rest.pushes} pushes (load {rest.load})")

    def _churn(self, seconds: float) -> None:
        self._phase = "churn"
        done = self.result.churned = dict.fromkeys(("leases", "denied", "work", "restarts", "kills"), 0)
        until = time.monotonic() + seconds
        restarted = time.monotonic()
        while time.monotonic() < until:
            member = self._random.choice(self.members)
            try:
                if time.monotonic() - restarted > min(RESTARTS_S, seconds / 4):
                    kill = self._random.random() < 0.3
                    member.end(signal.SIGKILL if kill else signal.SIGTERM)
                    member.start()
                    done["kills" if kill else "restarts"] += 1
                    restarted = time.monotonic()
                elif self._random.random() < 0.3:
                    member.me.set_work(files=[f"src/{self._random.randrange(50)}.py"], status=f"{self._random.random()}")
                    done["work"] += 1
                else:
                    name = f"churn/{self._random.randrange(30)}.py"
                    granted = member.me.acquire_lease(name, wait_ms=200)
                    done["leases" if granted else "denied"] += 1
                    if granted and self._random.random() < 0.8:
                        member.me.release_lease(name)
            except CoordinationError as error:
                self._trouble(f"{member.name}: {error.code}: {error.message}")
            time.sleep(0.02)
        for member in self.members:
            member.me.release_all()
            member.me.clear_work()
        again = self._until(self._meshed, MESH_S)
        self._say(f"churned: {done}; all were connected again after {again:.1f} s")

    def _look_for_problems(self) -> None:
        for member in self.members:
            for problem in member.me.status().problems:
                self._trouble(f"{member.name} says: {problem}")

    # --- measuring --------------------------------------------------------------------------------------------------------

    def _until(self, condition: Callable[[], bool], limit_s: float) -> float:
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > limit_s:
                self._trouble(f"{self._phase}: not within {limit_s:g} s")
                break
            time.sleep(PEEK_S)
        return time.monotonic() - began

    def _trouble(self, what: str) -> None:
        if len(self.result.trouble) < 50:
            self.result.trouble.append(what)
            self._say(f"! {what}")

    def _pushes(self) -> int:
        return sum(member.me.status().remote.pushes for member in self.members)

    def _cpu_now(self) -> float:
        """Seconds of all daemons, and of the children that they have waited for."""
        with self._lock:
            for member in self.members:
                process = member.process
                if process is not None:
                    with suppress(psutil.NoSuchProcess):
                        times = process.cpu_times()
                        self._cpu[process.pid] = times.user + times.system + times.children_user + times.children_system
            return sum(self._cpu.values())

    def _sample_on(self) -> None:
        pause = max(1.0, self.seconds / SAMPLES, len(self.members) / 10)  # reading what is whose own costs milliseconds each
        while not self._over.wait(pause):
            self.result.samples.append(self._sample())

    def _sample(self) -> Sample:
        rss: dict[str, int] = {}
        own: dict[str, int] = {}
        descriptors: dict[str, int] = {}
        threads: dict[str, int] = {}
        disk: dict[str, int] = {}
        for member in self.members:
            process = member.process
            if process is None:
                continue
            with suppress(psutil.NoSuchProcess):
                with process.oneshot():
                    memory = process.memory_full_info()
                    name = member.name
                    rss[name], own[name] = memory.rss, memory.uss
                    descriptors[name], threads[name] = process.num_fds(), process.num_threads()
                disk[name] = member.disk()
        return Sample(
            at_s=round(time.monotonic() - self._began, 1),
            phase=self._phase,
            rss=rss,
            own=own,
            descriptors=descriptors,
            threads=threads,
            disk=disk,
            cpu_s=round(self._cpu_now(), 2),
        )


def summary(result: Result) -> Iterator[str]:
    """What is worth saying of the samples: the middle of all daemons in the first time of rest and in the last, and the worst."""
    rests = [[sample for sample in result.samples if sample.phase == "rest" and sample.at_s <= end] for end in _ends(result)]
    first, last = rests[0], [sample for sample in result.samples if sample.phase == "rest" and sample not in rests[0]]
    for name, unit, scale in (("rss", "MB", MB), ("own", "MB", MB), ("descriptors", "", 1), ("threads", "", 1), ("disk", "MB", MB)):
        before, after = (_middle(some, name) / scale for some in (first, last or first))
        worst = max((max(getattr(s, name).values(), default=0) for s in result.samples), default=0) / scale
        yield f"{name}: {before:.3g} {unit} at the first rest, {after:.3g} {unit} at the last, {worst:.3g} {unit} at the most"


def _ends(result: Result) -> list[float]:
    churn = [sample.at_s for sample in result.samples if sample.phase == "churn"]
    return [min(churn, default=float("inf")), float("inf")]


def _middle(samples: Sequence[Sample], name: str) -> float:
    values = [value for sample in samples for value in getattr(sample, name).values()]
    return statistics.median(values) if values else 0.0


def panels(result: Result) -> list[Panel]:
    """The plot: the middle and the extremes of all daemons over time, and the CPU of all together."""
    times = [sample.at_s / 60 for sample in result.samples]

    def of(name: str, scale: float) -> list[Series]:
        pick: list[tuple[str, Callable[[list[int]], float]]] = [("most", max), ("median", statistics.median), ("least", min)]
        return [
            Series(label, times, [choose(list(getattr(s, name).values()) or [0]) / scale for s in result.samples])
            for label, choose in pick
        ]

    pairs = list(zip(result.samples, result.samples[1:], strict=False))
    cpu = [max(0.0, (b.cpu_s - a.cpu_s) / max(b.at_s - a.at_s, 0.1) * 100) for a, b in pairs]
    marks = [(b.at_s / 60, b.phase) for a, b in pairs if a.phase != b.phase and b.phase != "calm"]
    return [
        Panel("memory of a daemon (RSS), MB", of("rss", MB), marks),
        Panel("open descriptors of a daemon", of("descriptors", 1), marks),
        Panel("threads of a daemon", of("threads", 1), marks),
        Panel("state folder of a daemon, MB", of("disk", MB), marks),
        Panel("CPU of all together, % of one core", [Series("all", times[1:], cpu)], marks),
    ]


@contextmanager
def running(count: int) -> Iterator[list[Member]]:
    """Clones of one repository, and at the end whatever daemons they have are gone, and the folders with them."""
    with ExitStack() as stack:
        clones = stack.enter_context(repository(*(f"d{number:02}" for number in range(count))))
        members = [Member(clone) for clone in clones]
        stack.callback(_end_all, members)
        yield members


def _end_all(members: list[Member]) -> None:
    """All begin to leave before the first is waited for: each removes its record, which takes a push."""
    for member in members:
        member.hang_up()
        if member.process is not None:
            with suppress(psutil.NoSuchProcess):
                member.process.terminate()
    for member in members:
        process, member.process = member.process, None
        if process is not None:
            with suppress(psutil.NoSuchProcess):
                try:
                    process.wait(20)
                except psutil.TimeoutExpired:
                    process.kill()
                    process.wait(5)


def main(arguments: Sequence[str]) -> int:
    """Run it; 1 if something went wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--daemons", type=int, default=10, help=f"2 to {MAX_DAEMONS} (10)")
    parser.add_argument("--minutes", type=float, default=5.0, help="of rest and churn (5); the mesh takes its own time before")
    parser.add_argument("--burst", type=int, default=500, help="leases at once (500)")
    parser.add_argument(
        "--calm", type=float, default=20.0, help="seconds before rest counts, for what the phase before caused (20)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of what is done while it churns")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the samples go")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="where the plot goes, as SVG")
    options = parser.parse_args(arguments)
    if not 2 <= options.daemons <= MAX_DAEMONS:
        parser.error(f"--daemons: 2 to {MAX_DAEMONS}")
    isolate()
    signal.signal(signal.SIGTERM, _interrupt)
    with running(options.daemons) as members:
        soak = Soak(members, say, seconds=options.minutes * 60, burst=options.burst, seed=options.seed, calm=options.calm)
        try:
            soak.run()
        finally:
            if options.json:
                options.json.write_bytes(msgspec.json.format(msgspec.json.encode(soak.result), indent=1) + b"\n")
            if options.plot and len(soak.result.samples) > 1:
                write_plot(options.plot, f"{options.daemons} daemons", "minutes", panels(soak.result))
    for line in summary(soak.result):
        say(line)
    say(f"{len(soak.result.trouble)} troubles")
    return int(bool(soak.result.trouble))


def _interrupt(_number: int, _frame: FrameType | None) -> Any:
    raise KeyboardInterrupt


def say(text: str) -> None:
    """A line, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    gc.freeze()
    sys.exit(main(sys.argv[1:]))
