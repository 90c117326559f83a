"""What `sync.py` knows of a connected peer: how far it has each feed, what it promised, and what it was asked and answered."""

from __future__ import annotations

from typing import TypeAlias

from sudocode_coordination.model import Instant, PeerId

Place: TypeAlias = tuple[int, int]
"""Epoch and sequence number."""


class Partner:
    """One of them, from its connection to the end of that."""

    def __init__(self) -> None:
        self.greeted = False
        self.joining = True
        """`sync-completed` has not been told yet."""
        self.has: dict[PeerId, Place] = {}
        """Feeds as far as the peer is known to have them, or to get them on this connection."""
        self.promised: dict[PeerId, Place] = {}
        """What it has and this peer lacks."""
        self.ask_at: Instant | None = None
        self.asked_at: Instant | None = None
        self.asks = 0
        self.replied_at: Instant | None = None
        self.answered_at: Instant | None = None
        self.answered_bytes = 0

    def got(self, owner: PeerId, place: Place) -> None:
        """It has the feed up to there; places only grow."""
        if self.has.get(owner, (-1, 0)) < place:
            self.has[owner] = place
