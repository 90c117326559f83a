"""Judges a recorded run of real daemons: what they promised is held against what they told, what clients were answered, and which
faults were made meanwhile. Pure: no clock, no files; the same history gives the same verdict.

All times are milliseconds of one machine's wall clock, which is what daemons put into events (`recorder.py` checks that nobody set
it meanwhile). When something happened within the daemon's step at t, it is told as t: so of two things of which one led to the
other, the first has no later time, and no tolerance is needed between them.

A lease's span ends where its own daemon ends it: at the event that says so, or when its time was over by what was told last, or
with the daemon's death, whichever is first. What others believe of it does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Final, Literal, TypeAlias, assert_never

import msgspec

from sudocode_coordination.model import Grade, LeaseMode, Resource

TOLD_MS: Final = 5_000
"""After two daemons have met again, so soon one of two overlapping holders must have been told. It is one message; a busy machine
and TCP's repetition after a short cut make it seconds."""
LATE_MS: Final = 3_000
"""An end by the clock alone is told by a timer, which may be late on a busy machine."""
ROUNDING_MS: Final = 2
"""Of times that are the sum of two rounded ones, and of clients' times against daemons' ones."""

Ends: TypeAlias = Literal["released", "expired", "lost", "replaced", "died", "ran-out", "open"]
Kind: TypeAlias = Literal["acquire", "release", "renew", "look"]
ToldKind: TypeAlias = Literal["lease-acquired", "lease-renewed", "lease-released", "lease-expired", "lease-lost"]
Rule: TypeAlias = Literal[
    "exclusion",
    "apart",
    "kept",
    "revived",
    "untold",
    "unanswered",
    "unfounded",
    "nameless",
    "token",
    "chain",
    "real-time",
    "lost",
    "stale",
]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what a history is made of."""


class Told(Record, frozen=True, kw_only=True):
    """An event about a lease that the daemon holds itself, as it told it."""

    at: int
    daemon: str
    kind: ToldKind
    claim: str
    agent: str
    resources: tuple[Resource, ...]
    mode: LeaseMode = "exclusive"
    grade: Grade = "quorum"
    remaining_ms: int = 0
    token: int | None = None
    reason: str = ""


class Call(Record, frozen=True, kw_only=True):
    """What a client asked, and what came of it. `answered` None: nothing was, because of `error`."""

    daemon: str
    agent: str
    kind: Kind
    begun: int
    answered: int | None
    resources: tuple[Resource, ...] = ()
    mode: LeaseMode = "exclusive"
    strict: bool = False
    granted: bool = False
    claims: tuple[str, ...] = ()
    """Granted, released, renewed or seen."""
    token: int | None = None
    holders: tuple[str, ...] = ()
    """Who is in the way, and holds it."""
    reason: str = ""
    error: str = ""


class Fault(Record, frozen=True, kw_only=True):
    """Daemons that could not hear each other, and until when: both said that they had met again. `died`: a daemon that was killed
    at `begun`."""

    what: str
    begun: int
    until: int
    apart: frozenset[frozenset[str]] = frozenset()
    died: str = ""


class Commit(Record, frozen=True, kw_only=True):
    """One commit of the strict table's chain: the entries that it has, by claim, and their tokens."""

    revision: int
    entries: dict[str, Entry]


class Entry(Record, frozen=True, kw_only=True):
    """A strict lease in the table."""

    agent: str
    resources: tuple[Resource, ...]
    mode: LeaseMode = "exclusive"
    token: int


class History(Record, frozen=True, kw_only=True):
    """One run. `told` in the order of each daemon."""

    told: tuple[Told, ...]
    calls: tuple[Call, ...] = ()
    faults: tuple[Fault, ...] = ()
    chain: tuple[Commit, ...] = ()
    ended: int


class Span(msgspec.Struct, kw_only=True):
    """While one agent held something, with one grade."""

    claim: str
    agent: str
    daemon: str
    resources: tuple[Resource, ...]
    mode: LeaseMode
    grade: Grade
    begin: int
    end: int
    by: Ends = "open"

    def __str__(self) -> str:
        names = ", ".join(map(str, self.resources))
        what = f"{self.mode}, {self.grade}, {self.claim[-12:]}"
        return f"{self.agent} at {self.daemon} on {names} ({what}) {self.begin} to {self.end}, {self.by}"


class Violation(Record, frozen=True, kw_only=True):
    """What must not be."""

    rule: Rule
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"


class Verdict(Record, frozen=True, kw_only=True):
    """What was found, and how much there was to find it in."""

    violations: tuple[Violation, ...]
    spans: tuple[Span, ...]
    grants: int
    denials: int
    overlaps: int
    """Of provisional leases of daemons that were apart: allowed."""


