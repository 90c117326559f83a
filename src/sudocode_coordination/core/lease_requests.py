"""What agents ask of the lease machine: acquire, cancel, renew, release."""

from __future__ import annotations

from typing import Final

from sudocode_coordination.api.requests import AcquireLease, LeaseOutcome
from sudocode_coordination.core.claims import MAX_OWN_PATTERNS, priority_of
from sudocode_coordination.core.facts import Output, StrictWanted
from sudocode_coordination.core.holdings import Holding, Ticket
from sudocode_coordination.core.io import Reply
from sudocode_coordination.core.resources import all_covered, name_of, normalise_all, pattern_count
from sudocode_coordination.core.strict_part import StrictPart
from sudocode_coordination.core.waiting import who
from sudocode_coordination.core.wire import MAX_AGED, MAX_LAMPORT
from sudocode_coordination.errors import ResourceError, UsageError
from sudocode_coordination.model import AgentId, Instant, Lease, LeaseMode, Now, Resource

DECIDE_MS: Final = 12_000
"""Who does not want to wait has an answer by then: longer than it takes to notice that a peer has frozen (7 s)."""
STRICT_DECIDE_MS: Final = 30_000
"""For strict ones: time for two tries of a slow remote."""
LEAST_TTL_MS: Final = 200
"""A lease for less is one for this: it is renewed every half of it, with a message to each peer."""
MAX_NAMES_BYTES: Final = 24 << 10
"""All names of a lease together: they travel in every message about it, and are one entry of the document."""


