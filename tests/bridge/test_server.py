"""The WebSocket server on real sockets: who gets in, what costs the connection, and how it ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import pytest
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)

from sudocode_coordination.bridge import server as server_module
from sudocode_coordination.bridge.protocol import Writes, decode
from sudocode_coordination.bridge.room import Room
from sudocode_coordination.bridge.server import NEW_ROOM, Server
from sudocode_coordination.core.mirror import Change, Mirror

TOKEN: Final = "t" * 43
PAGE: Final = "http://localhost:5173"
UPGRADE: Final = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
STEP_1: Final = b"\0\0\1\0"


class Tool:
    """A WebSocket client that does as a test says."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.ws = WSConnection(ConnectionType.CLIENT)
        self._events: list[Event] = []

    async def says(self, *events: Event) -> None:
        for event in events:
            await self.stream.send_all(self.ws.send(event))

    async def hears(self) -> Event | None:
        """The next event; None: the connection has ended."""
        while not self._events:
            try:
                data = await self.stream.receive_some()
            except trio.BrokenResourceError:  # reset, since what it had said was not read
                return None
            if not data:
                return None
            self.ws.receive_data(data)
            self._events += self.ws.events()
        return self._events.pop(0)

    async def message(self) -> bytes:
        """A whole message, however it was cut."""
        data = b""
        while True:
            event = await self.hears()
            assert isinstance(event, BytesMessage), event
            data += event.data
            if event.message_finished:
                return data

    async def closed(self) -> tuple[int, str]:
        """Why it was closed."""
        while not isinstance(event := await self.hears(), CloseConnection):
            assert event is not None
        if self.ws.state is ConnectionState.REMOTE_CLOSING:
            await self.says(event.response())
        assert await self.hears() is None
        return event.code, event.reason or ""


class Desk:
    """A server, its room, and the way to it."""

    def __init__(self, server: Server, room: Room, port: int) -> None:
        self.server = server
        self.room = room
        self.port = port
        self.streams: list[trio.SocketStream] = []

    async def stream(self) -> trio.SocketStream:
        self.streams.append(await trio.open_tcp_stream("127.0.0.1", self.port))
        return self.streams[-1]

    async def asks(self, *, token: str = TOKEN, host: str = "", path: str = "/r", origin: str = "") -> tuple[Tool, Event | None]:
        tool = Tool(await self.stream())
        headers = [(b"Origin", origin.encode())] if origin else []
        await tool.says(Request(host=host or f"127.0.0.1:{self.port}", target=f"{path}?token={token}", extra_headers=headers))
        return tool, await tool.hears()

    async def enters(self) -> Tool:
        tool, answer = await self.asks()
        assert isinstance(answer, AcceptConnection)
        assert (await tool.message())[0] == 1  # who is there
        return tool

    async def alone(self) -> None:
        """Until nobody is in the room."""
        with trio.fail_after(20):
            while self.room.clients:
                await trio.sleep(0.01)


def run(test: Callable[[Desk], Awaitable[None]]) -> None:
    async def main() -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        room = Room("r", Mirror(5))
        room.mirror.change([Change("leases", "a/x", 1)])
        server = Server(lambda: room, token=TOKEN, port=port, origins=[PAGE])
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.run, listener)
                nursery.start_soon(server.ping)
                desk = Desk(server, room, port)
                try:
                    await test(desk)
                finally:
                    for stream in desk.streams:
                        await trio.aclose_forcefully(stream)
                await desk.alone()
                nursery.cancel_scope.cancel()
        assert room.clients == set()
        assert server._sockets == {}

    trio.run(main)


def test_with_the_token_of_this_room_one_gets_in() -> None:
    async def test(desk: Desk) -> None:
        for how in ({}, {"host": f"localhost:{desk.port}"}, {"host": f"LOCALHOST:{desk.port}"}, {"origin": PAGE}):
            tool, answer = await desk.asks(**how)
            assert isinstance(answer, AcceptConnection), how
            await tool.message()
            await tool.says(BytesMessage(data=STEP_1))
            assert decode(await tool.message()) == Writes(desk.room.mirror.lacking(0))
            await tool.says(CloseConnection(code=1000))
            assert (await tool.closed())[0] == 1000

    run(test)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"host": "evil.example"}, "Host"),
        ({"host": "127.0.0.1"}, "Host"),
        ({"host": "127.0.0.1:1"}, "Host"),
        ({"origin": "https://evil.example"}, "Origin"),
        ({"origin": PAGE + ".evil.example"}, "Origin"),
        ({"origin": "null"}, "Origin"),
    ],
    ids=str,
)
def test_what_comes_by_another_name_or_from_another_page_is_refused_whatever_it_knows(how: dict[str, str], why: str) -> None:
    async def test(desk: Desk) -> None:
        for token in (TOKEN, ""):
            tool, answer = await desk.asks(token=token, **how)
            assert isinstance(answer, RejectConnection)
            assert answer.status_code == 403
            body = await tool.hears()
            assert isinstance(body, RejectData)
            assert why.encode() in body.data

    run(test)


