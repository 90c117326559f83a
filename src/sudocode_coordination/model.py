"""The values everything speaks of: ids, instants, resources, leases, work. Frozen, comparable, without behaviour of their own.

Python names are snake_case; encoded (wire, API, files) they are camelCase.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import msgspec

from sudocode_coordination.errors import UsageError

PeerId: TypeAlias = str
"""libp2p peer id in base58 (`12D3Koo…`): one clone."""
AgentId: TypeAlias = str
"""Name of an agent, unique in the swarm; any number of them live on one peer."""
ClaimId: TypeAlias = str
"""`<peer id>.<incarnation>.<n>`, never used twice."""
Instant: TypeAlias = int
"""Milliseconds on a monotonic clock that counts suspend (CLOCK_BOOTTIME). Never compared between machines."""
WallMs: TypeAlias = int
"""Milliseconds since 1970 UTC: for people to read and to order by roughly, never for expiry."""
Json: TypeAlias = Any
"""None, bool, int, float, str, list or dict of the same: what JSON can hold."""

AGENT_ID_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}\Z")
"""It becomes part of a file name on the branch, so it keeps to characters that are safe in one on every system."""


class Now(NamedTuple):
    """Both clocks, read together by whoever drives the node."""

    instant: Instant
    wall_ms: WallMs


class Value(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=False):
    """Base of the values below."""


ResourceType: TypeAlias = Literal["file", "issue", "spec", "component"]
LeaseMode: TypeAlias = Literal["exclusive", "shared"]
LeaseState: TypeAlias = Literal["pending", "granted"]
Grade: TypeAlias = Literal["strict", "quorum", "provisional"]
"""strict: in the table on the git remote, with a fencing token. quorum: a majority of the roster answered, exclusive among fast
ones. provisional: all that could be reached agreed; it may overlap another, which is found and repaired."""
PartitionPolicy: TypeAlias = Literal["closed", "majority", "open"]
RESOURCE_TYPES: Final[tuple[ResourceType, ...]] = ("file", "issue", "spec", "component")


class Resource(msgspec.Struct, frozen=True, order=True, array_like=True):
    """What can be leased. `path` is repo-relative and normalised for files and specs, an id for issues and components."""

    type: ResourceType
    path: str

    def __str__(self) -> str:
        return self.path if self.type == "file" else f"{self.type}:{self.path}"


class Handover(Value, frozen=True, kw_only=True):
    """What the holder before left behind when it released."""

    commit: str
    """Object id of the commit, in hex."""
    branch: str = ""
    """The branch it is on, without `refs/heads/`; empty: unknown."""
    agent_id: AgentId
    """Who released."""
    at: str
    """ISO 8601 UTC, for people."""


class Overlapped(Value, frozen=True, kw_only=True):
    """Another lease that was held on the same at the same time: both were provisional, or one of them was, granted apart."""

    claim_id: ClaimId
    peer_id: PeerId
    agent_id: AgentId
    since: str
    """From when both held, as far as the writer knew: ISO 8601 UTC. If it knew of its own grant alone, that."""
    until: str
    """When the one that lost ended, by its holder's clock."""
    base: str | None = None
    """The commit that the other one had been handed, if that is known."""


class HistoryEntry(Value, frozen=True, kw_only=True):
    """One lease that was: who held what, from when to when, as its holder wrote and signed it."""

    claim_id: ClaimId
    peer_id: PeerId
    agent_id: AgentId
    resources: tuple[Resource, ...]
    mode: LeaseMode = "exclusive"
    priority: int = 0
    grade: Grade = "provisional"
    token: int | None = None
    """The fencing token of a strict one."""
    granted_at: str
    """ISO 8601 UTC by the holder's clock."""
    ended_at: str | None = None
    """None: not yet."""
    reason: str = ""
    """Why it ended: released, expired, preempted, lost-conflict, …"""
    commit: str | None = None
    branch: str = ""
    rival: str = ""
    """Who got or kept it, where that is why it ended: agent id."""
    base: str | None = None
    """The commit that it was handed when it was granted."""
    overlaps: tuple[Overlapped, ...] = ()
    """Leases that were held on the same at the same time."""
    stamp: int = 0
    """Hybrid logical time of the end: milliseconds since 1970, and more than those of all ends known to the holder. 0: not yet."""
    fold: bool = False
    """The holder's clone ignores case."""
    signature: str
    """By the peer's key over all of the above (`docs/lease-history.md`), base64."""
    lapsed: bool = False
    """Not ended by its holder, but no more in force as the peer that answers sees it: the holder vanished. Not signed."""


