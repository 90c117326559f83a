"""What this peer knows of claims: its own and those of others, until they have ended.

Laws (`docs/leases.md`): an ended claim never lives again; what is known of another's claim lasts a
little longer here than its owner may rely on it (K covers clocks whose rates differ by up to rho, 1 %, on each side).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Final, Literal

import msgspec

from sudocode_coordination.core.io import StoredValue
from sudocode_coordination.core.overlap import Overlap
from sudocode_coordination.core.resources import pattern_count
from sudocode_coordination.core.wire import MAX_RESOURCES, ClaimBody, Disclosed
from sudocode_coordination.model import ClaimId, Grade, Handover, Instant, PeerId, Resource

MAX_CLAIMS: Final = 100_000
"""Claims of others kept at most: ten times the largest swarm we know of; past it, new ones are answered
but not learnt."""
MAX_OWNER_CLAIMS: Final = 25_000
"""Of one owner, so that one alone does not take all the room; more than twice what a busy clone has."""
MAX_OWNER_BYTES: Final = 16 << 20
"""Of the claims of one owner, as they are sent."""
MAX_CLAIM_BYTES: Final = 48 << 10
"""Of one claim: twice what `own_leases` makes. Larger ones could not be disclosed in numbers."""
MAX_OWNER_PATTERNS: Final = 512
"""Patterns in the claims of one owner: names are found by bisection, but a pattern can be made that has to be compared with every
name that is asked for, at some 30 µs. Another's claim past it is not learnt, and has no voice of this peer."""
MAX_OWN_PATTERNS: Final = MAX_OWNER_PATTERNS // 2
"""Of this peer; more are refused. A claim that takes another's place stands beside it for a moment: both are known to others."""
MAX_TOMBSTONES: Final = 20_000
"""Ended claims remembered, so that a late copy does not revive one. An older one is held dead by its owner, who never renews it."""

_RANKS: Final[tuple[Grade, ...]] = ("strict", "quorum", "provisional")
Source = Literal["own", "direct", "document"]


def stretch(duration_ms: int) -> int:
    """`duration * K`, rounded up: at least as long here as `duration` is on any clock within the bound."""
    return duration_ms * 101 // 99 + 1


def claim_id(peer: PeerId, incarnation: int, number: int) -> ClaimId:
    """`<peer>.<incarnation>.<number>`."""
    return f"{peer}.{incarnation}.{number}"


def owner_of(claim: ClaimId) -> PeerId:
    """The peer whose claim it is."""
    return claim.split(".", 1)[0]


def incarnation_of(claim: ClaimId) -> int:
    """The owner's incarnation; -1 for an id that is none."""
    parts = claim.split(".")
    return int(parts[1]) if len(parts) == 3 and parts[1].isdecimal() and parts[2].isdecimal() else -1


def key_of(body: ClaimBody) -> tuple[int, int, PeerId, ClaimId]:
    """Order in the queue: priority, then first come first served, then by name. Lower goes first."""
    return (-priority_of(body), body.lamport, owner_of(body.id), body.id)


def priority_of(body: ClaimBody) -> int:
    """The priority it was asked for with, and what it has gained by waiting."""
    return body.priority + body.aged


def rank_of(body: ClaimBody, grade: Grade) -> tuple[int, tuple[int, int, PeerId, ClaimId]]:
    """Who keeps it when two hold the same: strict before quorum before provisional, then `key_of`. Lower keeps."""
    return (_RANKS.index(grade), key_of(body))


