"""The named methods of both clients, once: each turns its arguments into a request, and the client decides how it waits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from sudocode_coordination.api.requests import (
    AckMessages,
    AcquireLease,
    AgentInfo,
    AttachAgent,
    Briefing,
    CheckConflicts,
    CheckResult,
    ClearWork,
    DetachAgent,
    DoctorFinding,
    DropDrafts,
    Foretelling,
    GetBriefing,
    GetFindings,
    GetStatus,
    LeaseHistory,
    LeaseOutcome,
    ListConflicts,
    ListDrafts,
    ListIssues,
    ListLeases,
    ListMessages,
    ListPeers,
    ListSpecs,
    ListWork,
    Nothing,
    Ping,
    PublishDraft,
    ReadBranchNow,
    Released,
    ReleaseLease,
    RenewLease,
    Request,
    SaveDraft,
    SendMessage,
    SetWork,
    Status,
    Stop,
    StopOutcome,
    TouchResources,
    UpdateIssue,
    UpdateSpec,
)
from sudocode_coordination.client.speaking import Named, Speaker, What
from sudocode_coordination.errors import UsageError
from sudocode_coordination.model import (
    ActiveWork,
    Draft,
    HistoryEntry,
    IssueUpdate,
    Json,
    Lease,
    LeaseMode,
    Message,
    PeerInfo,
    ResourceType,
    SpecUpdate,
)


def _status(_speaker: Speaker) -> Request[Status]:
    """Everything about the daemon: agents, peers, work, leases, the remote's health."""
    return GetStatus()


def _peers(_speaker: Speaker) -> Request[tuple[PeerInfo, ...]]:
    """All agents of the swarm, with how they are connected."""
    return ListPeers()


def _acquire(
    speaker: Speaker,
    what: What | Iterable[What],
    type: ResourceType = "file",
    *,
    priority: int = 0,
    ttl_ms: int | None = None,
    mode: LeaseMode = "exclusive",
    wait: bool = False,
    wait_ms: int | None = None,
    note: str = "",
    strict: bool = False,
) -> Request[LeaseOutcome]:
    """Lease a resource, or several at once: all or none.

    Args:
        what: path or id, or several.
        type: what the strings are.
        priority: the higher one is served first, and a holder of a lower one is asked to go.
        ttl_ms: milliseconds; renewed by itself while the agent lives.
        mode: `shared` leases stand beside each other.
        wait: in line, for as long as it takes; or `wait_ms`: for that long.
        note: for people who meet the lease.
        strict: decided by the git remote, with a fencing token.

    Returns:
        Truthy if granted; else `holders` says who is in the way.
    """
    if wait and wait_ms is None:
        wait_ms = 0
    resources = speaker.resources(what, type)
    return AcquireLease(
        resources=resources,
        priority=priority,
        ttl_ms=ttl_ms,
        mode=mode,
        wait_ms=wait_ms,
        note=note,
        strict=strict,
        agent=speaker.agent,
    )


def _touch(
    speaker: Speaker,
    what: What | Iterable[What],
    *,
    agent: str | None = None,
    idle_ms: int = 1_800_000,
    process: int | None = None,
    note: str = "",
) -> Request[LeaseOutcome]:
    """A hook's agent is about to change files: take the lease on them, or keep it. Silent for `idle_ms`, the agent leaves.

    Raises:
        UsageError: nobody acts.
    """
    who = agent or speaker.agent
    if who is None:
        raise UsageError("which agent touches it?", hint="name it: agent=…")
    return TouchResources(resources=speaker.resources(what), agent=who, idle_ms=idle_ms, process=process, note=note)


def _briefing(speaker: Speaker) -> Request[Briefing]:
    """What others do now, what the agent has lost since it last asked, and new messages, which are acknowledged by it."""
    return GetBriefing(agent=speaker.agent)


def _renew(
    speaker: Speaker,
    what: What | Iterable[What],
    type: ResourceType = "file",
    *,
    ttl_ms: int | None = None,
) -> Request[tuple[Lease, ...]]:
    """Start the time of own leases anew, with another ttl if one is given."""
    return RenewLease(resources=speaker.resources(what, type), ttl_ms=ttl_ms, agent=speaker.agent)