def check(history: History) -> Verdict:
    """All rules."""
    found: list[Violation] = []
    spans = spans_of(history, found)
    overlaps = _exclusion(history, spans, found)
    _answers(history, spans, found)
    _chain(history, found)
    _stale(history, spans, found)
    acquires = [call for call in history.calls if call.kind == "acquire" and call.answered is not None and not call.error]
    return Verdict(
        violations=tuple(found),
        spans=tuple(spans),
        grants=sum(1 for call in acquires if call.granted),
        denials=sum(1 for call in acquires if not call.granted),
        overlaps=overlaps,
    )


# --- who held what, from when to when --------------------------------------------------------------------------------------------


class _Open:
    """A lease while it is held."""

    def __init__(self, told: Told) -> None:
        self.told = told
        self.until = told.at + told.remaining_ms
        self.begin = told.at

    def span(self, end: int, by: Ends) -> Span:
        told = self.told
        return Span(
            claim=told.claim,
            agent=told.agent,
            daemon=told.daemon,
            resources=told.resources,
            mode=told.mode,
            grade=told.grade,
            begin=self.begin,
            end=max(self.begin, min(end, self.until)),
            by="ran-out" if by in ("died", "open") and end > self.until else by,
        )


class _Lives:
    """Follows the events."""

    def __init__(self, found: list[Violation]) -> None:
        self.found = found
        self.spans: list[Span] = []
        self.open: dict[str, _Open] = {}
        self._over: set[str] = set()

    def close(self, claim: str, at: int, by: Ends) -> None:
        """It is held no more; a second word about its end says nothing new."""
        lease = self.open.pop(claim, None)
        if lease is not None:
            self.spans.append(lease.span(at, by))
            self._over.add(claim)

    def died(self, daemon: str, at: int) -> None:
        """So all that it held is over."""
        for claim in [claim for claim, lease in self.open.items() if lease.told.daemon == daemon]:
            self.close(claim, at, "died")

    def hear(self, told: Told) -> None:
        """The next event."""
        match told.kind:
            case "lease-acquired":
                if told.claim in self.open or told.claim in self._over:
                    self._revived(told, "was granted twice")
                for claim in [claim for claim, other in self.open.items() if _replaces(told, other.told)]:
                    self.close(claim, told.at, "replaced")
                self.open[told.claim] = _Open(told)
            case "lease-renewed":
                self._renewed(told)
            case "lease-released":
                self.close(told.claim, told.at, "released")
            case "lease-expired":
                self.close(told.claim, told.at, "expired")
            case "lease-lost":
                self.close(told.claim, told.at, "lost")
            case _:
                assert_never(told.kind)

    def _renewed(self, told: Told) -> None:
        lease = self.open.get(told.claim)
        if lease is None:
            self._revived(told, "was renewed when it was not held")
            return
        if told.at > lease.until + ROUNDING_MS:
            self._revived(told, f"was renewed after its end at {lease.until}")
        if told.grade != lease.told.grade:
            self.spans.append(lease.span(told.at, "open"))
            lease.begin = told.at
        lease.told, lease.until = told, told.at + told.remaining_ms

    def _revived(self, told: Told, what: str) -> None:
        self.found.append(Violation(rule="revived", text=f"{told.claim} of {told.agent} {what}, at {told.at}"))


def spans_of(history: History, found: list[Violation]) -> list[Span]:
    """Every lease as spans of one grade each; and what is wrong with its life: revived, or ended without a word."""
    lives = _Lives(found)
    stream: list[tuple[int, int, Told | Fault]] = [(told.at, 0, told) for told in history.told]
    stream += [(fault.begun, 1, fault) for fault in history.faults if fault.died]
    for at, _, item in sorted(stream, key=lambda entry: entry[:2]):
        match item:
            case Fault(died=daemon):
                lives.died(daemon, at)
            case Told():
                lives.hear(item)
            case _:
                assert_never(item)
    for lease in lives.open.values():
        span = lease.span(history.ended, "open")
        lives.spans.append(span)
        if _able_to_tell(history, lease) + LATE_MS < history.ended:
            found.append(Violation(rule="untold", text=f"{span}: it was over at {lease.until}, and nobody was told"))
    return sorted(lives.spans, key=lambda span: (span.begin, span.claim))


def _replaces(new: Told, old: Told) -> bool:
    """An agent's claim that is granted takes the place of one that it covers, without a word."""
    same = new.daemon == old.daemon and new.agent == old.agent and new.claim != old.claim
    return same and all(any(clash(mine, other) for mine in new.resources) for other in old.resources)


