"""Fast leases: record, disclose to a majority, the owner arbitrates. `docs/leases.md` has the protocol and what it promises.

The actions, by the names of the protocol: `_refresh` (ask, renew), `_judge` (a claim meets an own one), `_evaluate` (grant,
extend, deny, queue) and `_end` are those of the owner, in `own_leases.py`; `_on_claim`, `_on_ack`, … those of who is asked,
here. Laws: two conflicting quorum leases are never valid together; an ended claim is never revived; of two that meet,
exactly one side ends, the same whoever looks, and its agent is told; all resources or none.
"""

from __future__ import annotations

import heapq
from typing import Final, Literal, assert_never

import msgspec

from sudocode_coordination.core.claims import (
    Known,
    StoredClaim,
    claim_id,
    incarnation_of,
    owner_of,
    stored_claim,
    stretch,
    within,
)
from sudocode_coordination.core.facts import EntryChange, Misbehaved, Notify, Output, Say
from sudocode_coordination.core.holdings import Holding, View
from sudocode_coordination.core.io import DiskContents, ForgottenValue, Persist, StoredValue
from sudocode_coordination.core.lease_requests import LeaseRequests
from sudocode_coordination.core.lease_view import known_from_entry
from sudocode_coordination.core.own_leases import LeaseMessage, message_of
from sudocode_coordination.core.wire import (
    MAX_HOLD_MS,
    MAX_RESOURCES,
    Ack,
    Claim,
    Disclosed,
    End,
    Granted,
    Renew,
    RenewAck,
)
from sudocode_coordination.model import ClaimId, Instant, Now, PeerId, earliest, iso_from_ms

FULL_CLAIMS_ON_MEETING: Final = 200
"""More granted claims than this are told to a new peer by number, once its documents have come."""
MEETING_DELAY_MS: Final = 2_000
FORGETFUL_SPACE: Final = "forgetful"
"""On disk: until when, by the clock of this boot, this peer is no voice."""
MAX_INCARNATIONS: Final = 2_000
"""Peers whose latest life is remembered; past that only those who count now."""
MAX_YIELDS: Final = 20_000
"""Claims of others noted to have given way to one round: a peer may name any number."""
ACK_BYTES: Final = 256 << 10
"""Of claims disclosed in one answer: a frame has room for it, and an honest queue is much shorter."""
TOLD_BYTES: Final = 4 << 20
"""Disclosed to one peer within `TOLD_WINDOW_MS`: small questions must not make large answers without end."""
TOLD_WINDOW_MS: Final = 1_000