class Lease(Value, frozen=True, kw_only=True):
    """A claim on resources as one peer sees it: held (`granted`) or waiting (`pending`)."""

    claim_id: ClaimId
    peer_id: PeerId
    agent_id: AgentId
    resources: tuple[Resource, ...]
    mode: LeaseMode = "exclusive"
    priority: int = 0
    state: LeaseState = "granted"
    grade: Grade = "provisional"
    ttl_ms: int
    remaining_ms: int
    """Time left by this peer's own clock, until it ends if it is not renewed."""
    since: str
    """ISO 8601 UTC, for people."""
    note: str = ""
    mine: bool = False
    """Whether an agent of this clone has it."""
    strict: bool = False
    """Decided by the git remote."""
    token: int | None = None
    """Fencing token of a strict one: greater than that of every lease granted before it."""
    handover: Handover | None = None
    """What the last holder of any of the resources left behind, when this was granted."""
    position: int | None = None
    """Of one that waits, in lists: its place among those who wait for any of the same, 1 is next. Priority first, then age."""


class ActiveWork(Value, frozen=True, kw_only=True):
    """What an agent works on right now."""

    agent_id: AgentId
    peer_id: PeerId
    issues: tuple[str, ...] = ()
    specs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    status: str = ""
    metadata: dict[str, Json] = {}
    started_at: str
    updated_at: str


class FieldUpdate(Value, frozen=True, kw_only=True):
    """One field of an issue or spec update, as merged from all authors: the last writer by (hybrid logical clock, author)."""

    value: Json
    agent_id: AgentId
    updated_at: str


class IssueUpdate(Value, frozen=True, kw_only=True):
    """Live, uncommitted fields of one issue, merged per field over all who wrote about it."""

    issue_id: str
    fields: dict[str, FieldUpdate]


class SpecUpdate(Value, frozen=True, kw_only=True):
    """Live, uncommitted fields of one spec, merged per field over all who wrote about it."""

    spec_path: str
    fields: dict[str, FieldUpdate]


class Draft(Value, frozen=True, kw_only=True):
    """An update that its agent has not published."""

    draft_id: str
    agent_id: AgentId
    kind: Literal["issue", "spec", "note"]
    target: str
    fields: dict[str, Json]
    created_at: str


MessageKind: TypeAlias = Literal["note", "release"]
"""release: asks the holders of its resource to give it back."""


class Message(Value, frozen=True, kw_only=True):
    """Something an agent said to others."""

    message_id: str
    agent_id: AgentId
    """Who said it."""
    peer_id: PeerId
    to: tuple[AgentId, ...] = ()
    """For whom; empty: for all who hold, wait for or work on the resource, or for everybody."""
    resource: Resource | None = None
    """What it is about."""
    text: str
    kind: MessageKind = "note"
    reply_to: str = ""
    """The message that it answers."""
    sent_at: str
    """ISO 8601 UTC by the author's clock, for people."""
    remaining_ms: int = 0
    """Until it is over."""
    acknowledged_by: tuple[AgentId, ...] = ()
    """Who has read it."""
    mine: bool = False
    """Whether an agent of this clone said it."""


ConnectionKind: TypeAlias = Literal["self", "direct", "relayed", "connecting", "disconnected"]


class PeerInfo(Value, frozen=True, kw_only=True):
    """One agent of the swarm as `coord peers` lists it; agents of one clone share everything but id, capabilities and leases."""

    agent_id: AgentId
    peer_id: PeerId
    connection: ConnectionKind
    address: str | None = None
    latency_ms: float | None = None
    last_seen: str | None = None
    capabilities: tuple[str, ...] = ()
    leases_held: int = 0
    reason: str | None = None
    """Why it is not connected, and why it was dropped last if it broke a rule, for an hour."""


class LineRange(msgspec.Struct, frozen=True, order=True, array_like=True):
    """Lines of a file, the first is 1, both ends included. `last` = `first` - 1: between two lines, before `first`."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.last <= self.first else f"{self.first}-{self.last}"


class Conflict(Value, frozen=True, kw_only=True):
    """A clash between what is asked about and what another agent holds, works on or has changed."""

    resource: Resource
    kind: Literal["lease", "waiting", "work", "merge"]
    """merge: foretold; the changes that both have made would not merge (see `ForetoldConflict`)."""
    agent_id: AgentId
    peer_id: PeerId
    priority: int | None = None
    remaining_ms: int | None = None
    note: str = ""
    lines: tuple[LineRange, ...] = ()
    """Of `merge`: where in the file of this clone."""
    their_lines: tuple[LineRange, ...] = ()
    """Of `merge`: where in the other one's file."""


