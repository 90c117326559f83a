"""Who held what when, and what was left behind.

    grant -> the lease's entry in the document carries its holder's signature: an open entry of the history
    end   -> a signed entry under `leaseHistory` in the same envelope that takes the lease's entry away; no frame, no write more
    grant -> of the ended leases that overlap it and left a commit, the last one is its hand-over

Laws: entries are written by the holder's peer alone, in its own feed, and each can be verified by itself; an owner keeps the last
`lease_history` of its ended leases, and drops the oldest; renewals never enter.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from sudocode_coordination.api.history import ENDED_UNSEEN, signed_bytes
from sudocode_coordination.core.claims import Known, owner_of
from sudocode_coordination.core.facts import EntryChange, Notify, Output, Write
from sudocode_coordination.core.history_entries import (
    MAX_OVERLAPS,
    as_lease,
    branch_of,
    compact,
    entry_from_lease,
    entry_from_record,
    entry_of_record,
    open_entry,
    record_of,
    verify,
)
from sudocode_coordination.core.holdings import Holding
from sudocode_coordination.core.keyring import Keyring
from sudocode_coordination.core.lease_view import describe, entry_key, entry_of
from sudocode_coordination.core.overlap import Overlap
from sudocode_coordination.core.wire import ClaimBody, Left
from sudocode_coordination.model import (
    ClaimId,
    Handover,
    HistoryEntry,
    Json,
    Now,
    Overlapped,
    PeerId,
    Resource,
    WallMs,
    iso_from_ms,
)

ENTRY_BYTES: Final = 512
"""What an entry may take on average: with one resource and no commit it is about 250 bytes, with the owner's id 320."""
MAX_OWNER_LEFT: Final = 2_000
"""Hand-overs of one owner that are looked at: the most that its configuration lets it keep."""
MAX_TOLD: Final = 1_000
"""Hand-overs known from messages, whose entry has not come: it usually comes in the same frame."""
MAX_AHEAD_MS: Final = 3_600_000
"""Another's stamp that is further ahead of the own clock is not followed: one broken clock must not set everybody's."""


class _Left(NamedTuple):
    resources: tuple[Resource, ...]
    fold: bool
    stamp: int
    handover: Handover


