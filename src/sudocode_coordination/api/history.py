"""What can be told from lease history alone, without a daemon: the bytes that are signed, and who held what when."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import msgspec

from sudocode_coordination.model import HistoryEntry

SIGNED_DOMAIN: Final = b"sudocode-coordination/lease-history/1\0"
"""Sets the signature of an entry apart from all else that a peer signs."""
CLOCK_ERROR_MS: Final = 1_000
"""How far a clock is taken to be off: ten times what machines that keep time over the network usually are."""
ENDED_UNSEEN: Final = "restarted"
"""Reason of an end that the holder did not live to see: it was at some time before `ended_at`."""

_encoder = msgspec.msgpack.Encoder()


def signed_bytes(entry: HistoryEntry) -> bytes:
    """What the signature of an entry covers: all but itself and `lapsed`, as one MessagePack array (`docs/lease-history.md`)."""
    body = (
        entry.claim_id,
        entry.peer_id,
        entry.agent_id,
        [(resource.type, resource.path) for resource in entry.resources],
        entry.mode,
        entry.priority,
        entry.grade,
        entry.token,
        entry.granted_at,
        entry.ended_at,
        entry.reason,
        entry.commit,
        entry.branch,
        entry.rival,
        entry.base,
        [(o.claim_id, o.peer_id, o.agent_id, o.since, o.until, o.base) for o in entry.overlaps],
        entry.stamp,
        entry.fold,
    )
    return SIGNED_DOMAIN + _encoder.encode(body)


class Held(NamedTuple):
    """A lease that was held at some time. `sure`: it was, unless clocks were off by more than was allowed for, or the holder
    lies. Else the time is too near its grant or its end to tell, or nobody knows when it ended."""

    entry: HistoryEntry
    sure: bool


def replay(entries: Iterable[HistoryEntry], at: datetime, *, clock_error_ms: int = CLOCK_ERROR_MS) -> list[Held]:
    """Who held something at a time: the sure ones first, else in the order given.

    The times of an entry are those of its holder's clock, and `at` is one of some clock, too: each may be off. So what began or
    ended within `clock_error_ms` of `at` is not sure. Neither is an end that the holder did not see (it was killed): it came at
    some time before it is written down. Nor is the present state of a lease whose holder vanished.

    Args:
        at: aware, or local time.
    """
    moment, error = at.astimezone(UTC), timedelta(milliseconds=clock_error_ms)
    found: list[Held] = []
    for entry in entries:
        began, ended = instant_of(entry.granted_at), instant_of(entry.ended_at)
        if began is None or (ended is None and entry.ended_at is not None) or moment - began < -error:
            continue
        if ended is not None and moment - ended >= error:
            continue
        seen = entry.reason != ENDED_UNSEEN and not entry.lapsed
        found.append(Held(entry, seen and moment - began >= error and (ended is None or moment - ended < -error)))
    return sorted(found, key=lambda held: not held.sure)


def instant_of(iso: str | None) -> datetime | None:
    """A time out of an entry; None if it is none."""
    try:
        moment = datetime.fromisoformat(iso) if iso else None
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment
