"""The agents of this clone, and what each works on, writes about and drafts.

Live updates of an issue or spec are one entry per author, merged when read: per field the last by (hybrid logical clock,
author). Drafts stay in this clone until they are published.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, Literal, NamedTuple, Protocol

import msgspec

from sudocode_coordination.api.requests import SetWork
from sudocode_coordination.core.active_work import WorkBoard, WorkEntry, touched_by
from sudocode_coordination.core.facts import EntryChange, Notify, Output, Root, Write
from sudocode_coordination.core.io import DiskContents, ForgottenValue, Persist, StoredValue
from sudocode_coordination.core.overlap import Overlap
from sudocode_coordination.core.resources import name_of, normalise
from sudocode_coordination.core.writer import check_key, encode_value
from sudocode_coordination.errors import UsageError
from sudocode_coordination.model import (
    AGENT_ID_PATTERN,
    ActiveWork,
    AgentId,
    Conflict,
    Draft,
    FieldUpdate,
    IssueUpdate,
    Json,
    Now,
    PeerId,
    Resource,
    SpecUpdate,
    WallMs,
    iso_from_ms,
    validate_agent_id,
)

MAX_AGENTS: Final = 500
"""Agents of one clone: sessions and their subagents, many times over."""
MAX_DRAFTS: Final = 10_000
MAX_CONFLICTS_TOLD: Final = 100
"""In one event: another's work may name a thousand files, and events are kept."""
MAX_FIELDS: Final = 64
"""Fields of one issue or spec that one agent writes."""
_STAMP: Final = re.compile(r"\d{15}\.\d{6}\Z", re.ASCII)
_MAX_COUNT: Final = 999_999


class Entries(Protocol):
    """The shared document, as it is read."""

    def entries(self, root: Root, /) -> Iterator[tuple[PeerId, str, Json]]:
        """All entries of a root: owner, key, value."""

    def get(self, root: Root, owner: PeerId, key: str, /) -> Json | None:
        """One entry."""


class FieldEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One field of an update: the value, and when by the hybrid logical clock."""

    value: Json
    at: str


class UpdateEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What one agent says of one issue or spec, under `<agent>|<target>`."""

    fields: dict[str, FieldEntry]


class HybridClock:
    """Hybrid logical clock (Kulkarni et al., 2014): close to wall time, and after all that was seen. Sorts as text, so a stamp
    has one form, `_STAMP`; what has another is none."""

    def __init__(self) -> None:
        self._last: tuple[WallMs, int] = (0, 0)

    def tick(self, wall_ms: WallMs) -> str:
        """A new stamp, later than all before."""
        last_ms, count = self._last
        later = (last_ms, count + 1) if count < _MAX_COUNT else (last_ms + 1, 0)
        self._last = max((wall_ms, 0), later)
        return f"{self._last[0]:015d}.{self._last[1]:06d}"

    def saw(self, stamp: str, wall_ms: WallMs) -> None:
        """Another's stamp; one more than an hour ahead of this clock is not followed."""
        ms, _, count = stamp.partition(".")
        if _STAMP.match(stamp) and int(ms) <= wall_ms + 3_600_000:
            self._last = max(self._last, (int(ms), int(count)))


class LocalAgent:
    """An agent of this clone."""

    __slots__ = ("bound_to", "capabilities")

    def __init__(self, capabilities: tuple[str, ...]) -> None:
        self.capabilities = capabilities
        self.bound_to: set[int] = set()
        """Connections whose end is the agent's end; empty: it stays."""


class _Clash(NamedTuple):
    """An agent of this clone works on what another one works on, which is of this clone or not."""

    own: AgentId
    peer: PeerId
    agent: AgentId
    resource: Resource

    def other_of(self, name: tuple[PeerId, AgentId], me: PeerId) -> tuple[PeerId, AgentId]:
        """The one of the two that has not this name."""
        other = (self.peer, self.agent)
        return (me, self.own) if name == other else other