class ForetoldConflict(Value, frozen=True, kw_only=True):
    """What `git merge` would stop at, if two agents committed all that they have changed and merged now."""

    path: str
    """Where git would report it."""
    kind: str
    """As git names it: `contents`, `add/add`, `modify/delete`, `rename/rename`, `binary`, …"""
    agents: tuple[AgentId, ...]
    """Of this clone: who holds, works on or else may have changed the file."""
    worktree: str = ""
    """Of this clone, by git's name for it; empty: the main one."""
    lines: tuple[LineRange, ...] = ()
    """Where in this worktree's file."""
    their_agents: tuple[AgentId, ...]
    their_peer_id: PeerId
    their_worktree: str = ""
    their_branch: str = ""
    their_lines: tuple[LineRange, ...] = ()
    """Where in their file, as they have it."""
    certain: bool = True
    """False: what they have changed in it is not shared (too large, or it may be a secret), so that it may merge after all."""
    since: str
    """When it was first seen here: ISO 8601 UTC."""


WithheldReason: TypeAlias = Literal["binary", "large", "secret", "submodule", "limit"]
"""Why the new content of a changed file is not shared: it is no text, it is too large, it may hold a secret, it is a submodule, or
there is too much of it in all."""


class SharedFile(Value, frozen=True, kw_only=True):
    """A file that is changed, against what is on the git remote."""

    path: str
    change: Literal["added", "modified", "deleted"]
    lines: tuple[LineRange, ...] = ()
    """Changed ones, as they are in the changed file."""
    withheld: WithheldReason | None = None


class SharedWork(Value, frozen=True, kw_only=True):
    """Changes in one worktree that are not on the git remote: not committed, or not pushed."""

    agents: tuple[AgentId, ...]
    """Who holds or works on any of the files, or else the clone's default agent."""
    peer_id: PeerId
    worktree: str = ""
    branch: str = ""
    base: str
    """The commit on the remote that the changes are made to."""
    files: tuple[SharedFile, ...]
    left_out: int = 0
    """Changed files of which nothing is shared, not even their names (see `file_diff_deny`)."""
    mine: bool = False
    """Of this clone."""
    unknown: str = ""
    """Why conflicts with it can't be foretold here; empty: they can."""


class PeerRecord(Value, frozen=True, kw_only=True):
    """`.sudocode/coordination/peers/agent-{id}.json` on the coordination branch."""

    agent_id: AgentId
    multiaddrs: tuple[str, ...]
    public_key: str
    """The peer's Ed25519 public key in libp2p's protobuf encoding, base64."""
    capabilities: tuple[str, ...]
    last_seen: str
    """ISO 8601 UTC."""
    ttl: int
    """Milliseconds."""
    ext: dict[str, Json] = {}
    """Fields of our own: `v`, `peerId`, `signature`."""


def validate_agent_id(agent_id: str) -> AgentId:
    """The id itself.

    Raises:
        UsageError: it is empty, over 100 characters, or has characters other than `A-Za-z0-9._@+-`.
    """
    if not AGENT_ID_PATTERN.match(agent_id):
        raise UsageError(
            f"agent id {agent_id!r} is not usable",
            hint="use 1 to 100 letters, digits, or . _ @ + -, beginning with a letter or digit",
        )
    return agent_id


def earliest(*times: Instant | None) -> Instant | None:
    """The first of them; None if there is none. (`min` with a generator costs three times as much, and every step asks often.)"""
    first: Instant | None = None
    for at in times:
        if at is not None and (first is None or at < first):
            first = at
    return first


MAX_SECONDS_KEPT: Final = 64
"""Seconds whose text is kept: most of what is stamped is stamped within the one that is now."""


@lru_cache(MAX_SECONDS_KEPT)
def _iso_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).isoformat().replace("+00:00", "")


def iso_from_ms(wall_ms: WallMs) -> str:
    """ISO 8601 UTC with milliseconds, for people and files."""
    return f"{_iso_second(wall_ms // 1000)}.{wall_ms % 1000:03d}Z"
