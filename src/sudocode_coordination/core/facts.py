"""What the machines of the core tell each other. The node routes facts; only effects leave the core."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, get_args

from sudocode_coordination.api.events import EventType
from sudocode_coordination.api.requests import CoreRequest
from sudocode_coordination.core.io import Effect, RequestError
from sudocode_coordination.core.item import Item
from sudocode_coordination.core.wire import ClaimBody, WireMessage
from sudocode_coordination.model import AgentId, ClaimId, Conflict, Instant, Json, PeerId

Root: TypeAlias = Literal[
    "activeWork", "issueUpdates", "specUpdates", "leases", "leaseHistory", "fileDiffs", "agentMetadata", "messages"
]
ROOTS: Final[tuple[Root, ...]] = get_args(Root)
"""The root maps of the shared Yjs document."""


class Say(Item, frozen=True, kw_only=True):
    """A message for a connected peer; the node puts all of one step into one frame per peer."""

    peer: PeerId
    message: WireMessage


class Notify(Item, frozen=True, kw_only=True, tag_field="fact"):
    """An event without its timestamp. `agent_id` None: the daemon's default agent."""

    type: EventType
    agent_id: AgentId | None = None
    data: dict[str, Json] = {}


class Misbehaved(Item, frozen=True, kw_only=True):
    """A connected peer broke a rule: it is to be dropped, and `reason` told."""

    peer: PeerId
    reason: str


class RosterChanged(Item, frozen=True, kw_only=True):
    """Discovery read the branch and knows other peers, addresses or agents than before; its properties say which."""


class EntryChange(Item, frozen=True, kw_only=True):
    """One entry of the document, as written by its owner; value None: it is gone."""

    root: Root
    key: str
    """Without the owner's prefix."""
    value: Json


class EntriesChanged(Item, frozen=True, kw_only=True):
    """The view of one owner's entries has changed (own writes too)."""

    owner: PeerId
    changes: tuple[EntryChange, ...]


class Write(Item, frozen=True, kw_only=True):
    """Set (or, with None, delete) an entry of the own feed. `urgent`: others wait for it, do not batch."""

    root: Root
    key: str
    value: Json
    urgent: bool = False


class Respond(Item, frozen=True, kw_only=True):
    """Answer the request by the state that what came before it leads to."""

    client: int
    request_id: int
    request: CoreRequest


class StrictWanted(Item, frozen=True, kw_only=True):
    """A fast claim is effective and wants its place in the table on the remote."""

    claim: ClaimBody
    decide_by: Instant | None
    """The agent wants an answer by then; None: it waits."""
    waits: bool
    """The agent waits its turn if somebody holds it."""


class StrictDropped(Item, frozen=True, kw_only=True):
    """A claim has ended that was in the table, or on its way there."""

    claim: ClaimId
    reason: str = ""
    holder: str = ""
    """Agent id of who got it, if that is why."""


class StrictGranted(Item, frozen=True, kw_only=True):
    """It is in the table; also told when it was renewed."""

    claim: ClaimId
    token: int
    valid_until: Instant


class StrictRefused(Item, frozen=True, kw_only=True):
    """It won't get into the table: somebody holds it, or (`error`) the table can't be written."""

    claim: ClaimId
    holders: tuple[Conflict, ...] = ()
    reason: str = ""
    error: RequestError | None = None


class StrictLost(Item, frozen=True, kw_only=True):
    """It is in the table no more, or is wanted by a higher priority (preempted: the holder may have a grace)."""

    claim: ClaimId
    reason: Literal["expired", "preempted", "lost-conflict"]
    holder: str = ""
    """Agent id of who has it or wants it, if known."""


Fact: TypeAlias = (
    Say
    | Notify
    | Misbehaved
    | RosterChanged
    | EntriesChanged
    | Write
    | Respond
    | StrictWanted
    | StrictDropped
    | StrictGranted
    | StrictRefused
    | StrictLost
)
Output: TypeAlias = Effect | Fact
"""What a machine's methods return lists of."""
