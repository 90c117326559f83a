"""What a daemon answers to requests, where it is no value of `model.py`."""

from __future__ import annotations

from typing import Literal

import msgspec

from sudocode_coordination.model import (
    ActiveWork,
    AgentId,
    Conflict,
    ForetoldConflict,
    Json,
    Lease,
    Message,
    PartitionPolicy,
    PeerId,
    PeerInfo,
    Resource,
    SharedWork,
)


class Answer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of the answers."""


class Nothing(Answer, frozen=True, kw_only=True):
    """Done; there is nothing to tell."""


class RemoteHealth(Answer, frozen=True, kw_only=True):
    """How the git remote does."""

    name: str
    branch: str
    state: Literal["unknown", "ok", "unreachable"]
    since: str | None = None
    """ISO time since when it has been in that state."""
    reason: str | None = None
    commit: str | None = None
    last_read: str | None = None
    pushes: int = 0
    """Pushes made by this daemon since it started."""


class AgentInfo(Answer, frozen=True, kw_only=True):
    """An agent of this clone."""

    agent_id: AgentId
    capabilities: tuple[str, ...]
    default: bool
    leases_held: int


class Status(Answer, frozen=True, kw_only=True):
    """Answer to `GetStatus`."""

    state: Literal["starting", "active", "stopping"]
    peer_id: PeerId
    agents: tuple[AgentInfo, ...]
    addresses: tuple[str, ...]
    peers: tuple[PeerInfo, ...]
    work: tuple[ActiveWork, ...]
    leases: tuple[Lease, ...]
    remote: RemoteHealth
    roster: tuple[PeerId, ...]
    partition_policy: PartitionPolicy
    problems: tuple[str, ...] = ()
    """Things that want a person's attention: the disk is full, records were skipped, …"""
    started_at: str
    version: str


class Waits(Answer, frozen=True, kw_only=True):
    """One side of a circle of agents that wait for each other: `agent_id` waits for what `holder_id` has."""

    agent_id: AgentId
    peer_id: PeerId
    resource: Resource
    """What is waited for, as the holder named it."""
    holder_id: AgentId
    held: bool
    """Whether the holder has it; else it waits for it too, and goes first."""


class LeaseOutcome(Answer, frozen=True, kw_only=True):
    """Answer to `AcquireLease`: truthy if granted. If not, `holders` says who is in the way."""

    granted: bool
    lease: Lease | None = None
    holders: tuple[Conflict, ...] = ()
    reason: str = ""
    """Why not: `held`; `timeout` (the wait's limit); `no-answer` (too few peers answered); `deadlock`; `released`, `stopped` (taken
    back by another process of the agent, or with the daemon)."""
    waited_ms: int = 0
    cycle: tuple[Waits, ...] = ()
    """If `deadlock`: who waits for whom, the asker first. The last one waits for what the asker has: if the asker releases that,
    the others go on. It still holds all that it held."""

    def __bool__(self) -> bool:
        return self.granted


class LetGo(Answer, frozen=True, kw_only=True):
    """A strict lease that was lost, and that its agent has now let go of: it is in the way of its pushes no more."""

    resources: tuple[Resource, ...]
    token: int
    reason: str
    """`preempted`, `expired`, `restarted`, …"""


class Released(Answer, frozen=True, kw_only=True):
    """Answer to `ReleaseLease`."""

    released: tuple[Lease, ...]
    let_go: tuple[LetGo, ...] = ()
    """Not held any more, but lost."""


class PreparedPush(Answer, frozen=True, kw_only=True):
    """Answer to `PreparePush`: what to push with the work, in one `--atomic` push, with `--force-with-lease=<ref>:<parent>`.
    Without any strict lease of the agent: all empty."""

    leases: tuple[Lease, ...] = ()
    """The strict leases that it vouches for."""
    ref: str = ""
    """Full name of the table's ref on the remote."""
    commit: str = ""
    parent: str = ""
    """The table's tip that the commit is built on."""
    objects: str = ""
    """Folder with the commit's objects, for GIT_ALTERNATE_OBJECT_DIRECTORIES."""


