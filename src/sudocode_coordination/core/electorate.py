"""Who counts for majorities, as the lease machine is told: what the branch shows, what peers tell, and what the disk has kept.

    branch read -> Roster.update        peer tells whom it counts -> Roster.adopt        time -> Roster.passed
    all of it -> View for the leases, `Members` for the peers, StoredRoster for the next life

Laws: a peer that has said something knows whom it counted when, or is no voice until the leases of that time are over; peers
are told whom this one counts before any answer that is given by it; a peer whose own record is too old to count is no voice.
"""

from __future__ import annotations

from typing import Final

import msgspec

from sudocode_coordination.config import CoordinationConfig
from sudocode_coordination.core.claims import stretch
from sudocode_coordination.core.discovery import Discovery
from sudocode_coordination.core.facts import Output, Say
from sudocode_coordination.core.holdings import View
from sudocode_coordination.core.io import DiskContents, Persist, StoredValue
from sudocode_coordination.core.leases import LeaseManager
from sudocode_coordination.core.membership import Membership
from sudocode_coordination.core.roster import Roster, StoredRoster
from sudocode_coordination.core.wire import MAX_HOLD_MS, MAX_MEMBERS, Member, Members
from sudocode_coordination.model import Instant, Now, PeerId

READY_MS: Final = 5_000
"""A git remote that hangs does not keep anybody from working longer than this: leases are provisional then."""
ROSTER_SLACK_MS: Final = 10_000
"""A roster counts as read recently for two discovery intervals and this."""
SPACE: Final = "roster"
MAX_UNTOLD: Final = 1_000
"""Peers who count more than there is room for here: they are no voices. Past that many, all are listened to anew."""


