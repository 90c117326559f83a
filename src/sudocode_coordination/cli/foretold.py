"""`coord conflicts`: what would not merge, before anybody has merged it."""

from __future__ import annotations

from argparse import Namespace

import msgspec

from sudocode_coordination.api.requests import Foretelling, ListConflicts
from sudocode_coordination.cli.conflicts import foretold_line
from sudocode_coordination.cli.screen import Block, Table
from sudocode_coordination.cli.session import Session
from sudocode_coordination.cli.text import clean
from sudocode_coordination.model import SharedWork

MAX_FILES = 5
"""Names of changed files that are listed of one worktree; `--json` has all."""


def conflicts(session: Session, args: Namespace) -> int:
    """Conflicts that are foretold, and what is changed where. That there are some is no failure: `coord check` tells by its exit
    code."""
    del args
    # COORD_AGENT says who acts; who looks wants to see the others' too, unless they say --agent.
    answer = session.ask(ListConflicts(agent=session.named_agent))
    session.screen.show(msgspec.to_builtins(answer), _blocks(answer))
    return 0


def _blocks(answer: Foretelling) -> list[Block]:
    lines: list[Block] = [foretold_line(msgspec.to_builtins(one)) for one in answer.conflicts]
    if not answer.enabled:
        lines.append(
            "this clone takes no part: coord start --set enable_file_diffs=true shares its changes and foretells conflicts"
        )
    elif not answer.conflicts and not answer.trouble:
        lines.append("no conflicts are foretold")
    if answer.trouble:
        lines.append(f"this clone's changes can't be looked at: {clean(answer.trouble)}")
    if answer.works:
        rows = tuple(_row(work) for work in answer.works)
        lines.append(Table(("agents", "where", "changed", "state"), rows, frozenset(("changed", "state"))))
    return lines


def _row(work: SharedWork) -> tuple[str, ...]:
    names = [clean(file.path) + (f" ({file.withheld}, not shared)" if file.withheld else "") for file in work.files[:MAX_FILES]]
    more = len(work.files) - len(names)
    changed = ", ".join([*names, *([f"{more} more"] if more else []), *([f"{work.left_out} not told"] if work.left_out else [])])
    where = " ".join(
        part for part in (clean(work.branch) or "(no branch)", f"in {clean(work.worktree)}" if work.worktree else "") if part
    )
    state = "here" if work.mine else f"not compared: {clean(work.unknown)}" if work.unknown else "compared"
    return (clean(", ".join(work.agents)) or "-", where, changed or "nothing", state)
