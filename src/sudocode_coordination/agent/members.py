"""What an agent offers: `state`, `network`, `lease_manager`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

import anyio.to_thread

from sudocode_coordination.agent.handlers import Emitter, Emitting
from sudocode_coordination.agent.session import Session
from sudocode_coordination.api.requests import CheckResult, ListLeases, Released, ReleaseLease, Request
from sudocode_coordination.client.aio import AsyncClient
from sudocode_coordination.client.blocking import Client
from sudocode_coordination.client.calls import Calls
from sudocode_coordination.client.checkout import leaving_commit
from sudocode_coordination.client.connect import DEFAULT_TIMEOUT_S
from sudocode_coordination.client.speaking import Awaits, Blocks, What
from sudocode_coordination.config import CoordinationConfig
from sudocode_coordination.model import ActiveWork, IssueUpdate, Json, Lease, Message, PeerInfo, ResourceType, SpecUpdate
from sudocode_coordination.place import Clone

R = TypeVar("R")


class Owner(Protocol):
    """The agent whose member it is."""

    emitter: Emitter
    clone: Clone
    folder: str
    config: CoordinationConfig

    @property
    def session(self) -> Session:
        """What is between start and stop."""

    @property
    def calls(self) -> Client:
        """Blocking calls over the agent's connection."""


class _Member:
    """What has an agent, and speaks for it."""

    _emitter: Emitter
    clone: Clone
    folder: str
    agent: str | None

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._emitter = owner.emitter
        self.clone = owner.clone
        self.folder = owner.folder
        self.agent = owner.config.agent_id


class State(_Member):
    """What all agents share. Every call is answered out of the daemon's memory, in about a millisecond."""

    def set_issue_update(self, issue_id: str, fields: Mapping[str, Json] | None = None, **named: Json) -> IssueUpdate:
        """Write live fields of an issue; None takes the own value back. `temp_title=…` writes the field `tempTitle`."""
        return self._owner.calls.update_issue(issue_id, {**(fields or {}), **_camel_keys(named)})

    def set_spec_update(self, spec_path: str, fields: Mapping[str, Json] | None = None, **named: Json) -> SpecUpdate:
        """Write live fields of a spec; None takes the own value back. `temp_title=…` writes the field `tempTitle`."""
        return self._owner.calls.update_spec(spec_path, {**(fields or {}), **_camel_keys(named)})

    def get_issue_update(self, issue_id: str) -> IssueUpdate | None:
        """Live fields of an issue, if anybody wrote any."""
        return next(iter(self._owner.calls.issues(issue_id)), None)

    def get_spec_update(self, spec_path: str) -> SpecUpdate | None:
        """Live fields of a spec, if anybody wrote any."""
        return next(iter(self._owner.calls.specs(spec_path)), None)

    def get_all_issue_updates(self) -> tuple[IssueUpdate, ...]:
        """Live fields of all issues."""
        return self._owner.calls.issues()

    def get_all_spec_updates(self) -> tuple[SpecUpdate, ...]:
        """Live fields of all specs."""
        return self._owner.calls.specs()

    def get_all_active_work(self) -> tuple[ActiveWork, ...]:
        """What everyone works on."""
        return self._owner.calls.work()

    def get_active_work(self, agent_id: str | None = None) -> ActiveWork | None:
        """What an agent works on; without an id this one."""
        return next(iter(self._owner.calls.work(agent=agent_id or self.agent)), None)

    def send_message(self, text: str, *, to: str | Iterable[str] = (), on: What | None = None, reply_to: str = "") -> Message:
        """Say something to some agents, to all on a resource, or to everybody; it is over after an hour."""
        return self._owner.calls.send_message(text, to=to, on=on, reply_to=reply_to)

    def ask_release(self, what: What, text: str = "") -> Message:
        """Ask whoever holds a resource to give it back; the answer comes as a message."""
        return self._owner.calls.ask_release(what, text)

    def get_messages(self, *, everything: bool = False) -> tuple[Message, ...]:
        """What the agent has not acknowledged; `everything`: also what it has, and what it said itself."""
        return self._owner.calls.messages(everything=everything)

    def acknowledge_messages(self, message_ids: Iterable[str] | None = None) -> tuple[Message, ...]:
        """The agent has read messages, by id or all of them; gives those that were new."""
        return self._owner.calls.acknowledge(message_ids)

    def get_all_leases(self) -> tuple[Lease, ...]:
        """The leases of all agents, and who waits."""
        return self._owner.calls.leases(everyone=True)


