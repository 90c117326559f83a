"""What a person does from a view: release, ask, say, mark as read. As the command line does it, with the same rules."""

from __future__ import annotations

import os
from collections.abc import Sequence

import anyio.to_thread

from sudocode_coordination.api.requests import AckMessages, LeaseHistory, ReleaseLease, SendMessage
from sudocode_coordination.cli.text import clean, shown_duration
from sudocode_coordination.client.aio import AsyncClient
from sudocode_coordination.client.checkout import leaving_commit
from sudocode_coordination.errors import CoordinationError, DaemonError, UsageError
from sudocode_coordination.model import AgentId, HistoryEntry, Lease, Message, Resource
from sudocode_coordination.views.details import MAX_SHOWN, More, resources_about
from sudocode_coordination.views.live import Live
from sudocode_coordination.views.rows import Item, names
from sudocode_coordination.views.state import Claim, Letter, Picture


def may_release(picture: Picture, item: Item) -> Claim:
    """The claim that would be released. Whoever works in a clone may act for each of its agents, as with `--agent`.

    Raises:
        UsageError: it is no lease, or one of another clone.
    """
    if not isinstance(item, Claim):
        raise UsageError("only leases can be released", hint="choose one in the lists Leases (1) or Queue (4)")
    if item.lease.claim_id not in picture.claims:
        raise UsageError("it has ended already")
    if not item.lease.mine:
        who = clean(item.lease.agent_id)
        raise UsageError(f"{who} holds it, in another clone", hint=f"a asks {who} to release it, m sends a message")
    return item


async def release(client: AsyncClient, lease: Lease, folder: str | os.PathLike[str]) -> str:
    """Give it back for its agent, and leave the last commit that touched it to the next holder. What was done, in words.

    Raises:
        CoordinationError: the daemon does not do it.
    """
    request = ReleaseLease(resources=lease.resources, agent=lease.agent_id)
    if lease.state == "granted":
        request = await anyio.to_thread.run_sync(leaving_commit, request, folder, (lease,))
    answer = await client.call(request)
    if not answer.released:
        raise UsageError(f"{clean(lease.agent_id)} does not hold {names(lease.resources)} any more")
    left_text = f", leaving {request.commit[:10]} {clean(request.branch)}".rstrip() if request.commit else ""
    return f"released {names(lease.resources)}{left_text}"


def ask_text(lease: Lease) -> str:
    """What is asked if a person writes nothing."""
    return f"please release {names(lease.resources)} when you can"


def may_ask(picture: Picture, item: Item) -> Claim:
    """The lease that would be asked for: that of another agent than the one that acts.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(item, Claim):
        raise UsageError("a lease can be asked for", hint="choose one in the lists Leases (1) or Queue (4); m sends a message")
    if item.held and item.lease.mine and item.lease.agent_id == picture.agent:
        raise UsageError("that is a lease of your own", hint="r releases it")
    return item


async def ask(client: AsyncClient, agent: AgentId | None, claim: Claim, text: str) -> str:
    """Ask the holder of a lease for it; of one that is waited for: whoever holds it. What was done, in words."""
    lease = claim.lease
    to = (lease.agent_id,) if claim.held else ()
    request = SendMessage(text=text or ask_text(lease), to=to, resource=lease.resources[0], kind="release", agent=agent)
    return said(await client.call(request))


async def say(
    client: AsyncClient, agent: AgentId | None, text: str, to: Sequence[AgentId], about: Resource | None, reply_to: str = ""
) -> str:
    """Say something to them. What was done, in words."""
    return said(await client.call(SendMessage(text=text, to=tuple(to), resource=about, reply_to=reply_to, agent=agent)))


async def mark_read(client: AsyncClient, agent: AgentId | None, letter: Letter) -> str:
    """Acknowledge a message. What was done, in words."""
    read = await client.call(AckMessages(message_ids=(letter.message.message_id,), agent=agent))
    return f"read; {clean(letter.message.agent_id)} sees that" if read else "it was read before"


async def ask_more(live: Live, item: Item) -> More:
    """What the lists do not have: history, and who else is on it."""
    about = resources_about(item)
    if not about:
        return More()
    try:
        conflicts = await live.in_the_way(live.client, about)
        history: tuple[HistoryEntry, ...] = await live.client.call(LeaseHistory(resources=about, limit=MAX_SHOWN))
    except UsageError:
        return More()  # nothing that could have been leased
    except DaemonError as error:
        return More(trouble=f"{error.message}: no history, and not who else is here")
    return More(history=tuple(history), conflicts=conflicts)


def said(sent: Message) -> str:
    """To whom, and for how long."""
    everybody = f"all on {clean(sent.resource)}" if sent.resource else "everybody"
    return f"said to {clean(', '.join(sent.to)) or everybody}, for {shown_duration(sent.remaining_ms)}"


def trouble(error: CoordinationError) -> str:
    """An error on one line, with the next step."""
    return f"error: {clean(error.message)}" + (f" ({clean(error.hint)})" if error.hint else "")
