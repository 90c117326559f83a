"""The only door of the core: what goes in (inputs, past tense) and what comes out (effects, imperative). All of it is data."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from sudocode_coordination.api.events import Event
from sudocode_coordination.api.requests import CoreRequest
from sudocode_coordination.core.admission import Rules
from sudocode_coordination.core.item import Item
from sudocode_coordination.core.merges import ForetellMerge as ForetellMerge
from sudocode_coordination.core.merges import MergeForetold as MergeForetold
from sudocode_coordination.core.merges import WorkSeen as WorkSeen
from sudocode_coordination.core.merges import WorkUnseen as WorkUnseen
from sudocode_coordination.core.records import Succession
from sudocode_coordination.model import Json, PeerId

# --- disk ---------------------------------------------------------------------------------------------------------------


class StoredEnvelope(Item, frozen=True, kw_only=True):
    """An envelope (`wire.Envelope`, encoded) of a feed."""

    owner: PeerId
    epoch: int
    seq: int
    data: bytes


class ForgottenEpochs(Item, frozen=True, kw_only=True):
    """Drop what is stored of `owner`'s feed below `epoch`."""

    owner: PeerId
    below: int


class StoredValue(Item, frozen=True, kw_only=True):
    """A value by (space, key); spaces: claims, departed, drafts, epochs, known."""

    space: str
    key: str
    data: bytes


class ForgottenValue(Item, frozen=True, kw_only=True):
    """Drop the value."""

    space: str
    key: str


DiskOperation: TypeAlias = StoredEnvelope | ForgottenEpochs | StoredValue | ForgottenValue


class DiskContents(msgspec.Struct, frozen=True, kw_only=True):
    """What the disk held at start. `intact`: nothing was lost since it was written: same boot, database sound."""

    envelopes: tuple[StoredEnvelope, ...] = ()
    values: tuple[StoredValue, ...] = ()
    intact: bool = False
    lost: str = ""
    """What was damaged and is not among them, for people; empty if nothing was."""


# --- inputs -------------------------------------------------------------------------------------------------------------


class Started(Item, frozen=True, kw_only=True):
    """First input of a node's life."""

    contents: DiskContents
    seed: int
    """For all the dice the node needs: jitter, choice of a peer."""
    formerly: tuple[Succession, ...] = ()
    """The ids that this peer had before its key was changed, the latest first."""
    newborn: bool = False
    """The identity has just been made: this peer never said anything that it could have forgotten."""


class Ticked(Item, frozen=True, kw_only=True):
    """`Node.deadline()` has come. `late_ms` over a second means that this process or machine was paused."""

    late_ms: int = 0


class Listening(Item, frozen=True, kw_only=True):
    """The network part is up, or its addresses changed. `addresses`: full multiaddrs without `/p2p/…`."""

    addresses: tuple[str, ...]


class PeerConnected(Item, frozen=True, kw_only=True):
    """A peer's sync stream is open and it has answered."""

    peer: PeerId
    address: str
    direction: Literal["out", "in"]
    relayed: bool = False


class PeerDisconnected(Item, frozen=True, kw_only=True):
    """Its sync stream is gone."""

    peer: PeerId
    reason: str


class PeerMoved(Item, frozen=True, kw_only=True):
    """The stream to a connected peer goes over another connection now; no frame was lost."""

    peer: PeerId
    address: str
    relayed: bool = False


class UpgradeFailed(Item, frozen=True, kw_only=True):
    """No direct connection could be made to a peer that is connected by a relay: it stays so."""

    peer: PeerId
    reason: str


class DialFailed(Item, frozen=True, kw_only=True):
    """The peer could not be had at any of the addresses."""

    peer: PeerId
    reason: str
    answered: bool = False
    """Somebody was there, and refused or closed: it may only have yet to read of us."""


class RecordsSighted(Item, frozen=True, kw_only=True):
    """Signed records that other daemons of this user show on this machine: all that are there now, and none is checked."""

    records: tuple[bytes, ...]


class AddressesSighted(Item, frozen=True, kw_only=True):
    """Daemons on the local network: `nearby.name_on_network` of a peer -> multiaddrs. All that are there now; anybody may have said
    so."""

    addresses: dict[str, tuple[str, ...]]


class PeerRefused(Item, frozen=True, kw_only=True):
    """A peer that is not admitted knocked (inbound)."""

    peer: PeerId
    address: str


