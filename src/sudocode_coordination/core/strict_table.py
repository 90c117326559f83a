"""The table of strict leases, as values: what a commit's tree says, and what operations make of it. No remote here.

    meta                         {"version": 1, "revision": n, "done": {<short id of an operation>: <token>}}
    leases/<hex digit>/<claim id>.json      one lease each, fanned out by a hash of its id

Laws: `apply` grants all of a claim or nothing; no two entries of a table that it made conflict; every grant has a greater token
than all before it; an operation that is sent again changes nothing. What others wrote into the tree is checked: it is skipped
and told, and never raises.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta

from sudocode_coordination.core.claims import owner_of
from sudocode_coordination.core.overlap import Overlap
from sudocode_coordination.core.wire import (
    MAX_IN_THE_WAY,
    Agent,
    ClaimBody,
    Id,
    InTheWay,
    Lost,
    Natural,
    Priority,
    Resources,
    StrictAcquire,
    StrictOp,
    StrictRelease,
    StrictRenew,
    StrictResult,
    Text,
    TtlMs,
)
from sudocode_coordination.errors import CoordinationError
from sudocode_coordination.model import ClaimId, LeaseMode, PeerId

META: Final = "meta"
VERSION: Final = 1
MAX_ENTRIES: Final = 20_000
"""Leases in the table: twice the largest swarm we know of. Past that nothing is granted, and nothing read."""
MAX_ENTRY_BYTES: Final = 128 << 10
"""Of one lease's file: the longest names of a claim, and room for what JSON makes of them."""
MAX_NAMED_BYTES: Final = 24 << 10
"""Of an entry's resources in a refusal: all of what a lease of ours may have, and twenty of them fit a frame."""
MAX_META_BYTES: Final = 256 << 10
"""Of `meta`: four times what `MAX_DONE` operations need."""
MAX_DONE: Final = 1_024
"""Operations remembered: what a busy remote takes in a minute or two, and none is tried for longer. 30 KB in each commit at
most. One that is forgotten too soon does little harm: its owner takes out again what it does not want."""
MAX_SKIPPED: Final = 100
"""Files told to be no leases."""
MAX_REVISION: Final = 1 << 52
"""Larger ones are not ours: there must be room to count on."""
_PATH: Final = re.compile(r"leases/([0-9a-f])/(.{3,200})\.json\Z")
_CLAIM_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,120}\.[0-9]{1,16}\.[0-9]{1,16}", re.ASCII)

Token = Annotated[int, Meta(ge=0, le=MAX_REVISION)]


