"""The whole daemon in one trio run: node, pump, server, git and network, from start to a clean end.

The slow part of a start is importing libp2p (about a second). Everything else goes on meanwhile: the socket answers, the disk
is read, and git fetches the branch; what the node wants of the network waits in `LateNetwork`.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
import trio

from sudocode_coordination import __version__
from sudocode_coordination.adapters.clock import BootClock
from sudocode_coordination.adapters.ports import Deliver, Disk, GitRemote, Keyring, LeaseTable, Neighbourhood, Network, WorkTrees
from sudocode_coordination.config import CoordinationConfig
from sudocode_coordination.core.io import RelayAt, Started, StopRequested
from sudocode_coordination.core.records import Succession
from sudocode_coordination.daemon.journal import Header, Journal
from sudocode_coordination.daemon.lifecycle import Holding
from sudocode_coordination.daemon.pump import CoreNode, NodeCrashed, Pump
from sudocode_coordination.daemon.server import Server
from sudocode_coordination.errors import CoordinationError, TimedOutError
from sudocode_coordination.model import PeerId
from sudocode_coordination.place import DIFFS_FOLDER, IDENTITY_FILE, RULES_FOLDER, TABLE_FOLDER, Clone

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # libp2p brings these stubs, and they hide trio's own types

STOP_LIMIT_S: Final = 12.0
"""For leaving in order: a final push may take eight seconds, and farewells one."""
MAX_LATE_DIALS: Final = 1_000
"""Dials that wait for the network: as many as there may be peers."""
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

log = logging.getLogger(__name__)


class RunningGit(GitRemote, Protocol):
    """The git port with its task."""

    async def run(self, *, task_status: TaskStatus[None] = ...) -> None:
        """Until cancelled."""


class RunningTable(LeaseTable, Protocol):
    """The lease table port with its task."""

    async def run(self, *, task_status: TaskStatus[None] = ...) -> None:
        """Until cancelled."""


class RunningNeighbourhood(Neighbourhood, Protocol):
    """The neighbourhood port with its task."""

    async def run(self, *, task_status: TaskStatus[None] = ...) -> None:
        """Until cancelled."""


class RunningWorkTrees(WorkTrees, Protocol):
    """The worktrees port with its task."""

    async def run(self, *, task_status: TaskStatus[None] = ...) -> None:
        """Until cancelled."""


class RunningNetwork(Network, Protocol):
    """The network port with its task."""

    async def run(self, *, task_status: TaskStatus[None] = ...) -> None:
        """Until cancelled; started when it listens."""


class Surroundings(Protocol):
    """Makes what a daemon is put together from."""

    @property
    def newborn(self) -> bool:
        """Whether that identity has just been made."""

    @property
    def formerly(self) -> tuple[Succession, ...]:
        """The ids that it had before."""

    def keyring(self) -> Keyring:
        """The clone's identity."""

    def node(self) -> CoreNode:
        """The core."""

    def disk(self) -> Disk:
        """Where it keeps things."""

    def git(self, deliver: Deliver) -> RunningGit:
        """The remote."""

    def table(self, deliver: Deliver) -> RunningTable:
        """The strict leases on the remote."""

    def neighbourhood(self, deliver: Deliver) -> RunningNeighbourhood:
        """Other daemons on this machine."""

    def worktrees(self, deliver: Deliver) -> RunningWorkTrees:
        """What is changed here."""

    def network(self, deliver: Deliver) -> RunningNetwork:
        """The peers. Called in a thread: it may take a second."""


