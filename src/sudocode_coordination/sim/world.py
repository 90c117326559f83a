"""A swarm in one process, in virtual time: the real node over the simulated ports. A seed is a whole history.

Every node has a clock of its own (offset and rate). What the world does to a node (crash, freeze, power cut) is done here;
what the wires do is `network.py`'s, what the remote does `remote.py`'s and `table.py`'s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from typing import Final, assert_never

import msgspec

from sudocode_coordination.api.events import Event
from sudocode_coordination.api.requests import AcquireLease, CoreRequest, DetachAgent, LeaseOutcome, ReleaseLease
from sudocode_coordination.config import CoordinationConfig
from sudocode_coordination.core.io import (
    Admit,
    BranchPublishFailed,
    BuildTable,
    ClientGone,
    Dial,
    DiskFailed,
    Effect,
    Emit,
    ForetellMerge,
    Gossip,
    HangUp,
    Input,
    Persist,
    Publish,
    ReadBranch,
    ReadTable,
    Reply,
    RequestCancelled,
    RequestError,
    RequestReceived,
    Send,
    ShowRecord,
    Started,
    Stopped,
    StopRequested,
    SwapTable,
    TableSwapFailed,
    Ticked,
    Upgrade,
    UseRelays,
)
from sudocode_coordination.core.node import TOGETHER, Node
from sudocode_coordination.errors import NoDaemonError, StorageError
from sudocode_coordination.model import AgentId, Instant, Now, PeerId
from sudocode_coordination.sim.disk import SimDisk
from sudocode_coordination.sim.identity import SimKeyring
from sudocode_coordination.sim.network import NetworkFaults, SimNetwork, SimNetworkWorld
from sudocode_coordination.sim.remote import SimGitPort, SimGitRemote
from sudocode_coordination.sim.scheduler import WALL_EPOCH_MS, Scheduler
from sudocode_coordination.sim.table import SimTablePort, SimTableRemote
from sudocode_coordination.sim.terrain import Ground

Answered = Callable[[Reply], None]
CLIENT: Final = 1


@dataclass(frozen=True, slots=True)
class SimClock:
    """A machine's clock: `offset_ms` at virtual instant 0, and so many parts per million too fast. `wall_off_ms`: how wrong the
    time of day is; that alone can be set."""

    offset_ms: int = 0
    drift_ppm: int = 0
    wall_off_ms: int = 0

    def read(self, instant: Instant) -> Now:
        """What it shows at a virtual instant."""
        local = self._local(instant)
        return Now(local, WALL_EPOCH_MS + local + self.wall_off_ms)

    def _local(self, instant: Instant) -> Instant:
        return instant + instant * self.drift_ppm // 1_000_000 + self.offset_ms

    def when(self, local: Instant) -> Instant:
        """The first virtual instant at which it shows at least that."""
        guess = (local - self.offset_ms) * 1_000_000 // (1_000_000 + self.drift_ppm)
        while self._local(guess) < local:
            guess += 1
        return guess


@dataclass(slots=True)
class Trace:
    """What happened, as a running hash; and in words, if they are wanted."""

    words: list[str] | None = None
    _hash: blake2b = field(default_factory=lambda: blake2b(digest_size=16))
    count: int = 0

    def note(self, line: str) -> None:
        """One more thing."""
        self.count += 1
        self._hash.update(line.encode() + b"\n")
        if self.words is not None:
            self.words.append(line)

    @property
    def digest(self) -> str:
        """Of everything so far."""
        return self._hash.hexdigest()


class SimNode:
    """One clone: what survives its processes, and the process that runs, if one does."""

    def __init__(self, world: World, name: str, config: CoordinationConfig, clock: SimClock) -> None:
        self.name = name
        self.keyring = SimKeyring(name)
        self.peer_id: PeerId = self.keyring.peer_id
        self.clock = clock
        self._read_at: Instant = -1
        """World time at which the clock was last read: it is asked several times in a step."""
        self._now = Now(0, 0)
        self.disk = SimDisk(world.scheduler.random)
        self.network = SimNetwork(world.network, self.peer_id, self.deliver, relay_service=config.relay_service)
        self.git = SimGitPort(world.remote, self.deliver)
        self.table = SimTablePort(world.table, self.deliver)
        self.node: Node | None = None
        self.events: list[Event] = []
        self.lives = 0
        self.frozen = False
        self.late_ms = 0
        """How much later than it should its alarm may go off: a machine that is busy."""
        self.paused_at: Instant = -1
        """World time at which it last was frozen, late, or down."""
        self.asked_for: dict[AgentId | None, list[AcquireLease]] = {}
        """All that each of its agents has ever asked for."""
        self.willed: dict[AgentId | None, Instant] = {}
        """World time at which each agent (None: all of them) last let something go."""
        self.disk_failed_at: Instant = -1
        self._world = world
        self.config = config
        self._answers: dict[int, Answered] = {}
        self._client_of: dict[int, int] = {}
        self._asked = 0
        self._alarm = 0
        self._alarm_at: Instant | None = None
        self._waiting: deque[Input] = deque()
        self.gather_ms = 0
        """How long what peers and agents say waits for more, to be one step with it: a machine that has much to do."""

    @property
    def now(self) -> Now:
        """By its own clock."""
        instant = self._world.scheduler.instant
        if instant != self._read_at:
            self._read_at, self._now = instant, self.clock.read(instant)
        return self._now

    # --- the world's doing ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """A process begins."""
        assert self.node is None
        self.lives += 1
        self._pause()
        self.node = Node(self.config, self.keyring)
        self.git = SimGitPort(self._world.remote, self.deliver)
        self.table = SimTablePort(self._world.table, self.deliver)
        seed = self._world.scheduler.random.getrandbits(32)
        self.deliver(Started(contents=self.disk.load(), seed=seed, newborn=self.lives == 1))
        if self.lives == 1:
            self.network.start()
        else:
            self.network.restart()

    def kill(self, *, power_cut: bool = False) -> None:
        """The process is gone without a word; with the power, the disk's last writes too."""
        self._end()
        if power_cut:
            self.disk.crash()
        else:
            self.disk.kill()
        self.network.crash(noticed=not power_cut)
        self.git.crash()
        self.table.crash()

    def lose_disk(self) -> None:
        """While it is down."""
        assert self.node is None
        self.disk.wipe()

    def freeze(self) -> None:
        """As SIGSTOP, or suspend: nothing runs, time goes on."""
        self.frozen = True
        self._pause()
        self.network.freeze()

    def thaw(self) -> None:
        """As SIGCONT: what has waited is handled."""
        self.frozen = False
        self._pause()
        self.network.thaw()
        if self.node is not None:
            self._tick(self._alarm)
            self._take_waiting()

    def stop(self) -> None:
        """As SIGTERM."""
        self.willed[None] = self._world.scheduler.instant
        self.deliver(StopRequested())

    def set_clock(self, clock: SimClock) -> None:
        """It runs by that from now on."""
        self.clock = clock
        self._read_at = -1
        self._alarm_at = None
        if self.node is not None and not self.frozen:
            self._set_alarm()

    def in_time(self) -> None:
        """Its alarm is late no more."""
        if self.late_ms:
            self.late_ms = 0
            self._pause()

    def _pause(self) -> None:
        self.paused_at = self._world.scheduler.instant

    def _end(self) -> None:
        if self._world.ground is not None:
            self._world.ground.shown(self, None)
        self.node = None
        self._alarm += 1
        self._alarm_at = None
        self._answers.clear()
        self._client_of.clear()
        self._waiting.clear()
        self.frozen = False

    # --- what its agents do -----------------------------------------------------------------------------------------------

    def ask(self, request: CoreRequest, answered: Answered, *, client: int = CLIENT) -> int:
        """A request; its number, to cancel it by."""
        self._asked += 1
        self._answers[self._asked] = answered
        self._client_of[self._asked] = client
        if isinstance(request, AcquireLease):
            self.asked_for.setdefault(request.agent, []).append(request)
        if isinstance(request, ReleaseLease | DetachAgent):
            self.willed[request.agent] = self._world.scheduler.instant
        self.deliver(RequestReceived(client=client, request_id=self._asked, request=request))
        return self._asked

    def client_gone(self, client: int) -> None:
        """That connection is closed: nobody hears its answers, and agents bound to it leave."""
        for request_id in [id_ for id_, of in self._client_of.items() if of == client]:
            self._answers.pop(request_id, None)
            del self._client_of[request_id]
        self.willed[None] = self._world.scheduler.instant
        self.deliver(ClientGone(client=client))
        self._take_waiting()  # whoever checks looks at once

    def cancel(self, request_id: int, *, client: int = CLIENT) -> None:
        """The agent waits no more."""
        if self._answers.pop(request_id, None) is not None:
            self._client_of.pop(request_id, None)
            self.deliver(RequestCancelled(client=client, request_id=request_id))

    # --- the pump -----------------------------------------------------------------------------------------------------------

    def deliver(self, given: Input) -> None:
        """As `daemon.pump` does it: handle, then carry out the effects in order."""
        if self.node is None:
            return
        if self.frozen:
            self._waiting.append(given)
            return
        if self.gather_ms and isinstance(given, TOGETHER):
            if not self._waiting:
                self._world.scheduler.after(self.gather_ms, partial(self._take_waiting, self.node))
            self._waiting.append(given)
            return
        self._waiting.append(given)
        self._take_waiting()

    def _take_waiting(self, life: Node | None = None) -> None:
        """`life`: it is to be the same process still."""
        while self._waiting and self.node is not None and not self.frozen and life in (None, self.node):
            self._step(self._waiting.popleft(), self._together())

    def _together(self) -> Iterator[Input]:
        while self._waiting and isinstance(self._waiting[0], TOGETHER):
            yield self._waiting.popleft()

    def _step(self, given: Input, more: Iterable[Input] = ()) -> None:
        assert self.node is not None
        node = self.node
        now = self.now
        failure = self._carry_out(node.handle(given, now, more))
        if failure is not None and self.node is node:
            self.disk_failed_at = self._world.scheduler.instant
            self._carry_out(node.handle(DiskFailed(reason=failure), now))
        if self.node is node:
            self._set_alarm()
            self._world.stepped(self)

    def _carry_out(self, effects: list[Effect]) -> str | None:
        """Why the disk failed, if it did: then nothing goes out that this step would have vouched for."""
        failure: str | None = None
        for effect in effects:
            match effect:
                case Send(peer=peer, frame=frame):
                    if failure is None:
                        self.network.send(peer, frame)
                case Gossip(topic=topic, data=data):
                    if failure is None:
                        self.network.gossip(topic, data)
                case Publish(ticket=ticket, final=False) if failure is not None:
                    self._world.scheduler.after(0, partial(self.deliver, BranchPublishFailed(ticket=ticket, reason=failure)))
                case SwapTable(ticket=ticket) | BuildTable(ticket=ticket) if failure is not None:
                    failed = TableSwapFailed(ticket=ticket, kind="unknown", reason=failure)
                    self._world.scheduler.after(0, partial(self.deliver, failed))
                case Persist(operations=operations):
                    try:
                        self.disk.write(operations)
                    except StorageError as error:
                        failure = str(error)
                case Dial(peer=peer, addresses=addresses, relayed=relayed, patience_ms=patience_ms):
                    self.network.dial(peer, addresses, relayed, patience_ms)
                case Upgrade(peer=peer, addresses=addresses):
                    self.network.upgrade(peer, addresses)
                case UseRelays(relays=relays):
                    self.network.use_relays(relays)
                case HangUp(peer=peer, reason=reason):
                    self.network.hang_up(peer, reason)
                case Admit(peers=peers):
                    self.network.admit(peers)
                case ShowRecord(data=data):
                    if self._world.ground is not None:
                        self._world.ground.shown(self, data)
                case ForetellMerge():
                    pass  # it has no work tree
                case ReadBranch():
                    self.git.read_branch()
                case Publish(ticket=ticket, changes=changes, beside=beside, final=final):
                    self.git.publish(ticket, changes, beside=beside, final=final)
                case ReadTable(whole=whole):
                    self.table.read_table(whole=whole)
                case SwapTable():
                    self.table.swap_table(effect)
                case BuildTable():
                    self.table.build_table(effect)
                case Reply():
                    answered = self._answers.pop(effect.request_id, None)
                    self._client_of.pop(effect.request_id, None)
                    if answered is not None:
                        answered(effect if failure is None else _refused(effect, failure))
                    elif isinstance(effect.value, LeaseOutcome) and effect.value.lease is not None:
                        # It gave up waiting, and is not taken in yet: what it is granted meanwhile is given back.
                        self.willed[effect.value.lease.agent_id] = self._world.scheduler.instant
                case Emit(event=event):
                    self.events.append(event)
                    self._world.trace.note(f"{self._world.scheduler.instant} {self.name} {event.type} {event.agent_id}")
                    self._world.happened(self, event)
                case Stopped():
                    unheard = [given for given in self._waiting if isinstance(given, RequestReceived)]
                    calls = [(given, self._answers.pop(given.request_id, None)) for given in unheard]
                    self._end()
                    self.disk.close()
                    self.network.crash()
                    self.table.crash()
                    for given, answered in calls:
                        if answered is not None:
                            answered(_closed(given))
                    return None
                case _:
                    assert_never(effect)
        return failure

    def _set_alarm(self) -> None:
        assert self.node is not None
        deadline = self.node.deadline()
        if deadline == self._alarm_at and not self.late_ms:
            return  # it is set
        self._alarm += 1
        self._alarm_at = deadline
        if deadline is not None:
            alarm, scheduler = self._alarm, self._world.scheduler
            late_ms = scheduler.random.randint(0, self.late_ms) if self.late_ms else 0
            scheduler.at(max(self.clock.when(deadline), scheduler.instant) + late_ms, lambda: self._tick(alarm))

    def _tick(self, alarm: int) -> None:
        if alarm != self._alarm or self.node is None or self.frozen:
            return
        deadline, self._alarm_at = self._alarm_at, None
        late_ms = 0 if deadline is None else max(0, self.now.instant - deadline)
        self._step(Ticked(late_ms=late_ms))


