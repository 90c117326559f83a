"""Messages between agents: short, to some agents or to all on a resource, acknowledged by each, and over after their ttl.

    sent --ack of each agent it is for--> acknowledged      sent, acknowledged --ttl, by its author--> gone

A message is an entry of its author's feed, an acknowledgement one of the feed of who read it: nobody writes in another's name, and
both reach whoever is away once it is back. Laws: a message is never for who sent it; an agent is told of it once; what is
acknowledged is not shown as new again; where its author is gone, a message is over here a ttl after it was first seen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Final

import msgspec

from sudocode_coordination.api.requests import SendMessage
from sudocode_coordination.core.agents import Entries
from sudocode_coordination.core.facts import EntryChange, Notify, Output, Write
from sudocode_coordination.core.writer import encode_value
from sudocode_coordination.errors import UsageError
from sudocode_coordination.model import AGENT_ID_PATTERN, AgentId, Instant, Message, MessageKind, Now, PeerId, Resource, iso_from_ms

MAX_LIVE: Final = 200
"""Messages of one clone that are not over, written or believed of another: a swarm of 50 agents that each said four things."""
MAX_ACKNOWLEDGED: Final = 1_000
"""Own acknowledgements kept; past it the oldest go, and what they were for may show as new again until its ttl is over."""
MAX_READERS: Final = 100
"""Agents of one clone that are believed to have read a message."""
DAY_MS: Final = 24 * 3_600_000
"""Longest ttl of a message (`requests.SendMessage`)."""
_ACK: Final = "ack"
_ID: Final = re.compile(r"[0-9A-Za-z]{1,64}\Z")
"""What may be an id: it stands in what people and agents are told to type."""


class MessageEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A message in the document, under its id."""

    sender: AgentId
    to: tuple[AgentId, ...] = ()
    resource: Resource | None = None
    text: str
    kind: MessageKind = "note"
    reply_to: str = ""
    sent_at: str
    sent_ms: int
    """As its author's clock had it; read by the author alone."""
    ttl_ms: int


class AckEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """That an agent has read it, under `ack|<author>|<id>|<agent>`."""

    at: str


