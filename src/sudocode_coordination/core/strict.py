"""Strict leases: a fast claim that is effective gets its place in the table on the git remote, and is held while that is renewed.

    asking --done--> held --renewed--> held --released, preempted, run out--> over
       `---held by another--> waiting --free--> asking

Operations go to the one peer that writes for all who are connected, or are written here (`strict_writer.py`). Laws: a lease is
valid from before it was asked for, for its ttl, by this clock; nothing is renewed that the table does not have; what is in the
table for this peer and is not wanted here is taken out again. `docs/adr/0012-strict-leases-one-table.md` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import Final, Literal, assert_never

import msgspec

from sudocode_coordination.config import CoordinationConfig
from sudocode_coordination.core.claims import owner_of
from sudocode_coordination.core.facts import Output, Say, StrictDropped, StrictGranted, StrictLost, StrictRefused, StrictWanted
from sudocode_coordination.core.fenced import FencedPushes, LostLease
from sudocode_coordination.core.holdings import Ticket
from sudocode_coordination.core.io import DiskContents, Persist, RequestError, StoredValue
from sudocode_coordination.core.strict_agenda import Agenda
from sudocode_coordination.core.strict_own import OwnStrict, conflicts_with
from sudocode_coordination.core.strict_post import StrictPost
from sudocode_coordination.core.strict_table import fits, id_of, short_id
from sudocode_coordination.core.strict_writer import Settled, TableWriter
from sudocode_coordination.core.wire import (
    MAX_RESOURCES,
    MAX_STRICT_CLAIMS,
    InTheWay,
    Seen,
    StrictAcquire,
    StrictAnswer,
    StrictRelease,
    StrictRenew,
    StrictResult,
)
from sudocode_coordination.errors import CoordinationError, RemoteError
from sudocode_coordination.model import AgentId, ClaimId, Instant, Now, PeerId, earliest, iso_from_ms

SPACE: Final = "strict"
"""On disk: the table's greatest revision seen, and whether leases of this peer may be in it."""
HIGHEST_STEP: Final = 64
"""The disk is told of the revision this much ahead, and so seldom; tokens may be skipped, never used twice."""
POLL_MS: Final = 15_000
"""Between two looks at the table while an agent waits for an entry whose owner can't be reached; the interval of discovery
if that is shorter."""
LATE_MS: Final = 60_000
"""How long after the end of a process something of it may still get into the table: others try for it a while, and a push that
nobody waits for any more may take its time."""
RENEW_AGAIN_MS: Final = 30_000
"""After a renewal or a release that the remote refused."""

NO_REMOTE: Final = "with --wait it waits for the remote; fast leases (without --strict) go on; `coord doctor` looks"
FULL: Final = "release strict leases that nobody needs, see: coord leases --all"


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    highest: int
    own: bool