def _closed(given: RequestReceived) -> Reply:
    """What a client makes of its connection being closed."""
    error = RequestError(code=NoDaemonError.code, message="the connection was closed", hint="")
    return Reply(client=given.client, request_id=given.request_id, error=error)


def _refused(reply: Reply, failure: str) -> Reply:
    if reply.error is not None:
        return reply
    return msgspec.structs.replace(reply, value=None, error=RequestError(code="storage", message=failure, hint=""))


class World:
    """All of it.

    Args:
        seed: of all dice.
        config: of every node; agent ids are the nodes' names.
        faults: of the wires.
        words: keep the trace in words, for people.
    """

    def __init__(
        self, seed: int, *, config: Callable[[str], CoordinationConfig], faults: NetworkFaults, words: bool = False
    ) -> None:
        self.scheduler = Scheduler(seed)
        self.network = SimNetworkWorld(self.scheduler, faults)
        self.remote = SimGitRemote(self.scheduler)
        self.table = SimTableRemote(self.scheduler)
        self.trace = Trace([] if words else None)
        self.nodes: list[SimNode] = []
        self.ground: Ground | None = None
        """None: no NATs, and each is alone on its machine."""
        self.listeners: list[Callable[[SimNode, Event], None]] = []
        self.watchers: list[Callable[[SimNode], None]] = []
        self._config = config

    def add(self, name: str, clock: SimClock | None = None) -> SimNode:
        """A fresh clone, not started."""
        node = SimNode(self, name, self._config(name), clock or SimClock())
        self.nodes.append(node)
        return node

    def happened(self, node: SimNode, event: Event) -> None:
        """Tell whoever checks."""
        for listener in self.listeners:
            listener(node, event)

    def stepped(self, node: SimNode) -> None:
        """Let whoever checks look at what it did."""
        for watcher in self.watchers:
            watcher(node)

    def running(self) -> list[SimNode]:
        """Nodes with a process that is not frozen."""
        return [node for node in self.nodes if node.node is not None and not node.frozen]