def _release(
    speaker: Speaker,
    what: What | Iterable[What],
    type: ResourceType = "file",
    *,
    to_shared: bool = False,
    commit: str | None = None,
    branch: str = "",
) -> Request[Released]:
    """Give leases back. Those that are not held are left out of the answer.

    Args:
        what: path or id, or several.
        type: what the strings are.
        to_shared: keep them, shared: readers are let in, and no writer.
        commit: id of the commit that the next holder should build on; `branch`: where it is.
    """
    resources = speaker.resources(what, type)
    return ReleaseLease(resources=resources, to_shared=to_shared, commit=commit, branch=branch, agent=speaker.agent)


def _release_all(speaker: Speaker) -> Request[Released]:
    """Give everything back, and leave every line."""
    return ReleaseLease(everything=True, agent=speaker.agent)


def _leases(speaker: Speaker, *, everyone: bool = False) -> Request[tuple[Lease, ...]]:
    """Own leases; with `everyone` those of all agents, and who waits."""
    return ListLeases(everyone=everyone, agent=speaker.agent)


def _lease_history(
    speaker: Speaker, what: What | Iterable[What] = (), type: ResourceType = "file"
) -> Request[tuple[HistoryEntry, ...]]:
    """Who held what overlaps these, the latest first; without any: all that is known."""
    return LeaseHistory(resources=speaker.resources(what, type))


def _check(
    speaker: Speaker,
    files: Iterable[str] = (),
    issues: Iterable[str] = (),
    specs: Iterable[str] = (),
    components: Iterable[str] = (),
) -> Request[CheckResult]:
    """Who else holds or works on these, by what this clone knows. Truthy if anybody does."""
    return CheckConflicts(resources=speaker.mixed(files, issues, specs, components), agent=speaker.agent)


def _conflicts(_speaker: Speaker, *, agent: str | None = None) -> Request[Foretelling]:
    """Conflicts that are foretold between uncommitted and unpushed changes, and what is changed where. Of one agent, or of all."""
    return ListConflicts(agent=agent)


def _set_work(
    speaker: Speaker,
    *,
    issues: Iterable[str] = (),
    specs: Iterable[str] = (),
    files: Iterable[str] = (),
    status: str = "",
    metadata: Mapping[str, Json] | None = None,
) -> Request[ActiveWork]:
    """Tell what the agent works on; replaces what was told before."""
    return SetWork(
        issues=tuple(issues),
        specs=tuple(speaker.path(spec) for spec in specs),
        files=tuple(speaker.path(file) for file in files),
        status=status,
        metadata=dict(metadata or {}),
        agent=speaker.agent,
    )


def _clear_work(speaker: Speaker) -> Request[Nothing]:
    """The agent works on nothing any more."""
    return ClearWork(agent=speaker.agent)


def _work(_speaker: Speaker, *, agent: str | None = None) -> Request[tuple[ActiveWork, ...]]:
    """What everyone works on, or one agent."""
    return ListWork(agent=agent)


def _update_issue(speaker: Speaker, issue_id: str, fields: Mapping[str, Json]) -> Request[IssueUpdate]:
    """Write live fields of an issue; None takes the own value of a field back."""
    return UpdateIssue(issue_id=issue_id, fields=dict(fields), agent=speaker.agent)


def _issues(_speaker: Speaker, issue_id: str | None = None) -> Request[tuple[IssueUpdate, ...]]:
    """Live fields of all issues, or of one."""
    return ListIssues(issue_id=issue_id)


def _update_spec(speaker: Speaker, spec_path: str, fields: Mapping[str, Json]) -> Request[SpecUpdate]:
    """Write live fields of a spec; None takes the own value of a field back."""
    return UpdateSpec(spec_path=speaker.path(spec_path), fields=dict(fields), agent=speaker.agent)


def _specs(speaker: Speaker, spec_path: str | None = None) -> Request[tuple[SpecUpdate, ...]]:
    """Live fields of all specs, or of one."""
    return ListSpecs(spec_path=None if spec_path is None else speaker.path(spec_path))


def _save_draft(
    speaker: Speaker, kind: Literal["issue", "spec", "note"], target: str, fields: Mapping[str, Json]
) -> Request[Draft]:
    """Keep an update in this clone only."""
    target = speaker.path(target) if kind == "spec" else target
    return SaveDraft(kind=kind, target=target, fields=dict(fields), agent=speaker.agent)


def _drafts(speaker: Speaker) -> Request[tuple[Draft, ...]]:
    """The agent's drafts."""
    return ListDrafts(agent=speaker.agent)


def _publish_drafts(speaker: Speaker, draft_ids: Iterable[str] | None = None) -> Request[tuple[Draft, ...]]:
    """Publish drafts by id, or all of the agent's."""
    ids = None if draft_ids is None else tuple(draft_ids)
    return PublishDraft(draft_ids=ids or (), everything=ids is None, agent=speaker.agent)


