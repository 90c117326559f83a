"""What is changed in the worktrees of this clone: looked at, shared, and merged with what others have changed, without a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from sudocode_coordination.adapters.ports import Deliver
from sudocode_coordination.core.io import ForetellMerge, MergeForetold

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # libp2p brings these stubs, and they hide trio's own types


class Unwatched:
    """Stands in where nothing is shared (`enable_file_diffs`)."""

    def __init__(self, deliver: Deliver) -> None:
        self._deliver = deliver

    def foretell(self, wanted: ForetellMerge) -> None:
        """Nobody asks; who did would be told."""
        self._deliver(MergeForetold(ticket=wanted.ticket, unknown="this clone takes no part (enable_file_diffs)"))

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """There is nothing to do."""
        task_status.started()