class LeaseHistory:
    """The history of this peer's leases, and what others have left behind.

    Args:
        keep: ended leases of this peer that are kept, at least one: others learn from it that theirs was held along with it.
    """

    def __init__(self, keyring: Keyring, keep: int) -> None:
        self._keyring = keyring
        self._me = keyring.peer_id
        self._keep = keep
        self._own: dict[str, tuple[HistoryEntry, int]] = {}
        """By key: what is kept, and about how many bytes it takes. By stamp, the oldest first, if `_in_order`."""
        self._in_order = True
        self._own_bytes = 0
        self._clock = 0
        """Highest stamp seen."""
        self._left: dict[ClaimId, _Left] = {}
        self._left_of: dict[PeerId, int] = {}
        self._overlap = Overlap()
        self._told: dict[ClaimId, None] = {}

    # --- own leases -------------------------------------------------------------------------------------------------------

    def granted(self, holding: Holding, replaced: Holding | None) -> None:
        """It has just been granted: what it is handed. A claim that takes over what is left of a lease goes on as that lease."""
        known = holding.known
        if replaced is not None and replaced.granted and replaced.let_go and not replaced.to_share:
            known.since, known.handover, holding.overlaps = replaced.known.since, replaced.known.handover, replaced.overlaps
        else:
            known.handover = self.handover(holding.body.resources, fold=holding.body.fold)

    def shown(self, holding: Holding) -> Json:
        """What the document holds of an own claim: signed, if its agent has it."""
        return entry_of(holding, self._sign(open_entry(holding)).signature if holding.held else "")

    def ended(self, holding: Holding, reason: str, now: Now) -> tuple[list[Write], Left | None]:
        """A granted one has ended: its entry, to be written before the lease's is taken away, and what it leaves behind."""
        stamp = self._tick(now.wall_ms)
        resources = holding.body.resources
        let_go = tuple(r for r in resources if r in holding.let_go) or resources
        if reason == "replaced" and holding.let_go and not holding.to_share:
            # The rest goes on under another claim, which tells of the whole time in its own entry.
            resources, reason = let_go, "released"
        entry = msgspec.structs.replace(
            open_entry(holding),
            resources=resources,
            ended_at=iso_from_ms(now.wall_ms),
            reason=reason,
            commit=holding.commit,
            branch=holding.branch if holding.commit else "",
            rival=holding.yield_to if reason in ("preempted", "lost-conflict") else "",
            overlaps=holding.overlaps[-MAX_OVERLAPS:],
            stamp=stamp,
        )
        left = None
        if holding.commit is not None:
            on = () if let_go == holding.body.resources else let_go
            left = Left(holding.commit, holding.branch, iso_from_ms(now.wall_ms), stamp, on)
            self.told(holding.known, left, now)
        return self._keep_entry(entry), left

    def restarted(self, ended: Iterable[tuple[str, Json]], held: Iterable[tuple[str, Json]], now: Now) -> list[Write]:
        """What earlier lives of this peer have written. What they held has ended; when that was is not known: before now.

        Args:
            ended: own entries of the document's `leaseHistory`, as (key, value).
            held: those of its `leases`.
        """
        for key, value in ended:
            record = record_of(key, value)
            if record is not None:
                self._clock = max(self._clock, record.stamp)
                self._note_own(key, entry_of_record(self._me, key, record), value)
        found = [entry for key, value in held if (entry := entry_from_lease(self._me, key, value)) is not None]
        found.sort(key=lambda entry: (entry.granted_at, entry.claim_id))
        out: list[Write] = []
        for entry in found[-self._keep :]:
            stamp = self._tick(now.wall_ms)
            closed = msgspec.structs.replace(entry, ended_at=iso_from_ms(now.wall_ms), reason=ENDED_UNSEEN, stamp=stamp)
            out += self._keep_entry(closed)
        return out

    def lost(self, mine: Holding, rival: ClaimBody, known: Known | None, now: Now) -> None:
        """An own lease ends because another's, granted on the same, goes before it. What is known of the time that both held."""
        since = max(mine.known.since, known.granted_since if known is not None else "")
        base = known.handover.commit if known is not None and known.handover is not None else None
        clash = Overlapped(
            claim_id=rival.id,
            peer_id=owner_of(rival.id),
            agent_id=rival.agent,
            since=since,
            until=iso_from_ms(now.wall_ms),
            base=base,
        )
        mine.overlaps = (*mine.overlaps, clash)

    def _tick(self, wall_ms: WallMs) -> int:
        self._clock = max(wall_ms, self._clock + 1)
        return self._clock

    def _sign(self, entry: HistoryEntry) -> HistoryEntry:
        signature = b64encode(self._keyring.sign(signed_bytes(entry))).decode()
        return msgspec.structs.replace(entry, signature=signature)

    def _keep_entry(self, entry: HistoryEntry) -> list[Write]:
        signed = self._sign(entry)
        key, value = entry_key(entry.claim_id), msgspec.to_builtins(compact(signed))
        self._note_own(key, signed, value)
        out = [Write(root="leaseHistory", key=key, value=value)]
        if not self._in_order:
            self._own = dict(sorted(self._own.items(), key=lambda item: item[1][0].stamp))
            self._in_order = True
        while len(self._own) > self._keep or (self._own_bytes > self._keep * ENTRY_BYTES and len(self._own) > 1):
            oldest = next(iter(self._own))
            self._drop_own(oldest)
            self._told.pop(f"{self._me}.{oldest}", None)
            self._drop_left(f"{self._me}.{oldest}")
            out.append(Write(root="leaseHistory", key=oldest, value=None))
        return out

    def _note_own(self, key: str, entry: HistoryEntry, value: Json) -> None:
        before = self._own.get(key)
        size = len(self._me) + 4 * len(key) + len(msgspec.msgpack.encode(value))
        last = next(reversed(self._own.values()), None)
        if before is None and last is not None and last[0].stamp > entry.stamp:
            self._in_order = False
        self._own_bytes += size - (before[1] if before else 0)
        self._own[key] = (entry, size)

    def _drop_own(self, key: str) -> None:
        dropped = self._own.pop(key, None)
        self._own_bytes -= dropped[1] if dropped else 0

    # --- what is left behind ----------------------------------------------------------------------------------------------

    def handover(self, resources: tuple[Resource, ...], *, fold: bool) -> Handover | None:
        """Of the ended leases known here that overlap these and left a commit, what the last one left."""
        found = [(self._left[id_].stamp, id_) for id_ in self._overlap.of(resources, fold_case=fold)]
        return self._left[max(found)[1]].handover if found else None

    def told(self, known: Known, left: Left, now: Now) -> None:
        """The holder of a claim says what it leaves behind; its entry may come later."""
        id_ = known.body.id
        self._told.pop(id_, None)
        self._saw(left.stamp, now.wall_ms)
        handover = Handover(commit=left.commit, branch=branch_of(left.branch), agent_id=known.body.agent, at=left.at)
        if self._put_left(id_, _Left(left.resources or known.body.resources, known.body.fold, left.stamp, handover)):
            self._told[id_] = None
        while len(self._told) > MAX_TOLD:
            oldest = next(iter(self._told))
            del self._told[oldest]
            self._drop_left(oldest)

    def _put_left(self, id_: ClaimId, left: _Left) -> bool:
        self._drop_left(id_)
        owner = owner_of(id_)
        if self._left_of.get(owner, 0) >= MAX_OWNER_LEFT:
            return False
        self._left_of[owner] = self._left_of.get(owner, 0) + 1
        self._left[id_] = left
        self._overlap.add(id_, left.resources, fold_case=left.fold)
        return True

    def _drop_left(self, id_: ClaimId) -> None:
        left = self._left.pop(id_, None)
        if left is not None:
            self._overlap.remove(id_, left.resources, fold_case=left.fold)
            owner = owner_of(id_)
            self._left_of[owner] -= 1
            if not self._left_of[owner]:
                del self._left_of[owner]

    def _saw(self, stamp: int, wall_ms: WallMs) -> None:
        if stamp <= wall_ms + MAX_AHEAD_MS:
            self._clock = max(self._clock, stamp)

    # --- the document -----------------------------------------------------------------------------------------------------

    def entries_changed(
        self, owner: PeerId, changes: tuple[EntryChange, ...], own: Mapping[ClaimId, Holding], now: Now
    ) -> list[Output]:
        """What the document says of ended leases, of this peer's earlier lives too. Own leases, held or over, that were held along
        with one of those are told of.

        Args:
            own: what this peer's agents hold.
        """
        out: list[Output] = []
        for change in changes:
            if change.root != "leaseHistory":
                continue
            id_ = f"{owner}.{change.key}"
            self._told.pop(id_, None)
            record = None if change.value is None else record_of(change.key, change.value)
            if record is None:
                self._drop_left(id_)
                if owner == self._me:
                    self._drop_own(change.key)
                continue
            entry = entry_of_record(owner, change.key, record)
            self._saw(entry.stamp, now.wall_ms)
            if entry.commit is not None:
                on = self._left[id_].resources if id_ in self._left else entry.resources
                branch = branch_of(entry.branch)
                handover = Handover(commit=entry.commit, branch=branch, agent_id=entry.agent_id, at=record.ended_at)
                self._put_left(id_, _Left(on, entry.fold, entry.stamp, handover))
            else:
                self._drop_left(id_)
            if owner == self._me:
                if change.key not in self._own:
                    self._note_own(change.key, entry, change.value)
                continue
            for clash in entry.overlaps:
                if clash.peer_id == self._me:
                    out += self._was_overlapped(clash.claim_id, entry, own, now)
        return out

    def _was_overlapped(self, mine: ClaimId, loser: HistoryEntry, own: Mapping[ClaimId, Holding], now: Now) -> list[Output]:
        """Another's lease was held along with an own one, and has given way to it."""
        holding = own.get(mine)
        kept = self._own.get(entry_key(mine))
        if holding is not None and holding.granted:
            since, known_already = holding.known.since, holding.overlaps
        elif kept is not None:
            since, known_already = kept[0].granted_at, kept[0].overlaps
        else:
            return []
        if any(o.claim_id == loser.claim_id for o in known_already) or len(known_already) >= MAX_OVERLAPS:
            return []
        if not verify(loser, self._keyring):
            return []
        clash = Overlapped(
            claim_id=loser.claim_id,
            peer_id=loser.peer_id,
            agent_id=loser.agent_id,
            since=max(since, loser.granted_at),
            until=loser.ended_at or "",
            base=loser.base,
        )
        out: list[Output] = []
        if holding is not None and holding.granted:
            holding.overlaps = (*holding.overlaps, clash)
            lease = describe(holding.known, holding, now.instant)
        else:
            assert kept is not None
            signed = self._sign(msgspec.structs.replace(kept[0], overlaps=(*kept[0].overlaps, clash)))
            value = msgspec.to_builtins(compact(signed))
            self._note_own(entry_key(mine), signed, value)
            out.append(Write(root="leaseHistory", key=entry_key(mine), value=value))
            lease = as_lease(signed)
        data = {"lease": msgspec.to_builtins(lease), "overlap": msgspec.to_builtins(clash)}
        return [*out, Notify(type="conflicts-detected", agent_id=lease.agent_id, data=data)]

    def query(
        self,
        resources: tuple[Resource, ...],
        ended: Iterable[tuple[PeerId, str, Json]],
        held: Iterable[tuple[PeerId, str, Json]],
        *,
        limit: int,
        in_force: Callable[[ClaimId], bool],
        fold: bool = False,
    ) -> list[HistoryEntry]:
        """Leases that were or are held on what overlaps the resources, the latest grant first; without resources all. What its
        owner has not signed is left out.

        Args:
            ended: the document's `leaseHistory`, as (owner, key, value).
            held: its `leases`.
            in_force: whether a claim counts, as far as is known here.
            fold: case does not count to whoever asks.
        """
        wanted = Overlap()
        wanted.add("wanted", resources, fold_case=fold)
        found: dict[ClaimId, HistoryEntry] = {}
        for rows, read in ((held, entry_from_lease), (ended, entry_from_record)):
            for owner, key, value in rows:
                entry = read(owner, key, value)
                if entry is None:
                    continue
                if resources and next(wanted.of(entry.resources, fold_case=entry.fold), None) is None:
                    continue
                if entry.ended_at is None and not in_force(entry.claim_id):
                    entry = msgspec.structs.replace(entry, lapsed=True)
                found[entry.claim_id] = entry
        shown: list[HistoryEntry] = []
        for entry in sorted(found.values(), key=_latest, reverse=True):
            if len(shown) >= limit:
                break
            if verify(entry, self._keyring):
                shown.append(entry)
        return shown


def _latest(entry: HistoryEntry) -> tuple[str, bool, int, ClaimId]:
    return (entry.granted_at, entry.ended_at is None, entry.stamp, entry.claim_id)
