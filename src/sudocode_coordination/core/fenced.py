"""Pushes that only land while the pusher's strict leases are its own: the commit on the table that goes with them.

A client pushes its work together with a commit that renews its leases, all or nothing. So if anything happened to the table in
between, the push does not land, and the next try shows whether the leases are still there.

Laws: whoever lost a lease pushes nothing until it has let go of it or has it anew, through restarts too; what an earlier life held
when it ended without a word is lost.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import msgspec

from sudocode_coordination.api.history import ENDED_UNSEEN
from sudocode_coordination.api.requests import PreparePush
from sudocode_coordination.core.facts import Output, Respond
from sudocode_coordination.core.holdings import Ticket
from sudocode_coordination.core.io import DiskContents, ForgottenValue, Persist, Reply, RequestError, StoredValue
from sudocode_coordination.core.lease_view import known_from_entry
from sudocode_coordination.core.overlap import Overlap
from sudocode_coordination.core.strict_writer import Built, TableWriter
from sudocode_coordination.core.wire import ClaimBody, StrictRenew
from sudocode_coordination.errors import CoordinationError, HeldError, RemoteError
from sudocode_coordination.model import AgentId, ClaimId, Instant, Json, Now, PeerId, Resource

MAX_LOST: Final = 200
"""Lost leases of one agent that its pushes are refused for; the latest."""
MAX_LOSERS: Final = 256
"""Agents who have lost some; the latest. One that is never back lets nothing go, and a clone has a new agent for each task."""
MAX_PREPARED: Final = 64
"""Commits that clients may be pushing right now."""
SPACE: Final = "lost"
"""On disk: all that is lost, as one value: it seldom changes."""


class LostLease(NamedTuple):
    """A strict lease that an agent lost and has not let go of."""

    claim: ClaimBody
    token: int
    reason: str
    holder: str
    """Agent id of who got it, if known then."""


class _Asked(NamedTuple):
    ticket: Ticket
    agent: AgentId
    at: Instant


class Fencing(NamedTuple):
    """A commit that a client may push."""

    agent: AgentId
    claims: tuple[ClaimId, ...]
    built: Built
    at: Instant
    """Before it was made: the leases in it count from then on."""


class FencedPushes:
    """See the module."""

    def __init__(self, writer: TableWriter) -> None:
        self._writer = writer
        self._lost: dict[AgentId, dict[ClaimId, LostLease]] = {}
        self._on_disk = False
        """Whether the disk may have known of any."""
        self.is_kept = True
        """Whether the disk knows what is lost."""
        self._asked: dict[str, _Asked] = {}
        self._ready: dict[Ticket, Fencing] = {}
        """To be answered in this step."""
        self._out: dict[str, Fencing] = {}
        """By commit."""
        self._landed: list[Fencing] = []

    # --- what is lost -----------------------------------------------------------------------------------------------------

    def started(self, me: PeerId, contents: DiskContents, held: Iterable[tuple[str, Json]], now: Now) -> None:
        """What is lost since earlier lives, and what the one before held when it ended.

        Args:
            me: this peer.
            contents: of the disk. What can't be read there was damaged, and that is told elsewhere.
            held: own entries of the document's `leases` of before.
        """
        for value in contents.values:
            if value.space == SPACE:
                self._on_disk = True
                for lease in _read(value.data):
                    self.lose(lease)
                self.is_kept = True
        for key, entry in held:
            known = known_from_entry(me, key, entry, now.instant, 0)
            if known is not None and known.granted and known.token is not None:
                self.lose(LostLease(known.body, known.token, ENDED_UNSEEN, ""))

    def lose(self, lease: LostLease) -> None:
        """An agent has lost a lease. Its pushes are refused until it lets go of it, or gets it anew."""
        self.is_kept = False
        lost = self._lost.pop(lease.claim.agent, {})
        self._lost[lease.claim.agent] = lost
        lost[lease.claim.id] = lease
        while len(lost) > MAX_LOST:
            del lost[next(iter(lost))]
        while len(self._lost) > MAX_LOSERS:
            del self._lost[next(iter(self._lost))]

    def let_go(self, agent: AgentId, resources: tuple[Resource, ...], *, everything: bool = False) -> tuple[LostLease, ...]:
        """The agent knows: it releases what overlaps these. What it lost beside them is lost still. Returns what is let go."""
        wanted = _all_of(resources)

        def left_of(was: ClaimBody) -> tuple[Resource, ...]:
            return () if everything else tuple(r for r in was.resources if not wanted.touches(r, fold_case=was.fold))

        return self._forget(agent, left_of)

    def regained(self, claim: ClaimBody) -> None:
        """The agent has a strict lease anew: what it lost on the same is made good, unless it lost more with it."""
        wanted = _all_of(claim.resources)

        def left_of(was: ClaimBody) -> tuple[Resource, ...]:
            again = all(wanted.touches(r, fold_case=was.fold or claim.fold) for r in was.resources)
            return () if again else was.resources

        self._forget(claim.agent, left_of)

    def _forget(self, agent: AgentId, left_of: Callable[[ClaimBody], tuple[Resource, ...]]) -> tuple[LostLease, ...]:
        lost = self._lost.get(agent, {})
        gone = []
        for id_, lease in list(lost.items()):
            left = left_of(lease.claim)
            if left == lease.claim.resources:
                continue
            self.is_kept = False
            of = tuple(r for r in lease.claim.resources if r not in left)
            gone.append(lease._replace(claim=msgspec.structs.replace(lease.claim, resources=of)))
            if left:
                lost[id_] = lease._replace(claim=msgspec.structs.replace(lease.claim, resources=left))
            else:
                del lost[id_]
        if not lost:
            self._lost.pop(agent, None)
        return tuple(gone)

    def keep(self) -> list[Output]:
        """For the disk: what is lost, if that has changed."""
        if self.is_kept:
            return []
        self.is_kept = True
        leases = tuple(lease for lost in self._lost.values() for lease in lost.values())
        if not (leases or self._on_disk):
            return []
        self._on_disk = True
        operation = StoredValue(space=SPACE, key=SPACE, data=msgspec.msgpack.encode(leases))
        return [Persist(operations=(operation if leases else ForgottenValue(space=SPACE, key=SPACE),))]

    def disk_works(self) -> None:
        """Again: what was to be kept meanwhile may not be there."""
        self.is_kept = not self._on_disk

    # --- pushes -----------------------------------------------------------------------------------------------------------

    def prepare(self, agent: AgentId, ticket: Ticket, op: StrictRenew | None, now: Now) -> list[Output]:
        """Make the commit; `op` None: the agent has no strict lease. Answered by a later `Respond`, or an error.

        Raises:
            HeldError: the agent has lost a strict lease.
        """
        for lease in self._lost.get(agent, {}).values():
            raise self._held(lease)
        if op is None:
            self._ready[ticket] = Fencing(agent, (), Built(StrictRenew("", ("-",))), now.instant)
            return [Respond(client=ticket.client, request_id=ticket.request_id, request=PreparePush(agent=agent))]
        self._asked[op.id] = _Asked(ticket, agent, now.instant)
        self._writer.prepare(op, now)
        return []

    def take(self, ticket: Ticket) -> Fencing | None:
        """What is to be answered."""
        return self._ready.pop(ticket, None)

    def made(self, built: Built) -> list[Output]:
        """The commit is there, or is not to be."""
        asked = self._asked.pop(built.op.id, None)
        if asked is None:
            return []
        ticket = asked.ticket
        if built.failure is None and not built.result.lost:
            self._out[built.commit] = self._ready[ticket] = Fencing(asked.agent, built.op.claims, built, asked.at)
            while len(self._out) > MAX_PREPARED:
                del self._out[next(iter(self._out))]
            return [Respond(client=ticket.client, request_id=ticket.request_id, request=PreparePush(agent=asked.agent))]
        error: CoordinationError
        if built.failure is None:
            lost = built.result.lost[0]
            what = "is wanted by a higher priority" if lost.reason == "preempted" else "is lost"
            hint = "see `coord leases --all`: lease it again with --strict, or let it go with `coord release`"
            error = HeldError(f"a strict lease of {asked.agent} {what}" + (f": {lost.agent}" if lost.agent else ""), hint=hint)
        else:
            error = RemoteError(
                f"the table of strict leases can't be used: {built.reason}", hint="see `coord doctor`, then try again"
            )
        refusal = RequestError(code=error.code, message=error.message, hint=error.hint)
        return [Reply(client=ticket.client, request_id=ticket.request_id, error=refusal)]

    def done(self, commit: str, *, landed: bool) -> None:
        """The client has pushed it, or could not."""
        fencing = self._out.pop(commit, None)
        if fencing is not None and landed:
            self._landed.append(fencing)
        self._writer.pushed_by_client()

    def landed(self) -> list[Fencing]:
        """Those that landed and were not asked for yet."""
        landed, self._landed = self._landed, []
        return landed

    def _held(self, lease: LostLease) -> HeldError:
        claim = lease.claim
        names = ", ".join(str(resource) for resource in claim.resources[:3])
        typed = " ".join(shlex.quote(str(resource)) for resource in claim.resources[:3])
        now_held = self._writer.table.conflicting(claim) if self._writer.known else []
        who = f"{now_held[0].agent} has it with token {now_held[0].token}" if now_held else "nobody is known to have it now"
        if not now_held and lease.holder:
            who = f"{lease.holder} wanted it"
        return HeldError(
            f"{claim.agent} lost its strict lease on {names} (token {lease.token}, {lease.reason}): {who}",
            hint=f"lease it again with --strict, or let it go: coord release {typed}",
        )


def _read(data: bytes) -> tuple[LostLease, ...]:
    try:
        return msgspec.msgpack.decode(data, type=tuple[LostLease, ...])
    except (ValueError, RecursionError):
        return ()


def _all_of(resources: tuple[Resource, ...]) -> Overlap:
    wanted = Overlap()
    wanted.add("wanted", resources)
    return wanted
