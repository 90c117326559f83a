"""`uv run python -m benchmarks.run [--only NAME]… [--quick] [--json]`: measure, and hold against the goals."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from benchmarks import between, inside, leases, processes, strict_push
from benchmarks.harness import Benchmark, Figure, Options, isolate

BENCHMARKS: Final[dict[str, Benchmark]] = {
    "start": processes.start,
    "check": processes.check,
    "alone": inside.acquire_alone,
    "acquire": between.acquire,
    "change": between.change,
    "join": between.join,
    "rest": processes.rest,
    "leases": leases.leases,
    "cycles": inside.lease_cycles,
    "strict": leases.strict,
    "swap": strict_push.strict_push,
}


def main(arguments: Sequence[str]) -> int:
    """Run what was asked for; 1 if a goal was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="Figures against the goals.")
    parser.add_argument("--only", metavar="NAME", action="append", choices=sorted(BENCHMARKS), help=", ".join(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="a tenth of the repetitions")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    options = parser.parse_args(arguments)
    isolate()
    figures: list[Figure] = []
    for name in options.only or BENCHMARKS:
        began = time.monotonic()
        for figure in BENCHMARKS[name](Options(quick=options.quick)):
            figures.append(figure)
            if not options.json:
                say(line(figure))
        if not options.json:
            say(f"    ({name}: {time.monotonic() - began:.0f} s)")
    if options.json:
        load = os.getloadavg()[0]
        about = {"python": platform.python_version(), "cpus": os.cpu_count(), "load": round(load, 1)}
        say(msgspec.json.encode({"about": about, "figures": figures}).decode())
    return int(any(figure.verdict == "missed" for figure in figures))


def line(figure: Figure) -> str:
    """One row of the table."""
    goal = "" if figure.goal is None else f"(at most {figure.goal:g}: {figure.verdict})"
    return f"{figure.name:<44} {figure.value:>9.3g} {figure.unit:<6} {goal:<24} {figure.note}".rstrip()


def say(text: str) -> None:
    """A line, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
