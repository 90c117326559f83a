"""The short way of frames through libp2p: whole, in order, and left to libp2p where something is unusual."""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import trio
from libp2p.io.exceptions import IncompleteReadError
from libp2p.security.noise.io import NoiseTransportReadWriter
from libp2p.security.secure_session import SecureSession
from libp2p.stream_muxer.yamux.yamux import TYPE_DATA, TYPE_PING, YAMUX_HEADER_FORMAT, YamuxStream

from sudocode_coordination.adapters.libp2p_swift import SwiftStream, SwiftYamux

SECONDS = 20


class Wire:
    """A raw connection that hands out what it was given in pieces of any size."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces
        self.reads = 0
        self.sent = b""
        self.ends = True

    async def read(self, _: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        self.reads += 1
        if not self.pieces and not self.ends:
            await trio.sleep_forever()
        return self.pieces.pop(0) if self.pieces else b""

    async def write(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.sent += data

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()


class Plain:
    """Noise, but for the secret."""

    def encrypt(self, data: bytes) -> bytes:
        return data + b"m" * 16

    def decrypt(self, data: bytes) -> bytes:
        return data[:-16]


def frame(stream: int, data: bytes, kind: int = TYPE_DATA, flags: int = 0) -> bytes:
    return struct.pack(YAMUX_HEADER_FORMAT, 0, kind, flags, stream, len(data)) + data


def sealed(*plain: bytes) -> bytes:
    return b"".join((len(data) + 16).to_bytes(2, "big") + data + b"m" * 16 for data in plain)


def muxed(pieces: list[bytes]) -> tuple[Any, Wire, YamuxStream]:
    wire = Wire(pieces)
    session: Any = SecureSession.__new__(SecureSession)
    unknown: Any = wire
    session.conn = NoiseTransportReadWriter(unknown, Plain())
    session.is_initiator = True
    session._reset_internal_buffer()
    peer: Any = "peer"
    connection = SwiftYamux(session, peer, is_initiator=True)
    stream = connection.streams[1] = YamuxStream(1, connection, True)
    connection.stream_buffers[1], connection.stream_events[1] = bytearray(), trio.Event()
    return connection, wire, stream


def living(test: Callable[[], Any]) -> None:
    async def main() -> None:
        with trio.fail_after(SECONDS):
            await test()

    trio.run(main)


@pytest.mark.parametrize("seed", range(8))
def test_frames_arrive_whole_and_in_order_however_they_are_cut(seed: int) -> None:
    dice = Random(seed)
    wanted = [dice.randbytes(dice.choice((1, 11, 12, 13, 300, 40_000))) for _ in range(20)]
    plain = b"".join(frame(1, data) for data in wanted)
    messages = []
    while plain:
        size = dice.choice((1, 12, 500, 60_000))
        messages.append(plain[:size])
        plain = plain[size:]
    whole = sealed(*messages)
    pieces = []
    while whole:
        size = dice.choice((1, 2, 3, 700, 65_536))
        pieces.append(whole[:size])
        whole = whole[size:]

    async def main() -> None:
        connection, wire, stream = muxed(pieces)
        stream.recv_window, wire.ends = 1 << 30, False
        got = b""
        slow: Any = type("Slow", (), {"muxed_stream": stream, "_state": None, "read": lambda _, n: stream.read(n)})()
        swift = SwiftStream(slow)
        swift._is_open = lambda: True  # type: ignore[method-assign]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.handle_incoming)
            while len(got) < sum(map(len, wanted)):
                got += await swift.read(1 << 16)
            nursery.cancel_scope.cancel()
        assert got == b"".join(wanted)

    living(main)


def test_many_frames_are_one_read() -> None:
    async def main() -> None:
        connection, wire, _ = muxed([sealed(*(frame(1, b"%03d" % n) for n in range(100)))])
        await connection.handle_incoming()
        assert wire.reads == 2  # the second finds the end

    living(main)


def test_what_is_no_plain_frame_is_left_to_libp2p() -> None:
    async def main() -> None:
        ping = struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_PING, 1, 0, 7)
        connection, wire, stream = muxed([sealed(frame(1, b"a") + ping + frame(9, b"nobody's") + frame(1, b"b"))])
        await connection.handle_incoming()
        assert struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_PING, 2, 0, 7) in wire.sent
        assert stream.recv_window == 256 * 1024 - 2
        assert connection.event_shutting_down.is_set()

    living(main)


def test_more_than_the_window_is_left_to_libp2p() -> None:
    async def main() -> None:
        connection, _, stream = muxed([sealed(frame(1, b"x" * 10))])
        stream.recv_window = 5
        await connection.handle_incoming()
        assert stream.recv_window == 0

    living(main)


def test_a_connection_that_ends_within_a_message_has_ended() -> None:
    async def main() -> None:
        connection, _, _ = muxed([sealed(frame(1, b"abc"))[:-4]])
        await connection.handle_incoming()
        assert connection.event_closed.is_set()
        with pytest.raises(IncompleteReadError):
            await connection.secured_conn.read(12)

    living(main)


def test_a_large_frame_is_several_noise_messages() -> None:
    async def main() -> None:
        connection, wire, _ = muxed([])
        await connection.handle_incoming()
        await connection._write_frame(b"y" * 100_000)
        assert wire.sent == sealed(b"y" * 65_519, b"y" * (100_000 - 65_519))

    living(main)