class PeerMisbehaved(Item, frozen=True, kw_only=True):
    """The network part saw an admitted peer break a rule, and has closed its stream or connection. Its id is authenticated.
    `keep_out`: it is not let in for a while; else only the reason is told."""

    peer: PeerId
    reason: str
    keep_out: bool = True


class FrameReceived(Item, frozen=True, kw_only=True):
    """A whole frame from a peer's sync stream; the peer's id is authenticated."""

    peer: PeerId
    frame: bytes


class GossipReceived(Item, frozen=True, kw_only=True):
    """Something from a topic. Nothing about it is authenticated."""

    topic: str
    data: bytes


class BranchRead(Item, frozen=True, kw_only=True):
    """The coordination branch as the remote has it: file name under `peers/` -> bytes. `commit` is None if there is no branch."""

    commit: str | None
    records: dict[str, bytes]
    skipped: dict[str, str] = {}
    """File name -> why it was not even read (too large, no plain file)."""
    rules: Rules = Rules()
    """Who may join, as the repository says."""
    vouched: tuple[PeerId, ...] | None = None
    """Peers whom a signed commit has introduced; None: the rules do not ask for that."""


class BranchReadFailed(Item, frozen=True, kw_only=True):
    """The remote could not be read."""

    reason: str


class BranchPublished(Item, frozen=True, kw_only=True):
    """A `Publish` succeeded (also when there was nothing to change)."""

    ticket: int
    commit: str


class BranchPublishFailed(Item, frozen=True, kw_only=True):
    """A `Publish` did not get through after retries."""

    ticket: int
    reason: str


class TableRead(Item, frozen=True, kw_only=True):
    """The strict lease table as the remote has it.

    `changed`: path in the commit's tree -> content, None: gone; against `base`, which is the commit of the `TableRead` or
    `TableSwapped` delivered before this one; None: against nothing, so all of the table. `commit` None: there is no table.
    """

    commit: str | None
    base: str | None = None
    changed: dict[str, bytes | None] = {}
    ref: str = ""
    """Full name of the ref that it is under."""
    rewound: bool = False
    """The commit does not descend from the one before: somebody rewrote or deleted the ref."""


class TableReadFailed(Item, frozen=True, kw_only=True):
    """The table could not be read."""

    reason: str


class TableSwapped(Item, frozen=True, kw_only=True):
    """A `SwapTable` landed: the table is at `commit`."""

    ticket: int
    commit: str


class TableSwapFailed(Item, frozen=True, kw_only=True):
    """A `SwapTable` or `BuildTable` did not come about. moved: the tip is not `parent` (or is locked by somebody's push). unknown:
    no answer, it may have landed or may land yet. refused: the remote does not want it, and will not."""

    ticket: int
    kind: Literal["moved", "unknown", "refused"]
    reason: str


class TableBuilt(Item, frozen=True, kw_only=True):
    """A `BuildTable` is done; `objects`: the folder that holds its objects."""

    ticket: int
    commit: str
    ref: str
    objects: str


class RequestReceived(Item, frozen=True, kw_only=True):
    """A client asks. `client` names the connection; it may ask many things at once."""

    client: int
    request_id: int
    request: CoreRequest


class RequestCancelled(Item, frozen=True, kw_only=True):
    """The client no longer waits for the answer."""

    client: int
    request_id: int


class ClientGone(Item, frozen=True, kw_only=True):
    """The connection has closed."""

    client: int


class DiskFailed(Item, frozen=True, kw_only=True):
    """A `Persist` did not succeed; nothing of it is on disk."""

    reason: str


class DiskWorks(Item, frozen=True, kw_only=True):
    """After `DiskFailed`: a write has succeeded."""


class StopRequested(Item, frozen=True, kw_only=True):
    """End all leases, remove the records, say goodbye; then `Stopped` comes out.

    `hand_over`: the clone gets a new key. What it shares beyond leases is left to the next life on the disk, and its records on the
    branch, to be replaced in one push."""

    hand_over: bool = False


Input: TypeAlias = (
    Started
    | Ticked
    | Listening
    | PeerConnected
    | PeerDisconnected
    | PeerMoved
    | UpgradeFailed
    | DialFailed
    | PeerRefused
    | PeerMisbehaved
    | RecordsSighted
    | AddressesSighted
    | FrameReceived
    | GossipReceived
    | BranchRead
    | BranchReadFailed
    | BranchPublished
    | BranchPublishFailed
    | TableRead
    | TableReadFailed
    | TableSwapped
    | TableSwapFailed
    | TableBuilt
    | RequestReceived
    | RequestCancelled
    | ClientGone
    | DiskFailed
    | DiskWorks
    | WorkSeen
    | WorkUnseen
    | MergeForetold
    | StopRequested
)

