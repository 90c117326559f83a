"""A swap of the strict lease table against a bare `git push` of one ref to the same remote, interleaved."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import trio
from tests.conformance.git_bench import http_server, make_remote

from benchmarks.harness import PAUSE_S, Figure, Options, folder, middle, spread
from sudocode_coordination.adapters.git_table import GitTable
from sudocode_coordination.core.io import Input, SwapTable, TableRead, TableSwapped

GOAL: Final = 1.3
SIZES: Final = (0, 1_000, 10_000)
LEASE: Final = b'{"resource":"src/some/where/file.py","agent":"agent-name","token":%d,"expires":"long enough"}'
"""About the size of an entry."""


class Answers:
    """What a port has delivered."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[Input](16)

    def took(self, given: Input) -> None:
        """The port's `deliver`."""
        self._send.send_nowait(given)

    async def next(self) -> Input:
        """The next one."""
        return await self._receive.receive()


def strict_push(options: Options) -> Iterator[Figure]:
    """Ratios over a path and over http, with tables of three sizes."""
    for size in SIZES:
        with folder() as place:
            bare = make_remote(place)
            _git(bare, "config", "http.receivepack", "true")
            with http_server(place) as server:
                for scheme, url in (("path", str(bare)), ("http", f"{server.url}/origin.git")):
                    yield _measure(place / scheme, url, scheme, size, options.times(60, 10))


def _measure(place: Path, url: str, scheme: str, size: int, times: int) -> Figure:
    clone = place / "clone"
    place.mkdir()
    _git(place, "clone", "-q", url, str(clone))
    answers = Answers()
    ours: list[float] = []
    bare: list[float] = []

    async def main() -> None:
        table = GitTable(clone / ".git", place / "leases.git", "origin", answers.took)
        async with trio.open_nursery() as nursery:
            await nursery.start(table.run)
            # Another scheme's table is there already: this one starts from it.
            table.read_table()
            read = await answers.next()
            assert isinstance(read, TableRead), read
            tip = read.commit
            filled = {_path(n): LEASE % n for n in range(size)}
            for number in range(times + 3):
                changes = filled if number == 0 else {"meta": LEASE % number, _path(number, scheme): LEASE % number}
                change = SwapTable(
                    ticket=number, parent=tip, changes=dict(changes), nonce=f"{scheme}{number}", wall_ms=number * 1000
                )
                began = time.perf_counter_ns()
                table.swap_table(change)
                swapped = await answers.next()
                took = (time.perf_counter_ns() - began) / 1e6
                assert isinstance(swapped, TableSwapped), swapped
                tip = swapped.commit
                await trio.sleep(PAUSE_S)
                ready = await trio.to_thread.run_sync(_commit, clone, scheme, number)
                await trio.sleep(PAUSE_S)
                pushed = await trio.to_thread.run_sync(_bare_push, clone, scheme, ready)
                await trio.sleep(PAUSE_S)
                if number >= 3:
                    ours.append(took)
                    bare.append(pushed)
            nursery.cancel_scope.cancel()

    trio.run(main)
    ratio = middle(ours) / middle(bare)
    note = f"swap {middle(ours):.1f} ms, {spread(ours)}; push {middle(bare):.1f} ms, {spread(bare)}"
    return Figure(name=f"strict swap / push, {scheme}, {size} leases", value=ratio, unit="x", goal=GOAL, note=note)


def _path(number: int, by: str = "x") -> str:
    """As long as a claim's id is."""
    return f"leases/{number % 16:x}/{by * 13:.52}.1800000000000.{number:06}.json"


def _commit(clone: Path, scheme: str, number: int) -> str:
    """One commit with one file, on top of the one before."""
    (clone / "file").write_text(f"{number}\n", "utf-8")
    blob = _git(clone, "hash-object", "-w", "file")
    tree = _git(clone, "mktree", stdin=f"100644 blob {blob}\tfile\n")
    parent = f"refs/remotes/origin/bench-{scheme}" if number else "refs/remotes/origin/main"
    return _git(clone, "commit-tree", "-p", parent, "-m", f"{number}", tree)


def _bare_push(clone: Path, scheme: str, commit: str) -> float:
    """What it takes to push a commit to a branch of its own."""
    arguments = ["git", "push", "--quiet", "origin", f"{commit}:refs/heads/bench-{scheme}"]
    began = time.perf_counter_ns()
    subprocess.run(arguments, cwd=clone, check=True, capture_output=True)
    return (time.perf_counter_ns() - began) / 1e6


def _git(place: Path, *arguments: str, stdin: str = "") -> str:
    done = subprocess.run(["git", *arguments], cwd=place, check=True, capture_output=True, text=True, input=stdin)
    return done.stdout.strip()
