"""`coord leases --history`: who held this when."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from sudocode_coordination.api.history import instant_of, replay
from sudocode_coordination.api.requests import LeaseHistory
from sudocode_coordination.cli.render import ago, resource_names
from sudocode_coordination.cli.screen import Block, Cell, Styled, Table
from sudocode_coordination.cli.session import Session
from sudocode_coordination.cli.text import clean, shown_duration
from sudocode_coordination.errors import UsageError
from sudocode_coordination.model import ClaimId, HistoryEntry

EVERYTHING: Final = True
"""What `--history` is without a resource. Not an empty name: that names nothing, and is refused as everywhere."""
SHOWN_COMMIT = 10
"""Digits of a commit id in a table."""


def history(session: Session, args: Namespace) -> int:
    """Leases on what overlaps the resource, the latest first; with `--at` those that were, or may have been, held then."""
    resources = () if args.history is EVERYTHING else session.resources([args.history], args.type)
    answer = session.ask(LeaseHistory(resources=resources))
    shown: dict[str, object] = {}
    entries, unsure = list(answer), frozenset[ClaimId]()
    if args.at is not None:
        found = replay(entries, parse_instant(args.at))
        entries, unsure = [held.entry for held in found], frozenset(held.entry.claim_id for held in found if not held.sure)
        shown["unsure"] = sorted(unsure)
    session.screen.show({"history": msgspec.to_builtins(entries)} | shown, history_blocks(entries, unsure))
    return 0


def parse_instant(text: str) -> datetime:
    """A time as people write it: ISO 8601, without a zone in the local one.

    Raises:
        UsageError: it is none.
    """
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):  # in the first or the last year, another zone's time may be beyond what there is
        raise UsageError(f"{text!r} is no time", hint="write it like 2026-01-31T14:05 or 2026-01-31T13:05:00Z") from None


def history_blocks(entries: Sequence[HistoryEntry], unsure: frozenset[ClaimId] = frozenset()) -> list[Block]:
    """A table, in the order given. `unsure`: may have been held at the time that was asked about."""
    if not entries:
        return ["nobody is known to have held it"]
    rows: list[tuple[Cell, ...]] = []
    for entry in entries:
        begin, end = instant_of(entry.granted_at), instant_of(entry.ended_at)
        lasted = "-" if begin is None or end is None else shown_duration((end - begin).total_seconds() * 1000)
        grade = f"strict, token {entry.token}" if entry.token is not None else entry.grade
        commit = clean(entry.commit[:SHOWN_COMMIT]) if entry.commit else "-"
        held: Cell = "lapsed" if entry.lapsed else Styled("held", "green")
        ended: Cell = held if entry.ended_at is None else clean(entry.reason or "ended")
        if entry.rival:
            ended = f"{ended} ({clean(entry.rival)})"
        if entry.claim_id in unsure:
            ended = f"{ended if isinstance(ended, str) else 'held'}, not sure"
        rows.append(
            (
                clean(entry.agent_id),
                resource_names(entry.resources),
                clean(entry.granted_at, 30),
                ago(entry.granted_at),
                lasted,
                ended,
                grade + (", shared" if entry.mode == "shared" else ""),
                f"{commit} {clean(entry.branch, 60)}".strip() if entry.commit else "-",
            )
        )
    return [Table(("agent", "resource", "from", "when", "for", "end", "grade", "left behind"), tuple(rows), frozenset(("grade",)))]
