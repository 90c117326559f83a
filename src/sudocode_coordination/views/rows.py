"""The lists of a view: what stands in each row, in which order, and what a filter leaves of it.

Pure, as `state.py`. Whatever came from elsewhere is cleaned here, once: nothing that a terminal would obey is in a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from typing import Any, Final, Literal, TypeAlias

from sudocode_coordination.api.events import Event
from sudocode_coordination.cli.text import clean, resource_name, shown_duration
from sudocode_coordination.model import ActiveWork, AgentId, Instant, Lease, Now, PeerInfo, Resource
from sudocode_coordination.views.state import MAX_EVENTS, Claim, Clash, Filter, Happened, Letter, Picture, instant_of

Tone: TypeAlias = Literal["", "good", "warn", "bad", "dim", "strong"]
"""How a cell may be coloured. What it says, it says in words: no tone means anything by itself."""
Item: TypeAlias = Claim | PeerInfo | ActiveWork | Clash | Letter | Happened

NOISE: Final = frozenset(("heartbeat-sent", "lease-renewed", "sync-completed"))
"""Events that come all the time, whatever people do."""
NEARLY_OVER_MS: Final = 30_000
"""A lease with less time left is marked: it is renewed at half of its time, so its holder has been silent for long."""
MAX_CELL: Final = 200
"""Characters of one cell: no terminal is so wide that more would be read in a list."""
MAX_NAMES_SHOWN: Final = 6
"""Names of one lease in a list; the rest as a number."""


@dataclass(frozen=True, slots=True)
class Cell:
    """Text that stays as it is."""

    text: str
    tone: Tone = ""

    def shown(self, _now: Now) -> Cell:
        """It at a time."""
        return self


@dataclass(frozen=True, slots=True)
class Left:
    """Time left until an instant."""

    until: Instant

    def shown(self, now: Now) -> Cell:
        """It at a time."""
        left_ms = self.until - now.instant
        return Cell(shown_duration(max(0, left_ms)) if left_ms >= 1_000 else "over", "warn" if left_ms < NEARLY_OVER_MS else "")


@dataclass(frozen=True, slots=True)
class Ago:
    """How long ago a time was, to the second below a minute, else to the minute: it would be no use to see seconds go by."""

    iso: str | None

    def shown(self, now: Now) -> Cell:
        """It at a time."""
        return Cell(age(self.iso, now), "dim")


AnyCell: TypeAlias = Cell | Left | Ago


@dataclass(frozen=True, slots=True)
class Column:
    """A heading. `cap`: columns for its text at most, 0: as many as there are. `wide`: left out where it does not fit."""

    title: str
    cap: int = 0
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a list: `key` says which one it is while others come and go."""

    key: str
    cells: tuple[AnyCell, ...]
    item: Item
    agents: tuple[AgentId, ...]
    """Whom it concerns."""

    def text(self, now: Now) -> str:
        """All that stands in it, for filters."""
        return " ".join(cell.shown(now).text for cell in self.cells if isinstance(cell, Cell))


@dataclass(frozen=True, slots=True)
class Tab:
    """A list. `short`: its title where there is little room. `none`: what to say if it is empty."""

    name: str
    title: str
    short: str
    columns: tuple[Column, ...]
    rows: Callable[[Picture, Now], Iterable[Row]]
    none: str


def shown_rows(tab: Tab, picture: Picture, chosen: Filter, now: Now) -> list[Row]:
    """The rows that the filter leaves, in order."""
    rows = tab.rows(picture, now)
    return [row for row in rows if chosen.takes(row.text(now), row.agents)] if chosen else list(rows)


def age(iso: str | None, now: Now) -> str:
    """How long ago: `now`, `12s ago`, `4m ago`, `2h10m ago`; `-` if it is unknown. Clocks of other machines may be ahead."""
    then = instant_of(iso) if iso else None
    if then is None:
        return clean(iso, 30) if iso else "-"
    passed_ms = now.wall_ms - then
    if passed_ms < -1_500:
        return f"in {shown_duration(-passed_ms)}"
    if passed_ms < 1_500:
        return "now"
    return f"{shown_duration(passed_ms if passed_ms < 60_000 else passed_ms // 60_000 * 60_000)} ago"


