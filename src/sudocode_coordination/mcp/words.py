"""Tool answers in a few words: what an agent that reads no structured output needs, ids included.

All that came from others passes `clean`: one line, nothing that steers a terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sudocode_coordination.cli.conflicts import conflict_lines, foretold_line
from sudocode_coordination.cli.text import clean, shown_duration
from sudocode_coordination.errors import CoordinationError
from sudocode_coordination.mcp.shapes import (
    ConflictShape,
    ForetoldShape,
    LeaseShape,
    LostShape,
    MessageShape,
    UpdateShape,
    WaitsShape,
    WorkShape,
)

MAX_LINES: Final = 12
"""Lines of a kind in a text; structured output has more."""
MAX_NAMES: Final = 6
"""Resources of one entry that are named."""


def names(resources: Sequence[str]) -> str:
    """Comma-separated, the rest as a number."""
    shown = ", ".join(clean(name) for name in resources[:MAX_NAMES])
    return shown if len(resources) <= MAX_NAMES else f"{shown} and {len(resources) - MAX_NAMES} more"


def error_text(error: CoordinationError) -> str:
    """What went wrong, and the next step."""
    return f"{error.message} ({error.code})." + (f" Next: {error.hint}." if error.hint else "")


def conflict_text(conflicts: Sequence[ConflictShape]) -> list[str]:
    """One line each."""
    return conflict_lines([{**one.model_dump(by_alias=True)} for one in conflicts[:MAX_LINES]]) + _rest(conflicts)


def foretold_lines(foretold: Sequence[ForetoldShape]) -> list[str]:
    """One line each."""
    return [foretold_line(one.model_dump(by_alias=True)) for one in foretold[:MAX_LINES]] + _rest(foretold)


def lease_line(lease: LeaseShape) -> str:
    """`bob holds src/a.py (4m left, renewed): refactoring`."""
    note = f": {clean(lease.note, 80)}" if lease.note else ""
    if lease.state == "pending":
        place = f" (place {lease.position} in line)" if lease.position is not None else ""
        return f"{clean(lease.agent_id)} waits for {names(lease.resources)}{place}{note}"
    shared = ", shared" if lease.mode == "shared" else ""
    return (
        f"{clean(lease.agent_id)} holds {names(lease.resources)} ({shown_duration(lease.remaining_ms)} left, renewed{shared}){note}"
    )


def lease_lines(leases: Sequence[LeaseShape]) -> list[str]:
    """One line each."""
    return [lease_line(lease) for lease in leases[:MAX_LINES]] + _rest(leases)


def work_lines(work: Sequence[WorkShape]) -> list[str]:
    """`alice works on #42, src/a.py: token refresh`."""
    lines = []
    for one in work[:MAX_LINES]:
        on = names([*one.issues, *one.specs, *one.files])
        doing = ": ".join(part for part in (on, clean(one.status)) if part)
        lines.append(f"{clean(one.agent_id)} works on {doing or 'something'}")
    return lines + _rest(work)


def update_lines(updates: Sequence[UpdateShape]) -> list[str]:
    """`issue:#42: status = in-progress (alice)`."""
    lines = []
    for update in updates[:MAX_LINES]:
        fields = [f"{clean(key, 40)} = {clean(field.value, 80)} ({clean(field.agent_id)})" for key, field in update.fields.items()]
        lines.append(f"{clean(update.name)}: " + ("; ".join(fields[:MAX_NAMES]) or "no live fields"))
    return lines + _rest(updates)


def message_lines(messages: Sequence[MessageShape]) -> list[str]:
    """`bob (message 3f…) asks you to release src/a.py: …`. All of them: they count as read now."""
    lines = []
    for message in messages:
        about = clean(message.resource) if message.resource else ""
        verb = f"asks you to release {about}" if message.kind == "release" else f"says about {about}" if about else "says"
        lines.append(f"{clean(message.agent_id)} (message {clean(message.message_id)}) {verb}: {clean(message.text, 1_000)}")
    return lines


def lost_lines(lost: Sequence[LostShape]) -> list[str]:
    """`you lost the lease on src/a.py to bob (preempted)`."""
    return [
        f"you lost the lease on {names(one.resources)}{f' to {clean(one.holder)}' if one.holder else ''} ({clean(one.reason)}): "
        "look at it again before you write there"
        for one in lost
    ]


def granted_text(lease: LeaseShape, waited_ms: int) -> str:
    """What was granted, with what to know about it."""
    parts = [f"leased {names(lease.resources)} to {clean(lease.agent_id)}"]
    if waited_ms >= 1_000:
        parts.append(f"after {shown_duration(waited_ms)}")
    if lease.token is not None:
        parts.append(f"with fencing token {lease.token}")
    text = " ".join(parts) + "; it is renewed while you are here, release it when you are done."
    if lease.grade == "provisional":
        text += " It is provisional: not all peers could be asked, so it may overlap another."
    if lease.handover is not None:
        left = lease.handover
        where = f" on {clean(left.branch)}" if left.branch else ""
        text += (
            f" {clean(left.agent_id)} left commit {clean(left.commit)}{where} behind: make sure that you have it before you edit."
        )
    return text


def circle_text(cycle: Sequence[WaitsShape]) -> str:
    """Who waits for whom."""
    return "; ".join(
        f"{clean(w.agent_id)} waits for {clean(w.resource)}, which {clean(w.holder_id)} has" for w in cycle[:MAX_LINES]
    )


def denied_text(holders: Sequence[ConflictShape], reason: str, cycle: Sequence[WaitsShape]) -> str:
    """Who is in the way."""
    if cycle:
        return f"not granted, it would be a deadlock: {circle_text(cycle)}."
    if not holders:
        return "not granted: " + {"no-answer": "too few peers answered in time"}.get(reason, clean(reason) or "denied") + "."
    return f"not granted ({clean(reason)}): " + "; ".join(conflict_text(holders)) + "."


def what_next(holders: Sequence[ConflictShape], reason: str, cycle: Sequence[WaitsShape]) -> str:
    """What an agent can do that was denied a lease."""
    if cycle:
        return "Release what the others wait for, and ask for it again after them."
    if not holders:
        return "Call status: it shows which peers answer. Then try again."
    asked = next((one.resource for one in holders if one.kind == "lease"), holders[0].resource)
    again = "Call wait_for_lease again, with more seconds" if reason == "timeout" else "Call wait_for_lease to wait in line"
    return (
        f"Do something else first; do not edit it meanwhile. {again}, or say with ask_release=true and about={clean(asked)!r} "
        "to ask its holder for it (the answer comes with catch_up)."
    )


def _rest(entries: Sequence[object]) -> list[str]:
    return [f"… and {len(entries) - MAX_LINES} more"] if len(entries) > MAX_LINES else []
