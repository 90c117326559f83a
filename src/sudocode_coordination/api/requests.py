"""Everything a client can ask of a daemon. A request knows the type of its answer; `api/codec.py` turns both into bytes.

`agent` says who acts; None is the daemon's default agent. Answers are the values of `model.py` and the few below.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Generic, Literal, TypeAlias, TypeVar, get_args

import msgspec
from msgspec import Meta

from sudocode_coordination.api.answers import (
    AgentInfo as AgentInfo,
)
from sudocode_coordination.api.answers import (
    Answer as Answer,
)
from sudocode_coordination.api.answers import (
    Briefing as Briefing,
)
from sudocode_coordination.api.answers import (
    CheckResult as CheckResult,
)
from sudocode_coordination.api.answers import (
    DoctorFinding as DoctorFinding,
)
from sudocode_coordination.api.answers import (
    DocumentChanges as DocumentChanges,
)
from sudocode_coordination.api.answers import (
    DocumentEntry as DocumentEntry,
)
from sudocode_coordination.api.answers import (
    Foretelling as Foretelling,
)
from sudocode_coordination.api.answers import (
    LeaseOutcome as LeaseOutcome,
)
from sudocode_coordination.api.answers import (
    LetGo as LetGo,
)
from sudocode_coordination.api.answers import (
    LostLease as LostLease,
)
from sudocode_coordination.api.answers import (
    Nothing as Nothing,
)
from sudocode_coordination.api.answers import (
    PreparedPush as PreparedPush,
)
from sudocode_coordination.api.answers import (
    Published as Published,
)
from sudocode_coordination.api.answers import (
    Released as Released,
)
from sudocode_coordination.api.answers import (
    RemoteHealth as RemoteHealth,
)
from sudocode_coordination.api.answers import (
    Status as Status,
)
from sudocode_coordination.api.answers import (
    StopOutcome as StopOutcome,
)
from sudocode_coordination.api.answers import (
    Waits as Waits,
)
from sudocode_coordination.model import (
    ActiveWork,
    Draft,
    HistoryEntry,
    IssueUpdate,
    Json,
    Lease,
    LeaseMode,
    Message,
    MessageKind,
    PeerInfo,
    Resource,
    SpecUpdate,
)

R = TypeVar("R")
MAX_TEXT: int = 4_096
MAX_MS: int = (1 << 53) - 1
"""Of a duration: the largest integer that every client can write."""
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Agent = Annotated[str, Meta(min_length=1, max_length=100)] | None


class Request(
    msgspec.Struct, Generic[R], frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True, tag_field="method"
):
    """Base of the requests; R is the answer's type, the tag the JSON-RPC method's name."""

    answer: ClassVar[Any]


# --- requests -----------------------------------------------------------------------------------------------------------


class GetStatus(Request[Status], frozen=True, kw_only=True, tag="status"):
    answer = Status


class ListPeers(Request[tuple[PeerInfo, ...]], frozen=True, kw_only=True, tag="peers"):
    answer = tuple[PeerInfo, ...]


class AcquireLease(Request[LeaseOutcome], frozen=True, kw_only=True, tag="lease"):
    """All of `resources` or none. `wait_ms` None: answer at once; 0: wait without limit; else that long at most."""

    answer = LeaseOutcome
    resources: Annotated[tuple[Resource, ...], Meta(min_length=1, max_length=1_000)]
    priority: Annotated[int, Meta(ge=-1_000_000, le=1_000_000)] = 0
    ttl_ms: Annotated[int, Meta(ge=1, le=MAX_MS)] | None = None
    mode: LeaseMode = "exclusive"
    wait_ms: Annotated[int, Meta(ge=0, le=MAX_MS)] | None = None
    note: Text = ""
    strict: bool = False
    """Decided by the git remote, with a fencing token."""
    agent: Agent = None


class TouchResources(Request[LeaseOutcome], frozen=True, kw_only=True, tag="touch"):
    """A hook's agent is about to change these: it takes the lease, or keeps what it has. The agent is attached by its
    first touch, and leaves, with all its leases, when it has not acted for `idle_ms`."""

    answer = LeaseOutcome
    resources: Annotated[tuple[Resource, ...], Meta(min_length=1, max_length=1_000)]
    agent: Annotated[str, Meta(min_length=1, max_length=100)]
    idle_ms: Annotated[int, Meta(ge=1_000, le=86_400_000)] = 1_800_000
    process: Annotated[int, Meta(ge=1)] | None = None
    """Id of the process that the agent's hooks run under, on this machine."""
    note: Text = ""


