"""Who reads and writes the strict table: what waits goes into one commit, and one push is under way at a time.

    waiting jobs --apply to the known tip--> swap --landed--> told, the next ones build on it
                                                 --moved--> read, build anew
                                                 --unknown--> read: nothing has moved: the same commit again; else build anew

What is known of the table is a hint: a grant is told when its commit has landed, a refusal when the table that it was decided on
was there after the job was. `core/strict.py` says what to write.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Final, Literal, NamedTuple, TypeAlias, assert_never

import msgspec

from sudocode_coordination.core.facts import Output
from sudocode_coordination.core.io import (
    BuildTable,
    ReadTable,
    SwapTable,
    TableBuilt,
    TableRead,
    TableReadFailed,
    TableSwapFailed,
    TableSwapped,
)
from sudocode_coordination.core.strict_table import Applied, Entry, NewerTableError, Table, apply, claim_at, id_of, path_of, size_of
from sudocode_coordination.core.wire import MAX_RESOURCES, ClaimBody, Seen, StrictOp, StrictRenew, StrictResult
from sudocode_coordination.model import ClaimId, Instant, Now, PeerId, WallMs, iso_from_ms

MAX_BATCH: Final = 500
"""Operations in one commit: few enough that making it costs little beside the push."""
MAX_JOBS: Final = 10_000
"""Operations that wait; past that peers are sent away, to write for themselves."""
MAX_PEER_JOBS: Final = 4_000
"""Of those, one peer's: the others must have their turn."""
MAX_PEER_BYTES: Final = 16 << 20
"""Of names in the operations of one peer that wait: a renewal of all leases of a busy clone is a hundredth of it."""
BACKOFF_MS: Final = 20
"""After a push that was overtaken; doubled with each, and diced."""
MAX_BACKOFF_MS: Final = 2_000
AGAIN_MS: Final = 1_000
"""After the remote could not be reached, or refused; doubled with each."""
MAX_AGAIN_MS: Final = 30_000
HOLD_MS: Final = 5_000
"""After a commit was built for a client that pushes it with its work: for so long nothing else is put before it. No operation
waits longer than this for clients, however often they push: one that tries again and again must not cost others their leases."""
MAX_PROBLEMS: Final = 8
"""Alarms about the table, told until the process ends."""

TableInput: TypeAlias = TableRead | TableReadFailed | TableSwapped | TableSwapFailed | TableBuilt
Failure: TypeAlias = Literal["refused", "unreachable", "busy", "newer"]


class Job(NamedTuple):
    """An operation that waits."""

    op: StrictOp
    source: PeerId | None
    """Whose it is; None: this peer's own."""
    since: Instant
    patient: bool
    """It waits for a remote that can't be reached."""
    by: Instant | None
    """Nobody wants it after that."""
    size_bytes: int
    """About, of the names in it."""


class Settled(NamedTuple):
    """What became of a job."""

    op: StrictOp
    source: PeerId | None
    result: StrictResult | None
    failure: Failure | None = None
    reason: str = ""


class Built(NamedTuple):
    """A commit for a client to push."""

    op: StrictRenew
    commit: str = ""
    parent: str | None = None
    ref: str = ""
    objects: str = ""
    result: StrictResult = StrictResult("done")
    failure: Failure | None = None
    reason: str = ""


