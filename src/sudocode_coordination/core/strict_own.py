"""What an agent of this peer has in the strict table, or wants there."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from sudocode_coordination.core.claims import owner_of
from sudocode_coordination.core.facts import StrictWanted
from sudocode_coordination.core.overlap import Overlap
from sudocode_coordination.core.strict_writer import TableWriter
from sudocode_coordination.core.wire import ClaimBody, InTheWay, StrictOp
from sudocode_coordination.model import ClaimId, Conflict, Instant, Now, PeerId, iso_from_ms

ASKS_KEPT: Final = 64
"""Askings of one claim whose times are remembered. One that is older and got through is renewed before it counts."""

LEAST_RENEW_MS: Final = 1_000
"""Between two renewals, each of which is a push: a lease that counts for no longer than that runs out."""


class OwnStrict:
    """A strict lease of an agent of this peer, or one on its way. Whatever changes in it, it says so in `stirred`."""

    __slots__ = (
        "answered_at",
        "asked_at",
        "asks",
        "claim",
        "count",
        "decide_by",
        "holders",
        "look_at",
        "loose",
        "preempted",
        "renew_at",
        "renewing",
        "since",
        "state",
        "stirred",
        "token",
        "told",
        "valid_until",
        "waits",
    )

    def __init__(self, wanted: StrictWanted, now: Now, stirred: dict[ClaimId, None]) -> None:
        object.__setattr__(self, "stirred", stirred)
        object.__setattr__(self, "claim", wanted.claim)
        self.stirred: dict[ClaimId, None]
        self.claim: ClaimBody
        self.decide_by = wanted.decide_by
        self.waits = wanted.waits
        self.state: Literal["asking", "waiting", "held"] = "asking"
        self.since = iso_from_ms(now.wall_ms)
        self.count = 0
        self.asks: dict[int, Instant] = {}
        """When it was asked for, by the number of the asking."""
        self.loose = False
        """Asked of a peer that has not answered: it may get into the table at any time."""
        self.token = 0
        self.asked_at: Instant = 0
        self.valid_until: Instant = 0
        self.renew_at: Instant = 0
        self.renewing = False
        self.told = False
        """Its agent has been told that it holds it."""
        self.preempted = False
        self.holders: tuple[InTheWay, ...] = ()
        self.answered_at: Instant = 0
        self.look_at: Instant = 0

    def __setattr__(self, name: str, value: object) -> None:
        """Change it."""
        object.__setattr__(self, name, value)
        self.stirred[self.claim.id] = None

    @property
    def renews(self) -> bool:
        """It is to be renewed at its time: who has it, no renewal is under way, and nobody wants it who goes before."""
        return self.state == "held" and not self.renewing and not self.preempted

    def due(self) -> Instant | None:
        """When it needs something although nothing happens."""
        times: list[Instant] = []
        if self.state == "held":
            if self.told:
                times.append(self.valid_until)
            if self.renews:
                times.append(self.renew_at)
        elif self.state == "waiting":
            times.append(self.look_at)
        if not self.told and self.decide_by is not None:
            times.append(self.decide_by)
        return min(times, default=None)

    def note_ask(self, now: Instant) -> None:
        """It is asked for once more."""
        self.count += 1
        self.asks[self.count] = now
        while len(self.asks) > ASKS_KEPT:
            del self.asks[next(iter(self.asks))]

    def count_from(self, at: Instant) -> None:
        """It is in the table, by what was asked for then."""
        self.asked_at = max(self.asked_at, at)
        self.valid_until = self.asked_at + self.claim.ttl_ms
        self.renew_at = self.asked_at + max(self.claim.ttl_ms // 3, LEAST_RENEW_MS)


class Sent(NamedTuple):
    """An own operation under way."""

    op: StrictOp
    at: Instant
    to: PeerId | None
    """Who was asked; None: written here."""
    answer_by: Instant


def conflicts_with(holder: InTheWay, claim: ClaimBody, writer: TableWriter, now: Now) -> list[Conflict]:
    """An entry in the way, as clients are told of it."""
    wanted = Overlap()
    wanted.add("wanted", claim.resources, fold_case=claim.fold)
    entry = writer.table.entries.get(holder.claim)
    remaining, resources, fold = None, holder.resources, False
    if entry is not None and entry.token == holder.token:
        remaining = max(0, writer.stale_at(entry, now.instant) - now.instant)
        resources, fold = entry.resources, entry.fold  # all of them; an answer carries some
    # Somebody is named in any case: what is in the way may be beyond what an answer carries, of an entry that is not read yet.
    touched = [resource for resource in resources if wanted.touches(resource, fold_case=fold)] or resources[:1]
    return [
        Conflict(
            resource=resource,
            kind="lease",
            agent_id=holder.agent,
            peer_id=owner_of(holder.claim),
            priority=holder.priority,
            remaining_ms=remaining,
            note=holder.note,
        )
        for resource in touched
    ]
