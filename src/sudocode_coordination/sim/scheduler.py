"""Virtual time and the only dice of a simulated world: same seed, same run, whatever PYTHONHASHSEED is."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random

from sudocode_coordination.model import Instant, Now

WALL_EPOCH_MS = 1_800_000_000_000
"""Wall time at virtual instant 0."""


class Scheduler:
    """Actions in order of their virtual time, and of scheduling within the same millisecond."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.instant: Instant = 0
        self._heap: list[tuple[Instant, int, Callable[[], None]]] = []
        self._count = 0

    def now(self) -> Now:
        """Both clocks of a machine whose clock is right."""
        return Now(self.instant, WALL_EPOCH_MS + self.instant)

    def at(self, instant: Instant, action: Callable[[], None]) -> None:
        """Run `action` at that time, or next if it has passed."""
        self._count += 1
        heapq.heappush(self._heap, (max(instant, self.instant), self._count, action))

    def after(self, delay_ms: int, action: Callable[[], None]) -> None:
        """Run `action` that much later."""
        self.at(self.instant + delay_ms, action)

    def step(self) -> bool:
        """Run the next action; False if there is none."""
        if not self._heap:
            return False
        self.instant, _, action = heapq.heappop(self._heap)
        action()
        return True

    def run_until(self, instant: Instant) -> None:
        """Run all that is due up to and including that time."""
        heap = self._heap
        while heap and heap[0][0] <= instant:
            self.instant, _, action = heapq.heappop(heap)
            action()
        self.instant = max(self.instant, instant)

    def run_while(self, condition: Callable[[], bool], *, limit: Instant) -> bool:
        """Run until the condition no longer holds (True) or `limit` is reached (False)."""
        while condition():
            if not self._heap or self._heap[0][0] > limit:
                return False
            self.step()
        return True