class Agents:
    """Agents of this clone, and all that agents publish but leases."""

    def __init__(
        self,
        peer_id: PeerId,
        default: AgentId,
        capabilities: tuple[str, ...],
        document: Entries,
        *,
        fold_case: bool = False,
    ) -> None:
        self._me = peer_id
        self.default = default
        self._capabilities = capabilities
        self._document = document
        self._fold_case = fold_case
        self._local: dict[AgentId, LocalAgent] = {default: LocalAgent(capabilities)}
        self._drafts: dict[str, Draft] = {}
        self._clock = HybridClock()
        self._board = WorkBoard(fold_case=fold_case)
        self._clashes: dict[tuple[PeerId, AgentId], set[_Clash]] = {}
        """By each of the two whose work it is."""
        self._draft_count = 0

    # --- agents -------------------------------------------------------------------------------------------------------

    def started(self, contents: DiskContents) -> list[Output]:
        """Take the drafts from disk, and say who is here."""
        lost = 0
        for value in contents.values:
            if value.space == "drafts":
                try:
                    draft = msgspec.json.decode(value.data, type=Draft)
                except (ValueError, RecursionError):
                    lost += 1
                    continue
                self._drafts[draft.draft_id] = draft
        self.unreadable_drafts = lost
        return [self._describe(self.default)]

    unreadable_drafts = 0
    """Drafts on disk that could not be read; `coord doctor` tells."""

    @property
    def local(self) -> dict[AgentId, tuple[str, ...]]:
        """Agents of this clone with what they offer."""
        return {id_: agent.capabilities for id_, agent in sorted(self._local.items())}

    def attach(self, agent: AgentId, capabilities: tuple[str, ...] | None, client: int | None) -> list[Output]:
        """Make an agent known, or its capabilities new. `client`: it ends with that connection.

        Raises:
            UsageError: the id is not usable, or there are too many agents.
        """
        validate_agent_id(agent)
        found = self._local.get(agent)
        if found is None:
            if len(self._local) >= MAX_AGENTS:
                raise UsageError(f"{MAX_AGENTS} agents are attached to this clone", hint="detach some that are done")
            found = self._local[agent] = LocalAgent(self._capabilities if capabilities is None else capabilities)
        elif capabilities is not None:
            found.capabilities = capabilities
        if client is not None:
            found.bound_to.add(client)
        return [self._describe(agent)]

    def leaving(self, client: int) -> list[AgentId]:
        """Agents whose last connection this was: they are to be detached."""
        gone = []
        for id_, agent in sorted(self._local.items()):
            if client in agent.bound_to:
                agent.bound_to.discard(client)
                if not agent.bound_to and id_ != self.default:
                    gone.append(id_)
        return gone

    def detach(self, agent: AgentId) -> list[Output]:
        """It leaves; its work is cleared. The default agent stays, without work."""
        out = self.clear_work(agent)
        if agent != self.default and self._local.pop(agent, None) is not None:
            out.append(Write(root="agentMetadata", key=agent, value=None))
        return out

    def _describe(self, agent: AgentId) -> Output:
        return Write(root="agentMetadata", key=agent, value={"capabilities": list(self._local[agent].capabilities)})

    # --- active work ----------------------------------------------------------------------------------------------------

    def set_work(self, agent: AgentId, request: SetWork, now: Now) -> list[Output]:
        """What the agent works on from now on.

        Raises:
            UsageError: it is too large or too deep to share.
            ResourceError: a file or spec is not one of the repository.
        """
        before = self._document.get("activeWork", self._me, agent)
        stamp = iso_from_ms(now.wall_ms)
        started = before["startedAt"] if isinstance(before, dict) else stamp
        entry = WorkEntry(
            issues=request.issues,
            specs=tuple(normalise(Resource("spec", s)).path for s in request.specs),
            files=tuple(normalise(Resource("file", f)).path for f in request.files),
            status=request.status,
            metadata=request.metadata,
            started_at=started,
            updated_at=stamp,
        )
        return [_shared("activeWork", agent, msgspec.to_builtins(entry))]

    def clear_work(self, agent: AgentId) -> list[Output]:
        """It works on nothing."""
        if self._document.get("activeWork", self._me, agent) is None:
            return []
        return [Write(root="activeWork", key=agent, value=None, urgent=True)]

    def work(self, agent: AgentId | None = None) -> list[ActiveWork]:
        """Active work of everyone, or of one agent."""
        return self._board.all(agent)

    def near(self, resources: tuple[Resource, ...]) -> list[ActiveWork]:
        """Active work on what overlaps any of these."""
        return self._board.near(resources)

    def work_conflicts(self, agent: AgentId, resources: tuple[Resource, ...]) -> tuple[Conflict, ...]:
        """Others that work on what overlaps any of these."""
        return self._conflicts_with(agent, resources, self._board.near(resources))

    def _conflicts_with(self, agent: AgentId, resources: tuple[Resource, ...], everyone: list[ActiveWork]) -> tuple[Conflict, ...]:
        wanted = Overlap()
        wanted.add("wanted", resources, fold_case=self._fold_case)
        return tuple(
            Conflict(resource=resource, kind="work", agent_id=work.agent_id, peer_id=work.peer_id, note=work.status)
            for work in everyone
            if not (work.agent_id == agent and work.peer_id == self._me)
            for resource in touched_by(work)
            if wanted.touches(resource, fold_case=self._fold_case)
        )

    def working_on(self, resource: Resource) -> frozenset[AgentId]:
        """Agents of this clone whose active work overlaps it."""
        index = Overlap()
        index.add("asked", (resource,), fold_case=self._fold_case)
        own = (work for work in self.work() if work.peer_id == self._me)
        return frozenset(w.agent_id for w in own if any(index.touches(r, fold_case=self._fold_case) for r in touched_by(w)))

    def _work_changed(self, owner: PeerId, changes: list[EntryChange]) -> list[Output]:
        """`conflicts-detected` for every pair of agents, one of them of this clone, that newly work on the same thing."""
        news: dict[_Clash, Conflict] = {}
        for change in changes:
            name = (owner, change.key)
            before = self._clashes.pop(name, set())
            for clash in before:
                other = clash.other_of(name, self._me)
                left = self._clashes.get(other, set()) - {clash}
                if left:
                    self._clashes[other] = left
                else:
                    self._clashes.pop(other, None)
            work = self._board.changed(owner, change.key, change.value)
            for clash, conflict in self._clashes_of(work).items() if work is not None else ():
                for side in ((self._me, clash.own), (clash.peer, clash.agent)):
                    self._clashes.setdefault(side, set()).add(clash)
                if clash not in before:
                    news[clash] = conflict
        out: list[Output] = []
        for agent in sorted({clash.own for clash in news}):
            found = [news[clash] for clash in sorted(news) if clash.own == agent][:MAX_CONFLICTS_TOLD]
            conflicts = [msgspec.to_builtins(conflict) for conflict in found]
            out.append(Notify(type="conflicts-detected", agent_id=agent, data={"conflicts": conflicts}))
        return out

    def _clashes_of(self, changed: ActiveWork) -> dict[_Clash, Conflict]:
        """Of one agent's work with that of all others."""
        touched = touched_by(changed)
        near = self._board.near(touched)
        pairs = [(own, changed) for own in near if own.peer_id == self._me and own is not changed]
        if changed.peer_id == self._me:
            pairs += [(changed, other) for other in near]
        return {
            _Clash(own.agent_id, other.peer_id, other.agent_id, conflict.resource): conflict
            for own, other in pairs
            for conflict in self._conflicts_with(own.agent_id, touched_by(own), [other])
        }

    # --- issues and specs -------------------------------------------------------------------------------------------------

    def update(
        self, kind: Literal["issue", "spec"], agent: AgentId, target: str, fields: dict[str, Json], now: Now
    ) -> list[Output]:
        """Write live fields; None takes the own value back.

        Raises:
            UsageError: too many fields, or none, or values that are too large or too deep to share.
            ResourceError: the spec is no path of the repository.
        """
        if not fields:
            raise UsageError("there is nothing to update", hint="give at least one field")
        if kind == "spec":
            target = name_of(normalise(Resource("spec", target))).path
        root: Root = "issueUpdates" if kind == "issue" else "specUpdates"
        key = f"{agent}|{target}"
        before = _convert(self._document.get(root, self._me, key), UpdateEntry)
        merged = dict(before.fields) if before else {}
        stamp = self._clock.tick(now.wall_ms)
        for name, value in fields.items():
            if value is None:
                merged.pop(name, None)
            else:
                merged[name] = FieldEntry(value=value, at=stamp)
        if len(merged) > MAX_FIELDS:
            raise UsageError(f"an agent can write {MAX_FIELDS} fields of one {kind}", hint="take some back first")
        value = msgspec.to_builtins(UpdateEntry(fields=merged)) if merged else None
        return [_shared(root, key, value)]

    def issues(self, issue_id: str | None = None) -> list[IssueUpdate]:
        """Live issue updates, merged."""
        return [IssueUpdate(issue_id=t, fields=f) for t, f in sorted(self._merged("issueUpdates", issue_id).items())]

    def specs(self, spec_path: str | None = None) -> list[SpecUpdate]:
        """Live spec updates, merged."""
        return [SpecUpdate(spec_path=t, fields=f) for t, f in sorted(self._merged("specUpdates", spec_path).items())]

    def _merged(self, root: Root, only: str | None) -> dict[str, dict[str, FieldUpdate]]:
        """By issue or spec; `only` one, which is asked for at every write."""
        best: dict[str, dict[str, tuple[str, PeerId, AgentId, Json]]] = {}
        for owner, key, value in self._document.entries(root):
            agent, _, target = key.partition("|")
            if only not in (None, target):
                continue
            entry = _convert(value, UpdateEntry)
            if entry is None or not target or not AGENT_ID_PATTERN.match(agent):
                continue
            fields = best.setdefault(target, {})
            for name, field in entry.fields.items():
                candidate = (field.at, owner, agent, field.value)
                if not _STAMP.match(field.at):
                    continue
                if name not in fields or candidate[:3] > fields[name][:3]:
                    fields[name] = candidate
        return {
            target: {
                name: FieldUpdate(value=value, agent_id=agent, updated_at=_iso_of(at))
                for name, (at, _, agent, value) in sorted(fields.items())
            }
            for target, fields in best.items()
        }

    def entries_changed(self, owner: PeerId, changes: tuple[EntryChange, ...], now: Now) -> list[Output]:
        """Events for what others (and own agents) have published."""
        out: list[Output] = []
        for change in changes:
            match change.root:
                case "activeWork":
                    kind: Literal["work-started", "work-completed"] = "work-completed" if change.value is None else "work-started"
                    data = {"work": change.value, "peerId": owner}
                    out.append(Notify(type=kind, agent_id=change.key, data=data))
                case "issueUpdates" | "specUpdates":
                    out += self._updated(change, now)
                case "leases" | "leaseHistory" | "fileDiffs" | "agentMetadata" | "messages":
                    pass
        work = [change for change in changes if change.root == "activeWork"]
        return out + self._work_changed(owner, work) if work else out

    def _updated(self, change: EntryChange, now: Now) -> list[Output]:
        agent, _, target = change.key.partition("|")
        entry = _convert(change.value, UpdateEntry)
        fields: dict[str, Json] = {}
        for name, field in (entry.fields if entry else {}).items():
            self._clock.saw(field.at, now.wall_ms)
            fields[name] = field.value
        if change.root == "issueUpdates":
            return [Notify(type="issue-updated", agent_id=agent, data={"issueId": target, "fields": fields})]
        return [Notify(type="spec-updated", agent_id=agent, data={"specPath": target, "fields": fields})]

    # --- drafts -----------------------------------------------------------------------------------------------------------

    def save_draft(
        self, agent: AgentId, kind: Literal["issue", "spec", "note"], target: str, fields: dict[str, Json], now: Now
    ) -> tuple[Draft, list[Output]]:
        """Keep an update in this clone.

        Raises:
            UsageError: there are too many drafts.
        """
        if len(self._drafts) >= MAX_DRAFTS:
            raise UsageError(f"there are {MAX_DRAFTS} drafts", hint="publish some: coord draft publish")
        self._draft_count += 1
        while f"{now.wall_ms}-{self._draft_count}" in self._drafts:  # of an earlier run
            self._draft_count += 1
        draft = Draft(
            draft_id=f"{now.wall_ms}-{self._draft_count}",
            agent_id=agent,
            kind=kind,
            target=target,
            fields=fields,
            created_at=iso_from_ms(now.wall_ms),
        )
        self._drafts[draft.draft_id] = draft
        stored = StoredValue(space="drafts", key=draft.draft_id, data=msgspec.json.encode(draft))
        return draft, [Persist(operations=(stored,))]

    def drafts(self, agent: AgentId | None) -> list[Draft]:
        """Drafts of an agent, or all; oldest first."""
        return [d for d in self._drafts.values() if agent in (None, d.agent_id)]

    def drop_drafts(self, agent: AgentId, draft_ids: tuple[str, ...], everything: bool) -> tuple[list[Draft], list[Output]]:
        """Forget them; those that are gone.

        Raises:
            UsageError: an id is of no draft of the agent.
        """
        mine = {d.draft_id: d for d in self.drafts(agent)}
        for id_ in draft_ids:
            if id_ not in mine:
                raise UsageError(f"{id_} is no draft of {agent}", hint="coord draft list shows them")
        chosen = list(mine.values()) if everything else [mine[id_] for id_ in dict.fromkeys(draft_ids)]
        for draft in chosen:
            del self._drafts[draft.draft_id]
        gone = tuple(ForgottenValue(space="drafts", key=draft.draft_id) for draft in chosen)
        return chosen, [Persist(operations=gone)] if gone else []

    def publish_drafts(
        self, agent: AgentId, draft_ids: tuple[str, ...], everything: bool, now: Now
    ) -> tuple[list[Draft], list[Output]]:
        """Make live updates of them. Notes have no place outside and stay.

        Raises:
            UsageError: an id is of no draft of the agent, or what a draft says can't be written (`update`).
        """
        mine = {d.draft_id: d for d in self.drafts(agent) if d.kind != "note"}
        for id_ in draft_ids:
            if id_ not in mine:
                raise UsageError(f"{id_} is no draft that {agent} can publish", hint="coord draft list shows them")
        chosen = list(mine.values()) if everything else [mine[id_] for id_ in dict.fromkeys(draft_ids)]
        out: list[Output] = []
        merged: dict[tuple[str, str], dict[str, Json]] = {}
        for draft in chosen:
            merged.setdefault((draft.kind, draft.target), {}).update(draft.fields)
        for (kind, target), fields in merged.items():
            out += self.update("issue" if kind == "issue" else "spec", agent, target, fields, now)
        for draft in chosen:  # only now: what can't be published stays a draft
            del self._drafts[draft.draft_id]
        if chosen:
            out.append(Persist(operations=tuple(ForgottenValue(space="drafts", key=d.draft_id) for d in chosen)))
        return chosen, out


def _shared(root: Root, key: str, value: Json | None) -> Write:
    """A write that can be carried out: whoever asked for one that can't has to be told.

    Raises:
        UsageError: it is too large, too deep, or not what JSON can hold.
    """
    check_key(key)
    if value is not None:
        encode_value(value)
    return Write(root=root, key=key, value=value, urgent=True)


def _iso_of(stamp: str) -> str:
    ms = stamp.partition(".")[0]
    return iso_from_ms(min(int(ms), 253_402_300_799_000)) if ms.isdecimal() else ""


def _convert(value: Any, kind: type[Any]) -> Any:
    """What a peer wrote, if it is what it should be; entries of a newer version's shape are passed over."""
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, ValueError):
        return None
