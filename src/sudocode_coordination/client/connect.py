"""One connection to a clone's daemon, shared by the blocking and the async client: a thread reads, callbacks tell.

A thread, because a caller's event loop may be blocked for as long as it likes, and because so both clients, and calls from
several threads, are one implementation.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from sudocode_coordination.api.codec import (
    API_VERSION,
    MAX_ANSWER_BYTES,
    Answered,
    Hello,
    Overflowed,
    RpcError,
    answer_of,
    decode_server_line,
    encode_call,
    encode_cancel,
    to_exception,
)
from sudocode_coordination.api.events import Event
from sudocode_coordination.api.requests import Request
from sudocode_coordination.errors import CoordinationError, DaemonBusyError, NoDaemonError, ProtocolError
from sudocode_coordination.place import Clone, socket_path

R = TypeVar("R")
DEFAULT_TIMEOUT_S: Final = 30.0
"""For every call that has no wait of its own: the daemon answers in milliseconds, reading the remote may take twenty seconds."""
CONNECT_TIMEOUT_S: Final = 5.0
"""For connecting, and for the daemon to take a request out of the kernel's buffer."""
LAST_WORDS_S: Final = 1.0
"""Once the daemon has closed: until what it said before (why it refuses this client) has been read."""
READ_BYTES: Final = 256 << 10

Heard: TypeAlias = Callable[[Event | None, CoordinationError | None], None]
"""Gets each event, or once the reason why there will be no more."""
log = logging.getLogger(__name__)


class Waiter(Protocol):
    """Who waits for an answer. Called once, on the reading thread."""

    def __call__(self, answered: Answered | CoordinationError, /) -> None:
        """The answer, or why there will be none."""


def no_daemon(clone: Clone) -> NoDaemonError:
    """The error for a clone without a daemon."""
    return NoDaemonError(f"no daemon runs in {clone.root}", hint="start one with `coord start`")


def open_socket(clone: Clone) -> socket.socket:
    """A connected socket.

    Raises:
        NoDaemonError: none listens.
        DaemonBusyError: it does not accept.
    """
    path = socket_path(clone)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(CONNECT_TIMEOUT_S)
        connection.connect(path)
    except BaseException as error:
        connection.close()
        if isinstance(error, TimeoutError) or (isinstance(error, OSError) and error.errno == errno.EAGAIN):
            raise DaemonBusyError("the daemon does not accept connections", hint="`coord status`, or see daemon.log") from None
        if isinstance(error, (FileNotFoundError, ConnectionRefusedError, NotADirectoryError)):
            raise no_daemon(clone) from None
        if isinstance(error, OSError):
            raise NoDaemonError(f"{path}: {error.strerror or error}", hint="start a daemon with `coord start`") from None
        raise
    return connection


