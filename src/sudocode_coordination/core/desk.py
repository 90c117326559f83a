"""The desk: requests of clients in, answers out. It asks the machines and decides nothing about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, assert_never

import msgspec

from sudocode_coordination import __version__
from sudocode_coordination.api.requests import (
    AckMessages,
    AcquireLease,
    AttachAgent,
    Briefing,
    CheckConflicts,
    CheckResult,
    ClearWork,
    CoreRequest,
    DetachAgent,
    DropDrafts,
    FollowDocument,
    GetBriefing,
    GetFindings,
    GetPublished,
    GetStatus,
    LeaseHistory,
    LetGo,
    ListConflicts,
    ListDrafts,
    ListIssues,
    ListLeases,
    ListMessages,
    ListPeers,
    ListSpecs,
    ListWork,
    Nothing,
    PreparedPush,
    PreparePush,
    PublishDraft,
    PushDone,
    ReadBranchNow,
    Released,
    ReleaseLease,
    RemoteHealth,
    RenewLease,
    SaveDraft,
    SendMessage,
    SetWork,
    Status,
    TouchResources,
    UpdateIssue,
    UpdateSpec,
    method_of,
)
from sudocode_coordination.config import CoordinationConfig
from sudocode_coordination.core import foretelling
from sudocode_coordination.core.checkup import findings, own_admission
from sudocode_coordination.core.company import counts, everybody, own_agents
from sudocode_coordination.core.facts import Output, Respond
from sudocode_coordination.core.following import Following
from sudocode_coordination.core.holdings import Ticket
from sudocode_coordination.core.io import Reply, RequestError, RequestReceived
from sudocode_coordination.core.published import published
from sudocode_coordination.core.resources import name_of, normalise, normalise_all
from sudocode_coordination.errors import CoordinationError, RemoteError, UsageError
from sudocode_coordination.model import (
    AgentId,
    IssueUpdate,
    Json,
    Lease,
    Now,
    Resource,
    SpecUpdate,
    WallMs,
    iso_from_ms,
)

if TYPE_CHECKING:
    from sudocode_coordination.core.node import Node

MAX_TROUBLES: Final = 20
"""Problems told in the status; the latest count."""
MAX_WAITING: Final = 256
"""Requests that wait for a look at the branch."""


class Desk:
    """See the module."""

    def __init__(self, node: Node, config: CoordinationConfig) -> None:
        self._node = node
        self._config = config
        self.following = Following(node.sync)
        self._waiting: list[Ticket] = []
        self._waiting_for_table: list[Ticket] = []
        self._troubles: list[str] = []
        self._pushes = 0
        self._read_wall_ms: WallMs = 0

    def trouble(self, what: str) -> None:
        """Something that a person should know of."""
        self._troubles = [*self._troubles, what][-MAX_TROUBLES:]

    # --- in ---------------------------------------------------------------------------------------------------------------

    def asked(self, given: RequestReceived, now: Now) -> list[Output]:
        """A request; its answer is among the outputs, now or in a later step."""
        ticket = Ticket(given.client, given.request_id)
        done: list[Output] = []
        try:
            if self._node.stopping:
                raise CoordinationError("the daemon is stopping", hint="start it again with: coord start")
            return self._take(given.request, ticket, done, now)
        except CoordinationError as error:  # what was done before (an agent attached) has happened all the same
            refusal = RequestError(code=error.code, message=error.message, hint=error.hint)
            return [*done, Reply(client=ticket.client, request_id=ticket.request_id, error=refusal)]

    def cancelled(self, client: int, request_id: int, now: Now) -> list[Output]:
        """The client does not wait any more."""
        ticket = Ticket(client, request_id)
        self._waiting = [t for t in self._waiting if t != ticket]
        self._waiting_for_table = [t for t in self._waiting_for_table if t != ticket]
        self.following.gone(client, request_id)
        return self._node.leases.cancel(ticket, now)

    def client_gone(self, client: int, now: Now) -> list[Output]:
        """Its waiting claims end, and the agents that were bound to it leave."""
        self._waiting = [t for t in self._waiting if t.client != client]
        self._waiting_for_table = [t for t in self._waiting_for_table if t.client != client]
        self.following.gone(client)
        out = self._node.leases.client_gone(client, now)
        for agent in self._node.agents.leaving(client):
            out += self._detach(agent, now)
        return out

    def branch_looked_at(self, failure: str | None, now: Now) -> list[Output]:
        """Answer those who wait for it."""
        if failure is None:
            self._read_wall_ms = now.wall_ms
        waiting, self._waiting = self._waiting, []
        if failure is None:
            return [Reply(client=t.client, request_id=t.request_id, value=Nothing()) for t in waiting]
        error = RequestError(
            code=RemoteError.code,
            message=f"the git remote can't be read: {failure}",
            hint=f"try: git ls-remote {self._config.git_remote}",
        )
        return [Reply(client=t.client, request_id=t.request_id, error=error) for t in waiting]

    def table_looked_at(self, failure: str | None) -> list[Output]:
        """The same for the table of strict leases."""
        waiting, self._waiting_for_table = self._waiting_for_table, []
        if failure is None:
            return [Respond(client=t.client, request_id=t.request_id, request=GetPublished()) for t in waiting]
        error = RequestError(code=RemoteError.code, message=f"the table of strict leases can't be read: {failure}")
        return [Reply(client=t.client, request_id=t.request_id, error=error) for t in waiting]

    def pushed(self) -> None:
        """A push went out."""
        self._pushes += 1

    # --- requests ---------------------------------------------------------------------------------------------------------

    def _take(self, request: CoreRequest, ticket: Ticket, out: list[Output], now: Now) -> list[Output]:
        node = self._node
        agent = self._agent(request, out, now)
        value: Json
        match request:
            case AcquireLease():
                return out + node.leases.acquire(agent, request, ticket, now)
            case TouchResources():
                out += self._session(agent, request.idle_ms, request.process, now)
                wanted = AcquireLease(resources=request.resources, note=request.note, agent=agent)
                return out + node.leases.acquire(agent, wanted, ticket, now)
            case GetBriefing():
                if request.idle_ms is not None:
                    out += self._session(agent, request.idle_ms, request.process, now)
                briefing, told = self._briefed(agent, now)
                return out + told + self._reply(ticket, briefing)
            case RenewLease():
                value, told = node.leases.renew(agent, request.resources, request.ttl_ms, now)
                out += told
                if not value:
                    raise UsageError(f"{agent} holds no lease on that", hint="coord leases shows what it holds")
                return out + self._reply(ticket, value)
            case PreparePush():
                return out + node.strict.prepare(agent, ticket, now)
            case PushDone():
                node.strict.fenced.done(request.commit, landed=request.landed)
            case ReleaseLease():
                gone = node.strict.fenced.let_go(agent, normalise_all(request.resources), everything=request.everything)
                lost = tuple(LetGo(resources=one.claim.resources, token=one.token, reason=one.reason) for one in gone)
                leases, told = node.leases.release(
                    agent,
                    request.resources,
                    now,
                    everything=request.everything,
                    to_shared=request.to_shared,
                    commit=request.commit,
                    branch=request.branch,
                )
                return out + told + self._reply(ticket, Released(released=tuple(leases), let_go=lost))
            case SetWork():
                out += node.agents.set_work(agent, request, now)
            case ClearWork():
                out += node.agents.clear_work(agent)
            case UpdateIssue():
                out += node.agents.update("issue", agent, request.issue_id, request.fields, now)
            case UpdateSpec():
                out += node.agents.update("spec", agent, request.spec_path, request.fields, now)
            case SaveDraft():
                draft, told = node.agents.save_draft(agent, request.kind, request.target, request.fields, now)
                return out + told + self._reply(ticket, draft)
            case PublishDraft():
                drafts, told = node.agents.publish_drafts(agent, request.draft_ids, request.everything, now)
                return out + told + self._reply(ticket, drafts)
            case DropDrafts():
                drafts, told = node.agents.drop_drafts(agent, request.draft_ids, request.everything)
                return out + told + self._reply(ticket, drafts)
            case SendMessage():
                resource = None if request.resource is None else normalise(request.resource)
                request = msgspec.structs.replace(request, resource=resource)
                message, told = node.messages.send(agent, request, self._addressees(agent, request, now), now)
                return out + told + self._reply(ticket, message)
            case AckMessages():
                read, told = node.messages.acknowledge(agent, request.message_ids, request.everything, now)
                return out + told + self._reply(ticket, read)
            case AttachAgent():
                client = ticket.client if request.bound else None
                out += node.agents.attach(request.agent, request.capabilities, client)
                out += node.discovery.agents_changed(node.agents.local, now)
            case DetachAgent():
                subagents = [id_ for id_ in node.agents.local if request.below and id_.startswith(f"{request.agent}.")]
                for leaving in (request.agent, *subagents):
                    out += self._detach(leaving, now)
            case ReadBranchNow():
                if len(self._waiting) >= MAX_WAITING:
                    raise CoordinationError(f"{MAX_WAITING} requests wait for the git remote", hint="wait for one of them")
                self._waiting.append(ticket)
                return out + node.discovery.refresh_requested(now)
            case GetPublished():
                # Another peer may write the table for all: only a read shows what is in it of this one.
                if len(self._waiting_for_table) >= MAX_WAITING:
                    raise CoordinationError(f"{MAX_WAITING} requests wait for the git remote", hint="wait for one of them")
                self._waiting_for_table.append(ticket)
                node.strict.writer.wants_read = True
                return out
            case FollowDocument():
                if not self.following.asked(ticket, request):
                    return out
            case (
                GetStatus()
                | ListPeers()
                | ListLeases()
                | LeaseHistory()
                | CheckConflicts()
                | ListConflicts()
                | ListWork()
                | ListIssues()
                | ListSpecs()
                | ListDrafts()
                | ListMessages()
                | GetFindings()
            ):
                pass
            case _:
                assert_never(request)
        return [*out, Respond(client=ticket.client, request_id=ticket.request_id, request=request)]

    def respond(self, given: Respond, now: Now) -> list[Output]:
        """The answer by the state as it is now."""
        try:
            if isinstance(given.request, PreparePush):
                value: Json = self._prepared(Ticket(given.client, given.request_id), now)
            else:
                value = self._answer(given.request, now)
        except CoordinationError as error:
            refusal = RequestError(code=error.code, message=error.message, hint=error.hint)
            return [Reply(client=given.client, request_id=given.request_id, error=refusal)]
        return [Reply(client=given.client, request_id=given.request_id, value=value)]

    def _prepared(self, ticket: Ticket, now: Now) -> PreparedPush:
        """The commit that a client may push with its work."""
        ready = self._node.strict.fenced.take(ticket)
        if ready is None:
            raise CoordinationError("no push is prepared for this client")
        leases = [lease for lease in self._node.leases.leases(now.instant, ready.agent) if lease.claim_id in ready.claims]
        built = ready.built
        return PreparedPush(
            leases=tuple(leases), ref=built.ref, commit=built.commit, parent=built.parent or "", objects=built.objects
        )

    def _addressees(self, agent: AgentId, request: SendMessage, now: Now) -> tuple[AgentId, ...]:
        """Who is meant where nobody is named.

        Raises:
            UsageError: nobody holds what is asked for, or there is no message to answer.
        """
        node = self._node
        if request.reply_to:
            answered = node.messages.find(request.reply_to)
            if answered is None:
                raise UsageError(f"there is no message {request.reply_to!r} to answer", hint="`coord messages --all` shows them")
            return request.to or (answered.agent_id,)
        if request.kind == "note" or request.to:
            return request.to
        if request.resource is None:
            raise UsageError("what is to be released?", hint="name a resource")
        known = node.leases.claims.touching((request.resource,), now.instant, fold_case=node.folds_case)
        others = {k.body.agent for k in known if k.granted and not (k.body.agent == agent and k.owner == node.peer_id)}
        if not others:
            raise UsageError(f"nobody else holds {request.resource}", hint=f"take it: coord lease {request.resource}")
        return tuple(sorted(others))

    def _reply(self, ticket: Ticket, value: Json) -> list[Output]:
        return [Reply(client=ticket.client, request_id=ticket.request_id, value=value)]

    def _agent(self, request: CoreRequest, out: list[Output], now: Now) -> AgentId:
        """Who acts. An agent that acts for the first time is attached by that; one that only looks is not."""
        agents = self._node.agents
        agent: AgentId | None = getattr(request, "agent", None)
        if agent is None:
            return agents.default
        self._node.sessions.acted(agent, now)
        acts = isinstance(request, (AcquireLease, SetWork, UpdateIssue, UpdateSpec, SaveDraft, SendMessage))
        if acts and agent not in agents.local:
            out += agents.attach(agent, None, None)
            out += self._node.discovery.agents_changed(agents.local, now)
        return agent

    def _session(self, agent: AgentId, idle_ms: int, process: int | None, now: Now) -> list[Output]:
        """It acts through a hook: attached, until it is silent for too long."""
        agents = self._node.agents
        out: list[Output] = []
        if agent not in agents.local:
            out += agents.attach(agent, None, None)
            out += self._node.discovery.agents_changed(agents.local, now)
        if agent != agents.default:
            self._node.sessions.touched(agent, idle_ms, process, now)
        return out

    def silent_ones_leave(self, now: Now) -> list[Output]:
        """Agents of hooks that have not acted for too long."""
        return [output for agent in self._node.sessions.silent(now) for output in self._detach(agent, now)]

    def _briefed(self, agent: AgentId, now: Now) -> tuple[Briefing, list[Output]]:
        node = self._node
        read, out = node.messages.acknowledge(agent, (), True, now)
        mine: list[Lease] = []
        others: list[Lease] = []
        for lease in node.leases.leases(now.instant):
            (mine if lease.agent_id == agent and lease.peer_id == node.peer_id else others).append(lease)
        working = (w for w in node.agents.work() if counts(node, w.peer_id))
        briefing = Briefing(
            agent_id=agent,
            work=tuple(w for w in working if not (w.agent_id == agent and w.peer_id == node.peer_id)),
            leases=tuple(others),
            own=tuple(mine),
            lost=node.sessions.lost(agent),
            messages=tuple(read),
            foretold=foretelling.conflicts(node, now, agent),
        )
        return briefing, out

    def _detach(self, agent: AgentId, now: Now) -> list[Output]:
        self._node.sessions.left(agent)
        _, out = self._node.leases.release(agent, (), now, everything=True)
        self._node.strict.fenced.let_go(agent, (), everything=True)
        out += self._node.agents.detach(agent)
        return out + self._node.discovery.agents_changed(self._node.agents.local, now)

    # --- answers ------------------------------------------------------------------------------------------------------------

    def _answer(self, request: CoreRequest, now: Now) -> Json:
        node = self._node
        match request:
            case GetStatus():
                return self._status(now)
            case ListPeers():
                return everybody(node, now)
            case ListLeases():
                return node.leases.leases(now.instant, None if request.everyone else request.agent or node.agents.default)
            case LeaseHistory():
                return node.leases.history.query(
                    normalise_all(request.resources),
                    node.sync.entries("leaseHistory"),
                    node.sync.entries("leases"),
                    limit=request.limit,
                    in_force=lambda claim: node.leases.claims.is_live(claim, now.instant),
                    fold=node.folds_case,
                )
            case CheckConflicts():
                agent = request.agent or node.sessions.under(request.processes) or node.agents.default
                resources = normalise_all(request.resources)
                working = [c for c in node.agents.work_conflicts(agent, resources) if counts(node, c.peer_id)]
                merging = foretelling.merge_conflicts(node, agent, resources, now)
                held = node.leases.conflicts(agent, resources, now.instant)
                return CheckResult(conflicts=(*held, *working, *merging), agent_id=agent)
            case ListConflicts():
                return foretelling.foretelling(node, now, request.agent)
            case SetWork():
                agent = request.agent or node.agents.default
                return next((w for w in node.agents.work(agent) if w.peer_id == node.peer_id), None)
            case ListWork():
                return [w for w in node.agents.work(request.agent) if counts(node, w.peer_id)]
            case UpdateIssue():
                found = node.agents.issues(request.issue_id)
                return found[0] if found else IssueUpdate(issue_id=request.issue_id, fields={})
            case UpdateSpec():
                path = name_of(normalise(Resource("spec", request.spec_path))).path
                specs = node.agents.specs(path)
                return specs[0] if specs else SpecUpdate(spec_path=path, fields={})
            case ListIssues():
                return node.agents.issues(request.issue_id)
            case ListSpecs():
                path_asked = request.spec_path
                return node.agents.specs(None if path_asked is None else name_of(normalise(Resource("spec", path_asked))).path)
            case ListDrafts():
                return node.agents.drafts(request.agent)
            case AttachAgent():
                return next(a for a in own_agents(node, now) if a.agent_id == request.agent)
            case ListMessages():
                return node.messages.messages(request.agent or node.agents.default, now, everything=request.everything)
            case GetFindings():
                return findings(node, self._config, self._problems(now), now)
            case GetPublished():
                return published(node, self._config)
            case FollowDocument(since=since):
                return self.following.answer(since)
            case ClearWork() | DetachAgent() | PushDone():
                return Nothing()
            case AcquireLease() | RenewLease() | ReleaseLease() | PreparePush() | SaveDraft() | PublishDraft() | ReadBranchNow():
                raise CoordinationError(f"{method_of(request)} is answered elsewhere")
            case SendMessage() | AckMessages() | TouchResources() | GetBriefing() | DropDrafts():
                raise CoordinationError(f"{method_of(request)} is answered elsewhere")
            case _:
                assert_never(request)

    def _status(self, now: Now) -> Status:
        node = self._node
        return Status(
            state="stopping" if node.stopping else "active" if node.listening else "starting",
            peer_id=node.peer_id,
            agents=own_agents(node, now),
            addresses=node.listening,
            peers=everybody(node, now),
            work=tuple(w for w in node.agents.work() if counts(node, w.peer_id)),
            leases=tuple(node.leases.leases(now.instant)),
            remote=self._remote(),
            roster=node.leases.view.roster,
            partition_policy=self._config.partition_policy,
            problems=tuple(self._problems(now)),
            started_at=iso_from_ms(node.started_wall_ms),
            version=__version__,
        )

    def _remote(self) -> RemoteHealth:
        discovery = self._node.discovery
        health = discovery.health
        return RemoteHealth(
            name=self._config.git_remote,
            branch=self._config.coordination_branch,
            state=health.state,
            since=iso_from_ms(health.since_ms) if health.state != "unknown" else None,
            reason=health.reason or None,
            commit=discovery.branch_commit,
            last_read=iso_from_ms(self._read_wall_ms) if self._read_wall_ms else None,
            pushes=self._pushes + self._node.strict.writer.pushes,
        )

    def _problems(self, now: Now) -> list[str]:
        node = self._node
        found = [
            *own_admission(node),
            *node.discovery.clashes(now.instant),
            *self._troubles,
            *node.sync.problems(),
            *node.strict.problems(),
        ]
        if node.disk_trouble:
            found.append(f"the disk failed, {node.disk_trouble}")
        if node.agents.unreadable_drafts:
            found.append(f"{node.agents.unreadable_drafts} drafts on disk can't be read")
        return found
