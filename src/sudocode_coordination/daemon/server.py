"""The daemon's socket: many clients, each with many calls in flight, answered as they finish. `api/codec.py` has the format.

Nothing here waits for a client: what it does not read gathers in its backlog up to a limit, then its events end (`overflow`),
then its connection. One that asks faster than its share is read more slowly, so that the others are answered. Only this user
may connect: the socket is 0600 in a 0700 folder, and the peer's uid is asked for.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

import trio

from sudocode_coordination import __version__
from sudocode_coordination.api.codec import (
    API_VERSION,
    FAILED,
    HELLO,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    MAX_ANSWER_BYTES,
    MAX_REQUEST_BYTES,
    OVERFLOW,
    Call,
    CallError,
    CallId,
    Cancel,
    ErrorData,
    Hello,
    RpcError,
    decode_call,
    encode_error,
    encode_event,
    encode_notification,
    encode_result,
)
from sudocode_coordination.api.events import Event
from sudocode_coordination.api.requests import HandOver, Nothing, Ping, Stop, StopOutcome, Subscribe
from sudocode_coordination.core.io import ClientGone, Input, Reply, RequestCancelled, RequestReceived

MAX_CLIENTS: Final = 256
"""Connections at a time: every agent, hook and view of one clone, many times over. Bounded by file descriptors (often 1,024)."""
MAX_CALLS: Final = 1_024
"""Calls in flight of one client: a burst of leases that all wait."""
MAX_QUEUED_CALLS: Final = 16
"""Calls of one client that wait for the node; no more are read until it has taken one. So a flood of one holds up the others by
as many calls, and those of all clients together always have room (`pump.MAX_QUEUED_REQUESTS`)."""
CALLS_PER_S: Final = 1_000
"""Calls of one client, in the long run: more than any agent needs, and less than the node can do. It is read more slowly then."""
BURST: Final = 2_048
"""Calls of one client that may come at once, before it is slowed: twice what may be in flight."""
MAX_EVENT_BACKLOG_BYTES: Final = 1 << 20
"""Unread bytes beyond which a client's events end: thousands of events, seconds behind a busy swarm."""
MAX_BACKLOG_BYTES: Final = MAX_ANSWER_BYTES + MAX_EVENT_BACKLOG_BYTES
"""Unread bytes beyond which a client is disconnected: one answer of the largest size must fit."""
MAX_REPLAY: Final = 1_000
"""Events kept for those who subscribe later (`Subscribe.replay`)."""
READ_BYTES: Final = 64 << 10
"""Read at once: a hundred calls."""
ACCEPT_PAUSE_S: Final = 0.1
"""When file descriptors have run out: until some are closed."""
GOODBYE_S: Final = 1.0
"""For answers that are on their way when the daemon ends."""

MAX_ANSWERED: Final = 64
"""Answered calls of a connection that are remembered: a cancellation that crosses its answer comes within a round trip of it."""

_NO_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
log = logging.getLogger(__name__)


