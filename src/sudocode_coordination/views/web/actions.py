"""What a person can do on the page, as requests to the daemon. The page's agent acts, as on the command line; a lease is given back
for the agent of this clone that has it, as by `coord release --agent`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

import anyio.to_thread
import msgspec
from msgspec import Meta

from sudocode_coordination.api.requests import AckMessages, LeaseHistory, ListLeases, ReleaseLease, SendMessage
from sudocode_coordination.client.aio import AsyncClient
from sudocode_coordination.client.checkout import leaving_commit
from sudocode_coordination.errors import UsageError
from sudocode_coordination.model import MessageKind, Resource

HISTORY_LIMIT: Final = 100
"""Former leases that are shown of a resource."""


class Action(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Base of what the page sends."""


class Release(Action, frozen=True, kw_only=True):
    """Give a lease of this clone back, or leave the queue."""

    resources: Annotated[tuple[Resource, ...], Meta(min_length=1, max_length=1_000)]
    agent: Annotated[str, Meta(min_length=1, max_length=100)]


class Say(Action, frozen=True, kw_only=True):
    """Say something, as `coord say` and, of kind `release`, `coord ask`."""

    text: Annotated[str, Meta(min_length=1, max_length=1_000)]
    to: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=100)], ...], Meta(max_length=50)] = ()
    resource: Resource | None = None
    kind: MessageKind = "note"
    reply_to: Annotated[str, Meta(max_length=40)] = ""


class Read(Action, frozen=True, kw_only=True):
    """Messages have been read."""

    message_ids: Annotated[tuple[str, ...], Meta(min_length=1, max_length=1_000)]


class History(Action, frozen=True, kw_only=True):
    """Who held it when."""

    resource: Resource


async def release(client: AsyncClient, asked: Release, folder: str) -> object:
    """As `coord release`: the next holder is told the last commit here that touched it."""
    held = await client.call(ListLeases(agent=asked.agent))
    request = ReleaseLease(resources=asked.resources, agent=asked.agent)
    return await client.call(await anyio.to_thread.run_sync(leaving_commit, request, folder, held))


async def say(client: AsyncClient, asked: Say, _folder: str) -> object:
    """One message."""
    return await client.call(
        SendMessage(
            text=asked.text, to=asked.to, resource=asked.resource, kind=asked.kind, reply_to=asked.reply_to, agent=client.agent
        )
    )


async def read(client: AsyncClient, asked: Read, _folder: str) -> object:
    """Those that were new are told."""
    return {"read": await client.call(AckMessages(message_ids=asked.message_ids, agent=client.agent))}


async def history(client: AsyncClient, asked: History, _folder: str) -> object:
    """The latest first."""
    return {"history": await client.call(LeaseHistory(resources=(asked.resource,), limit=HISTORY_LIMIT))}


_ACTIONS: Final[dict[str, tuple[type[Action], Callable[[AsyncClient, Any, str], Awaitable[object]]]]] = {
    "release": (Release, release),
    "say": (Say, say),
    "read": (Read, read),
    "history": (History, history),
}
CHANGING: Final = frozenset(_ACTIONS) - {"history"}
"""Actions after which the page is out of date."""
NAMES: Final = frozenset(_ACTIONS)


async def act(client: AsyncClient, name: str, body: bytes, folder: str) -> bytes:
    """Do one of `NAMES`; the answer as JSON. `folder`: the checkout that a released lease's commit is looked for in.

    Raises:
        UsageError: the body is not what that action takes.
        CoordinationError: what the daemon answered.
    """
    kind, do = _ACTIONS[name]
    try:
        asked = msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise UsageError(f"the page sent something else than {name} takes: {error}", hint="reload the page") from None
    return msgspec.json.encode(await do(client, asked, folder))