def clock_time(iso: str) -> str:
    """The time of day in this machine's zone: `14:05:09`."""
    then = instant_of(iso)
    return clean(iso, 12) if then is None else datetime.fromtimestamp(then / 1000, UTC).astimezone().strftime("%H:%M:%S")


def names(resources: Sequence[Resource], shown: int = MAX_NAMES_SHOWN) -> str:
    """Names of resources, the rest as a number."""
    listed = ", ".join(resource_name(resource) for resource in resources[:shown])
    return listed if len(resources) <= shown else f"{listed} +{len(resources) - shown}"


def lease_state(lease: Lease) -> Cell:
    """How it is held, in words."""
    if lease.state == "pending":
        return Cell("waits" if lease.position is None else f"waits, place {lease.position}", "warn")
    shared = ", shared" if lease.mode == "shared" else ""
    if lease.grade == "strict":
        return Cell(f"strict {'-' if lease.token is None else lease.token}{shared}", "good")
    return Cell(f"held{shared}", "good") if lease.grade == "quorum" else Cell(f"provisional{shared}", "warn")


def _who(agent: AgentId, *, mine: bool) -> Cell:
    return Cell(clean(agent, MAX_CELL) + (" *" if mine else ""), "strong" if mine else "")


def _leases(picture: Picture, _now: Now) -> Iterable[Row]:
    queue = picture.queue
    for claim in picture.held:
        lease = claim.lease
        behind = picture.waiting_behind(claim, queue) if queue else ()
        cells: tuple[AnyCell, ...] = (
            Cell(names(lease.resources)),
            _who(lease.agent_id, mine=lease.mine),
            lease_state(lease),
            Left(claim.until),
            Cell(str(len(behind)) if behind else "-", "warn" if behind else "dim"),
            Cell(str(lease.priority)),
            Cell(clean(lease.note, MAX_CELL) or "-"),
        )
        yield Row(lease.claim_id, cells, claim, (lease.agent_id,))


def _queue(picture: Picture, _now: Now) -> Iterable[Row]:
    for claim in picture.queue:
        lease = claim.lease
        ahead = sorted({conflict.agent_id for conflict in picture.blockers.get(lease.claim_id, ())})
        cells: tuple[AnyCell, ...] = (
            Cell(names(lease.resources)),
            _who(lease.agent_id, mine=lease.mine),
            Cell("-" if lease.position is None else str(lease.position)),
            Cell(clean(", ".join(ahead), MAX_CELL) or "-"),
            Ago(lease.since),
            Cell(str(lease.priority)),
            Cell(clean(lease.note, MAX_CELL) or "-"),
        )
        yield Row(lease.claim_id, cells, claim, (lease.agent_id, *ahead))


def _work(picture: Picture, _now: Now) -> Iterable[Row]:
    here = picture.status.peer_id if picture.status is not None else ""
    for work in picture.work:
        on = [clean(name) for name in (*work.issues, *work.specs, *work.files)]
        listed = ", ".join(on[:MAX_NAMES_SHOWN]) + (f" +{len(on) - MAX_NAMES_SHOWN}" if len(on) > MAX_NAMES_SHOWN else "")
        cells: tuple[AnyCell, ...] = (
            _who(work.agent_id, mine=work.peer_id == here),
            Cell(listed or "-"),
            Cell(clean(work.status, MAX_CELL) or "-"),
            Ago(work.updated_at),
        )
        yield Row(f"{work.peer_id} {work.agent_id}", cells, work, (work.agent_id,))


_CONNECTION: Final[dict[str, Tone]] = {"direct": "good", "relayed": "good", "connecting": "warn", "disconnected": "bad"}