class GetBriefing(Request[Briefing], frozen=True, kw_only=True, tag="brief"):
    """What others do now, what the agent has lost since it was last briefed, and what was said to it. With `idle_ms` the
    agent is attached as by `TouchResources`."""

    answer = Briefing
    agent: Agent = None
    idle_ms: Annotated[int, Meta(ge=1_000, le=86_400_000)] | None = None
    process: Annotated[int, Meta(ge=1)] | None = None


class RenewLease(Request[tuple[Lease, ...]], frozen=True, kw_only=True, tag="renew"):
    """Start the ttl of the agent's leases on what overlaps these resources anew."""

    answer = tuple[Lease, ...]
    resources: tuple[Resource, ...]
    ttl_ms: Annotated[int, Meta(ge=1, le=MAX_MS)] | None = None
    agent: Agent = None


class ReleaseLease(Request[Released], frozen=True, kw_only=True, tag="release"):
    """Release the leases on exactly these names; `everything`: all that the agent has, queued ones too. `to_shared`: give back only
    that they are exclusive; they are kept, shared, without a gap."""

    answer = Released
    resources: tuple[Resource, ...] = ()
    everything: bool = False
    to_shared: bool = False
    commit: Annotated[str, Meta(pattern=r"^[0-9a-f]{40,64}\Z")] | None = None
    """What is left behind for the next holder."""
    branch: Annotated[str, Meta(max_length=250)] = ""
    """Where that commit is, without `refs/heads/`."""
    agent: Agent = None


class ListLeases(Request[tuple[Lease, ...]], frozen=True, kw_only=True, tag="leases"):
    """The agent's own; `everyone`: those of all agents, with who waits."""

    answer = tuple[Lease, ...]
    everyone: bool = False
    agent: Agent = None


class LeaseHistory(Request[tuple[HistoryEntry, ...]], frozen=True, kw_only=True, tag="leases.history"):
    """Who held what overlaps these resources, the latest first; without resources: all that is known. Each entry's signature is
    checked for the answer, which is why there is a limit."""

    answer = tuple[HistoryEntry, ...]
    resources: tuple[Resource, ...] = ()
    limit: Annotated[int, Meta(ge=1, le=2_000)] = 1_000


class PreparePush(Request[PreparedPush], frozen=True, kw_only=True, tag="push.prepare"):
    """Make the commit that, pushed together with the work, proves that the agent's strict leases are still its own."""

    answer = PreparedPush
    agent: Agent = None


class PushDone(Request[Nothing], frozen=True, kw_only=True, tag="push.done"):
    """What became of a prepared push."""

    answer = Nothing
    commit: Annotated[str, Meta(pattern=r"^[0-9a-f]{40,64}\Z")]
    landed: bool


class CheckConflicts(Request[CheckResult], frozen=True, kw_only=True, tag="check"):
    """Who else holds or works on what overlaps these; reads the local replica only."""

    answer = CheckResult
    resources: tuple[Resource, ...]
    agent: Agent = None
    processes: Annotated[tuple[int, ...], Meta(max_length=100)] = ()
    """The asking process and those above it: without `agent`, whoever's session runs under one of them acts."""


class ListConflicts(Request[Foretelling], frozen=True, kw_only=True, tag="conflicts"):
    """Conflicts that are foretold between what is changed in this clone and what others have changed; of one agent, or of all."""

    answer = Foretelling
    agent: Agent = None


