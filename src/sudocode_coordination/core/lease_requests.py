"""What agents ask of the lease machine: acquire, cancel, renew, release."""

from __future__ import annotations

from typing import Final

from sudocode_coordination.api.requests import AcquireLease, LeaseOutcome
from sudocode_coordination.core.facts import Output
from sudocode_coordination.core.holdings import Holding, Ticket
from sudocode_coordination.core.io import Reply
from sudocode_coordination.core.own_leases import OwnLeases
from sudocode_coordination.core.claims import MAX_OWN_PATTERNS
from sudocode_coordination.core.resources import all_covered, name_of, normalise_all, pattern_count
from sudocode_coordination.core.wire import MAX_LAMPORT
from sudocode_coordination.errors import ResourceError
from sudocode_coordination.model import AgentId, Instant, Lease, Now, Resource

DECIDE_MS: Final = 12_000
"""Who does not want to wait has an answer by then: longer than it takes to notice that a peer has frozen (7 s)."""
MAX_NAMES_BYTES: Final = 24 << 10
"""All names of a lease together: they travel in every message about it, and are one entry of the document."""


class LeaseRequests(OwnLeases):
    """The counter where agents of this peer ask."""

    def acquire(self, agent: AgentId, request: AcquireLease, ticket: Ticket | None, now: Now) -> list[Output]:
        """Ask for all of the resources; the answer comes as `Reply` with a `LeaseOutcome`.

        Raises:
            ResourceError: a name that can't be leased.
        """
        resources = normalise_all(request.resources)
        if sum(len(resource.path.encode()) + 16 for resource in resources) > MAX_NAMES_BYTES:
            raise ResourceError("the names of these resources are too long for one lease", hint="lease a folder above them instead")
        ttl_ms = min(request.ttl_ms or self._config.lease_ttl_ms, self._config.max_lease_ttl_ms)
        held = self._held_already(agent, resources, request, now.instant)
        if held is not None:
            answer = LeaseOutcome(granted=True, lease=self.describe(held.known, now.instant))
            return [Reply(client=ticket.client, request_id=ticket.request_id, value=answer)] if ticket else []
        if not self.claims.room_for_patterns(self._me, pattern_count(resources), MAX_OWN_PATTERNS):
            raise ResourceError(
                f"agents of this clone hold {MAX_OWN_PATTERNS} patterns between them", hint="release some, or lease folders instead"
            )
        self._lamport = min(self._lamport + 1, MAX_LAMPORT)  # a peer may have driven it there; then the name decides
        holding = self._claim_for(agent, resources, request, ttl_ms, self._lamport, ticket, now)
        if request.wait_ms is None:
            holding.decide_by = now.instant + DECIDE_MS
            in_the_way = [k for k in self.claims.conflicting(holding.body, now.instant) if self._hopeless(holding, k, now.instant)]
            if in_the_way:
                return self._deny(holding, in_the_way, "held", now) + self._settle(now)
        else:
            holding.decide_by = now.instant + request.wait_ms if request.wait_ms else None
            holding.may_queue = True
        self._dirty[holding.body.id] = None
        return self._refresh(holding, now) + self._settle(now)

    def cancel(self, ticket: Ticket, now: Now) -> list[Output]:
        """Nobody waits for that answer any more."""
        holding = self._own.get(self._tickets.get(ticket, ""))
        if holding is None or holding.granted:
            return []
        return self._end(holding, "cancelled", now) + self._settle(now)

    def client_gone(self, client: int, now: Now) -> list[Output]:
        """None of the client's answers are waited for any more."""
        waiting = [ticket for ticket in self._tickets if ticket.client == client]
        return [o for ticket in waiting for o in self.cancel(ticket, now)]

    def renew(
        self, agent: AgentId, resources: tuple[Resource, ...], ttl_ms: int | None, now: Now
    ) -> tuple[list[Lease], list[Output]]:
        """Start the ttl of the agent's leases on what overlaps these anew; the leases, none if it holds none.

        Raises:
            ResourceError: a name that can't be leased.
        """
        held = [h for h in self._held_on(agent, normalise_all(resources), now.instant) if h.granted]
        out: list[Output] = []
        for holding in held:
            if ttl_ms is not None:
                holding.ttl_ms = min(ttl_ms, self._config.max_lease_ttl_ms)
            self._dirty[holding.body.id] = None
            out += self._refresh(holding, now)
        out += self._settle(now)
        return [self.describe(h.known, now.instant) for h in held if h.body.id in self._own], out

    def release(
        self, agent: AgentId, resources: tuple[Resource, ...], now: Now, *, everything: bool = False
    ) -> tuple[list[Lease], list[Output]]:
        """End the agent's leases on exactly these names, queued ones too; who waits for one of those is answered. A slash at the
        end of a path makes no difference. A lease on a folder does not end with a name in it, nor the other way round. Of a
        lease on more than these, the rest stays held: a new claim in the old one's place in the queue takes over before the
        old one ends.

        Raises:
            ResourceError: a name that can't be leased.
        """
        given = normalise_all(resources)
        wanted = {name_of(resource, fold_case=self._fold_case) for resource in given}
        out: list[Output] = []
        released: list[Lease] = []
        for holding in self._held_by(agent) if everything else self._held_on(agent, given, now.instant):
            if holding.succeeds is not None or holding.body.id not in self._own:
                continue  # an heir: what it is to replace is among them, and decides
            named = {r for r in holding.body.resources if name_of(r, fold_case=self._fold_case) in wanted}
            if not (named or everything):
                continue  # it only overlaps
            holding.let_go = holding.let_go | named
            rest = tuple(r for r in holding.body.resources if r not in holding.let_go)
            released.append(self.describe(holding.known, now.instant))
            if everything or not rest:
                out += self._end(holding, "released", now)
            else:
                out += self._shrink(holding, rest, now)
        return released, out + self._settle(now)

    # --- how they are met -----------------------------------------------------------------------------------------------

    def _held_already(self, agent: AgentId, resources: tuple[Resource, ...], request: AcquireLease, now: Instant) -> Holding | None:
        """Leases are reentrant: a lease of the agent that covers the request."""
        for holding in self._held_on(agent, resources, now):
            body = holding.body
            strong = body.mode == "exclusive" or request.mode == "shared"
            left = [r for r in body.resources if r not in holding.let_go]
            if (
                holding.granted
                and strong
                and body.priority >= request.priority
                and all_covered(resources, left, fold_case=self._fold_case)
            ):
                return holding
        return None

    def _shrink(self, holding: Holding, rest: tuple[Resource, ...], now: Now) -> list[Output]:
        body = holding.body
        request = AcquireLease(resources=rest, priority=body.priority, mode=body.mode, note=body.note)
        heir = self._claim_for(body.agent, rest, request, holding.ttl_ms, body.lamport, holding.ticket, now)
        heir.may_queue, heir.decide_by, heir.asked_at = holding.may_queue or holding.granted, holding.decide_by, holding.asked_at
        out: list[Output] = []
        if holding.granted:
            out += self._end_heir(holding, now)
            holding.heir, heir.succeeds, heir.decide_by = heir.body.id, body.id, None
        else:
            holding.ticket = None  # whoever waits for it waits for the heir
            out += self._end(holding, "replaced", now)
        self._dirty[heir.body.id] = None
        return out + self._refresh(heir, now)
