"""`coord sim`: run many seeds, or replay one and show what happens in it."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from functools import partial
from multiprocessing import get_context
from time import monotonic
from typing import Final

from sudocode_coordination.sim.scenario import Outcome, Run, run_at_once

CHUNK: Final = 16
"""Seeds a worker takes at a time: some seconds, so that it waits for nobody, and progress shows."""
MAX_SHOWN: Final = 20
"""Violations printed in full."""
LAST_STEPS: Final = 25
"""Of a history with a violation, printed."""
PROGRESS_S: Final = 30
"""Between two lines of progress in a log; on a terminal it is shown every second."""


def outcomes(seeds: range, jobs: int, *, networks: bool = False) -> Iterator[Outcome]:
    """Of each seed, in order."""
    run = partial(run_at_once, networks=networks)
    if jobs == 1:
        yield from map(run, seeds)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(run, seeds, chunksize=CHUNK)


def main(arguments: list[str]) -> int:
    """The exit code: 1 if an invariant was violated."""
    parser = ArgumentParser(
        prog="coord sim",
        description="Run the real node in a simulated world: seeds of loss, reordering, partitions, crashes and a flaky remote. "
        "The same seed is the same history everywhere.",
    )
    parser.add_argument("--seeds", type=int, default=100, metavar="N", help="how many to run (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, metavar="S", help="the first of them (default: %(default)s)")
    parser.add_argument("--seed", type=int, metavar="S", help="run this one alone, and show what happens in it")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default: %(default)s)")
    parser.add_argument(
        "--networks", action="store_true", help="with NATs, a relay, and nodes that share a machine: other histories"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    options = parser.parse_args(arguments)
    if options.seeds < 1 or options.first < 0 or options.jobs < 1:
        parser.error("--seeds and --jobs must be at least 1, --first at least 0")
    if options.seed is not None:
        return _replay(options.seed, as_json=options.json, networks=options.networks)
    seeds = range(options.first, options.first + options.seeds)
    return _run_many(seeds, options.jobs, as_json=options.json, networks=options.networks)


def _replay(seed: int, *, as_json: bool, networks: bool) -> int:
    outcome = Run(seed, words=True, networks=networks).run()
    if as_json:
        _say(json.dumps(_as_dict(outcome) | {"trace": outcome.words}))
    else:
        for line in outcome.words:
            _say(line)
        _say(f"seed {seed}: {outcome.events} events, {outcome.granted} granted, {outcome.denied} denied, trace {outcome.digest}")
        _say(outcome.violation or "no violation")
    return 1 if outcome.violation else 0


def _run_many(seeds: range, jobs: int, *, as_json: bool, networks: bool) -> int:
    started, shown = monotonic(), monotonic()
    bad: list[Outcome] = []
    done = events = granted = 0
    for outcome in outcomes(seeds, jobs, networks=networks):
        done, events, granted = done + 1, events + outcome.events, granted + outcome.granted
        if outcome.violation:
            bad.append(outcome)
            if not as_json and len(bad) <= MAX_SHOWN:
                _say_violation(outcome, networks=networks)
        if monotonic() - shown > (1 if sys.stderr.isatty() else PROGRESS_S):
            shown = monotonic()
            _say_progress(seeds, done, len(bad), monotonic() - started)
    if sys.stderr.isatty():
        print(file=sys.stderr)  # noqa: T201
    seconds = round(monotonic() - started, 1)
    if as_json:
        summary = {"seeds": done, "violations": len(bad), "events": events, "granted": granted, "seconds": seconds}
        _say(json.dumps(summary | {"failed": [_as_dict(outcome) for outcome in bad]}))
    else:
        _say(f"{done} seeds, {events} events, {granted} leases granted, {len(bad)} violations, {seconds} s")
    return 1 if bad else 0


def _say_violation(outcome: Outcome, *, networks: bool) -> None:
    """With the last steps: the seed is run once more for its words."""
    _say(f"seed {outcome.seed}: {outcome.violation}")
    for line in Run(outcome.seed, words=True, networks=networks).run().words[-LAST_STEPS:]:
        _say(f"    {line}")
    _say(f"  replay: coord sim --seed {outcome.seed}{' --networks' if networks else ''}")


def _say_progress(seeds: range, done: int, bad: int, seconds: float) -> None:
    """Where it is, how long it will take, and how to go on from here if it is stopped."""
    left = timedelta(seconds=round((len(seeds) - done) * seconds / done))
    line = (
        f"{done}/{len(seeds)} seeds, {bad} violations, {done / seconds:.1f} seeds/s, {left} left; go on: --first {seeds[0] + done}"
    )
    if sys.stderr.isatty():
        print(f"\r{line}  ", end="", file=sys.stderr, flush=True)  # noqa: T201
    else:
        print(line, file=sys.stderr, flush=True)  # noqa: T201


def _as_dict(outcome: Outcome) -> dict[str, object]:
    return {
        "seed": outcome.seed,
        "digest": outcome.digest,
        "events": outcome.events,
        "granted": outcome.granted,
        "denied": outcome.denied,
        "violation": outcome.violation,
    }


def _say(line: str) -> None:
    print(line)  # noqa: T201 - this is a command


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