class LeaseManager(LeaseRequests):
    """The leases of this peer's agents, and what it knows of those of others."""

    # --- life ---------------------------------------------------------------------------------------------------------

    def started(self, incarnation: int, contents: DiskContents, now: Now, *, newborn: bool = False) -> list[Output]:
        """`new_life`: what was acknowledged before a restart still counts; own leases of before do not. That something was
        forgotten is itself remembered: a second restart must not look as if nothing had been."""
        self._incarnation = incarnation
        if not (contents.intact or newborn):
            self.memory_lost(now.instant)
        for value in contents.values:
            if value.space == FORGETFUL_SPACE and value.data.isdigit() and len(value.data) <= 16:
                longest = now.instant + self._longest_ms
                bound = longest + self._longest_ms  # more than anybody notes: it may be damaged
                self._forgetful_until = max(self._forgetful_until, min(int(value.data), bound) if contents.intact else longest)
            if value.space != "claims":
                continue
            try:
                stored = msgspec.msgpack.decode(value.data, type=StoredClaim)
            except (ValueError, RecursionError):
                self.memory_lost(now.instant)
                continue
            known = Known(stored.body, "direct", now.instant + stretch(stored.hold_ms), stored.since)
            known.round, known.hold_ms, known.granted, known.grade = stored.round, stored.hold_ms, stored.granted, stored.grade
            known.stored_ms = known.hold_ms
            self._lamport = max(self._lamport, stored.body.lamport)
            if self.claims.add(known):
                self._wake_at_expiry(known)
        return [] if self.remembers(now.instant) else [self._note_forgetful()]

    def forget(self, now: Now, for_ms: int = 0) -> list[Output]:
        """What is known here is no ground for a voice, until the longest lease is over, and for at least `for_ms`, whatever happens
        to this process."""
        self.memory_lost(now.instant)
        self._forgetful_until = max(self._forgetful_until, now.instant + for_ms)
        return [self._note_forgetful()]

    def _note_forgetful(self) -> Output:
        until = str(self._forgetful_until).encode()
        return Persist(operations=(StoredValue(space=FORGETFUL_SPACE, key="until", data=until),))

    def deadline(self) -> Instant | None:
        """When to be ticked next."""
        first = self._timers[0][0] if self._timers else None
        if self._disk_failed_at is not None and self._dirty:
            first = self._disk_failed_at
        return earliest(first, *self._meetings.values()) if self._meetings else first

    def ticked(self, now: Now) -> list[Output]:
        """`EXPIRE`: do what is due."""
        out: list[Output] = []
        renewals: list[Holding] = []
        while self._timers and self._timers[0][0] <= now.instant:
            at, id_ = heapq.heappop(self._timers)
            known = self.claims.get(id_)
            if known is None or known.timer_at != at:
                continue
            known.timer_at = None
            holding = self._own.get(id_)
            if holding is not None:
                out += self._serve(holding, renewals, now)
            elif now.instant >= known.expiry:
                out += self._forgotten(known, "expired", now, for_good=False)
            else:
                self._wake_at_expiry(known)
        if renewals:
            out += self._renew_together(renewals, now)
        for peer in sorted(peer for peer, at in self._meetings.items() if at <= now.instant) if self._meetings else ():
            del self._meetings[peer]
            out += self._tell_granted(peer)
        return out + self.settle(now)

    def testament(self, now: Now) -> tuple[tuple[Disclosed, ...], bool]:
        """Claims of others that this peer has acknowledged, and whether these are all."""
        live = [k for k in self.claims.all() if k.source == "direct" and self.claims.live(k, now.instant)]
        told = list(within(live, ACK_BYTES))
        whole = len(told) == len(live) and self.remembers(now.instant)
        return tuple(self._disclose(known, now.instant) for known in told), whole

    def inherit(self, testament: tuple[Disclosed, ...], now: Now) -> tuple[bool, list[Output]]:
        """`learn`, `INHERIT`: what a peer that leaves has acknowledged counts from now on as if it had been acknowledged here, on
        disk too. False if there is no room for it."""
        whole = True
        operations: list[StoredValue] = []
        for disclosed in testament:
            known = self.claims.learn(disclosed, now.instant, iso_from_ms(now.wall_ms))
            if known is None:
                gone = self.claims.is_ended(disclosed.claim.id) or owner_of(disclosed.claim.id) == self._me
                whole = whole and gone
                continue
            if known.source == "own":
                continue
            self._wake_at_expiry(known)
            known.hold_ms = max(known.hold_ms, disclosed.remaining_ms)
            if known.stored_ms < known.hold_ms:
                operations.append(stored_claim(known, known.granted, known.grade))
            for rival in self.claims.conflicting(known.body, now.instant):
                mine = self._own.get(rival.body.id)
                if mine is not None and not (mine.granted and mine.grade == "quorum"):
                    mine.blockers.add(known.body.id)
                    self._dirty[mine.body.id] = None
        return whole, [Persist(operations=tuple(operations))] if operations else []

    def begin_step(self, disk_failed_at: Instant | None) -> None:
        """What is granted from now on is answered in one step. After a failure of the disk that is the next one: whoever hears in
        this one that it is granted may hear that it failed, too, and nobody would take it back."""
        self._disk_failed_at = disk_failed_at
        if disk_failed_at is None:
            self._answered.clear()

    def disk_failed(self, now: Now) -> list[Output]:
        """In the last step. Whoever was granted a lease in it was told that it failed, and must not hold it unknowingly."""
        self.memory_lost(now.instant)
        answered, self._answered = self._answered, []
        held = [self._own[id_] for id_ in answered if id_ in self._own]
        return [o for holding in held for o in self._end(holding, "released", now)]

    def stop(self, now: Now) -> list[Output]:
        """End everything; from now on this peer is no voice for anybody."""
        self._leaving = True
        return [
            o for holding in list(self._own.values()) if holding.body.id in self._own for o in self._end(holding, "stopped", now)
        ]

    # --- who is there -------------------------------------------------------------------------------------------------

    def view_changed(self, view: View, now: Now) -> list[Output]:
        """Peers came, went, or are suspected: what waits for them may be decided now."""
        if view == self.view:
            return []
        self.view = view
        self.claims.counted_owners = frozenset(view.roster) | view.connected
        for by_peer in (self._told, self._introduced):
            for peer in by_peer.keys() - view.connected:
                del by_peer[peer]
        for holding in self._own.values():
            if not holding.granted or holding.grade == "provisional":
                self._dirty[holding.body.id] = None
        return self.settle(now)

    def peer_up(self, peer: PeerId, now: Now) -> list[Output]:
        """`SEND`: tell a new or returned peer of all own claims: it must know them, and a conflict must show."""
        many = sum(1 for h in self._own.values() if h.granted) > FULL_CLAIMS_ON_MEETING
        if many:
            self._meetings[peer] = now.instant + MEETING_DELAY_MS
        told = [h for h in self._own.values() if not (h.granted and many)]
        over = [id_ for id_, until in self._ended_lately.items() if now.instant < until]
        out: list[Output] = [Say(peer=peer, message=End(id=id_, reason="released")) for id_ in over]
        return out + [Say(peer=peer, message=message_of(holding)) for holding in told]

    def peer_started(self, peer: PeerId, incarnation: int, now: Now) -> list[Output]:
        """`ON_END`: the peer's hello: claims of an earlier life of it have ended."""
        self._incarnations[peer] = max(incarnation, self._incarnations.get(peer, 0))
        if len(self._incarnations) > MAX_INCARNATIONS:
            here = self.claims.counted_owners | {peer}
            self._incarnations = {p: at for p, at in self._incarnations.items() if p in here}
        earlier = [k for k in self.claims.of_owner(peer) if incarnation_of(k.body.id) < incarnation]
        return [o for known in earlier for o in self._forgotten(known, "restarted", now)] + self.settle(now)

    def peer_left(self, peer: PeerId, now: Now) -> list[Output]:
        """`ON_END`: it said goodbye: all its claims have ended."""
        known = self.claims.of_owner(peer)
        return [o for k in known for o in self._forgotten(k, "released", now)] + self.settle(now)

    def is_over(self, claim: ClaimId) -> bool:
        """Whether its owner has said that it ended, or that a life of it is over."""
        owner = owner_of(claim)
        latest = self._incarnation if owner == self._me else self._incarnations.get(owner, 0)
        return self.claims.is_ended(claim) or incarnation_of(claim) < latest

    def peer_alive(self, peer: PeerId, now: Now) -> None:
        """It was heard of, if only through others: what the document says of its leases holds on."""
        for known in self.claims.of_owner(peer):
            if known.source == "document":
                known.expiry = now.instant + stretch(known.body.ttl_ms)

    # --- what peers say -------------------------------------------------------------------------------------------------

    def received(self, peer: PeerId, message: LeaseMessage, now: Now) -> list[Output]:
        """A message about claims, and what follows from it."""
        return self.take(peer, message, now) + self.settle(now)

    def take(self, peer: PeerId, message: LeaseMessage, now: Now) -> list[Output]:
        """A message about claims; what a peer may not say changes nothing. Own claims that it concerns are decided by `settle`,
        once for all that comes together."""
        match message:
            case Claim():
                return self._on_claim(peer, message, now)
            case Ack():
                return self._on_ack(peer, message, now)
            case Granted():
                known = self.claims.get(message.id)
                return self._note_granted(known, message, now) if known and known.owner == peer != self._me else []
            case End():
                return self._on_end(peer, message, now)
            case Renew():
                return self._on_renew(peer, message, now)
            case RenewAck():
                return self._on_renew_ack(peer, message)
            case _:
                assert_never(message)

    def entries_changed(self, owner: PeerId, changes: tuple[EntryChange, ...], now: Now) -> list[Output]:
        """What the document says of another's leases: known before its own messages come, and shown."""
        out = self.history.entries_changed(owner, changes, self._own, now)  # first: a lease that is over may leave something
        if owner == self._me:
            return out
        for change in changes:
            if change.root != "leases":
                continue
            known = self.claims.get(f"{owner}.{change.key}")
            if change.value is None:
                out += self._forgotten(known, "released", now) if known else []
                continue
            told = known_from_entry(owner, change.key, change.value, now.instant, 0)
            if told is None or incarnation_of(told.body.id) < self._incarnations.get(owner, 0):
                continue
            if known is None:
                told.expiry = now.instant + stretch(told.body.ttl_ms)
                granted, told.granted = told.granted, False
                if not self.claims.add(told):
                    continue
                self._wake_at_expiry(told)
                known = told
            else:
                granted = told.granted
                known.since, known.handover = told.since, told.handover
                known.granted_since = told.granted_since
                known.strict, known.token = told.strict, told.token
            self._lamport = max(self._lamport, told.body.lamport)
            if granted:
                out += self._note_granted(known, Granted(id=known.body.id, grade=told.grade), now)
        return out + self.settle(now)

    # --- claims of others -------------------------------------------------------------------------------------------------

    def _on_claim(self, peer: PeerId, message: Claim, now: Now) -> list[Output]:
        """`on_claim`, `EXCHANGE`: note another's claim, let own ones meet it, and answer with all that is in its way."""
        body = message.claim
        self._lamport = max(self._lamport, body.lamport)
        counts = self.is_voice(now.instant)
        incarnation = incarnation_of(body.id)
        if owner_of(body.id) != peer or incarnation < 0:
            return [Misbehaved(peer=peer, reason="claimed a lease in the name of another peer")]
        if self.claims.is_ended(body.id) or incarnation < self._incarnations.get(peer, 0):
            # No voice for it: of two lives of a peer the later may look like the earlier, if its disk is lost and its clock back.
            return [Say(peer=peer, message=Ack(id=body.id, round=message.round, lamport=self._lamport, counts=False))]
        out: list[Output] = []
        known = self.claims.get(body.id)
        if known is None:
            known = Known(body, "direct", now.instant, iso_from_ms(now.wall_ms))
            if not self.claims.add(known):
                return [Say(peer=peer, message=Ack(id=body.id, round=message.round, lamport=self._lamport, counts=False))]
        elif known.body != body:
            return []
        if message.round > known.round:
            until = now.instant + stretch(message.hold_ms)
            known.expiry = until if message.round >= known.told_round else max(until, known.expiry)
            known.source, known.round, known.hold_ms = "direct", message.round, message.hold_ms
            self._wake_at_expiry(known)
            out.append(Persist(operations=(stored_claim(known, message.granted, message.grade),)))
        if message.granted:
            out += self._note_granted(known, Granted(id=body.id, grade=message.grade), now)
        yields: list[ClaimId] = []
        disclosed: list[Known] = []
        for other in self.claims.conflicting(body, now.instant):
            mine = self._own.get(other.body.id)
            if mine is None:
                # It knows its own better; and of what only the document says nobody knows how old it is: every newcomer that told
                # of the lease of one long dead would keep it alive for a ttl more.
                if other.owner != peer and other.source != "document":
                    disclosed.append(other)
                continue
            gives_way, consequences = self._judge(mine, body, message.granted, message.grade, now)
            out += consequences
            if gives_way:
                yields.append(other.body.id)
            else:
                disclosed.append(other)
        told = self._tellable(peer, disclosed, now.instant)
        ack = Ack(
            id=body.id,
            round=message.round,
            yields=tuple(yields[:MAX_RESOURCES]),
            disclosed=tuple(self._disclose(other, now.instant) for other in told),
            lamport=self._lamport,
            counts=counts and len(told) == len(disclosed),
        )
        return [*out, Say(peer=peer, message=ack)]

    def _tellable(self, peer: PeerId, disclosed: list[Known], now: Instant) -> list[Known]:
        """As many of them as fit a message, and what is told to one peer in a second."""
        if not disclosed:
            return []
        since, spent = self._told.get(peer, (now, 0))
        if now - since >= TOLD_WINDOW_MS:
            since, spent = now, 0
        room = min(ACK_BYTES, TOLD_BYTES - spent)
        found = list(within(disclosed, room))
        if found:
            self._told[peer] = (since, spent + sum(known.size_bytes for known in found))
        return found

    def _disclose(self, known: Known, now: Instant) -> Disclosed:
        """`on_claim`: a claim as it is told to another, with the time for which it may count."""
        mine = self._own.get(known.body.id)
        if mine is None:
            reachable = known.owner in self.view.connected
            until, round_ = known.expiry, max(0, known.round, known.told_round)
            return Disclosed(known.body, known.granted, known.grade, _in_bounds(until - now), reachable, round_)
        # As long as it may become valid by the round that is under way.
        until = max(mine.valid_until, mine.sent_at + mine.hold_ms)
        return Disclosed(mine.body, mine.granted, mine.grade, _in_bounds(until - now), True, mine.round)

    def _on_ack(self, peer: PeerId, message: Ack, now: Now) -> list[Output]:
        """`on_ack`, `EXCHANGE`: learn what is in the way, note who gave way, and count the answer if it is of this round."""
        self._lamport = max(self._lamport, message.lamport)
        holding = self._own.get(message.id)
        if holding is None:
            return []
        out: list[Output] = []
        for disclosed in message.disclosed:
            if disclosed.claim.id in self._own:
                continue  # the two have met here: one of them waits for the other
            known = self.claims.learn(disclosed, now.instant, iso_from_ms(now.wall_ms))
            if known is not None:
                self._wake_at_expiry(known)
                holding.blockers.add(disclosed.claim.id)
                if disclosed.reachable:
                    holding.vouched.setdefault(disclosed.claim.id, set()).add(peer)
        if message.round == holding.round:
            if len(holding.yielded) < MAX_YIELDS:
                holding.yielded.update(id_ for id_ in message.yields if owner_of(id_) == peer)
            holding.answers.add(peer)
            if message.counts:
                holding.acks.add(peer)
        self._dirty[holding.body.id] = None
        return out

    def _on_end(self, peer: PeerId, message: End, now: Now) -> list[Output]:
        """`ON_END`: its owner says that a claim is over, for good."""
        if owner_of(message.id) != peer or peer == self._me:
            return [Misbehaved(peer=peer, reason="ended a lease of another peer")]
        known = self.claims.get(message.id)
        if known is None:
            self.claims.end(message.id)
            return []
        if message.left is not None:
            self.history.told(known, message.left, now)
        return self._forgotten(known, message.reason, now)

    def _on_renew(self, peer: PeerId, message: Renew, now: Now) -> list[Output]:
        """`on_claim`: many granted ones at once; those that meet another claim are wanted in full."""
        unsettled: list[int] = []
        out: list[Output] = []
        operations: list[StoredValue] = []
        for number in dict.fromkeys(message.numbers):
            known = self.claims.get(claim_id(peer, message.incarnation, number))
            if known is None or known.owner == self._me or self.claims.conflicting(known.body, now.instant):
                unsettled.append(number)
                continue
            known.round = max(known.round, message.round)
            known.source = "direct"
            known.hold_ms = max(known.hold_ms, known.body.ttl_ms)
            known.expiry = max(known.expiry, now.instant + stretch(known.hold_ms))
            if known.stored_ms < known.hold_ms:  # known from the document, or as a waiter: a restart must not forget it sooner
                operations.append(stored_claim(known, known.granted, known.grade))
            if not known.granted:
                out += self._note_granted(known, Granted(id=known.body.id, grade=known.grade), now)
        answer = RenewAck(
            incarnation=message.incarnation,
            round=message.round,
            unsettled=tuple(unsettled),
            lamport=self._lamport,
            counts=self.is_voice(now.instant),
        )
        out += [Persist(operations=tuple(operations))] if operations else []
        return [*out, Say(peer=peer, message=answer)]

    def _on_renew_ack(self, peer: PeerId, message: RenewAck) -> list[Output]:
        """`on_ack`: for many granted ones at once."""
        introduced, answered = self._introduced.get(peer, set()), self._round_answers.get(message.round)
        if message.incarnation != self._incarnation:
            return []
        if message.round in introduced:
            introduced.discard(message.round)
        elif answered is None or peer in answered:
            return []
        else:
            answered.add(peer)
        unsettled = {claim_id(self._me, self._incarnation, number) for number in message.unsettled}
        for id_ in self._rounds.get(message.round, ()):
            holding = self._own.get(id_)
            if holding is not None and holding.round == message.round and id_ not in unsettled:
                holding.answers.add(peer)
                if message.counts:
                    holding.acks.add(peer)
                self._dirty[id_] = None
        return [Say(peer=peer, message=message_of(self._own[id_])) for id_ in sorted(unsettled) if id_ in self._own]

    def _note_granted(self, known: Known, granted: Granted, now: Now) -> list[Output]:
        news = not known.granted
        known.granted, known.grade = True, granted.grade
        self.claims.changes += news
        self._wake(known.body, now)
        on_its_way = known.strict and known.token is None and granted.grade != "strict"
        to_tell = not on_its_way and (news or known.untold)
        known.untold = on_its_way and (news or known.untold)
        if not to_tell:
            return []
        data = {"lease": msgspec.to_builtins(self.describe(known, now.instant))}
        return [Notify(type="lease-acquired", agent_id=known.body.agent, data=data)]

    def _forgotten(self, known: Known, reason: str, now: Now, *, for_good: bool = True) -> list[Output]:
        """`forget`: another's claim has ended (`for_good`: its owner said so), or has not been heard of for too long."""
        if for_good:
            self.claims.end(known.body.id)
        else:
            self.claims.forget(known.body.id)
        self._wake(known.body, now)
        out: list[Output] = [Persist(operations=(ForgottenValue(space="claims", key=known.body.id),))]
        if known.granted and not known.untold:
            kind: Literal["lease-expired", "lease-released"] = "lease-expired" if reason == "expired" else "lease-released"
            data = {"lease": msgspec.to_builtins(self.describe(known, now.instant)), "reason": reason}
            out.append(Notify(type=kind, agent_id=known.body.agent, data=data))
        return out


def _in_bounds(remaining_ms: int) -> int:
    """As a message can say it. Nobody relies on more than the bound; what is added here for clocks may exceed it."""
    return max(0, min(remaining_ms, MAX_HOLD_MS))