def _able_to_tell(history: History, lease: _Open) -> int:
    """Since when the daemon could have told that the lease's time is over: one that is stopped tells nothing."""
    at = lease.until
    for fault in history.faults:
        if fault.what == "stop" and fault.begun <= at and any(lease.told.daemon in pair for pair in fault.apart):
            at = max(at, fault.until)
    return at


# --- exclusion -------------------------------------------------------------------------------------------------------------------


def clash(one: Resource, other: Resource) -> bool:
    """Whether two plain names stand in each other's way: the same, or one a folder of the other. Patterns are not for here."""
    if one.type != other.type:
        return False
    if one.type not in ("file", "spec"):
        return one.path == other.path
    a, b = one.path.rstrip("/") + "/", other.path.rstrip("/") + "/"
    return a.startswith(b) or b.startswith(a)


def conflict(one: Span, other: Span) -> bool:
    """Whether two agents must not hold these at the same time."""
    if one.agent == other.agent and one.daemon == other.daemon:
        return False
    if one.mode == other.mode == "shared":
        return False
    return any(clash(mine, theirs) for mine in one.resources for theirs in other.resources)


def _exclusion(history: History, spans: Sequence[Span], found: list[Violation]) -> int:
    allowed = 0
    for one, other in _meeting(spans):
        begin, end = max(one.begin, other.begin), min(one.end, other.end)
        if begin >= end or not conflict(one, other):
            continue
        grades = {one.grade, other.grade}
        if grades == {"quorum"} or grades == {"strict"}:
            found.append(Violation(rule="exclusion", text=f"{end - begin} ms of {one} and {other}"))
            continue
        pair = frozenset((one.daemon, other.daemon))
        spell = next((f for f in history.faults if pair in f.apart and f.begun <= begin <= f.until), None)
        if spell is None:
            found.append(Violation(rule="apart", text=f"nothing was between {one} and {other}"))
            continue
        allowed += 1
        # They may have been parted anew before they could speak of it.
        last = max((f.until for f in history.faults if pair in f.apart and f.begun <= end), default=spell.until)
        if end > last + TOLD_MS:
            found.append(Violation(rule="kept", text=f"they met at {last}, and yet {one} and {other} until {end}"))
    return allowed


def _meeting(spans: Sequence[Span]) -> Iterable[tuple[Span, Span]]:
    """Pairs that overlap in time; `spans` are sorted by their beginning."""
    live: list[Span] = []
    for span in sorted(spans, key=lambda s: s.begin):
        live = [other for other in live if other.end > span.begin]
        for other in live:
            yield other, span
        live.append(span)


# --- what clients were answered -----------------------------------------------------------------------------------------------


def _answers(history: History, spans: Sequence[Span], found: list[Violation]) -> None:
    began: dict[str, int] = {}
    held: dict[str, list[Span]] = {}
    for span in spans:
        began.setdefault(span.claim, span.begin)
        held.setdefault(span.claim, []).append(span)
    for call in history.calls:
        if call.answered is None and not call.error:
            found.append(Violation(rule="unanswered", text=f"{call.agent} asked at {call.begun} and heard nothing: {call.kind}"))
        if call.answered is None or call.error:
            continue
        if call.kind == "look":
            for claim in call.claims:
                seen = held.get(claim, [])
                if not any(s.begin - ROUNDING_MS <= call.answered and s.end + ROUNDING_MS >= call.begun for s in seen):
                    text = f"{call.agent} was shown {claim} between {call.begun} and {call.answered}, when it was over"
                    found.append(Violation(rule="unfounded", text=text))
        if call.kind != "acquire":
            continue
        if not call.granted:
            if not call.holders and not call.reason:
                found.append(Violation(rule="nameless", text=f"{call.agent} was denied at {call.answered}, and not told why"))
            continue
        for claim in call.claims:
            if claim not in began or began[claim] > call.answered + ROUNDING_MS:
                text = f"{call.agent} was told at {call.answered} that it has {claim}, which its daemon does not know"
                found.append(Violation(rule="unfounded", text=text))


# --- strict leases: the chain is the order ------------------------------------------------------------------------------------


