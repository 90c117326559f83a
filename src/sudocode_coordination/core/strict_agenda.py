"""When which of the own strict leases needs something: a step looks at those that changed or are due, however many there are."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Final

from sudocode_coordination.model import ClaimId, Instant

SPARE: Final = 64
"""Times in the heap that count no more, besides as many as count: past that it is made anew."""


class Agenda:
    """Times by claim, one for each.

    Args:
        due_of: when a claim needs something; None: never, or it is gone.
    """

    def __init__(self, due_of: Callable[[ClaimId], Instant | None]) -> None:
        self._due_of = due_of
        self.stirred: dict[ClaimId, None] = {}
        """Those whose time may have become another one; whoever changes a lease puts it here."""
        self._at: dict[ClaimId, Instant] = {}
        self._heap: list[tuple[Instant, ClaimId]] = []
        """With times of before that count no more."""

    def _arrange(self) -> None:
        stirred = list(self.stirred)
        self.stirred.clear()  # the same dict: leases know it
        for claim in stirred:
            at = self._due_of(claim)
            if at is None:
                self._at.pop(claim, None)
            elif self._at.get(claim) != at:
                self._at[claim] = at
                heappush(self._heap, (at, claim))
        if len(self._heap) > 2 * len(self._at) + SPARE:
            self._heap = [(at, claim) for claim, at in self._at.items()]
            heapify(self._heap)

    def first(self) -> Instant | None:
        """When the next one is due."""
        self._arrange()
        while self._heap and self._at.get(self._heap[0][1]) != self._heap[0][0]:
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def due(self, now: Instant) -> list[ClaimId]:
        """Those whose time has come. They are due again until their time is another one."""
        found: list[ClaimId] = []
        while (at := self.first()) is not None and at <= now:
            claim = heappop(self._heap)[1]
            del self._at[claim]
            found.append(claim)
        self.stirred.update(dict.fromkeys(found))
        return found