class Messages:
    """What agents say to each other.

    Args:
        peer_id: this peer.
        document: the shared document.
        rng: for ids.
        concerned: agents of this clone that hold, wait for or work on something that overlaps the resource.
    """

    def __init__(
        self, peer_id: PeerId, document: Entries, rng: Random, concerned: Callable[[Resource, Instant], frozenset[AgentId]]
    ) -> None:
        self._me = peer_id
        self._document = document
        self._rng = rng
        self._concerned = concerned
        self._own: dict[str, Instant] = {}
        """Own messages, and when they are over."""
        self._seen: dict[PeerId, dict[str, Instant]] = {}
        """Those of others that are believed, and when they are over at the latest."""
        self._read: dict[tuple[str, str], dict[PeerId, set[AgentId]]] = {}
        """Author and id of a message -> who says that which agents have read it."""

    # --- life -------------------------------------------------------------------------------------------------------------

    def started(self, now: Now) -> list[Output]:
        """What was said before a restart lasts as long as it would have."""
        for owner, key, value in self._document.entries("messages"):
            if key.startswith(f"{_ACK}|"):
                self._note_ack(owner, key, value)
        for owner, id_, entry in self._entries():
            if owner == self._me:
                left_ms = entry.sent_ms + entry.ttl_ms - now.wall_ms
                self._own[id_] = now.instant + max(0, min(entry.ttl_ms, left_ms))
            else:
                self._believe(owner, id_, entry, now)
        return self._drop_old_acks(now)

    def deadline(self) -> Instant | None:
        """When a message is over."""
        return min(self._own.values(), default=None)

    def ticked(self, now: Now) -> list[Output]:
        """Take back what is over."""
        over = sorted(id_ for id_, at in self._own.items() if at <= now.instant)
        for id_ in over:
            del self._own[id_]
        return [Write(root="messages", key=id_, value=None) for id_ in over]

    # --- what own agents do -----------------------------------------------------------------------------------------------

    def send(self, agent: AgentId, request: SendMessage, to: tuple[AgentId, ...], now: Now) -> tuple[Message, list[Output]]:
        """Say something.

        Args:
            agent: who says it.
            request: what.
            to: for whom; empty: for all on the resource, or for everybody.

        Raises:
            UsageError: there are too many messages, or it answers none.
        """
        if len(self._own) >= MAX_LIVE:
            raise UsageError(f"{MAX_LIVE} messages of this clone are not over yet", hint="give them a shorter --ttl")
        entry = MessageEntry(
            sender=agent,
            to=tuple(sorted(set(to))),
            resource=request.resource,
            text=request.text,
            kind=request.kind,
            reply_to=request.reply_to,
            sent_at=iso_from_ms(now.wall_ms),
            sent_ms=now.wall_ms,
            ttl_ms=request.ttl_ms,
        )
        value = msgspec.to_builtins(entry)
        encode_value(value)
        id_ = f"{self._rng.getrandbits(40):010x}"
        while id_ in self._own:
            id_ = f"{self._rng.getrandbits(40):010x}"
        self._own[id_] = now.instant + request.ttl_ms
        return self._shown(self._me, id_, entry, now), [Write(root="messages", key=id_, value=value, urgent=True)]

    def acknowledge(self, agent: AgentId, ids: tuple[str, ...], everything: bool, now: Now) -> tuple[list[Message], list[Output]]:
        """The agent has read them; those that were new.

        Raises:
            UsageError: an id is of no message for the agent.
        """
        sent_to_it = (m for m in self.messages(agent, now, everything=True) if not (m.mine and m.agent_id == agent))
        known = {message.message_id for message in sent_to_it}
        for id_ in ids:
            if id_ not in known:
                raise UsageError(f"{id_!r} is no message for {agent}", hint="`coord messages --all` shows them")
        # More than one where a peer copied an id: that must not keep the real one from being read.
        chosen = [message for message in self.messages(agent, now) if everything or message.message_id in ids]
        value = msgspec.to_builtins(AckEntry(at=iso_from_ms(now.wall_ms)))
        return chosen, [
            Write(root="messages", key=_ack_key(message.peer_id, message.message_id, agent), value=value, urgent=True)
            for message in chosen
        ]

    # --- what is heard ----------------------------------------------------------------------------------------------------

    def entries_changed(
        self, owner: PeerId, changes: tuple[EntryChange, ...], now: Now, local: tuple[AgentId, ...]
    ) -> list[Output]:
        """`message-received` for each agent of this clone that it is for, `message-acknowledged` for its sender.

        Args:
            owner: whose feed it is.
            changes: of all roots.
            now: both clocks.
            local: agents of this clone.
        """
        out: list[Output] = []
        for change in changes:
            if change.root != "messages":
                continue
            if change.key.startswith(f"{_ACK}|"):
                self._note_ack(owner, change.key, change.value)
                out += self._acknowledged(change)
                continue
            entry = _entry(change.key, change.value)
            if entry is None:
                self._disbelieve(owner, change.key)
                out += self._forget_acks(owner, change.key)
                continue
            if owner != self._me and not self._believe(owner, change.key, entry, now):
                continue
            for agent in local:
                if self._is_for(entry, owner, agent, now.instant) and not self._has_ack(owner, change.key, agent):
                    shown = self._shown(owner, change.key, entry, now)
                    out.append(Notify(type="message-received", agent_id=agent, data={"message": msgspec.to_builtins(shown)}))
        return out

    def messages(self, agent: AgentId, now: Now, *, everything: bool = False) -> list[Message]:
        """Those for the agent that it has not acknowledged, the oldest first; `everything`: also those it has, and its own."""
        found = []
        for owner, id_, entry in self._entries():
            until = self._over_at(owner, id_)
            if until is None or until <= now.instant:
                continue
            sent = owner == self._me and entry.sender == agent
            unread = self._is_for(entry, owner, agent, now.instant) and not self._has_ack(owner, id_, agent)
            if unread or (everything and (sent or self._is_for(entry, owner, agent, now.instant))):
                found.append(self._shown(owner, id_, entry, now))
        return sorted(found, key=lambda message: (message.sent_at, message.peer_id, message.message_id))

    def find(self, id_: str) -> Message | None:
        """A message by its id; None: there is none, or more than one peer wrote one with that id."""
        found = [self._shown(owner, key, entry, Now(0, 0)) for owner, key, entry in self._entries() if key == id_]
        return found[0] if len(found) == 1 else None

    # --- inside -----------------------------------------------------------------------------------------------------------

    def _entries(self) -> Iterator[tuple[PeerId, str, MessageEntry]]:
        for owner, key, value in self._document.entries("messages"):
            entry = _entry(key, value)
            if entry is not None:
                yield owner, key, entry

    def _believe(self, owner: PeerId, id_: str, entry: MessageEntry, now: Now) -> bool:
        """Whether it is new, and there is room for it."""
        seen = self._seen.setdefault(owner, {})
        if id_ in seen or len(seen) >= MAX_LIVE:
            return False
        seen[id_] = now.instant + _ttl_of(entry)
        return True

    def _disbelieve(self, owner: PeerId, id_: str) -> None:
        seen = self._seen.get(owner, {})
        if seen.pop(id_, None) is not None and not seen:
            del self._seen[owner]

    def _over_at(self, owner: PeerId, id_: str) -> Instant | None:
        return (self._own if owner == self._me else self._seen.get(owner, {})).get(id_)

    def _is_for(self, entry: MessageEntry, owner: PeerId, agent: AgentId, now: Instant) -> bool:
        if owner == self._me and entry.sender == agent:
            return False
        if entry.to:
            return agent in entry.to
        return entry.resource is None or agent in self._concerned(entry.resource, now)

    def _has_ack(self, author: PeerId, id_: str, agent: AgentId) -> bool:
        return self._document.get("messages", self._me, _ack_key(author, id_, agent)) is not None

    def _note_ack(self, owner: PeerId, key: str, value: Any) -> None:
        _, author, id_, agent = [*key.split("|", 3), "", "", ""][:4]
        said = self._read.setdefault((author, id_), {})
        if value is not None:
            readers = said.setdefault(owner, set())
            if owner == self._me or len(readers) < MAX_READERS:
                readers.add(agent)
        elif owner in said:
            said[owner].discard(agent)
            if not said[owner]:
                del said[owner]
        if not said:
            del self._read[author, id_]

    def _shown(self, owner: PeerId, id_: str, entry: MessageEntry, now: Now) -> Message:
        until = self._over_at(owner, id_)
        return Message(
            message_id=id_,
            agent_id=entry.sender,
            peer_id=owner,
            to=entry.to,
            resource=entry.resource,
            text=entry.text,
            kind=entry.kind,
            reply_to=entry.reply_to,
            sent_at=entry.sent_at,
            remaining_ms=max(0, (until or now.instant) - now.instant),
            acknowledged_by=tuple(sorted(set().union(*self._read.get((owner, id_), {}).values()))),
            mine=owner == self._me,
        )

    def _acknowledged(self, change: EntryChange) -> list[Output]:
        _, author, id_, agent = [*change.key.split("|", 3), "", "", ""][:4]
        if author != self._me or change.value is None or id_ not in self._own:
            return []
        entry = _entry(id_, self._document.get("messages", self._me, id_))
        if entry is None:
            return []
        return [Notify(type="message-acknowledged", agent_id=entry.sender, data={"messageId": id_, "by": agent})]

    def _forget_acks(self, author: PeerId, id_: str) -> list[Output]:
        """The message is gone, and what says that it was read with it."""
        own = self._read.get((author, id_), {}).get(self._me, ())
        return [Write(root="messages", key=_ack_key(author, id_, agent), value=None) for agent in sorted(own)]

    def _drop_old_acks(self, now: Now) -> list[Output]:
        """Of messages that were over while this peer was away; their authors may be gone for good."""
        dated = sorted(
            (str(value.get("at", "")) if isinstance(value, dict) else "", key)
            for owner, key, value in self._document.entries("messages")
            if owner == self._me and key.startswith(f"{_ACK}|")
        )
        oldest = iso_from_ms(max(0, now.wall_ms - 2 * DAY_MS))
        spare = max(0, len(dated) - MAX_ACKNOWLEDGED)
        return [
            Write(root="messages", key=key, value=None) for number, (at, key) in enumerate(dated) if number < spare or at < oldest
        ]


def _ack_key(author: PeerId, id_: str, agent: AgentId) -> str:
    return f"{_ACK}|{author}|{id_}|{agent}"


def _ttl_of(entry: MessageEntry) -> int:
    return max(0, min(entry.ttl_ms, DAY_MS))


def _entry(key: str, value: Any) -> MessageEntry | None:
    """What a peer wrote, if it is a message; those of a newer version's shape are passed over."""
    if not _ID.match(key):
        return None
    try:
        entry = msgspec.convert(value, MessageEntry)
    except (msgspec.ValidationError, ValueError):
        return None
    return entry if AGENT_ID_PATTERN.match(entry.sender) else None
