"""What is said about one thing that was chosen from a list: who, what, since when, who waits, and what was before. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from sudocode_coordination.cli.text import clean, json_text, resource_name, shown_duration
from sudocode_coordination.model import ActiveWork, AgentId, Conflict, HistoryEntry, Now, PeerId, PeerInfo, Resource
from sudocode_coordination.views.rows import Item, age, clock_time, lease_state, names, told
from sudocode_coordination.views.state import Claim, Clash, Happened, Letter, Picture, resources_of

MAX_LINES: Final = 200
"""Of one thing: a person scrolls through a few screens, not more."""
MAX_SHOWN: Final = 20
"""Of one list in it: leases of an agent, those who wait, entries of history."""
MAX_TEXT: Final = 1_000
"""A message's whole text."""


_DOES: Final = {"lease": "holds", "work": "works on", "waiting": "waits for", "merge": "has changes that would not merge in"}


class Line(NamedTuple):
    """What it is, and what it says; both are clean."""

    label: str
    text: str


@dataclass(frozen=True, slots=True)
class More:
    """What had to be asked for it. `trouble`: why it could not be."""

    history: tuple[HistoryEntry, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    trouble: str = ""


def resources_about(item: Item) -> tuple[Resource, ...]:
    """What can be asked about it: its history, and who else is on it."""
    match item:
        case Claim(lease=lease):
            return lease.resources
        case ActiveWork():
            return resources_of(item)
        case Letter(message=message) if message.resource is not None:
            return (message.resource,)
        case _:
            return ()


def title_of(item: Item) -> str:
    """What it is, in a few words."""
    match item:
        case Claim(lease=lease):
            return f"{'Lease' if item.held else 'Waiting'}: {names(lease.resources)}"
        case PeerInfo() | ActiveWork():
            return f"{'Agent' if isinstance(item, PeerInfo) else 'Work'}: {clean(item.agent_id)}"
        case Clash():
            return f"Conflict: {clean(', '.join(item.names)) or '-'}"
        case Letter(message=message):
            return f"Message from {clean(message.agent_id)}"
        case Happened(event=event):
            return f"Event: {clean(event.type)}"


def details(picture: Picture, item: Item, now: Now, more: More | None = None) -> list[Line]:
    """All that is known about it. `more`: what was asked for it, if it was."""
    match item:
        case Claim():
            lines = list(_claim(picture, item, now))
        case PeerInfo():
            lines = list(_agent(picture, item, now))
        case ActiveWork():
            lines = [*_work(item, now), *_leases_of(picture, item.agent_id, item.peer_id, now)]
        case Clash():
            lines = list(_clash(picture, item, now))
        case Letter():
            lines = list(_letter(picture, item, now))
        case Happened(event=event):
            lines = [
                Line("event", clean(event.type)),
                Line("agent", clean(event.agent_id) or "-"),
                Line("at", f"{clock_time(event.timestamp)}, {age(event.timestamp, now)}"),
                Line("says", told(event) or "-"),
                *(Line("data", line) for line in json_text(event.data, pretty=True).splitlines()),
            ]
    if more is not None:
        lines += _asked(item, more, now)
    return lines[:MAX_LINES]


def holders(picture: Picture, item: Item) -> tuple[AgentId, ...]:
    """To whom a message about it would go: who holds it, or who is on it."""
    match item:
        case Claim(lease=lease) if item.held:
            return (lease.agent_id,)
        case Claim(lease=lease):
            ahead = sorted({conflict.agent_id for conflict in picture.blockers.get(lease.claim_id, ())})
            return tuple(ahead) or (lease.agent_id,)
        case PeerInfo() | ActiveWork():
            return (item.agent_id,)
        case Clash():
            return item.others or item.agents
        case Letter(message=message):
            return message.to if picture.is_own(message) else (message.agent_id,)
        case Happened(event=event):
            return (event.agent_id,) if event.agent_id else ()


# --- by kind --------------------------------------------------------------------------------------------------------------


def _claim(picture: Picture, claim: Claim, now: Now) -> Iterator[Line]:
    lease = claim.lease
    for number, resource in enumerate(lease.resources[:MAX_SHOWN]):
        yield Line("" if number else "what", resource_name(resource))
    if len(lease.resources) > MAX_SHOWN:
        yield Line("", f"+{len(lease.resources) - MAX_SHOWN}")
    yield Line("holder" if claim.held else "who", _agent_here(picture, lease.agent_id, lease.peer_id))
    yield Line("state", _state_in_full(claim))
    yield Line("since", f"{clock_time(lease.since)}, {age(lease.since, now)}")
    if claim.held:
        left_ms = claim.left_ms(now.instant)
        yield Line("left", f"{shown_duration(left_ms)} of {shown_duration(lease.ttl_ms)}, unless it is renewed")
    yield Line("priority", str(lease.priority))
    if lease.note:
        yield Line("note", clean(lease.note, MAX_TEXT))
    for blocker in picture.blockers.get(lease.claim_id, ())[:MAX_SHOWN]:
        yield Line("held by", f"{clean(blocker.agent_id)}: {resource_name(blocker.resource)}")
    for other in (picture.waiting_behind(claim) if claim.held else [])[:MAX_SHOWN]:
        place = "" if other.lease.position is None else f"{other.lease.position}. "
        yield Line("waits", f"{place}{clean(other.lease.agent_id)}, since {age(other.lease.since, now)}")
    for work in picture.work:
        if (work.agent_id, work.peer_id) == (lease.agent_id, lease.peer_id):
            yield from _work(work, now)
    if (left := lease.handover) is not None:
        where = f" on {clean(left.branch)}" if left.branch else ""
        yield Line("build on", f"{clean(left.commit[:10])}{where}, left by {clean(left.agent_id)} {age(left.at, now)}")


def _state_in_full(claim: Claim) -> str:
    lease = claim.lease
    state = lease_state(lease).text
    if claim.held and lease.grade == "strict":
        return f"{state}: decided by the git remote, fencing token {lease.token}"
    if claim.held and lease.grade == "provisional":
        return f"{state}: it may overlap with one of a peer that can't be reached"
    return state


def _agent(picture: Picture, peer: PeerInfo, now: Now) -> Iterator[Line]:
    yield Line("agent", _agent_here(picture, peer.agent_id, peer.peer_id))
    yield Line("clone", clean(peer.peer_id))
    yield Line("connection", clean(peer.connection) + (f" to {clean(peer.address)}" if peer.address else ""))
    if peer.latency_ms is not None:
        yield Line("latency", f"{peer.latency_ms:.1f}ms")
    if peer.connection != "self":
        yield Line("seen", age(peer.last_seen, now))
    yield Line("offers", clean(", ".join(peer.capabilities)) or "-")
    if peer.reason:
        yield Line("trouble", clean(peer.reason))
    for work in picture.work:
        if (work.agent_id, work.peer_id) == (peer.agent_id, peer.peer_id):
            yield from _work(work, now)
    yield from _leases_of(picture, peer.agent_id, peer.peer_id, now)
    said = [h for h in reversed(picture.happened) if h.event.agent_id == peer.agent_id and h.event.type != "lease-renewed"]
    for happened in said[:MAX_SHOWN]:
        yield Line("event", f"{clock_time(happened.event.timestamp)}  {clean(happened.event.type)}  {told(happened.event)}")


def _leases_of(picture: Picture, agent: AgentId, peer: PeerId, now: Now) -> Iterator[Line]:
    def own(claims: Iterable[Claim]) -> list[Claim]:
        return [claim for claim in claims if (claim.lease.agent_id, claim.lease.peer_id) == (agent, peer)][:MAX_SHOWN]

    for claim in own(picture.held):
        left = shown_duration(claim.left_ms(now.instant))
        yield Line("holds", f"{names(claim.lease.resources)}  ({lease_state(claim.lease).text}, {left} left)")
    for claim in own(picture.queue):
        yield Line("waits for", f"{names(claim.lease.resources)}  ({lease_state(claim.lease).text})")


def _work(work: ActiveWork, now: Now) -> Iterator[Line]:
    if work.status:
        yield Line("does", clean(work.status, MAX_TEXT))
    on = [clean(name) for name in (*work.issues, *work.specs, *work.files)]
    for number, name in enumerate(on[:MAX_SHOWN]):
        yield Line("" if number else "works on", name)
    if len(on) > MAX_SHOWN:
        yield Line("", f"+{len(on) - MAX_SHOWN}")
    for key, value in list(work.metadata.items())[:MAX_SHOWN]:
        yield Line(clean(key, 20), clean(value if isinstance(value, str) else msgspec.json.encode(value).decode()))
    yield Line("at it", f"since {age(work.started_at, now)}, told {age(work.updated_at, now)}")


def _clash(picture: Picture, clash: Clash, now: Now) -> Iterator[Line]:
    for number, name in enumerate(clash.names[:MAX_SHOWN]):
        yield Line("" if number else "on", clean(name))
    yield Line("agent", clean(", ".join(clash.agents)) or "-")
    yield Line("other", f"{clean(', '.join(clash.others)) or '-'} {clean(clash.what)}".rstrip())
    yield Line("when", f"told {age(clash.at, now)}" if clash.at else "it is so now")
    if clash.detail:
        yield Line("more", clean(clash.detail, MAX_TEXT))
    for work in picture.work:
        if work.agent_id in clash.others:
            yield from _work(work, now)


def _letter(picture: Picture, letter: Letter, now: Now) -> Iterator[Line]:
    message = letter.message
    yield Line("from", _agent_here(picture, message.agent_id, message.peer_id))
    yield Line("to", clean(", ".join(message.to)) or (f"all on {resource_name(message.resource)}" if message.resource else "all"))
    if message.resource is not None:
        yield Line("about", resource_name(message.resource))
    if message.kind == "release":
        yield Line("asks", "to release it")
    yield Line("says", clean(message.text, MAX_TEXT))
    yield Line("sent", f"{clock_time(message.sent_at)}, {age(message.sent_at, now)}")
    yield Line("over", f"in {shown_duration(max(0, letter.until - now.instant))}")
    if message.reply_to:
        yield Line("answers", clean(message.reply_to))
    yield Line("read by", clean(", ".join(message.acknowledged_by)) or "nobody yet")


def _asked(item: Item, more: More, now: Now) -> Iterator[Line]:
    if more.trouble:
        yield Line("unknown", clean(more.trouble))
    own = item.lease if isinstance(item, Claim) else item if isinstance(item, ActiveWork) else None
    for conflict in [c for c in more.conflicts if own is None or (c.agent_id, c.peer_id) != (own.agent_id, own.peer_id)][
        :MAX_SHOWN
    ]:
        does = _DOES.get(conflict.kind, clean(conflict.kind))
        yield Line("also here", f"{clean(conflict.agent_id)} {does} {resource_name(conflict.resource)}")
    for number, entry in enumerate(more.history[:MAX_SHOWN]):
        yield Line("" if number else "history", _entry(entry, now))


def _entry(entry: HistoryEntry, now: Now) -> str:
    until = clock_time(entry.ended_at) if entry.ended_at else "now"
    parts = [f"{clock_time(entry.granted_at)} to {until}", clean(entry.agent_id), names(entry.resources)]
    if entry.ended_at:
        parts.append(clean(entry.reason) + (f" ({clean(entry.rival)})" if entry.rival else "") + f", {age(entry.ended_at, now)}")
    if entry.commit:
        parts.append(f"left {clean(entry.commit[:10])}" + (f" on {clean(entry.branch)}" if entry.branch else ""))
    return "  ".join(parts)


def _agent_here(picture: Picture, agent: AgentId, peer: PeerId) -> str:
    here = picture.status is not None and picture.status.peer_id == peer
    same: Sequence[str] = ("this view acts for it",) if here and agent == picture.agent else ()
    return clean(agent) + (f" ({', '.join(('of this clone', *same))})" if here else "")