class Network(_Member, Emitting):
    """The peers."""

    def get_peers(self) -> tuple[PeerInfo, ...]:
        """All agents of the swarm, with how they are connected."""
        return self._owner.calls.peers()


class _LeaseTable:
    """The methods of both lease managers."""

    acquire_lease = Calls.acquire_lease
    acquire_leases = Calls.acquire_lease
    renew_lease = Calls.renew_lease
    release_all = Calls.release_all
    lease_history = Calls.lease_history


class _LeaseReads(_Member, Emitting):
    """What both lease managers answer at once, out of the daemon's memory."""

    def check_conflicts(
        self,
        files: Iterable[str] = (),
        issues: Iterable[str] = (),
        specs: Iterable[str] = (),
        components: Iterable[str] = (),
    ) -> CheckResult:
        """Who else holds or works on these, by what this clone knows. Truthy if anybody does."""
        return self._owner.calls.check_conflicts(files, issues, specs, components)

    def get_leases(self) -> tuple[Lease, ...]:
        """The agent's own leases."""
        return self._owner.calls.leases()


class LeaseManager(_LeaseTable, _LeaseReads, Awaits):
    """Leases; what changes them is awaited."""

    async def call(self, request: Request[R], *, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> R:
        """See `Awaits.call`."""
        own = AsyncClient(self.clone, agent=self.agent, folder=self.folder, connection=self._owner.session.connection)
        return await own.call(request, timeout_s=timeout_s)

    async def release_lease(
        self,
        what: What | Iterable[What],
        type: ResourceType = "file",
        *,
        to_shared: bool = False,
        commit: str | None = None,
        branch: str = "",
        leave_commit: bool = True,
    ) -> Released:
        """Give leases back, with a commit for the next holder; see `BlockingLeaseManager.release_lease`."""
        resources = self.resources(what, type)
        request = ReleaseLease(resources=resources, to_shared=to_shared, commit=commit, branch=branch, agent=self.agent)
        if commit is None and leave_commit:
            held = await self.call(ListLeases(agent=self.agent))
            request = await anyio.to_thread.run_sync(leaving_commit, request, self.folder, held)
        return await self.call(request)

    release_leases = release_lease


class BlockingLeaseManager(_LeaseTable, _LeaseReads, Blocks):
    """Leases; every call waits."""

    def call(self, request: Request[R], *, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> R:
        """See `Blocks.call`."""
        return self._owner.calls.call(request, timeout_s=timeout_s)

    def release_lease(
        self,
        what: What | Iterable[What],
        type: ResourceType = "file",
        *,
        to_shared: bool = False,
        commit: str | None = None,
        branch: str = "",
        leave_commit: bool = True,
    ) -> Released:
        """Give leases back, with a commit for the next holder. Those that are not held are left out of the answer.

        Args:
            what: path or id, or several.
            type: what the strings are.
            to_shared: keep them, shared: readers are let in, and no writer.
            commit: its id; without one it is the latest commit of the checked-out branch that touched any of them.
            branch: where a given commit is.
            leave_commit: False leaves none that is not given.
        """
        resources = self.resources(what, type)
        request = ReleaseLease(resources=resources, to_shared=to_shared, commit=commit, branch=branch, agent=self.agent)
        if commit is None and leave_commit:
            held = self.call(ListLeases(agent=self.agent))
            request = leaving_commit(request, self.folder, held)
        return self.call(request)

    release_leases = release_lease


def _camel_keys(named: Mapping[str, Json]) -> dict[str, Json]:
    return {re.sub(r"_([a-z0-9])", lambda found: found[1].upper(), key): value for key, value in named.items()}