class TableWriter:
    """See the module.

    Args:
        me: this peer.
        rng: for pauses between tries.
        ended: whether the owner of a claim has said that it ended.
    """

    def __init__(self, me: PeerId, rng: Random, ended: Callable[[ClaimId], bool]) -> None:
        self._me = me
        self._rng = rng
        self._ended = ended
        self.incarnation = 0
        self.table = Table()
        self.tip: str | None = None
        self.ref = ""
        """Full name of the ref that the table is under, once it was read."""
        self.known = False
        """The table was read, or written, by this process."""
        self.read_at: Instant = -1
        """The table was as it is known at that time or later."""
        self.floor = 0
        """Tokens are greater than this, whatever the table says."""
        self.highest = 0
        """The greatest revision that was surely seen."""
        self.unreachable_since: WallMs | None = None
        self.unreachable_reason = ""
        self.settled: list[Settled] = []
        """For the owner of this object to take."""
        self.built: list[Built] = []
        self.touched: list[ClaimId] = []
        """Entries that have come, gone or changed."""
        self.wants_read = False
        self.pushes = 0
        self._problems: dict[str, None] = {}
        self._jobs_of: Counter[PeerId] = Counter()
        self._bytes_of: Counter[PeerId] = Counter()
        self._seen: dict[ClaimId, tuple[int, int, Instant]] = {}
        """Token and renewals of entries, and since when they were seen so."""
        self._jobs: dict[str, Job] = {}
        self._tried: set[str] = set()
        """Jobs that were in a push and may have landed, for all that is known."""
        self._prepares: dict[str, tuple[StrictRenew, Instant]] = {}
        """Commits to be made, and since when they are wanted."""
        self._building: dict[int, Built] = {}
        self._swap: SwapTable | None = None
        self._swap_results: dict[str, StrictResult] = {}
        self._swap_at: Instant = 0
        self._unsure: SwapTable | None = None
        """A push without an answer."""
        self._reading: Instant | None = None
        self._retry_at: Instant = 0
        self._hold_until: Instant = 0
        self._fails = 0
        self._tickets = 0

    # --- what to do -----------------------------------------------------------------------------------------------------

    def submit(self, op: StrictOp, source: PeerId | None, now: Now, *, patient: bool = True, by: Instant | None = None) -> None:
        """Do this as soon as may be; it is among `settled` when it is done. Sent again it replaces what waits under its name."""
        name = id_of(op)
        most = MAX_JOBS if source is None else MAX_PEER_JOBS
        who, size_bytes = source or self._me, size_of(op)
        crowded = len(self._jobs) >= MAX_JOBS or self._jobs_of[who] >= most
        if (name not in self._jobs and crowded) or (source is not None and self._bytes_of[who] + size_bytes > MAX_PEER_BYTES):
            self.settled.append(Settled(op, source, None, "busy", f"{self._jobs_of[who]} operations wait for the git remote"))
            return
        self._take_out(name)
        self._jobs_of[who] += 1
        self._bytes_of[who] += size_bytes
        self._jobs[name] = Job(op, source, now.instant, patient, by, size_bytes)

    def withdraw(self, name: str) -> bool:
        """Don't do it; False: it may be done already, or be on its way."""
        if name in self._tried:
            return False
        self._take_out(name)
        return True

    def _take_out(self, name: str) -> Job | None:
        job = self._jobs.pop(name, None)
        if job is not None:
            who = job.source or self._me
            self._jobs_of[who] -= 1
            self._bytes_of[who] -= job.size_bytes
            if not self._jobs_of[who]:
                del self._jobs_of[who], self._bytes_of[who]
        return job

    def send_away(self, reason: str) -> None:
        """Other peers have to write for themselves from now on."""
        names = [name for name, job in self._jobs.items() if job.source is not None and name not in self._tried]
        self._fail(names, "busy", reason)

    def drop_of(self, peer: PeerId) -> None:
        """A peer is not there any more to hear what became of its jobs."""
        for name in [name for name, job in self._jobs.items() if job.source == peer and name not in self._tried]:
            self._take_out(name)

    def prepare(self, op: StrictRenew, now: Now) -> None:
        """Make a commit that does this, and don't push it; it is among `built`."""
        self._prepares[op.id] = op, now.instant

    def pushed_by_client(self) -> None:
        """What became of a built commit is to be seen in the table."""
        self._hold_until = 0
        self.wants_read = True

    @property
    def is_reading(self) -> bool:
        """An answer to `ReadTable` is still to come."""
        return self._reading is not None

    @property
    def quiet(self) -> bool:
        """Nothing waits and nothing is under way."""
        return not self._jobs and self._swap is None

    @property
    def idle(self) -> bool:
        """`pump` has nothing to begin."""
        return not (self._jobs or self._prepares or self.wants_read)

    def deadline(self) -> Instant | None:
        """When to be pumped although nothing has happened."""
        if self._swap is not None or self._reading is not None or self.idle:
            return None
        times = [job.by for job in self._jobs.values() if job.by is not None]
        if self._jobs:
            times.append(max(self._retry_at, self._held_until()))
        if self._prepares or self.wants_read:
            times.append(self._retry_at)
        return min(times, default=None)

    def _held_until(self) -> Instant:
        """When those who wait are written, whatever clients push: the first of them has waited the longest."""
        return min(self._hold_until, next(iter(self._jobs.values())).since + HOLD_MS)

    def pump(self, now: Now) -> list[Output]:
        """The next step, if nothing is under way."""
        if self._swap is not None or self._reading is not None:
            return []
        late = [name for name, job in self._jobs.items() if job.by is not None and job.by <= now.instant]
        self._tried.difference_update(late)
        self._fail(late, "busy", "it took too long")
        if now.instant < self._retry_at or self.idle:
            return []
        if not self.known or self.wants_read:
            return self._read(now)
        out = self._build(now)
        if self._prepares:
            return out + self._read(now)
        if not self._jobs or now.instant < self._held_until():
            return out
        unsure, self._unsure = self._unsure, None
        if unsure is not None and unsure.parent == self.tip:
            return out + self._push(msgspec.structs.replace(unsure, ticket=self._ticket()), now)
        self._tried.clear()  # a commit on another parent can't land any more: what it did is in the table, or never will be
        return out + self._write(now)

    def _write(self, now: Now) -> list[Output]:
        names = list(self._jobs)[:MAX_BATCH]
        try:
            applied = self._apply([self._jobs[name].op for name in names], now)
        except NewerTableError as error:
            self._fail(names, "newer", str(error))
            return []
        if applied.changes:
            self._swap_results = applied.results
            self._tried.update(names)
            ticket = self._ticket()
            changes, nonce = applied.changes, self._nonce()
            return self._push(SwapTable(ticket=ticket, parent=self.tip, changes=changes, nonce=nonce, wall_ms=now.wall_ms), now)
        bad_news = [n for n in names if applied.results[n].kind != "done" or applied.results[n].lost]
        if any(self.read_at < self._jobs[n].since for n in bad_news):  # what is known may be old, and the table better
            return self._read(now)
        self._settle(applied.results)
        return self.pump(now)

    def _apply(self, ops: list[StrictOp], now: Now) -> Applied:
        return apply(self.table, ops, lambda entry: self.may_take(entry, now.instant), floor=self.floor)

    def _ticket(self) -> int:
        self._tickets += 1
        return self._tickets

    def _nonce(self) -> str:
        return f"{self._me}.{self.incarnation}.{self._tickets}"

    def _push(self, swap: SwapTable, now: Now) -> list[Output]:
        self._swap, self._swap_at = swap, now.instant
        self.pushes += 1
        return [swap]

    def _read(self, now: Now) -> list[Output]:
        self._reading = now.instant
        self.wants_read = False
        return [ReadTable()]

    def _build(self, now: Now) -> list[Output]:
        out: list[Output] = []
        prepares, self._prepares = self._prepares, {}
        for name, (op, since) in sorted(prepares.items()):
            try:
                applied = self._apply([op], now)
            except NewerTableError as error:
                self.built.append(Built(op, failure="newer", reason=str(error)))
                continue
            if applied.results[name].lost:
                if self.read_at < since:  # another peer may have written them after that
                    self._prepares[name] = op, since
                else:
                    self.built.append(Built(op, result=applied.results[name]))
                continue
            ticket = self._ticket()
            self._building[ticket] = Built(op, parent=self.tip, result=applied.results[name])
            self._hold_until = now.instant + HOLD_MS
            out.append(
                BuildTable(ticket=ticket, parent=self.tip, changes=applied.changes, nonce=self._nonce(), wall_ms=now.wall_ms)
            )
        return out

    # --- what comes of it -------------------------------------------------------------------------------------------------

    def took(self, given: TableInput, now: Now) -> list[Output]:
        """The remote has answered."""
        match given:
            case TableRead():
                return self.table_read(given, now)
            case TableReadFailed(reason=reason):
                self.read_failed(reason, now)
            case TableSwapped():
                self.swapped(given, now)
            case TableSwapFailed():
                self.swap_failed(given, now)
            case TableBuilt():
                self.table_built(given)
            case _:
                assert_never(given)
        return []

    def table_read(self, given: TableRead, now: Now) -> list[Output]:
        """The table as it is."""
        asked, self._reading = self._reading, None
        if given.base is not None and (not self.known or given.base != self.tip):
            # Told against something that was never delivered here: only all of it can be understood.
            self._reading = now.instant
            return [ReadTable(whole=True)]
        self.ref = given.ref or self.ref
        before = self.table if given.base is not None else Table()
        gone = () if given.base is not None else [claim for claim in self.table.entries if path_of(claim) not in given.changed]
        self._became(before.changed(given.changed), given.commit, given.changed, now.instant)
        self._note_touched(gone, now.instant)
        self.read_at = now.instant if asked is None else asked
        self._reached()
        if given.rewound:
            self._alarm("the table of strict leases on the remote was rewound: somebody forced or deleted its ref", now)
        elif self.table.revision < self.highest:
            self._alarm(f"the revision of the strict leases' table fell from {self.highest} to {self.table.revision}", now)
        self.highest = max(self.highest, self.table.revision)
        self.floor = max(self.floor, self.highest)
        return []

    def read_failed(self, reason: str, now: Now) -> None:
        """The remote does not answer: who does not wait for it is told."""
        self._reading = None
        self.wants_read = True
        self._unreached(reason, now)
        self._fail([name for name, job in self._jobs.items() if not job.patient], "unreachable", reason)
        prepares, self._prepares = self._prepares, {}
        self.built += [Built(op, failure="unreachable", reason=reason) for op, _ in prepares.values()]

    def swapped(self, given: TableSwapped, now: Now) -> None:
        """The commit has landed."""
        swap = self._swap
        if swap is None or swap.ticket != given.ticket:
            return
        self._swap = None
        self._became(self.table.changed(swap.changes), given.commit, swap.changes, now.instant)
        self.read_at = self._swap_at
        self.highest = max(self.highest, self.table.revision)
        self.floor = max(self.floor, self.highest)
        self._reached()
        self._fails = 0
        self._settle(self._swap_results)

    def swap_failed(self, given: TableSwapFailed, now: Now) -> None:
        """It has not, or nobody knows."""
        building = self._building.pop(given.ticket, None)
        if building is not None:
            self._hold_until = 0
            self.built.append(building._replace(failure="unreachable", reason=given.reason))
            return
        swap = self._swap
        if swap is None or swap.ticket != given.ticket:
            return
        self._swap = None
        self.wants_read = True
        match given.kind:
            case "moved":
                self._reached()
                self._fails += 1
                pause = min(MAX_BACKOFF_MS, BACKOFF_MS << min(self._fails, 10))
                self._retry_at = now.instant + self._rng.randrange(pause)
            case "unknown":
                self._unsure = swap
                if self._fails:
                    self._pause(now)
                self._fails += 1
            case "refused":
                self._fails += 1
                self._pause(now)
                self._tried.difference_update(self._swap_results)
                self._fail([name for name in self._swap_results if name in self._jobs], "refused", given.reason)
            case _:
                assert_never(given.kind)

    def table_built(self, given: TableBuilt) -> None:
        """A commit for a client is there."""
        building = self._building.pop(given.ticket, None)
        if building is not None:
            self.built.append(building._replace(commit=given.commit, ref=given.ref, objects=given.objects))

    # --- what is known ----------------------------------------------------------------------------------------------------

    def may_take(self, entry: Entry, now: Instant) -> bool:
        """Whether an entry may be taken over: its owner said that it ended, or it was not renewed for long enough."""
        return self._ended(entry.id) or now >= self.stale_at(entry, now)

    def stale_at(self, entry: Entry, now: Instant) -> Instant:
        """When it may be taken over if it stays as it is: 1.2 times its ttl after it was first seen so. Its holder counted from
        before it was written, by a clock that is at most 2 % slower."""
        token, renewals, since = self._seen.get(entry.id, (-1, -1, now))
        return (since if (token, renewals) == (entry.token, entry.renewals) else now) + entry.ttl_ms * 6 // 5 + 1

    def stale(self, claim: ClaimBody, now: Instant) -> tuple[Seen, ...]:
        """Those in the way of a claim that may be taken over, as another peer can check them."""
        found: list[Seen] = []
        for entry in self.table.conflicting(claim)[:MAX_RESOURCES] if self.known else ():
            if self._ended(entry.id):
                found.append(Seen(entry.id))
            elif now >= self.stale_at(entry, now):
                found.append(Seen(entry.id, entry.token, entry.renewals))
        return tuple(found)

    def problems(self) -> list[str]:
        """What a person should know of the table."""
        found = list(self._problems)
        if self.table.damaged:
            found.append(f"the table of strict leases is damaged, {self.table.damaged}")
        skipped = sorted(self.table.skipped.items())
        found += [f"not a strict lease: {path}: {reason}" for path, reason in skipped[:MAX_PROBLEMS]]
        if len(skipped) > MAX_PROBLEMS:
            found.append(f"{len(skipped) - MAX_PROBLEMS} more files of the strict leases' table are no leases")
        return found

    def _became(self, table: Table, tip: str | None, changes: Mapping[str, bytes | None], now: Instant) -> None:
        self.table, self.tip, self.known = table, tip, True
        self._note_touched([claim for path in sorted(changes) if (claim := claim_at(path)) is not None], now)

    def _note_touched(self, claims: Iterable[ClaimId], now: Instant) -> None:
        for claim in claims:
            entry = self.table.entries.get(claim)
            self.touched.append(claim)
            if entry is None:
                self._seen.pop(claim, None)
            elif self._seen.get(claim, ())[:2] != (entry.token, entry.renewals):
                self._seen[claim] = (entry.token, entry.renewals, now)

    def _settle(self, results: dict[str, StrictResult]) -> None:
        for name, result in results.items():
            job = self._jobs.get(name)
            if job is None or (result.kind != "done" and self.read_at < job.since):
                continue  # nobody wants it, or it was asked anew since: the refusal may not hold any more
            self._take_out(name)
            self.settled.append(Settled(job.op, job.source, result))
        self._tried.difference_update(results)

    def _fail(self, names: list[str], failure: Failure, reason: str) -> None:
        for name in names:
            if (job := self._take_out(name)) is not None:
                self.settled.append(Settled(job.op, job.source, None, failure, reason))

    def _reached(self) -> None:
        if self.unreachable_since is not None:
            self._fails = 0
        self.unreachable_since, self.unreachable_reason = None, ""

    def _unreached(self, reason: str, now: Now) -> None:
        if self.unreachable_since is None:
            self.unreachable_since = now.wall_ms
        self.unreachable_reason = reason
        self._fails += 1
        self._pause(now)

    def _pause(self, now: Now) -> None:
        pause = min(MAX_AGAIN_MS, AGAIN_MS << min(self._fails, 8))
        self._retry_at = now.instant + self._rng.randrange(pause // 2, pause)

    def _alarm(self, what: str, now: Now) -> None:
        self._problems[f"{iso_from_ms(now.wall_ms)}: {what}"] = None
        while len(self._problems) > MAX_PROBLEMS:
            del self._problems[next(iter(self._problems))]
