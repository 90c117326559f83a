"""What `coord conflicts` and whoever tells of conflicts print."""

from __future__ import annotations

import msgspec

from sudocode_coordination.api.requests import Foretelling
from sudocode_coordination.cli import foretold
from sudocode_coordination.cli.conflicts import conflict_line, foretold_line, where
from sudocode_coordination.cli.screen import Table
from sudocode_coordination.hooks.agents import briefing_lines
from sudocode_coordination.model import Conflict, ForetoldConflict, LineRange, Resource, SharedFile, SharedWork

CLASH = ForetoldConflict(
    path="src/a.py",
    kind="contents",
    agents=("alice",),
    lines=(LineRange(3, 3), LineRange(10, 14)),
    their_agents=("bob", "\x1b[1m"),
    their_peer_id="p",
    their_branch="feature/x",
    their_lines=(LineRange(12, 11),),
    certain=False,
    since="2026-01-31T14:05:00.000Z",
)
LINE = (
    "src/a.py: would not merge with the changes of bob, \N{REPLACEMENT CHARACTER}[1m (lines 3, 10-14 here, line 12 there): "
    "contents, perhaps, on feature/x"
)


def test_a_foretold_conflict_is_one_clean_line() -> None:
    assert foretold_line(msgspec.to_builtins(CLASH)) == LINE


def test_many_places_are_cut() -> None:
    assert where([[n, n] for n in range(1, 20)], []) == ["lines 1, 2, 3, 4, 5, 6, 7, 8, … here"]
    assert where(None, None) == []


def test_check_tells_where() -> None:
    found = Conflict(
        resource=Resource("file", "a"), kind="merge", agent_id="bob", peer_id="p", note="contents", lines=(LineRange(1, 2),)
    )
    assert conflict_line(msgspec.to_builtins(found)) == "a: would not merge with the changes of bob (lines 1-2 here): contents"


def test_a_briefing_tells_of_it_first_after_what_was_said() -> None:
    told = {
        "foretold": [msgspec.to_builtins(CLASH)],
        "work": [{"agentId": "x", "issues": [], "specs": [], "files": [], "status": "s"}],
    }
    assert briefing_lines(told, "alice") == [f"- {LINE}. Agree with them before you go on there.", "- x works on s."]


def test_who_changed_what_is_listed() -> None:
    files = tuple(SharedFile(path=f"f{n}", change="modified", withheld="large" if n == 0 else None) for n in range(7))
    mine = SharedWork(agents=("alice",), peer_id="p", branch="main", base="a" * 40, files=files, left_out=2, mine=True)
    theirs = SharedWork(agents=(), peer_id="q", worktree="wt", base="a" * 40, files=(), unknown="no such commit here")
    line, table = foretold._blocks(Foretelling(enabled=True, works=(mine, theirs)))
    assert line == "no conflicts are foretold"
    assert isinstance(table, Table)
    assert table.rows == (
        ("alice", "main", "f0 (large, not shared), f1, f2, f3, f4, 2 more, 2 not told", "here"),
        ("-", "(no branch) in wt", "nothing", "not compared: no such commit here"),
    )


def test_how_to_take_part_is_said() -> None:
    (line,) = foretold._blocks(Foretelling(enabled=False))
    assert "enable_file_diffs=true" in str(line)
    assert foretold._blocks(Foretelling(enabled=True, trouble="git 2.38 or later is needed"))[0] == (
        "this clone's changes can't be looked at: git 2.38 or later is needed"
    )
