"""What this clone had shared and lost with its disk, out of the copies that other peers have of its own feed.

A peer answers a Hello with what it lacks, so a Hello that does not tell of the own feed brings that back, as it was before this
life began a new epoch. It is signed with the own key; what of it people wrote is written anew. Leases and active work are of a
life that is over.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sudocode_coordination.core.facts import Root
from sudocode_coordination.core.feed import FeedStore
from sudocode_coordination.core.keyring import Keyring
from sudocode_coordination.core.wire import Envelope
from sudocode_coordination.model import Instant, Json

RECOVERY_MS: Final = 600_000
"""How long after a start copies are asked for: peers that are there at all have connected by then."""
KEPT: Final[tuple[Root, ...]] = ("issueUpdates", "specUpdates")


class Regained(NamedTuple):
    """An entry as a copy has it; `before`: as the copies had it until now."""

    root: Root
    key: str
    value: Json | None
    before: Json | None


class Recovery:
    """See the module."""

    def __init__(self, keyring: Keyring) -> None:
        self._own = keyring.peer_id
        self._copies = FeedStore(keyring)
        self._until: Instant | None = None
        self._regained: dict[tuple[Root, str], Json] = {}

    def begin(self, instant: Instant) -> None:
        """The disk knows nothing of an own feed, though this peer has had a life before."""
        self._until = instant + RECOVERY_MS

    def under_way(self, instant: Instant) -> bool:
        """Whether copies are wanted."""
        return self._until is not None and instant < self._until

    def take(self, envelope: Envelope) -> list[Regained]:
        """A piece of a copy; what it says that was not known. The newest epoch counts, and nothing that is not signed."""
        if self._copies.receive(envelope).verdict != "applied":
            return []
        found = {name: value for name, value in self._copies.document.contents(self._own).items() if name[0] in KEPT}
        before, self._regained = self._regained, found
        names = sorted(found.keys() | before.keys())
        return [Regained(*name, found.get(name), before.get(name)) for name in names if found.get(name) != before.get(name)]
