"""What all benchmarks share: figures, options, how to take the middle of many, folders that go away."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

ENVIRONMENT: Final = {
    "GIT_AUTHOR_NAME": "Bench",
    "GIT_AUTHOR_EMAIL": "bench@example.invalid",
    "GIT_COMMITTER_NAME": "Bench",
    "GIT_COMMITTER_EMAIL": "bench@example.invalid",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_TERMINAL_PROMPT": "0",
}
"""Nobody's own git configuration changes the figures."""
PAUSE_S: Final = 0.02
"""Between two samples of anything that passes between processes. Leases and changes are rare, so the processors have gone to
rest before each; back to back, everything is twice as fast, a raw stream and ours alike."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How thorough to be."""

    quick: bool = False
    """A tenth of the repetitions: to see that it works."""

    def times(self, usual: int, least: int = 3) -> int:
        """So many repetitions."""
        return max(least, usual // 10) if self.quick else usual


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measured value. `goal` is the upper limit, in the same unit."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    note: str = ""
    """What it was measured against, and how it spreads."""

    @property
    def verdict(self) -> str:
        """For the table."""
        if self.goal is None:
            return ""
        return "met" if self.value <= self.goal else "missed"


Benchmark: TypeAlias = Callable[[Options], Iterable[Figure]]


def timed(action: Callable[[], object]) -> float:
    """Milliseconds that it takes."""
    began = time.perf_counter_ns()
    action()
    return (time.perf_counter_ns() - began) / 1e6


def middle(samples: Sequence[float]) -> float:
    """The median: a machine that does other things as well has long tails."""
    return statistics.median(samples)


def spread(samples: Sequence[float], unit: str = "ms") -> str:
    """From the fastest to nine of ten."""
    ordered = sorted(samples)
    return f"{ordered[0]:.3g} to {ordered[len(ordered) * 9 // 10]:.3g} {unit} (n={len(ordered)})"


def tail(samples: Sequence[float], unit: str = "ms") -> str:
    """What nineteen of twenty stay below, and the slowest."""
    ordered = sorted(samples)
    return f"p95 {ordered[min(len(ordered) - 1, len(ordered) * 19 // 20)]:.3g}, worst {ordered[-1]:.3g} {unit} (n={len(ordered)})"


@contextmanager
def folder() -> Iterator[Path]:
    """An empty one with a short path, for sockets in it."""
    path = Path(tempfile.mkdtemp(prefix="cb-", dir="/tmp")).resolve()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def isolate() -> None:
    """The environment for this process and all below it."""
    for name in list(os.environ):
        if name.startswith(("GIT_", "COORD_")):
            del os.environ[name]
    os.environ.update(ENVIRONMENT)
