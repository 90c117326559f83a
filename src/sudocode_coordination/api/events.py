"""What happens, as clients see it: `{type, agentId, timestamp, data}`."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from sudocode_coordination.model import AgentId, Json

EventType: TypeAlias = Literal[
    "peer-discovered",
    "peer-connected",
    "peer-disconnected",
    "peer-rotated",
    "lease-acquired",
    "lease-denied",
    "lease-renewed",
    "lease-released",
    "lease-expired",
    "lease-lost",
    "lease-queued",
    "conflicts-detected",
    "conflicts-cleared",
    "sync-completed",
    "heartbeat-sent",
    "work-started",
    "work-completed",
    "issue-updated",
    "spec-updated",
    "message-received",
    "message-acknowledged",
]
EVENT_TYPES: Final[tuple[str, ...]] = EventType.__args__  # type: ignore[attr-defined]


class Event(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One thing that happened. `agent_id` is who it concerns: the holder of a lease, the agent of a peer, the author of work, whom
    a message is for or, once it is acknowledged, who sent it.

    What `data` holds, by type (all keys camelCase):

    peer-discovered: `peerId`, `addresses`, `capabilities`
    peer-connected: `peerId`, `agentIds`, `address`
    peer-disconnected: `peerId`, `agentIds`, `reason`
    peer-rotated: `peerId`, `formerPeerId`: it has a new key
    lease-acquired: `lease` (see `model.Lease`), as in all `lease-*`
    lease-denied: `lease`, `reason`; agents in the way: `holder` (the first) and `queue` (all); `cycle` of a
        deadlock (see `answers.Waits`)
    lease-renewed: `lease`
    lease-released: `lease`, `reason`
    lease-expired: `lease`, `reason`
    lease-lost: `lease`, `reason`; if known `holder` (who has it now), and `overlap` if another was held along with it (see
        `model.Overlapped`)
    lease-queued: `lease` with its `position`; `holder` and `queue` as above; `waitMs` if the wait has a limit
    conflicts-detected: `conflicts` (who works on the same), or `lease`, `holder` and `graceMs` (who wants it, and how long it is
        kept), or `lease` and `overlap` (who held it as well, and had to give way), or `foretold` (changes that would not merge, see
        `model.ForetoldConflict`)
    conflicts-cleared: `foretold`: those that are foretold no more
    sync-completed: `peerId`, `feeds`, `entries`
    heartbeat-sent: `count`
    work-started: `peerId`, `work`
    work-completed: `peerId`, `work` (null)
    issue-updated: `issueId`, `fields`
    spec-updated: `specPath`, `fields`
    message-received: `message` (see `model.Message`)
    message-acknowledged: `messageId`, `by`
    """

    type: EventType
    agent_id: AgentId
    timestamp: str
    """ISO 8601 UTC with milliseconds."""
    data: dict[str, Json] = {}
