"""The desk: requests of clients in, answers out. It asks the machines and decides nothing about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, assert_never

from sudocode_coordination import __version__
from sudocode_coordination.api.requests import (
    AcquireLease,
    AgentInfo,
    AttachAgent,
    CheckConflicts,
    CheckResult,
    ClearWork,
    CoreRequest,
    DetachAgent,
    DoctorFinding,
    GetFindings,
    GetStatus,
    LeaseHistory,
    ListDrafts,
    ListIssues,
    ListLeases,
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
    SetWork,
    Status,
    UpdateIssue,
    UpdateSpec,
    method_of,
)
from sudocode_coordination.config import CoordinationConfig
from sudocode_coordination.core.facts import Output, Respond
from sudocode_coordination.core.holdings import Ticket
from sudocode_coordination.core.io import Reply, RequestError, RequestReceived
from sudocode_coordination.core.resources import name_of, normalise, normalise_all
from sudocode_coordination.errors import CoordinationError, RemoteError, UsageError
from sudocode_coordination.model import AgentId, IssueUpdate, Json, Now, PeerId, PeerInfo, Resource, SpecUpdate, WallMs, iso_from_ms

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
        self._waiting: list[Ticket] = []
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
        return self._node.leases.cancel(ticket, now)

    def client_gone(self, client: int, now: Now) -> list[Output]:
        """Its waiting claims end, and the agents that were bound to it leave."""
        self._waiting = [t for t in self._waiting if t.client != client]
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
                node.strict.fenced.let_go(agent, normalise_all(request.resources), everything=request.everything)
                leases, told = node.leases.release(
                    agent,
                    request.resources,
                    now,
                    everything=request.everything,
                    to_shared=request.to_shared,
                    commit=request.commit,
                    branch=request.branch,
                )
                return out + told + self._reply(ticket, Released(released=tuple(leases)))
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
            case AttachAgent():
                client = ticket.client if request.bound else None
                out += node.agents.attach(request.agent, request.capabilities, client)
                out += node.discovery.agents_changed(node.agents.local, now)
            case DetachAgent():
                out += self._detach(request.agent, now)
            case ReadBranchNow():
                if len(self._waiting) >= MAX_WAITING:
                    raise CoordinationError(f"{MAX_WAITING} requests wait for the git remote", hint="wait for one of them")
                self._waiting.append(ticket)
                return out + node.discovery.refresh_requested(now)
            case (
                GetStatus()
                | ListPeers()
                | ListLeases()
                | LeaseHistory()
                | CheckConflicts()
                | ListWork()
                | ListIssues()
                | ListSpecs()
                | ListDrafts()
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

    def _reply(self, ticket: Ticket, value: Json) -> list[Output]:
        return [Reply(client=ticket.client, request_id=ticket.request_id, value=value)]

    def _agent(self, request: CoreRequest, out: list[Output], now: Now) -> AgentId:
        """Who acts. An agent that acts for the first time is attached by that; one that only looks is not."""
        agents = self._node.agents
        agent: AgentId | None = getattr(request, "agent", None)
        if agent is None:
            return agents.default
        acts = isinstance(request, (AcquireLease, SetWork, UpdateIssue, UpdateSpec, SaveDraft))
        if acts and agent not in agents.local:
            out += agents.attach(agent, None, None)
            out += self._node.discovery.agents_changed(agents.local, now)
        return agent

    def _detach(self, agent: AgentId, now: Now) -> list[Output]:
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
                return self._peers(now)
            case ListLeases():
                return node.leases.leases(now.instant, None if request.everyone else request.agent or node.agents.default)
            case LeaseHistory():
                return node.leases.history.query(
                    normalise_all(request.resources),
                    node.sync.entries("leaseHistory"),
                    node.sync.entries("leases"),
                    limit=request.limit,
                    in_force=lambda claim: node.leases.claims.is_live(claim, now.instant),
                    fold=self._config.ignore_case is True,
                )
            case CheckConflicts():
                agent = request.agent or node.agents.default
                resources = normalise_all(request.resources)
                working = [c for c in node.agents.work_conflicts(agent, resources) if self._counts(c.peer_id)]
                return CheckResult(conflicts=(*node.leases.conflicts(agent, resources, now.instant), *working))
            case SetWork():
                agent = request.agent or node.agents.default
                return next((w for w in node.agents.work(agent) if w.peer_id == node.peer_id), None)
            case ListWork():
                return [w for w in node.agents.work(request.agent) if self._counts(w.peer_id)]
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
                return next(a for a in self._agents(now) if a.agent_id == request.agent)
            case GetFindings():
                return self._findings(now)
            case ClearWork() | DetachAgent() | PushDone():
                return Nothing()
            case AcquireLease() | RenewLease() | ReleaseLease() | PreparePush() | SaveDraft() | PublishDraft() | ReadBranchNow():
                raise CoordinationError(f"{method_of(request)} is answered elsewhere")
            case _:
                assert_never(request)

    def _counts(self, peer: PeerId) -> bool:
        """Whether what a peer published still matters: it is this one, or of the roster, or connected."""
        node = self._node
        return peer == node.peer_id or peer in node.discovery.roster or peer in node.membership.connected_peers

    def _agents(self, now: Now) -> tuple[AgentInfo, ...]:
        node = self._node
        held = node.leases.held_count(now.instant)
        return tuple(
            AgentInfo(
                agent_id=agent,
                capabilities=capabilities,
                default=agent == node.agents.default,
                leases_held=held.get((node.peer_id, agent), 0),
            )
            for agent, capabilities in node.agents.local.items()
        )

    def _peers(self, now: Now) -> tuple[PeerInfo, ...]:
        node = self._node
        held = node.leases.held_count(now.instant)
        rows = [
            PeerInfo(
                agent_id=agent,
                peer_id=node.peer_id,
                connection="self",
                capabilities=capabilities,
                leases_held=held.get((node.peer_id, agent), 0),
                last_seen=iso_from_ms(now.wall_ms),
            )
            for agent, capabilities in node.agents.local.items()
        ]
        for peer_id, known in sorted(node.discovery.known.items()):
            if peer_id == node.peer_id or not self._counts(peer_id):
                continue
            peer = node.membership.peer(peer_id)
            live = {
                key: tuple(str(c) for c in value["capabilities"])
                for key, value in node.sync.owner_entries("agentMetadata", peer_id)
                if isinstance(value, dict) and isinstance(value.get("capabilities"), list)
            }
            connected = peer is not None and peer.connected
            listed = {id_: record.capabilities for id_, record in known.agents.items()}
            for agent, capabilities in sorted((live if connected and live else listed | live).items()):
                record = known.agents.get(agent)
                heard = peer.heard_wall_ms if peer is not None else None
                rows.append(
                    PeerInfo(
                        agent_id=agent,
                        peer_id=peer_id,
                        connection=node.membership.connection(peer_id),
                        address=peer.address if peer else None,
                        latency_ms=peer.latency_ms if peer else None,
                        last_seen=iso_from_ms(heard) if heard else (record.last_seen if record else None),
                        capabilities=capabilities,
                        leases_held=held.get((peer_id, agent), 0),
                        reason=peer.reason if peer and not connected else None,
                    )
                )
        return tuple(rows)

    def _status(self, now: Now) -> Status:
        node = self._node
        return Status(
            state="stopping" if node.stopping else "active" if node.listening else "starting",
            peer_id=node.peer_id,
            agents=self._agents(now),
            addresses=node.listening,
            peers=self._peers(now),
            work=tuple(w for w in node.agents.work() if self._counts(w.peer_id)),
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
        found = [*node.discovery.clashes(now.instant), *self._troubles, *node.sync.problems(), *node.strict.problems()]
        if node.disk_trouble:
            found.append(f"the disk failed, {node.disk_trouble}")
        if node.agents.unreadable_drafts:
            found.append(f"{node.agents.unreadable_drafts} drafts on disk can't be read")
        return found

    def _findings(self, now: Now) -> tuple[DoctorFinding, ...]:
        node = self._node
        health = node.discovery.health
        problems = self._problems(now)
        found = [
            DoctorFinding(
                name="remote",
                ok=health.state != "unreachable",
                message=f"git remote {self._config.git_remote}: {health.state}" + (f" ({health.reason})" if health.reason else ""),
                hint=f"try: git ls-remote {self._config.git_remote}" if health.state == "unreachable" else "",
            ),
            DoctorFinding(
                name="listening",
                ok=bool(node.listening),
                message=", ".join(node.listening) or "no address to listen on",
                hint="" if node.listening else "check listen_addresses and the firewall",
            ),
            DoctorFinding(
                name="record",
                # Pushes are few by design: a record that is not there yet is no fault, one that can't be pushed is.
                ok=node.discovery.published or health.state != "unreachable",
                message="own records are on the branch"
                if node.discovery.published
                else "own records are not all on the branch yet",
                hint="" if node.discovery.published else "if it stays so: check that you may push to the coordination branch",
            ),
        ]
        relays = node.membership.relays.used
        if relays:
            through = [relay for relay in relays if any(f"/p2p/{relay}/p2p-circuit" in address for address in node.listening)]
            found.append(
                DoctorFinding(
                    name="relay",
                    ok=bool(through),
                    message=f"reachable through {len(through)} of {len(relays)} relays",
                    hint="" if through else "the relay must run, be reachable from here, and let this peer in",
                )
            )
        for peer_id in node.leases.view.roster:
            peer = node.membership.peer(peer_id)
            if peer is not None and not peer.connected:
                agents = ", ".join(sorted(node.discovery.known[peer_id].agents)) if peer_id in node.discovery.known else peer_id
                found.append(
                    DoctorFinding(
                        name="peer",
                        ok=True,  # people switch their machines off
                        message=f"{agents}: not connected" + (f" ({peer.reason})" if peer.reason else ""),
                        hint="it may be off, or no relay leads past a firewall or NAT between you; its record ages out by itself",
                    )
                )
        found += [
            DoctorFinding(
                name="record-skipped",
                ok=True,  # nothing here is broken by it
                message=f"{name}: {reason}",
                hint="remove it from the branch if it is yours",
            )
            for name, reason in sorted(node.discovery.skipped.items())
            if reason not in problems  # told below
        ]
        found += [DoctorFinding(name="problem", ok=False, message=problem) for problem in problems]
        if not node.leases.remembers(now.instant):
            found.append(
                DoctorFinding(
                    name="memory",
                    ok=True,
                    message="state was lost or the machine has restarted: this peer is no voice of a quorum for a while",
                )
            )
        return tuple(found)
