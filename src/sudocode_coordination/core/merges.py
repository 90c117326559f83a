"""Inputs and effects about what is changed in worktrees, and what would not merge."""

from __future__ import annotations

import msgspec

from sudocode_coordination.core.diff_entries import Work
from sudocode_coordination.core.item import Item
from sudocode_coordination.model import LineRange


class WorkSeen(Item, frozen=True, kw_only=True):
    """What is changed in a worktree of this clone and not on the git remote; None: nothing, or it is gone."""

    worktree: str
    work: Work | None


class WorkUnseen(Item, frozen=True, kw_only=True):
    """Worktrees can't be looked at, for this reason; empty: they can again."""

    reason: str


class MergeConflict(msgspec.Struct, frozen=True, kw_only=True):
    """What git would stop at; see `model.ForetoldConflict`."""

    path: str
    kind: str
    lines: tuple[LineRange, ...] = ()
    their_lines: tuple[LineRange, ...] = ()
    certain: bool = True


class MergeForetold(Item, frozen=True, kw_only=True):
    """What comes of a `ForetellMerge`. `unknown`: why it can't be told."""

    ticket: int
    conflicts: tuple[MergeConflict, ...] = ()
    unknown: str = ""


class ForetellMerge(Item, frozen=True, kw_only=True):
    """Merge what is changed in a worktree of this clone, as it is now, with what another has changed; without a trace in either."""

    ticket: int
    worktree: str
    theirs: Work