class Known:
    """One claim, as known here."""

    __slots__ = (
        "body",
        "ended",
        "expiry",
        "grade",
        "granted",
        "granted_since",
        "handover",
        "hold_ms",
        "owner",
        "patterns",
        "round",
        "since",
        "size_bytes",
        "source",
        "stored_ms",
        "strict",
        "timer_at",
        "token",
        "told_round",
        "untold",
    )

    def __init__(self, body: ClaimBody, source: Source, expiry: Instant, since: str) -> None:
        self.body = body
        self.owner = owner_of(body.id)
        self.source: Source = source
        self.expiry = expiry
        self.hold_ms = body.ttl_ms
        self.round = -1
        """The latest refresh that came from its owner …"""
        self.told_round = -1
        """… and the latest that others told of."""
        self.granted = False
        self.grade: Grade = "provisional"
        self.ended = False
        self.since = since
        self.granted_since = ""
        """Of another's: when it was granted, if its owner has told; `since` may be when it was first heard of."""
        self.handover: Handover | None = None
        """What it was handed when it was granted."""
        self.size_bytes = 150 + sum(20 + len(r.path) for r in body.resources) + len(body.note)
        """About, as it is sent."""
        self.patterns = pattern_count(body.resources)
        self.stored_ms = 0
        """For how long the disk says that it counts."""
        self.timer_at: Instant | None = None
        self.strict = False
        """By the document: it is to be in the strict table, too; with the fencing token that it has there."""
        self.token: int | None = None
        self.untold = False
        """Another's: it was let through by the peers and is not in the strict table yet; who listens here has not heard of it."""


class StoredClaim(msgspec.Struct, frozen=True, array_like=True):
    """On disk: written before the claim is acknowledged, so that a restart does not forget it."""

    body: ClaimBody
    round: int
    hold_ms: int
    granted: bool
    grade: Grade
    since: str


