"""The owner's side of fast leases: rounds, decisions, ends. `lease_requests.py` has what agents ask, `leases.py` the laws."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from sudocode_coordination.api.requests import AcquireLease, LeaseOutcome, Waits
from sudocode_coordination.core.claims import (
    Known,
    claim_id,
    key_of,
    priority_of,
    rank_of,
)
from sudocode_coordination.core.facts import Notify, Output, Say, StrictDropped, StrictWanted, Write
from sudocode_coordination.core.holdings import Holding, Ticket, standing
from sudocode_coordination.core.io import Reply
from sudocode_coordination.core.lease_queue import LeaseQueue
from sudocode_coordination.core.lease_view import conflicts_of, entry_key, entry_of
from sudocode_coordination.core.waiting import described
from sudocode_coordination.core.wire import (
    MAX_RENEWED,
    Ack,
    Claim,
    ClaimBody,
    End,
    Granted,
    Left,
    Renew,
    RenewAck,
)
from sudocode_coordination.model import AgentId, Grade, Instant, Now, PeerId, Resource, iso_from_ms

RETRY_MS: Final = 1_000
"""A round that was not answered by all is repeated to the silent ones."""
GRANTS_KEPT: Final = 1_000
"""Granted requests whose answer may still be found to have reached nobody: more than are answered before that is told."""
ROUNDS_KEPT: Final = 64
"""Renewal rounds whose answers are still understood."""

LeaseMessage: TypeAlias = Claim | Ack | Granted | End | Renew | RenewAck
EndReason: TypeAlias = Literal["released", "denied", "cancelled", "expired", "preempted", "lost-conflict", "replaced", "stopped"]


class OwnLeases(LeaseQueue):
    """What agents of this peer ask for, hold and wait for."""

    # --- own claims -------------------------------------------------------------------------------------------------------

    def _claim_for(
        self,
        agent: AgentId,
        resources: tuple[Resource, ...],
        request: AcquireLease,
        ttl_ms: int,
        lamport: int,
        ticket: Ticket | None,
        now: Now,
        *,
        aged: int = 0,
    ) -> Holding:
        self._count += 1
        body = ClaimBody(
            id=claim_id(self._me, self._incarnation, self._count),
            agent=agent,
            resources=resources,
            mode=request.mode,
            priority=request.priority,
            lamport=lamport,
            ttl_ms=ttl_ms,
            note=request.note,
            fold=self._fold_case,
            aged=aged,
        )
        known = Known(body, "own", 0, iso_from_ms(now.wall_ms))
        holding = Holding(known, ticket, now.instant)
        holding.strict = request.strict
        self.claims.add(known)
        self._own[body.id] = holding
        self._of_agent.setdefault(agent, {})[body.id] = None
        if ticket is not None:
            self._tickets[ticket] = body.id
        return holding

    def _end_heirs(self, holding: Holding, now: Now) -> list[Output]:
        """What was to replace it is not wanted any more, let through by the other peers or not: its agent does not have it yet."""
        heirs, holding.heirs = sorted(holding.heirs), set()
        return [
            o for id_ in heirs if id_ in self._own and not self._own[id_].held for o in self._end(self._own[id_], "replaced", now)
        ]

    def _serve(self, holding: Holding, renewals: list[Holding], now: Now) -> list[Output]:
        """A holding's time has come."""
        instant = now.instant
        if holding.granted:
            if instant >= holding.valid_until:
                return self._end(holding, "expired", now)
            if holding.yield_at is not None and instant >= holding.yield_at:
                return self._give_way(holding, now)
            if instant >= holding.sent_at + holding.ttl_ms // 2:
                renewals.append(holding)
                return []
        elif holding.decide_by is not None and instant >= holding.decide_by:
            return self._deny(holding, self._blocking(holding, now), "timeout", now)
        elif instant >= holding.sent_at + holding.queue_hold_ms // 3:
            levels = self._levels(holding, now)
            if levels > holding.body.aged:
                return self._aged(holding, levels, now)
            self._dirty[holding.body.id] = None
            return self._refresh(holding, now)
        elif holding.asked_first and instant >= holding.next_at:  # they are silent: what is known here must do
            hopeless = self._hopeless_of(holding, self._blocking(holding, now), instant)
            if hopeless:
                return self._deny(holding, hopeless, "held", now)
            holding.asked_first = frozenset()
        out: list[Output] = self._repeat(holding) if instant >= holding.next_at else []
        if out or instant >= holding.next_at:
            holding.next_at = instant + max(RETRY_MS, holding.ttl_ms // 16)
        self._set_timer(holding)
        return out

    def _give_way(self, holding: Holding, now: Now) -> list[Output]:
        """The grace is over. Who asked for it may have given up since, or another may be first by now."""
        mine = holding.body
        rivals = [k for k in self.claims.conflicting(mine, now.instant) if k.body.priority > priority_of(mine) and not k.granted]
        if rivals:
            holding.yield_to = min(rivals, key=lambda known: key_of(known.body)).body.agent
            return self._end(holding, "preempted", now)
        if holding.table_wants:
            holding.yield_to = holding.table_wants
            return self._end(holding, "preempted", now)
        holding.yield_at, holding.yield_to = None, ""
        self._set_timer(holding)
        return []

    def _aged(self, holding: Holding, levels: int, now: Now) -> list[Output]:
        """It has waited for long: it goes on as a claim that counts for more. What a claim counts for never changes: peers would
        order it differently while some have not heard of it."""
        body = holding.body
        request = AcquireLease(
            strict=holding.strict, resources=body.resources, priority=body.priority, mode=body.mode, note=body.note
        )
        heir = self._claim_for(body.agent, body.resources, request, holding.ttl_ms, body.lamport, holding.ticket, now, aged=levels)
        return self._goes_on_as(heir, holding, now)

    def _goes_on_as(self, heir: Holding, holding: Holding, now: Now) -> list[Output]:
        """A claim that waits is replaced by another, which is told first: nobody may slip in between. Who waits for the answer
        waits for that of the other."""
        holding.ticket = None
        for name in ("may_queue", "queued", "queue_hold_ms", "decide_by", "asked_at"):
            setattr(heir, name, getattr(holding, name))
        heir.known.since = holding.known.since
        out: list[Output] = []
        if heir.queued:
            heir.published = True
            out.append(Write(root="leases", key=entry_key(heir.body.id), value=entry_of(heir), urgent=True))
        self._dirty[heir.body.id] = None
        return [*out, *self._refresh(heir, now), *self._end(holding, "replaced", now)]

    def _set_timer(self, holding: Holding) -> None:
        at = [holding.next_at]
        if holding.granted:
            at += [holding.valid_until, holding.sent_at + holding.ttl_ms // 2]
            at += [holding.yield_at] if holding.yield_at is not None else []
            answered = all(p in holding.answers for p in self._others())
            at = at[1:] if answered else at
            at = [t for t in at if t > holding.sent_at]
        else:
            at += [holding.sent_at + holding.queue_hold_ms // 3] + ([holding.decide_by] if holding.decide_by is not None else [])
        self._wake_at(holding.known, min(at))

    def _meet_locally(self, holding: Holding, now: Now) -> list[Output]:
        """`refresh`: what this peer itself knows to be in the way, as it would disclose it to another."""
        out: list[Output] = []
        for known in self.claims.conflicting(holding.body, now.instant):
            rival = self._own.get(known.body.id)
            if rival is None:
                holding.blockers.add(known.body.id)
                continue
            yields, told = self._judge(rival, holding.body, holding.granted, holding.grade, now)
            out += told
            (holding.yielded if yields else holding.blockers).add(known.body.id)
        return out

    def _refresh(self, holding: Holding, now: Now) -> list[Output]:
        """`refresh`: a new round of one claim: to all of the roster, the time taken before sending."""
        self._round += 1
        holding.begin_round(self._round, now.instant)
        holding.next_at = now.instant + RETRY_MS
        out = self._meet_locally(holding, now)
        if holding.body.id in self._own:
            self._set_timer(holding)
            out += self._repeat(holding)
        return out

    def _repeat(self, holding: Holding) -> list[Output]:
        """`SEND`: to those who have not answered this round."""
        message = message_of(holding)
        asked = [peer for peer in self._others() if peer in holding.asked_first] if holding.asked_first else self._others()
        return [Say(peer=peer, message=message) for peer in asked if peer not in holding.answers]

    def _renew_together(self, renewals: list[Holding], now: Now) -> list[Output]:
        """`refresh`: one round for all whose half ttl is over; those of another ttl than they began with are claimed in full."""
        out: list[Output] = []
        together = [h for h in renewals if h.ttl_ms == h.body.ttl_ms and h.body.id in self._own]
        for holding in renewals:
            self._dirty[holding.body.id] = None
            if holding.ttl_ms != holding.body.ttl_ms and holding.body.id in self._own:
                out += self._refresh(holding, now)
        for start in range(0, len(together), MAX_RENEWED):
            self._round += 1
            part = together[start : start + MAX_RENEWED]
            for holding in part:
                holding.begin_round(self._round, now.instant)
                holding.next_at = now.instant + max(RETRY_MS, holding.ttl_ms // 16)
                out += self._meet_locally(holding, now)
            alive = [h for h in part if h.body.id in self._own]
            for holding in alive:
                self._set_timer(holding)
            if self._others():
                self._rounds[self._round] = [h.body.id for h in alive]
                self._round_answers[self._round] = set()
                while len(self._rounds) > ROUNDS_KEPT:
                    oldest = next(iter(self._rounds))
                    del self._rounds[oldest], self._round_answers[oldest]
                message = Renew(incarnation=self._incarnation, round=self._round, numbers=tuple(_number(h) for h in alive))
                out += [Say(peer=peer, message=message) for peer in self._others()]
        return out

    def _tell_granted(self, peer: PeerId) -> list[Output]:
        granted = [h for h in self._own.values() if h.granted]
        out: list[Output] = []
        for start in range(0, len(granted), MAX_RENEWED):
            self._round += 1
            numbers = tuple(_number(h) for h in granted[start : start + MAX_RENEWED])
            self._introduced.setdefault(peer, set()).add(self._round)
            out.append(Say(peer=peer, message=Renew(incarnation=self._incarnation, round=self._round, numbers=numbers)))
        return out

    def settle(self, now: Now) -> list[Output]:
        """Decide what can be decided of all that was touched, in the order of the queue."""
        out: list[Output] = []
        while self._dirty and self._disk_failed_at is None:
            touched = [self._own[id_] for id_ in self._dirty if id_ in self._own]
            self._dirty.clear()
            for holding in sorted(touched, key=lambda h: key_of(h.body)):
                if holding.body.id in self._own:
                    out += self._evaluate(holding, now)
        return out

    def _evaluate(self, holding: Holding, now: Now) -> list[Output]:
        """`grant`: grant, extend, deny or queue by what is known now."""
        instant = now.instant
        if holding.granted and instant >= holding.valid_until:
            return self._end(holding, "expired", now)
        blocking = self._blocking(holding, now)
        out = self._ask_the_rest(holding, blocking, instant) if holding.asked_first else []
        policy = self._policy_for(holding)
        stands = standing(holding, blocking, self.view, self._me, policy, memory=self.is_voice(instant), now=instant)
        if stands != "open":
            grade: Grade = stands if holding.token is None else "strict"
            changed = grade != holding.grade
            holding.grade = holding.known.grade = grade
            return out + (self._extend(holding, changed=changed, now=now) if holding.granted else self._grant(holding, now))
        out += self._ask_again(holding, blocking)
        if holding.granted or not blocking:
            return out
        if holding.may_queue:
            if holding.queued:
                return out + self._look_around(holding, blocking, now)
            holding.queue(blocking)
            self._dirty[holding.body.id] = None
            return [
                Write(root="leases", key=entry_key(holding.body.id), value=entry_of(holding), urgent=True),
                Notify(type="lease-queued", agent_id=holding.body.agent, data=self._queue_data(holding, blocking, now)),
                *self._refresh(holding, now),
            ]
        hopeless = self._hopeless_of(holding, blocking, instant)
        certain = any(self._has_the_word_of(k.owner, holding) for k in hopeless)
        return out + (self._deny(holding, hopeless, "held", now) if certain else [])

    def _ask_the_rest(self, holding: Holding, blocking: list[Known], now: Instant) -> list[Output]:
        """Those in whose way it was have answered: if none of them holds it any more, everybody is asked."""
        waits = any(not self._has_the_word_of(peer, holding) for peer in holding.asked_first)
        if holding.granted or waits or self._hopeless_of(holding, blocking, now):
            return []
        holding.asked_first = frozenset()
        return self._repeat(holding)

    def _look_around(self, holding: Holding, blocking: list[Known], now: Now) -> list[Output]:
        """It waits: in a circle?"""
        circle = self._circle_of(holding, now.instant)
        if circle is None:
            self._dirty[holding.body.id] = None
            return self._refresh(holding, now)
        return self._deny(holding, blocking, "deadlock", now, described(circle)) if circle else []

    def _ask_again(self, holding: Holding, blocking: list[Known]) -> list[Output]:
        """Claims that must give way to this one, of peers that answered before they had them: their yields are wanted, once."""
        out: list[Output] = []
        for known in blocking:
            behind = not known.granted and (holding.granted or key_of(holding.body) < key_of(known.body))
            if behind and known.owner in holding.answers and known.owner not in holding.asked_again:
                holding.asked_again.add(known.owner)
                out.append(Say(peer=known.owner, message=message_of(holding)))
        return out

    def _grant(self, holding: Holding, now: Now) -> list[Output]:
        """`grant`: a pending claim that is effective is held from now on."""
        body = holding.body
        holding.granted = holding.known.granted = True
        self.claims.changes += 1
        holding.valid_until = holding.sent_at + holding.hold_ms
        holding.known.since = iso_from_ms(now.wall_ms)
        self.history.granted(holding, self._own.get(holding.succeeds) if holding.succeeds else None)
        holding.published = True
        out: list[Output] = [Write(root="leases", key=entry_key(body.id), value=self.history.shown(holding), urgent=True)]
        waiting = self.claims.conflicting(body, now.instant)
        owners = sorted(({k.owner for k in waiting} - {self._me}) & self.view.connected)
        out += [Say(peer=owner, message=Granted(id=body.id, grade=holding.grade)) for owner in owners]
        self._dirty.update((k.body.id, None) for k in waiting if k.body.id in self._own)
        if holding.strict:
            out.append(StrictWanted(claim=body, decide_by=holding.decide_by, waits=holding.may_queue))
        else:
            out += self._hand_out(holding, now)
        if holding.hold_ms < holding.ttl_ms:
            out += self._refresh(holding, now)
            self._dirty[body.id] = None
        else:
            self._set_timer(holding)
        return out

    def _hand_out(self, holding: Holding, now: Now) -> list[Output]:
        """Its agent has it from now on."""
        body = holding.body
        out: list[Output] = []
        if holding.ticket is not None:
            waited = now.instant - holding.asked_at
            answer = LeaseOutcome(granted=True, lease=self.describe(holding.known, now.instant), waited_ms=waited)
            out.append(Reply(client=holding.ticket.client, request_id=holding.ticket.request_id, value=answer))
            self._tickets.pop(holding.ticket, None)
            self._answered.append(body.id)
        out.append(Notify(type="lease-acquired", agent_id=body.agent, data=self._event_data(holding, now)))
        replaced = self._replace(holding, now)
        out += replaced
        if holding.ticket is not None and not replaced:  # what it held before, the agent keeps, whatever becomes of the answer
            self._granted_to[holding.ticket] = body.id
            while len(self._granted_to) > GRANTS_KEPT:
                self._granted_to.popitem(last=False)
        holding.ticket = None
        return out

    def _replace(self, holding: Holding, now: Now) -> list[Output]:
        """What the granted claim takes the place of ends, and the agent is never without."""
        out: list[Output] = []
        old = self._own.get(holding.succeeds) if holding.succeeds else None
        holding.succeeds = None
        if old is not None:
            old.heirs.discard(holding.body.id)
            out += [] if old.heirs else self._end(old, "replaced", now)
        body = holding.body
        for weaker in self._weaker_than(
            body.agent, body.resources, body.mode, priority_of(body), now.instant, strict=holding.strict
        ):
            if weaker is not holding and weaker.body.id in self._own and body.id not in weaker.heirs:
                if weaker.ticket is not None:  # it was let through and waits for the table: the agent has what it asked for
                    waited = now.instant - weaker.asked_at
                    answer = LeaseOutcome(granted=True, lease=self.describe(holding.known, now.instant), waited_ms=waited)
                    out.append(Reply(client=weaker.ticket.client, request_id=weaker.ticket.request_id, value=answer))
                out += self._end(weaker, "replaced", now)
        return out

    def _extend(self, holding: Holding, *, changed: bool, now: Now) -> list[Output]:
        """`grant`: a held one that is effective by a newer round is valid for longer."""
        until = holding.sent_at + holding.hold_ms
        out: list[Output] = []
        if until > holding.valid_until:
            holding.valid_until = until
            self._set_timer(holding)
            if holding.held:
                out.append(Notify(type="lease-renewed", agent_id=holding.body.agent, data=self._event_data(holding, now)))
        if changed:
            out.append(Write(root="leases", key=entry_key(holding.body.id), value=self.history.shown(holding)))
        return out

    def _deny(self, holding: Holding, blocking: list[Known], reason: str, now: Now, cycle: tuple[Waits, ...] = ()) -> list[Output]:
        holders = conflicts_of(blocking, holding.body.resources, self._own, now.instant, fold_case=holding.body.fold)
        if not blocking and reason == "timeout":
            reason = "no-answer"
        data = self._event_data(holding, now, blocking=blocking) | {"reason": reason}
        if cycle:
            data["cycle"] = msgspec.to_builtins(cycle)
        out: list[Output] = [Notify(type="lease-denied", agent_id=holding.body.agent, data=data)]
        if holding.ticket is not None:
            waited = now.instant - holding.asked_at
            answer = LeaseOutcome(granted=False, holders=holders, reason=reason, waited_ms=waited, cycle=cycle)
            out.append(Reply(client=holding.ticket.client, request_id=holding.ticket.request_id, value=answer))
        return out + self._end(holding, "denied", now)

    def _end(self, holding: Holding, reason: EndReason, now: Now) -> list[Output]:
        """`finish`: it is over, for good: everyone is told, and who waited for it may go on."""
        body = holding.body
        lease = self._event_data(holding, now) | {"reason": reason} if holding.held else {}
        if holding.yield_to:
            lease["holder"] = holding.yield_to
        if reason == "lost-conflict" and holding.overlaps:
            lease["overlap"] = msgspec.to_builtins(holding.overlaps[-1])
        del self._own[body.id]
        self._of_agent[body.agent].pop(body.id, None)
        if not self._of_agent[body.agent]:
            del self._of_agent[body.agent]
        out: list[Output] = []
        if holding.ticket is not None:
            self._tickets.pop(holding.ticket, None)
            if reason in ("released", "stopped") or (
                holding.asks_table and reason not in ("denied", "cancelled", "replaced")
            ):  # by another of the agent's clients; a denial is answered where it is decided
                answer = LeaseOutcome(granted=False, reason=reason, waited_ms=now.instant - holding.asked_at)
                out.append(Reply(client=holding.ticket.client, request_id=holding.ticket.request_id, value=answer))
        self.claims.end(body.id)
        out += self._end_heirs(holding, now)
        self._note_ended(holding, now.instant)
        left: Left | None = None
        if holding.strict and holding.granted:
            out.append(StrictDropped(claim=body.id, reason=reason, holder=holding.yield_to))
        if holding.held:
            written, left = self.history.ended(holding, reason, now)
            out += written  # before what is urgent, so that both go at once
        if holding.published:
            out.append(Write(root="leases", key=entry_key(body.id), value=None, urgent=True))
        if holding.round >= 0:
            out += [Say(peer=peer, message=End(id=body.id, reason=reason, left=left)) for peer in sorted(self.view.connected)]
        if holding.held and reason in ("released", "stopped"):
            out.append(Notify(type="lease-released", agent_id=body.agent, data=lease))
        elif holding.held and reason == "expired":
            out.append(Notify(type="lease-expired", agent_id=body.agent, data=lease))
        if holding.held and reason in ("preempted", "lost-conflict", "expired"):
            out.append(Notify(type="lease-lost", agent_id=body.agent, data=lease))
        self._wake(body, now)
        return out

    def _wake(self, ended: ClaimBody, now: Now) -> None:
        if not self._own:
            return
        for known in self.claims.touching(ended.resources, now.instant, fold_case=ended.fold):
            if known.body.id in self._own:
                self._dirty[known.body.id] = None

    def _judge(self, mine: Holding, claim: ClaimBody, granted: bool, grade: Grade, now: Now) -> tuple[bool, list[Output]]:
        """`on_claim`: an own claim meets another: whether it gives way, and what follows."""
        if mine.granted and now.instant >= mine.valid_until:
            return True, self._end(mine, "expired", now)
        if not mine.granted:
            if granted or key_of(claim) < key_of(mine.body):
                mine.waits.add(claim.id)
                self._dirty[mine.body.id] = None
                return True, []
            self._look_again(mine.body.agent, claim, now.instant)
            return False, []
        if granted and rank_of(claim, grade) < rank_of(mine.body, mine.grade):
            mine.yield_to = claim.agent
            self.history.lost(mine, claim, self.claims.get(claim.id), now)
            return True, self._end(mine, "lost-conflict", now)
        if not granted:
            self._look_again(mine.body.agent, claim, now.instant)
        if granted or claim.priority <= priority_of(mine.body) or mine.yield_at is not None:
            return False, []  # of two that are granted the other one ends, by rank, whatever its priority
        mine.yield_to = claim.agent
        if self._config.preempt_grace_ms == 0:
            return True, self._end(mine, "preempted", now)
        mine.yield_at = now.instant + self._config.preempt_grace_ms
        self._set_timer(mine)
        data = self._event_data(mine, now) | {"holder": claim.agent, "graceMs": self._config.preempt_grace_ms}
        return False, [Notify(type="conflicts-detected", agent_id=mine.body.agent, data=data)]

    def _queue_data(self, holding: Holding, blocking: list[Known], now: Now) -> dict[str, object]:
        data = self._event_data(holding, now, blocking=blocking)
        data["lease"] = msgspec.to_builtins(self._placed(holding.known, now.instant))
        if holding.decide_by is not None:
            data["waitMs"] = holding.decide_by - now.instant
        return data

    def _event_data(self, holding: Holding, now: Now, blocking: list[Known] | None = None) -> dict[str, object]:
        data: dict[str, object] = {"lease": msgspec.to_builtins(self.describe(holding.known, now.instant))}
        if blocking:
            data["holder"] = blocking[0].body.agent
            data["queue"] = [k.body.agent for k in blocking]
        return data


def message_of(holding: Holding) -> Claim:
    """`SEND`: a claim as its owner sends it."""
    return Claim(claim=holding.body, round=holding.round, hold_ms=holding.hold_ms, granted=holding.granted, grade=holding.grade)


def _number(holding: Holding) -> int:
    return int(holding.body.id.rsplit(".", 1)[1])
