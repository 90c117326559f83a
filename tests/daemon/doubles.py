"""Stand-ins for what surrounds a pump or a server, and a daemon of them on a thread: faults and floods on demand."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import trio

from sudocode_coordination.api.codec import Answered, ServerMessage, decode_server_line
from sudocode_coordination.api.requests import AcquireLease, CheckConflicts, CheckResult, LeaseOutcome, ListPeers, SetWork
from sudocode_coordination.core.io import (
    BuildTable,
    ClientGone,
    DiskContents,
    DiskOperation,
    Effect,
    ForetellMerge,
    Input,
    RelayAt,
    Reply,
    RequestCancelled,
    RequestReceived,
    Stopped,
    StopRequested,
    SwapTable,
)
from sudocode_coordination.daemon.pump import Pump
from sudocode_coordination.daemon.server import Server
from sudocode_coordination.errors import StorageError
from sudocode_coordination.model import Instant, Now, PeerId
from sudocode_coordination.place import Clone

PATIENCE_S = 10.0


def wait_for(condition: Callable[[], Any], what: str = "the condition") -> None:
    """Poll until it holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about"
        time.sleep(0.005)


class HandClock:
    """Moves when told to."""

    def __init__(self) -> None:
        self.at: Instant = 1_000

    def now(self) -> Now:
        return Now(self.at, 1_800_000_000_000 + self.at)

    def instant(self) -> Instant:
        return self.at


class Log:
    """Network, git, table and disk in one: everything that is asked of them, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.broken: str | None = None

    def load(self) -> DiskContents:
        return DiskContents(intact=True)

    def write(self, operations: tuple[DiskOperation, ...]) -> None:
        if self.broken is not None:
            raise StorageError(self.broken)
        self.calls.append(("write", operations))

    def close(self) -> None:
        self.calls.append(("close",))

    def dial(self, peer: PeerId, addresses: tuple[str, ...], relayed: tuple[str, ...] = (), patience_ms: int = 0) -> None:
        self.calls.append(("dial", peer, addresses, *([relayed, patience_ms] if relayed else [])))

    def upgrade(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        self.calls.append(("upgrade", peer, addresses))

    def use_relays(self, relays: tuple[RelayAt, ...]) -> None:
        self.calls.append(("use_relays", relays))

    def foretell(self, wanted: ForetellMerge) -> None:
        self.calls.append(("foretell", wanted))

    def hang_up(self, peer: PeerId, reason: str) -> None:
        self.calls.append(("hang_up", peer, reason))

    def admit(self, peers: tuple[PeerId, ...]) -> None:
        self.calls.append(("admit", peers))

    def send(self, peer: PeerId, frame: bytes) -> None:
        self.calls.append(("send", peer, frame))

    def gossip(self, topic: str, data: bytes) -> None:
        self.calls.append(("gossip", topic, data))

    def show_record(self, data: bytes) -> None:
        self.calls.append(("show_record", data))

    def read_branch(self) -> None:
        self.calls.append(("read_branch",))

    def publish(
        self,
        ticket: int,
        changes: dict[str, bytes | None],
        *,
        beside: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
        final: bool = False,
    ) -> None:
        self.calls.append(("publish", ticket, changes, final, *([beside] if beside else [])))

    def read_table(self, *, whole: bool = False) -> None:
        self.calls.append(("read_table", whole))

    def swap_table(self, change: SwapTable) -> None:
        self.calls.append(("swap_table", change))

    def build_table(self, change: BuildTable) -> None:
        self.calls.append(("build_table", change))


class ScriptedNode:
    """Answers by a function; notes what it got."""

    def __init__(self, script: Callable[[Input, Now], list[Effect]]) -> None:
        self.script = script
        self.got: list[Input] = []
        self.steps: list[list[Input]] = []
        """The same, in the steps in which it came."""
        self.due: Instant | None = None

    def handle(self, given: Input, now: Now, more: Iterable[Input] = (), /) -> list[Effect]:
        self.steps.append([])
        effects: list[Effect] = []
        for one in chain((given,), more):
            self.got.append(one)
            self.steps[-1].append(one)
            effects += self.script(one, now)
        return effects

    def deadline(self) -> Instant | None:
        return self.due


def desk(given: Input, _now: Now) -> list[Effect]:
    """A script: checks and peers are answered, leases on `free…` granted, waits on others never end."""
    match given:
        case StopRequested():
            return [Stopped()]
        case RequestReceived(client=client, request_id=number, request=request):
            value: Any
            match request:
                case CheckConflicts():
                    value = CheckResult(conflicts=())
                case ListPeers():
                    value = ()
                case AcquireLease(wait_ms=None, resources=resources):
                    value = LeaseOutcome(granted=resources[0].path.startswith("free"))
                case SetWork():
                    value = {1: object()}  # nothing that can be encoded
                case _:
                    return []
            return [Reply(client=client, request_id=number, value=value)]
        case _:
            return []


class ThreadedServer:
    """A server with a scripted node, on a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self.clone = Clone(str(folder), None)
        self.path = folder / "sudocode-coordination" / "daemon.sock"
        self.path.parent.mkdir(parents=True, mode=0o700)
        self.node = ScriptedNode(desk)
        self.ports = Log()
        self.server: Server
        self._token: trio.lowlevel.TrioToken
        self._up = threading.Event()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._live, name="test-server")

    def _live(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:  # noqa: BLE001 - raised by `serving`
            self.failure = error
            self._up.set()

    async def _main(self) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        listener.listen(512)
        listener.setblocking(False)
        self._token = trio.lowlevel.current_trio_token()
        self.server = Server(
            request=lambda given: self.pump.request(given),
            deliver=lambda given: self.pump.deliver(given),
            stop=lambda hand_over: self.pump.deliver(StopRequested(hand_over=hand_over)),
        )
        ports = self.ports
        server = self.server
        self.pump = Pump(self.node, HandClock(), *[ports] * 6, emit=server.emit, reply=server.reply, taken=server.taken)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.server.run, listener)
            self._up.set()
            await self.pump.run()
            await self.server.farewell()
            nursery.cancel_scope.cancel()

    def inside(self, function: Callable[[], None]) -> None:
        """Run it in the server's loop."""
        self._token.run_sync_soon(function)

    def gone(self) -> list[int]:
        """Clients that the node was told have left."""
        return [given.client for given in self.node.got if isinstance(given, ClientGone)]

    def cancelled(self) -> list[int]:
        """Requests that the node was told are not waited for."""
        return [given.request_id for given in self.node.got if isinstance(given, RequestCancelled)]

    def asked(self) -> list[Any]:
        """Requests that the node got."""
        return [given.request for given in self.node.got if isinstance(given, RequestReceived)]