class Wanted(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Who wants an entry by a higher priority."""

    claim: Id
    agent: Agent
    priority: Priority


class Entry(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One lease in the table."""

    id: Id
    agent: Agent
    resources: Resources
    mode: LeaseMode
    priority: Priority
    ttl_ms: TtlMs
    token: Token
    """The revision that granted it: its fencing token."""
    renewals: Token = 0
    ask: Natural = 0
    """Which asking of its owner put it there."""
    lamport: Natural = 0
    since: Text = ""
    """ISO 8601 UTC by its owner's clock, for people."""
    note: Text = ""
    fold: bool = False
    """Its owner's clone ignores case."""
    preempt_by: Wanted | None = None

    @property
    def owner(self) -> PeerId:
        """The peer whose lease it is."""
        return owner_of(self.id)


class _Meta(msgspec.Struct, frozen=True, kw_only=True):
    version: Annotated[int, Meta(ge=1)]
    revision: Token
    done: Annotated[dict[Annotated[str, Meta(max_length=32)], Token], Meta(max_length=8 * MAX_DONE)] = {}


_entry_decoder = msgspec.json.Decoder(Entry)
_meta_decoder = msgspec.json.Decoder(_Meta)
_encoder = msgspec.json.Encoder()


class NewerTableError(CoordinationError):
    """The table is of a later version: what is in it is not understood well enough to write to it."""

    code = "newer-table"


def path_of(claim: ClaimId) -> str:
    """Where a lease is in the tree."""
    return f"leases/{hashlib.blake2b(claim.encode(), digest_size=1).hexdigest()[0]}/{claim}.json"


def short_id(operation: str) -> str:
    """An operation's name as the table remembers it: 64 bits are enough to tell a thousand apart."""
    return hashlib.blake2b(operation.encode(), digest_size=8).hexdigest()


class Table:
    """What is in the table. A value: `changed` makes the next one, and only takes the index of overlaps along."""

    __slots__ = ("_index", "damaged", "done", "entries", "revision", "skipped", "version")

    def __init__(self) -> None:
        self.entries: dict[ClaimId, Entry] = {}
        self.revision = 0
        """At least the greatest token in it, whatever `meta` says."""
        self.done: dict[str, int] = {}
        """Operations done, by `short_id`, the latest last; with the token of those that granted."""
        self.skipped: dict[str, str] = {}
        """Path -> why what is there is not taken for a lease."""
        self.version = VERSION
        self.damaged = ""
        """Why `meta` can't be read, if so."""
        self._index: Overlap | None = None

    def changed(self, changes: Mapping[str, bytes | None]) -> Table:
        """The table with other content at these paths (None: gone)."""
        then = Table()
        then.entries, then.skipped, then.done = dict(self.entries), dict(self.skipped), self.done
        then.revision, then.version, then.damaged = self.revision, self.version, self.damaged
        index, self._index = self._index, None
        for path in sorted(changes, key=lambda path: (changes[path] is not None, path)):  # what goes makes room for what comes
            then._put(path, changes[path], index)
        # Tokens of before are below the revision of before: all are looked at only if that fell.
        fresh = changes if then.revision >= self.revision else map(path_of, then.entries)
        tokens = [then.entries[id_].token for path in fresh if (id_ := claim_at(path)) in then.entries]
        then.revision = max([then.revision, *tokens])
        then._index = index
        return then

    def _put(self, path: str, data: bytes | None, index: Overlap | None) -> None:
        self.skipped.pop(path, None)
        if path == META:
            return self._put_meta(data)
        named = _PATH.fullmatch(path)
        if named is None:
            return None  # not ours; left as it is
        old = self.entries.pop(named[2], None) if path_of(named[2]) == path else None
        if old is not None and index is not None:
            index.remove(old.id, old.resources, fold_case=old.fold)
        if data is None:
            return None
        read = _entry_from(path, data) if len(self.entries) < MAX_ENTRIES else f"the table has more than {MAX_ENTRIES} leases"
        if isinstance(read, str):
            if len(self.skipped) < MAX_SKIPPED:
                self.skipped[path] = read
            return None
        self.entries[read.id] = read
        if index is not None:
            index.add(read.id, read.resources, fold_case=read.fold)
        return None

    def _put_meta(self, data: bytes | None) -> None:
        self.damaged = ""
        if data is None:
            self.revision, self.done, self.version = 0, {}, VERSION
            return
        try:
            if len(data) > MAX_META_BYTES:
                raise ValueError(f"{len(data)} bytes")
            meta = _meta_decoder.decode(data)
        except (ValueError, RecursionError) as error:
            self.damaged = f"{META}: {error}"
            return
        self.revision, self.done, self.version = meta.revision, dict(meta.done), meta.version

    def conflicting(self, claim: ClaimBody) -> list[Entry]:
        """Entries that can't be there together with it, the oldest first."""
        if self._index is None:
            self._index = Overlap()
            for entry in self.entries.values():
                self._index.add(entry.id, entry.resources, fold_case=entry.fold)
        found = [self.entries[id_] for id_ in self._index.of(claim.resources, fold_case=claim.fold)]
        return sorted((entry for entry in found if conflict(entry, claim)), key=lambda entry: entry.token)

    def __len__(self) -> int:
        return len(self.entries)


def conflict(entry: Entry, claim: ClaimBody) -> bool:
    """Whether modes and holders keep the two apart, given that their resources overlap. An agent is never in its own way."""
    same = entry.id == claim.id or (entry.agent == claim.agent and entry.owner == owner_of(claim.id))
    return not same and "exclusive" in (entry.mode, claim.mode)


def _entry_from(path: str, data: bytes) -> Entry | str:
    """The lease of a file, or why there is none in it."""
    if len(data) > MAX_ENTRY_BYTES:
        return f"{len(data)} bytes, {MAX_ENTRY_BYTES} allowed"
    try:
        entry = _entry_decoder.decode(data)
    except (ValueError, RecursionError) as error:
        return str(error)[:200]
    if not _CLAIM_ID.fullmatch(entry.id) or path_of(entry.id) != path:
        return "its id is not the one that it is filed under"
    return entry


def encode_entry(entry: Entry) -> bytes:
    """The content of its file."""
    return _encoder.encode(entry) + b"\n"


class Applied(NamedTuple):
    """What operations make of a table."""

    changes: dict[str, bytes | None]
    """`Table.changed` makes the new table of them. Path -> content, None: remove. Empty: there is nothing to write."""
    results: dict[str, StrictResult]
    """By the operation's id."""


def id_of(op: StrictOp) -> str:
    """An operation's name."""
    return op.claim.id if isinstance(op, StrictAcquire) else op.id


def claims_of(op: StrictOp) -> tuple[ClaimId, ...]:
    """The claims that it is about."""
    return (op.claim.id,) if isinstance(op, StrictAcquire) else op.claims


def size_of(op: StrictOp) -> int:
    """How many bytes its names take, about."""
    if isinstance(op, StrictAcquire):
        return sum(len(resource.path) for resource in op.claim.resources) + sum(len(seen.claim) for seen in op.gone)
    return sum(map(len, op.claims))


def apply(table: Table, ops: Iterable[StrictOp], may_take: Callable[[Entry], bool], *, floor: int = 0) -> Applied:
    """Do them in their order, each on what those before it made.

    Args:
        may_take: whether an entry may be taken over, for all that is known here.
        floor: no token is given out up to this one, whatever the table says.

    Raises:
        NewerTableError: the table is of a later version.
    """
    if table.version > VERSION:
        raise NewerTableError(
            f"the table of strict leases is of version {table.version}; this program knows version {VERSION}",
            hint="update sudocode-coordination in this clone",
        )
    work = _Work(table, may_take, floor)
    results = {id_of(op): work.do(op) for op in ops}
    return Applied(work.changes(), results)


class _Work:
    """A table under way: the entries that were there, and what has become other."""

    def __init__(self, table: Table, may_take: Callable[[Entry], bool], floor: int) -> None:
        self._table = table
        self._may_take = may_take
        self._floor = floor
        self._new: dict[ClaimId, Entry | None] = {}
        self._index = Overlap()
        self._size = len(table)
        self._granted = 0
        self._done: dict[str, int] = {}
        self._noted: dict[ClaimId, None] | None = None
        """Entries that somebody wants by a higher priority, once that matters."""

    def do(self, op: StrictOp) -> StrictResult:
        match op:
            case StrictAcquire():
                return self._acquire(op)
            case StrictRenew():
                return self._renew(op)
            case StrictRelease():
                return self._release(op)

    def _acquire(self, op: StrictAcquire) -> StrictResult:
        claim = op.claim
        there = self._get(claim.id)
        if there is not None:
            return StrictResult("done", there.token, there.ask)
        if self._is_done(short_id(claim.id)):
            return StrictResult("ended")
        gone = {seen.claim: seen for seen in op.gone}
        blocking: list[Entry] = []
        over: list[Entry] = []
        for entry in self._conflicting(claim):
            seen = gone.get(entry.id)
            unchanged = seen is not None and (seen.renewals < 0 or (seen.token, seen.renewals) == (entry.token, entry.renewals))
            (over if unchanged or self._may_take(entry) else blocking).append(entry)
        if blocking:
            if all(entry.priority < claim.priority for entry in blocking):
                wanted = Wanted(claim=claim.id, agent=claim.agent, priority=claim.priority)
                for entry in blocking:
                    if entry.preempt_by is None or entry.preempt_by.priority < claim.priority:
                        self._set(entry.id, msgspec.structs.replace(entry, preempt_by=wanted))
            return StrictResult("held", holders=tuple(in_the_way(entry) for entry in blocking[:MAX_IN_THE_WAY]))
        if self._size - len(over) >= MAX_ENTRIES:  # of peers that are gone for good, nobody else takes them out
            known = {entry.id for entry in over}
            entries = (self._get(id_) for id_ in self._table.entries if id_ not in known)
            over += [entry for entry in entries if entry is not None and self._may_take(entry)]
        if self._size - len(over) >= MAX_ENTRIES or self._revision() >= MAX_REVISION:
            return StrictResult("full")
        for entry in over:
            self._set(entry.id, None)
            self._done.setdefault(short_id(entry.id), entry.token)
        self._granted += 1
        entry = Entry(
            id=claim.id,
            agent=claim.agent,
            resources=claim.resources,
            mode=claim.mode,
            priority=claim.priority,
            ttl_ms=claim.ttl_ms,
            token=self._revision(),
            ask=op.ask,
            lamport=claim.lamport,
            since=op.since,
            note=claim.note,
            fold=claim.fold,
        )
        self._set(claim.id, entry)
        self._done[short_id(claim.id)] = entry.token
        return StrictResult("done", entry.token, entry.ask)

    def _release(self, op: StrictRelease) -> StrictResult:
        for claim in op.claims:
            name = short_id(claim)
            if self._get(claim) is not None:
                self._set(claim, None)
            if not self._is_done(name):
                self._done[name] = 0  # should it be on its way, it is not to come any more
        unwanted = frozenset(op.claims)
        if self._noted is None:
            self._noted = {id_: None for id_, entry in self._table.entries.items() if entry.preempt_by is not None}
        for id_ in [*self._noted, *self._new]:
            entry = self._get(id_)
            if entry is not None and entry.preempt_by is not None and entry.preempt_by.claim in unwanted:
                self._set(id_, msgspec.structs.replace(entry, preempt_by=None))
        return StrictResult("done")

    def _renew(self, op: StrictRenew) -> StrictResult:
        again = self._is_done(short_id(op.id))
        lost: list[Lost] = []
        renewed = False
        for claim in dict.fromkeys(op.claims):
            entry = self._get(claim)
            if entry is None:
                lost.append(Lost(claim, "gone"))
            elif entry.preempt_by is not None:
                lost.append(Lost(claim, "preempted", entry.preempt_by.agent))
            elif not again:
                self._set(claim, msgspec.structs.replace(entry, renewals=entry.renewals + 1))
                renewed = True
        if renewed:
            self._done[short_id(op.id)] = 0
        return StrictResult("done", lost=tuple(lost))

    # --- what is there -------------------------------------------------------------------------------------------------

    def _revision(self) -> int:
        return max(self._table.revision, self._floor) + self._granted

    def _is_done(self, name: str) -> bool:
        return name in self._done or name in self._table.done

    def _get(self, claim: ClaimId) -> Entry | None:
        return self._new[claim] if claim in self._new else self._table.entries.get(claim)

    def _set(self, claim: ClaimId, entry: Entry | None) -> None:
        old = self._get(claim)
        if self._new.get(claim) is not None and old is not None:
            self._index.remove(old.id, old.resources, fold_case=old.fold)
        self._size += (entry is not None) - (old is not None)
        self._new[claim] = entry
        if entry is not None:
            self._index.add(entry.id, entry.resources, fold_case=entry.fold)

    def _conflicting(self, claim: ClaimBody) -> list[Entry]:
        found = [entry for entry in self._table.conflicting(claim) if entry.id not in self._new]
        fresh = [self._get(id_) for id_ in self._index.of(claim.resources, fold_case=claim.fold)]
        found += [entry for entry in fresh if entry is not None and conflict(entry, claim)]
        return sorted(found, key=lambda entry: entry.token)

    def changes(self) -> dict[str, bytes | None]:
        """What to write; nothing if nothing has become other."""
        entries = self._table.entries
        made = {
            path_of(id_): None if e is None else encode_entry(e) for id_, e in self._new.items() if e is not None or id_ in entries
        }
        if not made and not self._done:
            return {}
        done = self._table.done | self._done
        kept = dict(list(done.items())[-MAX_DONE:])
        revision = self._revision() + (0 if self._granted else 1)
        made[META] = _encoder.encode(_Meta(version=VERSION, revision=revision, done=kept)) + b"\n"
        return made


def in_the_way(entry: Entry) -> InTheWay:
    """As a refusal names it: with as many of its resources as leave room for others in one message."""
    resources = entry.resources[:MAX_IN_THE_WAY]
    while sum(len(resource.path.encode()) for resource in resources) > MAX_NAMED_BYTES:
        resources = resources[: len(resources) // 2]
    return InTheWay(
        entry.id,
        entry.agent,
        resources,
        entry.priority,
        entry.token,
        entry.renewals,
        entry.ttl_ms,
        entry.note,
    )


def claim_at(path: str) -> ClaimId | None:
    """Whose lease's file that is; None: no lease's."""
    named = _PATH.fullmatch(path)
    return named[2] if named is not None and path_of(named[2]) == path else None


def fits(claim: ClaimBody) -> bool:
    """Whether a claim can stand in the table: others would skip what does not read like one."""
    text = _encoder.encode((claim.resources, claim.note, claim.agent))
    return _CLAIM_ID.fullmatch(claim.id) is not None and len(text) < MAX_ENTRY_BYTES - 4_096