def _drop_drafts(speaker: Speaker, draft_ids: Iterable[str] | None = None) -> Request[tuple[Draft, ...]]:
    """Forget drafts by id, or all of the agent's."""
    ids = None if draft_ids is None else tuple(draft_ids)
    return DropDrafts(draft_ids=ids or (), everything=ids is None, agent=speaker.agent)


def _send_message(
    speaker: Speaker,
    text: str,
    *,
    to: str | Iterable[str] = (),
    on: What | None = None,
    type: ResourceType = "file",
    reply_to: str = "",
    ttl_ms: int = 3_600_000,
) -> Request[Message]:
    """Say something to some agents, to all on a resource, or to everybody; it is over after `ttl_ms`, a day at most."""
    return SendMessage(
        text=text,
        to=(to,) if isinstance(to, str) else tuple(to),
        resource=None if on is None else speaker.resource(on, type),
        reply_to=reply_to,
        ttl_ms=ttl_ms,
        agent=speaker.agent,
    )


def _ask_release(
    speaker: Speaker,
    what: What,
    text: str = "",
    *,
    type: ResourceType = "file",
    ttl_ms: int = 3_600_000,
) -> Request[Message]:
    """Ask whoever holds the resource to give it back."""
    resource = speaker.resource(what, type)
    said = text or f"please release {resource} when you can"
    return SendMessage(text=said, resource=resource, kind="release", ttl_ms=ttl_ms, agent=speaker.agent)


def _messages(speaker: Speaker, *, everything: bool = False) -> Request[tuple[Message, ...]]:
    """What the agent has not acknowledged; `everything`: also what it has, and what it said itself."""
    return ListMessages(everything=everything, agent=speaker.agent)


def _acknowledge(speaker: Speaker, message_ids: Iterable[str] | None = None) -> Request[tuple[Message, ...]]:
    """The agent has read messages, by id or all of them; gives those that were new."""
    ids = None if message_ids is None else tuple(message_ids)
    return AckMessages(message_ids=ids or (), everything=ids is None, agent=speaker.agent)


def _attach(_speaker: Speaker, agent: str, *, capabilities: Iterable[str] | None = None, bound: bool = False) -> Request[AgentInfo]:
    """Make an agent of this clone known. `bound`: it leaves when this connection closes."""
    return AttachAgent(agent=agent, capabilities=None if capabilities is None else tuple(capabilities), bound=bound)


def _detach(_speaker: Speaker, agent: str) -> Request[Nothing]:
    """An agent leaves: its leases end, its work is cleared."""
    return DetachAgent(agent=agent)


def _findings(_speaker: Speaker) -> Request[tuple[DoctorFinding, ...]]:
    """What the daemon knows to be right or wrong with itself."""
    return GetFindings()


def _refresh(_speaker: Speaker) -> Request[Nothing]:
    """Look at the coordination branch now; answered when it has been read."""
    return ReadBranchNow()


def _ping(_speaker: Speaker) -> Request[Nothing]:
    """Answered by the socket server itself."""
    return Ping()


def _stop(_speaker: Speaker) -> Request[StopOutcome]:
    """Stop the daemon; answered when leases are released and the record is removed, or can't be."""
    return Stop()


class Calls:
    """What both clients can be asked. Arguments are those of the functions above."""

    status = Named(_status)
    peers = Named(_peers)
    acquire_lease = Named(_acquire)
    touch = Named(_touch)
    briefing = Named(_briefing)
    renew_lease = Named(_renew)
    release_lease = Named(_release)
    release_all = Named(_release_all)
    leases = Named(_leases)
    lease_history = Named(_lease_history)
    check_conflicts = Named(_check)
    conflicts = Named(_conflicts)
    set_work = Named(_set_work)
    clear_work = Named(_clear_work)
    work = Named(_work)
    update_issue = Named(_update_issue)
    issues = Named(_issues)
    update_spec = Named(_update_spec)
    specs = Named(_specs)
    save_draft = Named(_save_draft)
    drafts = Named(_drafts)
    publish_drafts = Named(_publish_drafts)
    drop_drafts = Named(_drop_drafts)
    send_message = Named(_send_message)
    ask_release = Named(_ask_release)
    messages = Named(_messages)
    acknowledge = Named(_acknowledge)
    attach = Named(_attach)
    detach = Named(_detach)
    findings = Named(_findings)
    refresh = Named(_refresh)
    ping = Named(_ping)
    stop = Named(_stop)
