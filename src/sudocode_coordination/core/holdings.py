"""A claim of an agent of this peer, and the rules by which it becomes, stays and ceases to be a lease. No messages here.

    pending --effective--> granted --effective, newer round--> granted (extended)
    pending, granted --end--> ended;  granted --past validity--> ended (expired), never revived

`effective`: the last round is still fresh, nothing that blocks is live, and enough peers answered (`standing`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, TypeAlias

from sudocode_coordination.core.claims import Claims, Known
from sudocode_coordination.core.wire import ClaimBody
from sudocode_coordination.model import ClaimId, Grade, Instant, Overlapped, PartitionPolicy, PeerId, Resource

QUEUED_HOLD_MS: Final = 15_000
"""How long a waiting claim counts at others without refresh: short, so that a waiter that died delays nobody for long."""
LEAST_HOLD_MS: Final = 1_500
"""Three refreshes of a waiting claim, half a second apart, are the most that is worth sending."""


class Ticket(NamedTuple):
    """Whose answer is due: a request of a client of the daemon."""

    client: int
    request_id: int


class View(NamedTuple):
    """What the lease machine is told of the swarm."""

    roster: tuple[PeerId, ...] = ()
    """All peers on the coordination branch that count, this one among them."""
    established: tuple[PeerId, ...] = ()
    """Those of the roster of whom a quorum needs a majority as well (`roster.py`)."""
    voices: frozenset[PeerId] | None = None
    """Those of the roster whose answers count; the others have weight, but no voice. None: all."""
    groups: Mapping[PeerId, frozenset[PeerId]] = MappingProxyType({})
    """Whose weight counts with those who answer; asked of by a peer that is itself new, and knows only what it has found."""
    elders: tuple[PeerId, ...] = ()
    """Of the established those who don't say that they are new themselves; likewise. Of those who do, who need not be newer than
    this peer, a quorum needs a majority of each one's group: by that it may itself hold."""
    voice_until: Instant | None = None
    """Until when this peer's own answers count: its record is taken for renewed no longer. None: no such limit."""
    connected: frozenset[PeerId] = frozenset()
    suspected: frozenset[PeerId] = frozenset()
    """Not reached although it was tried."""
    gone: frozenset[PeerId] = frozenset()
    """Suspected for longer than the grace."""
    roster_fresh: bool = False
    """The roster was read recently enough for a quorum of it to mean something."""
    branch_seen: bool = True
    """The branch was read, in this life or in the one before: there is a last view."""
    ready: bool = False
    """Who is there is known: the branch was read, or could not be."""


