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
    """One thing that happened. `agent_id` is who it concerns: the holder of a lease, the agent of a peer, the author of work.

    `data` by type (all keys camelCase): peer-*: `peerId, agentIds, address, reason`; peer-rotated (it has a new key): `peerId,
    formerPeerId`; lease-*: `lease` (see `model.Lease`),
    and `reason` (why denied, lost or released), `holder` (agent id), `queue` (agents ahead), `waitMs` (limit of the wait), `cycle`
    (of a deadlock, see `requests.Waits`), and for a lost one that another was held along with `overlap` (see `model.Overlapped`);
    conflicts-detected: `conflicts` (who works on the same), or `lease` and `holder` (who wants it), or `lease` and `overlap` (who
    held it as well, and had to give way), or `foretold` (changes that would not merge, see `model.ForetoldConflict`);
    conflicts-cleared: `foretold` (those that are foretold no more); sync-completed: `peerId, feeds, entries`; heartbeat-sent:
    `count`; work-*: `work`; issue-updated: `issueId, fields`; spec-updated: `specPath, fields`; message-received (`agent_id` is
    whom it is for): `message` (see `model.Message`); message-acknowledged (`agent_id` is who sent it): `messageId, by`.
    """

    type: EventType
    agent_id: AgentId
    timestamp: str
    """ISO 8601 UTC with milliseconds."""
    data: dict[str, Json] = {}
