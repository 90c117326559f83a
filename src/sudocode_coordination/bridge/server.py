"""WebSockets on loopback. Who connects must name this very address (`Host`: no other name may be bound to it), come from no web
page but those that were allowed (`Origin`), and know the token. All three are checked before anything of the room is told.
"""

from __future__ import annotations

import errno
import hmac
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from sudocode_coordination.bridge.room import Client, Room
from sudocode_coordination.errors import ProtocolError

MAX_CONNECTIONS: Final = 64
"""At a time, those that have not proved anything included: tools of one user on one machine."""
HANDSHAKE_S: Final = 5.0
"""For the whole HTTP request: it comes from this machine."""
MAX_MESSAGE_BYTES: Final = 1 << 20
"""Of what a client says: a refused update may be large, and should hear why it is refused."""
MESSAGES_PER_S: Final = 200.0
BURST_MESSAGES: Final = 2_000.0
"""Of one client: awareness goes with every move of a cursor."""
MAX_UNSENT_BYTES: Final = 8 << 20
"""Queued for one client behind what is being sent. Who reads so slowly is disconnected, and catches up when it is back."""
PIECE_BYTES: Final = 256 << 10
WRITE_S: Final = 10.0
"""One piece must have been taken by then."""
PING_S: Final = 15.0
"""Between two pings; who has not answered one by the next is gone."""
GOODBYE_S: Final = 1.0
"""For a close frame to go out and be answered."""
READ_BYTES: Final = 64 << 10
ACCEPT_PAUSE_S: Final = 0.1
"""When there are no file descriptors left."""
_NO_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_BUSY: Final = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_MALFORMED: Final = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class End(NamedTuple):
    """Why a connection is closed, as its client hears it. y-websocket does not try again after 4400 to 4499."""

    code: int
    reason: str


GOING: Final = End(1001, "the bridge ends")
BROKEN: Final = End(1002, "this is not the y-websocket protocol")
TOO_MANY: Final = End(1008, f"more than {MESSAGES_PER_S:.0f} messages a second")
TOO_LARGE: Final = End(1009, f"messages have at most {MAX_MESSAGE_BYTES} bytes")
TOO_SLOW: Final = End(1013, "what is sent is read too slowly")
WRONG_TOKEN: Final = End(4401, "not this bridge's token: read bridge.json again")
NO_SUCH_ROOM: Final = End(4404, "no such room: read bridge.json again, and begin with a new Y.Doc")
NEW_ROOM: Final = End(4410, "the document begins anew: read bridge.json again, and begin with a new Y.Doc")


