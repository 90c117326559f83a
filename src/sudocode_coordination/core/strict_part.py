"""The fast level's side of strict leases: what the table says becomes of a claim that other peers have let through."""

from __future__ import annotations

from sudocode_coordination.api.requests import LeaseOutcome
from sudocode_coordination.core.facts import Notify, Output, Say, StrictGranted, StrictLost, StrictRefused, Write
from sudocode_coordination.core.holdings import Holding
from sudocode_coordination.core.io import Reply
from sudocode_coordination.core.lease_view import entry_key
from sudocode_coordination.core.own_leases import EndReason, OwnLeases
from sudocode_coordination.core.wire import Granted
from sudocode_coordination.model import Now, iso_from_ms


class StrictPart(OwnLeases):
    """Claims that are in the strict table, too."""

    def strict_told(self, given: StrictGranted | StrictRefused | StrictLost, now: Now) -> list[Output]:
        """The table has decided."""
        holding = self._own.get(given.claim)
        if holding is None or not (holding.strict and holding.granted):
            return []
        match given:
            case StrictGranted():
                out = self._in_the_table(holding, given, now)
            case StrictRefused():
                out = self._not_in_the_table(holding, given, now)
            case StrictLost():
                out = self._out_of_the_table(holding, given, now)
        return out + self.settle(now)

    def _end(self, holding: Holding, reason: EndReason, now: Now) -> list[Output]:
        """One that was let through and still waits for the table goes back into the queue, if its agent waits."""
        lost = reason in ("preempted", "lost-conflict", "expired")
        if lost and holding.asks_table and holding.may_queue and holding.ticket is not None:
            return self._aged(holding, holding.body.aged, now)
        return super()._end(holding, reason, now)

    def _in_the_table(self, holding: Holding, given: StrictGranted, now: Now) -> list[Output]:
        fresh, until = holding.token is None, holding.strict_until
        holding.table_wants = ""
        holding.token, holding.strict_until = given.token, given.valid_until
        if not fresh:
            data = self._event_data(holding, now)
            return [Notify(type="lease-renewed", agent_id=holding.body.agent, data=data)] if given.valid_until > until else []
        body = holding.body
        holding.grade = holding.known.grade = "strict"
        holding.known.since = iso_from_ms(now.wall_ms)
        self.history.granted(holding, self._own.get(holding.succeeds) if holding.succeeds else None)
        out: list[Output] = [Write(root="leases", key=entry_key(body.id), value=self.history.shown(holding), urgent=True)]
        waiting = self.claims.conflicting(body, now.instant)
        owners = sorted(({k.owner for k in waiting} - {self._me}) & self.view.connected)
        out += [Say(peer=owner, message=Granted(id=body.id, grade=holding.grade)) for owner in owners]
        return out + self._hand_out(holding, now)

    def _not_in_the_table(self, holding: Holding, given: StrictRefused, now: Now) -> list[Output]:
        why = given.reason if given.error is None else given.error.message
        data = self._event_data(holding, now) | {"reason": why}
        if given.holders:
            data["holder"] = given.holders[0].agent_id
        out: list[Output] = [Notify(type="lease-denied", agent_id=holding.body.agent, data=data)]
        ticket = holding.ticket
        if ticket is not None and given.error is not None:
            out.append(Reply(client=ticket.client, request_id=ticket.request_id, error=given.error))
        elif ticket is not None:
            waited = now.instant - holding.asked_at
            answer = LeaseOutcome(granted=False, holders=given.holders, reason=given.reason, waited_ms=waited)
            out.append(Reply(client=ticket.client, request_id=ticket.request_id, value=answer))
        return out + self._end(holding, "denied", now)

    def _out_of_the_table(self, holding: Holding, given: StrictLost, now: Now) -> list[Output]:
        holding.yield_to = given.holder or holding.yield_to
        grace_ms = self._config.preempt_grace_ms
        if given.reason != "preempted" or grace_ms == 0:
            return self._end(holding, given.reason, now)
        holding.table_wants = given.holder
        if holding.yield_at is not None:
            return []
        holding.yield_at = now.instant + grace_ms
        self._set_timer(holding)
        data = self._event_data(holding, now) | {"holder": given.holder, "graceMs": grace_ms}
        return [Notify(type="conflicts-detected", agent_id=holding.body.agent, data=data)]
