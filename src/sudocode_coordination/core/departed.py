"""Owners of feeds that are long gone: their feeds are dropped, so that a clone does not remember everybody who ever was.

Long is measured in wall time, over restarts: a peer that is on no branch and not connected for `FORGET_MS`. One that comes back
begins a new epoch, and is known again.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from sudocode_coordination.core.io import DiskContents, DiskOperation, ForgottenValue, StoredValue
from sudocode_coordination.model import Now, PeerId, WallMs

FORGET_MS: Final = 7 * 24 * 3_600_000
"""A week: a colleague's holiday may cost a fresh sync, a weekend does not."""
SPACE: Final = "departed"


class Departed:
    """Since when each feed's owner has not been seen."""

    def __init__(self) -> None:
        self._since: dict[PeerId, WallMs] = {}

    def started(self, contents: DiskContents) -> None:
        """As it was noted before."""
        for value in contents.values:
            if value.space == SPACE and value.data.isdigit() and len(value.data) <= 16:
                self._since[value.key] = int(value.data)

    def looked(
        self, owners: Collection[PeerId], present: Collection[PeerId], now: Now
    ) -> tuple[tuple[PeerId, ...], tuple[DiskOperation, ...]]:
        """The branch has been read: whose feeds to drop, and what to write down.

        Args:
            owners: of the feeds that are kept.
            present: peers on the branch or connected, this one among them.
        """
        operations: list[DiskOperation] = []
        for peer in sorted(set(self._since) - (set(owners) - set(present))):
            del self._since[peer]
            operations.append(ForgottenValue(space=SPACE, key=peer))
        over: list[PeerId] = []
        for peer in sorted(set(owners) - set(present)):
            since = self._since.get(peer)
            if since is None:
                self._since[peer] = now.wall_ms
                operations.append(StoredValue(space=SPACE, key=peer, data=str(now.wall_ms).encode()))
            elif now.wall_ms - since >= FORGET_MS:
                over.append(peer)
        return tuple(over), tuple(operations)