class LeaseRequests(StrictPart):
    """The counter where agents of this peer ask."""

    def acquire(self, agent: AgentId, request: AcquireLease, ticket: Ticket | None, now: Now) -> list[Output]:
        """Ask for all of the resources; the answer comes as `Reply` with a `LeaseOutcome`.

        Raises:
            ResourceError: a name that can't be leased.
        """
        resources = normalise_all(request.resources)
        if sum(len(resource.path.encode()) + 16 for resource in resources) > MAX_NAMES_BYTES:
            raise ResourceError("the names of these resources are too long for one lease", hint="lease a folder above them instead")
        usual_ms = self._config.strict_lease_ttl_ms if request.strict else self._config.lease_ttl_ms
        ttl_ms = self._ttl_of(request.ttl_ms or usual_ms)
        held = self._held_already(agent, resources, request, now.instant)
        if held is not None:
            return self._confirm(held, request, ticket, now)
        if not self.claims.room_for_patterns(self._me, pattern_count(resources), MAX_OWN_PATTERNS):
            raise ResourceError(
                f"agents of this clone hold {MAX_OWN_PATTERNS} patterns between them", hint="release some, or lease folders instead"
            )
        self._lamport = min(self._lamport + 1, MAX_LAMPORT)  # a peer may have driven it there; then the name decides
        lamport, aged = self._place_of(agent, resources, request.mode, request.priority, now.instant)
        weaker = self._weaker_than(agent, resources, request.mode, request.priority + aged, now.instant, strict=request.strict)
        ttl_ms = max([ttl_ms, *(held.ttl_ms for held in weaker)])
        holding = self._claim_for(agent, resources, request, ttl_ms, lamport, ticket, now, aged=aged)
        if request.wait_ms is None:
            holding.decide_by = now.instant + (STRICT_DECIDE_MS if request.strict else DECIDE_MS)
            in_the_way = self._hopeless_of(holding, self.claims.conflicting(holding.body, now.instant), now.instant)
            if any(self._has_the_word_of(k.owner, holding) for k in in_the_way):
                return self._deny(holding, in_the_way, "held", now) + self.settle(now)
            holding.asked_first = frozenset(k.owner for k in in_the_way)
        else:
            holding.decide_by = now.instant + request.wait_ms if request.wait_ms else None
            holding.may_queue = True
        self._dirty[holding.body.id] = None
        return self._refresh(holding, now) + self.settle(now)

    def cancel(self, ticket: Ticket, now: Now) -> list[Output]:
        """Nobody waits for that answer any more, or nobody has got it: what was granted by it is given back."""
        holding = self._own.get(self._tickets.get(ticket, ""))
        if holding is not None and not holding.held:
            return self._end(holding, "cancelled", now) + self.settle(now)
        granted = self._own.get(self._granted_to.pop(ticket, ""))
        return [] if granted is None else self._end(granted, "released", now) + self.settle(now)

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
            UsageError: another ttl for a strict one. The others go by the one in the table, and nothing is changed.
        """
        held = [h for h in self._held_on(agent, normalise_all(resources), now.instant) if h.granted]
        if ttl_ms is not None and any(h.strict and h.ttl_ms != self._ttl_of(ttl_ms) for h in held):
            hint = "renew it without another ttl, or release it and lease it with the ttl that it is to have"
            raise UsageError("the ttl of a strict lease is in the table on the remote, and stays as it was asked for", hint=hint)
        out: list[Output] = []
        for holding in held:
            if ttl_ms is not None:
                holding.ttl_ms = self._ttl_of(ttl_ms)
            self._dirty[holding.body.id] = None
            out += self._refresh(holding, now)
            if holding.strict:
                out.append(StrictWanted(claim=holding.body, decide_by=None, waits=True))
        out += self.settle(now)
        return [self.describe(h.known, now.instant) for h in held if h.body.id in self._own], out

    def release(
        self,
        agent: AgentId,
        resources: tuple[Resource, ...],
        now: Now,
        *,
        everything: bool = False,
        to_shared: bool = False,
        commit: str | None = None,
        branch: str = "",
    ) -> tuple[list[Lease], list[Output]]:
        """End the agent's leases on exactly these names, queued ones too; who waits for one of those is answered. A slash at the
        end of a path makes no difference. A lease on a folder does not end with a name in it, nor the other way round. Of a
        lease on more than these, the rest stays held: a new claim in the old one's place in the queue takes over before the
        old one ends. `to_shared`: only that they are exclusive is given back, in the same way.

        Args:
            commit, branch: what is left behind for the next holder.

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
            if commit is not None:
                holding.commit, holding.branch = commit, branch
            if to_shared:
                if holding.held and holding.body.mode == "exclusive":
                    holding.to_share = holding.to_share | (named or frozenset(holding.body.resources))
                    released.append(self.describe(holding.known, now.instant))
                    out += self._split(holding, holding.body.note, now)
                continue
            holding.let_go = holding.let_go | named
            rest = tuple(r for r in holding.body.resources if r not in holding.let_go)
            released.append(self.describe(holding.known, now.instant))
            if everything or not rest:
                out += self._end(holding, "released", now)
            elif holding.held:
                out += self._split(holding, holding.body.note, now)
            else:
                out += self._shrink(holding, rest, now)
        return released, out + self.settle(now)

    def _ttl_of(self, wanted_ms: int) -> int:
        return min(max(wanted_ms, LEAST_TTL_MS), self._config.max_lease_ttl_ms)

    # --- how they are met -----------------------------------------------------------------------------------------------

    def _held_already(self, agent: AgentId, resources: tuple[Resource, ...], request: AcquireLease, now: Instant) -> Holding | None:
        """Leases are reentrant: a lease of the agent that covers the request."""
        for holding in self._held_on(agent, resources, now):
            body = holding.body
            gone = holding.let_go if request.mode == "shared" else holding.let_go | holding.to_share
            left = [r for r in body.resources if r not in gone]
            if (
                holding.granted
                and (holding.strict or not request.strict)
                and not holding.asks_table
                and now < holding.valid_until
                and (body.mode == "exclusive" or request.mode == "shared")
                and body.priority >= request.priority
                and all_covered(resources, left, fold_case=self._fold_case)
            ):
                return holding
        return None

    def _confirm(self, held: Holding, request: AcquireLease, ticket: Ticket | None, now: Now) -> list[Output]:
        """The agent has it already, and is told at once. A longer ttl and another note take effect (of a strict one, whose ttl is
        in the table, the note alone); a shorter ttl and a lower priority don't: another process of the agent may count on what it
        has (`renew` shortens)."""
        agent, resources = held.body.agent, normalise_all(request.resources)
        out: list[Output] = []
        ttl_ms = min(request.ttl_ms or 0, self._config.max_lease_ttl_ms)
        if ttl_ms > held.ttl_ms and not held.strict:
            held.ttl_ms = ttl_ms
            self._dirty[held.body.id] = None
            out += self._refresh(held, now)
        if request.note and request.note != held.body.note and not held.heirs:
            out += self._split(held, request.note, now)
        out += self.settle(now)
        lasting = self._held_already(agent, resources, request, now.instant)
        if lasting is None:
            return out + self.acquire(agent, request, ticket, now)
        if ticket is not None:
            answer = LeaseOutcome(granted=True, lease=self.describe(lasting.known, now.instant))
            out.append(Reply(client=ticket.client, request_id=ticket.request_id, value=answer))
        return out

    def _place_of(
        self, agent: AgentId, resources: tuple[Resource, ...], mode: LeaseMode, priority: int, now: Instant
    ) -> tuple[int, int]:
        """Lamport time and levels of a new claim. If the agent holds all of it already, only not like that (shared, with less
        priority, under several leases), it goes before all who wait for it: they wait for what it holds in any case."""
        held = [h for h in self._held_on(agent, resources, now) if h.granted]
        names = [r for h in held for r in h.body.resources if r not in h.let_go]
        if not held or not all_covered(resources, names, fold_case=self._fold_case):
            return self._lamport, 0
        lamport = max(h.body.lamport for h in held)
        return lamport, self._levels_to_lead(agent, resources, mode, priority, lamport, now)

    def _levels_to_lead(
        self, agent: AgentId, resources: tuple[Resource, ...], mode: LeaseMode, priority: int, lamport: int, now: Instant
    ) -> int:
        """What a claim on what the agent holds needs to go before those who wait for it with no higher priority, but may have
        waited for long. Those who hold a part of it themselves come in their order."""
        touching = self.claims.touching(resources, now, fold_case=self._fold_case)
        holders = {who(known) for known in touching if known.granted}
        levels = 0
        for known in touching:
            body = known.body
            harmless = known.granted or body.priority > priority or (mode == "shared" and body.mode == "shared")
            if not (harmless or who(known) in holders or who(known) == (self._me, agent)):
                levels = max(levels, priority_of(body) - priority + (body.lamport <= lamport))
        return min(levels, MAX_AGED)

    def _split(self, holding: Holding, note: str, now: Now) -> list[Output]:
        """A lease that is to be less than it is, or to have another note: new claims for what stays of it take its place
        together, when all of them are granted. Until then it is held as it was."""
        body = holding.body
        left = [r for r in body.resources if r not in holding.let_go]
        parts: dict[LeaseMode, list[Resource]] = {}
        for resource in left:
            parts.setdefault("shared" if resource in holding.to_share else body.mode, []).append(resource)
        out = self._end_heirs(holding, now)
        heirs = []
        for mode, part in parts.items():
            resources = tuple(part)
            request = AcquireLease(resources=resources, priority=body.priority, mode=mode, note=note, strict=holding.strict)
            levels = self._levels_to_lead(body.agent, resources, mode, body.priority, body.lamport, now.instant)
            aged = max(body.aged, levels)
            heir = self._claim_for(body.agent, resources, request, holding.ttl_ms, body.lamport, None, now, aged=aged)
            heir.may_queue, heir.succeeds = True, body.id
            holding.heirs.add(heir.body.id)
            heirs.append(heir)
        for heir in heirs:
            self._dirty[heir.body.id] = None
            out += self._refresh(heir, now)
        return out

    def _shrink(self, holding: Holding, rest: tuple[Resource, ...], now: Now) -> list[Output]:
        """It waits, and is to wait for less."""
        body = holding.body
        request = AcquireLease(resources=rest, priority=body.priority, mode=body.mode, note=body.note, strict=holding.strict)
        heir = self._claim_for(body.agent, rest, request, holding.ttl_ms, body.lamport, holding.ticket, now, aged=body.aged)
        return self._goes_on_as(heir, holding, now)