class Claims:
    """The registry. Own claims are in it too, so that one look finds every conflict; their owner decides when they end."""

    def __init__(self, peer_id: PeerId) -> None:
        self._peer_id = peer_id
        self._known: dict[ClaimId, Known] = {}
        self._overlap = Overlap()
        self._of_owner: dict[PeerId, dict[ClaimId, None]] = {}
        self._waiting: dict[ClaimId, None] = {}
        """Not granted when last looked at."""
        self.changes = 0
        """Counts what may change who waits for whom: claims that come, end, or are granted."""
        self._owner_bytes: dict[PeerId, int] = {}
        self._owner_patterns: dict[PeerId, int] = {}
        self._tombstones: OrderedDict[ClaimId, None] = OrderedDict()
        self.counted_owners: frozenset[PeerId] = frozenset()
        """Peers of the roster: claims that only the document tells of count if their owner is one of these."""

    def get(self, claim: ClaimId) -> Known | None:
        """What is known of it; None if nothing, or if it has ended."""
        return self._known.get(claim)

    def is_ended(self, claim: ClaimId) -> bool:
        """Whether it is known to have ended."""
        return claim in self._tombstones

    def add(self, known: Known) -> bool:
        """Take a claim in; False if there is no room, or if it has ended already."""
        id_ = known.body.id
        size_bytes = self._owner_bytes.get(known.owner, 0) + known.size_bytes
        if id_ in self._tombstones:
            return False
        if known.source != "own":
            crowded = len(self._known) >= MAX_CLAIMS or len(self._of_owner.get(known.owner, ())) >= MAX_OWNER_CLAIMS
            large = known.size_bytes > MAX_CLAIM_BYTES or size_bytes > MAX_OWNER_BYTES
            if crowded or large or not self.room_for_patterns(known.owner, known.patterns):
                return False
        self._owner_bytes[known.owner] = size_bytes
        self._owner_patterns[known.owner] = self._owner_patterns.get(known.owner, 0) + known.patterns
        self._known[id_] = known
        self._of_owner.setdefault(known.owner, {})[id_] = None
        self._waiting[id_] = None
        self.changes += 1
        self._overlap.add(id_, known.body.resources, fold_case=known.body.fold)
        return True

    def room_for_patterns(self, owner: PeerId, count: int, most: int = MAX_OWNER_PATTERNS) -> bool:
        """Whether that many patterns more are within what an owner may have."""
        return not count or self._owner_patterns.get(owner, 0) + count <= most

    def end(self, claim: ClaimId) -> Known | None:
        """`ON_END`: it has ended, for good. What was known of it, if anything was."""
        self._tombstones[claim] = None
        self._tombstones.move_to_end(claim)
        while len(self._tombstones) > MAX_TOMBSTONES:
            self._tombstones.popitem(last=False)
        return self.forget(claim)

    def forget(self, claim: ClaimId) -> Known | None:
        """`forget`: it was not heard of for too long. Unlike an ended one it counts again if its owner refreshes it."""
        known = self._known.pop(claim, None)
        self._waiting.pop(claim, None)
        if known is not None:
            known.ended = True
            self.changes += 1
            self._overlap.remove(claim, known.body.resources, fold_case=known.body.fold)
            of_owner = self._of_owner[known.owner]
            of_owner.pop(claim, None)
            self._owner_bytes[known.owner] -= known.size_bytes
            self._owner_patterns[known.owner] -= known.patterns
            if not of_owner:
                del self._of_owner[known.owner], self._owner_bytes[known.owner], self._owner_patterns[known.owner]
        return known

    def live(self, known: Known, now: Instant) -> bool:
        """Whether it counts. Own claims live until they are ended."""
        if known.ended:
            return False
        if known.source == "own":
            return True
        return now < known.expiry and (known.source == "direct" or known.owner in self.counted_owners)

    def is_live(self, claim: ClaimId, now: Instant) -> bool:
        """`live`, by id; False for one that is not known."""
        known = self._known.get(claim)
        return known is not None and self.live(known, now)

    def conflicting(self, body: ClaimBody, now: Instant) -> list[Known]:
        """Live claims that can't be held together with `body`: their resources overlap, one of the two is exclusive, and they
        are not of the same agent of the same peer."""
        owner = owner_of(body.id)
        found = []
        for id_ in self._overlap.of(body.resources, fold_case=body.fold):
            other = self._known[id_]
            if id_ == body.id or (other.body.agent == body.agent and other.owner == owner):
                continue
            if body.mode == "shared" and other.body.mode == "shared":
                continue
            if self.live(other, now):
                found.append(other)
        return found

    def touching(self, resources: Iterable[Resource], now: Instant, *, fold_case: bool = False) -> list[Known]:
        """Live claims on what overlaps any of these resources. `fold_case`: case does not count to whoever asks."""
        found = self._overlap.of(resources, fold_case=fold_case)
        return [known for id_ in found if self.live(known := self._known[id_], now)]

    def waiting(self, now: Instant) -> list[Known]:
        """Live claims that are not granted, in the order of the queue."""
        found = [self._known[id_] for id_ in self._waiting]
        self._waiting = {known.body.id: None for known in found if not known.granted}  # a granted one never waits again
        return sorted((k for k in found if not k.granted and self.live(k, now)), key=lambda known: key_of(known.body))

    def of_owner(self, owner: PeerId) -> list[Known]:
        """All that is known of one peer's claims."""
        return [self._known[id_] for id_ in self._of_owner.get(owner, ())]

    def __len__(self) -> int:
        return len(self._known)

    def all(self) -> Iterator[Known]:
        """All claims that have not ended."""
        return iter(self._known.values())

    def learn(self, disclosed: Disclosed, now: Instant, since: str) -> Known | None:
        """`learn`: a claim that somebody else told of; None if it has ended, or there is no room. Own ones are known better."""
        body = disclosed.claim
        known = self._known.get(body.id)
        if known is None:
            if owner_of(body.id) == self._peer_id or incarnation_of(body.id) < 0:
                return None
            known = Known(body, "direct", now + stretch(disclosed.remaining_ms), since)
            known.granted, known.grade, known.told_round = disclosed.granted, disclosed.grade, disclosed.round
            return known if self.add(known) else None
        if known.source != "own":
            if disclosed.round > max(known.round, known.told_round):
                known.source, known.told_round = "direct", disclosed.round
                known.expiry = max(known.expiry, now + stretch(disclosed.remaining_ms))
            if disclosed.granted and not known.granted:
                known.granted, known.grade = True, disclosed.grade
                self.changes += 1
        return known


def within(claims: list[Known], size_bytes: int) -> Iterator[Known]:
    """The first of them, as many as a message may have and as fit."""
    for known in claims[:MAX_RESOURCES]:
        size_bytes -= known.size_bytes
        if size_bytes < 0:
            return
        yield known


def stored_claim(known: Known, granted: bool, grade: Grade) -> StoredValue:
    """Its place on disk, as of now."""
    known.stored_ms = known.hold_ms
    stored = StoredClaim(known.body, known.round, known.hold_ms, granted, grade, known.since)
    return StoredValue(space="claims", key=known.body.id, data=msgspec.msgpack.encode(stored))
