"""What the core needs of the world. Each port has a real and a simulated implementation; `tests/conformance` holds both to
one suite.

Every method returns at once. What comes of it arrives later as inputs through the `deliver` function that the
implementation was made with. No method raises for anything that the world does (`Disk` excepted: its writes are waited for).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol, TypeAlias

from sudocode_coordination.core.io import BuildTable, DiskContents, DiskOperation, ForetellMerge, Input, RelayAt, SwapTable
from sudocode_coordination.core.keyring import Keyring
from sudocode_coordination.model import Instant, Now, PeerId

__all__ = ["Clock", "Deliver", "Disk", "GitRemote", "Keyring", "LeaseTable", "Neighbourhood", "Network", "WorkTrees"]

Deliver: TypeAlias = Callable[[Input], None]
"""Hands an input to whoever owns the node. Never blocks; bounded by that owner."""


class Clock(Protocol):
    """Time."""

    def now(self) -> Now:
        """Both clocks; `instant` counts suspend and never goes back."""

    def instant(self) -> Instant:
        """The monotonic one alone."""


class Disk(Protocol):
    """Durable state of one clone."""

    def load(self) -> DiskContents:
        """All that is stored. Corrupt files are set aside, and what is missing shows as `intact=False`; never raises for that.

        Raises:
            StorageError: there is no way to keep anything (no permission, disk full).
        """

    def write(self, operations: tuple[DiskOperation, ...]) -> None:
        """All or nothing, safe against a killed process when it returns.

        Raises:
            StorageError: nothing of it was written.
        """

    def close(self) -> None:
        """No more writes."""


class Network(Protocol):
    """Authenticated frames between peers, and gossip.

    Delivers `Listening`, `PeerConnected`, `PeerMoved`, `PeerDisconnected`, `DialFailed`, `UpgradeFailed`, `PeerRefused`,
    `PeerMisbehaved`, `FrameReceived`, `GossipReceived`.
    Laws: between `PeerConnected(p)` and `PeerDisconnected(p)` there is exactly one stream to p; frames on it arrive whole, in
    order, unaltered, or the peer is disconnected. A dial ends in `PeerConnected` or `DialFailed`. A dial to a connected peer
    does nothing. Only admitted peers connect, also through a relay; a peer that is admitted no more is disconnected. A relay sees
    no frame. An upgrade ends in `PeerMoved`, `PeerDisconnected` or `UpgradeFailed`, and may come about at the other side's wish
    as well. Gossip may be lost, reordered or doubled.
    """

    def dial(self, peer: PeerId, addresses: tuple[str, ...], relayed: tuple[str, ...] = (), patience_ms: int = 0) -> None:
        """Try all addresses until one answers as that peer; circuit addresses after the others, see `core.io.Dial`."""

    def upgrade(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        """Get a relayed peer a direct connection, and go on over that."""

    def use_relays(self, relays: tuple[RelayAt, ...]) -> None:
        """Be reachable through these, as far as they agree."""

    def hang_up(self, peer: PeerId, reason: str) -> None:
        """Close the connection, if there is one; `PeerDisconnected` follows."""

    def admit(self, peers: tuple[PeerId, ...]) -> None:
        """The only peers that may connect from now on."""

    def send(self, peer: PeerId, frame: bytes) -> None:
        """Queue a frame; a peer that takes too long or has too much queued is disconnected."""

    def gossip(self, topic: str, data: bytes) -> None:
        """Publish; the sender does not get its own back."""


class Neighbourhood(Protocol):
    """Other daemons on the same machine or in the local network, found without the git remote.

    Delivers `RecordsSighted` and `AddressesSighted`.
    Laws: what a living daemon shows is told to all others within seconds, and no longer once it has
    ended, however it ended; what others wrote is handed on unread.
    """

    def show_record(self, data: bytes) -> None:
        """Show this, instead of what was shown before."""


class GitRemote(Protocol):
    """The coordination branch on the git remote.

    Delivers `BranchRead`, `BranchReadFailed`, `BranchPublished`, `BranchPublishFailed`. Laws: publishing changes exactly the
    named files, whatever others publish at the same time; the branch is created if it is missing; of concurrent publishers
    all get through in the end; nothing hangs.
    """

    def read_branch(self) -> None:
        """Fetch and read all records."""

    def publish(
        self,
        ticket: int,
        changes: dict[str, bytes | None],
        *,
        beside: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
        final: bool = False,
    ) -> None:
        """Write (bytes) or remove (None) files under `peers/`; those in `beside` only if one of the files named there exists."""


class LeaseTable(Protocol):
    """The table of strict leases on the git remote: one ref, an append-only chain of commits.

    Delivers `TableRead`, `TableReadFailed`, `TableSwapped`, `TableSwapFailed`, `TableBuilt`. Laws: of two swaps from one parent at
    most one lands; who is told `moved` or `refused` has not landed it and it will not land later; a swap that is sent again with
    the same values is the same commit, and is told as landed if the first try has landed and is the tip; nothing hangs; the
    user's repository sees no lock and no ref of it. Reads and swaps are answered in their order.
    """

    def read_table(self, *, whole: bool = False) -> None:
        """Fetch and read what changed."""

    def swap_table(self, change: SwapTable) -> None:
        """Make the commit and push it."""

    def build_table(self, change: BuildTable) -> None:
        """Make the commit."""


class WorkTrees(Protocol):
    """What is changed in the worktrees of this clone.

    Delivers `WorkSeen`, `WorkUnseen`, `MergeForetold`. Laws: nothing in the repository or its worktrees is changed by looking;
    what is ignored, denied or may be a secret is not in what is delivered; every `foretell` is answered; its conflicts are those
    that git's own merge finds; what it costs is bounded, whatever the size of the repository.
    """

    def foretell(self, wanted: ForetellMerge) -> None:
        """Merge, and tell what would be in conflict."""
