"""What is changed in worktrees: looked at, shared, merged without a trace."""

from __future__ import annotations

from typing import Any

from sudocode_coordination.adapters.worktrees import Unwatched
from sudocode_coordination.core.diff_entries import Work, WorkHeader
from sudocode_coordination.core.merges import ForetellMerge, MergeForetold


def test_where_nothing_is_shared_every_question_is_answered_all_the_same() -> None:
    delivered: list[Any] = []
    header = WorkHeader(base="a" * 40, agent="ann")
    Unwatched(delivered.append).foretell(ForetellMerge(ticket=7, worktree=".", theirs=Work(header=header)))
    assert delivered == [MergeForetold(ticket=7, unknown="this clone takes no part (enable_file_diffs)")]