def _agents(picture: Picture, _now: Now) -> Iterable[Row]:
    for peer in picture.agents:
        own = peer.connection == "self"
        cells: tuple[AnyCell, ...] = (
            _who(peer.agent_id, mine=own),
            Cell("this clone" if own else clean(peer.connection), _CONNECTION.get(peer.connection, "")),
            Cell("-" if peer.latency_ms is None else f"{peer.latency_ms:.0f}ms"),
            Cell("-", "dim") if own else Ago(peer.last_seen),
            Cell(str(peer.leases_held)),
            Cell(clean(",".join(peer.capabilities), MAX_CELL) or "-"),
            Cell(clean(peer.reason or peer.address or "-", MAX_CELL)),
        )
        yield Row(f"{peer.peer_id} {peer.agent_id}", cells, peer, (peer.agent_id,))


def _conflicts(picture: Picture, now: Now) -> Iterable[Row]:
    for clash in picture.clashes(now.instant):
        listed = ", ".join(clean(name) for name in clash.names[:MAX_NAMES_SHOWN])
        cells: tuple[AnyCell, ...] = (
            _who(", ".join(clash.agents), mine=picture.agent in clash.agents),
            Cell(listed or "-"),
            Cell(clean(", ".join(clash.others), MAX_CELL) or "-"),
            Cell(clean(clash.what) or "-", "warn"),
            Ago(clash.at) if clash.at else Cell("now", "bad"),
            Cell(clean(clash.detail, MAX_CELL) or "-"),
        )
        yield Row(clash.key, cells, clash, (*clash.agents, *clash.others))


def _messages(picture: Picture, now: Now) -> Iterable[Row]:
    for letter in picture.letters_by_age(now.instant):
        message = letter.message
        new, own = picture.is_unread(message), picture.is_own(message)
        to = ", ".join(message.to) or (f"all on {message.resource}" if message.resource else "all")
        about = f"[{resource_name(message.resource)}] " if message.resource and message.to else ""
        asks = "asks to release: " if message.kind == "release" else ""
        read_by = f"read by {clean(', '.join(message.acknowledged_by), 60)}" if message.acknowledged_by else "not read yet"
        cells: tuple[AnyCell, ...] = (
            Cell("new", "warn") if new else Cell("sent" if own else "read", "dim"),
            _who(message.agent_id, mine=own),
            Cell(clean(to, MAX_CELL)),
            Cell(asks + about + clean(message.text, MAX_CELL), "strong" if new else ""),
            Ago(message.sent_at),
            Cell(read_by if own else "-", "dim"),
        )
        yield Row(message.message_id, cells, letter, (message.agent_id, *message.to))


def _events(picture: Picture, _now: Now) -> Iterable[Row]:
    return map(_event, reversed(picture.happened))


@lru_cache(MAX_EVENTS)
def _event(happened: Happened) -> Row:
    """An event stays as it is: a thousand of them are not described anew for each that comes."""
    event = happened.event
    cells: tuple[AnyCell, ...] = (
        Cell(clock_time(event.timestamp), "dim"),
        Cell(clean(event.type)),
        Cell(clean(event.agent_id, MAX_CELL) or "-"),
        Cell(told(event) or "-"),
    )
    return Row(str(happened.number), cells, happened, (event.agent_id,))


def recent(picture: Picture, count: int) -> list[Row]:
    """The latest events that a person wants to see pass by (no beats, no renewals), in two columns."""
    found = islice((h for h in reversed(picture.happened) if h.event.type not in NOISE), count)
    return [Row(str(h.number), (Cell(clock_time(h.event.timestamp), "dim"), Cell(_passing(h.event))), h, ()) for h in found]


def _passing(event: Event) -> str:
    return clean(f"{event.agent_id} {event.type} {told(event)}".strip(), MAX_CELL)


_SAID: Final = (
    ("reason", ""),
    ("holder", "by "),
    ("address", ""),
    ("issueId", "issue "),
    ("specPath", "spec "),
    ("by", "by "),
)
"""Plain texts in the data of events, and what stands before them."""


