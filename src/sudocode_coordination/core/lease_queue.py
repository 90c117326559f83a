"""The rules by which own claims wait: behind what, with what hope, for how much longer before they count for more."""

from __future__ import annotations

from typing import Final

from sudocode_coordination.config import CoordinationConfig
from sudocode_coordination.core.claims import Known, key_of, priority_of
from sudocode_coordination.core.holdings import Holding
from sudocode_coordination.core.keyring import Keyring
from sudocode_coordination.core.lease_book import LeaseBook
from sudocode_coordination.core.resources import name_of
from sudocode_coordination.core.waiting import Wait, WaitGraph, is_in_the_way, levels_earned, members
from sudocode_coordination.core.wire import ClaimBody
from sudocode_coordination.model import AgentId, ClaimId, Instant, LeaseMode, Now, PartitionPolicy, PeerId, Resource

GRAPH_MS: Final = 1_000
"""A graph of who waits for whom serves all who look within that time, if nothing has changed."""

FEW: Final = 64
"""Claims of one agent that are gone through one by one; of more, only those that wait are."""


class LeaseQueue(LeaseBook):
    """What `own_leases.py` asks before it decides. Nothing is sent here."""

    def __init__(self, peer_id: PeerId, config: CoordinationConfig, keyring: Keyring) -> None:
        super().__init__(peer_id, config, keyring)
        self._graph: WaitGraph | None = None
        self._looked_agents: set[tuple[AgentId, ClaimId]] = set()
        self._looked_changes = -1

    def _policy_for(self, holding: Holding) -> PartitionPolicy:
        """What to do without a majority. Of strict ones the table decides in the end."""
        return "open" if holding.strict else self._config.partition_policy

    def _hopeless_of(self, holding: Holding, blocking: list[Known], now: Instant) -> list[Known]:
        return [] if holding.may_queue else [k for k in blocking if self._hopeless(holding, k, now)]

    def _has_the_word_of(self, owner: PeerId, holding: Holding) -> bool:
        """Whether what is known of that peer's claims is from this very moment, or as good as can be had: it may have released
        them, and its word of it be on the way."""
        return owner in holding.answers or owner not in self.view.connected or owner in self.view.suspected

    def _hopeless(self, holding: Holding, known: Known, now: Instant) -> bool:
        """Whether waiting a moment can't help: it is held, by somebody who need not give way."""
        rival = self._own.get(known.body.id)
        granted = rival.granted and now < rival.valid_until if rival else known.granted
        if not granted or priority_of(known.body) < holding.body.priority:
            return False
        return not (holding.excuses(known, self.view) and self._policy_for(holding) == "open")

    def _weaker_than(
        self, agent: AgentId, resources: tuple[Resource, ...], mode: LeaseMode, priority: int, now: Instant, *, strict: bool = False
    ) -> list[Holding]:
        """Leases of the agent that say nothing which a lease like this does not say as well, name by name."""
        names = {name_of(r, fold_case=self._fold_case) for r in resources}
        return [
            other
            for other in self._held_on(agent, resources, now)
            if other.granted
            and (strict or not other.strict)
            and (mode == "exclusive" or other.body.mode == "shared")
            and priority >= priority_of(other.body)
            and names.issuperset(name_of(r, fold_case=self._fold_case) for r in other.body.resources if r not in other.let_go)
        ]

    def _levels(self, holding: Holding, now: Now) -> int:
        """Those that it has earned, if it waits its turn; what is in its way is known of by the round that is over."""
        if not holding.queued:
            return holding.body.aged
        return levels_earned(holding.known, self._blocking(holding, now), now.instant - holding.asked_at)

    def _circle_of(self, holding: Holding, now: Instant) -> tuple[Wait, ...] | None:
        """The circle in which it waits, if it is the claim to be refused; empty if there is none, None if the others have to be
        asked whether it is so. It is when all owners of its claims have answered a round begun since it was seen: whatever had
        ended by then, its owner had said so first."""
        if not holding.suspects and holding.looked_at != -1:
            answered = all(peer in holding.answers for peer in self._others())
            if not answered or holding.looked_at == self.claims.changes:
                return ()
        holding.looked_at = self.claims.changes
        circle = () if holding.succeeds else self._circle(holding, now)
        claims = members(circle)
        news = holding.suspects != claims.keys()
        holding.suspects = frozenset(claims)
        others = set(claims.values()) - {self._me}
        if not (circle and others):
            return circle
        if news:
            holding.suspected_in = holding.round
            return None
        return circle if holding.round > holding.suspected_in and others <= holding.answers else ()

    def _circle(self, holding: Holding, now: Instant) -> tuple[Wait, ...]:
        """By a graph that may be a little older than now, as claims that have run out are no news; a circle, by one of now."""
        if not self._is_waited_for(holding, now):
            return ()
        graph = self._graph
        if graph is None or graph.changes != self.claims.changes or now - graph.instant > GRAPH_MS:
            graph = self._graph = WaitGraph(self.claims, now)
        circle = graph.circle_to_break(holding.known)
        if circle and graph.instant != now:
            self._graph = WaitGraph(self.claims, now)
            circle = self._graph.circle_to_break(holding.known)
        return circle

    def _is_waited_for(self, holding: Holding, now: Instant) -> bool:
        """Whether another claim of its agent keeps one that goes before it waiting: only then can it be the last of a circle. A
        queue of any length is told from a circle by this, without a look at who waits for whom in it."""
        own = self._of_agent.get(holding.body.agent, {})
        if len(own) > FEW:
            return True
        place = key_of(holding.body)
        return any(
            not rival.granted and key_of(rival.body) < place and is_in_the_way(self._own[id_].known, rival)
            for id_ in own
            if id_ != holding.body.id
            for rival in self.claims.conflicting(self._own[id_].body, now)
        )

    def _look_again(self, agent: AgentId, claim: ClaimBody, now: Instant) -> None:
        """A claim waits for the agent, which may be in a circle now: if so, with a request that comes after that claim, as one that
        comes before it is not the one to be refused. Looked at once for all that has changed."""
        if self._looked_changes != self.claims.changes:
            self._looked_changes = self.claims.changes
            self._looked_agents.clear()
        if (agent, claim.id) in self._looked_agents:
            return
        self._looked_agents.add((agent, claim.id))
        own = self._of_agent.get(agent, {})
        ids = list(own) if len(own) <= FEW else [known.body.id for known in self.claims.waiting(now)]
        for id_ in ids:
            holding = self._own.get(id_)
            if holding is None or not holding.queued or holding.granted or holding.body.agent != agent:
                continue
            if key_of(claim) < key_of(holding.body):
                holding.looked_at = -1
                self._dirty[id_] = None
