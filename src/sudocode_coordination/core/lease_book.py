"""The book of leases: what this peer's agents hold and wait for, what is known of others, and when to look again."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

import msgspec

from sudocode_coordination.config import CoordinationConfig
from sudocode_coordination.core.claims import (
    Claims,
    Known,
    key_of,
    stretch,
)
from sudocode_coordination.core.holdings import Holding, Ticket, View
from sudocode_coordination.core.keyring import Keyring
from sudocode_coordination.core.lease_history import LeaseHistory
from sudocode_coordination.core.lease_view import conflicts_on, describe
from sudocode_coordination.model import AgentId, ClaimId, Conflict, Instant, Lease, Now, PeerId, Resource

SPARE_TIMERS: Final = 1_000
"""Replaced timers that may lie around, besides one a claim: a peer that refreshes all the time must not fill the memory."""

MAX_ENDED: Final = 1_000
"""Own claims that ended within a ttl, the latest: some 100 KB for who is back. Others are counted there until their ttl is over."""


class LeaseBook:
    """Who holds and who waits, as this peer knows it; nothing is decided here."""

    def __init__(self, peer_id: PeerId, config: CoordinationConfig, keyring: Keyring) -> None:
        self._me = peer_id
        self._config = config
        self._longest_ms = stretch(stretch(config.max_lease_ttl_ms))
        self._fold_case = config.ignore_case is True
        self.claims = Claims(peer_id)
        self.history = LeaseHistory(keyring, config.lease_history)
        self.view = View(roster=(peer_id,))
        self._own: dict[ClaimId, Holding] = {}
        self._of_agent: dict[AgentId, dict[ClaimId, None]] = {}
        self._tickets: dict[Ticket, ClaimId] = {}
        self._granted_to: OrderedDict[Ticket, ClaimId] = OrderedDict()
        """The last requests that were granted something new."""
        self._timers: list[tuple[Instant, ClaimId]] = []
        self._meetings: dict[PeerId, Instant] = {}
        self._rounds: dict[int, list[ClaimId]] = {}
        self._round_answers: dict[int, set[PeerId]] = {}
        """Who has answered those: each is listened to once."""
        self._introduced: dict[PeerId, set[int]] = {}
        """Rounds that were told to a new peer alone, by `_tell_granted`, and are not answered."""
        self._dirty: dict[ClaimId, None] = {}
        self._told: dict[PeerId, tuple[Instant, int]] = {}
        """Bytes of claims disclosed to a peer, and since when they are counted."""
        self._incarnation = 0
        self._incarnations: dict[PeerId, int] = {}
        self._count = 0
        self._round = 0
        self._lamport = 0
        self._answered: list[ClaimId] = []
        """Leases whose grant was answered in this step."""
        self._disk_failed_at: Instant | None = None
        """In the step that handles a failure of the disk, which may not keep that step's writes either: nothing is decided."""
        self._ended_lately: OrderedDict[ClaimId, Instant] = OrderedDict()
        """Own claims that have ended, and until when others may count them."""
        self._forgetful_until: Instant = 0
        self._leaving = False

    def memory_lost(self, now: Instant) -> None:
        """`new_life`: what was acknowledged may be forgotten: until the longest lease is over, this peer is no voice."""
        self._forgetful_until = max(self._forgetful_until, now + self._longest_ms)

    def remembers(self, now: Instant) -> bool:
        """`new_life`: whether this peer surely knows all that it acknowledged, and will."""
        return now >= self._forgetful_until and not self._leaving

    def is_voice(self, now: Instant) -> bool:
        """`VOICES`, `IS_VOICE`: whether its answers count towards a quorum: also not while others may have ceased to count it."""
        return self.remembers(now) and (self.view.voice_until is None or now < self.view.voice_until)

    # --- queries ----------------------------------------------------------------------------------------------------------

    def describe(self, known: Known, now: Instant) -> Lease:
        """A claim as a `Lease`."""
        return describe(known, self._own.get(known.body.id), now)

    def leases(self, now: Instant, agent: AgentId | None = None) -> list[Lease]:
        """Those of an agent of this peer; of everyone if None. Holders first, then the queue in its order."""
        if agent is None:
            found = [k for k in self.claims.all() if self.claims.live(k, now)]
        else:
            found = [h.known for h in self._held_by(agent)]
        described = [(self._placed(k, now), key_of(k.body)) for k in found]
        described.sort(key=lambda pair: (pair[0].resources, pair[0].state != "granted", pair[1]))
        return [lease for lease, _ in described]

    def _placed(self, known: Known, now: Instant) -> Lease:
        """As a `Lease`, with its place in the queue if it waits."""
        lease = self.describe(known, now)
        if lease.state == "granted":
            return lease
        place, rivals = key_of(known.body), self.claims.conflicting(known.body, now)
        return msgspec.structs.replace(lease, position=1 + sum(1 for k in rivals if not k.granted and key_of(k.body) < place))

    def holdings(self) -> list[Holding]:
        """All own claims that have not ended."""
        return list(self._own.values())

    def held_count(self, now: Instant) -> dict[tuple[PeerId, AgentId], int]:
        """Granted leases by holder."""
        counts: dict[tuple[PeerId, AgentId], int] = {}
        for known in self.claims.all():
            holding = self._own.get(known.body.id)
            if self.claims.live(known, now) and (holding.granted if holding else known.granted):
                who = (known.owner, known.body.agent)
                counts[who] = counts.get(who, 0) + 1
        return counts

    def conflicts(self, agent: AgentId, resources: tuple[Resource, ...], now: Instant) -> tuple[Conflict, ...]:
        """What the agent would run into."""
        return conflicts_on(self.claims, resources, agent, self._me, self._own, now, fold_case=self._fold_case)

    def _note_ended(self, holding: Holding, now: Instant) -> None:
        """The word of its end may be lost with a connection, and it is said again to who is back. The document does not tell of all
        claims, nor of one that came and went since it was last exchanged."""
        self._ended_lately[holding.body.id] = now + stretch(holding.ttl_ms)
        while self._ended_lately and (len(self._ended_lately) > MAX_ENDED or next(iter(self._ended_lately.values())) <= now):
            self._ended_lately.popitem(last=False)

    # --- for the machine ---------------------------------------------------------------------------------------------------

    def _held_by(self, agent: AgentId) -> list[Holding]:
        return [self._own[id_] for id_ in self._of_agent.get(agent, ())]

    def _held_on(self, agent: AgentId, resources: Iterable[Resource], now: Instant) -> list[Holding]:
        """Those on what overlaps these, in no more time if the agent has many others."""
        if agent not in self._of_agent:
            return []
        known = self.claims.touching(resources, now, fold_case=self._fold_case)
        return [self._own[k.body.id] for k in known if k.body.id in self._own and k.body.agent == agent]

    def _wake_at(self, known: Known, at: Instant) -> None:
        """One timer a claim: a later call replaces an earlier one."""
        if known.timer_at != at:
            known.timer_at = at
            heapq.heappush(self._timers, (at, known.body.id))
            if len(self._timers) > 2 * len(self.claims) + SPARE_TIMERS:
                self._timers = [(k.timer_at, k.body.id) for k in self.claims.all() if k.timer_at is not None]
                heapq.heapify(self._timers)

    def _wake_at_expiry(self, known: Known) -> None:
        self._wake_at(known, known.expiry)

    def _others(self) -> list[PeerId]:
        """Whom to ask: all who are connected. Also those who do not count, because their records look out of date: what they claim
        is in the way, and only they can say that it gives way."""
        return sorted(self.view.connected - {self._me})

    def _blocking(self, holding: Holding, now: Now) -> list[Known]:
        return holding.blocking(self.claims, now.instant)
