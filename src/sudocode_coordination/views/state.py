"""What a view of the swarm shows: agents, work, leases, who waits, conflicts, messages, events.

Pure: a `Picture` is told what the daemon answered, what happened, and the time; it asks nobody. Time left is kept as the instant
at which it is up, so that a view counts down without asking again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeAlias

import msgspec

from sudocode_coordination.api.events import Event
from sudocode_coordination.api.requests import Status
from sudocode_coordination.cli.conflicts import where
from sudocode_coordination.model import (
    ActiveWork,
    AgentId,
    ClaimId,
    Conflict,
    ForetoldConflict,
    Instant,
    Lease,
    Message,
    Now,
    PeerInfo,
    Resource,
    iso_from_ms,
)

MAX_EVENTS: Final = 1_000
"""Events kept to look back at: as many as a daemon keeps."""
MAX_TOLD: Final = 200
"""Conflicts kept that events have told of: each is a line for a person to read."""
MAX_NAMES: Final = 50
"""Names of one conflict: what `conflicts-detected` carries at most is a few lines, and whoever sends more is not worth reading."""
STANDS_MS: Final = 600_000
"""A conflict that was told of is shown for that long: nothing tells when it is over."""

Part: TypeAlias = Literal["status", "messages", "conflicts"]
"""What has to be asked for anew."""
LinkState: TypeAlias = Literal["connecting", "live", "gone"]


@dataclass(frozen=True, slots=True)
class Link:
    """How it stands with the daemon, and since when. `reason` and `hint`: why it is gone, and what to do."""

    state: LinkState
    since: Now
    reason: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """A lease that is held or waited for, and until when (`until`, by the view's own monotonic clock) if nobody renews it."""

    lease: Lease
    until: Instant

    @property
    def held(self) -> bool:
        """Whether it is held; else its agent waits."""
        return self.lease.state == "granted"

    def left_ms(self, now: Instant) -> int:
        """Milliseconds until it ends if it is not renewed."""
        return max(0, self.until - now)


@dataclass(frozen=True, slots=True)
class Letter:
    """A message, and when it is over."""

    message: Message
    until: Instant


@dataclass(frozen=True, slots=True)
class Clash:
    """Two agents on the same thing.

    Attributes:
        agents: whom it concerns.
        others: with whom; empty: unknown.
        names: what it is about.
        what: how the other one is on it: `holds it`, `works on it`, `wants it`, …
        detail: what else was said: a note, lines, a reason.
        at: ISO 8601 UTC of the event that told of it; empty: it is so as long as it is shown.
    """

    agents: tuple[AgentId, ...]
    others: tuple[AgentId, ...]
    names: tuple[str, ...]
    what: str
    detail: str = ""
    at: str = ""

    @property
    def key(self) -> str:
        """What makes it this one."""
        return "|".join((self.at, ",".join(self.agents), ",".join(self.others), self.what, *self.names))

    def document(self) -> dict[str, Any]:
        """It as JSON."""
        return {
            "agents": list(self.agents),
            "others": list(self.others),
            "names": list(self.names),
            "what": self.what,
            "detail": self.detail,
            "at": self.at or None,
        }


@dataclass(frozen=True, eq=False)
class Happened:
    """An event, with a number of its own: later ones have greater ones. Equal to itself alone."""

    number: int
    event: Event


class Picture:
    """All that is shown, as far as it is known. Feed it with `took`, `heard` and their neighbours; read the attributes.

    Attributes:
        link: how it stands with the daemon.
        status: its last answer; None: none yet.
        agent: who acts in this view.
        claims: leases held and waited for.
        blockers: of a claim that waits: who is in its way.
        letters: messages of and for `agent`, by id.
        happened: events, the latest last.
    """

    def __init__(self, now: Now, agent: AgentId | None = None) -> None:
        self.link = Link("connecting", now)
        self.status: Status | None = None
        self.claims: dict[ClaimId, Claim] = {}
        self.blockers: Mapping[ClaimId, tuple[Conflict, ...]] = {}
        self.letters: dict[str, Letter] = {}
        self.happened: deque[Happened] = deque(maxlen=MAX_EVENTS)
        self._named = agent
        self._standing: tuple[Clash, ...] = ()
        self._told: dict[str, tuple[Clash, Instant]] = {}
        self._numbered = 0
        self._taken_at = ""

    # --- what is told -----------------------------------------------------------------------------------------------------

    def live(self, now: Now) -> None:
        """The daemon answers."""
        if self.link.state != "live":
            self.link = Link("live", now)

    def gone(self, reason: str, hint: str, now: Now) -> None:
        """The daemon does not answer: what is shown is of before."""
        since = self.link.since if self.link.state == "gone" else now
        self.link = Link("gone", since, reason, hint)

    def took(self, status: Status, now: Now) -> None:
        """Its status. `now`: before it was asked, so that nothing is shown for longer than it lasts."""
        self.status = status
        self._taken_at = iso_from_ms(now.wall_ms)
        self.claims = {lease.claim_id: Claim(lease, now.instant + lease.remaining_ms) for lease in status.leases}
        self.blockers = {id_: found for id_, found in self.blockers.items() if id_ in self.claims and not self.claims[id_].held}
        self._forget_old(now.instant)

    def heard(self, event: Event, now: Now) -> frozenset[Part]:
        """An event. The result: what it makes out of date."""
        if self._is_known(event):  # a replay of what was heard already
            return frozenset()
        self._numbered += 1
        self.happened.append(Happened(self._numbered, event))
        for clash in clashes_of(event):
            self._tell(clash, now)
        match event.type:
            case "heartbeat-sent" | "sync-completed":
                return frozenset()
            case "conflicts-detected" | "conflicts-cleared":
                return frozenset(("conflicts",))
            case "lease-renewed":
                return frozenset() if self._renewed(event, now) else frozenset(("status",))
            case "message-received" | "message-acknowledged":
                return frozenset(("messages",))
            case "issue-updated" | "spec-updated":
                return frozenset()
            case "work-started" | "work-completed" | "lease-acquired" | "lease-released" | "lease-expired" | "lease-lost":
                return frozenset(("status", "conflicts"))
            case _:
                return frozenset(("status",))

    def messages_are(self, messages: Iterable[Message], now: Now) -> None:
        """The messages of and for the acting agent."""
        self.letters = {message.message_id: Letter(message, now.instant + message.remaining_ms) for message in messages}

    def conflicts_are(self, found: Iterable[tuple[AgentId, Conflict]], foretold: Iterable[ForetoldConflict] = ()) -> None:
        """What agents of this clone run into, as `check` answered: whose work it is, and what is in its way; and what they and
        others have changed that would not merge."""
        met = (
            Clash((agent,), (conflict.agent_id,), (str(conflict.resource),), _WHAT[conflict.kind], conflict.note)
            for agent, conflict in found
        )
        self._standing = (*met, *map(_foretold, foretold))

    def blockers_are(self, found: Mapping[ClaimId, tuple[Conflict, ...]]) -> None:
        """Who is in the way of those who wait."""
        self.blockers = dict(found)

    # --- what is known ----------------------------------------------------------------------------------------------------

    @property
    def agent(self) -> AgentId:
        """Who acts: as named, else the daemon's default agent; empty: not known yet."""
        if self._named is not None:
            return self._named
        return next((a.agent_id for a in self.status.agents if a.default), "") if self.status is not None else ""

    @property
    def agents(self) -> tuple[PeerInfo, ...]:
        """Everybody, this clone's agents first, then by name."""
        found = self.status.peers if self.status is not None else ()
        return tuple(sorted(found, key=lambda peer: (peer.connection != "self", peer.agent_id, peer.peer_id)))

    @property
    def work(self) -> tuple[ActiveWork, ...]:
        """What everybody works on, by agent."""
        found = self.status.work if self.status is not None else ()
        return tuple(sorted(found, key=lambda work: (work.agent_id, work.peer_id)))

    @property
    def held(self) -> list[Claim]:
        """Leases that are held, by what they are on."""
        return sorted((claim for claim in self.claims.values() if claim.held), key=_by_resource)

    @property
    def queue(self) -> list[Claim]:
        """Those who wait, by what they wait for, and who is next first."""
        waiting = (claim for claim in self.claims.values() if not claim.held)
        return sorted(waiting, key=lambda claim: (claim.lease.resources, claim.lease.position or 0, claim.lease.claim_id))

    def clashes(self, now: Instant) -> list[Clash]:
        """Conflicts: those that stand, then those told of, the latest first."""
        standing = {(clash.agents, clash.others, clash.names) for clash in self._standing}
        told = [
            clash
            for clash, at in reversed(self._told.values())
            if now - at < STANDS_MS and (clash.agents, clash.others, clash.names) not in standing
        ]
        return [*self._standing, *told]

    def letters_by_age(self, now: Instant) -> list[Letter]:
        """Messages that are not over, the latest first."""
        current = [letter for letter in self.letters.values() if letter.until > now]
        return sorted(current, key=lambda letter: (letter.message.sent_at, letter.message.message_id), reverse=True)

    def unread(self, now: Instant) -> int:
        """Messages for the acting agent that it has not acknowledged."""
        return sum(1 for letter in self.letters_by_age(now) if self.is_unread(letter.message))

    def is_unread(self, message: Message) -> bool:
        """Whether it is for the acting agent, and new."""
        return not self.is_own(message) and self.agent not in message.acknowledged_by

    def is_own(self, message: Message) -> bool:
        """Whether the acting agent said it."""
        return message.mine and message.agent_id == self.agent

    def waiting_behind(self, claim: Claim, queue: Iterable[Claim] | None = None) -> list[Claim]:
        """Those who wait for a lease: as `blockers` has it, or for one of its names where nothing was asked yet. `queue`: all who
        wait, if it is at hand."""
        lease, names = claim.lease, set(claim.lease.resources)

        def stops(blocker: Conflict) -> bool:
            return (blocker.agent_id, blocker.peer_id) == (lease.agent_id, lease.peer_id) and blocker.resource in names

        return [
            other
            for other in (self.queue if queue is None else queue)
            if any(map(stops, self.blockers.get(other.lease.claim_id, ()))) or not names.isdisjoint(other.lease.resources)
        ]

    def document(self, now: Now) -> dict[str, Any]:
        """All of it as one JSON document, for programs."""
        return {
            "takenAt": self._taken_at or None,
            "agentId": self.agent,
            "agents": msgspec.to_builtins(self.agents),
            "work": msgspec.to_builtins(self.work),
            "leases": [self._shown(claim, now.instant) for claim in self.held],
            "queue": [
                self._shown(claim, now.instant) | {"blockedBy": msgspec.to_builtins(self.blockers.get(claim.lease.claim_id, ()))}
                for claim in self.queue
            ],
            "conflicts": [clash.document() for clash in self.clashes(now.instant)],
            "messages": [
                msgspec.to_builtins(letter.message) | {"remainingMs": letter.until - now.instant}
                for letter in self.letters_by_age(now.instant)
            ],
            "events": [msgspec.to_builtins(happened.event) for happened in self.happened],
        }

    # --- inside -----------------------------------------------------------------------------------------------------------

    def _shown(self, claim: Claim, now: Instant) -> dict[str, Any]:
        shown: dict[str, Any] = msgspec.to_builtins(claim.lease)
        return shown | {"remainingMs": claim.left_ms(now)}

    def _is_known(self, event: Event) -> bool:
        newest = self.happened[-1].event.timestamp if self.happened else ""
        return event.timestamp <= newest and any(event == known.event for known in reversed(self.happened))

    def _renewed(self, event: Event, now: Now) -> bool:
        """Take the new time left out of the event; False: it does not say. One from before the last status is of no interest."""
        try:
            lease = msgspec.convert(event.data["lease"], Lease)
        except (KeyError, msgspec.ValidationError):
            return False
        if event.timestamp < self._taken_at:
            return True
        if lease.claim_id not in self.claims:
            return False
        self.claims[lease.claim_id] = Claim(lease, now.instant + lease.remaining_ms)
        return True

    def _tell(self, clash: Clash, now: Now) -> None:
        told_at = instant_of(clash.at)
        age_ms = 0 if told_at is None else max(0, now.wall_ms - told_at)
        if age_ms < STANDS_MS:
            self._told.pop(clash.key, None)
            self._told[clash.key] = (clash, now.instant - age_ms)
            while len(self._told) > MAX_TOLD:
                del self._told[next(iter(self._told))]

    def _forget_old(self, now: Instant) -> None:
        self._told = {key: (clash, at) for key, (clash, at) in self._told.items() if now - at < STANDS_MS}


class Filter:
    """Which rows are shown: those that have every word, in any column and any case; none with a word that `-` stands before;
    `agent:NAME` those that concern an agent whose id begins so."""

    def __init__(self, text: str = "") -> None:
        self.text = " ".join(text.split())
        self._words: list[str] = []
        self._without: list[str] = []
        self._agents: list[str] = []
        for word in self.text.casefold().split():
            if word.startswith("agent:") and len(word) > len("agent:"):
                self._agents.append(word.removeprefix("agent:"))
            elif word.startswith("-") and len(word) > 1:
                self._without.append(word[1:])
            else:
                self._words.append(word)

    def __bool__(self) -> bool:
        return bool(self.text)

    def takes(self, text: str, agents: Sequence[AgentId]) -> bool:
        """Whether a row is shown. `text`: all that stands in it; `agents`: whom it concerns."""
        folded = text.casefold()
        return (
            all(word in folded for word in self._words)
            and not any(word in folded for word in self._without)
            and all(any(agent.casefold().startswith(wanted) for agent in agents) for wanted in self._agents)
        )


_WHAT: Final = {"lease": "holds it", "work": "works on it", "waiting": "waits for it", "merge": "would not merge"}
"""How the other one is on it, by the kind of a `Conflict`."""


def clashes_of(event: Event) -> list[Clash]:
    """The conflicts that an event tells of. What it says beyond what is known here is passed over, what it lacks is left empty:
    the daemon may be of another version."""
    if event.type != "conflicts-detected" or "foretold" in event.data:
        return []  # what is foretold is asked for: it is taken back, too
    data, agents, at = event.data, (event.agent_id,), event.timestamp
    conflicts = data.get("conflicts")
    if isinstance(conflicts, (list, tuple)):
        return [_clash_of(one, agents, at) for one in conflicts[:MAX_NAMES] if isinstance(one, dict)]
    names = _names_of(data.get("lease"))
    overlap = data.get("overlap")
    if isinstance(overlap, dict):
        return [Clash(agents, _one(overlap, "agentId"), names, "held it as well, and gave way", at=at)]
    return [Clash(agents, _one(data, "holder"), names, "wants it, with a higher priority", at=at)]


def resources_of(work: ActiveWork) -> tuple[Resource, ...]:
    """What an agent says that it works on."""
    return (
        *(Resource("issue", issue) for issue in work.issues),
        *(Resource("spec", spec) for spec in work.specs),
        *(Resource("file", file) for file in work.files),
    )


def instant_of(iso: str) -> int | None:
    """Milliseconds since 1970 of an ISO 8601 time; None if it is none."""
    try:
        then = datetime.fromisoformat(iso)
    except ValueError:
        return None
    return int((then if then.tzinfo is not None else then.replace(tzinfo=UTC)).timestamp() * 1000)


def _by_resource(claim: Claim) -> tuple[tuple[Resource, ...], ClaimId]:
    return claim.lease.resources, claim.lease.claim_id


def _clash_of(one: dict[str, Any], agents: tuple[AgentId, ...], at: str) -> Clash:
    kind = _text(one, "kind")
    return Clash(agents, _one(one, "agentId"), _names_of(one), _WHAT.get(kind, kind), _text(one, "note"), at)


def _foretold(conflict: ForetoldConflict) -> Clash:
    lines = where(msgspec.to_builtins(conflict.lines), msgspec.to_builtins(conflict.their_lines))
    told = [conflict.kind, *lines, *([f"on {conflict.their_branch}"] if conflict.their_branch else [])]
    return Clash(
        agents=conflict.agents,
        others=conflict.their_agents,
        names=(conflict.path,),
        what="would not merge" if conflict.certain else "may not merge",
        detail=", ".join(told),
    )


def _names_of(value: Any) -> tuple[str, ...]:
    """What a conflict or a lease is about: its `resource`, or its `resources`."""
    if not isinstance(value, dict):
        return ()
    listed = value.get("resources")
    found = listed[:MAX_NAMES] if isinstance(listed, (list, tuple)) else [value.get("resource")]
    names = []
    for one in found:
        try:
            names.append(str(msgspec.convert(one, Resource)))
        except msgspec.ValidationError:
            continue  # not ours to name
    return tuple(names)


def _text(value: Mapping[str, Any], key: str) -> str:
    found = value.get(key)
    return found if isinstance(found, str) else ""


def _one(value: Mapping[str, Any], key: str) -> tuple[AgentId, ...]:
    found = _text(value, key)
    return (found,) if found else ()
