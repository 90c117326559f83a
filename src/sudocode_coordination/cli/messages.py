"""What agents say to each other: `coord say`, `coord ask`, `coord messages`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import Final

import msgspec

from sudocode_coordination.api.requests import AckMessages, ListMessages, SendMessage
from sudocode_coordination.cli.render import ago
from sudocode_coordination.cli.screen import Block, Table
from sudocode_coordination.cli.session import Session
from sudocode_coordination.cli.text import clean, resource_name, shown_duration
from sudocode_coordination.errors import UsageError
from sudocode_coordination.model import Message, validate_agent_id

HOUR_MS: Final = 3_600_000


def say(session: Session, args: Namespace) -> int:
    """Say something to some agents, to all on a resource, or to everybody."""
    if args.reply == "":
        raise UsageError("--reply names no message", hint="`coord messages --all` shows them")
    on = session.resources([args.on], args.type)[0] if args.on else None
    return _send(
        session,
        SendMessage(
            text=args.text,
            to=tuple(validate_agent_id(to) for to in args.to),
            resource=on,
            reply_to=args.reply or "",
            ttl_ms=args.ttl or HOUR_MS,
            agent=session.agent,
        ),
    )


def ask(session: Session, args: Namespace) -> int:
    """Ask whoever holds a resource to release it."""
    (resource,) = session.resources([args.resource], args.type)
    text = args.text or f"please release {resource} when you can"
    return _send(
        session, SendMessage(text=text, resource=resource, kind="release", ttl_ms=args.ttl or HOUR_MS, agent=session.agent)
    )


def _send(session: Session, request: SendMessage) -> int:
    sent = session.ask(request)
    whom = clean(", ".join(sent.to)) if sent.to else f"all on {resource_name(sent.resource)}" if sent.resource else "everybody"
    lines: list[Block] = [f"said to {whom}, for {shown_duration(sent.remaining_ms)} (message {clean(sent.message_id)})"]
    if sent.kind == "release":
        as_agent = f"--agent {session.named_agent} " if session.named_agent else ""
        lines.append(f"the answer is among your messages: coord {as_agent}messages")
    session.screen.show(msgspec.to_builtins(sent), lines)
    return 0


def messages(session: Session, args: Namespace) -> int:
    """Those for the agent; with `--ack` they are not new any more."""
    if args.all and args.ack is not None:
        raise UsageError("--all and --ack exclude each other", hint="give one of them")
    if args.ack is not None:
        found = session.ask(AckMessages(message_ids=tuple(args.ack), everything=not args.ack, agent=session.agent))
        none = "nothing was new"
    else:
        found = session.ask(ListMessages(everything=args.all, agent=session.agent))
        none = "no messages" if args.all else "no new messages (--all shows old ones, and own ones)"
    session.screen.show({"messages": msgspec.to_builtins(found)}, messages_blocks(found, none=none))
    return 0


def messages_blocks(found: Sequence[Message], *, none: str = "no messages") -> list[Block]:
    """A table, in the order given."""
    if not found:
        return [none]
    rows = tuple(
        (
            clean(message.message_id),
            clean(message.agent_id),
            clean(", ".join(message.to), 60) or "all",
            resource_name(message.resource) if message.resource else "-",
            ("asks to release: " if message.kind == "release" else "")
            + (f"(to {clean(message.reply_to)}) " if message.reply_to else "")
            + clean(message.text),
            ago(message.sent_at),
            clean(", ".join(message.acknowledged_by), 60) or "-",
        )
        for message in found
    )
    return [Table(("message", "from", "to", "about", "text", "sent", "read by"), rows, frozenset(("text",)))]
