"""HTTP on loopback, over real sockets: what is answered, and how long anybody is waited for."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
import pytest
from anyio.abc import SocketStream

from sudocode_coordination.errors import NetworkError
from sudocode_coordination.views.web import serving
from sudocode_coordination.views.web.serving import HttpRequest, HttpResponse, HttpServer, listen

LIMIT_S = 30.0
HEAD = b"GET /x?secret HTTP/1.1\r\nhost: a\r\n\r\n"


async def echo(asked: HttpRequest) -> HttpResponse:
    return HttpResponse(200, (("x-path", asked.path),), asked.method.encode() + b" " + asked.body)


@asynccontextmanager
async def served(handle: Callable[[HttpRequest], Awaitable[HttpResponse]]) -> AsyncIterator[int]:
    listeners, port = await listen(0)
    async with anyio.create_task_group() as group:
        group.start_soon(HttpServer(handle).run, listeners)
        try:
            with anyio.fail_after(LIMIT_S):
                yield port
        finally:
            group.cancel_scope.cancel()


async def said(stream: SocketStream) -> bytes:
    """All until the server closes."""
    found = b""
    try:
        while True:
            found += await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return found


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await test()

    anyio.run(main)


def test_requests_follow_each_other_on_a_connection_and_queries_are_cut_off() -> None:
    async def test() -> None:
        async with served(echo) as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(HEAD + b"POST /y HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi")
            answer = await said(stream)
            assert answer.count(b"HTTP/1.1 200") == 2
            assert b"x-path: /x\r\n" in answer
            assert answer.endswith(b"POST hi")
            assert b"secret" not in answer

    run(test)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_both_loopbacks_are_listened_on() -> None:
    async def test() -> None:
        async with served(echo) as port:
            try:
                stream = await anyio.connect_tcp("::1", port)
            except OSError:
                pytest.skip("this machine has no ::1")
            async with stream:
                await stream.send(HEAD.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
                assert (await said(stream)).startswith(b"HTTP/1.1 200")

    run(test)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"no http\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: gzip\r\n\r\nabc", b"501"),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", b"400"),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * serving.MAX_HEAD_BYTES, b"431"),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999\r\n\r\n" + b"z" * (serving.MAX_BODY_BYTES + 1), b"413"),
    ],
)
def test_what_is_no_request_is_refused_and_closed(sent: bytes, status: bytes) -> None:
    async def test() -> None:
        async with served(echo) as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(sent)
            assert (await said(stream)).split(b" ")[1] == status

    run(test)


def test_a_failing_handler_is_status_500(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(asked: HttpRequest) -> HttpResponse:
        raise RuntimeError(asked.path)

    async def test() -> None:
        async with served(broken) as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(HEAD)
            assert (await said(stream)).startswith(b"HTTP/1.1 500")

    run(test)
    assert "/x failed" in caplog.text


def test_who_says_nothing_or_half_a_request_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HEAD_S", 0.2)
    monkeypatch.setattr(serving, "IDLE_S", 0.2)

    async def test() -> None:
        async with served(echo) as port:
            for beginning in (b"", b"GET / HT", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc"):
                async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                    if beginning:
                        await stream.send(beginning)
                    assert await said(stream) == b""
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(HEAD)
                assert (await said(stream)).startswith(b"HTTP/1.1 200")

    run(test)


def test_who_takes_nothing_of_a_stream_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "TAKE_S", 0.2)

    async def test() -> None:
        ended = anyio.Event()

        async def flood() -> AsyncGenerator[bytes, None]:
            try:
                while True:
                    yield b"x" * (1 << 20)
            finally:
                ended.set()

        async def endless(_: HttpRequest) -> HttpResponse:
            return HttpResponse(200, (), flood())

        async with served(endless) as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(HEAD)
            await ended.wait()

    run(test)


def test_a_stream_ends_when_its_client_goes() -> None:
    async def test() -> None:
        ended = anyio.Event()

        async def ticks() -> AsyncGenerator[bytes, None]:
            try:
                yield b"first"
                await anyio.sleep_forever()
            finally:
                ended.set()

        async def ticking(_: HttpRequest) -> HttpResponse:
            return HttpResponse(200, (), ticks())

        async with served(ticking) as port:
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(HEAD)
                while b"first" not in await stream.receive():
                    continue
            await ended.wait()

    run(test)


def test_too_many_connections_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MAX_CONNECTIONS", 2)

    async def test() -> None:
        async with served(echo) as port:
            streams = [await anyio.connect_tcp("127.0.0.1", port) for _ in range(2)]
            for stream in streams:
                await stream.send(HEAD)
                assert (await stream.receive()).startswith(b"HTTP/1.1 200")
            async with await anyio.connect_tcp("127.0.0.1", port) as third:
                assert (await said(third)).startswith(b"HTTP/1.1 503")
            for stream in streams:
                await stream.aclose()

    run(test)


def test_a_port_that_is_taken_is_an_error_with_a_hint() -> None:
    async def test() -> None:
        listeners, port = await listen(0)
        try:
            with pytest.raises(NetworkError, match=f"port {port}") as raised:
                await listen(port)
            assert "--port" in raised.value.hint
        finally:
            for listener in listeners:
                await listener.aclose()

    run(test)
