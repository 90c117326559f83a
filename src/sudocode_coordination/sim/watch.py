"""Looks at a node after each of its steps: what its agents hold, and whether they may. Only what has changed is compared.

The laws, by the names of `docs/leases.md`: S1, two conflicting quorum leases are never valid together; settled, a swarm that has
been whole for a while has one holder, whatever the grade; S2, a provisional overlap is with somebody out of reach; S3, of two that
meet exactly one ends, and a lease that ends against its holder's will is told; S4, what has ended is never revived.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from sudocode_coordination.api.events import Event
from sudocode_coordination.api.requests import AcquireLease
from sudocode_coordination.core.claims import key_of, owner_of, priority_of, rank_of
from sudocode_coordination.core.discovery import MAX_RETRY_MS
from sudocode_coordination.core.holdings import QUEUED_HOLD_MS
from sudocode_coordination.core.resources import normalise_all
from sudocode_coordination.core.wire import ClaimBody
from sudocode_coordination.model import AgentId, ClaimId, Grade, Instant, PeerId
from sudocode_coordination.sim.checkers import Violation, clash, have_in_common
from sudocode_coordination.sim.remote import TIME_LIMIT_MS
from sudocode_coordination.sim.strict_watch import StrictWatch
from sudocode_coordination.sim.world import SimNode, World

CALM_MS: Final = 30_000
"""A swarm in which nothing went wrong for so long decides at once."""
WAKE_MS: Final = 4_000
"""Then whoever is next has the lease by then: some messages, one of them perhaps repeated after a second."""
LOOK_MS: Final = TIME_LIMIT_MS + MAX_RETRY_MS * 6 // 5 + WAKE_MS
"""And each has looked at the branch by then: the last look in vain has come to nothing, and the longest wait after it is over."""
CONTACT_MS: Final = 2_000
"""Two that have been connected for so long have told each other what they hold."""


class Held(NamedTuple):
    """A lease that agents of a node may rely on."""

    body: ClaimBody
    grade: Grade
    valid_until: Instant
    """By the node's clock."""
    since: Instant
    """World time at which it was first seen."""
    token: int | None = None
    """Of a strict one."""


class _Told(NamedTuple):
    agent: AgentId
    reason: str


class _Lost(NamedTuple):
    node: str
    at: Instant
    winners: frozenset[ClaimId]