class _Connection:
    """One client."""

    def __init__(self, number: int, stream: trio.SocketStream) -> None:
        self.number = number
        self.stream = stream
        self.calls: dict[int, CallId] = {}
        """Internal request id -> the client's id, of calls in flight."""
        self.answered: dict[CallId, int] = {}
        """The last calls that the node answered: a cancellation may cross the answer."""
        self.last_answered: int | None = None
        """The internal id of the call whose answer is the last thing that was sent, if it is one of the node's."""
        self.broke = False
        """The client is gone, and did not read all that was sent to it."""
        self.subscribed = False
        self.closing = False
        self._last_request = 0
        self._backlog: deque[bytes] = deque()
        self._unsent = 0
        self._wake = trio.Event()
        self._drained = trio.Event()
        self._queued = 0
        self._room = trio.Event()
        self._allowed = float(BURST)
        self._allowed_at = trio.current_time()

    def next_request(self, call_id: CallId) -> int:
        """A fresh internal id for a call."""
        self._last_request += 1
        self.calls[self._last_request] = call_id
        return self._last_request

    def queued(self) -> None:
        """A call was handed to the node's inbox."""
        self._queued += 1

    def taken(self) -> None:
        """The node has taken one."""
        self._queued -= 1
        self._room.set()

    async def pace(self) -> bool:
        """After each line: wait until this client may be heard again; False if it is no longer there."""
        while self._queued >= MAX_QUEUED_CALLS and not self.closing:
            self._room = trio.Event()
            await self._room.wait()
        now = trio.current_time()
        self._allowed = min(BURST, self._allowed + (now - self._allowed_at) * CALLS_PER_S) - 1
        self._allowed_at = now
        if self._allowed < 0 and not self.closing:
            await trio.sleep(-self._allowed / CALLS_PER_S)
        return not self.closing

    def send(self, line: bytes, answers: int | None = None) -> None:
        """Queue a line; too many unread end the connection. `answers`: the internal id of the call that it answers."""
        if self.closing:
            return
        self.last_answered = answers
        self._backlog.append(line)
        self._unsent += len(line)
        if self._unsent > MAX_BACKLOG_BYTES:
            log.warning("client %d reads nothing: disconnected", self.number)
            self.close()
        self._wake.set()

    def send_event(self, line: bytes) -> None:
        """Queue an event, or tell that there will be no more."""
        if not self.subscribed:
            return
        if self._unsent + len(line) > MAX_EVENT_BACKLOG_BYTES:
            log.warning("client %d reads events too slowly: ended", self.number)
            self.subscribed = False
            line = encode_notification(OVERFLOW, {})
        self.send(line)

    def close(self) -> None:
        """End it; tasks that read or write it notice."""
        self.closing = True
        self._backlog.clear()
        self._wake.set()
        self._room.set()
        self.stream.socket.close()

    async def drained(self) -> None:
        """All that was queued is with the kernel."""
        while (self._backlog or self._unsent) and not self.closing:
            self._drained = trio.Event()
            await self._drained.wait()

    async def write(self) -> None:
        """Send what is queued, for ever."""
        while not self.closing:
            if not self._backlog:
                self._wake = trio.Event()
                await self._wake.wait()
                continue
            chunk = b"".join(self._take_chunk())
            await self.stream.send_all(chunk)
            self._unsent -= len(chunk)
            if not self._backlog:
                self._drained.set()

    def _take_chunk(self) -> Iterator[bytes]:
        size = 0
        while self._backlog and size < READ_BYTES:
            size += len(self._backlog[0])
            yield self._backlog.popleft()