class _Socket:
    """One WebSocket: what is queued for it, and its end."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.ws = WSConnection(ConnectionType.SERVER)
        self.scope = trio.CancelScope()
        self._queue: deque[bytes] = deque()
        self._unsent = 0
        self._end: End | None = None
        self._wake = trio.Event()
        self.answered = True
        """The last ping was."""
        self._allowed = BURST_MESSAGES
        self._allowed_at = trio.current_time()

    def send(self, message: bytes) -> None:
        """Queue a binary message."""
        if self._end is None:
            self.put(self.ws.send(BytesMessage(data=message)))

    def put(self, data: bytes) -> None:
        """Queue bytes as they are."""
        if self._queue and self._unsent + len(data) > MAX_UNSENT_BYTES:
            self._queue.clear()
            self.close(TOO_SLOW)
            return
        self._queue.append(data)
        self._unsent += len(data)
        self._wake.set()

    def close(self, end: End) -> None:
        """Tell it why, once what is queued is sent, and end."""
        if self._end is None:
            self._end = end
            self._wake.set()

    @property
    def closing(self) -> bool:
        return self._end is not None

    def may_speak(self) -> bool:
        """Count a message."""
        now = trio.current_time()
        self._allowed = min(BURST_MESSAGES, self._allowed + (now - self._allowed_at) * MESSAGES_PER_S) - 1
        self._allowed_at = now
        return self._allowed >= 0

    async def write(self) -> None:
        """Send what is queued until it is closed, and say why it is."""
        while True:
            while self._queue:
                data = self._queue.popleft()
                for at in range(0, len(data), PIECE_BYTES):
                    with trio.fail_after(WRITE_S):
                        await self.stream.send_all(data[at : at + PIECE_BYTES])
                self._unsent -= len(data)
            if self._end is not None:
                self.scope.deadline = min(self.scope.deadline, trio.current_time() + GOODBYE_S)
                try:
                    goodbye = self.ws.send(CloseConnection(code=self._end.code, reason=self._end.reason))
                except LocalProtocolError:  # it has closed already
                    return
                await self.stream.send_all(goodbye)
                return
            self._wake = trio.Event()
            if not self._queue and self._end is None:
                await self._wake.wait()


class Server:
    """See the module.

    Args:
        room: gives the room that is served now.
        token: what clients must know.
        port: where it listens.
        origins: web pages that may connect, like `http://localhost:5173`.
    """

    def __init__(self, room: Callable[[], Room], *, token: str, port: int, origins: Iterable[str] = ()) -> None:
        self._room = room
        self._token = token.encode()
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        self._origins = frozenset(origins)
        self._sockets: dict[_Socket, Room | None] = {}
        self._empty = trio.Event()

    async def run(self, listener: trio.SocketListener) -> None:
        """Accept clients until cancelled. The listener is closed when it ends."""
        async with listener, trio.open_nursery() as nursery:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:
                    if error.errno not in _NO_DESCRIPTORS:
                        raise
                    await trio.sleep(ACCEPT_PAUSE_S)
                else:
                    nursery.start_soon(self._serve, stream)

    def close_room(self, room: Room, end: End) -> None:
        """Disconnect all who are in it."""
        for socket in [socket for socket, its in self._sockets.items() if its is room]:
            socket.close(end)

    async def goodbye(self) -> None:
        """Disconnect all, and wait a moment until they are gone."""
        with trio.move_on_after(2 * GOODBYE_S):
            while self._sockets:
                for socket in self._sockets:
                    socket.close(GOING)
                self._empty = trio.Event()
                await self._empty.wait()

    # --- one connection -----------------------------------------------------------------------------------------------------

    async def _serve(self, stream: trio.SocketStream) -> None:
        socket = _Socket(stream)
        full = len(self._sockets) >= MAX_CONNECTIONS
        if not full:
            self._sockets[socket] = None
        try:
            with socket.scope:
                if full:
                    with trio.move_on_after(GOODBYE_S):
                        await stream.send_all(_BUSY)
                else:
                    await self._talk(socket)
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            socket.scope.cancel()  # it is gone, or does not read: nobody is left to be told
        finally:
            self._sockets.pop(socket, None)
            if not self._sockets:
                self._empty.set()
            await trio.aclose_forcefully(stream)

    async def _talk(self, socket: _Socket) -> None:
        with trio.fail_after(HANDSHAKE_S):
            request = await self._request(socket)
            if request is None:
                return
            refusal = self._foreign(request)
            if refusal:
                await self._refuse(socket, refusal)
                return
            await socket.stream.send_all(socket.ws.send(AcceptConnection()))
        room = self._room()
        target = urlsplit(request.target)
        client: Client | None = None
        if not self._knows_token(target.query):
            socket.close(WRONG_TOKEN)
        elif target.path != f"/{room.name}":
            socket.close(NO_SUCH_ROOM)
        else:
            self._sockets[socket] = room
            client = Client(socket.send)
            room.joined(client)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(socket.write)
                await self._read(socket, room, client)
                if not socket.closing:
                    nursery.cancel_scope.cancel()
        finally:
            if client is not None:
                room.left(client)

    async def _request(self, socket: _Socket) -> Request | None:
        while True:
            data = await socket.stream.receive_some(READ_BYTES)
            if not data:
                return None
            try:
                socket.ws.receive_data(data)
                for event in socket.ws.events():
                    if isinstance(event, Request):
                        urlsplit(event.target)
                        return event
            except (RemoteProtocolError, LocalProtocolError, ValueError):
                await socket.stream.send_all(_MALFORMED)
                return None

    def _foreign(self, request: Request) -> str:
        """Why a request is not of a tool on this machine; empty if it may be."""
        if request.host.lower() not in self._hosts:
            return "this address is 127.0.0.1 or localhost, and nothing else (Host)"
        for name, value in request.extra_headers:
            if name.lower() == b"origin" and value.decode("latin-1") not in self._origins:
                return "this web page is not allowed: coord bridge --origin names those that are (Origin)"
        return ""

    def _knows_token(self, query: str) -> bool:
        try:
            told = parse_qs(query, max_num_fields=16).get("token", [""])[0]
        except ValueError:
            return False
        return hmac.compare_digest(told.encode("utf-8", "replace"), self._token)

    async def _refuse(self, socket: _Socket, why: str) -> None:
        body = f"{why}\n".encode()
        headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
        answer = socket.ws.send(RejectConnection(status_code=403, headers=headers, has_body=True))
        await socket.stream.send_all(answer + socket.ws.send(RejectData(data=body)))

    async def _read(self, socket: _Socket, room: Room, client: Client | None) -> None:
        message = bytearray()
        while True:
            data = await socket.stream.receive_some(READ_BYTES)
            if not data:
                return
            try:
                socket.ws.receive_data(data)
                for event in socket.ws.events():
                    if isinstance(event, CloseConnection):
                        socket.close(End(event.code, ""))
                        return
                    if client is None or socket.closing:
                        continue
                    if not socket.may_speak():
                        socket.close(TOO_MANY)
                    elif isinstance(event, Ping):
                        socket.put(socket.ws.send(event.response()))
                    elif isinstance(event, Pong):
                        socket.answered = True
                    elif isinstance(event, TextMessage):
                        socket.close(BROKEN)
                    elif isinstance(event, BytesMessage):
                        message += event.data
                        if len(message) > MAX_MESSAGE_BYTES:
                            socket.close(TOO_LARGE)
                        elif event.message_finished:
                            room.heard(client, bytes(message))
                            message.clear()
            except RemoteProtocolError:
                if socket.closing:
                    return
                socket.close(BROKEN)
            except ProtocolError as error:
                socket.close(BROKEN._replace(reason=f"{BROKEN.reason}: {error.message}"[:120]))

    async def ping(self) -> None:
        """See that all are there still; until cancelled."""
        while True:
            await trio.sleep(PING_S)
            for socket in [socket for socket, room in self._sockets.items() if room is not None]:
                if not socket.answered:
                    socket.scope.cancel()
                elif not socket.closing:
                    socket.answered = False
                    socket.put(socket.ws.send(Ping()))