class SetWork(Request[ActiveWork], frozen=True, kw_only=True, tag="work.set"):
    answer = ActiveWork
    issues: tuple[Text, ...] = ()
    specs: tuple[Text, ...] = ()
    files: tuple[Text, ...] = ()
    status: Text = ""
    metadata: dict[str, Json] = {}
    agent: Agent = None


class ClearWork(Request[Nothing], frozen=True, kw_only=True, tag="work.clear"):
    answer = Nothing
    agent: Agent = None


class ListWork(Request[tuple[ActiveWork, ...]], frozen=True, kw_only=True, tag="work.show"):
    """Active work of everyone, or of one agent."""

    answer = tuple[ActiveWork, ...]
    agent: Agent = None


class UpdateIssue(Request[IssueUpdate], frozen=True, kw_only=True, tag="issue.update"):
    """Write live fields of an issue; a None value takes the own value of that field back."""

    answer = IssueUpdate
    issue_id: Annotated[str, Meta(min_length=1, max_length=200)]
    fields: dict[str, Json]
    agent: Agent = None


class ListIssues(Request[tuple[IssueUpdate, ...]], frozen=True, kw_only=True, tag="issue.show"):
    answer = tuple[IssueUpdate, ...]
    issue_id: str | None = None


class UpdateSpec(Request[SpecUpdate], frozen=True, kw_only=True, tag="spec.update"):
    answer = SpecUpdate
    spec_path: Annotated[str, Meta(min_length=1, max_length=1_000)]
    fields: dict[str, Json]
    agent: Agent = None


class ListSpecs(Request[tuple[SpecUpdate, ...]], frozen=True, kw_only=True, tag="spec.show"):
    answer = tuple[SpecUpdate, ...]
    spec_path: str | None = None


class SaveDraft(Request[Draft], frozen=True, kw_only=True, tag="draft.save"):
    """Keep an update in this clone only."""

    answer = Draft
    kind: Literal["issue", "spec", "note"]
    target: Annotated[str, Meta(max_length=1_000)]
    fields: dict[str, Json]
    agent: Agent = None


class ListDrafts(Request[tuple[Draft, ...]], frozen=True, kw_only=True, tag="draft.list"):
    answer = tuple[Draft, ...]
    agent: Agent = None


class PublishDraft(Request[tuple[Draft, ...]], frozen=True, kw_only=True, tag="draft.publish"):
    """Publish drafts as live updates (by id, or all of the agent's) and forget them as drafts."""

    answer = tuple[Draft, ...]
    draft_ids: tuple[str, ...] = ()
    everything: bool = False
    agent: Agent = None


class DropDrafts(Request[tuple[Draft, ...]], frozen=True, kw_only=True, tag="draft.drop"):
    """Forget drafts, by id or all of the agent's; the answer is those that are gone."""

    answer = tuple[Draft, ...]
    draft_ids: tuple[str, ...] = ()
    everything: bool = False
    agent: Agent = None


class SendMessage(Request[Message], frozen=True, kw_only=True, tag="message.send"):
    """Say something: to some agents, to all on `resource`, or, without either, to everybody. `kind` release without `to`: to
    whoever holds the resource. `reply_to` without `to`: to who sent that."""

    answer = Message
    text: Annotated[str, Meta(min_length=1, max_length=1_000)]
    to: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=100)], ...], Meta(max_length=50)] = ()
    resource: Resource | None = None
    kind: MessageKind = "note"
    reply_to: Annotated[str, Meta(max_length=40)] = ""
    ttl_ms: Annotated[int, Meta(ge=1, le=86_400_000)] = 3_600_000
    """After that it is over, read or not; a day at most."""
    agent: Agent = None


class ListMessages(Request[tuple[Message, ...]], frozen=True, kw_only=True, tag="message.list"):
    """What the agent has not acknowledged; `everything`: also what it has, and what it said itself."""

    answer = tuple[Message, ...]
    everything: bool = False
    agent: Agent = None


