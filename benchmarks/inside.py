"""Inside the daemon, without processes or sockets: the real node with the real disk and identity, driven directly."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.harness import Figure, Options, folder, middle, spread, timed
from sudocode_coordination.adapters.clock import BootClock
from sudocode_coordination.adapters.disk import DATABASE_FILE, SqliteDisk
from sudocode_coordination.adapters.identity import generate_identity
from sudocode_coordination.api.requests import AcquireLease, CoreRequest, LeaseOutcome, ReleaseLease
from sudocode_coordination.config import create_default_config
from sudocode_coordination.core.io import BranchRead, DiskContents, Effect, Input, Persist, Reply, RequestReceived, Started, Ticked
from sudocode_coordination.core.node import Node
from sudocode_coordination.model import Resource

HELD: Final = (0, 1_000, 10_000)
CYCLES: Final = 100_000


class Alone:
    """A node without peers. What it wants written is written; what it wants sent goes nowhere."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.disk = SqliteDisk(path)
        self.node = Node(create_default_config("bench"), generate_identity())
        self._clock = BootClock()
        self._asked = 0
        self.disk.load()
        self.feed_bytes = 0
        self.handle(Started(contents=DiskContents(intact=True), seed=1, newborn=True))
        self.handle(BranchRead(commit=None, records={}))

    def handle(self, given: Input) -> list[Effect]:
        """As the pump does: what is due first, writes at once."""
        now = self._clock.now()
        due = self.node.deadline()
        if due is not None and due <= now.instant and not isinstance(given, Ticked):
            self.handle(Ticked())
        effects = self.node.handle(given, now)
        for effect in effects:
            if isinstance(effect, Persist):
                self.disk.write(effect.operations)
        return effects

    def ask(self, request: CoreRequest) -> Reply:
        """One request, answered in the same step."""
        self._asked += 1
        effects = self.handle(RequestReceived(client=1, request_id=self._asked, request=request))
        return next(effect for effect in effects if isinstance(effect, Reply))

    def acquire(self, name: str) -> None:
        """A lease that must be granted."""
        reply = self.ask(AcquireLease(resources=(Resource("file", name),)))
        if not isinstance(reply.value, LeaseOutcome) or not reply.value.granted:
            raise RuntimeError(f"{name} was not granted: {reply}")

    def release(self, name: str) -> None:
        """Give it back."""
        self.ask(ReleaseLease(resources=(Resource("file", name),)))


@contextmanager
def alone() -> Iterator[Alone]:
    """A node for as long as the block lasts."""
    with folder() as path:
        node = Alone(path)
        try:
            yield node
        finally:
            node.disk.close()


def acquire_alone(options: Options) -> Iterator[Figure]:
    """A lease with no peer, from the request to its answer with all writes done, while so many are held."""
    with folder() as path:
        bare = middle(bare_transactions(path, options.times(500)))
    yield Figure(name="a bare SQLite transaction", value=bare, unit="ms")
    with alone() as node:
        held = 0
        for target in HELD:
            for held in range(held, target):  # noqa: B020 - it goes on where it was
                node.acquire(f"held/{held}.py")
            samples = []
            for number in range(options.times(500)):
                name = f"asked/{target}/{number}.py"
                samples.append(timed(lambda name=name: node.acquire(name)))  # type: ignore[misc]
                node.release(name)
            value = middle(samples)
            note = f"{value / bare:.1f} x a bare transaction; {spread(samples)}"
            yield Figure(name=f"acquire alone, {target} held", value=value, unit="ms", goal=1.0, note=note)


def _cycle(node: Alone, times: int) -> None:
    for _ in range(times):
        node.acquire("cycled.py")
        node.release("cycled.py")


def bare_transactions(path: Path, times: int) -> list[float]:
    """The same kind of write, by SQLite alone."""
    connection = sqlite3.connect(path / "bare.db", isolation_level=None)
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("CREATE TABLE t (k TEXT PRIMARY KEY, v BLOB)")
    data = b"x" * 300

    def once(number: int) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT OR REPLACE INTO t VALUES (?, ?)", (str(number), data))
        connection.execute("COMMIT")

    samples = [timed(lambda n=number: once(n)) for number in range(times)]  # type: ignore[misc]
    connection.close()
    return samples


def lease_cycles(options: Options) -> Iterator[Figure]:
    """What is left of very many leases that were taken and given back."""
    cycles = options.times(CYCLES)
    with alone() as node:
        node.acquire("kept.py")
        took = timed(lambda: _cycle(node, cycles))
        feed = node.node.sync.store.feed(node.node.peer_id)
        if feed is None:
            raise RuntimeError("there is no own feed")
        note = f"after {cycles} cycles in {took / 1_000:.0f} s, {took / cycles:.2f} ms each"
        yield Figure(name="own feed after lease cycles", value=feed.size_bytes / 1024, unit="KB", goal=32.0, note=note)
        node.disk.close()
        connection = sqlite3.connect(node.path / DATABASE_FILE)
        rows = sum(
            connection.execute(f"SELECT COALESCE(SUM(LENGTH(data)), 0) FROM {table}").fetchone()[0]
            for table in ("envelopes", "vals")
        )
        connection.close()
        yield Figure(name="stored after lease cycles", value=rows / 1024, unit="KB", goal=32.0, note="all rows of the database")
        size = sum(file.stat().st_size for file in node.path.glob(f"{DATABASE_FILE}*"))
        yield Figure(name="database file after lease cycles", value=size / 1024, unit="KB", note="whole pages, indexes, free space")