class RealSurroundings:
    """The real ones of a clone. Each is imported when it is made."""

    def __init__(self, clone: Clone, config: CoordinationConfig) -> None:
        from sudocode_coordination.adapters.identity import load_or_create_identity
        from sudocode_coordination.daemon.rotation import former_lives

        self._clone = clone
        self._config = config
        key_file = Path(clone.state_file(IDENTITY_FILE))
        self.newborn = not key_file.exists()
        self._identity = load_or_create_identity(key_file)
        self.formerly = former_lives(clone, self._identity.peer_id)

    def keyring(self) -> Keyring:
        return self._identity

    def node(self) -> CoreNode:
        from sudocode_coordination.core.node import Node

        return Node(self._config, self._identity)

    def disk(self) -> Disk:
        from sudocode_coordination.adapters.disk import SqliteDisk

        return SqliteDisk(Path(self._clone.state_dir))

    def git(self, deliver: Deliver) -> RunningGit:
        from sudocode_coordination.adapters.git import GitCli
        from sudocode_coordination.core.admission import local_rules
        from sudocode_coordination.core.records import peer_in

        work_tree = None if self._clone.work_tree is None else Path(self._clone.work_tree)
        common_dir, config = Path(self._clone.common_dir), self._config
        return GitCli(
            common_dir,
            config.git_remote,
            config.coordination_branch,
            deliver,
            work_tree=work_tree,
            rules=local_rules(config),
            rules_folder=Path(self._clone.state_file(RULES_FOLDER)),
            me=self._identity.peer_id,
            peer_in=lambda name, data: peer_in(name, data, self._identity),
        )

    def table(self, deliver: Deliver) -> RunningTable:
        from sudocode_coordination.adapters.git_table import GitTable

        work_tree = None if self._clone.work_tree is None else Path(self._clone.work_tree)
        home = Path(self._clone.state_file(TABLE_FOLDER))
        return GitTable(Path(self._clone.common_dir), home, self._config.git_remote, deliver, work_tree=work_tree)

    def neighbourhood(self, deliver: Deliver) -> RunningNeighbourhood:
        from sudocode_coordination.adapters.lan import Lan
        from sudocode_coordination.adapters.neighbourhood import Everywhere, Rendezvous

        peer = self._identity.peer_id
        return Everywhere(Rendezvous(peer, deliver), *([Lan(peer, deliver)] if self._config.mdns else []))

    def worktrees(self, deliver: Deliver) -> RunningWorkTrees:
        from sudocode_coordination.adapters.worktrees import GitWorkTrees, Unwatched

        config = self._config
        if not config.enable_file_diffs:
            return Unwatched(deliver)
        return GitWorkTrees(
            Path(self._clone.common_dir),
            Path(self._clone.state_file(DIFFS_FOLDER)),
            deliver,
            remote=config.git_remote,
            agent=config.agent_id,
            deny=config.file_diff_deny,
            coordination_branch=config.coordination_branch,
            interval_ms=config.file_diff_interval_ms,
        )

    def network(self, deliver: Deliver) -> RunningNetwork:
        from sudocode_coordination.adapters.libp2p import Libp2pNetwork

        config = self._config
        return Libp2pNetwork(
            self._identity,
            config.listen_addresses,
            deliver,
            announce_addresses=config.announce_addresses,
            relay_service=config.relay_service,
            max_peers=config.max_peers,
        )


