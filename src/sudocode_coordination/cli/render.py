"""Answers as blocks for people. Every string from elsewhere passes `clean`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from sudocode_coordination.api.requests import LeaseOutcome, Status
from sudocode_coordination.cli.conflicts import conflict_lines
from sudocode_coordination.cli.screen import Block, Cell, Styled, Table
from sudocode_coordination.cli.text import clean, resource_name, shown_duration
from sudocode_coordination.model import (
    ActiveWork,
    Draft,
    FieldUpdate,
    Handover,
    IssueUpdate,
    Json,
    Lease,
    PeerInfo,
    Resource,
    SpecUpdate,
)

MAX_AGAIN = 8
"""Arguments of a command that is proposed; more would not be read."""
MAX_RESOURCES_SHOWN = 4
"""Names of one lease or work entry that a table shows; the rest as a number."""
_CONNECTION_STYLES = {"self": "dim", "direct": "green", "relayed": "cyan", "connecting": "yellow", "disconnected": "red"}


def ago(iso: str | None, now: datetime | None = None) -> str:
    """How long ago an ISO 8601 instant was, `-` if there is none, the text itself if it is no instant."""
    if iso is None:
        return "-"
    try:
        then = datetime.fromisoformat(iso)
    except ValueError:
        return clean(iso, 30)
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    passed_ms = ((now or datetime.now(UTC)) - then).total_seconds() * 1000
    # Another machine's clock may be ahead of ours.
    return (
        f"in {shown_duration(-passed_ms)}"
        if passed_ms < -1_500
        else "now"
        if passed_ms < 1_500
        else f"{shown_duration(passed_ms)} ago"
    )


def resource_names(resources: Sequence[Resource], shown: int = MAX_RESOURCES_SHOWN) -> str:
    """Names, comma-separated, the rest as a number."""
    names = ", ".join(resource_name(resource) for resource in resources[:shown])
    return names if len(resources) <= shown else f"{names} +{len(resources) - shown}"


def short_peer(peer_id: str) -> str:
    """The end of a peer id: its beginning is the same for all."""
    return clean(peer_id if len(peer_id) <= 12 else "…" + peer_id[-8:])


def peers_blocks(peers: Sequence[PeerInfo]) -> list[Block]:
    if not peers:
        return ["no peers yet (they appear once their record is on the coordination branch)"]
    rows: list[tuple[Cell, ...]] = []
    reasons: list[Block] = []
    for peer in peers:
        rows.append(
            (
                clean(peer.agent_id),
                Styled(clean(peer.connection), _CONNECTION_STYLES.get(peer.connection, "")),
                clean(peer.address or "-"),
                "-" if peer.latency_ms is None else f"{peer.latency_ms:.1f}ms",
                ago(peer.last_seen),
                str(peer.leases_held),
                clean(",".join(peer.capabilities) or "-"),
            )
        )
        if peer.reason:
            reasons.append(Styled(f"{clean(peer.agent_id)}: {clean(peer.reason)}", "dim"))
    columns = ("agent", "connection", "address", "latency", "seen", "leases", "capabilities")
    return [Table(columns, tuple(rows), frozenset(("address", "capabilities"))), *reasons]


def leases_blocks(leases: Sequence[Lease], *, none: str = "no leases") -> list[Block]:
    if not leases:
        return [none]
    rows = tuple(
        (
            resource_names(lease.resources),
            clean(lease.agent_id) + (" *" if lease.mine else ""),
            _lease_state(lease),
            str(lease.priority),
            "-" if lease.state == "pending" else shown_duration(lease.remaining_ms),
            clean(lease.note, 60) or "-",
        )
        for lease in leases
    )
    table = Table(("resource", "agent", "state", "priority", "left", "note"), rows, frozenset(("note",)))
    return [table]


def _lease_state(lease: Lease) -> Cell:
    if lease.state == "pending":
        place = "" if lease.position is None else f", place {lease.position}"
        return Styled(f"waiting{place}", "yellow")
    shared = ", shared" if lease.mode == "shared" else ""
    if lease.grade == "strict":
        return Styled(f"strict {lease.token}{shared}", "bold green")
    return Styled(f"held{shared}", "green") if lease.grade == "quorum" else Styled(f"provisional{shared}", "cyan")


def work_blocks(work: Sequence[ActiveWork]) -> list[Block]:
    if not work:
        return ["nobody has told what they work on"]
    rows = []
    for entry in work:
        on = [clean(x) for x in (*entry.issues, *entry.specs, *entry.files)]
        shown = ", ".join(on[:MAX_RESOURCES_SHOWN]) + (
            f" +{len(on) - MAX_RESOURCES_SHOWN}" if len(on) > MAX_RESOURCES_SHOWN else ""
        )
        rows.append((clean(entry.agent_id), shown or "-", clean(entry.status, 120) or "-", ago(entry.updated_at)))
    return [Table(("agent", "works on", "status", "updated"), tuple(rows), frozenset(("status",)))]


def status_blocks(status: Status) -> list[Block]:
    agents = ", ".join(clean(a.agent_id) + (" (default)" if a.default and len(status.agents) > 1 else "") for a in status.agents)
    style = {"active": "bold green", "starting": "bold yellow", "stopping": "bold red"}[status.state]
    others = [peer for peer in status.peers if peer.connection != "self"]
    clones = {peer.peer_id for peer in others}
    connected = {peer.peer_id for peer in others if peer.connection in ("direct", "relayed")}
    blocks: list[Block] = [
        Styled(f"{status.state}: {agents or 'no agent'}", style),
        f"  peer     {clean(status.peer_id)}, since {ago(status.started_at)}, version {clean(status.version)}",
        f"  listens  {clean(', '.join(status.addresses), 400) or 'on no address'}",
        _remote_line(status),
        (
            f"  swarm    {len(connected)} of {len(clones)} other clones connected, {len(status.roster)} on the branch, "
            f"policy {status.partition_policy}"
        ),
    ]
    blocks += [Styled(f"  problem  {clean(problem)}", "bold red") for problem in status.problems]
    if others:
        blocks += ["", Styled("peers", "bold"), *peers_blocks(others)]
    if status.work:
        blocks += ["", Styled("active work", "bold"), *work_blocks(status.work)]
    if status.leases:
        blocks += ["", Styled("leases (* of this clone)", "bold"), *leases_blocks(status.leases)]
    return blocks


def _remote_line(status: Status) -> Cell:
    remote = status.remote
    name = f"  remote   {clean(remote.name)}/{clean(remote.branch)}"
    if remote.state == "unreachable":
        return Styled(f"{name} unreachable since {ago(remote.since)}: {clean(remote.reason or 'no reason given')}", "red")
    if remote.state == "unknown":
        return f"{name} not read yet"
    commit = f", commit {clean(remote.commit[:10])}" if remote.commit else ""
    return f"{name} ok, read {ago(remote.last_read)}{commit}, {remote.pushes} push{'' if remote.pushes == 1 else 'es'}"


def granted_line(lease: Lease, waited_ms: int) -> str:
    waited = f" after {shown_duration(waited_ms)}" if waited_ms >= 1_000 else ""
    sure = "" if lease.grade != "provisional" else " (provisional: it may overlap with one of a peer that can't be reached)"
    token = f", fencing token {lease.token}" if lease.token is not None else ""
    held = f"leased {resource_names(lease.resources)} to {clean(lease.agent_id)} for {shown_duration(lease.ttl_ms)}"
    return held + token + waited + sure


def handover_lines(handover: Handover, contained: bool | None) -> list[Block]:
    """What the holder before left behind, and what to do if the checkout lacks it."""
    where = f" on {clean(handover.branch)}" if handover.branch else ""
    what = f"{clean(handover.agent_id)} left commit {clean(handover.commit[:10])}{where} behind {ago(handover.at)}"
    if contained:
        return [f"{what}; this checkout has it"]
    if contained is None:
        return [what]
    # An option, or what a terminal would obey, is no branch: nobody is told to type it.
    branch = handover.branch if handover.branch.isprintable() and not handover.branch.startswith("-") else ""
    source = shlex.quote(branch or handover.commit)
    return [Styled(f"{what}; this checkout does not contain it yet: git fetch, then git merge {clean(source)}", "yellow")]


def denial(outcome: LeaseOutcome, asked: Sequence[str], agent: str | None = None) -> tuple[str, str]:
    """Message and hint of a denied lease. `asked`: the arguments of `coord lease`, to be given again with another; `agent`: as
    `--agent` named it, and has to again."""
    coord = ("coord", "--agent", agent) if agent else ("coord",)
    if outcome.cycle:
        return _deadlock(outcome, coord)
    lines = conflict_lines(msgspec.to_builtins(outcome.holders))
    reason = clean(outcome.reason)
    if not lines:
        message = "too few peers answered in time (no-answer)" if reason == "no-answer" else reason or "denied"
        return message, "`coord status` shows which peers answer"
    message = "; ".join(lines) + (f" ({reason})" if reason and reason not in ("held", "denied") else "")
    priorities = [holder.priority for holder in outcome.holders if holder.priority is not None]
    higher = f", or --priority {max(priorities) + 1} to take over" if priorities else ""
    # The shell must not expand what was meant as a pattern.
    again = clean(shlex.join(asked)) if len(asked) <= MAX_AGAIN else f"{clean(shlex.join(asked[:MAX_AGAIN]))} …"
    return message, f"`{' '.join(coord)} lease {again} --wait` waits for it{higher}"


def _deadlock(outcome: LeaseOutcome, coord: Sequence[str]) -> tuple[str, str]:
    """Who waits for whom, and what to release: what the last one waits for."""
    waits = [f"{clean(w.agent_id)} waits for {clean(str(w.resource))} of {clean(w.holder_id)}" for w in outcome.cycle]
    own = outcome.cycle[-1].resource
    kind = () if own.type == "file" else ("--type", own.type)
    again = clean(
        shlex.join((*coord, "release", *kind, "--", own.path) if own.path.startswith("-") else (*coord, "release", own.path, *kind))
    )
    return f"deadlock: {', '.join(waits)}", f"nothing was released: `{again}` lets the others go on, then ask again"


def _value(value: Json) -> str:
    return clean(value if isinstance(value, str) else msgspec.json.encode(value).decode())


def _field_rows(name: str, fields: dict[str, FieldUpdate]) -> list[tuple[Cell, ...]]:
    return [
        (clean(name), clean(field), _value(update.value), clean(update.agent_id), ago(update.updated_at))
        for field, update in sorted(fields.items())
    ]


def updates_blocks(updates: Sequence[IssueUpdate] | Sequence[SpecUpdate]) -> list[Block]:
    rows: list[tuple[Cell, ...]] = []
    for update in updates:
        rows += _field_rows(update.issue_id if isinstance(update, IssueUpdate) else update.spec_path, update.fields)
    what = "spec" if updates and isinstance(updates[0], SpecUpdate) else "issue"
    return (
        [Table((what, "field", "value", "agent", "updated"), tuple(rows), frozenset(("value",)))] if rows else ["no live updates"]
    )


def drafts_blocks(drafts: Sequence[Draft], *, none: str = "no drafts") -> list[Block]:
    if not drafts:
        return [none]
    rows = tuple(
        (clean(d.draft_id), clean(d.kind), clean(d.target) or "-", clean(", ".join(sorted(d.fields))), ago(d.created_at))
        for d in drafts
    )
    return [Table(("draft", "kind", "target", "fields", "created"), rows)]
