"""What tools and resources answer: the values of `model.py` as agents read them.

Keys are those of `--json`. A resource is one string, written as it can be given back: `src/a.py`, `src/auth/`, `issue:#42`,
`spec:specs/auth.md`, `component:db`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from sudocode_coordination.api.requests import LeaseOutcome
from sudocode_coordination.model import IssueUpdate, LineRange, Resource, SpecUpdate

MAX_LISTED: Final = 100
"""Entries of one list in an answer: it costs the agent's attention, and a busy swarm has thousands of leases."""
S = TypeVar("S", bound="Shape")


def _named(value: Any) -> Any:
    return str(value) if isinstance(value, Resource) else value


def _pair(value: Any) -> Any:
    return (value.first, value.last) if isinstance(value, LineRange) else value


Lines = Annotated[tuple[int, int], BeforeValidator(_pair)]
"""First and last line, both included."""
Name = Annotated[str, BeforeValidator(_named)]
"""A resource, as tools take it."""


class Shape(BaseModel):
    """Base of all below: made from attributes of our own values, camelCase outside."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, from_attributes=True, frozen=True)


class HandoverShape(Shape):
    """What the holder before left behind."""

    commit: str = Field(description="Build on this commit: fetch and merge it if your checkout lacks it.")
    branch: str = Field(default="", description="The branch it is on; empty: unknown.")
    agent_id: str = Field(description="Who left it.")


class LeaseShape(Shape):
    """A lease, held or waited for."""

    agent_id: str = Field(description="Who has it or waits for it.")
    resources: tuple[Name, ...]
    state: Literal["pending", "granted"] = Field(description="granted: held; pending: waited for.")
    mode: Literal["exclusive", "shared"] = "exclusive"
    priority: int = 0
    grade: Literal["strict", "quorum", "provisional"] = Field(
        description="provisional: granted apart from some peers, so it may overlap another, which is then repaired."
    )
    token: int | None = Field(default=None, description="Fencing token of a strict lease.")
    remaining_ms: int = Field(description="Until it ends unless it is renewed, which happens by itself while its agent lives.")
    since: str = Field(description="ISO 8601 UTC.")
    note: str = Field(default="", description="What for, in its holder's words.")
    position: int | None = Field(default=None, description="Place in line of one that waits; 1 is next.")
    handover: HandoverShape | None = None


class ConflictShape(Shape):
    """Somebody else who holds, waits for, works on or has changed what was asked about."""

    resource: Name
    kind: Literal["lease", "waiting", "work", "merge"] = Field(
        description="lease: held; waiting: waits for it; work: announced only; merge: what you both have changed would not merge."
    )
    agent_id: str
    priority: int | None = None
    remaining_ms: int | None = None
    note: str = ""
    lines: tuple[Lines, ...] = Field(default=(), description="Of merge: first and last line in your file.")
    their_lines: tuple[Lines, ...] = Field(default=(), description="Of merge: first and last line in their file.")


class ForetoldShape(Shape):
    """What you and another have changed and what would not merge."""

    path: str
    kind: str = Field(description="As git names it: contents, add/add, modify/delete, …")
    their_agents: tuple[str, ...]
    their_branch: str = ""
    lines: tuple[Lines, ...] = Field(default=(), description="First and last line in your file.")
    their_lines: tuple[Lines, ...] = Field(default=(), description="First and last line in their file.")
    certain: bool = Field(default=True, description="false: their content is not shared, so it may merge after all.")


class WaitsShape(Shape):
    """One side of a circle of agents that wait for each other."""

    agent_id: str
    resource: Name = Field(description="What it waits for.")
    holder_id: str = Field(description="Who has that.")


class WorkShape(Shape):
    """What an agent says that it works on."""

    agent_id: str
    issues: tuple[str, ...] = ()
    specs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    status: str = ""
    started_at: str
    updated_at: str


class FieldShape(Shape):
    """A live field: the last value written by anyone."""

    value: Any = None
    agent_id: str
    updated_at: str


class UpdateShape(Shape):
    """Live, uncommitted fields of an issue or a spec."""

    name: str = Field(description="`issue:#42` or `spec:specs/auth.md`.")
    fields: dict[str, FieldShape]

    def written_by(self, agent: str) -> bool:
        """Whether a field is as that agent wrote it."""
        return any(field.agent_id == agent for field in self.fields.values())


class MessageShape(Shape):
    """Something that another agent said."""

    message_id: str = Field(description="For reply_to.")
    agent_id: str = Field(description="Who said it.")
    to: tuple[str, ...] = ()
    resource: Name | None = Field(default=None, description="What it is about.")
    text: str
    kind: Literal["note", "release"] = Field(default="note", description="release: asks you to give the resource back.")
    reply_to: str = ""
    sent_at: str


class LostShape(Shape):
    """A lease that ended against its agent's will."""

    resources: tuple[Name, ...]
    reason: str = Field(description="preempted, lost-conflict or expired.")
    holder: str = Field(default="", description="Who has it now, if known.")
    at: str