class LateNetwork:
    """Stands for the network until it is there. Nobody is connected yet, so only admissions and dials need to be kept."""

    def __init__(self) -> None:
        self._network: Network | None = None
        self._admitted: tuple[PeerId, ...] | None = None
        self._dials: dict[PeerId, tuple[tuple[str, ...], tuple[str, ...], int]] = {}
        self._relays: tuple[RelayAt, ...] | None = None

    def arrived(self, network: Network) -> None:
        """From now on everything goes there, what was kept first."""
        self._network = network
        if self._admitted is not None:
            network.admit(self._admitted)
        if self._relays is not None:
            network.use_relays(self._relays)
        for peer, ways in self._dials.items():
            network.dial(peer, *ways)
        self._dials.clear()

    def dial(self, peer: PeerId, addresses: tuple[str, ...], relayed: tuple[str, ...] = (), patience_ms: int = 0) -> None:
        if self._network is not None:
            self._network.dial(peer, addresses, relayed, patience_ms)
        elif len(self._dials) < MAX_LATE_DIALS:
            self._dials[peer] = (addresses, relayed, patience_ms)

    def upgrade(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        if self._network is not None:
            self._network.upgrade(peer, addresses)

    def use_relays(self, relays: tuple[RelayAt, ...]) -> None:
        if self._network is not None:
            self._network.use_relays(relays)
        else:
            self._relays = relays

    def hang_up(self, peer: PeerId, reason: str) -> None:
        if self._network is not None:
            self._network.hang_up(peer, reason)
        else:
            self._dials.pop(peer, None)

    def admit(self, peers: tuple[PeerId, ...]) -> None:
        if self._network is not None:
            self._network.admit(peers)
        else:
            self._admitted = peers

    def send(self, peer: PeerId, frame: bytes) -> None:
        if self._network is not None:
            self._network.send(peer, frame)

    def gossip(self, topic: str, data: bytes) -> None:
        if self._network is not None:
            self._network.gossip(topic, data)


class Daemon:
    """One life of a daemon.

    Args:
        holding: the right to be this clone's daemon; released by the caller.
        config: as it was settled.
        surroundings: what to put together.
        ready: called once it is active: the network listens, and the node knows it.
        signals: whether SIGINT, SIGTERM and SIGHUP stop it (a second one at once). Only in a process of its own.
    """

    def __init__(
        self,
        holding: Holding,
        config: CoordinationConfig,
        surroundings: Surroundings,
        *,
        ready: Callable[[], None],
        signals: bool,
    ) -> None:
        self._holding = holding
        self._config = config
        self._surroundings = surroundings
        self._ready = ready
        self._signals = signals
        self._stopping = False
        self._late: str | None = None
        self._scope = trio.CancelScope()
        folder = Path(holding.clone.state_dir)
        settings = msgspec.to_builtins(config)
        header = Header(version=__version__, peer_id=surroundings.keyring().peer_id, config=settings)
        self._journal = Journal(folder, header)

    async def run(self) -> None:
        """Until it has stopped.

        Raises:
            CoordinationError: it can't start (no address to listen on, no place to write), or did not stop in order.
            NodeCrashed: a fault of ours; the journal holds what led to it.
        """
        try:
            await self._run()
        except BaseExceptionGroup as group:
            log.debug("ended by", exc_info=group)
            raise _cause(group) from None
        finally:
            self._journal.flush()
            self._journal.close()

    async def _run(self) -> None:
        listener = self._holding.listen()
        disk = self._surroundings.disk()
        try:
            contents = disk.load()
            if contents.lost:
                log.warning("%s", contents.lost)
            network = LateNetwork()
            server = self._server = Server(request=self._request, deliver=self._deliver, stop=self.stop)
            self._git = self._surroundings.git(self._deliver)
            table = self._surroundings.table(self._deliver)
            neighbourhood = self._surroundings.neighbourhood(self._deliver)
            worktrees = self._surroundings.worktrees(self._deliver)
            self._pump = Pump(
                self._surroundings.node(),
                BootClock(),
                disk,
                network,
                self._git,
                table,
                neighbourhood,
                worktrees,
                emit=server.emit,
                reply=server.reply,
                taken=server.taken,
                journal=self._journal,
            )
            newborn = self._surroundings.newborn
            self._pump.deliver(
                Started(contents=contents, seed=secrets.randbits(63), newborn=newborn, formerly=self._surroundings.formerly)
            )
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    if self._signals:
                        await nursery.start(self._obey_signals)
                    nursery.start_soon(self._git.run)
                    nursery.start_soon(table.run)
                    nursery.start_soon(neighbourhood.run)
                    nursery.start_soon(worktrees.run)
                    nursery.start_soon(server.run, listener)
                    nursery.start_soon(self._bring_up, network)
                    try:
                        await self._pump.run()
                    except NodeCrashed:
                        log.critical("stopped by a fault; what led to it is in %s", self._journal.path)
                        raise
                    await server.farewell(record_left=self._pump.record_left)
                    nursery.cancel_scope.cancel()
            if self._late is not None:
                raise TimedOutError(self._late, hint="its leases end by their ttl, its record by the next discovery")
        finally:
            listener.close()
            disk.close()

    def stop(self, hand_over: bool = False) -> None:
        """Begin to stop; once is enough. `hand_over`: for a new key."""
        if not self._stopping:
            self._stopping = True
            log.info("stopping")
            self._pump.deliver(StopRequested(hand_over=hand_over))
            self._nursery.start_soon(self._limit_stop)

    async def _limit_stop(self) -> None:
        await trio.sleep(STOP_LIMIT_S)
        self._late = f"not everything could be ended in order within {STOP_LIMIT_S:g} s"
        await self._server.farewell(self._late)
        self._scope.cancel()

    async def _bring_up(self, late: LateNetwork) -> None:
        # Abandoned if the daemon stops meanwhile: an import can't be interrupted, and nothing depends on it any more.
        make = self._surroundings.network
        network = await trio.to_thread.run_sync(make, self._deliver, abandon_on_cancel=True)  # type: ignore[call-arg]
        await self._nursery.start(network.run)
        late.arrived(network)
        await self._pump.caught_up()
        self._holding.announce(self._config)
        log.info("active: pid %d, agent %s, peer %s", os.getpid(), self._config.agent_id, self._surroundings.keyring().peer_id)
        self._ready()

    async def _obey_signals(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.open_signal_receiver(*_SIGNALS) as received:
            task_status.started()
            async for number in received:
                log.info("got %s", signal.Signals(number).name)
                if self._stopping:
                    self._holding.release()
                    os._exit(1)
                self.stop()

    def _deliver(self, given: object) -> None:
        self._pump.deliver(given)  # type: ignore[arg-type]

    def _request(self, given: object) -> bool:
        return self._pump.request(given)  # type: ignore[arg-type]


def _cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error of a group that says most: ours before others, faults before cancellations."""
    leaves: list[BaseException] = []
    waiting: list[BaseException] = [group]
    while waiting:
        error = waiting.pop(0)
        if isinstance(error, BaseExceptionGroup):
            waiting.extend(error.exceptions)
        else:
            leaves.append(error)
    for kind in (NodeCrashed, CoordinationError, Exception):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    return leaves[0]
