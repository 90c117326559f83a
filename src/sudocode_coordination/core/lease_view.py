"""Claims as clients and the shared document see them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

from sudocode_coordination.core.claims import Claims, Known, claim_id, incarnation_of
from sudocode_coordination.core.holdings import Holding
from sudocode_coordination.core.overlap import Overlap
from sudocode_coordination.core.wire import Aged, Agent, ClaimBody, Commit, Natural, Priority, Resources, Text, Time, TtlMs
from sudocode_coordination.model import (
    ClaimId,
    Conflict,
    Grade,
    Handover,
    Instant,
    Json,
    Lease,
    LeaseMode,
    LeaseState,
    PeerId,
    Resource,
)

MAX_KEY_CHARACTERS = 40
"""Of an entry's key: two numbers below 2^53 and a dot."""


class HandoverEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`model.Handover` out of the document, bounded: what a rival was handed becomes a part of own history."""

    commit: Commit
    branch: Annotated[str, Meta(max_length=250)] = ""
    agent_id: Agent
    at: Time


class LeaseEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A lease in the document's `leases` root, under `<incarnation>.<number>`. Renewals never enter it. Bounded as a claim is:
    it is disclosed to others as one."""

    agent: Agent
    resources: Resources
    mode: LeaseMode
    priority: Priority
    lamport: Natural
    ttl_ms: TtlMs
    state: LeaseState
    grade: Grade
    since: Time
    note: Text = ""
    fold: bool = False
    aged: Aged = 0
    token: Natural | None = None
    strict: bool = False
    handover: HandoverEntry | None = None
    signature: Annotated[str, Meta(max_length=100)] = ""
    """Of a granted one: by its owner, over it as an open entry of the history."""


def is_entry_key(key: str) -> bool:
    """Whether that can be the key of a lease's entry, or of the history's."""
    incarnation, _, number = key.partition(".")
    return len(key) <= MAX_KEY_CHARACTERS and incarnation.isdecimal() and number.isdecimal()


def entry_key(claim: ClaimId) -> str:
    """`<incarnation>.<number>` of a claim id."""
    return claim.split(".", 1)[1]


def entry_of(holding: Holding, signature: str = "") -> Json:
    """What the document holds of an own claim."""
    body, left = holding.body, holding.known.handover
    entry = LeaseEntry(
        agent=body.agent,
        resources=body.resources,
        mode=body.mode,
        priority=body.priority,
        lamport=body.lamport,
        ttl_ms=body.ttl_ms,
        state="granted" if holding.granted else "pending",
        grade=holding.grade,
        since=holding.known.since,
        note=body.note,
        fold=body.fold,
        aged=body.aged,
        token=holding.token,
        strict=holding.strict,
        handover=HandoverEntry(commit=left.commit, branch=left.branch, agent_id=left.agent_id, at=left.at) if left else None,
        signature=signature,
    )
    return msgspec.to_builtins(entry)


def known_from_entry(owner: PeerId, key: str, value: Json, now: Instant, stretched: int) -> Known | None:
    """A claim out of the document; None if the entry is none."""
    if not is_entry_key(key):
        return None
    incarnation, _, number = key.partition(".")
    try:
        entry = msgspec.convert(value, LeaseEntry)
        body = ClaimBody(
            id=claim_id(owner, int(incarnation), int(number)),
            agent=entry.agent,
            resources=entry.resources,
            mode=entry.mode,
            priority=entry.priority,
            lamport=entry.lamport,
            ttl_ms=entry.ttl_ms,
            note=entry.note,
            fold=entry.fold,
            aged=entry.aged,
        )
    except (msgspec.ValidationError, ValueError):
        return None
    if incarnation_of(body.id) < 0:
        return None
    known = Known(body, "document", now + stretched, entry.since)
    known.granted, known.grade = entry.state == "granted", entry.grade
    known.strict, known.token = entry.strict, entry.token
    known.granted_since = entry.since if known.granted else ""
    if (left := entry.handover) is not None:
        known.handover = Handover(commit=left.commit, branch=left.branch, agent_id=left.agent_id, at=left.at)
    return known


def describe(known: Known, holding: Holding | None, now: Instant) -> Lease:
    """A claim as a `Lease`."""
    body = known.body
    strict, token = (holding.strict, holding.token) if holding else (known.strict, known.token)
    granted = (holding.granted if holding else known.granted) and (token is not None or not strict)
    until = holding.valid_until if holding and holding.granted else holding.sent_at + holding.hold_ms if holding else known.expiry
    if holding and token is not None:
        until = min(until, holding.strict_until)
    return Lease(
        claim_id=body.id,
        peer_id=known.owner,
        agent_id=body.agent,
        resources=body.resources,
        mode=body.mode,
        priority=body.priority,
        state="granted" if granted else "pending",
        grade=holding.grade if holding else known.grade,
        ttl_ms=holding.ttl_ms if holding else body.ttl_ms,
        remaining_ms=max(0, min(until - now, holding.ttl_ms if holding else body.ttl_ms)),
        since=known.since,
        note=body.note,
        mine=known.source == "own",
        handover=known.handover,
        strict=strict,
        token=token,
    )


def conflicts_of(
    blocking: Iterable[Known],
    resources: Iterable[Resource],
    own: dict[ClaimId, Holding],
    now: Instant,
    *,
    fold_case: bool = False,
) -> tuple[Conflict, ...]:
    """Who is in the way of these resources, holders first. What is named is what the other has: the folder, not the file in it.
    `fold_case`: of the claim or the clone that wants them."""
    wanted = Overlap()
    wanted.add("wanted", tuple(resources), fold_case=fold_case)
    found: list[Conflict] = []
    for known in blocking:
        lease = describe(known, own.get(known.body.id), now)
        found += [
            Conflict(
                resource=resource,
                kind="lease" if lease.state == "granted" else "waiting",
                agent_id=lease.agent_id,
                peer_id=lease.peer_id,
                priority=lease.priority,
                remaining_ms=lease.remaining_ms,
                note=lease.note,
            )
            for resource in lease.resources
            if wanted.touches(resource, fold_case=known.body.fold)
        ]
    return tuple(sorted(found, key=lambda c: (c.kind != "lease", c.resource, c.agent_id)))


def conflicts_on(
    claims: Claims,
    resources: tuple[Resource, ...],
    agent: str,
    me: PeerId,
    own: dict[ClaimId, Holding],
    now: Instant,
    *,
    fold_case: bool = False,
) -> tuple[Conflict, ...]:
    """What an agent of this peer would run into on these resources."""
    touching = claims.touching(resources, now, fold_case=fold_case)
    others = [k for k in touching if not (k.owner == me and k.body.agent == agent)]
    return conflicts_of(others, resources, own, now, fold_case=fold_case)