# --- effects ------------------------------------------------------------------------------------------------------------


class Persist(Item, frozen=True, kw_only=True):
    """Write in one transaction, before any effect that follows is carried out."""

    operations: tuple[DiskOperation, ...]


class Dial(Item, frozen=True, kw_only=True):
    """Connect to a peer at any of the addresses, and open its sync stream. `relayed`: circuit addresses, tried when all the others
    have failed, or have not answered for `patience_ms`."""

    peer: PeerId
    addresses: tuple[str, ...]
    relayed: tuple[str, ...] = ()
    patience_ms: int = 0


class Upgrade(Item, frozen=True, kw_only=True):
    """A peer is connected by a relay: move to a direct connection, at one of these addresses or by punching a hole."""

    peer: PeerId
    addresses: tuple[str, ...]


class RelayAt(msgspec.Struct, frozen=True, kw_only=True):
    """A peer that relays, and where it listens."""

    peer: PeerId
    addresses: tuple[str, ...]


class UseRelays(Item, frozen=True, kw_only=True):
    """Be reachable through these relays, and through no others; `Listening` has the addresses there once they have agreed."""

    relays: tuple[RelayAt, ...]


class HangUp(Item, frozen=True, kw_only=True):
    """Close whatever there is to that peer."""

    peer: PeerId
    reason: str


class Admit(Item, frozen=True, kw_only=True):
    """From now on only these peers may connect, in either direction."""

    peers: tuple[PeerId, ...]


class Send(Item, frozen=True, kw_only=True):
    """A frame for a connected peer; lost if the connection is."""

    peer: PeerId
    frame: bytes


class Gossip(Item, frozen=True, kw_only=True):
    """Publish on a topic."""

    topic: str
    data: bytes


class ShowRecord(Item, frozen=True, kw_only=True):
    """Show this signed record to other daemons on this machine, instead of the one before."""

    data: bytes


class ReadBranch(Item, frozen=True, kw_only=True):
    """Fetch the coordination branch."""


class Publish(Item, frozen=True, kw_only=True):
    """Change files under `peers/` on the branch, everything else kept: file name -> bytes, or None to remove it.

    `beside`: a file that is written only if one of these is on the branch still: records of others are renewed, never put back.
    """

    ticket: int
    changes: dict[str, bytes | None]
    beside: dict[str, tuple[str, ...]] = {}
    final: bool = False
    """The last one before the process ends: not to be put off."""


class ReadTable(Item, frozen=True, kw_only=True):
    """Fetch the strict lease table. `whole`: all of it, though part of it was delivered before."""

    whole: bool = False


class TableChange(Item, frozen=True, kw_only=True):
    """A commit on the table: `parent` with `changes` (path in its tree -> content, None: remove). The same values make the same
    commit, so that it can be sent again; `nonce` makes those of different tries different."""

    ticket: int
    parent: str | None
    changes: dict[str, bytes | None]
    nonce: str
    wall_ms: int


class SwapTable(TableChange, frozen=True, kw_only=True):
    """Push the commit on the condition that the table's tip is `parent` (None: there is none)."""


class BuildTable(TableChange, frozen=True, kw_only=True):
    """Make the commit and do not push it: a client pushes it together with its work."""


class RequestError(msgspec.Struct, frozen=True, kw_only=True):
    """An error as clients see it: `errors.error_from_code` makes the exception."""

    code: str
    message: str
    hint: str = ""


class Reply(Item, frozen=True, kw_only=True):
    """The answer to a request: a value, or an error."""

    client: int
    request_id: int
    value: Json = None
    error: RequestError | None = None


class Emit(Item, frozen=True, kw_only=True):
    """An event for whoever listens."""

    event: Event


class Stopped(Item, frozen=True, kw_only=True):
    """The node is done: close the ports and leave. `record_left`: why own records may be on the branch
    still; empty if none is."""

    record_left: str = ""


Effect: TypeAlias = (
    Persist
    | Dial
    | Upgrade
    | UseRelays
    | HangUp
    | Admit
    | Send
    | Gossip
    | ShowRecord
    | ReadBranch
    | Publish
    | ReadTable
    | SwapTable
    | BuildTable
    | ForetellMerge
    | Reply
    | Emit
    | Stopped
)
