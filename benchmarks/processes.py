"""Whole processes: start, the fast check, and a daemon at rest beside a bare libp2p host."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil
from tests.e2e.clones import COORD, repository
from tests.e2e.swarm import swarm

from benchmarks.harness import Figure, Options, middle, spread, timed

SETTLING_S: Final = 6.0
"""After a start or a meeting, before anything counts as rest."""
REST_S: Final = 60.0
"""Four beats of the default heartbeat, one look at the branch."""
MB: Final = 1 << 20


def start(options: Options) -> Iterator[Figure]:
    """`coord start` until it says active, in turn with a bare import of libp2p."""
    bare: list[float] = []
    ours: list[float] = []
    with repository("one") as (clone,):
        clone.start()
        clone.coord("stop")  # the identity and the branch exist: the usual start is not the first one
        for _ in range(options.times(7)):
            bare.append(timed(lambda: python("import libp2p")))
            ours.append(timed(clone.start))
            clone.coord("stop")
    value = middle(ours) / middle(bare)
    yield Figure(name="import libp2p, whole process", value=middle(bare), unit="ms", note=spread(bare))
    yield Figure(name="coord start to active", value=middle(ours), unit="ms", note=spread(ours))
    yield Figure(name="start to active / bare import", value=value, unit="x", goal=1.5)


def check(options: Options) -> Iterator[Figure]:
    """`coord check` with a daemon, in turn with a Python that does nothing."""
    bare: list[float] = []
    ours: list[float] = []
    with repository("one") as (clone,):
        clone.start()
        for _ in range(options.times(60, 10)):
            bare.append(timed(lambda: python("pass")))
            ours.append(timed(lambda: run((COORD, "check", "src/auth.py"), clone.folder)))
    yield Figure(name="python -c pass", value=middle(bare), unit="ms", note=spread(bare))
    yield Figure(name="coord check, whole process", value=middle(ours), unit="ms", note=spread(ours))
    yield Figure(name="coord check / python -c pass", value=middle(ours) / middle(bare), unit="x", goal=2.0)


def rest(options: Options) -> Iterator[Figure]:
    """Memory and CPU of daemons that nobody asks anything."""
    seconds = REST_S / 4 if options.quick else REST_S
    with bare_host("rest") as (process, _):
        time.sleep(SETTLING_S)
        bare = psutil.Process(process.pid).memory_info().rss / MB
        percent = cpu_percent([psutil.Process(process.pid)], seconds)
    yield Figure(name="bare libp2p host, memory", value=bare, unit="MB")
    yield Figure(name="bare libp2p host, CPU", value=percent, unit="%")
    for names in (("ada",), ("ada", "bob", "cyd", "dan")):
        with swarm(*names) as members:
            for member in members:
                member.close()
            time.sleep(SETTLING_S)
            daemons = [psutil.Process(member.clone.pid) for member in members]
            percent = cpu_percent(daemons, seconds)
            memory = middle([daemon.memory_info().rss / MB for daemon in daemons])
        who = f"daemon at rest, {len(names) - 1} peers"
        yield Figure(name=f"{who}, memory", value=memory, unit="MB", goal=1.2 * bare, note=f"{memory / bare:.2f} x a bare host")
        yield Figure(name=f"{who}, CPU", value=percent, unit="%", goal=0.3, note=f"mean over {seconds:.0f} s")


def cpu_percent(processes: Sequence[psutil.Process], seconds: float) -> float:
    """Of one core, the mean of the processes."""

    def used() -> float:
        times = [process.cpu_times() for process in processes]
        return sum(t.user + t.system for t in times) / len(times)

    before = used()
    time.sleep(seconds)
    return (used() - before) / seconds * 100


def python(code: str) -> None:
    """A whole process of this Python."""
    run((sys.executable, "-c", code), Path("/"))


def run(command: Sequence[str], folder: Path) -> None:
    """To its end, without output."""
    subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, check=True)


@contextmanager
def bare_host(what: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`benchmarks.bare` and its address, until the block ends."""
    command = [sys.executable, "-m", "benchmarks.bare", what]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            if not address:
                raise RuntimeError("the bare host did not start")
            yield process, address
        finally:
            process.kill()