def _chain(history: History, found: list[Violation]) -> None:
    came: dict[str, int] = {}
    went: dict[str, int] = {}
    tokens: dict[str, int] = {}
    highest = revision = 0
    before: dict[str, Entry] = {}
    for commit in history.chain:
        if commit.revision <= revision:
            found.append(Violation(rule="chain", text=f"revision {commit.revision} after {revision}"))
        revision = commit.revision
        new = sorted((e.token, claim) for claim, e in commit.entries.items() if claim not in before)
        for token, claim in new:
            if claim in came:
                found.append(Violation(rule="chain", text=f"{claim} is in the table again at {revision}"))
            came.setdefault(claim, revision)
            tokens[claim] = token
        if new and new[0][0] <= highest:
            found.append(Violation(rule="token", text=f"token {new[0][0]} of {new[0][1]} after {highest}"))
        highest = max([highest, *(token for token, _ in new)])
        for claim in before:
            if claim not in commit.entries:
                went[claim] = revision
            elif commit.entries[claim].token != before[claim].token:
                found.append(Violation(rule="token", text=f"{claim} changed its token at {revision}"))
        found += _clashing(commit)
        before = commit.entries
    _acknowledged(history, tokens, went, found)


def _clashing(commit: Commit) -> list[Violation]:
    found = []
    for (one_claim, one), (other_claim, other) in combinations(sorted(commit.entries.items()), 2):
        shared = one.mode == other.mode == "shared"
        if one.agent != other.agent and not shared and any(clash(a, b) for a in one.resources for b in other.resources):
            text = f"revision {commit.revision} has {one_claim} of {one.agent} and {other_claim} of {other.agent}"
            found.append(Violation(rule="exclusion", text=text))
    return found


def _acknowledged(history: History, tokens: dict[str, int], went: dict[str, int], found: list[Violation]) -> None:
    """Every strict operation that was acknowledged is in the chain, and grants have the order of those that were not at the same
    time. (A release counts when its holder has let go; the table follows, which nobody can tell apart: see `_stale`.)"""
    grants: list[tuple[int, int, int, str]] = []
    for call in history.calls:
        if not call.strict or call.answered is None or call.error:
            continue
        for claim in call.claims:
            what = f"{call.kind} of {claim} by {call.agent}"
            granted = call.kind == "acquire" and call.granted
            if (granted and claim not in tokens) or (call.kind == "release" and claim not in went):
                found.append(Violation(rule="lost", text=f"{what} was acknowledged at {call.answered}, and is not in the chain"))
            elif granted:
                if call.token != tokens[claim]:
                    text = f"{call.agent} was told token {call.token}, the table has {tokens[claim]}"
                    found.append(Violation(rule="token", text=text))
                grants.append((call.begun, call.answered, tokens[claim], what))
    latest, who = 0, ""
    by_end = sorted(grants, key=lambda grant: grant[1])
    done = 0
    for begun, _, token, what in sorted(grants):
        while done < len(by_end) and by_end[done][1] < begun:
            if by_end[done][2] > latest:
                latest, who = by_end[done][2], by_end[done][3]
            done += 1
        if token < latest:
            text = f"{who} was over before {what} began, but comes after it ({latest} and {token})"
            found.append(Violation(rule="real-time", text=text))


def _stale(history: History, spans: Sequence[Span], found: list[Violation]) -> None:
    """A strict lease is not denied for one that was given back before it was asked for, by somebody within reach who does not ask
    for it again meanwhile: one that is on its way to the table is in the way, though its agent is yet to be told."""
    asking: dict[str, list[Call]] = {}
    for call in history.calls:
        if call.kind == "acquire":
            asking.setdefault(call.agent, []).append(call)
    of_agent: dict[str, list[Span]] = {}
    for span in spans:
        of_agent.setdefault(span.agent, []).append(span)
    for call in history.calls:
        if not call.strict or call.kind != "acquire" or call.granted or call.answered is None or not call.holders:
            continue
        meant = [
            span
            for holder in call.holders
            for span in of_agent.get(holder, ())
            if span.begin <= call.answered and any(clash(mine, theirs) for mine in call.resources for theirs in span.resources)
        ]
        given_back = [span for span in meant if span.by == "released" and span.end + ROUNDING_MS < call.begun]
        again = any(
            other.begun <= call.answered
            and (other.answered is None or other.answered >= call.begun)
            and any(clash(mine, theirs) for mine in call.resources for theirs in other.resources)
            for holder in call.holders
            for other in asking.get(holder, ())
        )
        if not meant or again or len(given_back) < len(meant):
            continue
        latest = max(given_back, key=lambda span: span.end)
        pair = frozenset((call.daemon, latest.daemon))
        if not any(pair in f.apart and f.begun <= call.answered and f.until >= call.begun for f in history.faults):
            found.append(Violation(rule="stale", text=f"{call.agent} was denied at {call.answered} because of {latest}"))