class Holding:
    """One own claim."""

    __slots__ = (
        "acks",
        "answers",
        "asked_again",
        "asked_at",
        "asked_first",
        "blockers",
        "branch",
        "commit",
        "decide_by",
        "grade",
        "granted",
        "heirs",
        "hold_ms",
        "known",
        "let_go",
        "looked_at",
        "may_queue",
        "next_at",
        "overlaps",
        "published",
        "queue_hold_ms",
        "queued",
        "round",
        "sent_at",
        "strict",
        "strict_until",
        "succeeds",
        "suspected_in",
        "suspects",
        "table_wants",
        "ticket",
        "to_share",
        "token",
        "ttl_ms",
        "valid_until",
        "vouched",
        "waits",
        "yield_at",
        "yield_to",
        "yielded",
    )

    def __init__(self, known: Known, ticket: Ticket | None, now: Instant) -> None:
        self.known = known
        self.ticket = ticket
        self.ttl_ms = known.body.ttl_ms
        self.granted = False
        self.grade: Grade = "provisional"
        self.round = -1
        self.sent_at: Instant = now
        self.hold_ms = self.ttl_ms
        self.acks: set[PeerId] = set()
        """Who acknowledged the last round, and may be counted."""
        self.answers: set[PeerId] = set()
        """Who acknowledged it at all."""
        self.blockers: set[ClaimId] = set()
        """Conflicting claims that somebody disclosed."""
        self.vouched: dict[ClaimId, set[PeerId]] = {}
        """Those whose owners somebody is connected to, though this peer may not be, with who says so."""
        self.yielded: set[ClaimId] = set()
        """Those of them that gave way to this round, as their owners said. To this round only: their owners know the claim, and
        wait for it, no longer than a round lasts."""
        self.asked_again: set[PeerId] = set()
        """Owners of such claims that had answered this round before they had a claim to give way with."""
        self.waits: set[ClaimId] = set()
        """Claims that this one gave way to."""
        self.valid_until: Instant = 0
        self.next_at: Instant = now
        """When to refresh or to repeat."""
        self.asked_at = now
        self.decide_by: Instant | None = None
        self.may_queue = False
        """Whether the agent waits its turn."""
        self.queued = False
        self.queue_hold_ms = QUEUED_HOLD_MS
        """How long a round counts at others while it waits."""
        self.published = False
        self.yield_at: Instant | None = None
        """A higher priority waits: ends then."""
        self.yield_to = ""
        self.succeeds: ClaimId | None = None
        """The agent's claim that this one, once granted, replaces."""
        self.heirs: set[ClaimId] = set()
        """The claims that will together replace this one."""
        self.let_go: frozenset[Resource] = frozenset()
        """What the agent has released of it; held until the heirs are granted, but no more the agent's."""
        self.to_share: frozenset[Resource] = frozenset()
        """What the agent wants to keep of it shared only; exclusive until the heirs are granted."""
        self.asked_first: frozenset[PeerId] = frozenset()
        """Owners of what is in its way as far as is known here: nobody else is asked until they have answered."""
        self.looked_at = -1
        """`Claims.changes` when it was last looked whether it waits in a circle; -1: look again."""
        self.suspects: frozenset[ClaimId] = frozenset()
        """The claims of a circle that it seems to wait in, to be looked at again when their owners have answered a new round …"""
        self.suspected_in = -1
        """… newer than this."""

        self.strict = False
        """It also has to be in the table on the git remote."""
        self.token: int | None = None
        """Fencing token of a strict one that is in the table."""
        self.strict_until: Instant = 0
        """How long it counts there."""
        self.table_wants = ""
        """Who is noted there to want it by a higher priority: it can't be renewed any more."""
        self.commit: str | None = None
        """What is left behind for the next holder, and on which branch; known from its release on."""
        self.branch = ""
        self.overlaps: tuple[Overlapped, ...] = ()
        """Leases of others that it was held along with, as far as that was found."""

    @property
    def body(self) -> ClaimBody:
        """What was asked for."""
        return self.known.body

    @property
    def asks_table(self) -> bool:
        """A strict one that other peers have let through, and the table has not yet."""
        return self.strict and self.granted and self.token is None

    @property
    def held(self) -> bool:
        """Its agent may rely on it."""
        return self.granted and not self.asks_table

    def queue(self, blocking: list[Known]) -> None:
        """It waits its turn. A waiter that dies must not keep the holder from its renewal, which begins at half its ttl."""
        self.queued = self.published = True
        shortest = min(known.body.ttl_ms for known in blocking)
        self.queue_hold_ms = max(LEAST_HOLD_MS, min(QUEUED_HOLD_MS, shortest // 3))

    def begin_round(self, number: int, now: Instant) -> None:
        """Answers to earlier rounds no longer count."""
        self.round = number
        self.sent_at = now
        self.hold_ms = min(self.ttl_ms, self.queue_hold_ms) if self.queued and not self.granted else self.ttl_ms
        # From now on others count it no longer than this round lasts, though the one before may have lasted longer.
        self.valid_until = min(self.valid_until, now + self.hold_ms)
        self.acks.clear()
        self.answers.clear()
        self.blockers.clear()
        self.vouched.clear()
        self.yielded.clear()
        self.asked_again.clear()

    def excuses(self, known: Known, view: View) -> bool:
        """Whether that claim need not be waited for: its owner is gone, for all that anybody knows."""
        return known.owner in view.gone and self.vouched.get(known.body.id, set()) <= view.suspected

    def blocking(self, claims: Claims, now: Instant) -> list[Known]:
        """`BLOCKED`: live claims in the way."""
        found = []
        for id_ in sorted(self.waits | (self.blockers - self.yielded)):
            known = claims.get(id_)
            if known is not None and claims.live(known, now):
                found.append(known)
            else:
                self.waits.discard(id_)
                self.blockers.discard(id_)
        return found


Standing: TypeAlias = Literal["quorum", "provisional", "open"]


def _is_majority(voices: set[PeerId], group: Collection[PeerId]) -> bool:
    return 2 * len(voices.intersection(group)) > len(group)


def standing(
    holding: Holding, blocking: list[Known], view: View, me: PeerId, policy: PartitionPolicy, *, memory: bool, now: Instant
) -> Standing:
    """`QUORUM`, `standing`: what the answers to the last round amount to: a grade, or `open` (not, or not yet, effective).

    Args:
        blocking: live claims in the way.
        me: this peer.
        memory: whether this peer surely remembers all that it acknowledged; else its own voice does not count.
    """
    if now >= holding.sent_at + holding.hold_ms or not view.ready:
        return "open"
    if blocking and not (policy == "open" and all(holding.excuses(known, view) for known in blocking)):
        return "open"  # whoever has answered
    roster = view.roster or (me,)
    heard = holding.acks if view.voices is None else holding.acks & view.voices
    voices = {peer for peer in roster if (memory if peer == me else peer in heard)}
    while unsatisfied := {v for v in voices if v in view.groups and not _is_majority(voices, view.groups[v])}:
        voices -= unsatisfied
    established = view.established or (me,)
    founders = [view.groups[peer] for peer in established if peer in view.groups and peer not in view.elders]
    majorities = all(_is_majority(voices, group) for group in (roster, established, view.elders or established, *founders))
    # Who is back after a goodbye, or can't write the branch, counts for no majority; but it can be reached.
    others = {*roster, *view.connected} - {me}
    # Who vanished from the branch and can't be reached is not live any more.
    live = [p for p in others if view.voices is None or p in view.voices or p in view.connected]
    unanimous = not blocking and view.branch_seen and all(peer in holding.answers for peer in live)
    if not blocking and view.roster_fresh and majorities and (policy != "closed" or holding.granted or unanimous):
        return "quorum"
    match policy:
        case "majority":
            return "open"
        case "closed":
            agreed = unanimous
        case "open":
            agreed = all(peer in holding.answers or peer in view.suspected for peer in others)
    return "provisional" if agreed else "open"
