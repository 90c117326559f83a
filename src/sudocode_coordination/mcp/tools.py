"""The tools: what an agent intends, as requests to the daemon, and the answers as an agent reads them.

Every tool takes `agent`, and answers in structured output and in a few words. A lease that others hold is an answer, not an error.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Concatenate, Final, Literal, ParamSpec, TypeAlias

import anyio.to_thread
from mcp.server.mcpserver import Context
from mcp.types import CallToolResult, TextContent, ToolAnnotations
from pydantic import Field

from sudocode_coordination.api.requests import (
    AcquireLease,
    CheckConflicts,
    LeaseOutcome,
    ReleaseLease,
    SendMessage,
)
from sudocode_coordination.cli.text import clean, shown_duration
from sudocode_coordination.client.aio import AsyncClient
from sudocode_coordination.client.checkout import leaving_commit
from sudocode_coordination.client.speaking import patience
from sudocode_coordination.errors import CoordinationError, UsageError
from sudocode_coordination.mcp import words
from sudocode_coordination.mcp.link import Link
from sudocode_coordination.mcp.shapes import (
    AgentShape,
    CaughtUpResult,
    CheckedResult,
    ClaimResult,
    ConflictShape,
    ForetoldShape,
    LeaseResult,
    LeaseShape,
    LostShape,
    MessageShape,
    ReleaseResult,
    RemoteShape,
    Result,
    SaidResult,
    StatusResult,
    UpdatedResult,
    UpdateShape,
    WhoResult,
    WorkShape,
    listed,
    outcome_fields,
    update_shape,
)
from sudocode_coordination.mcp.waiting import wait_for
from sudocode_coordination.model import RESOURCE_TYPES, ActiveWork, Resource

WAIT_S: Final = 50
"""Of a wait that says nothing else: several MCP clients end a call after a minute if they are not told otherwise."""
MAX_WAIT_S: Final = 86_400
"""A day: who waits for longer is not there any more."""
MAX_RESOURCES: Final = 200
"""Named in one call."""
HOUR_MS: Final = 3_600_000

Resources: TypeAlias = Annotated[
    tuple[str, ...],
    Field(
        min_length=1,
        max_length=MAX_RESOURCES,
        description="Paths in the repository (relative to its root, or absolute), folders (`src/auth/`), globs (`src/**/*.py`), or "
        "`issue:#42`, `spec:specs/auth.md`, `component:db`.",
    ),
]
Agent: TypeAlias = Annotated[
    str,
    Field(
        max_length=100,
        description="Who acts. Leave it out to act as yourself; a subagent gives an id of its own, the same in every call.",
    ),
]
Note: TypeAlias = Annotated[str, Field(max_length=1_000, description="What you need it for, in a few words; others see it.")]
Shared: TypeAlias = Annotated[bool, Field(description="You only read, and others may hold it shared too.")]
Strict: TypeAlias = Annotated[
    bool,
    Field(
        description="Decided by the git remote, with a fencing token: takes seconds, for what must never overlap. Push it with "
        "`coord push`."
    ),
]

LOOKS: Final = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
KEEPS: Final = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
"""Changes what is coordinated, no file; a second call changes nothing more."""
ENDS: Final = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False)
"""Gives up what was held, or replaces what was said before."""
READS_ONCE: Final = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False)
SPEAKS: Final = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True)

P = ParamSpec("P")


def error_result(error: CoordinationError) -> CallToolResult:
    """An error as the command line has it in `--json`, and in words."""
    told = {"error": {"code": error.code, "message": error.message, "hint": error.hint}}
    return CallToolResult(content=[TextContent(type="text", text=words.error_text(error))], structured_content=told, is_error=True)


def answering(
    tool: Callable[Concatenate[Tools, P], Awaitable[CallToolResult]],
) -> Callable[Concatenate[Tools, P], Awaitable[CallToolResult]]:
    """A tool whose own errors are answers: the agent reads what is wrong and what to do."""

    @functools.wraps(tool)
    async def run(self: Tools, /, *args: P.args, **kwargs: P.kwargs) -> CallToolResult:
        try:
            return await tool(self, *args, **kwargs)
        except CoordinationError as error:
            return error_result(error)

    return run


async def _told(client: AsyncClient, result: Result, lines: Sequence[str]) -> CallToolResult:
    """The answer, with whether there are messages: agents ask for them when they know of some."""
    unread = len(await client.messages())
    result = result.model_copy(update={"unread": unread})
    said = [*lines, *([f"{unread} new message{'s' if unread > 1 else ''} for you: call catch_up."] if unread else [])]
    return CallToolResult(
        content=[TextContent(type="text", text="\n".join(said))],
        structured_content=result.model_dump(mode="json", by_alias=True),
    )


def _resource(client: AsyncClient, text: str) -> Resource:
    prefix, colon, name = text.partition(":")
    kind = next((known for known in RESOURCE_TYPES if colon and prefix == known), None)
    return client.resource(text if kind is None else name, kind or "file")


def _without(prefix: str, names: Sequence[str]) -> tuple[str, ...]:
    """Names whose type is known, written as other tools take them all the same."""
    return tuple(name.removeprefix(prefix) for name in names)


def _resources(client: AsyncClient, texts: Sequence[str]) -> tuple[Resource, ...]:
    return tuple(_resource(client, text) for text in texts)


class Tools:
    """The tools, all on one connection."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def _acting(self, agent: str, ctx: Context[Any, Any]) -> tuple[AsyncClient, str]:
        known = ctx.session.client_params
        client = await self._link.acting(agent, known.client_info.name if known is not None else None)
        return client, client.agent or ""

    # --- looking ----------------------------------------------------------------------------------------------------------

    @answering
    async def status(self, ctx: Context[Any, Any], agent: Agent = "") -> Annotated[CallToolResult, StatusResult]:
        """Your own id, what you hold and announced, who else is there, and whether coordination works.

        Call it at the start of a session, or when another tool reports a problem.
        """
        client, me = await self._acting(agent, ctx)
        found = await client.status()
        agents, more_agents = listed(AgentShape, found.peers)
        own, more_leases = listed(LeaseShape, await client.leases())
        work = _work_of(found.work, me, found.peer_id)
        result = StatusResult(
            agent_id=me,
            state=found.state,
            version=found.version,
            agents=agents,
            leases=own,
            work=work,
            remote=RemoteShape.model_validate(found.remote),
            problems=tuple(clean(problem) for problem in found.problems),
            more=more_agents + more_leases,
        )
        reached = [peer for peer in found.peers if peer.connection in ("direct", "relayed")]
        others = words.names([peer.agent_id for peer in reached])
        lines = [
            f"You are {me}. The daemon is {found.state}. Connected: {others or 'nobody else'}.",
            *(words.lease_lines(own) or ["You hold nothing."]),
            *(words.work_lines([work]) if work else []),
            *([f"The git remote {found.remote.name} can't be reached."] if found.remote.state == "unreachable" else []),
            *(f"Problem: {problem}" for problem in result.problems),
        ]
        return await _told(client, result, lines)

    @answering
    async def who_does_what(
        self,
        ctx: Context[Any, Any],
        of: Annotated[str, Field(max_length=100, description="Only this agent; empty: everybody.")] = "",
        agent: Agent = "",
    ) -> Annotated[CallToolResult, WhoResult]:
        """What everybody works on, which leases are held and waited for, and live fields of issues and specs.

        Call it before you choose or plan work, so that you do not take what another agent does already.
        """
        client, me = await self._acting(agent, ctx)
        work, more_work = listed(WorkShape, [one for one in await client.work() if of in ("", one.agent_id)])
        leases, more_leases = listed(LeaseShape, [one for one in await client.leases(everyone=True) if of in ("", one.agent_id)])
        live = [*map(update_shape, await client.issues()), *map(update_shape, await client.specs())]
        updates, more_updates = listed(UpdateShape, [one for one in live if not of or one.written_by(of)])
        result = WhoResult(agent_id=me, work=work, leases=leases, updates=updates, more=more_work + more_leases + more_updates)
        lines = [*words.work_lines(work), *words.lease_lines(leases), *words.update_lines(updates)]
        return await _told(client, result, lines or ["Nobody announced work or holds a lease."])

    @answering
    async def check_paths(
        self, resources: Resources, ctx: Context[Any, Any], agent: Agent = ""
    ) -> Annotated[CallToolResult, CheckedResult]:
        """Whether other agents hold, wait for, work on or have changed these files, folders, issues, specs or components.

        Call it before you read code in order to change it; it takes nothing. Before you edit, call lease.
        """
        client, me = await self._acting(agent, ctx)
        checked = await client.call(CheckConflicts(resources=_resources(client, resources), agent=me))
        conflicts, more = listed(ConflictShape, checked.conflicts)
        result = CheckedResult(agent_id=me, free=not checked.conflicts, conflicts=conflicts, more=more)
        return await _told(client, result, words.conflict_text(conflicts) or [f"free: {words.names(resources)}"])

    @answering
    async def catch_up(self, ctx: Context[Any, Any], agent: Agent = "") -> Annotated[CallToolResult, CaughtUpResult]:
        """What you should know before you go on: leases that you lost, messages for you, what would not merge, what others do.

        Call it when a tool tells of new messages, after a long pause, and before you commit. Its messages count as read.
        """
        client, me = await self._acting(agent, ctx)
        told = await client.briefing()
        own, more_own = listed(LeaseShape, told.own)
        work, more_work = listed(WorkShape, told.work)
        leases, more_leases = listed(LeaseShape, told.leases)
        foretold, more_foretold = listed(ForetoldShape, told.foretold)
        result = CaughtUpResult(
            agent_id=me,
            # Told once, so all of them: the daemon keeps few.
            lost=tuple(LostShape.model_validate(one) for one in told.lost),
            messages=tuple(MessageShape.model_validate(one) for one in told.messages),
            own=own,
            work=work,
            leases=leases,
            foretold=foretold,
            more=more_own + more_work + more_leases + more_foretold,
        )
        lines = [
            *words.lost_lines(result.lost),
            *words.message_lines(result.messages),
            *words.foretold_lines(foretold),
            *(f"yours: {line}" for line in words.lease_lines(own)),
            *words.work_lines(work),
            *words.lease_lines(leases),
        ]
        return await _told(client, result, lines or ["Nothing new; nobody else holds or works on anything."])

    # --- taking and giving back ---------------------------------------------------------------------------------------------

    @answering
    async def claim_work(
        self,
        ctx: Context[Any, Any],
        issues: Annotated[
            tuple[str, ...], Field(max_length=MAX_RESOURCES, description="Ids, like `#42`: leased to you alone.")
        ] = (),
        specs: Annotated[tuple[str, ...], Field(max_length=MAX_RESOURCES, description="Paths of specs: announced.")] = (),
        files: Annotated[
            tuple[str, ...], Field(max_length=MAX_RESOURCES, description="Paths that you will change: announced.")
        ] = (),
        status: Annotated[str, Field(max_length=1_000, description="What you do, in a few words.")] = "",
        agent: Agent = "",
    ) -> Annotated[CallToolResult, ClaimResult]:
        """Tell everybody what you work on from now on, and lease its issues so that no other agent starts on them too.

        Call it before you start on an issue or a task; it replaces what you claimed before. If another agent has one of the issues,
        nothing changes and you are told who. Files are announced, not leased: call lease before you edit them.
        """
        client, me = await self._acting(agent, ctx)
        if not (issues or specs or files or status.strip()):
            raise UsageError(
                "there is nothing to claim", hint="give issues, specs, files or a status; release ends what you claimed"
            )
        issues, specs = _without("issue:", issues), _without("spec:", specs)
        before = [one for one in await client.work(agent=me) if one.agent_id == me]
        outcome = LeaseOutcome(granted=True)
        if issues:
            outcome = await client.acquire_lease(issues, "issue", note=status)
        if not outcome.granted:
            return await self._outcome(client, outcome, ClaimResult)
        gone = {issue for one in before for issue in one.issues} - set(issues)
        if gone:
            await client.release_lease(sorted(gone), "issue")
        work = WorkShape.model_validate(await client.set_work(issues=issues, specs=specs, files=files, status=status))
        result = ClaimResult(agent_id=me, work=work, **outcome_fields(outcome))
        return await _told(
            client, result, [*words.work_lines([work]), *([f"leased to you: {words.names(issues)}"] if issues else [])]
        )

    @answering
    async def lease(
        self,
        resources: Resources,
        ctx: Context[Any, Any],
        note: Note = "",
        shared: Shared = False,
        strict: Strict = False,
        agent: Agent = "",
    ) -> Annotated[CallToolResult, LeaseResult]:
        """Take a lease on files, folders, issues, specs or components before you change them: all of them or none, at once.

        Call it before the first edit of a file. If granted is false, do not edit: the answer names the holders and what you can do.
        Leases are renewed while you are here; release them when the change is committed.
        """
        client, _ = await self._acting(agent, ctx)
        request = _acquire(client, resources, note=note, shared=shared, strict=strict)
        outcome = await client.call(request, timeout_s=patience(request))
        return await self._outcome(client, outcome, LeaseResult)

    @answering
    async def wait_for_lease(
        self,
        resources: Resources,
        ctx: Context[Any, Any],
        seconds: Annotated[
            int, Field(ge=1, le=MAX_WAIT_S, description="The longest you wait; some MCP clients end a call after 60.")
        ] = WAIT_S,
        note: Note = "",
        shared: Shared = False,
        strict: Strict = False,
        agent: Agent = "",
    ) -> Annotated[CallToolResult, LeaseResult]:
        """Wait in line until a lease can be granted, with progress: your place in line, and who holds it.

        Call it when lease was denied and you have nothing else to do. Cancelling it leaves the line.
        """
        client, _ = await self._acting(agent, ctx)
        request = _acquire(client, resources, note=note, shared=shared, strict=strict, wait_ms=seconds * 1_000)

        async def report(waited_s: float, text: str) -> None:
            await ctx.report_progress(round(waited_s, 3), float(seconds), text)

        return await self._outcome(client, await wait_for(client, request, report), LeaseResult)

    async def _outcome(self, client: AsyncClient, outcome: LeaseOutcome, kind: type[LeaseResult]) -> CallToolResult:
        result = kind(agent_id=client.agent or "", **outcome_fields(outcome))
        if result.lease is not None:
            return await _told(client, result, [words.granted_text(result.lease, result.waited_ms)])
        what_next = words.what_next(result.holders, result.reason, result.cycle)
        denied = words.denied_text(result.holders, result.reason, result.cycle)
        return await _told(client, result.model_copy(update={"next": what_next}), [denied, what_next])

    @answering
    async def release(
        self,
        ctx: Context[Any, Any],
        resources: Annotated[
            tuple[str, ...], Field(max_length=MAX_RESOURCES, description="What to give back, named as it was leased.")
        ] = (),
        everything: Annotated[bool, Field(description="All leases, places in line, and the work that you announced.")] = False,
        keep_shared: Annotated[bool, Field(description="Go on reading: keep the lease, shared.")] = False,
        agent: Agent = "",
    ) -> Annotated[CallToolResult, ReleaseResult]:
        """Give leases back, so that those who wait can go on; with everything=true you are done with all.

        Call it as soon as the change is committed. The next holder is told your last commit on it, to build on.
        """
        client, me = await self._acting(agent, ctx)
        if bool(resources) == everything:
            raise UsageError("give either resources or everything=true", hint="call status: it shows what you hold")
        wanted = _resources(client, resources)
        request = ReleaseLease(resources=wanted, everything=everything, to_shared=keep_shared, agent=me)
        request = await anyio.to_thread.run_sync(leaving_commit, request, client.folder, await client.leases())
        released = await client.call(request)
        if everything and not keep_shared:
            await client.clear_work()
        result = ReleaseResult(
            agent_id=me,
            released=tuple(LeaseShape.model_validate(one) for one in released.released),
            left_behind=request.commit if request.commit and released.released else "",
            work_cleared=everything and not keep_shared,
        )
        done = "shared from now on" if keep_shared else "released"
        lines = [f"{done}: {words.names(one.resources)}" for one in result.released] or ["You held nothing of that."]
        if result.left_behind:
            lines.append(f"left behind for whoever takes it next: {result.left_behind}")
        return await _told(client, result, lines)

    # --- telling others ---------------------------------------------------------------------------------------------------

    @answering
    async def update_issue_or_spec(
        self,
        kind: Annotated[Literal["issue", "spec"], Field(description="What is updated.")],
        name: Annotated[str, Field(min_length=1, max_length=200, description="The issue's id (`#42`), or the spec's path.")],
        fields: Annotated[
            dict[str, Any],
            Field(min_length=1, description="Live fields, as JSON: title, status, checklist, …; null takes your own value back."),
        ],
        ctx: Context[Any, Any],
        agent: Agent = "",
    ) -> Annotated[CallToolResult, UpdatedResult]:
        """Write live fields of an issue or a spec that all agents see at once, before anything is committed.

        Call it when a status, a title or a checklist changes while you work. The last writer of a field wins; no file is changed.
        """
        client, me = await self._acting(agent, ctx)
        (name,) = _without(f"{kind}:", (name,))
        changed = await (client.update_issue(name, fields) if kind == "issue" else client.update_spec(name, fields))
        update = update_shape(changed)
        return await _told(client, UpdatedResult(agent_id=me, update=update), words.update_lines([update]))

    @answering
    async def say(
        self,
        ctx: Context[Any, Any],
        text: Annotated[str, Field(max_length=1_000, description="What you say.")] = "",
        to: Annotated[
            tuple[str, ...], Field(max_length=50, description="Ids of agents; empty: all on `about`, or everybody.")
        ] = (),
        about: Annotated[str, Field(description="A resource, as in lease: all who hold, wait for or work on it are meant.")] = "",
        ask_release: Annotated[bool, Field(description="Ask the holders of `about` to give it back.")] = False,
        reply_to: Annotated[str, Field(max_length=40, description="messageId that you answer.")] = "",
        agent: Agent = "",
    ) -> Annotated[CallToolResult, SaidResult]:
        """Say something to other agents, answer one, or ask the holder of a resource to release it.

        Call it to agree on who does what, or when a lease was denied and you can't wait. Answers come with catch_up. A message is
        over after an hour; everybody in the swarm can read it.
        """
        client, me = await self._acting(agent, ctx)
        resource = _resource(client, about) if about else None
        if ask_release and resource is None:
            raise UsageError("what is to be released?", hint="give about: the resource that was denied to you")
        said = text.strip() or (f"please release {resource} when you can" if ask_release else "")
        if not said:
            raise UsageError("there is nothing to say", hint="give text")
        sent = await client.call(
            SendMessage(
                text=said,
                to=tuple(to),
                resource=resource,
                kind="release" if ask_release else "note",
                reply_to=reply_to,
                ttl_ms=HOUR_MS,
                agent=me,
            )
        )
        whom = words.names(sent.to) if sent.to else f"all on {clean(sent.resource)}" if sent.resource else "everybody"
        result = SaidResult(agent_id=me, message_id=sent.message_id, to=sent.to, remaining_ms=sent.remaining_ms)
        return await _told(client, result, [f"said to {whom}, for {shown_duration(sent.remaining_ms)} (message {sent.message_id})"])


def _acquire(
    client: AsyncClient, resources: Sequence[str], *, note: str, shared: bool, strict: bool, wait_ms: int | None = None
) -> AcquireLease:
    return AcquireLease(
        resources=_resources(client, resources),
        mode="shared" if shared else "exclusive",
        note=note,
        strict=strict,
        wait_ms=wait_ms,
        agent=client.agent,
    )


def _work_of(work: Sequence[ActiveWork], agent: str, peer_id: str) -> WorkShape | None:
    own = next((one for one in work if one.agent_id == agent and one.peer_id == peer_id), None)
    return None if own is None else WorkShape.model_validate(own)