def told(event: Event) -> str:
    """What an event says, on one line."""
    data = event.data
    said: list[str] = []
    lease = _dict(data.get("lease"))
    if lease:
        said.append(_names_in(lease.get("resources")))
    for key, before in _SAID:
        if data.get(key):
            said.append(before + clean(data[key], 80))
    work = _dict(data.get("work"))
    if work:
        on = [clean(name, 80) for key in ("issues", "specs", "files") for name in _list(work.get(key))[:MAX_NAMES_SHOWN]]
        said += [", ".join(on), clean(work.get("status", ""), 80)]
    fields = _dict(data.get("fields"))
    if fields:
        said.append(", ".join(clean(name, 40) for name in list(fields)[:MAX_NAMES_SHOWN]))
    message = _dict(data.get("message"))
    if message:
        said.append(f"from {clean(message.get('agentId', ''), 60)}: {clean(message.get('text', ''), 120)}")
    for one in _list(data.get("foretold"))[:MAX_NAMES_SHOWN]:
        found = _dict(one)
        said.append(f"{clean(found.get('path', ''), 80)} with {clean(', '.join(map(str, _list(found.get('theirAgents')))), 60)}")
    for one in _list(data.get("conflicts"))[:MAX_NAMES_SHOWN]:
        found = _dict(one)
        said.append(f"{_names_in([found.get('resource')])} with {clean(found.get('agentId', ''), 60)}")
    if isinstance(data.get("queue"), int):
        said.append(f"{data['queue']} ahead")
    return clean("  ".join(part for part in said if part), MAX_CELL)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else ()


def _names_in(value: Any) -> str:
    """Resources as an event has them."""
    listed = [one for one in _list(value) if isinstance(one, (list, tuple)) and len(one) == 2]
    shown = ", ".join(resource_name(one) for one in listed[:MAX_NAMES_SHOWN])
    return shown if len(listed) <= MAX_NAMES_SHOWN else f"{shown} +{len(listed) - MAX_NAMES_SHOWN}"


TABS: Final[tuple[Tab, ...]] = (
    Tab(
        "leases",
        "Leases",
        "Leas",
        (
            Column("resource"),
            Column("agent", 24),
            Column("state", 20),
            Column("left", 7),
            Column("waits", 5, wide=True),
            Column("prio", 8, wide=True),
            Column("note", wide=True),
        ),
        _leases,
        "nobody holds a lease",
    ),
    Tab(
        "work",
        "Work",
        "Work",
        (Column("agent", 24), Column("works on"), Column("status"), Column("updated", 10)),
        _work,
        "nobody has told what they work on",
    ),
    Tab(
        "agents",
        "Agents",
        "Agts",
        (
            Column("agent", 30),
            Column("connection", 12),
            Column("latency", 8),
            Column("seen", 10),
            Column("leases", 6),
            Column("capabilities", wide=True),
            Column("address", wide=True),
        ),
        _agents,
        "nobody is here yet",
    ),
    Tab(
        "queue",
        "Queue",
        "Que",
        (
            Column("waits for"),
            Column("agent", 24),
            Column("place", 5),
            Column("held by", 24),
            Column("since", 10),
            Column("prio", 8, wide=True),
            Column("note", wide=True),
        ),
        _queue,
        "nobody waits",
    ),
    Tab(
        "conflicts",
        "Conflicts",
        "Conf",
        (Column("agent", 20), Column("on"), Column("other", 20), Column("what", 34), Column("when", 10), Column("more", wide=True)),
        _conflicts,
        "no conflicts",
    ),
    Tab(
        "messages",
        "Messages",
        "Msgs",
        (Column("", 4), Column("from", 20), Column("to", 20), Column("text"), Column("sent", 10), Column("read", 30, wide=True)),
        _messages,
        "no messages",
    ),
    Tab(
        "events",
        "Events",
        "Evts",
        (Column("time", 8), Column("event", 20), Column("agent", 20), Column("what")),
        _events,
        "nothing has happened yet",
    ),
)
"""The lists, in the order of the keys 1 to 7."""
