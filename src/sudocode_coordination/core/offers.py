"""Records that connected peers ask this one to publish along with its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final

import msgspec

from sudocode_coordination.core.keyring import Keyring
from sudocode_coordination.core.peer_view import BranchView
from sudocode_coordination.core.records import offered_name, parse_record, parse_wall, peer_of
from sudocode_coordination.model import Instant, Now, PeerId, WallMs

MAX_OFFERS: Final = 2_000
"""Records that wait to be published for others: as many as are read."""
PUBLISH_GAP_MS: Final = 15_000
"""Between two pushes of this peer: four a minute at most; hosts ask for no more than six in a repository."""


class _Offer(msgspec.Struct, frozen=True, kw_only=True):
    peer: PeerId
    data: bytes
    last_seen_ms: WallMs
    due: Instant


class Offers:
    """Book-keeping for `discovery.Discovery`.

    Args:
        keyring: verifies records, and says who we are.
        view: of the branch: what it has is no news.
    """

    def __init__(self, keyring: Keyring, view: BranchView) -> None:
        self._keyring = keyring
        self._view = view
        self._waiting: dict[str, _Offer] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._waiting

    def take(self, peer: PeerId, data: bytes, known: Callable[[PeerId], bool], connected: frozenset[PeerId], now: Now) -> None:
        """A connected peer asks for it."""
        name = offered_name(data)
        if name is None or (name not in self._waiting and len(self._waiting) >= MAX_OFFERS):
            return
        record = parse_record(name, data, self._keyring)
        if isinstance(record, str) or peer_of(record) == self._keyring.peer_id:
            return
        owner = peer_of(record)
        if owner != peer and not known(owner):
            return  # only its own, or those of peers that the branch has introduced
        last_seen_ms = parse_wall(record.last_seen) or 0
        waiting = self._waiting.get(name)
        if waiting is not None and waiting.last_seen_ms >= last_seen_ms:
            return
        if not self._view.would_renew(name, owner, last_seen_ms, connected):
            return
        renewal = self._view.says_the_same(name, record)
        due = now.instant + (record.ttl // 6 if renewal else PUBLISH_GAP_MS)
        if waiting is not None:
            due = min(due, waiting.due)
        self._waiting[name] = _Offer(peer=peer, data=data, last_seen_ms=last_seen_ms, due=due)

    def keep_those_of(self, connected: Collection[PeerId]) -> None:
        """The record of a peer that stopped must not come back through us."""
        self._waiting = {name: offer for name, offer in self._waiting.items() if offer.peer in connected}

    def branch_read(self) -> None:
        """Forget what somebody else pushed."""
        for name in [n for n, offer in self._waiting.items() if self._view.has(n, offer.last_seen_ms)]:
            del self._waiting[name]

    def published(self, changes: Mapping[str, bytes | None]) -> None:
        """These are on the branch."""
        for name, data in changes.items():
            offer = self._waiting.get(name)
            if offer is not None and offer.data == data:
                del self._waiting[name]

    def due(self) -> list[Instant]:
        """When each should be pushed."""
        return [offer.due for offer in self._waiting.values()]

    def changes(self) -> dict[str, bytes | None]:
        """All of them, for a push."""
        return {name: offer.data for name, offer in sorted(self._waiting.items())}
