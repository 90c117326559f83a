"""What a daemon itself knows to be wrong or right, for `coord doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sudocode_coordination.api.requests import DoctorFinding
from sudocode_coordination.config import CONFIG_FILE, CoordinationConfig
from sudocode_coordination.model import Now, iso_from_ms

if TYPE_CHECKING:
    from sudocode_coordination.core.node import Node


def findings(node: Node, config: CoordinationConfig, problems: Sequence[str], now: Now) -> tuple[DoctorFinding, ...]:
    """All that this daemon knows.

    Args:
        problems: what the status tells too.
    """
    health = node.discovery.health
    found = [
        DoctorFinding(
            name="remote",
            ok=health.state != "unreachable",
            message=f"git remote {config.git_remote}: {health.state}" + (f" ({health.reason})" if health.reason else ""),
            hint=f"try: git ls-remote {config.git_remote}" if health.state == "unreachable" else "",
        ),
        DoctorFinding(
            name="listening",
            ok=bool(node.listening),
            message=", ".join(node.listening) or "no address to listen on",
            hint="" if node.listening else "check listen_addresses and the firewall",
        ),
        DoctorFinding(
            name="record",
            # Pushes are few by design: a record that is not there yet is no fault, one that can't be pushed is.
            ok=node.discovery.published or health.state != "unreachable",
            message="own records are on the branch" if node.discovery.published else "own records are not all on the branch yet",
            hint="" if node.discovery.published else "if it stays so: check that you may push to the coordination branch",
        ),
    ]
    found += [*_admission(node, now), *_relays(node), *_diffs(node)]
    for peer_id in node.leases.view.roster:
        peer = node.membership.peer(peer_id)
        if peer is not None and not peer.connected:
            agents = ", ".join(sorted(node.discovery.known[peer_id].agents)) if peer_id in node.discovery.known else peer_id
            why = node.membership.reason(peer_id, now.instant)
            found.append(
                DoctorFinding(
                    name="peer",
                    ok=True,  # people switch their machines off
                    message=f"{agents}: not connected" + (f" ({why})" if why else ""),
                    hint="it may be off, or no relay leads past a firewall or NAT between you; its record ages out by itself",
                )
            )
    found += [
        DoctorFinding(
            name="record-skipped",
            ok=True,  # nothing here is broken by it
            message=f"{name}: {reason}",
            hint="remove it from the branch if it is yours",
        )
        for name, reason in sorted(node.discovery.skipped.items())
        if reason not in problems  # told below
    ]
    found += [DoctorFinding(name="problem", ok=False, message=problem) for problem in problems]
    if not node.leases.remembers(now.instant):
        found.append(
            DoctorFinding(
                name="memory",
                ok=True,
                message="this peer is no voice of a quorum for now: it can't know what it has promised others before (its state "
                "was lost, the machine was booted, or this branch is new to it)",
                hint="nothing to do: it is one again by itself, after the longest ttl of a lease (max_lease_ttl_ms, "
                f"{config.max_lease_ttl_ms // 1_000} s)",
            )
        )
    return tuple(found)


def _relays(node: Node) -> list[DoctorFinding]:
    """Whether this peer can be reached through the relays that it uses."""
    relays = node.membership.relays.used
    if not relays:
        return []
    through = [relay for relay in relays if any(f"/p2p/{relay}/p2p-circuit" in address for address in node.listening)]
    return [
        DoctorFinding(
            name="relay",
            ok=bool(through),
            message=f"reachable through {len(through)} of {len(relays)} relays",
            hint="" if through else "the relay must run, be reachable from here, and let this peer in",
        )
    ]


def _diffs(node: Node) -> list[DoctorFinding]:
    """Whether changes can be looked at and compared."""
    diffs = node.diffs
    if not diffs.enabled:
        return []
    if diffs.trouble:
        return [DoctorFinding(name="file-diffs", ok=False, message=f"changes can't be looked at: {diffs.trouble}")]
    own = [work for (peer, _), work in diffs.works.items() if peer == node.peer_id]
    files = [entry for work in own for entry in work.files.values()]
    withheld = sum(1 for entry in files if entry.withheld is not None)
    left_out = sum(work.header.left_out for work in own)
    said = f"{len(files)} changed files of {len(own)} worktrees are shared"
    said += f", {withheld} of them without their content" if withheld else ""
    said += f"; {left_out} are not told of" if left_out else ""
    unknown = sorted({why for peer, worktree in diffs.works if (why := diffs.unknown(peer, worktree))})
    return [
        DoctorFinding(name="file-diffs", ok=True, message=said),
        *(DoctorFinding(name="file-diffs", ok=True, message=f"not compared: {why}") for why in unknown),
    ]


def own_admission(node: Node) -> list[str]:
    """Why the others do not let this peer in."""
    admission, rules = node.discovery.admission, node.discovery.admission.rules
    found = []
    if rules.trouble:
        found.append(f"who may join may not be what the repository says: {rules.trouble}")
    if rules.closed:
        return found
    if why := rules.refuses(node.peer_id):
        found.append(f"this clone may not join: {why}. Its peer id, for {CONFIG_FILE} on the default branch: {node.peer_id}")
    elif node.discovery.published and admission.refuses(node.peer_id):
        found.append(
            f"this clone may not join: {admission.refuses(node.peer_id)}. It signs with the user's SSH key for git: add that to "
            f"{rules.signers} on the default branch"
        )
    return found


def _admission(node: Node, now: Now) -> list[DoctorFinding]:
    """The rules of who may join, and who was refused."""
    admission, rules = node.discovery.admission, node.discovery.admission.rules
    listed = "everyone on the branch" if rules.allowed is None else f"{len(rules.allowed)} listed peers"
    said = [listed if not rules.denied else f"{listed} but {len(rules.denied)}"]
    if rules.signed != "off":
        said.append("commits are signed" if rules.signed == "sign" else f"introduced by a commit signed as {rules.signers} says")
    where = f" (default branch at {rules.commit[:10]})" if rules.commit else ""
    found = [DoctorFinding(name="admission", ok=True, message=f"may join: {', '.join(said)}{where}; this peer: {node.peer_id}")]
    for peer, refusal in reversed(admission.refusals(node.discovery.known, now).items()):
        who = f"{admission.barred[peer]} ({peer})" if peer in admission.barred else peer
        times = f"{refusal.times} times since {iso_from_ms(refusal.first_ms)}, last" if refusal.times > 1 else "once,"
        found.append(
            DoctorFinding(
                name="refused",
                ok=True,  # the door does what it is there for
                message=f"{who} at {refusal.address or '?'} was refused {times} at {iso_from_ms(refusal.last_ms)}: "
                f"{admission.why(peer)}",
                hint=admission.next_step(peer),
            )
        )
    return found
