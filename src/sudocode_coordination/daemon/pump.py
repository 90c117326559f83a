"""The only task that owns the node: takes inputs out of a bounded inbox, hands them over in their order, carries out the effects.

    deliver() ──> inbox ──> Node.handle ──> Persist (waited for) ──> everything else, in order
                   ticks ──┘

What has come together is one step: one write, and one frame to each peer, for a whole burst of requests or messages.

Laws: an effect is carried out only when every `Persist` before it in its step is on disk (what a failed one would have
vouched for is not published); a node that raises ends the daemon: half a daemon would renew leases that nobody decides about.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from time import perf_counter, thread_time
from typing import Final, Protocol, assert_never

import trio

from sudocode_coordination.adapters.ports import Clock, Disk, GitRemote, LeaseTable, Neighbourhood, Network, WorkTrees
from sudocode_coordination.adapters.supervisor import next_beat
from sudocode_coordination.api.events import Event
from sudocode_coordination.core.conduct import Bucket
from sudocode_coordination.core.io import (
    Admit,
    BranchPublishFailed,
    BuildTable,
    Dial,
    DiskFailed,
    DiskWorks,
    Effect,
    Emit,
    ForetellMerge,
    FrameReceived,
    Gossip,
    GossipReceived,
    HangUp,
    Input,
    PeerDisconnected,
    PeerMisbehaved,
    PeerRefused,
    Persist,
    Publish,
    ReadBranch,
    ReadTable,
    Reply,
    RequestError,
    RequestReceived,
    Send,
    ShowRecord,
    Stopped,
    SwapTable,
    TableSwapFailed,
    Ticked,
    Upgrade,
    UseRelays,
)
from sudocode_coordination.core.node import TOGETHER
from sudocode_coordination.daemon.journal import Journal
from sudocode_coordination.errors import StorageError
from sudocode_coordination.model import Instant, Now, PeerId

MAX_QUEUED_REQUESTS: Final = 4_096
"""Requests that wait for the node. It does thousands a second: more are answered with `daemon-busy` sooner than late."""
MAX_PEER_FRAMES: Final = 2_048
"""Frames of one peer that wait. One that sends faster than they are handled is disconnected; it syncs when it is back."""
MAX_PEER_BYTES: Final = 16 << 20
"""The same in bytes: sixteen of the largest frames."""
MAX_FRAME_BYTES: Final = 64 << 20
"""Of all peers together: what a daemon may grow by under a flood. The peer whose frame does not fit is disconnected."""
TOO_FAST: Final = "sent faster than could be handled"
CPU_SHARE: Final = 0.5
"""Of one core, that what one peer sends may take for long, whatever it is that it sends …"""
CPU_BURST_S: Final = 10.0
"""… and at once: ten times what 10,000 leases that join take. Everybody else waits for as long."""
MAX_COUNTED_PEERS: Final = 1_024
"""Peers whose share is counted; more than are connected."""
TOO_COSTLY: Final = "what it sends takes too much of this machine's time"
MAX_HINTS: Final = 2_048
"""Gossip and refusals that wait. Nothing depends on them: more are dropped."""
BATCH: Final = 256
"""Inputs in one step, before other tasks (sockets, git) get their turn: some ten milliseconds. More than a hundred peers send at
once if one frame of each has come."""
BATCH_BYTES: Final = 1 << 20
"""Of frames in one step, as they come: one of the largest, or many small ones."""
SHORT_S: Final = 0.001
"""A step below this is charged by the wall: the clock of a thread costs microseconds to read."""
MAX_SLEEP_S: Final = 1.0
"""Timers here do not count suspend, the node's clock does: looking once a second, a tick is late by that at most."""

log = logging.getLogger(__name__)


class CoreNode(Protocol):
    """What the pump drives; `core.node.Node` is one."""

    def handle(self, given: Input, now: Now, more: Iterable[Input] = (), /) -> list[Effect]:
        """Decide, in one step with `more` of `TOGETHER`."""

    def deadline(self) -> Instant | None:
        """When it wants a tick."""


class NodeCrashed(Exception):  # noqa: N818 - not one that users handle
    """The node raised. Its state is unknown: nothing may go on."""


