"""How conflicts read. Imports nothing that costs: `coord check` and the denials of `coord lease` share it.

A conflict here is the encoded `model.Conflict`: a dict with camelCase keys.
"""

from sudocode_coordination.cli.text import clean, resource_name, shown_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

MAX_LINES = 50
"""Conflicts that are listed: whoever checks a whole tree wants to know that, not to read hundreds of lines."""

MAX_RANGES = 8
"""Places in one file that are told; a person who goes there sees the rest."""


def conflict_line(conflict: "Mapping[str, Any]") -> str:
    """`src/a.py: held by bob (priority 5, 4m12s left): refactoring`."""
    who = clean(conflict.get("agentId", "?"))
    facts = []
    if conflict.get("priority") is not None:
        facts.append(f"priority {clean(conflict['priority'])}")
    kind = conflict.get("kind")
    # Who waits does so until it is served or gives up, however often its request has to be repeated.
    if kind != "waiting" and isinstance(conflict.get("remainingMs"), (int, float)):
        facts.append(f"{shown_duration(conflict['remainingMs'])} left")
    if kind == "lease":
        verb = f"held by {who}"
    elif kind == "waiting":
        verb = f"{who} waits for it"
    elif kind == "merge":
        verb = f"would not merge with the changes of {who}"
        facts = where(conflict.get("lines"), conflict.get("theirLines"))
    else:
        verb = f"{who} works on it"
    note = clean(conflict.get("note") or "")
    return (
        f"{resource_name(conflict.get('resource', '?'))}: {verb}"
        + (f" ({', '.join(facts)})" if facts else "")
        + (f": {note}" if note else "")
    )


def where(lines: "Any", their_lines: "Any") -> list[str]:
    """`lines 3, 10-14 here`, `lines 11-13 there`: of encoded `model.LineRange`s."""
    sides = ((_ranges(lines), "here"), (_ranges(their_lines), "there"))
    return [f"{'line' if shown.isdigit() else 'lines'} {shown} {side}" for shown, side in sides if shown]


def _ranges(lines: "Any") -> str:
    """Where nothing is left of the lines, the one behind them stands for them."""
    shown = [f"{first}-{last}" if last > first else f"{first}" for first, last in (lines or [])[:MAX_RANGES]]
    return ", ".join(shown) + (", …" if len(lines or []) > MAX_RANGES else "")


def foretold_line(conflict: "Mapping[str, Any]") -> str:
    """`src/a.py: would not merge with the changes of bob (lines 10-14 here, lines 11-13 there): contents, on feature/x`; of an
    encoded `model.ForetoldConflict`."""
    others = ", ".join(clean(one) for one in conflict.get("theirAgents") or []) or "another clone"
    facts = where(conflict.get("lines"), conflict.get("theirLines"))
    branch = conflict.get("theirBranch")
    return (
        f"{clean(conflict.get('path', '?'))}: would not merge with the changes of {others}"
        + (f" ({', '.join(facts)})" if facts else "")
        + f": {clean(conflict.get('kind', '?'), 80)}"
        + ("" if conflict.get("certain", True) else ", perhaps")
        + (f", on {clean(branch)}" if branch else "")
    )


def conflict_lines(conflicts: "Sequence[Mapping[str, Any]]") -> list[str]:
    """One line each; beyond `MAX_LINES` only their number."""
    lines = [conflict_line(c) for c in conflicts[:MAX_LINES]]
    if len(conflicts) > MAX_LINES:
        lines.append(f"… and {len(conflicts) - MAX_LINES} more (--json lists all)")
    return lines


def check_text(conflicts: "Sequence[Mapping[str, Any]]", asked: "Sequence[str]") -> str:
    """What `coord check` prints for people; `asked`: the names that were given."""
    if conflicts:
        return "\n".join(conflict_lines(conflicts))
    return f"free: {clean(asked[0])}" if len(asked) == 1 else f"free: all {len(asked)}"
