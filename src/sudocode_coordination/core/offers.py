"""Signed records of others that wait for this peer, the publisher, to push them: renewals and changes of who is on the branch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from sudocode_coordination.core.keyring import Keyring
from sudocode_coordination.core.peer_view import BranchView
from sudocode_coordination.core.records import offered_name, parse_record, parse_wall, peer_of
from sudocode_coordination.model import Instant, Now, PeerId, WallMs

MAX_OFFERS: Final = 2_000
"""Records that wait to be published for others: as many as are read."""
MAX_PEER_OFFERS: Final = 500
"""Of those, offered by one peer: as many as a clone may have agents. One alone must not take the room of all."""


class _Offer(msgspec.Struct, frozen=True, kw_only=True):
    peer: PeerId
    owner: PeerId
    data: bytes
    last_seen_ms: WallMs
    due: Instant


class Offers:
    """What waits.

    Args:
        keyring: verifies signatures.
        view: who is on the branch: nobody else is brought there by us.
        gap_ms: how long a change waits for others.
    """

    def __init__(self, keyring: Keyring, view: BranchView, gap_ms: int) -> None:
        self._keyring = keyring
        self._view = view
        self._gap_ms = gap_ms
        self._offers: dict[str, _Offer] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._offers

    def take(self, peer: PeerId, data: bytes, connected: frozenset[PeerId], now: Now) -> None:
        """A connected peer hands over a record; what is no news is passed over."""
        name = offered_name(data)
        crowded = len(self._offers) >= MAX_OFFERS or sum(o.peer == peer for o in self._offers.values()) >= MAX_PEER_OFFERS
        if name is None or (name not in self._offers and crowded):
            return
        record = parse_record(name, data, self._keyring)
        if isinstance(record, str) or peer_of(record) == self._keyring.peer_id:
            return
        owner = peer_of(record)
        if not self._view.names_of(owner):
            return  # it is not for us to let anybody in who can't, or may not, push
        last_seen_ms = parse_wall(record.last_seen) or 0
        waiting = self._offers.get(name)
        if waiting is not None and waiting.last_seen_ms >= last_seen_ms:
            return
        if not self._view.would_renew(name, owner, last_seen_ms, connected):
            return
        renewal = self._view.says_the_same(name, record)
        due = now.instant + (record.ttl // 6 if renewal else self._gap_ms)
        if waiting is not None:
            due = min(due, waiting.due)
        self._offers[name] = _Offer(peer=peer, owner=owner, data=data, last_seen_ms=last_seen_ms, due=due)

    def keep(self, connected: frozenset[PeerId]) -> None:
        """The record of a peer that stopped must not come back through us."""
        self._offers = {name: offer for name, offer in self._offers.items() if offer.peer in connected}

    def branch_read(self) -> None:
        """Drop what somebody else pushed, and what is of peers that somebody removed."""
        self._offers = {
            name: offer
            for name, offer in self._offers.items()
            if not self._view.has(name, offer.last_seen_ms) and self._view.names_of(offer.owner)
        }

    def published(self, changes: Mapping[str, bytes | None]) -> None:
        """Drop what was pushed."""
        self._offers = {name: offer for name, offer in self._offers.items() if changes.get(name) != offer.data}

    def times(self) -> list[Instant]:
        """When each is due."""
        return [offer.due for offer in self._offers.values()]

    def changes(self) -> tuple[dict[str, bytes | None], dict[str, tuple[str, ...]]]:
        """All of them, and beside which files each may be written."""
        offers = sorted(self._offers.items())
        return {name: offer.data for name, offer in offers}, {name: self._view.names_of(offer.owner) for name, offer in offers}