class Pump:
    """See the module. All methods belong to one trio thread."""

    def __init__(
        self,
        node: CoreNode,
        clock: Clock,
        disk: Disk,
        network: Network,
        git: GitRemote,
        table: LeaseTable,
        neighbourhood: Neighbourhood,
        worktrees: WorkTrees,
        *,
        emit: Callable[[Event], None],
        reply: Callable[[Reply], None],
        taken: Callable[[int], None] | None = None,
        journal: Journal | None = None,
    ) -> None:
        self._node = node
        self._clock = clock
        self._disk = disk
        self._network = network
        self._git = git
        self._table = table
        self._neighbourhood = neighbourhood
        self._worktrees = worktrees
        self._emit = emit
        self._reply = reply
        self._taken = taken
        """Told of the client whose request has left the inbox."""
        self._journal = journal
        self._inbox: deque[Input] = deque()
        self._taken_last: Input | None = None
        self._wake = trio.Event()
        self._idle = trio.Event()
        self._requests = 0
        self._hints = 0
        self._frames: dict[PeerId, tuple[int, int]] = {}
        self._frame_bytes = 0
        self._cut: set[PeerId] = set()
        """Peers of whom a frame was dropped: nothing more from them until they are disconnected."""
        self._disk_failing = False
        self._cpu: dict[PeerId, Bucket] = {}
        self.dropped_hints = 0
        self.stopped = False
        self.record_left = ""
        """Once stopped: why the own records are on the branch still."""

    # --- in ---------------------------------------------------------------------------------------------------------------

    def deliver(self, given: Input) -> None:
        """Put an input into the inbox; never blocks, never raises. What does not fit goes by the limits above.

        Inputs without a limit here (connections, git's results, cancellations) are bounded by those who send them.
        """
        match given:
            case FrameReceived(peer=peer, frame=frame):
                if peer in self._cut:
                    return
                count, size = self._frames.get(peer, (0, 0))
                count, size = count + 1, size + len(frame)
                if count > MAX_PEER_FRAMES or size > MAX_PEER_BYTES or self._frame_bytes + len(frame) > MAX_FRAME_BYTES:
                    self._cut_off(peer, TOO_FAST)
                    return
                self._frames[peer] = (count, size)
                self._frame_bytes += len(frame)
            case GossipReceived() | PeerRefused():
                if self._hints >= MAX_HINTS:
                    self.dropped_hints += 1
                    return
                self._hints += 1
            case PeerDisconnected(peer=peer):
                self._cut.discard(peer)
            case RequestReceived():
                self._requests += 1
            case _:
                pass
        self._inbox.append(given)
        self._wake.set()

    def request(self, given: RequestReceived) -> bool:
        """Put a client's request into the inbox; False if there is no room for it."""
        if self._requests >= MAX_QUEUED_REQUESTS:
            return False
        self.deliver(given)
        return True

    def _take(self) -> Input:
        given = self._inbox.popleft()
        match given:
            case FrameReceived(peer=peer, frame=frame):
                count, size = self._frames[peer]
                self._frame_bytes -= len(frame)
                if count == 1:
                    del self._frames[peer]
                else:
                    self._frames[peer] = (count - 1, size - len(frame))
            case GossipReceived() | PeerRefused():
                self._hints -= 1
            case RequestReceived(client=client):
                self._requests -= 1
                if self._taken is not None:
                    self._taken(client)
            case _:
                pass
        return given

    async def caught_up(self) -> None:
        """The inbox has been empty at a moment after this was called."""
        while self._inbox and not self.stopped:
            self._idle = trio.Event()
            await self._idle.wait()

    # --- run --------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until the node has stopped.

        Raises:
            NodeCrashed: it raised; the cause is attached.
        """
        ticked_at: Instant = -1
        while True:
            await self._wait(ticked_at)
            now = self._clock.now()
            due = self._node.deadline()
            # At most one tick a millisecond: a node that never moves its deadline must not starve everything else.
            if due is not None and now.instant >= due and now.instant > ticked_at:
                ticked_at = now.instant
                self._step(Ticked(late_ms=now.instant - due), now)
            elif self._inbox:
                self._step(self._take(), now)
            if not self._inbox or self.stopped:
                self._idle.set()
            if self.stopped:
                return

    async def _wait(self, ticked_at: Instant) -> None:
        if self._inbox:
            await trio.lowlevel.checkpoint()
            return
        due = self._node.deadline()
        until = next_beat(MAX_SLEEP_S)
        if due is not None:
            sleep_s = (max(due, ticked_at + 1) - self._clock.instant()) / 1000
            if sleep_s <= 0:
                await trio.lowlevel.checkpoint()
                return
            until = min(until, trio.current_time() + sleep_s)
        self._wake = trio.Event()
        with trio.move_on_at(until):
            await self._wake.wait()

    def _step(self, given: Input, now: Now, *, after_disk_failure: bool = False) -> None:
        if self._journal is not None:
            self._journal.record(now, given)
        self._taken_last = given
        spent: dict[PeerId | None, float] = {}
        began, ran = perf_counter(), thread_time()
        more: Iterable[Input] = () if after_disk_failure else self._together(given, now, spent, began)
        try:
            effects = self._node.handle(given, now, more)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # pycrdt's panics are no Exceptions
            if self._journal is not None:
                self._journal.flush()
            raise NodeCrashed(f"the node raised on {type(self._taken_last).__name__}: {error!r}") from error
        took = perf_counter() - began
        # What a step takes beside its inputs is shared by those who sent them.
        share = (took if took < SHORT_S else thread_time() - ran) / max(sum(spent.values()), 1e-9)
        for peer, seconds in spent.items():
            if peer is not None:
                self._charge(peer, min(seconds * share, took), now)
        failure: str | None = None
        for effect in effects:
            failure = self._carry_out(effect, failure)
        if failure is not None and not after_disk_failure:
            log.error("disk: %s", failure)
            self._step(DiskFailed(reason=failure), now, after_disk_failure=True)

    def _together(self, given: Input, now: Now, spent: dict[PeerId | None, float], began: float) -> Iterator[Input]:
        """What has come since, for the step that `given` began.

        Args:
            spent: gets the seconds that the node takes for what each peer has sent; None: for all else.
            began: when it took `given`, by `perf_counter`.
        """
        count = size = 0
        while True:
            sender = given.peer if isinstance(given, FrameReceived) else None
            spent[sender] = spent.get(sender, 0.0) + perf_counter() - began
            size += len(given.frame) if isinstance(given, FrameReceived) else 0
            count += 1
            ahead = self._inbox[0] if self._inbox else None
            if count >= BATCH or not isinstance(ahead, TOGETHER):
                return
            if isinstance(ahead, FrameReceived) and size + len(ahead.frame) > BATCH_BYTES:
                return
            given = self._taken_last = self._take()
            if self._journal is not None:
                self._journal.record(now, given, together=True)
            began = perf_counter()
            yield given

    def _charge(self, peer: PeerId, seconds: float, now: Now) -> None:
        spent = self._cpu.get(peer)
        if spent is None:
            if len(self._cpu) >= MAX_COUNTED_PEERS:
                del self._cpu[next(iter(self._cpu))]
            spent = self._cpu[peer] = Bucket(CPU_SHARE, CPU_BURST_S, now.instant / 1000)
        if not spent.take(seconds, now.instant / 1000) and peer not in self._cut:
            self._cut_off(peer, TOO_COSTLY)

    def _cut_off(self, peer: PeerId, reason: str) -> None:
        self._cut.add(peer)
        self._network.hang_up(peer, reason)
        self.deliver(PeerMisbehaved(peer=peer, reason=reason))

    def _carry_out(self, effect: Effect, failure: str | None) -> str | None:
        """Do it; gives the reason why a `Persist` of this step has failed, if one has."""
        match effect:
            case Persist(operations=operations):
                try:
                    self._disk.write(operations)
                except StorageError as error:
                    self._disk_failing = True
                    return failure or error.message
                if self._disk_failing:
                    self._disk_failing = False
                    log.warning("disk: works again")
                    self.deliver(DiskWorks())
            case Send(peer=peer, frame=frame):
                if failure is None:
                    self._network.send(peer, frame)
            case Gossip(topic=topic, data=data):
                if failure is None:
                    self._network.gossip(topic, data)
            case Publish(ticket=ticket, changes=changes, beside=beside, final=final):
                if failure is None or final:
                    self._git.publish(ticket, changes, beside=beside, final=final)
                else:
                    self.deliver(BranchPublishFailed(ticket=ticket, reason=failure))
            case ReadTable(whole=whole):
                self._table.read_table(whole=whole)
            case SwapTable() | BuildTable():
                if failure is not None:
                    self.deliver(TableSwapFailed(ticket=effect.ticket, kind="unknown", reason=failure))
                elif isinstance(effect, SwapTable):
                    self._table.swap_table(effect)
                else:
                    self._table.build_table(effect)
            case Reply():
                if failure is not None and effect.error is None:
                    hint = "free some disk space, then try again"
                    refusal = RequestError(code="storage", message=f"could not be kept: {failure}", hint=hint)
                    effect = Reply(client=effect.client, request_id=effect.request_id, error=refusal)
                self._reply(effect)
            case Dial(peer=peer, addresses=addresses, relayed=relayed, patience_ms=patience_ms):
                self._network.dial(peer, addresses, relayed, patience_ms)
            case Upgrade(peer=peer, addresses=addresses):
                self._network.upgrade(peer, addresses)
            case UseRelays(relays=relays):
                self._network.use_relays(relays)
            case HangUp(peer=peer, reason=reason):
                self._network.hang_up(peer, reason)
            case Admit(peers=peers):
                self._network.admit(peers)
            case ShowRecord(data=data):
                self._neighbourhood.show_record(data)
            case ReadBranch():
                self._git.read_branch()
            case ForetellMerge():
                self._worktrees.foretell(effect)
            case Emit(event=event):
                self._emit(event)
            case Stopped(record_left=record_left):
                self.stopped = True
                self.record_left = record_left
            case _:
                assert_never(effect)
        return failure