class Electorate:
    """The roster of this peer, and whoever has to be told of it."""

    def __init__(
        self, me: PeerId, config: CoordinationConfig, leases: LeaseManager, discovery: Discovery, membership: Membership
    ) -> None:
        self._me = me
        self._agent = config.agent_id
        self._grace_ms = config.gone_grace_ms
        self._leases, self._discovery, self._membership = leases, discovery, membership
        self._fresh_ms = 2 * config.peer_discovery_interval_ms + ROSTER_SLACK_MS
        # Twice: whoever has not looked for the window less one begins anew, and none of its leases must be valid then any more.
        self._window_ms = 2 * self._fresh_ms + stretch(stretch(config.max_lease_ttl_ms))
        self.roster = Roster(me, self._window_ms, self._fresh_ms)
        self._started_at: Instant = 0
        self._stranger = False
        """It is not known whom the life before counted."""
        self._listed = False
        """The latest look at the branch has shown the own record."""
        self._is_back = False
        """Its last life said goodbye."""
        self._own_until: Instant = 0
        """Until when that record counts with others."""
        self._untold: set[PeerId] = set()
        self._lost: dict[PeerId, Instant] = {}
        """Members whom neither the branch nor a connection tells of, since when: nobody knows where to reach them."""
        self._groups: dict[PeerId, frozenset[PeerId]] = {}
        """Whose weight counts with each connected peer, as far as they are counted here."""
        self._told: tuple[tuple[PeerId, ...], tuple[PeerId, ...]] | None = None
        self._kept: StoredRoster | None = None
        self._left = False
        self._changes_at: Instant | None = None

    # --- life ---------------------------------------------------------------------------------------------------------------

    def started(self, contents: DiskContents, now: Now, *, newborn: bool) -> list[Output]:
        """`new_life`, `KILLS`, `LOSES`: whom this peer counted before is still counted. If it is not known, it is no voice: it may
        have been part of a quorum with peers that the branch does not show any more."""
        self._started_at = now.instant
        stored = _stored_in(contents)
        if stored is not None:
            self.roster.restore(stored.roster)
            self._is_back = stored.left
            self._own_until, self._kept = stored.own_until, stored.roster
            return []
        self._stranger = not newborn
        return self._leases.forget(now, self._window_ms) if self._stranger else []

    def stopping(self) -> list[Output]:
        """`LEAVES`: a goodbye: the others count this peer no more, and its next life begins like that of one who joins."""
        self._left = True
        return [_write(_Stored(StoredRoster(), 0, left=True))]

    def disk_failed(self) -> None:
        """What was to be kept is not on disk."""
        self._kept = None

    # --- what happens -----------------------------------------------------------------------------------------------------

    def branch_read(self, now: Now) -> list[Output]:
        """`look`: discovery has taken in a read of the branch."""
        read_at = self._discovery.roster_read_at
        if read_at is None:
            return []
        until = self._discovery.own_record_until(self._agent)
        if until is not None and until > 0:
            self._own_until = until
        self._listed = until is not None and read_at < self._own_until
        looked = self.roster.looked
        if self._is_back and not looked and self._discovery.branch_commit is None:
            # It has left in order, and knows nobody; where there was a branch there is none. Others may still count by the old one.
            self._is_back, self._stranger = False, True
        self.roster.update(
            self._discovery.on_branch, own=self._listed, read_at=read_at, now=now.instant, stale=self._discovery.known
        )
        if self._stranger and self.roster.looked and not looked:
            self._stranger = False
            return self._leases.forget(now, self._window_ms)
        return []

    def greet(self, peer: PeerId, now: Now) -> list[Output]:
        """`tell`: it is connected: tell it whom this peer counts."""
        return [Say(peer=peer, message=self._members(now))]

    def heard(self, peer: PeerId, message: Members, now: Now) -> None:
        """`adopt`, `tell`: a peer tells whom it counts. If there is no room for all of them, its voice is of no use."""
        whole = self.roster.adopt(((told.peer, told.left_ms) for told in message.members), now.instant)
        self._untold.discard(peer)
        if not whole or message.partial:
            if len(self._untold) >= MAX_UNTOLD:
                self._untold.clear()
            self._untold.add(peer)
        known = {member: member for member in self.roster.members}
        self._groups[peer] = frozenset(known[told.peer] for told in message.members if told.established and told.peer in known)

    def changed(self, now: Now) -> list[Output]:
        """`tell`, `decide`: work out who counts now: for the peers, for the disk, for the leases, in this order."""
        self.roster.passed(now.instant)
        out: list[Output] = []
        members, established = self.roster.members, self.roster.established(now.instant)
        if (members, established) != self._told:
            self._told = (members, established)
            out += [Say(peer=peer, message=self._members(now)) for peer in sorted(self._membership.connected_peers)]
        out += self._keep()
        lost = [peer for peer in members if peer != self._me and self._membership.peer(peer) is None]
        self._lost = {peer: self._lost.get(peer, now.instant) for peer in lost}
        view = self._view(members, established, now.instant)
        times = [self.ready_at(), self.roster.deadline(now.instant), self._membership.view_deadline(now.instant)]
        times += [since + self._grace_ms for since in self._lost.values()]
        if view.roster_fresh and self._discovery.roster_read_at is not None:
            times.append(min(self._discovery.roster_read_at + self._fresh_ms + 1, self._own_until))
        self._changes_at = min((at for at in times if at is not None and at > now.instant), default=None)
        return out + self._leases.view_changed(view, now)

    def deadline(self) -> Instant | None:
        """When `changed` has something to say by the mere passing of time."""
        return self._changes_at

    def ready_at(self) -> Instant | None:
        """When leases are decided whether the remote has answered or not; None if it has."""
        return None if self._discovery.first_read_done else self._started_at + READY_MS

    # --- inside -------------------------------------------------------------------------------------------------------------

    def _view(self, members: tuple[PeerId, ...], established: tuple[PeerId, ...], instant: Instant) -> View:
        """`STEADY`: `roster_fresh`: the read is recent, and shows the own record."""
        read_at = self._discovery.roster_read_at
        long_lost = {peer for peer, since in self._lost.items() if instant - since >= self._grace_ms}
        ready_at = self.ready_at()
        self._groups = {peer: group for peer, group in self._groups.items() if peer in members}
        # One that is new has dealt weight to all whom it found, though the others may not have seen some of them yet. Of several
        # that are new at once each gives weight to the others: whoever says that it has none does not outvote those who have. Nor
        # need it be as new: two that found each other before may hold by each other, so that is asked for too (`standing`).
        groups = {} if self._me in established else {peer: group & set(members) for peer, group in self._groups.items()}
        elders = tuple(peer for peer in established if peer in groups.get(peer, established)) if groups else ()
        return View(
            roster=members,
            established=established,
            groups=groups,
            elders=elders,
            voices=self.roster.voices - self._untold,
            voice_until=self._own_until,
            connected=self._membership.connected_peers,
            suspected=self._membership.suspected(instant) | frozenset(self._lost),
            gone=self._membership.gone(instant) | long_lost,
            roster_fresh=self._listed and read_at is not None and instant - read_at <= self._fresh_ms and instant < self._own_until,
            branch_seen=self.roster.read_at is not None,
            ready=ready_at is None or instant >= ready_at,
        )

    def _members(self, now: Now) -> Members:
        told, established = self.roster.told(now.instant), frozenset(self.roster.established(now.instant))
        members = tuple(Member(peer, min(left_ms, MAX_HOLD_MS), peer in established) for peer, left_ms in told[:MAX_MEMBERS])
        return Members(members=members, partial=len(told) > MAX_MEMBERS)

    def _keep(self) -> list[Output]:
        """On disk before anything that is said by it. When each was seen last may lag behind: it only looks longer off."""
        if self._stranger or self._left:
            return []
        now, kept = self.roster.stored(), self._kept
        if kept is not None and _shape(now) == _shape(kept) and (now.read_at or 0) - (kept.read_at or 0) < self._fresh_ms:
            return []
        self._kept = now
        return [_write(_Stored(now, self._own_until))]


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    roster: StoredRoster
    own_until: Instant
    left: bool = False
    """It said goodbye since."""


def _shape(stored: StoredRoster) -> StoredRoster:
    return msgspec.structs.replace(stored, read_at=None, seen={})


def _write(stored: _Stored) -> Output:
    data = msgspec.msgpack.encode(stored)
    return Persist(operations=(StoredValue(space=SPACE, key=SPACE, data=data),))


def _stored_in(contents: DiskContents) -> _Stored | None:
    for value in contents.values if contents.intact else ():
        if value.space == SPACE:
            try:
                return msgspec.msgpack.decode(value.data, type=_Stored)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                return None
    return None