class Connection:
    """Calls in any number, from any thread; answers arrive as they are ready.

    Raises:
        DaemonError: there is no daemon, or it does not answer.
    """

    def __init__(self, clone: Clone) -> None:
        self.clone = clone
        self._socket = open_socket(clone)
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._waiters: dict[int, Waiter] = {}
        self._listeners: list[Heard] = []
        self._last_id = 0
        self._end: CoordinationError | None = None
        self._thread = threading.Thread(target=self._read, name="coordination-client", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> CoordinationError | None:
        """Why there is no connection any more, if there is none."""
        return self._end

    def ask(self, request: Request[Any], waiter: Waiter) -> int:
        """Send a request; the answer goes to `waiter`. The number is for `forget`.

        Raises:
            CoordinationError: it can't be sent.
        """
        with self._lock:
            if self._end is not None:
                raise again(self._end)
            self._last_id += 1
            call_id = self._last_id
            line = encode_call(call_id, request)
            self._waiters[call_id] = waiter
        try:
            self._send(line)
        except CoordinationError:
            with self._lock:
                self._waiters.pop(call_id, None)
            raise
        return call_id

    def forget(self, call_id: int) -> None:
        """Nobody takes that answer any more, though it may have come: the daemon is told. It drops what it waits for, and takes
        back a lease that it granted at the same moment: nobody would know of it."""
        with self._lock:
            if call_id in self._waiters:
                self._waiters[call_id] = lambda _answered: None
        if self._end is None:
            with contextlib.suppress(CoordinationError):  # without the daemon there is nothing to drop
                self._send(encode_cancel(call_id))

    def listen(self, heard: Heard) -> Callable[[], None]:
        """Hear events that come on this connection (after a `Subscribe`), on the reading thread. The result ends that."""
        with self._lock:
            self._listeners.append(heard)
            end = self._end
        if end is not None:
            heard(None, end)

        def leave() -> None:
            with self._lock:
                if heard in self._listeners:
                    self._listeners.remove(heard)

        return leave

    def close(self) -> None:
        """End it. Who still waits gets `NoDaemonError`."""
        self._finish(NoDaemonError("the connection was closed"))
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # --- inside -----------------------------------------------------------------------------------------------------------

    def _send(self, line: bytes) -> None:
        with self._sending:
            try:
                self._socket.sendall(line)
            except TimeoutError:
                error: CoordinationError = DaemonBusyError("the daemon takes no requests", hint="see daemon.log; `coord stop`")
            except OSError:
                if threading.current_thread() is not self._thread:
                    self._thread.join(LAST_WORDS_S)
                error = self._end or no_daemon(self.clone)
            else:
                return
        self._finish(error)  # half a line may be out: nothing more can be said on this connection
        raise error

    def _read(self) -> None:
        buffer = bytearray()
        searched = 0
        end: CoordinationError = NoDaemonError("the daemon has ended", hint="start one with `coord start`")
        # A second descriptor without time limit: limits of a socket hold for both directions.
        try:
            reading = os.dup(self._socket.fileno())
        except OSError:
            return self._finish(end)
        try:
            while True:
                data = _receive(reading)
                if not data:
                    break
                buffer += data
                while (at := buffer.find(b"\n", searched)) >= 0:
                    line = bytes(buffer[:at])
                    del buffer[: at + 1]
                    searched = 0
                    self._heard(line)
                searched = len(buffer)
                if searched > MAX_ANSWER_BYTES:
                    raise ProtocolError("the daemon's answer is too long")
        except CoordinationError as error:
            end = error
        except OSError as error:
            log.debug("connection to the daemon: %s", error)
        finally:
            os.close(reading)
        self._finish(end)
        return None

    def _heard(self, line: bytes) -> None:
        message = decode_server_line(line)
        match message:
            case Answered(id=call_id, error=error):
                if call_id is None:
                    raise to_exception(error or RpcError(0, "the daemon refused the connection"))
                with self._lock:
                    waiter = self._waiters.pop(call_id, None) if isinstance(call_id, int) else None
                if waiter is not None:
                    waiter(message)
            case Event():
                self._tell(message, None)
            case Overflowed():
                self._tell(None, DaemonBusyError("events were not read fast enough, some are lost", hint="subscribe again"))
            case Hello(api=api, version=version):
                if api != API_VERSION:
                    hint = "`coord stop`, then `coord start`"
                    raise ProtocolError(f"the daemon (version {version}) speaks another API ({api}, not {API_VERSION})", hint=hint)
            case None:
                pass

    def _tell(self, event: Event | None, end: CoordinationError | None) -> None:
        with self._lock:
            listeners = tuple(self._listeners)
        for heard in listeners:
            heard(event, end)

    def _finish(self, end: CoordinationError) -> None:
        with self._lock:
            if self._end is not None:
                return
            self._end = end
            waiters = tuple(self._waiters.values())
            self._waiters.clear()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for waiter in waiters:
            waiter(end)
        self._tell(None, end)


def _receive(descriptor: int) -> bytes:
    """What has come. The descriptor is a non-blocking one (the socket has a time limit): wait for it without one."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while True:
        try:
            return os.read(descriptor, READ_BYTES)
        except BlockingIOError:
            poll.poll()


def again(error: CoordinationError) -> CoordinationError:
    """The same error as a new object: several threads may raise it."""
    return type(error)(error.message, hint=error.hint)


def outcome(request: Request[R], answered: Answered | CoordinationError) -> R:
    """The answer to a request.

    Raises:
        CoordinationError: as it was answered, or why there was none.
    """
    if isinstance(answered, CoordinationError):
        raise again(answered)
    return answer_of(request, answered)


def timed_out(timeout_s: float) -> DaemonBusyError:
    """The error of a call whose time is up."""
    hint = "see daemon.log in the clone's state folder; `coord doctor` looks for what is wrong"
    return DaemonBusyError(f"the daemon did not answer within {timeout_s:g} s", hint=hint)