@pytest.mark.parametrize("token", ["", TOKEN[1:], TOKEN + "t", "T" * 43, "%ff", "&token=" + TOKEN[:-1] + "x", "&a" * 40])
def test_without_the_token_the_client_is_told_so_and_nothing_else(token: str) -> None:
    async def test(desk: Desk) -> None:
        tool, answer = await desk.asks(token=token)
        assert isinstance(answer, AcceptConnection)
        event = await tool.hears()
        assert isinstance(event, CloseConnection)
        assert event.code == 4401
        assert "bridge.json" in (event.reason or "")
        assert desk.room.clients == set()

    run(test)


def test_another_room_is_gone() -> None:
    async def test(desk: Desk) -> None:
        tool, _ = await desk.asks(path="/coord-of-yesterday")
        assert (await tool.closed())[0] == 4404
        tool = await desk.enters()
        desk.server.close_room(desk.room, NEW_ROOM)
        assert await tool.closed() == (4410, NEW_ROOM.reason)

    run(test)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",  # TLS
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"POST /r HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        b"GET /r HTTP/1.1\r\nHost: \xff\r\n" + UPGRADE,
        b"GET //[ HTTP/1.1\r\nHost: a\r\n" + UPGRADE,
        b"GET /" + b"a" * 200_000,
    ],
    ids=lambda data: str(data[:20]),
)
def test_what_is_no_websocket_is_refused(data: bytes) -> None:
    async def test(desk: Desk) -> None:
        stream = await desk.stream()
        answer = b""
        try:
            await stream.send_all(data)
            while piece := await stream.receive_some():
                answer += piece
        except trio.BrokenResourceError:
            assert len(data) > 100_000  # it did not read all of that
        assert answer.startswith(b"HTTP/1.1 400") or len(data) > 100_000
        await desk.enters()

    run(test)


@pytest.mark.parametrize(
    ("events", "code"),
    [
        ([TextMessage(data="hello")], 1002),
        ([BytesMessage(data=b"\0\7")], 1002),
        ([BytesMessage(data=b"x" * 40_000, message_finished=False) for _ in range(30)], 1009),
        ([BytesMessage(data=b"\3")] * 2_100, 1008),
    ],
    ids=["text", "no message", "too large", "too many"],
)
def test_what_breaks_the_rules_costs_the_connection(events: list[Event], code: int) -> None:
    async def test(desk: Desk) -> None:
        tool = await desk.enters()
        spoken = b"".join(tool.ws.send(event) for event in events)
        async with trio.open_nursery() as nursery:

            async def speak() -> None:
                try:
                    await tool.stream.send_all(spoken)
                except trio.BrokenResourceError:
                    return  # it was cut off in the middle

            nursery.start_soon(speak)
            while not isinstance(event := await tool.hears(), CloseConnection):
                assert event is not None
            nursery.cancel_scope.cancel()
        assert event.code == code

    run(test)


def test_a_ping_is_answered() -> None:
    async def test(desk: Desk) -> None:
        tool = await desk.enters()
        await tool.says(Ping(payload=b"x"))
        assert await tool.hears() == Pong(payload=b"x")

    run(test)


def test_who_answers_no_ping_is_gone_and_who_does_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "PING_S", 0.05)

    async def test(desk: Desk) -> None:
        lively, dead = await desk.enters(), await desk.enters()
        async with trio.open_nursery() as nursery:

            async def live() -> None:
                while True:
                    event = await lively.hears()
                    assert isinstance(event, Ping)
                    await lively.says(event.response())

            nursery.start_soon(live)
            assert isinstance(await dead.hears(), Ping)
            assert await dead.hears() is None
            assert len(desk.room.clients) == 1
            nursery.cancel_scope.cancel()

    run(test)


def test_who_does_not_read_is_cut_off_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_UNSENT_BYTES", 200_000)
    monkeypatch.setattr(server_module, "WRITE_S", 0.5)

    async def test(desk: Desk) -> None:
        slow, quick = await desk.enters(), await desk.enters()
        for tool in (slow, quick):
            await tool.says(BytesMessage(data=STEP_1))
        await quick.message()
        for number in range(1_000):
            update = desk.room.mirror.change([Change("leases", f"a/{number % 10}", f"{number}" + "x" * 20_000)])
            assert update is not None
            desk.room.changed(update)
            assert decode(await quick.message()) == Writes(update)
            if len(desk.room.clients) == 1:
                break

    run(test)


def test_only_so_many_at_a_time_and_not_for_ever_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 2)
    monkeypatch.setattr(server_module, "HANDSHAKE_S", 0.5)

    async def test(desk: Desk) -> None:
        silent = [await desk.stream() for _ in range(2)]
        _, answer = await desk.asks()
        assert isinstance(answer, RejectConnection)
        assert answer.status_code == 503
        for stream in silent:
            assert await stream.receive_some() == b""
        await desk.enters()

    run(test)


def test_at_the_end_everybody_is_told() -> None:
    async def test(desk: Desk) -> None:
        polite, _deaf = await desk.enters(), await desk.enters()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.server.goodbye)
            assert (await polite.closed())[0] == 1001
        assert desk.room.clients == set()

    run(test)