class StrictLeases(StrictPost):
    """See the module.

    Args:
        me: this peer.
        rng: for pauses between tries.
        ended: whether the owner of a claim has said that it ended.
    """

    def __init__(self, me: PeerId, config: CoordinationConfig, rng: Random, ended: Callable[[ClaimId], bool]) -> None:
        super().__init__(me, TableWriter(me, rng, ended))
        self._rare_ms = config.peer_discovery_interval_ms
        self._poll_ms = min(POLL_MS, self._rare_ms)
        self._ended = ended
        self._unwanted: dict[ClaimId, None] = {}
        """To be taken out of the table."""
        self._releasing: set[ClaimId] = set()
        self.fenced = FencedPushes(self.writer)
        self._release_at: Instant = 0
        self._stored = _Stored(0, False)
        self._due: Instant | None = None
        self._looks_twice = False
        self._second_look_at: Instant | None = None
        """When to see what of the life before has come since."""
        self._waiting: dict[ClaimId, OwnStrict] = {}
        self._agenda = Agenda(self._due_of)

    # --- life ---------------------------------------------------------------------------------------------------------

    def started(self, incarnation: int, contents: DiskContents) -> None:
        """What the disk remembers. The table is read only if leases of before may be in it."""
        self.writer.incarnation = incarnation
        for value in contents.values:
            if value.space == SPACE:
                try:
                    self._stored = msgspec.msgpack.decode(value.data, type=_Stored)
                except (ValueError, RecursionError):
                    self._stored = _Stored(0, True)
        self.writer.floor = self._stored.highest
        self.writer.highest = max(0, self._stored.highest - HIGHEST_STEP)
        self.writer.wants_read = self._looks_twice = self._stored.own

    def stop(self) -> None:
        """From now on everything is written here, and nothing for others."""
        self._dirty = True
        self._all_by_itself()

    @property
    def quiet(self) -> bool:
        """Nothing is left to be written."""
        return self.writer.quiet and not (self._outbox or self._unwanted or self._sent)

    def deadline(self) -> Instant | None:
        """When to be flushed although nothing has happened."""
        return earliest(self._due, self._second_look_at, self.writer.deadline())

    def _own_due(self) -> Instant | None:
        times = [sent.answer_by for sent in self._sent.values() if sent.to is not None]
        if self._unwanted:
            times.append(self._release_at)
        first = self._agenda.first()
        if first is not None and not self._stopping:
            times.append(first)
        return min(times, default=None)

    def _due_of(self, claim: ClaimId) -> Instant | None:
        own = self._own.get(claim)
        if own is not None and own.state == "waiting":
            self._waiting[claim] = own
        else:
            self._waiting.pop(claim, None)
        return None if own is None else own.due()

    def problems(self) -> list[str]:
        """What a person should know."""
        return self.writer.problems()

    def trouble_of_remote(self) -> str:
        """Why the table can't be reached; empty if it can."""
        since = self.writer.unreachable_since
        return "" if since is None else f"remote unreachable since {iso_from_ms(since)}: {self.writer.unreachable_reason}"

    # --- what the fast level says -------------------------------------------------------------------------------------

    def told(self, given: StrictWanted | StrictDropped, now: Now) -> list[Output]:
        """A claim that is effective among peers wants its place (or, if it has it, to be renewed), or has ended for good."""
        if isinstance(given, StrictDropped):
            self._dropped(given)
            return []
        if not fits(given.claim):
            error = RequestError(code="resource", message="this lease is too large for the table of strict leases")
            return [StrictRefused(claim=given.claim.id, error=error)]
        self._dirty = True
        if (held := self._own.get(given.claim.id)) is not None:
            held.renew_at = now.instant
            return []
        own = self._own[given.claim.id] = OwnStrict(given, now, self._agenda.stirred)
        self._ask(own, now)
        return self._store(own=True)

    def _dropped(self, given: StrictDropped) -> None:
        own = self._own.get(given.claim)
        if own is None:
            return
        if own.told and given.reason in ("expired", "preempted", "lost-conflict"):
            self.fenced.lose(LostLease(own.claim, own.token, given.reason, given.holder))
        self._forget(own)

    def _forget(self, own: OwnStrict) -> None:
        self._dirty = True
        name = own.claim.id
        del self._own[name]
        self._agenda.stirred[name] = None
        self._outbox = [op for op in self._outbox if id_of(op) != name]
        self._sent.pop(name, None)
        certain = self.writer.withdraw(name) and not own.loose
        noted = any(holder.priority < own.claim.priority for holder in own.holders)  # as wanting what they hold
        if own.state == "held" or noted or not certain:
            self._unwanted[name] = None

    # --- every step -------------------------------------------------------------------------------------------------------

    def flush(self, now: Now) -> list[Output]:
        """What follows from all that was said in this step; to be called until nothing does."""
        if self._is_at_rest(now.instant):
            return []
        out: list[Output] = []
        while True:
            done = self._step(now)
            out += done
            if not (done or self._outbox or self.writer.settled):
                return out

    def _is_at_rest(self, now: Instant) -> bool:
        """Nothing was said since the last step, nobody waits, and no timer is due: a step would find nothing to do."""
        writer = self.writer
        if self._dirty or self._outbox or self._unwanted or self._waiting or self._looks_twice or self._stopping:
            return False
        if not self.fenced.is_kept:
            return False
        if writer.settled or writer.touched or writer.built or not writer.idle or writer.highest > self._stored.highest:
            return False
        first = earliest(self._due, self._second_look_at)
        return first is None or first > now

    def _step(self, now: Now) -> list[Output]:
        if self._looks_twice:
            self._looks_twice, self._second_look_at = False, now.instant + LATE_MS
        if self._second_look_at is not None and now.instant >= self._second_look_at:
            self._second_look_at, self.writer.wants_read = None, True
        out = self._look_at_touched(now)
        if self._dirty or (self._due is not None and self._due <= now.instant):
            self._dirty = True
            due = self._agenda.due(now.instant)
            out += self._run_out(list(self._own) if self._stopping else due, now)
            if not self._stopping:
                self._renew(due, now)
        if not self._stopping:
            self._look_again(now)
        self._release(now)
        out += self._send(now)
        out += self.writer.pump(now)
        settled, self.writer.settled = self.writer.settled, []
        self._dirty = self._dirty or bool(settled)
        for what in settled:
            out += self._settle(what, now)
        built, self.writer.built = self.writer.built, []
        for commit in built:
            out += self.fenced.made(commit)
        if self._dirty or out:
            self._dirty = False
            self._due = self._own_due()
        return out + self.fenced.keep() + self._remember()

    def _look_at_touched(self, now: Now) -> list[Output]:
        """What others did to own entries, and own ones that nobody wants."""
        self._dirty = self._dirty or bool(self.writer.touched)
        out: list[Output] = []
        touched, self.writer.touched = self.writer.touched, []
        for fencing in self.fenced.landed() if touched else ():
            if short_id(fencing.built.op.id) in self.writer.table.done:
                self._renewed(fencing.claims, fencing.at, now, out)
        for claim in dict.fromkeys(touched):
            entry, own = self.writer.table.entries.get(claim), self._own.get(claim)
            if entry is None:
                if own is not None and own.state == "held":
                    out += self._lose(own, "lost-conflict", "")
            elif entry.owner != self._me:
                continue
            elif own is None:
                if claim not in self._releasing:
                    self._unwanted[claim] = None
            elif entry.preempt_by is not None and own.told and not own.preempted:
                own.preempted = True
                out.append(StrictLost(claim=claim, reason="preempted", holder=entry.preempt_by.agent))
            elif entry.preempt_by is None and own.preempted:  # whoever wanted it has given up
                own.preempted = False
                out.append(StrictGranted(claim=claim, token=own.token, valid_until=own.valid_until))
        return out

    def _run_out(self, due: list[ClaimId], now: Now) -> list[Output]:
        """Leases that are over, agents that have waited long enough, peers that did not answer."""
        out: list[Output] = []
        self._tired_of_waiting(now)
        for own in [self._own[claim] for claim in due]:
            if own.told and now.instant >= own.valid_until:
                out += self._lose(own, "expired", "")
            elif not own.told and own.decide_by is not None and now.instant >= own.decide_by:
                trouble = self.trouble_of_remote()
                if trouble and not own.waits:
                    out.append(self._refuse(own, now, error=RemoteError(trouble, hint=NO_REMOTE)))
                else:
                    reason = trouble or ("timeout" if own.holders else "no-answer")
                    out.append(self._refuse(own, now, holders=own.holders, reason=reason))
        return out

    def _look_again(self, now: Now) -> None:
        """Whether what was in the way of those who wait is still there."""
        for own in list(self._waiting.values()):
            if own.state != "waiting" or own.claim.id not in self._own:
                continue
            there = self.writer.table.conflicting(own.claim) if self.writer.known else []
            fresh = self.writer.known and self.writer.read_at >= own.answered_at
            free = fresh and all(self.writer.may_take(entry, now.instant) for entry in there)
            if free or all(self._ended(holder.claim) for holder in own.holders):
                self._ask(own, now)
            elif now.instant >= own.look_at:
                if not fresh or all(self.writer.stale_at(entry, now.instant) > now.instant for entry in there):
                    self.writer.wants_read = True
                stale = [self.writer.stale_at(entry, now.instant) for entry in there]
                later = [at for at in stale if at > now.instant]
                here = all(owner_of(holder.claim) in self._peers for holder in own.holders)
                poll_ms = self._rare_ms if here else self._poll_ms  # who is connected says itself when it ends
                own.look_at = min([now.instant + poll_ms, *later])

    def _renew(self, due: list[ClaimId], now: Now) -> None:
        """All at once, as soon as one is due."""
        if not any(own.renews and own.renew_at <= now.instant for claim in due if (own := self._own.get(claim)) is not None):
            return
        held = [own for own in self._own.values() if own.renews]
        for start in range(0, len(held), MAX_STRICT_CLAIMS):
            part = held[start : start + MAX_STRICT_CLAIMS]
            for own in part:
                own.renewing = True
            claims = tuple(own.claim.id for own in part)
            self._outbox.append(StrictRenew(self._name(), claims))

    def _release(self, now: Now) -> None:
        if now.instant < self._release_at:
            return
        claims = [claim for claim in self._unwanted if claim not in self._releasing]
        self._unwanted.clear()
        for start in range(0, len(claims), MAX_STRICT_CLAIMS):
            part = tuple(claims[start : start + MAX_STRICT_CLAIMS])
            self._releasing.update(part)
            self._outbox.append(StrictRelease(self._name(), part))

    # --- operations -----------------------------------------------------------------------------------------------------

    def _ask(self, own: OwnStrict, now: Now) -> None:
        own.state = "asking"
        own.note_ask(now.instant)
        gone = {seen.claim: seen for seen in self.writer.stale(own.claim, now.instant)}
        gone |= {holder.claim: Seen(holder.claim) for holder in own.holders if self._ended(holder.claim)}
        self._outbox.append(StrictAcquire(own.claim, own.count, tuple(gone.values())[:MAX_RESOURCES], own.since))

    def _settle(self, done: Settled, now: Now) -> list[Output]:
        name = id_of(done.op)
        if done.source is not None:
            answer = StrictAnswer(id=name, result=done.result, reason=done.reason[:1_000])
            return [Say(peer=done.source, message=answer)] if done.source in self._view.connected else []
        sent = self._sent.pop(name, None)
        out: list[Output] = []
        match done.op:
            case StrictAcquire():
                own = self._own.get(name)
                return [] if own is None or own.state != "asking" else self._answer(own, done, now)
            case StrictRenew(claims=claims):
                for claim in claims:
                    if (own := self._own.get(claim)) is not None:
                        own.renewing = False
                        if done.result is None or sent is None:
                            own.renew_at = now.instant + RENEW_AGAIN_MS
                if done.result is None or sent is None:
                    return []
                self._renewed(claims, sent.at, now, out, but=done.result)
            case StrictRelease(claims=claims):
                self._releasing.difference_update(claims)
                if done.result is None:
                    self._unwanted.update(dict.fromkeys(claims))
                    self._release_at = now.instant + RENEW_AGAIN_MS
            case _:
                assert_never(done.op)
        return out

    def _answer(self, own: OwnStrict, done: Settled, now: Now) -> list[Output]:
        """What became of an acquisition."""
        result = done.result
        if result is None:
            match done.failure:
                case "unreachable":
                    error = RemoteError(self.trouble_of_remote() or done.reason, hint=NO_REMOTE)
                case "refused":
                    hint = "check that you may push to the table's ref, see: coord doctor"
                    error = RemoteError(f"the git remote refuses strict leases: {done.reason}", hint=hint)
                case "newer":
                    error = RemoteError(done.reason, hint="update sudocode-coordination in this clone")
                case _:
                    error = RemoteError(done.reason, hint="try again")
            return [self._refuse(own, now, error=error)]
        match result.kind:
            case "done":
                own.state, own.token, own.holders = "held", result.token, ()
                # An asking whose time is forgotten may be of any age: it is renewed before it counts.
                return self._counts_from(own, own.asks.get(result.ask, now.instant - own.claim.ttl_ms), now.instant)
            case "held":
                own.holders, own.answered_at, own.look_at = result.holders, now.instant, now.instant
                coming = all(h.priority < own.claim.priority or self._ended(h.claim) for h in result.holders)
                if not (own.waits or coming):
                    return [self._refuse(own, now, holders=result.holders, reason="held")]
                own.state = "waiting"
                return []
            case "ended":
                return [self._refuse(own, now, error=RemoteError("the git remote's answer came too late", hint="try again"))]
            case "full":
                return [self._refuse(own, now, error=RemoteError("the table of strict leases is full", hint=FULL))]
            case _:
                assert_never(result.kind)

    def _counts_from(self, own: OwnStrict, at: Instant, now: Instant) -> list[Output]:
        own.count_from(at)
        if own.valid_until <= now:
            return []
        if not own.told:
            own.told = True
            self.fenced.regained(own.claim)
        return [StrictGranted(claim=own.claim.id, token=own.token, valid_until=own.valid_until)]

    def _renewed(
        self, claims: Iterable[ClaimId], at: Instant, now: Now, out: list[Output], but: StrictResult | None = None
    ) -> None:
        lost = {} if but is None else {lost.claim: lost for lost in but.lost}
        for claim in claims:
            own = self._own.get(claim)
            if own is None or own.state != "held":
                continue
            what = lost.get(claim)
            if what is None:
                out += self._counts_from(own, at, now.instant)
            elif what.reason == "gone":
                out += self._lose(own, "lost-conflict", what.agent)
            elif not own.preempted:
                own.preempted = True
                out.append(StrictLost(claim=claim, reason="preempted", holder=what.agent))

    def _lose(self, own: OwnStrict, reason: Literal["expired", "lost-conflict"], holder: str) -> list[Output]:
        if not holder and self.writer.known:
            holder = next((entry.agent for entry in self.writer.table.conflicting(own.claim)), "")
        if own.told:
            self.fenced.lose(LostLease(own.claim, own.token, reason, holder))
        self._forget(own)
        return [StrictLost(claim=own.claim.id, reason=reason, holder=holder)]

    def _refuse(
        self,
        own: OwnStrict,
        now: Now,
        *,
        holders: tuple[InTheWay, ...] = (),
        reason: str = "",
        error: CoordinationError | None = None,
    ) -> Output:
        self._forget(own)
        told = None if error is None else RequestError(code=error.code, message=error.message, hint=error.hint)
        conflicts = tuple(conflict for holder in holders for conflict in conflicts_with(holder, own.claim, self.writer, now))
        return StrictRefused(claim=own.claim.id, holders=conflicts, reason=reason, error=told)

    # --- fenced pushes, disk ----------------------------------------------------------------------------------------------

    def prepare(self, agent: AgentId, ticket: Ticket, now: Now) -> list[Output]:
        """Make the commit that goes with an agent's push.

        Raises:
            HeldError: the agent has lost a strict lease.
        """
        claims = tuple(own.claim.id for own in self._own.values() if own.told and own.claim.agent == agent)
        op = StrictRenew(self._name(), claims[:MAX_STRICT_CLAIMS]) if claims else None
        return self.fenced.prepare(agent, ticket, op, now)

    def disk_failed(self) -> None:
        """The last step's writes are not on the disk: the next lease says again that it may be in the table."""
        self._stored = _Stored(self._stored.highest, False)

    def _remember(self) -> list[Output]:
        if self._stopping and self._stored.own and self.quiet and self.writer.known:
            # All is taken out: the next life need not look.
            return self._store(own=any(entry.owner == self._me for entry in self.writer.table.entries.values()))
        return self._store() if self.writer.highest > self._stored.highest else []

    def _store(self, *, own: bool | None = None) -> list[Output]:
        stored = self._stored
        if self.writer.highest > stored.highest:
            stored = _Stored(self.writer.highest + HIGHEST_STEP, stored.own)
        if own is not None:
            stored = _Stored(stored.highest, own)
        if stored == self._stored:
            return []
        self._stored = stored
        return [Persist(operations=(StoredValue(space=SPACE, key="table", data=msgspec.msgpack.encode(stored)),))]
