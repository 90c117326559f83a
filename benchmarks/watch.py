"""What `coord watch` costs while nobody does anything: `uv run python -m benchmarks.watch`.

A real daemon with 50 agents that hold 200 leases and tell what they work on, and the view in a pseudo-terminal. Leases are renewed
meanwhile, as always.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Final

import psutil
from tests.e2e.clones import COORD, Clone, repository
from tests.views.terminal import Terminal

from sudocode_coordination.client.blocking import Client
from sudocode_coordination.place import find_clone

AGENTS: Final = 50
LEASES: Final = 4
"""Of each."""
SIZES: Final = ((80, 24), (140, 40))
SETTLES_S: Final = 6.0
"""Until what it does at its start is done."""


def main() -> int:
    """Measure, and print a line for each size of the terminal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long each is looked at (30)")
    seconds = parser.parse_args().seconds
    with repository("alice") as (alice,):
        alice.start()
        _fill(alice)
        daemon = psutil.Process(alice.pid)
        before = _cpu_s(daemon)
        time.sleep(seconds)
        _say(f"daemon, nobody watches: {_percent(_cpu_s(daemon) - before, seconds)} of a core")
        for columns, lines in SIZES:
            with Terminal([COORD, "watch"], alice.folder, columns=columns, lines=lines) as seen:
                seen.until("all leases", f"Leases {AGENTS * LEASES}")
                for key, name in (("1", "leases"), ("7", "events")):
                    seen.press(key)
                    time.sleep(SETTLES_S)
                    _measure(f"{columns}x{lines}, {name}", seen, daemon, seconds)
                seen.press("q")
                seen.ended()
    return 0


def _fill(clone: Clone) -> None:
    found = find_clone(clone.folder)
    with Client(found) as base:
        for number in range(AGENTS):
            client = Client(found, agent=f"agent{number:02}", folder=clone.folder, connection=base.connection)
            for part in range(LEASES):
                assert client.acquire_lease(f"src/part{number}/file{part}.py", note="a part of it")
            client.set_work(files=[f"src/part{number}/file0.py"], status="A part of it")


def _measure(name: str, seen: Terminal, daemon: psutil.Process, seconds: float) -> None:
    process = psutil.Process(seen.process.pid)
    own, of_daemon, written = _cpu_s(process), _cpu_s(daemon), len(seen.raw)
    time.sleep(seconds)
    figures = [
        f"{_percent(_cpu_s(process) - own, seconds)} of a core",
        f"daemon {_percent(_cpu_s(daemon) - of_daemon, seconds)}",
        f"{(len(seen.raw) - written) / seconds:.0f} bytes/s to the terminal",
        f"{process.memory_info().rss / 1e6:.0f} MB",
    ]
    _say(f"{name}: {', '.join(figures)}")


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _percent(used_s: float, seconds: float) -> str:
    return f"{used_s / seconds * 100:.2f} %"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