class AgentShape(Shape):
    """An agent of the swarm."""

    agent_id: str
    connection: Literal["self", "direct", "relayed", "connecting", "disconnected"] = Field(description="self: of this clone.")
    capabilities: tuple[str, ...] = ()
    leases_held: int = 0


class RemoteShape(Shape):
    """How the git remote does, which introduces the clones to each other."""

    name: str
    state: Literal["unknown", "ok", "unreachable"]
    reason: str | None = None


# --- results of tools ---------------------------------------------------------------------------------------------------------


class Result(Shape):
    """What every tool tells."""

    agent_id: str = Field(description="Who was taken to act: you.")
    unread: int = Field(default=0, description="Messages for you that you have not read: catch_up shows them.")


class StatusResult(Result):
    """Answer of `status`."""

    state: Literal["starting", "active", "stopping"]
    version: str
    agents: tuple[AgentShape, ...] = Field(description="Everyone who is there, you too.")
    leases: tuple[LeaseShape, ...] = Field(description="Your own, and what you wait for.")
    work: WorkShape | None = Field(default=None, description="What you said that you work on.")
    remote: RemoteShape
    problems: tuple[str, ...] = Field(default=(), description="What wants a person's attention.")
    more: int = Field(default=0, description="Entries left out.")


class WhoResult(Result):
    """Answer of `who_does_what`."""

    work: tuple[WorkShape, ...]
    leases: tuple[LeaseShape, ...] = Field(description="Held, and waited for.")
    updates: tuple[UpdateShape, ...] = Field(description="Live fields of issues and specs.")
    more: int = Field(default=0, description="Entries left out.")


class CheckedResult(Result):
    """Answer of `check_paths`."""

    free: bool = Field(description="Nobody else holds, waits for or works on any of it.")
    conflicts: tuple[ConflictShape, ...]
    more: int = Field(default=0, description="Conflicts left out.")


class LeaseResult(Result):
    """Answer of `lease` and `wait_for_lease`."""

    granted: bool
    lease: LeaseShape | None = Field(default=None, description="If granted.")
    holders: tuple[ConflictShape, ...] = Field(default=(), description="If not: who is in the way.")
    reason: str = Field(default="", description="Why not: held, timeout, no-answer, deadlock, released or stopped.")
    cycle: tuple[WaitsShape, ...] = Field(default=(), description="Of a deadlock: who waits for whom, you first.")
    waited_ms: int = 0
    next: str = Field(default="", description="If not: what you can do now.")


class ClaimResult(LeaseResult):
    """Answer of `claim_work`; `granted` false: nothing was announced."""

    work: WorkShape | None = Field(default=None, description="What all others see now.")


class ReleaseResult(Result):
    """Answer of `release`."""

    released: tuple[LeaseShape, ...]
    left_behind: str = Field(default="", description="Commit that the next holder is told to build on.")
    work_cleared: bool = False


class UpdatedResult(Result):
    """Answer of `update_issue_or_spec`."""

    update: UpdateShape = Field(description="All live fields, also those of others.")


class SaidResult(Result):
    """Answer of `say`."""

    message_id: str
    to: tuple[str, ...] = Field(default=(), description="Whom it reaches; empty: all on the resource, or everybody.")
    remaining_ms: int = Field(description="Until it is over, read or not.")


class CaughtUpResult(Result):
    """Answer of `catch_up`."""

    lost: tuple[LostShape, ...] = Field(description="Leases that you lost since you last asked: look again before you write there.")
    messages: tuple[MessageShape, ...] = Field(description="New ones; now they are acknowledged.")
    own: tuple[LeaseShape, ...] = Field(description="What you hold or wait for.")
    work: tuple[WorkShape, ...] = Field(description="Of others.")
    leases: tuple[LeaseShape, ...] = Field(description="Of others.")
    foretold: tuple[ForetoldShape, ...] = Field(
        default=(), description="Of what you have changed: what would not merge with others."
    )
    more: int = Field(default=0, description="Entries left out.")


# --- from our values ------------------------------------------------------------------------------------------------------------


def listed(shape: type[S], values: Sequence[object]) -> tuple[tuple[S, ...], int]:
    """The first of them as shapes, and how many are left out."""
    return tuple(shape.model_validate(value) for value in values[:MAX_LISTED]), max(0, len(values) - MAX_LISTED)


def update_shape(update: IssueUpdate | SpecUpdate) -> UpdateShape:
    """Live fields, under the name of what they belong to."""
    name = f"issue:{update.issue_id}" if isinstance(update, IssueUpdate) else f"spec:{update.spec_path}"
    return UpdateShape(name=name, fields={key: FieldShape.model_validate(field) for key, field in update.fields.items()})


def outcome_fields(outcome: LeaseOutcome) -> dict[str, Any]:
    """What a `LeaseResult` takes from the daemon's answer."""
    return {
        "granted": outcome.granted,
        "lease": None if outcome.lease is None else LeaseShape.model_validate(outcome.lease),
        "holders": listed(ConflictShape, outcome.holders)[0],
        "reason": outcome.reason,
        "cycle": tuple(WaitsShape.model_validate(waits) for waits in outcome.cycle),
        "waited_ms": outcome.waited_ms,
    }