class Server:
    """See the module.

    Args:
        request: takes a client's request; False if there is no room for it.
        deliver: takes `RequestCancelled` and `ClientGone`.
        stop: begins to stop the daemon.
    """

    def __init__(
        self, *, request: Callable[[RequestReceived], bool], deliver: Callable[[Input], None], stop: Callable[[bool], None]
    ) -> None:
        self._request = request
        self._deliver = deliver
        self._stop = stop
        self._connections: dict[int, _Connection] = {}
        self._last_number = 0
        self._recent: deque[bytes] = deque(maxlen=MAX_REPLAY)
        self._stoppers: list[tuple[_Connection, CallId]] = []

    # --- from the node ----------------------------------------------------------------------------------------------------

    def reply(self, effect: Reply) -> None:
        """Answer a call. If its client has gone, the node is told that nobody has the answer: a lease that was granted by it must
        not be held for nobody. That a client has taken its call back was told already."""
        connection = self._connections.get(effect.client)
        if connection is None:
            self._deliver(RequestCancelled(client=effect.client, request_id=effect.request_id))
            return
        if effect.request_id not in connection.calls:
            return
        call_id = connection.calls.pop(effect.request_id)
        connection.answered[call_id] = effect.request_id
        if len(connection.answered) > MAX_ANSWERED:
            del connection.answered[next(iter(connection.answered))]
        if effect.error is not None:
            error = RpcError(FAILED, effect.error.message, ErrorData(effect.error.code, effect.error.hint))
            self._answer(connection, call_id, error=error)
        else:
            self._answer(connection, call_id, effect.value, number=effect.request_id)

    def taken(self, client: int) -> None:
        """The node has taken a request of this client out of its inbox."""
        connection = self._connections.get(client)
        if connection is not None:
            connection.taken()

    def emit(self, event: Event) -> None:
        """An event for all who listen, and for those who will ask for a replay."""
        try:
            line = encode_event(event)
        except (TypeError, ValueError, RecursionError) as error:
            log.error("event %s can't be encoded: %r", event.type, error)
            return
        self._recent.append(line)
        for connection in tuple(self._connections.values()):
            connection.send_event(line)

    async def farewell(self, problem: str | None = None, *, record_left: str = "") -> None:
        """The node has stopped: answer those who asked for it (`problem`: what did not go well), let answers out, close all."""
        for connection, call_id in self._stoppers:
            if problem is None:
                self._answer(connection, call_id, StopOutcome(record_left=record_left))
            else:
                self._answer(connection, call_id, error=RpcError(FAILED, problem, ErrorData("timeout")))
        with trio.move_on_after(GOODBYE_S):
            for connection in tuple(self._connections.values()):
                await connection.drained()
        for connection in tuple(self._connections.values()):
            connection.close()

    # --- from clients -----------------------------------------------------------------------------------------------------

    async def run(self, listener: socket.socket) -> None:
        """Accept clients until cancelled. The listener is closed when it ends."""
        with trio.socket.from_stdlib_socket(listener) as accepting:
            async with trio.open_nursery() as nursery:
                while True:
                    try:
                        accepted, _ = await accepting.accept()
                    except OSError as error:
                        if error.errno in _NO_DESCRIPTORS:
                            log.warning("no client can be accepted: %s", error)
                            await trio.sleep(ACCEPT_PAUSE_S)
                        elif error.errno in (errno.ECONNABORTED, errno.EINTR):
                            continue
                        else:
                            raise
                    else:
                        nursery.start_soon(self._serve, trio.SocketStream(accepted))

    async def _serve(self, stream: trio.SocketStream) -> None:
        refusal = self._refusal(stream)
        if refusal is not None:
            with trio.move_on_after(GOODBYE_S), contextlib.suppress(OSError, trio.ClosedResourceError, trio.BrokenResourceError):
                await stream.send_all(encode_error(None, refusal))
            stream.socket.close()
            return
        self._last_number += 1
        connection = _Connection(self._last_number, stream)
        self._connections[connection.number] = connection
        connection.send(encode_notification(HELLO, Hello(API_VERSION, __version__, os.getpid())))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, connection, nursery.cancel_scope)
                await self._read(connection)
                nursery.cancel_scope.cancel()
        finally:
            connection.close()
            del self._connections[connection.number]
            self._stoppers = [(c, call_id) for c, call_id in self._stoppers if c is not connection]
            if connection.broke and connection.last_answered is not None:
                self._deliver(RequestCancelled(client=connection.number, request_id=connection.last_answered))
            self._deliver(ClientGone(client=connection.number))

    def _refusal(self, stream: trio.SocketStream) -> RpcError | None:
        uid = _peer_uid(stream.socket)
        if uid is not None and uid not in (os.getuid(), 0):
            log.warning("a process of user %d was refused", uid)
            return RpcError(FAILED, "this daemon belongs to another user", ErrorData("daemon"))
        if len(self._connections) >= MAX_CLIENTS:
            return RpcError(FAILED, "too many clients", ErrorData("daemon-busy", f"at most {MAX_CLIENTS} at a time: close some"))
        return None

    async def _write(self, connection: _Connection, scope: trio.CancelScope) -> None:
        try:
            await connection.write()
        except (OSError, trio.BrokenResourceError):
            connection.broke = True
        except trio.ClosedResourceError:
            log.debug("client %d: closed here", connection.number)
        scope.cancel()

    async def _read(self, connection: _Connection) -> None:
        buffer = bytearray()
        searched = 0
        while not connection.closing:
            try:
                data = await connection.stream.receive_some(READ_BYTES)
            except trio.ClosedResourceError:
                return
            except (OSError, trio.BrokenResourceError):  # reset: it closed with something unread (Linux tells)
                connection.broke = True
                return
            if not data:
                return
            buffer += data
            while (end := buffer.find(b"\n", searched)) >= 0:
                line = bytes(buffer[:end])
                del buffer[: end + 1]
                searched = 0
                if line.strip():
                    self._handle_line(connection, line)
                if not await connection.pace():
                    return
            searched = len(buffer)
            if searched > MAX_REQUEST_BYTES:
                error = RpcError(INVALID_REQUEST, "the line is too long", ErrorData("usage", f"at most {MAX_REQUEST_BYTES} bytes"))
                self._answer(connection, None, error=error)
                with trio.move_on_after(GOODBYE_S):
                    await connection.drained()
                return

    def _handle_line(self, connection: _Connection, line: bytes) -> None:
        try:
            call = decode_call(line)
        except CallError as refused:
            self._answer(connection, refused.call_id, error=refused.error)
            return
        if isinstance(call, Cancel):
            self._cancel(connection, call)
            return
        match call.request:
            case Ping():
                self._answer(connection, call.id, Nothing())
            case Subscribe(replay=replay):
                connection.subscribed = True
                self._answer(connection, call.id, Nothing())
                for event in tuple(self._recent)[len(self._recent) - min(replay, len(self._recent)) :]:
                    connection.send_event(event)
            case Stop() | HandOver():
                self._stoppers.append((connection, call.id))
                self._stop(isinstance(call.request, HandOver))
            case _:
                self._ask_node(connection, call)

    def _ask_node(self, connection: _Connection, call: Call) -> None:
        if len(connection.calls) >= MAX_CALLS:
            hint = f"at most {MAX_CALLS} calls of one connection at a time"
            self._answer(connection, call.id, error=RpcError(FAILED, "too many calls in flight", ErrorData("daemon-busy", hint)))
            return
        number = connection.next_request(call.id)
        given = RequestReceived(client=connection.number, request_id=number, request=call.request)  # type: ignore[arg-type]
        if self._request(given):
            connection.queued()
        else:
            del connection.calls[number]
            error = RpcError(FAILED, "the daemon has too much to do", ErrorData("daemon-busy", "try again in a moment"))
            self._answer(connection, call.id, error=error)

    def _cancel(self, connection: _Connection, cancel: Cancel) -> None:
        for number, call_id in connection.calls.items():
            if call_id == cancel.id:
                del connection.calls[number]
                self._deliver(RequestCancelled(client=connection.number, request_id=number))
                self._answer(connection, call_id, error=RpcError(FAILED, "taken back by the client", ErrorData("failed")))
                return
        answered = connection.answered.get(cancel.id)
        if answered is not None:
            self._deliver(RequestCancelled(client=connection.number, request_id=answered))

    def _answer(
        self,
        connection: _Connection,
        call_id: CallId,
        value: Any = None,
        *,
        error: RpcError | None = None,
        number: int | None = None,
    ) -> None:
        if error is None:
            try:
                connection.send(encode_result(call_id, value), number)
                return
            except (TypeError, ValueError, RecursionError) as problem:
                log.error("an answer can't be encoded: %r", problem)
                error = RpcError(INTERNAL_ERROR, f"the answer can't be encoded: {problem}")
        connection.send(encode_error(call_id, error))


def _peer_uid(connection: trio.socket.SocketType) -> int | None:
    """Who is at the other end; None where the system does not tell (then the folder's mode is what guards)."""
    kind = getattr(socket, "SO_PEERCRED", None)
    if kind is None:
        return None
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, kind, size))
    return int(uid)