class AckMessages(Request[tuple[Message, ...]], frozen=True, kw_only=True, tag="message.ack"):
    """The agent has read these, or all that it was sent; the answer is those that were new."""

    answer = tuple[Message, ...]
    message_ids: Annotated[tuple[str, ...], Meta(max_length=1_000)] = ()
    everything: bool = False
    agent: Agent = None


class AttachAgent(Request[AgentInfo], frozen=True, kw_only=True, tag="agent.attach"):
    """Make an agent of this clone known. `bound`: it leaves, and its leases end, when this connection closes."""

    answer = AgentInfo
    agent: Annotated[str, Meta(min_length=1, max_length=100)]
    capabilities: tuple[Text, ...] | None = None
    bound: bool = False


class DetachAgent(Request[Nothing], frozen=True, kw_only=True, tag="agent.detach"):
    """The agent leaves: its leases end, its work is cleared. `below`: with it those named `<agent>.…`, its subagents."""

    answer = Nothing
    agent: Annotated[str, Meta(min_length=1, max_length=100)]
    below: bool = False


class GetFindings(Request[tuple[DoctorFinding, ...]], frozen=True, kw_only=True, tag="doctor"):
    """What the daemon itself knows to be wrong or right, for `coord doctor`."""

    answer = tuple[DoctorFinding, ...]


class GetPublished(Request[Published], frozen=True, kw_only=True, tag="published"):
    """What this clone publishes, for `coord doctor --published`."""

    answer = Published


class FollowDocument(Request[DocumentChanges], frozen=True, kw_only=True, tag="document"):
    """The shared document: all of it, or what has changed since an earlier answer. If nothing has, the answer waits until
    something does: whoever asks again with each answer's `at` follows it."""

    answer = DocumentChanges
    since: Annotated[str, Meta(max_length=64)] = ""
    """`at` of the last answer; empty, or not of this daemon's life: everything, at once."""


class ReadBranchNow(Request[Nothing], frozen=True, kw_only=True, tag="refresh"):
    """Look at the coordination branch now; answered when it has been read."""

    answer = Nothing


# --- answered by the server itself, never by the core -------------------------------------------------------------------


class Subscribe(Request[Nothing], frozen=True, kw_only=True, tag="events"):
    """From now on events come on this connection, as notifications `event`. `replay`: the last ones first, at most that many."""

    answer = Nothing
    replay: Annotated[int, Meta(ge=0, le=1_000)] = 0


class Stop(Request[StopOutcome], frozen=True, kw_only=True, tag="stop"):
    """Stop the daemon; answered when leases are released and the record is removed, or can't be."""

    answer = StopOutcome


class HandOver(Request[StopOutcome], frozen=True, kw_only=True, tag="stop.hand-over"):
    """Stop the daemon because the clone gets a new key: leases are released; the next start replaces the records."""

    answer = StopOutcome


class Ping(Request[Nothing], frozen=True, kw_only=True, tag="ping"):
    answer = Nothing


CoreRequest: TypeAlias = (
    GetStatus
    | ListPeers
    | AcquireLease
    | TouchResources
    | GetBriefing
    | RenewLease
    | ReleaseLease
    | ListLeases
    | LeaseHistory
    | PreparePush
    | PushDone
    | CheckConflicts
    | ListConflicts
    | SetWork
    | ClearWork
    | ListWork
    | UpdateIssue
    | ListIssues
    | UpdateSpec
    | ListSpecs
    | SaveDraft
    | ListDrafts
    | PublishDraft
    | DropDrafts
    | SendMessage
    | ListMessages
    | AckMessages
    | AttachAgent
    | DetachAgent
    | GetFindings
    | GetPublished
    | FollowDocument
    | ReadBranchNow
)
ServerRequest: TypeAlias = Subscribe | Stop | HandOver | Ping


def method_of(request: type[Request[Any]] | Request[Any]) -> str:
    """The JSON-RPC method's name."""
    return str(request.__struct_config__.tag)


REQUESTS: Final[dict[str, type[Request[Any]]]] = {method_of(cls): cls for cls in (*get_args(CoreRequest), *get_args(ServerRequest))}
EVENT_NOTIFICATION: Final = "event"
