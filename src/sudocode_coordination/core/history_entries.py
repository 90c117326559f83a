"""Entries of the lease history: as they stand in the document, as they are told and exported, and the signature that makes them
proof by themselves."""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as Base64Error
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from sudocode_coordination.api.history import signed_bytes
from sudocode_coordination.core.claims import owner_of
from sudocode_coordination.core.holdings import Holding
from sudocode_coordination.core.keyring import Keyring
from sudocode_coordination.core.lease_view import LeaseEntry, is_entry_key
from sudocode_coordination.core.wire import Agent, Commit, Id, Natural, Priority, Resources, Text, Time
from sudocode_coordination.model import (
    Grade,
    HistoryEntry,
    Json,
    Lease,
    LeaseMode,
    Overlapped,
    PeerId,
)

MAX_OVERLAPS: Final = 8
"""Leases that one was held along with, as far as they are written down. More takes a swarm that fell apart as often."""
_BRANCH: Final = re.compile(r"(?![-/])(?!.*(?:\.\.|//|@\{))[^\x00-\x20\x7f~^:?*\[\\]{1,250}\Z")


class OverlapRecord(msgspec.Struct, frozen=True, array_like=True):
    """`model.Overlapped` in the document; the peer's id is in the claim's."""

    claim: Id
    agent: Agent
    since: Time
    until: Time
    base: Commit | None = None


class HistoryRecord(msgspec.Struct, frozen=True, array_like=True):
    """An ended lease in the document's `leaseHistory` root, under `<incarnation>.<number>`: `model.HistoryEntry`, as short as can
    be, since every peer has it. Bounded, as it comes from others."""

    signature: Annotated[str, Meta(max_length=100)]
    agent: Agent
    resources: Resources
    mode: LeaseMode
    priority: Priority
    grade: Grade
    granted_at: Time
    ended_at: Time
    reason: Annotated[str, Meta(max_length=100)]
    stamp: Natural
    token: Natural | None = None
    commit: Commit | None = None
    branch: Annotated[str, Meta(max_length=250)] = ""
    rival: Text = ""
    base: Commit | None = None
    overlaps: Annotated[tuple[OverlapRecord, ...], Meta(max_length=MAX_OVERLAPS)] = ()
    fold: bool = False


def branch_of(text: str) -> str:
    """The text if git could have a branch of that name, else nothing: it ends up in a command that people are told to type."""
    return text if _BRANCH.match(text) and text.isprintable() else ""


def verify(entry: HistoryEntry, keyring: Keyring) -> bool:
    """Whether the peer that the entry names has signed it, and it is about a claim of that peer. Needs nothing but the entry:
    the peer's id holds its key. Any keyring does."""
    try:
        signature = b64decode(entry.signature, validate=True)
    except (Base64Error, ValueError):
        return False
    return owner_of(entry.claim_id) == entry.peer_id and keyring.verify(entry.peer_id, signed_bytes(entry), signature)


def entry_from_record(owner: PeerId, key: str, value: Json) -> HistoryEntry | None:
    """An ended lease out of the document, not verified; None if it is none."""
    record = record_of(key, value)
    return None if record is None else entry_of_record(owner, key, record)


def entry_from_lease(owner: PeerId, key: str, value: Json) -> HistoryEntry | None:
    """A lease that is held, out of the document, not verified; None if it is none, or is not signed."""
    try:
        lease = msgspec.convert(value, LeaseEntry) if is_entry_key(key) else None
    except (msgspec.ValidationError, ValueError):
        return None
    if lease is None or lease.state != "granted" or (lease.strict and lease.token is None):
        return None
    return HistoryEntry(
        claim_id=f"{owner}.{key}",
        peer_id=owner,
        agent_id=lease.agent,
        resources=lease.resources,
        mode=lease.mode,
        priority=lease.priority,
        grade=lease.grade,
        token=lease.token,
        granted_at=lease.since,
        base=lease.handover.commit if lease.handover else None,
        fold=lease.fold,
        signature=lease.signature,
    )


def record_of(key: str, value: Json) -> HistoryRecord | None:
    """What stands under a key of `leaseHistory`; None if it is no ended lease."""
    try:
        return msgspec.convert(value, HistoryRecord) if is_entry_key(key) else None
    except (msgspec.ValidationError, ValueError):
        return None


def entry_of_record(owner: PeerId, key: str, record: HistoryRecord) -> HistoryEntry:
    """An ended lease, not verified."""
    return HistoryEntry(
        claim_id=f"{owner}.{key}",
        peer_id=owner,
        agent_id=record.agent,
        resources=record.resources,
        mode=record.mode,
        priority=record.priority,
        grade=record.grade,
        token=record.token,
        granted_at=record.granted_at,
        ended_at=record.ended_at,
        reason=record.reason,
        commit=record.commit,
        branch=record.branch,
        rival=record.rival,
        base=record.base,
        overlaps=tuple(
            Overlapped(claim_id=o.claim, peer_id=owner_of(o.claim), agent_id=o.agent, since=o.since, until=o.until, base=o.base)
            for o in record.overlaps
        ),
        stamp=record.stamp,
        fold=record.fold,
        signature=record.signature,
    )


def compact(entry: HistoryEntry) -> HistoryRecord:
    """An ended lease as the document holds it."""
    assert entry.ended_at is not None
    return HistoryRecord(
        signature=entry.signature,
        agent=entry.agent_id,
        resources=entry.resources,
        mode=entry.mode,
        priority=entry.priority,
        grade=entry.grade,
        granted_at=entry.granted_at,
        ended_at=entry.ended_at,
        reason=entry.reason,
        stamp=entry.stamp,
        token=entry.token,
        commit=entry.commit,
        branch=entry.branch,
        rival=entry.rival,
        base=entry.base,
        overlaps=tuple(OverlapRecord(o.claim_id, o.agent_id, o.since, o.until, o.base) for o in entry.overlaps),
        fold=entry.fold,
    )


def open_entry(holding: Holding) -> HistoryEntry:
    """An own lease that is held, not signed."""
    known = holding.known
    return HistoryEntry(
        claim_id=holding.body.id,
        peer_id=known.owner,
        agent_id=holding.body.agent,
        resources=holding.body.resources,
        mode=holding.body.mode,
        priority=holding.body.priority,
        grade=holding.grade,
        token=holding.token,
        granted_at=known.since,
        base=known.handover.commit if known.handover else None,
        fold=holding.body.fold,
        signature="",
    )


def as_lease(entry: HistoryEntry) -> Lease:
    """An own lease that is over, as events tell of leases."""
    return Lease(
        claim_id=entry.claim_id,
        peer_id=entry.peer_id,
        agent_id=entry.agent_id,
        resources=entry.resources,
        mode=entry.mode,
        priority=entry.priority,
        grade=entry.grade,
        ttl_ms=0,
        remaining_ms=0,
        since=entry.granted_at,
        mine=True,
        strict=entry.token is not None,
        token=entry.token,
    )
