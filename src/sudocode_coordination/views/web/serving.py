"""HTTP/1.1 on loopback: h11 reads and writes the protocol, anyio the sockets. What is asked goes to a handler.

Nothing here waits for a client without a limit: for its head, its body, or for it to take an answer. A stream ends when its client
has gone or takes nothing any more.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import anyio
import h11
from anyio.abc import Listener, SocketAttribute, SocketStream

from sudocode_coordination.errors import NetworkError

MAX_CONNECTIONS: Final = 64
"""At a time: a browser opens six for one host. More are told so, and closed."""
MAX_HEAD_BYTES: Final = 16 << 10
"""Of a request's line and headers: cookies that other servers on this host have left are among them."""
MAX_BODY_BYTES: Final = 64 << 10
"""Of a request: a message has a thousand characters."""
HEAD_S: Final = 10.0
"""For a request's head and body, from the first byte of the connection on; a browser on the same machine needs milliseconds."""
IDLE_S: Final = 75.0
"""Between two requests of a connection. Browsers keep them for minutes, and open new ones at no cost."""
TAKE_S: Final = 20.0
"""For a client to take what it was sent out of the kernel's buffer; a suspended tab does that too."""
GOODBYE_S: Final = 1.0
"""For clients, when the server ends."""
READ_BYTES: Final = 64 << 10
PORTS_TRIED: Final = 20
"""Free ports on 127.0.0.1 that are tried for one that is free on ::1 too."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HttpRequest:
    """What a client asks. `headers` by lower-case names; of a header that came twice, the values joined by commas."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class HttpResponse:
    """What it is answered: bytes, or a stream of them that goes on for as long as the client stays."""

    status: int
    headers: Sequence[tuple[str, str]] = ()
    body: bytes | AsyncGenerator[bytes, None] = b""


Handler: TypeAlias = Callable[[HttpRequest], Awaitable[HttpResponse]]


async def listen(port: int) -> tuple[list[Listener[SocketStream]], int]:
    """Listeners on 127.0.0.1 and, if this machine has it, ::1; and their port. `port` 0: any that is free.

    Raises:
        NetworkError: the port can't be had.
    """
    for _ in range(PORTS_TRIED):
        try:
            first = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port, family=socket.AF_INET)
        except (OSError, OverflowError) as error:
            raise _not_listening(port, error) from None
        listeners = list(first.listeners)
        chosen = int(listeners[0].extra(SocketAttribute.local_port))
        try:
            second = await anyio.create_tcp_listener(local_host="::1", local_port=chosen, family=socket.AF_INET6)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                log.debug("no ::1 here: %s", error)
                return listeners, chosen
            for listener in listeners:
                await listener.aclose()
            if port:
                raise _not_listening(port, error) from None
        else:
            return [*listeners, *second.listeners], chosen
    raise NetworkError("no port is free on 127.0.0.1 and ::1", hint="name one with --port")


def _not_listening(port: int, error: Exception) -> NetworkError:
    why = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return NetworkError(f"can't listen on 127.0.0.1, port {port}: {why}", hint="give another --port, or none for any that is free")


class HttpServer:
    """See the module.

    Args:
        handle: answers requests. What it raises ends the connection with status 500, and is logged.
    """

    def __init__(self, handle: Handler) -> None:
        self._handle = handle
        self._connections = 0

    async def run(self, listeners: Sequence[Listener[SocketStream]]) -> None:
        """Serve until cancelled; then the listeners are closed."""
        async with anyio.create_task_group() as group:
            for listener in listeners:
                group.start_soon(self._accept, listener)

    async def _accept(self, listener: Listener[SocketStream]) -> None:
        async with listener:
            await listener.serve(self._serve)

    async def _serve(self, stream: SocketStream) -> None:
        async with stream:
            if self._connections >= MAX_CONNECTIONS:
                with contextlib.suppress(OSError, anyio.BrokenResourceError), anyio.move_on_after(GOODBYE_S):
                    await stream.send(b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
                return
            self._connections += 1
            try:
                await _Conversation(stream, self._handle).run()
            except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream):
                return  # the client has gone
            finally:
                self._connections -= 1


class _Conversation:
    """One connection: requests, one after another."""

    def __init__(self, stream: SocketStream, handle: Handler) -> None:
        self._stream = stream
        self._handle = handle
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)

    async def run(self) -> None:
        first = True
        while True:
            try:
                asked = await self._request(HEAD_S if first else IDLE_S)
                if asked is None:
                    return
                try:
                    answer = await self._handle(asked)
                except Exception:
                    log.exception("%s failed", asked.path)
                    answer = HttpResponse(500, (("connection", "close"),))
                await self._answer(answer, with_body=asked.method != "HEAD")
            except h11.RemoteProtocolError as error:
                if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                    await self._answer(HttpResponse(error.error_status_hint, (("connection", "close"),)))
                return
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()
            first = False

    async def _request(self, patience_s: float) -> HttpRequest | None:
        """The next one, whole; None: the client has closed, or was too slow."""
        with anyio.move_on_after(patience_s):
            data = await self._next()
            if not isinstance(data, h11.Request):
                return None
            head, body = data, b""
            if self._http.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[]))
            while isinstance(data := await self._next(), h11.Data):
                body += data.data
                if len(body) > MAX_BODY_BYTES:
                    raise h11.RemoteProtocolError("the body is too long", error_status_hint=413)
            if not isinstance(data, h11.EndOfMessage):
                return None
            headers: dict[str, str] = {}
            for name, value in head.headers:
                key, text = name.decode("ascii"), value.decode("latin-1")
                headers[key] = f"{headers[key]}, {text}" if key in headers else text
            path = head.target.decode("latin-1").partition("?")[0]
            return HttpRequest(head.method.decode("ascii"), path, headers, body)
        return None

    async def _next(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            try:
                received = await self._stream.receive(READ_BYTES)
            except anyio.EndOfStream:
                received = b""
            self._http.receive_data(received)

    async def _answer(self, answer: HttpResponse, *, with_body: bool = True) -> None:
        headers = list(answer.headers)
        if isinstance(answer.body, bytes):
            headers.append(("content-length", str(len(answer.body))))
            await self._send(h11.Response(status_code=answer.status, headers=headers))
            if with_body and answer.body:
                await self._send(h11.Data(data=answer.body))
            await self._send(h11.EndOfMessage())
            return
        async with anyio.create_task_group() as group:
            group.start_soon(self._until_closed, group.cancel_scope)
            with contextlib.suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
                async with contextlib.aclosing(answer.body) as chunks:
                    await self._send(h11.Response(status_code=answer.status, headers=[*headers, ("connection", "close")]))
                    async for chunk in chunks:
                        await self._send(h11.Data(data=chunk))
                    await self._send(h11.EndOfMessage())
            group.cancel_scope.cancel()

    async def _until_closed(self, scope: anyio.CancelScope) -> None:
        """A stream's client says nothing more; what it says, or that it has closed, ends the stream."""
        with contextlib.suppress(OSError, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            await self._stream.receive(1)
        scope.cancel()

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if not data:
            return
        with anyio.move_on_after(TAKE_S) as patience:
            await self._stream.send(data)
        if patience.cancelled_caught:
            raise anyio.BrokenResourceError
