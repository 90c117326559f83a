"""Waiting for a lease, with word of how it goes: the place in line, and who has it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

import anyio

from sudocode_coordination.api.requests import AcquireLease, CheckConflicts, LeaseOutcome
from sudocode_coordination.cli.conflicts import conflict_lines
from sudocode_coordination.cli.text import clean
from sudocode_coordination.client.aio import AsyncClient
from sudocode_coordination.client.speaking import patience
from sudocode_coordination.errors import CoordinationError
from sudocode_coordination.mcp.shapes import ConflictShape
from sudocode_coordination.model import Conflict, Lease, Resource

BEAT_S: Final = 10.0
"""Between two reports if nothing changes: MCP clients that give up on a silent call do so after half a minute or more."""
REPLAYED: Final = 100
"""Events from before the subscription that are heard: the claim may be in line already."""
MAX_HOLDERS: Final = 3
"""Who has it, of many."""

Report: TypeAlias = Callable[[float, str], Awaitable[None]]
"""Gets the seconds waited, and how it stands."""
log = logging.getLogger(__name__)


async def wait_for(client: AsyncClient, request: AcquireLease, report: Report) -> LeaseOutcome:
    """The outcome of a request that waits. Cancelled, the claim is dropped.

    Raises:
        CoordinationError: the daemon ended, or refused the request.
    """
    ended: list[LeaseOutcome | CoordinationError] = []
    async with anyio.create_task_group() as group:
        group.start_soon(_tell, client, request, report)
        try:
            outcome: LeaseOutcome = await client.call(request, timeout_s=patience(request))
            ended.append(outcome)
        except CoordinationError as error:  # raised below: out of the group it would come as one of several
            ended.append(error)
        group.cancel_scope.cancel()
    (end,) = ended
    if isinstance(end, CoordinationError):
        raise end
    return end


async def _tell(client: AsyncClient, request: AcquireLease, report: Report) -> None:
    news = _News()
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_listen, client, news)
            await _report(client, request, report, news)
    except* CoordinationError as errors:
        # The call itself meets the same and tells it; if not, the wait goes on without word of it.
        log.info("no progress is reported: %s", errors.exceptions[0])


class _News:
    """Something may have changed."""

    def __init__(self) -> None:
        self.event = anyio.Event()

    def come(self) -> None:
        self.event.set()
        self.event = anyio.Event()


async def _listen(client: AsyncClient, news: _News) -> None:
    async with contextlib.aclosing(client.events(replay=REPLAYED)) as events:
        async for event in events:
            if event.type.startswith("lease-"):
                news.come()


async def _report(client: AsyncClient, request: AcquireLease, report: Report, news: _News) -> None:
    started = anyio.current_time()
    told, told_at = "", started
    while True:
        changed = news.event  # taken before the look: what changes during it is looked at again
        text = await _how_it_stands(client, request)
        now = anyio.current_time()
        if text and (text != told or now - told_at >= BEAT_S):
            told, told_at = text, now
            await report(now - started, text)
        with anyio.move_on_after(BEAT_S):
            await changed.wait()


async def _how_it_stands(client: AsyncClient, request: AcquireLease) -> str:
    """Empty before the claim is in line."""
    place = place_of(await client.leases(), request.resources)
    if place is None:
        return ""
    checked = await client.call(CheckConflicts(resources=request.resources, agent=client.agent))
    return standing(place, checked.conflicts)


def place_of(own: Sequence[Lease], wanted: Sequence[Resource]) -> int | None:
    """The place in line of the own claim on these; None if there is none that waits. The daemon may write names in another form:
    then any claim that waits counts."""
    waiting = [lease for lease in own if lease.state == "pending" and lease.position is not None]
    exact = [lease for lease in waiting if set(lease.resources) == set(wanted)]
    return min((lease.position for lease in exact or waiting if lease.position is not None), default=None)


def standing(place: int, conflicts: Sequence[Conflict]) -> str:
    """`place 2 in line; src/a.py: held by bob (4m left): refactoring`. The time left shrinks, and is no news: without it."""
    held = [ConflictShape.model_validate(one) for one in conflicts if one.kind == "lease"]
    lines = conflict_lines([{**one.model_dump(by_alias=True), "remainingMs": None} for one in held[:MAX_HOLDERS]])
    return clean("; ".join([f"place {place} in line", *lines]), 1_000)