@contextmanager
def serving(folder: Path) -> Iterator[ThreadedServer]:
    """A running one."""
    served = ThreadedServer(folder)
    served._thread.start()
    assert served._up.wait(PATIENCE_S)
    try:
        yield served
    finally:
        with suppress(trio.RunFinishedError, AttributeError):  # it has stopped, or never started
            served.inside(lambda: served.pump.deliver(StopRequested()))
        served._thread.join(PATIENCE_S)
        assert not served._thread.is_alive()
        if served.failure is not None:
            raise served.failure


class RawClient:
    """A socket that says whatever the test wants."""

    def __init__(self, path: Path | str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(os.fspath(path))
        self._buffer = b""

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_error: object) -> None:
        self.socket.close()

    def say(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def call(self, number: int | str | None, method: str, **params: Any) -> None:
        """Send a call."""
        self.say(msgspec.json.encode({"jsonrpc": "2.0", "id": number, "method": method, "params": params}) + b"\n")

    def line(self) -> bytes | None:
        """The next line; None if the server has closed."""
        while b"\n" not in self._buffer:
            try:
                data = self.socket.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line

    def hear(self) -> ServerMessage | None:
        """The next message; None if the server has closed."""
        line = self.line()
        return None if line is None else decode_server_line(line)

    def answer(self) -> Answered:
        """The next answer, whatever comes before it."""
        while not isinstance(message := self.hear(), Answered):
            assert message is not None, "the server closed the connection"
        return message