class Watch:
    """The invariants of every step.

    Args:
        world: all whose nodes are watched.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._held: dict[str, dict[ClaimId, Held]] = {node.name: {} for node in world.nodes}
        self._ever: dict[ClaimId, Held] = {}
        """All of one history, as they were held last."""
        self._strict = StrictWatch(world)
        self._life: dict[str, int] = {}
        self._ended: set[ClaimId] = set()
        self._lost: dict[ClaimId, _Lost] = {}
        self._told: dict[ClaimId, _Told] = {}
        """Of the step that is being looked at: why a lease has ended, as its agent heard it."""
        self._met: dict[tuple[str, PeerId], Instant] = {}
        self._met_life: dict[tuple[str, PeerId], int] = {}
        """Which process of the other it was."""
        """When each node last connected to another."""
        self._granted: set[ClaimId] = set()
        """Of the step that is being looked at: leases that were granted in it so far …"""
        self._before_meeting: dict[PeerId, frozenset[ClaimId]] = {}
        """… and those that had been when it connected to each peer."""
        self._ready_since: dict[ClaimId, Instant] = {}
        """Claims that wait, and nothing is in their way."""
        self.settled = False
        """Whether the swarm has been whole for long enough to have repaired every overlap."""
        world.watchers.append(self.stepped)
        world.listeners.append(self._heard)

    def settle(self, *, settled: bool) -> None:
        """The swarm has settled, or is troubled again.

        Raises:
            Violation: it should have repaired an overlap by now.
        """
        if settled and not self.settled:
            self.settled = True
            self.look()
        self.settled = settled

    def look(self) -> None:
        """At all nodes, whether they have changed or not.

        Raises:
            Violation: two hold the same.
        """
        for node in self._world.nodes:
            self.stepped(node)
            for _, held in self._valid(node):
                self._check_alone(node, held)

    def look_at_waiters(self, *, calm_ms: int) -> None:
        """L1: in a swarm that is well, who waits for nobody does not wait.

        Raises:
            Violation: somebody does.
        """
        running = self._world.running()
        # Who has lost its memory or its roster has no voice until the window is over, and a majority may not be had without it.
        # So for whom others do not count because its record looks out of date: its clock, or theirs, was set.
        everybody = {node.peer_id for node in running}
        voices = all(
            node.node is not None
            and node.node.leases.is_voice(node.now.instant)
            and everybody <= (node.node.leases.view.voices or set())
            for node in running
        )
        if calm_ms < CALM_MS or not voices:
            self._ready_since.clear()
            return
        pending = [
            (node, holding.body, holding.strict)
            for node in running
            if node.node is not None
            for holding in node.node.leases.holdings()
            if not holding.granted
        ]
        held = [(node, h.body) for node in running if node.node is not None for h in node.node.leases.holdings() if h.granted]
        ready: dict[ClaimId, Instant] = {}
        instant = self._world.scheduler.instant
        for node, body, strict in pending:
            if strict:
                continue  # it may be the table that it waits for
            others = held + [(o, b) for o, b, _ in pending if key_of(b) < key_of(body)]
            if any(clash(body, b) for other, b in others if not (other is node and b.agent == body.agent)):
                continue
            assert node.node is not None
            majority = node.config.partition_policy == "majority"
            if majority and not node.node.leases.view.roster_fresh and calm_ms < LOOK_MS:
                continue  # it is the branch that it waits for
            since = ready[body.id] = self._ready_since.get(body.id, instant)
            # Who had no voice when it answered is asked again with the next round.
            wake_ms = WAKE_MS + (QUEUED_HOLD_MS // 3 if majority else 0)
            if instant - since >= wake_ms and node.node.leases.view.ready:
                raise Violation(f"at {instant}: {node.name} waits with {body.id} since {since}, and nothing is in its way")
        self._ready_since = ready

    def held(self) -> list[tuple[SimNode, Held]]:
        """All leases that agents may rely on now, on frozen nodes too: what those wrote last, they wrote in that belief."""
        return [(node, held) for node in self._world.nodes for _, held in self._valid(node)]

    def _valid(self, node: SimNode) -> Iterator[tuple[ClaimId, Held]]:
        if node.node is None or self._life.get(node.name) != node.lives:
            return
        now = node.now.instant
        for id_, held in self._held.get(node.name, {}).items():
            if now < held.valid_until:
                yield id_, held

    def stepped(self, node: SimNode) -> None:
        """After each step of a node.

        Raises:
            Violation: the step broke a law.
        """
        told, self._told = self._told, {}
        before_meeting, self._before_meeting = self._before_meeting, {}
        self._granted.clear()
        before = self._held.setdefault(node.name, {})
        if self._life.get(node.name) != node.lives:
            self._life[node.name] = node.lives
            self._ended |= before.keys()
            before = self._held[node.name] = {}
        if self._strict.news:
            self._strict.look()
            for other, lease in self.held():
                if lease.token is not None:
                    self._strict.check_held(other.name, lease.body.id, lease.token)
        if node.node is None:
            return
        own = node.node.leases.holdings()
        if not own and not before:
            return
        instant, now = self._world.scheduler.instant, node.now.instant
        held: dict[ClaimId, Held] = {}
        for holding in own:
            until = holding.valid_until if holding.token is None else min(holding.valid_until, holding.strict_until)
            if holding.held and now < until:
                body = holding.body
                old = before.get(body.id)
                if old is not None and (old.body, old.grade, old.valid_until, old.token) == (
                    body,
                    holding.grade,
                    until,
                    holding.token,
                ):
                    held[body.id] = old
                    continue
                since = instant if old is None else old.since
                held[body.id] = Held(body, holding.grade, until, since, holding.token)
        if held == before:
            return
        self._held[node.name] = held
        self._ever.update(held)
        for id_ in before.keys() - held.keys():
            self._ended.add(id_)
            self._check_told(node, before[id_], told, held, before)
        for id_, lease in held.items():
            old = before.get(id_)
            if lease is old:
                continue
            if id_ in self._ended or (old is not None and old.valid_until <= now):
                raise Violation(f"at {instant}: {node.name} revived {id_}")
            if lease.token is not None:
                self._strict.check_held(node.name, id_, lease.token)
            self._check_alone(node, lease)
            if old is None and lease.grade == "provisional":
                self._check_out_of_reach(node, lease, before_meeting)

    def _check_alone(self, node: SimNode, lease: Held) -> None:
        for other, rival in self._rivals(node, lease):
            if other is node or self.settled or (lease.grade == rival.grade and lease.grade != "provisional"):
                raise Violation(self._both_hold(node, lease, other, rival))

    def _check_out_of_reach(self, node: SimNode, lease: Held, before_meeting: dict[PeerId, frozenset[ClaimId]]) -> None:
        """S2: it has just been granted. A step may meet a peer only after that: by what was due, and the machine was late."""
        assert node.node is not None
        in_contact = node.node.leases.view.connected - node.node.leases.view.suspected
        for other, rival in self._rivals(node, lease):
            there = other.node
            met = self._met_life.get((node.name, other.peer_id)) == other.lives
            if not met and there is not None and node.peer_id not in there.leases.view.connected:
                continue  # the process that it was in contact with has died, unnoticed yet; this one has met nobody here
            if other.peer_id in in_contact and lease.body.id not in before_meeting.get(other.peer_id, ()):
                raise Violation(f"{self._both_hold(node, lease, other, rival)}, though they are in contact")

    def _rivals(self, node: SimNode, lease: Held) -> Iterator[tuple[SimNode, Held]]:
        for other in self._world.nodes:
            for id_, rival in self._valid(other):
                same = id_ == lease.body.id or (other is node and rival.body.agent == lease.body.agent)
                if not same and clash(lease.body, rival.body):
                    yield other, rival

    def _both_hold(self, node: SimNode, lease: Held, other: SimNode, rival: Held) -> str:
        return (
            f"at {self._world.scheduler.instant}: {node.name} ({lease.grade}, {lease.body.id}) and {other.name} "
            f"({rival.grade}, {rival.body.id}) both hold what {lease.body.resources} and {rival.body.resources} have in common"
        )

    # --- who is told ------------------------------------------------------------------------------------------------------

    def _heard(self, node: SimNode, event: Event) -> None:
        if event.type == "peer-connected":
            met = event.data["peerId"]
            self._met[node.name, met] = self._world.scheduler.instant
            self._met_life[node.name, met] = next(other.lives for other in self._world.nodes if other.peer_id == met)
            self._before_meeting[event.data["peerId"]] = frozenset(self._granted)
        if event.type == "lease-acquired":
            self._granted.add(event.data["lease"]["claimId"])
        if event.type not in ("lease-lost", "lease-released") or "lease" not in event.data:
            return
        id_ = event.data["lease"]["claimId"]
        reason = event.data.get("reason", "") if event.type == "lease-lost" else "released"
        self._told.setdefault(id_, _Told(event.agent_id, reason))
        if event.type == "lease-lost" and event.data.get("reason") == "lost-conflict":
            self._note_lost(node, id_, event.data.get("overlap", {}).get("claimId", ""))
        if event.type == "lease-lost" and event.data.get("reason") == "preempted":
            self._check_preempted(node, id_, event.data.get("holder", ""))
        if event.type == "lease-lost" and event.data.get("reason") == "expired":
            self._check_expired(node, id_)

    def _check_preempted(self, node: SimNode, id_: ClaimId, taker: AgentId) -> None:
        """Only somebody with a higher priority takes a lease over."""
        lease = self._held.get(node.name, {}).get(id_)
        if lease is None or node.node is None:
            return
        known = node.node.leases.claims.conflicting(lease.body, node.now.instant)
        if any(k.body.priority > priority_of(lease.body) for k in known):
            return
        # That whoever wanted it has gone may be heard in the same step: it did ask for it.
        asked = (request for other in self._world.nodes for request in other.asked_for.get(taker, ()))
        if any(request.priority > priority_of(lease.body) and clash(_body_of(request), lease.body) for request in asked):
            return
        if lease.token is None or not self._strict.was_wanted(id_):
            rivals = [(k.body.id, k.body.priority) for k in known]
            raise Violation(
                f"at {self._world.scheduler.instant}: {node.name} gave up {id_}, and of no higher priority is any of {rivals}, "
                f"nor what {taker or 'nobody'} asked for"
            )

    def _check_expired(self, node: SimNode, id_: ClaimId) -> None:
        """S3: of two that are in contact one gives way; it is not left to time."""
        lease = self._held.get(node.name, {}).get(id_)
        if lease is None or node.node is None or self._world.network.faults.frame_loss:
            return
        instant, me = self._world.scheduler.instant, node.peer_id
        for other in self._world.running():
            there = other.node
            if other is node or there is None:
                continue
            both_ways = me in there.membership.connected_peers and other.peer_id in node.node.membership.connected_peers
            since = max(
                self._met.get((node.name, other.peer_id), 0), self._met.get((other.name, me), 0), node.paused_at, other.paused_at
            )
            if not both_ways or since > instant - CONTACT_MS:
                continue
            for rival_id, rival in self._valid(other):
                if rival.since < instant - CONTACT_MS and clash(lease.body, rival.body):
                    raise Violation(f"at {instant}: {node.name} lost {id_} to time, and {other.name}, in contact, holds {rival_id}")

    def _note_lost(self, node: SimNode, id_: ClaimId, named: ClaimId) -> None:
        lease = self._held.get(node.name, {}).get(id_)
        if lease is None or node.node is None:
            return
        instant = self._world.scheduler.instant
        known = node.node.leases.claims.conflicting(lease.body, node.now.instant)
        rank = rank_of(lease.body, lease.grade)
        winners = frozenset(k.body.id for k in known if k.granted and rank_of(k.body, k.grade) < rank)
        if lease.token is not None and not self._strict.has(id_):
            return  # to whoever has it in the table
        rival = self._ever.get(named)
        if not winners and rival is not None and rank_of(rival.body, rival.grade) < rank and clash(rival.body, lease.body):
            winners = frozenset((named,))  # it gave way to a third one meanwhile, and that was heard in the same step
        if not winners:
            raise Violation(f"at {instant}: {node.name} gave up {id_} to nobody")
        for winner in sorted(winners):
            lost = self._lost.get(winner)
            if lost is not None and lost.node != node.name and id_ in lost.winners:
                raise Violation(
                    f"at {instant}: {node.name} gave up {id_} for {winner}, which {lost.node} had given up for it at {lost.at}"
                )
        self._lost[id_] = _Lost(node.name, instant, winners)

    def _check_told(
        self, node: SimNode, lease: Held, told: dict[ClaimId, _Told], held: dict[ClaimId, Held], before: dict[ClaimId, Held]
    ) -> None:
        """A lease is no more: its agent wanted it so, was told, or has another one in its place."""
        instant, body = self._world.scheduler.instant, lease.body
        if body.id not in told:
            heirs = any(h.body.agent == body.agent and have_in_common(h.body, body) for id_, h in held.items() if id_ not in before)
            # One that took its place may have ended in the same step.
            passing = any(t.agent == body.agent for id_, t in told.items() if id_ not in before and owner_of(id_) == node.peer_id)
            if not (heirs or passing):
                raise Violation(f"at {instant}: {node.name} holds {body.id} no more, and {body.agent} was not told")
        elif told[body.id].reason == "released":
            willed = max(node.willed.get(body.agent, -1), node.willed.get(None, -1))
            if max(willed, node.disk_failed_at) < lease.since:
                raise Violation(f"at {instant}: {node.name} released {body.id}, and {body.agent} had not asked for it")


def _body_of(request: AcquireLease) -> ClaimBody:
    return ClaimBody("", request.agent or "", normalise_all(request.resources), request.mode, request.priority, 0, 60_000)