class CheckResult(Answer, frozen=True, kw_only=True):
    """Answer to `CheckConflicts`."""

    conflicts: tuple[Conflict, ...]
    agent_id: AgentId = ""
    """Who was taken to act."""

    def __bool__(self) -> bool:
        return bool(self.conflicts)


class LostLease(Answer, frozen=True, kw_only=True):
    """A lease that ended against its agent's will."""

    resources: tuple[Resource, ...]
    reason: str
    """`preempted`, `lost-conflict`, `expired`."""
    holder: AgentId = ""
    """Who has it or wanted it, if that is known."""
    at: str


class Briefing(Answer, frozen=True, kw_only=True):
    """Answer to `GetBriefing`: what an agent should know before it goes on."""

    agent_id: AgentId
    work: tuple[ActiveWork, ...] = ()
    """Of others."""
    leases: tuple[Lease, ...] = ()
    """Of others, and who waits."""
    own: tuple[Lease, ...] = ()
    lost: tuple[LostLease, ...] = ()
    """Since the last briefing."""
    messages: tuple[Message, ...] = ()
    """New ones; with this answer they are acknowledged."""
    foretold: tuple[ForetoldConflict, ...] = ()
    """Conflicts of what the agent has changed with what others have."""


class Foretelling(Answer, frozen=True, kw_only=True):
    """Answer to `ListConflicts`: truthy if a conflict is foretold."""

    enabled: bool
    """Whether this clone takes part (`enable_file_diffs`)."""
    conflicts: tuple[ForetoldConflict, ...] = ()
    works: tuple[SharedWork, ...] = ()
    """What is changed where, as far as it is shared; of this clone first."""
    trouble: str = ""
    """Why this clone's own changes can't be looked at; empty: they can."""

    def __bool__(self) -> bool:
        return bool(self.conflicts)


class StopOutcome(Answer, frozen=True, kw_only=True):
    """Answer to `Stop`."""

    record_left: str = ""
    """Why a peer record of this clone is on the branch still: the remote could not be reached. It ages out by its ttl."""


class DoctorFinding(Answer, frozen=True, kw_only=True):
    """One line of `coord doctor`."""

    name: str
    ok: bool
    message: str
    hint: str = ""


class ToldOnNetwork(Answer, frozen=True, kw_only=True):
    """What multicast DNS says of a daemon on its local network."""

    service: str
    name: str
    """A hash of the peer id."""
    addresses: tuple[str, ...]
    port: int


class ToldRelays(Answer, frozen=True, kw_only=True):
    """What relays know of a clone, and what it tells as one."""

    used: tuple[PeerId, ...]
    """Each learns the peer id, the address that the connection comes from, and with whom it brings together, when, and how much."""
    announced: tuple[str, ...]
    """The clone's addresses there, which are in its records."""
    serves: bool
    """Whether it is one itself."""
    told: tuple[str, ...]
    """If so: its own addresses, for each peer that wishes to be reached through it."""


class Published(Answer, frozen=True, kw_only=True):
    """Answer to `GetPublished`: what leaves this clone now, beside its records on the branch."""

    peer_id: PeerId
    remote: str
    branch: str
    """Where the records are; what is in them is read there."""
    table_ref: str
    table: dict[str, str]
    """Path in the table of strict leases -> content, of this clone's leases."""
    peers: dict[str, dict[str, Json]]
    """Map of the shared document -> key -> value, of this clone's entries: every connected peer has them."""
    addresses: tuple[str, ...]
    """For every connected peer that asks libp2p. With the outer one that a relay has seen, where a hole is punched."""
    network: ToldOnNetwork | None
    """None: nothing is told there."""
    relays: ToldRelays


class DocumentEntry(Answer, frozen=True, kw_only=True):
    """One entry of the shared document, as its owner wrote it."""

    root: str
    """The root map that it is in."""
    owner: PeerId
    key: str
    """Without its owner."""
    value: Json = None
    """None: it is gone."""


class DocumentChanges(Answer, frozen=True, kw_only=True):
    """Answer to `FollowDocument`."""

    at: str
    """The state that it leads to: for `since` of the next request."""
    whole: bool
    """It has every entry there is; what is not in it is gone."""
    entries: tuple[DocumentEntry, ...]
